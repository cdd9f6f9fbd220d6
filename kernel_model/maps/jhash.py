# SPDX-License-Identifier: GPL-2.0-only
"""Bob Jenkins' lookup3 hash as the kernel computes it (include/linux/jhash.h)."""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

JHASH_INITVAL: Final = 0xDEADBEEF
_M: Final = 0xFFFF_FFFF


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def jhash(key: bytes, initval: int) -> int:
    """The 32-bit hash of ``key`` with seed ``initval`` (u32). jhash2() gives the same for whole words."""
    length = len(key)
    if not length:
        return (JHASH_INITVAL + initval) & _M
    padded = -(-length // 12) * 12
    words: tuple[int, ...] = _words(padded // 4).unpack(key if padded == length else key.ljust(padded, b"\0"))
    a = b = c = JHASH_INITVAL + length + initval & _M
    last = padded // 4 - 3
    for i in range(0, last, 3):
        a = a + words[i] & _M
        b = b + words[i + 1] & _M
        c = c + words[i + 2] & _M
        a = (a - c & _M) ^ (c << 4 & _M | c >> 28)
        c = c + b & _M
        b = (b - a & _M) ^ (a << 6 & _M | a >> 26)
        a = a + c & _M
        c = (c - b & _M) ^ (b << 8 & _M | b >> 24)
        b = b + a & _M
        a = (a - c & _M) ^ (c << 16 & _M | c >> 16)
        c = c + b & _M
        b = (b - a & _M) ^ (a << 19 & _M | a >> 13)
        a = a + c & _M
        c = (c - b & _M) ^ (b << 4 & _M | b >> 28)
        b = b + a & _M
    a = a + words[last] & _M
    b = b + words[last + 1] & _M
    c = c + words[last + 2] & _M
    c = (c ^ b) - (b << 14 & _M | b >> 18) & _M
    a = (a ^ c) - (c << 11 & _M | c >> 21) & _M
    b = (b ^ a) - (a << 25 & _M | a >> 7) & _M
    c = (c ^ b) - (b << 16 & _M | b >> 16) & _M
    a = (a ^ c) - (c << 4 & _M | c >> 28) & _M
    b = (b ^ a) - (a << 14 & _M | a >> 18) & _M
    return (c ^ b) - (b << 24 & _M | b >> 8) & _M
