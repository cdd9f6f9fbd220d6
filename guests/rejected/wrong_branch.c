// SPDX-License-Identifier: GPL-2.0-only
/* The check for NULL is the wrong way round. */
#include "bpf_guest.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int wrong_branch(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	volatile __u64 *count = bpf_map_lookup_elem(&packets, &key);

	if (count)
		return XDP_PASS;
	*count = 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
