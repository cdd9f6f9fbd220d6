# SPDX-License-Identifier: GPL-2.0-only
"""Traces of both engines agree on every kind of control flow, and a planted difference is found and named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_machine import FRAME, Tracer, load, load_with_functions, poke

from kernel_model.uapi.enums import bpf_map_type
from sim import GuestFault, Machine
from sim.process import Process
from sim.trace import InterpreterRecorder, JitRecorder, Kind, Recording, TraceFull, Where, compare
from sim.trace.report import explain
from sim.userspace.bpf import Bpf

BRANCHES = """
    r6 = 0
    r7 = 3
loop:
    r6 += r7
    r7 += -1
    if r7 != 0 goto loop
    r0 = r6
    exit
"""
CALLS = """
    r6 = 7
    r1 = 2
    r2 = 40
    call adder
    call counter
    r0 += r6
    exit
adder:
    r0 = r1
    r6 = r2
    r0 += r6
    exit
counter:
    *(u64 *)(r10 -8) = 1
    call smp_id
    r0 = *(u64 *)(r10 -8)
    exit
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine.boot() as booted:
        yield booted


@pytest.fixture
def process(machine: Machine) -> Process:
    return machine.process()


def slots(recording: Recording, execution: int = 0) -> list[int]:
    return [step.where.slot for step in recording.executions[execution]]


def test_steps_are_the_instructions_in_order_with_the_registers_after_them(
    machine: Machine, process: Process
) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), BRANCHES))
    for jit in (False, True):
        recording = tracer.record(jit)
        assert tracer.retval == 6
        assert slots(recording) == [0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 6]
        assert [step.regs[6] for step in recording.executions[0]] == [0, 0, *[3] * 3, *[5] * 3, *[6] * 5]
        assert recording.executions[0].complete
    assert recording.line(Where(1, 4)) == "4: (55) if r7 != 0x0 goto pc-3"


def test_a_call_is_listed_after_its_callee(machine: Machine, process: Process) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), CALLS))
    comparison = tracer.compare(times=3)
    assert comparison.agree
    assert comparison.executions == 3
    program = tracer.recording.programs[1]
    order = slots(tracer.recording)
    first_call = order.index(3)
    entered = program.subprogs[1].start
    assert order[:3] == [0, 1, 2]
    assert order[3] == entered
    assert order[first_call - 1] > entered
    # The frames of callees lie below: R10 tells them apart.
    fps = [step.regs[10] for step in tracer.recording.executions[0]]
    assert fps[0] == fps[first_call] > fps[3]


def test_dead_registers_differ_and_are_not_compared(machine: Machine, process: Process) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), CALLS))
    interpreter, jit = tracer.record(jit=False), tracer.record(jit=True)
    assert compare(interpreter, jit).agree
    raw = [
        (left.regs, right.regs)
        for left, right in zip(interpreter.executions[0], jit.executions[0], strict=True)
        if left.regs != right.regs
    ]
    assert raw, "without masks the engines would not agree: R9 is never written"


def test_tail_calls_up_to_the_limit_agree(machine: Machine, process: Process) -> None:
    bpf = Bpf(process)
    array = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 2, name="jumps")
    counter = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 8, 1, name="counter")
    text = f"""
        r6 = r1
        *(u32 *)(r10 -4) = 0
        r2 = r10
        r2 += -4
        r1 = map_fd({counter}, 0)
        call lookup
        if r0 == 0 goto out
        r3 = *(u64 *)(r0 +0)
        r3 += 1
        *(u64 *)(r0 +0) = r3
        r7 = 99
        r1 = r6
        r2 = map_fd({array}, 0)
        r3 = 1
        call tail_call
        r7 += 1
        r0 = r7
        exit
    out:
        r0 = 0
        exit
    """
    fd = load(bpf, text, "again")
    bpf.map_update(array, (1).to_bytes(4, "little"), fd.to_bytes(4, "little"))
    tracer = Tracer(machine, process, fd)
    assert tracer.compare().agree
    # 33 tail calls are made, the 34th falls through.
    order = slots(tracer.recording)
    assert order.count(0) == 34
    assert tracer.retval == 100
    assert len(tracer.recording.executions) == 1


def test_a_tail_call_inside_a_function_returns_to_the_caller(machine: Machine, process: Process) -> None:
    bpf = Bpf(process)
    array = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1, name="jumps")
    target = load(bpf, "r6 = 5\nr0 = r6\nexit", "target")
    caller = load_with_functions(
        bpf,
        f"""
        r6 = 37
        call jump
        r0 += r6
        exit
    jump:
        r2 = map_fd({array}, 0)
        r3 = 0
        call tail_call
        r0 = 0
        exit
        """,
        [0, 4],
        "caller",
    )
    bpf.map_update(array, bytes(4), target.to_bytes(4, "little"))
    tracer = Tracer(machine, process, caller)
    assert tracer.compare(times=2).agree
    assert tracer.retval == 42
    programs = [tracer.recording.programs[step.where.prog].name for step in tracer.recording.executions[1]]
    assert programs == ["caller"] * 4 + ["target"] * 3 + ["caller"] * 3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["+=", "-=", "*=", "|=", "&=", "^=", "<<=", ">>=", "s>>="]),
            st.sampled_from("rw"),
            st.integers(0, 9),
            st.one_of(st.integers(0, 9), st.integers(-(2**31), 2**31 - 1).map(str)),
        ),
        max_size=20,
    )
)
def test_random_arithmetic_agrees(ops: list[tuple[str, str, int, int | str]]) -> None:
    lines = [f"r{n} = {0x9E3779B97F4A7C15 * (n + 1) & (2**64 - 1):#x} ll" for n in range(10)]
    for sign, width, dst, src in ops:
        shift = sign in ("<<=", ">>=", "s>>=")
        source = str(int(src) & 31) if isinstance(src, str) and shift else src
        lines.append(f"{width}{dst} {sign} {source if isinstance(source, str) else f'{width}{source}'}")
    with Machine.boot(nics=0) as machine:
        process = machine.process()
        tracer = Tracer(machine, process, load(Bpf(process), "\n".join([*lines, "exit"])))
        comparison = tracer.compare()
        assert comparison.agree
        assert comparison.steps == 10 + len(ops) + 1


PLANTED = {
    "a wrong constant": (
        "r6 = 1\nr7 = 5\nr7 += r6\nr0 = r7\nexit",
        1,
        (b"\x05\x00\x00\x00", b"\x07\x00\x00\x00"),
        (Kind.REGISTERS, ("r7",)),
    ),
    "a wrong register": (
        "r6 = 1\nr7 = 5\nr7 += r6\nr0 = r7\nexit",
        2,
        (b"\x49\x01\xdd", b"\x4d\x01\xed"),
        (Kind.REGISTERS, ("r7",)),
    ),
    # The branch looks at the receive queue's number, which the verifier does not know.
    "a branch the wrong way": (
        "r6 = *(u32 *)(r1 +16)\nr0 = 1\nif r6 == 77 goto pc+1\nr0 = 2\nexit",
        2,
        (b"\x74", b"\x75"),
        (Kind.PATH, ()),
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_difference_is_named(machine: Machine, process: Process, what: str) -> None:
    text, loaded_slot, (old, new), expected = PLANTED[what]
    fd = load(Bpf(process), text)
    # Fix-ups make several instructions of one; the last of them is what was written.
    origins = next(iter(machine.kernel.progs)).verified.orig_index
    slot = max(at for at, origin in enumerate(origins) if origin == loaded_slot)
    poke(machine, "test", slot, old, new)
    tracer = Tracer(machine, process, fd)
    interpreter, jit = tracer.record(jit=False), tracer.record(jit=True)
    difference = compare(interpreter, jit).difference
    assert difference is not None
    assert (difference.kind, difference.registers) == expected
    assert difference.where == Where(1, slot)
    lines = explain(difference, interpreter, jit)
    assert f"instruction {interpreter.line(difference.where)}" in lines[0]
    bpf, x86 = lines.index("BPF:"), lines.index("x86:")
    assert [line for line in lines[bpf:x86] if line.startswith(" > ")] == [
        f" > {interpreter.line(Where(1, slot))}"
    ]
    assert [line for line in lines[x86:] if line.startswith(" > ")]


def test_machine_code_that_faults_is_named(machine: Machine, process: Process) -> None:
    fd = load(Bpf(process), "r6 = 1\nr6 += 2\nr0 = r6\nexit")
    poke(machine, "test", 1, b"\x48\x83", b"\x0f\x0b")
    tracer = Tracer(machine, process, fd)
    interpreter = tracer.record(jit=False)
    with pytest.raises(GuestFault, match="invalid opcode"):
        tracer.record(jit=True)
    difference = compare(interpreter, tracer.recording).difference
    assert difference is not None
    assert (difference.kind, difference.where) == (Kind.END, Where(1, 1))
    assert "invalid opcode" in difference.reason


def test_a_full_recording_stops_the_run_and_compares_as_far_as_it_goes(
    machine: Machine, process: Process
) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), BRANCHES))
    recordings = []
    for jit in (False, True):
        with pytest.raises(TraceFull):
            tracer.record(jit, times=5, limit=20)
        recordings.append(tracer.recording)
    assert [len(each) for each in recordings[0].executions] == [13, 7]
    comparison = compare(*recordings)
    assert comparison.agree
    assert comparison.steps == 20


def test_recording_leaves_no_observer_behind(machine: Machine, process: Process) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), BRANCHES))
    hooks = set(machine.cpu._raw._kept)
    first = tracer.record(jit=True)
    assert set(machine.cpu._raw._kept) == hooks
    tracer.record(jit=False)
    assert machine.kernel.runtime.observer is None
    machine.restore(tracer.start)
    machine.use_engine(jit=True)
    Bpf(process).prog_test_run(tracer.fd, FRAME)
    assert len(first.executions) == 1


def test_watching_changes_nothing(machine: Machine, process: Process) -> None:
    tracer = Tracer(machine, process, load(Bpf(process), CALLS))
    clocks = []
    for recorder in (None, JitRecorder, InterpreterRecorder):
        machine.restore(tracer.start)
        machine.use_engine(recorder is not InterpreterRecorder)
        if recorder is None:
            run = Bpf(process).prog_test_run(tracer.fd, FRAME, repeat=2)
        else:
            with recorder(machine, Recording()):
                run = Bpf(process).prog_test_run(tracer.fd, FRAME, repeat=2)
        clocks.append((run, machine.clock.now()))
    assert clocks[0] == clocks[1] == clocks[2]
