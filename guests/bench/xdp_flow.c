// SPDX-License-Identifier: GPL-2.0-only
/* Parse Ethernet, IPv4 and UDP, look the 5-tuple up in a hash map, update a per-CPU counter. */
#include "bench.h"

#define CLASSES 16

struct flow_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 protocol;
};

struct flow_value {
	__u32 class;
	__u32 action;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

#if defined(__bpf__)
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CLASSES);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");
#endif

PROGRAM(__u64, xdp_flow)
{
	void *data = PACKET(ctx), *data_end = PACKET_END(ctx);
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct flow_value *flow;
	struct counter *counter;
	struct flow_key key;
	__u32 class;

	if ((void *)(udp + 1) > data_end)
		return XDP_ABORTED;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->version_ihl != 0x45 || ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	key.saddr = ip->saddr;
	key.daddr = ip->daddr;
	key.sport = udp->source;
	key.dport = udp->dest;
	key.protocol = IPPROTO_UDP;
	flow = LOOKUP_HASH(flows, 0, &key);
	if (!flow)
		return XDP_PASS;
	class = flow->class;
	counter = LOOKUP_PERCPU_ARRAY(counters, 1, &class, CLASSES);
	if (!counter)
		return XDP_ABORTED;
	counter->packets++;
	counter->bytes += data_end - data;
	return flow->action;
}

LICENSE;
