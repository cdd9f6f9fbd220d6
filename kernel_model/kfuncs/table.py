# SPDX-License-Identifier: GPL-2.0-only
"""The kfunc table: prototype, flags and program types of the kernel functions that programs may call.

The prototypes become FUNC and FUNC_PROTO of the kernel's own BTF; the suffixes of parameter names (``__sz``,
``__szk``, ``__k``, ``__ign``, ``__uninit``, ``__opt``, ``__nullable``, ``__irq_flag``) tell the verifier what
an argument must be (Documentation/bpf/kfuncs.rst). Flags and program types are what Linux keeps in its
BTF_ID_FLAGS() sets. Each function is the kernel-text symbol of its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import Final


class KF(Flag):
    """KF_* of include/linux/btf.h, as far as a row has them."""

    NONE = 0
    ACQUIRE = auto()
    RELEASE = auto()
    RET_NULL = auto()
    TRUSTED_ARGS = auto()
    SLEEPABLE = auto()
    RCU_PROTECTED = auto()
    FASTCALL = auto()
    ITER_NEW = auto()
    ITER_NEXT = auto()
    ITER_DESTROY = auto()


EVERY: Final = ("*",)
"""Functions that all program types have (Linux's common_btf_ids)."""
_SKB: Final = ("socket_filter", "sched_cls", "sched_act", "cgroup_skb", "lwt_in", "lwt_out", "lwt_xmit")


@dataclass(frozen=True)
class Kfunc:
    """A row: C types in text; ``types`` are names of program types, or EVERY."""

    name: str
    returns: str
    params: tuple[tuple[str, str], ...] = ()
    flags: KF = KF.NONE
    types: tuple[str, ...] = EVERY
    since: str = ""

    def allows(self, prog_type: str) -> bool:
        """Whether programs of that type may call it."""
        return self.types is EVERY or prog_type in self.types


def _row(
    since: str, returns: str, name: str, params: str = "", flags: KF = KF.NONE, types: tuple[str, ...] = EVERY
) -> Kfunc:
    pairs = []
    for text in params.split(", ") if params else []:
        head, _, last = text.rpartition(" ")
        stars = len(last) - len(last.lstrip("*"))
        pairs.append((last[stars:], f"{head} {'*' * stars}".strip()))
    return Kfunc(name, returns, tuple(pairs), flags, types, since)


_P: Final = "const struct bpf_dynptr *p"
_S: Final = "const char *s__ign"
_TWO: Final = "const char *s1__ign, const char *s2__ign"
_SLICE: Final = f"{_P}, u32 offset, void *buffer__opt, u32 buffer__szk"
_FLAGS: Final = "long unsigned int *flags__irq_flag"
_IT: Final = "struct bpf_iter_num *it"

ROWS: Final[tuple[Kfunc, ...]] = (
    _row("6.2", "void *", "bpf_cast_to_kern_ctx", "void *obj", KF.FASTCALL),
    _row("6.2", "void *", "bpf_rdonly_cast", "const void *obj__ign, u32 btf_id__k", KF.FASTCALL),
    _row("6.2", "void", "bpf_rcu_read_lock"),
    _row("6.2", "void", "bpf_rcu_read_unlock"),
    _row("6.10", "void", "bpf_preempt_disable"),
    _row("6.10", "void", "bpf_preempt_enable"),
    _row("6.14", "void", "bpf_local_irq_save", _FLAGS),
    _row("6.14", "void", "bpf_local_irq_restore", _FLAGS),
    _row("6.4", "int", "bpf_iter_num_new", f"{_IT}, int start, int end", KF.ITER_NEW),
    _row("6.4", "int *", "bpf_iter_num_next", _IT, KF.ITER_NEXT | KF.RET_NULL),
    _row("6.4", "void", "bpf_iter_num_destroy", _IT, KF.ITER_DESTROY),
    _row("6.4", "void *", "bpf_dynptr_slice", _SLICE, KF.RET_NULL),
    _row("6.4", "void *", "bpf_dynptr_slice_rdwr", _SLICE, KF.RET_NULL),
    _row("6.5", "int", "bpf_dynptr_adjust", f"{_P}, u32 start, u32 end"),
    _row("6.5", "bool", "bpf_dynptr_is_null", _P),
    _row("6.5", "bool", "bpf_dynptr_is_rdonly", _P),
    _row("6.5", "u32", "bpf_dynptr_size", _P),
    _row("6.5", "int", "bpf_dynptr_clone", f"{_P}, struct bpf_dynptr *clone__uninit"),
    _row(
        "6.16", "int", "bpf_dynptr_copy",
        "struct bpf_dynptr *dst_ptr, u32 dst_off, struct bpf_dynptr *src_ptr, u32 src_off, u32 size",
    ),
    _row("6.18", "int", "bpf_dynptr_memset", "struct bpf_dynptr *p, u32 offset, u32 size, u8 val"),
    _row(
        "6.4", "int", "bpf_dynptr_from_skb", "struct __sk_buff *s, u64 flags, struct bpf_dynptr *ptr__uninit",
        KF.TRUSTED_ARGS, _SKB,
    ),
    _row(
        "6.4", "int", "bpf_dynptr_from_xdp", "struct xdp_md *x, u64 flags, struct bpf_dynptr *ptr__uninit",
        types=("xdp",),
    ),
    _row("6.17", "int", "bpf_strcmp", _TWO),
    _row("6.18", "int", "bpf_strcasecmp", _TWO),
    _row("6.17", "int", "bpf_strchr", f"{_S}, char c"),
    _row("6.17", "int", "bpf_strnchr", f"{_S}, size_t count, char c"),
    _row("6.17", "int", "bpf_strchrnul", f"{_S}, char c"),
    _row("6.17", "int", "bpf_strrchr", f"{_S}, int c"),
    _row("6.17", "int", "bpf_strlen", _S),
    _row("6.17", "int", "bpf_strnlen", f"{_S}, size_t count"),
    _row("6.17", "int", "bpf_strspn", f"{_S}, const char *accept__ign"),
    _row("6.17", "int", "bpf_strcspn", f"{_S}, const char *reject__ign"),
    _row("6.17", "int", "bpf_strstr", _TWO),
    _row("6.17", "int", "bpf_strnstr", f"{_TWO}, size_t len"),
)  # fmt: skip

KFUNCS: Final[dict[str, Kfunc]] = {row.name: row for row in ROWS}
"""Every modelled kfunc by name."""

CASTS: Final = ("bpf_cast_to_kern_ctx", "bpf_rdonly_cast")
"""Calls that the verifier replaces by a move."""

_OTHERS: Final = """
    __bpf_trap bbr_cwnd_event bbr_init bbr_main bbr_min_tso_segs bbr_set_state bbr_sndbuf_expand
    bbr_ssthresh bbr_undo_cwnd bpf_arena_alloc_pages bpf_arena_free_pages bpf_arena_reserve_pages
    bpf_cgroup_acquire bpf_cgroup_ancestor bpf_cgroup_from_id bpf_cgroup_read_xattr
    bpf_cgroup_release bpf_copy_from_user_dynptr bpf_copy_from_user_str
    bpf_copy_from_user_str_dynptr bpf_copy_from_user_task_dynptr bpf_copy_from_user_task_str
    bpf_copy_from_user_task_str_dynptr bpf_cpumask_acquire bpf_cpumask_and
    bpf_cpumask_any_and_distribute bpf_cpumask_any_distribute bpf_cpumask_clear
    bpf_cpumask_clear_cpu bpf_cpumask_copy bpf_cpumask_create bpf_cpumask_empty bpf_cpumask_equal
    bpf_cpumask_first bpf_cpumask_first_and bpf_cpumask_first_zero bpf_cpumask_full
    bpf_cpumask_intersects bpf_cpumask_or bpf_cpumask_populate bpf_cpumask_release
    bpf_cpumask_set_cpu bpf_cpumask_setall bpf_cpumask_subset bpf_cpumask_test_and_clear_cpu
    bpf_cpumask_test_and_set_cpu bpf_cpumask_test_cpu bpf_cpumask_weight bpf_cpumask_xor
    bpf_crypto_ctx_acquire bpf_crypto_ctx_create bpf_crypto_ctx_release bpf_crypto_decrypt
    bpf_crypto_encrypt bpf_ct_change_status bpf_ct_change_timeout bpf_ct_insert_entry bpf_ct_release
    bpf_ct_set_nat_info bpf_ct_set_status bpf_ct_set_timeout bpf_dynptr_from_skb_meta
    bpf_fentry_test1 bpf_get_dentry_xattr bpf_get_file_xattr bpf_get_kmem_cache
    bpf_get_task_exe_file bpf_iter_bits_destroy bpf_iter_bits_new bpf_iter_bits_next
    bpf_iter_css_destroy bpf_iter_css_new bpf_iter_css_next bpf_iter_css_task_destroy
    bpf_iter_css_task_new bpf_iter_css_task_next bpf_iter_dmabuf_destroy bpf_iter_dmabuf_new
    bpf_iter_dmabuf_next bpf_iter_kmem_cache_destroy bpf_iter_kmem_cache_new
    bpf_iter_kmem_cache_next bpf_iter_task_destroy bpf_iter_task_new bpf_iter_task_next
    bpf_iter_task_vma_destroy bpf_iter_task_vma_new bpf_iter_task_vma_next bpf_key_put
    bpf_kfunc_call_memb_release bpf_kfunc_call_test_release bpf_list_back bpf_list_front
    bpf_list_pop_back bpf_list_pop_front bpf_list_push_back_impl bpf_list_push_front_impl
    bpf_lookup_system_key bpf_lookup_user_key bpf_map_sum_elem_count bpf_modify_return_test
    bpf_modify_return_test2 bpf_modify_return_test_tp bpf_obj_drop_impl bpf_obj_new_impl
    bpf_path_d_path bpf_percpu_obj_drop_impl bpf_percpu_obj_new_impl bpf_probe_read_kernel_dynptr
    bpf_probe_read_kernel_str_dynptr bpf_probe_read_user_dynptr bpf_probe_read_user_str_dynptr
    bpf_put_file bpf_rbtree_add_impl bpf_rbtree_first bpf_rbtree_left bpf_rbtree_remove
    bpf_rbtree_right bpf_rbtree_root bpf_refcount_acquire_impl bpf_remove_dentry_xattr
    bpf_res_spin_lock bpf_res_spin_lock_irqsave bpf_res_spin_unlock bpf_res_spin_unlock_irqrestore
    bpf_send_signal_task bpf_session_cookie bpf_session_is_return bpf_set_dentry_xattr
    bpf_sk_assign_tcp_reqsk bpf_skb_ct_alloc bpf_skb_ct_lookup bpf_sock_addr_set_sun_path
    bpf_sock_destroy bpf_sock_ops_enable_tx_tstamp bpf_stream_vprintk_impl bpf_task_acquire
    bpf_task_from_pid bpf_task_from_vpid bpf_task_get_cgroup1 bpf_task_release bpf_task_under_cgroup
    bpf_task_work_schedule_resume_impl bpf_task_work_schedule_signal_impl bpf_throw bpf_wq_init
    bpf_wq_set_callback_impl bpf_wq_start bpf_xdp_ct_alloc bpf_xdp_ct_lookup bpf_xdp_get_xfrm_state
    bpf_xdp_metadata_rx_hash bpf_xdp_metadata_rx_timestamp bpf_xdp_metadata_rx_vlan_tag
    bpf_xdp_pull_data bpf_xdp_xfrm_state_release css_rstat_flush css_rstat_updated cubictcp_acked
    cubictcp_cong_avoid cubictcp_cwnd_event cubictcp_init cubictcp_recalc_ssthresh cubictcp_state
    tcp_cong_avoid_ai tcp_reno_cong_avoid tcp_reno_ssthresh tcp_reno_undo_cwnd tcp_slow_start
"""
OTHERS: Final = tuple(_OTHERS.split())
"""The other kfuncs in 6.18's BTF (a kernel with the common network and tracing options)."""
