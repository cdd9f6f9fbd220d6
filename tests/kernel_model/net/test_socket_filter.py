# SPDX-License-Identifier: GPL-2.0-only
"""The classic socket example: packets counted by IP protocol, through SO_ATTACH_BPF."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from importlib import resources

import pytest

from guests import sock_example
from kernel_model.isa.asm import assemble
from sim import Machine
from sim.userspace.bpf import Bpf
from sim.userspace.pcap import parse_pcap

AF_PACKET, SOCK_RAW, SOL_SOCKET, SO_ATTACH_BPF, SO_DETACH_BPF = 17, 3, 1, 50, 27
SOCKET, BIND, SETSOCKOPT, RECVFROM, READ, CLOSE = 41, 49, 54, 45, 0, 3
SOCKET_FILTER, XDP, ARRAY = 1, 6, 2


@pytest.fixture
def sock(bpf: Bpf) -> int:
    return bpf.process.syscall(SOCKET, AF_PACKET, SOCK_RAW, 0x0300)


def put(bpf: Bpf, data: bytes) -> int:
    addr = bpf.process.alloc(4096)
    bpf.process.write(addr, data)
    return addr


def attach(bpf: Bpf, sock: int, fd: int) -> int:
    return bpf.process.syscall(
        SETSOCKOPT, sock, SOL_SOCKET, SO_ATTACH_BPF, put(bpf, struct.pack("<i", fd)), 4
    )


def load(bpf: Bpf, text: str, prog_type: int = SOCKET_FILTER) -> int:
    return bpf.prog_load(prog_type, assemble(text))[0]


def capture() -> list[bytes]:
    data = resources.files("guests").joinpath("bundled.pcap").read_bytes()
    return [packet.data for packet in parse_pcap(data, "bundled.pcap")]


def test_counts_by_protocol(machine: Machine, bpf: Bpf, sock: int, engine: bool) -> None:
    counters = bpf.map_create(ARRAY, sock_example.KEY_SIZE, sock_example.VALUE_SIZE, sock_example.MAX_ENTRIES)
    prog = bpf.prog_load(SOCKET_FILTER, sock_example.instructions(counters))[0]
    assert attach(bpf, sock, prog) == 0
    machine.use_engine(jit=engine)
    frames = [each for each in capture() if len(each) > 23]
    for each in frames:
        machine.nic[0].inject(each)
    machine.run_until_idle()
    expected = Counter(each[23] for each in frames)
    for protocol in range(256):
        value = bpf.map_lookup(counters, struct.pack("<I", protocol), 8)
        assert int.from_bytes(value or b"", "little") == expected[protocol], protocol
    assert bpf.process.syscall(RECVFROM, sock, put(bpf, b""), 100, 0, 0, 0) == -errno.EAGAIN


def test_the_filter_cuts_what_is_kept(machine: Machine, bpf: Bpf, sock: int, engine: bool) -> None:
    attach(bpf, sock, load(bpf, "r0 = 20\nexit"))
    machine.use_engine(jit=engine)
    machine.nic[0].inject(bytes(range(60)))
    machine.nic[0].inject(bytes(range(15)))
    machine.run_until_idle()
    at = put(bpf, b"")
    assert bpf.process.syscall(RECVFROM, sock, at, 4096, 0, 0, 0) == 20
    assert bpf.process.read(at, 20) == bytes(range(20))
    assert bpf.process.syscall(READ, sock, at, 4096) == 15


def test_without_a_filter_everything_comes(machine: Machine, bpf: Bpf, sock: int) -> None:
    machine.nic[1].inject(bytes(range(60)))
    machine.run_until_idle()
    at = put(bpf, b"")
    assert bpf.process.syscall(RECVFROM, sock, at, 30, 0, 0, 0) == 30, "cut to the room"
    assert bpf.process.syscall(RECVFROM, sock, at, 30, 0, 0, 0) == -errno.EAGAIN


def test_bound_to_one_card(machine: Machine, bpf: Bpf, sock: int) -> None:
    where = put(bpf, struct.pack("<HHiHBB8x", AF_PACKET, 0, 3, 0, 0, 0))
    assert bpf.process.syscall(BIND, sock, where, 20) == 0
    for card in machine.nic:
        card.inject(bytes([card.index]) * 60)
    machine.run_until_idle()
    at = put(bpf, b"")
    assert bpf.process.syscall(RECVFROM, sock, at, 4096, 0, 0, 0) == 60
    assert bpf.process.read(at, 1) == b"\1"
    assert bpf.process.syscall(RECVFROM, sock, at, 4096, 0, 0, 0) == -errno.EAGAIN


def test_xdp_comes_first(machine: Machine, bpf: Bpf, sock: int) -> None:
    bpf.link_create(load(bpf, "r0 = 1\nexit", XDP), 2, 37)
    machine.nic[0].inject(bytes(60))
    machine.run_until_idle()
    assert bpf.process.syscall(RECVFROM, sock, put(bpf, b""), 100, 0, 0, 0) == -errno.EAGAIN


def test_closing_frees_socket_and_filter(machine: Machine, bpf: Bpf) -> None:
    live = set(machine.kernel.alloc.live_objects())
    sock = bpf.process.syscall(SOCKET, AF_PACKET, SOCK_RAW, 0)
    prog = load(bpf, "r0 = 0\nexit")
    attach(bpf, sock, prog)
    bpf.close(prog)
    assert len(machine.kernel.progs) == 1, "the socket holds it"
    machine.nic[0].inject(bytes(60))
    machine.run_until_idle()
    bpf.close(sock)
    assert len(machine.kernel.progs) == 0
    assert machine.kernel.net.sockets == []
    assert set(machine.kernel.alloc.live_objects()) == live


def test_replacing_and_detaching(machine: Machine, bpf: Bpf, sock: int) -> None:
    for text in ("r0 = 0\nexit", "r0 = 1\nexit"):
        prog = load(bpf, text)
        assert attach(bpf, sock, prog) == 0
        bpf.close(prog)
    assert len(machine.kernel.progs) == 1
    detach = (SETSOCKOPT, sock, SOL_SOCKET, SO_DETACH_BPF, put(bpf, bytes(4)), 4)
    assert bpf.process.syscall(*detach) == 0
    assert len(machine.kernel.progs) == 0
    assert bpf.process.syscall(*detach) == -errno.ENOENT


def test_errors(machine: Machine, bpf: Bpf, sock: int) -> None:
    call = bpf.process.syscall
    xdp, four = load(bpf, "r0 = 1\nexit", XDP), put(bpf, struct.pack("<i", 900))
    assert attach(bpf, sock, xdp) == -errno.EINVAL
    assert attach(bpf, sock, 900) == -errno.EBADF
    assert attach(bpf, sock, sock) == -errno.EINVAL
    assert attach(bpf, 0, xdp) == -errno.ENOTSOCK
    assert call(SETSOCKOPT, sock, SOL_SOCKET, SO_ATTACH_BPF, four, 3) == -errno.EINVAL
    assert call(SETSOCKOPT, sock, SOL_SOCKET, SO_ATTACH_BPF, 0x10, 4) == -errno.EFAULT
    assert call(SETSOCKOPT, sock, SOL_SOCKET, 9999, four, 4) == -errno.ENOPROTOOPT
    assert call(SOCKET, 2, 1, 0) == -errno.EAFNOSUPPORT
    assert call(BIND, sock, put(bpf, struct.pack("<HHi", AF_PACKET, 0, 99)), 20) == -errno.ENODEV
    assert call(BIND, sock, put(bpf, bytes(20)), 20) == -errno.EINVAL
    assert call(BIND, sock, 0x10, 20) == -errno.EFAULT
    user = machine.process(uid=1000)
    assert user.syscall(SOCKET, AF_PACKET, SOCK_RAW, 0) == -errno.EPERM


def test_a_slow_reader_loses_frames(machine: Machine, bpf: Bpf, sock: int) -> None:
    """The receive queue is bounded."""
    for _ in range(1100):
        machine.nic[0].inject(bytes(60))
    machine.run_until_idle()
    (queued,) = machine.kernel.net.sockets
    assert (len(queued.queue), queued.dropped) == (1024, 76)
