# SPDX-License-Identifier: GPL-2.0-only
"""Templates of the arithmetic classes: BPF_ALU, BPF_ALU64 and LD_IMM64.

Source of the choices: images of Linux 6.18 and its arch/x86/net/bpf_jit_comp.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel_model.errors import NotModelled
from kernel_model.isa.insn import Insn, imm64
from kernel_model.isa.opcodes import (
    BPF_ADD,
    BPF_ADDR_PERCPU,
    BPF_ADDR_SPACE_CAST,
    BPF_ALU,
    BPF_ALU64,
    BPF_AND,
    BPF_ARSH,
    BPF_DIV,
    BPF_END,
    BPF_K,
    BPF_LSH,
    BPF_MOD,
    BPF_MOV,
    BPF_MUL,
    BPF_NEG,
    BPF_OR,
    BPF_PSEUDO_FUNC,
    BPF_REG_0,
    BPF_REG_3,
    BPF_REG_4,
    BPF_RSH,
    BPF_SUB,
    BPF_TO_BE,
    BPF_TO_LE,
    BPF_X,
    BPF_XOR,
    LD_IMM64,
    bpf_class,
    bpf_op,
)

from .byte_forms import group1_imm32, movsx32_from8, rax_or_imm32
from .code import Code, Context, FuncAddress, Item
from .frame import add_this_cpu_off
from .moves import mov_imm32, mov_imm64, mov_reg
from .registers import AUX_REG, NUMBER, R8, R16, R32, R64

Template = Callable[[Context, Insn, int], Code]

_BINARY: Final = {BPF_ADD: "add", BPF_SUB: "sub", BPF_AND: "and", BPF_OR: "or", BPF_XOR: "xor"}
_SHIFT: Final = {BPF_LSH: "shl", BPF_RSH: "shr", BPF_ARSH: "sar"}
_SHIFTX: Final = {BPF_LSH: "shlx", BPF_RSH: "shrx", BPF_ARSH: "sarx"}
_CAST_USER_IMM: Final = 1 << 16


def _is_wide(insn: Insn) -> bool:
    return bpf_class(insn.code) == BPF_ALU64


def _names(insn: Insn) -> tuple[str, ...]:
    return R64 if _is_wide(insn) else R32


def _binary_reg(_ctx: Context, insn: Insn, _index: int) -> Code:
    names = _names(insn)
    return Code((f"{_BINARY[bpf_op(insn.code)]} {names[insn.dst]}, {names[insn.src]}",))


def _binary_imm(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((f"{_BINARY[bpf_op(insn.code)]} {_names(insn)[insn.dst]}, {insn.imm}",))


def _neg(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((f"neg {_names(insn)[insn.dst]}",))


def _mov_imm(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((mov_imm32(insn.dst, insn.imm, _is_wide(insn)),))


def _or_imm32(reg: int, imm: int) -> Item:
    """``or reg, imm`` with 32 bits of immediate, whatever its value."""
    signed = imm - ((imm >> 31) << 32)
    if not -128 <= signed <= 127:
        return f"or {R64[reg]}, {signed}"
    if reg == BPF_REG_0:
        return rax_or_imm32(signed)
    return group1_imm32("or", NUMBER[reg], R64[reg], signed)


def _cast_user(ctx: Context, insn: Insn) -> Code:
    """An arena pointer as user space's: the arena's upper half over the low 32 bits; 0 stays 0."""
    dst, dst32 = R64[insn.dst], R32[insn.dst]
    upper = ctx.request.arena_user_vm_start >> 32
    items: list[Item] = []
    if insn.dst != insn.src:
        items += mov_reg(insn.dst, insn.src, False)
    items += [f"shl {dst}, 32", _or_imm32(insn.dst, upper), f"rol {dst}, 32", "xor r11, r11"]
    items += [f"test {dst32}, {dst32}", f"cmove {dst}, r11"]
    return Code(items)


def _mov_reg(ctx: Context, insn: Insn, _index: int) -> Code:
    wide = _is_wide(insn)
    if insn.off == 0:
        return Code(mov_reg(insn.dst, insn.src, wide))
    if wide and insn.off == BPF_ADDR_PERCPU:
        return Code([*mov_reg(insn.dst, insn.src), add_this_cpu_off(ctx.request, insn.dst)])
    if wide and insn.off == BPF_ADDR_SPACE_CAST and insn.imm == _CAST_USER_IMM:
        return _cast_user(ctx, insn)
    return _movsx(insn, wide)


def _movsx(insn: Insn, wide: bool) -> Code:
    dst, src = (R64 if wide else R32)[insn.dst], insn.src
    if insn.off == 8:
        text = f"movsx {dst}, {R8[src]}"
        spare = not wide and max(NUMBER[insn.dst], NUMBER[src]) < 8 and NUMBER[src] < 4
        return Code((movsx32_from8(text, NUMBER[insn.dst], NUMBER[src]) if spare else text,))
    if insn.off == 16:
        return Code((f"movsx {dst}, {R16[src]}",))
    if insn.off == 32 and wide:
        return Code((f"movsxd {dst}, {R32[src]}",))
    raise NotModelled(f"JIT of a move with off {insn.off}")


def _mul_imm(_ctx: Context, insn: Insn, _index: int) -> Code:
    dst = _names(insn)[insn.dst]
    return Code((f"imul {dst}, {dst}, {insn.imm}",))


def _mul_reg(_ctx: Context, insn: Insn, _index: int) -> Code:
    names = _names(insn)
    return Code((f"imul {names[insn.dst]}, {names[insn.src]}",))


def _divide(_ctx: Context, insn: Insn, _index: int) -> Code:
    """Division and modulo: rdx:rax by the divisor, with rax and rdx kept for the program.

    The verifier's fix-ups stand in front of it: no divisor is 0, no signed one -1.
    """
    wide, dst, src = _is_wide(insn), insn.dst, insn.src
    names = _names(insn)
    items: list[Item] = []
    if dst != BPF_REG_0:
        items.append("push rax")
    if dst != BPF_REG_3:
        items.append("push rdx")
    if insn.code & BPF_X:
        if src in (BPF_REG_0, BPF_REG_3):
            items += mov_reg(AUX_REG, src)
            src = AUX_REG
    else:
        items.append(f"mov r11, {insn.imm}")
        src = AUX_REG
    if dst != BPF_REG_0:
        items += mov_reg(BPF_REG_0, dst, wide)
    if insn.off == 0:
        items += ["xor edx, edx", f"div {names[src]}"]
    else:
        items += ["cqo" if wide else "cdq", f"idiv {names[src]}"]
    result = BPF_REG_3 if bpf_op(insn.code) == BPF_MOD else BPF_REG_0
    if dst != result:
        items += mov_reg(dst, result, wide)
    if dst != BPF_REG_3:
        items.append("pop rdx")
    if dst != BPF_REG_0:
        items.append("pop rax")
    return Code(items)


def _shift_imm(_ctx: Context, insn: Insn, _index: int) -> Code:
    return Code((f"{_SHIFT[bpf_op(insn.code)]} {_names(insn)[insn.dst]}, {insn.imm & 0xFF}",))


def _shift_reg(ctx: Context, insn: Insn, _index: int) -> Code:
    op, names, dst, src = bpf_op(insn.code), _names(insn), insn.dst, insn.src
    if src == BPF_REG_4:
        return Code((f"{_SHIFT[op]} {names[dst]}, cl",))
    if ctx.request.features.bmi2:
        return Code((f"{_SHIFTX[op]} {names[dst]}, {names[dst]}, {names[src]}",))
    # The count must be in cl: keep rcx on the stack, or its value in r11 when it is what is shifted.
    if dst == BPF_REG_4:
        shifted = f"{_SHIFT[op]} {names[AUX_REG]}, cl"
        return Code(["mov r11, rcx", *mov_reg(BPF_REG_4, src), shifted, "mov rcx, r11"])
    return Code(["push rcx", *mov_reg(BPF_REG_4, src), f"{_SHIFT[op]} {names[dst]}, cl", "pop rcx"])


def _swap(_ctx: Context, insn: Insn, _index: int) -> Code:
    dst = insn.dst
    texts = {
        16: (f"ror {R16[dst]}, 8", f"movzx {R32[dst]}, {R16[dst]}"),
        32: (f"bswap {R32[dst]}",),
        64: (f"bswap {R64[dst]}",),
    }
    return Code(_by_width(texts, insn))


def _to_le(_ctx: Context, insn: Insn, _index: int) -> Code:
    dst = insn.dst
    texts: dict[int, tuple[str, ...]] = {
        16: (f"movzx {R32[dst]}, {R16[dst]}",),
        32: (f"mov {R32[dst]}, {R32[dst]}",),
        64: (),
    }
    return Code(_by_width(texts, insn))


def _by_width(texts: dict[int, tuple[str, ...]], insn: Insn) -> tuple[str, ...]:
    if insn.imm not in texts:
        raise NotModelled(f"JIT of a byte swap of {insn.imm} bits")
    return texts[insn.imm]


def _ld_imm64(ctx: Context, insn: Insn, index: int) -> Code:
    if insn.src == BPF_PSEUDO_FUNC and not ctx.unlinked:
        return Code((FuncAddress(R64[insn.dst], ctx.function(index + 1 + insn.imm)),))
    return Code((mov_imm64(insn.dst, imm64(ctx.request.insns, index)),))


def _table() -> dict[int, Template]:
    table: dict[int, Template] = {LD_IMM64: _ld_imm64}
    by_source: tuple[tuple[tuple[int, ...], Template, Template], ...] = (
        (tuple(_BINARY), _binary_imm, _binary_reg),
        ((BPF_MOV,), _mov_imm, _mov_reg),
        ((BPF_MUL,), _mul_imm, _mul_reg),
        ((BPF_DIV, BPF_MOD), _divide, _divide),
        (tuple(_SHIFT), _shift_imm, _shift_reg),
    )
    for klass in (BPF_ALU, BPF_ALU64):
        for ops, with_imm, with_reg in by_source:
            for op in ops:
                table[klass | op | BPF_K] = with_imm
                table[klass | op | BPF_X] = with_reg
        table[klass | BPF_NEG] = _neg
    table[BPF_ALU | BPF_END | BPF_TO_BE] = _swap
    table[BPF_ALU | BPF_END | BPF_TO_LE] = _to_le
    table[BPF_ALU64 | BPF_END | BPF_TO_LE] = _swap
    return table


TEMPLATES: Final = _table()
