// SPDX-License-Identifier: GPL-2.0-only
/* Five tail calls in a chain; each of the six programs counts itself, the last one returns XDP_PASS. */
#include "bench.h"

#if defined(__bpf__)
int link_1(struct xdp_md *ctx);
int link_2(struct xdp_md *ctx);
int link_3(struct xdp_md *ctx);
int link_4(struct xdp_md *ctx);
int link_5(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} chain SEC(".maps") = {
	.values = {
		[1] = (void *)&link_1,
		[2] = (void *)&link_2,
		[3] = (void *)&link_3,
		[4] = (void *)&link_4,
		[5] = (void *)&link_5,
	},
};

typedef int result;
__u64 links_run;
#define COUNT() links_run++
#else
typedef __u64 result;
#define COUNT() (*(__u64 *)env->values[0])++
#endif

#define LINK(name, next)                       \
	PROGRAM(result, name)                  \
	{                                      \
		COUNT();                       \
		TAIL_CALL(chain, next);        \
		return XDP_ABORTED;            \
	}

LINK(tail_chain, 1)
LINK(link_1, 2)
LINK(link_2, 3)
LINK(link_3, 4)
LINK(link_4, 5)

PROGRAM(result, link_5)
{
	COUNT();
	return XDP_PASS;
}

LICENSE;
