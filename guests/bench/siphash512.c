// SPDX-License-Identifier: GPL-2.0-only
/* SipHash-2-4 over the first 512 bytes of the packet, its 64 bits folded to 32; 0 when it is shorter. */
#include "bench.h"

#define LENGTH 512
#define KEY_0 0x0706050403020100ULL
#define KEY_1 0x0f0e0d0c0b0a0908ULL

#define ROTATE(x, bits) (((x) << (bits)) | ((x) >> (64 - (bits))))
#define ROUND(v0, v1, v2, v3)                                                   \
	do {                                                                    \
		v0 += v1; v1 = ROTATE(v1, 13); v1 ^= v0; v0 = ROTATE(v0, 32);    \
		v2 += v3; v3 = ROTATE(v3, 16); v3 ^= v2;                         \
		v0 += v3; v3 = ROTATE(v3, 21); v3 ^= v0;                         \
		v2 += v1; v1 = ROTATE(v1, 17); v1 ^= v2; v2 = ROTATE(v2, 32);    \
	} while (0)

PROGRAM(__u64, siphash512)
{
	void *data = PACKET(ctx);
	__u64 v0 = KEY_0 ^ 0x736f6d6570736575ULL, v1 = KEY_1 ^ 0x646f72616e646f6dULL;
	__u64 v2 = KEY_0 ^ 0x6c7967656e657261ULL, v3 = KEY_1 ^ 0x7465646279746573ULL;
	__u64 tail = (__u64)(LENGTH & 0xff) << 56;

	if (data + LENGTH > PACKET_END(ctx))
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < LENGTH; i += 8) {
		__u64 word = *(__u64 *)(data + i);

		v3 ^= word;
		ROUND(v0, v1, v2, v3);
		ROUND(v0, v1, v2, v3);
		v0 ^= word;
	}
	v3 ^= tail;
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	v0 ^= tail;
	v2 ^= 0xff;
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	ROUND(v0, v1, v2, v3);
	v0 ^= v1 ^ v2 ^ v3;
	return (v0 ^ (v0 >> 32)) & 0xffffffff;
}

LICENSE;
