# SPDX-License-Identifier: GPL-2.0-only
"""The classic socket example, written with the kernel's own macros: count packets by IP protocol.

The program is of type BPF_PROG_TYPE_SOCKET_FILTER and is attached with SO_ATTACH_BPF; the map is an
array of 256 64-bit counters, indexed by the protocol byte of the IPv4 header.
"""

from __future__ import annotations

from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ADD,
    BPF_ALU64_IMM,
    BPF_ATOMIC_OP,
    BPF_B,
    BPF_CALL,
    BPF_DW,
    BPF_EXIT_INSN,
    BPF_JEQ,
    BPF_JMP,
    BPF_JMP_IMM,
    BPF_LD_ABS,
    BPF_LD_MAP_FD,
    BPF_MOV64_IMM,
    BPF_MOV64_REG,
    BPF_RAW_INSN,
    BPF_REG_0,
    BPF_REG_1,
    BPF_REG_2,
    BPF_REG_6,
    BPF_REG_10,
    BPF_STX_MEM,
    BPF_W,
    program,
)

ETH_HLEN = 14
PROTOCOL_OFFSET = 9
"""Where the protocol byte stands in the IPv4 header."""
MAP_LOOKUP_ELEM = 1

KEY_SIZE, VALUE_SIZE, MAX_ENTRIES = 4, 8, 256


def instructions(map_fd: int) -> list[Insn]:
    """The program for an array map known as ``map_fd``; it keeps no byte of the packet (returns 0)."""
    return program(
        # LD_ABS reads through the socket buffer, which it expects in R6.
        BPF_MOV64_REG(BPF_REG_6, BPF_REG_1),
        BPF_LD_ABS(BPF_B, ETH_HLEN + PROTOCOL_OFFSET),
        BPF_STX_MEM(BPF_W, BPF_REG_10, BPF_REG_0, -4),
        BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
        BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -4),
        BPF_LD_MAP_FD(BPF_REG_1, map_fd),
        BPF_RAW_INSN(BPF_JMP | BPF_CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 2),
        BPF_MOV64_IMM(BPF_REG_1, 1),
        BPF_ATOMIC_OP(BPF_DW, BPF_ADD, BPF_REG_0, BPF_REG_1, 0),
        BPF_MOV64_IMM(BPF_REG_0, 0),
        BPF_EXIT_INSN(),
    )
