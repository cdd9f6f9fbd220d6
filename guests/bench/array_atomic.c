// SPDX-License-Identifier: GPL-2.0-only
/* 64 lookups in an array map, each followed by an atomic add; the result is how many were found. */
#include "bench.h"

#define ENTRIES 64

#if defined(__bpf__)
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} sums SEC(".maps");
#endif

PROGRAM(__u64, array_atomic)
{
	__u64 found = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < ENTRIES; i++) {
		__u32 key = i;
		__u64 *sum = LOOKUP_ARRAY(sums, 0, &key, ENTRIES, sizeof(*sum));

		if (!sum)
			break;
		__sync_fetch_and_add(sum, 1);
		found++;
	}
	return found;
}

LICENSE;
