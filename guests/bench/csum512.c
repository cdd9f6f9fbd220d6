// SPDX-License-Identifier: GPL-2.0-only
/* The internet checksum over the first 512 bytes of the packet; 0 when it is shorter. */
#include "bench.h"

#define LENGTH 512

PROGRAM(__u64, csum512)
{
	void *data = PACKET(ctx);
	__u64 sum = 0;

	if (data + LENGTH > PACKET_END(ctx))
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < LENGTH; i += 4)
		sum += *(__u32 *)(data + i);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

LICENSE;
