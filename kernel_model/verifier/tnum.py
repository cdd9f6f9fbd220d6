# SPDX-License-Identifier: GPL-2.0-only
"""Tracked numbers: 64-bit values of which some bits are known (Documentation/bpf/verifier.rst, since 4.14).

A tracked number is a pair ``(value, mask)`` of unsigned 64-bit integers: bits set in ``mask`` are unknown,
the others are those of ``value``, whose unknown bits are 0. Every operation answers a tracked number
that holds all results its operands allow.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Tnum: TypeAlias = tuple[int, int]

U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_HIGH32: Final = U64 ^ U32

UNKNOWN: Final[Tnum] = (0, U64)


def const(value: int) -> Tnum:
    """The number that is exactly ``value`` (taken modulo 2**64)."""
    return (value & U64, 0)


def spanning(low: int, high: int) -> Tnum:
    """The best number that holds every unsigned value of ``[low, high]``."""
    low &= U64
    delta = (1 << (low ^ (high & U64)).bit_length()) - 1
    return (low & ~delta, delta)


def lshift(a: Tnum, shift: int) -> Tnum:
    """``a << shift`` for a known shift below 64."""
    return ((a[0] << shift) & U64, (a[1] << shift) & U64)


def rshift(a: Tnum, shift: int) -> Tnum:
    """``a >> shift`` (logical) for a known shift below 64."""
    return (a[0] >> shift, a[1] >> shift)


def arshift(a: Tnum, shift: int, bits: int) -> Tnum:
    """``a >> shift`` (arithmetic) in ``bits`` (32 or 64) for a known shift below ``bits``."""
    full = (1 << bits) - 1
    sign = 1 << (bits - 1)
    value, mask = a[0] & full, a[1] & full
    if value & sign:
        value -= full + 1
    if mask & sign:
        mask -= full + 1
    return ((value >> shift) & full, (mask >> shift) & full)


def add(a: Tnum, b: Tnum) -> Tnum:
    """``a + b``: a carry may reach every bit where the sums of the extremes differ."""
    sv = a[0] + b[0]
    mu = ((a[1] + b[1] + sv) ^ sv | a[1] | b[1]) & U64
    return (sv & ~mu & U64, mu)


def sub(a: Tnum, b: Tnum) -> Tnum:
    """``a - b``."""
    dv = (a[0] - b[0]) & U64
    mu = ((dv + a[1]) ^ (dv - b[1]) | a[1] | b[1]) & U64
    return (dv & ~mu, mu)


def neg(a: Tnum) -> Tnum:
    """``-a``."""
    return sub((0, 0), a)


def and_(a: Tnum, b: Tnum) -> Tnum:
    """``a & b``."""
    value = a[0] & b[0]
    return (value, (a[0] | a[1]) & (b[0] | b[1]) & ~value)


def or_(a: Tnum, b: Tnum) -> Tnum:
    """``a | b``."""
    value = a[0] | b[0]
    return (value, (a[1] | b[1]) & ~value)


def xor(a: Tnum, b: Tnum) -> Tnum:
    """``a ^ b``."""
    mu = a[1] | b[1]
    return ((a[0] ^ b[0]) & ~mu, mu)


def union(a: Tnum, b: Tnum) -> Tnum:
    """A number that holds what ``a`` holds and what ``b`` holds (since 6.18)."""
    mu = (a[0] ^ b[0]) | a[1] | b[1]
    return (a[0] & b[0] & ~mu, mu)


def mul(a: Tnum, b: Tnum) -> Tnum:
    """``a * b`` by long multiplication over the bits of ``a`` (the algorithm of 6.18)."""
    a_value, a_mask = a
    if not a_mask and not b[1]:
        return ((a_value * b[0]) & U64, 0)
    acc: Tnum = (0, 0)
    while a_value or a_mask:
        if a_value & 1:
            acc = add(acc, b)
        elif a_mask & 1:
            acc = union(acc, add(acc, b))
        a_value >>= 1
        a_mask >>= 1
        b = ((b[0] << 1) & U64, (b[1] << 1) & U64)
    return acc


def overlap(a: Tnum, b: Tnum) -> bool:
    """Whether some value is in both (since 6.18)."""
    known = ~(a[1] | b[1])
    return (a[0] & known) == (b[0] & known)


def intersect(a: Tnum, b: Tnum) -> Tnum:
    """What both know; where they contradict each other the bit reads as a known 1."""
    mu = a[1] & b[1]
    return ((a[0] | b[0]) & ~mu, mu)


def cast(a: Tnum, size: int) -> Tnum:
    """The low ``size`` bytes, zero-extended."""
    full = (1 << (size * 8)) - 1
    return (a[0] & full, a[1] & full)


def contains(a: Tnum, b: Tnum) -> bool:
    """Whether every value of ``b`` is in ``a`` (kernel: tnum_in)."""
    if b[1] & ~a[1]:
        return False
    return a[0] == b[0] & ~a[1]


def is_aligned(a: Tnum, size: int) -> bool:
    """Whether every value is a multiple of ``size``, a power of two (or 0 for any)."""
    return not size or not (a[0] | a[1]) & (size - 1)


def with_subreg(a: Tnum, low: Tnum) -> Tnum:
    """``a`` with its low 32 bits replaced by those of ``low``."""
    return (a[0] & _HIGH32 | low[0] & U32, a[1] & _HIGH32 | low[1] & U32)


def after(a: Tnum, z: int) -> int:
    """The smallest number above ``z`` that ``a`` admits; the largest of all when there is none."""
    value, mask = a
    top = value | mask
    if z >= top:
        return top
    c = z + 1
    if c <= value:
        return value
    j = value | (c & mask)
    wrong = (c ^ j) & ~mask
    if not wrong:
        return j
    # Below the highest known bit that disagrees, everything is as small as can be.
    at = wrong.bit_length()
    if j & (1 << (at - 1)):
        return value | (c & mask) >> at << at
    # A known 0 stands where ``c`` has a 1: the free bits above it must grow.
    return value | (((((c | ~mask) & U64) >> at) + 1) << at & mask)


def text(a: Tnum) -> str:
    """As verifier messages print it: a constant (decimal when short), else ``(value; mask)``."""
    value, mask = a
    if not mask:
        if value <= 0xFFFF:
            return str(value)
        signed = value - (1 << 64) if value >> 63 else value
        return str(signed) if -0x8000 <= signed <= 0x7FFF else f"{value:#x}"
    return f"({c_hex(value)}; {c_hex(mask)})"


def c_hex(value: int) -> str:
    """``%#llx``: zero prints without its prefix."""
    return f"{value:#x}" if value else "0x0"
