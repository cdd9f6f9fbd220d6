# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's macros, by the text that their instructions print."""

from __future__ import annotations

import pytest

from kernel_model.isa import macros as m
from kernel_model.isa.disasm import render
from kernel_model.isa.insn import Insn, decode, encode, imm64
from kernel_model.isa.table import row_for

MADE = [
    (m.BPF_ALU64_REG(m.BPF_ADD, 1, 2), "r1 += r2"),
    (m.BPF_ALU32_REG(m.BPF_XOR, 1, 2), "w1 ^= w2"),
    (m.BPF_ALU64_IMM(m.BPF_ARSH, 1, 3), "r1 s>>= 3"),
    (m.BPF_ALU32_IMM(m.BPF_MOD, 1, 3), "w1 %= 3"),
    (m.BPF_ALU64_REG_OFF(m.BPF_DIV, 1, 2, 1), "r1 s/= r2"),
    (m.BPF_ALU32_REG_OFF(m.BPF_MOD, 1, 2, 1), "w1 s%= w2"),
    (m.BPF_ALU64_IMM_OFF(m.BPF_MOD, 1, -2, 1), "r1 s%= -2"),
    (m.BPF_ALU32_IMM_OFF(m.BPF_DIV, 1, -2, 1), "w1 s/= -2"),
    (m.BPF_NEG_REG(4), "r4 = -r4"),
    (m.BPF_ENDIAN(m.BPF_TO_BE, 1, 16), "r1 = be16 r1"),
    (m.BPF_ENDIAN(m.BPF_TO_LE, 1, 64), "r1 = le64 r1"),
    (m.BPF_BSWAP(1, 32), "r1 = bswap32 r1"),
    (m.BPF_MOV64_REG(1, 2), "r1 = r2"),
    (m.BPF_MOV32_REG(1, 2), "w1 = w2"),
    (m.BPF_MOV64_IMM(1, 0xFFFFFFFF), "r1 = -1"),
    (m.BPF_MOV32_IMM(1, -1), "w1 = -1"),
    (m.BPF_MOVSX64_REG(1, 2, 32), "r1 = (s32)r2"),
    (m.BPF_MOVSX32_REG(1, 2, 8), "w1 = (s8)w2"),
    (m.BPF_MOV64_PERCPU_REG(1, 2), "r1 = &(void __percpu *)(r2)"),
    (m.BPF_MOV64_RAW(m.BPF_K, 1, 0, 6), "r1 = 6"),
    (m.BPF_MOV32_RAW(m.BPF_X, 1, 3, 0), "w1 = w3"),
    (m.BPF_LD_ABS(m.BPF_B, 23), "r0 = *(u8 *)skb[23]"),
    (m.BPF_LD_IND(m.BPF_H, 7, 2), "r0 = *(u16 *)skb[r7 + 2]"),
    (m.BPF_LDX_MEM(m.BPF_DW, 1, 2, -8), "r1 = *(u64 *)(r2 -8)"),
    (m.BPF_LDX_MEMSX(m.BPF_H, 1, 2, 8), "r1 = *(s16 *)(r2 +8)"),
    (m.BPF_STX_MEM(m.BPF_W, 10, 2, -8), "*(u32 *)(r10 -8) = r2"),
    (m.BPF_ST_MEM(m.BPF_B, 10, -8, 9), "*(u8 *)(r10 -8) = 9"),
    (
        m.BPF_ATOMIC_OP(m.BPF_DW, m.BPF_ADD | m.BPF_FETCH, 1, 2, 8),
        "r2 = atomic64_fetch_add((u64 *)(r1 +8), r2)",
    ),
    (m.BPF_ATOMIC_OP(m.BPF_H, m.BPF_LOAD_ACQ, 1, 2, 8), "r1 = load_acquire((u16 *)(r2 +8))"),
    (m.BPF_STX_XADD(m.BPF_W, 1, 2, 8), "lock *(u32 *)(r1 +8) += r2"),
    (m.BPF_JMP_REG(m.BPF_JSLE, 1, 2, 3), "if r1 s<= r2 goto pc+3"),
    (m.BPF_JMP_IMM(m.BPF_JSET, 1, 2, -3), "if r1 & 0x2 goto pc-3"),
    (m.BPF_JMP32_REG(m.BPF_JLT, 1, 2, 3), "if w1 < w2 goto pc+3"),
    (m.BPF_JMP32_IMM(m.BPF_JNE, 1, -1, 3), "if w1 != 0xffffffff goto pc+3"),
    (m.BPF_JMP_A(-2), "goto pc-2"),
    (m.BPF_JMP32_A(70000), "gotol pc+70000"),
    (m.BPF_JMP_MAY_GOTO(2), "may_goto pc+2"),
    (m.BPF_EMIT_CALL(5), "call unknown#5"),
    (m.BPF_CALL_FUNC(5), "call unknown#5"),
    (m.BPF_CALL_REL(-4), "call pc-4"),
    (m.BPF_CALL_KFUNC(2, 77), "call kfunc(77, 2)"),
    (m.BPF_EXIT_INSN(), "exit"),
    (m.BPF_RAW_INSN(0xB7, 3, 0, 0, 4), "r3 = 4"),
    (m.BPF_LD_IMM64(1, -1), "r1 = 0xffffffffffffffff ll"),
    (m.BPF_LD_IMM64(1, 0x8000000000000001), "r1 = 0x8000000000000001 ll"),
    (m.BPF_LD_MAP_FD(1, 5), "r1 = map_fd(5, 0)"),
    (m.BPF_LD_MAP_VALUE(1, 5, 24), "r1 = map_value(5, 24)"),
    (m.BPF_LD_MAP_IDX(1, 2), "r1 = map_idx(2, 0)"),
    (m.BPF_LD_MAP_IDX_VALUE(1, 2, 8), "r1 = map_idx_value(2, 8)"),
    (m.BPF_LD_BTF_ID(1, 1234, 3), "r1 = btf_id(1234, 3)"),
    (m.BPF_LD_FUNC(1, -3), "r1 = func pc-3"),
]


@pytest.mark.parametrize(("made", "text"), MADE, ids=[text for _, text in MADE])
def test_macro(made: Insn | tuple[Insn, Insn], text: str) -> None:
    slots = m.program(made)
    row = row_for(slots[0], internal=True)
    assert row is not None
    assert render(row.syntax, slots, 0) == text
    assert decode(encode(slots)) == slots


def test_program_flattens() -> None:
    slots = m.program(m.BPF_LD_IMM64(1, 1), [m.BPF_MOV64_IMM(0, 0)], m.BPF_RETURN(3))
    assert [slot.code for slot in slots] == [0x18, 0, 0xB7, 0xB7, 0x95]
    assert imm64(slots, 0) == 1


def test_zext_and_tail_call() -> None:
    assert m.BPF_ZEXT_REG(3) == Insn(0xBC, 3, 3, 0, 1)
    assert [slot.imm for slot in m.BPF_TAIL_CALL_INSNS(7, 2)] == [7, 0, 2, 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda: m.BPF_MOV64_IMM(1, 1 << 32),
        lambda: m.BPF_MOV64_IMM(1, -(1 << 31) - 1),
        lambda: m.BPF_MOV64_IMM(12, 0),
        lambda: m.BPF_JMP_A(40000),
        lambda: m.BPF_LD_IMM64(1, 1 << 64),
        lambda: m.BPF_RAW_INSN(256, 0, 0, 0, 0),
        lambda: m.BPF_RAW_INSN(0, 16, 0, 0, 0),
    ],
)
def test_what_does_not_fit_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"fit|register"):
        make()
