// SPDX-License-Identifier: GPL-2.0-only
/* Waits for the clock: nothing that the verifier knows changes from one round to the next. */
#include "bpf_guest.h"

static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;

SEC("xdp")
int endless_loop(struct xdp_md *ctx)
{
	__u64 start = ctx->rx_queue_index;

	while (bpf_ktime_get_ns() < start)
		;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
