# SPDX-License-Identifier: GPL-2.0-only
"""What the JIT may take for granted of divisions: the checks that a verifier puts in front of them.

The conformance cases are written without them. Here each division becomes a sequence whose division
never sees a divisor of 0, nor a signed one of -1, with the results that Linux defines for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog


def _is_division(insn: Insn) -> bool:
    klass = op.bpf_class(insn.code)
    return klass in (op.BPF_ALU, op.BPF_ALU64) and op.bpf_op(insn.code) in (op.BPF_DIV, op.BPF_MOD)


def _guarded(insn: Insn) -> list[Insn]:
    """The division behind its checks; R11 (the kernel's AX) holds a constant divisor."""
    klass = op.bpf_class(insn.code)
    jump = op.BPF_JMP if klass == op.BPF_ALU64 else op.BPF_JMP32
    head: list[Insn] = []
    src = insn.src
    if op.bpf_src(insn.code) == op.BPF_K:
        src = op.BPF_REG_AX
        head = [Insn(klass | op.BPF_MOV | op.BPF_K, src, 0, 0, insn.imm)]
    divide = Insn(klass | op.bpf_op(insn.code) | op.BPF_X, insn.dst, src, insn.off)
    keep = Insn(klass | op.BPF_MOV | op.BPF_X, insn.dst, insn.dst)
    zero = Insn(op.BPF_ALU | op.BPF_MOV | op.BPF_K, insn.dst)
    is_mod = op.bpf_op(insn.code) == op.BPF_MOD
    by_zero = keep if is_mod else zero
    if insn.off == 0:
        return [
            *head,
            Insn(jump | op.BPF_JNE | op.BPF_K, src, 0, 2),
            by_zero,
            Insn(op.BPF_JMP | op.BPF_JA, off=1),
            divide,
        ]
    by_minus_one = zero if is_mod else Insn(klass | op.BPF_NEG, insn.dst)
    return [
        *head,
        Insn(jump | op.BPF_JNE | op.BPF_K, src, 0, 2),
        by_zero,
        Insn(op.BPF_JMP | op.BPF_JA, off=4),
        Insn(jump | op.BPF_JNE | op.BPF_K, src, 0, 2, -1),
        by_minus_one,
        Insn(op.BPF_JMP | op.BPF_JA, off=1),
        divide,
    ]


def _distance(insn: Insn) -> tuple[str, int] | None:
    """The field that holds a jump's or call's distance, and the distance."""
    klass, code = op.bpf_class(insn.code), op.bpf_op(insn.code)
    if insn.code == op.LD_IMM64 and insn.src == op.BPF_PSEUDO_FUNC:
        return "imm", insn.imm
    if klass not in (op.BPF_JMP, op.BPF_JMP32) or insn.code == op.EXIT or insn.code == op.TAIL_CALL:
        return None
    if insn.code == op.CALL:
        return ("imm", insn.imm) if insn.src == op.BPF_PSEUDO_CALL else None
    if klass == op.BPF_JMP32 and code == op.BPF_JA:
        return "imm", insn.imm
    return "off", insn.off


def guard_divisions(
    insns: Sequence[Insn], subprogs: Sequence[Subprog]
) -> tuple[tuple[Insn, ...], tuple[Subprog, ...]]:
    """The program with its divisions guarded and every distance and function moved accordingly."""
    groups = [_guarded(insn) if _is_division(insn) else [insn] for insn in insns]
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group))
    out: list[Insn] = []
    for index, group in enumerate(groups):
        found = _distance(insns[index]) if len(group) == 1 else None
        if found:
            field, distance = found
            moved = starts[index + 1 + distance] - starts[index] - 1
            group = [group[0]._replace(**{field: moved})]
        out += group
    moved_subprogs = tuple(replace(s, start=starts[s.start], end=starts[s.end]) for s in subprogs)
    return tuple(out), moved_subprogs
