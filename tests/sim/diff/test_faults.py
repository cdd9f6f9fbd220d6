# SPDX-License-Identifier: GPL-2.0-only
"""Every planted JIT fault is found, and the first instruction that goes wrong is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults import FAULTS, MEMORY, Fault
from planted import Unused, planted

from kernel_model.errors import KernelError
from kernel_model.interpreter import BudgetSpent, InterpreterFault
from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.native import CpuFeatures
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim import GuestFault, Machine
from sim.diff.cases import Case
from sim.diff.raw import RawRunner
from sim.fuzz.program import Kind, Program
from sim.fuzz.shrink import shrink
from sim.trace import Comparison, InterpreterRecorder, JitRecorder, Recording, TraceFull, compare
from sim.userspace.bpf import Bpf

RAW = [fault for fault in FAULTS if not fault.tail]
TAIL = [fault for fault in FAULTS if fault.tail]
HEAD = 3
"""Slots in front of a case's own: they set R1 and R2."""
STEPS = 1000
SHRUNK = 8
"""As many instructions a program needs at most that shows a fault local to one instruction."""


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[bool, RawRunner]]:
    with RawRunner() as plain, RawRunner(features=CpuFeatures(bmi2=False)) as old:
        yield {True: plain, False: old}


def marked(program: str) -> tuple[str, int]:
    """The program without its mark, and the slot of the marked line."""
    slot = 0
    lines = [line for line in program.splitlines() if line.strip()]
    for line in lines:
        if line.lstrip().startswith("> "):
            return program.replace("> ", "", 1) if line == lines[0] else program.replace(
                "\n> ", "\n", 1
            ), slot
        body = line.split(": ", 1)[-1].strip()
        wide = body.endswith(" ll") or "map_fd(" in body
        slot += 0 if body.endswith(":") else 2 if wide else 1
    raise AssertionError("no line is marked")


def case_of(fault: Fault) -> tuple[Case, int]:
    text, slot = marked(fault.program)
    return Case(fault.name, tuple(assemble(text)), MEMORY), slot


def final_slot(origins: tuple[int, ...], slot: int) -> int:
    """Where an instruction went: of the several that fix-ups make of one, the last is itself."""
    return max(at for at, origin in enumerate(origins) if origin == slot)


def test_the_catalogue_is_large_and_its_names_are_unique() -> None:
    assert len(FAULTS) >= 60
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_documentation_has_the_figure() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trace-comparison.md").read_text()
    assert re.findall(r"\*\*(\d+) planted faults\*\*", page) == [str(len(FAULTS))]


@pytest.mark.parametrize("fault", RAW, ids=lambda fault: fault.name)
def test_fault_is_named(runners: dict[bool, RawRunner], fault: Fault) -> None:
    runner = runners[fault.bmi2]
    case, slot = case_of(fault)
    good = runner.run(case)
    assert good.agree, good.headline()
    with planted(fault.edits):
        finding = runner.run(case)
    assert finding.where is not None, "not detected"
    origins = runner.load(case).verified.orig_index
    assert finding.where.slot == final_slot(origins, HEAD + slot), finding.headline()
    assert finding.line(finding.where) in finding.headline()
    silent = finding.jit.programs[finding.where.prog].silent
    assert bool(finding.native()) == (finding.where.slot not in silent)


def tail_call_machine(machine: Machine, text: str) -> tuple[Bpf, int]:
    """The program loaded beside another, both in a program array."""
    bpf = Bpf(machine.process())
    array = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, name="jumps")
    xdp = bpf_prog_type.BPF_PROG_TYPE_XDP
    fd, _ = bpf.prog_load(xdp, assemble(text.replace("{array}", str(array))), name="first")
    other, _ = bpf.prog_load(xdp, assemble("r6 = 5\nr7 = 6\nr0 = r6\nr0 += r7\nexit"), name="other")
    for key, target in ((1, fd), (2, other)):
        bpf.map_update(array, key.to_bytes(4, "little"), target.to_bytes(4, "little"))
    return bpf, fd


def compared(machine: Machine, bpf: Bpf, fd: int) -> Comparison:
    recordings = []
    start = machine.snapshot()
    for recorder in (InterpreterRecorder, JitRecorder):
        machine.restore(start)
        machine.use_engine(recorder is JitRecorder)
        recordings.append(Recording(limit=STEPS))
        with (
            suppress(TraceFull, GuestFault, InterpreterFault, BudgetSpent),
            recorder(machine, recordings[-1]),
        ):
            Bpf(bpf.process).prog_test_run(fd, bytes(64))
    return compare(*recordings)


@pytest.mark.parametrize("fault", TAIL, ids=lambda fault: fault.name)
def test_tail_call_fault_is_named(fault: Fault) -> None:
    text, slot = marked(fault.program)
    with Machine.boot(nics=0) as machine:
        bpf, fd = tail_call_machine(machine, text)
        assert compared(machine, bpf, fd).agree
    with Machine.boot(nics=0) as machine:
        with planted(fault.edits):
            bpf, fd = tail_call_machine(machine, text)
        first = next(prog for prog in machine.kernel.progs if prog.name == "first")
        difference = compared(machine, bpf, fd).difference
        assert difference is not None, "not detected"
        assert difference.where == (first.id, final_slot(first.verified.orig_index, slot)), difference


def shows(runner: RawRunner, fault: Fault, program: Program) -> bool:
    """Whether a smaller program is sound, and differs by the fault alone."""
    insns = program.insns
    backwards = any(i.code & 7 in (5, 6) and i.off < 0 for i in insns)
    if not insns or insns[-1].code != op.EXIT or backwards:
        return False
    case = Case(fault.name, insns, MEMORY)
    try:
        if not runner.run(case).agree:
            return False
        with planted(fault.edits):
            return not runner.run(case).agree
    except (Unused, KernelError, ValueError, LookupError, AssertionError):
        return False


def shrunk(runner: RawRunner, fault: Fault) -> Program:
    case, _ = case_of(fault)
    return shrink(Program(Kind.XDP, case.insns), lambda smaller: shows(runner, fault, smaller), 600)


@pytest.mark.parametrize("fault", [RAW[0], RAW[len(RAW) // 2]], ids=lambda fault: fault.name)
def test_sample_is_shrunk(runners: dict[bool, RawRunner], fault: Fault) -> None:
    assert sum(insn.code != 0 for insn in shrunk(runners[fault.bmi2], fault).insns) <= SHRUNK


@pytest.mark.campaign
@pytest.mark.parametrize("fault", RAW, ids=lambda fault: fault.name)
def test_fault_is_shrunk(runners: dict[bool, RawRunner], fault: Fault) -> None:
    smallest = shrunk(runners[fault.bmi2], fault)
    assert shows(runners[fault.bmi2], fault, smallest)
    if "border" not in fault.name:
        assert sum(insn.code != 0 for insn in smallest.insns) <= SHRUNK
