# SPDX-License-Identifier: GPL-2.0-only
"""Conditional jumps: which ways are open, and what each way teaches (check_cond_jmp_op of Linux 6.18)."""

from __future__ import annotations

import errno

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from . import arith
from . import bounds as bd
from .branches import FLIPPED, REVERSED, refine, refine_self, scalar_branch_taken
from .btf_access import is_trusted
from .env import Env
from .memory import MAX_PACKET_OFF
from .operands import check_bounds, leaks_pointer, read_reg
from .pending import push_stack
from .precision import DST_REG_STACK, SRC_REG_STACK, mark_chain_precision, push_history
from .printing import print_insn_state
from .pruning import find_prev_entry, widen_imprecise_scalars
from .regs import (
    AT_PKT_END,
    BASE_MASK,
    BEYOND_PKT_END,
    BPF_ADD_CONST,
    BPF_ADD_CONST32,
    NEVER_NULL,
    PACKET_ANY,
    PTR_MAYBE_NULL,
    PTR_TO_BTF_ID,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_END,
    PTR_TO_PACKET_META,
    PTR_TO_STACK,
    PTR_UNTRUSTED,
    SCALAR_VALUE,
    Reg,
    const_reg,
)
from .sanitize import speculative_path
from .state import Slot, VerifierState, map_regs

LINKED_REGS_MAX = 6
Linked = tuple[tuple[int, int, bool], ...]


# ---- the outcome ----------------------------------------------------------------------------


def _not_null(reg: Reg) -> bool:
    if reg.type & PTR_MAYBE_NULL:
        return False
    base = reg.type & BASE_MASK
    if base == PTR_TO_BTF_ID:
        return is_trusted(reg)
    return base in NEVER_NULL and not (base == PTR_TO_MEM and reg.type & PTR_UNTRUSTED)


def _is_const(reg: Reg, jmp32: bool) -> bool:
    return reg.type == SCALAR_VALUE and not (reg.bounds.mask & bd.U32 if jmp32 else reg.bounds.mask)


def _packet_taken(dst: Reg, src: Reg, cond: int) -> int:
    if src.type == PTR_TO_PACKET_END:
        packet = dst
    elif dst.type == PTR_TO_PACKET_END:
        packet = src
        cond = FLIPPED.get(cond, 0)
    else:
        return -1
    if packet.extra >= 0:
        return -1
    if cond in (op.BPF_JLE, op.BPF_JGT):
        if packet.extra == BEYOND_PKT_END:
            return int(cond == op.BPF_JGT)
    elif cond in (op.BPF_JLT, op.BPF_JGE) and packet.extra in (BEYOND_PKT_END, AT_PKT_END):
        return int(cond == op.BPF_JGE)
    return -1


def _taken(dst: Reg, src: Reg, cond: int, jmp32: bool) -> int:
    """1: always, 0: never, -1: unknown."""
    if dst.type == SCALAR_VALUE and src.type == SCALAR_VALUE:
        return scalar_branch_taken(cond, jmp32, dst.bounds, src.bounds)
    if dst.type in PACKET_ANY and src.type in PACKET_ANY and not jmp32:
        return _packet_taken(dst, src, cond)
    if not _is_const(src, jmp32):
        cond = FLIPPED.get(cond, 0)
        dst, src = src, dst
    if not _is_const(src, jmp32) or not _not_null(dst):
        return -1
    value = src.bounds.value & bd.U32 if jmp32 else src.bounds.value
    if value:
        return -1
    return {op.BPF_JEQ: 0, op.BPF_JNE: 1}.get(cond, -1)


# ---- packet ranges --------------------------------------------------------------------------


def _good_packet_range(state: VerifierState, reg: Reg, open_end: bool) -> None:
    """All pointers of the same origin can read what the compared one was shown to reach."""
    if reg.off < 0 or (reg.off == 0 and open_end):
        return
    if reg.bounds.umax > MAX_PACKET_OFF or reg.bounds.umax + reg.off > MAX_PACKET_OFF:
        return
    new_range = reg.off + open_end
    kind, reg_id = reg.type, reg.id

    def widen(other: Reg) -> Reg:
        if other.type == kind and other.id == reg_id and other.extra < new_range:
            return other.with_extra(new_range)
        return other

    map_regs(state, widen)


def _mark_end(state: VerifierState, regno: int, beyond: bool) -> None:
    regs = state.frames[-1].regs
    if regs[regno].type == PTR_TO_PACKET:
        regs[regno] = regs[regno].with_extra(BEYOND_PKT_END if beyond else AT_PKT_END)


def _unmoved(reg: Reg, kind: int) -> bool:
    return reg.type == kind and reg.id == 0 and reg.off == 0 and not (reg.bounds.mask or reg.bounds.value)


def _match_packet(insn: Insn, dst: Reg, src: Reg, this: VerifierState, other: VerifierState) -> bool:
    """``packet < packet_end`` and its kin teach both ways how far the packet reaches."""
    cond = insn.code & 0xF0
    if not insn.code & 8 or insn.code & 7 == op.BPF_JMP32:
        return False
    if cond not in (op.BPF_JGT, op.BPF_JLT, op.BPF_JGE, op.BPF_JLE):
        return False
    if (dst.type == PTR_TO_PACKET and src.type == PTR_TO_PACKET_END) or (
        dst.type == PTR_TO_PACKET_META and _unmoved(src, PTR_TO_PACKET)
    ):
        packet, regno = dst, insn.dst
    elif (dst.type == PTR_TO_PACKET_END and src.type == PTR_TO_PACKET) or (
        _unmoved(dst, PTR_TO_PACKET) and src.type == PTR_TO_PACKET_META
    ):
        packet, regno = src, insn.src
        cond = FLIPPED[cond]
    else:
        return False
    # As if the packet pointer stood on the left. The way on which it does not exceed the end learns a range;
    # on the other one it is at or beyond the end.
    inside, outside = (other, this) if cond in (op.BPF_JLT, op.BPF_JLE) else (this, other)
    strictly_inside = cond in (op.BPF_JLT, op.BPF_JGE)
    _good_packet_range(inside, packet, strictly_inside)
    _mark_end(outside, regno, not strictly_inside)
    return True


# ---- null checks ----------------------------------------------------------------------------


def _not_null_type(env: Env, reg: Reg) -> Reg:
    """The pointer without its doubt (mark_ptr_not_null_reg)."""
    from .calls import value_pointer_type

    return value_pointer_type(env, reg.with_type(reg.type & ~PTR_MAYBE_NULL))


def mark_null_checked(env: Env, state: VerifierState, regno: int, is_null: bool) -> None:
    """Every copy of a pointer that was compared with NULL is NULL, or is not."""
    checked = state.frames[-1].regs[regno]
    reg_id, ref = checked.id, checked.ref
    if ref and ref == reg_id and is_null:
        state.refs = [item for item in state.refs if item.id != ref]

    def resolve(reg: Reg) -> Reg:
        if not reg.type & PTR_MAYBE_NULL or reg.id != reg_id:
            return reg
        if is_null:
            return const_reg(0)
        return _not_null_type(env, reg).with_id(0)

    map_regs(state, resolve)


# ---- registers that share an id -------------------------------------------------------------


def _collect(env: Env, state: VerifierState, reg_id: int, found: list[tuple[int, int, bool]]) -> None:
    """Live scalars that came from the same one; those beyond six are cut loose."""
    reg_id &= ~BPF_ADD_CONST
    for number in range(len(state.frames) - 1, -1, -1):
        frame = state.frames[number]
        regs = frame.regs
        live = env.aux[state.frame_insn_idx(number)].live_regs_before
        for i in range(10):
            reg = regs[i]
            if live >> i & 1 and reg.type == SCALAR_VALUE and reg.id & ~BPF_ADD_CONST == reg_id:
                if len(found) < LINKED_REGS_MAX:
                    found.append((number, i, True))
                else:
                    regs[i] = reg.with_id(0)
        for i, slot in enumerate(frame.stack):
            if slot.is_scalar_spill and slot.reg.id & ~BPF_ADD_CONST == reg_id:
                if len(found) < LINKED_REGS_MAX:
                    found.append((number, i, False))
                else:
                    frame.stack[i] = Slot(slot.types, slot.reg.with_id(0))


def _synced(reg: Reg, known: Reg) -> Reg:
    if not (reg.id | known.id) & BPF_ADD_CONST or reg.off == known.off:
        return known
    out = known.bounds.copy()
    arith.add_in_place(out, bd.const(reg.off - known.off))
    if (reg.id | known.id) & BPF_ADD_CONST32:
        bd.zext_32_to_64(out)
    bd.sync(out)
    return Reg(SCALAR_VALUE, out, reg.off, reg.id)


def _sync(state: VerifierState, known: Reg, linked: Linked, skip: tuple[int, int]) -> None:
    """Give what was learnt of one register to those that share its id."""
    wanted = known.id & ~BPF_ADD_CONST
    for number, at, is_reg in linked:
        frame = state.frames[number]
        reg = frame.regs[at] if is_reg else frame.stack[at].reg
        if reg.type != SCALAR_VALUE or (is_reg and (number, at) == skip):
            continue
        if reg.id & ~BPF_ADD_CONST != wanted or (reg.id ^ known.id) & BPF_ADD_CONST == BPF_ADD_CONST:
            continue
        new = _synced(reg, known)
        if new is reg:
            continue
        if is_reg:
            frame.regs[at] = new
        else:
            frame.stack[at] = Slot(frame.stack[at].types, new)


# ---- the instruction ------------------------------------------------------------------------


def _may_goto(env: Env, insn: Insn) -> None:
    if insn.code != op.BPF_JMP | op.BPF_JCOND or insn.src != op.BPF_MAY_GOTO or insn.dst or insn.imm:
        raise env.reject(errno.EINVAL, f"invalid may_goto imm {insn.imm}\n")
    cur = env.cur
    assert cur.parent is not None
    before = find_prev_entry(env, cur.parent, env.insn_idx)
    queued = push_stack(env, env.insn_idx + 1, env.insn_idx, False)
    queued.may_goto_depth += 1
    if before is not None:
        widen_imprecise_scalars(env, before, queued)
    env.insn_idx += insn.off


def _learn(env: Env, insn: Insn, cond: int, jmp32: bool, dst: Reg, src: Reg, other: VerifierState) -> None:
    """Ranges on both ways, for two scalars."""
    by_reg = bool(insn.code & 8)
    this_regs, other_regs = env.frame.regs, other.frames[-1].regs
    no, yes = REVERSED[cond], cond
    if by_reg and insn.dst == insn.src:
        false_dst = false_src = refine_self(no, jmp32, dst.bounds)
        true_dst = true_src = refine_self(yes, jmp32, dst.bounds)
    else:
        false_dst, false_src = refine(no, jmp32, dst.bounds, src.bounds)
        true_dst, true_src = refine(yes, jmp32, dst.bounds, src.bounds)
    same = by_reg and insn.dst == insn.src
    true_dst = check_bounds(env, true_dst, "true_reg1")
    true_src = check_bounds(env, true_dst if same else true_src, "true_reg2")
    false_dst = check_bounds(env, false_dst, "false_reg1")
    false_src = check_bounds(env, false_dst if same else false_src, "false_reg2")
    if same:
        true_dst, false_dst = true_src, false_src
    if false_dst is not dst.bounds:
        this_regs[insn.dst] = dst.with_bounds(false_dst)
    if true_dst is not dst.bounds:
        other_regs[insn.dst] = dst.with_bounds(true_dst)
    if by_reg and insn.dst != insn.src:
        if false_src is not src.bounds:
            this_regs[insn.src] = src.with_bounds(false_src)
        if true_src is not src.bounds:
            other_regs[insn.src] = src.with_bounds(true_src)


def _sync_both(env: Env, other: VerifierState, regno: int, linked: Linked) -> None:
    this = env.cur
    reg = this.frames[-1].regs[regno]
    if reg.type != SCALAR_VALUE or not reg.id:
        return
    skip = (len(this.frames) - 1, regno)
    _sync(this, reg, linked, skip)
    _sync(other, other.frames[-1].regs[regno], linked, skip)


def _lift_null(env: Env, cond: int, insn: Insn, dst: Reg, src: Reg, other: VerifierState) -> None:
    """A pointer equal to one that is not NULL is not NULL either (since 6.2)."""
    if dst.type == SCALAR_VALUE or src.type == SCALAR_VALUE:
        return
    if bool(src.type & PTR_MAYBE_NULL) == bool(dst.type & PTR_MAYBE_NULL):
        return
    if PTR_TO_BTF_ID in (src.type & BASE_MASK, dst.type & BASE_MASK):
        return
    if cond not in (op.BPF_JEQ, op.BPF_JNE):
        return
    regs = (other if cond == op.BPF_JEQ else env.cur).frames[-1].regs
    regno = insn.src if src.type & PTR_MAYBE_NULL else insn.dst
    regs[regno] = _not_null_type(env, regs[regno])


def _operands(env: Env, insn: Insn) -> tuple[Reg, Reg]:
    dst = read_reg(env, insn.dst)
    flags = DST_REG_STACK if dst.type == PTR_TO_STACK else 0
    if insn.code & 8:
        if insn.imm:
            raise env.reject(errno.EINVAL, "BPF_JMP/JMP32 uses reserved fields\n")
        src = read_reg(env, insn.src)
        if not (dst.type in PACKET_ANY and src.type in PACKET_ANY) and leaks_pointer(env, src):
            raise env.reject(errno.EACCES, f"R{insn.src} pointer comparison prohibited\n")
        if src.type == PTR_TO_STACK:
            flags |= SRC_REG_STACK
    else:
        if insn.src:
            raise env.reject(errno.EINVAL, "BPF_JMP/JMP32 uses reserved fields\n")
        src = const_reg(insn.imm)
    if flags:
        push_history(env, env.cur, flags)
    return dst, src


def _foreseen(env: Env, insn: Insn, dst: Reg, src: Reg, taken: int) -> None:
    """Only one way is open; a CPU may still be fooled into the other one."""
    if dst.type == SCALAR_VALUE:
        mark_chain_precision(env, insn.dst)
    if insn.code & 8 and src.type == SCALAR_VALUE:
        mark_chain_precision(env, insn.src)
    here = env.insn_idx
    if not env.bypass_spec_v1:
        speculative_path(env, insn, here + 1 if taken else here + insn.off + 1, here)
    if env.detailed:
        print_insn_state(env, env.cur, len(env.cur.frames) - 1)
    if taken:
        env.insn_idx += insn.off


def check_cond_jump(env: Env, insn: Insn) -> None:
    """A conditional jump; ``env.insn_idx`` moves by the offset when only that way is open."""
    cond = insn.code & 0xF0
    if cond == op.BPF_JA or cond > op.BPF_JCOND:
        raise env.reject(errno.EINVAL, f"invalid BPF_JMP/JMP32 opcode {cond:x}\n")
    if cond == op.BPF_JCOND:
        _may_goto(env, insn)
        return
    dst, src = _operands(env, insn)
    jmp32 = insn.code & 7 == op.BPF_JMP32
    taken = _taken(dst, src, cond, jmp32)
    if taken >= 0:
        _foreseen(env, insn, dst, src, taken)
        return
    this = env.cur
    found: list[tuple[int, int, bool]] = []
    if insn.code & 8 and src.type == SCALAR_VALUE and src.id:
        _collect(env, this, src.id, found)
    regs = this.frames[-1].regs
    dst = regs[insn.dst]
    if dst.type == SCALAR_VALUE and dst.id:
        _collect(env, this, dst.id, found)
    linked = tuple(found)
    if len(linked) > 1:
        push_history(env, this, 0, linked)
    dst = regs[insn.dst]
    if insn.code & 8:
        src = regs[insn.src]
    other = push_stack(env, env.insn_idx + insn.off + 1, env.insn_idx, False)
    if dst.type == SCALAR_VALUE and src.type == SCALAR_VALUE:
        _learn(env, insn, cond, jmp32, dst, src, other)
    if linked:
        if insn.code & 8:
            _sync_both(env, other, insn.src, linked)
        _sync_both(env, other, insn.dst, linked)
    if insn.code & 8 and not jmp32:
        _lift_null(env, cond, insn, dst, src, other)
    dst = regs[insn.dst]
    is_null_check = (
        not jmp32
        and not insn.code & 8
        and insn.imm == 0
        and cond in (op.BPF_JEQ, op.BPF_JNE)
        and bool(dst.type & PTR_MAYBE_NULL)
    )
    if is_null_check:
        mark_null_checked(env, this, insn.dst, cond == op.BPF_JNE)
        mark_null_checked(env, other, insn.dst, cond == op.BPF_JEQ)
    elif not _match_packet(insn, dst, regs[insn.src], this, other) and leaks_pointer(env, dst):
        raise env.reject(errno.EACCES, f"R{insn.dst} pointer comparison prohibited\n")
    if env.detailed:
        print_insn_state(env, this, len(this.frames) - 1)
