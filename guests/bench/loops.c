// SPDX-License-Identifier: GPL-2.0-only
/*
 * The loops around a program that the kernel has no function for; x86-64 only, the same for every engine.
 * Each calls a bpf_func as a hook does and returns the sum of what it returned.
 */
#include "bench.h"

typedef __u64 (*bpf_func)(bench_ctx *ctx, const void *insnsi);

/* Where the packets are: `ctx` + i * `stride` for i up to `mask`; a port of each is at `port` in its data. */
struct packets {
	char *ctx;
	__u64 stride;
	__u64 mask;
	__u64 port;
};

/* A descriptor of the card's receive ring. */
struct descriptor {
	__u64 addr;
	__u16 length;
	__u16 status;
	__u32 reserved;
};

/* Round i runs over packet i, into which it writes source port i * 40503: all 65 536 ports come by turns. */
SEC("loop")
__u64 bench_packet_loop(bpf_func func, const struct packets *packets, const void *insnsi, __u64 repeat)
{
	__u64 sum = 0;

	for (__u64 i = 0; i < repeat; i++) {
		bench_ctx *ctx = (void *)(packets->ctx + (i & packets->mask) * packets->stride);

		*(__u16 *)(ctx->data + packets->port) = (__u16)(i * 40503);
		sum += func(ctx, insnsi);
	}
	return sum;
}

/* Fill the ring with the frames that lie in its buffers already, and poll it empty, `repeat` times. */
SEC("loop")
__u64 bench_poll_loop(__u64 (*poll)(void *adapter, __u64 budget), void *adapter, struct descriptor *ring,
		      __u64 entries, __u64 repeat)
{
	__u64 done = 0;

	while (repeat--) {
		for (__u64 i = 0; i < entries; i++)
			ring[i].status = 1;
		done += poll(adapter, entries);
	}
	return done;
}

/* Call a kernel function with three arguments, `repeat` times. */
SEC("loop")
__u64 bench_call_loop(__u64 (*function)(__u64, __u64, __u64), __u64 a, __u64 b, __u64 c, __u64 repeat)
{
	__u64 sum = 0;

	while (repeat--)
		sum += function(a, b, c);
	return sum;
}

/* A program that does nothing: what is left of a run when the loop alone is measured. */
SEC("loop")
__u64 bench_nothing(bench_ctx *ctx UNUSED, const void *insnsi UNUSED)
{
	return 0;
}
