# SPDX-License-Identifier: GPL-2.0-only
"""What an instruction does to memory: the bytes where it stores, and changes beside them.

A store's target follows from the instruction and the registers before it, on both engines alike; what
the bytes there are afterwards must agree. Machine code that stores too much, or elsewhere, is seen by
its traces in the neighbourhood: the interpreter never touches a byte beside its target.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from kernel_model.errors import MemoryFault
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.ports import Memory

NEIGHBOURHOOD = 16
"""Bytes on each side of a store's target that are watched."""
_SIZES = {op.BPF_B: 1, op.BPF_H: 2, op.BPF_W: 4, op.BPF_DW: 8}
_MASK = (1 << 64) - 1


class Effect(NamedTuple):
    """A store: where, the bytes there afterwards, and (address, byte) of what changed beside them."""

    addr: int
    data: bytes
    strays: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        beside = "".join(f", and [{addr:#x}] = {byte:02x}" for addr, byte in self.strays)
        return f"[{self.addr:#x}] = {self.data.hex(' ')}{beside}"


class Target(NamedTuple):
    """The memory operand of a store: base register, displacement, bytes; ``moves``: it changes its base."""

    base: int
    off: int
    size: int
    moves: bool

    def addr(self, regs: tuple[int, ...]) -> int:
        """The address, with the registers before the instruction."""
        return regs[self.base] + self.off & _MASK


@lru_cache(maxsize=1 << 16)
def target_of(insn: Insn) -> Target | None:
    """Where an instruction stores; None for those that do not (and for stores to an arena)."""
    klass, mode = op.bpf_class(insn.code), insn.code & 0xE0
    size = _SIZES[op.bpf_size(insn.code)]
    if klass == op.BPF_ST and mode == op.BPF_MEM:
        return Target(insn.dst, insn.off, size, False)
    if klass != op.BPF_STX or mode not in (op.BPF_MEM, op.BPF_ATOMIC):
        return None
    if mode == op.BPF_MEM or insn.imm == op.BPF_STORE_REL:
        return Target(insn.dst, insn.off, size, False)
    if insn.imm == op.BPF_LOAD_ACQ:
        return None
    if insn.imm == op.BPF_CMPXCHG:
        return Target(insn.dst, insn.off, size, insn.dst == op.BPF_REG_0)
    fetches = bool(insn.imm & op.BPF_FETCH)
    return Target(insn.dst, insn.off, size, fetches and insn.dst == insn.src)


def look(
    memory: Memory, addr: int, size: int, neighbourhood: int = NEIGHBOURHOOD
) -> tuple[int, bytes] | None:
    """The bytes of a target and of its neighbourhood as far as that is mapped, and where they begin."""
    for margin in (neighbourhood, 0):
        try:
            return addr - margin, memory.read(addr - margin, size + 2 * margin)
        except MemoryFault:
            continue
    return None


def effect(
    before: tuple[int, bytes] | None, after: tuple[int, bytes] | None, addr: int, size: int
) -> Effect | None:
    """The effect of a store between two looks at the same place; without the first, the target only."""
    if after is None:
        return None
    start, data = after
    low = addr - start
    strays: list[tuple[int, int]] = []
    high = low + size
    if before is not None and before[0] == start and before[1] != data:
        old = before[1]
        if old[:low] != data[:low] or old[high:] != data[high:]:
            strays = [
                (start + at, data[at])
                for at in range(len(data))
                if not low <= at < high and old[at] != data[at]
            ]
    return Effect(addr, data[low:high], tuple(strays))
