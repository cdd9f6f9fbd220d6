# SPDX-License-Identifier: GPL-2.0-only
"""The first look at a program: where its functions begin, where its jumps go, what cannot be reached.

Phase one of Documentation/bpf/verifier.rst. Back edges are allowed to loaders with CAP_BPF since 5.3.
The depth-first walk also marks where states are compared (prune points) and where the history of a
path must be written down (jump points), so its order is Linux's (check_cfg, 6.18).
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.helpers.table import HELPERS, changes_packet_data, proto_for
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id

from .bounds import s32
from .env import BPF_MAX_SUBPROGS, Env, Reject, SubprogInfo
from .printing import print_line

SYNC_CALLBACK_HELPERS: Final = frozenset(
    (
        bpf_func_id.BPF_FUNC_for_each_map_elem,
        bpf_func_id.BPF_FUNC_find_vma,
        bpf_func_id.BPF_FUNC_loop,
        bpf_func_id.BPF_FUNC_user_ringbuf_drain,
    )
)
"""Helpers that call a function of the program before they return."""
ASYNC_CALLBACK_HELPERS: Final = frozenset((bpf_func_id.BPF_FUNC_timer_set_callback,))
"""Helpers that arrange for a function of the program to be called later."""

_DISCOVERED: Final = 0x10
_EXPLORED: Final = 0x20
_FALLTHROUGH: Final = 1
_BRANCH: Final = 2


def is_ld_imm64(insn: Insn) -> bool:
    """The two-slot constant load."""
    return insn.code == op.LD_IMM64


def is_pseudo_func(insn: Insn) -> bool:
    """A constant load of the address of one of the program's functions."""
    return insn.code == op.LD_IMM64 and insn.src == op.BPF_PSEUDO_FUNC


def is_pseudo_call(insn: Insn) -> bool:
    """A call of one of the program's functions."""
    return insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL


def is_kfunc_call(insn: Insn) -> bool:
    """A call of a kernel function by BTF id."""
    return insn.code == op.CALL and insn.src == op.BPF_PSEUDO_KFUNC_CALL


def is_helper_call(insn: Insn) -> bool:
    """A call of a helper by number."""
    return insn.code == op.CALL and insn.src == 0


def is_may_goto(insn: Insn) -> bool:
    """The bounded jump of 6.9."""
    return insn.code == op.BPF_JMP | op.BPF_JCOND and insn.src == op.BPF_MAY_GOTO


def calls_sync_callback(insn: Insn) -> bool:
    """A helper call that runs one of the program's functions."""
    return insn.code == op.CALL and insn.src == 0 and insn.imm in SYNC_CALLBACK_HELPERS


def jump_offset(insn: Insn) -> int:
    """The distance of a jump: ``imm`` for the long jump of 6.6, else ``off``."""
    return insn.imm if insn.code == op.BPF_JMP32 | op.BPF_JA else insn.off


def _jumps(code: int) -> tuple[bool, bool]:
    """Whether an opcode can jump, and whether it can go on to the next slot."""
    if code & 7 not in (op.BPF_JMP, op.BPF_JMP32):
        return False, True
    operation = code & 0xF0
    if operation == op.BPF_EXIT:
        return False, False
    if operation == op.BPF_JA:
        return True, False
    return operation not in (op.BPF_CALL, op.BPF_TAIL_CALL), True


_JUMPS: Final = tuple(_jumps(code) for code in range(256))


def successors(insns: list[Insn], index: int) -> list[int]:
    """The slots that may follow ``index`` within its function."""
    insn = insns[index]
    can_jump, falls = _JUMPS[insn.code]
    out = []
    if falls:
        out.append(index + (2 if insn.code == op.LD_IMM64 else 1))
    if can_jump:
        out.append(index + jump_offset(insn) + 1)
    return out


# ---- functions -----------------------------------------------------------------------------


def _add_subprog(env: Env, off: int) -> None:
    if not 0 <= off < len(env.insns):
        raise env.reject(errno.EINVAL, "call to invalid destination\n")
    if any(sub.start == off for sub in env.subprogs):
        return
    if len(env.subprogs) >= BPF_MAX_SUBPROGS:
        raise env.reject(errno.E2BIG, "too many subprograms\n")
    env.subprogs.append(SubprogInfo(off))


def add_subprogs(env: Env) -> None:
    """Find the functions: the entry and every target of a call or function constant."""
    from . import kfuncs

    _add_subprog(env, 0)
    for i, insn in enumerate(env.insns):
        if not (is_pseudo_func(insn) or is_pseudo_call(insn) or is_kfunc_call(insn)):
            continue
        if not env.bpf_capable:
            raise env.reject(
                errno.EPERM,
                "loading/calling other bpf or kernel functions are allowed for CAP_BPF and CAP_SYS_ADMIN\n",
            )
        if is_kfunc_call(insn):
            kfuncs.add_kfunc_call(env, insn)
            continue
        _add_subprog(env, i + insn.imm + 1)
    env.subprogs.sort(key=lambda sub: sub.start)
    env.subprogs.append(SubprogInfo(len(env.insns)))
    if env.every_path:
        for i, sub in enumerate(env.subprogs[:-1]):
            env.verbose(f"func#{i} @{sub.start}\n")


def check_subprogs(env: Env) -> None:
    """No jump leaves its function, and no function falls through into the next."""
    current = 0
    sub = env.subprogs[0]
    end = env.subprogs[1].start
    for i, insn in enumerate(env.insns):
        code = insn.code
        if code == op.CALL and insn.src == 0 and insn.imm == bpf_func_id.BPF_FUNC_tail_call:
            sub.has_tail_call = sub.tail_call_reachable = True
        if code & 7 == op.BPF_LD and code & 0xE0 in (op.BPF_ABS, op.BPF_IND):
            sub.has_ld_abs = True
        if code & 7 in (op.BPF_JMP, op.BPF_JMP32) and code & 0xF0 not in (op.BPF_EXIT, op.BPF_CALL):
            target = i + jump_offset(insn) + 1
            if not sub.start <= target < end:
                raise env.reject(errno.EINVAL, f"jump out of range from insn {i} to {s32(target)}\n")
        if i == end - 1:
            if code not in (op.EXIT, op.BPF_JMP32 | op.BPF_JA, op.BPF_JMP | op.BPF_JA):
                raise env.reject(errno.EINVAL, "last insn is not an exit or jmp\n")
            current += 1
            if current < env.subprog_cnt:
                sub = env.subprogs[current]
                end = env.subprogs[current + 1].start


# ---- the walk ------------------------------------------------------------------------------


class _Walk:
    """The non-recursive depth-first search of check_cfg()."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.state = [0] * len(env.insns)
        self.stack = [0]
        self.state[0] = _DISCOVERED

    def run(self) -> None:
        env, state, stack = self.env, self.state, self.stack
        while stack:
            top = stack[-1]
            if not self._visit(top):
                state[top] = _EXPLORED
                stack.pop()
        skip = False
        for i, insn in enumerate(env.insns):
            if skip:
                skip = False
                continue
            if state[i] != _EXPLORED:
                raise env.reject(errno.EINVAL, f"unreachable insn {i}\n")
            if is_ld_imm64(insn):
                if state[i + 1]:
                    raise env.reject(errno.EINVAL, f"jump into the middle of ldimm64 insn {i}\n")
                skip = True

    def _push(self, at: int, to: int, edge: int) -> bool:
        """Follow an edge; True when there is a new instruction to look at first."""
        env, state = self.env, self.state
        if state[at] >= _DISCOVERED | edge:
            return False
        if not 0 <= to < len(env.insns):
            print_line(env, at, f"{at}: ")
            raise env.reject(errno.EINVAL, f"jump out of range from insn {at} to {to}\n")
        if edge == _BRANCH:
            env.aux[to].prune_point = True
            env.aux[to].jmp_point = True
        if state[to] == 0:
            state[at] = _DISCOVERED | edge
            state[to] = _DISCOVERED
            self.stack.append(to)
            return True
        if state[to] & 0xF0 == _DISCOVERED:
            if not env.bpf_capable:
                print_line(env, at, f"{at}: ")
                print_line(env, to, f"{to}: ")
                raise env.reject(errno.EINVAL, f"back-edge from insn {at} to {to}\n")
        else:
            state[at] = _DISCOVERED | edge
        return False

    def _visit_call(self, at: int, visit_callee: bool) -> bool:
        env = self.env
        insn = env.insns[at]
        after = at + (2 if is_ld_imm64(insn) else 1)
        if self._push(at, after, _FALLTHROUGH):
            return True
        env.aux[after].prune_point = True
        env.aux[after].jmp_point = True
        if not visit_callee:
            return False
        callee_start = at + insn.imm + 1
        env.aux[at].prune_point = True
        caller = env.subprogs[env.containing_subprog(at)]
        callee = env.subprogs[env.containing_subprog(callee_start)]
        caller.changes_pkt_data |= callee.changes_pkt_data
        caller.might_sleep |= callee.might_sleep
        return self._push(at, callee_start, _BRANCH)

    def _visit(self, at: int) -> bool:
        env = self.env
        insn = env.insns[at]
        aux = env.aux[at]
        if is_pseudo_func(insn):
            return self._visit_call(at, True)
        if insn.code & 7 not in (op.BPF_JMP, op.BPF_JMP32):
            return self._push(at, at + (2 if is_ld_imm64(insn) else 1), _FALLTHROUGH)
        operation = insn.code & 0xF0
        if operation == op.BPF_EXIT:
            return False
        if operation == op.BPF_CALL:
            if insn.code == op.CALL and insn.src == 0:
                self._note_helper(at, insn)
            elif is_kfunc_call(insn):
                from .kfuncs import note_in_cfg

                note_in_cfg(env, at, insn)
            return self._visit_call(at, insn.src == op.BPF_PSEUDO_CALL)
        if operation == op.BPF_JA:
            if insn.code & 8:
                raise Reject(errno.EINVAL)
            target = at + jump_offset(insn) + 1
            if self._push(at, target, _FALLTHROUGH):
                return True
            env.aux[target].prune_point = True
            env.aux[target].jmp_point = True
            return False
        aux.prune_point = True
        if is_may_goto(insn):
            aux.force_checkpoint = True
        if self._push(at, at + 1, _FALLTHROUGH):
            return True
        return self._push(at, at + insn.off + 1, _BRANCH)

    def _note_helper(self, at: int, insn: Insn) -> None:
        env, aux = self.env, self.env.aux[at]
        if insn.imm in ASYNC_CALLBACK_HELPERS:
            aux.prune_point = True
        if insn.imm in SYNC_CALLBACK_HELPERS:
            aux.calls_callback = True
            aux.force_checkpoint = True
            aux.prune_point = True
            aux.jmp_point = True
        row = HELPERS.get(insn.imm)
        sub = env.subprogs[env.containing_subprog(at)]
        if row is not None:
            proto = proto_for(row, env.type)
            if proto is not None and proto.might_sleep:
                sub.might_sleep = True
        if changes_packet_data(insn.imm):
            sub.changes_pkt_data = True


def returns_abnormally(insn: Insn) -> bool:
    """A tail call that succeeds and a packet load that fails leave a function without EXIT."""
    if insn.code == op.CALL:
        return insn.src == 0 and insn.imm == bpf_func_id.BPF_FUNC_tail_call
    return insn.code & 7 == op.BPF_LD and insn.code & 0xE0 in (op.BPF_ABS, op.BPF_IND)


def _follow(env: Env) -> list[list[int]]:
    """The successors of every slot, hidden exits included. (the latter by 6.18's stable updates)"""
    insns = env.insns
    out = [successors(insns, i) for i in range(len(insns))]
    for number, sub in enumerate(env.subprogs[:-1]):
        slots = range(sub.start, env.subprogs[number + 1].start)
        exits = [i for i in slots if insns[i].code == op.EXIT]
        for i in slots:
            if exits and returns_abnormally(insns[i]):
                out[i].append(exits[-1])
    return out


def check_cfg(env: Env) -> None:
    """Reject what cannot be reached and jumps to where no instruction begins; mark prune points."""
    _Walk(env).run()
    env.follow = _follow(env)


def compute_postorder(env: Env) -> None:
    """The slots of each function in postorder, for the data-flow passes."""
    state = bytearray(len(env.insns))
    order: list[int] = []
    for sub in env.subprogs[:-1]:
        sub.postorder_start = len(order)
        stack = [sub.start]
        while stack:
            top = stack[-1]
            state[top] |= 1
            if state[top] & 2:
                order.append(top)
                stack.pop()
                continue
            for nxt in env.follow[top]:
                if not state[nxt]:
                    stack.append(nxt)
                    state[nxt] |= 1
            state[top] |= 2
    env.subprogs[-1].postorder_start = len(order)
    env.postorder = order


def compute_scc(env: Env) -> None:
    """Number the loops: strongly connected components of the control flow inside functions (6.17).

    ``aux.scc`` stays 0 for slots in no loop. Tarjan's algorithm without recursion, over the slots in order.
    """
    insns = env.insns
    count = len(insns)
    off_stack = 1 << 32
    pre = [0] * count
    low = [0] * count
    stack: list[int] = []
    next_pre = 1
    next_scc = 1
    for root in range(count):
        if pre[root]:
            continue
        dfs = [root]
        while dfs:
            w = dfs[-1]
            if not pre[w]:
                pre[w] = low[w] = next_pre
                next_pre += 1
                stack.append(w)
            follow = [s for s in env.follow[w] if s < count]
            fresh = None
            for s in follow:
                if pre[s]:
                    low[w] = min(low[w], low[s])
                else:
                    fresh = s
                    break
            if fresh is not None:
                dfs.append(fresh)
                continue
            dfs.pop()
            if low[w] < pre[w]:
                continue
            in_loop = stack[-1] != w or w in follow
            while True:
                t = stack.pop()
                low[t] = off_stack
                if in_loop:
                    env.aux[t].scc = next_scc
                if t == w:
                    break
            if in_loop:
                next_scc += 1
    env.scc_cnt = next_scc
