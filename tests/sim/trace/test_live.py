# SPDX-License-Identifier: GPL-2.0-only
"""Which registers are compared, and how two recordings part, on streams written by hand."""

from __future__ import annotations

import pytest

from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog
from sim.trace import Comparison, Kind, ProgText, Recording, Where, compare
from sim.trace.live import Liveness
from sim.trace.report import explain, summary

FP = 0x1000


def prog_text(text: str, silent: frozenset[int] = frozenset(), number: int = 1) -> ProgText:
    insns = tuple(assemble(text))
    calls = {at: "helper" for at, insn in enumerate(insns) if insn.code == op.CALL and not insn.src}
    return ProgText(number, f"prog{number}", insns, (Subprog(0, len(insns)),), silent, calls)


def masks(prog: ProgText, steps: list[tuple[int, int]]) -> list[str]:
    """The live registers after each step (slot, R10) as the digits of their numbers (a for R10)."""
    live = Liveness({prog.id: prog})
    places = [prog.id << 32 | slot for slot, _ in steps]
    out = []
    for index, (place, (_, fp)) in enumerate(zip(places, steps, strict=True)):
        following = places[index + 1] if index + 1 < len(places) else None
        mask = live.after(place, fp, following)
        out.append("".join("0123456789a"[n] for n in range(11) if mask >> n & 1))
    return out


def test_writes_come_alive_and_calls_kill() -> None:
    prog = prog_text("r6 = r1\nr2 = *(u32 *)(r1 +4)\n*(u64 *)(r10 -8) = r2\ncall 5\nr3 = 1 ll\nexit")
    steps = [(slot, FP) for slot in (0, 1, 2, 3, 4, 6)]
    assert masks(prog, steps) == ["16a", "126a", "126a", "06a", "036a", "036a"]


def test_atomic_operations_write_their_source_or_r0() -> None:
    prog = prog_text(
        "r2 = 1\nr2 = atomic64_fetch_add((u64 *)(r10 -8), r2)\n"
        "r3 = 1\nr0 = atomic64_cmpxchg((u64 *)(r10 -8), r0, r3)\nexit"
    )
    assert masks(prog, [(slot, FP) for slot in range(5)]) == ["12a", "12a", "123a", "0123a", "0123a"]


def test_a_callee_knows_its_arguments_only_and_gives_back_r0() -> None:
    prog = prog_text("r6 = 1\nr2 = 2\ncall pc+1\nexit\nr3 = 3\nr0 = 0\nexit")
    below = FP - 64
    steps = [(0, FP), (1, FP), (4, below), (5, below), (6, below), (2, FP), (3, FP)]
    assert masks(prog, steps) == ["16a", "126a", "123a", "0123a", "0123a", "06a", "06a"]


def test_a_callee_without_result_leaves_r0_dead() -> None:
    prog = prog_text("call pc+1\nexit\nr1 = 3\nexit")
    assert masks(prog, [(2, FP - 8), (3, FP - 8), (0, FP)]) == ["1a", "1a", "a"]


def test_tail_calls_by_what_comes_next() -> None:
    insns = (*assemble("r6 = 1\nr2 = 2"), Insn(op.TAIL_CALL), *assemble("r0 = 0\nexit"))
    prog = ProgText(1, "prog", insns, (Subprog(0, len(insns)),), frozenset(), {})
    assert masks(prog, [(0, FP), (1, FP), (2, FP), (3, FP)])[2:] == ["6a", "06a"]
    assert masks(prog, [(0, FP), (1, FP), (2, FP), (0, FP)])[2:] == ["1a", "16a"]


def recording(
    prog: ProgText, *executions: list[tuple[int, dict[int, int]]], complete: bool = True
) -> Recording:
    out = Recording({prog.id: prog})
    for steps in executions:
        execution = out.begin()
        for slot, values in steps:
            regs = tuple(values.get(n, FP if n == 10 else 0) for n in range(11))
            out.add(execution, Where(prog.id, slot), regs)
        execution.complete = complete
    return out


PROG = prog_text("r6 = 1\nif r6 == 1 goto pc+1\nr0 = 1\nr0 = 2\nexit")
GOOD: list[tuple[int, dict[int, int]]] = [(0, {6: 1}), (1, {6: 1}), (3, {6: 1, 0: 2}), (4, {6: 1, 0: 2})]


def first(comparison: Comparison) -> tuple[Kind, int, int, int | None]:
    found = comparison.difference
    assert found is not None
    return found.kind, found.execution, found.step, found.where.slot if found.where else None


def test_garbage_in_dead_registers_is_not_a_difference() -> None:
    noisy = [(slot, values | {7: 99}) for slot, values in GOOD]
    comparison = compare(recording(PROG, GOOD), recording(PROG, noisy))
    assert (comparison.agree, comparison.steps, comparison.executions) == (True, 4, 1)
    assert summary(comparison) == "4 instructions of 1 program runs agree"


@pytest.mark.parametrize("register", [0, 1, 6, 10])
def test_every_live_register_counts(register: int) -> None:
    other = [*GOOD[:2], (3, {6: 1, 0: 2, 10: FP} | {register: 7}), GOOD[3]]
    comparison = compare(recording(PROG, GOOD, GOOD), recording(PROG, GOOD, other))
    assert first(comparison) == (Kind.REGISTERS, 1, 2, 3)
    assert comparison.difference is not None
    assert comparison.difference.registers == (f"r{register}",)
    assert comparison.steps == 6


def test_another_way_is_blamed_on_the_branch() -> None:
    other = [*GOOD[:2], (2, {6: 1, 0: 1}), *GOOD[2:]]
    left, right = recording(PROG, GOOD), recording(PROG, other)
    comparison = compare(left, right)
    assert first(comparison) == (Kind.PATH, 0, 2, 1)
    assert comparison.difference is not None
    lines = explain(comparison.difference, left, right)
    assert "interpreter goes on at prog1 3: (b7) r0 = 2" in lines[1]
    assert "jit goes on at         prog1 2: (b7) r0 = 1" in lines[2]


def test_an_early_end_and_a_missing_run() -> None:
    short = recording(PROG, GOOD[:2], complete=False)
    assert first(compare(recording(PROG, GOOD), short)) == (Kind.END, 0, 2, 1)
    assert first(compare(recording(PROG, GOOD, GOOD), recording(PROG, GOOD))) == (Kind.COUNT, 1, 0, None)


def test_steps_lands_behind_slots_without_code() -> None:
    prog = prog_text("r1 = 1 ll\ngoto pc+0\nr0 = 0\nexit", frozenset({1, 2}))
    assert prog.next_slot(0) == 2
    assert prog.landing(2) == 3
    assert prog.line(2) == "2: (05) goto pc+0"
