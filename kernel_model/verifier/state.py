# SPDX-License-Identifier: GPL-2.0-only
"""Verifier states: registers, stack slots, references, and how one path stands to those it came from.

Registers and slots are immutable and shared, so copying a state copies two short lists a frame.
Which scalars must be compared exactly ("precise", since 5.3) is only recorded in states that were set
aside for pruning, as bit masks a frame; the running state needs no such marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from .regs import NOT_INIT_REG, PTR_TO_STACK, SCALAR_VALUE, Reg, pointer

MAX_CALL_FRAMES: Final = 8
BPF_REG_SIZE: Final = 8
MAIN_CALLSITE: Final = -1

STACK_INVALID: Final = 0
STACK_SPILL: Final = 1
STACK_MISC: Final = 2
STACK_ZERO: Final = 3
STACK_DYNPTR: Final = 4
STACK_ITER: Final = 5
STACK_IRQ_FLAG: Final = 6
SLOT_CHARS: Final = "?rm0dif"
"""The log's letter for each kind of stack byte."""

SPILLED_ALL: Final = bytes((STACK_SPILL,)) * 8


class Slot:
    """Eight bytes of stack: the kind of each byte, and the register spilled there, if one is.

    ``types[7]`` is the byte at the lowest address, as in Linux. Never changed once made.
    """

    __slots__ = ("reg", "types")

    def __init__(self, types: bytes, reg: Reg) -> None:
        self.types = types
        self.reg = reg

    @property
    def is_spill(self) -> bool:
        """A register, whole or its lower bytes, is spilled here."""
        return self.types[7] == STACK_SPILL

    @property
    def is_scalar_spill(self) -> bool:
        return self.types[7] == STACK_SPILL and self.reg.type == SCALAR_VALUE

    @property
    def is_scalar_spill64(self) -> bool:
        return self.types[0] == STACK_SPILL and self.reg.type == SCALAR_VALUE


EMPTY_SLOT: Final = Slot(bytes(8), NOT_INIT_REG)
MISC_SLOT: Final = Slot(bytes((STACK_MISC,)) * 8, NOT_INIT_REG)


def spilled(reg: Reg) -> Slot:
    """A slot that holds the whole register."""
    return Slot(SPILLED_ALL, reg)


class Ref(NamedTuple):
    """A reference that must be given back: its id and the slot of the call that took it."""

    id: int
    insn_idx: int
    irq: bool = False
    """Not a pointer but the interrupt flags of bpf_local_irq_save()."""


_NO_REGS: Final = (NOT_INIT_REG,) * 10


class FuncState:
    """One frame of the call chain.

    ``callsite`` is the slot of the call that entered it (MAIN_CALLSITE for the outermost). ``stack[i]`` is
    the slot at fp-8*(i+1); it grows as the function uses it. ``precise_regs`` and ``precise_slots`` are bit
    masks, set only in states kept for pruning.
    """

    __slots__ = (
        "async_entry_cnt",
        "callback_depth",
        "callback_ret_range",
        "callsite",
        "frameno",
        "in_async_callback_fn",
        "in_callback_fn",
        "precise_regs",
        "precise_slots",
        "r0_def",
        "regs",
        "stack",
        "subprogno",
    )

    def __init__(
        self,
        callsite: int,
        frameno: int,
        subprogno: int,
        regs: list[Reg] | None = None,
        stack: Sequence[Slot] = (),
    ) -> None:
        self.callsite = callsite
        self.frameno = frameno
        self.subprogno = subprogno
        self.regs: list[Reg] = [*_NO_REGS, pointer(PTR_TO_STACK, frameno=frameno)] if regs is None else regs
        self.stack: list[Slot] = list(stack)
        self.precise_regs = 0
        self.precise_slots = 0
        self.r0_def = -1
        """The 32-bit compare-and-exchange that defined R0, -1 for any other definition."""
        self.in_callback_fn = False
        self.in_async_callback_fn = False
        self.async_entry_cnt = 0
        self.callback_depth = 0
        self.callback_ret_range = (0, 0)

    def copy(self) -> FuncState:
        """A copy that can be changed on its own."""
        out = FuncState(self.callsite, self.frameno, self.subprogno, self.regs[:], self.stack)
        out.precise_regs = self.precise_regs
        out.precise_slots = self.precise_slots
        out.r0_def = self.r0_def
        out.in_callback_fn = self.in_callback_fn
        out.in_async_callback_fn = self.in_async_callback_fn
        out.async_entry_cnt = self.async_entry_cnt
        out.callback_depth = self.callback_depth
        out.callback_ret_range = self.callback_ret_range
        return out


class Jump(NamedTuple):
    """One step of a path that did not simply go on to the next slot, or that touched the stack.

    ``flags`` says which stack slot was spilled or filled (see precision.py); ``linked`` names the
    registers that share an id and learnt a range here.
    """

    idx: int
    prev_idx: int
    flags: int
    linked: tuple[tuple[int, int, bool], ...]


class VerifierState:
    """Everything that is known at one point of one path (struct bpf_verifier_state)."""

    __slots__ = (
        "active_irq_id",
        "active_preempt_locks",
        "active_rcu_lock",
        "branches",
        "callback_unroll_depth",
        "cleaned",
        "dfs_depth",
        "equal_state",
        "first_insn_idx",
        "frames",
        "hit_cnt",
        "in_free_list",
        "insn_idx",
        "jmp_history",
        "kept",
        "last_insn_idx",
        "loop",
        "may_goto_depth",
        "miss_cnt",
        "parent",
        "refs",
        "speculative",
    )

    def __init__(self) -> None:
        self.frames: list[FuncState] = []
        self.refs: list[Ref] = []
        self.active_rcu_lock = 0
        self.active_preempt_locks = 0
        self.active_irq_id = 0
        """The innermost region with interrupts off; 0 outside of all."""
        self.speculative = False
        self.branches = 0
        self.parent: VerifierState | None = None
        self.first_insn_idx = 0
        self.last_insn_idx = 0
        self.insn_idx = 0
        self.dfs_depth = 0
        self.callback_unroll_depth = 0
        self.may_goto_depth = 0
        self.equal_state: VerifierState | None = None
        self.jmp_history: list[Jump] = []
        self.cleaned = False
        self.hit_cnt = 0
        self.miss_cnt = 0
        self.in_free_list = False
        self.kept = False
        """Set aside for pruning: where it stands changes no more."""
        self.loop: tuple[tuple[int, ...], int] | None = None
        """Of a kept state: the loop it lies in, by chain of calls (see pruning.py)."""

    def copy(self) -> VerifierState:
        """A copy that can be changed on its own (its place among the explored states is not copied)."""
        out = VerifierState()
        out.frames = [frame.copy() for frame in self.frames]
        out.refs = self.refs[:]
        out.active_rcu_lock = self.active_rcu_lock
        out.active_preempt_locks = self.active_preempt_locks
        out.active_irq_id = self.active_irq_id
        out.speculative = self.speculative
        out.branches = self.branches
        out.parent = self.parent
        out.first_insn_idx = self.first_insn_idx
        out.last_insn_idx = self.last_insn_idx
        out.insn_idx = self.insn_idx
        out.dfs_depth = self.dfs_depth
        out.callback_unroll_depth = self.callback_unroll_depth
        out.may_goto_depth = self.may_goto_depth
        out.equal_state = self.equal_state
        out.jmp_history = self.jmp_history[:]
        out.cleaned = self.cleaned
        return out

    @property
    def frame(self) -> FuncState:
        """The innermost frame."""
        return self.frames[-1]

    def frame_insn_idx(self, frame: int) -> int:
        """Where ``frame`` stands: its current slot, or the call that it waits for."""
        if frame == len(self.frames) - 1:
            return self.insn_idx
        return self.frames[frame + 1].callsite


def same_callsites(a: VerifierState, b: VerifierState) -> bool:
    """Whether both are in the same chain of calls."""
    count = len(a.frames)
    if count != len(b.frames):
        return False
    for i in range(1, count):
        if a.frames[i].callsite != b.frames[i].callsite:
            return False
    return a.frames[0].callsite == b.frames[0].callsite


def map_regs(state: VerifierState, change: Callable[[Reg], Reg]) -> None:
    """Replace every register and every spilled register by ``change(reg)``."""
    for frame in state.frames:
        regs = frame.regs
        for i, reg in enumerate(regs):
            new = change(reg)
            if new is not reg:
                regs[i] = new
        stack = frame.stack
        for i, slot in enumerate(stack):
            if slot.types[7] == STACK_SPILL:
                new = change(slot.reg)
                if new is not slot.reg:
                    stack[i] = Slot(slot.types, new)
