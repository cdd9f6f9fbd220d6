# SPDX-License-Identifier: GPL-2.0-only
"""Numbers that hand-written kernel text names ``CONST_<name>``: errnos, flags, verdicts, header lengths.

The machine merges this table into the constants that it gives to the assembler. (The assembler's own
``.equ`` names are taken for memory operands in Intel syntax, so they are of no use.)
"""

from __future__ import annotations

import errno
from typing import Final

from ..uapi.enums import UpdateFlags, bpf_map_type, xdp_action

HZ: Final = 250
"""Ticks a second (CONFIG_HZ)."""

_OTHERS: Final = {
    "MINUS_ENOTSUPP": -524,
    # What a look at the clock costs, in simulated nanoseconds.
    "KTIME_COST_NS": 20,
    # may_goto: rounds between two looks at the clock, what they cost, and how long a loop may take.
    "MAX_TIMED_LOOPS": 0xFFFF,
    "TIMED_LOOPS_COST_NS": 65_536,
    "TIMED_LOOPS_LIMIT_NS": 250_000_000,
    "ETH_HLEN": 14,
    "BPF_MAX_LOOPS": 8 << 20,
    # The largest record of a ring buffer (RINGBUF_MAX_RECORD_SZ); flags and questions of its helpers.
    "RINGBUF_MAX_RECORD_SZ": 0x3FFF_FFFF,
    # Dynptrs: the largest size, and the type of ring buffer records at its place in the size word.
    "DYNPTR_MAX_SIZE": 0xFF_FFFF,
    "DYNPTR_RINGBUF": 2 << 28,
    "BPF_RB_NO_WAKEUP": 1,
    "BPF_RB_FORCE_WAKEUP": 2,
    "BPF_RB_AVAIL_DATA": 0,
    "BPF_RB_RING_SIZE": 1,
    "BPF_RB_CONS_POS": 2,
    "BPF_RB_PROD_POS": 3,
    # bpf_redirect_map()'s flags.
    "BPF_F_BROADCAST": 8,
    "BPF_F_EXCLUDE_INGRESS": 16,
    # Which list an element of an LRU map is on (enum bpf_lru_list_type).
    "BPF_LRU_LIST_T_FREE": 2,
    "BPF_LRU_LOCAL_LIST_T_FREE": 3,
    "BPF_LRU_LOCAL_LIST_T_PENDING": 4,
    "TICK_NSEC": 1_000_000_000 // HZ,
    "INITIAL_JIFFIES": -300 * HZ & 0xFFFF_FFFF,
    "JHASH_INITVAL": 0xDEADBEEF - (1 << 32),
    "INT_MAX": 0x7FFF_FFFF,
    # What a list node that was removed points back to (include/linux/poison.h).
    "LIST_POISON2": 0xDEAD_0000_0000_0122,
    # struct xdp_buff flags and the largest metadata (include/net/xdp.h).
    "XDP_FLAGS_HAS_FRAGS": 1,
    "XDP_META_MAX": 255,
    # Classic BPF's offsets from the headers (include/uapi/linux/filter.h).
    "SKF_NET_OFF": -0x10_0000,
    "SKF_LL_OFF": -0x20_0000,
    "SKB_HEADER_UNSET": 0xFFFF,
    "BPF_HDR_START_MAC": 0,
    "BPF_HDR_START_NET": 1,
    # tc verdicts and bpf_redirect()'s flag.
    "TC_ACT_SHOT": 2,
    "TC_ACT_REDIRECT": 7,
    "BPF_F_INGRESS": 1,
    "BPF_F_PEER": 1 << 17,
}

TEXT_CONSTANTS: Final[dict[str, int]] = {
    f"CONST_{name}": value
    for name, value in (
        *((f"MINUS_{name}", -number) for name, number in sorted(vars(errno).items()) if name.startswith("E")),
        *((each.name, int(each)) for each in xdp_action),
        *((each.name, int(each)) for each in bpf_map_type),
        *((f"BPF_{name.removeprefix('BPF_')}", int(flag)) for name, flag in UpdateFlags.__members__.items()),
        *_OTHERS.items(),
    )
}
