# SPDX-License-Identifier: GPL-2.0-only
"""Open-coded iterators: bpf_iter_*_new(), next() and destroy() on state in the program's stack (since 6.4).

next() is followed twice: it yields an element and the iterator stays active, or it yields NULL and the
iterator is drained. A loop converges when an active iterator comes back to next() in a state within one seen
there before; numbers that changed since the last round and were not needed exactly are forgotten first.
(process_iter_arg and process_iter_next_call of Linux 6.18)
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from . import bounds as bd
from . import stackobj
from .env import Env, Reject
from .objects import ACTIVE, DRAINED, iter_btf_id, iter_depth, iter_extra, iter_state
from .pending import push_stack
from .pruning import find_prev_entry, widen_imprecise_scalars
from .refs import acquire_reference, release_reference
from .regs import PTR_MAYBE_NULL, PTR_TO_STACK, Reg, const_reg
from .state import BPF_REG_SIZE, STACK_ITER, Slot, VerifierState, same_callsites

_WHOLE: Final = bytes((STACK_ITER,)) * BPF_REG_SIZE


class IterArg(NamedTuple):
    """Where the iterator of a call is: frame, first slot, and its reference."""

    frameno: int
    spi: int
    ref: int


def _kind(env: Env, btf_id: int) -> str:
    return f"iter_{env.iter_name(btf_id)}"


def _valid_uninit(env: Env, reg: Reg, nr_slots: int) -> bool:
    try:
        spi = stackobj.get_spi(env, reg, "iter", nr_slots)
    except stackobj.BadSlot as error:
        return error.errno == errno.ERANGE
    stack = stackobj.frame_at(env, reg).stack
    return all(STACK_ITER not in stack[spi - i].types for i in range(nr_slots))


def _valid_init(env: Env, reg: Reg, btf_id: int, nr_slots: int) -> bool:
    try:
        spi = stackobj.get_spi(env, reg, "iter", nr_slots)
    except stackobj.BadSlot:
        return False
    stack = stackobj.frame_at(env, reg).stack
    for i in range(nr_slots):
        slot = stack[spi - i]
        if bool(slot.reg.ref) != (i == 0) or slot.types != _WHOLE or iter_btf_id(slot.reg) != btf_id:
            return False
    return True


def process(env: Env, regno: int, btf_id: int, size: int, *, new: bool, destroy: bool) -> IterArg:
    """The iterator argument of a kfunc; ``size`` is the structure's, in bytes."""
    reg = env.frame.regs[regno]
    if reg.type != PTR_TO_STACK:
        raise env.reject(errno.EINVAL, f"arg#{regno - 1} expected pointer to an iterator on stack\n")
    nr_slots = size // BPF_REG_SIZE
    if new:
        if not _valid_uninit(env, reg, nr_slots):
            raise env.reject(
                errno.EINVAL, f"expected uninitialized {_kind(env, btf_id)} as arg #{regno - 1}\n"
            )
        stackobj.reserve(env, regno, nr_slots)
        spi = stackobj.spi_or_reject(env, reg, "iter", nr_slots)
        return _mark(env, reg, spi, btf_id, nr_slots)
    if not _valid_init(env, reg, btf_id, nr_slots):
        raise env.reject(errno.EINVAL, f"expected an initialized {_kind(env, btf_id)} as arg #{regno - 1}\n")
    spi = stackobj.spi_or_reject(env, reg, "iter", nr_slots)
    frame = stackobj.frame_at(env, reg)
    stackobj.read(env, frame, spi, nr_slots)
    found = IterArg(reg.frameno, spi, frame.stack[spi].reg.ref)
    if destroy:
        release_reference(env, found.ref)
        stackobj.remove(env, frame, spi, nr_slots)
        stackobj.show(env, spi, nr_slots)
    return found


def _mark(env: Env, reg: Reg, spi: int, btf_id: int, nr_slots: int) -> IterArg:
    ref = acquire_reference(env)
    frame = stackobj.frame_at(env, reg)
    extra = iter_extra(ACTIVE, btf_id, 0)
    slots = [Reg(PTR_TO_STACK, bd.const(0), 0, 0, None, extra, 0, 0 if i else ref) for i in range(nr_slots)]
    stackobj.place(env, frame, spi, STACK_ITER, slots)
    stackobj.written(env, frame, spi, nr_slots)
    stackobj.show(env, spi, nr_slots)
    return IterArg(reg.frameno, spi, ref)


def _set_state(state: VerifierState, arg: IterArg, number: int, deeper: int) -> None:
    stack = state.frames[arg.frameno].stack
    slot = stack[arg.spi]
    extra = iter_extra(number, iter_btf_id(slot.reg), iter_depth(slot.reg) + deeper)
    stack[arg.spi] = Slot(slot.types, slot.reg.with_extra(extra))


def after_next(env: Env, arg: IterArg) -> None:
    """next() returned: go on as drained now, and as active (with an element in R0) later."""
    cur = env.cur
    at = env.insn_idx
    if iter_state(cur.frames[arg.frameno].stack[arg.spi].reg) == ACTIVE:
        parent = cur.parent
        if parent is None or parent.insn_idx != at or not same_callsites(parent, cur):
            env.bug("bad parent state for iter next call")
            raise Reject(errno.EFAULT)
        before = find_prev_entry(env, parent, at)
        queued = push_stack(env, at + 1, at, False)
        _set_state(queued, arg, ACTIVE, 1)
        if before is not None:
            widen_imprecise_scalars(env, before, queued)
        regs = queued.frames[-1].regs
        regs[0] = regs[0].with_type(regs[0].type & ~PTR_MAYBE_NULL)
    _set_state(cur, arg, DRAINED, 0)
    env.frame.regs[0] = const_reg(0)
