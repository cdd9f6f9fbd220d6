# SPDX-License-Identifier: GPL-2.0-only
"""Maps beside the host kernel's own: errnos of creation, of every operation, and the order of keys."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import struct
from collections.abc import Iterator

import pytest
from emulated import World
from host_bpf import HostRefused, address_of, bpf, host_kernel

from kernel_model.errors import KernelError, NotModelled
from kernel_model.maps.attr import MapAttr
from kernel_model.maps.types import MAP_TYPES, create

MAP_CREATE, LOOKUP, UPDATE, DELETE, NEXT_KEY, LOOKUP_AND_DELETE = 0, 1, 2, 3, 4, 21
MODELLED = sorted(number for number, row in MAP_TYPES.items() if row.cls is not None)
OF_MAPS = (12, 13)
PERCPU = (5, 6, 10)
DEVMAPS = (14, 25)
NO_DEVICE = 1 << 20


def host_create(attr: MapAttr) -> int:
    """The map's fd, or minus the errno."""
    raw = struct.pack(
        "<7I16s5IQ",
        *(attr.map_type, attr.key_size, attr.value_size, attr.max_entries, attr.map_flags),
        *(0, attr.numa_node, attr.map_name, attr.map_ifindex, attr.btf_fd, attr.btf_key_type_id),
        *(attr.btf_value_type_id, attr.btf_vmlinux_value_type_id, attr.map_extra),
    )
    try:
        return bpf(MAP_CREATE, raw)
    except HostRefused as error:
        return -(error.errno or 0)


def our_create(world: World, attr: MapAttr) -> int:
    """0, or minus the errno; None for what is not modelled."""
    try:
        create(world, attr).free(world)
    except KernelError as error:
        return -error.errno
    return 0


def creation_cases() -> list[MapAttr]:
    """Attributes around every limit, for every modelled type."""
    cases = []
    for map_type in (*MODELLED, 0, 34, 1000):
        if map_type in OF_MAPS:
            continue
        base = MapAttr(map_type, 4, 4, 4)
        if map_type in (22, 23):
            base = MapAttr(map_type, 0, 4, 4)
        elif map_type == 27:
            base = MapAttr(map_type, 0, 0, 4096)
        elif map_type == 11:
            base = MapAttr(map_type, 8, 4, 4, 1)
        one = [
            *({"key_size": n} for n in (0, 1, 3, 4, 5, 8, 512, 513, 1 << 22, (1 << 32) - 1)),
            *(
                {"value_size": n}
                for n in (0, 1, 4, 5, 8, 32760, 32768, 32769, (1 << 22) - 60, (1 << 22) - 52)
            ),
            *({"value_size": n} for n in ((1 << 22) - 48, 1 << 31, (1 << 31) - 1, (1 << 32) - 1)),
            *({"max_entries": n} for n in (0, 1, 5, 4096, 4097)),
            *({"map_flags": 1 << bit} for bit in range(20)),
            *({"map_flags": flags} for flags in (0x18, 0x180, 0x88, 0x41, 0x401, 0x1 | 1 << 31)),
            *({"map_flags": 4, "numa_node": node} for node in (0, 1, 64, (1 << 32) - 1)),
            *({"map_name": name.ljust(16, b"\0")} for name in (b"a_b.C9", b"a-b", b"\xe9", b"\xd7", b"a b")),
            {"map_name": b"x" * 16},
            {"map_extra": 1},
            {"btf_key_type_id": 1},
            {"btf_vmlinux_value_type_id": 1},
        ]
        cases += [MapAttr(**{**base.__dict__, **change}) for change in one]
    return cases


# What is not tried on the host: it would take gigabytes there before it is refused.
def too_large(attr: MapAttr) -> bool:
    return attr.value_size * attr.max_entries > 64 << 20 and attr.value_size < 1 << 31


@host_kernel
def test_creation() -> None:
    world, different, tried = World(), [], 0
    for attr in creation_cases():
        if too_large(attr):
            continue
        host = host_create(attr)
        if host >= 0:
            os.close(host)
            host = 0
        try:
            ours = our_create(world, attr)
        except NotModelled:
            continue
        tried += 1
        if ours == -12 and host == 0:
            continue  # this little machine has less memory
        if ours != host:
            different.append((attr, ours, host))
    assert not different
    assert tried > 60 * (len(MODELLED) - len(OF_MAPS))


class HostMap:
    """A map of the host's: operations with a result or minus the errno."""

    def __init__(self, attr: MapAttr) -> None:
        self.fd = host_create(attr)
        assert self.fd >= 0, os.strerror(-self.fd)
        self.attr = attr
        cpus = os.sysconf("SC_NPROCESSORS_CONF")
        size = attr.value_size
        self.value_size = -(-size // 8) * 8 * cpus if attr.map_type in PERCPU else size
        self.cpus = cpus

    def call(self, command: int, key: bytes | None, value: bytes, flags: int = 0) -> int | bytes:
        key_buffer = ctypes.create_string_buffer(key or b"", max(len(key or b""), 1))
        out = ctypes.create_string_buffer(value, max(self.value_size, len(value), 1))
        pointer = address_of(key_buffer) if key is not None else 0
        # Deletion takes a key alone; Linux insists on zeroes behind it.
        value_pointer = address_of(out) if command != DELETE else 0
        try:
            bpf(command, struct.pack("<IIQQQ", self.fd, 0, pointer, value_pointer, flags))
        except HostRefused as error:
            return -(error.errno or 0)
        if command == NEXT_KEY:
            return out.raw[: self.attr.key_size]
        return out.raw[: self.value_size] if command in (LOOKUP, LOOKUP_AND_DELETE) else 0

    def close(self) -> None:
        os.close(self.fd)


def ours(action: object, *args: object) -> int | bytes:
    try:
        result = action(*args)  # type: ignore[operator]
    except KernelError as error:
        return -error.errno
    if result is None:
        return 0
    assert isinstance(result, int | bytes)
    return result


CASES = [
    MapAttr(1, 4, 8, 8, 0x40),
    MapAttr(1, 7, 5, 8, 0x41),
    MapAttr(1, 13, 16, 33, 0x40),
    MapAttr(1, 40, 3, 100, 0x41),
    MapAttr(2, 4, 8, 6),
    MapAttr(2, 4, 3, 1),
    MapAttr(5, 8, 8, 8, 0x40),
    MapAttr(5, 3, 12, 8, 0x41),
    MapAttr(6, 4, 12, 5),
    *(
        MapAttr(kind, 4, 8, entries, flags | 0x40)
        for kind in (9, 10)
        for entries in (1, 9, 40)
        for flags in (0, 2)
    ),
    *(MapAttr(kind, 4, value, 7) for kind in DEVMAPS for value in (4, 8)),
    MapAttr(11, 8, 4, 12, 1),
    MapAttr(11, 5, 4, 6, 1),
    MapAttr(11, 15, 9, 20, 1),
]


def pin(world: World) -> None:
    """Both kernels run on the same CPU: what a full map evicts depends on it."""
    world.this_cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {world.this_cpu})


@pytest.fixture(autouse=True)
def affinity() -> Iterator[None]:
    """Undo what :func:`pin` did."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def trie_key(rng: random.Random, size: int) -> bytes:
    """A prefix of few different bits, now and then one that is longer than the data."""
    data = bytes(rng.choice([0, 1, 0x80, 0xFF]) for _ in range(size))
    return rng.choice([*range(8 * size + 1), 8 * size + 1]).to_bytes(4, "little") + data


@host_kernel
@pytest.mark.parametrize(
    "attr", CASES, ids=lambda a: f"{MAP_TYPES[a.map_type].name}-{a.key_size}-{a.map_flags:x}"
)
def test_operations(attr: MapAttr) -> None:
    """The same few hundred random operations on both; every answer is the same, the walk too."""
    rng = random.Random(attr.key_size * 1000 + attr.map_type)
    host = HostMap(attr)
    world = World(host.cpus)
    made = create(world, attr)
    pin(world)
    keys = [n.to_bytes(4, "little") for n in range(attr.max_entries + 2)]
    if attr.map_type in (1, 5, 9, 10):
        keys = [rng.randbytes(attr.key_size) for _ in range(attr.max_entries + 5)]
    # The loopback, which both kernels have.
    world.netdevs[1] = world.buffer(bytes(64))
    if attr.map_type == 11:
        keys = [trie_key(rng, attr.key_size - 4) for _ in range(attr.max_entries * 3)]
    for _ in range(400):
        key, flags = rng.choice(keys), rng.choice([0, 0, 0, 0, 1, 2, 3, 4, 5, 8])
        action = rng.choice([LOOKUP, UPDATE, UPDATE, DELETE, NEXT_KEY, LOOKUP_AND_DELETE])
        value = rng.randbytes(host.value_size)
        if attr.map_type in DEVMAPS:
            ifindex, prog_fd = rng.choice([0, 1, 1, 1, 1, NO_DEVICE]), rng.choice([0, 0, -1])
            value = struct.pack("<Ii", ifindex, prog_fd)[: attr.value_size]
        if action == LOOKUP:
            got = ours(lambda k=key, f=flags: made.lookup(world, k, f) or -2)
            want = host.call(LOOKUP, key, b"", flags)
        elif action == UPDATE:
            got = ours(made.update, world, key, value, flags)
            want = host.call(UPDATE, key, value, flags)
        elif action == DELETE:
            got = ours(made.delete, world, key)
            want = host.call(DELETE, key, b"")
        elif action == LOOKUP_AND_DELETE:
            got = ours(made.lookup_and_delete, world, key)
            want = host.call(LOOKUP_AND_DELETE, key, b"")
        else:
            start = rng.choice([None, key])
            got = ours(made.get_next_key, world, start)
            want = host.call(NEXT_KEY, start, bytes(attr.key_size))
        if (
            attr.map_type in PERCPU
            and isinstance(got, bytes)
            and isinstance(want, bytes)
            and action != NEXT_KEY
        ):
            # What lies between a value and the next multiple of 8 is nobody's.
            step = -(-attr.value_size // 8) * 8
            cut = [slice(cpu * step, cpu * step + attr.value_size) for cpu in range(host.cpus)]
            got, want = b"".join(got[c] for c in cut), b"".join(want[c] for c in cut)
        assert got == want, (action, key, flags)
    walks: list[list[bytes]] = []
    for step_fn in (
        lambda k: ours(made.get_next_key, world, k),
        lambda k: host.call(NEXT_KEY, k, bytes(attr.key_size)),
    ):
        walk: list[bytes] = []
        for _ in itertools.repeat(None, attr.max_entries + 1):
            following = step_fn(walk[-1] if walk else None)
            if not isinstance(following, bytes):
                assert following == -2
                break
            walk.append(following)
        walks.append(walk)
    assert walks[0] == walks[1]
    host.close()


def host_memlock(fd: int) -> int:
    """What fdinfo says that the map takes."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("memlock:"))


@host_kernel
@pytest.mark.parametrize("filled", [0, 3])
def test_memory_usage(filled: int) -> None:
    """Memory accounting, of an empty map and of one with elements."""
    for base in MEMORY:
        host = HostMap(base)
        world = World(host.cpus)
        made = create(world, base)
        world.netdevs[1] = world.buffer(bytes(64))
        if base.key_size:
            for number in range(filled):
                key = number.to_bytes(4, "little").ljust(base.key_size, b"\0")
                value = bytes([base.map_type in DEVMAPS]).ljust(host.value_size, b"\0")
                host.call(UPDATE, key, value)
                made.update(world, key, value, 0)
        assert made.memory_usage(world) == host_memlock(host.fd), base
        host.close()


MEMORY = [
    *(MapAttr(1, key, value, 8, flags) for key in (4, 9) for value in (8, 13) for flags in (0, 1)),
    *(MapAttr(5, key, value, 8, flags) for key in (4, 9) for value in (8, 13) for flags in (0, 1)),
    *(MapAttr(2, 4, value, 7, flags) for value in (5, 700) for flags in (0, 1 << 10)),
    MapAttr(6, 4, 12, 7),
    MapAttr(11, 9, 5, 9, 1),
    *(MapAttr(kind, 4, value, 9, flags) for kind in (9, 10) for value in (8, 13) for flags in (0, 2)),
    *(MapAttr(14, 4, value, 9) for value in (4, 8)),
    *(MapAttr(25, 4, value, 9) for value in (4, 8)),
    *(MapAttr(30, 0, 12, entries, 0, map_extra=extra) for entries in (3, 1000) for extra in (0, 1, 9)),
    MapAttr(27, 0, 0, 8192),
    MapAttr(22, 0, 5, 9),
    MapAttr(23, 0, 8, 1),
]
