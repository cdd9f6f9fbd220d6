# SPDX-License-Identifier: GPL-2.0-only
"""Helpers in Python: probe reads, the running task, string comparison."""

from __future__ import annotations

import errno

import pytest
from emulated import FakeTask, World

from kernel_model.errors import KernelError
from kernel_model.helpers import nofault

USER = 0x7000_0000


@pytest.fixture
def flat(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The flat world has no kernel half: what is not the task's counts as the kernel's here."""
    monkeypatch.setattr(nofault, "kernel_read_allowed", lambda addr: addr < 0x6000_0000)
    monkeypatch.setattr(nofault, "TASK_SIZE", 0x8000_0000)
    world.current = FakeTask()
    world.current.mm.areas[USER] = b"user\0".ljust(4096, b"u")
    return world


@pytest.mark.parametrize(
    ("addr", "allowed"),
    [
        (0, False),
        (0x7FFF_FFFF_F000, False),
        (0x7FFF_FFFF_FFFF, False),
        (0x8000_0000_0000, False),
        (0xFFFF_7FFF_FFFF_FFFF, False),
        (0xFFFF_8000_0000_0000, True),
        (0xFFFF_8880_0000_0000, True),
        (0xFFFF_FFFF_FF60_0000, False),
        (0xFFFF_FFFF_FF60_0FFF, False),
        (0xFFFF_FFFF_8100_0000, True),
    ],
)
def test_kernel_addresses(addr: int, allowed: bool) -> None:
    assert nofault.kernel_read_allowed(addr) == allowed


def test_probe_read(flat: World) -> None:
    src, dst = flat.buffer(b"kernel data"), flat.buffer(b"#" * 16)
    assert flat.run("bpf_probe_read_kernel", dst, 6, src) == 0
    assert flat.memory.read(dst, 8) == b"kernel##"
    assert flat.run("bpf_probe_read_user", dst, 4, USER) == 0
    assert flat.memory.read(dst, 8) == b"userel##"
    assert flat.run("bpf_probe_read_compat", dst, 5, USER) == 0
    assert flat.memory.read(dst, 6) == b"user\0l"


@pytest.mark.parametrize(
    ("name", "addr", "error"),
    [
        ("bpf_probe_read_kernel", 0x5000_0000, errno.EFAULT),
        ("bpf_probe_read_kernel", USER, errno.ERANGE),
        ("bpf_probe_read_user", USER + 4094, errno.EFAULT),
        ("bpf_probe_read_user", 0x9000_0000, errno.EFAULT),
        ("bpf_probe_read_compat", 8, errno.EFAULT),
        ("bpf_probe_read_kernel_str", 0x5000_0000, errno.EFAULT),
        ("bpf_probe_read_user_str", 0x9000_0000, errno.EFAULT),
    ],
)
def test_failed_reads_leave_zeroes(flat: World, name: str, addr: int, error: int) -> None:
    dst = flat.buffer(b"#" * 16)
    assert flat.run_signed(name, dst, 10, addr) == -error
    assert flat.memory.read(dst, 16) == bytes(10) + b"######"


@pytest.mark.parametrize(
    ("size", "text"), [(0, b""), (1, b"\0"), (3, b"ke\0"), (7, b"kernel\0"), (12, b"kernel\0")]
)
def test_probe_read_str(flat: World, size: int, text: bytes) -> None:
    src, dst = flat.buffer(b"kernel\0rest"), flat.buffer(b"#" * 16)
    assert flat.run("bpf_probe_read_kernel_str", dst, size, src) == len(text)
    assert flat.memory.read(dst, 16) == text.ljust(16, b"#")


def test_a_string_may_end_before_an_unmapped_page(flat: World) -> None:
    at = USER + 4096 - 4
    flat.current.mm.areas[USER] = bytes(4092) + b"end\0"  # type: ignore[union-attr]
    dst = flat.buffer(b"#" * 32)
    assert flat.run("bpf_probe_read_user_str", dst, 32, at) == 4
    assert flat.memory.read(dst, 5) == b"end\0#"
    with pytest.raises(KernelError):
        nofault.copy_string(flat, at + 4, 8, user=True)  # type: ignore[arg-type]


def test_current(flat: World) -> None:
    buf = flat.buffer(b"#" * 24)
    assert flat.run("bpf_get_current_uid_gid") == 100 << 32 | 1000
    assert flat.run("bpf_get_current_comm", buf, 20) == 0
    assert flat.memory.read(buf, 24) == b"a-task-of-long-\0\0\0\0\0####"
    assert flat.run("bpf_get_current_comm", buf, 4) == 0
    assert flat.memory.read(buf, 6) == b"a-t\0sk"
    flat.current, flat.this_cpu = None, 1
    assert flat.run("bpf_get_current_uid_gid") == 0
    flat.run("bpf_get_current_comm", buf, 16)
    assert flat.memory.read(buf, 16) == b"swapper/1".ljust(16, b"\0")


@pytest.mark.parametrize(
    ("one", "size", "two", "result"),
    [
        (b"abc", 3, b"abc", 0),
        (b"abd", 3, b"abc", 1),
        (b"abb", 3, b"abc", -1),
        (b"abX", 2, b"abY", 0),
        (b"a\0X", 3, b"a\0Y", 0),
        (b"\xff", 1, b"\x01", 1),
        (b"", 0, b"x", 0),
    ],
)
def test_strncmp(world: World, one: bytes, size: int, two: bytes, result: int) -> None:
    got = world.run_signed("bpf_strncmp", world.buffer(one), size, world.buffer(two + b"\0"))
    assert got == result
