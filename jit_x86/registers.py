# SPDX-License-Identifier: GPL-2.0-only
"""Which x86-64 register holds which BPF register, and how each is spelled at every width.

The assignment is Linux's (BPF arguments R1-R5 sit where the SysV ABI wants them, R6-R9 in
registers that calls preserve, R10 in the frame pointer). Three numbers past the BPF registers name
machine registers that the JIT uses on its own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kernel_model.isa.opcodes import BPF_REG_6, BPF_REG_7, BPF_REG_8, BPF_REG_9

AUX_REG: Final = 12
"""r11: scratch inside one instruction's code."""
X86_REG_R9: Final = 13
"""r9: the BPF frame pointer of a function with a private stack."""
X86_REG_R12: Final = 14
"""r12: base of the arena."""


class _Register(NamedTuple):
    number: int
    r64: str
    r32: str
    r16: str
    r8: str


_REGISTERS: Final = (
    _Register(0, "rax", "eax", "ax", "al"),  # R0
    _Register(7, "rdi", "edi", "di", "dil"),  # R1
    _Register(6, "rsi", "esi", "si", "sil"),  # R2
    _Register(2, "rdx", "edx", "dx", "dl"),  # R3
    _Register(1, "rcx", "ecx", "cx", "cl"),  # R4
    _Register(8, "r8", "r8d", "r8w", "r8b"),  # R5
    _Register(3, "rbx", "ebx", "bx", "bl"),  # R6
    _Register(13, "r13", "r13d", "r13w", "r13b"),  # R7
    _Register(14, "r14", "r14d", "r14w", "r14b"),  # R8
    _Register(15, "r15", "r15d", "r15w", "r15b"),  # R9
    _Register(5, "rbp", "ebp", "bp", "bpl"),  # R10
    _Register(10, "r10", "r10d", "r10w", "r10b"),  # AX
    _Register(11, "r11", "r11d", "r11w", "r11b"),  # AUX_REG
    _Register(9, "r9", "r9d", "r9w", "r9b"),  # X86_REG_R9
    _Register(12, "r12", "r12d", "r12w", "r12b"),  # X86_REG_R12
)

NUMBER: Final = tuple(r.number for r in _REGISTERS)
"""The number of the machine register in instruction encodings, 0..15."""
R64: Final = tuple(r.r64 for r in _REGISTERS)
R32: Final = tuple(r.r32 for r in _REGISTERS)
R16: Final = tuple(r.r16 for r in _REGISTERS)
R8: Final = tuple(r.r8 for r in _REGISTERS)

CALLEE_SAVED: Final = (BPF_REG_6, BPF_REG_7, BPF_REG_8, BPF_REG_9)
"""In the order of the pushes; the pops go backwards."""
