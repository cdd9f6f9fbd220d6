# SPDX-License-Identifier: GPL-2.0-only
"""The one zero extension that x86 needs: 32-bit compare-and-exchange leaves R0 alone when it succeeds.

Every other 32-bit definition clears the upper half in hardware. The extension is added only where the
upper half may be read (kernel: subreg_def and opt_subreg_zext_lo32_rnd_hi32).
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_ZEXT_REG

from ..env import Env
from ..registers_live import def_use
from .patch import patch

_R0: Final = 1
_CODE: Final = op.BPF_STX | op.BPF_ATOMIC | op.BPF_W


def _is_cmpxchg32(insn: Insn) -> bool:
    return insn.code == _CODE and insn.imm == op.BPF_CMPXCHG


def _reads_whole(insn: Insn) -> bool:
    """An instruction that reads R0 takes all 64 bits of it."""
    cls = insn.code & 7
    if cls == op.BPF_ALU:
        return insn.code & 0xF0 == op.BPF_END and insn.imm == 64
    if cls == op.BPF_JMP32:
        return False
    if cls == op.BPF_STX:
        return insn.dst == 0 or insn.code & 0x18 == op.BPF_DW
    return True


def _needed(env: Env, at: int) -> bool:
    """R0's upper half, as slot ``at`` leaves it, may be read."""
    seen = {at}
    todo = list(env.follow[at])
    while todo:
        j = todo.pop()
        if j in seen or not env.aux[j].seen:
            continue
        seen.add(j)
        insn = env.insns[j]
        defined, used = def_use(env, insn)
        if used & _R0 and _reads_whole(insn):
            return True
        if not defined & _R0:
            todo += env.follow[j]
    return False


def mark_zero_extension(env: Env) -> None:
    """Note on each 32-bit compare-and-exchange whether its result must be extended."""
    for at, insn in enumerate(env.insns):
        if _is_cmpxchg32(insn) and env.aux[at].seen:
            env.aux[at].zext_dst = _needed(env, at)


def zero_extend_cmpxchg(env: Env) -> None:
    """Add the extensions."""
    patch(
        env,
        {
            at: [insn, BPF_ZEXT_REG(0)]
            for at, insn in enumerate(env.insns)
            if _is_cmpxchg32(insn) and env.aux[at].zext_dst
        },
    )
