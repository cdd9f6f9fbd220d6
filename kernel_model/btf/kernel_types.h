/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The simulated kernel's own types: those members of Linux 6.18's structures that this kernel reads
 * or writes, by Linux's names and in Linux's order. Offsets are computed from this text by
 * kernel_model.btf.layout and written nowhere. Function pointers are spelled `void *`.
 */

struct list_head { struct list_head *next; struct list_head *prev; };

/* maps */

struct bpf_map_ops {
	void *map_lookup_elem;
	void *map_update_elem;
	void *map_delete_elem;
	void *map_push_elem;
	void *map_pop_elem;
	void *map_peek_elem;
	void *map_lookup_percpu_elem;
	void *map_redirect;
	void *map_for_each_callback;
};

struct bpf_map {
	u8 sha[32];
	u32 excl;
	struct bpf_map_ops *ops;
	struct bpf_map *inner_map_meta;
	void *security;
	u32 map_type;
	u32 key_size;
	u32 value_size;
	u32 max_entries;
	u64 map_extra;
	u32 map_flags;
	u32 id;
	void *record;
	s32 numa_node;
	u32 btf_key_type_id;
	u32 btf_value_type_id;
	u32 btf_vmlinux_value_type_id;
	void *btf;
	void *objcg;
	char name[16];
	u64 freeze_mutex[4];
	u64 refcnt;
	u64 usercnt;
	u64 work[4];
	u64 writecnt;
	u32 owner_lock;
	void *owner;
	u8 bypass_spec_v1;
	u8 frozen;
	u8 free_after_mult_rcu_gp;
	u8 free_after_rcu_gp;
	u64 sleepable_refcnt;
	void *elem_count;
	u64 cookie;
	char *excl_prog_sha;
};

struct bpf_array {
	struct bpf_map map;
	u32 elem_size;
	u32 index_mask;
	void *aux;
	union {
		struct { u64 value[0]; };
		struct { void *ptrs[0]; };
		struct { void *pptrs[0]; };
	};
};

struct hlist_nulls_head { void *first; };
struct hlist_nulls_node { struct hlist_nulls_node *next; struct hlist_nulls_node **pprev; };

struct bucket {
	struct hlist_nulls_head head;
	u32 raw_lock;
};

struct pcpu_freelist_node { struct pcpu_freelist_node *next; };
struct pcpu_freelist_head { struct pcpu_freelist_node *first; u32 lock; };

struct llist_node { struct llist_node *next; };
struct llist_head { struct llist_node *first; };

struct bpf_lru_node {
	union {
		struct list_head list;
		struct llist_node llist;
	};
	u16 cpu;
	u8 type;
	u8 ref;
	u8 pending_free;
};

struct bpf_lru_list {
	struct list_head lists[3];
	u32 counts[2];
	struct list_head *next_inactive_rotation;
	u32 lock;
};

struct bpf_lru_locallist {
	struct list_head pending_list;
	struct llist_head free_llist;
	u16 next_steal;
	u32 lock;
};

struct bpf_common_lru {
	struct bpf_lru_list lru_list;
	struct bpf_lru_locallist *local_list;
};

struct bpf_lru {
	union {
		struct bpf_common_lru common_lru;
		struct bpf_lru_list *percpu_lru;
	};
	u32 hash_offset;
	u32 target_free;
	u32 nr_scans;
	u8 percpu;
};

/* Objects of one size for programs; each has a word in front of it that links it while it is free. */
struct bpf_mem_cache {
	struct llist_head free_llist;
	s32 unit_size;
	s32 free_cnt;
	s32 low_watermark;
	s32 high_watermark;
	s32 batch;
	s32 percpu_size;
};

struct bpf_mem_alloc { struct bpf_mem_cache *cache; };

struct bpf_htab {
	struct bpf_map map;
	struct bpf_mem_alloc ma;
	struct bpf_mem_alloc pcpu_ma;
	struct bucket *buckets;
	void *elems;
	union {
		void *freelist;
		struct bpf_lru lru;
	};
	struct htab_elem **extra_elems;
	u32 count;
	u8 use_percpu_counter;
	u32 n_buckets;
	u32 elem_size;
	u32 hashrnd;
};

struct htab_elem {
	union {
		struct hlist_nulls_node hash_node;
		struct {
			void *padding;
			struct pcpu_freelist_node fnode;
		};
	};
	union {
		void *ptr_to_pptr;
		struct bpf_lru_node lru_node;
	};
	u32 hash;
	u64 key[0];
};

struct lpm_trie_node {
	struct lpm_trie_node *child[2];
	u32 prefixlen;
	u32 flags;
	u8 data[0];
};

struct lpm_trie {
	struct bpf_map map;
	struct lpm_trie_node *root;
	struct bpf_mem_alloc ma;
	u64 n_entries;
	u64 max_prefixlen;
	u64 data_size;
	u32 lock;
};

/*
 * The first three members are a page each: the kernel's own, the consumer's and the producer's. `wakeups`
 * stands for the wait queue: how often it was woken.
 */
struct bpf_ringbuf {
	union {
		struct { u64 wakeups; u64 mask; s32 nr_pages; u32 spinlock; u32 busy; };
		u8 meta_page[4096];
	};
	union { u64 consumer_pos; u8 consumer_page[4096]; };
	union {
		struct { u64 producer_pos; u64 pending_pos; };
		u8 producer_page[4096];
	};
	char data[0];
};

struct bpf_ringbuf_map { struct bpf_map map; struct bpf_ringbuf *rb; };

/* What programs see of packets (include/uapi/linux/bpf.h). */
struct xdp_md { u32 data; u32 data_end; u32 data_meta; u32 ingress_ifindex; u32 rx_queue_index; u32 egress_ifindex; };
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	struct bpf_flow_keys *flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	struct bpf_sock *sk;
	u32 gso_size;
	u8 tstamp_type;
	u64 hwtstamp;
};

/* Dynptrs and number iterators as the kernel has them, and as programs may see them. */
struct bpf_dynptr_kern { void *data; u32 size; u32 offset; };
struct bpf_dynptr { u64 __opaque[2]; };
struct bpf_iter_num_kern { s32 cur; s32 end; };
struct bpf_iter_num { u64 __opaque[1]; };

struct bpf_bloom_filter {
	struct bpf_map map;
	u32 bitset_mask;
	u32 hash_seed;
	u32 nr_hash_funcs;
	u64 bitset[0];
};

struct bpf_queue_stack {
	struct bpf_map map;
	u32 lock;
	u32 head;
	u32 tail;
	u32 size;
	char elements[0];
};

/* programs */

struct bpf_insn { u8 code; u8 regs; s16 off; s32 imm; };

struct bpf_prog {
	u16 pages;
	u16 jited : 1;
	u16 jit_requested : 1;
	u16 gpl_compatible : 1;
	u16 cb_access : 1;
	u16 dst_needed : 1;
	u16 blinding_requested : 1;
	u16 blinded : 1;
	u16 is_func : 1;
	u16 kprobe_override : 1;
	u16 has_callchain_buf : 1;
	u16 enforce_expected_attach_type : 1;
	u16 call_get_stack : 1;
	u16 call_get_func_ip : 1;
	u16 tstamp_type_access : 1;
	u16 sleepable : 1;
	u32 type;
	u32 expected_attach_type;
	u32 len;
	u32 jited_len;
	union {
		u8 digest[32];
		u8 tag[8];
	};
	void *stats;
	s32 *active;
	void *bpf_func;
	struct bpf_prog_aux *aux;
	void *orig_prog;
	struct bpf_insn insnsi[0];
};

struct bpf_prog_aux {
	u64 refcnt;
	u32 used_map_cnt;
	u32 stack_depth;
	u32 id;
	u32 func_cnt;
	u32 func_idx;
	char name[16];
};

/* network */

struct net_device_ops { void *ndo_xdp_xmit; };

struct net_device {
	struct net_device_ops *netdev_ops;
	u32 mtu;
	u32 flags;
	u16 hard_header_len;
	struct bpf_prog *xdp_prog;
	s32 ifindex;
	char name[16];
	u16 type;
	u8 dev_addr[8];
	void *priv;
};

struct xdp_mem_info { u32 type; u32 id; };

struct xdp_rxq_info {
	struct net_device *dev;
	u32 queue_index;
	u32 reg_state;
	struct xdp_mem_info mem;
	u32 frag_size;
};

struct xdp_txq_info { struct net_device *dev; };

struct xdp_buff {
	void *data;
	void *data_end;
	void *data_meta;
	void *data_hard_start;
	struct xdp_rxq_info *rxq;
	struct xdp_txq_info *txq;
	u32 frame_sz;
	u32 flags;
};

/* A next hop: a family and its address (struct bpf_redir_neigh to programs). */
struct bpf_nh_params { u32 nh_family; u8 nh_addr[16]; };

struct bpf_redirect_info {
	u64 tgt_index;
	void *tgt_value;
	struct bpf_map *map;
	u32 flags;
	u32 map_id;
	u32 map_type;
	struct bpf_nh_params nh;
	u32 kern_flags;
};

struct xdp_frame {
	void *data;
	u32 len;
	u32 headroom;
	u32 metasize;
	u32 mem_type;
	struct net_device *dev_rx;
	u32 frame_sz;
	u32 flags;
};

struct ip_tunnel_key {
	u64 tun_id;
	u8 src[16];
	u8 dst[16];
	u64 tun_flags;
	u32 label;
	u32 nhid;
	u8 tos;
	u8 ttl;
};

struct ip_tunnel_info { struct ip_tunnel_key key; u8 options_len; u8 mode; u8 options[256]; };

/* What goes with a packet to or from a tunnel, one a CPU for keys that programs give. */
struct metadata_dst { u64 dst; u32 type; struct ip_tunnel_info tun_info; };

struct skb_frag { u64 netmem; u32 len; u32 offset; };

struct skb_shared_info {
	u8 flags;
	u8 meta_len;
	u8 nr_frags;
	u8 tx_flags;
	u16 gso_size;
	u16 gso_segs;
	struct sk_buff *frag_list;
	u64 hwtstamps;
	u32 gso_type;
	u32 tskey;
	u32 dataref;
	union {
		struct { u32 xdp_frags_size; u32 xdp_frags_truesize; };
		void *destructor_arg;
	};
	struct skb_frag frags[17];
};

struct sk_buff {
	struct sk_buff *next;
	struct sk_buff *prev;
	struct net_device *dev;
	struct sock *sk;
	u64 tstamp;
	u8 cb[48];
	u64 _skb_refdst;
	void *destructor;
	u64 _nfct;
	u32 len;
	u32 data_len;
	u16 mac_len;
	u16 hdr_len;
	u16 queue_mapping;
	u8 cloned : 1;
	u8 nohdr : 1;
	u8 fclone : 2;
	u8 peeked : 1;
	u8 head_frag : 1;
	u8 pfmemalloc : 1;
	u8 pp_recycle : 1;
	u8 active_extensions;
	u8 pkt_type : 3;
	u8 ignore_df : 1;
	u8 dst_pending_confirm : 1;
	u8 ip_summed : 2;
	u8 ooo_okay : 1;
	u8 tstamp_type : 2;
	u8 tc_at_ingress : 1;
	u8 tc_skip_classify : 1;
	u8 remcsum_offload : 1;
	u8 csum_complete_sw : 1;
	u8 csum_level : 2;
	u8 inner_protocol_type : 1;
	u8 l4_hash : 1;
	u8 sw_hash : 1;
	u8 no_fcs : 1;
	u8 encapsulation : 1;
	u8 encap_hdr_csum : 1;
	u8 csum_valid : 1;
	u8 nf_trace : 1;
	u8 redirected : 1;
	u8 from_ingress : 1;
	u8 nf_skip_egress : 1;
	u8 slow_gro : 1;
	u8 unreadable : 1;
	u16 tc_index;
	u16 alloc_cpu;
	u32 csum;
	u32 priority;
	s32 skb_iif;
	u32 hash;
	union {
		u32 vlan_all;
		struct { u16 vlan_proto; u16 vlan_tci; };
	};
	u32 napi_id;
	u32 secmark;
	u32 mark;
	u16 inner_protocol;
	u16 inner_transport_header;
	u16 inner_network_header;
	u16 inner_mac_header;
	u16 protocol;
	u16 transport_header;
	u16 network_header;
	u16 mac_header;
	u32 tail;
	u32 end;
	u8 *head;
	u8 *data;
	u32 truesize;
	u32 users;
	void *extensions;
};

struct sock { u16 skc_family; u16 type; u16 protocol; u32 bound_dev_if; void *sk_filter; };

/* What the qdisc layer keeps in the control block of an skb; programs see `data` as __sk_buff.cb. */
struct qdisc_skb_cb { u32 pkt_len; u16 slave_dev_queue_mapping; u16 tc_classid; u8 data[20]; };

/* What the kernel keeps in the control block of an skb while a program runs (struct bpf_skb_data_end). */
struct bpf_skb_data_end { struct qdisc_skb_cb qdisc_cb; void *data_meta; void *data_end; };

/* Two words of a program's stack that bound a may_goto loop. */
struct bpf_timed_may_goto { u64 count; u64 timestamp; };

/* The state of prandom_u32_state(), one a CPU at the per-CPU symbol bpf_user_rnd_state. */
struct rnd_state { u32 s1; u32 s2; u32 s3; u32 s4; };

/* tasks */

struct pt_regs {
	u64 r15; u64 r14; u64 r13; u64 r12; u64 bp; u64 bx; u64 r11; u64 r10; u64 r9; u64 r8;
	u64 ax; u64 cx; u64 dx; u64 si; u64 di; u64 orig_ax; u64 ip; u64 cs; u64 flags; u64 sp; u64 ss;
};

struct task_struct {
	u32 __state;
	void *stack;
	s32 pid;
	s32 tgid;
	char comm[16];
};

/* maps of devices */

struct hlist_node { struct hlist_node *next; struct hlist_node **pprev; };
struct bpf_devmap_val { u32 ifindex; u32 prog_id; };

struct bpf_dtab_netdev {
	struct net_device *dev;
	struct hlist_node index_hlist;
	struct bpf_prog *xdp_prog;
	u64 rcu[2];
	u32 idx;
	struct bpf_devmap_val val;
};

struct bpf_dtab {
	struct bpf_map map;
	struct bpf_dtab_netdev **netdev_map;
	struct list_head list;
	void *dev_index_head;
	u32 index_lock;
	u32 items;
	u32 n_buckets;
};

/* what decodes infrared pulses; programs see the sample */

struct ir_raw_event_ctrl { void *dev; u32 bpf_sample; };

/* the context of perf_event programs */

struct perf_sample_data {
	u64 sample_flags;
	u64 period;
	u64 dyn_size;
	u64 type;
	u64 ip;
	u64 time;
	u64 id;
	u64 addr;
};

struct bpf_perf_event_data_kern {
	struct pt_regs *regs;
	struct perf_sample_data *data;
	struct perf_event *event;
};

/* perf events: what a process maps in front of a ring, and the event itself as maps refer to it */

struct perf_event_mmap_page {
	u32 version;
	u32 compat_version;
	u32 lock;
	u32 index;
	s64 offset;
	u64 time_enabled;
	u64 time_running;
	u64 capabilities;
	u16 pmc_width;
	u16 time_shift;
	u32 time_mult;
	u64 time_offset;
	u64 time_zero;
	u32 size;
	u32 __reserved_1;
	u64 time_cycles;
	u64 time_mask;
	u8 __reserved[928];
	u64 data_head;
	u64 data_tail;
	u64 data_offset;
	u64 data_size;
};

struct perf_event { u64 id; s32 cpu; };

/* the network card's driver: rings shared with the device, and the driver's own state */

struct nic_rx_desc { u64 addr; u16 length; u16 status; u32 reserved; };
struct nic_tx_desc { u64 addr; u16 length; u16 status; u32 reserved; };

struct nic_rx_buffer {
	u8 *page;
	u8 *data;
	u8 *data_end;
	u32 verdict;
	u32 frame_len;
};

struct nic_adapter {
	struct net_device *dev;
	struct nic_rx_desc *rx_ring;
	struct nic_rx_buffer *rx_buffers;
	struct nic_tx_desc *tx_ring;
	u32 rx_next;
	u32 rx_mask;
	u32 tx_next;
	u32 tx_clean;
	u32 tx_mask;
	u32 headroom;
	u32 frame_sz;
	u32 reserved;
	u64 packet_cost;
	struct xdp_rxq_info rxq;
	u64 rx_packets;
	u64 rx_bytes;
	u64 tx_packets;
	u64 tx_dropped;
	u64 xdp_exceptions;
	u64 xdp_redirect_err;
};
