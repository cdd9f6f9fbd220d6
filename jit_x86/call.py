# SPDX-License-Identifier: GPL-2.0-only
"""Templates of calls: helper, kfunc, BPF function, and the tail call in both its forms."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.errors import KernelError, NotModelled
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import (
    BPF_PSEUDO_CALL,
    BPF_PSEUDO_KFUNC_CALL,
    CALL,
    MAX_TAIL_CALL_CNT,
    TAIL_CALL,
)

from .alu import Template
from .byte_forms import FIXED
from .code import CallSubprog, Code, Context, Far, Item, LocalJump
from .frame import count_call, tail_call_offset, unwind


def _load_counter(ctx: Context) -> Item:
    """rax = the pointer to the tail-call counter, always with a 32-bit displacement."""
    return f"mov rax, qword ptr [rbp + late({ctx.counter_slot})]"


def _target(ctx: Context, insn: Insn, index: int) -> Item:
    if insn.src == BPF_PSEUDO_CALL and not ctx.unlinked:
        return CallSubprog(ctx.function(index + 1 + insn.imm))
    if insn.src not in (0, BPF_PSEUDO_CALL, BPF_PSEUDO_KFUNC_CALL):
        raise NotModelled(f"JIT of a call with src_reg {insn.src}")
    if insn.imm == 0:
        raise KernelError(errno.EINVAL, f"the call at slot {index} has no target")
    return Far("call", ctx.request.symbols["__bpf_call_base"] + insn.imm)


def _call(ctx: Context, insn: Insn, index: int) -> Code:
    items: list[Item] = []
    if insn.src == BPF_PSEUDO_CALL and ctx.subprog.tail_call_reachable:
        items.append(_load_counter(ctx))
    target = _target(ctx, insn, index)
    # r9 is the frame pointer of a function with a private stack, and no callee preserves it.
    made = [*count_call(ctx.request), target]
    items += ["push r9", *made, "pop r9"] if ctx.private_stack else made
    return Code(items)


def _offset8(ctx: Context, name: str) -> int:
    """A struct offset that Linux puts into an 8-bit displacement."""
    offset = ctx.request.offsets[name]
    if not 0 < offset <= 127:
        raise ValueError(f"{name} at offset {offset}: the tail call's code has 8 bits for it")
    return offset


def _indirect_jump(ctx: Context) -> list[Item]:
    request = ctx.request
    thunk = request.mitigations.indirect_thunk
    if thunk:
        return [Far("jmp", request.symbols[thunk + "rcx"])]
    if request.mitigations.retpoline_lfence:
        return ["lfence", "jmp rcx"]
    # int3 stops straight-line speculation past the jump.
    return ["jmp rcx", "int3"]


def _array_slot(ctx: Context) -> Item:
    """rcx = array->ptrs[index], always with a 32-bit displacement."""
    return f"mov rcx, qword ptr [rsi + rdx*8 + late({ctx.request.offsets['bpf_array.ptrs']})]"


def _tail_call_indirect(ctx: Context) -> Code:
    """rsi is the program array, rdx the index; falls through when the call does not happen."""
    jump = [
        *unwind(ctx),
        f"mov rcx, qword ptr [rcx + {_offset8(ctx, 'bpf_prog.bpf_func')}]",
        f"add rcx, {tail_call_offset(ctx.request)}",
        *_indirect_jump(ctx),
    ]
    out = 10 + len(jump)
    items: list[Item] = [
        "mov edx, edx",
        f"cmp dword ptr [rsi + {_offset8(ctx, 'bpf_array.map.max_entries')}], edx",
        LocalJump("jbe", out),
        _load_counter(ctx),
        f"cmp qword ptr [rax], {MAX_TAIL_CALL_CNT}",
        LocalJump("jae", out),
        _array_slot(ctx),
        "test rcx, rcx",
        LocalJump("je", out),
        "add qword ptr [rax], 1",
        *jump,
    ]
    return Code(items)


def _tail_call_direct(ctx: Context, number: int) -> Code:
    """Map and key are constants: two patched instructions instead of a look-up.

    While the slot is empty a jump bypasses the call; a filled slot turns that jump into a nop and the
    last nop into a jump to the target program.
    """
    leave = unwind(ctx)
    bypass, target = 3, 5 + len(leave)
    items: list[Item] = [
        _load_counter(ctx),
        f"cmp qword ptr [rax], {MAX_TAIL_CALL_CNT}",
        LocalJump("jae", target + 1),
        LocalJump("jmp", target + 1, near=True),
        "add qword ptr [rax], 1",
        *leave,
        FIXED["nop5"],
    ]
    return Code(items, poke=(number, bypass, target))


def _tail_call(ctx: Context, insn: Insn, _index: int) -> Code:
    return _tail_call_direct(ctx, insn.imm - 1) if insn.imm else _tail_call_indirect(ctx)


TEMPLATES: Final[dict[int, Template]] = {CALL: _call, TAIL_CALL: _tail_call}
