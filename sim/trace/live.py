# SPDX-License-Identifier: GPL-2.0-only
"""Which registers hold a value that the program may look at, step by step.

The verifier refuses to read a register that was not written, so what such a register holds is no
result, and the engines are free to differ there (Linux's engines do): R0 and R6-R9 at the entry, R1-R5
after a call, R0-R5 after a tail call that fell through (bpf_tail_call() returns nothing), everything but
R1 and R10 at the start of a tail-called program, and at the start of a function that a helper calls back
everything but R10 and the arguments that this helper gives. Nothing else is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.table import Effect as Class
from kernel_model.isa.table import Use, row_for

from .memory import Effect
from .record import ProgText

_CONTEXT, _FRAME_POINTER = 1 << 1, 1 << 10
ENTRY = _CONTEXT | _FRAME_POINTER
_ARGS = 0b11_1110
_CLOBBERED = 0b11_1111
_PRESERVING = frozenset({"arch_bpf_timed_may_goto"})
"""Kernel functions with a calling convention of their own: they keep R0 to R5."""
_CALLBACK_ARGS = {
    "bpf_loop": 2,
    "bpf_for_each_map_elem": 4,
    "bpf_for_each_array_elem": 4,
    "bpf_for_each_hash_elem": 4,
}
"""How many arguments kernel functions give to the callback that they are handed (set_*_callback_state())."""

_HELPER, _SUBPROG, _TAIL, _EXIT = 1, 2, 3, 4
"""The kinds of calls, and the exit; 0 is any other instruction."""


@dataclass
class _Frame:
    fp: int
    live: int
    last: int = -1
    """The place of the frame's last step, -1 before its first."""
    tail_called: bool = False
    """Another program has taken the frame over; its R10 is another one on a private stack."""
    done: bool = False
    """The function has returned: a step with the same R10 is in another one's frame."""


class Liveness:
    """Follows one execution. Call :meth:`after` once for each step, in order."""

    def __init__(self, programs: Mapping[int, ProgText]) -> None:
        self._programs = programs
        self._frames: list[_Frame] = []
        self._returned = 0
        self._effects: dict[int, tuple[int, int]] = {}
        self.undefined: set[int] = set()
        """Addresses of eight bytes that hold a saved register without a value."""

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
        frame = frames[-1] if frames else None
        if frame is not None and frame.tail_called:
            frame.fp, frame.tail_called = fp, False
        if frame is None or frame.fp != fp or frame.done:
            frame = self._frame(place, fp)
        effect = self._effects.get(place)
        if effect is None:
            effect = self._effects[place] = self._effect(place)
        frame.last = place
        kind, mask = effect
        if not kind:
            frame.live |= mask
        elif kind == _TAIL:
            # ``mask`` is the slot of the next step when the tail call falls through.
            fell_through = following == (place >> 32 << 32 | mask)
            frame.live = frame.live & ~_CLOBBERED if fell_through else ENTRY
            frame.tail_called = not fell_through
        elif kind == _EXIT:
            frame.done = True
        elif kind == _SUBPROG:
            frame.live = frame.live & ~_CLOBBERED | self._returned & 1
        else:
            frame.live = frame.live & ~_CLOBBERED | mask
        return frame.live

    @property
    def mask(self) -> int:
        """The live registers after the last step."""
        return self._frames[-1].live

    def saves(self, place: int, mine: Effect, theirs: Effect) -> bool:
        """Whether this store, which left different bytes on the engines, saves a register without a value.

        The fix-ups do that: the loop that takes the place of bpf_loop() saves R6-R8, written or not.
        """
        insn = self._insn(place)
        saved = insn.code == op.BPF_STX | op.BPF_MEM | op.BPF_DW and not self.mask >> insn.src & 1
        if saved and mine.addr == theirs.addr and mine.strays == theirs.strays:
            self.undefined.add(mine.addr)
            return True
        return False

    def restores(self, place: int, regs: tuple[int, ...]) -> bool:
        """Whether this load, whose register differs, brings back a register that :meth:`saves` knows; the
        register is then without a value again."""
        insn = self._insn(place)
        if insn.code != op.BPF_LDX | op.BPF_MEM | op.BPF_DW or insn.src != op.BPF_REG_10:
            return False
        if regs[10] + insn.off not in self.undefined:
            return False
        self._frames[-1].live &= ~(1 << insn.dst)
        return True

    def _insn(self, place: int) -> Insn:
        return self._programs[place >> 32].insns[place & 0xFFFF_FFFF]

    def written(self, place: int) -> int:
        """The registers that the instruction of a step gives a value to, or takes it from, as a bit mask."""
        kind, mask = self._effects[place]
        return _CLOBBERED if kind and kind != _EXIT else mask

    def _effect(self, place: int) -> tuple[int, int]:
        prog, slot = self._programs[place >> 32], place & 0xFFFF_FFFF
        insn = prog.insns[slot]
        if insn.code == op.TAIL_CALL:
            return _TAIL, prog.landing(prog.next_slot(slot))
        if insn.code == op.EXIT:
            return _EXIT, 0
        if insn.code != op.CALL:
            return 0, written(prog, slot)
        if insn.src == op.BPF_PSEUDO_CALL:
            return _SUBPROG, 0
        return (0, 0) if prog.calls[slot] in _PRESERVING else (_HELPER, 1)

    def _frame(self, place: int, fp: int) -> _Frame:
        """The frame that a step with this R10 belongs to: an open one, else its function was just called.

        No function calls itself, so an open frame has its R10 alone, on whichever stack it lies.
        """
        frames = self._frames
        known = any(frame.fp == fp and not frame.done for frame in frames)
        while frames and (frames[-1].done or (known and frames[-1].fp != fp)):
            self._returned = frames.pop().live
        if not frames:
            frames.append(_Frame(fp, ENTRY))
        elif not known:
            self._frames.append(_Frame(fp, self._arguments(place, self._frames[-1]) | _FRAME_POINTER))
        return self._frames[-1]

    def _arguments(self, place: int, caller: _Frame) -> int:
        """The live argument registers at the start of the function whose first step is at ``place``.

        The call is listed when it is over: here it is one of the instructions behind the caller's last step.
        """
        live = _ARGS
        for slot in self._following(caller.last, place >> 32):
            prog = self._programs[place >> 32]
            if prog.insns[slot].code != op.CALL:
                continue
            if prog.insns[slot].src == op.BPF_PSEUDO_CALL:
                live &= caller.live
            else:
                live &= (1 << _CALLBACK_ARGS.get(prog.calls[slot], 5) + 1) - 1
        return live

    def _following(self, last: int, number: int) -> list[int]:
        """The slots where control may have gone from the step at ``last`` (-1: the program's begin)."""
        prog = self._programs[number]
        if last < 0 or last >> 32 != number:
            return [prog.landing(0)]
        slot = last & 0xFFFF_FFFF
        insn = prog.insns[slot]
        row = row_for(insn, internal=True)
        targets = [prog.next_slot(slot)]
        if row is not None and row.effect in (Class.JUMP, Class.BRANCH):
            targets.append(slot + 1 + (insn.imm if row.imm is Use.JUMP else insn.off))
        return [prog.landing(each) for each in targets]


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
