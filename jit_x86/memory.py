# SPDX-License-Identifier: GPL-2.0-only
"""Templates of loads and stores: LDX, LDXSX, ST, STX, their probing and arena variants, the barrier.

A probing load checks that the address is a kernel address and has an entry in the exception table;
Linux 6.18 (arch/x86/net/bpf_jit_comp.c) bounds it by TASK_SIZE_MAX + PAGE_SIZE and the vsyscall page.
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import (
    BPF_B,
    BPF_DW,
    BPF_H,
    BPF_LDX,
    BPF_MEM,
    BPF_MEMSX,
    BPF_NOSPEC,
    BPF_PROBE_MEM,
    BPF_PROBE_MEM32,
    BPF_PROBE_MEM32SX,
    BPF_PROBE_MEMSX,
    BPF_REG_AX,
    BPF_ST,
    BPF_STX,
    BPF_W,
    bpf_class,
    bpf_size,
)

from .alu import Template
from .assembler import KEEP_DISP8
from .byte_forms import group1_imm32
from .code import Code, Context, Item, LocalJump
from .moves import mov_imm32, mov_imm64
from .registers import AUX_REG, NUMBER, R8, R16, R32, R64, X86_REG_R12

VSYSCALL_ADDR: Final = 0xFFFFFFFFFF600000
_TASK_SIZE_MAX: Final = 0x7FFFFFFFF000
_PAGE_SIZE: Final = 0x1000
_PROBE_LIMIT: Final = (_TASK_SIZE_MAX + _PAGE_SIZE - VSYSCALL_ADDR) & 0xFFFFFFFFFFFFFFFF

WIDTH: Final = {BPF_B: "byte", BPF_H: "word", BPF_W: "dword", BPF_DW: "qword"}
_NAMES: Final = {BPF_B: R8, BPF_H: R16, BPF_W: R32, BPF_DW: R64}
_IMM_BYTES: Final = {BPF_B: 1, BPF_H: 2, BPF_W: 4, BPF_DW: 4}
_RBP_BITS: Final = 5
"""Low bits of rbp and r13 as a base: x86 has no form without displacement for these."""

_LOADS: Final = {
    BPF_B: ("movzx", R64),
    BPF_H: ("movzx", R64),
    BPF_W: ("mov", R32),
    BPF_DW: ("mov", R64),
}
_SIGNED_LOADS: Final = {
    BPF_B: ("movsx", R64),
    BPF_H: ("movsx", R64),
    BPF_W: ("movsxd", R64),
}
_ARENA_LOADS: Final = {
    BPF_B: ("movzx", R32),
    BPF_H: ("movzx", R32),
    BPF_W: ("mov", R32),
    BPF_DW: ("mov", R64),
}
_Loads = dict[int, tuple[str, tuple[str, ...]]]


def with_memory(text: str, base: int, off: int, index: int | None = None) -> str:
    """``text`` with its ``{}`` replaced by the operand ``[base + index + off]``.

    Linux writes a displacement of zero in 8 bits. So does keystone for rbp and r13, which have no form
    without one; for other bases it is told to.
    """
    where = f"[{R64[base]} {off:+d}]" if index is None else f"[{R64[base]} + {R64[index]} {off:+d}]"
    line = text.format(where)
    return line if off or NUMBER[base] & 7 == _RBP_BITS else KEEP_DISP8 + line


def _load(loads: _Loads, size: int, dst: int, base: int, off: int, index: int | None = None) -> str:
    mnemonic, names = loads[size]
    return with_memory(f"{mnemonic} {names[dst]}, {WIDTH[size]} ptr {{}}", base, off, index)


def load(size: int, dst: int, base: int, off: int) -> str:
    """``dst = *(unsigned size *)(base + off)``."""
    return _load(_LOADS, size, dst, base, off)


def store(size: int, base: int, src: int, off: int) -> str:
    """``*(size *)(base + off) = src``."""
    return with_memory(f"mov {WIDTH[size]} ptr {{}}, {_NAMES[size][src]}", base, off)


def arena_load(size: int, dst: int, base: int, off: int) -> str:
    """:func:`load` from the arena: ``[base + r12 + off]``."""
    return _load(_ARENA_LOADS, size, dst, base, off, X86_REG_R12)


def arena_store(size: int, base: int, src: int, off: int) -> str:
    """:func:`store` to the arena."""
    return with_memory(f"mov {WIDTH[size]} ptr {{}}, {_NAMES[size][src]}", base, off, X86_REG_R12)


def _store_imm(size: int, base: int, off: int, imm: int, index: int | None = None) -> str:
    bits = 8 * _IMM_BYTES[size]
    value = imm & ((1 << bits) - 1)
    value -= value >> (bits - 1) << bits
    return with_memory(f"mov {WIDTH[size]} ptr {{}}, {value}", base, off, index)


def _ldx(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((load(bpf_size(insn.code), insn.dst, insn.src, insn.off),))


def _ldxsx(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((_load(_SIGNED_LOADS, bpf_size(insn.code), insn.dst, insn.src, insn.off),))


def _stx(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((store(bpf_size(insn.code), insn.dst, insn.src, insn.off),))


def _st(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((_store_imm(bpf_size(insn.code), insn.dst, insn.off, insn.imm),))


def _probe(insn: Insn, access: Item) -> Code:
    """``access`` behind the check that it reads kernel memory; anything else reads zero."""
    items: list[Item] = [mov_imm64(BPF_REG_AX, VSYSCALL_ADDR), f"mov r11, {R64[insn.src]}"]
    if -128 <= insn.off <= 127 and insn.off:
        items.append(group1_imm32("add", NUMBER[AUX_REG], "r11", insn.off))
    elif insn.off:
        items.append(f"add r11, {insn.off}")
    items += ["sub r11, r10", mov_imm64(BPF_REG_AX, _PROBE_LIMIT), "cmp r11, r10"]
    loading = len(items) + 3
    items += [LocalJump("ja", loading), mov_imm32(insn.dst, 0, False), LocalJump("jmp", loading + 1), access]
    return Code(items, fault=(loading, insn.dst))


def _probe_mem(_ctx: Context, insn: Insn, _index: int) -> Code:
    return _probe(insn, load(bpf_size(insn.code), insn.dst, insn.src, insn.off))


def _probe_memsx(_ctx: Context, insn: Insn, _index: int) -> Code:
    return _probe(insn, _load(_SIGNED_LOADS, bpf_size(insn.code), insn.dst, insn.src, insn.off))


def _probe_mem32(_ctx: Context, insn: Insn, _index: int) -> Code:
    size = bpf_size(insn.code)
    if bpf_class(insn.code) == BPF_LDX:
        return Code((arena_load(size, insn.dst, insn.src, insn.off),), fault=(0, insn.dst))
    if bpf_class(insn.code) == BPF_STX:
        return Code((arena_store(size, insn.dst, insn.src, insn.off),), fault=(0, None))
    return Code((_store_imm(size, insn.dst, insn.off, insn.imm, X86_REG_R12),), fault=(0, None))


def _probe_mem32sx(_ctx: Context, insn: Insn, _index: int) -> Code:
    access = _load(_SIGNED_LOADS, bpf_size(insn.code), insn.dst, insn.src, insn.off, X86_REG_R12)
    return Code((access,), fault=(0, insn.dst))


def _nospec(_ctx: Context, _insn: Insn, _index: int) -> Code:
    return Code(("lfence",))


def _table() -> dict[int, Template]:
    table: dict[int, Template] = {BPF_ST | BPF_NOSPEC: _nospec}
    for size in WIDTH:
        table[BPF_LDX | BPF_MEM | size] = _ldx
        table[BPF_STX | BPF_MEM | size] = _stx
        table[BPF_ST | BPF_MEM | size] = _st
        table[BPF_LDX | BPF_PROBE_MEM | size] = _probe_mem
        for klass in (BPF_LDX, BPF_STX, BPF_ST):
            table[klass | BPF_PROBE_MEM32 | size] = _probe_mem32
    for size in _SIGNED_LOADS:
        table[BPF_LDX | BPF_MEMSX | size] = _ldxsx
        table[BPF_LDX | BPF_PROBE_MEMSX | size] = _probe_memsx
        table[BPF_LDX | BPF_PROBE_MEM32SX | size] = _probe_mem32sx
    return table


TEMPLATES: Final = _table()
