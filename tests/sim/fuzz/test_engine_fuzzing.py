# SPDX-License-Identifier: GPL-2.0-only
"""The fuzzer: what it generates, that the engines agree, and that it finds and shrinks planted faults."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_x86 import Compiler
from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import NativeImage, NativeRequest
from kernel_model.isa.table import TABLE, Origin, row_for
from sim.fuzz import campaign, part
from sim.fuzz.campaign import Campaign
from sim.fuzz.casefile import CaseError, read_case, write_case
from sim.fuzz.engines import ENGINES, Engines, Outcome, Result
from sim.fuzz.generator import CONSTANTS, IMMEDIATES, NOT_GENERATED, generate
from sim.fuzz.host import why_not
from sim.fuzz.part import Counts, Found, run_case
from sim.fuzz.program import PACKET, Kind, Program
from sim.fuzz.shrink import shrink, without


def test_same_numbers_same_program() -> None:
    assert generate(5, 17) == generate(5, 17)
    assert generate(5, 17) != generate(5, 18) != generate(6, 18)


def test_programs_cover_the_instruction_table() -> None:
    rows: Counter[str] = Counter()
    lengths, helpers, count = 0, 0, 2500
    for number in range(count):
        program = generate(0, number)
        rows.update(program.rows())
        lengths += program.count
        helpers += any(insn.code == op.CALL and insn.src == 0 for insn in program.insns)
    missing = {row.name for row in TABLE if row.origin is Origin.UAPI} - rows.keys()
    assert missing == NOT_GENERATED.keys()
    assert 25 <= lengths / count <= 35
    assert helpers / count >= 0.5


def test_edge_values_are_frequent() -> None:
    seen = Counter(
        insn.imm & 0xFFFF_FFFF
        for number in range(600)
        for insn in generate(1, number).insns
        if insn.code & 7 in (op.BPF_ALU, op.BPF_ALU64) and not insn.code & op.BPF_X
    )
    assert all(seen[value & 0xFFFF_FFFF] for value in IMMEDIATES)
    assert {2**31, 2**32 - 1, 2**63, 2**64 - 1} <= set(CONSTANTS)


def test_a_fixed_sample_agrees() -> None:
    report = Campaign(seed=0, count=250).run()
    assert report.programs == 250
    assert [found.text for found in report.found] == []
    assert report.accepted / report.programs > 0.95


# What a JIT with a bug would compile instead of the program; each instruction stays one of as many slots.
FAULTS: dict[str, Callable[[Insn], Insn]] = {
    "32-bit result not extended": lambda i: i._replace(code=0x0F) if i.code == 0x0C else i,
    "signed comparison as unsigned": lambda i: (
        i._replace(code=i.code & 0x0F | op.BPF_JGT) if i.code & 0xF7 == op.BPF_JMP | op.BPF_JSGT else i
    ),
    "arithmetic shift as logical": lambda i: (
        i._replace(code=i.code & 0x0F | op.BPF_RSH) if i.code & 0xF0 == op.BPF_ARSH and i.code & 7 == 7 else i
    ),
    "sign of an 8-bit immediate": lambda i: i._replace(imm=128) if (i.code, i.imm) == (0xA7, -128) else i,
    "wrong register": lambda i: i._replace(src=i.dst) if i.code == 0x1F else i,
    "store too narrow": lambda i: i._replace(code=0x63) if i.code == 0x7B and i.dst != 10 else i,
    "displacement past one byte": lambda i: (
        i._replace(off=i.off - 256) if i.code == 0x79 and i.off >= 128 else i
    ),
    "fetch result missing": lambda i: (
        i._replace(imm=op.BPF_ADD) if i.code in (0xDB, 0xC3) and i.imm == op.BPF_FETCH else i
    ),
    "byte swap too short": lambda i: i._replace(imm=16) if (i.code, i.imm) == (0xDC, 32) else i,
}


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Insn], Insn]) -> None:
    """Let the JIT compile each instruction as ``fault`` says."""
    compile_as_it_is = Compiler.compile

    def compile_wrongly(
        self: Compiler, request: NativeRequest, place: Callable[..., tuple[int, ...]]
    ) -> NativeImage:
        insns, out, constant = request.insns, [], False
        for insn in insns:
            out.append(insn if constant else fault(insn))
            constant = insn.code == op.LD_IMM64
        return compile_as_it_is(self, dataclasses.replace(request, insns=tuple(out)), place)

    monkeypatch.setattr(Compiler, "compile", compile_wrongly)


def touched(fault: Callable[[Insn], Insn], program: Program) -> bool:
    """Whether the program holds an instruction that is compiled wrongly."""
    return any(fault(insn) != insn for insn in program.insns)


@pytest.mark.parametrize("what", FAULTS)
def test_planted_faults_are_found_and_shrunk(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, FAULTS[what])
    with Engines(watchdog=0.2) as engines:
        for number in range(1500):
            program = generate(2, number)
            if not touched(FAULTS[what], program):
                continue
            if engines.run(program).differences:
                break
        else:
            pytest.fail("not found")
        small = shrink(program, lambda smaller: bool(engines.run(smaller).differences))
        assert engines.run(small).differences
        assert small.count <= 8
        assert touched(FAULTS[what], small)
        comparison, lines = engines.trace(small)
    # A wrong store shows in memory at the end; the trace may compare registers only.
    if what != "store too narrow":
        assert not comparison.agree
        assert lines
    assert read_case(write_case(small, "planted", 0, lines)) == small


def test_a_campaign_writes_a_case_that_repeats_the_difference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, FAULTS["wrong register"])
    report = Campaign(seed=2, count=100, out=tmp_path).run()
    assert report.found
    found = report.found[0]
    assert found.path is not None
    assert f"--seed 2 --start {found.number} --count 1" in found.path.read_text()
    program = read_case(found.path.read_text())
    assert program == found.program
    assert run_case(program)[0].differences == found.differences
    monkeypatch.undo()
    assert run_case(program)[0].differences == []


def test_an_interrupted_campaign_keeps_what_it_has() -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    report = Campaign(seed=0, count=500, progress=interrupt).run()
    assert report.interrupted
    assert report.programs == 32


def test_any_number_of_jobs_gives_the_same_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(campaign, "PART", 40)
    reports = []
    for jobs in (1, 2):
        report = Campaign(seed=4, count=100, start=30, out=tmp_path, jobs=jobs).run()
        report.seconds = 0.0
        reports.append(report)
    assert reports[0] == reports[1]
    assert reports[0].programs == 100


def test_an_interrupt_reaches_all_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "PART", 20)

    def interrupt(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    report = Campaign(seed=0, count=4000, progress=interrupt, jobs=2).run()
    assert report.interrupted
    assert 20 <= report.programs < 4000


def test_counts_of_parts_add_up() -> None:
    one, two = Counts(programs=3, accepted=2), Counts(programs=4, real_runs=1)
    one.refused["why"], two.refused["why"] = 1, 2
    two.found.append(Found(7, ["R0"], generate(0, 7)))
    one.add(two)
    assert (one.programs, one.accepted, one.real_runs, one.refused["why"]) == (7, 2, 1, 3)
    assert [found.number for found in one.found] == [7]


def test_only_the_first_differences_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, FAULTS["wrong register"])
    monkeypatch.setattr(campaign, "MAX_SHRUNK", 1)
    monkeypatch.setattr(part, "MAX_SHRUNK", 1)
    monkeypatch.setattr(campaign, "PART", 25)
    report = Campaign(seed=2, count=100).run()
    small, *others = report.found
    assert others
    assert small.program.count <= 8 < min(found.program.count for found in others)
    assert all(found.text.count("\n") > 5 for found in report.found)


def test_state_does_not_leak_from_program_to_program() -> None:
    with Engines() as engines:
        first = engines.run(generate(3, 0))
        for number in range(60):
            engines.run(generate(3, number))
        assert engines.run(generate(3, 0)) == first


def test_differences_in_words() -> None:
    one = Outcome(1, b"ab", b"", (((b"k", b"v"),), ()))
    two = Outcome(2, b"ac", b"", (((b"k", b"w"),), ((b"x", b"y"),)))
    assert Result({"interpreter": one, "jit": one}).differences == []
    assert Result({"interpreter": one, "jit": two}).differences == [
        "R0: interpreter 0x1, jit 0x2",
        "packet: byte 1: interpreter 0x62, jit 0x63",
        "map array: key 6b, byte 0: interpreter 0x76, jit 0x77",
        "map hash: keys: interpreter [], jit ['78']",
    ]
    assert Result({"jit": Outcome(0, b"", fault="page fault")}).differences == ["jit: page fault"]


@given(st.integers(0, 400), st.data())
def test_taking_instructions_out_keeps_where_jumps_lead(number: int, data: st.DataObject) -> None:
    program = generate(4, number)
    size = len(program.insns)
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    smaller = without(program, start, end)
    if smaller is None:
        return
    assert len(smaller.insns) < size
    for slot, insn in enumerate(smaller.insns):
        row = row_for(insn) if insn.code else None
        if row is not None and row.effect.name in ("BRANCH", "JUMP"):
            distance = insn.imm if row.name == "JMP32_JA" else insn.off
            assert 0 <= slot + 1 + distance <= len(smaller.insns)


def test_shrinking_leaves_what_matters() -> None:
    program = Program(Kind.XDP, tuple(assemble("r0 = 5\nr1 = 7 ll\nif r1 > 3 goto out\nr0 *= 3\nout:\nexit")))

    def multiplies(candidate: Program) -> bool:
        return any(insn.code == op.BPF_ALU64 | op.BPF_MUL for insn in candidate.insns)

    small = shrink(program, multiplies)
    assert [row_for(insn).name for insn in small.insns] == ["ALU64_MUL_K"]  # type: ignore[union-attr]


@pytest.mark.parametrize("number", range(40))
def test_case_files_hold_the_program(number: int) -> None:
    program = generate(6, number)
    assert read_case(write_case(program, "name", 1, ["a note"])) == program


@pytest.mark.parametrize(
    "text", ["", "=== x\nr0: 0\nexit\n", "# program type: kprobe\n=== x\n---\nexit\n", "=== x\n---\nfoo\n"]
)
def test_what_is_no_case(text: str) -> None:
    with pytest.raises(CaseError):
        read_case(text)


@pytest.mark.host_kernel
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_host_kernel_agrees() -> None:
    report = Campaign(seed=7, count=120, host=True).run()
    assert report.host_runs >= 60
    assert [found.text for found in report.found] == []


@pytest.mark.campaign
def test_hundred_thousand_programs_agree() -> None:
    report = Campaign(seed=1, count=100_000).run()
    assert [found.text for found in report.found] == []
    assert report.accepted / report.programs > 0.95
    assert report.uncovered.keys() == NOT_GENERATED.keys()


def test_packet_and_engines_are_what_programs_are_told() -> None:
    with Engines() as engines:
        text = "r2 = *(u32 *)(r1 +0)\nr3 = *(u32 *)(r1 +4)\nr0 = r3\nr0 -= r2\nexit"
        result = engines.run(Program(Kind.XDP, tuple(assemble(text))))
    assert {name: outcome.r0 for name, outcome in result.outcomes.items()} == dict.fromkeys(
        ENGINES, len(PACKET)
    )
