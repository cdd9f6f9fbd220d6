# SPDX-License-Identifier: GPL-2.0-only
"""Dynptrs: pointers with bounds that are known at run time only, kept in two stack slots (since 5.19).

The slots hold a struct bpf_dynptr_kern that only helpers and kfuncs may touch; a write destroys it. What is
known of one is a register of type CONST_PTR_TO_DYNPTR (see objects.py). (process_dynptr_func and friends of
Linux 6.18)
"""

from __future__ import annotations

import errno
from typing import Final

from . import bounds as bd
from . import stackobj
from .env import Env, Reject
from .objects import FIRST, FLAG_OF, INVALID, RINGBUF, SKB, SKB_META, is_first, slice_id, type_name, type_of
from .refs import acquire_reference, release_reference
from .regs import (
    CONST_PTR_TO_DYNPTR,
    DYNPTR_FLAGS,
    MEM_RDONLY,
    MEM_UNINIT,
    NOT_INIT_REG,
    PTR_MAYBE_NULL,
    PTR_TO_MEM,
    PTR_TO_STACK,
    UNKNOWN_REG,
    Reg,
)
from .state import BPF_REG_SIZE, STACK_DYNPTR, FuncState, map_regs

NR_SLOTS: Final = 2
_TYPE_OF: Final = {flag: kind for kind, flag in FLAG_OF.items()}
CHANGES_PACKET: Final = (SKB, SKB_META)
"""Writing through these may move the packet."""
_WHOLE: Final = bytes((STACK_DYNPTR,)) * BPF_REG_SIZE


def const_dynptr(kind: int, id: int) -> Reg:
    """A pointer to a dynptr that the callee may not change (argument of callbacks and global functions)."""
    return Reg(CONST_PTR_TO_DYNPTR, bd.const(0), 0, id, None, kind | FIRST)


def arg_kind(arg: int) -> int:
    """The dynptr type that an argument type asks for; INVALID for any."""
    return _TYPE_OF.get(arg & DYNPTR_FLAGS, INVALID)


def described(env: Env, reg: Reg) -> Reg:
    """What is known of the dynptr that an argument points to."""
    if reg.type == CONST_PTR_TO_DYNPTR:
        return reg
    return stackobj.frame_at(env, reg).stack[_spi(env, reg)].reg


def _spi(env: Env, reg: Reg) -> int:
    return stackobj.spi_or_reject(env, reg, "dynptr", NR_SLOTS)


def _valid_uninit(env: Env, reg: Reg) -> bool:
    if reg.type == CONST_PTR_TO_DYNPTR:
        return False
    try:
        stackobj.get_spi(env, reg, "dynptr", NR_SLOTS)
    except stackobj.BadSlot as error:
        return error.errno == errno.ERANGE
    return True


def _valid_init(env: Env, reg: Reg) -> bool:
    if reg.type == CONST_PTR_TO_DYNPTR:
        return True
    try:
        spi = stackobj.get_spi(env, reg, "dynptr", NR_SLOTS)
    except stackobj.BadSlot:
        return False
    stack = stackobj.frame_at(env, reg).stack
    return is_first(stack[spi].reg) and stack[spi].types == _WHOLE and stack[spi - 1].types == _WHOLE


def check_release(env: Env, reg: Reg, regno: int) -> None:
    """A dynptr handed to a helper that gives its reference back."""
    if reg.type != PTR_TO_STACK:
        raise env.reject(errno.EINVAL, "cannot release unowned const bpf_dynptr\n")
    try:
        spi = stackobj.get_spi(env, reg, "dynptr", NR_SLOTS)
        held = stackobj.frame_at(env, reg).stack[spi].reg.ref
    except stackobj.BadSlot:
        held = 0
    if not held:
        raise env.reject(errno.EINVAL, f"arg {regno} is an unacquired reference\n")


def process(env: Env, regno: int, arg: int, clone_ref: int = 0) -> None:
    """A dynptr argument: MEM_UNINIT makes one, MEM_RDONLY leaves it as it is (process_dynptr_func)."""
    reg = env.frame.regs[regno]
    if reg.type not in (PTR_TO_STACK, CONST_PTR_TO_DYNPTR):
        raise env.reject(
            errno.EINVAL, f"arg#{regno - 1} expected pointer to stack or const struct bpf_dynptr\n"
        )
    if arg & MEM_UNINIT:
        if not _valid_uninit(env, reg):
            raise env.reject(errno.EINVAL, "Dynptr has to be an uninitialized dynptr\n")
        stackobj.reserve(env, regno, NR_SLOTS)
        _mark(env, reg, arg_kind(arg), clone_ref)
        return
    if reg.type == CONST_PTR_TO_DYNPTR and not arg & MEM_RDONLY:
        raise env.reject(errno.EINVAL, "cannot pass pointer to const bpf_dynptr, the helper mutates it\n")
    if not _valid_init(env, reg):
        raise env.reject(errno.EINVAL, f"Expected an initialized dynptr as arg #{regno - 1}\n")
    wanted = arg_kind(arg)
    if wanted and type_of(described(env, reg)) != wanted:
        raise env.reject(errno.EINVAL, f"Expected a dynptr of type {type_name(wanted)} as arg #{regno - 1}\n")
    if reg.type == PTR_TO_STACK:
        stackobj.read(env, stackobj.frame_at(env, reg), _spi(env, reg), NR_SLOTS)


def _mark(env: Env, reg: Reg, kind: int, clone_ref: int) -> None:
    frame = stackobj.frame_at(env, reg)
    spi = _spi(env, reg)
    destroy(env, frame, spi)
    destroy(env, frame, spi - 1)
    number = env.new_id()
    ref = 0
    if kind == RINGBUF:
        ref = clone_ref or acquire_reference(env)
    first = Reg(CONST_PTR_TO_DYNPTR, bd.const(0), 0, number, None, kind | FIRST, 0, ref)
    second = Reg(CONST_PTR_TO_DYNPTR, bd.const(0), 0, number, None, kind, 0, ref)
    stackobj.place(env, frame, spi, STACK_DYNPTR, (first, second))
    stackobj.written(env, frame, spi, NR_SLOTS)


def destroy(env: Env, frame: FuncState, spi: int) -> None:
    """A write hits a slot: if half of a dynptr is there, the whole of it and its slices are gone."""
    if frame.stack[spi].types[0] != STACK_DYNPTR:
        return
    if not is_first(frame.stack[spi].reg):
        spi += 1
    reg = frame.stack[spi].reg
    if type_of(reg) == RINGBUF:
        raise env.reject(errno.EINVAL, "cannot overwrite referenced dynptr\n")
    stackobj.show(env, spi, NR_SLOTS)
    stale = UNKNOWN_REG if env.allow_ptr_leaks else NOT_INIT_REG

    def cut(other: Reg) -> Reg:
        slice_ = other.type in (PTR_TO_MEM, PTR_TO_MEM | PTR_MAYBE_NULL)
        return stale if slice_ and slice_id(other) == reg.id else other

    map_regs(env.cur, cut)
    stackobj.remove(env, frame, spi, NR_SLOTS)


def release(env: Env, reg: Reg) -> None:
    """A helper takes the dynptr back: its clones and slices go with it (unmark_stack_slots_dynptr)."""
    frame = stackobj.frame_at(env, reg)
    spi = _spi(env, reg)
    found = frame.stack[spi].reg
    if type_of(found) != RINGBUF:
        stackobj.remove(env, frame, spi, NR_SLOTS)
        return
    release_reference(env, found.ref)
    for at in range(1, len(frame.stack)):
        slot = frame.stack[at]
        if slot.reg.ref != found.ref:
            continue
        if slot.types[0] != STACK_DYNPTR:
            env.bug("misconfigured ref_obj_id")
            raise Reject(errno.EFAULT)
        if is_first(slot.reg):
            stackobj.remove(env, frame, at, NR_SLOTS)
