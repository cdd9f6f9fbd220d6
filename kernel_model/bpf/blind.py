# SPDX-License-Identifier: GPL-2.0-only
"""Constant blinding: no number that a program's author chose stands in machine code (since 4.7).

Each instruction with an immediate becomes three or more that make the number in AX, out of a random one and
its XOR with it. Source: bpf_jit_blind_constants() and bpf_jit_blind_insn(), kernel/bpf/core.c of Linux 6.18.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..isa import opcodes as op
from ..isa.insn import Insn
from ..verifier.api import Privileges, VerifiedProgram

if TYPE_CHECKING:
    from ..kernel import Kernel

ENOTSUPP: Final = 524
AX: Final = op.BPF_REG_AX
_ARITHMETIC: Final = (
    *(op.BPF_ADD, op.BPF_SUB, op.BPF_AND, op.BPF_OR, op.BPF_XOR),
    *(op.BPF_MUL, op.BPF_MOV, op.BPF_DIV, op.BPF_MOD),
)
"""Shifts are left as they are: a count is too small to be code."""
_CONDITIONS: Final = (
    *(op.BPF_JEQ, op.BPF_JNE, op.BPF_JGT, op.BPF_JLT, op.BPF_JGE, op.BPF_JLE),
    *(op.BPF_JSGT, op.BPF_JSLT, op.BPF_JSGE, op.BPF_JSLE, op.BPF_JSET),
)
_BLINDED: Final = {
    **{
        klass | code | op.BPF_K: klass
        for klass, codes in (
            (op.BPF_ALU, _ARITHMETIC),
            (op.BPF_ALU64, _ARITHMETIC),
            (op.BPF_JMP, _CONDITIONS),
            (op.BPF_JMP32, _CONDITIONS),
        )
        for code in codes
    },
    **{op.BPF_ST | op.BPF_MEM | size: op.BPF_ALU64 for size in (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW)},
}
"""The class of each opcode whose immediate goes into AX."""
_MAKES: Final = {op.BPF_JMP: op.BPF_ALU64, op.BPF_JMP32: op.BPF_ALU}
"""In which class AX is made for a jump."""


def blinding_enabled(kernel: Kernel, privileges: Privileges) -> bool:
    """bpf_jit_blinding_enabled(): ``net.core.bpf_jit_harden`` is 2, or 1 and the loader lacks CAP_BPF."""
    harden = kernel.sysctl["net/core/bpf_jit_harden"]
    return bool(kernel.sysctl["net/core/bpf_jit_enable"]) and (
        harden == 2 or (harden == 1 and not privileges.bpf)
    )


def _s32(value: int) -> int:
    value &= 0xFFFF_FFFF
    return value - ((value & 0x8000_0000) << 1)


def _make(klass: int, imm: int, key: int) -> list[Insn]:
    """AX = imm, with neither ``imm`` nor a constant of it in the code."""
    return [
        Insn(klass | op.BPF_MOV | op.BPF_K, AX, imm=_s32(key ^ imm)),
        Insn(klass | op.BPF_XOR | op.BPF_K, AX, imm=_s32(key)),
    ]


def blind_insn(insn: Insn, draw: Callable[[], int]) -> list[Insn]:
    """What replaces one instruction other than LD_IMM64; itself when it has nothing to hide.

    ``draw`` gives random numbers of 32 bits. A jump keeps its distance, which is the caller's to mend.
    """
    if AX in (insn.dst, insn.src):
        return [insn]
    if insn.imm == 0 and insn.code in (op.BPF_ALU | op.BPF_MOV, op.BPF_ALU64 | op.BPF_MOV):
        return [Insn(op.BPF_ALU64 | op.BPF_XOR | op.BPF_X, insn.dst, insn.dst)]
    klass = _BLINDED.get(insn.code)
    if klass is None:
        return [insn]
    made = _make(_MAKES.get(klass, klass), insn.imm, draw())
    if op.bpf_class(insn.code) == op.BPF_ST:
        return [*made, Insn(op.BPF_STX | op.BPF_MEM | op.bpf_size(insn.code), insn.dst, AX, insn.off)]
    return [*made, Insn(insn.code | op.BPF_X, insn.dst, AX, insn.off)]


def blind_imm64(first: Insn, second: Insn, draw: Callable[[], int]) -> tuple[list[Insn], list[Insn]]:
    """What replaces the two slots of an LD_IMM64: the upper half, then the lower one. Addresses of the
    program's own functions stay: they are not the author's choice.
    """
    if first.src == op.BPF_PSEUDO_FUNC or first.dst == AX:
        return [first], [second]
    upper = [
        *_make(op.BPF_ALU64, second.imm, draw()),
        Insn(op.BPF_ALU64 | op.BPF_LSH | op.BPF_K, AX, imm=32),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, first.dst, AX),
    ]
    lower = [
        *_make(op.BPF_ALU, first.imm, draw()),
        Insn(op.BPF_ALU64 | op.BPF_OR | op.BPF_X, first.dst, AX),
    ]
    return upper, lower


def _expanded(insns: Sequence[Insn], draw: Callable[[], int]) -> list[list[Insn]]:
    """What each slot becomes."""
    made: list[list[Insn]] = []
    slot = 0
    while slot < len(insns):
        if insns[slot].code == op.LD_IMM64:
            made += blind_imm64(insns[slot], insns[slot + 1], draw)
            slot += 2
        else:
            made.append(blind_insn(insns[slot], draw))
            slot += 1
    return made


_FAR: Final = {
    (op.BPF_JMP32 | op.BPF_JA, 0),
    (op.CALL, op.BPF_PSEUDO_CALL),
    (op.LD_IMM64, op.BPF_PSEUDO_FUNC),
}
"""Opcodes (with src) whose distance is the immediate."""


def _mend(insn: Insn, slot: int, now: int, starts: Sequence[int]) -> Insn:
    """The distance of what refers to another slot; ``slot`` is where it stood, ``now`` where it stands."""
    if (insn.code, insn.src) in _FAR:
        target = slot + 1 + insn.imm
        return insn._replace(imm=starts[target] - now - 1) if 0 <= target < len(starts) else insn
    klass = op.bpf_class(insn.code)
    if klass not in (op.BPF_JMP, op.BPF_JMP32) or insn.code in (op.CALL, op.EXIT, op.TAIL_CALL):
        return insn
    off = starts[slot + 1 + insn.off] - now - 1
    if not -(1 << 15) <= off < 1 << 15:
        raise KernelError(ENOTSUPP, f"blinded, the jump at slot {slot} goes further than 16 bits say")
    return insn._replace(off=off)


def blind_constants(verified: VerifiedProgram, draw: Callable[[], int]) -> VerifiedProgram:
    """The program with its constants blinded; ``draw`` gives random numbers of 32 bits.

    KernelError(ENOTSUPP), as there is no machine code then, when a jump cannot reach its target any more.
    """
    expanded = _expanded(verified.insns, draw)
    starts = [0]
    for made in expanded:
        starts.append(starts[-1] + len(made))
    insns: list[Insn] = []
    for slot, made in enumerate(expanded):
        insns += made[:-1]
        insns.append(_mend(made[-1], slot, len(insns), starts))
    return replace(
        verified,
        insns=tuple(insns),
        subprogs=tuple(
            replace(each, start=starts[each.start], end=starts[each.end]) for each in verified.subprogs
        ),
        pokes=tuple(replace(each, insn=starts[each.insn]) for each in verified.pokes),
        orig_index=tuple(
            origin for origin, made in zip(verified.orig_index, expanded, strict=True) for _ in made
        ),
        func_info=tuple(replace(each, insn_off=starts[each.insn_off]) for each in verified.func_info),
        line_info=tuple(replace(each, insn_off=starts[each.insn_off]) for each in verified.line_info),
    )
