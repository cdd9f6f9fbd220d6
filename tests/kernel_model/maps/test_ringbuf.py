# SPDX-License-Identifier: GPL-2.0-only
"""Ring buffers against a model of records and positions; everything that programs do is machine code."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from emulated import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.maps.attr import MapAttr
from kernel_model.maps.base import ENOTSUPP
from kernel_model.maps.ringbuf import BUSY_BIT, DISCARD_BIT, HDR_SZ, RingbufMap
from kernel_model.maps.types import create

RINGBUF = 27
NO_WAKEUP, FORCE_WAKEUP = 1, 2
LIMITS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Record:
    start: int
    size: int
    data: bytes
    addr: int
    state: int = BUSY_BIT

    @property
    def end(self) -> int:
        return self.start + -(-(self.size + HDR_SZ) // 8) * 8


@dataclass
class Ring:
    """The model: records in order of reservation, and both ends."""

    size: int
    records: list[Record] = field(default_factory=list)
    consumer: int = 0
    producer: int = 0
    wakeups: int = 0

    def room(self, size: int) -> bool:
        length = -(-(size + HDR_SZ) // 8) * 8
        busy = [record.start for record in self.records if record.state & BUSY_BIT]
        oldest = min([*busy, self.producer])
        return length < self.size and self.producer + length - min(self.consumer, oldest) < self.size

    def commit(self, record: Record, flags: int, discard: bool) -> None:
        record.state = DISCARD_BIT if discard else 0
        behind = self.consumer % self.size == record.start % self.size
        if flags & FORCE_WAKEUP or (behind and not flags & NO_WAKEUP):
            self.wakeups += 1


def made_in(world: World, size: int) -> RingbufMap:
    made = create(world, MapAttr(RINGBUF, max_entries=size))
    assert isinstance(made, RingbufMap)
    world.register(made)
    return made


def consume(world: World, made: RingbufMap, ring: Ring) -> None:
    """What libbpf does: read every record that is not busy, from the consumer's position on."""
    memory, data = world.memory, made.rb + world.layout["bpf_ringbuf"].offset("data")
    while ring.consumer < ring.producer:
        record = next(each for each in ring.records if each.start == ring.consumer)
        at = data + ring.consumer % ring.size
        length = memory.u32(at)
        assert length == record.size | record.state
        if record.state & BUSY_BIT:
            break
        if not record.state:
            # The copy behind the end makes every record one piece.
            assert memory.read(at + HDR_SZ, record.size) == record.data
        ring.consumer = record.end
        memory.put_u64(made.rb + world.layout["bpf_ringbuf"].offset("consumer_pos"), ring.consumer)
    ring.records = [record for record in ring.records if record.end > ring.consumer]


@LIMITS
@given(data=st.data(), pages=st.sampled_from([1, 2]))
def test_against_a_model(data: st.DataObject, pages: int) -> None:
    world = World()
    before = world.alloc.snapshot()
    made, ring = made_in(world, 4096 * pages), Ring(4096 * pages)
    source = world.buffer(bytes(ring.size + 16))
    for number in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(["reserve", "output", "output", "commit", "commit", "consume"]))
        flags = data.draw(st.sampled_from([0, 0, NO_WAKEUP, FORCE_WAKEUP]))
        size = data.draw(st.one_of(st.integers(0, 900), st.integers(ring.size - 24, ring.size + 8)))
        content = bytes((number + i) & 0xFF for i in range(size))
        if action == "reserve":
            addr = world.run("bpf_ringbuf_reserve", made.addr, size, 0)
            assert bool(addr) == ring.room(size)
            if addr:
                world.memory.write(addr, content)
                ring.records.append(Record(ring.producer, size, content, addr))
                ring.producer = ring.records[-1].end
        elif action == "output":
            world.memory.write(source, content)
            got = world.run_signed("bpf_ringbuf_output", made.addr, source, size, flags)
            assert got == (0 if ring.room(size) else -errno.EAGAIN)
            if not got:
                ring.records.append(Record(ring.producer, size, content, 0))
                ring.producer = ring.records[-1].end
                ring.commit(ring.records[-1], flags, False)
        elif action == "commit":
            busy = [record for record in ring.records if record.state & BUSY_BIT]
            if busy:
                record = data.draw(st.sampled_from(busy))
                discard = data.draw(st.booleans())
                helper = "bpf_ringbuf_discard" if discard else "bpf_ringbuf_submit"
                world.run(helper, record.addr, flags)
                ring.commit(record, flags, discard)
        else:
            consume(world, made, ring)
        asked = [world.run("bpf_ringbuf_query", made.addr, what) for what in range(5)]
        assert asked == [ring.producer - ring.consumer, ring.size, ring.consumer, ring.producer, 0]
        assert made.wakeups(world) == ring.wakeups
        assert made.poll(world) == (ring.producer != ring.consumer)
    assert not world.traps
    made.free(world)
    world.alloc.kfree(source)
    ops = world.text.symbol(made.OPS)
    ram, percpu = world.alloc.snapshot()
    assert ({at: size for at, size in ram.items() if at != ops}, percpu) == before


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda world, at, data: world.run("bpf_ringbuf_reserve", at, 8, 1), 0),
        (lambda world, at, data: world.run("bpf_ringbuf_reserve", at, 1 << 40, 0), 0),
        (lambda world, at, data: world.run_signed("bpf_ringbuf_output", at, data, 8, 4), -errno.EINVAL),
        (lambda world, at, data: world.run("bpf_ringbuf_query", at, 1 << 40), 0),
        (lambda world, at, data: world.run_signed("bpf_map_lookup_elem", at, data), -ENOTSUPP),
        (lambda world, at, data: world.run_signed("bpf_map_update_elem", at, data, data, 0), -ENOTSUPP),
        (lambda world, at, data: world.run_signed("bpf_map_delete_elem", at, data), -ENOTSUPP),
    ],
)
def test_refusals(call: Callable[[World, int, int], int], expected: int) -> None:
    world = World()
    made = made_in(world, 4096)
    assert call(world, made.addr, world.buffer(bytes(8))) == expected
    assert made.position(world, "producer_pos") == 0


def test_positions_near_the_end_of_their_range() -> None:
    """Positions are 64-bit numbers that wrap like any others."""
    world = World()
    made = made_in(world, 4096)
    fields = world.layout["bpf_ringbuf"]
    for name in ("consumer_pos", "producer_pos", "pending_pos"):
        world.memory.put_u64(made.rb + fields.offset(name), (1 << 64) - 16)
    assert world.run("bpf_ringbuf_reserve", made.addr, 40, 0)
    assert made.position(world, "producer_pos") == 32
    assert world.run("bpf_ringbuf_query", made.addr, 0) == 48


@pytest.mark.parametrize(
    ("start", "count", "writable", "refused"),
    [
        (0, 1, True, 0),
        (0, 2, True, 1),
        (1, 1, True, 1),
        (0, 6, False, 0),
        (1, 5, False, 0),
        (1, 6, False, 22),
    ],
)
def test_what_a_process_may_map(start: int, count: int, writable: bool, refused: int) -> None:
    """The consumer's page, the producer's, and the data twice."""
    world = World()
    made = made_in(world, 8192)
    if refused:
        with pytest.raises(KernelError) as error:
            made.mmap_pages(start, count, writable)
        assert error.value.errno == refused
    else:
        pages = made.mmap_pages(start, count, writable)
        assert len(pages) == count
        assert pages[2 - start : 4 - start] == pages[4 - start :] or count == 1
