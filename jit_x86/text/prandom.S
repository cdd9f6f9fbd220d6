# SPDX-License-Identifier: GPL-2.0-only
# bpf_get_prandom_u32(): one step of this CPU's four Tausworthe generators (lib/random32.c), each
# s = ((s & ~low) << move) ^ (((s << up) ^ s) >> down); the sum without carries is the result.
.macro PRANDOM_STEP member, up, down, low, move
	mov ecx, gs:[r8 + \member]
	mov edx, ecx
	shl edx, \up
	xor edx, ecx
	shr edx, \down
	and ecx, -1 - \low
	shl ecx, \move
	xor ecx, edx
	mov gs:[r8 + \member], ecx
	xor eax, ecx
.endm

ENTRY(bpf_user_rnd_u32)
	mov r8, SYM_bpf_user_rnd_state
	xor eax, eax
	PRANDOM_STEP OFF_rnd_state_s1, 6, 13, 1, 18
	PRANDOM_STEP OFF_rnd_state_s2, 2, 27, 7, 2
	PRANDOM_STEP OFF_rnd_state_s3, 13, 21, 15, 7
	PRANDOM_STEP OFF_rnd_state_s4, 3, 12, 127, 13
	RET
