# SPDX-License-Identifier: GPL-2.0-only
"""Tries against a dict of prefixes, through both doors; lookups in machine code never trap."""

from __future__ import annotations

import errno

import pytest
from emulated import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.maps.attr import NO_PREALLOC, MapAttr
from kernel_model.maps.base import BpfMap
from kernel_model.maps.types import create

LPM_TRIE = 11
LIMITS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


class Model:
    """Values by prefix, as text of zeroes and ones."""

    def __init__(self, entries: int, size: int) -> None:
        self.entries, self.size = entries, size
        self.values: dict[str, bytes] = {}

    def prefix(self, key: bytes) -> str | None:
        length = int.from_bytes(key[:4], "little")
        return bits(key[4:])[:length] if length <= 8 * self.size else None

    def lookup(self, key: bytes) -> bytes | None:
        wanted = self.prefix(key)
        if wanted is None:
            return None
        covering = [prefix for prefix in self.values if wanted.startswith(prefix)]
        return self.values[max(covering, key=len)] if covering else None

    def update(self, key: bytes, value: bytes, flags: int) -> int:
        prefix = self.prefix(key)
        if prefix is None or flags > 2:
            return -errno.EINVAL
        if prefix in self.values:
            if flags == 1:
                return -errno.EEXIST
        elif flags == 2:
            return -errno.ENOENT
        elif len(self.values) == self.entries:
            return -errno.ENOSPC
        self.values[prefix] = value
        return 0

    def delete(self, key: bytes) -> int:
        prefix = self.prefix(key)
        if prefix is None:
            return -errno.EINVAL
        return 0 if self.values.pop(prefix, None) is not None else -errno.ENOENT


def walk(world: World, made: BpfMap) -> list[bytes]:
    seen: list[bytes] = []
    while True:
        try:
            seen.append(made.get_next_key(world, seen[-1] if seen else None))
        except KernelError as error:
            assert error.errno == errno.ENOENT
            return seen


@st.composite
def keys(draw: st.DrawFn, size: int) -> bytes:
    data = bytes(draw(st.sampled_from([0, 1, 0x40, 0x80, 0xFF, 0xFE])) for _ in range(size))
    return draw(st.integers(0, 8 * size + 1)).to_bytes(4, "little") + data


@LIMITS
@given(data=st.data(), size=st.integers(1, 23), entries=st.integers(1, 12), value_size=st.integers(1, 12))
def test_against_a_dict(data: st.DataObject, size: int, entries: int, value_size: int) -> None:
    world, model = World(), Model(entries, size)
    before = world.alloc.snapshot()
    made = world.register(create(world, MapAttr(LPM_TRIE, 4 + size, value_size, entries, NO_PREALLOC)))
    key_at, value_at = world.buffer(bytes(4 + size)), world.buffer(bytes(value_size))
    pool = data.draw(st.lists(keys(size), min_size=1, max_size=12))
    for number in range(data.draw(st.integers(1, 50))):
        key, by_program = data.draw(st.sampled_from(pool)), data.draw(st.booleans())
        action = data.draw(st.sampled_from(["lookup", "lookup", "update", "update", "delete", "switch"]))
        world.memory.write(key_at, key)
        if action == "switch":
            world.this_cpu = data.draw(st.integers(0, 1))
        elif action == "lookup":
            world.traps.clear()
            at = world.run("bpf_map_lookup_elem", made.addr, key_at)
            assert not world.traps
            assert at == made.lookup_elem(world, key, 0)
            assert (world.memory.read(at, value_size) if at else None) == model.lookup(key)
        elif action == "update":
            value = bytes((number + i) & 0xFF for i in range(value_size))
            flags = data.draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
            world.memory.write(value_at, value)
            expected = model.update(key, value, flags)
            if by_program:
                got = world.run_signed("bpf_map_update_elem", made.addr, key_at, value_at, flags)
            else:
                got = outcome(made, "update", world, key, value, flags)
            assert got == expected
        elif by_program:
            assert world.run_signed("bpf_map_delete_elem", made.addr, key_at) == model.delete(key)
        else:
            assert outcome(made, "delete", world, key) == model.delete(key)
        assert made.memory_usage(world) == (24 + size + value_size) * len(model.values)
    seen = [model.prefix(key) for key in walk(world, made)]
    assert len(seen) == len(model.values) and set(seen) == set(model.values)
    for later, prefix in enumerate(seen):
        # What is more specific comes first.
        assert not any(other.startswith(prefix) for other in seen[later + 1 :])  # type: ignore[union-attr]
    made.free(world)
    for buffer in (key_at, value_at):
        world.alloc.kfree(buffer)
    ops = world.text.symbol(made.OPS)
    ram, percpu = world.alloc.snapshot()
    assert ({at: size for at, size in ram.items() if at != ops}, percpu) == before


def outcome(made: BpfMap, action: str, *args: object) -> int:
    try:
        getattr(made, action)(*args)
    except KernelError as error:
        return -error.errno
    return 0


@pytest.mark.parametrize(
    ("number", "prefix", "found"), [(0x0A010203, 32, 3), (0x0A020000, 32, 2), (0x0B000000, 32, 1)]
)
def test_routes(number: int, prefix: int, found: int) -> None:
    """A default route, a network in it and a network in that."""
    world = World()
    made = world.register(create(world, MapAttr(LPM_TRIE, 8, 4, 8, NO_PREALLOC)))
    for value, (net, length) in enumerate(((0, 0), (0x0A000000, 8), (0x0A010000, 16)), 1):
        key = length.to_bytes(4, "little") + net.to_bytes(4, "big")
        made.update(world, key, value.to_bytes(4, "little"), 0)
    at = world.buffer(prefix.to_bytes(4, "little") + number.to_bytes(4, "big"))
    assert world.memory.u32(world.run("bpf_map_lookup_elem", made.addr, at)) == found
