# SPDX-License-Identifier: GPL-2.0-only
"""The last rewrites before the engines: calls become addresses, helpers are inlined (do_misc_fixups)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.helpers.table import HELPERS, symbol_for
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU32_IMM,
    BPF_ALU32_REG,
    BPF_ALU64_IMM,
    BPF_EXIT_INSN,
    BPF_JMP_IMM,
    BPF_LDX_MEM,
    BPF_MOV64_IMM,
    BPF_MOV64_PERCPU_REG,
    BPF_MOV64_REG,
    BPF_ST_MEM,
    BPF_STX_MEM,
)
from kernel_model.isa.native import PokeSite
from kernel_model.uapi.enums import bpf_func_id as f

from .. import kfuncs
from ..cfg import is_helper_call, is_kfunc_call, is_may_goto
from ..env import MAX_BPF_STACK, Env
from .arith import AX, guard_division, is_division, mask_pointer_arithmetic
from .func_args import function_arguments
from .map_calls import MAP_MEMBER, call, index_mask, map_call
from .patch import imm64_pair, patch, s32

BPF_MAX_TIMED_LOOPS: Final = 0xFFFF
MAY_GOTO_STACK: Final = 16
"""Bytes of a struct bpf_timed_may_goto below the function's own stack."""
MAX_PACKET_OFF: Final = 0xFFFF
_LOADERS: Final = {
    op.BPF_B: "bpf_skb_load_helper_8_no_cache",
    op.BPF_H: "bpf_skb_load_helper_16_no_cache",
    op.BPF_W: "bpf_skb_load_helper_32_no_cache",
}


def _kernel_call(env: Env, symbol: str) -> Insn:
    try:
        return call(env, symbol)
    except KeyError:
        raise env.not_modelled(f"kernel function {symbol}") from None


def _packet_load(env: Env, insn: Insn) -> list[Insn]:
    """LD_ABS and LD_IND: a call that ends the program with 0 when it is negative (bpf_gen_ld_abs)."""
    if insn.code & 0xE0 == op.BPF_ABS:
        out = [BPF_MOV64_IMM(2, insn.imm)]
    else:
        out = [BPF_MOV64_REG(2, insn.src)]
        if insn.imm:
            out.append(BPF_ALU64_IMM(op.BPF_ADD, 2, insn.imm))
    return [
        *out,
        BPF_MOV64_REG(1, 6),
        _kernel_call(env, _LOADERS[insn.code & 0x18]),
        BPF_JMP_IMM(op.BPF_JSGE, 0, 0, 2),
        BPF_ALU32_REG(op.BPF_XOR, 0, 0),
        BPF_EXIT_INSN(),
    ]


def _may_goto(env: Env, insn: Insn, stack_depth: int) -> list[Insn]:
    """A counter in the stack; when it is used up, a call looks at the time (since 6.15).

    The form depends on the architecture, not on whether this program will be compiled.
    """
    jeq = op.BPF_JMP | op.BPF_JEQ
    slot = -stack_depth - MAY_GOTO_STACK
    away = insn.off + 5 if insn.off >= 0 else insn.off - 1
    return [
        BPF_LDX_MEM(op.BPF_DW, AX, 10, slot),
        Insn(jeq, AX, 0, away),
        BPF_ALU64_IMM(op.BPF_SUB, AX, 1),
        BPF_JMP_IMM(op.BPF_JNE, AX, 0, 2),
        BPF_MOV64_IMM(AX, slot),
        _kernel_call(env, "arch_bpf_timed_may_goto"),
        BPF_STX_MEM(op.BPF_DW, 10, AX, slot),
    ]


def _tail_call(env: Env, at: int) -> list[Insn]:
    """The tail call's own opcode; with map and key known, a direct one (a poke descriptor, since 5.5)."""
    aux = env.aux[at]
    env.prog_flags["cb_access"] = True
    env.max_pkt_offset = MAX_PACKET_OFF
    number = 0
    if (
        env.bpf_capable
        and env.kernel.jit
        and not env.kernel.blinding
        and aux.map is not None
        and aux.map_key >= 0
        and not (aux.map_key_poisoned or aux.map_poisoned or aux.map_unpriv)
    ):
        env.pokes.append(PokeSite(at, aux.map.addr, aux.map_key))
        number = len(env.pokes)
    jump = Insn(op.TAIL_CALL, 0, 0, 0, number)
    if not aux.map_unpriv or aux.map is None:
        return [jump]
    if aux.map_poisoned:
        raise env.reject(errno.EINVAL, "tail_call abusing map_ptr\n")
    return [
        BPF_JMP_IMM(op.BPF_JGE, 3, aux.map.max_entries, 2),
        BPF_ALU32_IMM(op.BPF_AND, 3, s32(index_mask(aux.map))),
        jump,
    ]


def _jiffies(env: Env) -> list[Insn] | None:
    try:
        addr = env.kernel.symbol("jiffies")
    except KeyError:
        return None
    return [*imm64_pair(0, addr), BPF_LDX_MEM(op.BPF_DW, 0, 0, 0)]


def _cpu_number(env: Env) -> list[Insn] | None:
    """Per-CPU variables lie low enough for a 32-bit constant, which the per-CPU move then resolves."""
    try:
        addr = env.kernel.symbol("cpu_number")
    except KeyError:
        return None
    return [BPF_MOV64_IMM(0, s32(addr)), BPF_MOV64_PERCPU_REG(0, 0), BPF_LDX_MEM(op.BPF_W, 0, 0, 0)]


def _inlined(env: Env, insn: Insn, at: int) -> list[Insn] | None:
    """A helper call in other words, where the kernel has some; only when the program is compiled."""
    if not env.kernel.jit:
        return None
    aux = env.aux[at]
    if insn.imm in MAP_MEMBER:
        if aux.map is None or aux.map_poisoned:
            return None
        return map_call(env, insn, aux.map)
    if insn.imm == f.BPF_FUNC_jiffies64:
        return _jiffies(env)
    if insn.imm == f.BPF_FUNC_get_smp_processor_id:
        return _cpu_number(env)
    return None


def _helper(env: Env, insn: Insn, at: int) -> list[Insn]:
    if insn.imm == f.BPF_FUNC_tail_call:
        return _tail_call(env, at)
    if insn.imm == f.BPF_FUNC_get_route_realm:
        env.prog_flags["dst_needed"] = True
    inlined = function_arguments(env, insn) or _inlined(env, insn, at)
    if inlined is not None:
        return inlined
    symbol = symbol_for(HELPERS[insn.imm], env.type)
    try:
        return [call(env, symbol)]
    except KeyError:
        raise env.not_modelled(f"helper {HELPERS[insn.imm].name} ({symbol})") from None


def _rewrite(env: Env, insn: Insn, at: int, stack_depth: int) -> list[Insn]:
    """What replaces one instruction; itself when nothing does."""
    if is_division(insn):
        return guard_division(insn)
    if insn.code & 7 == op.BPF_LD and insn.code & 0xE0 in (op.BPF_ABS, op.BPF_IND):
        return _packet_load(env, insn)
    if is_may_goto(insn):
        return _may_goto(env, insn, stack_depth)
    if is_kfunc_call(insn):
        return kfuncs.fix_up(env, insn)
    if is_helper_call(insn):
        return _helper(env, insn, at)
    return mask_pointer_arithmetic(insn, env.aux[at])


def _init_counters(env: Env) -> None:
    """Functions with may_goto set their counter first; jumps to their beginning pass over that."""
    patches: dict[int, list[Insn]] = {}
    entries: dict[int, int] = {}
    for sub in env.subprogs[:-1]:
        if not sub.stack_extra:
            continue
        start = [
            BPF_ST_MEM(op.BPF_DW, 10, -sub.stack_depth, BPF_MAX_TIMED_LOOPS),
            BPF_ST_MEM(op.BPF_DW, 10, -sub.stack_depth + 8, 0),
        ]
        patches[sub.start] = [*start, env.insns[sub.start]]
        entries[sub.start] = len(start)
    patch(env, patches, entries)


def do_misc_fixups(env: Env) -> None:
    """Rewrite divisions, packet loads, may_goto, masked pointer arithmetic and helper calls."""
    patches: dict[int, list[Insn]] = {}
    for number, sub in enumerate(env.subprogs[:-1]):
        at = sub.start
        end = env.subprogs[number + 1].start
        while at < end:
            insn = env.insns[at]
            if insn.code == op.LD_IMM64:
                at += 2
                continue
            made = _rewrite(env, insn, at, sub.stack_depth)
            if len(made) != 1 or made[0] is not insn:
                patches[at] = made
            if is_may_goto(insn):
                sub.stack_extra = MAY_GOTO_STACK
            at += 1
        sub.stack_depth += sub.stack_extra
        if sub.stack_depth > MAX_BPF_STACK and not env.kernel.jit:
            text = f"stack size {sub.stack_depth}(extra {sub.stack_extra}) is too large\n"
            raise env.reject(errno.EINVAL, text)
    patch(env, patches)
    _init_counters(env)
