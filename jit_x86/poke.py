# SPDX-License-Identifier: GPL-2.0-only
"""Patching direct tail calls when a program array's slot changes (arch_bpf_poke_desc_update).

A filled slot turns the bypass jump into a nop and the target nop into a jump; the order keeps running
code on a valid path at every moment.
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa.native import PokeSite

from .assembler import assemble
from .byte_forms import near_branch

PATCH_SIZE: Final = 5


def _jump(addr: int, goal: int) -> bytes:
    """A jump in its 5-byte form: what is patched must fill the nop exactly."""
    code = assemble(f"jmp {goal:#x}", addr)
    return code if len(code) == PATCH_SIZE else assemble(near_branch("jmp", goal - addr - PATCH_SIZE).text)


def call_code(addr: int, target: int) -> bytes:
    """The 5-byte call of ``target`` at ``addr``."""
    return assemble(f"call {target:#x}", addr)


def poke_code(poke: PokeSite, base: int, goal: int | None) -> tuple[tuple[int, bytes], ...]:
    """What to write where, in order: ``base`` is the function's address, ``goal`` where the tail call
    lands (None: the slot is empty)."""
    target, bypass = base + poke.target_off, base + poke.bypass_off
    nop = assemble("nop5", target)
    if goal is not None:
        return (target, _jump(target, goal)), (bypass, nop)
    return (bypass, _jump(bypass, target + PATCH_SIZE)), (target, nop)
