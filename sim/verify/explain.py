# SPDX-License-Identifier: GPL-2.0-only
"""A rejection in plain words: rule, instruction, registers, the way there, cause, fixes; as plain data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kernel_model.isa import opcodes as op
from kernel_model.isa.disasm import line as disasm_line
from kernel_model.isa.insn import Insn
from kernel_model.verifier.env import helper_name
from kernel_model.verifier.regs import SCALAR_VALUE

from .case import Case, Finding, helper_arguments
from .causes import SEARCHES
from .history import History
from .recorder import Phase, Recording
from .rule import Needs
from .rules import find_rule
from .source import SourceLine, Sources
from .words import reg_words

PATH_LINES = 8
"""Lines of the way to the rejection that are always shown, besides those that something is said about."""


@dataclass(frozen=True)
class Known:
    """A register that the instruction needs: what for, and what the verifier knows of it."""

    register: str
    role: str
    words: str


@dataclass(frozen=True)
class Mark:
    """Something said about one instruction of the path."""

    slot: int
    text: str


@dataclass(frozen=True)
class PathLine:
    """A source line (or, without line information, an instruction) on the way to the rejection.

    ``first`` and ``last`` are its slots there; ``skipped`` counts the lines left out before it.
    """

    source: SourceLine | None
    function: str
    first: int
    last: int
    marks: tuple[Mark, ...] = ()
    skipped: int = 0
    text: str = ""


@dataclass(frozen=True)
class Explanation:
    """Everything that is said about a rejection. ``slot`` is -1 when it is about no single instruction."""

    rule: str
    title: str
    message: str
    phase: str
    why: str
    slot: int = -1
    instruction: str = ""
    function: str = ""
    source: SourceLine | None = None
    cause: tuple[str, ...] = ()
    known: tuple[Known, ...] = ()
    path: tuple[PathLine, ...] = ()
    path_length: int = 0
    fixes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


_STATE = re.compile(
    r"^(\d+: |from \d+ to \d+|; |processed |verification time|stack depth|func#|\d+: \(|mark_precise)"
)


def last_words(log: str, message: str) -> list[str]:
    """The lines that the verifier wrote about the rejection, the decisive one last."""
    lines = log.splitlines()
    at = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].strip() == message), None)
    if at is None:
        return [message]
    first = at
    while first and not _STATE.match(lines[first - 1]) and lines[first - 1]:
        first -= 1
    return [text.strip() for text in lines[first : at + 1]]


def explain(recording: Recording, log: str) -> Explanation:
    """Explain the rejection that a recording ended with; ``log`` is the verifier's own text."""
    sources = Sources(recording.spec)
    rule, words = find_rule(recording.message)
    case = Case(recording, rule, words, last_words(log, recording.message), sources, History(recording))
    group = words.groupdict().get("reg")
    case.reg = int(group) if group is not None else _first_register(case)
    finding = SEARCHES[rule.focus](case)
    slot = _slot(case)
    sub = recording.subprog_of(slot) if slot >= 0 else None
    groups = {"type": recording.prog_type, "helper": _helper(case)}
    groups |= {name: text for name, text in words.groupdict().items() if text is not None}
    return Explanation(
        rule=rule.key,
        title=finding.title or _fill(rule.title, groups),
        message=recording.message,
        phase=recording.phase.value,
        why=rule.why,
        slot=slot,
        instruction=_instruction(recording.insns, slot),
        function=sub.name if sub is not None else "",
        source=sources.at(slot) if slot >= 0 else None,
        cause=tuple(finding.cause),
        known=tuple(_known(case)),
        path=tuple(_path(case, finding)),
        path_length=recording.dropped + len(recording.path) if case.has_path else 0,
        fixes=finding.fixes or tuple(_fill(text, groups) for text in rule.fixes),
    )


def _helper(case: Case) -> str:
    return (helper_name(case.insn) if case.has_path and case.insn.code == op.CALL else None) or "the helper"


def _fill(template: str, groups: dict[str, str]) -> str:
    # C code in the texts has braces of its own, so this is not str.format().
    return re.sub(r"\{(\w+)\}", lambda found: groups.get(found[1], found[0]), template)


def _instruction(insns: Sequence[Insn], slot: int) -> str:
    return disasm_line(insns, slot, helper_name) if 0 <= slot < len(insns) else ""


def _slot(case: Case) -> int:
    """The instruction that the rejection is about."""
    for name in ("slot", "slot2"):
        group = case.words.groupdict().get(name)
        if group is not None and int(group) < len(case.recording.insns):
            return int(group)
    return case.recording.insn if case.recording.phase is Phase.PATHS else -1


# ---- registers -------------------------------------------------------------------------------


def _first_register(case: Case) -> int:
    """A register to look at when the message names none: of the operands, one that is not constant."""
    if not case.has_path:
        return -1
    if case.rule.needs is Needs.RESULT:
        return 0
    regs = case.history.path[-1].frames[-1].regs
    operands = [regno for regno, _ in _operands(case.insn)]
    numbers = [regno for regno in operands if regs[regno].type == SCALAR_VALUE and not regs[regno].is_const]
    return next(iter(numbers or operands), -1)


def _operands(insn: Insn) -> list[tuple[int, str]]:
    """The registers that an instruction reads, and what for."""
    cls = insn.code & 7
    if cls == op.BPF_LDX:
        return [(insn.src, "address")]
    if cls == op.BPF_ST:
        return [(insn.dst, "address")]
    if cls == op.BPF_STX:
        return [(insn.dst, "address"), (insn.src, "value")]
    if cls in (op.BPF_ALU, op.BPF_ALU64):
        out = [] if insn.code & 0xF0 == op.BPF_MOV else [(insn.dst, "left side")]
        is_end = insn.code & 0xF0 == op.BPF_END
        return out + ([(insn.src, "right side")] if insn.code & 8 and not is_end else [])
    if cls in (op.BPF_JMP, op.BPF_JMP32):
        operation = insn.code & 0xF0
        if operation == op.BPF_EXIT:
            return [(0, "result")]
        if operation == op.BPF_CALL:
            return [(i, f"argument {i}") for i in range(1, 6)]
        if operation == op.BPF_JA:
            return []
        return [(insn.dst, "left side")] + ([(insn.src, "right side")] if insn.code & 8 else [])
    return []


def _known(case: Case) -> list[Known]:
    if not case.has_path or case.rule.needs is Needs.NONE:
        return []
    wanted = _operands(case.insn)
    roles = dict(wanted)
    if case.rule.needs is Needs.NAMED:
        # A size says nothing without the memory that it is the size of.
        is_size = case.insn.code == op.CALL and case.reg > 1 and case.rule.key.startswith("size-")
        registers = ([case.reg - 1] if is_size else []) + [case.reg]
    elif case.rule.needs is Needs.RESULT:
        registers = [0]
    else:
        registers = [regno for regno, _ in wanted]
        if case.insn.code == op.CALL:
            registers = registers[: helper_arguments(case.insn)]
    regs = case.history.path[-1].frames[-1].regs
    out: dict[int, Known] = {}
    for regno in registers:
        if 0 <= regno <= 10:
            out[regno] = Known(f"r{regno}", roles.get(regno, ""), reg_words(regs[regno]))
    return list(out.values())


# ---- the way there ---------------------------------------------------------------------------


def _marks(case: Case, finding: Finding) -> dict[int, list[Mark]]:
    """What is said about steps of the path, by step (or, off the path, by -1 - slot)."""
    out: dict[int, list[Mark]] = {}
    for event in reversed(finding.events):
        name = event.place.name
        text = event.text if event.text.startswith(f"{name} ") else f"{name}: {event.text}"
        out.setdefault(event.step, []).append(Mark(event.slot, text))
    path = case.recording.path
    for slot, text in finding.slots:
        steps = [at for at, step in enumerate(path) if step.at == slot] if case.has_path else []
        at = steps[-1] if steps else -1 - slot
        said = out.get(at, [])
        if not any(mark.slot == slot and text in mark.text for mark in said):
            out.setdefault(at, []).append(Mark(slot, text))
    return out


def _path(case: Case, finding: Finding) -> list[PathLine]:
    marks = _marks(case, finding)
    recording = case.recording
    off_path = [(-1 - at, found) for at, found in marks.items() if at < 0]
    out = [_line(case, slot, slot, found) for slot, found in off_path]
    if not case.has_path:
        return out
    groups = _groups(case)
    shown = [
        number
        for number, (begin, end) in enumerate(groups)
        if number >= len(groups) - PATH_LINES or any(begin <= at < end for at in marks)
    ]
    before = -1
    for number in shown:
        begin, end = groups[number]
        found = [mark for at in range(begin, end) for mark in marks.get(at, [])]
        slots = [recording.path[at].at for at in range(begin, end)]
        out.append(_line(case, slots[0], slots[-1], found, number - before - 1))
        before = number
    return out


def _line(case: Case, first: int, last: int, marks: list[Mark], skipped: int = 0) -> PathLine:
    sub = case.recording.subprog_of(first)
    text = "" if case.sources.at(first) is not None else _instruction(case.recording.insns, first)
    name = sub.name if sub is not None else ""
    return PathLine(case.sources.at(first), name, first, last, tuple(marks), skipped, text)


def _groups(case: Case) -> list[tuple[int, int]]:
    """The path's steps, those of one source line that follow each other together: (begin, end)."""
    out: list[tuple[int, int]] = []
    before: SourceLine | None = None
    for at, step in enumerate(case.recording.path):
        line = case.sources.at(step.at)
        if out and line is not None and line.same_line(before):
            out[-1] = (out[-1][0], at + 1)
        else:
            out.append((at, at + 1))
        before = line
    return out
