// SPDX-License-Identifier: GPL-2.0-only
/* Assembly that expects its context pointer in r1 after a call. */
#include "bpf_guest.h"

SEC("xdp")
int lost_register(struct xdp_md *ctx)
{
	__u32 queue;

	asm volatile("r1 = %[ctx]\n"
		     "call 5\n"
		     "%[queue] = *(u32 *)(r1 + 16)\n"
		     : [queue] "=r"(queue)
		     : [ctx] "r"(ctx)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
	return queue ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
