/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One C body for both builds of a workload: as a BPF program, and as x86-64 code that serves as the limit.
 *
 * The twin is a bpf_func like any other: it is called with the kernel's context and with `insnsi`. Behind
 * the struct bpf_prog that names it there are no instructions but a struct bench_env: the same map objects
 * and the addresses of the same kernel text. Slot numbers in the LOOKUP macros are the twin's. A lookup does
 * in both builds what the kernel inlines into a BPF program for that type of map.
 * Every body returns a value that tells whether it did its work, the same in both builds.
 */
#ifndef BENCH_H
#define BENCH_H

#include "net_headers.h"

#define UNUSED __attribute__((unused))

#if defined(__bpf__)

typedef struct xdp_md bench_ctx;

#define PROGRAM(result, name) SEC("xdp") result name(bench_ctx *ctx UNUSED)
#define PACKET(ctx) ((void *)(long)(ctx)->data)
#define PACKET_END(ctx) ((void *)(long)(ctx)->data_end)
#define LOOKUP_HASH(map, slot, key) bpf_map_lookup_elem(&(map), key)
#define LOOKUP_ARRAY(map, slot, key, entries, size) bpf_map_lookup_elem(&(map), key)
#define LOOKUP_PERCPU_ARRAY(map, slot, key, entries) bpf_map_lookup_elem(&(map), key)
#define TAIL_CALL(map, index) bpf_tail_call(ctx, &(map), index)
/* A global function is verified once, on its own, instead of at each call. */
#define SUBPROG __attribute__((noinline))
#define LICENSE char LICENSE_text[] SEC("license") = "GPL"

#else

/* The members of the kernel's struct xdp_buff that the programs see. */
typedef struct {
	void *data;
	void *data_end;
} bench_ctx;

/* All addresses are of the machine; every member is an array of 8-byte words, one a slot. */
struct bench_env {
	void *map[4];                                /*   0: struct bpf_map */
	char *(*lookup[4])(void *map, const void *key); /* 32: __htab_map_lookup_elem */
	unsigned long value_off[4];                  /*  64: the value's offset in a hash map's element */
	char *values[4];                             /*  96: an array's values, or its per-CPU pointers */
	unsigned long this_cpu_off;                  /* 128: address of that per-CPU variable */
	__u64 (*tail[8])(bench_ctx *ctx, const struct bench_env *env); /* 136: targets of tail calls */
};

typedef __u64 __attribute__((address_space(256))) percpu_u64; /* relative to GS */

static inline __attribute__((always_inline)) void *lookup_hash(const struct bench_env *env, int slot,
							       const void *key)
{
	char *elem = env->lookup[slot](env->map[slot], key);

	return elem ? elem + env->value_off[slot] : 0;
}

static inline __attribute__((always_inline)) void *lookup_percpu_array(const struct bench_env *env, int slot,
								       __u32 key, __u32 entries)
{
	if (key >= entries)
		return 0;
	return ((char **)env->values[slot])[key] + *(percpu_u64 *)env->this_cpu_off;
}

#define PROGRAM(result, name) SEC("xdp") result name(bench_ctx *ctx UNUSED, const struct bench_env *env UNUSED)
#define PACKET(ctx) ((ctx)->data)
#define PACKET_END(ctx) ((ctx)->data_end)
#define LOOKUP_HASH(map, slot, key) lookup_hash(env, slot, key)
#define LOOKUP_ARRAY(map, slot, key, entries, size) \
	((void *)(*(key) < (entries) ? env->values[slot] + *(key) * (size) : 0))
#define LOOKUP_PERCPU_ARRAY(map, slot, key, entries) lookup_percpu_array(env, slot, *(key), entries)
#define TAIL_CALL(map, index) return env->tail[index](ctx, env)
#define SUBPROG static __attribute__((noinline))
#undef SEC
#define SEC(name) __attribute__((section(".text." name), used))
#define LICENSE _Static_assert(1, "")

#endif

#endif
