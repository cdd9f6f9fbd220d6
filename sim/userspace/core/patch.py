# SPDX-License-Identifier: GPL-2.0-only
"""Putting a relocation's value into its instruction (libbpf: bpf_core_patch_insn)."""

from __future__ import annotations

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from .resolve import CoreError, Resolution

POISON = 0xBAD2310
"""The helper number of a poisoned instruction: a call that no kernel knows."""
_POISONED = Insn(op.CALL, imm=POISON)
_SIZES = {1: op.BPF_B, 2: op.BPF_H, 4: op.BPF_W, 8: op.BPF_DW}
_BYTES = {code: size for size, code in _SIZES.items()}
_CLASS, _SIZE_BITS, _SOURCE = 0x07, 0x18, 0x08
_MAX_OFF = 0x7FFF


def patch(insns: list[Insn], slot: int, found: Resolution) -> None:
    """Change the instruction at ``slot``; CoreError when it is not one that the relocation can be about."""
    insn = insns[slot]
    if found.poison:
        _poison(insns, slot)
        return
    kind = insn.code & _CLASS
    if kind in (op.BPF_ALU, op.BPF_ALU64):
        if insn.code & _SOURCE:
            raise _unexpected(slot, found, "an operation on registers")
        _check(slot, found, insn.imm & 0xFFFF_FFFF, found.old & 0xFFFF_FFFF)
        insns[slot] = insn._replace(imm=_signed(found.new))
    elif kind in (op.BPF_LDX, op.BPF_ST, op.BPF_STX):
        _memory(insns, slot, found)
    elif insn.code == op.LD_IMM64 and not insn.src and slot + 1 < len(insns):
        high = insns[slot + 1]
        _check(slot, found, insn.imm & 0xFFFF_FFFF | (high.imm & 0xFFFF_FFFF) << 32, found.old)
        insns[slot] = insn._replace(imm=_signed(found.new))
        insns[slot + 1] = high._replace(imm=_signed(found.new >> 32))
    else:
        raise _unexpected(slot, found, f"code {insn.code:#04x}")


def _memory(insns: list[Insn], slot: int, found: Resolution) -> None:
    insn = insns[slot]
    _check(slot, found, insn.off, found.old)
    if found.new > _MAX_OFF:
        raise CoreError(f"insn #{slot}: {found.local}: offset {found.new} is too large for a load or store")
    if found.bad_size:
        # Only an access to an unsigned integer or a pointer can be made wider or narrower.
        _poison(insns, slot)
        return
    code = insn.code
    if found.old_size != found.new_size:
        size = _BYTES[code & _SIZE_BITS]
        if size != found.old_size:
            cause = f"accesses {size} bytes of a field of {found.old_size}"
            raise _unexpected(slot, found, cause)
        if found.new_size not in _SIZES:
            raise _unexpected(slot, found, f"no access has {found.new_size} bytes")
        code = code & ~_SIZE_BITS | _SIZES[found.new_size]
    insns[slot] = insn._replace(code=code, off=found.new)


def _poison(insns: list[Insn], slot: int) -> None:
    if insns[slot].code == op.LD_IMM64 and slot + 1 < len(insns):
        insns[slot + 1] = _POISONED
    insns[slot] = _POISONED


def _check(slot: int, found: Resolution, got: int, expected: int) -> None:
    if found.checked and got != expected:
        raise _unexpected(slot, found, f"holds {got}, expected {expected} -> {found.new}")


def _unexpected(slot: int, found: Resolution, cause: str) -> CoreError:
    return CoreError(f"insn #{slot}: {found.local}: {cause}")


def _signed(value: int) -> int:
    return ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000
