// SPDX-License-Identifier: GPL-2.0-only
/* A length is checked, and then read from memory once more: the second value was never checked. */
#include "bpf_guest.h"

struct request {
	volatile __u32 length;
	char bytes[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct request);
} requests SEC(".maps");

static long (*const bpf_xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *buf,
					__u32 len) = (void *)189;

SEC("xdp")
int reread_length(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct request *request = bpf_map_lookup_elem(&requests, &zero);

	if (!request)
		return XDP_PASS;
	if (request->length == 0 || request->length > sizeof(request->bytes))
		return XDP_DROP;
	if (bpf_xdp_load_bytes(ctx, 0, request->bytes, request->length))
		return XDP_DROP;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
