# SPDX-License-Identifier: GPL-2.0-only
"""Copies from addresses that may not be there (mm/maccess.c), and the probe_read helpers over them.

Kernel addresses are read through the memory port, user addresses through the running task's own
address space.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, MemoryFault
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

TASK_SIZE: Final = (1 << 47) - 4096
"""TASK_SIZE_MAX of 4-level paging: user addresses are below (arch/x86/include/asm/page_64_types.h)."""

_PAGE: Final = 4096
_VSYSCALL: Final = 0xFFFF_FFFF_FF60_0000
_MASK32: Final = 0xFFFF_FFFF


def kernel_read_allowed(addr: int) -> bool:
    """copy_from_kernel_nofault_allowed() on x86: no user, guard, vsyscall or non-canonical address."""
    if addr < TASK_SIZE + _PAGE or addr & ~(_PAGE - 1) == _VSYSCALL:
        return False
    return addr >> 47 in (0, 0x1FFFF)


def copy_from_kernel(kernel: Kernel, addr: int, size: int) -> bytes:
    """copy_from_kernel_nofault(). KernelError(ERANGE) for an address of another kind, EFAULT unmapped."""
    if size and not kernel_read_allowed(addr):
        raise KernelError(errno.ERANGE, f"{addr:#x} is not a kernel address")
    try:
        return kernel.memory.read(addr, size)
    except MemoryFault as fault:
        raise KernelError(errno.EFAULT, str(fault)) from None


def copy_from_user(kernel: Kernel, addr: int, size: int) -> bytes:
    """copy_from_user_nofault(): KernelError(EFAULT)."""
    task = kernel.current
    if task is None or addr + size > TASK_SIZE:
        raise KernelError(errno.EFAULT, f"{addr:#x} is not a user address")
    try:
        return task.mm.read(kernel, addr, size)
    except MemoryFault as fault:
        raise KernelError(errno.EFAULT, str(fault)) from None


def copy_string(kernel: Kernel, addr: int, limit: int, user: bool) -> bytes:
    """strncpy_from_{user,kernel}_nofault(): a string without its NUL, at most ``limit - 1`` bytes of it.

    Pages are read one at a time, so a string may end right before an unmapped one. KernelError as the
    copies above; ERANGE too for an address of the wrong kind.
    """
    copy = copy_from_user if user else copy_from_kernel
    out = b""
    while len(out) < limit:
        at = addr + len(out)
        part = copy(kernel, at, min(limit - len(out), _PAGE - at % _PAGE))
        text, nul, _ = part.partition(b"\0")
        out += text
        if nul:
            return out
    return out[: limit - 1]


def _read(kernel: Kernel, dst: int, size: int, src: int, user: bool) -> int:
    size &= _MASK32
    try:
        data = copy_from_user(kernel, src, size) if user else copy_from_kernel(kernel, src, size)
    except KernelError as error:
        kernel.memory.fill(dst, size)
        return -error.errno
    kernel.memory.write(dst, data)
    return 0


def _read_str(kernel: Kernel, dst: int, size: int, src: int, user: bool) -> int:
    """bpf_probe_read_*_str(): the length with the NUL; what is behind it is left alone."""
    size &= _MASK32
    if not size:
        return 0
    try:
        text = copy_string(kernel, src, size, user)
    except KernelError as error:
        kernel.memory.fill(dst, size)
        return -error.errno
    kernel.memory.write(dst, text + b"\0")
    return len(text) + 1


@leaf("bpf_probe_read_kernel", 3)
def bpf_probe_read_kernel(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """Copy from a kernel address; zeroes and an errno when that fails."""
    return _read(kernel, dst, size, src, user=False)


@leaf("bpf_probe_read_user", 3)
def bpf_probe_read_user(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """Copy from the running task's memory; zeroes and -EFAULT when that fails."""
    return _read(kernel, dst, size, src, user=True)


@leaf("bpf_probe_read_compat", 3)
def bpf_probe_read_compat(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """bpf_probe_read(): the address says whose memory it is."""
    return _read(kernel, dst, size, src, user=src < TASK_SIZE)


@leaf("bpf_probe_read_kernel_str", 3)
def bpf_probe_read_kernel_str(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """Copy a string from a kernel address."""
    return _read_str(kernel, dst, size, src, user=False)


@leaf("bpf_probe_read_user_str", 3)
def bpf_probe_read_user_str(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """Copy a string from the running task's memory."""
    return _read_str(kernel, dst, size, src, user=True)


@leaf("bpf_probe_read_compat_str", 3)
def bpf_probe_read_compat_str(kernel: Kernel, dst: int, size: int, src: int) -> int:
    """bpf_probe_read_str(): the address says whose memory it is."""
    return _read_str(kernel, dst, size, src, user=src < TASK_SIZE)
