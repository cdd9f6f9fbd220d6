# SPDX-License-Identifier: GPL-2.0-only
"""Comparing what two engines did, step by step, bit for bit in every register that is live."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from kernel_model.isa import opcodes as op

from .agree import Agreement
from .live import Liveness
from .record import REGISTERS, WIDTH, Execution, Recording, Step, Where


class Kind(Enum):
    """How two executions part."""

    REGISTERS = "registers differ after the instruction"
    MEMORY = "memory differs after the instruction"
    FRAME = "the machine code does not keep its caller's registers or stack"
    PATH = "the engines go on at different instructions"
    END = "one engine's run ended, the other's went on"
    COUNT = "the engines ran a different number of programs"


@dataclass(frozen=True)
class Difference:
    """Where two executions part first.

    ``execution`` and ``step`` count from 0. ``where`` is the instruction to blame: the one after which
    registers differ or whose successors do, None when there was none before. ``interpreter`` and ``jit``
    are the steps at that place (None: that side has no more), ``registers`` the names of those that
    differ; ``reason`` says why a side ended, when it did not end by an exit.
    """

    kind: Kind
    execution: int
    step: int
    where: Where | None
    interpreter: Step | None = None
    jit: Step | None = None
    registers: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """The result: how many executions and steps agreed, and the first difference (None: all agree)."""

    executions: int
    steps: int
    difference: Difference | None = None

    @property
    def agree(self) -> bool:
        return self.difference is None


def compare(interpreter: Recording, jit: Recording) -> Comparison:
    """Compare two recordings of the same work from the same state; both must know the same programs."""
    steps = 0
    pairs = list(zip(interpreter.executions, jit.executions, strict=False))
    agree = Agreement(jit.programs)
    for number, (left, right) in enumerate(pairs):
        difference = None if agree(left, right) else _compare_one(jit, number, left, right)
        if difference is not None:
            return Comparison(number, steps + difference.step, difference)
        steps += len(left)
    if len(interpreter.executions) != len(jit.executions):
        return Comparison(len(pairs), steps, Difference(Kind.COUNT, len(pairs), 0, None))
    return Comparison(len(pairs), steps)


_STEP = 8 * WIDTH


@cache
def _bits(mask: int) -> int:
    """By the mask of live registers: which bits of a step's registers, R0 lowest, are compared."""
    return sum(0xFFFF_FFFF_FFFF_FFFF << 64 * number for number in range(WIDTH) if mask >> number & 1)


def _compare_one(known: Recording, number: int, left: Execution, right: Execution) -> Difference | None:
    live = Liveness(known.programs)
    count = min(len(left), len(right))
    stores, others_stores, broken = left.effects, right.effects, right.broken
    here, there = left.values.tobytes(), right.values.tobytes()
    places, others, values = left.places, right.places, left.values
    last = len(places) - 1
    number_of = int.from_bytes
    for index in range(count):
        place = places[index]
        if place != others[index]:
            blamed = _parting(known, left, index)
            return Difference(Kind.PATH, number, index, blamed, left[index], right[index])
        following = places[index + 1] if index < last else None
        mask = live.after(place, values[index * WIDTH + 10], following)
        at = index * _STEP
        regs, others_regs = here[at : at + _STEP], there[at : at + _STEP]
        # Mostly it is dead registers that differ: look at all at once before looking at each.
        if regs != others_regs and (number_of(regs, "little") ^ number_of(others_regs, "little")) & _bits(
            mask
        ):
            differing = _differing(mask, left[index], right[index])
            if differing and live.restores(place, left[index].regs):
                differing = _differing(live.mask, left[index], right[index])
            if differing:
                where = left[index].where
                return Difference(Kind.REGISTERS, number, index, where, left[index], right[index], differing)
        if index in stores and index in others_stores:
            mine, theirs = stores[index], others_stores[index]
            if mine != theirs and not live.saves(place, mine, theirs):
                reason = f"interpreter {mine}; jit {theirs}"
                where = left[index].where
                return Difference(Kind.MEMORY, number, index, where, left[index], right[index], reason=reason)
            if live.undefined and mine == theirs:
                live.undefined.discard(mine.addr)
        if index in broken:
            where = left[index].where
            return Difference(
                Kind.FRAME, number, index, where, left[index], right[index], reason=broken[index]
            )
    if (len(left) != len(right) or left.complete != right.complete) and not (left.cut and right.cut):
        return _end(known, number, count, left, right)
    return None


def _end(known: Recording, number: int, count: int, left: Execution, right: Execution) -> Difference:
    """The difference of two runs of which one ended behind ``count`` steps, or not by its exit."""
    here = left[count] if len(left) > count else None
    there = right[count] if len(right) > count else None
    under_way = right.under_way
    if under_way is not None and here is not None and not there:
        insn = known.programs[under_way.prog].insns[under_way.slot]
        # A function's steps are listed in front of its call.
        if insn.code != op.CALL and here.where != under_way:
            where = _parting(known, left, count)
            return Difference(Kind.PATH, number, count, where, here, None, reason=right.ended)
        if here.where == under_way and len(left) > count + 1:
            after = left[count + 1].where
            if after.slot in known.programs[after.prog].silent:
                under_way = after
    first = left[max(count - 1, 0)].where if len(left) else None
    return Difference(
        Kind.END,
        number,
        count,
        under_way or left.under_way or first,
        here,
        there,
        reason=right.ended or left.ended,
    )


def _parting(known: Recording, left: Execution, index: int) -> Where | None:
    """The instruction behind which the engines went on at different places: the step before, or the call
    that it led to (which is listed behind its callee's steps), or the one for which the JIT emitted nothing.
    """
    here = left[index].where
    if here.slot in known.programs[here.prog].silent:
        return here
    if not index:
        return None
    before = left[index - 1]
    fp = before.regs[10]
    insn = known.programs[before.where.prog].insns[before.where.slot]
    if left[index].regs[10] != fp and insn.code != op.EXIT:
        # The first step of a function that was called: the call is the caller's next one.
        for later in range(index + 1, len(left)):
            if left[later].regs[10] == fp:
                return left[later].where
    return before.where


def _differing(mask: int, left: Step, right: Step) -> tuple[str, ...]:
    """The live registers whose values are not the same."""
    return tuple(
        name
        for number, name in enumerate(REGISTERS)
        if mask >> number & 1 and left.regs[number] != right.regs[number]
    )
