# SPDX-License-Identifier: GPL-2.0-only
"""Which helpers take which maps, and which programs may use which maps (6.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.uapi.enums import MapFlags
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_map_type as m

from .api import MapView
from .env import Env, func_id_name

# Plain numbers: combining members of an IntFlag is slow, and every map access looks at these.
BPF_F_RDONLY_PROG: Final = int(MapFlags.BPF_F_RDONLY_PROG)
BPF_F_WRONLY_PROG: Final = int(MapFlags.BPF_F_WRONLY_PROG)

_STORAGE_XCHG: Final = f.BPF_FUNC_kptr_xchg

MAP_ALLOWS: Final[dict[int, frozenset[int]]] = {
    m.BPF_MAP_TYPE_PROG_ARRAY: frozenset((f.BPF_FUNC_tail_call,)),
    m.BPF_MAP_TYPE_PERF_EVENT_ARRAY: frozenset(
        (
            f.BPF_FUNC_perf_event_read, f.BPF_FUNC_perf_event_output, f.BPF_FUNC_skb_output,
            f.BPF_FUNC_perf_event_read_value, f.BPF_FUNC_xdp_output,
        )
    ),
    m.BPF_MAP_TYPE_RINGBUF: frozenset(
        (
            f.BPF_FUNC_ringbuf_output, f.BPF_FUNC_ringbuf_reserve, f.BPF_FUNC_ringbuf_query,
            f.BPF_FUNC_ringbuf_reserve_dynptr, f.BPF_FUNC_ringbuf_submit_dynptr,
            f.BPF_FUNC_ringbuf_discard_dynptr,
        )
    ),
    m.BPF_MAP_TYPE_USER_RINGBUF: frozenset((f.BPF_FUNC_user_ringbuf_drain,)),
    m.BPF_MAP_TYPE_STACK_TRACE: frozenset((f.BPF_FUNC_get_stackid,)),
    m.BPF_MAP_TYPE_CGROUP_ARRAY: frozenset(
        (f.BPF_FUNC_skb_under_cgroup, f.BPF_FUNC_current_task_under_cgroup)
    ),
    m.BPF_MAP_TYPE_CGROUP_STORAGE: frozenset((f.BPF_FUNC_get_local_storage,)),
    m.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE: frozenset((f.BPF_FUNC_get_local_storage,)),
    m.BPF_MAP_TYPE_DEVMAP: frozenset((f.BPF_FUNC_redirect_map, f.BPF_FUNC_map_lookup_elem)),
    m.BPF_MAP_TYPE_DEVMAP_HASH: frozenset((f.BPF_FUNC_redirect_map, f.BPF_FUNC_map_lookup_elem)),
    m.BPF_MAP_TYPE_CPUMAP: frozenset((f.BPF_FUNC_redirect_map,)),
    m.BPF_MAP_TYPE_XSKMAP: frozenset((f.BPF_FUNC_redirect_map, f.BPF_FUNC_map_lookup_elem)),
    m.BPF_MAP_TYPE_ARRAY_OF_MAPS: frozenset((f.BPF_FUNC_map_lookup_elem,)),
    m.BPF_MAP_TYPE_HASH_OF_MAPS: frozenset((f.BPF_FUNC_map_lookup_elem,)),
    m.BPF_MAP_TYPE_SOCKMAP: frozenset(
        (
            f.BPF_FUNC_sk_redirect_map, f.BPF_FUNC_sock_map_update, f.BPF_FUNC_msg_redirect_map,
            f.BPF_FUNC_sk_select_reuseport, f.BPF_FUNC_map_lookup_elem, f.BPF_FUNC_map_update_elem,
            f.BPF_FUNC_map_delete_elem,
        )
    ),
    m.BPF_MAP_TYPE_SOCKHASH: frozenset(
        (
            f.BPF_FUNC_sk_redirect_hash, f.BPF_FUNC_sock_hash_update, f.BPF_FUNC_msg_redirect_hash,
            f.BPF_FUNC_sk_select_reuseport, f.BPF_FUNC_map_lookup_elem, f.BPF_FUNC_map_update_elem,
            f.BPF_FUNC_map_delete_elem,
        )
    ),
    m.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: frozenset((f.BPF_FUNC_sk_select_reuseport,)),
    m.BPF_MAP_TYPE_QUEUE: frozenset(
        (f.BPF_FUNC_map_peek_elem, f.BPF_FUNC_map_pop_elem, f.BPF_FUNC_map_push_elem)
    ),
    m.BPF_MAP_TYPE_STACK: frozenset(
        (f.BPF_FUNC_map_peek_elem, f.BPF_FUNC_map_pop_elem, f.BPF_FUNC_map_push_elem)
    ),
    m.BPF_MAP_TYPE_SK_STORAGE: frozenset(
        (f.BPF_FUNC_sk_storage_get, f.BPF_FUNC_sk_storage_delete, _STORAGE_XCHG)
    ),
    m.BPF_MAP_TYPE_INODE_STORAGE: frozenset(
        (f.BPF_FUNC_inode_storage_get, f.BPF_FUNC_inode_storage_delete, _STORAGE_XCHG)
    ),
    m.BPF_MAP_TYPE_TASK_STORAGE: frozenset(
        (f.BPF_FUNC_task_storage_get, f.BPF_FUNC_task_storage_delete, _STORAGE_XCHG)
    ),
    m.BPF_MAP_TYPE_CGRP_STORAGE: frozenset(
        (f.BPF_FUNC_cgrp_storage_get, f.BPF_FUNC_cgrp_storage_delete, _STORAGE_XCHG)
    ),
    m.BPF_MAP_TYPE_BLOOM_FILTER: frozenset((f.BPF_FUNC_map_peek_elem, f.BPF_FUNC_map_push_elem)),
}  # fmt: skip
"""The only helpers that a special map may be given to; maps not listed go anywhere."""


def _takes(types: tuple[m, ...], *helpers: f) -> dict[int, frozenset[int]]:
    return {int(helper): frozenset(types) for helper in helpers}


HELPER_TAKES: Final[dict[int, frozenset[int]]] = {
    **_takes((m.BPF_MAP_TYPE_PROG_ARRAY,), f.BPF_FUNC_tail_call),
    **_takes(
        (m.BPF_MAP_TYPE_PERF_EVENT_ARRAY,), f.BPF_FUNC_perf_event_read, f.BPF_FUNC_perf_event_output,
        f.BPF_FUNC_perf_event_read_value, f.BPF_FUNC_skb_output, f.BPF_FUNC_xdp_output,
    ),
    **_takes(
        (m.BPF_MAP_TYPE_RINGBUF,), f.BPF_FUNC_ringbuf_output, f.BPF_FUNC_ringbuf_reserve,
        f.BPF_FUNC_ringbuf_query, f.BPF_FUNC_ringbuf_reserve_dynptr, f.BPF_FUNC_ringbuf_submit_dynptr,
        f.BPF_FUNC_ringbuf_discard_dynptr,
    ),
    **_takes((m.BPF_MAP_TYPE_USER_RINGBUF,), f.BPF_FUNC_user_ringbuf_drain),
    **_takes((m.BPF_MAP_TYPE_STACK_TRACE,), f.BPF_FUNC_get_stackid),
    **_takes(
        (m.BPF_MAP_TYPE_CGROUP_ARRAY,), f.BPF_FUNC_current_task_under_cgroup, f.BPF_FUNC_skb_under_cgroup
    ),
    **_takes(
        (m.BPF_MAP_TYPE_DEVMAP, m.BPF_MAP_TYPE_DEVMAP_HASH, m.BPF_MAP_TYPE_CPUMAP, m.BPF_MAP_TYPE_XSKMAP),
        f.BPF_FUNC_redirect_map,
    ),
    **_takes(
        (m.BPF_MAP_TYPE_SOCKMAP,), f.BPF_FUNC_sk_redirect_map, f.BPF_FUNC_msg_redirect_map,
        f.BPF_FUNC_sock_map_update,
    ),
    **_takes(
        (m.BPF_MAP_TYPE_SOCKHASH,), f.BPF_FUNC_sk_redirect_hash, f.BPF_FUNC_msg_redirect_hash,
        f.BPF_FUNC_sock_hash_update,
    ),
    **_takes(
        (m.BPF_MAP_TYPE_CGROUP_STORAGE, m.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE), f.BPF_FUNC_get_local_storage
    ),
    **_takes(
        (m.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, m.BPF_MAP_TYPE_SOCKMAP, m.BPF_MAP_TYPE_SOCKHASH),
        f.BPF_FUNC_sk_select_reuseport,
    ),
    **_takes((m.BPF_MAP_TYPE_QUEUE, m.BPF_MAP_TYPE_STACK), f.BPF_FUNC_map_pop_elem),
    **_takes(
        (m.BPF_MAP_TYPE_QUEUE, m.BPF_MAP_TYPE_STACK, m.BPF_MAP_TYPE_BLOOM_FILTER),
        f.BPF_FUNC_map_peek_elem, f.BPF_FUNC_map_push_elem,
    ),
    **_takes(
        (m.BPF_MAP_TYPE_PERCPU_ARRAY, m.BPF_MAP_TYPE_PERCPU_HASH, m.BPF_MAP_TYPE_LRU_PERCPU_HASH),
        f.BPF_FUNC_map_lookup_percpu_elem,
    ),
    **_takes((m.BPF_MAP_TYPE_SK_STORAGE,), f.BPF_FUNC_sk_storage_get, f.BPF_FUNC_sk_storage_delete),
    **_takes((m.BPF_MAP_TYPE_INODE_STORAGE,), f.BPF_FUNC_inode_storage_get, f.BPF_FUNC_inode_storage_delete),
    **_takes((m.BPF_MAP_TYPE_TASK_STORAGE,), f.BPF_FUNC_task_storage_get, f.BPF_FUNC_task_storage_delete),
    **_takes((m.BPF_MAP_TYPE_CGRP_STORAGE,), f.BPF_FUNC_cgrp_storage_get, f.BPF_FUNC_cgrp_storage_delete),
}  # fmt: skip
"""The only maps that a special helper takes; helpers not listed take any."""

ELIDES_NULL: Final = frozenset((m.BPF_MAP_TYPE_ARRAY, m.BPF_MAP_TYPE_PERCPU_ARRAY))
"""Maps in which a lookup with a known index inside the bounds always succeeds (since 6.14)."""
FOR_EACH: Final = frozenset(
    (
        m.BPF_MAP_TYPE_ARRAY, m.BPF_MAP_TYPE_HASH, m.BPF_MAP_TYPE_PERCPU_ARRAY, m.BPF_MAP_TYPE_PERCPU_HASH,
        m.BPF_MAP_TYPE_LRU_HASH, m.BPF_MAP_TYPE_LRU_PERCPU_HASH,
    )
)  # fmt: skip
"""Maps whose elements bpf_for_each_map_elem() walks."""
SLEEPABLE_MAPS: Final = frozenset(
    (
        m.BPF_MAP_TYPE_HASH, m.BPF_MAP_TYPE_LRU_HASH, m.BPF_MAP_TYPE_ARRAY, m.BPF_MAP_TYPE_PERCPU_HASH,
        m.BPF_MAP_TYPE_PERCPU_ARRAY, m.BPF_MAP_TYPE_LRU_PERCPU_HASH, m.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        m.BPF_MAP_TYPE_HASH_OF_MAPS, m.BPF_MAP_TYPE_RINGBUF, m.BPF_MAP_TYPE_USER_RINGBUF,
        m.BPF_MAP_TYPE_INODE_STORAGE, m.BPF_MAP_TYPE_SK_STORAGE, m.BPF_MAP_TYPE_TASK_STORAGE,
        m.BPF_MAP_TYPE_CGRP_STORAGE, m.BPF_MAP_TYPE_QUEUE, m.BPF_MAP_TYPE_STACK, m.BPF_MAP_TYPE_ARENA,
    )
)  # fmt: skip


def check_map_and_helper(env: Env, the_map: MapView | None, func_id: int) -> None:
    """Refuse a map in the hands of a helper that cannot use it."""
    if the_map is None:
        return
    allowed = MAP_ALLOWS.get(the_map.map_type)
    takes = HELPER_TAKES.get(func_id)
    if (allowed is not None and func_id not in allowed) or (
        takes is not None and the_map.map_type not in takes
    ):
        raise env.reject(
            errno.EINVAL,
            f"cannot pass map_type {int(the_map.map_type)} into func {func_id_name(func_id)}#{func_id}\n",
        )
    if func_id == f.BPF_FUNC_tail_call and env.subprog_cnt > 1 and not env.kernel.jit:
        raise env.reject(
            errno.EINVAL, "tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls\n"
        )
