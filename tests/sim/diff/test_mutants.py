# SPDX-License-Identifier: GPL-2.0-only
"""Automatic mutants of the JIT's machine code: the comparison finds those that change a result."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from mutant_forms import Form, why_left_out
from mutants import Plan, Report, all_forms, judge_all
from mutation import mutants_of, mutants_of_jump, read, written
from tail_mutants import FORMS, TailBench

from jit_x86.assembler import assemble
from jit_x86.byte_forms import FIXED
from jit_x86.code import Far, Jump, LocalJump
from kernel_model.isa import opcodes as op
from kernel_model.isa.table import TABLE, row_for

SEED = 1
WANTED = 0.95


def every(share: float, seed: int) -> Callable[[Plan], bool]:
    """Lets so great a share of the mutants through, the same ones each time."""
    rng = random.Random(seed)
    return lambda _plan: rng.random() < share


def shares(report: Report) -> tuple[float, float]:
    """Of those that change a result: detected, and named at the mutated instruction."""
    count = len(report.changing)
    return sum(v.detected for v in report.changing) / count, sum(v.named for v in report.changing) / count


def texts(text: str) -> set[str]:
    return {mutant.text for mutant in mutants_of(text, 1, 1)}


def test_mutants_of_an_addition() -> None:
    found = texts("add rdi, rsi")
    assert {"", "add rdi, r14", "add r15, rsi", "add edi, esi", "add rsi, rdi", "sub rdi, rsi"} <= found
    assert "add rdi, rsi" not in found


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("mov rdi, -1", {"mov rdi, 0", "mov edi, 4294967295", "mov rdi, 1"}),
        ("movzx r8, byte ptr [rdi +8]", {"movsx r8, byte ptr [rdi +8]", "movzx r8, byte ptr [rdi -8]"}),
        ("mov byte ptr [rdi +8], sil", {"mov byte ptr [rdi +8], dh", "mov qword ptr [rdi +8], rsi"}),
        ("mov ecx, dword ptr [rdi -200]", {"mov ecx, dword ptr [rdi +56]", "mov rcx, qword ptr [rdi -200]"}),
        ("shl edi, 31", {"shl rdi, 31", "shr edi, 31", "shl edi, 30"}),
        ("lock xadd qword ptr [rdi +8], rsi", {"lock add qword ptr [rdi +8], rsi"}),
        ("cmp rax, late(-1000)", {"cmp rax, late(-999)", "cmp eax, late(-1000)"}),
        ("{disp8} mov eax, dword ptr [rdi +0]", {"mov eax, dword ptr [rdi +1]"}),
        ("mov rcx, qword ptr [rsi + rdx*8 + late(312)]", {"mov rcx, qword ptr [rsi + rdx*1 + late(312)]"}),
    ],
)
def test_mutants_of_a_text(text: str, some: set[str]) -> None:
    assert some <= texts(text)


@pytest.mark.parametrize(
    "text",
    [
        *("add rdi, -5", "shlx rdi, rdi, rdx", "lock cmpxchg dword ptr [rbp -8], r11d", "cqo", "pop rbx"),
        *("mov rcx, qword ptr [rsi + rdx*8 + late(312)]", "add r9, qword ptr gs:[riz*1 +0x200]"),
    ],
)
def test_a_text_read_and_written_is_the_same_instruction(text: str) -> None:
    assert assemble(written(read(text))) == assemble(text)


def test_branches_and_calls_have_mutants() -> None:
    jumps = mutants_of_jump(Jump("jl", 3), 9)
    assert {"jb 3", "jge 3", "jle 3", "jl 4", "jl +1 bytes"} <= {each.text for each in jumps}
    assert len(mutants_of(LocalJump("jne", 0), 4, 1)) > 8
    assert {each.kind for each in mutants_of(Far("call", 0x1000), 1, 1)} == {"dropped", "target", "operation"}
    assert [each.kind for each in mutants_of(FIXED["nop5"], 1, 1)] == ["dropped"]


@pytest.fixture(scope="module")
def forms() -> list[Form]:
    return all_forms()


def test_every_instruction_has_a_form_or_a_reason(forms: list[Form]) -> None:
    rows = {"JMP_TAIL_CALL"}
    for form in forms:
        for place in form.places:
            row = row_for(form.insns[place], internal=True) if isinstance(place, int) else None
            rows |= {row.name} if row is not None else set()
    assert rows == {row.name for row in TABLE if not why_left_out(row)}
    assert len({form.name for form in forms}) == len(forms)


def test_a_sample_is_detected(forms: list[Form]) -> None:
    report = judge_all(forms[::90], SEED, every(0.3, SEED))
    assert len(report.changing) > 80
    assert min(shares(report)) >= WANTED, "\n".join(report.lines())


def test_a_sample_of_tail_calls_is_detected() -> None:
    bench = TailBench()
    report = bench.judge(FORMS[4], every(0.06, SEED))
    bench.close()
    assert len(report.changing) >= 10
    assert shares(report)[0] >= WANTED, "\n".join(report.lines())


@pytest.mark.campaign
def test_all_mutants(forms: list[Form]) -> None:
    report = judge_all(forms, SEED, lambda _plan: True)
    print("", *report.lines(), sep="\n")
    assert min(shares(report)) >= WANTED


@pytest.mark.campaign
def test_all_mutants_of_tail_calls() -> None:
    report, bench = Report(), TailBench()
    for form in FORMS:
        report.add(bench.judge(form, lambda _plan: True))
    bench.close()
    print("", *report.lines(), sep="\n")
    assert shares(report)[0] >= WANTED


def test_tail_calls_have_forms() -> None:
    assert op.TAIL_CALL in {row.code for row in TABLE}
    assert len({form.name for form in FORMS}) == len(FORMS)
