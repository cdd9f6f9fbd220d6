# SPDX-License-Identifier: GPL-2.0-only
"""Functions that helpers call back run on the engine that runs the program, and are in its trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from trace_machine import Tracer, load_with_functions

from kernel_model.isa import opcodes as op
from kernel_model.uapi.enums import bpf_map_type
from sim import Machine
from sim.trace import Kind
from sim.userspace.bpf import Bpf


@dataclass(frozen=True)
class Case:
    """A program whose functions begin at ``starts``; what its second run returns, and the steps of a run."""

    name: str
    text: str
    starts: tuple[int, ...]
    retval: int
    steps: int


CASES = (
    Case(
        "for_each_map_elem over an array",
        """
        *(u64 *)(r10 - 8) = 0
        r1 = map_fd({array}, 0)
        r2 = func each
        r3 = r10
        r3 += -8
        r4 = 0
        call 164
        r6 = *(u64 *)(r10 - 8)
        r0 += r6
        exit
        each:
        r6 = *(u32 *)(r2 + 0)
        r7 = *(u64 *)(r3 + 0)
        r6 += r7
        r7 = *(u64 *)(r4 + 0)
        r6 += r7
        *(u64 *)(r4 + 0) = r6
        *(u64 *)(r3 + 0) = r6
        *(u64 *)(r10 - 16) = r3
        r0 = 0
        exit
        """,
        (0, 12),
        3 + (0 + 2 + 5),
        10 + 3 * 10,
    ),
    Case(
        # The loop in the program saves R6-R8, which this program never writes.
        "bpf_loop as a loop in the program",
        """
        *(u64 *)(r10 - 8) = 0
        r1 = 3
        r2 = func one
        r3 = r10
        r3 += -8
        r4 = 0
        call 181
        r1 = *(u64 *)(r10 - 8)
        r0 <<= 8
        r0 |= r1
        exit
        one:
        *(u64 *)(r2 + 0) = r1
        r0 = 0
        exit
        """,
        (0, 12),
        0x302,
        6 + 7 + 3 * (3 + 6) + 1 + 1 + 3 + 4,
    ),
    Case(
        # Two callbacks for one call, or the verifier would put the loop into the program itself.
        "bpf_loop with one of two callbacks",
        """
        *(u64 *)(r10 - 8) = 0
        r0 = *(u32 *)(r1 + 12)
        r1 = 4
        r2 = func one
        if r0 s< 70000 goto pc+2
        r2 = func two
        r3 = r10
        r3 += -8
        r4 = 0
        call 181
        r6 = *(u64 *)(r10 - 8)
        r0 <<= 8
        r0 |= r6
        exit
        one:
        r1 += 1
        *(u64 *)(r2 + 0) = r1
        r0 = 0
        if r1 != 3 goto pc+1
        r0 = 1
        exit
        two:
        r0 = 1
        exit
        """,
        (0, 16, 22),
        0x303,
        15 + 5 + 5 + 6,
    ),
    Case(
        "a callback that stops, calls a function and a helper",
        """
        r1 = map_fd({array}, 0)
        r2 = func each
        r3 = r10
        *(u64 *)(r10 - 8) = 7
        r3 += -8
        r4 = 0
        call 164
        exit
        each:
        r6 = r4
        r1 = *(u32 *)(r2 + 0)
        call other
        r7 = r0
        call 8
        r0 += r7
        *(u64 *)(r6 + 0) = r0
        r0 = 1
        exit
        other:
        *(u64 *)(r10 - 8) = r1
        r0 = *(u64 *)(r10 - 8)
        exit
        """,
        (0, 10, 19),
        1,
        8 + 11 + 3,
    ),
    Case(
        "for_each_map_elem inside a callback",
        """
        *(u64 *)(r10 - 8) = 0
        r1 = map_fd({array}, 0)
        r2 = func outer
        r3 = r10
        r3 += -8
        r4 = 0
        call 164
        r0 = *(u64 *)(r10 - 8)
        exit
        outer:
        r3 = r4
        r1 = map_fd({array}, 0)
        r2 = func inner
        r4 = 0
        call 164
        r0 = 0
        exit
        inner:
        r1 = *(u64 *)(r4 + 0)
        r1 += 1
        *(u64 *)(r4 + 0) = r1
        r0 = 0
        exit
        """,
        (0, 11, 20),
        9,
        9 + 3 * (7 + 3 * 5),
    ),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot(nics=0) as booted:
        yield booted


def tracer(machine: Machine, text: str, starts: tuple[int, ...]) -> Tracer:
    process = machine.process()
    bpf = Bpf(process)
    array = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 8, 3)
    fd = load_with_functions(bpf, text.format(array=array), list(starts), "callbacks")
    return Tracer(machine, process, fd)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_engines_take_the_same_steps(machine: Machine, case: Case) -> None:
    traced = tracer(machine, case.text, case.starts)
    found = traced.compare(times=2)
    assert found.agree, found.difference
    assert (found.executions, found.steps) == (2, 2 * case.steps)
    assert traced.retval == case.retval
    executions = traced.recording.executions
    assert all(each.complete and not each.broken for each in executions)


def test_the_interpreter_runs_callbacks_itself(machine: Machine) -> None:
    """Machine code that is wrong in a callback is no business of the interpreter's, and is found."""
    case = CASES[0]
    traced = tracer(machine, case.text, case.starts)
    prog = max(machine.kernel.progs, key=lambda each: each.id)
    assert prog.image is not None and prog.callbacks == (1,)
    function = prog.image.functions[1]
    load = op.BPF_LDX | op.BPF_MEM | op.BPF_DW
    slot = next(at for at in range(12, 22) if prog.verified.insns[at].code == load)
    at = function.addr + function.insn_offs[slot - 12]
    before = machine.kernel.memory.read(at, 3)
    machine.kernel.text.poke(at, before[:1] + b"\x8d" + before[2:])
    traced.start = machine.snapshot()
    found = traced.compare()
    assert found.difference is not None and found.difference.kind is Kind.REGISTERS
    assert found.difference.where is not None and found.difference.where.slot == slot
    assert found.difference.registers == ("r7",)
    traced.record(jit=False)
    assert traced.retval == 3 + (0 + 1 + 2)


def test_entries_are_as_before_a_run(machine: Machine) -> None:
    case = CASES[0]
    traced = tracer(machine, case.text, case.starts)
    prog = max(machine.kernel.progs, key=lambda each: each.id)
    assert prog.image is not None
    function = prog.image.functions[1]
    traced.record(jit=False)
    assert machine.kernel.memory.read(function.addr, len(function.code)) == function.code
    with pytest.raises(RuntimeError, match="outside"):
        machine.kernel.runtime._interpreter.call_back(prog.program(), 1, (), 0)
