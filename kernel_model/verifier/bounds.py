# SPDX-License-Identifier: GPL-2.0-only
"""What is known of a register's 64-bit number: known bits and four ranges, and how they sharpen each other.

A :class:`Bounds` is immutable once it is shared; the functions here build a fresh one, adjust it, and give
it away. The deductions are those of Linux 6.18 (reg_bounds_sync and what it calls;
Documentation/bpf/verifier.rst, "Understanding scalar ranges"), in the same order, since their result
is visible in the log and decides what is accepted.
"""

from __future__ import annotations

from typing import Final

from . import tnum

U32: Final = 0xFFFF_FFFF
U64: Final = 0xFFFF_FFFF_FFFF_FFFF
S32_MIN: Final = -(1 << 31)
S32_MAX: Final = (1 << 31) - 1
S64_MIN: Final = -(1 << 63)
S64_MAX: Final = (1 << 63) - 1
_HIGH32: Final = U64 ^ U32
_SIGN32: Final = 1 << 31
_SIGN64: Final = 1 << 63


def s32(value: int) -> int:
    """The low 32 bits as a signed number."""
    value &= U32
    return value - (1 << 32) if value & _SIGN32 else value


def s64(value: int) -> int:
    """The low 64 bits as a signed number."""
    value &= U64
    return value - (1 << 64) if value & _SIGN64 else value


class Bounds:
    """Known bits (``value``, ``mask``) and the ranges smin..smax, umin..umax, s32_*, u32_*.

    Signed fields hold signed Python numbers, unsigned ones unsigned numbers; both ends are included.
    ``sane`` notes, on a shared one, that invariant_violation() found nothing.
    """

    __slots__ = (
        "mask",
        "s32_max",
        "s32_min",
        "sane",
        "smax",
        "smin",
        "u32_max",
        "u32_min",
        "umax",
        "umin",
        "value",
    )

    def __init__(
        self,
        value: int,
        mask: int,
        smin: int,
        smax: int,
        umin: int,
        umax: int,
        s32_min: int,
        s32_max: int,
        u32_min: int,
        u32_max: int,
    ) -> None:
        self.value = value
        self.mask = mask
        self.smin = smin
        self.smax = smax
        self.umin = umin
        self.umax = umax
        self.s32_min = s32_min
        self.s32_max = s32_max
        self.u32_min = u32_min
        self.u32_max = u32_max
        self.sane = False

    def copy(self) -> Bounds:
        """A fresh one to adjust."""
        return Bounds(
            self.value, self.mask, self.smin, self.smax, self.umin, self.umax,
            self.s32_min, self.s32_max, self.u32_min, self.u32_max,
        )  # fmt: skip

    def key(self) -> tuple[int, ...]:
        """All fields, in the order of the constructor."""
        return (
            self.value, self.mask, self.smin, self.smax, self.umin, self.umax,
            self.s32_min, self.s32_max, self.u32_min, self.u32_max,
        )  # fmt: skip

    @property
    def tnum(self) -> tnum.Tnum:
        return (self.value, self.mask)

    @property
    def is_const(self) -> bool:
        return self.mask == 0

    def __repr__(self) -> str:
        return f"Bounds{self.key()}"


UNKNOWN: Final = Bounds(0, U64, S64_MIN, S64_MAX, 0, U64, S32_MIN, S32_MAX, 0, U32)

_consts: dict[int, Bounds] = {}
_CONSTS_KEPT: Final = 1 << 16


def const(value: int) -> Bounds:
    """The bounds of exactly ``value`` (modulo 2**64); the same object for the same value, mostly."""
    value &= U64
    found = _consts.get(value)
    if found is None:
        low, signed = value & U32, s64(value)
        low_signed = s32(value)
        found = Bounds(value, 0, signed, signed, value, value, low_signed, low_signed, low, low)
        if len(_consts) >= _CONSTS_KEPT:
            _consts.clear()
        _consts[value] = found
    return found


_interned: dict[tuple[int, ...], Bounds] = {}
_INTERNED_KEPT: Final = 1 << 15


def interned(b: Bounds) -> Bounds:
    """The one object for what ``b`` says, mostly, so that later results and comparisons are found by it.

    The caller gives ``b`` away: it is shared from now on.
    """
    key = b.key()
    if b.mask == 0:
        exact = const(b.value)
        if exact.key() == key:
            return exact
    found = _interned.get(key)
    if found is None:
        if len(_interned) >= _INTERNED_KEPT:
            _interned.clear()
        if key == UNKNOWN.key():
            b = UNKNOWN
        found = _interned[key] = b
    return found


def same(a: Bounds, b: Bounds) -> bool:
    """Whether all fields are equal."""
    return a is b or a.key() == b.key()


def within(old: Bounds, cur: Bounds) -> bool:
    """Whether every range of ``cur`` lies inside that of ``old`` (kernel: range_within)."""
    return (
        old.umin <= cur.umin
        and old.umax >= cur.umax
        and old.smin <= cur.smin
        and old.smax >= cur.smax
        and old.u32_min <= cur.u32_min
        and old.u32_max >= cur.u32_max
        and old.s32_min <= cur.s32_min
        and old.s32_max >= cur.s32_max
    )


def set_unbounded(b: Bounds) -> None:
    """Forget all ranges, keep the known bits."""
    b.smin, b.smax, b.umin, b.umax = S64_MIN, S64_MAX, 0, U64
    b.s32_min, b.s32_max, b.u32_min, b.u32_max = S32_MIN, S32_MAX, 0, U32


def set_unbounded64(b: Bounds) -> None:
    """Forget the 64-bit ranges."""
    b.smin, b.smax, b.umin, b.umax = S64_MIN, S64_MAX, 0, U64


def set_unbounded32(b: Bounds) -> None:
    """Forget the 32-bit ranges."""
    b.s32_min, b.s32_max, b.u32_min, b.u32_max = S32_MIN, S32_MAX, 0, U32


def update32_from_bits(b: Bounds) -> None:
    """Narrow the 32-bit ranges to what the known bits allow."""
    value, mask = b.value & U32, b.mask & U32
    low = s32(value | (mask & _SIGN32))
    if low > b.s32_min:
        b.s32_min = low
    high = s32(value | (mask & S32_MAX))
    if high < b.s32_max:
        b.s32_max = high
    if value > b.u32_min:
        b.u32_min = value
    top = value | mask
    if top < b.u32_max:
        b.u32_max = top


def update64_from_bits(b: Bounds) -> None:
    """Narrow the 64-bit ranges to what the known bits allow."""
    value, mask = b.value, b.mask
    low = s64(value | (mask & _SIGN64))
    if low > b.smin:
        b.smin = low
    high = s64(value | (mask & S64_MAX))
    if high < b.smax:
        b.smax = high
    if value > b.umin:
        b.umin = value
    top = value | mask
    if top < b.umax:
        b.umax = top
    if mask or b.umin != b.umax:
        _single_match(b, top)


def _single_match(b: Bounds, top: int) -> None:
    """Where the bits admit only one number of the unsigned range, that is it. (6.18's stable updates)

    A range that contradicts the bits (a branch that cannot be taken) becomes one number, too.
    """
    low, high = b.umin, b.umax
    following = tnum.after((b.value, b.mask), low)
    if low & ~b.mask == b.value:
        if following <= high:
            return
        only = low
    elif following == top:
        only = top
    elif following <= high and tnum.after((b.value, b.mask), following) > high:
        only = following
    else:
        return
    exact = const(only)
    b.value, b.mask = only, 0
    b.umin = b.umax = only
    b.smin = b.smax = exact.smin
    b.s32_min = b.s32_max = exact.s32_min
    b.u32_min = b.u32_max = exact.u32_min


def update_from_bits(b: Bounds) -> None:
    """Narrow all ranges to what the known bits allow."""
    update32_from_bits(b)
    update64_from_bits(b)


def _meet_s32(b: Bounds, low: int, high: int) -> None:
    if low > b.s32_min:
        b.s32_min = low
    if high < b.s32_max:
        b.s32_max = high


def _meet_u32(b: Bounds, low: int, high: int) -> None:
    if low > b.u32_min:
        b.u32_min = low
    if high < b.u32_max:
        b.u32_max = high


def _deduce32(b: Bounds) -> None:
    """32-bit ranges from the 64-bit ones and from each other.

    A 64-bit range whose upper halves agree is a range of its lower halves; upper halves that differ by
    one still give a signed 32-bit range when the lower ones go from negative to positive. (since 6.8)
    A signed range across zero is treated as in 64 bits. (6.18's stable updates)
    """
    umin, umax, smin, smax = b.umin, b.umax, b.smin, b.smax
    ulow, uhigh = s32(umin), s32(umax)
    slow, shigh = s32(smin), s32(smax)
    if umin >> 32 == umax >> 32:
        _meet_u32(b, umin & U32, umax & U32)
        if ulow <= uhigh:
            _meet_s32(b, ulow, uhigh)
    if smin >> 32 == smax >> 32:
        if smin & U32 <= smax & U32:
            _meet_u32(b, smin & U32, smax & U32)
        if slow <= shigh:
            _meet_s32(b, slow, shigh)
    if ((umin >> 32) + 1) & U32 == umax >> 32 and ulow < 0 <= uhigh:
        _meet_s32(b, ulow, uhigh)
    if ((smin >> 32) + 1) & U32 == (smax >> 32) & U32 and slow < 0 <= shigh:
        _meet_s32(b, slow, shigh)
    low, high = s32(b.u32_min), s32(b.u32_max)
    if low <= high:
        _meet_s32(b, low, high)
    low, high = b.s32_min & U32, b.s32_max & U32
    if low <= high:
        _meet_u32(b, low, high)
    elif b.u32_max < low:
        b.s32_min = s32(b.u32_min)
        if high < b.u32_max:
            b.u32_max = high
    elif high < b.u32_min:
        b.s32_max = s32(b.u32_max)
        if low > b.u32_min:
            b.u32_min = low


def _deduce64(b: Bounds) -> None:
    """Signed from unsigned 64-bit ranges and back.

    They agree while they stay on one side of the sign; a signed range across zero that meets the
    unsigned one at only one of its two ends still narrows both. (the latter since 6.17)
    """
    low, high = s64(b.umin), s64(b.umax)
    if low <= high:
        if low > b.smin:
            b.smin = low
        if high < b.smax:
            b.smax = high
    low, high = b.smin & U64, b.smax & U64
    if low <= high:
        if low > b.umin:
            b.umin = low
        if high < b.umax:
            b.umax = high
    elif b.umax < low:
        b.smin = s64(b.umin)
        if high < b.umax:
            b.umax = high
    elif high < b.umin:
        b.smax = s64(b.umax)
        if low > b.umin:
            b.umin = low


def _deduce_mixed(b: Bounds) -> None:
    """64-bit ranges from the 32-bit ones: exchange the lower halves of the ends. (since 6.8)"""
    low = b.umin & _HIGH32 | b.u32_min
    if low > b.umin:
        b.umin = low
    high = b.umax & _HIGH32 | b.u32_max
    if high < b.umax:
        b.umax = high
    low = s64(b.smin & _HIGH32 | b.u32_min)
    if low > b.smin:
        b.smin = low
    high = s64(b.smax & _HIGH32 | b.u32_max)
    if high < b.smax:
        b.smax = high
    if b.s32_min >= 0 and b.smin >= S32_MIN and b.smax <= S32_MAX:
        # A sign-extended 32-bit value that is not negative as 32 bits is not negative at all.
        b.smin = b.umin = b.s32_min
        b.smax = b.umax = b.s32_max & U64
        b.smax = b.s32_max
        b.value, b.mask = tnum.intersect((b.value, b.mask), tnum.spanning(b.smin & U64, b.smax & U64))


def _deduce(b: Bounds) -> None:
    _deduce32(b)
    _deduce64(b)
    _deduce_mixed(b)


def _bits_from_ranges(b: Bounds) -> None:
    """Known bits from the unsigned ranges."""
    whole = tnum.intersect((b.value, b.mask), tnum.spanning(b.umin, b.umax))
    low = tnum.intersect((whole[0] & U32, whole[1] & U32), tnum.spanning(b.u32_min, b.u32_max))
    b.value, b.mask = tnum.or_((whole[0] & _HIGH32, whole[1] & _HIGH32), low)


def _unbounded(b: Bounds) -> bool:
    return (
        b.umax == U64
        and b.smax == S64_MAX
        and b.umin == 0
        and b.smin == S64_MIN
        and b.u32_max == U32
        and b.s32_max == S32_MAX
        and b.u32_min == 0
        and b.s32_min == S32_MIN
    )


def sync(b: Bounds) -> None:
    """Let known bits and ranges sharpen each other (kernel: reg_bounds_sync)."""
    if b.mask == 0:
        exact = const(b.value)
        if (
            b.smin <= exact.smin <= b.smax
            and b.umin <= b.value <= b.umax
            and b.s32_min <= exact.s32_min <= b.s32_max
            and b.u32_min <= exact.u32_min <= b.u32_max
        ):
            b.smin = b.smax = exact.smin
            b.umin = b.umax = b.value
            b.s32_min = b.s32_max = exact.s32_min
            b.u32_min = b.u32_max = exact.u32_min
            return
    elif b.mask == U64 and _unbounded(b):
        return
    update_from_bits(b)
    # Linux deduces three times; a round that finds nothing ends it, since the next would not either.
    before = b.key()
    for _ in range(3):
        _deduce(b)
        after = b.key()
        if after == before:
            break
        before = after
    _bits_from_ranges(b)
    update_from_bits(b)


def invariant_violation(b: Bounds) -> str:
    """The kernel's words for what contradicts itself in ``b``; "" when nothing does. (since 6.8)"""
    if b.umin > b.umax or b.smin > b.smax or b.u32_min > b.u32_max or b.s32_min > b.s32_max:
        return "range bounds violation"
    if b.mask == 0:
        signed = s64(b.value)
        if b.umin != b.value or b.umax != b.value or b.smin != signed or b.smax != signed:
            return "const tnum out of sync with range bounds"
    if b.mask & U32 == 0:
        low = b.value & U32
        signed = s32(low)
        if b.u32_min != low or b.u32_max != low or b.s32_min != signed or b.s32_max != signed:
            return "const subreg tnum out of sync with range bounds"
    return ""


def assign_32_into_64(b: Bounds) -> None:
    """The 64-bit ranges of a zero-extended 32-bit value."""
    b.umin, b.umax = b.u32_min, b.u32_max
    if b.s32_min >= 0 and b.s32_max >= 0:
        b.smin, b.smax = b.s32_min, b.s32_max
    else:
        b.smin, b.smax = 0, U32


def zext_32_to_64(b: Bounds) -> None:
    """What a 32-bit operation leaves in the 64-bit register."""
    b.value &= U32
    b.mask &= U32
    assign_32_into_64(b)


_zero_extended: dict[tuple[Bounds, int], Bounds] = {}
_MEMO: Final = 1 << 15


def zero_extend(b: Bounds, size: int) -> Bounds:
    """The low ``size`` (1, 2, 4) bytes, zero-extended (kernel: coerce_reg_to_size)."""
    memo = (b, size)
    found = _zero_extended.get(memo)
    if found is not None:
        return found
    out = b.copy()
    mask = (1 << (size * 8)) - 1
    out.value &= mask
    out.mask &= mask
    if out.umin & ~mask == out.umax & ~mask:
        out.umin &= mask
        out.umax &= mask
    else:
        out.umin, out.umax = 0, mask
    out.smin, out.smax = out.umin, out.umax
    if size < 4:
        set_unbounded32(out)
    sync(out)
    out = interned(out)
    if len(_zero_extended) >= _MEMO:
        _zero_extended.clear()
    _zero_extended[memo] = out
    return out


def with_subreg(b: Bounds, low: int) -> Bounds:
    """The same with the lower half known to be ``low``; the 64-bit ranges stay."""
    out = b.copy()
    out.value, out.mask = b.value & _HIGH32 | low, b.mask & _HIGH32
    out.u32_min = out.u32_max = low
    out.s32_min = out.s32_max = s32(low)
    return out


def byte_swap(b: Bounds, size: int, swaps: bool) -> Bounds:
    """The low ``size`` (2, 4, 8) bytes, reversed when ``swaps`` (kernel: scalar_byte_swap).

    Known bits move with their bytes; ranges do not survive.
    """
    out = b
    if swaps:
        out = b.copy()
        set_unbounded(out)
        keep = (1 << (size * 8)) - 1
        for name in ("value", "mask"):
            old = getattr(b, name) & keep
            setattr(out, name, int.from_bytes(old.to_bytes(size, "little"), "big"))
        if size == 8:
            sync(out)
    return out if size == 8 else zero_extend(out, size)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def sign_extend(b: Bounds, size: int) -> Bounds:
    """The low ``size`` (1, 2, 4) bytes, sign-extended to 64 bits (kernel: coerce_reg_to_size_sx, 6.6)."""
    bits = size * 8
    if b.mask == 0:
        return const(_signed(b.value, bits))
    if (b.smax & U64) >> bits == (b.smin & U64) >> bits:
        first, last = _signed(b.smax, bits), _signed(b.smin, bits)
        low, high = min(first, last), max(first, last)
        if (high >= 0) == (low >= 0):
            value, mask = tnum.spanning(low & U64, high & U64)
            return Bounds(
                value, mask, low, high, low & U64, high & U64, s32(low), s32(high), low & U32, high & U32
            )
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return Bounds(0, U64, low, high, 0, U64, low, high, 0, U32)


def sign_extend32(b: Bounds, size: int) -> Bounds:
    """The low ``size`` (1, 2) bytes, sign-extended to 32 bits; the 64-bit ranges stay as they were.

    The caller zero-extends afterwards (kernel: coerce_subreg_to_size_sx).
    """
    bits = size * 8
    out = b.copy()
    if b.mask == 0:
        exact = _signed(b.value, bits)
        out.value = exact & U64
        out.s32_min = out.s32_max = exact
        out.u32_min = out.u32_max = exact & U32
        return out
    if (b.s32_max & U32) >> bits == (b.s32_min & U32) >> bits:
        first, last = _signed(b.s32_max, bits), _signed(b.s32_min, bits)
        low, high = min(first, last), max(first, last)
        if (low >= 0) == (high >= 0):
            out.s32_min, out.s32_max = low, high
            out.u32_min, out.u32_max = low & U32, high & U32
            out.value, out.mask = tnum.cast(tnum.spanning(low & U64, high & U64), 4)
            return out
    out.s32_min, out.s32_max = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    out.u32_min, out.u32_max = 0, U32
    out.value, out.mask = 0, U32
    return out


def zero_extend_subreg(b: Bounds) -> Bounds:
    """A 32-bit move: the low half, zero-extended, with everything deduced."""
    out = b.copy()
    zext_32_to_64(out)
    sync(out)
    return out
