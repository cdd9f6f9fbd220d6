# SPDX-License-Identifier: GPL-2.0-only
"""Templates of BPF_JMP and BPF_JMP32 without calls: compare and branch, goto, exit."""

from __future__ import annotations

from typing import Final

from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import (
    BPF_EXIT,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JLE,
    BPF_JLT,
    BPF_JMP,
    BPF_JMP32,
    BPF_JNE,
    BPF_JSET,
    BPF_JSGE,
    BPF_JSGT,
    BPF_JSLE,
    BPF_JSLT,
    BPF_K,
    BPF_REG_0,
    BPF_X,
    bpf_class,
    bpf_op,
)

from .alu import Template
from .byte_forms import test_rax_imm32
from .code import Code, Context, Item, Jump
from .registers import R32, R64

_CONDITION: Final = {
    BPF_JEQ: "je",
    BPF_JNE: "jne",
    BPF_JSET: "jne",
    BPF_JGT: "ja",
    BPF_JLT: "jb",
    BPF_JGE: "jae",
    BPF_JLE: "jbe",
    BPF_JSGT: "jg",
    BPF_JSLT: "jl",
    BPF_JSGE: "jge",
    BPF_JSLE: "jle",
}


def _compare_imm(insn: Insn, wide: bool) -> Item:
    name = (R64 if wide else R32)[insn.dst]
    if bpf_op(insn.code) == BPF_JSET:
        return test_rax_imm32(name, insn.imm, wide) if insn.dst == BPF_REG_0 else f"test {name}, {insn.imm}"
    if insn.imm == 0:
        return f"test {name}, {name}"
    if insn.dst == BPF_REG_0 and not -128 <= insn.imm <= 127:
        # Linux has no short form here; keystone takes none for a constant that it learns late.
        return f"cmp {name}, late({insn.imm})"
    return f"cmp {name}, {insn.imm}"


def _branch(ctx: Context, insn: Insn, index: int) -> Jump:
    return Jump(_CONDITION[bpf_op(insn.code)], index + 1 + insn.off - ctx.subprog.start)


def _jump_imm(ctx: Context, insn: Insn, index: int) -> Code:
    return Code((_compare_imm(insn, bpf_class(insn.code) == BPF_JMP),), _branch(ctx, insn, index))


def _jump_reg(ctx: Context, insn: Insn, index: int) -> Code:
    names = R64 if bpf_class(insn.code) == BPF_JMP else R32
    mnemonic = "test" if bpf_op(insn.code) == BPF_JSET else "cmp"
    return Code((f"{mnemonic} {names[insn.dst]}, {names[insn.src]}",), _branch(ctx, insn, index))


def _goto(ctx: Context, insn: Insn, index: int) -> Code:
    distance = insn.off if bpf_class(insn.code) == BPF_JMP else insn.imm
    return Code((), Jump("jmp", index + 1 + distance - ctx.subprog.start, distance == -1))


def _exit(_ctx: Context, _insn: Insn, _index: int) -> Code:
    # The first exit of a function becomes the epilogue itself; the compiler sees to that.
    return Code((), Jump("jmp", None))


def _table() -> dict[int, Template]:
    table: dict[int, Template] = {BPF_JMP | BPF_EXIT: _exit}
    for klass in (BPF_JMP, BPF_JMP32):
        table[klass | BPF_JA] = _goto
        for op in _CONDITION:
            table[klass | op | BPF_K] = _jump_imm
            table[klass | op | BPF_X] = _jump_reg
    return table


TEMPLATES: Final = _table()
