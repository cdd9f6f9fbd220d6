# SPDX-License-Identifier: GPL-2.0-only
"""The one zero extension that x86 needs: 32-bit compare-and-exchange leaves R0 alone when it succeeds.

Every other 32-bit definition clears the upper half in hardware. The extension is added only where a followed
path reads the upper half before R0 is written again (kernel: subreg_def and opt_subreg_zext_lo32_rnd_hi32).
A path that pruning ends early notes nothing, as in 6.18.
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


def has_cmpxchg32(env: Env) -> bool:
    """Whether the program has a 32-bit compare-and-exchange at all."""
    return any(_is_cmpxchg32(insn) for insn in env.insns)


def note_upper_half(env: Env, insn: Insn) -> None:
    """Before ``insn`` is checked: follow who defined R0, and note a read of its upper half."""
    frames = env.cur.frames
    frame = frames[-1]
    cls = insn.code & 7
    if insn.code == op.EXIT and len(frames) > 1:
        if not frame.in_callback_fn:
            frames[-2].r0_def = frame.r0_def
        return
    defined, used = def_use(env, insn)
    if frame.r0_def >= 0 and used & _R0 and cls != op.BPF_LD and _reads_whole(insn):
        env.aux[frame.r0_def].zext_dst = True
        frame.r0_def = -1
    if _is_cmpxchg32(insn):
        frame.r0_def = env.insn_idx
    elif defined & _R0 or cls == op.BPF_LD:
        frame.r0_def = -1


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
