# SPDX-License-Identifier: GPL-2.0-only
"""Which registers hold a value that the program may look at, step by step.

The verifier refuses to read a register that was not written, so what such a register holds is no
result, and the engines are free to differ there (Linux's engines do): R0 and R6-R9 at the entry, R1-R5
after a call, R0-R5 after a tail call that fell through (bpf_tail_call() returns nothing), everything but
R1 and R10 at the start of a tail-called program. Nothing else is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel_model.isa import opcodes as op
from kernel_model.isa.table import Use, row_for

from .record import ProgText, Step, Where

_CONTEXT, _FRAME_POINTER = 1 << 1, 1 << 10
ENTRY = _CONTEXT | _FRAME_POINTER
_ARGS = 0b11_1110
_CLOBBERED = 0b11_1111
_PRESERVING = frozenset({"arch_bpf_timed_may_goto"})
"""Kernel functions with a calling convention of their own: they keep R0 to R5."""


@dataclass
class _Frame:
    fp: int
    live: int


class Liveness:
    """Follows one execution. Call :meth:`after` once for each step, in order."""

    def __init__(self, programs: dict[int, ProgText]) -> None:
        self._programs = programs
        self._frames: list[_Frame] = []
        self._returned = 0

    @property
    def depth(self) -> int:
        """How many bpf-to-bpf calls deep the last step was."""
        return max(len(self._frames) - 1, 0)

    def after(self, step: Step, following: Where | None) -> int:
        """The live registers after ``step`` as a bit mask; ``following`` is where the next step is."""
        frame = self._frame(step.regs[10])
        prog = self._programs[step.where.prog]
        insn = prog.insns[step.where.slot]
        if insn.code == op.TAIL_CALL:
            fell_through = Where(prog.id, prog.landing(prog.next_slot(step.where.slot)))
            frame.live = frame.live & ~_CLOBBERED if following == fell_through else ENTRY
        elif insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL:
            frame.live = frame.live & ~_CLOBBERED | self._returned & 1
        elif insn.code == op.CALL:
            if prog.calls[step.where.slot] not in _PRESERVING:
                frame.live = frame.live & ~_CLOBBERED | 1
        else:
            frame.live |= written(prog, step.where.slot)
        return frame.live

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
