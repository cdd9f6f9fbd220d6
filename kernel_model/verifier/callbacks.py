# SPDX-License-Identifier: GPL-2.0-only
"""Functions of the program: calls of them, their return, and helpers that call them back.

A callback's body is followed from the call and comes back to the call, as often as it takes until nothing
new is seen (since 6.7).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id as f

from .btfargs import check_call_args
from .env import ENOTSUPP, Env, Reject
from .maprules import FOR_EACH
from .operands import scratch_caller_saved
from .pending import push_stack
from .precision import mark_chain_precision
from .printing import print_state, scratch_all
from .pruning import find_prev_entry, widen_imprecise_scalars
from .refs import clear_packet_pointers
from .regions import in_atomic_region
from .regs import (
    NOT_INIT_REG,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_STACK,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
    pointer,
)
from .state import MAX_CALL_FRAMES, FuncState, VerifierState

if TYPE_CHECKING:
    from .calls import CallMeta

SetUp = Callable[[Env, FuncState, FuncState, int], None]


def _enter(env: Env, state: VerifierState, subprog: int, callsite: int, set_up: SetUp) -> None:
    depth = len(state.frames)
    if depth >= MAX_CALL_FRAMES:
        raise env.reject(errno.E2BIG, f"the call stack of {depth + 1} frames is too deep\n")
    callee = FuncState(callsite, depth, subprog)
    scratch_all(env)
    set_up(env, state.frames[-1], callee, callsite)
    state.frames.append(callee)


def _plain(env: Env, caller: FuncState, callee: FuncState, callsite: int) -> None:
    callee.regs[1:6] = caller.regs[1:6]


def _loop(env: Env, caller: FuncState, callee: FuncState, callsite: int) -> None:
    """``callback(index, ctx)``."""
    callee.regs[1] = UNKNOWN_REG
    callee.regs[2] = caller.regs[3]
    callee.in_callback_fn = True
    callee.callback_ret_range = (0, 1)


def _map_elem(env: Env, caller: FuncState, callee: FuncState, callsite: int) -> None:
    """``callback(map, key, value, ctx)``."""
    the_map = env.aux[callsite].map
    if the_map is None or the_map.map_type not in FOR_EACH:
        raise env.reject(ENOTSUPP, "callback function not allowed for map\n")
    callee.regs[1] = caller.regs[1]
    callee.regs[2] = pointer(PTR_TO_MAP_KEY, caller.regs[1].map)
    callee.regs[3] = pointer(PTR_TO_MAP_VALUE, caller.regs[1].map)
    callee.regs[4] = caller.regs[3]
    callee.in_callback_fn = True
    callee.callback_ret_range = (0, 1)


def _push_callback(env: Env, subprog: int, set_up: SetUp) -> None:
    caller = env.frame
    check_call_args(env, subprog)
    env.subprogs[subprog].is_cb = True
    state = push_stack(env, env.subprogs[subprog].start, env.insn_idx, False)
    _enter(env, state, subprog, env.insn_idx, set_up)
    state.callback_unroll_depth += 1
    state.frames[-2].callback_depth += 1
    caller.callback_depth = 0


def _bpf_loop(env: Env, insn: Insn, meta: CallMeta) -> None:
    aux = env.aux[env.insn_idx]
    no_flags = env.frame.regs[4].is_null
    if no_flags:
        mark_chain_precision(env, 4)
    if not aux.loop_initialized:
        aux.loop_initialized = True
        aux.loop_fit_for_inline = no_flags
        aux.loop_subprogno = meta.subprogno
    elif aux.loop_fit_for_inline:
        aux.loop_fit_for_inline = no_flags and aux.loop_subprogno == meta.subprogno
    mark_chain_precision(env, 1)
    if env.frame.callback_depth < env.frame.regs[1].bounds.umax:
        _push_callback(env, meta.subprogno, _loop)
        return
    env.frame.callback_depth = 0
    if env.every_path:
        env.verbose(f"frame{len(env.cur.frames) - 1} bpf_loop iteration limit reached\n")


def _for_each(env: Env, insn: Insn, meta: CallMeta) -> None:
    _push_callback(env, meta.subprogno, _map_elem)


_CALLERS: Final[dict[int, Callable[[Env, Insn, CallMeta], None]]] = {
    f.BPF_FUNC_loop: _bpf_loop,
    f.BPF_FUNC_for_each_map_elem: _for_each,
}


def run(env: Env, insn: Insn, meta: CallMeta) -> None:
    """Follow the callback of a helper call, if it makes one."""
    caller = _CALLERS.get(insn.imm)
    if caller is not None:
        caller(env, insn, meta)


def check_func_call(env: Env, insn: Insn) -> None:
    """A call of a function of the program: walk into it, or trust its signature when it is global."""

    target = env.insn_idx + insn.imm + 1
    subprog = env.find_subprog(target)
    if subprog < 0:
        env.bug(f"target of func call at insn {target} is not a program")
        raise Reject(errno.EFAULT)
    problem = check_call_args(env, subprog)
    sub = env.subprogs[subprog]
    state = env.cur
    caller = state.frames[-1]
    if env.is_global(subprog):
        if sub.might_sleep and (not env.sleepable or in_atomic_region(env)):
            raise env.reject(
                errno.EINVAL,
                "global functions that may sleep are not allowed in non-sleepable context,\n"
                "i.e., in a RCU/IRQ/preempt-disabled section, or in\n"
                "a non-sleepable BPF program context\n",
            )
        if problem:
            raise env.reject(problem, f"Caller passes invalid args into func#{subprog} ('{sub.name}')\n")
        env.verbose(f"Func#{subprog} ('{sub.name}') is global and assumed valid.\n")
        if sub.changes_pkt_data:
            clear_packet_pointers(env)
        sub.called = True
        for i in range(6):
            caller.regs[i] = NOT_INIT_REG
        caller.regs[0] = UNKNOWN_REG
        scratch_caller_saved(env)
        return
    _enter(env, state, subprog, env.insn_idx, _plain)
    for i in range(6):
        caller.regs[i] = NOT_INIT_REG
    scratch_caller_saved(env)
    env.insn_idx = sub.start - 1
    env.liveness.forget_callchain()
    if env.detailed:
        env.verbose("caller:\n")
        print_state(env, state, caller.frameno, True)
        env.verbose("callee:\n")
        print_state(env, state, len(state.frames) - 1, True)


def invalid_scalar(env: Env, regno: int, where: str, low: int, high: int) -> Reject:
    """The words about a return value outside its range."""
    b = env.frame.regs[regno].bounds
    text = f"{where} the register R{regno} has"
    known = False
    if b.smin > -(1 << 63):
        text += f" smin={b.smin}"
        known = True
    if b.smax < (1 << 63) - 1:
        text += f" smax={b.smax}"
        known = True
    if not known:
        text += " unknown scalar value"
    return env.reject(errno.EINVAL, f"{text} should have been in [{low}, {high}]\n")


def leave_by_hidden_exit(env: Env, r0: Reg, *, packets_stale: bool) -> None:
    """Follow both ways of an instruction that may leave the function: on to the next slot later, out now.

    (6.18's stable updates)
    """
    if env.detailed:
        env.scratched_regs |= 1
    push_stack(env, env.insn_idx + 1, env.insn_idx, False)
    if packets_stale:
        clear_packet_pointers(env)
    env.frame.regs[0] = r0
    env.liveness.update(env)
    return_from_func(env)
    env.insn_idx -= 1


def return_from_func(env: Env) -> None:
    """The end of a function that was walked into: back to its caller (prepare_func_exit)."""
    state = env.cur
    callee = state.frames[-1]
    r0 = callee.regs[0]
    if r0.type == PTR_TO_STACK:
        raise env.reject(errno.EINVAL, "cannot return stack pointer to the caller\n")
    caller = state.frames[-2]
    if callee.in_callback_fn:
        if r0.type != SCALAR_VALUE:
            raise env.reject(errno.EACCES, "R0 not a scalar value\n")
        mark_chain_precision(env, 0)
        low, high = callee.callback_ret_range
        if not (low <= r0.bounds.smin and r0.bounds.smax <= high):
            raise invalid_scalar(env, 0, "At callback return", low, high)
        env.insn_idx = callee.callsite
    else:
        caller.regs[0] = r0
        env.insn_idx = callee.callsite + 1
    if env.detailed:
        env.verbose("returning from callee:\n")
        print_state(env, state, callee.frameno, True)
        env.verbose(f"to caller at {env.insn_idx}:\n")
        print_state(env, state, caller.frameno, True)
    state.frames.pop()
    if callee.in_callback_fn:
        before = find_prev_entry(env, state, env.insn_idx)
        if before is not None:
            widen_imprecise_scalars(env, before, state)
