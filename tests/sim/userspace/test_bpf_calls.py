# SPDX-License-Identifier: GPL-2.0-only
"""The typed bpf(2) calls, against a process without a kernel and against the host's kernel."""

from __future__ import annotations

import errno
import pickle
import struct

import host_bpf
import pytest
from fake_process import Call, FakeProcess
from host_process import HostProcess, host_cpus

from guests import sock_example
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_MOV64_IMM, BPF_MOV64_REG, BPF_REG_0, BPF_REG_2, program
from kernel_model.uapi.bpf_attr import TEST_RUN
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim.userspace.bpf import BPF_EXIST, BPF_NOEXIST, Arena, Bpf, SyscallError, VerifierError


def test_errors_carry_number_and_call() -> None:
    bpf = Bpf(FakeProcess(lambda p, c: -524))
    with pytest.raises(SyscallError, match=r"^bpf\(BPF_MAP_CREATE\): ENOTSUPP$"):
        bpf.map_create(1, 4, 4, 1)
    error = VerifierError(errno.EACCES, "bpf(BPF_PROG_LOAD)", "the log")
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.call, again.log) == (errno.EACCES, "bpf(BPF_PROG_LOAD)", "the log")
    assert str(again) == "bpf(BPF_PROG_LOAD): EACCES"


def test_absent_keys_are_none_and_other_failures_raise() -> None:
    bpf = Bpf(FakeProcess(lambda p, c: -errno.ENOENT))
    assert bpf.map_lookup(3, b"\0" * 4, 8) is None
    assert bpf.map_get_next_key(3, None, 4) is None
    assert list(bpf.map_keys(3, 4)) == []
    assert bpf.next_id("PROG") is None
    with pytest.raises(SyscallError):
        bpf.map_delete(3, b"\0" * 4)
    with pytest.raises(SyscallError):
        Bpf(FakeProcess(lambda p, c: -errno.EBADF)).map_lookup(3, b"\0" * 4, 8)


def test_test_run_returns_what_the_kernel_wrote() -> None:
    fields = TEST_RUN.fields

    def answer(process: FakeProcess, call: Call) -> int:
        process.write(call.attr["data_out"], b"shrunk")
        for name, value in (("retval", 2), ("data_size_out", 6), ("duration", 55)):
            process.write(call.addr + fields[name].offset, struct.pack("<I", value))
        return 0

    run = Bpf(FakeProcess(answer)).prog_test_run(9, b"some data")
    assert (run.retval, run.data, run.duration) == (2, b"shrunk", 55)


def test_arena_hands_memory_out_anew_after_reset() -> None:
    process = FakeProcess()
    arena = Arena(process)
    first = arena.put(b"one")
    assert arena.take(Arena.PIECE * 2) != first
    assert arena.put(b"") == 0
    arena.reset()
    assert arena.put(b"two") == first
    assert process.read(first, 3) == b"two"


@host_bpf.host_kernel
def test_maps_on_the_hosts_kernel() -> None:
    bpf = Bpf(HostProcess())
    fd = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_HASH, 4, 8, 3, name="a_name_of_many_letters")
    info, _ = bpf.obj_info(fd, "bpf_map_info")
    assert (info.text("name"), info["max_entries"]) == ("a_name_of_many_", 3)
    keys = [bytes([i, 0, 0, 0]) for i in range(3)]
    for i, key in enumerate(keys):
        bpf.map_update(fd, key, struct.pack("<Q", i), BPF_NOEXIST)
    for flags, key, number in ((BPF_NOEXIST, keys[0], errno.EEXIST), (BPF_EXIST, b"none", errno.ENOENT)):
        with pytest.raises(SyscallError) as caught:
            bpf.map_update(fd, key, bytes(8), flags)
        assert caught.value.errno == number
    assert set(bpf.map_keys(fd, 4)) == set(keys)
    assert bpf.map_lookup(fd, keys[2], 8) == struct.pack("<Q", 2)
    assert bpf.map_lookup_and_delete(fd, keys[2], 8) == struct.pack("<Q", 2)
    bpf.map_delete(fd, keys[1])
    assert list(bpf.map_keys(fd, 4)) == [keys[0]]
    again = bpf.fd_by_id("MAP", info["id"])
    assert bpf.map_lookup(again, keys[0], 8) == bytes(8)
    bpf.map_freeze(fd)
    with pytest.raises(SyscallError) as caught:
        bpf.map_update(fd, keys[0], bytes(8))
    assert caught.value.errno == errno.EPERM
    bpf.close(again)
    bpf.close(fd)


@host_bpf.host_kernel
def test_per_cpu_values_on_the_hosts_kernel() -> None:
    bpf = Bpf(HostProcess())
    fd = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 4, 1)
    size = 8 * host_cpus()
    bpf.map_update(fd, bytes(4), b"\1\0\0\0\0\0\0\0" * host_cpus())
    assert bpf.map_lookup(fd, bytes(4), size) == b"\1\0\0\0\0\0\0\0" * host_cpus()
    bpf.close(fd)


@host_bpf.host_kernel
def test_verifier_log_of_the_hosts_kernel() -> None:
    bpf = Bpf(HostProcess())
    bad = program(BPF_MOV64_REG(BPF_REG_0, BPF_REG_2), BPF_EXIT_INSN())
    with pytest.raises(VerifierError) as caught:
        bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER, bad, log_level=1)
    assert caught.value.errno == errno.EACCES
    assert "R2 !read_ok" in caught.value.log
    good = program(BPF_MOV64_IMM(BPF_REG_0, 0), BPF_EXIT_INSN())
    fd, log = bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, good, name="good", log_level=1)
    assert "processed 2 insns" in log
    info, blobs = bpf.obj_info(fd, xlated_prog_insns=64)
    assert info["xlated_prog_len"] == len(blobs["xlated_prog_insns"]) == 16
    bpf.close(fd)


@host_bpf.host_kernel
def test_the_socket_example_counts_by_protocol_on_the_hosts_kernel() -> None:
    bpf = Bpf(HostProcess())
    counts = bpf.map_create(
        bpf_map_type.BPF_MAP_TYPE_ARRAY,
        sock_example.KEY_SIZE,
        sock_example.VALUE_SIZE,
        sock_example.MAX_ENTRIES,
    )
    fd, _ = bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER, sock_example.instructions(counts))
    for protocol, times in ((1, 3), (6, 2), (17, 5)):
        frame = bytes(12) + b"\x08\x00" + b"\x45" + bytes(8) + bytes([protocol]) + bytes(40)
        # A test run takes one Ethernet header off before a socket filter; a packet socket does not.
        assert bpf.prog_test_run(fd, frame[:14] + frame, repeat=times).retval == 0
    got = {i: bpf.map_lookup(counts, struct.pack("<I", i), 8) for i in range(256)}
    assert {i: struct.unpack("<Q", v)[0] for i, v in got.items() if v and any(v)} == {
        1: 3,
        6: 2,
        17: 5,
    }
    bpf.close(fd)
    bpf.close(counts)
