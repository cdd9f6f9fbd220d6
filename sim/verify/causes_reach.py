# SPDX-License-Identifier: GPL-2.0-only
"""Searches about numbers and how far an access reaches: limits won and lost, packets, map values."""

from __future__ import annotations

from kernel_model.isa import opcodes as op
from kernel_model.verifier import bounds as bd
from kernel_model.verifier.regs import (
    BASE_MASK,
    PACKET_ANY,
    PACKET_POINTERS,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET_END,
    SCALAR_VALUE,
    Reg,
)

from .case import Case, Finding, origin, pointer_operand
from .history import Event, Kind, Place, held
from .words import bounds_words, number, plural


def number_limits(case: Case) -> Finding:
    """Where a number came from, what limits it, and where a limit was lost."""
    if not case.has_path or case.reg < 0:
        return Finding()
    place, at = case.history.place(case.reg), case.history.last
    reg = held(case.history.path[at], place)
    if reg is not None and reg.type != SCALAR_VALUE:
        found = moved_by(case, place)
        if found is None:
            return origin(case)
        place, at = found
    return _limits(case, place, at)


def moved_by(case: Case, place: Place) -> tuple[Place, int] | None:
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


def region(case: Case) -> Finding:
    """How far an access to memory of known size reaches."""
    out = number_limits(case)
    if not case.has_path:
        return out
    operand = pointer_operand(case)
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


def packet(case: Case) -> Finding:
    """What the access needs of the packet, and what comparisons have proved."""
    out = origin(case)
    operand = pointer_operand(case) if case.has_path else None
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
    moved = moved_by(case, place) if variable else None
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
