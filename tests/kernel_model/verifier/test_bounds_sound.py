# SPDX-License-Identifier: GPL-2.0-only
"""What the verifier believes of numbers holds: abstract results contain every concrete result."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.isa import opcodes as op
from kernel_model.verifier import arith, bounds, branches, tnum
from kernel_model.verifier.bounds import U32, U64, Bounds, s32, s64

EDGES = [
    0,
    1,
    2,
    7,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    U32,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    U64,
]
u64s = st.one_of(st.integers(0, U64), st.integers(0, 300), st.sampled_from(EDGES))
MANY = settings(max_examples=200, deadline=None)


def contains(b: Bounds, value: int) -> bool:
    """Every part of the bounds admits ``value``."""
    low = value & U32
    return (
        (value & ~b.mask & U64) == b.value
        and b.umin <= value <= b.umax
        and b.smin <= s64(value) <= b.smax
        and b.u32_min <= low <= b.u32_max
        and b.s32_min <= s32(low) <= b.s32_max
    )


@st.composite
def bounded(draw: st.DrawFn) -> tuple[Bounds, int]:
    """A number and bounds around it: a random mix of known bits and ranges."""
    value = draw(u64s)
    mask = draw(st.one_of(st.just(0), st.just(U64), u64s))
    b = bounds.const(0).copy()
    b.value, b.mask = value & ~mask & U64, mask
    bounds.set_unbounded(b)
    other = draw(u64s)
    if draw(st.booleans()):
        b.umin, b.umax = min(value, other), max(value, other)
    if draw(st.booleans()):
        b.smin, b.smax = min(s64(value), s64(other)), max(s64(value), s64(other))
    if draw(st.booleans()):
        b.u32_min, b.u32_max = min(value & U32, other & U32), max(value & U32, other & U32)
    if draw(st.booleans()):
        pair = s32(value & U32), s32(other & U32)
        b.s32_min, b.s32_max = min(pair), max(pair)
    assert contains(b, value)
    return b, value


@MANY
@given(bounded())
def test_deductions_lose_nothing(pair: tuple[Bounds, int]) -> None:
    b, value = pair
    synced = b.copy()
    bounds.sync(synced)
    assert contains(synced, value)
    # Like Linux: a range that fits 32 bits and is not negative there is replaced, even by a wider one.
    replaced = synced.s32_min >= 0 and synced.umin <= synced.s32_min and synced.umax <= U32 >> 1
    assert replaced or bounds.within(b, synced)


def _concrete(operation: int, alu32: bool, a: int, b: int) -> int:
    bits = 32 if alu32 else 64
    top = (1 << bits) - 1
    a, b = a & top, b & top
    signed = a - (1 << bits) if a >> (bits - 1) else a
    results = {
        op.BPF_ADD: a + b,
        op.BPF_SUB: a - b,
        op.BPF_MUL: a * b,
        op.BPF_AND: a & b,
        op.BPF_OR: a | b,
        op.BPF_XOR: a ^ b,
        op.BPF_LSH: a << (b % bits),
        op.BPF_RSH: a >> (b % bits),
        op.BPF_ARSH: signed >> (b % bits),
    }
    return results[operation] & top


OPERATIONS = (
    op.BPF_ADD, op.BPF_SUB, op.BPF_MUL, op.BPF_AND, op.BPF_OR, op.BPF_XOR, op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH
)  # fmt: skip


@MANY
@given(bounded(), bounded(), st.sampled_from(OPERATIONS), st.booleans(), st.booleans())
def test_arithmetic(
    left: tuple[Bounds, int], right: tuple[Bounds, int], operation: int, alu32: bool, constant: bool
) -> None:
    a, b = left[0].copy(), right[0].copy()
    if constant:
        b = bounds.const(right[1] & 31 if operation in (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH) else right[1])
    bounds.sync(a)
    bounds.sync(b)
    y = b.value if constant else right[1]
    if not arith.computable(operation, alu32, b):
        return
    assert contains(arith.alu(operation, alu32, a, b), _concrete(operation, alu32, left[1], y))


@MANY
@given(bounded(), st.sampled_from((1, 2, 4)))
def test_widening(pair: tuple[Bounds, int], size: int) -> None:
    b, value = pair
    bounds.sync(b)
    bits = size * 8
    low = value & ((1 << bits) - 1)
    assert contains(bounds.zero_extend(b, size), low)
    signed = low - (1 << bits) if low >> (bits - 1) else low
    assert contains(bounds.sign_extend(b, size), signed & U64)


@MANY
@given(bounded(), st.sampled_from((2, 4, 8)), st.booleans())
def test_byte_swaps(pair: tuple[Bounds, int], size: int, swaps: bool) -> None:
    b, value = pair
    bounds.sync(b)
    low = value & ((1 << size * 8) - 1)
    if swaps:
        low = int.from_bytes(low.to_bytes(size, "little"), "big")
    assert contains(bounds.byte_swap(b, size, swaps), low)


COMPARISONS = {
    op.BPF_JEQ: lambda a, b, s: a == b,
    op.BPF_JNE: lambda a, b, s: a != b,
    op.BPF_JGT: lambda a, b, s: a > b,
    op.BPF_JGE: lambda a, b, s: a >= b,
    op.BPF_JLT: lambda a, b, s: a < b,
    op.BPF_JLE: lambda a, b, s: a <= b,
    op.BPF_JSGT: lambda a, b, s: s(a) > s(b),
    op.BPF_JSGE: lambda a, b, s: s(a) >= s(b),
    op.BPF_JSLT: lambda a, b, s: s(a) < s(b),
    op.BPF_JSLE: lambda a, b, s: s(a) <= s(b),
    op.BPF_JSET: lambda a, b, s: bool(a & b),
}


def _holds(cond: int, jmp32: bool, a: int, b: int) -> bool:
    if jmp32:
        return COMPARISONS[cond](a & U32, b & U32, s32)
    return COMPARISONS[cond](a, b, s64)


@MANY
@given(bounded(), bounded(), st.sampled_from(sorted(COMPARISONS)), st.booleans(), st.booleans())
def test_branches(
    left: tuple[Bounds, int], right: tuple[Bounds, int], cond: int, jmp32: bool, constant: bool
) -> None:
    a, x = left[0].copy(), left[1]
    b, y = (bounds.const(right[1]), right[1]) if constant else (right[0].copy(), right[1])
    bounds.sync(a)
    bounds.sync(b)
    holds = _holds(cond, jmp32, x, y)
    decided = branches.scalar_branch_taken(cond, jmp32, a, b)
    assert decided in (-1, int(holds))
    which = cond if holds else branches.REVERSED[cond]
    new_a, new_b = branches.refine(which, jmp32, a, b)
    assert contains(new_a, x)
    assert contains(new_b, y)


tnums = st.tuples(u64s, u64s).map(lambda pair: (pair[0] & ~pair[1] & U64, pair[1]))


def _member(a: tnum.Tnum, choice: int) -> int:
    return a[0] | (a[1] & choice)


@MANY
@given(tnums, tnums, u64s, u64s)
def test_known_bits(a: tnum.Tnum, b: tnum.Tnum, i: int, j: int) -> None:
    x, y = _member(a, i), _member(b, j)
    results = (
        (tnum.add(a, b), x + y),
        (tnum.sub(a, b), x - y),
        (tnum.and_(a, b), x & y),
        (tnum.or_(a, b), x | y),
        (tnum.xor(a, b), x ^ y),
        (tnum.mul(a, b), x * y),
        (tnum.neg(a), -x),
        (tnum.lshift(a, j % 64), x << (j % 64)),
        (tnum.rshift(a, j % 64), x >> (j % 64)),
    )
    for (value, mask), exact in results:
        assert not value & mask
        assert (exact & U64) & ~mask == value


@MANY
@given(u64s, u64s, u64s)
def test_spanning_covers_the_range(a: int, b: int, i: int) -> None:
    low, high = min(a, b), max(a, b)
    x = low + i % (high - low + 1)
    value, mask = tnum.spanning(low, high)
    assert x & ~mask == value


@MANY
@given(tnums, u64s)
def test_next_number_that_bits_admit(a: tnum.Tnum, z: int) -> None:
    value, mask = a
    found = tnum.after(a, z)
    assert found & ~mask == value
    if z >= value | mask:
        assert found == value | mask
        return
    assert found > z
    # Nothing admitted lies between: clearing any free bit of the result falls to z or below.
    for bit in range(64):
        if found & mask & (1 << bit):
            lower = found & ~(1 << bit) | mask & ((1 << bit) - 1)
            assert lower <= z or lower == found
