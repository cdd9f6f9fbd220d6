# SPDX-License-Identifier: GPL-2.0-only
"""Paths put aside at branches, and taking the last of them up again."""

from __future__ import annotations

import errno

from .env import BPF_COMPLEXITY_LIMIT_JMP_SEQ, Env, Pending
from .state import VerifierState


def push_stack(env: Env, insn_idx: int, prev_insn_idx: int, speculative: bool) -> VerifierState:
    """Put a copy of the running state aside, to go on at ``insn_idx`` later; refused beyond 8192 of them."""
    state = env.cur.copy()
    state.speculative |= speculative
    env.pending.append(Pending(state, insn_idx, prev_insn_idx, env.log.position))
    if len(env.pending) > BPF_COMPLEXITY_LIMIT_JMP_SEQ:
        raise env.reject(errno.EFAULT, f"The sequence of {len(env.pending)} jumps is too complex.\n")
    if state.parent is not None:
        state.parent.branches += 1
    if env.observer is not None:
        env.observer.fork(env)
    return state


def pop_stack(env: Env, forget_log: bool) -> Pending | None:
    """Take up the path put aside last; its state becomes the running one. None when none is left."""
    if not env.pending:
        return None
    item = env.pending.pop()
    env.cur = item.state
    if forget_log:
        env.log.reset(item.log_pos)
    if env.observer is not None:
        env.observer.resume(env)
    return item
