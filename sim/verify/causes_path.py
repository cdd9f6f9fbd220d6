# SPDX-License-Identifier: GPL-2.0-only
"""Searches about the path as a whole: references, loops, cost, stack, instructions that are named."""

from __future__ import annotations

import re

from kernel_model.isa import opcodes as op

from .case import Case, Finding
from .history import Place, held
from .words import plural


def reference(case: Case) -> Finding:
    """Where references were taken, and where their last copies were lost."""
    out = Finding()
    for line in case.lines:
        found = re.match(r"Unreleased reference id=(\d+) alloc_insn=(\d+)", line)
        if not found:
            continue
        ref, slot = int(found[1]), int(found[2])
        taken = case.history.text(_step_at(case, slot)) if case.has_path else f"instruction {slot}"
        out.slots.append((slot, f"{taken}: taken here (reference {ref})"))
        out.cause.append(f"The reference was taken at {case.where(slot)}.")
        lost = _last_holder(case, ref)
        if lost is not None:
            at, name = lost
            gone = case.history.path[at].at
            out.slots.append((gone, f"{name} was the last copy of the pointer"))
            out.cause.append(
                f"The last copy of the pointer, in {name}, is lost at {case.where(gone)}: from there on it "
                "cannot be given back."
            )
    branch = next(
        (at for at in range(case.history.last, -1, -1) if case.history.jumped(at) is not None), None
    )
    if branch is not None:
        slot = case.history.path[branch].at
        out.slots.append((slot, f"{case.history.condition(branch)}: the last decision on this path"))
    return out


def _step_at(case: Case, slot: int) -> int:
    return next((at for at, step in enumerate(case.history.path) if step.at == slot), case.history.last)


def _last_holder(case: Case, ref: int) -> tuple[int, str] | None:
    """The step that removed the last copy of a reference while it was still held; None: it still exists."""
    before: list[str] = []
    for at, step in enumerate(case.history.path):
        names = [
            place.name
            for number, frame in enumerate(step.frames)
            for place in (
                *(Place(number, i) for i in range(10)),
                *(Place(number, i, True) for i in range(len(frame.stack))),
            )
            if (reg := held(step, place)) is not None and reg.ref == ref
        ]
        if before and not names and any(item.id == ref for item in step.refs):
            return at - 1, before[-1]
        before = names
    return None


_NOT_CONDITIONAL = (op.BPF_JA, op.BPF_CALL, op.BPF_EXIT)


def loop(case: Case) -> Finding:
    """One round of the loop, and what changes in it."""
    out = Finding()
    if not case.has_path and not case.recording.path:
        return out
    path = case.history.path
    slot = int(case.words["slot"])
    visits = [at for at, step in enumerate(path) if step.at == slot]
    if not visits:
        return out
    begin = visits[-1]
    rounds = range(begin, len(path))
    for at in rounds:
        insn = case.history.insn(at)
        if insn.code & 7 in (op.BPF_JMP, op.BPF_JMP32) and insn.code & 0xF0 not in _NOT_CONDITIONAL:
            out.slots.append(
                (path[at].at, f"{case.history.text(at)}: decides whether there is another round")
            )
    slots = sorted({path[at].at for at in rounds})
    round_ = f"instructions {slots[0]} to {slots[-1]}" if len(slots) > 1 else f"instruction {slots[0]}"
    changing = _changing(case, begin)
    names = ", ".join(changing) or "no register"
    only = "only " if changing else ""
    out.cause.append(
        f"One round is {round_}; {only}{names} changes in it, and that brings its end no nearer."
    )
    return out


def _changing(case: Case, begin: int) -> list[str]:
    first, last = case.history.path[begin].frames[-1], case.history.path[-1].frames[-1]
    out = []
    for regno, (one, other) in enumerate(zip(first.regs, last.regs, strict=True)):
        if one is not other and not one.exactly(other):
            out.append(f"r{regno}")
    return out


def cost(case: Case) -> Finding:
    """The lines that most instructions went to."""
    counts = case.recording.stats.per_insn
    by_line: dict[str, tuple[int, int]] = {}
    for slot, count in enumerate(counts):
        if count:
            where = case.where(slot)
            before = by_line.get(where, (0, slot))
            by_line[where] = (before[0] + count, before[1])
    top = sorted(by_line.items(), key=lambda item: -item[1][0])[:5]
    total = sum(counts) or 1
    return Finding(
        slots=[
            (slot, f"{count} of {total} instructions ({100 * count // total} %)") for _, (count, slot) in top
        ]
    )


def depth(case: Case) -> Finding:
    """The stack of each function."""
    out = Finding()
    for sub in case.recording.subprogs:
        if sub.stack_depth:
            out.slots.append((sub.start, f"{sub.name}() uses {plural(sub.stack_depth, 'byte')}"))
    found = re.search(r"combined stack size of (\d+) calls is (\d+)", case.lines[-1])
    if found:
        out.title = (
            f"{found[1]} functions that call one another need {plural(int(found[2]), 'byte')} of stack"
        )
    return out


def slot_named(case: Case) -> Finding:
    """The instructions that the message names."""
    out = Finding()
    for name in ("slot", "slot2", "to"):
        group = case.words.groupdict().get(name)
        if group is not None and int(group) < len(case.recording.insns):
            out.slots.append((int(group), "named by the verifier"))
    return out
