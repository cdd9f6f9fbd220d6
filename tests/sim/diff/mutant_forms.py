# SPDX-License-Identifier: GPL-2.0-only
"""Small programs, one or a few for every form of every instruction, whose machine code is mutated.

Each program loads R0 to R9 from its memory, runs the instruction under test, and writes R0 to R9 and its
stack back to memory, so that whatever the instruction leaves is a result.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_IMM64
from kernel_model.isa.native import CpuFeatures, Mitigations
from kernel_model.isa.table import TABLE, Effect, InsnRow, Origin, Use

DATA = 2048
"""Where pointers point: the offset of the data in the program's memory."""
OUT = 128
"""The offset of the registers' last values in the memory."""
INPUTS = 16
"""Inputs of each form."""

PLAIN = (CpuFeatures(), Mitigations())
WITHOUT_BMI2 = (CpuFeatures(bmi2=False), Mitigations())
UNMITIGATED = (CpuFeatures(), Mitigations(retpoline=False, return_thunk=False))
WITH_IBT = (CpuFeatures(), Mitigations(ibt=True))
Setting = tuple[CpuFeatures, Mitigations]

EDGES = (
    *(0, 1, 2, 5, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, 0x100000005),
    *(0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0x8000000000000001, 0xFFFFFFFF80000000, 0xFFFFFFFFFFFFFFFF),
)
_MASK = (1 << 64) - 1
ENTRY = -1
"""The place of a function's prologue among its slots."""


@dataclass(frozen=True)
class Form:
    """``places`` are what is mutated: a slot of ``insns``, or (ENTRY, the function's number). ``pointers``
    are registers that hold the address of the data, ``values`` what registers hold by turns."""

    name: str
    insns: tuple[Insn, ...]
    places: tuple[int | tuple[int, int], ...]
    pointers: frozenset[int] = frozenset()
    values: dict[int, tuple[int, ...]] = field(default_factory=dict)
    setting: Setting = PLAIN
    stack: int = 64


# ---- inputs ------------------------------------------------------------------------------------


def inputs(form: Form, memory: int, seed: int) -> list[bytes]:
    """The memory at the start of each run: registers first, the data at DATA."""
    rng = random.Random(f"{seed} {form.name}")
    out = []
    for number in range(INPUTS):
        regs = _registers(rng, number)
        for reg, values in form.values.items():
            regs[reg] = values[number % len(values)]
        for reg in form.pointers:
            regs[reg] = memory + DATA
        content = bytearray(rng.randbytes(4096))
        if number % 4 == 1:
            # Little numbers and extreme ones, for what compares memory or extends its sign.
            words = (rng.choice((*EDGES, *regs)) & _MASK for _ in range(512))
            content = bytearray(b"".join(word.to_bytes(8, "little") for word in words))
        if number % 4 == 3:
            content[DATA - 512 : DATA + 512] = regs[0].to_bytes(8, "little") * 128
        content[:80] = b"".join((value & _MASK).to_bytes(8, "little") for value in regs)
        content[80 : DATA - 512] = bytes(DATA - 512 - 80)
        out.append(bytes(content))
    return out


def _registers(rng: random.Random, number: int) -> list[int]:
    if number == 0:
        return [0x81_92_A3_B4_C5_D6_E7_80 + 0x0101_0101_0101_0101 * reg for reg in range(10)]
    if number % 4 == 1:
        return [rng.choice(EDGES)] * 10
    if number % 4 == 2:
        low = rng.choice(EDGES) & 0xFFFF_FFFF
        return [low | rng.getrandbits(32) << 32 for _ in range(10)]
    if number % 4 == 3:
        return [rng.getrandbits(64) for _ in range(10)]
    return [rng.choice(EDGES) for _ in range(10)]


# ---- the frame around an instruction -----------------------------------------------------------

_LOAD = assemble(
    "*(u64 *)(r10 -8) = r1\n"
    + "".join(f"r{reg} = *(u64 *)(r1 +{8 * reg})\n" for reg in (0, *range(2, 10), 1))
)
_DUMP = assemble(
    "*(u64 *)(r10 -16) = r9\nr9 = *(u64 *)(r10 -8)\n"
    + "".join(f"*(u64 *)(r9 +{OUT + 8 * reg}) = r{reg}\n" for reg in range(9))
    + "".join(
        f"r8 = *(u64 *)(r10 {off})\n*(u64 *)(r9 +{OUT + 64 - off}) = r8\n" for off in range(-16, -72, -8)
    )
)
_EXIT = [Insn(op.EXIT)]
_FORGET = assemble("".join(f"r{reg} = 0\n" for reg in range(1, 6)))


def _framed(
    body: Sequence[Insn], target: int, name: str, tail: Sequence[Insn] = (), **kwargs: object
) -> Form:
    insns = (*_LOAD, *body, *_DUMP, *_EXIT, *tail)
    return Form(name, insns, (len(_LOAD) + target,), **kwargs)  # type: ignore[arg-type]


# ---- instructions of the table -----------------------------------------------------------------

_PAIRS = ((1, 2), (0, 3), (3, 4), (5, 7), (8, 0), (4, 9), (6, 6))
_IMMS = (0, 1, -1, 5, 127, 128, -128, 0x12345678, -0x80000000, -0x12345678)
_COUNTS = (1, 7, 31, 0)
_COUNTS64 = (*_COUNTS, 32, 63)
_DIVISORS = (3, -2, 128, -0x80000000)
_OFFS = (8, 0, -8, 200, -200)
_SHIFTS = ("LSH", "RSH", "ARSH")
_DIVISIONS = ("DIV", "MOD", "SDIV", "SMOD")


def _immediates(row: InsnRow) -> Sequence[int]:
    if row.effect is Effect.BRANCH:
        return _IMMS[:4] + _IMMS[5:]
    operation = row.name.split("_")[1]
    if operation in _SHIFTS:
        return _COUNTS64 if row.bits == 64 else _COUNTS
    return _DIVISORS if operation in _DIVISIONS else _IMMS


def _near(imm: int) -> tuple[int, ...]:
    """Values around an immediate at both widths."""
    low = imm & 0xFFFF_FFFF
    values = (imm, imm + 1, imm - 1, low, low + 1, imm ^ 1 << 63, ~imm, low | 0x5_0000_0000, 0, imm ^ 1 << 31)
    return tuple(value & _MASK for value in values)


def _arithmetic(row: InsnRow) -> Iterator[Form]:
    if row.src is Use.READ:
        shifts = row.name.split("_")[1] in _SHIFTS
        for dst, src in _PAIRS:
            insn = Insn(row.code, dst, src, _field(row.off), _field(row.imm))
            values = {src: (35, 0, 1, 31, 32, 63, 64, 0x101, _MASK)} if shifts and src != dst else {}
            form = _framed([insn], 0, f"{row.name} r{dst} r{src}", values=values)
            yield form
            if shifts:
                yield replace(form, name=f"{form.name} without bmi2", setting=WITHOUT_BMI2)
    elif row.imm is Use.VALUE:
        for number, imm in enumerate(_immediates(row)):
            dst = (1, 0, 3, 4, 5, 6, 7, 0, 9, 2)[number]
            insn = Insn(row.code, dst, 0, _field(row.off), imm)
            yield _framed([insn], 0, f"{row.name} r{dst} {imm}")
    else:
        for dst in (1, 0, 3, 8):
            insn = Insn(row.code, dst, 0, _field(row.off), _field(row.imm))
            yield _framed([insn], 0, f"{row.name} r{dst}")


def _field(field: int | Use) -> int:
    return field if isinstance(field, int) else 0


_BAD = (0x1000, 0x7FFF_FFFF_F000, 0x1234_5678_9ABC_DEF0, 0xFFFF_DEAD_0000_0000, 0xFFFF_FFFF_FF60_0000)
"""Addresses that probing loads must not follow, and that fault when they do."""


def _loads(row: InsnRow) -> Iterator[Form]:
    pairs = ((2, 1), (0, 8), (5, 5), (3, 0), (9, 4), (7, 7), (4, 6))
    for number, (dst, base) in enumerate(pairs):
        off = _OFFS[number % len(_OFFS)]
        insn = Insn(row.code, dst, base, off, _field(row.imm))
        form = _framed([insn], 0, f"{row.name} r{dst} [r{base} {off:+d}]", pointers=frozenset((base,)))
        yield form
        if "PROBE" in row.name:
            yield replace(form, name=f"{form.name} bad", pointers=frozenset(), values={base: _BAD})
    if "PROBE" not in row.name:
        insns = [
            Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, 3, -24),
            Insn(row.code, 2, 10, -24, _field(row.imm)),
        ]
        yield _framed(insns, 1, f"{row.name} r2 [r10 -24]")


def _stores(row: InsnRow) -> Iterator[Form]:
    pairs = ((1, 2), (8, 0), (5, 7), (0, 3), (4, 1), (7, 9))
    for number, (base, src) in enumerate(pairs):
        off = _OFFS[number % len(_OFFS)]
        imm = _field(row.imm) if row.imm is not Use.VALUE else _IMMS[(1, 2, 7, 8, 5, 9)[number]]
        insn = Insn(row.code, base, src if row.src != 0 else 0, off, imm)
        name = f"{row.name} [r{base} {off:+d}] r{src}"
        yield _framed([insn], 0, name, pointers=frozenset((base,)))
    insn = Insn(row.code, 10, 3 if row.src != 0 else 0, -32, _field(row.imm))
    yield _framed([insn], 0, f"{row.name} [r10 -32]")


def _branches(row: InsnRow) -> Iterator[Form]:
    mark, other = (Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -24, imm) for imm in (7, 9))
    operands: list[tuple[int, int, int]] = [(d, s, 0) for d, s in _PAIRS[:5]]
    if row.imm is Use.VALUE:
        operands = [((1, 0, 3, 0, 5, 6, 7, 0, 9)[n], 0, imm) for n, imm in enumerate(_immediates(row))]
    for number, (dst, src, imm) in enumerate(operands):
        what = f"r{src}" if row.imm is not Use.VALUE else str(imm)
        values = {} if row.imm is not Use.VALUE else {dst: _near(imm)}
        branch = Insn(row.code, dst, src, 1, imm)
        name = f"{row.name} r{dst} {what}"
        yield _framed([mark, branch, other], 1, name, values=values)
        if number == 0 and row.name in _FAR_ROWS:
            yield _framed([mark, branch._replace(off=20), *[other] * 20], 1, f"{name} near", values=values)
            back = [mark, Insn(_JA, off=2), other, Insn(_JA, off=1), branch._replace(off=-3)]
            yield _framed(back, 4, f"{name} backwards", values=values)
            far = [mark, Insn(_JA, off=21), *[other] * 20, Insn(_JA, off=1), branch._replace(off=-22)]
            yield _framed(far, 23, f"{name} near backwards", values=values)


_JA = op.BPF_JMP | op.BPF_JA
_FAR_ROWS = ("JMP_JEQ_X", "JMP_JSGT_K", "JMP32_JLE_X", "JMP32_JSET_K")
"""Those that jump far and backwards, too: that is the same for all conditions."""


def _gotos(row: InsnRow) -> Iterator[Form]:
    mark, other = (Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -24, imm) for imm in (7, 9))

    def goto(distance: int) -> Insn:
        return Insn(row.code, off=distance) if row.off is Use.JUMP else Insn(row.code, imm=distance)

    for count in (1, 20):
        yield _framed([mark, goto(count), *[other] * count], 1, f"{row.name} over {count}")
        back = [mark, Insn(_JA, off=count + 1), *[other] * count, Insn(_JA, off=1), goto(-count - 2)]
        yield _framed(back, count + 3, f"{row.name} back over {count}")


_CONSTANTS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x123456789ABCDEF0, _MASK, 1 << 63)


def _constants() -> Iterator[Form]:
    for number, value in enumerate(_CONSTANTS):
        dst = (0, 1, 5, 7, 3, 4, 2, 9, 6)[number]
        yield _framed(BPF_LD_IMM64(dst, value), 0, f"LD_IMM_DW r{dst} {value:#x}")


_BY_EFFECT = {
    Effect.ALU: _arithmetic,
    Effect.LOAD: _loads,
    Effect.STORE: _stores,
    Effect.BRANCH: _branches,
    Effect.JUMP: _gotos,
}
_LEFT_OUT = {
    "ADDR_SPACE_CAST_TO_KERN": "the fix-ups make a plain move of it",
    "ADDR_SPACE_CAST_TO_USER": "arenas are not modelled by the interpreter",
    "JMP_JCOND": "the fix-ups make other instructions of it",
    "JMP_CALL_KFUNC": "compiled as a call of a helper",
} | {
    f"LD_IMM_DW_{name}": "a plain constant after the relocation"
    for name in ("MAP_FD", "MAP_VALUE", "BTF_ID", "MAP_IDX", "MAP_IDX_VALUE")
}


def why_left_out(row: InsnRow) -> str:
    """Why a row of the table has no form, "" for those that have."""
    if "PROBE_MEM32" in row.name or "PROBE_ATOMIC" in row.name:
        return "arenas are not modelled by the interpreter"
    if row.origin is Origin.INVALID:
        return "no program holds it"
    if row.effect is Effect.PACKET:
        return "the fix-ups make a call of it"
    return _LEFT_OUT.get(row.name, "")


def _of_row(row: InsnRow) -> Iterator[Form]:
    if row.effect is Effect.ATOMIC:
        yield from _loads(row) if row.name.endswith("LOAD_ACQ") else _stores(row)
    elif row.effect is Effect.BARRIER:
        yield _framed([Insn(row.code)], 0, row.name)
    elif row.effect in _BY_EFFECT:
        yield from _BY_EFFECT[row.effect](row)


# ---- calls and frames --------------------------------------------------------------------------


@cache
def _assembled(text: str) -> tuple[Insn, ...]:
    return tuple(assemble(text))


def _program(name: str, text: str, places: Sequence[str | tuple[int, int]], **kwargs: object) -> Form:
    """A program as text, behind the loads and in front of the dump; ``places`` names labels."""
    lines = text.strip().splitlines()
    labels = {each for each in places if isinstance(each, str)}
    slots: dict[str, int] = {}
    kept = []
    for line in lines:
        if line.startswith("@"):
            slots[line[1:]] = len(_assembled(_without_targets(kept)))
        else:
            kept.append(line)
    assert labels <= slots.keys(), labels
    insns = _assembled("\n".join(kept))
    return Form(name, insns, tuple(slots[p] if isinstance(p, str) else p for p in places), **kwargs)  # type: ignore[arg-type]


def _without_targets(lines: Sequence[str]) -> str:
    """The lines so far, to be counted: calls and jumps go to places that are not there yet."""
    out = []
    for line in lines:
        if line.startswith(("call ", "goto ", "if ")):
            line = "r0 = 0"
        elif " = func " in line:
            line = "r0 = 0 ll"
        out.append(line)
    return "\n".join(out)


_HEAD_TEXT = "*(u64 *)(r10 -8) = r1\n" + "".join(
    f"r{reg} = *(u64 *)(r1 +{8 * reg})\n" for reg in (0, *range(2, 10), 1)
)
_DUMP_TEXT = (
    "".join(f"r{reg} = 0\n" for reg in range(1, 6))
    + "*(u64 *)(r10 -16) = r9\nr9 = *(u64 *)(r10 -8)\n"
    + "".join(f"*(u64 *)(r9 +{OUT + 8 * reg}) = r{reg}\n" for reg in range(9))
    + "".join(
        f"r8 = *(u64 *)(r10 {off})\n*(u64 *)(r9 +{OUT + 64 - off}) = r8\n" for off in range(-16, -72, -8)
    )
)

_CALLS = (
    _HEAD_TEXT
    + "*(u64 *)(r10 -24) = r7\n@call\ncall first\n*(u64 *)(r10 -32) = r0\n"
    + "r1 = r6\nr2 = r7\nr3 = r8\nr4 = r9\nr5 = 1\n@again\ncall second\n"
    + _DUMP_TEXT
    + """@main
exit
first:
r6 = r1
r7 = r2
*(u64 *)(r10 -8) = r6
*(u64 *)(r10 -64) = r7
r0 = *(u64 *)(r10 -8)
r3 = *(u64 *)(r10 -64)
r0 += r3
if r6 > r7 goto high
@first
exit
high:
r0 ^= r4
@second exit
exit
second:
r8 = r3
r9 = r4
r0 = r8
r0 -= r9
r6 = r5
r7 = r10
r7 = 3
r0 += r6
r0 *= r7
@third
exit
"""
)


def frames() -> Iterator[Form]:
    """Calls, prologues and epilogues."""
    places = ("call", "again", "main", "first", "second exit", "third", (ENTRY, 0), (ENTRY, 1), (ENTRY, 2))
    for name, setting in (("", PLAIN), (" unmitigated", UNMITIGATED), (" with ibt", WITH_IBT)):
        for place in places:
            title = place if isinstance(place, str) else f"prologue {place[1]}"
            yield _program(f"frame: {title}{name}", _CALLS, [place], setting=setting)
    for stack in (8, 256):
        for place in (("main"), (ENTRY, 0), (ENTRY, 1), "first"):
            title = place if isinstance(place, str) else f"prologue {place[1]}"
            yield _program(f"frame: {title}, stack of 64 and {stack}", _CALLS, [place], stack=max(stack, 64))
    little = "r0 = *(u64 *)(r1 +0)\n@exit\nexit\n"
    yield _program("frame: leaf", little, ["exit", (ENTRY, 0)], stack=0)
    two = "r0 = *(u64 *)(r1 +0)\nr2 = *(u64 *)(r1 +8)\nif r0 > r2 goto more\n"
    two += "@exit\nexit\nmore:\nr0 = r2\n@other\nexit\n"
    yield _program("frame: two exits", two, ["exit", "other", (ENTRY, 0)], stack=0)
    take = _HEAD_TEXT + "@take\nr6 = func second\nr7 = func first\n" + _DUMP_TEXT + "exit\n"
    yield _program("LD_IMM_DW_FUNC r6", take + "first:\nr0 = 1\nexit\nsecond:\nr0 = 2\nexit\n", ["take"])


def helpers(base: int, symbols: Sequence[int]) -> Iterator[Form]:
    """Calls of kernel functions, which lie at these addresses."""
    for number, address in enumerate(symbols):
        # The others are dead then.
        body = [Insn(op.CALL, imm=address - base), *_FORGET]
        yield _framed(body, 0, f"JMP_CALL helper {number}")


def table_forms() -> Iterator[Form]:
    """The forms of all rows of the table but calls and those left out."""
    for row in TABLE:
        if not why_left_out(row):
            yield from _of_row(row)
    yield from _constants()
