# SPDX-License-Identifier: GPL-2.0-only
"""``struct bpf_map_ops`` in kernel memory: one for each map type, filled with addresses of kernel text.

The helpers' machine code jumps through these pointers. A member that a row leaves out is NULL, as in
Linux's own tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..ports import Services

_FOR_EACH_ARRAY: Final = {"map_for_each_callback": "bpf_for_each_array_elem"}
_FOR_EACH_HASH: Final = {"map_for_each_callback": "bpf_for_each_hash_elem"}
_HTAB: Final = {**_FOR_EACH_HASH, "map_delete_elem": "htab_map_delete_elem"}
_LRU: Final = {**_FOR_EACH_HASH, "map_delete_elem": "htab_lru_map_delete_elem"}
_FD_ARRAY: Final = {
    "map_lookup_elem": "fd_array_map_lookup_elem",
    "map_delete_elem": "fd_array_map_delete_elem",
}
_QUEUE_STACK: Final = {
    "map_lookup_elem": "queue_stack_map_lookup_elem",
    "map_update_elem": "queue_stack_map_update_elem",
    "map_delete_elem": "queue_stack_map_delete_elem",
    "map_push_elem": "queue_stack_map_push_elem",
}

MAP_OPS: Final[Mapping[str, Mapping[str, str]]] = {
    "array_map_ops": {
        **_FOR_EACH_ARRAY,
        "map_lookup_elem": "array_map_lookup_elem",
        "map_update_elem": "array_map_update_elem",
        "map_delete_elem": "array_map_delete_elem",
    },
    "percpu_array_map_ops": {
        **_FOR_EACH_ARRAY,
        "map_lookup_elem": "percpu_array_map_lookup_elem",
        "map_update_elem": "array_map_update_elem",
        "map_delete_elem": "array_map_delete_elem",
        "map_lookup_percpu_elem": "percpu_array_map_lookup_percpu_elem",
    },
    "prog_array_map_ops": _FD_ARRAY,
    "perf_event_array_map_ops": _FD_ARRAY,
    "cgroup_array_map_ops": _FD_ARRAY,
    "array_of_maps_map_ops": {
        "map_lookup_elem": "array_of_map_lookup_elem",
        "map_delete_elem": "fd_array_map_delete_elem",
    },
    "htab_map_ops": {
        **_HTAB,
        "map_lookup_elem": "htab_map_lookup_elem",
        "map_update_elem": "htab_map_update_elem",
    },
    "htab_percpu_map_ops": {
        **_HTAB,
        "map_lookup_elem": "htab_percpu_map_lookup_elem",
        "map_update_elem": "htab_percpu_map_update_elem",
        "map_lookup_percpu_elem": "htab_percpu_map_lookup_percpu_elem",
    },
    "htab_lru_map_ops": {
        **_LRU,
        "map_lookup_elem": "htab_lru_map_lookup_elem",
        "map_update_elem": "htab_lru_map_update_elem",
    },
    "htab_lru_percpu_map_ops": {
        **_LRU,
        "map_lookup_elem": "htab_lru_percpu_map_lookup_elem",
        "map_update_elem": "htab_lru_percpu_map_update_elem",
        "map_lookup_percpu_elem": "htab_lru_percpu_map_lookup_percpu_elem",
    },
    "htab_of_maps_map_ops": {
        "map_lookup_elem": "htab_of_map_lookup_elem",
        "map_delete_elem": "htab_map_delete_elem",
    },
    "trie_map_ops": {
        "map_lookup_elem": "trie_lookup_elem",
        "map_update_elem": "trie_update_elem",
        "map_delete_elem": "trie_delete_elem",
    },
    "ringbuf_map_ops": {
        "map_lookup_elem": "ringbuf_map_lookup_elem",
        "map_update_elem": "ringbuf_map_update_elem",
        "map_delete_elem": "ringbuf_map_delete_elem",
    },
    "bloom_filter_map_ops": {
        "map_lookup_elem": "bloom_map_lookup_elem",
        "map_update_elem": "bloom_map_update_elem",
        "map_delete_elem": "bloom_map_delete_elem",
        "map_push_elem": "bloom_map_push_elem",
        "map_pop_elem": "bloom_map_pop_elem",
        "map_peek_elem": "bloom_map_peek_elem",
    },
    "dev_map_ops": {
        "map_lookup_elem": "dev_map_lookup_elem",
        "map_redirect": "dev_map_redirect",
    },
    "dev_map_hash_ops": {
        "map_lookup_elem": "dev_map_hash_lookup_elem",
        "map_redirect": "dev_hash_map_redirect",
    },
    "queue_map_ops": {
        **_QUEUE_STACK,
        "map_pop_elem": "queue_map_pop_elem",
        "map_peek_elem": "queue_map_peek_elem",
    },
    "stack_map_ops": {
        **_QUEUE_STACK,
        "map_pop_elem": "stack_map_pop_elem",
        "map_peek_elem": "stack_map_peek_elem",
    },
}


def ops_address(services: Services, name: str) -> int:
    """The address of the ops structure ``name``, a kernel symbol; it is built when first asked for."""
    try:
        return services.text.symbol(name)
    except KeyError:
        pass
    layout = services.layout["bpf_map_ops"]
    addr = services.alloc.kmalloc(layout.size)
    for member, symbol in MAP_OPS[name].items():
        services.memory.put_u64(addr + layout.offset(member), services.text.symbol(symbol))
    services.text.add_symbol(name, addr, layout.size)
    return addr
