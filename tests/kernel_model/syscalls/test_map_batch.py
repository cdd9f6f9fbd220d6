# SPDX-License-Identifier: GPL-2.0-only
"""Batch commands beside the host's: the same calls on both, every count, errno, key and value the same."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.uapi.bpf_attr import command as row_of
from kernel_model.uapi.bpf_attr import pack
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH, LPM_TRIE, HASH_OF_MAPS = (
    *(1, 2, 5, 6),
    *(9, 10, 11, 13),
)
QUEUE, RINGBUF, PROG_ARRAY = 22, 27, 3
ZERO_SEED, NO_PREALLOC = 0x40, 1
PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
CPUS = os.sysconf("SC_NPROCESSORS_CONF")
SIZE = 8
UNTOUCHED = 0xAA


class Kind(NamedTuple):
    map_type: int
    key_size: int
    entries: int
    flags: int = 0


KINDS = [
    *(Kind(map_type, 4, 24, ZERO_SEED) for map_type in (HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH)),
    Kind(HASH, 4, 24, ZERO_SEED | NO_PREALLOC),
    Kind(ARRAY, 4, 24),
    Kind(PERCPU_ARRAY, 4, 24),
    Kind(LPM_TRIE, 8, 24, NO_PREALLOC),
    Kind(QUEUE, 0, 24),
    Kind(PROG_ARRAY, 4, 24),
]


class Answer(NamedTuple):
    errno: int
    count: int
    keys: bytes
    values: bytes
    out: bytes


class Side:
    """A map of one kernel, and batches on it."""

    def __init__(self, bpf: Bpf, kind: Kind) -> None:
        self.bpf, self.kind = bpf, kind
        value = 4 if kind.map_type == PROG_ARRAY else SIZE
        self.value_size = value * CPUS if kind.map_type in PERCPU else value
        self.fd = bpf.map_create(kind.map_type, kind.key_size, value, kind.entries, map_flags=kind.flags)

    def put(self, data: bytes) -> int:
        at = self.bpf.process.alloc(max(len(data), 1))
        self.bpf.process.write(at, data)
        return at

    def batch(
        self,
        command: str,
        count: int,
        keys: bytes = b"",
        values: bytes = b"",
        start: bytes | None = None,
        **more: int,
    ) -> Answer:
        """One batch command; what it left in memory that it did not write stays 0xAA."""
        fill = bytes([UNTOUCHED])
        key_room, value_room = count * self.kind.key_size, count * self.value_size
        keys_at = self.put(keys.ljust(key_room, fill))
        values_at = self.put(values.ljust(value_room, fill))
        out = self.put(fill * 8)
        attr = self.put(bytes(168))
        fields = {"in_batch": self.put(start) if start is not None else 0, "out_batch": out}
        fields |= {"keys": keys_at, "values": values_at, "count": count, "map_fd": self.fd}
        data = pack(command, **(fields | more))
        self.bpf.process.write(attr, data)
        result = self.bpf.process.syscall(321, row_of(command).number, attr, len(data))
        record = row_of(command).record
        after = record.unpack(self.bpf.process.read(attr, len(data)))["count"]
        read = self.bpf.process.read
        return Answer(result, after, read(keys_at, key_room), read(values_at, value_room), read(out, 8))

    def update(self, key: bytes, value: bytes) -> int:
        try:
            self.bpf.map_update(self.fd, key, value)
        except SyscallError as error:
            return error.errno or 0
        return 0


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot(cpus=CPUS) as booted:
        yield booted


def key_of(kind: Kind, rng: random.Random) -> bytes:
    if kind.map_type == LPM_TRIE:
        return rng.randrange(33).to_bytes(4, "little") + bytes([10, rng.randrange(2), rng.randrange(3), 0])
    return rng.randrange(kind.entries + 3).to_bytes(4, "little")[: kind.key_size]


@host_kernel
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_beside_the_host(machine: Machine, kind: Kind) -> None:
    """Random batches of all four commands, flags that are refused among them."""
    rng = random.Random(kind.map_type)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    sides = Side(Bpf(machine.process()), kind), Side(Bpf(HostProcess()), kind)
    start: bytes | None = None
    for _ in range(150):
        command = rng.choice(
            [
                *("MAP_UPDATE_BATCH", "MAP_UPDATE_BATCH", "MAP_LOOKUP_BATCH", "MAP_LOOKUP_BATCH"),
                *("MAP_DELETE_BATCH", "MAP_LOOKUP_AND_DELETE_BATCH"),
            ]
        )
        count = rng.choice([0, 1, 2, 3, 5, 8, kind.entries, 40])
        more = rng.choice([{}] * 8 + [{"elem_flags": 1}, {"elem_flags": 4}, {"elem_flags": 2}, {"flags": 1}])
        keys = b"".join(key_of(kind, rng) for _ in range(count))
        wide = sides[0].value_size // (4 if kind.map_type == PROG_ARRAY else SIZE)
        values = b"".join(rng.randbytes(SIZE) * wide for _ in range(count))
        if command in ("MAP_LOOKUP_BATCH", "MAP_LOOKUP_AND_DELETE_BATCH"):
            mine, theirs = (side.batch(command, count, start=start, **more) for side in sides)
            start = None if theirs.errno or rng.random() < 0.3 else theirs.out[: max(kind.key_size, 4)]
            if start and UNTOUCHED in start:
                start = None
        else:
            mine, theirs = (side.batch(command, count, keys, values, **more) for side in sides)
        assert mine == theirs, (command, count, more)
    os.sched_setaffinity(0, before)
    sides[1].bpf.close(sides[1].fd)


def test_a_dump_meets_every_element(machine: Machine) -> None:
    """A hash map is read whole by batches that go on where the last one ended."""
    side = Side(Bpf(machine.process()), Kind(HASH, 4, 5000))
    expected = {number.to_bytes(4, "little"): (number * 7).to_bytes(8, "little") for number in range(4000)}
    answer = side.batch("MAP_UPDATE_BATCH", 4000, b"".join(expected), b"".join(expected.values()))
    assert (answer.errno, answer.count) == (0, 4000)
    found: dict[bytes, bytes] = {}
    start: bytes | None = None
    while True:
        answer = side.batch("MAP_LOOKUP_BATCH", 700, start=start)
        for index in range(answer.count):
            key = answer.keys[4 * index : 4 * index + 4]
            assert key not in found
            found[key] = answer.values[8 * index : 8 * index + 8]
        if answer.errno:
            assert answer.errno == -2
            break
        start = answer.out[:4]
    assert found == expected


@pytest.mark.parametrize(("map_type", "key_size"), [(HASH, 4), (ARRAY, 4), (LPM_TRIE, 8), (HASH, 2)])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_all_items(machine: Machine, map_type: int, key_size: int, step: int) -> None:
    """What was set by a batch comes back by batches, however small, also from buckets of several elements."""
    bpf, entries = Bpf(machine.process()), 40
    fd = bpf.map_create(map_type, key_size, 8, entries, map_flags=NO_PREALLOC * (map_type == LPM_TRIE))
    if map_type == LPM_TRIE:
        prefix = (32).to_bytes(4, "little")
        keys = [prefix + number.to_bytes(4, "big") for number in range(entries)]
    else:
        keys = [number.to_bytes(key_size, "little") for number in range(entries)]
    elements = {key: bytes([number]) * 8 for number, key in enumerate(keys)}
    assert bpf.map_update_batch(fd, elements.items()) == entries
    found = list(bpf.map_items(fd, key_size, 8, step))
    assert len(found) == entries and dict(found) == elements


def test_a_refused_element_ends_the_update(machine: Machine) -> None:
    bpf = Bpf(machine.process())
    fd = bpf.map_create(HASH, 4, 8, 2)
    with pytest.raises(SyscallError) as refused:
        bpf.map_update_batch(fd, [(bytes([number] * 4), bytes(8)) for number in range(5)])
    assert refused.value.errno == errno.E2BIG
    assert len(list(bpf.map_items(fd, 4, 8))) == 2
    assert bpf.map_update_batch(fd, []) == 0


def test_a_map_of_maps_lets_go_of_what_a_batch_deletes(machine: Machine) -> None:
    """The inner maps of deleted elements are gone when nothing else refers to them."""
    bpf = Bpf(machine.process())
    inner = [bpf.map_create(ARRAY, 4, 4, 2) for _ in range(3)]
    kind = Kind(HASH_OF_MAPS, 4, 8)
    outer = Side.__new__(Side)
    outer.bpf, outer.kind, outer.value_size = bpf, kind, 4
    outer.fd = bpf.map_create(HASH_OF_MAPS, 4, 4, 8, inner_map_fd=inner[0])
    keys = b"".join(number.to_bytes(4, "little") for number in range(3))
    fds = b"".join(fd.to_bytes(4, "little") for fd in inner)
    assert outer.batch("MAP_UPDATE_BATCH", 3, keys, fds).errno == 0
    for fd in inner:
        bpf.close(fd)
    held = len(machine.kernel.maps)
    answer = outer.batch("MAP_LOOKUP_AND_DELETE_BATCH", 8)
    assert (answer.errno, answer.count) == (-2, 3)
    ids = {answer.values[at : at + 4] for at in range(0, 12, 4)}
    assert len(ids) == 3
    assert len(machine.kernel.maps) == held - 3
