# SPDX-License-Identifier: GPL-2.0-only
"""perf_event_open(2) and ioctl(2) of what it gives."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, NotModelled
from ..objects import File
from ..perf.event import (
    MODELLED_SAMPLES,
    PERF_COUNT_SW_BPF_OUTPUT,
    PERF_SAMPLE_MAX,
    PERF_TYPE_SOFTWARE,
    PerfAttr,
    PerfEvent,
)
from ..task import CAP_PERFMON
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

_SIZE_VER0, _KNOWN_SIZE, _PAGE = 64, 136, 4096
_FD_NO_GROUP, _FD_OUTPUT, _PID_CGROUP, _FD_CLOEXEC = 1, 2, 4, 8
_DISABLED, _EXCLUDE_KERNEL, _WATERMARK = 1 << 0, 1 << 5, 1 << 14
_MODELLED_BITS: Final = _DISABLED | 0xF << 4 | _WATERMARK
"""Bits of struct perf_event_attr that mean nothing here (exclude_*) or are modelled."""
_IOC_ENABLE, _IOC_DISABLE, _IOC_RESET = 0x2400, 0x2401, 0x2403
_IOC_ID, _IOC_PAUSE_OUTPUT = 0x80082407, 0x40042409


def _copy_attr(kernel: Kernel, task: Task, at: int) -> bytes:
    """perf_copy_attr(): KernelError(E2BIG) for a bad size (ours is told) or unknown fields that are set."""
    size = struct.unpack("<I", task.mm.read(kernel, at + 4, 4))[0] or _SIZE_VER0
    if not _SIZE_VER0 <= size <= _PAGE:
        task.mm.write(kernel, at + 4, struct.pack("<I", _KNOWN_SIZE))
        raise KernelError(errno.E2BIG, f"struct perf_event_attr of {size} bytes")
    raw = task.mm.read(kernel, at, size)
    if any(raw[_KNOWN_SIZE:]):
        task.mm.write(kernel, at + 4, struct.pack("<I", _KNOWN_SIZE))
        raise KernelError(errno.E2BIG, "unknown fields of struct perf_event_attr are set")
    return raw[:_KNOWN_SIZE].ljust(_KNOWN_SIZE, b"\0")


@syscall(298, "perf_event_open", 5)
def sys_perf_event_open(
    kernel: Kernel, task: Task, attr_at: int, pid: int, cpu: int, group_fd: int, flags: int
) -> int:
    """perf_event_open(2) of PERF_COUNT_SW_BPF_OUTPUT; other events are not modelled."""
    pid, cpu, group_fd = as_int(pid), as_int(cpu), as_int(group_fd)
    if flags & ~(_FD_NO_GROUP | _FD_OUTPUT | _PID_CGROUP | _FD_CLOEXEC):
        raise KernelError(errno.EINVAL, f"unknown flags {flags:#x}")
    raw = _copy_attr(kernel, task, attr_at)
    kind, _, config, period, samples, read_format, bits = struct.unpack_from("<IIQQQQQ", raw)
    if samples >= PERF_SAMPLE_MAX:
        raise KernelError(errno.EINVAL, "unknown sample_type")
    if not bits & _EXCLUDE_KERNEL and not task.bpf_capable(CAP_PERFMON):
        raise KernelError(errno.EACCES, "events of the kernel need CAP_PERFMON")
    if flags & _PID_CGROUP:
        raise NotModelled("perf events of cgroups", errno.EINVAL)
    if pid == -1 and cpu == -1:
        raise KernelError(errno.EINVAL, "every task on every CPU")
    if kind != PERF_TYPE_SOFTWARE or config != PERF_COUNT_SW_BPF_OUTPUT:
        raise NotModelled(f"perf events of type {kind}, config {config}", errno.ENOENT)
    if bits & ~_MODELLED_BITS or read_format or samples & ~MODELLED_SAMPLES:
        raise NotModelled(
            f"perf attributes {bits:#x}, samples {samples:#x}, read_format {read_format:#x}", 22
        )
    if group_fd != -1:
        raise NotModelled("groups of perf events", errno.EINVAL)
    if cpu != -1 and not 0 <= cpu < kernel.alloc.nr_cpus:
        raise KernelError(errno.EINVAL, f"there is no CPU {cpu}")
    if pid == -1 and not task.bpf_capable(CAP_PERFMON):
        raise KernelError(errno.EACCES, "events of every task need CAP_PERFMON")
    target = None if pid == -1 else task if pid == 0 else kernel.tasks.get(pid)
    if pid > 0 and target is None:
        raise KernelError(errno.ESRCH, f"there is no task {pid}")
    wakeup = struct.unpack_from("<I", raw, 48)[0]
    attr = PerfAttr(samples, bool(bits & _DISABLED), bool(bits & _WATERMARK), wakeup, period)
    return task.files.install(File(PerfEvent(kernel, attr, cpu, target)))


@syscall(16, "ioctl", 3)
def sys_ioctl(kernel: Kernel, task: Task, fd: int, request: int, arg: int) -> int:
    """ioctl(2) of perf events; other descriptors have none (ENOTTY)."""
    event, request = task.files.find(as_int(fd)).obj, request & 0xFFFF_FFFF
    if not isinstance(event, PerfEvent):
        raise KernelError(errno.ENOTTY, f"a {event.kind} takes no ioctl")
    if request in (_IOC_ENABLE, _IOC_DISABLE):
        event.enabled = request == _IOC_ENABLE
    elif request == _IOC_ID:
        task.mm.write(kernel, arg, struct.pack("<Q", event.id))
    elif request == _IOC_PAUSE_OUTPUT:
        if event.ring is None or not event.ring.size:
            raise KernelError(errno.EINVAL, "the event has no ring")
        event.ring.paused = bool(arg & 0xFFFF_FFFF)
    elif request != _IOC_RESET:
        raise NotModelled(f"ioctl {request:#x} of perf events", errno.ENOTTY)
    return 0
