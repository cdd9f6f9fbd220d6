# SPDX-License-Identifier: GPL-2.0-only
"""Converted programs on both engines: against cases, against an interpreter of classic BPF, and the host."""

from __future__ import annotations

import ctypes
import errno
import random
import socket
from collections.abc import Iterator, Sequence

import pytest
from classic_world import (
    PREDICTABLE,
    SKB_FIELDS,
    Case,
    interpret,
    ipv4,
    ipv6,
    load_cases,
    programs,
    run_both,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_model.classic.check import ClassicError, check_classic
from kernel_model.classic.insn import SOCK_FPROG, SockFilter, encode
from kernel_model.classic.prog import create_seccomp_filter, create_socket_filter
from kernel_model.classic.table import CLASSIC_INSNS
from kernel_model.classic.text import assemble
from kernel_model.errors import NotModelled
from sim import Machine

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot(seed=7) as booted:
        yield booted


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case.name)
def test_case(machine: Machine, case: Case) -> None:
    prog = create_socket_filter(machine.kernel, assemble(case.program))
    assert run_both(machine, prog, case.packet, case.fields) == [case.returns] * 2
    prog.put(machine.kernel)


@QUICK
@given(insns=programs(), packet=st.binary(min_size=14, max_size=90))
def test_random_programs_mean_what_classic_bpf_means(
    machine: Machine, insns: list[SockFilter], packet: bytes
) -> None:
    packet = b"\x04" * 6 + packet[6:]
    check_classic(insns)
    prog = create_socket_filter(machine.kernel, insns)
    assert run_both(machine, prog, packet, SKB_FIELDS) == [interpret(insns, packet, PREDICTABLE)] * 2
    prog.put(machine.kernel)


def test_random_numbers_come_from_the_kernels_generator(machine: Machine) -> None:
    prog = create_socket_filter(machine.kernel, assemble("ld rand\nret a"))
    drawn = {number for _ in range(4) for number in run_both(machine, prog, bytes(20), {})}
    assert len(drawn) == 8
    prog.put(machine.kernel)


_TCP = bytes(12) + b"\x80" + bytes(19)
_UDP = bytes(8) + b"payload"
_TAG = b"\x81\x00\x00\x05"
POFFS = {
    "tcp with options": (ipv4(6, _TCP), 14 + 20 + 32),
    "tcp behind ip options": (ipv4(6, _TCP, options=bytes(8)), 14 + 28 + 32),
    "tcp cut before its length": (ipv4(6, bytes(8)), 34),
    "udp": (ipv4(17, _UDP), 42),
    "icmp": (ipv4(1, bytes(8)), 42),
    "sctp": (ipv4(132, bytes(12)), 46),
    "unknown transport": (ipv4(99, bytes(12)), 34),
    "first fragment": (ipv4(17, _UDP, fragment=0x2000), 42),
    "later fragment": (ipv4(17, _UDP, fragment=0x10), 34),
    "ipip": (ipv4(4, ipv4(17, _UDP)[14:]), 62),
    "udp over ipv6": (ipv6(17, _UDP), 62),
    "ipv6 options and fragment": (ipv6(0, b"\x2c\0" + bytes(6) + b"\x11\0\0\x01" + bytes(4) + _UDP), 78),
    "ipv6 later fragment": (ipv6(44, b"\x11\0\0\x08" + bytes(4) + _UDP), 62),
    "vlan in the frame": (ipv4(17, _UDP)[:12] + _TAG + ipv4(17, _UDP)[12:], 46),
    "arp": (bytes(12) + b"\x08\x06" + bytes(28), 14),
    "unknown protocol": (bytes(12) + b"\x12\x34" + bytes(28), 0),
    "header length too small": (bytes(12) + b"\x08\x00\x44" + bytes(30), 0),
    "cut header": (ipv4(17, _UDP)[:30], 0),
}


@pytest.mark.parametrize("name", POFFS)
def test_payload_offset(machine: Machine, name: str) -> None:
    packet, expected = POFFS[name]
    prog = create_socket_filter(machine.kernel, assemble("ld poff\nret a"))
    assert run_both(machine, prog, packet, {}) == [expected] * 2
    prog.put(machine.kernel)


def test_payload_offset_of_what_is_not_dissected(machine: Machine) -> None:
    prog = create_socket_filter(machine.kernel, assemble("ld poff\nret a"))
    with pytest.raises(NotModelled, match="GRE"):
        run_both(machine, prog, ipv4(47, bytes(8)), {})
    prog.put(machine.kernel)


def test_conversion_begins_as_linux_begins_it(machine: Machine) -> None:
    packet = create_socket_filter(machine.kernel, assemble("ldb [x + 2]\nret a"))
    plain = create_socket_filter(machine.kernel, assemble("ld #len\nst M[3]\nret #5"))
    layout = machine.kernel.layout["sk_buff"]
    assert [insn.code for insn in packet.verified.insns[:7]] == [0xAC, 0xAC, 0xBF, 0x79, 0x61, 0x61, 0x1C]
    assert packet.verified.insns[3][1:4] == (8, 6, layout.offset("data"))
    assert [insn.code for insn in plain.verified.insns] == [0xAC, 0xAC, 0xBF, 0x61, 0x63, 0xB4, 0x95]
    assert plain.verified.subprogs[0].stack_depth == 16
    assert packet.request.was_classic
    for prog in (packet, plain):
        assert prog.id == 0 and prog not in list(machine.kernel.progs)
        addr = prog.addr
        prog.put(machine.kernel)
        assert addr not in machine.kernel.progs_by_addr


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("jeq #5, a1\n ret #0\na1: ret #1", [(0x15, 5, 2)]),
        ("jeq #5, a1, a2\na1: ret #0\na2: ret #1", [(0x55, 5, 2)]),
        ("jgt #5, a1, a2\na1: ret #0\na2: ret #1", [(0xB5, 5, 2)]),
        ("jge #5, a1, a2\na1: ret #0\na2: ret #1", [(0xA5, 5, 2)]),
        ("jset #5, a1, a2\na1: ret #0\na2: ret #1", [(0x45, 5, 1), (0x05, 0, 2)]),
        ("jeq #0x80000000, a1\n ret #0\na1: ret #1", [(0xB4, -(1 << 31), 0), (0x1D, 0, 2)]),
    ],
)
def test_jumps_become_the_jumps_of_linux(
    machine: Machine, text: str, slots: list[tuple[int, int, int]]
) -> None:
    prog = create_socket_filter(machine.kernel, assemble(text))
    made = [(i.code, i.imm, i.off) for i in prog.verified.insns[3 : 3 + len(slots)]]
    prog.put(machine.kernel)
    assert made == slots


def test_seccomp_filter_reads_its_context(machine: Machine) -> None:
    insns = assemble("ld [4]\n jne #0xc000003e, kill\n ld [0]\n tax\n ld #len\n add x\n ret a\nkill: ret #0")
    prog = create_seccomp_filter(machine.kernel, insns)
    at = machine.kernel.alloc.kmalloc(64)
    for arch, expected in ((0xC000003E, 64 + 59), (0x40000003, 0)):
        data = (59).to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(56)
        machine.kernel.memory.write(at, data)
        for jit in (True, False):
            prog.use_engine(machine.kernel, jit)
            assert prog.run(machine.kernel, at) == expected
    assert prog.classic == tuple(insns)
    prog.put(machine.kernel)


# The host: filters on a pair of sockets that this process made for itself.


class HostSocket:
    """A pair of connected datagram sockets; the second carries the filter."""

    def __init__(self) -> None:
        self.sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.setblocking(False)

    def attach(self, insns: Sequence[SockFilter]) -> int:
        code = ctypes.create_string_buffer(encode(insns))
        try:
            self.receiver.setsockopt(
                socket.SOL_SOCKET, 26, SOCK_FPROG.pack(len(insns), ctypes.addressof(code))
            )
        except OSError as error:
            return error.errno or 0
        return 0

    def kept(self, packet: bytes) -> int:
        self.sender.send(packet)
        try:
            return len(self.receiver.recv(1 << 16))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def host() -> Iterator[HostSocket]:
    try:
        pair = HostSocket()
    except OSError as error:
        pytest.skip(f"no pair of local sockets: {error}")
    if pair.attach(assemble("ret #1")):
        pytest.skip("this machine attaches no classic filters")
    yield pair
    pair.close()


def _our_answer(insns: Sequence[SockFilter]) -> int:
    try:
        check_classic(insns)
    except ClassicError as error:
        return error.errno
    return 0


@pytest.mark.host_kernel
def test_checker_against_the_host(host: HostSocket) -> None:
    rng = random.Random(3)
    codes = sorted(CLASSIC_INSNS)
    answers = []
    for _ in range(600):
        insns = []
        count = rng.randrange(1, 9)
        for _ in range(count):
            code = rng.choice(codes) if rng.random() < 0.97 else rng.randrange(1 << 16)
            k = rng.choice((0, 1, 3, 15, 16, 31, 32, 0xFFFFF000, 0xFFFFF03C, 0xFFFFF040, 0xFFFFFFFF))
            insns.append(SockFilter(code, rng.randrange(3), rng.randrange(3), k))
        if rng.random() < 0.9:
            insns[-1] = SockFilter(rng.choice((0x06, 0x16)), 0, 0, 1)
        answers.append(host.attach(insns))
        assert _our_answer(insns) == answers[-1], insns
    assert answers.count(0) > 50 and answers.count(errno.EINVAL) > 50


@pytest.mark.host_kernel
@settings(QUICK, max_examples=100)
@given(data=st.data(), packet=st.binary(min_size=300, max_size=320))
def test_results_against_the_host(
    machine: Machine, host: HostSocket, data: st.DataObject, packet: bytes
) -> None:
    byte = data.draw(st.integers(0, 3))
    tail = assemble(f"rsh #{8 * byte}\nand #0xff\nadd #1\nret a")
    insns = data.draw(programs(tail, host=True))
    assert host.attach(insns) == 0
    prog = create_socket_filter(machine.kernel, insns)
    results = run_both(machine, prog, packet, {})
    prog.put(machine.kernel)
    assert results == [host.kept(packet)] * 2


@pytest.mark.host_kernel
def test_program_too_large_for_a_socket_against_the_host(machine: Machine, host: HostSocket) -> None:
    """The limit is met where the host meets it: in the size of the converted program."""
    layout = machine.kernel.layout["bpf_prog"]
    for count in (1700, 4095):
        insns = assemble("ldb [x + 1]\n" * count + "ret a")
        prog = create_socket_filter(machine.kernel, insns)
        size = prog.bytes(machine.kernel)
        prog.put(machine.kernel)
        assert size > layout.offset("insnsi") + 8 * 9 * count
        assert (host.attach(insns) == errno.ENOMEM) == (size >= 128 << 10), size
        assert host.attach(assemble("ret #1")) == 0


@pytest.mark.host_kernel
@pytest.mark.parametrize("count", [3600, 4000])
def test_jump_in_a_long_program_against_the_host(machine: Machine, host: HostSocket, count: int) -> None:
    """Too large either way for a socket, but a jump that far behind is refused before that is looked at."""
    insns = assemble("ldb [x + 1]\n" * count + "jeq #1, a1\nret #1\na1: ret a")
    try:
        create_socket_filter(machine.kernel, insns).put(machine.kernel)
        ours = errno.ENOMEM
    except ClassicError as error:
        ours = error.errno
    assert ours == host.attach(insns)
