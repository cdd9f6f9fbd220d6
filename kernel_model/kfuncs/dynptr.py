# SPDX-License-Identifier: GPL-2.0-only
"""Kfuncs on dynptrs at run time (kernel/bpf/helpers.c, net/core/filter.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..functions import leaf
from ..helpers.dynptr import (
    LOCAL,
    NULL,
    RINGBUF,
    SKB,
    XDP,
    initialise,
    load,
    packet_data,
    read_part,
    store,
    write_part,
)
from .register import returns_int

if TYPE_CHECKING:
    from ..kernel import Kernel

_U32: Final = (1 << 32) - 1


@returns_int("bpf_dynptr_from_skb", 3)
def bpf_dynptr_from_skb(kernel: Kernel, skb: int, flags: int, ptr: int) -> int:
    """A dynptr over a packet of the stack."""
    return _from_skb(kernel, skb, flags, ptr, False)


@returns_int("bpf_dynptr_from_skb_rdonly", 3)
def bpf_dynptr_from_skb_rdonly(kernel: Kernel, skb: int, flags: int, ptr: int) -> int:
    """The same for program types that may not write packets."""
    return _from_skb(kernel, skb, flags, ptr, True)


def _from_skb(kernel: Kernel, skb: int, flags: int, ptr: int, rdonly: bool) -> int:
    if flags:
        store(kernel, ptr, NULL)
        return -errno.EINVAL
    length = kernel.memory.u32(skb + kernel.layout["sk_buff"].offset("len"))
    return initialise(kernel, ptr, skb, SKB, length, rdonly)


@returns_int("bpf_dynptr_from_xdp", 3)
def bpf_dynptr_from_xdp(kernel: Kernel, xdp: int, flags: int, ptr: int) -> int:
    """A dynptr over a frame of a driver."""
    if flags:
        store(kernel, ptr, NULL)
        return -errno.EINVAL
    fields, memory = kernel.layout["xdp_buff"], kernel.memory
    length = memory.u64(xdp + fields.offset("data_end")) - memory.u64(xdp + fields.offset("data"))
    return initialise(kernel, ptr, xdp, XDP, length)


def _slice(kernel: Kernel, ptr: int, offset: int, length: int) -> int:
    found = load(kernel, ptr)
    if not found.data or found.check(offset, length):
        return 0
    if found.kind in (LOCAL, RINGBUF):
        return found.data + found.offset + offset
    # Packets are modelled as far as they are linear; the buffer of the caller is for fragments.
    return packet_data(kernel, found, offset, length)


@leaf("bpf_dynptr_slice", 4)
def bpf_dynptr_slice(kernel: Kernel, ptr: int, offset: int, buffer: int, length: int) -> int:
    """A pointer to a part of the data, for reading; 0 when there is none."""
    return _slice(kernel, ptr, offset & _U32, length & _U32)


@leaf("bpf_dynptr_slice_rdwr", 4)
def bpf_dynptr_slice_rdwr(kernel: Kernel, ptr: int, offset: int, buffer: int, length: int) -> int:
    """A pointer to a part of the data, for reading and writing; 0 when there is none."""
    found = load(kernel, ptr)
    if not found.data or found.rdonly:
        return 0
    return _slice(kernel, ptr, offset & _U32, length & _U32)


@returns_int("bpf_dynptr_adjust", 3)
def bpf_dynptr_adjust(kernel: Kernel, ptr: int, start: int, end: int) -> int:
    """Narrow the dynptr to bytes ``start`` to ``end`` of what it was."""
    start, end = start & _U32, end & _U32
    found = load(kernel, ptr)
    if not found.data or start > end:
        return -errno.EINVAL
    if start > found.size or end > found.size:
        return -errno.ERANGE
    store(kernel, ptr, found._replace(offset=found.offset + start, size=end - start))
    return 0


@returns_int("bpf_dynptr_is_null", 1)
def bpf_dynptr_is_null(kernel: Kernel, ptr: int) -> int:
    """Whether making it had failed."""
    return int(not load(kernel, ptr).data)


@returns_int("bpf_dynptr_is_rdonly", 1)
def bpf_dynptr_is_rdonly(kernel: Kernel, ptr: int) -> int:
    """Whether it is valid and may not be written through."""
    found = load(kernel, ptr)
    return int(bool(found.data) and found.rdonly)


@returns_int("bpf_dynptr_size", 1)
def bpf_dynptr_size(kernel: Kernel, ptr: int) -> int:
    """Its size in bytes; -EINVAL for an invalid one."""
    found = load(kernel, ptr)
    return found.size if found.data else -errno.EINVAL


@returns_int("bpf_dynptr_clone", 2)
def bpf_dynptr_clone(kernel: Kernel, ptr: int, clone: int) -> int:
    """Another dynptr over the same data."""
    found = load(kernel, ptr)
    store(kernel, clone, found if found.data else NULL)
    return 0 if found.data else -errno.EINVAL


@returns_int("bpf_dynptr_copy", 5)
def bpf_dynptr_copy(kernel: Kernel, dst: int, dst_off: int, src: int, src_off: int, size: int) -> int:
    """Copy ``size`` bytes from one dynptr to another."""
    to, size, dst_off = load(kernel, dst), size & _U32, dst_off & _U32
    data = read_part(kernel, load(kernel, src), src_off & _U32, size)
    if isinstance(data, int):
        return data
    return write_part(kernel, to, dst_off, data, 0)


@returns_int("bpf_dynptr_memset", 4)
def bpf_dynptr_memset(kernel: Kernel, ptr: int, offset: int, size: int, value: int) -> int:
    """Fill ``size`` bytes with one value."""
    found, size = load(kernel, ptr), size & _U32
    if size > found.size:
        return -errno.EINVAL if not found.data or found.rdonly else -errno.E2BIG
    return write_part(kernel, found, offset & _U32, bytes((value & 0xFF,)) * size, 0)
