# SPDX-License-Identifier: GPL-2.0-only
"""Two recorded traces part where the live comparison says, and are refused when they are not of one work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trace_machine import Tracer, load, poke

from sim import Machine
from sim.job.bundled import bundled_job
from sim.job.record import trace_frames
from sim.trace import Kind, Recording, compare
from sim.trace.compare_files import FileComparison, TraceMismatch, compare_files
from sim.trace.file import Packet, Trace, TraceHead, TraceReader, write_trace
from sim.userspace.bpf import Bpf


def trace_of(engine: str, *recordings: Recording) -> Trace:
    """A trace with a packet for each recording."""
    packets = [Packet(number, 64, 0, "pass", each.executions) for number, each in enumerate(recordings)]
    return Trace(TraceHead(engine, "made.o", "test", "test run", 0), recordings[0].programs, packets)


def compared(directory: Path, left: Trace, right: Trace) -> FileComparison:
    write_trace(directory / "left", left)
    write_trace(directory / "right", right)
    with TraceReader(directory / "left") as one, TraceReader(directory / "right") as other:
        return compare_files(one, other)


def test_both_engines_over_the_bundled_capture(tmp_path: Path) -> None:
    left, right = (trace_frames(bundled_job(), engine, range(20)) for engine in ("interpreter", "jit"))
    found = compared(tmp_path, left, right)
    assert found.agree
    assert (found.packets, found.packet) == (20, None)
    assert found.comparison.steps == left.recording().steps


def test_a_planted_difference_is_the_one_that_the_live_comparison_names(tmp_path: Path) -> None:
    with Machine.boot() as machine:
        process = machine.process()
        tracer = Tracer(machine, process, load(Bpf(process), "r6 = 1\nr7 = 5\nr7 += r6\nr0 = r7\nexit"))
        good, interpreted = tracer.record(jit=True), tracer.record(jit=False)
        poke(machine, "test", 1, b"\x05\x00\x00\x00", b"\x07\x00\x00\x00")
        # A snapshot holds the code, too.
        tracer.start = machine.snapshot()
        bad = tracer.record(jit=True)
    live = compare(interpreted, bad).difference
    assert live is not None
    for engine, reference in (("interpreter", interpreted), ("jit", good)):
        found = compared(tmp_path, trace_of(engine, reference, reference), trace_of("jit", good, bad))
        assert not found.agree
        assert found.packet == 1
        difference = found.comparison.difference
        assert difference is not None
        assert difference == replace(live, execution=1, interpreter=difference.interpreter)
        assert (difference.kind, difference.step) == (Kind.REGISTERS, 1)
        assert "(b7) r7 = 5" in found.explanation[0]
        names = ("interpreter", "jit") if engine == "interpreter" else ("/left", "/right")
        assert all(name in found.explanation[1] for name in names)


def test_other_verdicts_of_the_same_steps(tmp_path: Path) -> None:
    left = trace_frames(bundled_job(), "jit", range(2))
    right = replace(left, packets=[left.packets[0], replace(left.packets[1], verdict="drop")])
    found = compared(tmp_path, left, right)
    assert found.comparison.agree
    assert not found.agree
    assert len(found.verdicts) == 1
    assert found.verdicts[0].startswith("verdict of packet 1: ")


def refusal(directory: Path, left: Trace, right: Trace) -> str:
    with pytest.raises(TraceMismatch) as caught:
        compared(directory, left, right)
    return str(caught.value)


def test_other_packets_are_refused(tmp_path: Path) -> None:
    traces = [trace_frames(bundled_job(), "jit", numbers) for numbers in (range(2), range(1), range(1, 3))]
    assert refusal(tmp_path, traces[0], traces[1]) == (
        f"not the same packets: packet 1 of {traces[0].packets[1].length} bytes against none"
    )
    assert "packet 0 of" in refusal(tmp_path, traces[0], traces[2])


def test_other_programs_are_refused(tmp_path: Path) -> None:
    trace = trace_frames(bundled_job(), "jit", range(1))
    number, prog = next(iter(trace.programs.items()))

    def changed(**fields: object) -> Trace:
        return replace(trace, programs=trace.programs | {number: replace(prog, **fields)})  # type: ignore[arg-type]

    insns = (prog.insns[0]._replace(dst=7), *prog.insns[1:])
    said = refusal(tmp_path, trace, changed(insns=insns))
    assert said.startswith(
        f"program {prog.name} (id {number}) is not the same: '{prog.line(0)}' in one trace and "
    )
    assert "in one trace and other in the other" in refusal(tmp_path, trace, changed(name="other"))
    extra = replace(trace, programs=trace.programs | {99: replace(prog, id=99)})
    assert refusal(tmp_path, trace, extra) == f"program {prog.name} (id 99) is in the second trace only"
    assert refusal(tmp_path, extra, trace) == f"program {prog.name} (id 99) is in the first trace only"
