# SPDX-License-Identifier: GPL-2.0-only
"""One's complement sums of 16 and 32 bits (include/net/checksum.h).

Sums are numbers as little-endian loads read them: the kernel's __wsum (32 bits) and __sum16.
"""

from __future__ import annotations

from typing import Final

_MASK16: Final = 0xFFFF
_MASK32: Final = 0xFFFF_FFFF


def csum_partial(data: bytes, start: int = 0) -> int:
    """The 32-bit sum of ``data`` in little-endian words, a last odd byte padded with zero, onto ``start``."""
    words = memoryview(data.ljust(-(-len(data) // 4) * 4, b"\0")).cast("I")
    total = start + sum(words)
    while total >> 32:
        total = (total & _MASK32) + (total >> 32)
    return total


def csum_add(one: int, two: int) -> int:
    """The sum of two 32-bit sums, the carry added back in."""
    total = (one & _MASK32) + (two & _MASK32)
    return (total + (total >> 32)) & _MASK32


def csum_sub(one: int, two: int) -> int:
    """``one`` without ``two``."""
    return csum_add(one, ~two)


def _shift(csum: int, offset: int) -> int:
    """csum_shift(): bytes at an odd offset count in the other halves of the words."""
    return (csum >> 8 | csum << 24) & _MASK32 if offset & 1 else csum


def csum_block_add(csum: int, part: int, offset: int) -> int:
    """Join the sum of a block that begins ``offset`` bytes behind the start."""
    return csum_add(csum, _shift(part, offset))


def csum_block_sub(csum: int, part: int, offset: int) -> int:
    """Take the sum of a block out again."""
    return csum_sub(csum, _shift(part, offset))


def csum_fold(csum: int) -> int:
    """The checksum for a header: folded to 16 bits and inverted."""
    csum = (csum & _MASK16) + (csum >> 16 & _MASK16)
    csum = (csum & _MASK16) + (csum >> 16)
    return ~csum & _MASK16


def csum16_add(csum: int, addend: int) -> int:
    """Add within 16 bits."""
    total = csum + (addend & _MASK16)
    return (total + (total >> 16)) & _MASK16


def replace2(check: int, old: int, new: int) -> int:
    """csum_replace2(): the header checksum after 16 bits changed from ``old`` to ``new``."""
    return ~csum16_add(csum16_add(~check & _MASK16, ~old), new) & _MASK16


def replace4(check: int, old: int, new: int) -> int:
    """csum_replace4(): the header checksum after 32 bits changed."""
    return csum_fold(csum_add(csum_sub(~check, old), new))


def replace_by_diff(check: int, diff: int) -> int:
    """csum_replace_by_diff(): the header checksum after a change whose difference is ``diff``."""
    return csum_fold(csum_add(diff, ~check))
