# SPDX-License-Identifier: GPL-2.0-only
"""Opcode fields under Linux's own names (include/uapi/linux/bpf.h and bpf_common.h; RFC 9669)."""

from __future__ import annotations

from typing import Final

# Instruction classes: the low three bits.
BPF_LD: Final = 0x00
BPF_LDX: Final = 0x01
BPF_ST: Final = 0x02
BPF_STX: Final = 0x03
BPF_ALU: Final = 0x04
BPF_JMP: Final = 0x05
BPF_JMP32: Final = 0x06
BPF_ALU64: Final = 0x07
# Classic BPF gives two of the class numbers another meaning.
BPF_RET: Final = 0x06
BPF_MISC: Final = 0x07

# Sizes of loads and stores.
BPF_W: Final = 0x00
BPF_H: Final = 0x08
BPF_B: Final = 0x10
BPF_DW: Final = 0x18
SIZE_BYTES: Final = {BPF_B: 1, BPF_H: 2, BPF_W: 4, BPF_DW: 8}

# Modes of loads and stores.
BPF_IMM: Final = 0x00
BPF_ABS: Final = 0x20
BPF_IND: Final = 0x40
BPF_MEM: Final = 0x60
BPF_MEMSX: Final = 0x80
BPF_ATOMIC: Final = 0xC0
# Kernel-internal modes, written only by the verifier's fix-ups (include/linux/filter.h). They share
# their numbers with BPF_ABS/BPF_IND/BPF_ATOMIC, which are of other classes.
BPF_PROBE_MEM: Final = 0x20
BPF_PROBE_MEMSX: Final = 0x40
BPF_PROBE_MEM32: Final = 0xA0
BPF_PROBE_MEM32SX: Final = 0xC0
BPF_PROBE_ATOMIC: Final = 0xE0
# A speculation barrier (BPF_ST class), likewise written by the verifier.
BPF_NOSPEC: Final = 0xC0
# off of MOV64 between registers: a per-CPU pointer becomes an address; an arena pointer changes space.
BPF_ADDR_PERCPU: Final = -1
BPF_ADDR_SPACE_CAST: Final = 1

# Operand source of arithmetic and jumps.
BPF_K: Final = 0x00
BPF_X: Final = 0x08

# Arithmetic operations.
BPF_ADD: Final = 0x00
BPF_SUB: Final = 0x10
BPF_MUL: Final = 0x20
BPF_DIV: Final = 0x30
BPF_OR: Final = 0x40
BPF_AND: Final = 0x50
BPF_LSH: Final = 0x60
BPF_RSH: Final = 0x70
BPF_NEG: Final = 0x80
BPF_MOD: Final = 0x90
BPF_XOR: Final = 0xA0
BPF_MOV: Final = 0xB0
BPF_ARSH: Final = 0xC0
BPF_END: Final = 0xD0
BPF_TO_LE: Final = 0x00
BPF_TO_BE: Final = 0x08

# Jumps.
BPF_JA: Final = 0x00
BPF_JEQ: Final = 0x10
BPF_JGT: Final = 0x20
BPF_JGE: Final = 0x30
BPF_JSET: Final = 0x40
BPF_JNE: Final = 0x50
BPF_JSGT: Final = 0x60
BPF_JSGE: Final = 0x70
BPF_CALL: Final = 0x80
BPF_EXIT: Final = 0x90
BPF_JLT: Final = 0xA0
BPF_JLE: Final = 0xB0
BPF_JSLT: Final = 0xC0
BPF_JSLE: Final = 0xD0
BPF_JCOND: Final = 0xE0
# Kernel-internal: the tail call, after fix-up (BPF_JMP class).
BPF_TAIL_CALL: Final = 0xF0

# Atomic operations (in imm).
BPF_FETCH: Final = 0x01
BPF_XCHG: Final = 0xE0 | BPF_FETCH
BPF_CMPXCHG: Final = 0xF0 | BPF_FETCH
BPF_LOAD_ACQ: Final = 0x100
BPF_STORE_REL: Final = 0x110

# src_reg of LD_IMM64.
BPF_PSEUDO_MAP_FD: Final = 1
BPF_PSEUDO_MAP_VALUE: Final = 2
BPF_PSEUDO_BTF_ID: Final = 3
BPF_PSEUDO_FUNC: Final = 4
BPF_PSEUDO_MAP_IDX: Final = 5
BPF_PSEUDO_MAP_IDX_VALUE: Final = 6

# src_reg of a call.
BPF_PSEUDO_CALL: Final = 1
BPF_PSEUDO_KFUNC_CALL: Final = 2

# src_reg of BPF_JCOND.
BPF_MAY_GOTO: Final = 0

# Registers. R0-R10 are the architecture's; AX is the kernel's scratch for fix-ups.
BPF_REG_0: Final = 0
BPF_REG_1: Final = 1
BPF_REG_2: Final = 2
BPF_REG_3: Final = 3
BPF_REG_4: Final = 4
BPF_REG_5: Final = 5
BPF_REG_6: Final = 6
BPF_REG_7: Final = 7
BPF_REG_8: Final = 8
BPF_REG_9: Final = 9
BPF_REG_10: Final = 10
BPF_REG_FP: Final = 10
BPF_REG_AX: Final = 11
MAX_BPF_REG: Final = 11

MAX_BPF_STACK: Final = 512
BPF_MAXINSNS: Final = 4096
BPF_COMPLEXITY_LIMIT_INSNS: Final = 1_000_000
MAX_TAIL_CALL_CNT: Final = 33

LD_IMM64: Final = BPF_LD | BPF_DW | BPF_IMM
CALL: Final = BPF_JMP | BPF_CALL
EXIT: Final = BPF_JMP | BPF_EXIT
TAIL_CALL: Final = BPF_JMP | BPF_TAIL_CALL


def bpf_class(code: int) -> int:
    """The instruction class of an opcode."""
    return code & 0x07


def bpf_size(code: int) -> int:
    """The size field of a load or store."""
    return code & 0x18


def bpf_mode(code: int) -> int:
    """The mode field of a load or store."""
    return code & 0xE0


def bpf_op(code: int) -> int:
    """The operation field of an arithmetic or jump opcode."""
    return code & 0xF0


def bpf_src(code: int) -> int:
    """BPF_K or BPF_X."""
    return code & 0x08
