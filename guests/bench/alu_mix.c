// SPDX-License-Identifier: GPL-2.0-only
/* 50 000 rounds of 16 ALU instructions; the mixed value is the result. No memory, no helpers. */
#include "bench.h"

#define ROUNDS 250
#define CALLS 200

/* One instruction: the compiler may neither merge nor reorder the steps, nor move values about. */
#define STEP(var, op, operand)                                          \
	do {                                                            \
		var op operand;                                         \
		asm volatile("" : "+r"(x), "+r"(y), "+r"(z), "+r"(i));   \
	} while (0)

SUBPROG __u32 mix_rounds(__u64 x)
{
	__u64 y = x ^ 0x5bd1e995, z = x + 0x1b873593;

	for (__u64 i = 0; i < ROUNDS;) {
		STEP(x, -=, y);
		STEP(z, ^=, x);
		STEP(y, *=, 0x2545f491);
		STEP(x, ^=, i);
		STEP(z, -=, y);
		STEP(y, |=, 1);
		STEP(x, *=, 0x41c64e6d);
		STEP(z, +=, 0x3c6ef35f);
		STEP(y, ^=, z);
		STEP(x, +=, z);
		STEP(z, *=, 0x19660d);
		STEP(y, +=, x);
		STEP(x, &=, 0x7fffffff);
		STEP(z, |=, 2);
		STEP(y, -=, i);
		STEP(x, ^=, y);
		STEP(i, +=, 1);
	}
	return (__u32)(x ^ y ^ z ^ (z >> 32));
}

PROGRAM(__u64, alu_mix)
{
	__u32 value = 1;

	for (__u32 i = 0; i < CALLS;) {
		value = mix_rounds(value);
		i += 1;
		asm volatile("" : "+r"(i));
	}
	return value;
}

LICENSE;
