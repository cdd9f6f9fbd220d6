# SPDX-License-Identifier: GPL-2.0-only
"""The whole call chain must fit into 512 bytes of stack (check_max_stack_depth)."""

from __future__ import annotations

import errno
from typing import Final

from .cfg import is_pseudo_call, is_pseudo_func
from .env import MAX_BPF_STACK, Env
from .state import MAX_CALL_FRAMES

PRIV_STACK_MIN_SIZE: Final = 64
TAIL_CALL_CALLER_LIMIT: Final = 256


class _Chain:
    """The walk over all chains of calls from one function.

    ``adaptive`` holds the functions whose frame leaves the kernel's stack (private stacks, since 6.13),
    ``ordinary`` those that an asynchronous callback may run, which never leave it.
    Chains that were seen with the same depth behind them are not walked again.
    """

    def __init__(self, env: Env, private: bool, adaptive: set[int], ordinary: set[int]) -> None:
        self.env = env
        self.private = private
        self.adaptive = adaptive
        self.ordinary = ordinary
        self.tail_call_reachable = False
        self.callers: list[int] = []
        self.seen: set[tuple[int, int, int, bool]] = set()

    def _enter(self, idx: int, depth: int) -> int:
        """The depth of the chain with this function's frame."""
        env = self.env
        sub = env.subprogs[idx]
        if idx and sub.has_tail_call and depth >= TAIL_CALL_CALLER_LIMIT:
            raise env.reject(
                errno.EACCES,
                f"tail_calls are not allowed when call stack of previous frames is {depth} bytes."
                " Too large\n",
            )
        own = frame_size(env, sub.stack_depth)
        if not self.private:
            self.adaptive.discard(idx)
        elif own >= PRIV_STACK_MIN_SIZE and idx not in self.ordinary:
            self.adaptive.add(idx)
        if idx in self.adaptive:
            if own > MAX_BPF_STACK:
                raise env.reject(errno.EACCES, f"stack size of subprog {idx} is {own}. Too large\n")
            return depth
        depth += own
        if depth > MAX_BPF_STACK:
            raise env.reject(
                errno.EACCES,
                f"combined stack size of {len(self.callers) + 1} calls is {depth}. Too large\n",
            )
        return depth

    def walk(self, idx: int, depth: int) -> None:
        """This function and everything that it calls; at most MAX_CALL_FRAMES deep."""
        env = self.env
        key = (idx, depth, len(self.callers), self.tail_call_reachable)
        if key in self.seen:
            return
        if not self.private:
            self.ordinary.add(idx)
        depth = self._enter(idx, depth)
        for at in range(env.subprogs[idx].start, env.subprogs[idx + 1].start):
            insn = env.insns[at]
            if not is_pseudo_call(insn) and not is_pseudo_func(insn):
                continue
            callee = env.find_subprog(at + insn.imm + 1)
            sub = env.subprogs[callee]
            if sub.is_async_cb and not is_pseudo_call(insn):
                continue
            if sub.has_tail_call:
                self.tail_call_reachable = True
            self.callers.append(idx)
            if len(self.callers) >= MAX_CALL_FRAMES:
                raise env.reject(errno.E2BIG, f"the call stack of {len(self.callers)} frames is too deep !\n")
            self.walk(callee, depth)
            self.callers.pop()
        if self.tail_call_reachable:
            for caller in self.callers:
                env.subprogs[caller].tail_call_reachable = True
        else:
            self.seen.add(key)


def frame_size(env: Env, stack_depth: int) -> int:
    """Bytes that a function takes: multiples of 16 for the JIT, of 32 for the interpreter."""
    if env.kernel.jit:
        return -(-stack_depth // 16) * 16
    return -(-max(stack_depth, 1) // 32) * 32


def check_max_stack_depth(env: Env) -> None:
    """Refuse chains of calls that are too deep; note which functions reach a tail call."""
    subs = env.subprogs
    private = env.type.private_stack and not any(sub.has_tail_call for sub in subs[:-1])
    adaptive: set[int] = set()
    ordinary: set[int] = set()
    for number in range(env.subprog_cnt - 1, -1, -1):
        if number and not subs[number].is_async_cb:
            continue
        _Chain(env, private and number == 0, adaptive, ordinary).walk(number, 0)
    env.prog_flags["tail_call_reachable"] = subs[0].tail_call_reachable
    env.prog_flags["jits_use_priv_stack"] = bool(adaptive)
    for number in adaptive:
        subs[number].priv_stack = True
