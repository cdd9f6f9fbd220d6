# SPDX-License-Identifier: GPL-2.0-only
"""LRU maps with several CPUs: what they hold is right, whatever they evict, and no element is ever lost."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from emulated import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.maps.attr import NO_COMMON_LRU, MapAttr
from kernel_model.maps.base import per_cpu_ptr
from kernel_model.maps.lru_hash import LruHtabMap, LruPercpuHtabMap
from kernel_model.maps.lru_list import ACTIVE, FREE, INACTIVE, LOCAL_FREE, LOCAL_PENDING
from kernel_model.maps.types import create

LRU_HASH, LRU_PERCPU_HASH = 9, 10
LIMITS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LruMap = LruHtabMap | LruPercpuHtabMap


def chain(world: World, head: int) -> list[int]:
    """A list's nodes, each of which points back to the one before it."""
    nodes, at = [head], world.memory.u64(head)
    while at != head:
        nodes.append(at)
        at = world.memory.u64(at)
    for before, node in pairwise([*nodes, head]):
        assert world.memory.u64(node + 8) == before
    return nodes[1:]


def check_lists(world: World, made: LruMap) -> None:
    """Every element is on one list, of the kind that it says; the counts are those of the lists."""
    lru, memory, cpus = made._lists, world.memory, range(world.alloc.nr_cpus)
    seen: list[int] = []
    for lists in [per_cpu_ptr(world, lru.percpu, cpu) for cpu in cpus] if lru.percpu else [lru.common]:
        for kind in (ACTIVE, INACTIVE, FREE):
            nodes = chain(world, lists + 16 * kind)
            assert all(memory.u8(node + lru.o_type) == kind for node in nodes)
            if kind != FREE:
                assert memory.u32(lists + lru.o_counts + 4 * kind) == len(nodes)
            seen += nodes
    for local in [per_cpu_ptr(world, lru.local, cpu) for cpu in cpus] if lru.local else []:
        pending = chain(world, local)
        assert all(memory.u8(node + lru.o_type) == LOCAL_PENDING for node in pending)
        at, stock = memory.u64(local + lru.o_free), []
        while at:
            assert memory.u8(at + lru.o_type) == LOCAL_FREE
            stock.append(at)
            at = memory.u64(at)
        seen += [*pending, *stock]
    assert len(seen) == len(set(seen)) == made.max_entries
    table = {elem + made._o_node for elem in made.elements(world)}
    assert table == {node for node in seen if memory.u8(node + lru.o_type) not in (FREE, LOCAL_FREE)}


@pytest.mark.parametrize("map_type", [LRU_HASH, LRU_PERCPU_HASH])
@pytest.mark.parametrize("flags", [0, NO_COMMON_LRU])
@LIMITS
@given(data=st.data(), cpus=st.integers(1, 3), entries=st.integers(1, 30), value_size=st.integers(1, 17))
def test_against_a_dict(
    map_type: int, flags: int, data: st.DataObject, cpus: int, entries: int, value_size: int
) -> None:
    world = World(cpus)
    before = world.alloc.snapshot()
    made = create(world, MapAttr(map_type, 4, value_size, entries, flags))
    assert isinstance(made, LruMap)
    world.register(made)
    assert made.max_entries == (-(-entries // cpus) * cpus if flags else entries)
    model: dict[int, bytes] = {}
    key_at, value_at = world.buffer(bytes(4)), world.buffer(bytes(value_size))
    for step in range(data.draw(st.integers(1, 80))):
        world.this_cpu = data.draw(st.integers(0, cpus - 1))
        number = data.draw(st.integers(0, 2 * entries))
        action = data.draw(st.sampled_from(["lookup", "lookup", "update", "update", "update", "delete"]))
        world.memory.put_u32(key_at, number)
        key = number.to_bytes(4, "little")
        if action == "lookup":
            world.traps.clear()
            at = world.run("bpf_map_lookup_elem", made.addr, key_at)
            assert not world.traps
            assert bool(at) == (made.lookup(world, key) is not None)
            if at:
                elem = made.find(world, key)
                assert world.memory.u8(elem + made._o_ref) == 1
                if map_type == LRU_HASH:
                    assert world.memory.read(at, value_size) == model[number]
                else:
                    assert world.memory.read(at, value_size) in (model[number], bytes(value_size))
        elif action == "update":
            value = bytes((step + i + 1) & 0xFF for i in range(value_size))
            world.memory.write(value_at, value)
            assert world.run_signed("bpf_map_update_elem", made.addr, key_at, value_at, 0) == 0
            model[number] = value
            at = made.lookup_elem(world, key, world.this_cpu)
            assert world.memory.read(at, value_size) == value
            if map_type == LRU_PERCPU_HASH:
                # One value everywhere, so that any CPU can be asked.
                whole = value.ljust(-(-value_size // 8) * 8, b"\0") * cpus
                made.update(world, key, whole, 0)
        else:
            held = made.lookup(world, key) is not None
            got = world.run_signed("bpf_map_delete_elem", made.addr, key_at)
            assert got == (0 if held else -errno.ENOENT)
            model.pop(number, None)
    check_lists(world, made)
    made.free(world)
    for buffer in (key_at, value_at):
        world.alloc.kfree(buffer)
    ops = world.text.symbol(made.OPS)
    ram, percpu = world.alloc.snapshot()
    assert ({at: size for at, size in ram.items() if at != ops}, percpu) == before


@pytest.mark.parametrize("map_type", [LRU_HASH, LRU_PERCPU_HASH])
def test_only_refills_trap(map_type: int) -> None:
    """An update finds a free element in the CPU's stock, but for one in as many as a refill brings."""
    world = World(1)
    made = world.register(create(world, MapAttr(map_type, 4, 8, 256)))
    key, value = world.buffer(bytes(4)), world.buffer(bytes(8))
    for number in range(512):
        world.memory.put_u32(key, number)
        assert world.run("bpf_map_update_elem", made.addr, key, value, 0) == 0
        assert world.run("bpf_map_update_elem", made.addr, key, value, 0) == 0
    assert len(world.traps) <= 2 * 512 // 128
    world.traps.clear()
    for number in range(512):
        world.memory.put_u32(key, number)
        world.run("bpf_map_delete_elem", made.addr, key)
    assert not world.traps and not list(made.elements(world))  # type: ignore[attr-defined]


def test_what_is_used_stays() -> None:
    """Elements that programs look up outlive those that they do not."""
    world = World(1)
    made = world.register(create(world, MapAttr(LRU_HASH, 4, 4, 64)))
    key = world.buffer(bytes(4))
    for number in range(64):
        made.update(world, number.to_bytes(4, "little"), bytes(4), 0)
    for fresh in range(64, 94):
        for used in (3, 17, 40):
            world.memory.put_u32(key, used)
            assert world.run("bpf_map_lookup_elem", made.addr, key)
        made.update(world, fresh.to_bytes(4, "little"), bytes(4), 0)
    assert made.lookup(world, bytes(4)) is None


def test_a_refused_update_costs_an_element_all_the_same() -> None:
    """Room is made before the flags are looked at."""
    world = World(1)
    made = create(world, MapAttr(LRU_HASH, 4, 4, 1))
    made.update(world, bytes(4), bytes(4), 0)
    with pytest.raises(KernelError) as refused:
        made.update(world, b"\1\0\0\0", bytes(4), 2)
    assert refused.value.errno == errno.ENOENT
    assert made.lookup(world, bytes(4)) is None
