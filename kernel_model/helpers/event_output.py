# SPDX-License-Identifier: GPL-2.0-only
"""bpf_perf_event_output(): samples into the rings of a perf event array (bpf_trace.c, filter.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import NotModelled
from ..functions import leaf
from ..net.skb_edit import Skb

if TYPE_CHECKING:
    from ..kernel import Kernel

BPF_F_INDEX_MASK: Final = 0xFFFF_FFFF
BPF_F_CURRENT_CPU: Final = BPF_F_INDEX_MASK
BPF_F_CTXLEN_MASK: Final = 0xFFFFF << 32
_XDP_FLAGS_HAS_FRAGS: Final = 1


def _output(kernel: Kernel, array: int, flags: int, data: bytes) -> int:
    """__bpf_perf_event_output(): the event in the slot that ``flags`` names gets ``data``."""
    memory, layout, cpu = kernel.memory, kernel.layout["bpf_array"], kernel.cpu.this_cpu
    index = flags & BPF_F_INDEX_MASK
    if index == BPF_F_CURRENT_CPU:
        index = cpu
    if index >= memory.u32(array + kernel.layout["bpf_map"].offset("max_entries")):
        return -errno.E2BIG
    event = kernel.perf_events.get(memory.u64(array + layout.offset("ptrs") + 8 * index))
    if event is None:
        return -errno.ENOENT
    if not event.runs_on(kernel, cpu):
        return -errno.EOPNOTSUPP
    return event.output(kernel, data)


@leaf("bpf_perf_event_output", 5)
def bpf_perf_event_output(kernel: Kernel, regs: int, array: int, flags: int, data: int, size: int) -> int:
    """``size`` bytes at ``data``: 0; -EINVAL, -E2BIG, -ENOENT (no event), -EOPNOTSUPP (of another CPU),
    -ENOSPC (the ring is full, or there is none)."""
    if flags & ~BPF_F_INDEX_MASK:
        return -errno.EINVAL
    return _output(kernel, array, flags, kernel.memory.read(data, size))


@leaf("bpf_skb_event_output", 5)
def bpf_skb_event_output(kernel: Kernel, addr: int, array: int, flags: int, data: int, size: int) -> int:
    """The same, and behind it as many bytes of the packet as the flags' upper half says (-EFAULT)."""
    skb, length = Skb(kernel, addr), (flags & BPF_F_CTXLEN_MASK) >> 32
    if flags & ~(BPF_F_CTXLEN_MASK | BPF_F_INDEX_MASK):
        return -errno.EINVAL
    if length > skb.len:
        return -errno.EFAULT
    if length > skb.len - skb.get("data_len"):
        raise NotModelled("packet data in skb fragments", errno.EFAULT)
    return _output(
        kernel, array, flags, kernel.memory.read(data, size) + kernel.memory.read(skb.data, length)
    )


@leaf("bpf_xdp_event_output", 5)
def bpf_xdp_event_output(kernel: Kernel, xdp: int, array: int, flags: int, data: int, size: int) -> int:
    """The same for an xdp_buff."""
    memory, layout, length = kernel.memory, kernel.layout["xdp_buff"], (flags & BPF_F_CTXLEN_MASK) >> 32
    if flags & ~(BPF_F_CTXLEN_MASK | BPF_F_INDEX_MASK):
        return -errno.EINVAL
    if memory.u32(xdp + layout.offset("flags")) & _XDP_FLAGS_HAS_FRAGS:
        raise NotModelled("xdp_buff with fragments", errno.EFAULT)
    start, end = (memory.u64(xdp + layout.offset(name)) for name in ("data", "data_end"))
    if length > end - start:
        return -errno.EFAULT
    return _output(kernel, array, flags, memory.read(data, size) + memory.read(start, length))
