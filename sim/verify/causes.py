# SPDX-License-Identifier: GPL-2.0-only
"""Searching the path for what a rule wants to know (rules.Focus): one function each, all of one form.

Each gets a :class:`Case` and returns a :class:`Finding`: sentences about this very path, the events of it
that matter, and, where it can tell more exactly than the rule, a headline and fixes of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel_model.helpers.table import HELPERS, proto_for
from kernel_model.hooks.progtypes import PROG_TYPES
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.verifier import bounds as bd
from kernel_model.verifier.env import helper_name
from kernel_model.verifier.regs import (
    BASE_MASK,
    PACKET_ANY,
    PACKET_POINTERS,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET_END,
    PTR_TO_STACK,
    SCALAR_VALUE,
    Reg,
)
from kernel_model.verifier.state import Slot

from .history import Event, History, Kind, Place, content, held
from .recorder import Recording
from .rules import Focus, Rule
from .source import Sources
from .words import bounds_words, number, plural, slot_words


@dataclass
class Case:
    """A rejection as the causes look at it. ``lines`` are the verifier's last words, the decisive one last;
    ``reg`` is the register that they name (-1: none)."""

    recording: Recording
    rule: Rule
    words: re.Match[str]
    lines: list[str]
    sources: Sources
    history: History
    reg: int = -1

    @property
    def insn(self) -> Insn:
        """The refused instruction."""
        return self.recording.insns[self.recording.insn]

    @property
    def has_path(self) -> bool:
        """The verifier was following a path when it stopped."""
        return bool(self.recording.path) and self.recording.insn >= 0

    def where(self, slot: int) -> str:
        """``line 18`` or ``instruction 7``: how sentences name an instruction."""
        line = self.sources.at(slot)
        return f"line {line.line}" if line is not None else f"instruction {slot}"


@dataclass
class Finding:
    """``cause``: sentences; ``events``, the latest first; ``slots``: instructions to point at, with words."""

    cause: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    slots: list[tuple[int, str]] = field(default_factory=list)
    title: str = ""
    fixes: tuple[str, ...] = ()


def _nothing(case: Case) -> Finding:
    return Finding()


def _origin(case: Case) -> Finding:
    if not case.has_path or not 0 <= case.reg <= 10:
        return Finding()
    return Finding(events=case.history.trace(case.history.place(case.reg), case.history.last))


# ---- pointers -------------------------------------------------------------------------------


def _null(case: Case) -> Finding:
    out = _origin(case)
    if not out.events:
        return out
    source = out.events[-1]
    out.cause.append(
        f"On this path nothing has compared r{case.reg} with NULL since {case.where(source.slot)}."
    )
    return out


_NULL_BRANCH = ("Look at the condition: the access is on the branch for NULL.",)
_STALE = (
    "Read ctx->data and ctx->data_end again after the call, and make the bounds checks again.",
    "Or do everything that needs the old pointers before the call.",
)


def _pointer(case: Case) -> Finding:
    """A number is where a pointer must be: find the step that made it one."""
    out = _origin(case)
    name = f"r{case.reg}"
    reg = held(case.history.path[-1], case.history.place(case.reg)) if out.events else None
    for event in out.events:
        at = case.where(event.slot)
        if event.kind is Kind.PACKET_MOVED:
            out.title = f"{name} pointed into the packet, which may have been moved since"
            out.cause.append(f"At {at}, {event.text}.")
            out.fixes = _STALE
            return out
        if event.kind is Kind.IS_NULL:
            out.title = f"{name} is NULL here"
            out.cause.append(f"This path is the one on which {at} has found the pointer to be NULL.")
            out.fixes = _NULL_BRANCH
            return out
        if event.kind is Kind.RELEASED:
            out.title = f"{name} was given back before"
            out.cause.append(
                f"{event.text[0].upper()}{event.text[1:]} ({at}); afterwards it may not be used."
            )
            out.fixes = ("Use it before it is released.",)
            return out
        if event.kind is Kind.WIDENED:
            out.cause.append(f"The arithmetic at {at} makes a number of the pointer.")
            return out
        if event.kind is Kind.LOADED:
            out.cause.append(
                f"It was read from memory at {at}, and what is read from memory is a number: pointers keep "
                "their meaning only in registers and in whole stack slots."
            )
            out.fixes = (
                "Read through such an address with bpf_probe_read_kernel(), or BPF_CORE_READ() for kernel "
                "structures.",
            )
            return out
    if reg is not None and reg.is_null:
        out.title = f"{name} is NULL here"
        out.cause.append(f"{name} is the constant 0, set at {case.where(out.events[-1].slot)}.")
        out.fixes = _NULL_BRANCH
    return out


_PLAIN_TYPES = {
    "fp": "the stack",
    "pkt": "the packet",
    "pkt_meta": "the packet's metadata",
    "map_key": "a map's key",
    "map_value": "a map's value",
    "mem": "memory of known size",
    "ringbuf_mem": "a ring-buffer record",
    "buf": "a buffer",
    "trusted_ptr_": "a kernel structure",
    "ctx": "the context",
    "map_ptr": "a map",
    "scalar": "a number",
    "func": "a function of the program",
    "sock": "a socket",
    "sock_common": "a socket's common part",
    "tcp_sock": "a TCP socket",
    "xdp_sock": "an AF_XDP socket",
    "dynptr_ptr": "a dynptr",
}
"""The log's words for what an argument may be, in plain ones."""


def _argument(case: Case) -> Finding:
    """What the helper takes there, and how the register came to be something else."""
    out = _pointer(case)
    wanted = [_PLAIN_TYPES.get(word, word) for word in case.words["wanted"].split(", ")]
    takes = f"{', '.join(wanted[:-1])} or {wanted[-1]}" if len(wanted) > 1 else wanted[0]
    name = helper_name(case.insn) or "the helper"
    out.cause.append(f"Argument {case.reg} of {name} must be (or point to) {takes}.")
    given = _PLAIN_TYPES.get(case.words["given"].removesuffix("_or_null"), case.words["given"])
    if case.words["given"].endswith("_or_null"):
        out.title = f"argument {case.reg} of {name} may be NULL"
        out.fixes = ("Compare the pointer with NULL and leave (return) before the call.",)
    elif not out.title.endswith("NULL here"):
        out.title = out.title or f"argument {case.reg} of {name} is {given}, which it does not take"
    else:
        out.title, out.fixes = f"argument {case.reg} of {name} is NULL", ()
    return out


def _helper(case: Case) -> Finding:
    """Which program types have the helper that this one lacks."""
    row = HELPERS.get(case.insn.imm) if case.has_path else None
    if row is None or row.proto is None:
        return Finding()
    types = [kind.name for kind in PROG_TYPES.values() if kind.modelled and proto_for(row, kind) is not None]
    return Finding([f"bpf_{row.name} is there for: {', '.join(types)}."] if types else [])


# ---- registers and stack ---------------------------------------------------------------------


def _written(case: Case) -> Finding:
    out = _origin(case)
    for event in out.events:
        if event.kind is Kind.OVERWRITTEN:
            out.events = [event]
            out.title = f"r{case.reg} is read after a call has overwritten it"
            out.cause.append(f"At {case.where(event.slot)}, {event.text}.")
            out.fixes = ("Keep what is needed after a call in r6 to r9 or on the stack (compilers do).",)
            return out
    if case.has_path:
        writers = _writers(case)
        if writers:
            out.cause.append(f"Other paths write it ({', '.join(writers)}), this one does not.")
        else:
            out.cause.append("No instruction of this function writes it.")
    return out


def _writers(case: Case) -> list[str]:
    """Where in the function the register is written at all."""
    sub = case.recording.subprog_of(case.recording.insn)
    if sub is None:
        return []
    found: list[str] = []
    for slot in range(sub.start, sub.end):
        insn = case.recording.insns[slot]
        if insn.dst == case.reg and insn.code & 7 in (op.BPF_ALU, op.BPF_ALU64, op.BPF_LDX, op.BPF_LD):
            where = case.where(slot)
            if where not in found:
                found.append(where)
    return found[:4]


def _stack(case: Case) -> Finding:
    """Which bytes of the stack hold what, around the access."""
    out = Finding()
    if not case.has_path:
        return out
    step = case.history.path[-1]
    pointer = _pointer_operand(case)
    if pointer is None or pointer[1].type != PTR_TO_STACK or pointer[1].bounds.mask:
        return out
    _, reg, off, size = pointer
    low = reg.off + bd.s64(reg.bounds.value) + off
    frame = step.frames[reg.frameno]
    for index in range((-low - 1) // 8, max(-(low + size), -1) // 8 - 1, -1):
        if 0 <= index < len(frame.stack):
            place = Place(reg.frameno, index, True)
            slot = content(step, place)
            assert isinstance(slot, Slot)
            out.cause.append(f"The stack has {slot_words(slot, index)}.")
            out.events += case.history.trace(place, case.history.last)[:1]
    return out


# ---- numbers ---------------------------------------------------------------------------------


def _number(case: Case) -> Finding:
    """Where a number came from, what limits it, and where a limit was lost."""
    if not case.has_path or case.reg < 0:
        return Finding()
    place, at = case.history.place(case.reg), case.history.last
    reg = held(case.history.path[at], place)
    if reg is not None and reg.type != SCALAR_VALUE:
        found = _moved_by(case, place)
        if found is None:
            return _origin(case)
        place, at = found
    return _limits(case, place, at)


def _moved_by(case: Case, place: Place) -> tuple[Place, int] | None:
    """The number that a pointer was moved by last, and at which step."""
    for event in case.history.trace(place, case.history.last):
        if event.partner is not None:
            reg = held(case.history.path[event.step], event.partner)
            if reg is not None and reg.type == SCALAR_VALUE and not reg.is_const:
                return event.partner, event.step
    return None


def _limits(case: Case, place: Place, at: int) -> Finding:
    history = case.history
    events = history.trace(place, at, to_pointer=False)
    out = Finding(events=events)
    reg = held(history.path[at], place)
    if reg is None:
        return out
    checks = [event for event in events if event.kind is Kind.CHECKED]
    one_sided = _one_sided(events) if checks else None
    if one_sided is not None:
        low, event = one_sided
        out.cause.append(
            f"The checks limit it from above only: as a signed number it may be as low as {number(low)} "
            f"({case.where(event.slot)})."
        )
        return out
    for nearer, event in enumerate(events):
        if event.kind is Kind.WIDENED and any(older.kind is Kind.CHECKED for older in events[nearer:]):
            out.cause.append(
                f"The limit that was checked before is lost at {case.where(event.slot)}: {event.text}."
            )
            return out
    source = events[-1]
    if not checks and source.kind is Kind.LOADED:
        twin = _checked_twin(case, source.step)
        if twin is not None:
            load, check = twin
            again = case.where(history.path[source.step].at)
            out.cause.append(
                f"The value that {case.where(history.path[check].at)} checks was loaded separately "
                f"(instruction {history.path[load].at}); {again} reads the same memory again (instruction "
                f"{source.slot}), and by then it may hold something else."
            )
            out.slots.append((history.path[check].at, f"{history.condition(check)}: checks the other copy"))
            out.fixes = (
                "Read the value once into a local variable; check and use that variable.",
                "Where the compiler reads it again, make the copy opaque to it: `barrier_var(length)` or an "
                'empty `asm volatile("" : "+r"(length))` before the check.',
            )
            return out
    name = f"r{place.number}"
    if checks:
        out.cause.append(f"After the checks on this path {name} may be: {bounds_words(reg.bounds)}.")
    else:
        out.cause.append(f"Nothing on this path limits {name}, which may be {bounds_words(reg.bounds)}.")
    return out


def _one_sided(events: list[Event]) -> tuple[int, Event] | None:
    """A step after which the number had an upper limit but could be far below zero: its lowest value."""
    for event in events:
        b = event.reg.bounds if event.reg is not None and event.reg.type == SCALAR_VALUE else None
        if b is not None and b.smin <= bd.S32_MIN and 0 <= b.smax < bd.S32_MAX:
            return b.smin, event
        if b is not None and b.s32_min == bd.S32_MIN and 0 <= b.s32_max < bd.S32_MAX and b.umax <= bd.U32:
            return b.s32_min, event
    return None


def _checked_twin(case: Case, load: int) -> tuple[int, int] | None:
    """Another load of the same memory whose result was compared: (step of the load, of the comparison)."""
    history = case.history
    if history.insn(load).code & 7 != op.BPF_LDX:
        return None
    for other in history.loads_like(load):
        for at in range(other + 1, history.last):
            insn = history.insn(at)
            if history.jumped(at) is None or insn.code & 8:
                continue
            depth = len(history.path[at].frames) - 1
            if history.trace(Place(depth, insn.dst), at)[-1].step == other:
                return other, at
    return None


# ---- how far an access reaches ---------------------------------------------------------------


def _size_of(insn: Insn) -> int:
    return op.SIZE_BYTES[insn.code & 0x18]


def _pointer_operand(case: Case) -> tuple[Place, Reg, int, int] | None:
    """The pointer that the instruction accesses memory through, with its offset and size in bytes."""
    insn, history = case.insn, case.history
    cls = insn.code & 7
    regs = history.path[-1].frames[-1].regs
    if cls == op.BPF_LDX:
        return history.place(insn.src), regs[insn.src], insn.off, _size_of(insn)
    if cls in (op.BPF_ST, op.BPF_STX):
        return history.place(insn.dst), regs[insn.dst], insn.off, _size_of(insn)
    if insn.code == op.CALL and case.reg > 0:
        regno = case.reg if regs[case.reg].type != SCALAR_VALUE else case.reg - 1
        if regno < 1:
            return None
        found = re.search(r"size=(\d+)", case.lines[0]) or re.search(r"size (\d+)", case.lines[-1])
        if found:
            return history.place(regno), regs[regno], 0, int(found[1])
    return None


def _room(reg: Reg) -> tuple[int, str] | None:
    """How many bytes the memory behind a pointer has, and its name."""
    base = reg.type & BASE_MASK
    if base == PTR_TO_MAP_VALUE and reg.map is not None:
        return reg.map.value_size, "the map value"
    if base == PTR_TO_MAP_KEY and reg.map is not None:
        return reg.map.key_size, "the map key"
    if base == PTR_TO_MEM:
        return reg.extra, "the memory"
    return None


def _region(case: Case) -> Finding:
    out = _number(case)
    if not case.has_path:
        return out
    operand = _pointer_operand(case)
    if operand is None:
        return out
    _, reg, off, size = operand
    room = _room(reg)
    if room is None:
        return out
    low = reg.off + off + reg.bounds.smin
    high = reg.off + off + (reg.bounds.smax if reg.bounds.smax < bd.S64_MAX else reg.bounds.umax)
    span = f"offset {number(low)}" if low == high else f"offsets {number(low)} to {number(high)}"
    out.cause.insert(
        0,
        f"It needs {plural(size, 'byte')} at {span} of {room[1]}, which has {plural(room[0], 'byte')}: "
        f"the last offset that fits is {room[0] - size}.",
    )
    return out


def _packet(case: Case) -> Finding:
    out = _origin(case)
    operand = _pointer_operand(case) if case.has_path else None
    if operand is None or operand[1].type not in PACKET_POINTERS:
        return out
    place, reg, off, size = operand
    need = reg.off + off + size
    variable = reg.bounds.mask != 0
    where = "from where its variable offset leads" if variable else "of the packet"
    proved = max(reg.extra, 0)
    have = f"{proved} are proved to be there" if proved else "none is proved to be there"
    out.cause.append(f"It needs the first {plural(need, 'byte')} {where}; {have}.")
    out.title = (
        f"this access needs {plural(need, 'byte')} of the packet, {proved} are proved"
        if not variable
        else f"nothing proves that the packet reaches as far as {place.name} leads"
        if not proved
        else f"this access needs {plural(need, 'byte')} behind the variable offset, {proved} are proved"
    )
    checks = _comparisons(case)
    for at in checks:
        out.slots.append((case.history.path[at].at, case.history.condition(at)))
    if not checks:
        out.cause.append("No comparison with data_end was made on this path.")
    moved = _moved_by(case, place) if variable else None
    if moved is not None:
        step = case.history.path[moved[1]]
        partner = held(step, moved[0])
        assert partner is not None
        late = [at for at in checks if at > moved[1]]
        out.cause.append(
            f"{case.where(step.at)[0].upper()}{case.where(step.at)[1:]} moves the pointer by {moved[0].name} "
            f"({bounds_words(partner.bounds)}): a new pointer, for which comparisons made before do not count"
            + ("." if late or not checks else ", and none was made since.")
        )
    return out


def _comparisons(case: Case) -> list[int]:
    """Steps of the path that compare a packet pointer with another one, data_end for instance."""
    found = []
    for at in range(len(case.history.path) - 1):
        insn = case.history.insn(at)
        if case.history.jumped(at) is None or not insn.code & 8:
            continue
        regs = case.history.path[at].frames[-1].regs
        kinds = {regs[insn.dst].type, regs[insn.src].type}
        if PTR_TO_PACKET_END in kinds and kinds <= set(PACKET_ANY):
            found.append(at)
    return found[-3:]


# ---- references, loops, size -----------------------------------------------------------------


def _reference(case: Case) -> Finding:
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


def _loop(case: Case) -> Finding:
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


def _cost(case: Case) -> Finding:
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


def _depth(case: Case) -> Finding:
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


def _slot(case: Case) -> Finding:
    out = Finding()
    for name in ("slot", "slot2", "to"):
        group = case.words.groupdict().get(name)
        if group is not None and int(group) < len(case.recording.insns):
            out.slots.append((int(group), "named by the verifier"))
    return out


SEARCHES: dict[Focus, Callable[[Case], Finding]] = {
    Focus.NOTHING: _nothing,
    Focus.ORIGIN: _origin,
    Focus.NULL: _null,
    Focus.POINTER: _pointer,
    Focus.ARGUMENT: _argument,
    Focus.HELPER: _helper,
    Focus.NUMBER: _number,
    Focus.REGION: _region,
    Focus.PACKET: _packet,
    Focus.WRITTEN: _written,
    Focus.STACK: _stack,
    Focus.REFERENCE: _reference,
    Focus.LOOP: _loop,
    Focus.COST: _cost,
    Focus.DEPTH: _depth,
    Focus.SLOT: _slot,
}


def helper_arguments(insn: Insn) -> int:
    """How many arguments a helper call passes, by the helper's prototype."""
    row = HELPERS.get(insn.imm) if insn.src == 0 else None
    return len(row.proto.args) if row is not None and row.proto is not None else 5
