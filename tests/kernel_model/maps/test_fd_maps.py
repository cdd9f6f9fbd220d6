# SPDX-License-Identifier: GPL-2.0-only
"""Maps whose elements are kernel objects: program arrays, arrays and hash maps of maps."""

from __future__ import annotations

import errno
import pickle

import pytest
from emulated import World

from kernel_model.errors import KernelError, NotModelled
from kernel_model.maps.array import FdArrayMap, ProgArrayMap
from kernel_model.maps.attr import CAP_BPF, CAP_NET_ADMIN, INNER_MAP, MMAPABLE, Creator, MapAttr
from kernel_model.maps.base import ENOTSUPP, BpfMap
from kernel_model.maps.map_in_map import ArrayOfMaps, HashOfMaps
from kernel_model.maps.types import MAP_TYPES, create


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def errno_of(action: object, *args: object, **rest: object) -> int:
    with pytest.raises(KernelError) as caught:
        action(*args, **rest)  # type: ignore[operator]
    return caught.value.errno


def prog(world: World, number: int) -> int:
    """A struct bpf_prog with an id, as lookups by system call see it."""
    aux = world.alloc.kmalloc(world.layout["bpf_prog_aux"].size)
    world.memory.put_u32(aux + world.layout["bpf_prog_aux"].offset("id"), number)
    at = world.alloc.kmalloc(world.layout["bpf_prog"].size)
    world.memory.put_u64(at + world.layout["bpf_prog"].offset("aux"), aux)
    return at


def test_prog_array(world: World) -> None:
    made = world.register(create(world, MapAttr(3, 4, 4, 3)))
    assert isinstance(made, ProgArrayMap)
    one, two = prog(world, 7), prog(world, 9)
    assert made.lookup(world, key(1)) is None
    assert made.update_ptr(world, key(1), one) == 0
    assert made.lookup(world, key(1)) == key(7)
    assert made.update_ptr(world, key(1), two) == one
    assert made.pointers(world) == {1: two}
    # The slot is where machine code of tail calls looks.
    slot = made.addr + world.layout["bpf_array"].offset("ptrs") + 8
    assert world.memory.u64(slot) == two
    assert errno_of(made.check_update_ptr, key(1), 1) == errno.EINVAL
    assert errno_of(made.check_update_ptr, key(3), 0) == errno.E2BIG
    assert errno_of(made.update_ptr, world, key(3), one) == errno.E2BIG
    assert errno_of(made.delete, world, key(0)) == errno.ENOENT
    assert errno_of(made.delete, world, key(3)) == errno.E2BIG
    at = world.buffer(key(1))
    assert world.run_signed("bpf_map_lookup_elem", made.addr, at) == -errno.EOPNOTSUPP
    assert made.lookup_elem(world, key(1), 0) == -errno.EOPNOTSUPP & (1 << 64) - 1
    made.delete(world, key(1))
    made.update_ptr(world, key(2), one)
    assert made.clear(world) == {2: one} and made.pointers(world) == {}


def test_perf_event_arrays_cannot_be_read(world: World) -> None:
    made = create(world, MapAttr(4, 4, 4, 2))
    assert isinstance(made, FdArrayMap)
    assert errno_of(made.lookup, world, key(0)) == ENOTSUPP


@pytest.fixture
def inner(world: World) -> BpfMap:
    made = create(world, MapAttr(1, 4, 8, 4))
    made.set_id(world, 33)
    return made


def test_array_of_maps(world: World, inner: BpfMap) -> None:
    made = create(world, MapAttr(12, 4, 4, 2, inner=inner))
    assert isinstance(made, ArrayOfMaps) and made.inner_map_meta is not None
    assert made.inner_map_meta.equals(inner)
    at = world.buffer(key(1))
    assert world.run("bpf_map_lookup_elem", made.addr, at) == 0
    made.update_ptr(world, key(1), inner.addr)
    assert world.run("bpf_map_lookup_elem", made.addr, at) == inner.addr == made.lookup_elem(world, key(1), 0)
    assert made.lookup(world, key(1)) == key(33)
    world.memory.write(at, key(2))
    assert world.run("bpf_map_lookup_elem", made.addr, at) == 0
    assert not world.traps


@pytest.mark.parametrize("flags", [0, 1])
def test_hash_of_maps(world: World, inner: BpfMap, flags: int) -> None:
    made = create(world, MapAttr(13, 4, 4, 2, flags, inner=inner))
    assert isinstance(made, HashOfMaps)
    at = world.buffer(key(5))
    assert world.run("bpf_map_lookup_elem", made.addr, at) == 0
    assert errno_of(made.update_ptr, world, key(5), inner.addr, 2) == errno.ENOENT
    assert made.update_ptr(world, key(5), inner.addr) == 0
    assert errno_of(made.update_ptr, world, key(5), inner.addr, 1) == errno.EEXIST
    assert made.update_ptr(world, key(5), inner.addr) == inner.addr
    assert world.run("bpf_map_lookup_elem", made.addr, at) == inner.addr
    assert made.lookup(world, key(5)) == key(33)
    made.update_ptr(world, key(6), inner.addr)
    assert errno_of(made.update_ptr, world, key(7), inner.addr) == errno.E2BIG
    made.delete(world, key(6))
    assert made.clear(world) == {key(5): inner.addr}
    made.free(world)


def test_inner_maps_must_suit(world: World, inner: BpfMap) -> None:
    outer = create(world, MapAttr(12, 4, 4, 2, inner=inner))
    assert errno_of(create, world, MapAttr(12, 4, 4, 2)) == errno.EINVAL
    assert errno_of(create, world, MapAttr(12, 4, 4, 2, inner=outer)) == errno.EINVAL
    assert errno_of(create, world, MapAttr(13, 4, 4, 2, inner=create(world, MapAttr(3, 4, 4, 2)))) == ENOTSUPP
    meta = outer.inner_map_meta
    assert meta is not None
    assert meta.equals(create(world, MapAttr(1, 4, 8, 99)))
    for other in (MapAttr(1, 8, 8, 4), MapAttr(1, 4, 4, 4), MapAttr(5, 4, 8, 4), MapAttr(1, 4, 8, 4, 1)):
        assert not meta.equals(create(world, other))
    array = create(world, MapAttr(12, 4, 4, 2, inner=create(world, MapAttr(2, 4, 8, 4))))
    assert array.inner_map_meta is not None
    assert not array.inner_map_meta.equals(create(world, MapAttr(2, 4, 8, 5)))
    loose = create(world, MapAttr(12, 4, 4, 2, inner=create(world, MapAttr(2, 4, 8, 4, INNER_MAP))))
    assert loose.inner_map_meta is not None
    assert loose.inner_map_meta.equals(create(world, MapAttr(2, 4, 8, 5, INNER_MAP)))


def test_every_type_has_a_row_and_what_lacks_a_class_says_so(world: World) -> None:
    assert sorted(MAP_TYPES) == list(range(1, 34))
    missing = [row for row in MAP_TYPES.values() if row.cls is None]
    for row in missing:
        with pytest.raises(NotModelled) as caught:
            create(world, MapAttr(row.number, 4, 4, 4))
        assert caught.value.feature == f"map type {row.name}" and caught.value.errno == errno.EINVAL


def test_rights(world: World) -> None:
    nobody, bpf = Creator(frozenset()), Creator(frozenset({CAP_BPF, CAP_NET_ADMIN}), 2)
    assert errno_of(create, world, MapAttr(2, 4, 4, 4), Creator(frozenset(), 2)) == errno.EPERM
    assert errno_of(create, world, MapAttr(22, 0, 4, 4), nobody) == errno.EPERM
    assert errno_of(create, world, MapAttr(1, 4, 4, 4, 1 << 6), bpf) == errno.EPERM
    create(world, MapAttr(22, 0, 4, 4), bpf)
    array = create(world, MapAttr(2, 4, 4, 5), nobody)
    # Without CAP_PERFMON the index is masked against speculation, so the array is a power of two.
    assert not array.bypass_spec_v1
    assert create(world, MapAttr(2, 4, 4, 5)).bypass_spec_v1


def test_mmapable_values_have_pages_of_their_own(world: World) -> None:
    made = create(world, MapAttr(2, 4, 12, 1, MMAPABLE))
    assert made.value_addr(0) % 4096 == 0 and made.value_addr(5) == made.value_addr(0) + 5
    assert made.mmap_pages(0, 1, writable=True) == [made.value_addr(0)]
    assert errno_of(made.mmap_pages, 1, 1, True) == errno.EINVAL
    assert errno_of(made.value_addr, 12) == errno.EINVAL
    assert errno_of(create(world, MapAttr(2, 4, 4, 2)).value_addr, 0) == ENOTSUPP
    before = world.alloc.snapshot()
    create(world, MapAttr(2, 4, 12, 1, MMAPABLE)).free(world)
    assert world.alloc.snapshot() == before


def test_struct_bpf_map_in_memory(world: World) -> None:
    made = create(world, MapAttr(1, 5, 6, 7, 1 | 8, map_name=b"flows\0"))
    made.set_id(world, 12)
    made.freeze(world)
    fields = world.layout["bpf_map"]
    numbers = {"map_type": 1, "key_size": 5, "value_size": 6, "max_entries": 7, "map_flags": 1, "id": 12}
    for name, value in numbers.items():
        assert world.memory.u32(made.addr + fields.offset(name)) == value
    assert world.memory.read(made.addr + fields.offset("name"), 16) == b"flows".ljust(16, b"\0")
    assert world.memory.u8(made.addr + fields.offset("frozen")) == 1
    assert errno_of(made.freeze, world) == errno.EBUSY


@pytest.mark.parametrize("map_type", [1, 2, 3, 5, 6, 22])
def test_maps_are_plain_data(world: World, map_type: int) -> None:
    attr = MapAttr(map_type, 0 if map_type == 22 else 4, 4, 4)
    made = create(world, attr)
    again = pickle.loads(pickle.dumps(made))
    assert again.__dict__ == made.__dict__


def test_out_of_memory_leaves_nothing_behind(world: World) -> None:
    create(world, MapAttr(1, 4, 4, 4)).free(world)
    create(world, MapAttr(6, 4, 4, 4)).free(world)
    before = world.alloc.snapshot()
    for attr in (MapAttr(2, 4, 4096, 1 << 20), MapAttr(1, 4, 4096, 1 << 18), MapAttr(6, 4, 32768, 64)):
        assert errno_of(create, world, attr) == errno.ENOMEM
    assert world.alloc.snapshot() == before
