# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors, files of the kernel, and the small system calls."""

from __future__ import annotations

import errno

import pytest

from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from kernel_model.syscalls.table import SYSCALLS, as_int, syscall
from kernel_model.sysctl import SYSCTLS
from sim import Machine
from sim.process import Process
from sim.userspace.bpf import Bpf

READ, WRITE, OPEN, CLOSE, DUP, OPENAT, CLOCK_GETTIME, GETRANDOM = 0, 1, 2, 3, 32, 257, 228, 318
JIT_ENABLE = "/proc/sys/net/core/bpf_jit_enable"
TRACE_PIPE = "/sys/kernel/tracing/trace_pipe"
KALLSYMS = "/proc/kallsyms"
UNMAPPED = 0x10


def put(process: Process, data: bytes) -> int:
    addr = process.alloc(max(len(data), 1))
    process.write(addr, data)
    return addr


def opened(process: Process, path: str, flags: int = 0) -> int:
    return process.syscall(OPEN, put(process, path.encode() + b"\0"), flags, 0)


def contents(process: Process, fd: int, size: int = 65536) -> bytes:
    at = process.alloc(size)
    got = process.syscall(READ, fd, at, size)
    assert got >= 0, got
    return process.read(at, got)


def test_every_call_has_its_linux_name() -> None:
    """Numbers of arch/x86/entry/syscalls/syscall_64.tbl."""
    assert {row.number: row.name for row in SYSCALLS.values()} | {
        0: "read", 1: "write", 2: "open", 3: "close", 9: "mmap", 11: "munmap", 12: "brk", 32: "dup",
        39: "getpid", 41: "socket", 45: "recvfrom", 49: "bind", 54: "setsockopt", 60: "exit", 83: "mkdir",
        84: "rmdir", 87: "unlink", 102: "getuid", 107: "geteuid", 186: "gettid", 228: "clock_gettime",
        231: "exit_group", 257: "openat", 318: "getrandom", 321: "bpf",
    } == {row.number: row.name for row in SYSCALLS.values()}  # fmt: skip
    with pytest.raises(ValueError, match="twice"):
        syscall(0, "again", 0)(len)


def test_descriptors(machine: Machine) -> None:
    process = machine.process()
    fd = opened(process, JIT_ENABLE)
    assert fd == 3
    copy = process.syscall(DUP, fd)
    assert copy == 4
    assert process.syscall(CLOSE, fd) == 0
    assert process.syscall(CLOSE, fd) == -errno.EBADF
    assert contents(process, copy) == b"1\n"
    assert contents(process, copy) == b"", "both share one position"
    assert opened(process, JIT_ENABLE) == fd, "the lowest free number"
    for number in (READ, WRITE):
        assert process.syscall(number, 99, put(process, b"x"), 1) == -errno.EBADF
    assert process.syscall(DUP, 99) == -errno.EBADF
    assert process.syscall(CLOSE, (1 << 32) + 4) == 0, "descriptors are ints"


def test_a_file_is_read_in_pieces(machine: Machine) -> None:
    process = machine.process()
    whole = contents(process, opened(process, KALLSYMS), 1 << 19)
    fd = opened(process, KALLSYMS)
    parts = []
    while part := contents(process, fd, 1000):
        parts.append(part)
    assert b"".join(parts) == whole
    assert len(parts) > 3


def test_sysctls(machine: Machine) -> None:
    process = machine.process()

    def write(text: bytes) -> int:
        fd = opened(process, JIT_ENABLE, 1)
        result = process.syscall(WRITE, fd, put(process, text), len(text))
        process.syscall(CLOSE, fd)
        return result

    for path, row in SYSCTLS.items():
        fd = opened(process, f"/proc/sys/{path}")
        assert int(contents(process, fd)) == machine.kernel.sysctl[path]
        assert row.low <= machine.kernel.sysctl[path] <= row.high
    assert write(b"2\n") == 2
    assert contents(process, opened(process, JIT_ENABLE)) == b"2\n"
    assert write(b" 0x1 ") == 5
    for bad in (b"3", b"-1", b"x", b""):
        assert write(bad) in (-errno.EINVAL, 0 if not bad else -errno.EINVAL)
    assert contents(process, opened(process, JIT_ENABLE)) == b"1\n"


def test_unprivileged_bpf_disabled_locks(machine: Machine) -> None:
    sysctl = machine.kernel.sysctl
    sysctl.write("kernel/unprivileged_bpf_disabled", "0")
    sysctl.write("kernel/unprivileged_bpf_disabled", "1")
    with pytest.raises(KernelError, match="EPERM"):
        sysctl.write("kernel/unprivileged_bpf_disabled", "0")


def test_access_modes(machine: Machine) -> None:
    root, user = machine.process(), machine.process(uid=1000)
    read_only, write_only = opened(root, JIT_ENABLE, 0), opened(root, JIT_ENABLE, 1)
    assert root.syscall(WRITE, read_only, put(root, b"1"), 1) == -errno.EBADF
    assert root.syscall(READ, write_only, put(root, b"1"), 1) == -errno.EBADF
    assert opened(root, KALLSYMS, 1) == -errno.EACCES
    assert opened(user, JIT_ENABLE, 0) >= 0
    assert opened(user, JIT_ENABLE, 1) == -errno.EACCES
    assert opened(user, TRACE_PIPE, 0) == -errno.EACCES
    assert opened(user, KALLSYMS) >= 0


def test_kallsyms(machine: Machine, bpf: Bpf) -> None:
    """Address, type, name; programs are marked; without CAP_SYSLOG the addresses are zero."""
    bpf.prog_load(6, assemble("r0 = 1\nexit"), name="shown")
    (prog,) = machine.kernel.progs
    lines = contents(bpf.process, opened(bpf.process, KALLSYMS), 1 << 19).decode().splitlines()
    addrs = [int(line.split()[0], 16) for line in lines]
    assert addrs == sorted(addrs)
    assert all(line.split()[1] in "tT" for line in lines)
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in lines}
    assert symbols["nic_poll"] == machine.kernel.text.symbol("nic_poll")
    (shown,) = (line for line in lines if "shown" in line)
    assert shown.endswith(f" t bpf_prog_{prog.tag.hex()}_shown\t[bpf]")
    user = machine.process(uid=5)
    hidden = contents(user, opened(user, KALLSYMS), 1 << 19).decode().splitlines()
    assert [line.split()[1:] for line in hidden] == [line.split()[1:] for line in lines]
    assert {line.split()[0] for line in hidden} == {"0" * 16}


def test_trace_pipe_as_a_file(machine: Machine) -> None:
    process = machine.process()
    fd = opened(process, TRACE_PIPE)
    at = process.alloc(4096)
    assert process.syscall(READ, fd, at, 4096) == -errno.EAGAIN
    for text in ("first", "second\n", "third"):
        machine.kernel.tracing.printk(machine.kernel, text)
    whole = machine.kernel.tracing.read
    assert process.syscall(READ, fd, UNMAPPED, 4096) == -errno.EFAULT
    first = contents(process, fd, 100)
    assert first.endswith(b"bpf_trace_printk: first\n"), "whole lines, as many as fit"
    pieces = [contents(process, fd, 20) for _ in range(3)]
    assert all(len(piece) == 20 for piece in pieces), "pieces of a line that does not fit"
    rest = whole()
    assert (b"".join(pieces) + rest).count(b"\n") == 2
    assert rest.endswith(b": bpf_trace_printk: third\n")


def test_the_trace_buffer_forgets_the_oldest(machine: Machine) -> None:
    for number in range(16384 + 5):
        machine.kernel.tracing.printk(machine.kernel, str(number))
    lines = machine.trace_pipe().splitlines()
    assert len(lines) == 16384
    assert lines[0].endswith(": 5")
    assert "<idle>-0       [000]" in lines[0]


def test_openat(machine: Machine) -> None:
    process = machine.process()
    path = put(process, JIT_ENABLE.encode() + b"\0")
    at_fdcwd = (1 << 64) - 100
    assert process.syscall(OPENAT, at_fdcwd, path, 0, 0) == 3
    assert process.syscall(OPENAT, 77, path, 0, 0) == 4, "an absolute path needs no directory"
    assert process.syscall(OPENAT, 77, put(process, b"relative\0"), 0, 0) == -errno.EBADF
    assert process.syscall(OPENAT, at_fdcwd, UNMAPPED, 0, 0) == -errno.EFAULT
    assert process.syscall(OPEN, put(process, b"x" * 5000), 0, 0) == -errno.ENAMETOOLONG


def test_a_string_at_the_end_of_memory(machine: Machine) -> None:
    """A path may end right before an unmapped page; one that runs into it faults."""
    process = machine.process()
    page = process.alloc(4096)
    text = JIT_ENABLE.encode() + b"\0"
    process.write(page + 4096 - len(text), text)
    assert process.syscall(OPEN, page + 4096 - len(text), 0, 0) == 3
    process.write(page + 4095, b"x")
    assert process.syscall(OPEN, page + 4095, 0, 0) == -errno.EFAULT


def test_standard_streams(machine: Machine) -> None:
    process = machine.process()
    assert process.syscall(WRITE, 1, put(process, b"out"), 3) == 3
    assert process.syscall(WRITE, 2, put(process, b"err"), 3) == 3
    assert process.stdout == b"outerr"
    assert process.syscall(READ, 0, put(process, b"x"), 1) == 0
    assert process.syscall(WRITE, 1, UNMAPPED, 3) == -errno.EFAULT
    assert process.syscall(WRITE, 1, UNMAPPED, 0) == 0


def test_bpf_objects_are_no_files(bpf: Bpf) -> None:
    fd = bpf.map_create(2, 4, 4, 1)
    at = put(bpf.process, b"x")
    assert bpf.process.syscall(READ, fd, at, 1) == -errno.EINVAL
    assert bpf.process.syscall(WRITE, fd, at, 1) == -errno.EINVAL


def test_identity(machine: Machine) -> None:
    first, second = machine.process(), machine.process(uid=12)
    assert second.pid == first.pid + 1
    assert [second.syscall(n) for n in (39, 186, 102, 107)] == [second.pid, second.pid, 12, 12]


def test_clocks(machine: Machine) -> None:
    process = machine.process()
    at = process.alloc(16)
    machine.clock.advance(3_000_000_123)
    assert process.syscall(CLOCK_GETTIME, 1, at) == 0
    data = process.read(at, 16)
    assert int.from_bytes(data[:8], "little") == 3
    nanoseconds = int.from_bytes(data[8:], "little")
    assert 123 < nanoseconds < 1_000_000
    assert process.syscall(CLOCK_GETTIME, 99, at) == -errno.EINVAL
    assert process.syscall(CLOCK_GETTIME, 1, UNMAPPED) == -errno.EFAULT


def test_getrandom(machine: Machine) -> None:
    process = machine.process()
    at = process.alloc(64)
    assert process.syscall(GETRANDOM, at, 33, 0) == 33
    first = process.read(at, 64)
    assert first[33:] == bytes(31)
    assert process.syscall(GETRANDOM, at, 33, 0) == 33
    assert process.read(at, 33) != first[:33]
    assert process.syscall(GETRANDOM, UNMAPPED, 8, 0) == -errno.EFAULT


def test_calls_take_time(machine: Machine) -> None:
    process = machine.process()
    before = machine.clock.now()
    for _ in range(10):
        process.syscall(39)
    assert machine.clock.now() == before + 1000


def test_the_running_task_is_known_to_machine_code(machine: Machine) -> None:
    kernel = machine.kernel
    place = kernel.per_cpu("current_task", 0)
    seen = []
    process = machine.process()
    original = SYSCALLS[39]

    def look(kernel: object, task: object) -> int:
        seen.append(machine.kernel.memory.u64(place))
        return 0

    SYSCALLS[39] = type(original)(39, "getpid", 0, look)
    try:
        process.syscall(39)
    finally:
        SYSCALLS[39] = original
    assert seen == [process.task.addr]
    assert kernel.memory.u64(place) == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (0x7FFFFFFF, 0x7FFFFFFF), (0xFFFFFFFF, -1), (1 << 40, 0)]
)
def test_registers_as_ints(value: int, expected: int) -> None:
    assert as_int(value) == expected


def test_fdinfo_of_a_map(machine: Machine) -> None:
    """The lines of Linux's fdinfo, with its memory accounting."""
    process = machine.process()
    bpf = Bpf(process)
    fd = bpf.map_create(1, 4, 8, 8, map_flags=1)
    lines = contents(process, opened(process, f"/proc/self/fdinfo/{fd}")).decode().splitlines()
    shown = dict(line.split(":\t") for line in lines)
    assert shown == {
        "pos": "0",
        "flags": "02000002",
        "map_type": "1",
        "key_size": "4",
        "value_size": "8",
        "max_entries": "8",
        "map_flags": "0x1",
        "map_extra": "0x0",
        "memlock": "992",
        "map_id": str(bpf.obj_info(fd, "bpf_map_info")[0]["id"]),
        "frozen": "0",
    }
    bpf.map_update(fd, bytes(4), bytes(8))
    bpf.map_freeze(fd)
    text = contents(process, opened(process, f"/proc/self/fdinfo/{fd}")).decode()
    assert "memlock:\t1064\n" in text and text.endswith("frozen:\t1\n")


@pytest.mark.parametrize("path", ["/proc/self/fdinfo/99", "/proc/self/fdinfo/", "/proc/self/fdinfo/x"])
def test_fdinfo_of_nothing(machine: Machine, path: str) -> None:
    assert opened(machine.process(), path) == -errno.ENOENT
