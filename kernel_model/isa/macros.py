# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's macros for writing programs instruction by instruction (include/linux/filter.h).

Each takes the arguments of the C macro of the same name. Most give one :class:`Insn`; those for
64-bit constants give two slots. :func:`program` joins both kinds::

    program(
        BPF_MOV64_REG(BPF_REG_6, BPF_REG_1),
        BPF_LD_ABS(BPF_B, 14 + 9),
        BPF_LD_MAP_FD(BPF_REG_1, fd),
        BPF_EXIT_INSN(),
    )

Immediates may be given signed or unsigned; ValueError when they do not fit in 32 (or 64) bits, or an
offset not in 16. The opcode fields and registers are re-exported, so one star import is enough.
"""

from __future__ import annotations

from collections.abc import Iterable

from .insn import Insn
from .opcodes import *  # noqa: F403
from .opcodes import (
    BPF_ABS,
    BPF_ADD,
    BPF_ALU,
    BPF_ALU64,
    BPF_ATOMIC,
    BPF_CALL,
    BPF_DW,
    BPF_END,
    BPF_EXIT,
    BPF_IMM,
    BPF_IND,
    BPF_JA,
    BPF_JCOND,
    BPF_JMP,
    BPF_JMP32,
    BPF_K,
    BPF_LD,
    BPF_LDX,
    BPF_MEM,
    BPF_MEMSX,
    BPF_MOV,
    BPF_NEG,
    BPF_PSEUDO_BTF_ID,
    BPF_PSEUDO_CALL,
    BPF_PSEUDO_FUNC,
    BPF_PSEUDO_KFUNC_CALL,
    BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_IDX,
    BPF_PSEUDO_MAP_IDX_VALUE,
    BPF_PSEUDO_MAP_VALUE,
    BPF_REG_0,
    BPF_REG_2,
    BPF_REG_3,
    BPF_ST,
    BPF_STX,
    BPF_TO_LE,
    BPF_X,
    MAX_BPF_REG,
)

Slots = tuple[Insn, Insn]


def program(*items: Insn | Iterable[Insn]) -> list[Insn]:
    """The slots of a program: instructions, two-slot constants and lists of either, in order."""
    slots: list[Insn] = []
    for item in items:
        if isinstance(item, Insn):
            slots.append(item)
        else:
            slots.extend(item)
    return slots


def _s32(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 32:
        raise ValueError(f"immediate {value:#x} does not fit in 32 bits")
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)


def _insn(code: int, dst: int, src: int, off: int, imm: int) -> Insn:
    if not (0 <= dst <= MAX_BPF_REG and 0 <= src <= MAX_BPF_REG):
        raise ValueError(f"no such register: dst {dst}, src {src}")
    if not -(1 << 15) <= off < 1 << 15:
        raise ValueError(f"offset {off} does not fit in 16 bits")
    return Insn(code, dst, src, off, _s32(imm))


def BPF_RAW_INSN(code: int, dst: int, src: int, off: int, imm: int) -> Insn:
    """Any instruction, field by field, unchecked beyond the fields' widths."""
    if not (0 <= dst <= 15 and 0 <= src <= 15 and 0 <= code <= 255 and -(1 << 15) <= off < 1 << 15):
        raise ValueError(f"a field does not fit: code {code}, dst {dst}, src {src}, off {off}")
    return Insn(code, dst, src, off, _s32(imm))


def BPF_ALU64_REG(op: int, dst: int, src: int) -> Insn:
    """``dst op= src`` on 64 bits."""
    return _insn(BPF_ALU64 | op | BPF_X, dst, src, 0, 0)


def BPF_ALU64_REG_OFF(op: int, dst: int, src: int, off: int) -> Insn:
    """``dst op= src`` on 64 bits with an offset: 1 makes division and modulo signed."""
    return _insn(BPF_ALU64 | op | BPF_X, dst, src, off, 0)


def BPF_ALU32_REG(op: int, dst: int, src: int) -> Insn:
    """``dst op= src`` on 32 bits; the upper half becomes zero."""
    return _insn(BPF_ALU | op | BPF_X, dst, src, 0, 0)


def BPF_ALU32_REG_OFF(op: int, dst: int, src: int, off: int) -> Insn:
    """``dst op= src`` on 32 bits with an offset: 1 makes division and modulo signed."""
    return _insn(BPF_ALU | op | BPF_X, dst, src, off, 0)


def BPF_ALU64_IMM(op: int, dst: int, imm: int) -> Insn:
    """``dst op= imm`` on 64 bits, the immediate sign-extended."""
    return _insn(BPF_ALU64 | op | BPF_K, dst, 0, 0, imm)


def BPF_ALU64_IMM_OFF(op: int, dst: int, imm: int, off: int) -> Insn:
    """``dst op= imm`` on 64 bits with an offset: 1 makes division and modulo signed."""
    return _insn(BPF_ALU64 | op | BPF_K, dst, 0, off, imm)


def BPF_ALU32_IMM(op: int, dst: int, imm: int) -> Insn:
    """``dst op= imm`` on 32 bits."""
    return _insn(BPF_ALU | op | BPF_K, dst, 0, 0, imm)


def BPF_ALU32_IMM_OFF(op: int, dst: int, imm: int, off: int) -> Insn:
    """``dst op= imm`` on 32 bits with an offset: 1 makes division and modulo signed."""
    return _insn(BPF_ALU | op | BPF_K, dst, 0, off, imm)


def BPF_NEG_REG(dst: int) -> Insn:
    """``dst = -dst`` on 64 bits. (No macro in Linux, which writes BPF_ALU64_IMM(BPF_NEG, dst, 0).)"""
    return BPF_ALU64_IMM(BPF_NEG, dst, 0)


def BPF_ENDIAN(type: int, dst: int, len: int) -> Insn:
    """``dst`` to little (BPF_TO_LE) or big (BPF_TO_BE) endian on 16, 32 or 64 bits."""
    return _insn(BPF_ALU | BPF_END | type, dst, 0, 0, len)


def BPF_BSWAP(dst: int, len: int) -> Insn:
    """``dst``'s low 16, 32 or 64 bits with their bytes reversed."""
    return _insn(BPF_ALU64 | BPF_END | BPF_TO_LE, dst, 0, 0, len)


def BPF_MOV64_REG(dst: int, src: int) -> Insn:
    """``dst = src``."""
    return _insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)


def BPF_MOV32_REG(dst: int, src: int) -> Insn:
    """``dst = (u32) src``."""
    return _insn(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0)


def BPF_MOV64_IMM(dst: int, imm: int) -> Insn:
    """``dst = imm``, sign-extended to 64 bits."""
    return _insn(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm)


def BPF_MOV32_IMM(dst: int, imm: int) -> Insn:
    """``dst = (u32) imm``."""
    return _insn(BPF_ALU | BPF_MOV | BPF_K, dst, 0, 0, imm)


def BPF_MOVSX64_REG(dst: int, src: int, off: int) -> Insn:
    """``dst`` = the low ``off`` (8, 16, 32) bits of ``src``, sign-extended to 64."""
    return _insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, off, 0)


def BPF_MOVSX32_REG(dst: int, src: int, off: int) -> Insn:
    """``dst`` = the low ``off`` (8, 16) bits of ``src``, sign-extended to 32."""
    return _insn(BPF_ALU | BPF_MOV | BPF_X, dst, src, off, 0)


def BPF_ZEXT_REG(dst: int) -> Insn:
    """The zero extension that the verifier inserts for JITs that need it."""
    return _insn(BPF_ALU | BPF_MOV | BPF_X, dst, dst, 0, 1)


def BPF_MOV64_PERCPU_REG(dst: int, src: int) -> Insn:
    """``dst`` = the address for this CPU of the per-CPU pointer ``src`` (kernel-internal)."""
    return _insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, -1, 0)


def BPF_MOV64_RAW(type: int, dst: int, src: int, imm: int) -> Insn:
    """A 64-bit move with all fields given."""
    return _insn(BPF_ALU64 | BPF_MOV | type, dst, src, 0, imm)


def BPF_MOV32_RAW(type: int, dst: int, src: int, imm: int) -> Insn:
    """A 32-bit move with all fields given."""
    return _insn(BPF_ALU | BPF_MOV | type, dst, src, 0, imm)


def BPF_LD_IMM64_RAW(dst: int, src: int, imm: int) -> Slots:
    """A 64-bit constant with a pseudo source (BPF_PSEUDO_*)."""
    if not -(1 << 63) <= imm < 1 << 64:
        raise ValueError(f"immediate {imm:#x} does not fit in 64 bits")
    first = _insn(BPF_LD | BPF_DW | BPF_IMM, dst, src, 0, imm & 0xFFFFFFFF)
    return first, Insn(0, 0, 0, 0, _s32(imm >> 32 & 0xFFFFFFFF))


def BPF_LD_IMM64(dst: int, imm: int) -> Slots:
    """``dst = imm``, all 64 bits."""
    return BPF_LD_IMM64_RAW(dst, 0, imm)


def BPF_LD_MAP_FD(dst: int, map_fd: int) -> Slots:
    """``dst`` = the map that the file descriptor names."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_MAP_FD, map_fd & 0xFFFFFFFF)


def BPF_LD_MAP_VALUE(dst: int, map_fd: int, value_off: int) -> Slots:
    """``dst`` = address of the value of a one-element map, ``value_off`` bytes in."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_MAP_VALUE, (map_fd & 0xFFFFFFFF) | value_off << 32)


def BPF_LD_MAP_IDX(dst: int, index: int) -> Slots:
    """``dst`` = the map at ``index`` of the load command's fd_array."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_MAP_IDX, index)


def BPF_LD_MAP_IDX_VALUE(dst: int, index: int, value_off: int) -> Slots:
    """As BPF_LD_MAP_VALUE, the map named by its index in fd_array."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_MAP_IDX_VALUE, index | value_off << 32)


def BPF_LD_BTF_ID(dst: int, btf_id: int, btf_obj_fd: int = 0) -> Slots:
    """``dst`` = address of the kernel variable of that BTF id."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_BTF_ID, btf_id | btf_obj_fd << 32)


def BPF_LD_FUNC(dst: int, distance: int) -> Slots:
    """``dst`` = address of the subprogram ``distance`` slots from the next slot, for callbacks."""
    return BPF_LD_IMM64_RAW(dst, BPF_PSEUDO_FUNC, distance & 0xFFFFFFFF)


def BPF_LD_ABS(size: int, imm: int) -> Insn:
    """R0 = packet bytes at ``imm``, host order (R6 holds the context; R1-R5 are clobbered)."""
    return _insn(BPF_LD | size | BPF_ABS, 0, 0, 0, imm)


def BPF_LD_IND(size: int, src: int, imm: int) -> Insn:
    """R0 = packet bytes at ``src + imm``, host order."""
    return _insn(BPF_LD | size | BPF_IND, 0, src, 0, imm)


def BPF_LDX_MEM(size: int, dst: int, src: int, off: int) -> Insn:
    """``dst = *(uint *)(src + off)``."""
    return _insn(BPF_LDX | size | BPF_MEM, dst, src, off, 0)


def BPF_LDX_MEMSX(size: int, dst: int, src: int, off: int) -> Insn:
    """``dst = *(int *)(src + off)``, sign-extended."""
    return _insn(BPF_LDX | size | BPF_MEMSX, dst, src, off, 0)


def BPF_STX_MEM(size: int, dst: int, src: int, off: int) -> Insn:
    """``*(uint *)(dst + off) = src``."""
    return _insn(BPF_STX | size | BPF_MEM, dst, src, off, 0)


def BPF_ST_MEM(size: int, dst: int, off: int, imm: int) -> Insn:
    """``*(uint *)(dst + off) = imm``."""
    return _insn(BPF_ST | size | BPF_MEM, dst, 0, off, imm)


def BPF_ATOMIC_OP(size: int, op: int, dst: int, src: int, off: int) -> Insn:
    """An atomic operation: BPF_ADD, BPF_AND, BPF_OR, BPF_XOR with or without BPF_FETCH, BPF_XCHG,
    BPF_CMPXCHG on ``dst + off``; BPF_LOAD_ACQ (``dst`` from ``src + off``), BPF_STORE_REL."""
    return _insn(BPF_STX | size | BPF_ATOMIC, dst, src, off, op)


def BPF_STX_XADD(size: int, dst: int, src: int, off: int) -> Insn:
    """The old name of an atomic add without fetch."""
    return BPF_ATOMIC_OP(size, BPF_ADD, dst, src, off)


def BPF_JMP_REG(op: int, dst: int, src: int, off: int) -> Insn:
    """``if (dst op src) goto pc + off`` on 64 bits."""
    return _insn(BPF_JMP | op | BPF_X, dst, src, off, 0)


def BPF_JMP_IMM(op: int, dst: int, imm: int, off: int) -> Insn:
    """``if (dst op imm) goto pc + off`` on 64 bits, the immediate sign-extended."""
    return _insn(BPF_JMP | op | BPF_K, dst, 0, off, imm)


def BPF_JMP32_REG(op: int, dst: int, src: int, off: int) -> Insn:
    """``if (dst op src) goto pc + off`` on the low 32 bits."""
    return _insn(BPF_JMP32 | op | BPF_X, dst, src, off, 0)


def BPF_JMP32_IMM(op: int, dst: int, imm: int, off: int) -> Insn:
    """``if (dst op imm) goto pc + off`` on the low 32 bits."""
    return _insn(BPF_JMP32 | op | BPF_K, dst, 0, off, imm)


def BPF_JMP_A(off: int) -> Insn:
    """``goto pc + off``."""
    return _insn(BPF_JMP | BPF_JA, 0, 0, off, 0)


def BPF_JMP32_A(imm: int) -> Insn:
    """``goto pc + imm``, the long form."""
    return _insn(BPF_JMP32 | BPF_JA, 0, 0, 0, imm)


def BPF_JMP_MAY_GOTO(off: int) -> Insn:
    """``goto pc + off`` once the loop's budget is spent. (No macro in Linux.)"""
    return _insn(BPF_JMP | BPF_JCOND, 0, 0, off, 0)


def BPF_EMIT_CALL(func: int) -> Insn:
    """Call the helper of that number (BPF_FUNC_*)."""
    return _insn(BPF_JMP | BPF_CALL, 0, 0, 0, func)


def BPF_CALL_REL(distance: int) -> Insn:
    """Call the BPF function that starts ``distance`` slots from the next slot."""
    return _insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance)


def BPF_CALL_KFUNC(off: int, btf_id: int) -> Insn:
    """Call the kernel function of that BTF id; ``off`` is the index of its BTF in fd_array, 0 vmlinux."""
    return _insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, off, btf_id)


BPF_CALL_FUNC = BPF_EMIT_CALL


def BPF_EXIT_INSN() -> Insn:
    """Return R0."""
    return _insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)


def BPF_TAIL_CALL_INSNS(map_fd: int, index: int) -> list[Insn]:
    """bpf_tail_call(ctx in R1, map, index): the three instructions that make it. (No macro in Linux.)"""
    return program(
        BPF_LD_MAP_FD(BPF_REG_2, map_fd), BPF_MOV64_IMM(BPF_REG_3, index), BPF_EMIT_CALL(_FUNC_TAIL_CALL)
    )


def BPF_RETURN(value: int) -> list[Insn]:
    """``r0 = value; exit``. (No macro in Linux.)"""
    return [BPF_MOV64_IMM(BPF_REG_0, value), BPF_EXIT_INSN()]


_FUNC_TAIL_CALL = 12
"""BPF_FUNC_tail_call of include/uapi/linux/bpf.h."""
