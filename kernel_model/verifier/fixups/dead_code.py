# SPDX-License-Identifier: GPL-2.0-only
"""Code that no path reached: taken out for loaders with CAP_BPF, made harmless for others (since 4.20)."""

from __future__ import annotations

from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from ..env import Env
from .patch import distance, is_jump, remove

NOP: Final = Insn(op.BPF_JMP | op.BPF_JA)
_MAY_GOTO_0: Final = Insn(op.BPF_JMP | op.BPF_JCOND)
_TRAP: Final = Insn(op.BPF_JMP | op.BPF_JA, 0, 0, -1)
_JA: Final = op.BPF_JMP | op.BPF_JA


def hard_wire_branches(env: Env) -> None:
    """A conditional jump with one side never taken becomes unconditional."""
    insns, aux = env.insns, env.aux
    for i, insn in enumerate(insns):
        if not is_jump(insn.code) or insn.code & 0xF0 == op.BPF_JA:
            continue
        if not aux[i + 1].seen:
            insns[i] = Insn(_JA, 0, 0, insn.off)
        elif not aux[i + 1 + insn.off].seen:
            insns[i] = NOP


def remove_dead_code(env: Env) -> None:
    """Take out what was never seen."""
    dead = bytearray(not aux.seen for aux in env.aux)
    if any(dead):
        remove(env, dead)


def remove_nops(env: Env) -> None:
    """Take out jumps to the next instruction, and ``may_goto +0`` with what it leaves behind."""
    insns = env.insns
    dead = bytearray(len(insns))

    def next_alive(at: int) -> int:
        while at < len(insns) and dead[at]:
            at += 1
        return at

    def goes_on(at: int) -> bool:
        insn = insns[at]
        if insn not in (NOP, _MAY_GOTO_0) and insn._replace(off=0) not in (NOP, _MAY_GOTO_0):
            return False
        found = distance(insn)
        assert found is not None
        target = at + 1 + found[0]
        return target > at and next_alive(at + 1) == next_alive(target)

    i = 0
    while i < len(insns):
        if dead[i] or not goes_on(i):
            i += 1
            continue
        dead[i] = 1
        previous = i - 1
        while previous >= 0 and dead[previous]:
            previous -= 1
        i = previous if insns[i].code == _MAY_GOTO_0.code and previous >= 0 else i + 1
    if any(dead):
        remove(env, dead, singly=True)


def sanitize(env: Env) -> None:
    """Without CAP_BPF: unreached slots become endless loops, so speculation stops there."""
    for i, aux in enumerate(env.aux):
        if not aux.seen:
            env.insns[i] = _TRAP
            aux.zext_dst = False


def remove_fastcall_spills(env: Env) -> None:
    """Spills and fills around calls that keep their registers become no-operations (since 6.12)."""
    insns, aux, subs = env.insns, env.aux, env.subprogs
    for number in range(env.subprog_cnt):
        sub = subs[number]
        modified = False
        for i in range(sub.start, subs[number + 1].start):
            for j in range(1, aux[i].fastcall_spills_num + 1):
                insns[i - j] = insns[i + j] = NOP
                modified = True
        if modified and not sub.keep_fastcall_stack:
            sub.stack_depth = -sub.fastcall_stack_off
