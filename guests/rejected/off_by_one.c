// SPDX-License-Identifier: GPL-2.0-only
/* A table of 16 counters; the check lets index 16 pass. */
#include "bpf_guest.h"

struct table {
	__u64 counters[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

SEC("xdp")
int off_by_one(struct xdp_md *ctx)
{
	__u32 zero = 0, queue = ctx->rx_queue_index;
	struct table *table = bpf_map_lookup_elem(&tables, &zero);

	if (!table)
		return XDP_PASS;
	if (queue > 16)
		return XDP_DROP;
	table->counters[queue] += 1;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
