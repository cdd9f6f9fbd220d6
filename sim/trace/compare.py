# SPDX-License-Identifier: GPL-2.0-only
"""Comparing what two engines did, step by step, bit for bit in every register that is live."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .live import Liveness
from .record import REGISTERS, WIDTH, Execution, Recording, Step, Where


class Kind(Enum):
    """How two executions part."""

    REGISTERS = "registers differ after the instruction"
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
    for number, (left, right) in enumerate(pairs):
        difference = _compare_one(jit, number, left, right)
        if difference is not None:
            return Comparison(number, steps + difference.step, difference)
        steps += len(left)
    if len(interpreter.executions) != len(jit.executions):
        return Comparison(len(pairs), steps, Difference(Kind.COUNT, len(pairs), 0, None))
    return Comparison(len(pairs), steps)


def _compare_one(known: Recording, number: int, left: Execution, right: Execution) -> Difference | None:
    live = Liveness(known.programs)
    count = min(len(left), len(right))
    previous: Where | None = None
    for index in range(count):
        here, there = left[index], right[index]
        if here.where != there.where:
            return Difference(Kind.PATH, number, index, previous, here, there)
        following = left[index + 1].where if index + 1 < len(left) else None
        mask = live.after(here, following)
        if here.regs != there.regs:
            differing = tuple(
                REGISTERS[n] for n in range(WIDTH) if mask >> n & 1 and here.regs[n] != there.regs[n]
            )
            if differing:
                return Difference(Kind.REGISTERS, number, index, here.where, here, there, differing)
        previous = here.where
    if len(left) != len(right) or left.complete != right.complete:
        blamed = right.under_way or left.under_way or previous
        return Difference(
            Kind.END,
            number,
            count,
            blamed,
            left[count] if len(left) > count else None,
            right[count] if len(right) > count else None,
            reason=right.ended or left.ended,
        )
    return None
