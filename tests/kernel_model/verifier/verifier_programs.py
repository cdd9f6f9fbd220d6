# SPDX-License-Identifier: GPL-2.0-only
"""Random programs that get past the first checks: arithmetic, branches, spills, calls, packets, maps."""

from __future__ import annotations

import random

from verifier_world import MAPS

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

_ALU = (
    op.BPF_ADD,
    op.BPF_SUB,
    op.BPF_MUL,
    op.BPF_DIV,
    op.BPF_OR,
    op.BPF_AND,
    op.BPF_LSH,
    op.BPF_RSH,
    op.BPF_NEG,
    op.BPF_MOD,
    op.BPF_XOR,
    op.BPF_MOV,
    op.BPF_ARSH,
    op.BPF_END,
)
_JUMPS = (
    op.BPF_JEQ,
    op.BPF_JGT,
    op.BPF_JGE,
    op.BPF_JSET,
    op.BPF_JNE,
    op.BPF_JSGT,
    op.BPF_JSGE,
    op.BPF_JLT,
    op.BPF_JLE,
    op.BPF_JSLT,
    op.BPF_JSLE,
)
_ATOMIC = (
    op.BPF_ADD,
    op.BPF_ADD | op.BPF_FETCH,
    op.BPF_XOR | op.BPF_FETCH,
    op.BPF_OR,
    op.BPF_XCHG,
    op.BPF_CMPXCHG,
    op.BPF_LOAD_ACQ,
    op.BPF_STORE_REL,
)
_NUMBERS = (0, 1, 2, 7, 8, 15, 31, 32, 63, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, -1, -2, -8, -0x80000000)
_SCALARS = (0, 2, 3, 4, 5, 7, 8)
_SLOTS = (-8, -16, -24, -32)


def _number(rng: random.Random) -> int:
    return rng.choice(_NUMBERS) if rng.random() < 0.8 else rng.randrange(-(1 << 31), 1 << 31)


def _alu(rng: random.Random) -> list[Insn]:
    cls = rng.choice((op.BPF_ALU, op.BPF_ALU64))
    what = rng.choice(_ALU)
    dst, src = rng.choice(_SCALARS), rng.choice(_SCALARS)
    if what == op.BPF_END:
        swap = 0 if cls == op.BPF_ALU64 else rng.choice((0, 8))
        return [Insn(cls | what | swap, dst, 0, 0, rng.choice((16, 32, 64)))]
    if what == op.BPF_NEG:
        return [Insn(cls | what, dst)]
    if rng.random() < 0.5:
        off = rng.choice((0, 0, 8, 16, 32)) if what == op.BPF_MOV else 0
        if cls == op.BPF_ALU and off == 32:
            off = 0
        return [Insn(cls | what | op.BPF_X, dst, src, off)]
    imm = _number(rng)
    if what in (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH):
        imm = rng.randrange(64 if cls == op.BPF_ALU64 else 32)
    if what in (op.BPF_DIV, op.BPF_MOD) and imm == 0:
        imm = 3
    off = rng.choice((0, 0, 1)) if what in (op.BPF_DIV, op.BPF_MOD) else 0
    return [Insn(cls | what, dst, 0, off, imm)]


def _jump(rng: random.Random) -> list[Insn]:
    cls = rng.choice((op.BPF_JMP, op.BPF_JMP32))
    code = cls | rng.choice(_JUMPS)
    off = rng.randrange(0, 7)
    if rng.random() < 0.5:
        return [Insn(code | op.BPF_X, rng.choice(_SCALARS), rng.choice(_SCALARS), off)]
    return [Insn(code, rng.choice(_SCALARS), 0, off, _number(rng))]


def _stack(rng: random.Random) -> list[Insn]:
    size = rng.choice((op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW, op.BPF_DW))
    off = rng.choice(_SLOTS) + (rng.randrange(0, 8, op.SIZE_BYTES[size]) if rng.random() < 0.3 else 0)
    reg = rng.choice(_SCALARS)
    kind = rng.random()
    if kind < 0.4:
        return [Insn(op.BPF_STX | op.BPF_MEM | size, 10, reg, off)]
    if kind < 0.5:
        return [Insn(op.BPF_ST | op.BPF_MEM | size, 10, 0, off, _number(rng))]
    mode = op.BPF_MEMSX if size != op.BPF_DW and rng.random() < 0.3 else op.BPF_MEM
    return [Insn(op.BPF_LDX | mode | size, reg, 10, off)]


def _atomic(rng: random.Random) -> list[Insn]:
    """A read-modify-write of a whole stack slot, or its ordered load or store."""
    size = rng.choice((op.BPF_W, op.BPF_DW))
    what = rng.choice(_ATOMIC)
    off = rng.choice(_SLOTS)
    reg = rng.choice(_SCALARS)
    if what == op.BPF_LOAD_ACQ:
        return [Insn(op.BPF_STX | op.BPF_ATOMIC | size, reg, 10, off, what)]
    return [Insn(op.BPF_STX | op.BPF_ATOMIC | size, 10, reg, off, what)]


def _lookup(rng: random.Random) -> list[Insn]:
    """A lookup, and a guarded access with a bounded variable offset."""
    the_map = MAPS[rng.choice(("array", "hash", "odd_array", "percpu_array"))]
    bits = rng.choice((7, 15, 31, 63))
    keep = rng.choice((7, 8))
    return [
        Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -40, rng.randrange(12)),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 2, 10),
        Insn(op.BPF_ALU64 | op.BPF_ADD, 2, 0, 0, -40),
        Insn(op.LD_IMM64, 1, 1, 0, the_map.fd),
        Insn(0),
        Insn(op.CALL, 0, 0, 0, 1),
        Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, 4, 0),
        Insn(op.BPF_ALU64 | op.BPF_AND, keep, 0, 0, bits),
        Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, 0, keep),
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_B, keep, 0, rng.randrange(0, 20)),
        Insn(op.BPF_STX | op.BPF_MEM | op.BPF_B, 0, keep, 0),
        *_fresh(rng),
    ]


def _fresh(rng: random.Random) -> list[Insn]:
    """Numbers for the registers that a call clobbers."""
    random_source = Insn(op.CALL, 0, 0, 0, 7)
    return [
        random_source,
        *(
            Insn(op.BPF_ALU64 | op.BPF_MOV, reg, 0, 0, _number(rng))
            if rng.random() < 0.6
            else Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 0)
            for reg in (2, 3, 4, 5)
        ),
    ]


def random_program(rng: random.Random) -> list[Insn]:
    """Up to some 60 instructions; most are accepted, many are not."""
    body: list[list[Insn]] = []
    for _ in range(rng.randrange(3, 22)):
        make = rng.choices((_alu, _jump, _stack, _atomic, _lookup), (10, 7, 5, 1, 1))[0]
        body.append(make(rng))
    flat = [insn for part in body for insn in part]
    start = [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 6, 1), *_fresh(rng)]
    start += [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 0) for reg in (7, 8)]
    start += [
        Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, reg, off)
        for reg, off in zip((0, 2, 3, 4), _SLOTS, strict=True)
    ]
    out = []
    for at, insn in enumerate(flat):
        room = len(flat) - at - 1
        is_jump = insn.code & 7 in (op.BPF_JMP, op.BPF_JMP32) and insn.code & 0xF0 not in (
            op.BPF_CALL,
            op.BPF_EXIT,
        )
        out.append(insn._replace(off=min(insn.off, room)) if is_jump else insn)
    loop = []
    if rng.random() < 0.25:
        # A short loop at the end, over everything random.
        loop = [
            Insn(op.BPF_ALU64 | op.BPF_ADD, 9, 0, 0, 1),
            Insn(op.BPF_JMP | op.BPF_JLT, 9, 0, -len(out) - 2, rng.randrange(2, 5)),
        ]
        start.append(Insn(op.BPF_ALU64 | op.BPF_MOV, 9, 0, 0, 0))
    return [*start, *out, *loop, Insn(op.BPF_ALU64 | op.BPF_AND, 0, 0, 0, 3), Insn(op.EXIT)]
