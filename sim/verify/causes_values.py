# SPDX-License-Identifier: GPL-2.0-only
"""Searches about one register: NULL, pointers that became numbers, registers and stack never written."""

from __future__ import annotations

from kernel_model.helpers.table import HELPERS, proto_for
from kernel_model.hooks.progtypes import PROG_TYPES
from kernel_model.isa import opcodes as op
from kernel_model.verifier import bounds as bd
from kernel_model.verifier.env import helper_name
from kernel_model.verifier.regs import (
    PTR_TO_STACK,
)
from kernel_model.verifier.state import Slot

from .case import Case, Finding, origin, pointer_operand
from .history import Kind, Place, content, held
from .words import slot_words


def null(case: Case) -> Finding:
    """Since when a pointer may be NULL unchecked."""
    out = origin(case)
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


def pointer(case: Case) -> Finding:
    """A number is where a pointer must be: find the step that made it one."""
    out = origin(case)
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


def argument(case: Case) -> Finding:
    """What the helper takes there, and how the register came to be something else."""
    out = pointer(case)
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


def helper(case: Case) -> Finding:
    """Which program types have the helper that this one lacks."""
    row = HELPERS.get(case.insn.imm) if case.has_path else None
    if row is None or row.proto is None:
        return Finding()
    types = [kind.name for kind in PROG_TYPES.values() if kind.modelled and proto_for(row, kind) is not None]
    return Finding([f"bpf_{row.name} is there for: {', '.join(types)}."] if types else [])


def written(case: Case) -> Finding:
    """Who wrote the register last, or might have."""
    out = origin(case)
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


def stack(case: Case) -> Finding:
    """Which bytes of the stack hold what, around the access."""
    out = Finding()
    if not case.has_path:
        return out
    step = case.history.path[-1]
    pointer = pointer_operand(case)
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
