# SPDX-License-Identifier: GPL-2.0-only
"""SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER and SO_GET_FILTER by system calls."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from kernel_model.classic.insn import SOCK_FPROG, SockFilter, encode
from kernel_model.classic.text import assemble
from sim import Machine
from sim.process import Process

SOL_SOCKET, ATTACH, DETACH, LOCK, ATTACH_BPF = 1, 26, 27, 44, 50
FRAME = b"\x02\0\0\0\0\x01" + bytes(6) + b"\x08\0" + bytes(range(60))
HALF = assemble("ldh [12]\n jne #0x800, drop\n ld #len\n rsh #1\n ret a\ndrop: ret #0")


class User:
    """A process with a packet socket."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.process: Process = machine.process()
        self.fd = self.process.syscall(41, 17, 3, 0)
        self.at = self.process.alloc(1 << 16)
        assert self.fd >= 0

    def option(self, name: int, value: bytes) -> int:
        self.process.write(self.at, value)
        return self.process.syscall(54, self.fd, SOL_SOCKET, name, self.at, len(value))

    def attach(self, insns: list[SockFilter], size: int = SOCK_FPROG.size) -> int:
        self.process.write(self.at + 64, encode(insns))
        return self.option(ATTACH, SOCK_FPROG.pack(len(insns), self.at + 64).ljust(size, b"\0")[:size])

    def receive(self, frame: bytes) -> bytes | None:
        self.machine.nic[0].inject(frame)
        self.machine.run_until_idle()
        got = self.process.syscall(45, self.fd, self.at, 4096, 0, 0, 0)
        if got == -errno.EAGAIN:
            return None
        return self.process.read(self.at, got)

    def get(self, name: int, size: int) -> tuple[int, int, bytes]:
        self.process.write(self.at, struct.pack("<i", size))
        result = self.process.syscall(55, self.fd, SOL_SOCKET, name, self.at + 64, self.at)
        return (
            result,
            int.from_bytes(self.process.read(self.at, 4), "little"),
            self.process.read(self.at + 64, 64),
        )


@pytest.fixture(params=[True, False], ids=["jit", "interpreter"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    with Machine.boot(seed=0, jit=request.param) as machine:
        yield User(machine)


def test_filter_cuts_and_drops(user: User) -> None:
    assert user.attach(HALF) == 0
    assert user.receive(FRAME) == FRAME[:37]
    assert user.receive(FRAME[:12] + b"\x08\x06" + FRAME[14:]) is None
    assert user.attach(assemble("ret #-1")) == 0
    assert user.receive(FRAME) == FRAME
    assert user.option(DETACH, bytes(4)) == 0
    assert user.option(DETACH, bytes(4)) == -errno.ENOENT
    assert user.receive(FRAME) == FRAME


def test_refused_programs_leave_the_old_one(user: User) -> None:
    assert user.attach(HALF) == 0
    assert user.attach([SockFilter(0x20, 0, 0, 0)]) == -errno.EINVAL
    assert "return" in str(user.process.last_error)
    assert user.attach([]) == -errno.EINVAL
    assert user.attach(HALF, size=8) == -errno.EINVAL
    assert user.option(ATTACH, SOCK_FPROG.pack(1, 0)) == -errno.EINVAL
    assert user.option(ATTACH, SOCK_FPROG.pack(1, 0x10000)) == -errno.EFAULT
    assert user.attach(assemble("ldb [x + 1]\n" * 4000 + "ret a")) == -errno.ENOMEM
    assert user.receive(FRAME) == FRAME[:37]


def test_locked_filters_stay(user: User) -> None:
    assert user.attach(HALF) == 0
    assert user.option(LOCK, struct.pack("<i", 1)) == 0
    assert user.get(LOCK, 4)[:2] == (0, 4)
    assert user.attach(assemble("ret #1")) == -errno.EPERM
    assert user.option(DETACH, bytes(4)) == -errno.EPERM
    assert user.option(LOCK, bytes(4)) == -errno.EPERM
    assert user.option(LOCK, struct.pack("<i", 1)) == 0
    assert user.receive(FRAME) == FRAME[:37]


def test_the_program_can_be_read_back(user: User) -> None:
    assert user.get(ATTACH, 0)[:2] == (0, 0)
    assert user.attach(HALF) == 0
    assert user.get(ATTACH, 0)[:2] == (0, len(HALF))
    assert user.get(ATTACH, 2)[0] == -errno.EINVAL
    result, count, data = user.get(ATTACH, 16)
    assert (result, count) == (0, len(HALF))
    assert data[: 8 * count] == encode(HALF)


def test_closing_the_socket_frees_the_program(user: User) -> None:
    assert user.attach(HALF) == 0
    assert len(user.machine.kernel.progs_by_addr) == 1
    assert user.process.syscall(3, user.fd) == 0
    assert not user.machine.kernel.progs_by_addr


def test_snapshots_hold_filters(user: User) -> None:
    assert user.attach(HALF) == 0
    before = user.machine.snapshot()
    assert user.option(DETACH, bytes(4)) == 0
    user.machine.restore(before)
    assert user.receive(FRAME) == FRAME[:37]
