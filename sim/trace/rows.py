# SPDX-License-Identifier: GPL-2.0-only
"""Steps as people read them: what each changed, what it stored, what was called with what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kernel_model.isa import opcodes as op

from .live import Liveness
from .memory import Effect
from .record import REGISTERS, WIDTH, Execution, ProgText, Where

_ARGUMENTS = range(1, 6)
_TAIL_CALL_ARGUMENTS = 3
_R0, _FP = 0, 10


class Call(NamedTuple):
    """A kernel function that was called: ``args`` R1 onward, ``result`` R0 (None: it has none).

    A tail call has ``made`` set: whether the other program runs.
    """

    name: str
    args: tuple[int, ...]
    result: int | None = None
    made: bool | None = None

    def __str__(self) -> str:
        text = f"{self.name}({', '.join(f'{value:#x}' for value in self.args)})"
        if self.made is not None:
            return f"{text} {'is made' if self.made else 'falls through'}"
        return text if self.result is None else f"{text} = {self.result:#x}"


class Row(NamedTuple):
    """A step: its number, the instruction, how many bpf-to-bpf calls deep, the registers that have a new
    value (dead ones are left out), what it stored, what it called.
    """

    step: int
    where: Where
    depth: int
    fp: int
    changed: dict[int, int]
    effect: Effect | None
    call: Call | None

    def named(self) -> dict[str, int]:
        """``changed`` by the registers' names."""
        return {REGISTERS[number]: value for number, value in self.changed.items()}


def rows(programs: Mapping[int, ProgText], execution: Execution) -> Iterator[Row]:
    """The steps of an execution in order."""
    live = Liveness(programs)
    known: dict[int, dict[int, int]] = {}
    places, last = execution.places, len(execution) - 1
    for index, place in enumerate(places):
        regs = tuple(execution.values[index * WIDTH : (index + 1) * WIDTH])
        fp = regs[_FP]
        following = places[index + 1] if index < last else None
        mask = live.after(place, fp, following)
        frame = known.get(fp)
        if frame is None:
            # A function begins: its arguments were there before the first instruction.
            changes = live.written(place)
            frame = {number: regs[number] for number in _ARGUMENTS if not changes >> number & 1}
        now = {number: regs[number] for number in range(_FP) if mask >> number & 1}
        where = Where(place >> 32, place & 0xFFFF_FFFF)
        yield Row(
            index,
            where,
            live.depth,
            fp,
            {number: value for number, value in now.items() if frame.get(number) != value},
            execution.effects.get(index),
            _call(programs[where.prog], where, frame, now, following),
        )
        known = {other: held for other, held in known.items() if other >= fp} | {fp: now}


def _call(
    prog: ProgText, where: Where, before: dict[int, int], after: dict[int, int], following: int | None
) -> Call | None:
    """The call of a kernel function that the step is; None for all others."""
    slot = where.slot
    name = prog.calls.get(slot)
    if name is not None:
        count = prog.arities.get(slot, max((n for n in _ARGUMENTS if n in before), default=0))
        return Call(name, _arguments(before, count), after.get(_R0))
    if prog.insns[slot].code == op.TAIL_CALL:
        landing = where.prog << 32 | prog.landing(prog.next_slot(slot))
        return Call("bpf_tail_call", _arguments(before, _TAIL_CALL_ARGUMENTS), None, following != landing)
    return None


def _arguments(regs: dict[int, int], count: int) -> tuple[int, ...]:
    return tuple(regs.get(number, 0) for number in range(1, count + 1))
