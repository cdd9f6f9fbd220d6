# SPDX-License-Identifier: GPL-2.0-only
"""Pruning: a path that reaches a state no worse than one already found safe need not be followed again.

Rules of is_state_visited(), states_equal() and of the loops (strongly connected components, 6.17) of
Linux 6.18. A state inside a loop that is not yet fully explored is compared by ranges, since its marks of
precision are not final; the marks are spread over the loop's back edges when the loop is left.
"""

from __future__ import annotations

import errno
from typing import Final

from . import bounds as bd
from . import tnum
from .cfg import is_may_goto
from .env import BPF_COMPLEXITY_LIMIT_STATES, Env, Reject
from .objects import ACTIVE, iter_depth, iter_state, same_iter
from .precision import (
    mark_all_scalars_precise,
    mark_precise_batch,
    push_history,
    set_bits,
    want_reg,
    want_slot,
)
from .printing import print_line, print_state
from .regs import (
    BASE_MASK,
    BPF_ADD_CONST,
    NOT_INIT,
    NOT_INIT_REG,
    PTR_TO_ARENA,
    PTR_TO_BUF,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_META,
    PTR_TO_STACK,
    PTR_TO_TP_BUFFER,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
)
from .state import (
    EMPTY_SLOT,
    SPILLED_ALL,
    STACK_DYNPTR,
    STACK_INVALID,
    STACK_IRQ_FLAG,
    STACK_ITER,
    STACK_MISC,
    STACK_SPILL,
    STACK_ZERO,
    FuncState,
    Slot,
    VerifierState,
    same_callsites,
)

NOT_EXACT: Final = 0
EXACT: Final = 1
RANGE_WITHIN: Final = 2

_MAX_BACKEDGE_ITERS: Final = 64
_OBJECTS: Final = (STACK_DYNPTR, STACK_ITER, STACK_IRQ_FLAG)
_INVALID8: Final = bytes(8)
_MISC: Final = bytes((STACK_MISC,))
_INVALID_OR_MISC: Final = bytes((STACK_INVALID, STACK_MISC))
_ALL_REGS: Final = 0x7FF
_R0_TO_R9: Final = 0x3FF
_MEMORY: Final = frozenset((PTR_TO_MAP_KEY, PTR_TO_MAP_VALUE, PTR_TO_MEM, PTR_TO_BUF, PTR_TO_TP_BUFFER))


class SccVisit:
    """One passage through a loop, by chain of calls: the state that entered it, and its back edges."""

    __slots__ = ("backedges", "entry_state", "num_backedges")

    def __init__(self) -> None:
        self.entry_state: VerifierState | None = None
        self.backedges: list[VerifierState] = []
        self.num_backedges = 0


class _IdMap:
    """Ids of the old state and those that stand for them in the new one (both ways unique)."""

    __slots__ = ("cur", "old", "tmp")

    def __init__(self, next_id: int) -> None:
        self.old: dict[int, int] = {}
        self.cur: dict[int, int] = {}
        self.tmp = next_id

    def same(self, old_id: int, cur_id: int) -> bool:
        """Both unset, or tied to one another alone."""
        if not old_id or not cur_id:
            return not old_id and not cur_id
        known = self.old.get(old_id)
        if known is not None:
            return known == cur_id
        if cur_id in self.cur:
            return False
        self.old[old_id] = cur_id
        self.cur[cur_id] = old_id
        return True

    def scalar(self, old_id: int, cur_id: int) -> bool:
        """The same for scalars: an old one without id is independent, so ties of the new one do no harm."""
        if not old_id:
            return True
        if not cur_id:
            self.tmp += 1
            cur_id = self.tmp
        if not self.same(old_id, cur_id):
            return False
        return not old_id & BPF_ADD_CONST or self.same(old_id & ~BPF_ADD_CONST, cur_id & ~BPF_ADD_CONST)


# ---- comparing ------------------------------------------------------------------------------


def _regs_exact(old: Reg, cur: Reg, ids: _IdMap) -> bool:
    return old.exactly(cur) and ids.same(old.id, cur.id) and ids.same(old.ref, cur.ref)


def _reg_safe(env: Env, old: Reg, cur: Reg, ids: _IdMap, exact: int, precise: bool) -> bool:
    """Whether ``cur`` is no worse than ``old``."""
    if exact == EXACT:
        return _regs_exact(old, cur, ids)
    if old.type == NOT_INIT and (exact == NOT_EXACT or cur.type == NOT_INIT):
        return True
    if old.type != cur.type:
        return False
    base = old.type & BASE_MASK
    if base == SCALAR_VALUE:
        if env.explore_alu_limits:
            return old.exactly(cur) and ids.scalar(old.id, cur.id)
        if not precise and exact == NOT_EXACT:
            return True
        if old.id and (old.id ^ cur.id) & BPF_ADD_CONST:
            return False
        if old.id & BPF_ADD_CONST and old.off != cur.off:
            return False
        return _no_worse(old, cur) and ids.scalar(old.id, cur.id)
    if base in _MEMORY:
        same = old.off == cur.off and old.map is cur.map and old.extra == cur.extra
        return same and _no_worse(old, cur) and ids.same(old.id, cur.id) and ids.same(old.ref, cur.ref)
    if base in (PTR_TO_PACKET, PTR_TO_PACKET_META):
        if old.extra > cur.extra or old.off != cur.off:
            return False
        return ids.same(old.id, cur.id) and _no_worse(old, cur)
    if base == PTR_TO_STACK:
        return _regs_exact(old, cur, ids) and old.frameno == cur.frameno
    if base == PTR_TO_ARENA:
        return True
    return _regs_exact(old, cur, ids)


def _no_worse(old: Reg, cur: Reg) -> bool:
    a, b = old.bounds, cur.bounds
    return a is b or (bd.within(a, b) and tnum.contains((a.value, a.mask), (b.value, b.mask)))


def _scalar_for_slot(env: Env, slot: Slot) -> Reg | None:
    """A slot of plain unknown bytes reads as an unknown scalar, so it compares with a spilled one."""
    types = slot.types
    if types[0] == STACK_SPILL:
        return slot.reg if slot.reg.type == SCALAR_VALUE else None
    unknown = _INVALID_OR_MISC if env.allow_uninit_stack else _MISC
    return None if types.strip(unknown) else UNKNOWN_REG


def _slot_safe(env: Env, old: Slot, cur: Slot | None, ids: _IdMap, exact: int, precise: bool) -> bool:
    old_types = old.types
    if exact == NOT_EXACT:
        if old_types == _INVALID8:
            return True
    elif cur is None or old_types != cur.types:
        return False
    if env.allow_uninit_stack and not old_types.strip(_INVALID_OR_MISC):
        return True
    plain = old_types == SPILLED_ALL or (old_types[0] != STACK_SPILL and old_types[7] <= STACK_ZERO)
    if plain and cur is not None and old_types == cur.types:
        # Only what is spilled there can differ.
        return old_types[7] != STACK_SPILL or _reg_safe(env, old.reg, cur.reg, ids, exact, precise)
    whole = False
    for i in range(8):
        kind = old_types[i]
        if kind == STACK_INVALID or (env.allow_uninit_stack and kind == STACK_MISC):
            continue
        if cur is None:
            return False
        if not whole:
            old_reg, cur_reg = _scalar_for_slot(env, old), _scalar_for_slot(env, cur)
            if old_reg is not None and cur_reg is not None:
                return _reg_safe(env, old_reg, cur_reg, ids, exact, precise)
            whole = True
        if kind == STACK_MISC and cur.types[i] == STACK_ZERO:
            continue
        if kind != cur.types[i]:
            return False
    if old_types[7] == STACK_SPILL:
        assert cur is not None
        return _reg_safe(env, old.reg, cur.reg, ids, exact, precise)
    if old_types[7] in _OBJECTS:
        assert cur is not None
        return same_iter(old.reg, cur.reg) and ids.same(old.reg.ref, cur.reg.ref)
    return True


def _frames_safe(env: Env, old: FuncState, cur: FuncState, insn_idx: int, ids: _IdMap, exact: int) -> bool:
    if old.callback_depth > cur.callback_depth:
        return False
    marks = old.precise_regs if env.bpf_capable else -1
    # Imprecise scalars need no look in most comparisons.
    loose = exact == NOT_EXACT and not env.explore_alu_limits
    old_regs, cur_regs = old.regs, cur.regs
    for i in set_bits(env.aux[insn_idx].live_regs_before & _ALL_REGS):
        a, b = old_regs[i], cur_regs[i]
        if a is b and not a.id and not a.ref:
            continue
        precise = bool(marks >> i & 1)
        if loose and not precise and a.type == SCALAR_VALUE and b.type == SCALAR_VALUE:
            continue
        if not _reg_safe(env, a, b, ids, exact, precise):
            return False
    marks = old.precise_slots if env.bpf_capable else -1
    cur_stack = cur.stack
    have = len(cur_stack)
    for i, slot in enumerate(old.stack):
        if slot is EMPTY_SLOT and exact == NOT_EXACT:
            continue
        other = cur_stack[i] if i < have else None
        if slot is other and not slot.reg.id and not slot.reg.ref:
            continue
        if not _slot_safe(env, slot, other, ids, exact, bool(marks >> i & 1)):
            return False
    return True


def _refs_safe(old: VerifierState, cur: VerifierState, ids: _IdMap) -> bool:
    if len(old.refs) != len(cur.refs) or not ids.same(old.active_irq_id, cur.active_irq_id):
        return False
    return all(ids.same(a.id, b.id) and a.irq == b.irq for a, b in zip(old.refs, cur.refs, strict=True))


def states_equal(env: Env, old: VerifierState, cur: VerifierState, exact: int) -> bool:
    """Whether following ``cur`` can find nothing that following ``old`` did not."""
    if len(old.frames) != len(cur.frames) or (old.speculative and not cur.speculative):
        return False
    if old.active_preempt_locks != cur.active_preempt_locks or old.active_rcu_lock != cur.active_rcu_lock:
        return False
    ids = _IdMap(env.id_gen)
    if (old.refs or cur.refs) and not _refs_safe(old, cur, ids):
        return False
    for i in range(len(old.frames)):
        a, b = old.frames[i], cur.frames[i]
        if a.callsite != b.callsite:
            return False
        if not _frames_safe(env, a, b, old.frame_insn_idx(i), ids, exact):
            return False
    return True


def _maybe_looping(old: VerifierState, cur: VerifierState) -> bool:
    if len(old.frames) != len(cur.frames):
        return False
    a, b = old.frames[-1].regs, cur.frames[-1].regs
    for i in range(11):
        x, y = a[i], b[i]
        if x is not y and not (x.id == y.id and x.ref == y.ref and x.exactly(y)):
            return False
    return True


# ---- loops ----------------------------------------------------------------------------------


def _callchain(env: Env, state: VerifierState) -> tuple[tuple[int, ...], int] | None:
    """The calls that lead to the outermost frame inside a loop, and that loop's number."""
    if env.scc_cnt <= 1:
        return None
    if state.kept:
        return state.loop
    sites: list[int] = []
    last = len(state.frames) - 1
    for i in range(last + 1):
        insn_idx = state.frame_insn_idx(i)
        scc = env.aux[insn_idx].scc
        if scc:
            return (tuple(sites), scc)
        if i < last:
            sites.append(insn_idx)
    return None


def _chain_text(chain: tuple[tuple[int, ...], int]) -> str:
    return "(" + "".join(f"{site}," for site in chain[0]) + f"{chain[1]})"


def _enter_scc(env: Env, state: VerifierState) -> None:
    chain = _callchain(env, state)
    if chain is None:
        return
    visit = env.scc_visits.get(chain)
    if visit is None:
        visit = env.scc_visits[chain] = SccVisit()
    if visit.entry_state is None:
        visit.entry_state = state
        if env.every_path:
            env.log.write(f"SCC enter {_chain_text(chain)}\n")


def _exit_scc(env: Env, state: VerifierState) -> None:
    chain = _callchain(env, state)
    if chain is None:
        return
    visit = env.scc_visits.get(chain)
    if visit is None:
        if not state.speculative:
            env.bug(f"scc exit: no visit info for call chain {_chain_text(chain)}")
            raise Reject(errno.EFAULT)
        return
    if visit.entry_state is not state:
        return
    if env.every_path:
        env.log.write(f"SCC exit {_chain_text(chain)}\n")
    visit.entry_state = None
    env.num_backedges -= visit.num_backedges
    visit.num_backedges = 0
    _update_peak(env)
    _propagate_backedges(env, visit)


def _add_backedge(env: Env, state: VerifierState, backedge: VerifierState) -> None:
    chain = _callchain(env, state)
    visit = env.scc_visits.get(chain) if chain is not None else None
    if chain is None or visit is None:
        env.bug(f"add backedge: no SCC in verification path, insn_idx {state.insn_idx}")
        raise Reject(errno.EFAULT)
    if env.every_path:
        env.log.write(f"SCC backedge {_chain_text(chain)}\n")
    visit.backedges.insert(0, backedge)
    visit.num_backedges += 1
    env.num_backedges += 1
    _update_peak(env)


def _incomplete(env: Env, state: VerifierState) -> bool:
    """The state lies in a loop that is still being explored, so its marks may still grow."""
    chain = _callchain(env, state)
    if chain is None:
        return False
    visit = env.scc_visits.get(chain)
    return visit is not None and bool(visit.backedges)


def _propagate_backedges(env: Env, visit: SccVisit) -> None:
    rounds = 0
    changed = True
    while changed:
        rounds += 1
        if rounds > _MAX_BACKEDGE_ITERS + 1:
            if env.every_path:
                env.log.write("propagate_backedges: too many iterations\n")
            for backedge in visit.backedges:
                mark_all_scalars_precise(env, backedge)
            break
        changed = False
        for backedge in visit.backedges:
            assert backedge.equal_state is not None
            changed |= _propagate_precision(env, backedge.equal_state, backedge)
    visit.backedges = []


def _propagate_precision(env: Env, old: VerifierState, cur: VerifierState) -> bool:
    """What had to be precise in the equal state has to be in this one, and in where it came from."""
    for number in range(len(old.frames) - 1, -1, -1):
        frame = old.frames[number]
        words: list[str] = []
        for i in set_bits(frame.precise_regs & _R0_TO_R9):
            if frame.regs[i].type == SCALAR_VALUE:
                words.append(f"r{i}")
                want_reg(env, number, i)
        for i in set_bits(frame.precise_slots):
            if i < len(frame.stack) and frame.stack[i].is_scalar_spill:
                words.append(f"fp{-(i + 1) * 8}")
                want_slot(env, number, i)
        if words:
            if env.every_path:
                env.log.write(f"frame {number}: propagating {','.join(words)}")
            env.log.write("\n")
    return mark_precise_batch(env, cur)


# ---- states kept ----------------------------------------------------------------------------


def _update_peak(env: Env) -> None:
    now = env.explored_size + env.free_list_size + env.num_backedges
    if now > env.stats.peak_states:
        env.stats.peak_states = now


def bucket_of(env: Env, insn_idx: int, callsite: int) -> list[VerifierState]:
    """The kept states that share a hash bucket, oldest first."""
    return env.explored[((insn_idx ^ callsite) & 0xFFFFFFFF) % len(env.insns)]


def _maybe_free(env: Env, state: VerifierState) -> None:
    if state.in_free_list and state.branches == 0 and not _incomplete(env, state):
        state.in_free_list = False
        env.free_list_size -= 1


def update_branch_counts(env: Env, state: VerifierState | None) -> None:
    """A path ended: states whose paths all ended are complete."""
    child: VerifierState | None = None
    while state is not None:
        state.branches -= 1
        if state.branches:
            break
        _exit_scc(env, state)
        parent = state.parent
        if child is not None:
            _maybe_free(env, child)
        child = parent
        state = parent


def _clean(env: Env, state: VerifierState) -> None:
    """Forget registers and slots that nothing reads any more."""
    env.liveness.prepare(env, state)
    state.cleaned = True
    for number, frame in enumerate(state.frames):
        live = env.aux[state.frame_insn_idx(number)].live_regs_before
        for i in range(10):
            if not live >> i & 1:
                frame.regs[i] = NOT_INIT_REG
                frame.precise_regs &= ~(1 << i)
        for i, slot in enumerate(frame.stack):
            if slot is not EMPTY_SLOT and not env.liveness.alive(env, number, i):
                frame.stack[i] = EMPTY_SLOT
                frame.precise_slots &= ~(1 << i)


def find_prev_entry(env: Env, cur: VerifierState, insn_idx: int) -> VerifierState | None:
    """The nearest earlier state of this very path at ``insn_idx``: the loop's last round."""
    for state in reversed(bucket_of(env, insn_idx, env.cur.frames[-1].callsite)):
        if (
            state.insn_idx == insn_idx
            and state.branches
            and same_callsites(state, cur)
            and state.dfs_depth < cur.dfs_depth
        ):
            return state
    return None


def widen_imprecise_scalars(env: Env, old: VerifierState, cur: VerifierState) -> None:
    """Numbers that change from round to round and were not needed exactly become unknown (since 6.7)."""
    ids = _IdMap(env.id_gen)

    def widened(before: Reg, now: Reg, precise: bool) -> Reg:
        if before.type != SCALAR_VALUE or now.type != SCALAR_VALUE:
            return now
        if precise or not env.bpf_capable or _regs_exact(before, now, ids):
            return now
        return UNKNOWN_REG

    for number in range(len(old.frames) - 1, -1, -1):
        a, b = old.frames[number], cur.frames[number]
        for i in range(11):
            b.regs[i] = widened(a.regs[i], b.regs[i], bool(a.precise_regs >> i & 1))
        for i in range(min(len(a.stack), len(b.stack))):
            before, now = a.stack[i], b.stack[i]
            if before.is_spill and now.is_spill:
                reg = widened(before.reg, now.reg, bool(a.precise_slots >> i & 1))
                if reg is not now.reg:
                    b.stack[i] = Slot(now.types, reg)


def _iter_is_active(cur: VerifierState) -> bool:
    """The iterator that R1 points to may yield another element."""
    reg = cur.frames[-1].regs[1]
    spi = (-(reg.off + bd.s64(reg.bounds.value)) - 1) // 8
    return iter_state(cur.frames[reg.frameno].stack[spi].reg) == ACTIVE


def _iter_depths_differ(old: VerifierState, cur: VerifierState) -> bool:
    """Some iterator has moved on, so the program is not where it was."""
    for a, b in zip(old.frames, cur.frames, strict=True):
        for before, now in zip(a.stack, b.stack, strict=False):
            active = before.types[0] == STACK_ITER and iter_state(before.reg) == ACTIVE
            if active and iter_depth(before.reg) != iter_depth(now.reg):
                return True
    return False


def _equal_on_path(env: Env, state: VerifierState, cur: VerifierState, insn_idx: int) -> tuple[bool, bool]:
    """For a kept state of this very path: (the loop converged, look no further than a miss).

    Raises Reject for a loop that makes no progress.
    """
    if state.frames[-1].in_async_callback_fn and (
        state.frames[-1].async_entry_cnt != cur.frames[-1].async_entry_cnt
    ):
        return False, False
    if (
        is_may_goto(env.insns[insn_idx])
        and state.may_goto_depth != cur.may_goto_depth
        and states_equal(env, state, cur, RANGE_WITHIN)
    ):
        return True, True
    if env.aux[insn_idx].is_iter_next:
        hit = states_equal(env, state, cur, RANGE_WITHIN) and _iter_is_active(cur)
        return hit, hit
    if env.aux[insn_idx].calls_callback:
        return states_equal(env, state, cur, RANGE_WITHIN), False
    if (
        _maybe_looping(state, cur)
        and states_equal(env, state, cur, EXACT)
        and not _iter_depths_differ(state, cur)
        and state.may_goto_depth == cur.may_goto_depth
        and state.callback_unroll_depth == cur.callback_unroll_depth
    ):
        print_line(env, insn_idx, "; ")
        env.verbose(f"infinite loop detected at insn {insn_idx}\n")
        env.log.write("cur state:")
        print_state(env, cur, len(cur.frames) - 1, True)
        env.log.write("old state:")
        print_state(env, state, len(cur.frames) - 1, True)
        raise Reject(errno.EINVAL)
    return False, False


def _hit(env: Env, state: VerifierState, cur: VerifierState, insn_idx: int, loop: bool) -> None:
    state.hit_cnt += 1
    if env.aux[env.insn_idx].jmp_point:
        push_history(env, cur, 0)
    _propagate_precision(env, state, cur)
    if loop:
        backedge = cur.copy()
        backedge.equal_state = state
        backedge.insn_idx = insn_idx
        _add_backedge(env, state, backedge)


def is_state_visited(env: Env, insn_idx: int) -> bool:
    """Whether the running state needs no following; else it may be kept for others to be compared with."""
    cur = env.cur
    aux = env.aux[insn_idx]
    force = env.test_state_freq or aux.force_checkpoint or len(cur.jmp_history) > 40
    add = force or (
        env.jmps_processed - env.prev_jmps_processed >= 2
        and env.insn_processed - env.prev_insn_processed >= 8
    )
    bucket = bucket_of(env, insn_idx, cur.frames[-1].callsite)
    if bucket:
        for state in reversed(bucket):
            if state.cleaned or state.branches or state.insn_idx != insn_idx:
                continue
            if same_callsites(state, cur) and not _incomplete(env, state):
                _clean(env, state)
        count = 0
        for state in bucket[::-1]:
            count += 1
            if state.insn_idx != insn_idx:
                continue
            if state.branches:
                hit, loop = _equal_on_path(env, state, cur, insn_idx)
                if hit:
                    _hit(env, state, cur, insn_idx, loop)
                    return True
                if (
                    not force
                    and env.jmps_processed - env.prev_jmps_processed < 20
                    and env.insn_processed - env.prev_insn_processed < 100
                ):
                    add = False
            else:
                loop = state.loop is not None and _incomplete(env, state)
                if states_equal(env, state, cur, RANGE_WITHIN if loop else NOT_EXACT):
                    _hit(env, state, cur, insn_idx, loop)
                    return True
            if add:
                state.miss_cnt += 1
            patience = 64 if aux.force_checkpoint and state.branches > 0 else 3
            if state.miss_cnt > state.hit_cnt * patience + patience:
                bucket.remove(state)
                state.in_free_list = True
                env.free_list_size += 1
                env.explored_size -= 1
                _maybe_free(env, state)
        if env.stats.max_states_per_insn < count:
            env.stats.max_states_per_insn = count
        if not env.bpf_capable and count > BPF_COMPLEXITY_LIMIT_STATES:
            return False
    if add:
        _keep(env, cur, insn_idx, bucket)
    return False


def _keep(env: Env, cur: VerifierState, insn_idx: int, bucket: list[VerifierState]) -> None:
    stats = env.stats
    stats.total_states += 1
    env.explored_size += 1
    _update_peak(env)
    env.prev_jmps_processed = env.jmps_processed
    env.prev_insn_processed = env.insn_processed
    if env.bpf_capable:
        for frame in cur.frames:
            frame.precise_regs = frame.precise_slots = 0
    new = cur.copy()
    new.insn_idx = insn_idx
    new.loop = _callchain(env, new)
    new.kept = True
    _enter_scc(env, new)
    cur.parent = new
    cur.first_insn_idx = insn_idx
    cur.dfs_depth = new.dfs_depth + 1
    cur.jmp_history = []
    bucket.append(new)
