# SPDX-License-Identifier: GPL-2.0-only
"""System calls of processes and their memory."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bpf.map_mmap import map_mmap
from ..bpf.map_object import MapObject
from ..errors import KernelError, NotModelled
from ..kconfig import RELEASE
from ..mm.address_space import PROT_EXEC, PROT_READ, PROT_WRITE, USER_END, Backing
from ..mm.pages import PAGE_SIZE
from ..perf.event import PerfEvent
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
_PROT_ALL = PROT_READ | PROT_WRITE | PROT_EXEC
MEMORY_LIMIT = 256 << 30
"""The most address space that one process may map (RLIMIT_AS in spirit): beyond it ENOMEM."""


@syscall(9, "mmap", 6)
def sys_mmap(
    kernel: Kernel, task: Task, addr: int, size: int, prot: int, flags: int, fd: int, off: int
) -> int:
    """Anonymous memory, or that of a map. Other files are not modelled; W^X holds for user memory too."""
    if not flags & (MAP_PRIVATE | MAP_SHARED) or prot & ~_PROT_ALL or not size:
        raise KernelError(errno.EINVAL, "bad mmap arguments")
    backing = None
    if not flags & MAP_ANONYMOUS:
        backing = _file_backing(kernel, task, as_int(fd), size, prot, flags, off)
    if prot & PROT_WRITE and prot & PROT_EXEC:
        raise NotModelled("memory that is writable and executable", errno.EACCES)
    if task.mm.mapped + size > MEMORY_LIMIT:
        raise KernelError(errno.ENOMEM, "address space limit")
    if flags & MAP_FIXED:
        if addr % 4096 or not addr:
            raise KernelError(errno.EINVAL, "MAP_FIXED address is not page-aligned")
        if addr + size > USER_END:
            raise KernelError(errno.ENOMEM, "MAP_FIXED range exceeds the address space")
        task.mm.unmap(kernel, addr, size)
        return task.mm.map_area(size, prot, addr, backing=backing)
    return task.mm.map_area(size, prot, backing=backing)


def _file_backing(kernel: Kernel, task: Task, fd: int, size: int, prot: int, flags: int, off: int) -> Backing:
    """The file's half of do_mmap(): KernelError(EBADF, EINVAL, EACCES, EPERM, ENODEV) and the map's own."""
    file = task.files.find(fd)
    if off % PAGE_SIZE:
        raise KernelError(errno.EINVAL, "the offset is no multiple of a page")
    if isinstance(file.obj, MapObject):
        return map_mmap(kernel, file, size, prot, bool(flags & MAP_SHARED), off // PAGE_SIZE)
    if isinstance(file.obj, PerfEvent):
        return file.obj.mmap(kernel, file, size, prot, bool(flags & MAP_SHARED), off // PAGE_SIZE)
    raise NotModelled(f"mmap of a {file.obj.kind}", errno.ENODEV)


@syscall(11, "munmap", 2)
def sys_munmap(kernel: Kernel, task: Task, addr: int, size: int) -> int:
    """Unmap whole pages."""
    if addr % 4096 or not size or addr + size > USER_END:
        raise KernelError(errno.EINVAL, "munmap address is not page-aligned, or size is 0 or too large")
    task.mm.unmap(kernel, addr, size)
    return 0


@syscall(12, "brk", 1)
def sys_brk(kernel: Kernel, task: Task, addr: int) -> int:
    """Grow or shrink the heap; the current end when ``addr`` cannot be met."""
    if addr < task.brk_start or not task.brk_start:
        return task.brk
    page_end = -(-task.brk // 4096) * 4096
    new_end = -(-addr // 4096) * 4096
    try:
        if new_end > page_end:
            task.mm.map_area(new_end - page_end, PROT_READ | PROT_WRITE, page_end, "[heap]")
        elif new_end < page_end:
            task.mm.unmap(kernel, new_end, page_end - new_end)
    except KernelError:
        return task.brk
    task.brk = addr
    return task.brk


@syscall(39, "getpid", 0)
def sys_getpid(kernel: Kernel, task: Task) -> int:
    """The process id."""
    return task.tgid


@syscall(186, "gettid", 0)
def sys_gettid(kernel: Kernel, task: Task) -> int:
    """The thread id."""
    return task.pid


@syscall(102, "getuid", 0)
def sys_getuid(kernel: Kernel, task: Task) -> int:
    """The user id."""
    return task.uid


@syscall(107, "geteuid", 0)
def sys_geteuid(kernel: Kernel, task: Task) -> int:
    """The effective user id (the same here)."""
    return task.uid


@syscall(60, "exit", 1)
def sys_exit(kernel: Kernel, task: Task, code: int) -> int:
    """End the thread, which is the process."""
    task.exit(kernel, as_int(code) & 0xFF)
    return 0


@syscall(231, "exit_group", 1)
def sys_exit_group(kernel: Kernel, task: Task, code: int) -> int:
    """End the process."""
    task.exit(kernel, as_int(code) & 0xFF)
    return 0


@syscall(228, "clock_gettime", 2)
def sys_clock_gettime(kernel: Kernel, task: Task, clock: int, at: int) -> int:
    """Every clock reads the machine's one clock (CLOCK_REALTIME too: the machine boots at the epoch)."""
    if clock > 11:
        raise KernelError(errno.EINVAL, f"unknown clock {clock}")
    now = kernel.clock.now()
    data = (now // 1_000_000_000).to_bytes(8, "little") + (now % 1_000_000_000).to_bytes(8, "little")
    task.mm.write(kernel, at, data)
    return 0


@syscall(318, "getrandom", 3)
def sys_getrandom(kernel: Kernel, task: Task, at: int, size: int, flags: int) -> int:
    """Bytes of the machine's random source."""
    size = min(size, 1 << 20)
    data = b"".join(kernel.random.u32().to_bytes(4, "little") for _ in range(-(-size // 4)))[:size]
    task.mm.write(kernel, at, data)
    return size


_UTS_FIELD = 65
_UTSNAME = ("Linux", "bpfsim", RELEASE, "#1 SMP", "x86_64", "(none)")


@syscall(63, "uname", 1)
def sys_uname(kernel: Kernel, task: Task, at: int) -> int:
    """uname(2): struct new_utsname, six texts of 65 bytes."""
    data = b"".join(text.encode().ljust(_UTS_FIELD, b"\0") for text in _UTSNAME)
    task.mm.check_writable(at, len(data))
    task.mm.write(kernel, at, data)
    return 0
