# SPDX-License-Identifier: GPL-2.0-only
"""Helpers beside the host kernel's own: short programs made of calls, test-run on the host."""

from __future__ import annotations

import os
import random
import struct

import pytest
from emulated import World
from host_bpf import BPF_PROG_TYPE_XDP, host_kernel, prog_load, test_run

from kernel_model.isa import macros as m
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.opcodes import BPF_ADD, BPF_DW, BPF_MUL

CSUM_DIFF, ADJUST_HEAD, ADJUST_META, ADJUST_TAIL, STRTOL, STRTOUL = 28, 44, 54, 65, 105, 106
LOAD_BYTES, STORE_BYTES, BUFF_LEN = 189, 190, 188
PAGE, HEADROOM = 4096, 256
M32 = 0xFFFF_FFFF


def run_on_host(insns: list[Insn], packet: bytes = bytes(64)) -> tuple[int, bytes]:
    """The verdict (32 bits) and the packet that came out, metadata first."""
    fd = prog_load(encode(insns), BPF_PROG_TYPE_XDP)
    try:
        result = test_run(fd, packet)
    finally:
        os.close(fd)
    return result.retval, result.data


def store(data: bytes, at: int) -> list[Insn]:
    """Write ``data`` (padded to whole words) to the stack at r10 + ``at``."""
    padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
    words = struct.unpack(f"<{len(padded) // 8}Q", padded)
    return m.program(
        *(
            part
            for index, word in enumerate(words)
            for part in (m.BPF_LD_IMM64(1, word), m.BPF_STX_MEM(BPF_DW, 10, 1, at + 8 * index))
        )
    )


def stack_pointer(reg: int, at: int) -> list[Insn]:
    return [m.BPF_MOV64_REG(reg, 10), m.BPF_ALU64_IMM(BPF_ADD, reg, at)]


def adjust_program(steps: list[tuple[int, int]]) -> list[Insn]:
    """Every step's result goes into the verdict: v = 31 v + result."""
    body: list[Insn] = [m.BPF_MOV64_REG(6, 1), m.BPF_MOV64_IMM(7, 0)]
    for helper, offset in steps:
        body += [
            m.BPF_MOV64_REG(1, 6),
            m.BPF_MOV64_IMM(2, offset),
            m.BPF_EMIT_CALL(helper),
            m.BPF_ALU64_IMM(BPF_MUL, 7, 31),
            m.BPF_ALU64_REG(BPF_ADD, 7, 0),
        ]
    return [*body, m.BPF_MOV64_REG(0, 7), m.BPF_EXIT_INSN()]


def adjust_here(world: World, steps: list[tuple[int, int]], packet: bytes) -> tuple[int, bytes]:
    fields = world.layout["xdp_buff"]
    page, xdp = world.alloc.kmalloc(PAGE), world.alloc.kmalloc(fields.size)
    world.memory.write(page + HEADROOM, packet)
    start = page + HEADROOM
    for name, value in (("data", start), ("data_meta", start), ("data_end", start + len(packet))):
        world.memory.put_u64(xdp + fields.offset(name), value)
    world.memory.put_u64(xdp + fields.offset("data_hard_start"), page)
    world.memory.put_u32(xdp + fields.offset("frame_sz"), PAGE)
    names = {ADJUST_HEAD: "head", ADJUST_META: "meta", ADJUST_TAIL: "tail"}
    verdict = 0
    for helper, offset in steps:
        verdict = 31 * verdict + world.run(f"bpf_xdp_adjust_{names[helper]}", xdp, offset) & M32
    meta, end = (world.memory.u64(xdp + fields.offset(name)) for name in ("data_meta", "data_end"))
    out = world.memory.read(meta, end - meta)
    world.alloc.kfree(page)
    world.alloc.kfree(xdp)
    return verdict, out


EDGES = (-257, -256, -217, -216, -215, -212, -40, -32, -4, -2, 0, 1, 4, 14, 32, 46, 50, 51, 3456, 3457, 4000)
EDGE_CASES = [[(helper, offset)] for helper in (ADJUST_HEAD, ADJUST_META, ADJUST_TAIL) for offset in EDGES]


def random_steps(seed: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [
        (
            rng.choice([ADJUST_HEAD, ADJUST_META, ADJUST_TAIL]),
            rng.choice([rng.randint(-260, 260), -4, 4, -32]),
        )
        for _ in range(6)
    ]


@host_kernel
def test_xdp_adjust() -> None:
    world, packet = World(), bytes(range(1, 65))
    for steps in [*EDGE_CASES, *(random_steps(seed) for seed in range(120))]:
        assert adjust_here(world, steps, packet) == run_on_host(adjust_program(steps), packet), steps


@host_kernel
def test_csum_diff() -> None:
    world, rng = World(), random.Random(1)
    for number in range(60):
        old, new = (rng.randbytes(4 * rng.randrange(6)) for _ in range(2))
        if number % 5 == 0:
            old, new = bytes(len(old)), bytes(len(new))
        seed = rng.choice([0, M32, rng.getrandbits(32)])
        insns = m.program(
            *store(old + bytes(8), -64),
            *store(new + bytes(8), -128),
            *stack_pointer(1, -64),
            m.BPF_MOV64_IMM(2, len(old)),
            *stack_pointer(3, -128),
            m.BPF_MOV64_IMM(4, len(new)),
            m.BPF_LD_IMM64(5, seed),
            m.BPF_EMIT_CALL(CSUM_DIFF),
            m.BPF_EXIT_INSN(),
        )
        here = world.run("bpf_csum_diff", world.buffer(old), len(old), world.buffer(new), len(new), seed)
        assert here == run_on_host(insns)[0], (old, new, seed)


NUMBERS = [
    (b"0", 0), (b"10", 0), (b"010", 0), (b"0x10", 0), (b"0x", 0), (b"0xg", 16), (b"0X1f", 16), (b"1f", 16),
    (b"08", 0), (b"8", 8), (b" \t\n 42x", 10), (b"-42", 10), (b"- 42", 10), (b"--1", 10), (b"+1", 10),
    (b"", 10),
    (b"   ", 10), (b"-", 10), (b"9223372036854775807", 10), (b"9223372036854775808", 10), (b"\xa07", 10),
    (b"-9223372036854775808", 10), (b"-9223372036854775809", 10), (b"18446744073709551615", 10),
    (b"18446744073709551616", 10), (b"12", 2), (b"12", 1 << 5), (b"12\x0034", 10), (b"0x7fffffffffffffff", 0),
    (b"00000000000000000000000000000000000000000000000000000000000000000000012", 10), (b"-0", 10),
]  # fmt: skip


@host_kernel
@pytest.mark.parametrize(("text", "flags"), NUMBERS)
@pytest.mark.parametrize("helper", [STRTOL, STRTOUL])
def test_numbers(text: bytes, flags: int, helper: int) -> None:
    """The result and the number, folded into one 32-bit word: 1000003 r + low + 3 high."""
    world = World()
    size = max(len(text), 1)
    insns = m.program(
        *store(text.ljust(80, b"\0"), -96),
        m.BPF_MOV64_IMM(1, 0),
        m.BPF_STX_MEM(BPF_DW, 10, 1, -8),
        *stack_pointer(1, -96),
        m.BPF_MOV64_IMM(2, size),
        m.BPF_MOV64_IMM(3, flags),
        *stack_pointer(4, -8),
        m.BPF_EMIT_CALL(helper),
        m.BPF_ALU64_IMM(BPF_MUL, 0, 1000003),
        m.BPF_LDX_MEM(BPF_DW, 1, 10, -8),
        m.BPF_ALU64_REG(BPF_ADD, 0, 1),
        m.BPF_ALU64_IMM(0x70, 1, 32),
        m.BPF_ALU64_IMM(BPF_MUL, 1, 3),
        m.BPF_ALU64_REG(BPF_ADD, 0, 1),
        m.BPF_EXIT_INSN(),
    )
    buffer, res = world.buffer(text.ljust(80, b"\0")), world.buffer(b"\xff" * 8)
    name = {STRTOL: "bpf_strtol", STRTOUL: "bpf_strtoul"}[helper]
    result = world.run_signed(name, buffer, size, flags, res)
    value = world.memory.u64(res)
    assert result * 1000003 + value + 3 * (value >> 32) & M32 == run_on_host(insns)[0]


@host_kernel
def test_xdp_bytes() -> None:
    """bpf_xdp_load_bytes() around the packet's end, its result and the bytes that it brought."""
    world, packet = World(), bytes(range(100, 164))
    fields = world.layout["xdp_buff"]
    page, xdp = world.alloc.kmalloc(PAGE), world.alloc.kmalloc(fields.size)
    world.memory.write(page, packet)
    world.memory.put_u64(xdp + fields.offset("data"), page)
    world.memory.put_u64(xdp + fields.offset("data_end"), page + len(packet))
    out = world.buffer(bytes(8))
    for offset, size in [
        (0, 8),
        (56, 8),
        (57, 8),
        (63, 1),
        (64, 1),
        (63, 2),
        (65535, 1),
        (65536, 1),
        (70000, 8),
    ]:
        world.memory.put_u64(out, 0)
        result = world.run("bpf_xdp_load_bytes", xdp, offset, out, size)
        insns = m.program(
            m.BPF_MOV64_IMM(2, 0),
            m.BPF_STX_MEM(BPF_DW, 10, 2, -8),
            m.BPF_MOV64_IMM(2, offset),
            *stack_pointer(3, -8),
            m.BPF_MOV64_IMM(4, size),
            m.BPF_EMIT_CALL(LOAD_BYTES),
            m.BPF_LDX_MEM(BPF_DW, 1, 10, -8),
            m.BPF_ALU64_REG(BPF_ADD, 0, 1),
            m.BPF_EXIT_INSN(),
        )
        assert result + world.memory.u64(out) & M32 == run_on_host(insns, packet)[0], (offset, size)
