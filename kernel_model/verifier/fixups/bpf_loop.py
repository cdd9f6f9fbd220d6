# SPDX-License-Identifier: GPL-2.0-only
"""bpf_loop() with one known callback becomes a loop in the program itself (since 5.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU64_IMM,
    BPF_CALL_REL,
    BPF_JMP_A,
    BPF_JMP_IMM,
    BPF_JMP_REG,
    BPF_LDX_MEM,
    BPF_MOV32_IMM,
    BPF_MOV64_REG,
    BPF_STX_MEM,
)
from kernel_model.uapi.enums import bpf_func_id

from ..cfg import is_helper_call
from ..env import Env
from .patch import patch

BPF_MAX_LOOPS: Final = 8 << 20
_CALL_AT: Final = 12
_MAX, _COUNT, _CTX = 6, 7, 8


def _loop(base: int) -> list[Insn]:
    """Bound in R1, callback context in R3; R6-R8 hold the loop's variables, saved from ``base`` up."""
    saved = ((_MAX, base), (_COUNT, base + 8), (_CTX, base + 16))
    return [
        BPF_JMP_IMM(op.BPF_JLE, 1, BPF_MAX_LOOPS, 2),
        BPF_MOV32_IMM(0, -errno.E2BIG),
        BPF_JMP_A(16),
        *(BPF_STX_MEM(op.BPF_DW, 10, reg, off) for reg, off in saved),
        BPF_MOV64_REG(_MAX, 1),
        BPF_MOV32_IMM(_COUNT, 0),
        BPF_MOV64_REG(_CTX, 3),
        BPF_JMP_REG(op.BPF_JGE, _COUNT, _MAX, 5),
        BPF_MOV64_REG(1, _COUNT),
        BPF_MOV64_REG(2, _CTX),
        BPF_CALL_REL(0),
        BPF_ALU64_IMM(op.BPF_ADD, _COUNT, 1),
        BPF_JMP_IMM(op.BPF_JEQ, 0, 0, -6),
        BPF_MOV64_REG(0, _COUNT),
        *(BPF_LDX_MEM(op.BPF_DW, reg, 10, off) for reg, off in saved),
    ]


def optimize_bpf_loop(env: Env) -> None:
    """Inline every bpf_loop call whose callback and flags were the same on all paths."""
    patches: dict[int, list[Insn]] = {}
    callee: dict[int, int] = {}
    for number, sub in enumerate(env.subprogs[:-1]):
        depth, extra = sub.stack_depth, 0
        padding = -depth % 8
        for at in range(sub.start, env.subprogs[number + 1].start):
            insn = env.insns[at]
            aux = env.aux[at]
            if aux.loop_fit_for_inline and is_helper_call(insn) and insn.imm == bpf_func_id.BPF_FUNC_loop:
                extra = 24 + padding
                patches[at] = _loop(-(depth + extra))
                callee[at] = aux.loop_subprogno
        sub.stack_depth += extra
    if not patches:
        return
    order = sorted(patches)
    patch(env, patches)
    grown = 0
    for at in order:
        place = at + grown + _CALL_AT
        target = env.subprogs[callee[at]].start
        env.insns[place] = env.insns[place]._replace(imm=target - place - 1)
        grown += len(patches[at]) - 1
