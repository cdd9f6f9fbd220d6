# SPDX-License-Identifier: GPL-2.0-only
"""The arithmetic that is too long to write inline in generated code (RFC 9669 section 4.1).

Registers are unsigned 64-bit integers; so are all results.
"""

from __future__ import annotations

from typing import Final

M64: Final = 0xFFFFFFFFFFFFFFFF
M32: Final = 0xFFFFFFFF


def signed(value: int, bits: int) -> int:
    """The low ``bits`` of ``value`` as a signed number."""
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign


def udiv(dividend: int, divisor: int, bits: int) -> int:
    """Unsigned division; by zero gives 0."""
    mask = (1 << bits) - 1
    divisor &= mask
    return (dividend & mask) // divisor if divisor else 0


def umod(dividend: int, divisor: int, bits: int) -> int:
    """Unsigned remainder; by zero gives the dividend (its low ``bits``)."""
    mask = (1 << bits) - 1
    divisor &= mask
    return (dividend & mask) % divisor if divisor else dividend & mask


def sdiv(dividend: int, divisor: int, bits: int) -> int:
    """Signed division rounding towards zero; by zero gives 0, the smallest number by -1 gives itself."""
    a, b = signed(dividend, bits), signed(divisor, bits)
    if b == 0:
        return 0
    quotient = abs(a) // abs(b)
    return (quotient if (a < 0) == (b < 0) else -quotient) & ((1 << bits) - 1)


def smod(dividend: int, divisor: int, bits: int) -> int:
    """Signed remainder with the dividend's sign; by zero gives the dividend, by -1 gives 0."""
    a, b = signed(dividend, bits), signed(divisor, bits)
    remainder = abs(a) % abs(b) if b else abs(a)
    return (remainder if a >= 0 else -remainder) & ((1 << bits) - 1)


def bswap(value: int, bits: int) -> int:
    """The low ``bits`` with their bytes reversed, zero-extended."""
    size = bits // 8
    return int.from_bytes((value & ((1 << bits) - 1)).to_bytes(size, "little"), "big")
