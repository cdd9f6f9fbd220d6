# SPDX-License-Identifier: GPL-2.0-only
"""String kfuncs over any kernel address, which may not be there (kernel/bpf/helpers.c, since 6.17).

Results are indices or comparisons; -ERANGE for an address that is no kernel address, -EFAULT for one that is
not mapped, -E2BIG for more than 64 KiB, -ENOENT for "not found".
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..helpers.nofault import copy_from_kernel
from .register import returns_int

if TYPE_CHECKING:
    from ..kernel import Kernel

XATTR_SIZE_MAX: Final = 1 << 16


def _errno_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except KernelError as error:
        return -error.errno


def _check(kernel: Kernel, *addrs: int) -> None:
    for addr in addrs:
        try:
            copy_from_kernel(kernel, addr, 1)
        except KernelError as error:
            if error.errno == errno.ERANGE:
                raise


def _byte(kernel: Kernel, addr: int) -> int:
    try:
        return copy_from_kernel(kernel, addr, 1)[0]
    except KernelError:
        raise KernelError(errno.EFAULT, f"{addr:#x} is not mapped") from None


def _lower(char: int) -> int:
    """tolower() of lib/ctype.c, which knows Latin-1."""
    upper = 0x41 <= char <= 0x5A or (0xC0 <= char <= 0xDE and char != 0xD7)
    return char + 0x20 if upper else char


def _compare(kernel: Kernel, s1: int, s2: int, fold: bool) -> int:
    _check(kernel, s1, s2)
    for at in range(XATTR_SIZE_MAX):
        one, two = _byte(kernel, s1 + at), _byte(kernel, s2 + at)
        if fold:
            one, two = _lower(one), _lower(two)
        if one != two:
            return -1 if one < two else 1
        if not one:
            return 0
    return -errno.E2BIG


@returns_int("bpf_strcmp", 2)
def bpf_strcmp(kernel: Kernel, s1: int, s2: int) -> int:
    """-1, 0 or 1."""
    return _errno_of(lambda: _compare(kernel, s1, s2, False))


@returns_int("bpf_strcasecmp", 2)
def bpf_strcasecmp(kernel: Kernel, s1: int, s2: int) -> int:
    """-1, 0 or 1; letters compare without their case."""
    return _errno_of(lambda: _compare(kernel, s1, s2, True))


def _find(kernel: Kernel, s: int, count: int, char: int, or_end: bool) -> int:
    _check(kernel, s)
    char &= 0xFF
    for at in range(min(count, XATTR_SIZE_MAX)):
        found = _byte(kernel, s + at)
        if found == char or (or_end and not found):
            return at
        if not found:
            return -errno.ENOENT
    return -errno.E2BIG if count >= XATTR_SIZE_MAX else -errno.ENOENT


@returns_int("bpf_strnchr", 3)
def bpf_strnchr(kernel: Kernel, s: int, count: int, char: int) -> int:
    """Where the character is first, among at most ``count``."""
    return _errno_of(lambda: _find(kernel, s, count, char, False))


@returns_int("bpf_strchr", 2)
def bpf_strchr(kernel: Kernel, s: int, char: int) -> int:
    """Where the character is first."""
    return _errno_of(lambda: _find(kernel, s, XATTR_SIZE_MAX, char, False))


@returns_int("bpf_strchrnul", 2)
def bpf_strchrnul(kernel: Kernel, s: int, char: int) -> int:
    """Where the character is first, or the end of the string."""
    return _errno_of(lambda: _find(kernel, s, XATTR_SIZE_MAX, char, True))


def _last(kernel: Kernel, s: int, char: int) -> int:
    _check(kernel, s)
    last = -errno.ENOENT
    for at in range(XATTR_SIZE_MAX):
        found = _byte(kernel, s + at)
        if found == char & 0xFF:
            last = at
        if not found:
            return last
    return -errno.E2BIG


@returns_int("bpf_strrchr", 2)
def bpf_strrchr(kernel: Kernel, s: int, char: int) -> int:
    """Where the character is last."""
    return _errno_of(lambda: _last(kernel, s, char))


def _length(kernel: Kernel, s: int, count: int) -> int:
    _check(kernel, s)
    for at in range(min(count, XATTR_SIZE_MAX)):
        if not _byte(kernel, s + at):
            return at
    return -errno.E2BIG if count >= XATTR_SIZE_MAX else count


@returns_int("bpf_strnlen", 2)
def bpf_strnlen(kernel: Kernel, s: int, count: int) -> int:
    """The length without the NUL, at most ``count``."""
    return _errno_of(lambda: _length(kernel, s, count))


@returns_int("bpf_strlen", 1)
def bpf_strlen(kernel: Kernel, s: int) -> int:
    """The length without the NUL."""
    return _errno_of(lambda: _length(kernel, s, XATTR_SIZE_MAX))


def _span(kernel: Kernel, s: int, chars: int, inside: bool) -> int:
    _check(kernel, s, chars)
    for at in range(XATTR_SIZE_MAX):
        char = _byte(kernel, s + at)
        if not char:
            return at
        if (_find(kernel, chars, XATTR_SIZE_MAX, char, False) >= 0) != inside:
            return at
    return -errno.E2BIG


@returns_int("bpf_strspn", 2)
def bpf_strspn(kernel: Kernel, s: int, accept: int) -> int:
    """How many characters at the beginning are among those of ``accept``."""
    return _errno_of(lambda: _span(kernel, s, accept, True))


@returns_int("bpf_strcspn", 2)
def bpf_strcspn(kernel: Kernel, s: int, reject: int) -> int:
    """How many characters at the beginning are not among those of ``reject``."""
    return _errno_of(lambda: _span(kernel, s, reject, False))


def _search(kernel: Kernel, s1: int, s2: int, limit: int) -> int:
    _check(kernel, s1, s2)
    for at in range(XATTR_SIZE_MAX):
        for i in range(XATTR_SIZE_MAX + 1):
            wanted = _byte(kernel, s2 + i)
            if not wanted:
                return at
            if at + i >= limit:
                return -errno.ENOENT
            found = _byte(kernel, s1 + at + i)
            if not found:
                return -errno.ENOENT
            if found != wanted:
                break
        else:
            return -errno.E2BIG
    return -errno.E2BIG


@returns_int("bpf_strstr", 2)
def bpf_strstr(kernel: Kernel, s1: int, s2: int) -> int:
    """Where the second string begins in the first."""
    return _errno_of(lambda: _search(kernel, s1, s2, XATTR_SIZE_MAX))


@returns_int("bpf_strnstr", 3)
def bpf_strnstr(kernel: Kernel, s1: int, s2: int, length: int) -> int:
    """The same, within the first ``length`` characters."""
    return _errno_of(lambda: _search(kernel, s1, s2, length))
