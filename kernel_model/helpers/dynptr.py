# SPDX-License-Identifier: GPL-2.0-only
"""Dynptrs at run time: struct bpf_dynptr_kern in emulated memory, and helpers on it (kernel/bpf/helpers.c).

``size`` holds the length in its lower 24 bits, the type in bits 28 to 30, and "read-only" in bit 31.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import NotModelled
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

LOCAL: Final = 1
RINGBUF: Final = 2
SKB: Final = 3
XDP: Final = 4
SKB_META: Final = 5
MAX_SIZE: Final = (1 << 24) - 1
_TYPE_SHIFT: Final = 28
_TYPE_MASK: Final = 7
_RDONLY: Final = 1 << 31
_U32: Final = (1 << 32) - 1
_STRUCT: Final = "bpf_dynptr_kern"


class Dynptr(NamedTuple):
    """A struct bpf_dynptr_kern as read: ``data`` is 0 for an invalid one; lengths in bytes."""

    data: int
    size: int
    offset: int
    kind: int
    rdonly: bool

    def check(self, offset: int, length: int) -> int:
        """0 when the part lies inside, else -E2BIG (bpf_dynptr_check_off_len)."""
        return -errno.E2BIG if length > self.size or offset > self.size - length else 0


def load(kernel: Kernel, ptr: int) -> Dynptr:
    """The dynptr at a kernel address."""
    fields, memory = kernel.layout[_STRUCT], kernel.memory
    size = memory.u32(ptr + fields.offset("size"))
    return Dynptr(
        memory.u64(ptr + fields.offset("data")),
        size & MAX_SIZE,
        memory.u32(ptr + fields.offset("offset")),
        size >> _TYPE_SHIFT & _TYPE_MASK,
        bool(size & _RDONLY),
    )


def store(kernel: Kernel, ptr: int, value: Dynptr) -> None:
    """Write a dynptr to a kernel address."""
    fields, memory = kernel.layout[_STRUCT], kernel.memory
    size = value.size | value.kind << _TYPE_SHIFT | (_RDONLY if value.rdonly else 0)
    memory.put_u64(ptr + fields.offset("data"), value.data)
    memory.put_u32(ptr + fields.offset("size"), size)
    memory.put_u32(ptr + fields.offset("offset"), value.offset)


NULL: Final = Dynptr(0, 0, 0, 0, False)
"""What a dynptr is after an error (bpf_dynptr_set_null)."""


def packet_data(kernel: Kernel, value: Dynptr, offset: int, length: int) -> int:
    """The address of a part of a packet's linear data; 0 when the packet ends before it.

    NotModelled for a part that lies in fragments.
    """
    memory = kernel.memory
    start = value.offset + offset
    if value.kind == SKB:
        fields = kernel.layout["sk_buff"]
        total = memory.u32(value.data + fields.offset("len"))
        linear = total - memory.u32(value.data + fields.offset("data_len"))
        data = memory.u64(value.data + fields.offset("data"))
    elif value.kind == XDP:
        fields = kernel.layout["xdp_buff"]
        data = memory.u64(value.data + fields.offset("data"))
        total = linear = memory.u64(value.data + fields.offset("data_end")) - data
        if memory.u32(value.data + fields.offset("flags")) & 1:
            raise NotModelled("dynptrs of an xdp_buff with fragments", errno.EOPNOTSUPP)
    else:
        raise NotModelled("dynptrs of packet metadata", errno.EOPNOTSUPP)
    if start + length > total:
        return 0
    if start + length > linear:
        raise NotModelled("dynptrs of an sk_buff with fragments", errno.EOPNOTSUPP)
    return data + start


def read_part(kernel: Kernel, value: Dynptr, offset: int, length: int) -> bytes | int:
    """``length`` bytes of what the dynptr points to, or a negative errno (__bpf_dynptr_read)."""
    if not value.data:
        return -errno.EINVAL
    wrong = value.check(offset, length)
    if wrong:
        return wrong
    if value.kind in (LOCAL, RINGBUF):
        return kernel.memory.read(value.data + value.offset + offset, length)
    at = packet_data(kernel, value, offset, length)
    return kernel.memory.read(at, length) if at else -errno.EFAULT


def write_part(kernel: Kernel, value: Dynptr, offset: int, data: bytes, flags: int) -> int:
    """Put bytes where the dynptr points: 0 or a negative errno (__bpf_dynptr_write)."""
    if not value.data or value.rdonly:
        return -errno.EINVAL
    wrong = value.check(offset, len(data))
    if wrong:
        return wrong
    if value.kind == SKB:
        raise NotModelled("bpf_dynptr_write() to an sk_buff", errno.EOPNOTSUPP)
    if flags:
        return -errno.EINVAL
    if value.kind in (LOCAL, RINGBUF):
        kernel.memory.write(value.data + value.offset + offset, data)
        return 0
    at = packet_data(kernel, value, offset, len(data))
    if not at:
        return -errno.EFAULT
    kernel.memory.write(at, data)
    return 0


def initialise(kernel: Kernel, ptr: int, data: int, kind: int, size: int, rdonly: bool = False) -> int:
    """Make a dynptr over ``size`` bytes: 0, or -E2BIG and an invalid dynptr."""
    if size > MAX_SIZE:
        store(kernel, ptr, NULL)
        return -errno.E2BIG
    store(kernel, ptr, Dynptr(data, size, 0, kind, rdonly))
    return 0


@leaf("bpf_dynptr_from_mem", 4)
def bpf_dynptr_from_mem(kernel: Kernel, data: int, size: int, flags: int, ptr: int) -> int:
    """A dynptr over memory that the program owns."""
    size &= _U32
    if size <= MAX_SIZE and flags:
        store(kernel, ptr, NULL)
        return -errno.EINVAL
    return initialise(kernel, ptr, data, LOCAL, size)


@leaf("bpf_dynptr_read", 5)
def bpf_dynptr_read(kernel: Kernel, dst: int, length: int, src: int, offset: int, flags: int) -> int:
    """Copy a part of the data out."""
    if flags:
        return -errno.EINVAL
    found = read_part(kernel, load(kernel, src), offset & _U32, length & _U32)
    if isinstance(found, int):
        return found
    kernel.memory.write(dst, found)
    return 0


@leaf("bpf_dynptr_write", 5)
def bpf_dynptr_write(kernel: Kernel, dst: int, offset: int, src: int, length: int, flags: int) -> int:
    """Copy bytes into a part of the data."""
    data = kernel.memory.read(src, length & _U32)
    return write_part(kernel, load(kernel, dst), offset & _U32, data, flags)


@leaf("bpf_dynptr_data", 3)
def bpf_dynptr_data(kernel: Kernel, ptr: int, offset: int, length: int) -> int:
    """A pointer to a part of the data, 0 when there is none (packets, read-only data, out of bounds)."""
    found = load(kernel, ptr)
    offset, length = offset & _U32, length & _U32
    if not found.data or found.rdonly or found.check(offset, length) or found.kind not in (LOCAL, RINGBUF):
        return 0
    return found.data + found.offset + offset
