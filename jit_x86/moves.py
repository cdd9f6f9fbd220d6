# SPDX-License-Identifier: GPL-2.0-only
"""Moves that several templates share: registers and constants in Linux's choice of encoding."""

from __future__ import annotations

from .code import Item
from .registers import R32, R64

_U32 = 0xFFFFFFFF


def mov_reg(dst: int, src: int, wide: bool = True) -> list[Item]:
    """``dst = src``; a 64-bit move of a register to itself is nothing, a 32-bit one clears the top."""
    if not wide:
        return [f"mov {R32[dst]}, {R32[src]}"]
    return [f"mov {R64[dst]}, {R64[src]}"] if dst != src else []


def mov_imm32(dst: int, imm: int, sign_extend: bool) -> str:
    """``dst = imm`` (32 bits, sign- or zero-extended): the shortest of xor, mov r32 and mov r64."""
    if sign_extend and imm < 0:
        return f"mov {R64[dst]}, {imm}"
    if imm == 0:
        return f"xor {R32[dst]}, {R32[dst]}"
    return f"mov {R32[dst]}, {imm & _U32:#x}"


def mov_imm64(dst: int, value: int) -> str:
    """``dst = value`` (unsigned 64 bits) in as few bytes as Linux spends on it."""
    if value <= _U32:
        return mov_imm32(dst, value, False)
    if value >= 0xFFFFFFFF80000000:
        return mov_imm32(dst, value - (1 << 64), True)
    return f"movabs {R64[dst]}, {value:#x}"
