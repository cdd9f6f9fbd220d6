# SPDX-License-Identifier: GPL-2.0-only
"""How ``bpfsim trace`` shows packets: as lines or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import printable
from .output import print_line

if TYPE_CHECKING:
    from sim.trace import ProgText
    from sim.trace.file import Packet
    from sim.trace.record import Execution
    from sim.trace.rows import Row
    from sim.trace.select import Selection

_TEXT = 44
"""Columns of an instruction's text."""


@dataclass(frozen=True)
class View:
    """What to show of packets, and how: ``source`` for lines of C, ``verbose`` for details of faults."""

    programs: Mapping[int, ProgText]
    selection: Selection
    source: bool = False
    verbose: bool = False

    def _rows(self, execution: Execution) -> Iterator[Row]:
        from sim.trace.rows import rows

        return (row for row in rows(self.programs, execution) if self.selection.takes(self.programs, row))

    def packet_json(self, packet: Packet) -> dict[str, Any]:
        """The packet as data."""
        return {
            "packet": packet.number,
            "verdict": packet.verdict or None,
            "executions": [[self._row_json(row) for row in self._rows(each)] for each in packet.executions],
            "fault": packet.fault or None,
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        prog = self.programs[row.where.prog]
        line = prog.source(row.where.slot)
        shown: dict[str, Any] = {
            "program": prog.name,
            "program_id": prog.id,
            "step": row.step,
            "slot": row.where.slot,
            "depth": row.depth,
            "text": prog.line(row.where.slot),
            "changed": {name: f"{value:#x}" for name, value in row.named().items()},
            "memory": None,
            "call": None,
            "source": None if line is None else {"file": line.file, "line": line.number, "text": line.text},
        }
        if row.effect is not None:
            shown["memory"] = {"addr": f"{row.effect.addr:#x}", "data": row.effect.data.hex()}
        if row.call is not None:
            shown["call"] = {
                "name": row.call.name,
                "args": [f"{value:#x}" for value in row.call.args],
                "result": None if row.call.result is None else f"{row.call.result:#x}",
                "made": row.call.made,
            }
        return shown

    def print_packet(self, packet: Packet, head: bool) -> None:
        """The packet as text; ``head``: with a line in front that says which one it is.

        One of several packets that has no step to show is left out.
        """
        shown = [(each, list(self._rows(each))) for each in packet.executions]
        if head:
            if not (self.selection.everything or packet.fault or any(found for _, found in shown)):
                return
            print_line(f"packet {packet.number}, {packet.length} bytes", "bold")
        for each, found in shown:
            self._print(each, found)
        if packet.verdict:
            print_line(f"verdict: {packet.verdict}")
        if packet.fault:
            print_line(" ".join(packet.fault.split()))
            if self.verbose and packet.details:
                print(printable(packet.details, "\n"))

    def _print(self, execution: Execution, shown: list[Row]) -> None:
        at: int | None = None
        before = None
        for row in shown:
            prog, slot = self.programs[row.where.prog], row.where.slot
            if row.where.prog != at:
                at = row.where.prog
                print_line(f"program {prog.name} (id {at})", "bold")
            indent = "  " + "  " * row.depth
            line = prog.source(slot) if self.source else None
            if line is not None and line is not before:
                print_line(f"{indent}; {line.file}:{line.number} {line.text.strip()}", "dim")
                before = line
            print_line(f"{indent}{self._line(prog, row)}".rstrip())
        if execution.ended or execution.cut:
            print_line(f"  ended: {execution.ended or 'too many steps to record'}")

    def _line(self, prog: ProgText, row: Row) -> str:
        if self.selection.calls and row.call is not None:
            return f"{row.where.slot}: {row.call}"
        notes = [f"{name}={value:#x}" for name, value in row.named().items()]
        if row.effect is not None:
            notes.append(str(row.effect))
        return f"{prog.line(row.where.slot):<{_TEXT}} {' '.join(notes)}"
