# SPDX-License-Identifier: GPL-2.0-only
"""From instructions to source lines, by the line information that the program was loaded with (.BTF.ext)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from kernel_model.verifier.api import ProgramSpec
from kernel_model.verifier.btfinfo import lines_of


@dataclass(frozen=True)
class SourceLine:
    """A line of C: ``column`` counts bytes from 1 (0: unknown), ``text`` is the line with its indentation."""

    file: str
    line: int
    column: int
    text: str

    @property
    def place(self) -> str:
        """``filter.c:27``."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"

    def same_line(self, other: SourceLine | None) -> bool:
        """Whether both are the same line, whatever their columns."""
        return other is not None and (self.file, self.line) == (other.file, other.line)


class Sources:
    """The source lines of one program; none when it was loaded without line information."""

    def __init__(self, spec: ProgramSpec) -> None:
        btf = spec.btf
        rows = sorted(lines_of(spec), key=lambda row: row.insn_off) if btf is not None else []
        self._starts = [row.insn_off for row in rows]
        self._lines: list[SourceLine] = []
        for row in rows:
            assert btf is not None
            name, text = btf.string(row.file_name_off), btf.string(row.line_off)
            line = SourceLine(name, row.line_col >> 10, row.line_col & 0x3FF, text.rstrip())
            # Line 0 is the compiler's word for instructions that belong to no line of their own.
            self._lines.append(self._lines[-1] if not line.line and self._lines else line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def at(self, slot: int) -> SourceLine | None:
        """The line that the instruction at ``slot`` was compiled from."""
        found = bisect_right(self._starts, slot) - 1
        return self._lines[found] if found >= 0 else None
