/* SPDX-License-Identifier: GPL-2.0-only */
/* BPF instructions as C initialisers, under the names that the kernel's own macros have. */
#ifndef BPF_INSN_H
#define BPF_INSN_H

#include "bpf_guest.h"

struct bpf_insn {
	__u8 code;
	__u8 dst_reg : 4;
	__u8 src_reg : 4;
	short off;
	int imm;
};

enum { BPF_LD = 0, BPF_ST = 2, BPF_STX = 3, BPF_JMP = 5, BPF_ALU64 = 7 };
enum { BPF_W = 0x00, BPF_DW = 0x18, BPF_IMM = 0x00, BPF_MEM = 0x60, BPF_ATOMIC = 0xc0 };
enum { BPF_K = 0x00, BPF_X = 0x08, BPF_ADD = 0x00, BPF_MOV = 0xb0 };
enum { BPF_JEQ = 0x10, BPF_CALL = 0x80, BPF_EXIT = 0x90 };
enum { BPF_REG_0, BPF_REG_1, BPF_REG_2, BPF_REG_10 = 10 };
enum { BPF_PSEUDO_MAP_FD = 1 };

#define BPF_RAW_INSN(CODE, DST, SRC, OFF, IMM) \
	((struct bpf_insn){ .code = (CODE), .dst_reg = (DST), .src_reg = (SRC), .off = (OFF), .imm = (IMM) })
#define BPF_ALU64_IMM(OP, DST, IMM) BPF_RAW_INSN(BPF_ALU64 | BPF_K | (OP), DST, 0, 0, IMM)
#define BPF_MOV64_REG(DST, SRC) BPF_RAW_INSN(BPF_ALU64 | BPF_X | BPF_MOV, DST, SRC, 0, 0)
#define BPF_MOV64_IMM(DST, IMM) BPF_RAW_INSN(BPF_ALU64 | BPF_K | BPF_MOV, DST, 0, 0, IMM)
#define BPF_ST_MEM(SIZE, DST, OFF, IMM) BPF_RAW_INSN(BPF_ST | BPF_MEM | (SIZE), DST, 0, OFF, IMM)
#define BPF_ATOMIC_OP(SIZE, OP, DST, SRC, OFF) BPF_RAW_INSN(BPF_STX | BPF_ATOMIC | (SIZE), DST, SRC, OFF, OP)
#define BPF_JMP_IMM(OP, DST, IMM, OFF) BPF_RAW_INSN(BPF_JMP | BPF_K | (OP), DST, 0, OFF, IMM)
#define BPF_LD_MAP_FD(DST, FD)                                                        \
	BPF_RAW_INSN(BPF_LD | BPF_DW | BPF_IMM, DST, BPF_PSEUDO_MAP_FD, 0, FD),        \
		BPF_RAW_INSN(0, 0, 0, 0, 0)
#define BPF_EXIT_INSN() BPF_RAW_INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

#endif
