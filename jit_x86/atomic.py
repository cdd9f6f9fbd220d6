# SPDX-License-Identifier: GPL-2.0-only
"""Templates of BPF_ATOMIC: locked instructions, compare-and-exchange loops, acquire and release.

On x86 an acquiring load and a releasing store are the plain ones.
"""

from __future__ import annotations

from typing import Final

from kernel_model.errors import NotModelled
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import (
    BPF_ADD,
    BPF_AND,
    BPF_ATOMIC,
    BPF_B,
    BPF_CMPXCHG,
    BPF_DW,
    BPF_FETCH,
    BPF_H,
    BPF_LOAD_ACQ,
    BPF_OR,
    BPF_PROBE_ATOMIC,
    BPF_REG_0,
    BPF_REG_AX,
    BPF_STORE_REL,
    BPF_STX,
    BPF_W,
    BPF_XCHG,
    BPF_XOR,
    bpf_size,
)

from .alu import Template
from .code import Code, Context, Item, LocalJump
from .memory import WIDTH, arena_load, arena_store, load, store, with_memory
from .moves import mov_reg
from .registers import AUX_REG, R32, R64, X86_REG_R12

_LOCKED: Final = {
    BPF_ADD: "add",
    BPF_AND: "and",
    BPF_OR: "or",
    BPF_XOR: "xor",
    BPF_ADD | BPF_FETCH: "xadd",
    BPF_XCHG: "xchg",
    BPF_CMPXCHG: "cmpxchg",
}
_LOOPS: Final = {BPF_AND | BPF_FETCH: "and", BPF_OR | BPF_FETCH: "or", BPF_XOR | BPF_FETCH: "xor"}


def _locked(op: int, size: int, base: int, src: int, off: int, index: int | None = None) -> Item:
    reg = (R64 if size == BPF_DW else R32)[src]
    return with_memory(f"lock {_LOCKED[op]} {WIDTH[size]} ptr {{}}, {reg}", base, off, index)


def _fetch_loop(mnemonic: str, size: int, insn: Insn) -> Code:
    """No single instruction returns the old value: retry a compare-and-exchange until it wins."""
    wide = size == BPF_DW
    names = R64 if wide else R32
    # cmpxchg needs rax, so R0 lives in r10 meanwhile, under whichever operand it is.
    base = BPF_REG_AX if insn.dst == BPF_REG_0 else insn.dst
    src = BPF_REG_AX if insn.src == BPF_REG_0 else insn.src
    items: list[Item] = [*mov_reg(BPF_REG_AX, BPF_REG_0)]
    again = len(items)
    items.append(load(size, BPF_REG_0, base, insn.off))
    items += mov_reg(AUX_REG, BPF_REG_0, wide)
    items.append(f"{mnemonic} {names[AUX_REG]}, {names[src]}")
    items.append(_locked(BPF_CMPXCHG, size, base, AUX_REG, insn.off))
    items.append(LocalJump("jne", again))
    items += mov_reg(src, BPF_REG_0, wide)
    items += mov_reg(BPF_REG_0, BPF_REG_AX)
    return Code(items)


def _atomic(_ctx: Context, insn: Insn, _index: int) -> Code:
    size, op = bpf_size(insn.code), insn.imm
    if op == BPF_LOAD_ACQ:
        return Code((load(size, insn.dst, insn.src, insn.off),))
    if op == BPF_STORE_REL:
        return Code((store(size, insn.dst, insn.src, insn.off),))
    _check_width(insn, size)
    if op in _LOOPS:
        return _fetch_loop(_LOOPS[op], size, insn)
    return Code((_locked(op, size, insn.dst, insn.src, insn.off),))


def _probe_atomic(_ctx: Context, insn: Insn, _index: int) -> Code:
    size, op = bpf_size(insn.code), insn.imm
    if op == BPF_LOAD_ACQ:
        return Code((arena_load(size, insn.dst, insn.src, insn.off),), fault=(0, None))
    if op == BPF_STORE_REL:
        return Code((arena_store(size, insn.dst, insn.src, insn.off),), fault=(0, None))
    _check_width(insn, size)
    if op in _LOOPS:
        raise NotModelled(f"JIT of fetching atomic operation {op:#x} in an arena (Linux refuses it on x86)")
    return Code((_locked(op, size, insn.dst, insn.src, insn.off, X86_REG_R12),), fault=(0, None))


def _check_width(insn: Insn, size: int) -> None:
    if size in (BPF_B, BPF_H) or (insn.imm not in _LOCKED and insn.imm not in _LOOPS):
        raise NotModelled(f"JIT of atomic operation {insn.imm:#x} on a {WIDTH[size]}")


def _table() -> dict[int, Template]:
    table: dict[int, Template] = {}
    for size in (BPF_B, BPF_H, BPF_W, BPF_DW):
        table[BPF_STX | BPF_ATOMIC | size] = _atomic
        table[BPF_STX | BPF_PROBE_ATOMIC | size] = _probe_atomic
    return table


TEMPLATES: Final = _table()
