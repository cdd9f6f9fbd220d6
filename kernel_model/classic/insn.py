# SPDX-License-Identifier: GPL-2.0-only
"""One classic BPF instruction as data (struct sock_filter of include/uapi/linux/filter.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

_FILTER = struct.Struct("<HBBI")
SOCK_FILTER_SIZE: Final = _FILTER.size
SOCK_FPROG: Final = struct.Struct("<H6xQ")
"""struct sock_fprog: the number of instructions and where they lie in user memory."""

BPF_MAXINSNS: Final = 4096
BPF_MEMWORDS: Final = 16

# Fields of opcodes that eBPF has not (include/uapi/linux/bpf_common.h and filter.h).
BPF_LEN: Final = 0x80
BPF_MSH: Final = 0xA0
BPF_A: Final = 0x10
BPF_TAX: Final = 0x00
BPF_TXA: Final = 0x80

# Where loads at negative offsets go.
SKF_AD_OFF: Final = -0x1000
SKF_NET_OFF: Final = -0x100000
SKF_LL_OFF: Final = -0x200000

_U32: Final = 0xFFFF_FFFF


class SockFilter(NamedTuple):
    """``code`` is 16 bits, ``jt`` and ``jf`` are distances from the next instruction, ``k`` is unsigned."""

    code: int
    jt: int = 0
    jf: int = 0
    k: int = 0

    def pack(self) -> bytes:
        """The 8 bytes, little endian."""
        return _FILTER.pack(self.code, self.jt, self.jf, self.k)

    @property
    def signed(self) -> int:
        """``k`` as the kernel reads offsets: a signed 32-bit number."""
        return s32(self.k)


def s32(value: int) -> int:
    """The low 32 bits as a signed number."""
    return (value & _U32) - ((value & 0x8000_0000) << 1)


def u32(value: int) -> int:
    """The low 32 bits, unsigned."""
    return value & _U32


def decode(data: bytes | memoryview) -> list[SockFilter]:
    """Split ``data`` into instructions; ValueError when its size is no multiple of 8."""
    if len(data) % SOCK_FILTER_SIZE:
        raise ValueError(f"{len(data)} bytes of instructions are no multiple of {SOCK_FILTER_SIZE}")
    return [SockFilter(*fields) for fields in _FILTER.iter_unpack(bytes(data))]


def encode(insns: Iterable[SockFilter]) -> bytes:
    """The bytes of the instructions, in order."""
    return b"".join(insn.pack() for insn in insns)
