# SPDX-License-Identifier: GPL-2.0-only
"""Exported traces keep the rules of Chrome's trace event format, and their slices are what happened."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from typing import Any

import pytest
from trace_machine import FRAME, Tracer, load_with_functions

from sim import Machine
from sim.job.bundled import bundled_job
from sim.job.record import trace_frames
from sim.trace import Execution, Recording, Where
from sim.trace.file import Packet, Trace, TraceHead
from sim.trace.perfetto import write_events
from sim.userspace.bpf import Bpf

HEAD = TraceHead("jit", "made.o", "test", "XDP on eth0", 0)
REQUIRED = {"X": {"dur", "cat"}, "i": {"s"}, "C": {"args"}, "M": {"args"}}


def export(trace: Trace) -> list[dict[str, Any]]:
    """The events of the written document, after a look at its form."""
    out = io.StringIO()
    count = write_events(out, trace.head, trace.programs, trace.packets)
    document = json.loads(out.getvalue())
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert len(document["traceEvents"]) == count
    check_rules(document["traceEvents"])
    events: list[dict[str, Any]] = document["traceEvents"]
    return events


def check_rules(events: list[dict[str, Any]]) -> None:
    """What the format asks of every event, and that the slices of a thread are nested."""
    threads = defaultdict(list)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    for event in events:
        assert {"ph", "name", "pid", "tid", "ts"} <= set(event)
        assert REQUIRED[event["ph"]] <= set(event)
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] > 0
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
    for (_, tid), slices in threads.items():
        assert tid in named or not slices
        ends: list[int] = []
        for start, end in sorted(slices, key=lambda span: (span[0], -span[1])):
            while ends and ends[-1] <= start:
                ends.pop()
            assert not ends or end <= ends[-1], "slices overlap without being nested"
            ends.append(end)


@pytest.mark.parametrize("engine", ["jit", "interpreter"])
def test_the_bundled_job(engine: str) -> None:
    trace = trace_frames(bundled_job(), engine, range(12))
    events = export(trace)
    slices = [event for event in events if event["ph"] == "X"]
    packets = [event for event in slices if event["cat"] == "packet"]
    assert [event["args"]["bytes"] for event in packets] == [packet.length for packet in trace.packets]
    assert packets[-1]["ts"] + packets[-1]["dur"] == trace.recording().steps
    assert sum(e["dur"] for e in slices if e["cat"] == "run") == trace.recording().steps
    names = {event["name"] for event in slices if event["cat"] == "function"}
    assert names == {"xdp_filter", "parse_ports", "account", "xdp_forward"}
    calls = [event for event in slices if event["name"] == "htab_map_update_elem"]
    assert calls
    assert all(event["args"].keys() >= {"r1", "r2", "r3", "r4", "result"} for event in calls)
    (jumps,) = {event["args"]["made"] for event in slices if event["name"] == "bpf_tail_call"}
    assert jumps is True
    stores = [event for event in events if event["ph"] == "i"]
    assert len(stores) == sum(len(e.effects) for packet in trace.packets for e in packet.executions)
    assert {event["cat"] for event in stores} == {"stack", "memory"}
    verdicts = [event["args"] for event in events if event["name"] == "verdicts"]
    assert sum(verdicts[-1].values()) == 12


def test_functions_are_inside_their_callers_for_as_long_as_they_run() -> None:
    text = "r6 = 1\ncall f\ncall f\nr0 = 2\nexit\nf:\nr0 = 7\nexit"
    with Machine.boot() as machine:
        process = machine.process()
        tracer = Tracer(machine, process, load_with_functions(Bpf(process), text, [0, 5], "test"))
        recording = tracer.record(jit=True)
    packet = Packet(0, len(FRAME), executions=recording.executions)
    slices = [e for e in export(Trace(HEAD, recording.programs, [packet])) if e.get("cat") == "function"]
    assert [(e["name"], e["ts"], e["dur"]) for e in slices] == [("test", 0, 9), ("f", 1, 2), ("f", 4, 2)]


def nested(trace: Trace, began: int) -> list[tuple[int, int]]:
    """Start and length of the runs, when the second began behind so many steps of the first."""
    (number,) = trace.programs
    runs = []
    for at in (0, began):
        run = Execution(complete=True, began=at)
        for slot in range(4):
            Recording().add(run, Where(number, slot), (*(0,) * 10, 4096 - at))
        runs.append(run)
    slices = export(Trace(HEAD, trace.programs, [Packet(0, 60, executions=runs)]))
    return [(e["ts"], e["dur"]) for e in slices if e.get("cat") == "run"]


def test_programs_that_helpers_run_are_inside_their_callers() -> None:
    with Machine.boot() as machine:
        process = machine.process()
        fd = load_with_functions(Bpf(process), "r6 = 1\nr6 += 1\nr0 = 2\nexit", [0], "test")
        trace = Trace(HEAD, Tracer(machine, process, fd).record(jit=False).programs)
    assert nested(trace, 2) == [(0, 8), (2, 4)]
    assert nested(trace, 4) == [(0, 4), (4, 4)]


def test_packets_for_which_nothing_ran() -> None:
    events = export(Trace(HEAD, {}, [Packet(3, 60, 5, "pass"), Packet(4, 60, 6, "", [], "it broke")]))
    slices = [event for event in events if event["ph"] == "X"]
    assert [(e["name"], e["ts"]) for e in slices] == [("packet 3: pass", 0), ("packet 4: fault", 1)]
    assert slices[1]["args"]["fault"] == "it broke"
