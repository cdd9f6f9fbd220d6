# SPDX-License-Identifier: GPL-2.0-only
"""Conditional jumps on scalars: is the outcome known, and what does each way teach about the operands.

Rules of is_scalar_branch_taken() and regs_refine_cond_op() of Linux 6.18. Results are kept, since
verification meets the same operands again and again.
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa import opcodes as op

from . import bounds as bd
from . import tnum
from .bounds import U32, Bounds

JSET_NOT: Final = op.BPF_JSET | op.BPF_X
"""The condition that holds where JSET does not; BPF has no opcode for it."""

FLIPPED: Final = {
    op.BPF_JEQ: op.BPF_JEQ,
    op.BPF_JNE: op.BPF_JNE,
    op.BPF_JSET: op.BPF_JSET,
    op.BPF_JGE: op.BPF_JLE,
    op.BPF_JGT: op.BPF_JLT,
    op.BPF_JLE: op.BPF_JGE,
    op.BPF_JLT: op.BPF_JGT,
    op.BPF_JSGE: op.BPF_JSLE,
    op.BPF_JSGT: op.BPF_JSLT,
    op.BPF_JSLE: op.BPF_JSGE,
    op.BPF_JSLT: op.BPF_JSGT,
}
"""The condition for exchanged operands."""

REVERSED: Final = {
    op.BPF_JEQ: op.BPF_JNE,
    op.BPF_JNE: op.BPF_JEQ,
    op.BPF_JSET: JSET_NOT,
    op.BPF_JGE: op.BPF_JLT,
    op.BPF_JGT: op.BPF_JLE,
    op.BPF_JLE: op.BPF_JGT,
    op.BPF_JLT: op.BPF_JGE,
    op.BPF_JSGE: op.BPF_JSLT,
    op.BPF_JSGT: op.BPF_JSLE,
    op.BPF_JSLE: op.BPF_JSGT,
    op.BPF_JSLT: op.BPF_JSGE,
}
"""The condition that holds where the jump is not taken."""

_KEPT: Final = 1 << 16
_taken: dict[tuple[int, bool, Bounds, Bounds], int] = {}
_learnt: dict[tuple[int, bool, Bounds, Bounds], tuple[Bounds, Bounds]] = {}


def _apart(a: Bounds, b: Bounds, jmp32: bool) -> bool:
    """Whether no value can be in both."""
    if jmp32:
        if not tnum.overlap(tnum.cast(a.tnum, 4), tnum.cast(b.tnum, 4)):
            return True
        return (
            a.u32_min > b.u32_max or a.u32_max < b.u32_min or a.s32_min > b.s32_max or a.s32_max < b.s32_min
        )
    return (
        not tnum.overlap(a.tnum, b.tnum)
        or a.umin > b.umax
        or a.umax < b.umin
        or a.smin > b.smax
        or a.smax < b.smin
        or a.u32_min > b.u32_max
        or a.u32_max < b.u32_min
        or a.s32_min > b.s32_max
        or a.s32_max < b.s32_min
    )


def _known(b: Bounds, jmp32: bool) -> bool:
    return not (b.mask & U32 if jmp32 else b.mask)


def _compare(low1: int, high1: int, low2: int, high2: int) -> tuple[int, int]:
    """The outcomes of ``>`` and ``>=`` on ranges: 1 always, 0 never, -1 unknown."""
    above = 1 if low1 > high2 else 0 if high1 <= low2 else -1
    not_below = 1 if low1 >= high2 else 0 if high1 < low2 else -1
    return above, not_below


def _decide(cond: int, jmp32: bool, a: Bounds, b: Bounds) -> int:
    if cond in (op.BPF_JEQ, op.BPF_JNE):
        if _known(a, jmp32) and _known(b, jmp32):
            mask = U32 if jmp32 else bd.U64
            equal = int(a.value & mask == b.value & mask)
        elif _apart(a, b, jmp32):
            equal = 0
        else:
            return -1
        return equal if cond == op.BPF_JEQ else 1 - equal
    if cond == op.BPF_JSET:
        if not _known(b, jmp32):
            a, b = b, a
        if not _known(b, jmp32):
            return -1
        bits = b.value & U32 if jmp32 else b.value
        if ~a.mask & a.value & bits:
            return 1
        return -1 if (a.mask | a.value) & bits else 0
    if cond in (op.BPF_JSGT, op.BPF_JSGE, op.BPF_JSLT, op.BPF_JSLE):
        first = (a.s32_min, a.s32_max) if jmp32 else (a.smin, a.smax)
        second = (b.s32_min, b.s32_max) if jmp32 else (b.smin, b.smax)
    else:
        first = (a.u32_min, a.u32_max) if jmp32 else (a.umin, a.umax)
        second = (b.u32_min, b.u32_max) if jmp32 else (b.umin, b.umax)
    above, not_below = _compare(*first, *second)
    if cond in (op.BPF_JGT, op.BPF_JSGT):
        return above
    if cond in (op.BPF_JGE, op.BPF_JSGE):
        return not_below
    outcome = not_below if cond in (op.BPF_JLT, op.BPF_JSLT) else above
    return outcome if outcome < 0 else 1 - outcome


def scalar_branch_taken(cond: int, jmp32: bool, a: Bounds, b: Bounds) -> int:
    """1 when ``a cond b`` always holds, 0 when never, -1 when unknown."""
    memo = (cond, jmp32, a, b)
    found = _taken.get(memo)
    if found is None:
        found = _decide(cond, jmp32, a, b)
        if len(_taken) >= _KEPT:
            _taken.clear()
        _taken[memo] = found
    return found


def _learn_equal(a: Bounds, b: Bounds, jmp32: bool) -> None:
    if jmp32:
        a.u32_min = b.u32_min = max(a.u32_min, b.u32_min)
        a.u32_max = b.u32_max = min(a.u32_max, b.u32_max)
        a.s32_min = b.s32_min = max(a.s32_min, b.s32_min)
        a.s32_max = b.s32_max = min(a.s32_max, b.s32_max)
        low = tnum.intersect(tnum.cast(a.tnum, 4), tnum.cast(b.tnum, 4))
        a.value, a.mask = tnum.with_subreg(a.tnum, low)
        b.value, b.mask = tnum.with_subreg(b.tnum, low)
        return
    a.umin = b.umin = max(a.umin, b.umin)
    a.umax = b.umax = min(a.umax, b.umax)
    a.smin = b.smin = max(a.smin, b.smin)
    a.smax = b.smax = min(a.smax, b.smax)
    a.value, a.mask = b.value, b.mask = tnum.intersect(a.tnum, b.tnum)


def _learn_unequal(a: Bounds, b: Bounds, jmp32: bool) -> None:
    """A constant that is exactly the end of a range moves that end. (since 6.8)"""
    if not _known(b, jmp32):
        a, b = b, a
    if not _known(b, jmp32):
        return
    if jmp32:
        value, signed = b.value & U32, bd.s32(b.value)
        if a.u32_min == value:
            a.u32_min += 1
        if a.u32_max == value:
            a.u32_max -= 1
        if a.s32_min == signed:
            a.s32_min += 1
        if a.s32_max == signed:
            a.s32_max -= 1
        return
    value, signed = b.value, bd.s64(b.value)
    if a.umin == value:
        a.umin += 1
    if a.umax == value:
        a.umax -= 1
    if a.smin == signed:
        a.smin += 1
    if a.smax == signed:
        a.smax -= 1


def _learn_bits(cond: int, a: Bounds, b: Bounds, jmp32: bool) -> None:
    """One tested bit that is set is known; when none is set, all tested bits are known clear. (6.8)"""
    if not _known(b, jmp32):
        a, b = b, a
    if not _known(b, jmp32):
        return
    value = b.value & U32 if jmp32 else b.value
    if cond == op.BPF_JSET:
        if value == 0 or value & (value - 1):
            return
        change = tnum.or_
        other = tnum.const(value)
    else:
        bd.set_unbounded(a)
        change = tnum.and_
        other = tnum.const(~value)
    if jmp32:
        a.value, a.mask = tnum.with_subreg(a.tnum, change(tnum.cast(a.tnum, 4), other))
    else:
        a.value, a.mask = change(a.tnum, other)


def _learn_order(cond: int, a: Bounds, b: Bounds, jmp32: bool) -> None:
    """``a <= b`` and ``a < b``, signed or not."""
    step = 1 if cond in (op.BPF_JLT, op.BPF_JSLT) else 0
    if cond in (op.BPF_JLE, op.BPF_JLT):
        if jmp32:
            a.u32_max = min(a.u32_max, (b.u32_max - step) & U32)
            b.u32_min = max((a.u32_min + step) & U32, b.u32_min)
        else:
            a.umax = min(a.umax, (b.umax - step) & bd.U64)
            b.umin = max((a.umin + step) & bd.U64, b.umin)
    elif jmp32:
        a.s32_max = min(a.s32_max, bd.s32(b.s32_max - step))
        b.s32_min = max(bd.s32(a.s32_min + step), b.s32_min)
    else:
        a.smax = min(a.smax, bd.s64(b.smax - step))
        b.smin = max(bd.s64(a.smin + step), b.smin)


def refine(cond: int, jmp32: bool, a: Bounds, b: Bounds) -> tuple[Bounds, Bounds]:
    """What is known of the operands where ``a cond b`` holds; ``cond`` may be JSET_NOT.

    The caller looks for contradictions (bounds.invariant_violation) in what it gets.
    """
    memo = (cond, jmp32, a, b)
    found = _learnt.get(memo)
    if found is not None:
        return found
    first, second = a.copy(), b.copy()
    if cond == op.BPF_JEQ:
        _learn_equal(first, second, jmp32)
    elif cond == op.BPF_JNE:
        _learn_unequal(first, second, jmp32)
    elif cond in (op.BPF_JSET, JSET_NOT):
        _learn_bits(cond, first, second, jmp32)
    elif cond in (op.BPF_JLE, op.BPF_JLT, op.BPF_JSLE, op.BPF_JSLT):
        _learn_order(cond, first, second, jmp32)
    else:
        _learn_order(FLIPPED[cond], second, first, jmp32)
    bd.sync(first)
    bd.sync(second)
    found = (_shared(first, a), _shared(second, b))
    if len(_learnt) >= _KEPT:
        _learnt.clear()
    _learnt[memo] = found
    return found


def refine_self(cond: int, jmp32: bool, a: Bounds) -> Bounds:
    """What is known of a register that was compared with itself, where ``a cond a`` holds."""
    out = a.copy()
    if cond == op.BPF_JEQ:
        _learn_equal(out, out, jmp32)
    elif cond == op.BPF_JNE:
        _learn_unequal(out, out, jmp32)
    elif cond in (op.BPF_JSET, JSET_NOT):
        _learn_bits(cond, out, out, jmp32)
    elif cond in (op.BPF_JLE, op.BPF_JLT, op.BPF_JSLE, op.BPF_JSLT):
        _learn_order(cond, out, out, jmp32)
    else:
        _learn_order(FLIPPED[cond], out, out, jmp32)
    bd.sync(out)
    bd.sync(out)
    return out


def _shared(new: Bounds, old: Bounds) -> Bounds:
    """The old object where nothing was learnt, else the one that is kept for what is known now."""
    return old if new.key() == old.key() else bd.interned(new)
