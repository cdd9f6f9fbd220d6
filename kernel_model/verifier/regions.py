# SPDX-License-Identifier: GPL-2.0-only
"""Regions that a program opens and must close: RCU (6.2), preemption off (6.10), interrupts off (6.14)."""

from __future__ import annotations

import errno
from typing import Final

from . import bounds as bd
from . import stackobj
from .env import Env
from .regs import MEM_RCU, PTR_MAYBE_NULL, PTR_TO_STACK, PTR_UNTRUSTED, Reg
from .state import BPF_REG_SIZE, STACK_IRQ_FLAG, Ref, map_regs

RCU_LOCK: Final = "bpf_rcu_read_lock"
RCU_UNLOCK: Final = "bpf_rcu_read_unlock"
PREEMPT_DISABLE: Final = "bpf_preempt_disable"
PREEMPT_ENABLE: Final = "bpf_preempt_enable"
IRQ_SAVE: Final = "bpf_local_irq_save"
_KIND: Final = "irq_flag"
_WHOLE: Final = bytes((STACK_IRQ_FLAG,)) * BPF_REG_SIZE


def _no_longer_protected(reg: Reg) -> Reg:
    if not reg.type & MEM_RCU:
        return reg
    return reg.with_type(reg.type & ~(MEM_RCU | PTR_MAYBE_NULL) | PTR_UNTRUSTED)


def note_call(env: Env, name: str, sleepable: bool) -> None:
    """What a kfunc does to the RCU and preemption regions, and whether it may be called inside them."""
    state = env.cur
    if state.active_rcu_lock:
        if name == RCU_LOCK:
            raise env.reject(errno.EINVAL, f"nested rcu read lock (kernel function {name})\n")
        if name == RCU_UNLOCK:
            map_regs(state, _no_longer_protected)
            state.active_rcu_lock = 0
        elif sleepable:
            raise env.reject(errno.EACCES, f"kernel func {name} is sleepable within rcu_read_lock region\n")
    elif name == RCU_LOCK:
        state.active_rcu_lock = 1
    elif name == RCU_UNLOCK:
        raise env.reject(errno.EINVAL, f"unmatched rcu read unlock (kernel function {name})\n")
    if name == PREEMPT_DISABLE:
        state.active_preempt_locks += 1
    elif name == PREEMPT_ENABLE:
        if not state.active_preempt_locks:
            raise env.reject(
                errno.EINVAL, f"unmatched attempt to enable preemption (kernel function {name})\n"
            )
        state.active_preempt_locks -= 1
    elif sleepable and state.active_preempt_locks:
        raise env.reject(errno.EACCES, f"kernel func {name} is sleepable within non-preemptible region\n")
    if sleepable and state.active_irq_id:
        raise env.reject(errno.EACCES, f"kernel func {name} is sleepable within IRQ-disabled region\n")


def in_atomic_region(env: Env) -> bool:
    """Inside any region where nothing may sleep."""
    state = env.cur
    return bool(state.active_rcu_lock or state.active_preempt_locks or state.active_irq_id)


# ---- interrupt flags ------------------------------------------------------------------------


def process_irq_flag(env: Env, regno: int, save: bool) -> None:
    """The stack slot of bpf_local_irq_save() and _restore() (process_irq_flag)."""
    reg = env.frame.regs[regno]
    if save:
        _save(env, reg, regno)
    else:
        _restore(env, reg, regno)


def _save(env: Env, reg: Reg, regno: int) -> None:
    try:
        spi = stackobj.get_spi(env, reg, _KIND, 1)
        free = STACK_IRQ_FLAG not in stackobj.frame_at(env, reg).stack[spi].types
    except stackobj.BadSlot as error:
        free = error.errno == errno.ERANGE
    if not free:
        raise env.reject(errno.EINVAL, f"expected uninitialized irq flag as arg#{regno - 1}\n")
    stackobj.reserve(env, regno, 1)
    spi = stackobj.spi_or_reject(env, reg, _KIND, 1)
    number = env.new_id()
    env.cur.refs.append(Ref(number, env.insn_idx, True))
    env.cur.active_irq_id = number
    frame = stackobj.frame_at(env, reg)
    flag = Reg(PTR_TO_STACK, bd.const(0), 0, 0, None, 0, 0, number)
    stackobj.place(env, frame, spi, STACK_IRQ_FLAG, (flag,))
    stackobj.written(env, frame, spi, 1)
    stackobj.show(env, spi, 1)


def _restore(env: Env, reg: Reg, regno: int) -> None:
    frame = stackobj.frame_at(env, reg)
    try:
        spi = stackobj.get_spi(env, reg, _KIND, 1)
        held = frame.stack[spi].reg.ref if frame.stack[spi].types == _WHOLE else 0
    except stackobj.BadSlot:
        held = 0
    if not held:
        raise env.reject(errno.EINVAL, f"expected an initialized irq flag as arg#{regno - 1}\n")
    stackobj.read(env, frame, spi, 1)
    state = env.cur
    if held != state.active_irq_id:
        where = next((ref.insn_idx for ref in state.refs if ref.id == state.active_irq_id), 0)
        raise env.reject(
            errno.EACCES,
            f"cannot restore irq state out of order, expected id={state.active_irq_id} "
            f"acquired at insn_idx={where}\n",
        )
    state.refs = [ref for ref in state.refs if ref.id != held]
    outer = [ref.id for ref in state.refs if ref.irq]
    state.active_irq_id = outer[-1] if outer else 0
    stackobj.remove(env, frame, spi, 1)
    stackobj.show(env, spi, 1)
