# SPDX-License-Identifier: GPL-2.0-only
"""Seeded programs that Linux's verifier accepts, weighted like compiled code and to edge values.

R0-R8 hold scalars throughout, R9 the middle of a map value; the stack is initialised. Control flow
goes forwards in nested if/else, plus a bounded loop now and then and functions that take scalars.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

MAP_SIZE = 4096
STACK = 64
_IMMS = (0, 1, -1, 2, 7, 8, 127, 128, -128, -129, 255, 4096, 0x7FFFFFFF, -0x80000000, 0x12345678)
_BINARY = (op.BPF_ADD, op.BPF_SUB, op.BPF_MUL, op.BPF_OR, op.BPF_AND, op.BPF_XOR, op.BPF_MOV)
_SHIFTS = (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH)
_CONDITIONS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
_SIZES = (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW)
_ATOMICS = (0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1)
_HELPERS = (5, 7, 8)
"""ktime_get_ns, get_prandom_u32, get_smp_processor_id: no arguments."""


class _Writer:
    def __init__(self, seed: int, has_map: bool) -> None:
        self.rng = random.Random(seed)
        self.has_map = has_map

    def reg(self) -> int:
        return self.rng.randrange(9)

    def imm(self) -> int:
        return self.rng.choice(_IMMS) if self.rng.random() < 0.7 else self.rng.randrange(-(1 << 31), 1 << 31)

    def klass(self) -> int:
        return self.rng.choice((op.BPF_ALU64, op.BPF_ALU64, op.BPF_ALU))

    def binary(self) -> list[Insn]:
        code = self.klass() | self.rng.choice(_BINARY)
        if self.rng.random() < 0.5:
            return [Insn(code | op.BPF_X, self.reg(), self.reg())]
        return [Insn(code, self.reg(), 0, 0, self.imm())]

    def shift(self) -> list[Insn]:
        klass = self.klass()
        code = klass | self.rng.choice(_SHIFTS)
        if self.rng.random() < 0.4:
            return [Insn(code | op.BPF_X, self.reg(), self.reg())]
        return [Insn(code, self.reg(), 0, 0, self.rng.randrange(64 if klass == op.BPF_ALU64 else 32))]

    def divide(self) -> list[Insn]:
        code = self.klass() | self.rng.choice((op.BPF_DIV, op.BPF_MOD))
        signed = self.rng.randrange(2)
        if self.rng.random() < 0.6:
            return [Insn(code | op.BPF_X, self.reg(), self.reg(), signed)]
        return [Insn(code, self.reg(), 0, signed, self.imm() or 3)]

    def unary(self) -> list[Insn]:
        reg, pick = self.reg(), self.rng.randrange(3)
        if pick == 0:
            return [Insn(self.klass() | op.BPF_NEG, reg)]
        if pick == 1:
            form = self.rng.choice((op.BPF_ALU | op.BPF_TO_LE, op.BPF_ALU | op.BPF_TO_BE, op.BPF_ALU64))
            return [Insn(form | op.BPF_END, reg, 0, 0, self.rng.choice((16, 32, 64)))]
        klass = self.klass()
        bits = self.rng.choice((8, 16, 32) if klass == op.BPF_ALU64 else (8, 16))
        return [Insn(klass | op.BPF_MOV | op.BPF_X, reg, self.reg(), bits)]

    def constant(self) -> list[Insn]:
        high = self.imm() if self.rng.random() < 0.6 else 0
        return [Insn(op.LD_IMM64, self.reg(), 0, 0, self.imm()), Insn(0, imm=high)]

    def place(self, size: int) -> tuple[int, int]:
        """A base register and an offset at which ``size`` bytes may be accessed."""
        width = op.SIZE_BYTES[size]
        if self.has_map and self.rng.random() < 0.6:
            off = self.rng.choice((0, 0, 4, 8, 16, 120, 128, -8, -128, -136, 1024))
            return 9, off - off % width
        return 10, -width * self.rng.randrange(1, STACK // width + 1)

    def memory(self) -> list[Insn]:
        size, pick = self.rng.choice(_SIZES), self.rng.randrange(5)
        base, off = self.place(size)
        if pick < 2:
            return [Insn(op.BPF_LDX | op.BPF_MEM | size, self.reg(), base, off)]
        if pick == 2 and size != op.BPF_DW:
            return [Insn(op.BPF_LDX | op.BPF_MEMSX | size, self.reg(), base, off)]
        if pick == 3:
            return [Insn(op.BPF_ST | op.BPF_MEM | size, base, 0, off, self.imm())]
        return [Insn(op.BPF_STX | op.BPF_MEM | size, base, self.reg(), off)]

    def atomic(self) -> list[Insn]:
        if self.rng.random() < 0.3:
            size = self.rng.choice(_SIZES)
            base, off = self.place(size)
            if self.rng.random() < 0.5:
                return [Insn(op.BPF_STX | op.BPF_ATOMIC | size, self.reg(), base, off, op.BPF_LOAD_ACQ)]
            return [Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, self.reg(), off, op.BPF_STORE_REL)]
        size = self.rng.choice((op.BPF_W, op.BPF_DW))
        base, off = self.place(size)
        return [Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, self.reg(), off, self.rng.choice(_ATOMICS))]

    def helper(self) -> list[Insn]:
        scalars = [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 0) for reg in range(1, 6)]
        return [Insn(op.CALL, imm=self.rng.choice(_HELPERS)), *scalars]

    def jump(self, off: int) -> Insn:
        klass, code = self.rng.choice((op.BPF_JMP, op.BPF_JMP32)), self.rng.choice(_CONDITIONS)
        if self.rng.random() < 0.5:
            return Insn(klass | code | op.BPF_X, self.reg(), self.reg(), off)
        return Insn(klass | code, self.reg(), 0, off, self.imm())

    def branch(self, depth: int) -> list[Insn]:
        then = self.block(self.rng.randrange(1, 12), depth + 1)
        if self.rng.random() < 0.5:
            return [self.jump(len(then)), *then]
        other = self.block(self.rng.randrange(1, 8), depth + 1)
        distance = len(other)
        long = self.rng.random() < 0.3
        over = (
            Insn(op.BPF_JMP32 | op.BPF_JA, imm=distance)
            if long
            else Insn(op.BPF_JMP | op.BPF_JA, off=distance)
        )
        return [self.jump(len(then) + 1), *then, over, *other]

    def early_exit(self) -> list[Insn]:
        return [self.jump(2), Insn(op.BPF_ALU64 | op.BPF_MOV, 0, 0, 0, self.imm()), Insn(op.EXIT)]

    def loop(self) -> list[Insn]:
        """A few rounds counted in a stack slot that nothing else touches."""
        slot, body = -STACK - 8, [i for i in self.block(self.rng.randrange(2, 30), 9) if i.code != op.EXIT]
        load = Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 8, 10, slot)
        store = Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, 8, slot)
        rounds = Insn(op.BPF_ALU64 | op.BPF_ADD, 8, 0, 0, -1)
        start = [Insn(op.BPF_ALU64 | op.BPF_MOV, 8, 0, 0, self.rng.randrange(1, 4)), store]
        body = [*body, load, rounds, store]
        return [*start, *body, Insn(op.BPF_JMP | op.BPF_JNE, 8, 0, -len(body) - 1, 0)]

    def block(self, count: int, depth: int) -> list[Insn]:
        kinds = [
            *((self.binary, 8), (self.shift, 3), (self.divide, 1), (self.unary, 2), (self.constant, 2)),
            *((self.memory, 8), (self.atomic, 1), (self.helper, 1)),
        ]
        choices, weights = zip(*kinds, strict=True)
        out: list[Insn] = []
        for _ in range(count):
            if depth < 3 and self.rng.random() < 0.15:
                out += self.branch(depth)
            elif depth < 3 and self.rng.random() < 0.02:
                out += self.early_exit()
            elif depth == 0 and self.rng.random() < 0.02:
                out += self.loop()
            else:
                out += self.rng.choices(choices, weights)[0]()
        return out

    def start(self) -> list[Insn]:
        return [
            Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -8 * slot, self.imm())
            for slot in range(1, STACK // 8 + 2)
        ]


def random_program(seed: int, map_value: Sequence[Insn] = (), size: int = 40) -> list[Insn]:
    """A program of some ``size`` to several hundred slots, the same for the same seed.

    ``map_value`` loads R9 with the middle of a map value of MAP_SIZE bytes; without it there is no map.
    """
    writer = _Writer(seed, bool(map_value))
    scalars = [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 0) for reg in range(1, 9)]
    main = [*writer.start(), Insn(op.CALL, imm=7), *scalars, *map_value]
    main += writer.block(writer.rng.randrange(4, size), 0)
    functions: list[list[Insn]] = []
    calls: list[tuple[int, int]] = []
    for number in range(writer.rng.choice((0, 0, 0, 1, 2))):
        calls.append((len(main), number))
        main.append(Insn(op.CALL, src=op.BPF_PSEUDO_CALL))
        main += [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 0) for reg in range(1, 6)]
        main += writer.block(writer.rng.randrange(1, 8), 1)
        writer.has_map = False
        scalars = [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, reg, 1) for reg in (0, 6, 7, 8)]
        body = [*writer.start(), *scalars, *writer.block(writer.rng.randrange(2, 20), 1)]
        functions.append([*body, Insn(op.EXIT)])
        writer.has_map = bool(map_value)
    main.append(Insn(op.EXIT))
    at = len(main)
    starts = []
    for function in functions:
        starts.append(at)
        at += len(function)
    for slot, number in calls:
        main[slot] = main[slot]._replace(imm=starts[number] - slot - 1)
    return [*main, *(insn for function in functions for insn in function)]
