// SPDX-License-Identifier: GPL-2.0-only
/*
 * The main job's program: a small firewall at the XDP hook, in two stages.
 *
 * xdp_filter parses Ethernet (up to two VLAN tags), IPv4 or IPv6, and TCP or UDP; a frame that ends
 * inside a header is ABORTED; a 5-tuple on the blocklist is DROPped; other flows are counted. The second
 * stage, xdp_forward, is reached by a tail call: it enforces the rate limit (DROP), sends UDP echo back
 * where it came from (TX), hands tunnelled traffic to another interface (REDIRECT) and PASSes the rest.
 */
#include "net_headers.h"

#define ECHO_PORT 7
#define VXLAN_PORT 4789
#define TCP_FIN_PSH_URG 0x29

struct flow {
	__be32 saddr[4];
	__be32 daddr[4];
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 family;
	__u16 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct config {
	__u32 rate_limit;       /* packets a flow may send; 0: the built-in limit */
	__u32 redirect_ifindex; /* 0: the built-in interface */
};

/* What the first stage found out, for the second. */
struct parsed {
	struct flow flow;
	__u64 flow_packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct flow);
	__type(value, struct counter);
} blocklist SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, struct counter);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 5);
	__type(key, __u32);
	__type(value, struct counter);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct parsed);
} scratch SEC(".maps");

int xdp_forward(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} stages SEC(".maps") = {
	.values = { [1] = (void *)&xdp_forward },
};

const volatile __u32 default_rate_limit = 24;
const volatile __u32 default_redirect_ifindex = 2;

__u64 frames_seen = 0;
__u64 bytes_seen = 0;
__u32 next_stage = 1;

/* Count the frame under its verdict; the verdict comes back, so that callers can end with it. */
static __noinline int account(struct xdp_md *ctx, __u32 verdict)
{
	struct counter *counter = bpf_map_lookup_elem(&verdicts, &verdict);

	if (counter) {
		counter->packets++;
		counter->bytes += ctx->data_end - ctx->data;
	}
	return verdict;
}

/* Ports of TCP or UDP at l4; -1 when the frame ends too early. */
static __noinline int parse_ports(void *l4, void *data_end, struct flow *flow)
{
	if (flow->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > data_end)
			return -1;
		flow->sport = tcp->source;
		flow->dport = tcp->dest;
		if ((tcp->flags & TCP_FIN_PSH_URG) == TCP_FIN_PSH_URG) {
			static const char fmt[] = "christmas tree from port %d to port %d\n";

			bpf_trace_printk(fmt, sizeof(fmt), bpf_ntohs(flow->sport), bpf_ntohs(flow->dport));
		}
	} else if (flow->protocol == IPPROTO_UDP) {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > data_end)
			return -1;
		flow->sport = udp->source;
		flow->dport = udp->dest;
	}
	return 0;
}

/* The 5-tuple of an IPv4 or IPv6 frame; 0 for others, 1 when found, -1 when the frame ends too early. */
static __always_inline int parse_flow(void *data, void *data_end, struct flow *flow)
{
	struct ethhdr *eth = data;
	void *next = eth + 1;
	__be16 proto;

	if (next > data_end)
		return -1;
	proto = eth->h_proto;
#pragma clang loop unroll(full)
	for (int depth = 0; depth < 2; depth++) {
		struct vlan_hdr *vlan = next;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		next = vlan + 1;
		if (next > data_end)
			return -1;
		proto = vlan->proto;
	}
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = next;
		__u32 length;

		if ((void *)(ip + 1) > data_end)
			return -1;
		length = (ip->version_ihl & 15) * 4;
		if (length < sizeof(*ip))
			return -1;
		flow->saddr[0] = ip->saddr;
		flow->daddr[0] = ip->daddr;
		flow->protocol = ip->protocol;
		flow->family = 4;
		/* Only the first fragment carries ports. */
		if (ip->frag_off & bpf_htons(0x1fff))
			return 1;
		next += length;
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = next;

		if ((void *)(ip6 + 1) > data_end)
			return -1;
		for (int word = 0; word < 4; word++) {
			flow->saddr[word] = ip6->saddr[word];
			flow->daddr[word] = ip6->daddr[word];
		}
		flow->protocol = ip6->nexthdr;
		flow->family = 6;
		next = ip6 + 1;
	} else {
		return 0;
	}
	return parse_ports(next, data_end, flow) ? -1 : 1;
}

/* Count the frame for its flow; how many the flow has sent, this one included (0: the table is full). */
static __always_inline __u64 count_flow(const struct flow *flow, __u64 bytes)
{
	struct counter *counter = bpf_map_lookup_elem(&flows, flow);
	struct counter first = { .packets = 1, .bytes = bytes };

	if (counter) {
		__sync_fetch_and_add(&counter->packets, 1);
		__sync_fetch_and_add(&counter->bytes, bytes);
		return counter->packets;
	}
	return bpf_map_update_elem(&flows, flow, &first, BPF_NOEXIST) ? 0 : 1;
}

SEC("xdp")
int xdp_filter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	__u64 bytes = data_end - data;
	struct counter *blocked;
	struct parsed *parsed;
	struct flow flow = {};
	__u32 zero = 0;
	int found;

	frames_seen++;
	bytes_seen += bytes;

	found = parse_flow(data, data_end, &flow);
	if (found < 0)
		return account(ctx, XDP_ABORTED);
	if (!found)
		return account(ctx, XDP_PASS);

	blocked = bpf_map_lookup_elem(&blocklist, &flow);
	if (blocked) {
		__sync_fetch_and_add(&blocked->packets, 1);
		__sync_fetch_and_add(&blocked->bytes, bytes);
		return account(ctx, XDP_DROP);
	}

	parsed = bpf_map_lookup_elem(&scratch, &zero);
	if (!parsed)
		return account(ctx, XDP_ABORTED);
	parsed->flow = flow;
	parsed->flow_packets = count_flow(&flow, bytes);
	bpf_tail_call(ctx, &stages, next_stage);

	/* Reached only when the second stage is missing. */
	return account(ctx, XDP_PASS);
}

SEC("xdp")
int xdp_forward(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	__u32 zero = 0, limit = default_rate_limit, ifindex = default_redirect_ifindex;
	struct ethhdr *eth = data;
	struct config *chosen;
	struct parsed *parsed;

	parsed = bpf_map_lookup_elem(&scratch, &zero);
	chosen = bpf_map_lookup_elem(&config, &zero);
	if (!parsed || !chosen || (void *)(eth + 1) > data_end)
		return account(ctx, XDP_ABORTED);
	if (chosen->rate_limit)
		limit = chosen->rate_limit;
	if (chosen->redirect_ifindex)
		ifindex = chosen->redirect_ifindex;

	if (parsed->flow_packets > limit)
		return account(ctx, XDP_DROP);
	if (parsed->flow.protocol == IPPROTO_UDP && parsed->flow.dport == bpf_htons(ECHO_PORT)) {
		for (int i = 0; i < 6; i++) {
			__u8 byte = eth->h_dest[i];

			eth->h_dest[i] = eth->h_source[i];
			eth->h_source[i] = byte;
		}
		return account(ctx, XDP_TX);
	}
	if (parsed->flow.protocol == IPPROTO_UDP && parsed->flow.dport == bpf_htons(VXLAN_PORT)) {
		account(ctx, XDP_REDIRECT);
		return bpf_redirect(ifindex, 0);
	}
	return account(ctx, XDP_PASS);
}

char LICENSE[] SEC("license") = "GPL";
