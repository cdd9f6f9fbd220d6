# SPDX-License-Identifier: GPL-2.0-only
"""Helpers in machine code: against models in Python, and none of them traps."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from emulated import PERCPU_LINK, World
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.errors import NotModelled
from kernel_model.helpers.constants import HZ, TEXT_CONSTANTS
from kernel_model.helpers.prandom import seed_full_state
from kernel_model.maps.attr import MapAttr
from kernel_model.maps.types import create

# Worlds cost a millisecond or two; these tests leave nothing behind that matters to the next.
SHARED = World()
QUICK = settings(max_examples=80, deadline=None)
MASK = 0xFFFF_FFFF_FFFF_FFFF
COST = TEXT_CONSTANTS["CONST_KTIME_COST_NS"]


@pytest.fixture(autouse=True)
def no_traps() -> Iterator[None]:
    """Every function called by a test ran to its end without a trap."""
    SHARED.traps.clear()
    yield
    assert not SHARED.traps


# Strings


@QUICK
@given(data=st.binary(max_size=70), shift=st.integers(0, 9))
def test_memcpy(data: bytes, shift: int) -> None:
    src, dst = SHARED.buffer(data), SHARED.buffer(b"#" * 100)
    assert SHARED.run("memcpy", dst + shift, src, len(data)) == dst + shift
    assert SHARED.memory.read(dst, 100) == (b"#" * shift + data).ljust(100, b"#")


@QUICK
@given(size=st.integers(0, 70), byte=st.integers(0, 255), shift=st.integers(0, 9))
def test_memset(size: int, byte: int, shift: int) -> None:
    dst = SHARED.buffer(b"#" * 100)
    assert SHARED.run("memset", dst + shift, byte | 0xABC00, size) == dst + shift
    assert SHARED.memory.read(dst, 100) == (b"#" * shift + bytes([byte]) * size).ljust(100, b"#")


@QUICK
@given(start=st.integers(0, 40), end=st.integers(0, 40), size=st.integers(0, 60))
def test_memmove(start: int, end: int, size: int) -> None:
    model = bytearray(range(100))
    area = SHARED.buffer(bytes(model))
    SHARED.run("memmove", area + end, area + start, size)
    model[end : end + size] = model[start : start + size]
    assert SHARED.memory.read(area, 100) == model


# Clock, CPU, randomness


def test_clock_moves_by_the_cost_of_a_look() -> None:
    before = SHARED.clock.now()
    assert SHARED.run("bpf_ktime_get_ns") == before + COST
    assert SHARED.run("bpf_ktime_get_boot_ns") == before + 2 * COST == SHARED.clock.now()


def test_coarse_clock_and_jiffies_tick() -> None:
    tick = 1_000_000_000 // HZ
    SHARED.clock.advance(-SHARED.clock.now() % tick + 7 * tick - COST)
    now = SHARED.clock.now() + COST
    assert now % tick == 0
    assert SHARED.run("bpf_ktime_get_coarse_ns") == now
    assert SHARED.run("bpf_ktime_get_coarse_ns") == now
    # Linux starts its 64-bit counter at the 32-bit value of minus five minutes.
    assert SHARED.run("bpf_jiffies64") == (1 << 32) - 300 * HZ + now // tick


@pytest.mark.parametrize("cpu", [0, 1])
def test_cpu_number(cpu: int) -> None:
    world = World()
    world.this_cpu = cpu
    assert world.run("bpf_get_smp_processor_id") == world.run("bpf_get_raw_cpu_id") == cpu
    assert world.run("bpf_get_numa_node_id") == 0


# Seeds and tenth-plus-one results of the kernel's own self test (lib/random32.c).
@pytest.mark.parametrize(
    ("seed", "expected"), [(1, 3484351685), (2, 2623130059), (3, 3125133893), (4, 984847254)]
)
def test_prandom_is_the_kernels(seed: int, expected: int) -> None:
    world = World()
    state, last = [], seed
    for least in (2, 8, 16, 128):
        last = last * 69069 & 0xFFFF_FFFF
        last = last + least if last < least else last
        state.append(last)
    at = world.per_cpu("bpf_user_rnd_state", 0)
    for index, value in enumerate(state):
        world.memory.put_u32(at + 4 * index, value)
    assert [world.run("bpf_user_rnd_u32") for _ in range(11)][-1] == expected


def test_prandom_seeds_each_cpu_and_repeats() -> None:
    draws = []
    for _ in range(2):
        world = World(seed=5)
        seed_full_state(world)  # type: ignore[arg-type]
        numbers = []
        for cpu in (0, 1):
            world.this_cpu = cpu
            numbers.append([world.run("bpf_user_rnd_u32") for _ in range(4)])
        assert numbers[0] != numbers[1] and len(set(numbers[0])) == 4
        draws.append(numbers)
    assert draws[0] == draws[1]


def test_current_task() -> None:
    world = World()
    assert world.run("bpf_get_current_pid_tgid") == 0
    layout = world.layout["task_struct"]
    task = world.alloc.kmalloc(layout.size)
    world.memory.put_u32(task + layout.offset("pid"), 0x1234_5678)
    world.memory.put_u32(task + layout.offset("tgid"), 0x8765_4321)
    world.memory.put_u64(world.per_cpu("current_task", 0), task)
    assert world.run("bpf_get_current_pid_tgid") == 0x8765_4321_1234_5678
    assert world.run("bpf_get_current_task") == task


# Checksums


def ones_sum(data: bytes, start: int = 0) -> int:
    """The one's complement sum, folded to 16 bits: 0 only when everything is 0."""
    total = start
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2], "little")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def fold(value: int) -> int:
    return ones_sum(value.to_bytes(8, "little"))


@QUICK
@given(data=st.binary(max_size=80), seed=st.integers(0, 0xFFFF_FFFF))
def test_csum_partial(data: bytes, seed: int) -> None:
    got = SHARED.run("csum_partial", SHARED.buffer(data), len(data), seed)
    assert got < 1 << 32 and fold(got) == ones_sum(data, seed)


WORDS = st.integers(0, 12).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))


@QUICK
@given(old=WORDS, new=WORDS, seed=st.integers(0, 0xFFFF_FFFF))
def test_csum_diff(old: bytes, new: bytes, seed: int) -> None:
    got = SHARED.run("bpf_csum_diff", SHARED.buffer(old), len(old), SHARED.buffer(new), len(new), seed)
    # Which of the two zeroes comes out depends on the way that Linux takes.
    if old and not new:
        expected = 0xFFFF ^ ones_sum(old, 0xFFFF_FFFF ^ seed)
    else:
        expected = ones_sum(new, seed) + (0xFFFF ^ ones_sum(old) if old else 0)
    assert got == ones_sum(b"", expected)


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 2), (3, 3), (0, 5)])
def test_csum_diff_of_odd_sizes(old: int, new: int) -> None:
    assert (
        SHARED.run_signed("bpf_csum_diff", SHARED.buffer(b""), old, SHARED.buffer(b""), new, 0)
        == -errno.EINVAL
    )


# XDP

FRAME_SZ, HEADROOM = 2048, 256


class XdpFrame:
    """An xdp_buff in memory and its model: offsets from the frame's start."""

    def __init__(self, world: World, meta: int, length: int) -> None:
        self.world = world
        self.fields = world.layout["xdp_buff"]
        self.frame = bytearray((i * 31 + 7) & 0xFF for i in range(FRAME_SZ))
        self.start = world.buffer(bytes(self.frame))
        self.addr = world.alloc.kmalloc(self.fields.size)
        self.data, self.data_end, self.data_meta = HEADROOM, HEADROOM + length, HEADROOM - meta
        self.meta_supported = meta >= 0
        for name in ("data", "data_end", "data_meta"):
            self.put(name, self.start + getattr(self, name))
        self.put("data_hard_start", self.start)
        world.memory.put_u32(self.addr + self.fields.offset("frame_sz"), FRAME_SZ)
        self.limit = FRAME_SZ - world.layout["skb_shared_info"].size
        self.least = world.layout["xdp_frame"].size

    def put(self, name: str, value: int) -> None:
        self.world.memory.put_u64(self.addr + self.fields.offset(name), value)

    def get(self, name: str) -> int:
        return self.world.memory.u64(self.addr + self.fields.offset(name)) - self.start

    def check(self) -> None:
        assert (self.get("data"), self.get("data_end")) == (self.data, self.data_end)
        assert self.get("data_meta") == self.data_meta
        assert self.world.memory.read(self.start, FRAME_SZ) == self.frame

    def adjust_head(self, offset: int) -> int:
        meta = self.data - self.data_meta if self.meta_supported else 0
        data = self.data + offset
        if data < self.least + meta or data > self.data_end - 14:
            return -errno.EINVAL
        moved = self.frame[self.data_meta : self.data_meta + meta]
        self.data, self.data_meta = data, self.data_meta + offset
        self.frame[self.data_meta : self.data_meta + meta] = moved
        return 0

    def adjust_tail(self, offset: int) -> int:
        end = self.data_end + offset
        if end > self.limit or end < self.data + 14:
            return -errno.EINVAL
        if offset > 0:
            self.frame[self.data_end : end] = bytes(offset)
        self.data_end = end
        return 0

    def adjust_meta(self, offset: int) -> int:
        meta = self.data_meta + offset
        if not self.meta_supported:
            return -524
        if meta < self.least or meta > self.data:
            return -errno.EINVAL
        if (self.data - meta) % 4 or self.data - meta > 252:
            return -errno.EACCES
        self.data_meta = meta
        return 0


OFFSETS = st.one_of(
    st.integers(-300, 300), st.integers(-64, 64).map(lambda n: 4 * n), st.integers(-(1 << 31), (1 << 31) - 1)
)


@QUICK
@given(
    meta=st.sampled_from([-1, 0, 0, 4, 32, 216]),
    length=st.integers(14, 1500),
    steps=st.lists(st.tuples(st.sampled_from(["head", "tail", "meta"]), OFFSETS), min_size=1, max_size=8),
)
def test_xdp_adjust(meta: int, length: int, steps: list[tuple[str, int]]) -> None:
    frame = XdpFrame(SHARED, meta, length)
    for which, offset in steps:
        got = SHARED.run_signed(f"bpf_xdp_adjust_{which}", frame.addr, offset)
        assert got == getattr(frame, f"adjust_{which}")(offset)
        frame.check()


@QUICK
@given(offset=st.integers(0, 1 << 17), size=st.integers(0, 1 << 17), store=st.booleans())
def test_xdp_bytes(offset: int, size: int, store: bool) -> None:
    frame = XdpFrame(SHARED, 0, 100)
    if offset <= 0xFFFF and size <= 0xFFFF:
        offset, size = offset % 110, size % 60
    buffer = SHARED.buffer(b"\x5a" * 200)
    got = SHARED.run_signed(f"bpf_xdp_{'store' if store else 'load'}_bytes", frame.addr, offset, buffer, size)
    if offset > 0xFFFF or size > 0xFFFF:
        expected = -errno.EFAULT
    else:
        expected = 0 if offset + size <= 100 else -errno.EINVAL
    assert got == expected
    loaded = bytearray(b"\x5a" * 200)
    if not expected:
        part = slice(HEADROOM + offset, HEADROOM + offset + size)
        if store:
            frame.frame[part] = loaded[:size]
        else:
            loaded[:size] = frame.frame[part]
    frame.check()
    assert SHARED.memory.read(buffer, 200) == loaded
    assert SHARED.run("bpf_xdp_get_buff_len", frame.addr) == 100


def test_xdp_fragments_are_refused_by_name() -> None:
    world = World()
    frame = XdpFrame(world, 0, 100)
    world.memory.put_u32(frame.addr + frame.fields.offset("flags"), 1)
    for name in ("bpf_xdp_adjust_tail", "bpf_xdp_get_buff_len", "bpf_xdp_load_bytes"):
        with pytest.raises(NotModelled, match="fragments"):
            world.run(name, frame.addr, 0, 0, 0)


def test_redirect() -> None:
    world = World()
    world.this_cpu = 1
    fields, at = world.layout["bpf_redirect_info"], world.per_cpu("bpf_redirect_info", 1)
    assert world.run("bpf_xdp_redirect", 7, 1) == 0
    assert world.memory.read(at, fields.size) == bytes(fields.size)
    assert world.run("bpf_xdp_redirect", 0xAAAA_0000_0000_0007, 0) == 4
    assert world.memory.u64(at + fields.offset("tgt_index")) == 7
    assert world.memory.u32(at + fields.offset("map_id")) == 0x7FFF_FFFF
    assert world.memory.u32(at + fields.offset("map_type")) == 0
    assert world.run("bpf_redirect", 9, 2) == 2
    assert world.run("bpf_redirect", 9, 1) == 7
    assert world.memory.u64(at + fields.offset("tgt_index")) == 9
    assert world.memory.u32(at + fields.offset("flags")) == 1
    assert PERCPU_LINK not in (at, at - world.alloc.per_cpu_offset(0))


# Packet loads


class Skb:
    """A linear skb: ``head`` bytes of headroom, the MAC header at ``mac``, data at ``data``."""

    def __init__(self, world: World, packet: bytes, pulled: int, mac_set: bool) -> None:
        self.fields = world.layout["sk_buff"]
        self.addr = world.alloc.kmalloc(self.fields.size)
        self.headroom = 64
        self.packet, self.pulled, self.mac_set = packet, pulled, mac_set
        self.head = world.buffer(bytes(self.headroom) + packet)
        self.data = self.head + self.headroom + pulled
        self.len = len(packet) - pulled
        for name, width, value in (
            ("head", 8, self.head),
            ("data", 8, self.data),
            ("len", 4, self.len),
            ("tail", 4, self.headroom + len(packet)),
            ("mac_header", 2, self.headroom if mac_set else 0xFFFF),
            ("network_header", 2, self.headroom + 14),
        ):
            world.memory.write(self.addr + self.fields.offset(name), value.to_bytes(width, "little"))

    def at(self, offset: int) -> int | None:
        """The index into the packet that a classic BPF offset means."""
        if offset >= 0:
            return self.pulled + offset
        if offset >= -0x100000:
            return 14 + offset + 0x100000
        if offset >= -0x200000 and self.mac_set:
            return offset + 0x200000
        return None

    def load(self, offset: int, size: int) -> int:
        start = self.at(offset)
        if start is None or start + size > len(self.packet):
            return -errno.EFAULT
        return int.from_bytes(self.packet[start : start + size], "big")


LOAD_OFFSETS = st.one_of(
    st.integers(0, 70),
    st.integers(0, 70).map(lambda n: n - 0x100000),
    st.integers(0, 70).map(lambda n: n - 0x200000),
    st.integers(-(1 << 31), (1 << 31) - 1),
)


@QUICK
@given(
    packet=st.binary(min_size=20, max_size=64),
    pulled=st.sampled_from([0, 14]),
    mac_set=st.booleans(),
    offset=LOAD_OFFSETS,
    bits=st.sampled_from([8, 16, 32]),
)
def test_skb_load_helper(packet: bytes, pulled: int, mac_set: bool, offset: int, bits: int) -> None:
    skb = Skb(SHARED, packet, pulled, mac_set)
    expected = skb.load(offset, bits // 8)
    got = SHARED.run_signed(f"bpf_skb_load_helper_{bits}", skb.addr, skb.data, skb.len, offset)
    assert got == expected
    assert SHARED.run_signed(f"bpf_skb_load_helper_{bits}_no_cache", skb.addr, offset) == expected


@QUICK
@given(
    packet=st.binary(min_size=20, max_size=64),
    offset=st.one_of(st.integers(0, 70), st.integers(0, 0xFFFF_FFFF)),
    size=st.integers(1, 40),
)
def test_skb_load_bytes(packet: bytes, offset: int, size: int) -> None:
    skb = Skb(SHARED, packet, 14, True)
    to = SHARED.buffer(b"\x5a" * 48)
    data = packet[14:]
    fits = offset + size <= len(data)
    assert SHARED.run_signed("bpf_skb_load_bytes", skb.addr, offset, to, size) == (
        0 if fits else -errno.EFAULT
    )
    expected = data[offset : offset + size] if fits else bytes(size)
    assert SHARED.memory.read(to, 48) == expected.ljust(48, b"\x5a")


@QUICK
@given(
    packet=st.binary(min_size=20, max_size=64),
    offset=st.one_of(st.integers(0, 70), st.integers(0, 0xFFFF_FFFF)),
    size=st.integers(1, 40),
    header=st.sampled_from([0, 1, 2]),
    mac_set=st.booleans(),
)
def test_skb_load_bytes_relative(packet: bytes, offset: int, size: int, header: int, mac_set: bool) -> None:
    skb = Skb(SHARED, packet, 14, mac_set)
    to = SHARED.buffer(b"\x5a" * 48)
    base = {0: packet if mac_set else b"", 1: packet[14:], 2: b""}[header]
    fits = offset <= 0xFFFF and offset + size <= len(base)
    got = SHARED.run_signed("bpf_skb_load_bytes_relative", skb.addr, offset, to, size, header)
    assert got == (0 if fits else -errno.EFAULT)
    expected = base[offset : offset + size] if fits else bytes(size)
    assert SHARED.memory.read(to, 48) == expected.ljust(48, b"\x5a")


def test_skb_fragments_are_refused_by_name() -> None:
    world = World()
    skb = Skb(world, bytes(64), 0, True)
    world.memory.put_u32(skb.addr + skb.fields.offset("data_len"), 10)
    with pytest.raises(NotModelled, match="fragments"):
        world.run("bpf_skb_load_helper_8", skb.addr, skb.data, 54, 60)
    with pytest.raises(NotModelled, match="fragments"):
        world.run("bpf_skb_load_bytes", skb.addr, 50, world.buffer(bytes(8)), 8)


# Callbacks

# Counts its calls and adds up the first argument at [ctx], ends at the number in [ctx + 16].
CALLBACK = bytes.fromhex("48ff0648017e0831c0488b4e1048390e0f94c0c3")


def place(world: World, code: bytes) -> int:
    at = 0x60_0000
    world.uc.mem_map(at, 4096)
    world.uc.mem_write(at, code)
    return at


@pytest.mark.parametrize(("loops", "stop", "calls"), [(0, 9, 0), (5, 9, 5), (5, 3, 3), (1, 1, 1)])
def test_loop(loops: int, stop: int, calls: int) -> None:
    world = World()
    ctx = world.buffer(bytes(16) + stop.to_bytes(8, "little"))
    assert world.run("bpf_loop", loops, place(world, CALLBACK), ctx, 0) == calls
    assert world.memory.u64(ctx) == calls
    assert world.memory.u64(ctx + 8) == sum(range(calls))


def test_loop_limits() -> None:
    assert SHARED.run_signed("bpf_loop", 1, 0, 0, 1) == -errno.EINVAL
    assert SHARED.run_signed("bpf_loop", (8 << 20) + 1, 0, 0, 0) == -errno.E2BIG


# (map, key, value, ctx): notes the byte at key and the u64 at value in the next 16 bytes of ctx.
NOTE = bytes.fromhex("488b01440fb6064c89004c8b024c8940084883011031c0c3")


@pytest.mark.parametrize("map_type", [1, 2, 5, 6])
def test_for_each_map_elem(map_type: int) -> None:
    world = World()
    world.this_cpu = 1
    made = world.register(create(world, MapAttr(map_type, key_size=4, value_size=8, max_entries=6)))
    for number in range(6):
        made.update_elem(world, number.to_bytes(4, "little"), (100 + number).to_bytes(8, "little"), 0)
    ctx = world.buffer(bytes(8 + 6 * 16))
    world.memory.put_u64(ctx, ctx + 8)
    assert world.run("bpf_for_each_map_elem", made.addr, place(world, NOTE), ctx, 0) == 6
    words = memoryview(world.memory.read(ctx + 8, 96)).cast("Q")
    seen = [(words[i], words[i + 1]) for i in range(0, 12, 2)]
    order, key = [], None
    for _ in range(6):
        key = made.get_next_key(world, key)
        order.append((key[0], 100 + key[0]))
    assert seen == order
    assert world.run_signed("bpf_for_each_map_elem", made.addr, 0, 0, 1) == -errno.EINVAL
