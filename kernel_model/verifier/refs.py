# SPDX-License-Identifier: GPL-2.0-only
"""What a path must give back (references, since 4.20), and what it loses when the packet moves."""

from __future__ import annotations

import errno

from .env import Env, Reject
from .objects import is_packet_slice
from .regs import NOT_INIT_REG, PACKET_ANY, UNKNOWN_REG
from .state import Ref, map_regs


def acquire_reference(env: Env) -> int:
    """Note a new reference, taken by the current instruction; its id."""
    new = env.new_id()
    env.cur.refs.append(Ref(new, env.insn_idx))
    return new


def release_reference(env: Env, ref: int) -> bool:
    """Give a reference back: its copies are pointers no more. False when it was not held."""
    state = env.cur
    left = [item for item in state.refs if item.id != ref or item.irq]
    if len(left) == len(state.refs):
        return False
    state.refs = left
    stale = UNKNOWN_REG if env.allow_ptr_leaks else NOT_INIT_REG
    map_regs(state, lambda reg: stale if reg.ref == ref else reg)
    return True


def check_resource_leak(env: Env, what: str, check_locks: bool) -> None:
    """Nothing may be held where the program ends (or leaves for another one)."""
    state = env.cur
    held = [] if env.frame.frameno else [item for item in state.refs if not item.irq]
    for item in held:
        env.verbose(f"Unreleased reference id={item.id} alloc_insn={item.insn_idx}\n")
    if held:
        env.verbose(f"{what} would lead to reference leak\n")
        raise Reject(errno.EINVAL)
    if not check_locks:
        return
    regions = (
        (state.active_irq_id, "bpf_local_irq_save"),
        (state.active_rcu_lock, "bpf_rcu_read_lock"),
        (state.active_preempt_locks, "bpf_preempt_disable"),
    )
    for active, opener in regions:
        if active:
            raise env.reject(errno.EINVAL, f"{what} cannot be used inside {opener}-ed region\n")


def clear_packet_pointers(env: Env) -> None:
    """The packet may have moved: pointers into it are numbers now."""
    stale = UNKNOWN_REG if env.allow_ptr_leaks else NOT_INIT_REG
    map_regs(env.cur, lambda reg: stale if reg.type in PACKET_ANY or is_packet_slice(reg) else reg)
