# SPDX-License-Identifier: GPL-2.0-only
"""Formatted text: cases as data, and the same formats through the host kernel's bpf_snprintf()."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from emulated import FakeTask, World
from host_bpf import (
    BPF_PROG_TYPE_XDP,
    HostRefused,
    bpf,
    host_kernel,
    map_create,
    map_lookup,
    map_update,
    prog_load,
    test_run,
)

from kernel_model.errors import KernelError
from kernel_model.functions import call_impl
from kernel_model.helpers import bprintf
from kernel_model.helpers.siphash import siphash_1u64
from kernel_model.isa import macros as m
from kernel_model.isa.insn import encode
from kernel_model.isa.opcodes import BPF_DW, BPF_REG_1, BPF_REG_2, BPF_REG_3, BPF_REG_4, BPF_REG_10

M = (1 << 64) - 1
BPF_F_RDONLY_PROG = 0x80
SNPRINTF = 165

# Format, arguments, text. Those without strings and addresses also go to the host.
NUMBERS: list[tuple[bytes, list[int], bytes]] = [
    (b"plain", [], b"plain"),
    (b"100%%|%d%%", [50], b"100%|50%"),
    (b"%d %i %u", [-1 & M, 5, -1 & M], b"-1 5 4294967295"),
    (b"%d", [1 << 32 | 7], b"7"),
    (b"%ld %lu", [-(1 << 63) & M, M], b"-9223372036854775808 18446744073709551615"),
    (b"%llx %lld", [0xABCDEF0123, -2 & M], b"abcdef0123 -2"),
    (b"%x %X %lX", [0xBEEF, 0xBEEF, 1 << 40 | 0xF], b"beef BEEF 1000000000F"),
    (b"[%5d][%-5d][%05d][%+d][% d]", [42, 42, 42, 42, 42], b"[   42][42   ][00042][+42][ 42]"),
    (b"[%5d][%-5d][%05d][%+5d][% 05d]", [-42 & M] * 5, b"[  -42][-42  ][-0042][  -42][-0042]"),
    (b"[%+05d][%-05d][%0-5d][%+-5d][%- 5d]", [42] * 5, b"[+0042][42   ][42   ][+42  ][ 42  ]"),
    (b"[%+u][% x][%08x][%-8X][%2x]", [7, 7, 0xAB, 0xAB, 0x12345], b"[7][7][000000ab][AB      ][12345]"),
    (b"[%c][%3c][%-3c][%03c]", [65, 66, 67, 68], b"[A][  B][C  ][  D]"),
    (b"%px %px", [0, 0x1234], b"0000000000000000 0000000000001234"),
    (b"[%6px][%-6px][%1px][%06px]", [0xAB] * 4, b"[    ab][ab    ][ab][0000ab]"),
    (b"%p|%p", [0, -22 & M], b"0000000000000000|ffffffffffffffea"),
    (b"%pK,", [0], b"0000000000000000,"),
    (b"\xc3\xa9\t%d\n", [3], b"\xc3\xa9\t3\n"),
]

# Formats that are refused, with the number of arguments.
REFUSED: list[tuple[bytes, int]] = [
    (b"%d", 0),
    (b"%d %d", 1),
    (b"%f", 1),
    (b"%hd", 1),
    (b"%lld%lllu", 2),
    (b"%#x", 1),
    (b"%.3d", 1),
    (b"%*d", 2),
    (b"%o", 1),
    (b"%n", 1),
    (b"%pM", 1),
    (b"%pI5", 1),
    (b"%pI", 1),
    (b"%pa", 1),
    (b"%sx", 1),
    (b"%s1", 1),
    (b"%pksx", 1),
    (b"%", 1),
    (b"%0", 1),
    (b"a\x01b", 0),
    (b"a\x7fb", 0),
    (b"%\xc3", 1),
    (b"%5%", 0),
    (b"%-05 +7d", 1),
]

ACCEPTED_ONLY: list[tuple[bytes, int]] = [
    (b"%s", 1),
    (b"%10s.", 1),
    (b"%pks %pus\n", 2),
    (b"%pI4,%pi4,%pI6,%pi6", 4),
    (b"%ps %pS %pB", 3),
    (b"%pK%px", 2),
    (b"%llu%li%lld", 3),
    (b"%- 0+57d", 1),
]


def text_of(world: World, fmt: bytes, args: list[int]) -> bytes:
    return bprintf.render(world, bprintf.prepare(world, fmt, args))  # type: ignore[arg-type]


@pytest.mark.parametrize(("fmt", "args", "text"), NUMBERS, ids=lambda v: repr(v)[:30])
def test_numbers(world: World, fmt: bytes, args: list[int], text: bytes) -> None:
    assert text_of(world, fmt, args) == text


@pytest.mark.parametrize(("fmt", "count"), REFUSED)
def test_refused(world: World, fmt: bytes, count: int) -> None:
    with pytest.raises(KernelError) as caught:
        bprintf.check_format(fmt, count)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(KernelError):
        bprintf.prepare(world, fmt, [0] * count)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fmt", "count"), ACCEPTED_ONLY)
def test_accepted(fmt: bytes, count: int) -> None:
    bprintf.check_format(fmt, count)


def test_strings_and_addresses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The flat world has no kernel half, so every address counts as one of the kernel here.
    monkeypatch.setattr("kernel_model.helpers.nofault.kernel_read_allowed", lambda addr: addr >= 4096)
    monkeypatch.setattr(bprintf, "TASK_SIZE", 0)
    name = world.buffer(b"eth0\0rest")
    v4, v6 = world.buffer(bytes([10, 0, 200, 3])), world.buffer(bytes(range(16)))
    assert text_of(world, b"%s|%6s|%-6s|%2s", [name] * 4) == b"eth0|  eth0|eth0  |eth0"
    assert text_of(world, b"%pks<%s>", [name, 8]) == b"eth0<>"
    assert text_of(world, b"%pI4 %pi4", [v4, v4]) == b"10.0.200.3 010.000.200.003"
    assert text_of(world, b"%20pI4", [v4]) == b"10.0.200.3"
    assert text_of(world, b"%pI6", [v6]) == b"0001:0203:0405:0607:0809:0a0b:0c0d:0e0f"
    assert text_of(world, b"%pi6.", [v6]) == b"000102030405060708090a0b0c0d0e0f."
    memset = world.text.symbol("memset")
    size = min(a for a in world.text.symbols().values() if a > memset) - memset
    assert text_of(world, b"%ps %10ps", [memset, memset + 5]) == b"memset     memset"
    assert text_of(world, b"%pS", [memset + 5]) == f"memset+0x5/0x{size:x}".encode()
    # A return address belongs to the call before it, even at the end of a function.
    assert text_of(world, b"%pB", [memset + size]) == f"memset+0x{size:x}/0x{size:x}".encode()
    assert text_of(world, b"%pS", [0x10]) == b"0x10"


def test_hashed_pointers_hide_addresses_and_repeat() -> None:
    one, again, other = World(seed=1), World(seed=1), World(seed=2)
    texts = [text_of(each, b"%p %pK", [0xFFFF_8880_0000_1000] * 2) for each in (one, again, other)]
    assert texts[0] == texts[1] != texts[2]
    first, second = texts[0].split()
    assert first == second and first.startswith(b"00000000") and first != b"ffff888000001000"


def test_siphash_vector() -> None:
    """The reference vector of SipHash-2-4 for the eight bytes 00 .. 07 under the key 00 .. 0f."""
    key = struct.unpack("<2Q", bytes(range(16)))
    assert siphash_1u64(int.from_bytes(bytes(range(8)), "little"), key) == 0x93F5F5799A932462


def test_arguments_fill_512_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_model.helpers.nofault.kernel_read_allowed", lambda addr: True)
    monkeypatch.setattr(bprintf, "TASK_SIZE", 0)
    long = world.buffer(b"x" * 600)
    assert text_of(world, b"%s", [long]) == b"x" * 511
    with pytest.raises(KernelError) as caught:
        text_of(world, b"%s %d", [long, 1])
    assert caught.value.errno == errno.ENOSPC


def test_user_strings(world: World) -> None:
    world.current = FakeTask()
    world.current.mm.areas[0x7000_0000] = b"from user\0".ljust(4096, b"x")
    assert text_of(world, b"%s+%pus", [0x7000_0000, 0x7000_0005]) == b"from user+user"
    assert text_of(world, b"<%s>", [0x9000_0000]) == b"<>"


def test_trace_printk(world: World) -> None:
    fmt = world.buffer(b"n=%d %x\n\0")
    assert world.run("bpf_trace_printk", fmt, 9, 5, 0xAB, 0) == len(b"n=5 ab\n")
    assert world.tracing.lines == ["n=5 ab\n"]
    assert world.run_signed("bpf_trace_printk", fmt, 8, 5, 6, 7) == -errno.EINVAL
    args = world.buffer(struct.pack("<2Q", 1, 2))
    assert world.run("bpf_trace_vprintk", fmt, 9, args, 16) == len(b"n=1 2\n")
    assert world.run_signed("bpf_trace_vprintk", fmt, 9, args, 12) == -errno.EINVAL
    assert world.run_signed("bpf_trace_vprintk", fmt, 9, args, 104) == -errno.EINVAL
    assert world.tracing.lines[1:] == ["n=1 2\n"]


def test_long_lines_are_cut(world: World) -> None:
    fmt = world.buffer(b"%1500d\0")
    assert world.run("bpf_trace_printk", fmt, 7, 5, 0, 0) == 1500
    assert world.tracing.lines == [" " * 1023]


@pytest.mark.parametrize(("room", "left"), [(0, b"####"), (1, b"\0###"), (3, b"12\0#"), (9, b"1234\0")])
def test_snprintf(world: World, monkeypatch: pytest.MonkeyPatch, room: int, left: bytes) -> None:
    monkeypatch.setattr("kernel_model.helpers.nofault.kernel_read_allowed", lambda addr: True)
    out, fmt = world.buffer(b"#" * 16), world.buffer(b"%d\0")
    args = world.buffer(struct.pack("<Q", 1234))
    assert call_impl(world, "bpf_snprintf", out, room, fmt, args, 8) == 5  # type: ignore[arg-type]
    assert world.memory.read(out, len(left)) == left


class HostSnprintf:
    """bpf_snprintf() of the host: a program writes to a map's value."""

    ROOM = 128

    def __call__(self, fmt: bytes, args: list[int]) -> tuple[int, bytes]:
        """The result and the text; minus the errno when the program is refused."""
        source = map_create(2, 4, len(fmt) + 1, 1, BPF_F_RDONLY_PROG)
        target = map_create(2, 4, self.ROOM, 1)
        try:
            map_update(source, bytes(4), fmt + b"\0")
            bpf(22, struct.pack("<I", source))  # BPF_MAP_FREEZE
            stores = [
                part
                for index, value in enumerate(args)
                for part in (
                    m.BPF_LD_IMM64(BPF_REG_1, value),
                    [m.BPF_STX_MEM(BPF_DW, BPF_REG_10, BPF_REG_1, 8 * (index - len(args)))],
                )
            ]
            insns = m.program(
                *stores,
                m.BPF_LD_MAP_VALUE(BPF_REG_1, target, 0),
                m.BPF_MOV64_IMM(BPF_REG_2, self.ROOM),
                m.BPF_LD_MAP_VALUE(BPF_REG_3, source, 0),
                *(
                    [m.BPF_MOV64_REG(BPF_REG_4, BPF_REG_10), m.BPF_ALU64_IMM(0, BPF_REG_4, -8 * len(args))]
                    if args
                    else [m.BPF_MOV64_IMM(BPF_REG_4, 0)]
                ),
                m.BPF_MOV64_IMM(5, 8 * len(args)),
                m.BPF_EMIT_CALL(SNPRINTF),
                m.BPF_EXIT_INSN(),
            )
            try:
                fd = prog_load(encode(insns), BPF_PROG_TYPE_XDP)
            except HostRefused as error:
                return -(error.errno or 0), b""
            result = test_run(fd).retval
            os.close(fd)
            value = map_lookup(target, bytes(4), self.ROOM)
            assert value is not None
            return result, value.split(b"\0", 1)[0]
        finally:
            os.close(source)
            os.close(target)


@host_kernel
@pytest.mark.parametrize(("fmt", "args", "text"), NUMBERS, ids=lambda v: repr(v)[:30])
def test_numbers_on_the_host(fmt: bytes, args: list[int], text: bytes) -> None:
    assert HostSnprintf()(fmt, args) == (len(text) + 1, text)


@host_kernel
@pytest.mark.parametrize(("fmt", "count"), [*REFUSED, *ACCEPTED_ONLY])
def test_formats_on_the_host(fmt: bytes, count: int) -> None:
    result, _ = HostSnprintf()(fmt, [0] * count)
    assert (result < 0) == ((fmt, count) in REFUSED)
    assert result > 0 or result == -errno.EINVAL
