# SPDX-License-Identifier: GPL-2.0-only
"""What the bench workloads must return, computed in Python: a reference for engines and twins."""

from __future__ import annotations

import struct
from collections.abc import Callable

PACKET = bytes((i * 7 + 3) & 0xFF for i in range(600))

M64 = (1 << 64) - 1


def alu_mix(_: bytes) -> int:
    """The value that alu_mix.c computes."""
    value = 1
    for _call in range(200):
        x = value
        y, z = x ^ 0x5BD1E995, x + 0x1B873593
        for i in range(250):
            x = x - y & M64
            z ^= x
            y = y * 0x2545F491 & M64
            x ^= i
            z = z - y & M64
            y |= 1
            x = x * 0x41C64E6D & M64
            z = z + 0x3C6EF35F & M64
            y ^= z
            x = x + z & M64
            z = z * 0x19660D & M64
            y = y + x & M64
            x &= 0x7FFFFFFF
            z |= 2
            y = y - i & M64
            x ^= y
        value = (x ^ y ^ z ^ z >> 32) & 0xFFFFFFFF
    return value


def csum512(packet: bytes) -> int:
    """RFC 1071 over the first 512 bytes, as the program reads them (little-endian words)."""
    total = sum(struct.unpack("<256H", packet[:512]))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def siphash512(packet: bytes) -> int:
    """SipHash-2-4 of the first 512 bytes under the key 00 01 .. 0f, folded to 32 bits."""
    value = siphash24(bytes(range(16)), packet[:512])
    return (value ^ value >> 32) & 0xFFFFFFFF


def siphash24(key: bytes, data: bytes) -> int:
    """SipHash-2-4 as its paper gives it."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & M64

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = v[0] + v[1] & M64
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = v[2] + v[3] & M64
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = v[0] + v[3] & M64
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = v[2] + v[1] & M64
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


XDP_PASS = 2

# What each workload returns for a packet when its maps are as they were loaded.
RESULTS: dict[str, Callable[[bytes], int]] = {
    "alu_mix": alu_mix,
    "xdp_flow": lambda packet: XDP_PASS,
    "array_atomic": lambda packet: 64,
    "tail_chain": lambda packet: XDP_PASS,
    "csum512": csum512,
    "siphash512": siphash512,
}
