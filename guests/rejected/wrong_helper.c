// SPDX-License-Identifier: GPL-2.0-only
/* A helper for sk_buffs in an XDP program, which has none. */
#include "bpf_guest.h"

static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;

SEC("xdp")
int wrong_helper(struct xdp_md *ctx)
{
	__u8 first = 0;

	bpf_skb_load_bytes(ctx, 0, &first, sizeof(first));
	return first ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
