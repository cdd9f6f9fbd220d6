# SPDX-License-Identifier: GPL-2.0-only
"""Helpers that read a traced function's arguments and result, in line (do_misc_fixups, since 5.17).

Before the arguments that the context points to, a trampoline stores how many there are.
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU64_IMM,
    BPF_ALU64_REG,
    BPF_LDX_MEM,
    BPF_MOV64_IMM,
    BPF_STX_MEM,
)
from kernel_model.uapi.enums import bpf_attach_type as a
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_prog_type as t

from ..env import Env

_COUNT: Final = BPF_LDX_MEM(op.BPF_DW, 0, 1, -8)
_JUMP32_GE: Final = op.BPF_JMP32 | op.BPF_JGE | op.BPF_X
_WITH_RESULT: Final = (a.BPF_TRACE_FEXIT, a.BPF_MODIFY_RETURN)


def _argument(env: Env) -> list[Insn]:
    return [
        _COUNT,
        Insn(_JUMP32_GE, 2, 0, 6),
        BPF_ALU64_IMM(op.BPF_LSH, 2, 3),
        BPF_ALU64_REG(op.BPF_ADD, 2, 1),
        BPF_LDX_MEM(op.BPF_DW, 0, 2, 0),
        BPF_STX_MEM(op.BPF_DW, 3, 0, 0),
        BPF_MOV64_IMM(0, 0),
        Insn(op.BPF_JMP | op.BPF_JA, 0, 0, 1),
        BPF_MOV64_IMM(0, -errno.EINVAL),
    ]


def _result(env: Env) -> list[Insn]:
    if env.spec.expected_attach_type not in _WITH_RESULT:
        return [BPF_MOV64_IMM(0, -errno.EOPNOTSUPP)]
    return [
        _COUNT,
        BPF_ALU64_IMM(op.BPF_LSH, 0, 3),
        BPF_ALU64_REG(op.BPF_ADD, 0, 1),
        BPF_LDX_MEM(op.BPF_DW, 3, 0, 0),
        BPF_STX_MEM(op.BPF_DW, 2, 3, 0),
        BPF_MOV64_IMM(0, 0),
    ]


def _count(env: Env) -> list[Insn]:
    return [_COUNT]


_IN_LINE: Final = {
    f.BPF_FUNC_get_func_arg: _argument,
    f.BPF_FUNC_get_func_ret: _result,
    f.BPF_FUNC_get_func_arg_cnt: _count,
}


def function_arguments(env: Env, insn: Insn) -> list[Insn] | None:
    """The instructions in place of a call; None for other helpers and program types."""
    make = _IN_LINE.get(f(insn.imm)) if env.type.number == t.BPF_PROG_TYPE_TRACING else None
    return make(env) if make is not None else None
