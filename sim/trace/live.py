# SPDX-License-Identifier: GPL-2.0-only
"""Which registers hold a value that the program may look at, step by step.

The verifier refuses to read a register that was not written, so what such a register holds is no
result, and the engines are free to differ there (Linux's engines do): R0 and R6-R9 at the entry, R1-R5
after a call, R0-R5 after a tail call that fell through (bpf_tail_call() returns nothing), everything but
R1 and R10 at the start of a tail-called program. Nothing else is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernel_model.isa import opcodes as op
from kernel_model.isa.table import Use, row_for

from .record import ProgText

_CONTEXT, _FRAME_POINTER = 1 << 1, 1 << 10
ENTRY = _CONTEXT | _FRAME_POINTER
_ARGS = 0b11_1110
_CLOBBERED = 0b11_1111
_PRESERVING = frozenset({"arch_bpf_timed_may_goto"})
"""Kernel functions with a calling convention of their own: they keep R0 to R5."""


_HELPER, _SUBPROG, _TAIL = 1, 2, 3
"""The kinds of calls; 0 is any other instruction."""


@dataclass
class _Frame:
    fp: int
    live: int


class Liveness:
    """Follows one execution. Call :meth:`after` once for each step, in order."""

    def __init__(self, programs: Mapping[int, ProgText]) -> None:
        self._programs = programs
        self._frames: list[_Frame] = []
        self._returned = 0
        self._effects: dict[int, tuple[int, int]] = {}

    @property
    def depth(self) -> int:
        """How many bpf-to-bpf calls deep the last step was."""
        return max(len(self._frames) - 1, 0)

    def after(self, place: int, fp: int, following: int | None) -> int:
        """The live registers after a step as a bit mask.

        ``place`` and ``following`` (the next step's, None at the end) are as in Execution.places, ``fp`` is
        the step's R10.
        """
        frames = self._frames
        frame = frames[-1] if frames and frames[-1].fp == fp else self._frame(fp)
        effect = self._effects.get(place)
        if effect is None:
            effect = self._effects[place] = self._effect(place)
        kind, mask = effect
        if not kind:
            frame.live |= mask
        elif kind == _TAIL:
            # ``mask`` is the slot of the next step when the tail call falls through.
            fell_through = following == (place >> 32 << 32 | mask)
            frame.live = frame.live & ~_CLOBBERED if fell_through else ENTRY
        elif kind == _SUBPROG:
            frame.live = frame.live & ~_CLOBBERED | self._returned & 1
        else:
            frame.live = frame.live & ~_CLOBBERED | mask
        return frame.live

    def written(self, place: int) -> int:
        """The registers that the instruction of a step gives a value to, or takes it from, as a bit mask."""
        kind, mask = self._effects[place]
        return _CLOBBERED if kind else mask

    def _effect(self, place: int) -> tuple[int, int]:
        prog, slot = self._programs[place >> 32], place & 0xFFFF_FFFF
        insn = prog.insns[slot]
        if insn.code == op.TAIL_CALL:
            return _TAIL, prog.landing(prog.next_slot(slot))
        if insn.code != op.CALL:
            return 0, written(prog, slot)
        if insn.src == op.BPF_PSEUDO_CALL:
            return _SUBPROG, 0
        return (0, 0) if prog.calls[slot] in _PRESERVING else (_HELPER, 1)

    def _frame(self, fp: int) -> _Frame:
        """The frame that a step with this R10 belongs to: frames lie below their callers'."""
        while self._frames and self._frames[-1].fp < fp:
            self._returned = self._frames.pop().live
        if not self._frames:
            self._frames.append(_Frame(fp, ENTRY))
        elif fp < self._frames[-1].fp:
            self._frames.append(_Frame(fp, self._frames[-1].live & _ARGS | _FRAME_POINTER))
        return self._frames[-1]


def written(prog: ProgText, slot: int) -> int:
    """The registers that an instruction other than a call writes, as a bit mask."""
    insn = prog.insns[slot]
    row = row_for(insn, internal=True)
    if row is None:
        raise ValueError(f"slot {slot} of program {prog.name} is no instruction: {insn}")
    mask = 0
    if row.dst in (Use.WRITE, Use.UPDATE):
        mask |= 1 << insn.dst
    if row.src in (Use.WRITE, Use.UPDATE):
        mask |= 1 << insn.src
    if op.bpf_class(insn.code) == op.BPF_STX and row.name.endswith("_CMPXCHG"):
        mask |= 1
    # The auxiliary register of fix-ups is not shown by either engine.
    return mask & ((1 << 11) - 1)
