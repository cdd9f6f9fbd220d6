# SPDX-License-Identifier: GPL-2.0-only
"""Maps against a dict: system calls, programs' helpers in the emulated CPU, and CPU switches, interleaved.

Every operation is made through one of two doors, Python (the system call's side) or the helper's symbol
in kernel text (the program's side), and must answer what the model answers.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import pytest
from emulated import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.maps.attr import NO_PREALLOC, ZERO_SEED, MapAttr
from kernel_model.maps.base import BpfMap
from kernel_model.maps.types import create

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 5, 6
NR_CPUS = 2
LIMITS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Model:
    """What a map is, as a dict; values are one a CPU for per-CPU maps, else one."""

    attr: MapAttr
    values: dict[bytes, list[bytes]] = field(default_factory=dict)

    @property
    def percpu(self) -> bool:
        return self.attr.map_type in (PERCPU_HASH, PERCPU_ARRAY)

    @property
    def is_array(self) -> bool:
        return self.attr.map_type in (ARRAY, PERCPU_ARRAY)

    def get(self, key: bytes) -> list[bytes] | None:
        if self.is_array:
            if int.from_bytes(key, "little") >= self.attr.max_entries:
                return None
            return self.values.setdefault(key, [bytes(self.attr.value_size)] * NR_CPUS)
        return self.values.get(key)

    def update(self, key: bytes, flags: int, values: dict[int, bytes]) -> int:
        """Set the values of some CPUs; 0 or the errno."""
        if flags > 2:
            return errno.EINVAL
        old = self.get(key)
        if self.is_array:
            if old is None:
                return errno.E2BIG
            if flags == 1:
                return errno.EEXIST
        else:
            if old is not None and flags == 1:
                return errno.EEXIST
            if old is None and flags == 2:
                return errno.ENOENT
            if old is None and len(self.values) >= self.attr.max_entries:
                return errno.E2BIG
        base = old or [bytes(self.attr.value_size)] * NR_CPUS
        self.values[key] = [values.get(cpu, base[cpu]) for cpu in range(NR_CPUS)]
        return 0

    def delete(self, key: bytes) -> int:
        if self.is_array:
            return errno.EINVAL
        return 0 if self.values.pop(key, None) is not None else errno.ENOENT


@dataclass
class Doors:
    """A map, reached through Python or through kernel text."""

    world: World
    made: BpfMap
    model: Model

    def __post_init__(self) -> None:
        self.key = self.world.buffer(bytes(self.made.key_size))
        self.value = self.world.buffer(bytes(self.made.value_size))

    def _result(self, action: str, *args: object) -> int:
        try:
            getattr(self.made, action)(self.world, *args)
        except KernelError as error:
            return error.errno
        return 0

    def lookup(self, by_program: bool, key: bytes) -> None:
        expected = self.model.get(key)
        size = self.made.value_size
        if by_program:
            self.world.memory.write(self.key, key)
            at = self.world.run("bpf_map_lookup_elem", self.made.addr, self.key)
            found = self.world.memory.read(at, size) if at else None
            mine = self.world.this_cpu if self.model.percpu else 0
            assert found == (expected[mine] if expected is not None else None)
            assert at == self.made.lookup_elem(self.world, key, self.world.this_cpu)
        else:
            found = self.made.lookup(self.world, key)
            if expected is None:
                assert found is None
            elif self.model.percpu:
                step = -(-size // 8) * 8
                assert found is not None and len(found) == step * NR_CPUS
                assert [found[cpu * step :][:size] for cpu in range(NR_CPUS)] == expected
            else:
                assert found == expected[0]

    def update(self, by_program: bool, key: bytes, value: bytes, flags: int) -> None:
        if by_program:
            self.world.memory.write(self.key, key)
            self.world.memory.write(self.value, value)
            got = -self.world.run_signed("bpf_map_update_elem", self.made.addr, self.key, self.value, flags)
            cpus = [self.world.this_cpu] if self.model.percpu else [0]
        elif self.model.percpu:
            whole = b"".join(value.ljust(-(-len(value) // 8) * 8, b"\0") for _ in range(NR_CPUS))
            got = self._result("update", key, whole, flags)
            cpus = list(range(NR_CPUS))
        else:
            got = self._result("update", key, value, flags)
            cpus = [0]
        assert got == self.model.update(key, flags, dict.fromkeys(cpus, value))

    def delete(self, by_program: bool, key: bytes) -> None:
        if by_program:
            self.world.memory.write(self.key, key)
            got = -self.world.run_signed("bpf_map_delete_elem", self.made.addr, self.key)
        else:
            got = self._result("delete", key)
        assert got == self.model.delete(key)

    def walk(self) -> None:
        """get_next_key visits every key once, whichever key it starts from afterwards."""
        seen, key = [], None
        while True:
            try:
                key = self.made.get_next_key(self.world, key)
            except KernelError as error:
                assert error.errno == errno.ENOENT
                break
            seen.append(key)
            assert len(seen) <= self.model.attr.max_entries
        if self.model.is_array:
            assert seen == [i.to_bytes(4, "little") for i in range(self.model.attr.max_entries)]
        else:
            assert len(seen) == len(set(seen)) and set(seen) == set(self.model.values)


@st.composite
def attributes(draw: st.DrawFn, map_type: int) -> MapAttr:
    is_array = map_type in (ARRAY, PERCPU_ARRAY)
    flags = 0
    if not is_array:
        flags |= draw(st.sampled_from([0, NO_PREALLOC])) | draw(st.sampled_from([0, ZERO_SEED]))
    return MapAttr(
        map_type,
        key_size=4 if is_array else draw(st.integers(1, 40)),
        value_size=draw(st.integers(1, 40)),
        max_entries=draw(st.integers(1, 9)),
        map_flags=flags,
    )


@pytest.mark.parametrize("map_type", [HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY])
@LIMITS
@given(data=st.data())
def test_against_a_dict(map_type: int, data: st.DataObject) -> None:
    world = World(NR_CPUS, seed=data.draw(st.integers(0, 3), label="seed"))
    before = world.alloc.snapshot()
    attr = data.draw(attributes(map_type), label="attr")
    made = world.register(create(world, attr))
    doors = Doors(world, made, Model(attr))
    numbers = st.integers(0, attr.max_entries + 2)
    for _ in range(data.draw(st.integers(1, 60), label="operations")):
        action = data.draw(st.sampled_from(["lookup", "update", "update", "delete", "walk", "switch"]))
        if action == "switch":
            world.this_cpu = data.draw(st.integers(0, NR_CPUS - 1))
            continue
        if action == "walk":
            doors.walk()
            continue
        by_program = data.draw(st.booleans())
        # Keys differ in their last byte, so that comparing a prefix alone would be noticed.
        number = data.draw(numbers)
        key = number.to_bytes(4, "little") if doors.model.is_array else number.to_bytes(attr.key_size, "big")
        if action == "lookup":
            doors.lookup(by_program, key)
        elif action == "update":
            value = data.draw(st.binary(min_size=attr.value_size, max_size=attr.value_size))
            doors.update(by_program, key, value, data.draw(st.sampled_from([0, 0, 0, 1, 2, 3, 8, 1 << 40])))
        else:
            doors.delete(by_program, key)
    doors.walk()
    made.free(world)
    for buffer in (doors.key, doors.value):
        world.alloc.kfree(buffer)
    # The ops structure is the kernel's, not the map's.
    ops = world.text.symbol(made.OPS)
    ram, percpu = world.alloc.snapshot()
    assert ({k: v for k, v in ram.items() if k != ops}, percpu) == before


@pytest.mark.parametrize("map_type", [HASH, PERCPU_HASH])
@pytest.mark.parametrize("flags", [0, NO_PREALLOC])
def test_updates_and_deletions_are_machine_code(map_type: int, flags: int) -> None:
    """No trap but the refills of a map that has nothing preallocated."""
    world = World(NR_CPUS)
    made = world.register(create(world, MapAttr(map_type, 4, 8, 20, flags)))
    key, value = world.buffer(bytes(4)), world.buffer(bytes(8))
    for number in range(22):
        world.memory.put_u32(key, number)
        expected = -errno.E2BIG if number >= 20 else 0
        assert world.run_signed("bpf_map_update_elem", made.addr, key, value, 0) == expected
    for number in range(20):
        world.memory.put_u32(key, number)
        assert world.run("bpf_map_update_elem", made.addr, key, value, 2) == 0
        assert world.run("bpf_map_delete_elem", made.addr, key) == 0
    assert set(world.traps) == ({"bpf_mem_refill"} if flags else set())


def test_a_deleted_element_stays_memory_of_its_map() -> None:
    """A program that holds a value may go on reading it, however many elements go meanwhile."""
    world = World(1)
    made = world.register(create(world, MapAttr(HASH, 4, 1024, 300, NO_PREALLOC)))
    keys = [number.to_bytes(4, "little") for number in range(300)]
    for key in keys:
        made.update_elem(world, key, key * 256, 0)
    buffer = world.buffer(keys[7])
    held = world.run("bpf_map_lookup_elem", made.addr, buffer)
    world.depth = 1
    for key in keys:
        made.delete(world, key)
    assert world.memory.read(held, 1024) == keys[7] * 256
    live = len(world.alloc.ram.used)
    # The program has ended; the next change gives back what the allocator holds beyond its watermark.
    world.depth = 0
    made.update_elem(world, keys[0], bytes(1024), 0)
    made.delete(world, keys[0])
    assert len(world.alloc.ram.used) < live - 250


@pytest.mark.campaign
@pytest.mark.parametrize("map_type", [HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY])
def test_campaign(map_type: int) -> None:
    """The same with thousands of operations."""
    inner = test_against_a_dict.hypothesis.inner_test  # type: ignore[attr-defined]
    settings(max_examples=1000, deadline=None)(given(data=st.data())(lambda data: inner(map_type, data)))()
