# SPDX-License-Identifier: GPL-2.0-only
"""A rejection as the searches of its path see it, and what such a search finds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kernel_model.helpers.table import HELPERS
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.verifier.regs import (
    SCALAR_VALUE,
    Reg,
)

from .history import Event, History, Place
from .recorder import Recording
from .rule import Rule
from .source import Sources


@dataclass
class Case:
    """A rejection as the causes look at it. ``lines`` are the verifier's last words, the decisive one last;
    ``reg`` is the register that they name (-1: none)."""

    recording: Recording
    rule: Rule
    words: re.Match[str]
    lines: list[str]
    sources: Sources
    history: History
    reg: int = -1

    @property
    def insn(self) -> Insn:
        """The refused instruction."""
        return self.recording.insns[self.recording.insn]

    @property
    def has_path(self) -> bool:
        """The verifier was following a path when it stopped."""
        return bool(self.recording.path) and self.recording.insn >= 0

    def where(self, slot: int) -> str:
        """``line 18`` or ``instruction 7``: how sentences name an instruction."""
        line = self.sources.at(slot)
        return f"line {line.line}" if line is not None else f"instruction {slot}"


@dataclass
class Finding:
    """``cause``: sentences; ``events``, the latest first; ``slots``: instructions to point at, with words."""

    cause: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    slots: list[tuple[int, str]] = field(default_factory=list)
    title: str = ""
    fixes: tuple[str, ...] = ()


def nothing(case: Case) -> Finding:
    """The path says nothing about this."""
    return Finding()


def origin(case: Case) -> Finding:
    """Where the register comes from."""
    if not case.has_path or not 0 <= case.reg <= 10:
        return Finding()
    return Finding(events=case.history.trace(case.history.place(case.reg), case.history.last))


def _size_of(insn: Insn) -> int:
    return op.SIZE_BYTES[insn.code & 0x18]


def pointer_operand(case: Case) -> tuple[Place, Reg, int, int] | None:
    """The pointer that the instruction accesses memory through, with its offset and size in bytes."""
    insn, history = case.insn, case.history
    cls = insn.code & 7
    regs = history.path[-1].frames[-1].regs
    if cls == op.BPF_LDX:
        return history.place(insn.src), regs[insn.src], insn.off, _size_of(insn)
    if cls in (op.BPF_ST, op.BPF_STX):
        return history.place(insn.dst), regs[insn.dst], insn.off, _size_of(insn)
    if insn.code == op.CALL and case.reg > 0:
        regno = case.reg if regs[case.reg].type != SCALAR_VALUE else case.reg - 1
        if regno < 1:
            return None
        found = re.search(r"size=(\d+)", case.lines[0]) or re.search(r"size (\d+)", case.lines[-1])
        if found:
            return history.place(regno), regs[regno], 0, int(found[1])
    return None


def helper_arguments(insn: Insn) -> int:
    """How many arguments a helper call passes, by the helper's prototype."""
    row = HELPERS.get(insn.imm) if insn.src == 0 else None
    return len(row.proto.args) if row is not None and row.proto is not None else 5
