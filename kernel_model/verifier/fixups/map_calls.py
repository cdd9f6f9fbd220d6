# SPDX-License-Identifier: GPL-2.0-only
"""Calls of map helpers on a map known at load time: inlined lookups, and direct calls of the map's own code.

Only for programs that are compiled, as in Linux. Inlining: arrays since 4.10, hash tables since 4.12,
per-CPU maps since 6.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU32_IMM,
    BPF_ALU64_IMM,
    BPF_ALU64_REG,
    BPF_JMP_A,
    BPF_JMP_IMM,
    BPF_LDX_MEM,
    BPF_MOV64_IMM,
    BPF_MOV64_PERCPU_REG,
    BPF_ST_MEM,
)
from kernel_model.maps.ops import MAP_OPS
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_map_type as m

from ..api import MapView
from ..env import Env
from .patch import s32

BPF_F_INNER_MAP: Final = 1 << 12

MAP_MEMBER: Final[dict[int, str]] = {
    f.BPF_FUNC_map_lookup_elem: "map_lookup_elem",
    f.BPF_FUNC_map_update_elem: "map_update_elem",
    f.BPF_FUNC_map_delete_elem: "map_delete_elem",
    f.BPF_FUNC_map_push_elem: "map_push_elem",
    f.BPF_FUNC_map_pop_elem: "map_pop_elem",
    f.BPF_FUNC_map_peek_elem: "map_peek_elem",
    f.BPF_FUNC_redirect_map: "map_redirect",
    f.BPF_FUNC_for_each_map_elem: "map_for_each_callback",
    f.BPF_FUNC_map_lookup_percpu_elem: "map_lookup_percpu_elem",
}
"""Helpers that become a call of a member of struct bpf_map_ops."""

OPS_NAME: Final[dict[int, str]] = {
    m.BPF_MAP_TYPE_ARRAY: "array_map_ops",
    m.BPF_MAP_TYPE_PERCPU_ARRAY: "percpu_array_map_ops",
    m.BPF_MAP_TYPE_PROG_ARRAY: "prog_array_map_ops",
    m.BPF_MAP_TYPE_PERF_EVENT_ARRAY: "perf_event_array_map_ops",
    m.BPF_MAP_TYPE_CGROUP_ARRAY: "cgroup_array_map_ops",
    m.BPF_MAP_TYPE_HASH: "htab_map_ops",
    m.BPF_MAP_TYPE_PERCPU_HASH: "htab_percpu_map_ops",
    m.BPF_MAP_TYPE_LRU_HASH: "htab_lru_map_ops",
    m.BPF_MAP_TYPE_LRU_PERCPU_HASH: "htab_lru_percpu_map_ops",
    m.BPF_MAP_TYPE_LPM_TRIE: "trie_map_ops",
    m.BPF_MAP_TYPE_DEVMAP: "dev_map_ops",
    m.BPF_MAP_TYPE_DEVMAP_HASH: "dev_map_hash_ops",
    m.BPF_MAP_TYPE_BLOOM_FILTER: "bloom_filter_map_ops",
    m.BPF_MAP_TYPE_QUEUE: "queue_map_ops",
    m.BPF_MAP_TYPE_STACK: "stack_map_ops",
}
"""The table of operations of each map type."""


def call(env: Env, symbol: str) -> Insn:
    """A call of a kernel function by its symbol; KeyError when the kernel has none."""
    base = env.kernel.symbol("__bpf_call_base")
    return Insn(op.CALL, 0, 0, 0, s32(env.kernel.symbol(symbol) - base))


def index_mask(the_map: MapView) -> int:
    """bpf_array.index_mask: what keeps an index inside even where a CPU guessed past the comparison."""
    return (1 << (the_map.max_entries - 1).bit_length()) - 1


def _index(the_map: MapView, to_none: int) -> list[Insn]:
    """R0 = the index that R2 points to; past the end goes ``to_none`` slots on."""
    load = BPF_LDX_MEM(op.BPF_W, 0, 2, 0)
    if the_map.bypass_spec_v1:
        return [load, BPF_JMP_IMM(op.BPF_JGE, 0, the_map.max_entries, to_none)]
    mask = BPF_ALU32_IMM(op.BPF_AND, 0, s32(index_mask(the_map)))
    return [load, BPF_JMP_IMM(op.BPF_JGE, 0, the_map.max_entries, to_none + 1), mask]


def _array(env: Env, the_map: MapView) -> list[Insn]:
    size = -(-the_map.value_size // 8) * 8
    if size & (size - 1):
        scale = BPF_ALU64_IMM(op.BPF_MUL, 0, size)
    else:
        scale = BPF_ALU64_IMM(op.BPF_LSH, 0, size.bit_length() - 1)
    return [
        BPF_ALU64_IMM(op.BPF_ADD, 1, env.kernel.layout.offset("bpf_array.value")),
        *_index(the_map, 3),
        scale,
        BPF_ALU64_REG(op.BPF_ADD, 0, 1),
        BPF_JMP_A(1),
        BPF_MOV64_IMM(0, 0),
    ]


def _percpu_array(env: Env, the_map: MapView) -> list[Insn]:
    return [
        BPF_ALU64_IMM(op.BPF_ADD, 1, env.kernel.layout.offset("bpf_array.pptrs")),
        *_index(the_map, 5),
        BPF_ALU64_IMM(op.BPF_LSH, 0, 3),
        BPF_ALU64_REG(op.BPF_ADD, 0, 1),
        BPF_LDX_MEM(op.BPF_DW, 0, 0, 0),
        BPF_MOV64_PERCPU_REG(0, 0),
        BPF_JMP_A(1),
        BPF_MOV64_IMM(0, 0),
    ]


def _htab_value(env: Env, the_map: MapView) -> Insn:
    key = env.kernel.layout.offset("htab_elem.key")
    return BPF_ALU64_IMM(op.BPF_ADD, 0, key + -(-the_map.key_size // 8) * 8)


def _htab(env: Env, the_map: MapView) -> list[Insn]:
    found = call(env, "__htab_map_lookup_elem")
    return [found, BPF_JMP_IMM(op.BPF_JEQ, 0, 0, 1), _htab_value(env, the_map)]


def _percpu_htab(env: Env, the_map: MapView) -> list[Insn]:
    return [
        call(env, "__htab_map_lookup_elem"),
        BPF_JMP_IMM(op.BPF_JEQ, 0, 0, 3),
        _htab_value(env, the_map),
        BPF_LDX_MEM(op.BPF_DW, 0, 0, 0),
        BPF_MOV64_PERCPU_REG(0, 0),
    ]


def _lru(env: Env, the_map: MapView) -> list[Insn]:
    """A hit also marks the element as used."""
    ref = env.kernel.layout.offset("htab_elem.lru_node") + env.kernel.layout.offset("bpf_lru_node.ref")
    return [
        call(env, "__htab_map_lookup_elem"),
        BPF_JMP_IMM(op.BPF_JEQ, 0, 0, 4),
        BPF_LDX_MEM(op.BPF_B, 1, 0, ref),
        BPF_JMP_IMM(op.BPF_JNE, 1, 0, 1),
        BPF_ST_MEM(op.BPF_B, 0, ref, 1),
        _htab_value(env, the_map),
    ]


def _array_of_maps(env: Env, the_map: MapView) -> list[Insn]:
    """Elements are pointers to maps; an empty slot is no map."""
    return [
        BPF_ALU64_IMM(op.BPF_ADD, 1, env.kernel.layout.offset("bpf_array.value")),
        *_index(the_map, 5),
        BPF_ALU64_IMM(op.BPF_LSH, 0, 3),
        BPF_ALU64_REG(op.BPF_ADD, 0, 1),
        BPF_LDX_MEM(op.BPF_DW, 0, 0, 0),
        BPF_JMP_IMM(op.BPF_JEQ, 0, 0, 1),
        BPF_JMP_A(1),
        BPF_MOV64_IMM(0, 0),
    ]


def _htab_of_maps(env: Env, the_map: MapView) -> list[Insn]:
    return [
        call(env, "__htab_map_lookup_elem"),
        BPF_JMP_IMM(op.BPF_JEQ, 0, 0, 2),
        _htab_value(env, the_map),
        BPF_LDX_MEM(op.BPF_DW, 0, 0, 0),
    ]


_LOOKUPS: Final[dict[int, Callable[[Env, MapView], list[Insn]]]] = {
    m.BPF_MAP_TYPE_ARRAY: _array,
    m.BPF_MAP_TYPE_PERCPU_ARRAY: _percpu_array,
    m.BPF_MAP_TYPE_HASH: _htab,
    m.BPF_MAP_TYPE_PERCPU_HASH: _percpu_htab,
    m.BPF_MAP_TYPE_LRU_HASH: _lru,
    m.BPF_MAP_TYPE_ARRAY_OF_MAPS: _array_of_maps,
    m.BPF_MAP_TYPE_HASH_OF_MAPS: _htab_of_maps,
}
"""Map types whose lookup is inlined (map_gen_lookup of struct bpf_map_ops)."""
_NOT_AS_INNER: Final = (m.BPF_MAP_TYPE_ARRAY, m.BPF_MAP_TYPE_PERCPU_ARRAY)


def map_call(env: Env, insn: Insn, the_map: MapView) -> list[Insn] | None:
    """What replaces the call; None when the ordinary helper stays (the kernel lacks the map's own code)."""
    lookup = _LOOKUPS.get(the_map.map_type) if insn.imm == f.BPF_FUNC_map_lookup_elem else None
    if lookup and not (the_map.map_type in _NOT_AS_INNER and the_map.map_flags & BPF_F_INNER_MAP):
        try:
            return lookup(env, the_map)
        except KeyError:
            return None
    symbol = MAP_OPS.get(OPS_NAME.get(the_map.map_type, ""), {}).get(MAP_MEMBER[insn.imm])
    if symbol is None:
        return None
    try:
        return [call(env, symbol)]
    except KeyError:
        return None
