# SPDX-License-Identifier: GPL-2.0-only
"""Passes over the instructions before simulation: live registers, and the spills around inlined calls.

Live registers (6.16) decide which registers two states are compared on. The bpf_fastcall pattern (6.12) is
a spill before and a fill after a call that the kernel inlines, which can then be dropped.
"""

from __future__ import annotations

from typing import Final

from kernel_model.helpers.prototypes import HelperProto
from kernel_model.helpers.table import HELPERS, num_params, proto_for, returns_void
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id

from . import kfuncs
from .cfg import is_kfunc_call, is_ld_imm64
from .env import Env, SubprogInfo

_R0: Final = 1
_CALLER_SAVED: Final = 0x3F
_STX_DW: Final = op.BPF_STX | op.BPF_MEM | op.BPF_DW
_LDX_DW: Final = op.BPF_LDX | op.BPF_MEM | op.BPF_DW


def helper_proto(env: Env, insn: Insn) -> HelperProto | None:
    """The prototype of the helper that ``insn`` calls, if this program type may call it."""
    row = HELPERS.get(insn.imm)
    return proto_for(row, env.type) if row is not None else None


def _call_use(env: Env, insn: Insn) -> int:
    if insn.src == 0 and insn.code == op.CALL:
        proto = helper_proto(env, insn)
        if proto is not None:
            return ((1 << num_params(proto)) - 1) << 1
    elif is_kfunc_call(insn):
        count = kfuncs.num_params(env, insn)
        if count is not None:
            return ((1 << count) - 1) << 1
    return _CALLER_SAVED & ~_R0


def def_use(env: Env, insn: Insn) -> tuple[int, int]:
    """Masks of the registers an instruction writes and reads, as far as it does so surely / possibly."""
    code, dst, src = insn.code, 1 << insn.dst, 1 << insn.src
    cls, mode, operation = code & 7, code & 0xE0, code & 0xF0
    if cls == op.BPF_LD:
        return (dst, 0) if code == op.LD_IMM64 else (0, 0xFFFF)
    if cls == op.BPF_LDX:
        return (dst, src) if mode in (op.BPF_MEM, op.BPF_MEMSX) else (0, 0xFFFF)
    if cls == op.BPF_ST:
        return (0, dst) if mode == op.BPF_MEM else (0, 0xFFFF)
    if cls == op.BPF_STX:
        return _stx_def_use(insn, mode, dst, src)
    if cls in (op.BPF_ALU, op.BPF_ALU64):
        if operation == op.BPF_END:
            return dst, dst
        if operation == op.BPF_MOV:
            return dst, src if code & 8 else 0
        return dst, dst | src if code & 8 else dst
    if operation in (op.BPF_JA, op.BPF_JCOND):
        return 0, 0
    if operation == op.BPF_EXIT:
        return 0, _R0
    if operation == op.BPF_CALL:
        return _CALLER_SAVED, _call_use(env, insn)
    return 0, dst | src if code & 8 else dst


def _stx_def_use(insn: Insn, mode: int, dst: int, src: int) -> tuple[int, int]:
    if mode == op.BPF_MEM:
        return 0, dst | src
    if mode != op.BPF_ATOMIC:
        return 0, 0xFFFF
    if insn.imm == op.BPF_CMPXCHG:
        return _R0, _R0 | dst | src
    if insn.imm == op.BPF_LOAD_ACQ:
        return dst, src
    if insn.imm == op.BPF_STORE_REL:
        return 0, dst | src
    return src if insn.imm & op.BPF_FETCH else 0, dst | src


def compute_live_registers(env: Env) -> None:
    """For each slot, the registers that something behind it may read before they are written."""
    insns = env.insns
    tables = [def_use(env, insn) for insn in insns]
    before = [0] * len(insns)
    after = [0] * len(insns)
    follow = env.follow
    changed = True
    while changed:
        changed = False
        for i in env.postorder:
            out = 0
            for s in follow[i]:
                out |= before[s]
            defined, used = tables[i]
            into = out & ~defined | used
            if out != after[i] or into != before[i]:
                after[i], before[i] = out, into
                changed = True
    # Slots that no path reaches (second halves of constants) keep what the formula gives once: nothing.
    for i, aux in enumerate(env.aux):
        aux.live_regs_before = before[i]
    if env.every_path:
        _print_live(env)


def _print_live(env: Env) -> None:
    env.verbose("Live regs before insn:\n")
    skip = False
    for i, aux in enumerate(env.aux):
        if skip:
            skip = False
            continue
        env.log.write(f"{aux.scc:3d} " if aux.scc else "    ")
        env.log.write(f"{i:3d}: ")
        env.log.write("".join(str(r) if aux.live_regs_before >> r & 1 else "." for r in range(10)) + " ")
        env.log.write(env.insn_text(i) + "\n")
        skip = is_ld_imm64(env.insns[i])


def _is_fastcall(env: Env, insn: Insn, proto: HelperProto) -> bool:
    """The kernel inlines this call on x86-64 and the helper keeps to the bpf_fastcall contract."""
    return proto.allow_fastcall and env.kernel.jit and insn.imm == bpf_func_id.BPF_FUNC_get_smp_processor_id


def _mark_pattern(env: Env, sub: SubprogInfo, at: int, lowest: int) -> None:
    insns = env.insns
    call = insns[at]
    if call.src:
        return
    proto = helper_proto(env, call)
    if proto is None:
        return
    first = 1 if returns_void(proto) else 0
    clobbered = ((1 << (num_params(proto) + 1)) - 1) & ~((1 << first) - 1)
    expected = ~clobbered & _CALLER_SAVED
    off, i = lowest, 1
    while i <= 6:
        if at - i < 0 or at + i >= len(insns):
            break
        stx, ldx = insns[at - i], insns[at + i]
        if stx.code != _STX_DW or ldx.code != _LDX_DW or stx.dst != 10 or ldx.src != 10:
            break
        if stx.src != ldx.dst or not expected >> stx.src & 1 or stx.off != off or ldx.off != off:
            break
        expected &= ~(1 << stx.src)
        env.aux[at - i].fastcall_pattern = True
        env.aux[at + i].fastcall_pattern = True
        i += 1
        off += 8
    if i == 1:
        return
    if _is_fastcall(env, call, proto):
        env.aux[at].fastcall_spills_num = i - 1
    else:
        sub.keep_fastcall_stack = True
    sub.fastcall_stack_off = min(sub.fastcall_stack_off, off)


def mark_fastcall_patterns(env: Env) -> None:
    """Find the spills and fills around calls that use the lowest stack slots of their function."""
    for number, sub in enumerate(env.subprogs[:-1]):
        end = env.subprogs[number + 1].start
        lowest = 0
        for insn in env.insns[sub.start : end]:
            if insn.code == _STX_DW and insn.dst == 10:
                lowest = min(lowest, insn.off)
        for i in range(sub.start, end):
            if env.insns[i].code == op.CALL:
                _mark_pattern(env, sub, i, lowest)
