# SPDX-License-Identifier: GPL-2.0-only
"""The helper table: every helper of Linux 6.18 by number, with what the verifier must know of it.

A row without a prototype is known by name and version only: a program that calls it is refused as
"not modelled". Which program types may call a helper follows Linux's chain of lookups: a type's own
list, then the groups that its lookup falls back to (see kernel_model.hooks.progtypes).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kernel_model.uapi.enums import bpf_func_id

from . import prototypes as p
from .prototypes import (
    ARG_ANYTHING,
    ARG_CONST_ALLOC_SIZE_OR_ZERO,
    ARG_CONST_MAP_PTR,
    ARG_CONST_SIZE,
    ARG_CONST_SIZE_OR_ZERO,
    ARG_PTR_TO_BTF_ID,
    ARG_PTR_TO_CONST_STR,
    ARG_PTR_TO_CTX,
    ARG_PTR_TO_DYNPTR,
    ARG_PTR_TO_DYNPTR_LOCAL,
    ARG_PTR_TO_DYNPTR_RINGBUF,
    ARG_PTR_TO_FIXED_SIZE_MEM,
    ARG_PTR_TO_FUNC,
    ARG_PTR_TO_MAP_KEY,
    ARG_PTR_TO_MAP_VALUE,
    ARG_PTR_TO_PERCPU_BTF_ID,
    ARG_PTR_TO_RDONLY_MEM,
    ARG_PTR_TO_RINGBUF_MEM,
    ARG_PTR_TO_STACK_OR_NULL,
    ARG_PTR_TO_UNINIT_MEM,
    MEM_ALIGNED,
    MEM_RDONLY,
    MEM_UNINIT,
    MEM_WRITE,
    OBJ_RELEASE,
    PTR_MAYBE_NULL,
    PTR_TRUSTED,
    RET_PTR_TO_BTF_ID,
    RET_PTR_TO_DYNPTR_MEM_OR_NULL,
    RET_PTR_TO_MAP_VALUE_OR_NULL,
    RET_PTR_TO_MEM_OR_BTF_ID,
    RET_PTR_TO_RINGBUF_MEM_OR_NULL,
    RET_VOID,
    HelperProto,
)

if TYPE_CHECKING:
    from kernel_model.hooks.progtypes import ProgType

_SINCE: Final = (
    (1, "3.19"), (4, "4.1"), (12, "4.2"), (17, "4.3"), (23, "4.4"), (26, "4.5"), (27, "4.6"), (31, "4.8"),
    (37, "4.9"), (42, "4.10"), (45, "4.11"), (46, "4.12"), (48, "4.13"), (51, "4.14"), (54, "4.15"),
    (58, "4.16"), (60, "4.17"), (65, "4.18"), (81, "4.19"), (84, "4.20"), (91, "5.0"), (93, "5.1"),
    (99, "5.2"), (109, "5.3"), (111, "5.5"), (116, "5.6"), (119, "5.7"), (126, "5.8"), (136, "5.9"),
    (142, "5.10"), (156, "5.11"), (163, "5.12"), (164, "5.13"), (166, "5.14"), (169, "5.15"), (176, "5.16"),
    (180, "5.17"), (186, "5.18"), (194, "5.19"), (204, "6.0"), (208, "6.1"), (210, "6.2"),
)  # fmt: skip
"""Helper numbers were given out in order: from which number on, and the release that brought them."""

# Groups of Linux's lookup chains.
BASE: Final = "base"
"""bpf_base_func_proto(), for everybody."""
BASE_BPF: Final = "base with CAP_BPF"
BASE_PERFMON: Final = "base with CAP_PERFMON"
TRACING: Final = "tracing"
"""bpf_tracing_func_proto(): kprobe, tracepoint, raw tracepoint, perf_event."""
SOCKET: Final = "sk_filter"
TC: Final = "tc_cls_act"
XDP: Final = "xdp"
SK_BASE: Final = "sk_base"
"""bpf_sk_base_func_proto(): network program types."""
KPROBE: Final = "kprobe"
FUNCTIONS: Final = "kernel functions"
"""tracing_prog_func_proto(): programs on kernel functions and BTF-typed tracepoints."""
LSM: Final = "lsm"
LIRC: Final = "lirc_mode2"
LIRC_PERFMON: Final = "lirc_mode2 with CAP_PERFMON"


@dataclass(frozen=True)
class HelperRow:
    """One helper: its number, name (without ``bpf_``), release, and how it may be called.

    ``symbols`` names the kernel function by group; ``errors`` the errnos that it can return, for fault
    injection and documentation.
    """

    id: int
    name: str
    since: str
    proto: HelperProto | None = None
    symbols: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    changes_packet: bool = False
    """Packet pointers are stale after the call (bpf_helper_changes_pkt_data)."""
    protos: Mapping[str, HelperProto] = field(default_factory=dict)
    """Prototypes of groups that differ from ``proto``."""


def _proto(*args: int, **rest: object) -> HelperProto:
    return HelperProto(tuple(args), **rest)  # type: ignore[arg-type]


_CTX, _ANY, _MAP, _KEY, _VALUE = (
    ARG_PTR_TO_CTX,
    ARG_ANYTHING,
    ARG_CONST_MAP_PTR,
    ARG_PTR_TO_MAP_KEY,
    ARG_PTR_TO_MAP_VALUE,
)
_RO, _OUT, _SIZE, _SIZE0 = (
    ARG_PTR_TO_RDONLY_MEM,
    ARG_PTR_TO_UNINIT_MEM,
    ARG_CONST_SIZE,
    ARG_CONST_SIZE_OR_ZERO,
)
_RO0 = _RO | PTR_MAYBE_NULL
_DYNPTR = ARG_PTR_TO_DYNPTR | MEM_RDONLY
_SAMPLE = ARG_PTR_TO_DYNPTR_RINGBUF | OBJ_RELEASE
_BTF = ARG_PTR_TO_BTF_ID
_LONG_OUT = ARG_PTR_TO_FIXED_SIZE_MEM | MEM_UNINIT | MEM_WRITE | MEM_ALIGNED
_NET = (SOCKET, TC, XDP)


@dataclass(frozen=True)
class _Spec:
    proto: HelperProto
    groups: Mapping[str, str]
    errors: tuple[str, ...] = ()
    changes_packet: bool = False
    protos: Mapping[str, HelperProto] = field(default_factory=dict)


def _spec(
    proto: HelperProto,
    groups: Mapping[str, str] | tuple[str, str],
    *errors: str,
    changes: bool = False,
    protos: Mapping[str, HelperProto] | None = None,
) -> _Spec:
    where = {groups[0]: groups[1]} if isinstance(groups, tuple) else groups
    return _Spec(proto, where, errors, changes, protos or {})


def _everywhere(symbol: str) -> dict[str, str]:
    return {BASE: symbol, TRACING: symbol}


_CPU_ID = _proto(allow_fastcall=True)
_EVENT = _proto(_CTX, _MAP, _ANY, _RO, _SIZE0, gpl_only=True)
_READ = _proto(_OUT, _SIZE0, _ANY, gpl_only=True)
_TEXT_TO_NUMBER = _proto(
    _RO, _SIZE, _ANY, ARG_PTR_TO_FIXED_SIZE_MEM | MEM_UNINIT | MEM_WRITE | MEM_ALIGNED,
    arg_sizes=(0, 0, 0, 8, 0),
)  # fmt: skip

_MODELLED: Final[dict[str, _Spec]] = {
    # maps
    "map_lookup_elem": _spec(
        _proto(_MAP, _KEY, ret=RET_PTR_TO_MAP_VALUE_OR_NULL, pkt_access=True),
        _everywhere("bpf_map_lookup_elem"),
    ),
    "map_update_elem": _spec(
        _proto(_MAP, _KEY, _VALUE, _ANY, pkt_access=True), _everywhere("bpf_map_update_elem"),
        "EINVAL", "E2BIG", "EEXIST", "ENOENT", "ENOMEM", "EBUSY",
    ),
    "map_delete_elem": _spec(
        _proto(_MAP, _KEY, pkt_access=True), _everywhere("bpf_map_delete_elem"), "EINVAL", "ENOENT", "EBUSY"
    ),
    "map_push_elem": _spec(
        _proto(_MAP, _VALUE, _ANY, pkt_access=True), _everywhere("bpf_map_push_elem"), "EINVAL", "E2BIG"
    ),
    "map_pop_elem": _spec(
        _proto(_MAP, _VALUE | MEM_UNINIT | MEM_WRITE), _everywhere("bpf_map_pop_elem"), "ENOENT"
    ),
    "map_peek_elem": _spec(
        _proto(_MAP, _VALUE | MEM_UNINIT | MEM_WRITE), _everywhere("bpf_map_peek_elem"), "ENOENT"
    ),
    "map_lookup_percpu_elem": _spec(
        _proto(_MAP, _KEY, _ANY, ret=RET_PTR_TO_MAP_VALUE_OR_NULL, pkt_access=True),
        _everywhere("bpf_map_lookup_percpu_elem"),
    ),
    "for_each_map_elem": _spec(
        _proto(_MAP, ARG_PTR_TO_FUNC, ARG_PTR_TO_STACK_OR_NULL, _ANY), (BASE_BPF, "bpf_for_each_map_elem"),
        "EINVAL",
    ),
    "tail_call": _spec(
        # The program called may itself move packet data.
        _proto(_CTX, _MAP, _ANY, ret=RET_VOID), _everywhere("bpf_tail_call"), changes=True
    ),
    "loop": _spec(
        _proto(_ANY, ARG_PTR_TO_FUNC, ARG_PTR_TO_STACK_OR_NULL, _ANY), (BASE_BPF, "bpf_loop"),
        "EINVAL", "E2BIG",
    ),
    # time, CPUs, randomness
    "ktime_get_ns": _spec(_proto(), _everywhere("bpf_ktime_get_ns")),
    "ktime_get_boot_ns": _spec(_proto(), _everywhere("bpf_ktime_get_boot_ns")),
    "ktime_get_tai_ns": _spec(_proto(), (BASE, "bpf_ktime_get_tai_ns")),
    "ktime_get_coarse_ns": _spec(_proto(), (SK_BASE, "bpf_ktime_get_coarse_ns")),
    "jiffies64": _spec(_proto(), (BASE_BPF, "bpf_jiffies64")),
    "get_prandom_u32": _spec(_proto(), _everywhere("bpf_user_rnd_u32")),
    "get_smp_processor_id": _spec(
        _CPU_ID,
        {
            BASE: "bpf_get_raw_cpu_id",
            XDP: "bpf_get_smp_processor_id",
            TC: "bpf_get_smp_processor_id",
            TRACING: "bpf_get_smp_processor_id",
        },
        protos={BASE: _proto()},
    ),
    "get_numa_node_id": _spec(_proto(), _everywhere("bpf_get_numa_node_id")),
    # output
    "trace_printk": _spec(
        _proto(_RO, _SIZE, gpl_only=True), {BASE_PERFMON: "bpf_trace_printk", TRACING: "bpf_trace_printk"},
        "EINVAL", "EBUSY",
    ),
    "trace_vprintk": _spec(
        _proto(_RO, _SIZE, _RO0, _SIZE0, gpl_only=True),
        {BASE_PERFMON: "bpf_trace_vprintk", TRACING: "bpf_trace_vprintk"}, "EINVAL", "EBUSY",
    ),
    "perf_event_output": _spec(
        _EVENT,
        {SOCKET: "bpf_skb_event_output", TC: "bpf_skb_event_output", XDP: "bpf_xdp_event_output",
         KPROBE: "bpf_perf_event_output"},
        "EINVAL", "E2BIG", "ENOENT", "EFAULT",
    ),
    "ringbuf_output": _spec(
        _proto(_MAP, _RO, _SIZE0, _ANY), _everywhere("bpf_ringbuf_output"), "EINVAL", "EAGAIN"
    ),
    "ringbuf_reserve": _spec(
        _proto(_MAP, ARG_CONST_ALLOC_SIZE_OR_ZERO, _ANY, ret=RET_PTR_TO_RINGBUF_MEM_OR_NULL),
        _everywhere("bpf_ringbuf_reserve"),
    ),
    "ringbuf_submit": _spec(
        _proto(ARG_PTR_TO_RINGBUF_MEM | OBJ_RELEASE, _ANY, ret=RET_VOID), _everywhere("bpf_ringbuf_submit")
    ),
    "ringbuf_discard": _spec(
        _proto(ARG_PTR_TO_RINGBUF_MEM | OBJ_RELEASE, _ANY, ret=RET_VOID), _everywhere("bpf_ringbuf_discard")
    ),
    "ringbuf_query": _spec(_proto(_MAP, _ANY), _everywhere("bpf_ringbuf_query")),
    # dynptrs
    "ringbuf_reserve_dynptr": _spec(
        _proto(_MAP, _ANY, _ANY, ARG_PTR_TO_DYNPTR_RINGBUF | MEM_UNINIT),
        (BASE_BPF, "bpf_ringbuf_reserve_dynptr"), "EINVAL", "E2BIG",
    ),
    "ringbuf_submit_dynptr": _spec(
        _proto(_SAMPLE, _ANY, ret=RET_VOID), (BASE_BPF, "bpf_ringbuf_submit_dynptr")
    ),
    "ringbuf_discard_dynptr": _spec(
        _proto(_SAMPLE, _ANY, ret=RET_VOID), (BASE_BPF, "bpf_ringbuf_discard_dynptr")
    ),
    "dynptr_from_mem": _spec(
        _proto(_OUT, _SIZE0, _ANY, ARG_PTR_TO_DYNPTR_LOCAL | MEM_UNINIT | MEM_WRITE),
        (BASE_BPF, "bpf_dynptr_from_mem"), "EINVAL", "E2BIG",
    ),
    "dynptr_read": _spec(
        _proto(_OUT, _SIZE0, _DYNPTR, _ANY, _ANY), (BASE_BPF, "bpf_dynptr_read"), "EINVAL", "E2BIG"
    ),
    "dynptr_write": _spec(
        _proto(_DYNPTR, _ANY, _RO, _SIZE0, _ANY), (BASE_BPF, "bpf_dynptr_write"), "EINVAL", "E2BIG"
    ),
    "dynptr_data": _spec(
        _proto(_DYNPTR, _ANY, ARG_CONST_ALLOC_SIZE_OR_ZERO, ret=RET_PTR_TO_DYNPTR_MEM_OR_NULL),
        (BASE_BPF, "bpf_dynptr_data"),
    ),
    # strings
    "strncmp": _spec(_proto(_RO, _SIZE, ARG_PTR_TO_CONST_STR), (BASE, "bpf_strncmp")),
    "strtol": _spec(_TEXT_TO_NUMBER, (BASE, "bpf_strtol"), "EINVAL", "ERANGE"),
    "strtoul": _spec(_TEXT_TO_NUMBER, (BASE, "bpf_strtoul"), "EINVAL", "ERANGE"),
    # the current task, memory of others
    "get_current_pid_tgid": _spec(_proto(), _everywhere("bpf_get_current_pid_tgid")),
    "get_current_uid_gid": _spec(
        _proto(), {BASE_BPF: "bpf_get_current_uid_gid", TRACING: "bpf_get_current_uid_gid"}
    ),
    "get_current_comm": _spec(
        _proto(_OUT, _SIZE), {BASE_PERFMON: "bpf_get_current_comm", TRACING: "bpf_get_current_comm"}
    ),
    "get_current_task": _spec(
        _proto(gpl_only=True), {BASE_PERFMON: "bpf_get_current_task", TRACING: "bpf_get_current_task"}
    ),
    "probe_read": _spec(_READ, (TRACING, "bpf_probe_read_compat"), "EFAULT"),
    "probe_read_str": _spec(_READ, (TRACING, "bpf_probe_read_compat_str"), "EFAULT"),
    "probe_read_user": _spec(
        _READ, {BASE_PERFMON: "bpf_probe_read_user", TRACING: "bpf_probe_read_user"}, "EFAULT"
    ),
    "probe_read_user_str": _spec(
        _READ, {BASE_PERFMON: "bpf_probe_read_user_str", TRACING: "bpf_probe_read_user_str"}, "EFAULT"
    ),
    "probe_read_kernel": _spec(
        _READ, {BASE_PERFMON: "bpf_probe_read_kernel", TRACING: "bpf_probe_read_kernel"}, "EFAULT"
    ),
    "probe_read_kernel_str": _spec(
        _READ, {BASE_PERFMON: "bpf_probe_read_kernel_str", TRACING: "bpf_probe_read_kernel_str"}, "EFAULT"
    ),
    "probe_write_user": _spec(
        _proto(_ANY, _RO, _SIZE, gpl_only=True), (TRACING, "bpf_probe_write_user"), "EFAULT", "EPERM"
    ),
    "perf_event_read": _spec(
        _proto(_MAP, _ANY, gpl_only=True),
        {BASE_PERFMON: "bpf_perf_event_read", TRACING: "bpf_perf_event_read"}, "EINVAL",
    ),
    "get_stackid": _spec(
        _proto(_CTX, _MAP, _ANY, gpl_only=True), (KPROBE, "bpf_get_stackid"), "EINVAL", "EEXIST", "EFAULT"
    ),
    "get_stack": _spec(
        _proto(_CTX, _OUT, _SIZE0, _ANY, gpl_only=True), (KPROBE, "bpf_get_stack"), "EINVAL", "EFAULT"
    ),
    "get_task_stack": _spec(
        _proto(_BTF, _OUT, _SIZE0, _ANY, gpl_only=True, arg_btf=("task_struct", "", "", "", "")),
        {BASE_PERFMON: "bpf_get_task_stack", TRACING: "bpf_get_task_stack"}, "EINVAL", "EFAULT",
    ),
    "get_current_task_btf": _spec(
        _proto(gpl_only=True, ret=RET_PTR_TO_BTF_ID | PTR_TRUSTED, ret_btf="task_struct"),
        {BASE_PERFMON: "bpf_get_current_task", TRACING: "bpf_get_current_task"},
    ),
    "task_pt_regs": _spec(
        _proto(
            _BTF, gpl_only=True, arg_btf=("task_struct", "", "", "", ""),
            ret=RET_PTR_TO_BTF_ID, ret_btf="pt_regs",
        ),
        {BASE_PERFMON: "bpf_task_pt_regs", TRACING: "bpf_task_pt_regs"},
    ),
    "current_task_under_cgroup": _spec(
        _proto(_MAP, _ANY),
        {BASE_PERFMON: "bpf_current_task_under_cgroup", TRACING: "bpf_current_task_under_cgroup"},
        "EINVAL", "EAGAIN",
    ),
    "get_current_cgroup_id": _spec(
        _proto(), {BASE_BPF: "bpf_get_current_cgroup_id", TRACING: "bpf_get_current_cgroup_id"}
    ),
    "get_current_ancestor_cgroup_id": _spec(
        _proto(_ANY),
        {BASE_BPF: "bpf_get_current_ancestor_cgroup_id", TRACING: "bpf_get_current_ancestor_cgroup_id"},
    ),
    # kernel variables
    "per_cpu_ptr": _spec(
        _proto(
            ARG_PTR_TO_PERCPU_BTF_ID, _ANY, ret=RET_PTR_TO_MEM_OR_BTF_ID | PTR_MAYBE_NULL | MEM_RDONLY
        ),
        {BASE_BPF: "bpf_per_cpu_ptr", TRACING: "bpf_per_cpu_ptr"},
    ),
    "this_cpu_ptr": _spec(
        _proto(ARG_PTR_TO_PERCPU_BTF_ID, ret=RET_PTR_TO_MEM_OR_BTF_ID | MEM_RDONLY),
        {BASE_BPF: "bpf_this_cpu_ptr", TRACING: "bpf_this_cpu_ptr"},
    ),
    # programs on kernel functions
    "get_func_arg": _spec(
        _proto(_CTX, _ANY, _LONG_OUT, arg_sizes=(0, 0, 8, 0, 0)), (FUNCTIONS, "get_func_arg"), "EINVAL"
    ),
    "get_func_ret": _spec(
        _proto(_CTX, _LONG_OUT, arg_sizes=(0, 8, 0, 0, 0)), (FUNCTIONS, "get_func_ret"), "EOPNOTSUPP"
    ),
    "get_func_arg_cnt": _spec(_proto(_CTX), (FUNCTIONS, "get_func_arg_cnt")),
    "d_path": _spec(
        _proto(_BTF, _OUT, _SIZE0, arg_btf=("path", "", "", "", "")), (FUNCTIONS, "bpf_d_path"), "EINVAL"
    ),
    "sock_from_file": _spec(
        _proto(
            _BTF, arg_btf=("file", "", "", "", ""), ret=RET_PTR_TO_BTF_ID | PTR_MAYBE_NULL, ret_btf="socket"
        ),
        (FUNCTIONS, "bpf_sock_from_file"),
    ),
    "skb_output": _spec(
        _proto(_BTF, _MAP, _ANY, _RO, _SIZE0, gpl_only=True, arg_btf=("sk_buff", "", "", "", "")),
        (FUNCTIONS, "bpf_skb_output"), "EINVAL", "E2BIG", "ENOENT", "EFAULT",
    ),
    "xdp_output": _spec(
        _proto(_BTF, _MAP, _ANY, _RO, _SIZE0, gpl_only=True, arg_btf=("xdp_buff", "", "", "", "")),
        (FUNCTIONS, "bpf_xdp_output"), "EINVAL", "E2BIG", "ENOENT", "EFAULT",
    ),
    # XDP
    "xdp_adjust_head": _spec(_proto(_CTX, _ANY), (XDP, "bpf_xdp_adjust_head"), "EINVAL", changes=True),
    "xdp_adjust_tail": _spec(_proto(_CTX, _ANY), (XDP, "bpf_xdp_adjust_tail"), "EINVAL", changes=True),
    "xdp_adjust_meta": _spec(
        _proto(_CTX, _ANY), (XDP, "bpf_xdp_adjust_meta"), "EINVAL", "EACCES", "ENOTSUPP", changes=True
    ),
    "xdp_get_buff_len": _spec(
        _proto(_CTX), {XDP: "bpf_xdp_get_buff_len", FUNCTIONS: "bpf_xdp_get_buff_len_trace"},
        protos={FUNCTIONS: _proto(_BTF, arg_btf=("xdp_buff", "", "", "", ""))},
    ),
    "xdp_load_bytes": _spec(_proto(_CTX, _ANY, _OUT, _SIZE), (XDP, "bpf_xdp_load_bytes"), "EINVAL", "EFAULT"),
    "xdp_store_bytes": _spec(
        _proto(_CTX, _ANY, _OUT, _SIZE), (XDP, "bpf_xdp_store_bytes"), "EINVAL", "EFAULT"
    ),
    "redirect": _spec(_proto(_ANY, _ANY), {XDP: "bpf_xdp_redirect", TC: "bpf_redirect"}),
    "redirect_map": _spec(_proto(_MAP, _ANY, _ANY), (XDP, "bpf_xdp_redirect_map")),
    # sk_buff
    "skb_load_bytes": _spec(
        _proto(_CTX, _ANY, _OUT, _SIZE), {SOCKET: "bpf_skb_load_bytes", TC: "bpf_skb_load_bytes"}, "EFAULT"
    ),
    "skb_load_bytes_relative": _spec(
        _proto(_CTX, _ANY, _OUT, _SIZE, _ANY),
        {SOCKET: "bpf_skb_load_bytes_relative", TC: "bpf_skb_load_bytes_relative"}, "EFAULT",
    ),
    "skb_store_bytes": _spec(
        _proto(_CTX, _ANY, _RO, _SIZE, _ANY), (TC, "bpf_skb_store_bytes"), "EINVAL", "EFAULT", changes=True
    ),
    "skb_pull_data": _spec(_proto(_CTX, _ANY), (TC, "bpf_skb_pull_data"), "ENOMEM", changes=True),
    "skb_change_tail": _spec(
        _proto(_CTX, _ANY, _ANY), (TC, "bpf_skb_change_tail"), "EINVAL", "ENOMEM", changes=True
    ),
    "skb_change_head": _spec(
        _proto(_CTX, _ANY, _ANY), (TC, "bpf_skb_change_head"), "EINVAL", "ENOMEM", changes=True
    ),
    "skb_change_type": _spec(_proto(_CTX, _ANY), (TC, "bpf_skb_change_type"), "EINVAL"),
    "skb_change_proto": _spec(
        _proto(_CTX, _ANY, _ANY), (TC, "bpf_skb_change_proto"), "EINVAL", "ENOTSUPP", changes=True
    ),
    "skb_vlan_push": _spec(_proto(_CTX, _ANY, _ANY), (TC, "bpf_skb_vlan_push"), "ENOMEM", changes=True),
    "skb_vlan_pop": _spec(_proto(_CTX), (TC, "bpf_skb_vlan_pop"), "ENOMEM", changes=True),
    "skb_adjust_room": _spec(
        _proto(_CTX, _ANY, _ANY, _ANY), (TC, "bpf_skb_adjust_room"), "EINVAL", "ENOTSUPP", changes=True
    ),
    "l3_csum_replace": _spec(
        _proto(_CTX, _ANY, _ANY, _ANY, _ANY), (TC, "bpf_l3_csum_replace"), "EINVAL", "EFAULT", changes=True
    ),
    "l4_csum_replace": _spec(
        _proto(_CTX, _ANY, _ANY, _ANY, _ANY), (TC, "bpf_l4_csum_replace"), "EINVAL", "EFAULT", changes=True
    ),
    "csum_update": _spec(_proto(_CTX, _ANY), (TC, "bpf_csum_update"), "ENOTSUPP"),
    "csum_level": _spec(_proto(_CTX, _ANY), (TC, "bpf_csum_level"), "EINVAL", "EACCES"),
    "csum_diff": _spec(
        _proto(_RO0, _SIZE0, _RO0, _SIZE0, _ANY, pkt_access=True),
        {XDP: "bpf_csum_diff", TC: "bpf_csum_diff"}, "EINVAL",
    ),
    "clone_redirect": _spec(
        _proto(_CTX, _ANY, _ANY), (TC, "bpf_clone_redirect"), "EINVAL", "ENOMEM", changes=True
    ),
    "redirect_neigh": _spec(
        _proto(_ANY, _RO0, _SIZE0, _ANY), (TC, "bpf_redirect_neigh")
    ),
    "redirect_peer": _spec(_proto(_ANY, _ANY), (TC, "bpf_redirect_peer")),
    "rc_repeat": _spec(_proto(_CTX, gpl_only=True), (LIRC, "bpf_rc_repeat")),
    "rc_keydown": _spec(_proto(_CTX, _ANY, _ANY, _ANY, gpl_only=True), (LIRC, "bpf_rc_keydown")),
    "rc_pointer_rel": _spec(_proto(_CTX, _ANY, _ANY, gpl_only=True), (LIRC, "bpf_rc_pointer_rel")),
    "skb_set_tunnel_key": _spec(_proto(_CTX, _RO, _SIZE, _ANY), (TC, "bpf_skb_set_tunnel_key"), "EINVAL"),
    "skb_get_tunnel_key": _spec(
        _proto(_CTX, _OUT, _SIZE, _ANY), (TC, "bpf_skb_get_tunnel_key"), "EINVAL", "EPROTO"
    ),
    "skb_set_tunnel_opt": _spec(_proto(_CTX, _RO, _SIZE), (TC, "bpf_skb_set_tunnel_opt"), "EINVAL", "ENOMEM"),
    "skb_get_tunnel_opt": _spec(
        _proto(_CTX, _OUT, _SIZE), (TC, "bpf_skb_get_tunnel_opt"), "ENOENT", "ENOMEM"
    ),
    "get_hash_recalc": _spec(_proto(_CTX), (TC, "bpf_get_hash_recalc")),
    "set_hash_invalid": _spec(_proto(_CTX), (TC, "bpf_set_hash_invalid")),
    "set_hash": _spec(_proto(_CTX, _ANY), (TC, "bpf_set_hash")),
    "get_cgroup_classid": _spec(
        _proto(_CTX), {TC: "bpf_get_cgroup_classid", BASE_BPF: "bpf_get_cgroup_classid_curr"},
        protos={BASE_BPF: _proto()},
    ),
    "check_mtu": _spec(
        _proto(
            _CTX, _ANY, ARG_PTR_TO_FIXED_SIZE_MEM | MEM_WRITE | MEM_ALIGNED, _ANY, _ANY, gpl_only=True,
            arg_sizes=(0, 0, 4, 0, 0),
        ),
        {TC: "bpf_skb_check_mtu", XDP: "bpf_xdp_check_mtu"}, "EINVAL", "ENODEV",
    ),
    "get_route_realm": _spec(_proto(_CTX), (TC, "bpf_get_route_realm")),
    "get_socket_cookie": _spec(
        _proto(_CTX), {SOCKET: "bpf_get_socket_cookie", TC: "bpf_get_socket_cookie"}
    ),
    "get_socket_uid": _spec(_proto(_CTX), {SOCKET: "bpf_get_socket_uid", TC: "bpf_get_socket_uid"}),
}  # fmt: skip


_LIRC_TOO: Final = {
    **dict.fromkeys(
        (
            "map_lookup_elem", "map_update_elem", "map_delete_elem", "map_push_elem", "map_pop_elem",
            "map_peek_elem", "ktime_get_ns", "ktime_get_boot_ns", "tail_call", "get_prandom_u32",
        ),
        (LIRC, BASE),
    ),
    "trace_printk": (LIRC_PERFMON, BASE_PERFMON),
}  # fmt: skip
"""Programs for infrared receivers have a list of their own instead of the base. What is in both: its group
for them, and the group whose function it is."""


def _groups(name: str, spec: _Spec) -> Mapping[str, str]:
    if name not in _LIRC_TOO:
        return spec.groups
    group, like = _LIRC_TOO[name]
    return {**spec.groups, group: spec.groups[like]}


def _rows() -> dict[int, HelperRow]:
    rows = {}
    starts = [first for first, _ in _SINCE]
    for member in bpf_func_id:
        number, name = int(member), member.name.removeprefix("BPF_FUNC_")
        if number == 0:
            continue
        since = _SINCE[bisect_right(starts, number) - 1][1]
        spec = _MODELLED.get(name)
        if spec is None:
            rows[number] = HelperRow(number, name, since, changes_packet=name in _ALSO_CHANGE)
        else:
            rows[number] = HelperRow(
                number,
                name,
                since,
                spec.proto,
                _groups(name, spec),
                spec.errors,
                spec.changes_packet,
                spec.protos,
            )
    return rows


_ALSO_CHANGE: Final = frozenset(
    (
        "msg_pull_data", "msg_push_data", "msg_pop_data", "lwt_push_encap", "lwt_seg6_store_bytes",
        "lwt_seg6_adjust_srh", "lwt_seg6_action", "store_hdr_opt",
    )
)  # fmt: skip
"""Helpers without a prototype here that move packet data all the same."""

HELPERS: Final[dict[int, HelperRow]] = _rows()
"""Every helper by number."""
BY_NAME: Final = {row.name: row for row in HELPERS.values()}


def changes_packet_data(func_id: int) -> bool:
    """Whether packet pointers are stale after a call of this helper."""
    row = HELPERS.get(func_id)
    return row is not None and row.changes_packet


def group_of(row: HelperRow, prog_type: ProgType) -> str | None:
    """The group through which a program type reaches a helper; None when it may not call it."""
    for group in prog_type.helper_groups:
        if group in row.symbols:
            return group
    return None


def proto_for(row: HelperRow, prog_type: ProgType) -> HelperProto | None:
    """The prototype under which a program type may call a helper; None when it may not."""
    group = group_of(row, prog_type)
    if group is None:
        return None
    return row.protos.get(group, row.proto)


def symbol_for(row: HelperRow, prog_type: ProgType) -> str:
    """The kernel function behind a helper for a program type; KeyError when it may not call it."""
    group = group_of(row, prog_type)
    if group is None:
        raise KeyError(row.name)
    return row.symbols[group]


def num_params(proto: HelperProto) -> int:
    """How many leading arguments the verifier looks at."""
    return proto.args.index(p.ARG_DONTCARE) if p.ARG_DONTCARE in proto.args else len(proto.args)


def returns_void(proto: HelperProto) -> bool:
    """The helper leaves nothing in R0."""
    return proto.ret == RET_VOID
