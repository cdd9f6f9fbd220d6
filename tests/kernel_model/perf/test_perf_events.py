# SPDX-License-Identifier: GPL-2.0-only
"""bpf_perf_event_output() into mapped rings: samples, lost records, errors, wake-ups, lifetimes."""

from __future__ import annotations

import errno
import struct

import pytest

from kernel_model.isa import macros as m
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import BPF_ADD, BPF_DW
from kernel_model.kernel import Kernel
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError
from sim.userspace.perf_buffer import Lost, PerfBuffer, Sample

PERF_ARRAY, XDP, SCHED_CLS = 4, 6, 3
CURRENT_CPU = 0xFFFF_FFFF
PACKET = bytes(range(64))
PRESERVE_ELEMS = 1 << 11


def program(map_fd: int, flags: int, size: int = 16) -> list[Insn]:
    """Output ``size`` bytes of the stack (1, 2 as words); the helper's result is returned."""
    return m.program(
        m.BPF_MOV64_IMM(2, 1),
        m.BPF_STX_MEM(BPF_DW, 10, 2, -16),
        m.BPF_MOV64_IMM(2, 2),
        m.BPF_STX_MEM(BPF_DW, 10, 2, -8),
        m.BPF_LD_MAP_FD(2, map_fd),
        m.BPF_LD_IMM64(3, flags),
        m.BPF_MOV64_REG(4, 10),
        m.BPF_ALU64_IMM(BPF_ADD, 4, -16),
        m.BPF_MOV64_IMM(5, size),
        m.BPF_EMIT_CALL(25),
        m.BPF_EXIT_INSN(),
    )


DATA = struct.pack("<QQ", 1, 2)


def signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


class Bench:
    """A machine with a perf event array and a program that outputs into it."""

    def __init__(self, machine: Machine, flags: int = CURRENT_CPU, kind: int = XDP, size: int = 16) -> None:
        self.machine = machine
        self.bpf = Bpf(machine.process())
        self.map = self.bpf.map_create(PERF_ARRAY, 4, 4, 4)
        self.prog = self.bpf.prog_load(kind, program(self.map, flags, size))[0]

    def run(self) -> int:
        return signed(self.bpf.prog_test_run(self.prog, PACKET).retval)


@pytest.mark.parametrize("kind", [XDP, SCHED_CLS])
def test_samples_reach_the_reader(machine: Machine, engine: bool, kind: int) -> None:
    machine.use_engine(jit=engine)
    bench = Bench(machine, CURRENT_CPU | 5 << 32, kind)
    buffer = PerfBuffer(bench.bpf, bench.map, 1)
    assert list(buffer.read()) == []
    assert [bench.run() for _ in range(3)] == [0, 0, 0]
    # The record is filled up to a multiple of eight bytes; what stands there is whatever did before.
    found = list(buffer.read())
    assert [each.data[:21] for each in found if isinstance(each, Sample)] == [DATA + PACKET[:5]] * 3
    assert {len(each.data) for each in found if isinstance(each, Sample)} == {28}
    assert list(buffer.read()) == []


def test_a_full_ring_loses_samples_and_says_so(machine: Machine) -> None:
    bench = Bench(machine)
    buffer = PerfBuffer(bench.bpf, bench.map, 1, pages=1)
    # 32 bytes a record (header, size, 16 bytes, padding); one byte of the ring always stays free.
    results = [bench.run() for _ in range(140)]
    assert results == [0] * 127 + [-errno.ENOSPC] * 13
    assert len(list(buffer.read())) == 127
    assert bench.run() == 0
    found = list(buffer.read())
    assert len(found) == 2 and found[0] == Lost(0, 13)
    assert isinstance(found[1], Sample) and found[1].data[:16] == DATA


def test_records_go_around_the_end(machine: Machine) -> None:
    bench = Bench(machine, CURRENT_CPU | 9 << 32)
    buffer = PerfBuffer(bench.bpf, bench.map, 1, pages=1)
    for _ in range(300):
        assert bench.run() == 0
        (found,) = buffer.read()
        assert isinstance(found, Sample) and found.data[:25] == DATA + PACKET[:9]


@pytest.mark.parametrize(
    ("flags", "result"),
    [
        (0, 0),
        (1, -errno.EOPNOTSUPP),
        (2, -errno.ENOENT),
        (4, -errno.E2BIG),
        (CURRENT_CPU - 1, -errno.E2BIG),
        (CURRENT_CPU | 64 << 32, 0),
        (CURRENT_CPU | 65 << 32, -errno.EFAULT),
        (1 << 52, -errno.EINVAL),
    ],
)
def test_errors(flags: int, result: int) -> None:
    with Machine.boot(cpus=2) as machine:
        bench = Bench(machine, flags)
        PerfBuffer(bench.bpf, bench.map, 2)
        assert bench.run() == result


def test_without_events_there_is_nobody(machine: Machine) -> None:
    assert Bench(machine).run() == -errno.ENOENT


def test_an_event_without_a_ring_has_no_room(machine: Machine) -> None:
    bench = Bench(machine)
    process, at = bench.bpf.process, bench.bpf.process.alloc(112)
    process.write(at, struct.pack("<IIQQQ", 1, 112, 10, 1, 1 << 10))
    fd = process.syscall(298, at, -1, 0, -1, 0)
    bench.bpf.map_update(bench.map, bytes(4), struct.pack("<I", fd))
    assert bench.run() == -errno.ENOSPC
    assert process.syscall(16, fd, 0x2401, 0) == 0
    assert bench.run() == -errno.EOPNOTSUPP
    assert process.syscall(16, fd, 0x2400, 0) == 0
    assert process.syscall(9, 0, 3 * 4096, 3, 1, fd, 0) > 0
    assert bench.run() == 0
    assert process.syscall(9, 0, 2 * 4096, 3, 1, fd, 0) == -errno.EINVAL


@pytest.mark.parametrize("size", [4, 6, 7])
def test_rings_of_other_sizes_are_refused(machine: Machine, size: int) -> None:
    bench = Bench(machine)
    with pytest.raises(SyscallError) as error:
        PerfBuffer(bench.bpf, bench.map, 1, pages=size - 1)
    assert error.value.errno == errno.EINVAL


def test_samples_in_every_modelled_form(machine: Machine) -> None:
    bench = Bench(machine)
    process, at = bench.bpf.process, bench.bpf.process.alloc(112)
    kinds = 1 << 16 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 10
    process.write(at, struct.pack("<IIQQQ", 1, 112, 10, 1, kinds))
    fd = process.syscall(298, at, -1, 0, -1, 0)
    ring = process.syscall(9, 0, 2 * 4096, 3, 1, fd, 0)
    bench.bpf.map_update(bench.map, bytes(4), struct.pack("<I", fd))
    assert bench.run() == 0
    head, misc, size = struct.unpack("<IHH", process.read(ring + 4096, 8))
    assert (head, misc, size) == (9, 1, 8 + 5 * 8 + 4 + 16 + 4)
    ident, pid, tid, time, cpu, _, period, raw = struct.unpack("<QIIQIIQI", process.read(ring + 4104, 44))
    assert (ident, cpu, period, raw) == (1, 0, 0, 20)
    assert pid == tid == process.task.pid and 0 < time <= machine.kernel.clock.now()
    assert process.read(ring + 4148, 16) == DATA


def test_readers_are_woken_by_count(machine: Machine) -> None:
    bench = Bench(machine)
    buffer = PerfBuffer(bench.bpf, bench.map, 1, wakeup_events=3)
    process, kernel = bench.bpf.process, machine.kernel
    event = process.task.files.find(buffer.fds[0]).obj
    polled = []
    for _ in range(6):
        bench.run()
        polled.append(event.poll(kernel))
    assert polled == [0, 0, 0x41, 0, 0, 0x41]


def _held(kernel: Kernel) -> int:
    return len(kernel.perf_events)


@pytest.mark.parametrize("preserve", [False, True])
def test_lifetimes(machine: Machine, preserve: bool) -> None:
    """A map's slots go with the descriptor that filled them, unless they are to be preserved."""
    bpf = Bpf(machine.process())
    keeper = Bpf(machine.process())
    made = bpf.map_create(PERF_ARRAY, 4, 4, 4, map_flags=PRESERVE_ELEMS if preserve else 0)
    other = keeper.call("MAP_GET_FD_BY_ID", map_id=1)[0]
    buffer = PerfBuffer(bpf, made, 1)
    bpf.close(buffer.fds[0])
    assert _held(machine.kernel) == 1
    bpf.close(made)
    bpf.process.syscall(60, 0)
    assert _held(machine.kernel) == preserve
    keeper.close(other)
    assert _held(machine.kernel) == 0


def test_what_is_not_modelled_and_what_is_wrong(machine: Machine) -> None:
    process = machine.process()
    at = process.alloc(4096)

    def opened(kind: int, config: int, pid: int, cpu: int, flags: int = 0, size: int = 112) -> int:
        process.write(at, struct.pack("<IIQQQ", kind, size, config, 1, 1 << 10))
        return process.syscall(298, at, pid, cpu, -1, flags)

    assert opened(1, 10, -1, -1) == -errno.EINVAL
    assert opened(1, 10, -1, 7) == -errno.EINVAL
    assert opened(1, 10, 999, -1) == -errno.ESRCH
    assert opened(1, 10, -1, 0, flags=16) == -errno.EINVAL
    assert opened(1, 10, -1, 0, size=8) == -errno.E2BIG
    assert opened(0, 0, -1, 0) == -errno.ENOENT
    assert machine.kernel.last_error is not None and machine.kernel.last_error.not_modelled
    fd = opened(1, 10, -1, 0)
    assert process.syscall(16, fd, 0x2405, 0) == -errno.ENOTTY
    assert process.syscall(16, 1, 0x2400, 0) == -errno.ENOTTY
    user = machine.process(uid=1000)
    spot = user.alloc(4096)
    user.write(spot, struct.pack("<IIQQQ", 1, 112, 10, 1, 1 << 10))
    assert user.syscall(298, spot, 0, -1, -1, 0) == -errno.EACCES
