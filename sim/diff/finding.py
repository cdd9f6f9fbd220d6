# SPDX-License-Identifier: GPL-2.0-only
"""What a comparison found, as data: where the engines part, what led there, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..trace import REGISTERS, Comparison, Execution, Recording, Step, Where
from ..trace.live import Liveness
from ..trace.report import summary
from ..trace.x86 import MissingExtra, disassemble

HISTORY = 12
"""Steps before the first difference that are shown."""


class Ending(NamedTuple):
    """How a run ended: R0 (64 bits) and the memory, or the fault."""

    r0: int = 0
    memory: bytes = b""
    fault: str = ""


def ending_differences(interpreter: Ending, jit: Ending) -> list[str]:
    """What two endings do not have in common, a line each. The same fault in other words is none."""
    if interpreter.fault or jit.fault:
        if interpreter.fault and jit.fault:
            return []
        return [f"interpreter: {interpreter.fault or 'ends'}; jit: {jit.fault or 'ends'}"]
    found = []
    if interpreter.r0 != jit.r0:
        found.append(f"R0: interpreter {interpreter.r0:#x}, jit {jit.r0:#x}")
    if interpreter.memory != jit.memory:
        pairs = zip(interpreter.memory, jit.memory, strict=True)
        at, (here, there) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        found.append(f"memory, byte {at}: interpreter {here:#04x}, jit {there:#04x}")
    return found


class Line(NamedTuple):
    """A step of a history: its number, the instruction, the registers that it changed, the memory."""

    step: int
    where: Where
    text: str
    changed: dict[str, int]
    memory: str
    marked: bool


class Native(NamedTuple):
    """A machine instruction: address, bytes in hex, text ("" without a disassembler)."""

    addr: int
    code: str
    text: str


@dataclass
class Finding:
    """The comparison of one piece of work. ``ending`` are the differences in results, maps, packets."""

    name: str
    comparison: Comparison
    interpreter: Recording
    jit: Recording
    ending: list[str] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        """No instruction differs, and no result."""
        return self.comparison.agree and not self.ending

    @property
    def where(self) -> Where | None:
        """The first instruction after which the engines differ."""
        return self.comparison.difference.where if self.comparison.difference else None

    @property
    def counts(self) -> tuple[int, int]:
        """Instructions that ran on the interpreter and as machine code."""
        return self.interpreter.steps, self.jit.steps

    def headline(self) -> str:
        """One line: how far they agree, and what instruction parts them."""
        found = self.comparison.difference
        if found is None:
            return summary(self.comparison) + ("; results differ" if self.ending else "")
        text = f"{summary(self.comparison)}: {found.kind.value}"
        return f"{text}: {self.line(found.where)}" if found.where is not None else text

    def line(self, where: Where) -> str:
        """An instruction with its program's name."""
        recording = self.jit if where.prog in self.jit.programs else self.interpreter
        return f"{recording.programs[where.prog].name} {recording.line(where)}"

    def _pair(self) -> tuple[Execution | None, Execution | None, int]:
        found = self.comparison.difference
        if found is None:
            return None, None, 0
        sides = [
            each.executions[found.execution] if found.execution < len(each.executions) else None
            for each in (self.interpreter, self.jit)
        ]
        return sides[0], sides[1], found.step

    def histories(self, length: int = HISTORY) -> tuple[list[Line], list[Line]]:
        """The last steps of each engine up to the first difference, and one behind it; empty if none."""
        left, right, step = self._pair()
        return self._history(self.interpreter, left, step, length), self._history(
            self.jit, right, step, length
        )

    def _history(self, recording: Recording, run: Execution | None, step: int, length: int) -> list[Line]:
        if run is None:
            return []
        first = max(step - length, 0)
        lines = []
        for number, here, changed in changes(recording, run):
            if number > step + 1:
                break
            if number >= first:
                effect = run.effects.get(number)
                lines.append(
                    Line(
                        number,
                        here.where,
                        self.line(here.where),
                        changed,
                        str(effect) if effect is not None else "",
                        number == step,
                    )
                )
        return lines

    def before(self) -> Step | None:
        """The state before the first difference: the step in front of it, the same on both engines."""
        left, _, step = self._pair()
        return left[step - 1] if left is not None and 0 < step <= len(left) else None

    def native(self) -> list[Native]:
        """The machine code of the instruction where the engines part; bytes only without capstone."""
        where = self.where
        if where is None or where.prog not in self.jit.programs:
            return []
        prog = self.jit.programs[where.prog]
        number = prog.function_at(where.slot)
        if number >= len(prog.functions):
            return []
        function, start = prog.functions[number], prog.subprogs[number].start
        low, high = function.offs[where.slot - start], function.offs[where.slot - start + 1]
        code, addr = function.code[low:high], function.addr + low
        try:
            return [Native(line.addr, line.code.hex(" "), line.text) for line in disassemble(code, addr)]
        except MissingExtra:
            return [Native(addr, code.hex(" "), "")]

    def to_json(self) -> dict[str, Any]:
        """Everything, as ``--json`` prints it."""
        found = self.comparison.difference
        left, right = self.histories()
        before = self.before()
        return {
            "name": self.name,
            "agree": self.agree,
            "executions": self.comparison.executions,
            "instructions": {"interpreter": self.counts[0], "jit": self.counts[1]},
            "end": self.ending,
            "difference": None
            if found is None
            else {
                "kind": found.kind.name.lower(),
                "execution": found.execution,
                "step": found.step,
                "program_id": found.where.prog if found.where else None,
                "slot": found.where.slot if found.where else None,
                "text": self.line(found.where) if found.where else None,
                "registers": list(found.registers),
                "reason": found.reason,
                "before": _registers(before),
                "interpreter": _registers(found.interpreter),
                "jit": _registers(found.jit),
                "x86": [each._asdict() for each in self.native()],
                "history": {
                    "interpreter": [_line_json(line) for line in left],
                    "jit": [_line_json(line) for line in right],
                },
            },
        }


def _registers(step: Step | None) -> dict[str, str] | None:
    if step is None:
        return None
    return {name: f"{value:#x}" for name, value in zip(REGISTERS, step.regs, strict=True)}


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "step": line.step,
        "text": line.text,
        "changed": {name: f"{value:#x}" for name, value in line.changed.items()},
        "memory": line.memory,
    }


def changes(recording: Recording, run: Execution) -> Iterator[tuple[int, Step, dict[str, int]]]:
    """Each step with the live registers that are not as they were before it in the same frame."""
    live = Liveness(recording.programs)
    known: dict[int, dict[int, int]] = {}
    for number, step in enumerate(run):
        following = run.places[number + 1] if number + 1 < len(run) else None
        mask = live.after(run.places[number], step.regs[10], following)
        frame = known.get(step.regs[10], {})
        now = {reg: step.regs[reg] for reg in range(10) if mask >> reg & 1}
        changed = {REGISTERS[reg]: value for reg, value in now.items() if frame.get(reg) != value}
        known = {fp: regs for fp, regs in known.items() if fp >= step.regs[10]} | {step.regs[10]: now}
        yield number, step, changed
