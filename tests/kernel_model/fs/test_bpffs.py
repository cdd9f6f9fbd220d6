# SPDX-License-Identifier: GPL-2.0-only
"""/sys/fs/bpf by system calls: pins, directories, owners."""

from __future__ import annotations

import errno

import pytest

from kernel_model.uapi.bpf_attr import NR_BPF, command, pack
from sim import Machine
from sim.process import Process
from sim.userspace.bpf import Bpf, SyscallError

MKDIR, RMDIR, UNLINK, ARRAY = 83, 84, 87, 2
ROOT = "/sys/fs/bpf"


def on(process: Process, number: int, path: str) -> int:
    at = process.alloc(4096)
    process.write(at, path.encode() + b"\0")
    return process.syscall(number, at, 0o700)


@pytest.fixture
def table(bpf: Bpf) -> int:
    return bpf.map_create(ARRAY, 4, 8, 1)


def test_directories(bpf: Bpf, table: int) -> None:
    process = bpf.process
    assert on(process, MKDIR, f"{ROOT}/a") == 0
    assert on(process, MKDIR, f"{ROOT}/a/b/") == 0
    assert on(process, MKDIR, f"{ROOT}/a") == -errno.EEXIST
    assert on(process, MKDIR, f"{ROOT}/no/b") == -errno.ENOENT
    bpf.obj_pin(table, f"{ROOT}/a/b/map")
    assert on(process, MKDIR, f"{ROOT}/a/b/map") == -errno.EEXIST
    assert on(process, RMDIR, f"{ROOT}/a") == -errno.ENOTEMPTY
    assert on(process, RMDIR, f"{ROOT}/a/b/map") == -errno.ENOTDIR
    assert on(process, RMDIR, f"{ROOT}/none") == -errno.ENOENT
    assert on(process, UNLINK, f"{ROOT}/a/b") == -errno.EISDIR
    assert on(process, UNLINK, f"{ROOT}/a/b/map") == 0
    assert on(process, UNLINK, f"{ROOT}/a/b/map") == -errno.ENOENT
    assert on(process, RMDIR, f"{ROOT}/a/b") == 0
    assert on(process, RMDIR, f"{ROOT}/a") == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{ROOT}/with.dot", "EPERM"),
        (f"{ROOT}/none/name", "ENOENT"),
        ("/tmp/name", "EPERM"),
        (f"{ROOT}/../bpf/name", "EPERM"),
        (f"{ROOT}", "EPERM"),
        (f"{ROOT}/taken", "EEXIST"),
        (f"{ROOT}//taken", "EEXIST"),
        (f"{ROOT}/./taken", "EEXIST"),
        ("x" * 4096, "ENAMETOOLONG"),
    ],
)
def test_where_pins_go(bpf: Bpf, table: int, path: str, expected: str) -> None:
    bpf.obj_pin(table, f"{ROOT}/taken")
    with pytest.raises(SyscallError, match=expected):
        bpf.obj_pin(table, path)


def test_get_gives_the_object(bpf: Bpf, table: int) -> None:
    bpf.obj_pin(table, f"{ROOT}/map")
    again = bpf.obj_get(f"{ROOT}//map")
    assert again != table
    bpf.map_update(table, bytes(4), b"in there")
    assert bpf.map_lookup(again, bytes(4), 8) == b"in there"
    for path, expected in ((f"{ROOT}/none", "ENOENT"), (ROOT, "EACCES"), (f"{ROOT}/with.dot", "EPERM")):
        with pytest.raises(SyscallError, match=expected):
            bpf.obj_get(path)


def test_access_flags_of_a_pinned_map(bpf: Bpf, table: int) -> None:
    bpf.obj_pin(table, f"{ROOT}/map")
    read_only, write_only = bpf.obj_get(f"{ROOT}/map", 8), bpf.obj_get(f"{ROOT}/map", 16)
    assert bpf.map_lookup(read_only, bytes(4), 8) == bytes(8)
    with pytest.raises(SyscallError, match="EPERM"):
        bpf.map_update(read_only, bytes(4), bytes(8))
    bpf.map_update(write_only, bytes(4), b"12345678")
    with pytest.raises(SyscallError, match="EPERM"):
        bpf.map_lookup(write_only, bytes(4), 8)
    with pytest.raises(SyscallError, match="EINVAL"):
        bpf.obj_get(f"{ROOT}/map", 24)


def test_pins_belong_to_their_user(machine: Machine, bpf: Bpf, table: int) -> None:
    bpf.obj_pin(table, f"{ROOT}/map")
    user = Bpf(machine.process(uid=1000))
    with pytest.raises(SyscallError, match="EACCES"):
        user.obj_get(f"{ROOT}/map")
    assert on(user.process, UNLINK, f"{ROOT}/map") == -errno.EPERM
    assert on(bpf.process, UNLINK, f"{ROOT}/map") == 0


def test_elsewhere_nothing_can_be_made(bpf: Bpf) -> None:
    for number in (MKDIR, RMDIR, UNLINK):
        assert on(bpf.process, number, "/etc/new") == -errno.EROFS
        assert bpf.process.syscall(number, 0x10, 0) == -errno.EFAULT


def test_relative_to_a_directory_is_named(machine: Machine, bpf: Bpf, table: int) -> None:
    """BPF_F_PATH_FD is not modelled and says so; other flags are Linux's EINVAL."""
    at = bpf.process.alloc(4096)
    attr = pack("OBJ_PIN", bpf_fd=table, pathname=at, file_flags=1 << 14, path_fd=3)
    bpf.process.write(at, attr)
    assert bpf.process.syscall(NR_BPF, command("OBJ_PIN").number, at, len(attr)) < 0
    assert "BPF_F_PATH_FD" in str(machine.kernel.last_error)
