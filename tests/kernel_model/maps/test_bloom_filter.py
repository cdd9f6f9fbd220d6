# SPDX-License-Identifier: GPL-2.0-only
"""Bloom filters: never a wrong no, through both doors; the host's says yes and no to the same values."""

from __future__ import annotations

import errno
import random

import pytest
from emulated import World
from host_bpf import BPF_PROG_TYPE_XDP, HostProcess, host_kernel, prog_load, test_run
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode
from kernel_model.maps.attr import ZERO_SEED, MapAttr
from kernel_model.maps.bloom_filter import BloomFilter
from kernel_model.maps.types import create
from sim.userspace.bpf import Bpf, SyscallError

BLOOM_FILTER = 30


def made_in(world: World, value_size: int, entries: int, hashes: int, flags: int = 0) -> BloomFilter:
    made = create(world, MapAttr(BLOOM_FILTER, 0, value_size, entries, flags, map_extra=hashes))
    assert isinstance(made, BloomFilter)
    world.register(made)
    return made


def peeked(world: World, made: BloomFilter, value: bytes) -> bool:
    try:
        made.peek(world, value)
    except KernelError as error:
        assert error.errno == errno.ENOENT
        return False
    return True


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    value_size=st.integers(1, 40),
    entries=st.integers(1, 300),
    hashes=st.integers(0, 15),
    seed=st.integers(0, 3),
)
def test_against_a_set(data: st.DataObject, value_size: int, entries: int, hashes: int, seed: int) -> None:
    world = World(seed=seed)
    made = made_in(world, value_size, entries, hashes)
    values = st.binary(min_size=value_size, max_size=value_size)
    buffer, pushed = world.buffer(bytes(value_size)), set()
    for value in data.draw(st.lists(values, max_size=12)):
        world.memory.write(buffer, value)
        if data.draw(st.booleans()):
            assert world.run("bpf_map_push_elem", made.addr, buffer, 0) == 0
        else:
            made.update(world, b"", value, 0)
        pushed.add(value)
    for value in [*pushed, *data.draw(st.lists(values, max_size=12))]:
        world.memory.write(buffer, value)
        found = peeked(world, made, value)
        assert world.run_signed("bpf_map_peek_elem", made.addr, buffer) == (0 if found else -errno.ENOENT)
        assert found or value not in pushed
    assert not world.traps


def test_few_wrong_answers_at_capacity() -> None:
    """With as many values as it was made for, and five hashes, about one in fifty or fewer is a wrong yes."""
    world, rng = World(seed=1), random.Random(1)
    made = made_in(world, 8, 400, 0)
    for _ in range(400):
        made.update(world, b"", rng.randbytes(8), 0)
    wrong = sum(peeked(world, made, rng.randbytes(8)) for _ in range(2000))
    assert 0 < wrong < 2000 // 25


@pytest.mark.parametrize(
    ("symbol", "flags", "expected"),
    [
        ("bpf_map_push_elem", 1, -errno.EINVAL),
        ("bpf_map_push_elem", 4, -errno.EINVAL),
        ("bpf_map_pop_elem", 0, -errno.EOPNOTSUPP),
        ("bpf_map_delete_elem", 0, -errno.EOPNOTSUPP),
        ("bpf_map_lookup_elem", 0, -errno.EINVAL),
        ("bpf_map_update_elem", 0, -errno.EINVAL),
    ],
)
def test_refusals(symbol: str, flags: int, expected: int) -> None:
    world = World()
    made = made_in(world, 8, 10, 0)
    assert world.run_signed(symbol, made.addr, world.buffer(bytes(8)), flags) == expected


_PROGRAM = """
	r7 = *(u32 *)(r1 +0)
	r8 = *(u32 *)(r1 +4)
	r2 = r7
	r2 += 64
	if r2 > r8 goto out
	r1 = *(u64 *)(r7 +8)
	*(u64 *)(r10 -8) = r1
	r9 = *(u8 *)(r7 +0)
	r1 = map_fd({fd}, 0)
	r2 = r10
	r2 += -8
	if r9 == 1 goto push
	call 89
	goto answer
push:
	r3 = 0
	call 87
answer:
	*(u64 *)(r7 +16) = r0
out:
	r0 = 2
	exit
"""


@host_kernel
@pytest.mark.parametrize(("size", "entries", "hashes"), [(8, 60, 0), (5, 60, 3), (7, 9, 1), (8, 300, 15)])
def test_beside_the_host(size: int, entries: int, hashes: int) -> None:
    """The same bits: the wrong answers are the same too. Programs and system calls on both sides."""
    rng, bpf, world = random.Random(size), Bpf(HostProcess()), World()
    fd = bpf.map_create(BLOOM_FILTER, 0, size, entries, map_flags=ZERO_SEED, map_extra=hashes)
    program = prog_load(encode(assemble(_PROGRAM.format(fd=fd))), BPF_PROG_TYPE_XDP)
    made = made_in(world, size, entries, hashes, ZERO_SEED)
    buffer = world.buffer(bytes(8))

    def by_program(push: bool, value: bytes) -> tuple[int, int]:
        packet = bytes([push]).ljust(8, b"\0") + value.ljust(8, b"\0")
        answer = int.from_bytes(test_run(program, packet.ljust(64, b"\0")).data[16:24], "little", signed=True)
        world.memory.write(buffer, value)
        symbol = "bpf_map_push_elem" if push else "bpf_map_peek_elem"
        return world.run_signed(symbol, made.addr, buffer, 0), answer

    for _ in range(entries):
        value = rng.randbytes(size)
        if rng.random() < 0.5:
            assert by_program(True, value) == (0, 0)
        else:
            made.update(world, b"", value, 0)
            bpf.map_update(fd, b"", value)
    answers = set()
    for _ in range(300):
        value = rng.randbytes(size)
        mine, theirs = by_program(False, value)
        assert mine == theirs
        answers.add(mine)
        at = bpf.process.alloc(16)
        bpf.process.write(at, value)
        try:
            bpf.call("MAP_LOOKUP_ELEM", map_fd=fd, value=at)
        except SyscallError as error:
            assert error.errno == errno.ENOENT and not peeked(world, made, value)
        else:
            assert peeked(world, made, value)
    # With fifteen hashes a wrong answer is too rare to wait for.
    assert answers == {0, -errno.ENOENT} or hashes == 15
    for closing in (program, fd):
        bpf.close(closing)
