# SPDX-License-Identifier: GPL-2.0-only
"""One BPF instruction as data (RFC 9669 section 3; struct bpf_insn of include/uapi/linux/bpf.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_INSN = struct.Struct("<BBhi")
INSN_SIZE = _INSN.size


class Insn(NamedTuple):
    """One 8-byte slot. ``off`` is signed 16 bits, ``imm`` signed 32 bits.

    A 16-byte LD_IMM64 occupies two slots, as in the kernel: the second has ``code`` 0 and the upper
    half of the immediate in ``imm``. Indices everywhere in this project count slots.
    """

    code: int
    dst: int = 0
    src: int = 0
    off: int = 0
    imm: int = 0

    def pack(self) -> bytes:
        """The 8 bytes of this slot, little endian."""
        return _INSN.pack(self.code, self.src << 4 | self.dst, self.off, self.imm)


def decode(data: bytes | memoryview) -> list[Insn]:
    """Split ``data`` (a multiple of 8 bytes) into slots; ValueError when the size is not."""
    if len(data) % INSN_SIZE:
        raise ValueError(f"{len(data)} bytes of instructions are no multiple of {INSN_SIZE}")
    return [
        Insn(code, regs & 0xF, regs >> 4, off, imm) for code, regs, off, imm in _INSN.iter_unpack(bytes(data))
    ]


def encode(insns: Iterable[Insn]) -> bytes:
    """The bytes of the slots, in order."""
    return b"".join(insn.pack() for insn in insns)


def imm64(insns: Sequence[Insn], index: int) -> int:
    """The unsigned 64-bit immediate of the LD_IMM64 at ``index``."""
    return (insns[index].imm & 0xFFFFFFFF) | (insns[index + 1].imm & 0xFFFFFFFF) << 32
