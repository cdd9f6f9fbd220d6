# SPDX-License-Identifier: GPL-2.0-only
"""Disassembler and assembler: each undoes the other, over the whole table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from insn_examples import slots_of

from kernel_model.isa.asm import AsmError, assemble
from kernel_model.isa.disasm import disasm, disasm_all, line, render
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_CALL_REL,
    BPF_EMIT_CALL,
    BPF_EXIT_INSN,
    BPF_JMP_A,
    BPF_LD_IMM64,
    BPF_LD_MAP_FD,
    BPF_MOV64_IMM,
    program,
)
from kernel_model.isa.table import TABLE, InsnRow, Origin

VALID = [row for row in TABLE if row.origin is not Origin.INVALID]
# The kernel's text of these says less than their encoding holds.
AMBIGUOUS = ("LD_IMM_DW_", "JMP_CALL_KFUNC", "ALU_MOV_ZEXT")


@settings(deadline=None, max_examples=1000)
@given(st.sampled_from(VALID).flatmap(lambda row: st.tuples(st.just(row), slots_of(row))))
def test_assembler_reads_its_own_syntax(made: tuple[InsnRow, list[Insn]]) -> None:
    row, slots = made
    assert assemble(render(row.syntax, slots, 0)) == slots


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from([row for row in VALID if not row.name.startswith(AMBIGUOUS)]).flatmap(slots_of),
        max_size=10,
    )
)
def test_assembler_reads_the_kernels_text(chunks: list[list[Insn]]) -> None:
    slots = [slot for chunk in chunks for slot in chunk]
    assert assemble("\n".join(disasm_all(slots))) == slots


def test_every_row_round_trips_plainly() -> None:
    for row in VALID:
        text = row.syntax
        for name, value in (("dst", 1), ("src", 2)):
            text = text.replace("{" + name + "}", str(value))
        text = (
            text.replace("{disp}", "+8").replace("{to}", "pc+1").replace("{tol}", "pc+1").replace("{fn}", "f")
        )
        width = row.imm if isinstance(row.imm, int) else 3
        cast = {"as_dst": width >> 16, "as_src": width & 0xFFFF}
        slots = assemble(text.format(imm=width, ximm=3, imm64=3, lo=3, hi=4, idx=0, **cast))
        assert render(row.syntax, slots, 0) == render(row.syntax, slots, 0)
        assert slots[0].code == row.code
        assert row.fits(slots[0])


@pytest.mark.parametrize(
    ("insn", "text"),
    [
        (Insn(0x61, 0, 1, 4), "(61) r0 = *(u32 *)(r1 +4)"),
        (Insn(0x04, 1, 0, 0, 5), "(04) w1 += 5"),
        (Insn(0xCF, 1, 2), "(cf) r1 s>>= r2"),
        (Insn(0xDB, 10, 1, -8), "(db) lock *(u64 *)(r10 -8) += r1"),
        (Insn(0xDB, 0, 1, 0, 0x100), "(db) r0 = load_acquire((u64 *)(r1 +0))"),
        (Insn(0xCB, 1, 2, 0, 0x110), "(cb) store_release((u16 *)(r1 +0), r2)"),
        (Insn(0x65, 1, 0, 2, 10), "(65) if r1 s> 0xa goto pc+2"),
        (Insn(0x56, 1, 0, -2, -1), "(56) if w1 != 0xffffffff goto pc-2"),
        (Insn(0xE5, 0, 0, 2), "(e5) may_goto pc+2"),
        (Insn(0x06, 0, 0, 0, -7), "(06) gotol pc-7"),
        (Insn(0x3F, 1, 2, 1), "(3f) r1 s/= r2"),
        (Insn(0xBC, 1, 2, 16), "(bc) w1 = (s16)w2"),
        (Insn(0xD7, 3, 0, 0, 32), "(d7) r3 = bswap32 r3"),
        (Insn(0x87, 3), "(87) r3 = -r3"),
        (Insn(0xBF, 1, 2, 1, 1 << 16), "(bf) r1 = addr_space_cast(r2, 1, 0)"),
        (Insn(0xC3, 1, 2, 0, 0xF1), "(c3) r0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)"),
        (Insn(0x50, 0, 2, 0, -3), "(50) r0 = *(u8 *)skb[r2 + -3]"),
        # Wrong in a reserved field, printed all the same.
        (Insn(0x0F, 1, 2, 3, 4), "(0f) r1 += r2"),
        (Insn(0xBF, 1, 2, 8, 4), "(bf) r1 = (s8)r2"),
        (Insn(0xBF, 1, 2, 1, 7), "(bf) r1 = addr_space_cast(r2, 0, 7)"),
        (Insn(0xD4, 1, 2, 0, 24), "(d4) r1 = le24 r1"),
        (Insn(0xD3, 1, 2, 0, 0), "(d3) lock *(u8 *)(r1 +0) += r2"),
        (Insn(0xC3, 1, 2, 0, 0x77), "BUG_c3"),
        (Insn(0x99, 1, 2), "BUG_ldx_99"),
    ],
)
def test_text(insn: Insn, text: str) -> None:
    assert line([insn], 0) == text


def test_calls_are_named() -> None:
    names = {1: "bpf_map_lookup_elem"}
    insns = [BPF_EMIT_CALL(1), BPF_EMIT_CALL(2), BPF_CALL_REL(3), Insn(0x85, 0, 2, 0, 9)]
    texts = [disasm(insns, i, lambda insn: names.get(insn.imm)) for i in range(4)]
    assert texts == [
        "call bpf_map_lookup_elem#1",
        "call unknown#2",
        "call pc+3",
        "call kernel-function#9",
    ]


def test_pointers_are_hidden_from_the_unprivileged() -> None:
    insns = program(BPF_LD_MAP_FD(1, 5), BPF_LD_IMM64(2, 5))
    assert disasm(insns, 0) == "r1 = 0x5"
    assert disasm(insns, 0, allow_ptr_leaks=False) == "r1 = 0x0"
    assert disasm(insns, 2, allow_ptr_leaks=False) == "r2 = 0x5"


def test_disasm_all_numbers_slots() -> None:
    insns = program(BPF_LD_IMM64(1, 1 << 63), BPF_MOV64_IMM(0, -1), BPF_EXIT_INSN())
    assert disasm_all(insns) == [
        "0: (18) r1 = 0x8000000000000000",
        "2: (b7) r0 = -1",
        "3: (95) exit",
    ]


def test_half_a_constant_prints() -> None:
    assert disasm([Insn(0x18, 1, 0, 0, 5)], 0) == "r1 = 0x0"


def test_labels() -> None:
    insns = assemble(
        """
        start: again:        ; two labels
          r0 = 0
          goto end           // forward
          goto start
          if r1 > 5 goto again
          call function
          r1 = func function
          gotol end
        end: exit
        # a comment
        function: exit
        """
    )
    assert insns[1] == BPF_JMP_A(6)
    assert insns[2] == BPF_JMP_A(-3)
    assert insns[3].off == -4
    assert insns[4] == BPF_CALL_REL(4)
    assert insns[5].imm == 3
    assert insns[7].imm == 0


def test_calls_by_name_and_number() -> None:
    insns = assemble("call ktime\ncall 5\ncall bpf_map_lookup_elem#1\nf: call f", {"ktime": 5})
    assert [(insn.src, insn.imm) for insn in insns] == [(0, 5), (0, 5), (0, 1), (1, -1)]


def test_spaces_and_numbers_are_free() -> None:
    assert assemble("r1=0x10") == assemble("  r1   =  16 ")
    assert assemble("*(u8*)(r1)=-1") == assemble("*(u8 *)(r1 +0) = -1")
    assert assemble("r0 = *(u32*)(r1+0x10)") == assemble("r0 = *(u32 *)(r1 +16)")
    assert assemble("w1 = 0xffffffff") == assemble("w1 = -1")


@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        ("r0 = 0\nr1 = 0x1ffffffff", 2, "does not fit in 32 bits"),
        ("nonsense", 1, "no such instruction"),
        ("\n\ngoto nowhere", 3, "no label nowhere"),
        ("call nowhere", 1, "no label nowhere"),
        ("r12 = 3", 1, "no register 12"),
        ("a: exit\na: exit", 2, "label a is defined twice"),
        ("r0 = *(u8 *)(r1 +40000)", 1, "does not fit in 16 bits"),
        ("r1 = atomic64_fetch_add((u64 *)(r10 -8), r2)", 1, "no such instruction"),
        ("r1 = le24 r1", 1, "no such instruction"),
        ("lock *(u8 *)(r1 +0) += r2", 1, "no such instruction"),
        ("a:\n" + "r0 = 0\n" * 40000 + "goto a", 40002, "does not fit in 16 bits"),
    ],
)
def test_errors_name_the_line(text: str, number: int, reason: str) -> None:
    with pytest.raises(AsmError, match=reason) as caught:
        assemble(text)
    assert caught.value.line == number
    assert str(caught.value).startswith(f"line {number}: ")
