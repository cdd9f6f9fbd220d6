// SPDX-License-Identifier: GPL-2.0-only
/* Two functions with 320 bytes of stack each, one called by the other. */
#include "bpf_guest.h"

static __noinline int inner(__u32 seed)
{
	volatile char scratch[320];

	scratch[seed & 255] = (char)seed;
	return scratch[0];
}

SEC("xdp")
int big_stack(struct xdp_md *ctx)
{
	volatile char buffer[320];

	buffer[ctx->rx_queue_index & 255] = 1;
	return inner(ctx->ingress_ifindex) + buffer[0] ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
