# SPDX-License-Identifier: GPL-2.0-only
"""Arithmetic on bounds: what an ALU instruction makes of what is known of its operands.

Rules of adjust_scalar_min_max_vals() of Linux 6.18, both for the 64-bit value and for its lower half.
Results are kept, since verification meets the same operands again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel_model.isa import opcodes as op

from . import bounds as bd
from . import tnum
from .bounds import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64, Bounds

_results: dict[tuple[int, bool, Bounds, Bounds], Bounds] = {}
_KEPT: Final = 1 << 16


def _add32(d: Bounds, s: Bounds) -> None:
    low, high = d.s32_min + s.s32_min, d.s32_max + s.s32_max
    fits = S32_MIN <= low <= S32_MAX and S32_MIN <= high <= S32_MAX
    d.s32_min, d.s32_max = (low, high) if fits else (S32_MIN, S32_MAX)
    low, high = d.u32_min + s.u32_min, d.u32_max + s.u32_max
    # One end wrapping alone tears the range apart; both wrapping keeps it whole. (since 6.17)
    d.u32_min, d.u32_max = (0, U32) if low <= U32 < high else (low & U32, high & U32)


def _add64(d: Bounds, s: Bounds) -> None:
    low, high = d.smin + s.smin, d.smax + s.smax
    fits = S64_MIN <= low <= S64_MAX and S64_MIN <= high <= S64_MAX
    d.smin, d.smax = (low, high) if fits else (S64_MIN, S64_MAX)
    low, high = d.umin + s.umin, d.umax + s.umax
    d.umin, d.umax = (0, U64) if low <= U64 < high else (low & U64, high & U64)


def _sub32(d: Bounds, s: Bounds) -> None:
    low, high = d.s32_min - s.s32_max, d.s32_max - s.s32_min
    fits = S32_MIN <= low <= S32_MAX and S32_MIN <= high <= S32_MAX
    d.s32_min, d.s32_max = (low, high) if fits else (S32_MIN, S32_MAX)
    low, high = d.u32_min - s.u32_max, d.u32_max - s.u32_min
    d.u32_min, d.u32_max = (0, U32) if low < 0 <= high else (low & U32, high & U32)


def _sub64(d: Bounds, s: Bounds) -> None:
    low, high = d.smin - s.smax, d.smax - s.smin
    fits = S64_MIN <= low <= S64_MAX and S64_MIN <= high <= S64_MAX
    d.smin, d.smax = (low, high) if fits else (S64_MIN, S64_MAX)
    low, high = d.umin - s.umax, d.umax - s.umin
    d.umin, d.umax = (0, U64) if low < 0 <= high else (low & U64, high & U64)


def add_in_place(d: Bounds, s: Bounds) -> None:
    """``d += s`` on ranges and bits, without deducing anything further."""
    _add32(d, s)
    _add64(d, s)
    d.value, d.mask = tnum.add(d.tnum, s.tnum)


def _sub(d: Bounds, s: Bounds, alu32: bool) -> None:
    _sub32(d, s)
    _sub64(d, s)
    d.value, d.mask = tnum.sub(d.tnum, s.tnum)


def _add(d: Bounds, s: Bounds, alu32: bool) -> None:
    add_in_place(d, s)


def _neg(d: Bounds, s: Bounds, alu32: bool) -> None:
    """``0 - d`` (tracked since 6.17)."""
    was = d.copy()
    _assign(d, bd.const(0))
    _sub(d, was, alu32)


def _assign(d: Bounds, s: Bounds) -> None:
    (d.value, d.mask, d.smin, d.smax, d.umin, d.umax, d.s32_min, d.s32_max, d.u32_min, d.u32_max) = s.key()


def _products(a: tuple[int, int], b: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    products = [x * y for x in a for y in b]
    smallest, largest = min(products), max(products)
    return (smallest, largest) if low <= smallest and largest <= high else (low, high)


def _mul(d: Bounds, s: Bounds, alu32: bool) -> None:
    d.value, d.mask = tnum.mul(d.tnum, s.tnum)
    high = d.u32_max * s.u32_max
    d.u32_min, d.u32_max = (d.u32_min * s.u32_min, high) if high <= U32 else (0, U32)
    d.s32_min, d.s32_max = _products((d.s32_min, d.s32_max), (s.s32_min, s.s32_max), S32_MIN, S32_MAX)
    high = d.umax * s.umax
    d.umin, d.umax = (d.umin * s.umin, high) if high <= U64 else (0, U64)
    d.smin, d.smax = _products((d.smin, d.smax), (s.smin, s.smax), S64_MIN, S64_MAX)


def _known32(d: Bounds) -> None:
    low = d.value & U32
    d.mask &= U64 ^ U32
    d.s32_min = d.s32_max = bd.s32(low)
    d.u32_min = d.u32_max = low


def _signed32_of_unsigned(d: Bounds) -> None:
    low, high = bd.s32(d.u32_min), bd.s32(d.u32_max)
    d.s32_min, d.s32_max = (low, high) if low <= high else (S32_MIN, S32_MAX)


def _signed64_of_unsigned(d: Bounds) -> None:
    low, high = bd.s64(d.umin), bd.s64(d.umax)
    d.smin, d.smax = (low, high) if low <= high else (S64_MIN, S64_MAX)
    bd.update_from_bits(d)


def _and(d: Bounds, s: Bounds, alu32: bool) -> None:
    d.value, d.mask = tnum.and_(d.tnum, s.tnum)
    if not (s.mask & U32 or d.mask & U32):
        _known32(d)
    else:
        d.u32_min, d.u32_max = d.value & U32, min(d.u32_max, s.u32_max)
        _signed32_of_unsigned(d)
    if not (s.mask or d.mask):
        _assign(d, bd.const(d.value))
    else:
        d.umin, d.umax = d.value, min(d.umax, s.umax)
        _signed64_of_unsigned(d)


def _or(d: Bounds, s: Bounds, alu32: bool) -> None:
    d.value, d.mask = tnum.or_(d.tnum, s.tnum)
    if not (s.mask & U32 or d.mask & U32):
        _known32(d)
    else:
        d.u32_min, d.u32_max = max(d.u32_min, s.u32_min), (d.value | d.mask) & U32
        _signed32_of_unsigned(d)
    if not (s.mask or d.mask):
        _assign(d, bd.const(d.value))
    else:
        d.umin, d.umax = max(d.umin, s.umin), d.value | d.mask
        _signed64_of_unsigned(d)


def _xor(d: Bounds, s: Bounds, alu32: bool) -> None:
    d.value, d.mask = tnum.xor(d.tnum, s.tnum)
    if not (s.mask & U32 or d.mask & U32):
        _known32(d)
    else:
        d.u32_min, d.u32_max = d.value & U32, (d.value | d.mask) & U32
        _signed32_of_unsigned(d)
    if not (s.mask or d.mask):
        _assign(d, bd.const(d.value))
    else:
        d.umin, d.umax = d.value, d.value | d.mask
        _signed64_of_unsigned(d)


def _lsh32_ranges(d: Bounds, umin: int, umax: int) -> None:
    d.s32_min, d.s32_max = S32_MIN, S32_MAX
    if umax > 31 or d.u32_max > 1 << (31 - umax):
        d.u32_min, d.u32_max = 0, U32
    else:
        d.u32_min = (d.u32_min << umin) & U32
        d.u32_max = (d.u32_max << umax) & U32


def _lsh(d: Bounds, s: Bounds, alu32: bool) -> None:
    if alu32:
        _lsh32_ranges(d, s.u32_min, s.u32_max)
        value, mask = tnum.lshift((d.value & U32, d.mask & U32), s.u32_min)
        d.value, d.mask = value & U32, mask & U32
        bd.set_unbounded64(d)
        bd.update32_from_bits(d)
        return
    by = s.umin
    # A shift by 32 keeps the sign of the lower half: compilers sign-extend so.
    d.smax = d.s32_max << 32 if by == 32 else S64_MAX
    d.smin = d.s32_min << 32 if by == 32 else S64_MIN
    if d.umax > 1 << (63 - by):
        d.umin, d.umax = 0, U64
    else:
        d.umin = (d.umin << by) & U64
        d.umax = (d.umax << by) & U64
    _lsh32_ranges(d, by, by)
    d.value, d.mask = tnum.lshift(d.tnum, by)
    bd.update_from_bits(d)


def _rsh(d: Bounds, s: Bounds, alu32: bool) -> None:
    if alu32:
        by = s.u32_min
        d.s32_min, d.s32_max = S32_MIN, S32_MAX
        d.value, d.mask = (d.value & U32) >> by, (d.mask & U32) >> by
        d.u32_min >>= s.u32_max
        d.u32_max >>= by
        bd.set_unbounded64(d)
        bd.update32_from_bits(d)
        return
    by = s.umin
    d.smin, d.smax = S64_MIN, S64_MAX
    d.value, d.mask = d.value >> by, d.mask >> by
    d.umin >>= s.umax
    d.umax >>= by
    bd.set_unbounded32(d)
    bd.update_from_bits(d)


def _arsh(d: Bounds, s: Bounds, alu32: bool) -> None:
    if alu32:
        by = s.u32_min
        d.s32_min >>= by
        d.s32_max >>= by
        d.value, d.mask = tnum.arshift(d.tnum, by, 32)
        d.u32_min, d.u32_max = 0, U32
        bd.set_unbounded64(d)
        bd.update32_from_bits(d)
        return
    by = s.umin
    d.smin >>= by
    d.smax >>= by
    d.value, d.mask = tnum.arshift(d.tnum, by, 64)
    d.umin, d.umax = 0, U64
    bd.set_unbounded32(d)
    bd.update_from_bits(d)


_RULES: Final[dict[int, Callable[[Bounds, Bounds, bool], None]]] = {
    op.BPF_ADD: _add,
    op.BPF_SUB: _sub,
    op.BPF_NEG: _neg,
    op.BPF_MUL: _mul,
    op.BPF_AND: _and,
    op.BPF_OR: _or,
    op.BPF_XOR: _xor,
    op.BPF_LSH: _lsh,
    op.BPF_RSH: _rsh,
    op.BPF_ARSH: _arsh,
}
_SHIFTS: Final = (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH)


def computable(operation: int, alu32: bool, src: Bounds) -> bool:
    """Whether the result's bounds follow from the operands' (kernel: is_safe_to_compute_dst_reg_range).

    Division and modulo are not followed; shifts are when the distance is a constant below the width.
    """
    if operation in _SHIFTS:
        if alu32:
            known = not src.mask & U32 and src.s32_min == src.s32_max and src.u32_min == src.u32_max
            return known and src.umax < 32
        return src.mask == 0 and src.smin == src.smax and src.umin == src.umax and src.umax < 64
    return operation in _RULES


def alu(operation: int, alu32: bool, dst: Bounds, src: Bounds) -> Bounds:
    """The bounds after ``dst = dst operation src`` (``operation`` as in the opcode; see computable())."""
    memo = (operation, alu32, dst, src)
    found = _results.get(memo)
    if found is not None:
        return found
    out = dst.copy()
    _RULES[operation](out, src, alu32)
    if alu32:
        bd.zext_32_to_64(out)
    bd.sync(out)
    out = bd.interned(out)
    if len(_results) >= _KEPT:
        _results.clear()
    _results[memo] = out
    return out
