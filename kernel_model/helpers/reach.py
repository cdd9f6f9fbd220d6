# SPDX-License-Identifier: GPL-2.0-only
"""Which program types may call the helpers that are not modelled, by group of Linux's lookups (6.18).

So a program that could not call such a helper on Linux either is refused in Linux's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .table import BASE, SK_BASE, SOCKET, TC, TRACING, XDP, HelperRow

if TYPE_CHECKING:
    from kernel_model.hooks.progtypes import ProgType

_REACH: Final[dict[str, frozenset[str]]] = {
    BASE: frozenset(
        [
            "cgrp_storage_delete",
            "cgrp_storage_get",
            "copy_from_user",
            "copy_from_user_task",
            "current_task_under_cgroup",
            "dynptr_data",
            "dynptr_from_mem",
            "dynptr_read",
            "dynptr_write",
            "find_vma",
            "get_branch_snapshot",
            "get_current_ancestor_cgroup_id",
            "get_current_cgroup_id",
            "get_current_task_btf",
            "get_ns_current_pid_tgid",
            "get_task_stack",
            "kptr_xchg",
            "per_cpu_ptr",
            "perf_event_read_value",
            "ringbuf_discard_dynptr",
            "ringbuf_reserve_dynptr",
            "ringbuf_submit_dynptr",
            "send_signal",
            "send_signal_thread",
            "snprintf",
            "snprintf_btf",
            "spin_lock",
            "spin_unlock",
            "task_pt_regs",
            "task_storage_delete",
            "task_storage_get",
            "this_cpu_ptr",
            "timer_cancel",
            "timer_init",
            "timer_set_callback",
            "timer_start",
            "user_ringbuf_drain",
        ]
    ),
    SK_BASE: frozenset(
        [
            "skc_to_mptcp_sock",
            "skc_to_tcp6_sock",
            "skc_to_tcp_request_sock",
            "skc_to_tcp_sock",
            "skc_to_tcp_timewait_sock",
            "skc_to_udp6_sock",
            "skc_to_unix_sock",
        ]
    ),
    SOCKET: frozenset(["get_netns_cookie"]),
    TC: frozenset(
        [
            "fib_lookup",
            "get_listener_sock",
            "get_netns_cookie",
            "sk_assign",
            "sk_fullsock",
            "sk_lookup_tcp",
            "sk_lookup_udp",
            "sk_release",
            "sk_storage_delete",
            "sk_storage_get",
            "skb_ancestor_cgroup_id",
            "skb_cgroup_classid",
            "skb_cgroup_id",
            "skb_ecn_set_ce",
            "skb_get_xfrm_state",
            "skb_set_tstamp",
            "skb_under_cgroup",
            "skc_lookup_tcp",
            "tcp_check_syncookie",
            "tcp_gen_syncookie",
            "tcp_raw_check_syncookie_ipv4",
            "tcp_raw_check_syncookie_ipv6",
            "tcp_raw_gen_syncookie_ipv4",
            "tcp_raw_gen_syncookie_ipv6",
            "tcp_sock",
        ]
    ),
    XDP: frozenset(
        [
            "fib_lookup",
            "sk_lookup_tcp",
            "sk_lookup_udp",
            "sk_release",
            "skc_lookup_tcp",
            "tcp_check_syncookie",
            "tcp_gen_syncookie",
            "tcp_raw_check_syncookie_ipv4",
            "tcp_raw_check_syncookie_ipv6",
            "tcp_raw_gen_syncookie_ipv4",
            "tcp_raw_gen_syncookie_ipv6",
        ]
    ),
    TRACING: frozenset(["get_attach_cookie", "get_func_ip", "perf_prog_read_value", "read_branch_records"]),
}
"""Names without ``bpf_``. ``perf_event`` programs alone have the two that read their event (TRACING)."""


def reachable(row: HelperRow, prog_type: ProgType) -> bool:
    """Whether Linux lets programs of this type call the helper at all, whatever their privileges."""
    return any(row.name in _REACH.get(group, ()) for group in prog_type.helper_groups)
