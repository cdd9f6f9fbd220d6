// SPDX-License-Identifier: GPL-2.0-only
/* The context is read through a pointer that was moved first. */
#include "bpf_guest.h"

SEC("xdp")
int moved_context(struct xdp_md *ctx)
{
	__u32 *field = (__u32 *)ctx;

	field += 3;
	/* Keeps the compiler from folding the addition into the load. */
	asm volatile("" : "+r"(field));
	return *field == 1 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
