# SPDX-License-Identifier: GPL-2.0-only
"""Making a program that shows something as small as it gets: fewer instructions, simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_MOV64_IMM
from kernel_model.isa.table import Effect, Use, row_for

from .program import Program

MAX_TRIES = 4000
_PAIRS = 20
"""Slots up to which any two instructions are taken out together: a pointer's making and its use, say."""
Holds = Callable[[Program], bool]
"""Whether a smaller program still shows it: the verifier accepts it, and the engines part."""


def shrink(program: Program, holds: Holds, max_tries: int = MAX_TRIES) -> Program:
    """The smallest program found for which ``holds``; at least ``program`` itself, of which it is assumed.

    Runs of instructions are taken out, long ones first, jumps over them corrected; then instructions are
    replaced by constants and immediates by simple ones; again until nothing changes or ``max_tries``
    programs were tried.
    """
    tries = 0
    changed = True
    while changed:
        changed = False
        for candidate in _smaller(program):
            if tries >= max_tries:
                return program
            if not _loops_end(candidate):
                continue
            tries += 1
            if holds(candidate):
                program, changed = candidate, True
                break
    return program


def _loops_end(program: Program) -> bool:
    """Whether every backward branch still has its counter, begun at 0 and advanced right before.

    The verifier would follow a loop without one for a million instructions before it refuses.
    """
    for slot, insn in enumerate(program.insns):
        row = row_for(insn) if insn.code else None
        if row is None or row.effect not in (Effect.BRANCH, Effect.JUMP):
            continue
        if getattr(insn, _distance_field(insn)) >= 0:
            continue
        begin = slot + 1 + insn.off
        counter = insn.dst
        step = Insn(op.BPF_ALU64 | op.BPF_ADD, counter, 0, 0, 1)
        inside = program.insns[begin : slot - 1]
        if (
            begin < 1
            or slot < 1
            or program.insns[slot - 1] != step
            or program.insns[begin - 1] != BPF_MOV64_IMM(counter, 0)
            or insn.imm < 1
            or any(each.dst == counter for each in inside)
        ):
            return False
    return True


def _smaller(program: Program) -> Iterator[Program]:
    """Candidates, the boldest first."""
    count = len(program.insns)
    size = count // 2
    while size:
        for start in range(0, count, size if size > 2 else 1):
            smaller = without(program, start, min(start + size, count))
            if smaller is not None:
                yield smaller
        size //= 2
    yield from _simpler(program)
    if count <= _PAIRS:
        for second in range(count):
            for first in range(second):
                once = without(program, second, second + 1)
                twice = without(once, first, first + 1) if once is not None else None
                if twice is not None:
                    yield twice


def _simpler(program: Program) -> Iterator[Program]:
    insns = program.insns
    for slot, insn in enumerate(insns):
        row = row_for(insn) if insn.code else None
        if row is None:
            continue
        if insn.code == op.LD_IMM64 and insn.src == 0:
            for low in {insn.imm, 0, 1, -1}:
                # One slot instead of two.
                shorter = without(program, slot + 1, slot + 2)
                if shorter is not None:
                    yield _replaced(shorter, slot, BPF_MOV64_IMM(insn.dst, low))
        elif row.effect is Effect.CALL:
            yield _replaced(program, slot, BPF_MOV64_IMM(op.BPF_REG_0, 0))
        elif row.effect in (Effect.ALU, Effect.LOAD) and insn != BPF_MOV64_IMM(insn.dst, insn.imm):
            yield _replaced(program, slot, BPF_MOV64_IMM(insn.dst, 0))
            yield _replaced(program, slot, BPF_MOV64_IMM(insn.dst, -1))
        if row.imm is Use.VALUE and row.effect in (Effect.ALU, Effect.STORE, Effect.BRANCH):
            for imm in (0, 1, -1):
                if abs(imm) < abs(insn.imm):
                    yield _replaced(program, slot, insn._replace(imm=imm))


def _replaced(program: Program, slot: int, insn: Insn) -> Program:
    return Program(program.kind, (*program.insns[:slot], insn, *program.insns[slot + 1 :]))


def without(program: Program, start: int, end: int) -> Program | None:
    """The program without the slots from ``start`` to before ``end``; what jumped into them goes behind.

    Both slots of a constant go or stay, except that the second alone may go (the caller replaces the
    first). None when nothing would be left.
    """
    insns = program.insns
    if end < len(insns) and insns[end].code == 0:
        end += 1
    if insns[start].code == 0 and end != start + 1:
        start -= 1
    if end - start >= len(insns):
        return None

    def moved(slot: int) -> int:
        """Where an old slot lies now."""
        return slot if slot <= start else max(slot - (end - start), start)

    out = []
    for slot, insn in enumerate(insns):
        if start <= slot < end:
            continue
        name = _distance_field(insn)
        if name:
            target = slot + 1 + getattr(insn, name)
            insn = insn._replace(**{name: moved(target) - moved(slot) - 1})
        out.append(insn)
    return Program(program.kind, tuple(out))


def _distance_field(insn: Insn) -> str:
    """The field that holds a distance in slots, "" for most instructions."""
    if not insn.code:
        return ""
    if insn.code == op.LD_IMM64:
        return "imm" if insn.src == op.BPF_PSEUDO_FUNC else ""
    row = row_for(insn)
    if row is None:
        return ""
    return "off" if row.off is Use.JUMP else "imm" if row.imm is Use.JUMP else ""
