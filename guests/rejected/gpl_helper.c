// SPDX-License-Identifier: GPL-2.0-only
/* Calls a GPL-only helper, and its license section says otherwise. */
#include "bpf_guest.h"

SEC("xdp")
int gpl_helper(struct xdp_md *ctx)
{
	char text[] = "queue %d\n";

	bpf_trace_printk(text, sizeof(text), ctx->rx_queue_index);
	return XDP_PASS;
}

char _license[] SEC("license") = "Proprietary";
