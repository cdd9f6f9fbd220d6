# SPDX-License-Identifier: GPL-2.0-only
"""A difference between the engines as text for people: what, where, and the code around it."""

from __future__ import annotations

from .compare import Comparison, Difference, Kind
from .record import REGISTERS, Recording, Step, Where
from .x86 import MissingExtra, disassemble

_AROUND = 3
_GOES_ON = " goes on at"
_COLUMN = 18
"""Characters of a 64-bit number."""


def summary(comparison: Comparison) -> str:
    """One line: how far the engines agree."""
    if comparison.agree:
        return f"{comparison.steps} instructions of {comparison.executions} program runs agree"
    found = comparison.difference
    assert found is not None
    return f"{comparison.steps} instructions agree, then run {found.execution} parts at step {found.step}"


def explain(
    difference: Difference,
    interpreter: Recording,
    jit: Recording,
    names: tuple[str, str] = ("interpreter", "jit"),
) -> list[str]:
    """The difference in lines: what happened, both register sets, BPF and x86 text around.

    ``names`` are those of the two sides.
    """
    left, right = names
    width = max(map(len, names)) + len(_GOES_ON)
    where = difference.where
    lines = [f"{difference.kind.value}"]
    if where is not None:
        prog = jit.programs[where.prog]
        lines[0] += f": program {prog.name} (id {prog.id}), instruction {prog.line(where.slot)}"
    if difference.kind is Kind.COUNT:
        lines.append(f"  {left} ran {len(interpreter.executions)}, {right} {len(jit.executions)}")
    if difference.reason:
        lines.append(f"  reason: {difference.reason}")
    if difference.kind is Kind.REGISTERS:
        lines += _registers(difference, names)
    elif difference.kind in (Kind.PATH, Kind.END):
        lines.append(f"  {left + _GOES_ON:<{width}} {_place(interpreter, difference.interpreter)}")
        lines.append(f"  {right + _GOES_ON:<{width}} {_place(jit, difference.jit)}")
    if where is not None:
        lines += ["BPF:", *bpf_around(jit, where), "x86:", *x86_around(jit, where)]
    return lines


def _place(recording: Recording, step: Step | None) -> str:
    if step is None:
        return "nothing: it ended"
    return f"{recording.programs[step.where.prog].name} {recording.line(step.where)}"


def _registers(difference: Difference, names: tuple[str, str]) -> list[str]:
    left, right = difference.interpreter, difference.jit
    assert left is not None and right is not None
    heads = [name if len(name) <= _COLUMN else f"...{name[3 - _COLUMN :]}" for name in names]
    lines = [f"  {'':4} {heads[0]:>{_COLUMN}}   {heads[1]:>{_COLUMN}}"]
    for name, here, there in zip(REGISTERS, left.regs, right.regs, strict=True):
        mark = "  <-- differs" if name in difference.registers else ""
        lines.append(f"  {name:4} {here:#018x}   {there:#018x}{mark}")
    return lines


def bpf_around(recording: Recording, where: Where) -> list[str]:
    """The BPF instructions around one, which is marked."""
    prog = recording.programs[where.prog]
    slots = [
        slot for slot in range(len(prog.insns)) if slot == 0 or prog.insns[slot].code or slot == where.slot
    ]
    at = slots.index(where.slot)
    return [
        f" {'>' if slot == where.slot else ' '} {prog.line(slot)}"
        for slot in slots[max(at - _AROUND, 0) : at + _AROUND + 1]
    ]


def x86_around(recording: Recording, where: Where) -> list[str]:
    """The machine code of the instruction (marked) and of its neighbours; bytes only without capstone."""
    prog = recording.programs[where.prog]
    number = prog.function_at(where.slot)
    if number >= len(prog.functions):
        return ["   (not compiled)"]
    function, subprog = prog.functions[number], prog.subprogs[number]
    lines: list[str] = []
    for slot in range(max(where.slot - 1, subprog.start), min(where.slot + 2, subprog.end)):
        start, end = (function.offs[slot - subprog.start + n] for n in (0, 1))
        if start == end:
            continue
        mark = ">" if slot == where.slot else " "
        code, addr = function.code[start:end], function.addr + start
        try:
            found = disassemble(code, addr)
        except MissingExtra:
            lines.append(f" {mark} {addr:x}: {code.hex(' ')}")
            continue
        lines += [f" {mark} {line.addr:x}: {line.code.hex(' '):30} {line.text}" for line in found]
    return lines
