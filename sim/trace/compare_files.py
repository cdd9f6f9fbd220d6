# SPDX-License-Identifier: GPL-2.0-only
"""Comparing two recorded traces, packet by packet, so that neither has to fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from .compare import Comparison, Difference, compare
from .file import Packet, TraceReader
from .record import ProgText, Recording
from .report import explain


class TraceMismatch(Exception):
    """Two traces that cannot be compared, since they are not of the same work; says why."""


@dataclass(frozen=True)
class FileComparison:
    """The result. ``packet`` is the number of the packet in which the first difference lies (None: there is
    none), ``explanation`` says in lines what it is, ``verdicts`` which verdicts and faults differ.
    """

    comparison: Comparison
    packets: int
    packet: int | None
    explanation: tuple[str, ...]
    verdicts: tuple[str, ...]

    @property
    def agree(self) -> bool:
        return self.comparison.agree and not self.verdicts


def compare_files(left: TraceReader, right: TraceReader) -> FileComparison:
    """Compare two traces up to the first step that differs.

    Raises TraceMismatch when programs or packets are not the same, and TraceFileError.
    """
    check_same_programs(left.programs, right.programs)
    names = _names(left, right)
    packets = executions = steps = 0
    verdicts: list[str] = []
    for here, there in zip_longest(left.packets(), right.packets()):
        if here is None or there is None or (here.number, here.length) != (there.number, there.length):
            raise TraceMismatch(f"not the same packets: {_packet(here)} against {_packet(there)}")
        recordings = Recording(left.programs, here.executions), Recording(right.programs, there.executions)
        found = compare(*recordings)
        ends = tuple(packet.fault or packet.verdict or "none" for packet in (here, there))
        if ends[0] != ends[1] and not (here.fault and there.fault):
            verdicts.append(f"verdict of packet {here.number}: {names[0]} {ends[0]}, {names[1]} {ends[1]}")
        if found.difference is not None:
            moved: Difference = replace(found.difference, execution=executions + found.difference.execution)
            total = Comparison(executions + found.executions, steps + found.steps, moved)
            lines = tuple(explain(found.difference, *recordings, names))
            return FileComparison(total, packets, here.number, lines, tuple(verdicts))
        packets, executions, steps = packets + 1, executions + found.executions, steps + found.steps
    return FileComparison(Comparison(executions, steps), packets, None, (), tuple(verdicts))


def _names(left: TraceReader, right: TraceReader) -> tuple[str, str]:
    """How the sides are called: by engine, or by file when both are of one engine."""
    engines = left.head.engine, right.head.engine
    return engines if engines[0] != engines[1] else (left.path, right.path)


def _packet(packet: Packet | None) -> str:
    return "none" if packet is None else f"packet {packet.number} of {packet.length} bytes"


def check_same_programs(left: Mapping[int, ProgText], right: Mapping[int, ProgText]) -> None:
    """Raises TraceMismatch, which names the first instruction that is not the same."""
    for number in sorted(left.keys() | right.keys()):
        if number not in left or number not in right:
            prog = left.get(number) or right[number]
            side = "first" if number in left else "second"
            raise TraceMismatch(f"program {prog.name} (id {number}) is in the {side} trace only")
        here, there = left[number], right[number]
        if here.name != there.name:
            raise TraceMismatch(f"program {number} is {here.name} in one trace and {there.name} in the other")
        if here.insns == there.insns:
            continue
        pairs = zip(here.insns, there.insns, strict=False)
        slot = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
        if slot is None:
            cause = f"{len(here.insns)} and {len(there.insns)} slots long"
        else:
            cause = f"'{_line(here, slot)}' in one trace and '{_line(there, slot)}' in the other"
        raise TraceMismatch(f"program {here.name} (id {number}) is not the same: {cause}")


def _line(prog: ProgText, slot: int) -> str:
    """An instruction; a slot that holds the upper half of a constant belongs to the one before."""
    return prog.line(slot if prog.insns[slot].code else slot - 1)
