# SPDX-License-Identifier: GPL-2.0-only
"""Large programs for the verifier, made from a seed: what they consist of, as one table.

Each maker fills a program of about ``size`` slots. Maps are named by the descriptors ARRAY_FD (one value of
VALUE_SIZE bytes) and HASH_FD, contexts are those of XDP.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

ARRAY_FD: Final = 10
HASH_FD: Final = 11
VALUE_SIZE: Final = 256

_LOOKUP, _UPDATE, _KTIME = 1, 2, 5
_INGRESS_IFINDEX: Final = 12
_MOV64, _MOV64X = op.BPF_ALU64 | op.BPF_MOV, op.BPF_ALU64 | op.BPF_MOV | op.BPF_X
_ADD64, _ADD64X = op.BPF_ALU64 | op.BPF_ADD, op.BPF_ALU64 | op.BPF_ADD | op.BPF_X
_AND64 = op.BPF_ALU64 | op.BPF_AND
_ST, _STX, _LDX = op.BPF_ST | op.BPF_MEM, op.BPF_STX | op.BPF_MEM, op.BPF_LDX | op.BPF_MEM
_OPERATIONS: Final = (op.BPF_ADD, op.BPF_SUB, op.BPF_MUL, op.BPF_OR, op.BPF_AND, op.BPF_XOR, op.BPF_MOV)
_UNFORKED: Final = (op.BPF_ADD, op.BPF_SUB, op.BPF_MUL, op.BPF_XOR, op.BPF_MOV)
"""AND and OR of a number that is -1 or 0 are followed as two paths."""
_CONDITIONS: Final = (op.BPF_JEQ, op.BPF_JNE, op.BPF_JGT, op.BPF_JLE, op.BPF_JSLT, op.BPF_JSGE, op.BPF_JSET)
_NUMBERS: Final = (1, 2, 3, 7, 8, 15, 64, 255, 4096, -1, -8)
_SIZES: Final = (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW)

_RETURN: Final = (Insn(_MOV64, 0, 0, 0, 2), Insn(op.EXIT))


def _map_fd(reg: int, fd: int) -> list[Insn]:
    return [Insn(op.LD_IMM64, reg, op.BPF_PSEUDO_MAP_FD, 0, fd), Insn(0)]


def _map_value(reg: int) -> list[Insn]:
    return [Insn(op.LD_IMM64, reg, op.BPF_PSEUDO_MAP_VALUE, 0, ARRAY_FD), Insn(0)]


def _alu(rng: random.Random, regs: tuple[int, ...], operations: tuple[int, ...] = _OPERATIONS) -> Insn:
    cls = rng.choice((op.BPF_ALU64, op.BPF_ALU64, op.BPF_ALU))
    if rng.random() < 0.15:
        width = 64 if cls == op.BPF_ALU64 else 32
        return Insn(
            cls | rng.choice((op.BPF_LSH, op.BPF_RSH)), rng.choice(regs), 0, 0, rng.randrange(width // 2)
        )
    operation = rng.choice(operations)
    if rng.random() < 0.5:
        return Insn(cls | operation | op.BPF_X, rng.choice(regs), rng.choice(regs))
    return Insn(cls | operation, rng.choice(regs), 0, 0, rng.choice(_NUMBERS))


def _memory(rng: random.Random, regs: tuple[int, ...], value: int) -> Insn:
    """A load or store: stack (initialized down to fp-64) or, through register ``value``, the map's value."""
    size = rng.choice(_SIZES)
    reg = rng.choice(regs)
    if rng.random() < 0.6:
        off = -8 * rng.randrange(1, 9)
        return Insn(_STX | size, 10, reg, off) if rng.random() < 0.5 else Insn(_LDX | size, reg, 10, off)
    off = 8 * rng.randrange(VALUE_SIZE // 8)
    return Insn(_STX | size, value, reg, off) if rng.random() < 0.4 else Insn(_LDX | size, reg, value, off)


def _start(regs: tuple[int, ...], value: int) -> list[Insn]:
    """``regs`` hold unknown numbers, ``value`` points to the map's value, 64 bytes of stack are written."""
    out = [Insn(_LDX | op.BPF_W, regs[0], 1, _INGRESS_IFINDEX), *_map_value(value)]
    out += [Insn(_LDX | op.BPF_DW, reg, value, 8 * at) for at, reg in enumerate(regs[1:])]
    out += [Insn(_STX | op.BPF_DW, 10, regs[at % len(regs)], -8 * (at + 1)) for at in range(8)]
    return out


def straight_line(rng: random.Random, size: int) -> list[Insn]:
    """Arithmetic, loads and stores without a jump."""
    regs = (0, 2, 3, 4, 5, 7, 8)
    out = _start(regs, 9)
    while len(out) < size - len(_RETURN):
        out.append(_memory(rng, regs, 9) if rng.random() < 0.3 else _alu(rng, regs, _UNFORKED))
    return [*out, *_RETURN]


def branches(rng: random.Random, size: int) -> list[Insn]:
    """Tests of unknown numbers with a few instructions on one side, and indices that must be exact.

    Numbers are read anew every few tests, so that paths meet again.
    """
    regs = (0, 2, 3, 4, 5, 7)
    out = _start(regs, 9)
    tests = 0
    while len(out) < size - 24:
        if tests % 5 == 4:
            out += [Insn(_LDX | op.BPF_DW, reg, 9, 8 * rng.randrange(VALUE_SIZE // 8)) for reg in regs]
        tests += 1
        body = [
            _memory(rng, regs, 9) if rng.random() < 0.3 else _alu(rng, regs)
            for _ in range(rng.randrange(1, 6))
        ]
        code = rng.choice((op.BPF_JMP, op.BPF_JMP, op.BPF_JMP32)) | rng.choice(_CONDITIONS)
        if rng.random() < 0.2:
            out.append(Insn(code | op.BPF_X, rng.choice(regs), rng.choice(regs), len(body)))
        else:
            out.append(Insn(code, rng.choice(regs), 0, len(body), rng.choice(_NUMBERS)))
        out += body
        if rng.random() < 0.2:
            index = rng.choice(regs)
            out += [
                Insn(_AND64, index, 0, 0, rng.choice((31, 63, 127))),
                Insn(_MOV64X, 8, 9),
                Insn(_ADD64X, 8, index),
                Insn(_LDX | op.BPF_B, index, 8, rng.randrange(64)),
            ]
    return [*out, *_RETURN]


def _counted(body: list[Insn], rounds: int) -> list[Insn]:
    """``body`` a known number of times, counted in R6."""
    back = -len(body) - 2
    return [
        Insn(_MOV64, 6, 0, 0, 0),
        *body,
        Insn(_ADD64, 6, 0, 0, 1),
        Insn(op.BPF_JMP | op.BPF_JLT, 6, 0, back, rounds),
    ]


def bounded_loop(rng: random.Random, size: int) -> list[Insn]:
    """A counted loop whose body indexes the map's value with the counter; ``size`` is what is processed."""
    regs = (0, 2, 3, 4, 5, 7)
    body = [
        Insn(_MOV64X, 8, 6),
        Insn(_AND64, 8, 0, 0, 63),
        Insn(_MOV64X, 2, 9),
        Insn(_ADD64X, 2, 8),
        Insn(_LDX | op.BPF_B, 3, 2, 8),
        Insn(_STX | op.BPF_B, 2, 3, 64),
    ]
    body += [
        _memory(rng, (3, 4, 5), 9) if rng.random() < 0.25 else _alu(rng, (3, 4, 5, 7)) for _ in range(18)
    ]
    out = _start(regs, 9)
    return [*out, *_counted(body, size // (len(body) + 2)), *_RETURN]


def _lookup(rng: random.Random) -> list[Insn]:
    """A lookup with a key from R7 or a constant; the null check; R7 is added to a field of the value."""
    store = Insn(_STX | op.BPF_W, 10, 7, -4)
    if rng.random() < 0.5:
        store = Insn(_ST | op.BPF_W, 10, 0, -4, rng.randrange(9))
    field = 8 * rng.randrange(VALUE_SIZE // 8)
    use = [Insn(_LDX | op.BPF_DW, 7, 0, field), Insn(_ADD64, 7, 0, 0, 1), Insn(_STX | op.BPF_DW, 0, 7, field)]
    return [
        store,
        Insn(_MOV64X, 2, 10),
        Insn(_ADD64, 2, 0, 0, -4),
        *_map_fd(1, rng.choice((ARRAY_FD, HASH_FD))),
        Insn(op.CALL, 0, 0, 0, _LOOKUP),
        Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, len(use), 0),
        *use,
    ]


def _update() -> list[Insn]:
    """The value of the array's only element goes into the hash map."""
    return [
        Insn(_MOV64X, 2, 10),
        Insn(_ADD64, 2, 0, 0, -4),
        Insn(_MOV64X, 3, 9),
        Insn(_MOV64, 4, 0, 0, 0),
        *_map_fd(1, HASH_FD),
        Insn(op.CALL, 0, 0, 0, _UPDATE),
    ]


def map_lookups(rng: random.Random, size: int) -> list[Insn]:
    """Lookups in both maps, each with its null check, one after the other; now and then an update."""
    out = _start((7, 8), 9)
    while len(out) < size - 24:
        out += _lookup(rng)
        if rng.random() < 0.2:
            out += _update()
    return [*out, *_RETURN]


def lookup_loop(rng: random.Random, size: int) -> list[Insn]:
    """Four lookups and an update in a counted loop; ``size`` is about what is processed."""
    body = [insn for _ in range(4) for insn in _lookup(rng)] + _update()
    return [*_start((7, 8), 9), *_counted(body, size // (len(body) + 4)), *_RETURN]


def subprograms(rng: random.Random, size: int) -> list[Insn]:
    """Functions that call one another five deep, from many places; each has its own stack and branches."""
    depth = 5
    functions: list[list[Insn]] = []
    for level in range(depth):
        regs = (0, 2, 3, 4, 5)
        body = [Insn(_MOV64X, 6, 1), Insn(_MOV64X, 7, 2)]
        body += [
            Insn(_STX | op.BPF_DW, 10, reg, -8 * (at + 1)) for at, reg in enumerate((1, 2, 1, 2, 1, 2, 1, 2))
        ]
        body += [Insn(_MOV64X, reg, 2) for reg in regs if reg != 2]
        body += [_alu(rng, regs) for _ in range(8)]
        skipped = [_alu(rng, regs) for _ in range(3)]
        body += [Insn(op.BPF_JMP | op.BPF_JGT, 4, 0, len(skipped), 9), *skipped]
        body += [Insn(_LDX | op.BPF_W, 3, 6, 8 * level), Insn(_STX | op.BPF_DW, 10, 3, -16)]
        body += [Insn(_MOV64X, 1, 6), Insn(_MOV64X, 2, 7)]
        functions.append(body)
    entries: list[list[Insn]] = []
    block = 5
    calls = max(1, (size - 200) // block)
    main = [
        Insn(_LDX | op.BPF_W, 7, 1, _INGRESS_IFINDEX),
        *_map_value(9),
    ]
    at = len(main) + block * calls + len(_RETURN)
    starts = []
    for level, body in enumerate(functions):
        starts.append(at)
        more = 1 if level + 1 < depth else 0
        at += len(body) + more + len(_RETURN)
    for number in range(calls):
        here = len(main) + block * number
        target = starts[depth - 1] if number % 4 else starts[rng.randrange(depth)]
        entries.append(
            [
                Insn(_MOV64X, 1, 9),
                Insn(_MOV64X, 2, 7),
                Insn(_ADD64, 2, 0, 0, number % 3),
                Insn(op.CALL, 0, op.BPF_PSEUDO_CALL, 0, target - (here + 3) - 1),
                Insn(_MOV64X, 7, 0),
            ]
        )
    out = main + [insn for entry in entries for insn in entry] + list(_RETURN)
    for level, body in enumerate(functions):
        out += body
        if level + 1 < depth:
            out.append(Insn(op.CALL, 0, op.BPF_PSEUDO_CALL, 0, starts[level + 1] - len(out) - 1))
        out += [Insn(_LDX | op.BPF_DW, 0, 10, -16), Insn(op.EXIT)]
    return out


@dataclass(frozen=True)
class Large:
    """A large program: ``make(rng, size)``; ``about`` says what it stresses."""

    name: str
    make: Callable[[random.Random, int], list[Insn]]
    size: int
    about: str

    def insns(self, seed: int = 0, size: int = 0) -> list[Insn]:
        """The program's slots; the same for the same seed and size."""
        return self.make(random.Random(f"{self.name}:{seed}"), size or self.size)


LARGE: Final = {
    row.name: row
    for row in (
        Large("straight", straight_line, 9_900, "arithmetic, loads and stores without a jump"),
        Large("straight_long", straight_line, 200_000, "the same, twenty times as long"),
        Large("branches", branches, 1_500, "tests of unknown numbers, and paths that meet again"),
        Large("loop", bounded_loop, 200_000, "a counted loop, every round followed"),
        Large("lookups", map_lookups, 9_900, "map lookups with null checks, and updates"),
        Large("lookup_loop", lookup_loop, 100_000, "the same in a counted loop"),
        Large("subprogs", subprograms, 9_900, "functions calling one another"),
    )
}
