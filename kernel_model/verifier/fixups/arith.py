# SPDX-License-Identifier: GPL-2.0-only
"""Arithmetic made harmless: divisions that cannot trap, pointer arithmetic that cannot speculate.

Division by zero gives zero, a remainder by zero leaves the dividend (RFC 9669, section 4.1); dividing
the smallest number by -1 overflows in hardware, so signed divisions go around -1 as well.
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU32_REG,
    BPF_ALU64_IMM,
    BPF_ALU64_REG,
    BPF_JMP_A,
    BPF_MOV32_IMM,
    BPF_MOV32_REG,
    BPF_MOV64_REG,
)

from ..env import InsnAux
from ..sanitize import (
    ALU_IMMEDIATE,
    ALU_NEG_VALUE,
    ALU_NON_POINTER,
    ALU_SANITIZE,
    ALU_SANITIZE_SRC,
)

AX: Final = op.BPF_REG_AX
_DIVISIONS: Final = (op.BPF_DIV, op.BPF_MOD)
_ADD: Final = op.BPF_ALU64 | op.BPF_ADD | op.BPF_X
_SUB: Final = op.BPF_ALU64 | op.BPF_SUB | op.BPF_X


def is_division(insn: Insn) -> bool:
    """A division or remainder, of either width and operand."""
    return insn.code & 7 in (op.BPF_ALU, op.BPF_ALU64) and insn.code & 0xF0 in _DIVISIONS


def _signed(insn: Insn, alu: int, jmp: int) -> list[Insn]:
    """Test divisor + 1: above 1 divides, 1 means divisor 0, 0 means divisor -1."""
    wide = alu == op.BPF_ALU64
    out = [
        BPF_MOV64_REG(AX, insn.src),
        Insn(alu | op.BPF_ADD, AX, 0, 0, 1),
    ]
    if insn.code & 0xF0 == op.BPF_DIV:
        return [
            *out,
            Insn(jmp | op.BPF_JGT, AX, 0, 4, 1),
            Insn(jmp | op.BPF_JEQ, AX, 0, 1, 0),
            Insn(alu | op.BPF_MOV, insn.dst),
            Insn(alu | op.BPF_NEG, insn.dst),
            BPF_JMP_A(1),
            insn,
        ]
    out += [
        Insn(jmp | op.BPF_JGT, AX, 0, 3, 1),
        Insn(jmp | op.BPF_JEQ, AX, 0, 3 if wide else 4, 1),
        BPF_MOV32_IMM(insn.dst, 0),
        BPF_JMP_A(1),
        insn,
    ]
    return out if wide else [*out, BPF_JMP_A(1), BPF_MOV32_REG(insn.dst, insn.dst)]


def guard_division(insn: Insn) -> list[Insn]:
    """What stands in place of a division; a constant divisor needs care only when it is a signed -1."""
    wide = insn.code & 7 == op.BPF_ALU64
    alu = op.BPF_ALU64 if wide else op.BPF_ALU
    jmp = op.BPF_JMP if wide else op.BPF_JMP32
    divides = insn.code & 0xF0 == op.BPF_DIV
    if not insn.code & 8:
        if insn.off != 1 or insn.imm != -1:
            return [insn]
        return [Insn(alu | op.BPF_NEG, insn.dst)] if divides else [BPF_MOV32_IMM(insn.dst, 0)]
    if insn.off == 1:
        return _signed(insn, alu, jmp)
    if divides:
        return [
            Insn(jmp | op.BPF_JNE, insn.src, 0, 2, 0),
            BPF_ALU32_REG(op.BPF_XOR, insn.dst, insn.dst),
            BPF_JMP_A(1),
            insn,
        ]
    out = [Insn(jmp | op.BPF_JEQ, insn.src, 0, 1 if wide else 2, 0), insn]
    return out if wide else [*out, BPF_JMP_A(1), BPF_MOV32_REG(insn.dst, insn.dst)]


def mask_pointer_arithmetic(insn: Insn, aux: InsnAux) -> list[Insn]:
    """Spectre v1: an offset beyond ``aux.alu_limit`` becomes 0 without a branch (since 5.0)."""
    if insn.code not in (_ADD, _SUB) or aux.alu_state in (0, ALU_NON_POINTER):
        return [insn]
    negative = bool(aux.alu_state & ALU_NEG_VALUE)
    in_src = aux.alu_state & ALU_SANITIZE == ALU_SANITIZE_SRC
    constant = bool(aux.alu_state & ALU_IMMEDIATE)
    off = insn.src if in_src else insn.dst
    out = []
    if constant:
        out.append(BPF_MOV32_IMM(AX, aux.alu_limit))
    else:
        if negative:
            out.append(BPF_ALU64_IMM(op.BPF_MUL, off, -1))
        out += [
            BPF_MOV32_IMM(AX, aux.alu_limit),
            BPF_ALU64_REG(op.BPF_SUB, AX, off),
            BPF_ALU64_REG(op.BPF_OR, AX, off),
            BPF_ALU64_IMM(op.BPF_NEG, AX, 0),
            BPF_ALU64_IMM(op.BPF_ARSH, AX, 63),
            BPF_ALU64_REG(op.BPF_AND, AX, off),
        ]
    if not in_src:
        out.append(BPF_MOV64_REG(insn.dst, insn.src))
    code = insn.code if not negative else (_SUB if insn.code == _ADD else _ADD)
    out.append(insn._replace(code=code, src=AX))
    if in_src and negative and not constant:
        out.append(BPF_ALU64_IMM(op.BPF_MUL, off, -1))
    return out
