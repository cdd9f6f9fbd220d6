# SPDX-License-Identifier: GPL-2.0-only
"""Traces as Chrome trace events, which Perfetto, chrome://tracing and speedscope show.

The timeline counts instructions: one takes a microsecond there, whatever it is, so that the same trace
gives the same file. Each CPU is a thread. A packet is a slice, in it each program that ran for it, in that
each function and each kernel function called; a tail-called program stands beside the one that called it.
Stores are instants, instructions and verdicts counters. The simulated clock stands in the slices' arguments.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from kernel_model.isa import opcodes as op

from .file import Packet, TraceHead
from .record import Execution, ProgText
from .rows import Row, rows

Event = dict[str, Any]
_PID = 1
_STACK_BYTES = 512
_NO_CPU = 0
"""The thread of packets for which nothing ran."""
_MOST_NESTED = 8
"""Programs run by helpers of programs run by helpers; what goes deeper is shown one after the other."""


def write_events(
    out: IO[str], head: TraceHead, programs: Mapping[int, ProgText], packets: Iterable[Packet]
) -> int:
    """Write one JSON document in the object form of the format, packet by packet; how many events it has."""
    about = {"engine": head.engine, "object": head.object, "hook": head.hook, "seed": head.seed}
    out.write(f'{{"displayTimeUnit": "ns", "otherData": {json.dumps(about)},\n"traceEvents": [')
    count = 0
    for event in events(head, programs, packets):
        out.write((",\n" if count else "\n") + json.dumps(event))
        count += 1
    out.write("\n]}\n")
    return count


def events(head: TraceHead, programs: Mapping[int, ProgText], packets: Iterable[Packet]) -> Iterator[Event]:
    """The events, those of each packet in the order of time."""
    yield _meta("process_name", 0, f"{head.program} on {head.hook} ({head.engine})")
    timeline = _Timeline(programs)
    threads: set[int] = set()
    verdicts: Counter[str] = Counter()
    for packet in packets:
        for cpu in sorted(({each.cpu for each in packet.executions} or {_NO_CPU}) - threads):
            threads.add(cpu)
            yield _meta("thread_name", cpu, f"CPU {cpu}")
        verdicts[packet.verdict or "fault"] += 1
        start = timeline.now
        found = sorted(timeline.packet(packet), key=lambda event: (event["ts"], -event.get("dur", 0)))
        yield _counter("instructions", start, {"per packet": packet.steps})
        yield from found
        yield _counter("verdicts", timeline.now, dict(verdicts))


def _meta(name: str, tid: int, value: str) -> Event:
    return {"ph": "M", "name": name, "pid": _PID, "tid": tid, "ts": 0, "args": {"name": value}}


def _counter(name: str, at: int, values: Mapping[str, int]) -> Event:
    return {"ph": "C", "name": name, "pid": _PID, "tid": 0, "ts": at, "args": dict(values)}


def _slice(name: str, category: str, tid: int, start: int, end: int, args: Mapping[str, object]) -> Event:
    where = {"pid": _PID, "tid": tid, "ts": start, "dur": end - start}
    return {"ph": "X", "name": name, "cat": category, **where, "args": dict(args)}


@dataclass
class _Open:
    """A function that has not returned yet."""

    fp: int
    prog: int
    name: str
    start: int
    done: bool = False
    """It has made its last step: a step with the same R10 is another function's."""


@dataclass
class _Timeline:
    """Lays executions out one after the other; ``now`` is in instructions."""

    programs: Mapping[int, ProgText]
    now: int = 0
    _waiting: list[Execution] = field(default_factory=list)

    def packet(self, packet: Packet) -> Iterator[Event]:
        """All events of one packet but its counters."""
        start = self.now
        self._waiting = packet.executions[::-1]
        # Where the recording's count of steps is 0 on this timeline.
        shift = start - (packet.executions[0].began if packet.executions else 0)
        while self._waiting:
            yield from self._execution(self._waiting.pop(), shift, 0)
        if not packet.executions:
            # A slice that takes no time is not seen.
            self.now += 1
        name = f"packet {packet.number}: {packet.verdict or 'fault'}"
        args: dict[str, object] = {"bytes": packet.length, "clock_ns": packet.clock}
        if packet.fault:
            args["fault"] = packet.fault
        cpu = packet.executions[0].cpu if packet.executions else _NO_CPU
        yield _slice(name, "packet", cpu, start, max(self.now, start + 1), args)
        self.now = max(self.now, start + 1)

    def _execution(self, execution: Execution, shift: int, depth: int) -> Iterator[Event]:
        """One run of a program, with those that its helpers ran."""
        cpu, start, steps = execution.cpu, self.now, len(execution)
        frames: list[_Open] = []
        first = self.programs[execution.places[0] >> 32].name if steps else ""
        for row in rows(self.programs, execution):
            while self._waiting and depth < _MOST_NESTED and self._waiting[-1].began + shift <= self.now:
                yield from self._execution(self._waiting.pop(), shift, depth + 1)
            yield from self._frames(frames, row, cpu)
            yield from self._step(row, frames, cpu)
            tail_called = row.call is not None and bool(row.call.made)
            insn = self.programs[row.where.prog].insns[row.where.slot]
            frames[-1].done = tail_called or insn.code == op.EXIT
            self.now += 1
        while frames:
            yield self._close(frames.pop(), cpu)
        if steps:
            args: dict[str, object] = {"instructions": steps, "clock_ns": execution.clock}
            if execution.ended or execution.cut:
                args["ended"] = execution.ended or "too many steps to record"
            yield _slice(f"run {first}", "run", cpu, start, self.now, args)

    def _frames(self, frames: list[_Open], row: Row, cpu: int) -> Iterator[Event]:
        """Close what returned before this step, and open what it is the first step of."""
        known = any(frame.fp == row.fp and not frame.done for frame in frames)
        while frames and (frames[-1].done or (known and frames[-1].fp != row.fp)):
            yield self._close(frames.pop(), cpu)
        if not known:
            prog = self.programs[row.where.prog]
            number = prog.function_at(row.where.slot)
            name = prog.subprogs[number].name if number else prog.name
            frames.append(_Open(row.fp, prog.id, name or f"function {number}", self.now))

    def _close(self, frame: _Open, cpu: int) -> Event:
        return _slice(frame.name, "function", cpu, frame.start, self.now, {"program_id": frame.prog})

    def _step(self, row: Row, frames: Sequence[_Open], cpu: int) -> Iterator[Event]:
        line = self.programs[row.where.prog].line(row.where.slot)
        if row.call is not None:
            args: dict[str, object] = {"instruction": line}
            args |= {f"r{number}": f"{value:#x}" for number, value in enumerate(row.call.args, 1)}
            if row.call.result is not None:
                args["result"] = f"{row.call.result:#x}"
            if row.call.made is not None:
                args["made"] = row.call.made
            yield _slice(row.call.name, "call", cpu, self.now, self.now + 1, args)
        if row.effect is not None:
            stack = any(frame.fp - _STACK_BYTES <= row.effect.addr < frame.fp for frame in frames)
            yield {
                "ph": "i",
                "s": "t",
                "name": "store to stack" if stack else "store",
                "cat": "stack" if stack else "memory",
                "pid": _PID,
                "tid": cpu,
                "ts": self.now,
                "args": {"instruction": line, "memory": str(row.effect)},
            }
