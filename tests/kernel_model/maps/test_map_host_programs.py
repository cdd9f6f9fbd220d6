# SPDX-License-Identifier: GPL-2.0-only
"""Maps in the hands of programs, beside the host kernel's own: helpers and system calls in random order.

On the host an XDP program makes the helper calls, one for each test run; the packet says which and takes the
answer. Ours are the same helpers' symbols in the emulated CPU.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest
from emulated import World
from host_bpf import BPF_PROG_TYPE_XDP, host_kernel, prog_load, test_run
from test_host_maps import DELETE, LOOKUP, UPDATE, HostMap, ours, pin, trie_key

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode
from kernel_model.maps.attr import MapAttr
from kernel_model.maps.base import BpfMap
from kernel_model.maps.types import MAP_TYPES, create

_PROGRAM = """
	r7 = *(u32 *)(r1 +0)
	r8 = *(u32 *)(r1 +4)
	r2 = r7
	r2 += 64
	if r2 > r8 goto out
	r1 = *(u64 *)(r7 +16)
	*(u64 *)(r10 -8) = r1
	r1 = *(u64 *)(r7 +24)
	*(u64 *)(r10 -16) = r1
	r9 = *(u8 *)(r7 +0)
	r1 = map_fd({fd}, 0)
	r2 = r10
	r2 += -8
	if r9 == 1 goto lookup
	if r9 == 2 goto update
	call 3
	goto answer
update:
	r3 = r10
	r3 += -16
	r4 = *(u64 *)(r7 +8)
	call 2
	goto answer
lookup:
	call 1
	if r0 == 0 goto answer
	r1 = *(u64 *)(r0 +0)
	*(u64 *)(r7 +40) = r1
	r0 = 1
answer:
	*(u64 *)(r7 +32) = r0
out:
	r0 = 2
	exit
"""
_LOOKUP, _UPDATE, _DELETE = 1, 2, 3
SIZE = 8
"""Bytes of every value; keys are at most as long."""


@pytest.fixture(autouse=True)
def affinity() -> Iterator[None]:
    """Undo what pin() did."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


class HostDoor:
    """Helper calls on a map of the host's: a value, None, or the helper's result."""

    def __init__(self, host: HostMap) -> None:
        code = encode(assemble(_PROGRAM.format(fd=host.fd)))
        self.fd = prog_load(code, BPF_PROG_TYPE_XDP)

    def call(self, action: int, key: bytes, value: bytes, flags: int) -> int | bytes | None:
        packet = struct.pack("<QQ8s8sQQ", action, flags, key.ljust(8, b"\0"), value, 0, 0).ljust(64, b"\0")
        result, found = struct.unpack_from("<q8s", test_run(self.fd, packet).data, 32)
        if action == _LOOKUP:
            return bytes(found) if result else None
        return int(result)

    def close(self) -> None:
        os.close(self.fd)


class OurDoor:
    """The same on ours."""

    def __init__(self, world: World, made: BpfMap) -> None:
        self.world, self.made = world, made
        self.key, self.value = world.buffer(bytes(8)), world.buffer(bytes(8))

    def call(self, action: int, key: bytes, value: bytes, flags: int) -> int | bytes | None:
        world, at = self.world, self.made.addr
        world.memory.write(self.key, key)
        world.memory.write(self.value, value)
        if action == _LOOKUP:
            found = world.run("bpf_map_lookup_elem", at, self.key)
            return world.memory.read(found, SIZE) if found else None
        if action == _UPDATE:
            return world.run_signed("bpf_map_update_elem", at, self.key, self.value, flags)
        return world.run_signed("bpf_map_delete_elem", at, self.key)


_REDIRECT = """
	r7 = *(u32 *)(r1 +0)
	r8 = *(u32 *)(r1 +4)
	r0 = 17
	r2 = r7
	r2 += 64
	if r2 > r8 goto out
	r2 = *(u64 *)(r7 +0)
	r3 = *(u64 *)(r7 +8)
	r1 = map_fd({fd}, 0)
	call 51
out:
	exit
"""


@host_kernel
@pytest.mark.parametrize("map_type", [14, 25])
def test_redirection_answers(map_type: int) -> None:
    """bpf_redirect_map() with and without an entry, with all sorts of flags."""
    attr = MapAttr(map_type, 4, 4, 4)
    host, world = HostMap(attr), World()
    world.netdevs[1] = world.buffer(bytes(64))
    made = world.register(create(world, attr))
    for index in (1, 3):
        key, value = index.to_bytes(4, "little"), (1).to_bytes(4, "little")
        assert host.call(UPDATE, key, value) == 0
        made.update(world, key, value, 0)
    program = prog_load(encode(assemble(_REDIRECT.format(fd=host.fd))), BPF_PROG_TYPE_XDP)
    for index in (0, 1, 2, 3, 4, 1 << 31, (1 << 32) + 1):
        for flags in (0, 1, 2, 3, 4, 8, 9, 16, 24, 32, 1 << 40):
            theirs = test_run(program, struct.pack("<QQ", index, flags).ljust(64, b"\0")).retval
            assert world.run("bpf_xdp_redirect_map", made.addr, index, flags) == theirs, (index, flags)
    assert not world.traps
    os.close(program)
    host.close()


CASES = [
    *(MapAttr(kind, 4, SIZE, 12, 0x40 | flags) for kind in (1, 5) for flags in (0, 1)),
    *(
        MapAttr(kind, 4, SIZE, entries, flags | 0x40)
        for kind in (9, 10)
        for entries in (3, 50, 600)
        for flags in (0, 2)
    ),
    MapAttr(11, 8, SIZE, 12, 1),
    MapAttr(2, 4, SIZE, 12),
    MapAttr(6, 4, SIZE, 12),
]


def _name(attr: MapAttr) -> str:
    return f"{MAP_TYPES[attr.map_type].name}-{attr.max_entries}-{attr.map_flags:x}"


@host_kernel
@pytest.mark.parametrize("attr", CASES, ids=_name)
def test_operations(attr: MapAttr) -> None:
    """Every answer is the same, and so is what the map holds at the end: what was evicted in between."""
    rng = random.Random(attr.map_type * 1000 + attr.max_entries)
    host = HostMap(attr)
    world = World(host.cpus)
    pin(world)
    made = world.register(create(world, attr))
    doors = OurDoor(world, made), HostDoor(host)
    count = attr.max_entries + attr.max_entries // 3 + 2
    if attr.map_type == 11:
        keys = [trie_key(rng, 4) for _ in range(3 * count)]
    else:
        keys = [number.to_bytes(4, "little") for number in range(count)]
    for _ in range(400 + 4 * attr.max_entries):
        key, value = rng.choice(keys), rng.randbytes(SIZE)
        flags = rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 3, rng.choice([4, 5, 6, 8, 1 << 32, 1 << 63])])
        action = rng.choice([_LOOKUP, _UPDATE, _UPDATE, _UPDATE, _DELETE])
        if rng.randrange(3):
            mine, theirs = (door.call(action, key, value, flags) for door in doors)
        elif action == _LOOKUP:
            mine = ours(lambda k=key: made.lookup(world, k) or -2)
            theirs = host.call(LOOKUP, key, b"")
        elif action == _UPDATE:
            wide = value * (host.value_size // SIZE)
            mine, theirs = ours(made.update, world, key, wide, flags), host.call(UPDATE, key, wide, flags)
        else:
            mine, theirs = ours(made.delete, world, key), host.call(DELETE, key, b"")
        assert mine == theirs, (action, key, flags)
    for key in keys:
        assert ours(lambda k=key: made.lookup(world, k) or -2) == host.call(LOOKUP, key, b"")
    doors[1].close()
    host.close()
