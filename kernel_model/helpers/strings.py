# SPDX-License-Identifier: GPL-2.0-only
"""Helpers on strings: bpf_strtol(), bpf_strtoul() (kernel/bpf/helpers.c) and bpf_strncmp()."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

_BASE_MASK: Final = 0x1F
_SPACE: Final = b" \t\n\v\f\r\xa0"
"""isspace() of lib/ctype.c, which knows Latin-1's no-break space."""
_U64: Final = 1 << 64
_LONGEST: Final = 63
_DIGITS: Final = {char: value for value, char in enumerate(b"0123456789abcdef")}
_DIGITS_UPPER: Final = {char: value for value, char in enumerate(b"ABCDEF", 10)}


def parse_number(text: bytes, flags: int) -> tuple[int, int, bool]:
    """__bpf_strtoull(): the magnitude, the bytes consumed, and whether a minus stood before it.

    ``flags`` is the base: 0 (by prefix), 8, 10 or 16. KernelError(EINVAL) without a number or for
    another flag, ERANGE beyond 64 bits. Only the first 63 bytes behind space and sign are looked at.
    """
    base = flags & _BASE_MASK
    if not text or flags & ~_BASE_MASK or base not in (0, 8, 10, 16):
        raise KernelError(errno.EINVAL, "no text, or a base other than 0, 8, 10 and 16")
    at = len(text) - len(text.lstrip(_SPACE))
    negative = text[at : at + 1] == b"-"
    at += negative
    rest = text[at : at + _LONGEST].split(b"\0", 1)[0]
    skipped, base = _radix(rest, base)
    value = length = 0
    for char in rest[skipped:]:
        digit = _DIGITS.get(char, _DIGITS_UPPER.get(char, 99))
        if digit >= base:
            break
        value, length = value * base + digit, length + 1
    if value >= _U64:
        raise KernelError(errno.ERANGE, "the number does not fit 64 bits")
    if not length:
        raise KernelError(errno.EINVAL, "there is no number")
    return value, at + skipped + length, negative


def _radix(text: bytes, base: int) -> tuple[int, int]:
    """_parse_integer_fixup_radix(): bytes of prefix to skip, and the base."""
    hexadecimal = text[:2].lower() == b"0x"
    if base == 0:
        digits = _DIGITS.keys() | _DIGITS_UPPER.keys()
        if hexadecimal and len(text) > 2 and text[2] in digits:
            base = 16
        else:
            base = 8 if text[:1] == b"0" else 10
    return (2, 16) if base == 16 and hexadecimal else (0, base)


def _store(kernel: Kernel, buf: int, buf_len: int, flags: int, res: int, signed: bool) -> int:
    kernel.memory.put_u64(res, 0)
    try:
        value, consumed, negative = parse_number(kernel.memory.read(buf, buf_len), flags)
        if not signed and negative:
            raise KernelError(errno.EINVAL, "a minus before an unsigned number")
        if signed and value > (1 << 63) - (not negative):
            raise KernelError(errno.ERANGE, "the number does not fit a signed 64-bit word")
    except KernelError as error:
        return -error.errno
    kernel.memory.put_u64(res, -value % _U64 if negative else value)
    return consumed


@leaf("bpf_strtol", 4)
def bpf_strtol(kernel: Kernel, buf: int, buf_len: int, flags: int, res: int) -> int:
    """Parse a signed number: the bytes consumed, or an error and 0 in ``*res``."""
    return _store(kernel, buf, buf_len, flags, res, signed=True)


@leaf("bpf_strtoul", 4)
def bpf_strtoul(kernel: Kernel, buf: int, buf_len: int, flags: int, res: int) -> int:
    """Parse an unsigned number: the bytes consumed, or an error and 0 in ``*res``."""
    return _store(kernel, buf, buf_len, flags, res, signed=False)


@leaf("bpf_strncmp", 3)
def bpf_strncmp(kernel: Kernel, s1: int, s1_size: int, s2: int) -> int:
    """strncmp() of a buffer with a constant string: negative, 0 or positive as in C (-1, 0, 1)."""
    for index in range(s1_size & 0xFFFF_FFFF):
        one, two = kernel.memory.u8(s1 + index), kernel.memory.u8(s2 + index)
        if one != two:
            return -1 if one < two else 1
        if not one:
            break
    return 0
