# SPDX-License-Identifier: GPL-2.0-only
"""Arithmetic instructions: on scalars by bounds, on pointers by offset (check_alu_op of Linux 6.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from . import arith, tnum
from . import bounds as bd
from . import sanitize as san
from .bounds import S64_MAX, S64_MIN, U64, Bounds
from .env import Env
from .operands import check_bounds, check_writable, leaks_pointer, read_reg, tie_before_move
from .pending import push_stack
from .precision import mark_chain_precision
from .regs import (
    BASE_MASK,
    BPF_ADD_CONST,
    BPF_ADD_CONST32,
    BPF_ADD_CONST64,
    BPF_MAX_VAR_OFF,
    CONST_PTR_TO_DYNPTR,
    CONST_PTR_TO_MAP,
    PACKET_POINTERS,
    PTR_MAYBE_NULL,
    PTR_TO_ARENA,
    PTR_TO_BTF_ID,
    PTR_TO_BUF,
    PTR_TO_CTX,
    PTR_TO_FLOW_KEYS,
    PTR_TO_FUNC,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_META,
    PTR_TO_STACK,
    PTR_TO_TP_BUFFER,
    PTR_UNTRUSTED,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
    const_reg,
    scalar,
    type_str,
)

OPERATORS: Final = (
    "+=",
    "-=",
    "*=",
    "/=",
    "|=",
    "&=",
    "<<=",
    ">>=",
    "neg",
    "%=",
    "^=",
    "=",
    "s>>=",
    "endian",
)
"""The log's sign for each operation, by its number."""
_MOVABLE: Final = frozenset(
    (
        PTR_TO_CTX, PTR_TO_MAP_VALUE, PTR_TO_MAP_KEY, PTR_TO_STACK, PTR_TO_PACKET_META, PTR_TO_PACKET,
        PTR_TO_TP_BUFFER, PTR_TO_BTF_ID, PTR_TO_MEM, PTR_TO_BUF, PTR_TO_FUNC, CONST_PTR_TO_DYNPTR,
    )
)  # fmt: skip
"""Pointers that numbers may be added to."""


# ---- pointers -------------------------------------------------------------------------------


def _check_sane_offset(env: Env, reg: Reg, kind: int) -> None:
    """Offsets stay below 2**29 either way, so that sums never overflow 32 bits."""
    b = reg.bounds
    if b.mask == 0:
        value = bd.s64(b.value)
        if value >= BPF_MAX_VAR_OFF or value <= -BPF_MAX_VAR_OFF:
            raise env.reject(
                errno.EINVAL, f"math between {type_str(kind)} pointer and {value} is not allowed\n"
            )
    if reg.off >= BPF_MAX_VAR_OFF or reg.off <= -BPF_MAX_VAR_OFF:
        raise env.reject(errno.EINVAL, f"{type_str(kind)} pointer offset {reg.off} is not allowed\n")
    if b.smin == S64_MIN:
        raise env.reject(
            errno.EINVAL,
            f"math between {type_str(kind)} pointer and register with unbounded min value is not allowed\n",
        )
    if b.smin >= BPF_MAX_VAR_OFF or b.smin <= -BPF_MAX_VAR_OFF:
        raise env.reject(errno.EINVAL, f"value {b.smin} makes {type_str(kind)} pointer be out of bounds\n")


def _fits_s32(value: int) -> bool:
    return bd.S32_MIN <= value <= bd.S32_MAX


def _pointer_add(env: Env, ptr: Reg, off: Reg, known: bool) -> Reg:
    p, o = ptr.bounds, off.bounds
    if known and _fits_s32(ptr.off + o.smin):
        return Reg(ptr.type, p, ptr.off + o.smin, ptr.id, ptr.map, ptr.extra, ptr.frameno, ptr.ref)
    out = p.copy()
    low, high = p.smin + o.smin, p.smax + o.smax
    fits = S64_MIN <= low <= S64_MAX and S64_MIN <= high <= S64_MAX
    out.smin, out.smax = (low, high) if fits else (S64_MIN, S64_MAX)
    low, high = p.umin + o.umin, p.umax + o.umax
    out.umin, out.umax = (low, high) if high <= U64 and low <= U64 else (0, U64)
    out.value, out.mask = tnum.add(p.tnum, o.tnum)
    new_id, extra = ptr.id, ptr.extra
    if ptr.type in PACKET_POINTERS:
        new_id, extra = env.new_id(), 0
    return Reg(ptr.type, out, ptr.off, new_id, ptr.map, extra, ptr.frameno, ptr.ref)


def _pointer_sub(env: Env, ptr: Reg, off: Reg, known: bool) -> Reg:
    p, o = ptr.bounds, off.bounds
    if known and _fits_s32(ptr.off - o.smin):
        return Reg(ptr.type, p, ptr.off - o.smin, ptr.id, ptr.map, ptr.extra, ptr.frameno, ptr.ref)
    out = p.copy()
    low, high = p.smin - o.smax, p.smax - o.smin
    fits = S64_MIN <= low <= S64_MAX and S64_MIN <= high <= S64_MAX
    out.smin, out.smax = (low, high) if fits else (S64_MIN, S64_MAX)
    out.umin, out.umax = (0, U64) if p.umin < o.umax else (p.umin - o.umax, p.umax - o.umin)
    out.value, out.mask = tnum.sub(p.tnum, o.tnum)
    new_id, extra = ptr.id, ptr.extra
    if ptr.type in PACKET_POINTERS:
        new_id = env.new_id()
        if o.smin < 0:
            extra = 0
    return Reg(ptr.type, out, ptr.off, new_id, ptr.map, extra, ptr.frameno, ptr.ref)


def _refuse_pointer(env: Env, dst: int, ptr: Reg, off: Reg, operation: int) -> None:
    if ptr.type & PTR_MAYBE_NULL:
        raise env.reject(
            errno.EACCES,
            f"R{dst} pointer arithmetic on {type_str(ptr.type)} prohibited, null-check it first\n",
        )
    base = ptr.type & BASE_MASK
    if base in _MOVABLE:
        return
    known = off.bounds.mask == 0
    if base == PTR_TO_FLOW_KEYS and known:
        return
    if (
        base in (PTR_TO_FLOW_KEYS, CONST_PTR_TO_MAP)
        and known
        and off.bounds.smin == 0
        and operation == op.BPF_ADD
    ):
        return
    raise env.reject(errno.EACCES, f"R{dst} pointer arithmetic on {type_str(ptr.type)} prohibited\n")


def _adjust_pointer(env: Env, insn: Insn, ptr: Reg, off: Reg, ptr_is_dst: bool) -> None:
    """``pointer op number`` or ``number += pointer`` (adjust_ptr_min_max_vals)."""
    regs = env.cur.frames[-1].regs
    dst = insn.dst
    operation = insn.code & 0xF0
    o = off.bounds
    known = o.mask == 0
    if (known and (o.smin != o.smax or o.umin != o.umax)) or o.smin > o.smax or o.umin > o.umax:
        regs[dst] = UNKNOWN_REG
        return
    if insn.code & 7 != op.BPF_ALU64:
        if operation == op.BPF_SUB and env.allow_ptr_leaks:
            regs[dst] = UNKNOWN_REG
            return
        raise env.reject(errno.EACCES, f"R{dst} 32-bit pointer arithmetic prohibited\n")
    _refuse_pointer(env, dst, ptr, off, operation)
    if ptr.type & BASE_MASK == PTR_TO_MEM and ptr.type & PTR_UNTRUSTED:
        return
    _check_sane_offset(env, off, ptr.type)
    _check_sane_offset(env, ptr, ptr.type)
    window = san.Window()
    sanitized = operation in (op.BPF_ADD, op.BPF_SUB)
    if sanitized:
        san.sanitize_pointer(env, insn, ptr, off, ptr_is_dst, window, commit=False)
    if operation == op.BPF_ADD:
        new = _pointer_add(env, ptr, off, known)
    elif operation == op.BPF_SUB:
        if not ptr_is_dst:
            raise env.reject(errno.EACCES, f"R{dst} tried to subtract pointer from scalar\n")
        if ptr.type == PTR_TO_STACK:
            raise env.reject(errno.EACCES, f"R{dst} subtraction from stack pointer prohibited\n")
        new = _pointer_sub(env, ptr, off, known)
    else:
        sign = OPERATORS[operation >> 4]
        if operation in (op.BPF_AND, op.BPF_OR, op.BPF_XOR):
            raise env.reject(errno.EACCES, f"R{dst} bitwise operator {sign} on pointer prohibited\n")
        raise env.reject(errno.EACCES, f"R{dst} pointer arithmetic with {sign} operator prohibited\n")
    if new.bounds.mask != 0 or new.bounds is not ptr.bounds:
        _check_sane_offset(env, new, ptr.type)
        out = new.bounds.copy()
        bd.set_unbounded32(out)
        bd.sync(out)
        new = new.with_bounds(bd.interned(out))
    else:
        _check_sane_offset(env, new, ptr.type)
    regs[dst] = new
    san.check_bounds(env, insn, new)
    if sanitized:
        san.sanitize_pointer(env, insn, new, off, True, window, commit=True)


# ---- scalars --------------------------------------------------------------------------------


def _adjust_scalar(env: Env, insn: Insn, dst: Reg, src: Reg) -> Reg:
    """``number op number`` (adjust_scalar_min_max_vals); the id is the caller's matter."""
    code = insn.code
    alu32 = code & 7 != op.BPF_ALU64
    operation = code & 0xF0
    if not arith.computable(operation, alu32, src.bounds):
        return UNKNOWN_REG
    if operation in (op.BPF_ADD, op.BPF_SUB):
        if not env.bypass_spec_v1:
            san.sanitize_value(env, insn)
    elif operation in (op.BPF_AND, op.BPF_OR) and src.bounds.mask == 0:
        dst = _fork(env, insn, dst)
    return Reg(SCALAR_VALUE, arith.alu(operation, alu32, dst.bounds, src.bounds), dst.off, dst.id)


def _fork(env: Env, insn: Insn, dst: Reg) -> Reg:
    """A number that is -1 or 0, as ``x >> 31`` makes it, is followed as each of them (6.18's updates)."""
    b = dst.bounds
    if (b.smin, b.smax) == (-1, 0):
        zero, ones = const_reg(0), const_reg(-1)
    elif (b.s32_min, b.s32_max) == (-1, 0):
        zero, ones = (dst.with_bounds(bd.with_subreg(b, value)) for value in (0, bd.U32))
    else:
        return dst
    branch = push_stack(env, env.insn_idx, env.insn_idx, False)
    branch.frames[-1].regs[insn.dst] = zero
    return ones


def _adjust(env: Env, insn: Insn) -> None:
    """All operations but moves, negation and byte swaps (adjust_reg_min_max_vals)."""
    regs = env.cur.frames[-1].regs
    code, dst = insn.code, insn.dst
    dst_reg = regs[dst]
    operation = code & 0xF0
    if dst_reg.type == PTR_TO_ARENA:
        raise env.not_modelled("arithmetic on arena pointers")
    is_ptr = dst_reg.type != SCALAR_VALUE
    if code & 8:
        src_reg = regs[insn.src]
        if src_reg.type != SCALAR_VALUE:
            if is_ptr:
                if operation == op.BPF_SUB and env.allow_ptr_leaks:
                    regs[dst] = UNKNOWN_REG
                    return
                raise env.reject(
                    errno.EACCES, f"R{dst} pointer {OPERATORS[operation >> 4]} pointer prohibited\n"
                )
            mark_chain_precision(env, dst)
            _adjust_pointer(env, insn, src_reg, dst_reg, False)
            return
        if is_ptr:
            mark_chain_precision(env, insn.src)
            _adjust_pointer(env, insn, dst_reg, src_reg, True)
            return
    else:
        src_reg = const_reg(insn.imm)
        if is_ptr:
            _adjust_pointer(env, insn, dst_reg, src_reg, True)
            return
    new = _adjust_scalar(env, insn, dst_reg, src_reg)
    if new.id:
        new = _tie_with_delta(env, insn, dst_reg, src_reg, new)
    regs[dst] = new


def _tie_with_delta(env: Env, insn: Insn, old: Reg, src: Reg, new: Reg) -> Reg:
    """``r1 = r2; r1 += 8``: what is learnt of r2 later is known of r1, eight off (since 6.11).

    Negative constants, subtraction and 32-bit arithmetic came with 6.18's stable updates.
    """
    alu32 = insn.code & 7 != op.BPF_ALU64
    operation = insn.code & 0xF0
    untied = new.with_id(0, 0)
    if not env.bpf_capable or operation not in (op.BPF_ADD, op.BPF_SUB) or new.id & BPF_ADD_CONST:
        return untied
    if insn.code & 8 and insn.src == insn.dst:
        return untied
    if alu32:
        if src.bounds.mask & bd.U32 or old.bounds.umax > bd.U32:
            return untied
        delta = bd.s32(src.bounds.value & bd.U32)
    else:
        delta = bd.s64(src.bounds.value)
        if src.bounds.mask or not bd.S32_MIN <= delta <= bd.S32_MAX:
            return untied
    if operation == op.BPF_SUB:
        if delta == bd.S32_MIN:
            return untied
        delta = -delta
    return new.with_id(new.id | (BPF_ADD_CONST32 if alu32 else BPF_ADD_CONST64), delta)


# ---- moves ----------------------------------------------------------------------------------


def _check_mov_fields(env: Env, insn: Insn) -> None:
    bad = "BPF_MOV uses reserved fields\n"
    if not insn.code & 8:
        if insn.src or insn.off:
            raise env.reject(errno.EINVAL, bad)
        return
    if insn.code & 7 == op.BPF_ALU:
        if insn.off not in (0, 8, 16) or insn.imm:
            raise env.reject(errno.EINVAL, bad)
    elif insn.off == op.BPF_ADDR_SPACE_CAST:
        if insn.imm not in (1, 1 << 16):
            raise env.reject(
                errno.EINVAL, "addr_space_cast insn can only convert between address space 1 and 0\n"
            )
        raise env.reject(
            errno.EINVAL,
            "addr_space_cast insn can only be used in a program that has an associated arena\n",
        )
    elif insn.off not in (0, 8, 16, 32) or insn.imm:
        raise env.reject(errno.EINVAL, bad)


def _tied(env: Env, regno: int, tie: bool) -> Reg:
    """The source of a move, given an id first when the copy will be equal to it."""
    regs = env.cur.frames[-1].regs
    reg = regs[regno]
    if tie:
        new = tie_before_move(env, reg)
        if new is not reg:
            regs[regno] = new
            return new
    return reg


def _mov_reg(env: Env, insn: Insn) -> Reg:
    regs = env.cur.frames[-1].regs
    src = regs[insn.src]
    if insn.code & 7 == op.BPF_ALU64:
        if insn.off == 0:
            return _tied(env, insn.src, True)
        if leaks_pointer(env, src):
            raise env.reject(errno.EACCES, f"R{insn.src} sign-extension part of pointer\n")
        if src.type != SCALAR_VALUE:
            return UNKNOWN_REG
        fits = src.bounds.umax < 1 << (insn.off - 1)
        src = _tied(env, insn.src, fits)
        out = bd.sign_extend(src.bounds, insn.off // 8)
        return Reg(SCALAR_VALUE, out, src.off, src.id if fits else 0)
    if leaks_pointer(env, src):
        raise env.reject(errno.EACCES, f"R{insn.src} partial copy of pointer\n")
    if src.type != SCALAR_VALUE:
        return scalar(bd.zero_extend_subreg(bd.UNKNOWN))
    if insn.off == 0:
        fits = src.bounds.umax >> 32 == 0
        src = _tied(env, insn.src, fits)
        return Reg(SCALAR_VALUE, _moved32(src.bounds), src.off, src.id if fits else 0)
    fits = src.bounds.umax < 1 << (insn.off - 1)
    src = _tied(env, insn.src, fits)
    out = bd.zero_extend_subreg(bd.sign_extend32(src.bounds, insn.off // 8))
    return Reg(SCALAR_VALUE, out, src.off, src.id if fits else 0)


_moves: dict[Bounds, Bounds] = {}


def _moved32(b: Bounds) -> Bounds:
    found = _moves.get(b)
    if found is None:
        if len(_moves) > 1 << 14:
            _moves.clear()
        new = bd.zero_extend_subreg(b)
        found = _moves[b] = b if new.key() == b.key() else bd.interned(new)
    return found


def _mov(env: Env, insn: Insn) -> None:
    _check_mov_fields(env, insn)
    if insn.code & 8:
        read_reg(env, insn.src)
    check_writable(env, insn.dst)
    regs = env.cur.frames[-1].regs
    if insn.code & 8:
        regs[insn.dst] = _mov_reg(env, insn)
    elif insn.code & 7 == op.BPF_ALU64:
        regs[insn.dst] = const_reg(insn.imm)
    else:
        regs[insn.dst] = const_reg(insn.imm & bd.U32)


def _neg_or_swap(env: Env, insn: Insn) -> None:
    regs = env.cur.frames[-1].regs
    if insn.code & 0xF0 == op.BPF_NEG:
        if insn.code & 8 or insn.src or insn.off or insn.imm:
            raise env.reject(errno.EINVAL, "BPF_NEG uses reserved fields\n")
    elif (
        insn.src
        or insn.off
        or insn.imm not in (16, 32, 64)
        or (insn.code & 7 == op.BPF_ALU64 and insn.code & 8)
    ):
        raise env.reject(errno.EINVAL, "BPF_END uses reserved fields\n")
    reg = read_reg(env, insn.dst)
    if leaks_pointer(env, reg):
        raise env.reject(errno.EACCES, f"R{insn.dst} pointer arithmetic prohibited\n")
    check_writable(env, insn.dst)
    if reg.type != SCALAR_VALUE:
        regs[insn.dst] = UNKNOWN_REG
    elif insn.code & 0xF0 == op.BPF_END:
        swaps = insn.code & 7 == op.BPF_ALU64 or insn.code & 8 == op.BPF_TO_BE
        if swaps or insn.imm != 64:
            regs[insn.dst] = scalar(bd.byte_swap(reg.bounds, insn.imm // 8, swaps))
    else:
        alu32 = insn.code & 7 != op.BPF_ALU64
        regs[insn.dst] = scalar(arith.alu(op.BPF_NEG, alu32, reg.bounds, reg.bounds))


def _check_operation_fields(env: Env, insn: Insn, operation: int) -> None:
    signed_ok = operation in (op.BPF_MOD, op.BPF_DIV)
    bad_off = insn.off not in (0, 1) or (insn.off == 1 and not signed_ok)
    if (insn.imm if insn.code & 8 else insn.src) or bad_off:
        raise env.reject(errno.EINVAL, "BPF_ALU uses reserved fields\n")


def check_alu(env: Env, insn: Insn) -> None:
    """One ALU or ALU64 instruction: its fields, its operands, its result."""
    code, dst, src, off, imm = insn
    operation = code & 0xF0
    if operation == op.BPF_MOV:
        _mov(env, insn)
    elif operation in (op.BPF_END, op.BPF_NEG):
        _neg_or_swap(env, insn)
    elif operation > op.BPF_END:
        raise env.reject(errno.EINVAL, f"invalid BPF_ALU opcode {operation:x}\n")
    else:
        if off or (imm if code & 8 else src):
            _check_operation_fields(env, insn, operation)
        if code & 8:
            read_reg(env, src)
        read_reg(env, dst)
        if not code & 8:
            if operation in (op.BPF_MOD, op.BPF_DIV) and imm == 0:
                raise env.reject(errno.EINVAL, "div by zero\n")
            if operation in (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH):
                width = 64 if code & 7 == op.BPF_ALU64 else 32
                if not 0 <= imm < width:
                    raise env.reject(errno.EINVAL, f"invalid shift {imm}\n")
        check_writable(env, dst)
        _adjust(env, insn)
    regs = env.cur.frames[-1].regs
    reg = regs[dst]
    if not reg.bounds.sane:
        good = check_bounds(env, reg.bounds, "alu")
        if good is not reg.bounds:
            regs[dst] = reg.with_bounds(good)
