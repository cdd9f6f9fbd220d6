# SPDX-License-Identifier: GPL-2.0-only
"""Where what is known of a register comes from: its history along the path, from the latest change back.

A value lives in a place: a register of a frame, or a stack slot. :func:`trace` finds the step that changed
the place last, says what the instruction did, and goes on with the place that the value came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from kernel_model.helpers.table import HELPERS
from kernel_model.isa import opcodes as op
from kernel_model.isa.disasm import disasm
from kernel_model.isa.insn import Insn
from kernel_model.verifier import bounds as bd
from kernel_model.verifier.env import helper_name
from kernel_model.verifier.regs import (
    BASE_MASK,
    NOT_INIT,
    PACKET_ANY,
    PTR_MAYBE_NULL,
    PTR_TO_CTX,
    PTR_TO_STACK,
    SCALAR_VALUE,
    Reg,
)
from kernel_model.verifier.state import Slot

from .recorder import Recording, Step
from .words import bounds_words, freedom, plural, reg_words

MAX_EVENTS = 24
"""Changes of one value that are looked at, going back."""
_MUCH = 4096
"""So many times more possible values count as knowledge lost."""


class Kind(Enum):
    """What happened to a value."""

    ARGUMENT = "argument"
    """It is what the program or function was called with."""
    SET = "set"
    LOADED = "loaded"
    RETURNED = "returned"
    COPIED = "copied"
    COMPUTED = "computed"
    WIDENED = "widened"
    """Arithmetic after which less is known than before."""
    CHECKED = "checked"
    IS_NULL = "is null"
    """A comparison with zero says that the pointer is NULL on this path."""
    SPILLED = "spilled"
    FILLED = "filled"
    OVERWRITTEN = "overwritten"
    """A call left nothing in the register."""
    PACKET_MOVED = "packet moved"
    RELEASED = "released"
    NEVER = "never"
    """Nothing was ever written to it."""
    CHANGED = "changed"
    FORGOTTEN = "forgotten"
    """The path is longer than what was kept of it."""


class Place(NamedTuple):
    """Register ``number`` of frame ``frame``, or its stack slot."""

    frame: int
    number: int
    is_slot: bool = False

    @property
    def name(self) -> str:
        """``r6`` or ``fp-16``."""
        return f"fp-{8 * (self.number + 1)}" if self.is_slot else f"r{self.number}"


@dataclass(frozen=True)
class Event:
    """One change: at step ``step`` of the path, by the instruction at ``slot``, in ``place``.

    ``reg`` is what the place held afterwards; ``partner`` the number that a pointer was moved by.
    """

    kind: Kind
    step: int
    slot: int
    place: Place
    text: str
    reg: Reg | None = None
    partner: Place | None = None


def content(step: Step, place: Place) -> Reg | Slot | None:
    """What a place holds at a step; None when the frame or the slot does not exist then."""
    if place.frame >= len(step.frames):
        return None
    frame = step.frames[place.frame]
    if not place.is_slot:
        return frame.regs[place.number]
    return frame.stack[place.number] if place.number < len(frame.stack) else None


def held(step: Step, place: Place) -> Reg | None:
    """The register's content, or the register that is spilled in the slot."""
    found = content(step, place)
    return found.reg if isinstance(found, Slot) else found


class History:
    """The path of a recording, and questions about it."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.path = recording.path

    @property
    def last(self) -> int:
        """The step at which the verifier stopped."""
        return len(self.path) - 1

    def place(self, regno: int) -> Place:
        """A register of the innermost frame at the end of the path."""
        return Place(len(self.path[-1].frames) - 1, regno)

    def insn(self, step: int) -> Insn:
        """The instruction that a step is about."""
        return self.recording.insns[self.path[step].at]

    def text(self, step: int) -> str:
        """The instruction as the log shows it."""
        return disasm(self.recording.insns, self.path[step].at, helper_name)

    def jumped(self, step: int) -> bool | None:
        """Whether a conditional jump was taken; None for another instruction or the path's last one."""
        insn = self.insn(step)
        if step >= self.last or insn.code & 7 not in (op.BPF_JMP, op.BPF_JMP32):
            return None
        if insn.code & 0xF0 in (op.BPF_JA, op.BPF_CALL, op.BPF_EXIT):
            return None
        return self.path[step + 1].at != self.path[step].at + 1

    def trace(self, place: Place, step: int, *, to_pointer: bool = True) -> list[Event]:
        """The changes of a value, the latest first, until its origin.

        Where a pointer and a number were added, ``to_pointer`` says which one to follow.
        """
        events: list[Event] = []
        while len(events) < MAX_EVENTS:
            at = self._changed(place, step)
            if at is None:
                events.append(self._origin(place, step))
                break
            event, place, goes_on = self._explain(at, place, to_pointer)
            if event is not None:
                events.append(event)
            if not goes_on:
                break
            step = at
        return events

    def _changed(self, place: Place, step: int) -> int | None:
        """The last step before ``step`` whose instruction changed the place."""
        path = self.path
        now = content(path[step], place)
        for at in range(step - 1, -1, -1):
            if content(path[at], place) is not now:
                return at
        return None

    def _origin(self, place: Place, step: int) -> Event:
        first = self.path[0]
        reg = held(first, place)
        kind, text = Kind.ARGUMENT, "what the function is called with"
        if self.recording.dropped:
            kind, text = Kind.FORGOTTEN, "set before the part of the path that was kept"
        elif place.is_slot or reg is None or reg.type == NOT_INIT:
            kind, text = Kind.NEVER, f"nothing is ever written to {place.name} on this path"
        elif place.number == 10:
            text = "the frame pointer"
        elif reg.type == PTR_TO_CTX:
            text = "the context that the program is called with"
        return Event(kind, 0, first.at, place, text, reg)

    # ---- one step ------------------------------------------------------------------------------

    def _explain(self, at: int, place: Place, to_pointer: bool) -> tuple[Event | None, Place, bool]:
        """What step ``at`` did to the place, where to go on, and whether to."""
        insn, before, after = self.insn(at), self.path[at], self.path[at + 1]
        depth, depth_after = len(before.frames) - 1, len(after.frames) - 1
        cls = insn.code & 7
        if cls in (op.BPF_JMP, op.BPF_JMP32):
            operation = insn.code & 0xF0
            if depth_after > depth and place.frame == depth_after:
                return self._entered(at, place, insn)
            if operation == op.BPF_EXIT and depth_after < depth and place == (depth_after, 0, False):
                text = "returned by the function"
                return self._event(Kind.RETURNED, at, place, text), Place(depth, 0), True
            if operation == op.BPF_CALL:
                return self._called(at, place, insn)
            return self._checked(at, place)
        if place.is_slot:
            return self._stored(at, place, insn)
        if place.frame != depth or not self._writes(insn, place.number):
            # A number that is copied or stored gets an id there, which says nothing new.
            return None, place, True
        if cls in (op.BPF_ALU, op.BPF_ALU64):
            return self._computed(at, place, insn, to_pointer)
        if insn.code == op.LD_IMM64:
            reg = held(after, place)
            words = reg_words(reg) if reg is not None else "a constant"
            return self._event(Kind.SET, at, place, f"set to {words}"), place, False
        return self._loaded(at, place, insn)

    def _writes(self, insn: Insn, regno: int) -> bool:
        cls = insn.code & 7
        if cls in (op.BPF_ALU, op.BPF_ALU64, op.BPF_LDX):
            return insn.dst == regno
        if cls == op.BPF_LD:
            return insn.dst == regno if insn.code == op.LD_IMM64 else regno <= 5
        if cls == op.BPF_STX and insn.code & 0xE0 == op.BPF_ATOMIC:
            if insn.imm == op.BPF_LOAD_ACQ:
                return insn.dst == regno
            return regno == (0 if insn.imm == op.BPF_CMPXCHG else insn.src)
        return False

    def _event(self, kind: Kind, at: int, place: Place, text: str, partner: Place | None = None) -> Event:
        reg = held(self.path[at + 1], place)
        return Event(kind, at, self.path[at].at, place, text, reg, partner)

    def _entered(self, at: int, place: Place, insn: Insn) -> tuple[Event | None, Place, bool]:
        """The place belongs to a function that was just entered."""
        if place.is_slot or not 1 <= place.number <= 5:
            text = f"a function begins with nothing in {place.name}"
            return self._event(Kind.NEVER, at, place, text), place, False
        if insn.src != op.BPF_PSEUDO_CALL:
            caller = helper_name(insn) or "the helper"
            return self._event(Kind.ARGUMENT, at, place, f"given to the callback by {caller}"), place, False
        event = self._event(Kind.COPIED, at, place, f"passed as argument {place.number}")
        return event, Place(place.frame - 1, place.number), True

    def _called(self, at: int, place: Place, insn: Insn) -> tuple[Event | None, Place, bool]:
        name = helper_name(insn) if insn.src == 0 else None
        who = name or "the called function"
        before, after = held(self.path[at], place), held(self.path[at + 1], place)
        if not place.is_slot and place.number == 0 and after is not None and after.type != NOT_INIT:
            return self._event(Kind.RETURNED, at, place, f"returned by {who}"), place, False
        if not place.is_slot and place.number <= 5 and after is not None and after.type == NOT_INIT:
            text = f"the call of {who} overwrites r0 to r5"
            return self._event(Kind.OVERWRITTEN, at, place, text), place, True
        if before is not None and after is not None and before.type != after.type:
            row = HELPERS.get(insn.imm)
            if before.type in PACKET_ANY and (name is None or (row is not None and row.changes_packet)):
                text = f"{who} may move the packet, so pointers into it are worth nothing afterwards"
                return self._event(Kind.PACKET_MOVED, at, place, text), place, True
            if before.ref:
                return self._event(Kind.RELEASED, at, place, f"{who} gives it back"), place, True
        text = f"{who} may write there" if place.is_slot else f"changed by {who}"
        return self._event(Kind.CHANGED, at, place, text), place, not place.is_slot

    def _checked(self, at: int, place: Place) -> tuple[Event | None, Place, bool]:
        before, after = held(self.path[at], place), held(self.path[at + 1], place)
        if before is None or after is None:
            return None, place, True
        if before.type & PTR_MAYBE_NULL and after.type == SCALAR_VALUE:
            return (
                self._event(Kind.IS_NULL, at, place, f"{self.condition(at)}: NULL on this path"),
                place,
                True,
            )
        if before.type != after.type or before.extra != after.extra:
            return (
                self._event(Kind.CHECKED, at, place, f"{self.condition(at)}: now {reg_words(after)}"),
                place,
                True,
            )
        if bd.same(before.bounds, after.bounds):
            return None, place, True
        text = f"{self.condition(at)}, so it is {bounds_words(after.bounds)}"
        return self._event(Kind.CHECKED, at, place, text), place, True

    def condition(self, at: int) -> str:
        """A conditional jump and its outcome: ``if r1 > 0x10 goto pc+7 is not taken``."""
        jumped = self.jumped(at)
        return f"{self.text(at)} is {'taken' if jumped else 'not taken'}"

    def _stored(self, at: int, place: Place, insn: Insn) -> tuple[Event | None, Place, bool]:
        depth = len(self.path[at].frames) - 1
        if insn.code & 7 not in (op.BPF_ST, op.BPF_STX):
            return None, place, True
        slot = content(self.path[at + 1], place)
        plain = insn.code & 7 == op.BPF_STX and insn.code & 0xE0 == op.BPF_MEM
        if plain and isinstance(slot, Slot) and slot.is_spill:
            return (
                self._event(Kind.SPILLED, at, place, f"r{insn.src} stored to {place.name}"),
                Place(depth, insn.src),
                True,
            )
        return self._event(Kind.SET, at, place, f"written by {self.text(at)}"), place, False

    def _loaded(self, at: int, place: Place, insn: Insn) -> tuple[Event | None, Place, bool]:
        if insn.code & 7 != op.BPF_LDX:
            return self._event(Kind.LOADED, at, place, f"set by {self.text(at)}"), place, False
        frames = self.path[at].frames
        source = frames[-1].regs[insn.src]
        if source.type == PTR_TO_STACK and source.bounds.mask == 0:
            off = source.off + bd.s64(source.bounds.value) + insn.off
            slot_place = Place(source.frameno, (-off - 1) // 8, True)
            slot = content(self.path[at], slot_place)
            if isinstance(slot, Slot) and slot.is_spill:
                event = self._event(Kind.FILLED, at, place, f"loaded back from {slot_place.name}")
                return event, slot_place, True
        size = op.SIZE_BYTES[insn.code & 0x18]
        text = f"{plural(size, 'byte')} read from {source_words(source)}"
        return self._event(Kind.LOADED, at, place, text), place, False

    def _computed(
        self, at: int, place: Place, insn: Insn, to_pointer: bool
    ) -> tuple[Event | None, Place, bool]:
        before, after = held(self.path[at], place), held(self.path[at + 1], place)
        operation, by_reg = insn.code & 0xF0, bool(insn.code & 8)
        source = Place(place.frame, insn.src)
        if operation == op.BPF_MOV and not by_reg:
            return self._event(Kind.SET, at, place, f"set to {insn.imm}"), place, False
        if operation == op.BPF_MOV:
            plain = insn.code & 7 == op.BPF_ALU64 and not insn.off
            kind = Kind.COPIED if plain else self._judge(held(self.path[at], source), after)
            return self._event(kind, at, place, self.text(at)), source, True
        text = self.text(at)
        if after is None or before is None:
            return self._event(Kind.COMPUTED, at, place, text), place, True
        if not by_reg or operation == op.BPF_END:
            kind = self._judge(before, after)
            return self._event(kind, at, place, f"{text} makes it {_result(after)}"), place, True
        other = held(self.path[at], source)
        is_pointer = before.type != SCALAR_VALUE
        if after.type != SCALAR_VALUE and other is not None:
            pointer, moved = (place, source) if is_pointer else (source, place)
            event = self._event(Kind.COMPUTED, at, place, f"{text} makes it {_result(after)}", moved)
            return event, pointer if to_pointer else moved, True
        kind = self._judge(before, after)
        return self._event(kind, at, place, f"{text} makes it {_result(after)}", source), place, True

    def _judge(self, before: Reg | None, after: Reg | None) -> Kind:
        if before is None or after is None:
            return Kind.COMPUTED
        if before.type != SCALAR_VALUE and after.type == SCALAR_VALUE:
            return Kind.WIDENED
        if before.type == SCALAR_VALUE and freedom(after.bounds) > _MUCH * freedom(before.bounds):
            return Kind.WIDENED
        return Kind.COMPUTED

    def loads_like(self, step: int) -> list[int]:
        """Earlier loads on the path of the same bytes as the load at ``step`` reads, the latest first."""
        insn = self.insn(step)
        reg = self.path[step].frames[-1].regs[insn.src]
        out = []
        for at in range(step - 1, -1, -1):
            other = self.insn(at)
            if other.code & 7 != op.BPF_LDX or other.code & 0x18 != insn.code & 0x18:
                continue
            base = self.path[at].frames[-1].regs[other.src]
            same = (base.type, base.id, base.map, base.off + other.off) == (
                reg.type,
                reg.id,
                reg.map,
                reg.off + insn.off,
            )
            if same and bd.same(base.bounds, reg.bounds):
                out.append(at)
        return out


def _result(reg: Reg) -> str:
    return bounds_words(reg.bounds) if reg.type == SCALAR_VALUE else reg_words(reg)


def source_words(reg: Reg) -> str:
    """Where a load read: the region, without details."""
    if reg.type & BASE_MASK == SCALAR_VALUE:
        return "an address that is no pointer"
    return reg_words(reg).split(";")[0].split(", ")[0]
