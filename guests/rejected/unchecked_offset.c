// SPDX-License-Identifier: GPL-2.0-only
/* The header's own length moves the pointer after the comparison with data_end. */
#include "net_headers.h"

SEC("xdp")
int unchecked_offset(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > data_end)
		return XDP_DROP;

	struct udphdr *udp = (void *)ip + (ip->version_ihl & 15) * 4;

	return udp->dest == bpf_htons(53) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
