/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One C body for both builds of a workload: as a BPF program, and as x86-64 code that serves as the limit.
 *
 * The native twin is called with a struct bench_env that the harness fills with the same packet, the same
 * map objects and the addresses of the same helper text; slot numbers in MAP() and friends are the twin's.
 * Every body returns a value that tells whether it did its work, the same in both builds.
 */
#ifndef BENCH_H
#define BENCH_H

#include "net_headers.h"

#if defined(__bpf__)

typedef struct xdp_md bench_ctx;

#define PACKET(ctx) ((void *)(long)(ctx)->data)
#define PACKET_END(ctx) ((void *)(long)(ctx)->data_end)
#define LOOKUP(ctx, map, slot, key) ((void)(ctx), bpf_map_lookup_elem(&(map), key))
#define TAIL_CALL(ctx, map, slot, index) bpf_tail_call(ctx, &(map), index)
/* A global function is verified once, on its own, instead of at each call. */
#define SUBPROG __attribute__((noinline))
#define LICENSE char LICENSE_text[] SEC("license") = "GPL"

#else

/* What the harness hands to a twin; all addresses are of the machine, offsets are fixed (8 bytes each). */
struct bench_env {
	void *data;                                  /*   0: first byte of the packet */
	void *data_end;                              /*   8: one behind its last byte */
	void *maps[4];                               /*  16: struct bpf_map * by slot */
	void *(*lookup[4])(void *map, const void *key); /*  48: the map's lookup helper by slot */
	unsigned long long (*tail[8])(struct bench_env *); /* 80: targets of tail calls by index */
	void *values[4];                             /* 144: value of element 0 of an array map by slot */
};

typedef struct bench_env bench_ctx;

#define PACKET(ctx) ((ctx)->data)
#define PACKET_END(ctx) ((ctx)->data_end)
#define LOOKUP(ctx, map, slot, key) (ctx)->lookup[slot]((ctx)->maps[slot], key)
#define TAIL_CALL(ctx, map, slot, index) return (ctx)->tail[index](ctx)
#define SUBPROG static __attribute__((noinline))
#undef SEC
#define SEC(name) __attribute__((section(".text." name), used))
#define LICENSE _Static_assert(1, "")

#endif

#endif
