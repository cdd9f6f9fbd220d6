// SPDX-License-Identifier: GPL-2.0-only
/* bpf_xdp_adjust_head() moves the packet; the pointers from before are used on. */
#include "net_headers.h"

static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;

SEC("xdp")
int stale_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if (data + sizeof(*eth) > data_end)
		return XDP_DROP;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct vlan_hdr)))
		return XDP_DROP;
	eth->h_proto = bpf_htons(ETH_P_8021Q);
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
