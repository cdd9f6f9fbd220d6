# SPDX-License-Identifier: GPL-2.0-only
"""SipHash-2-4 (lib/siphash.c): flow hashes, and what ``%p`` shows instead of an address."""

from __future__ import annotations

from typing import Final

_M: Final = 0xFFFF_FFFF_FFFF_FFFF


def _rol(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _M


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a = a + b & _M
    b = _rol(b, 13) ^ a
    a = _rol(a, 32)
    c = c + d & _M
    d = _rol(d, 16) ^ c
    a = a + d & _M
    d = _rol(d, 21) ^ a
    c = c + b & _M
    b = _rol(b, 17) ^ c
    return a, b, _rol(c, 32), d


def siphash(data: bytes, key: tuple[int, int]) -> int:
    """The 64-bit hash of ``data`` under a 128-bit key."""
    a, b = key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D
    c, d = key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573
    whole = len(data) // 8 * 8
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 0xFF])
    for each in memoryview(data[:whole] + last).cast("Q"):
        d ^= each
        for _ in range(2):
            a, b, c, d = _round(a, b, c, d)
        a ^= each
    c ^= 0xFF
    for _ in range(4):
        a, b, c, d = _round(a, b, c, d)
    return a ^ b ^ c ^ d


def siphash_1u64(word: int, key: tuple[int, int]) -> int:
    """The hash of one word (8 bytes, little endian)."""
    return siphash(word.to_bytes(8, "little"), key)
