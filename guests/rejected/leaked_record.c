// SPDX-License-Identifier: GPL-2.0-only
/* A record of a ring buffer is reserved, and one way out of the program does not submit it. */
#include "bpf_guest.h"

struct {
	__uint(type, 27 /* BPF_MAP_TYPE_RINGBUF */);
	__uint(max_entries, 4096);
} events SEC(".maps");

static void *(*const bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;

SEC("xdp")
int leaked_record(struct xdp_md *ctx)
{
	__u32 *record = bpf_ringbuf_reserve(&events, 8, 0);

	if (!record)
		return XDP_PASS;
	record[0] = ctx->ingress_ifindex;
	if (ctx->rx_queue_index > 3)
		return XDP_DROP;
	record[1] = ctx->rx_queue_index;
	bpf_ringbuf_submit(record, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
