// SPDX-License-Identifier: GPL-2.0-only
/* A map update without a value. */
#include "bpf_guest.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int null_value(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	bpf_map_update_elem(&packets, &key, 0, BPF_ANY);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
