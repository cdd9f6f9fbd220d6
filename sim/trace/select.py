# SPDX-License-Identifier: GPL-2.0-only
"""Choosing steps of a trace: by program, place, source line, register, and kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .record import ProgText
from .rows import Row


class Span(NamedTuple):
    """Numbers from ``first`` to ``last``, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Span:
        """``7``, ``3..9``, ``3..`` or ``..9``; ValueError for anything else."""
        low, dots, high = text.partition("..")
        if not dots:
            high = low
            if not low:
                raise ValueError(f"'{text}' names no numbers")
        numbers = [int(part) for part in (low or "0", high or str(_NO_END)) if part.isdecimal()]
        if len(numbers) != 2 or numbers[0] > numbers[1]:
            raise ValueError(f"'{text}' names no numbers")
        return cls(*numbers)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.first <= number <= self.last


_NO_END = 1 << 62


class SourceSpan(NamedTuple):
    """Lines of a file: the end of its path ("" for any file), and the numbers."""

    file: str
    span: Span

    @classmethod
    def parse(cls, text: str) -> SourceSpan:
        """``file.c:10``, ``file.c:10..20`` or ``10..20``; ValueError for anything else."""
        file, _, span = text.rpartition(":")
        return cls(file, Span.parse(span))


@dataclass(frozen=True)
class Selection:
    """Which steps to show. Empty fields choose nothing away; a step must pass all of the others.

    ``programs`` are names of programs or of functions in them, ``registers`` numbers of which one must have
    a new value; ``calls`` (of kernel functions) and ``effects`` (stores) together mean either.
    """

    programs: tuple[str, ...] = ()
    slots: tuple[Span, ...] = ()
    lines: tuple[SourceSpan, ...] = ()
    registers: tuple[int, ...] = ()
    calls: bool = False
    effects: bool = False

    @property
    def everything(self) -> bool:
        """Nothing is left out."""
        return self == Selection()

    def takes(self, programs: Mapping[int, ProgText], row: Row) -> bool:
        """Whether the step is to be shown."""
        prog, slot = programs[row.where.prog], row.where.slot
        if self.programs and not any(
            name in (prog.name, prog.subprogs[prog.function_at(slot)].name) for name in self.programs
        ):
            return False
        if self.slots and not any(slot in span for span in self.slots):
            return False
        if self.lines:
            line = prog.source(slot)
            if line is None or not any(
                _is_file(line.file, wanted.file) and line.number in wanted.span for wanted in self.lines
            ):
                return False
        if self.registers and not any(number in row.changed for number in self.registers):
            return False
        if not (self.calls or self.effects):
            return True
        return (self.calls and row.call is not None) or (self.effects and row.effect is not None)


def _is_file(path: str, wanted: str) -> bool:
    """Whether ``wanted`` is the path or whole last parts of it."""
    return not wanted or f"/{path}".endswith(f"/{wanted}")
