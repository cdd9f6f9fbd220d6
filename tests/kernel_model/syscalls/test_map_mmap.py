# SPDX-License-Identifier: GPL-2.0-only
"""mmap(2) of arrays and ring buffers, and waiting for them: everybody sees one memory."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterator

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.isa.asm import assemble
from sim import Machine
from sim.process import Process
from sim.userspace.bpf import Bpf, SyscallError

MMAP, MUNMAP, CLOSE, POLL, EPOLL_WAIT, EPOLL_CTL, EPOLL_CREATE1 = 9, 11, 3, 7, 232, 233, 291
READ, WRITE, EXEC = 1, 2, 4
SHARED, PRIVATE = 1, 2
ARRAY, RINGBUF, HASH, XDP = 2, 27, 1, 6
MMAPABLE, RDONLY_FD, WRONLY_FD, RDONLY_PROG = 1 << 10, 1 << 3, 1 << 4, 1 << 7
PAGE = 4096
EPOLLIN, EPOLLERR, EPOLLRDNORM, EPOLLET, EPOLLONESHOT = 1, 8, 0x40, 1 << 31, 1 << 30
ADD, DEL, MOD = 1, 2, 3


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine.boot() as booted:
        yield booted


@pytest.fixture
def process(machine: Machine) -> Process:
    return machine.process()


def mmap(
    process: Process, fd: int, size: int, prot: int = READ | WRITE, flags: int = SHARED, off: int = 0
) -> int:
    return process.syscall(MMAP, 0, size, prot, flags, fd, off)


def test_an_array_is_one_memory(process: Process) -> None:
    """What either side writes, the other reads; twice mapped too."""
    bpf = Bpf(process)
    fd = bpf.map_create(ARRAY, 4, 8, 1000, map_flags=MMAPABLE)
    first, second = mmap(process, fd, 8000), mmap(process, fd, PAGE, READ, off=PAGE)
    assert min(first, second) > 0
    process.write(first + 8 * 3, b"abcdefgh")
    assert bpf.map_lookup(fd, (3).to_bytes(4, "little"), 8) == b"abcdefgh"
    bpf.map_update(fd, (700).to_bytes(4, "little"), b"12345678")
    assert process.read(first + 8 * 700, 8) == process.read(second + 8 * 700 - PAGE, 8) == b"12345678"


def test_the_memory_outlives_the_descriptor(machine: Machine, process: Process) -> None:
    """The mapping holds the map; when its last part goes, so does the map."""
    bpf = Bpf(process)
    fd = bpf.map_create(ARRAY, 4, 8, 1000, map_flags=MMAPABLE)
    at = mmap(process, fd, 8000)
    process.write(at, b"still here")
    bpf.close(fd)
    assert process.read(at, 10) == b"still here"
    assert len(machine.kernel.maps) == 1
    assert process.syscall(MUNMAP, at, PAGE) == 0
    assert len(machine.kernel.maps) == 1
    assert process.syscall(MUNMAP, at + PAGE, PAGE) == 0
    assert len(machine.kernel.maps) == 0


def test_exit_gives_the_map_back(machine: Machine, process: Process) -> None:
    used = machine._pages.used
    other = machine.process()
    fd = Bpf(other).map_create(ARRAY, 4, 8, 1000, map_flags=MMAPABLE)
    other.write(mmap(other, fd, 8000), b"x")
    other.syscall(60, 0)
    assert len(machine.kernel.maps) == 0
    assert machine._pages.used <= used + 16 * PAGE  # slabs and page tables that stay


def test_a_writable_mapping_forbids_freezing(process: Process) -> None:
    bpf = Bpf(process)
    fd = bpf.map_create(ARRAY, 4, 8, 10, map_flags=MMAPABLE)
    at, readable = mmap(process, fd, PAGE), mmap(process, fd, PAGE, READ)
    with pytest.raises(SyscallError) as refused:
        bpf.map_freeze(fd)
    assert refused.value.errno == errno.EBUSY
    process.syscall(MUNMAP, at, PAGE)
    bpf.map_freeze(fd)
    assert mmap(process, fd, PAGE) == -errno.EPERM
    assert process.read(readable, 8) == bytes(8)


def test_maps_survive_a_snapshot(machine: Machine, process: Process) -> None:
    bpf = Bpf(process)
    fd = bpf.map_create(ARRAY, 4, 8, 10, map_flags=MMAPABLE)
    at = mmap(process, fd, PAGE)
    process.write(at, b"before")
    saved = machine.snapshot()
    process.write(at, b"after!")
    machine.restore(saved)
    assert process.read(at, 6) == b"before"
    process.write(at + 8, b"12345678")
    assert bpf.map_lookup(fd, (1).to_bytes(4, "little"), 8) == b"12345678"


def test_a_ring_buffer_survives_a_snapshot(machine: Machine) -> None:
    ring = Ring(machine)
    ring.produce(b"earlier.")
    saved = machine.snapshot()
    ring.produce(b"later...")
    assert ring.consume() == [b"earlier.", b"later..."]
    machine.restore(saved)
    ring.produce(b"instead.")
    assert ring.consume() == [b"earlier.", b"instead."]


def test_a_ring_buffer_gives_its_pages_back(machine: Machine, process: Process) -> None:
    bpf = Bpf(process)
    bpf.close(bpf.map_create(RINGBUF, 0, 0, 16 * PAGE))
    used = machine._pages.used
    fd = bpf.map_create(RINGBUF, 0, 0, 16 * PAGE)
    at = mmap(process, fd, 33 * PAGE, READ)
    process.read(at, 33 * PAGE)
    bpf.close(fd)
    assert machine._pages.used >= used + 19 * PAGE
    process.syscall(MUNMAP, at, 33 * PAGE)
    # Page tables of the mappings stay.
    assert machine._pages.used <= used + 4 * PAGE
    assert machine.kernel.vmaps.live == {}


# (map type, key, value, entries, flags), then (size, rights, flags, offset).
MAPPINGS = [
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ | WRITE, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (8000, READ, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (2 * PAGE + 1, READ, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ, SHARED, PAGE)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ, SHARED, 2 * PAGE)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ, SHARED, 100)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ, PRIVATE, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (PAGE, READ | EXEC, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE), (0, READ, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE | RDONLY_FD), (PAGE, READ, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE | RDONLY_FD), (PAGE, READ | WRITE, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE | WRONLY_FD), (PAGE, WRITE, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE | RDONLY_PROG), (PAGE, READ, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, MMAPABLE | RDONLY_PROG), (PAGE, READ | WRITE, SHARED, 0)),
    ((ARRAY, 4, 8, 1000, 0), (PAGE, READ, SHARED, 0)),
    ((HASH, 4, 8, 1000, 0), (PAGE, READ, SHARED, 0)),
    ((HASH, 4, 8, 1000, 0), (PAGE, READ, PRIVATE, 0)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (PAGE, READ | WRITE, SHARED, 0)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (2 * PAGE, READ | WRITE, SHARED, 0)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (PAGE, READ | WRITE, SHARED, PAGE)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (5 * PAGE, READ, SHARED, PAGE)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (6 * PAGE, READ, SHARED, 0)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (6 * PAGE, READ, SHARED, PAGE)),
    ((RINGBUF, 0, 0, 2 * PAGE, 0), (PAGE, READ, PRIVATE, 0)),
]


@host_kernel
@pytest.mark.parametrize(("made", "mapped"), MAPPINGS)
def test_what_can_be_mapped(
    process: Process, made: tuple[int, int, int, int, int], mapped: tuple[int, int, int, int]
) -> None:
    """The same errno as the host's."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    size, prot, flags, off = mapped
    fd = Bpf(HostProcess()).map_create(*made[:4], map_flags=made[4])
    at = libc.mmap(None, size, prot, flags, fd, off)
    failed = at == ctypes.c_void_p(-1).value
    expected = ctypes.get_errno() if failed else 0
    if not failed:
        libc.munmap(ctypes.c_void_p(at), size)
    os.close(fd)
    got = mmap(process, Bpf(process).map_create(*made[:4], map_flags=made[4]), size, prot, flags, off)
    assert (-got if got < 0 else 0) == expected, process.last_error


# A record with the packet's second word; the first byte of the packet says how.
PRODUCER = """
	r6 = *(u32 *)(r1 +0)
	r2 = *(u32 *)(r1 +4)
	r3 = r6
	r3 += 14
	if r3 > r2 goto out
	r7 = *(u8 *)(r6 +0)
	r8 = *(u8 *)(r6 +1)
	r1 = map_fd({fd}, 0)
	r2 = 8
	r3 = 0
	call 131
	if r0 == 0 goto out
	r1 = *(u64 *)(r6 +2)
	*(u64 *)(r0 +0) = r1
	r1 = r0
	r2 = r8
	if r7 == 1 goto discard
	call 132
	goto out
discard:
	call 133
out:
	r0 = 2
	exit
"""
SUBMIT, DISCARD = 0, 1


class Ring:
    """A ring buffer with a producing program and a consuming process."""

    def __init__(self, machine: Machine, jit: bool = True) -> None:
        self.process = machine.process()
        self.bpf = Bpf(self.process)
        self.fd = self.bpf.map_create(RINGBUF, 0, 0, PAGE)
        self.prog = self.bpf.prog_load(XDP, assemble(PRODUCER.format(fd=self.fd)))[0]
        self.consumer = mmap(self.process, self.fd, PAGE)
        self.producer = mmap(self.process, self.fd, PAGE + 2 * PAGE, READ, off=PAGE)
        assert min(self.consumer, self.producer) > 0

    def produce(self, what: bytes, how: int = SUBMIT, flags: int = 0) -> None:
        packet = bytes([how, flags]) + what + bytes(16)
        assert self.bpf.prog_test_run(self.prog, packet).retval == 2

    def word(self, at: int) -> int:
        return int.from_bytes(self.process.read(at, 8), "little")

    def consume(self) -> list[bytes]:
        """As libbpf's ring_buffer__consume()."""
        found, position = [], self.word(self.consumer)
        while position < self.word(self.producer):
            at = self.producer + PAGE + position % PAGE
            header = int.from_bytes(self.process.read(at, 4), "little")
            assert not header >> 31
            size = header & 0x3FFF_FFFF
            if not header >> 30:
                found.append(self.process.read(at + 8, size))
            position += -(-(size + 8) // 8) * 8
            self.process.write(self.consumer, position.to_bytes(8, "little"))
        return found


@pytest.mark.parametrize("jit", [True, False])
def test_records_reach_the_process(jit: bool) -> None:
    """Through several rounds of the buffer, whose end and start are one."""
    with Machine.boot(jit=jit) as machine:
        ring = Ring(machine)
        for step in range(60):
            sent = [struct.pack("<II", step, number) for number in range(step % 7)]
            for what in sent:
                ring.produce(what)
                ring.produce(b"discarded"[:8], DISCARD)
            assert ring.consume() == sent


def test_a_full_buffer_takes_nothing(machine: Machine) -> None:
    ring = Ring(machine)
    for number in range(300):
        ring.produce(number.to_bytes(8, "little"))
    # A record is 16 bytes, and the buffer is never filled to the last byte.
    assert [int.from_bytes(record, "little") for record in ring.consume()] == list(range(PAGE // 16 - 1))
    ring.produce(b"again...")
    assert ring.consume() == [b"again..."]


class Waiter:
    """An epoll instance of a process of the simulator."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.fd = process.syscall(EPOLL_CREATE1, 0)
        self.at = process.alloc(PAGE)

    def ctl(self, operation: int, fd: int, events: int = 0) -> int:
        self.process.write(self.at, struct.pack("<IQ", events, fd))
        return self.process.syscall(EPOLL_CTL, self.fd, operation, fd, self.at)

    def wait(self) -> list[tuple[int, int]]:
        count = self.process.syscall(EPOLL_WAIT, self.fd, self.at, 8, 0)
        raw = self.process.read(self.at, 12 * count)
        return [(fd, events) for events, fd in struct.iter_unpack("<IQ", raw)]


class HostWaiter:
    """One of the host's."""

    def __init__(self) -> None:
        self.epoll = select.epoll()

    def ctl(self, operation: int, fd: int, events: int = 0) -> int:
        try:
            if operation == ADD:
                self.epoll.register(fd, events)
            elif operation == MOD:
                self.epoll.modify(fd, events)
            else:
                self.epoll.unregister(fd)
        except OSError as error:
            return -(error.errno or 0)
        return 0

    def wait(self) -> list[tuple[int, int]]:
        return [(fd, events) for fd, events in self.epoll.poll(0)]


class HostRing:
    """The same program and buffer on the host."""

    def __init__(self) -> None:
        self.process = HostProcess()
        self.bpf = Bpf(self.process)
        self.fd = self.bpf.map_create(RINGBUF, 0, 0, PAGE)
        self.prog = self.bpf.prog_load(XDP, assemble(PRODUCER.format(fd=self.fd)))[0]
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.consumer = libc.mmap(None, PAGE, READ | WRITE, SHARED, self.fd, 0)
        self.producer = libc.mmap(None, 3 * PAGE, READ, SHARED, self.fd, PAGE)

    def close(self) -> None:
        for fd in (self.prog, self.fd):
            os.close(fd)

    produce, word, consume = Ring.produce, Ring.word, Ring.consume


SCENES = {
    "ready when added": ["produce", "add", "wait", "wait", "consume", "wait"],
    "ready later": ["add", "wait", "produce", "wait", "wait", "consume", "wait", "produce", "wait"],
    "no wakeup": ["add", "quiet", "wait", "produce", "wait", "consume", "wait", "quiet", "forced", "wait"],
    "edge": ["edge", "produce", "wait", "wait", "produce", "wait", "consume", "produce", "wait", "wait"],
    "edge forced": ["edge", "produce", "wait", "forced", "wait", "wait"],
    "once": ["once", "produce", "wait", "wait", "consume", "produce", "wait", "rearm", "wait"],
    "gone": ["add", "produce", "del", "wait", "del", "add", "add", "wait"],
    "discarded": ["add", "discard", "wait", "consume", "wait"],
}


@host_kernel
@pytest.mark.parametrize("scene", SCENES)
def test_waiting_as_on_the_host(machine: Machine, scene: str) -> None:
    """epoll reports at the same steps with the same events."""
    ring, host = Ring(machine), HostRing()
    waiter, host_waiter = Waiter(ring.process), HostWaiter()
    for step in SCENES[scene]:
        pair: tuple[tuple[Ring | HostRing, Waiter | HostWaiter], ...] = ((ring, waiter), (host, host_waiter))
        answers = []
        for side, wait in pair:
            if step == "wait":
                answers.append([events for _, events in wait.wait()])
            elif step in ("add", "edge", "once"):
                extra = {"add": 0, "edge": EPOLLET, "once": EPOLLONESHOT}[step]
                answers.append([wait.ctl(ADD, side.fd, EPOLLIN | extra)])
            elif step == "rearm":
                answers.append([wait.ctl(MOD, side.fd, EPOLLIN | EPOLLONESHOT)])
            elif step == "del":
                answers.append([wait.ctl(DEL, side.fd)])
            elif step == "consume":
                answers.append([len(side.consume())])
            else:
                how = DISCARD if step == "discard" else SUBMIT
                side.produce(b"12345678", how, {"quiet": 1, "forced": 2}.get(step, 0))
                answers.append([])
        assert answers[0] == answers[1], step
    host.close()


@host_kernel
def test_poll(machine: Machine) -> None:
    """A ring buffer is readable with data in it; a map without a poll of its own is an error."""
    ring, host = Ring(machine), HostRing()
    other, host_other = ring.bpf.map_create(HASH, 4, 4, 4), host.bpf.map_create(HASH, 4, 4, 4)
    at = ring.process.alloc(PAGE)
    for filled in (False, True):
        if filled:
            ring.produce(b"12345678")
            host.produce(b"12345678")
        poller = select.poll()
        poller.register(host.fd, EPOLLIN | EPOLLRDNORM)
        poller.register(host_other, EPOLLIN)
        expected = dict(poller.poll(0))
        raw = struct.pack("<iHHiHHiHH", ring.fd, EPOLLIN | EPOLLRDNORM, 0, other, EPOLLIN, 0, -1, 1, 0)
        ring.process.write(at, raw)
        assert ring.process.syscall(POLL, at, 3, 0) == len(expected)
        answers = struct.unpack("<iHHiHHiHH", ring.process.read(at, 24))[2::3]
        assert answers == (expected.get(host.fd, 0), expected[host_other], 0)
    os.close(host_other)
    host.close()


def test_a_wait_without_an_event_lets_time_pass(machine: Machine) -> None:
    ring = Ring(machine)
    waiter = Waiter(ring.process)
    assert waiter.ctl(ADD, ring.fd, EPOLLIN) == 0
    now = machine.kernel.clock.now()
    assert ring.process.syscall(EPOLL_WAIT, waiter.fd, waiter.at, 1, 25) == 0
    assert machine.kernel.clock.now() - now >= 25_000_000


@pytest.mark.parametrize(
    ("operation", "which", "expected"),
    [
        (ADD, "closed", errno.EBADF),
        (ADD, "prog", errno.EPERM),
        (MOD, "ring", errno.ENOENT),
        (DEL, "ring", errno.ENOENT),
        (7, "ring", errno.EINVAL),
    ],
)
def test_epoll_ctl_errors(machine: Machine, operation: int, which: str, expected: int) -> None:
    ring = Ring(machine)
    fds = {"closed": 99, "prog": ring.prog, "ring": ring.fd}
    assert Waiter(ring.process).ctl(operation, fds[which], EPOLLIN) == -expected


def test_a_closed_descriptor_is_not_watched_any_more(machine: Machine) -> None:
    ring = Ring(machine)
    waiter = Waiter(ring.process)
    fd = ring.bpf.map_create(RINGBUF, 0, 0, PAGE)
    assert waiter.ctl(ADD, fd, EPOLLIN) == 0
    ring.process.syscall(CLOSE, fd)
    assert waiter.wait() == []
