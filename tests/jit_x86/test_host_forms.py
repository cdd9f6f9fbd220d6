# SPDX-License-Identifier: GPL-2.0-only
"""Every instruction form: our bytes are the host kernel's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import host_bpf
import pytest
from host_reference import compile_as_host, copy, helper, map_value, mov

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

IMMS = (0, 1, -1, 5, 127, 128, -128, -129, 255, 256, 0x7FFFFFFF, -0x80000000, 0x12345678)
DIVISORS = (1, -1, 3, 127, 128, -128, 0x7FFFFFFF, -0x80000000)
SHIFTS = (0, 1, 2, 7, 8, 31)
REGS = range(10)
BINARY = (op.BPF_ADD, op.BPF_SUB, op.BPF_AND, op.BPF_OR, op.BPF_XOR, op.BPF_MUL, op.BPF_MOV)
SHIFT = (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH)
CONDITIONS = (
    *(op.BPF_JEQ, op.BPF_JNE, op.BPF_JSET, op.BPF_JGT, op.BPF_JGE, op.BPF_JLT),
    *(op.BPF_JLE, op.BPF_JSGT, op.BPF_JSGE, op.BPF_JSLT, op.BPF_JSLE),
)
UNKNOWN = [
    helper(7),
    *(copy(reg, 0) for reg in range(1, 10)),
]
"""Scalars that the host's verifier knows nothing of, in R0-R9."""
LEAVE = [mov(0, 0), Insn(op.EXIT)]
MAP_SIZE = 16384


def arithmetic() -> Iterator[tuple[str, list[Insn]]]:
    """Every arithmetic form: a name, and instructions over registers and immediates."""
    for (name, klass), code in itertools.product((("alu32", op.BPF_ALU), ("alu64", op.BPF_ALU64)), BINARY):
        yield f"{name}-{code:#x}-imm", [Insn(klass | code, dst, imm=imm) for dst in REGS for imm in IMMS]
        body = [Insn(klass | code | op.BPF_X, dst, src) for dst in REGS for src in REGS]
        yield f"{name}-{code:#x}-reg", body
    for (name, klass), code in itertools.product((("alu32", op.BPF_ALU), ("alu64", op.BPF_ALU64)), SHIFT):
        counts = SHIFTS if klass == op.BPF_ALU else (*SHIFTS, 32, 63)
        yield f"{name}-{code:#x}-imm", [Insn(klass | code, dst, imm=imm) for dst in REGS for imm in counts]
        body = [Insn(klass | code | op.BPF_X, dst, src) for dst in REGS for src in REGS]
        yield f"{name}-{code:#x}-reg", body
    for klass, code, signed in itertools.product(
        (op.BPF_ALU, op.BPF_ALU64), (op.BPF_DIV, op.BPF_MOD), (0, 1)
    ):
        body = [Insn(klass | code, dst, 0, signed, imm) for dst in REGS for imm in DIVISORS]
        yield f"div-{klass}-{code:#x}-{signed}-imm", body
        body = [Insn(klass | code | op.BPF_X, dst, src, signed) for dst in REGS for src in REGS]
        yield f"div-{klass}-{code:#x}-{signed}-reg", body
    yield "neg", [Insn(klass | op.BPF_NEG, dst) for klass in (op.BPF_ALU, op.BPF_ALU64) for dst in REGS]
    swaps = (op.BPF_ALU | op.BPF_TO_LE, op.BPF_ALU | op.BPF_TO_BE, op.BPF_ALU64)
    body = [Insn(c | op.BPF_END, dst, imm=imm) for c in swaps for dst in REGS for imm in (16, 32, 64)]
    yield "swap", body
    forms = ((op.BPF_ALU, 8), (op.BPF_ALU, 16), (op.BPF_ALU64, 8), (op.BPF_ALU64, 16), (op.BPF_ALU64, 32))
    for klass, bits in forms:
        body = [Insn(klass | op.BPF_MOV | op.BPF_X, dst, src, bits) for dst in REGS for src in REGS]
        yield f"movsx-{klass}-{bits}", body
    values = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, -1, -0x80000000, -0x80000001, 1 << 63)
    body = []
    for dst, value in itertools.product(REGS, values):
        low, high = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
        signed = [half - (1 << 32) if half >> 31 else half for half in (low, high)]
        body += [Insn(op.LD_IMM64, dst, imm=signed[0]), Insn(0, imm=signed[1])]
    yield "ld_imm64", body


@host_bpf.host_kernel
@pytest.mark.parametrize(("name", "body"), [pytest.param(n, b, id=n) for n, b in arithmetic()])
def test_arithmetic(name: str, body: list[Insn]) -> None:
    result = compile_as_host([*UNKNOWN, *body, *LEAVE])
    assert not result.differences, "\n".join(result.differences)
    assert len(result.insns) >= len(body)


OFFSETS = (0, 1, 8, 127, 128, -1, -8, -128, -129, 4096, -4096)
SIZES = (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW)
ATOMICS = (
    *(op.BPF_ADD, op.BPF_AND, op.BPF_OR, op.BPF_XOR),
    *(op.BPF_ADD | op.BPF_FETCH, op.BPF_AND | op.BPF_FETCH, op.BPF_OR | op.BPF_FETCH),
    *(op.BPF_XOR | op.BPF_FETCH, op.BPF_XCHG, op.BPF_CMPXCHG),
)


@pytest.fixture(scope="module")
def array() -> Iterator[int]:
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARRAY, 4, MAP_SIZE, 1)
    yield fd
    os.close(fd)


def _around(base: int, fd: int, body: list[Insn]) -> list[Insn]:
    """``body`` with ``base`` in the middle of a map value; registers it overwrites are scalars."""
    return [*map_value(base, fd, MAP_SIZE // 2), *body]


def loads(base: int, fd: int) -> list[Insn]:
    """Loads of every kind through ``base`` into every register."""
    forms = [op.BPF_LDX | op.BPF_MEM | size for size in SIZES]
    forms += [op.BPF_LDX | op.BPF_MEMSX | size for size in SIZES[:3]]
    body = _around(base, fd, [])
    for form, off, dst in itertools.product(forms, OFFSETS, REGS):
        if dst != base:
            body.append(Insn(form, dst, base, off))
    for form, off in itertools.product(forms, OFFSETS):
        body += _around(base, fd, [Insn(form, base, base, off)])
    return body


def stores(base: int, fd: int) -> list[Insn]:
    """Stores of every register and of constants through ``base``."""
    body = _around(base, fd, [])
    for size, off in itertools.product(SIZES, OFFSETS):
        body += [Insn(op.BPF_STX | op.BPF_MEM | size, base, src, off) for src in REGS if src != base]
        body += [Insn(op.BPF_ST | op.BPF_MEM | size, base, 0, off, imm) for imm in IMMS]
    return body


def atomics(base: int, fd: int) -> list[Insn]:
    """Every atomic operation through ``base``."""
    body = _around(base, fd, [])
    for code, size, off in itertools.product(ATOMICS, (op.BPF_W, op.BPF_DW), (0, 8, 256, -8, -256)):
        for src in REGS:
            overwrites_base = code == op.BPF_CMPXCHG and base == 0
            if src != base and not overwrites_base:
                body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, src, off, code))
    for size, off, other in itertools.product(SIZES, (0, 8, 256, -8, -256), REGS):
        if other != base:
            body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, other, off, op.BPF_STORE_REL))
            body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, other, base, off, op.BPF_LOAD_ACQ))
    return body


def stack_accesses() -> list[Insn]:
    """Loads and stores by the frame pointer, at both displacement sizes."""
    body: list[Insn] = []
    for off, size in itertools.product((-8, -128, -136, -512), SIZES):
        body.append(Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, off, -7))
        body += [Insn(op.BPF_STX | op.BPF_MEM | size, 10, reg, off) for reg in REGS]
        body += [Insn(op.BPF_LDX | op.BPF_MEM | size, reg, 10, off) for reg in REGS]
    return body


def branches(klass: int, condition: int, off: int) -> list[Insn]:
    """A conditional jump over ``off`` slots, with fresh unknown values in front of each.

    Otherwise the host's verifier would decide the later ones itself.
    """
    body: list[Insn] = []
    over = [Insn(op.BPF_ALU64 | op.BPF_NEG, 1)] * off
    for dst, imm in itertools.product(REGS, IMMS):
        body += [*UNKNOWN, Insn(klass | condition, dst, 0, off, imm), *over]
    for dst, src in itertools.product(REGS, (0, 1, 4, 5, 6, 9)):
        body += [helper(7), copy(6, 0), helper(7), *(copy(r, 0) for r in (1, 2, 3, 4, 5, 7, 8, 9))]
        body += [Insn(klass | condition | op.BPF_X, dst, src, off), *over]
    return body


def agree(body: list[Insn]) -> None:
    result = compile_as_host([*UNKNOWN, *body, *LEAVE])
    assert not result.differences, "\n".join(result.differences)


@host_bpf.host_kernel
@pytest.mark.parametrize("base", REGS)
@pytest.mark.parametrize("make", [loads, stores, atomics])
def test_memory(array: int, make: Callable[[int, int], list[Insn]], base: int) -> None:
    agree(make(base, array))


@host_bpf.host_kernel
def test_stack_accesses() -> None:
    agree(stack_accesses())


@host_bpf.host_kernel
@pytest.mark.parametrize("klass", [op.BPF_JMP, op.BPF_JMP32])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditional_jumps(klass: int, condition: int) -> None:
    agree(branches(klass, condition, 1))


def all_bodies(fd: int) -> Iterator[list[Insn]]:
    """Every body of this module: what a recording of the host's machine code goes through."""
    for _, body in arithmetic():
        yield body
    for base in REGS:
        yield from (loads(base, fd), stores(base, fd), atomics(base, fd))
    yield stack_accesses()
    for klass, condition in itertools.product((op.BPF_JMP, op.BPF_JMP32), CONDITIONS):
        yield branches(klass, condition, 0)
