# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of single machine instructions, made from the text that the JIT's templates write.

``mutants_of`` answers an item of :mod:`jit_x86.code` with what a slightly wrong JIT would emit instead:
another register, another immediate, another width, another displacement, the operands swapped, a
neighbouring operation or condition, nothing. Whether keystone knows a mutant is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from jit_x86 import registers
from jit_x86.assembler import KEEP_DISP8
from jit_x86.byte_forms import ByteLine
from jit_x86.code import CallSubprog, Far, FuncAddress, Item, Jump, LocalJump

_RSP, _RSP_NUMBER = ("rsp", "esp", "sp", "spl"), 4
_FAMILIES = {
    number: names
    for number, *names in zip(
        registers.NUMBER, registers.R64, registers.R32, registers.R16, registers.R8, strict=True
    )
} | {_RSP_NUMBER: _RSP}
_WIDTHS = (64, 32, 16, 8)
_BY_NAME = {
    name: (number, width)
    for number, names in _FAMILIES.items()
    for name, width in zip(names, _WIDTHS, strict=True)
}
_HIGH_BYTE = {"spl": "ah", "bpl": "ch", "sil": "dh", "dil": "bh"}
"""What the encoding of a byte register means without its REX prefix."""
_POINTER = {"qword": 64, "dword": 32, "word": 16, "byte": 8}
_POINTER_NAME = {width: name for name, width in _POINTER.items()}


@dataclass(frozen=True)
class Reg:
    """A register operand by its number in encodings and its width in bits."""

    number: int
    width: int

    def __str__(self) -> str:
        return _FAMILIES[self.number][_WIDTHS.index(self.width)]


@dataclass(frozen=True)
class Imm:
    """An immediate; ``late`` as in :mod:`jit_x86.assembler`."""

    value: int
    late: bool = False

    def __str__(self) -> str:
        return f"late({self.value})" if self.late else str(self.value)


@dataclass(frozen=True)
class Mem:
    """A memory operand; ``base`` and ``index`` are register numbers, -1 for none."""

    width: int
    base: int
    index: int
    scale: int
    disp: int
    late: bool
    segment: str

    def __str__(self) -> str:
        parts = [str(Reg(self.base, 64))] if self.base >= 0 else []
        if self.index >= 0:
            parts.append(f"{Reg(self.index, 64)}*{self.scale}")
        where = " + ".join(parts) or "riz*1"
        disp = f" + late({self.disp})" if self.late else f" {self.disp:+d}"
        return f"{_POINTER_NAME[self.width]} ptr {self.segment}[{where}{disp}]"


Operand = Reg | Imm | Mem


@dataclass(frozen=True)
class Instruction:
    """One instruction, read from a template's text."""

    mnemonic: str
    operands: tuple[Operand, ...]
    lock: bool = False

    def __str__(self) -> str:
        prefix = "lock " if self.lock else ""
        return f"{prefix}{self.mnemonic} {', '.join(map(str, self.operands))}".rstrip()


_TERM = re.compile(r"([+-]?)\s*(late\(-?\d+\)|\w+(?:\*\d)?)")
_LATE = re.compile(r"late\((-?\d+)\)")


def _memory(text: str) -> Mem:
    pointer, rest = text.split(" ptr ")
    segment, inside = rest.rstrip("]").split("[")
    base = index = -1
    scale, disp, late = 1, 0, False
    for sign, term in _TERM.findall(inside):
        name, _, factor = term.partition("*")
        if match := _LATE.fullmatch(term):
            disp, late = int(match[1]), True
        elif name == "riz":
            continue
        elif name in _BY_NAME:
            if base < 0 and not factor:
                base = _BY_NAME[name][0]
            else:
                index, scale = _BY_NAME[name][0], int(factor or 1)
        else:
            disp = int(sign + term, 0)
    return Mem(_POINTER[pointer], base, index, scale, disp, late, segment)


def _operand(text: str) -> Operand:
    if text in _BY_NAME:
        return Reg(*_BY_NAME[text])
    if "[" in text:
        return _memory(text)
    match = _LATE.fullmatch(text)
    return Imm(int(match[1]), True) if match else Imm(int(text, 0))


def read(text: str) -> Instruction:
    """The instruction that a template wrote."""
    lock = text.startswith("lock ")
    mnemonic, _, rest = text.removeprefix("lock ").strip().partition(" ")
    return Instruction(mnemonic, tuple(_operand(each) for each in rest.split(", ") if each), lock)


def written(insn: Instruction) -> str:
    """Its text again; a displacement of zero keeps its byte, as Linux has it."""
    text = str(insn)
    zero = any(isinstance(o, Mem) and o.disp == 0 and o.base & 7 != 5 and o.base >= 0 for o in insn.operands)
    return KEEP_DISP8 + text if zero and text.count("+0]") == 1 else text


@dataclass(frozen=True)
class Mutant:
    """What stands in an item's or jump's place. ``skew``: the branch's displacement changed by so many
    bytes, the rest left as it was."""

    kind: str
    text: str
    item: Item | None = None
    jump: Jump | None = None
    skew: int = 0


# ---- texts -------------------------------------------------------------------------------------

_OPERATIONS = {
    "add": ("sub", "adc", "or"),
    "sub": ("add", "sbb"),
    "and": ("or", "xor"),
    "or": ("and", "xor", "add"),
    "xor": ("or", "and"),
    "neg": ("not",),
    "imul": ("add",),
    "shl": ("shr", "sar", "rol"),
    "shr": ("sar", "shl", "ror"),
    "sar": ("shr", "ror"),
    "rol": ("ror",),
    "ror": ("rol", "shr"),
    "shlx": ("shrx", "sarx"),
    "shrx": ("sarx", "shlx"),
    "sarx": ("shrx",),
    "div": ("idiv", "mul"),
    "idiv": ("div",),
    "cqo": ("cdq", "xor edx, edx"),
    "cdq": ("cqo", "xor edx, edx"),
    "test": ("cmp", "and"),
    "cmp": ("test", "sub"),
    "xadd": ("add", "xchg"),
    "xchg": ("mov", "xadd"),
    "cmpxchg": ("xchg", "xadd"),
    "cmove": ("cmovne",),
    "leave": ("pop rbp", "mov rsp, rbp"),
    "ret": ("ret 8",),
    "push": ("pop",),
    "pop": ("push",),
}
_SHIFTS = frozenset(("shl", "shr", "sar", "rol", "ror"))


def _with(insn: Instruction, at: int, operand: Operand) -> Instruction:
    return replace(insn, operands=(*insn.operands[:at], operand, *insn.operands[at + 1 :]))


def _registers(insn: Instruction) -> Iterator[Instruction]:
    for at, operand in enumerate(insn.operands):
        if isinstance(operand, Reg):
            yield from (_with(insn, at, replace(operand, number=n)) for n in _others(operand.number))
        elif isinstance(operand, Mem):
            if operand.base >= 0:
                yield from (_with(insn, at, replace(operand, base=n)) for n in _others(operand.base))
            if operand.index >= 0:
                yield from (_with(insn, at, replace(operand, index=n)) for n in _others(operand.index))


def _others(number: int) -> list[int]:
    """Registers that a wrong bit in the encoding makes of it, and those that hold no BPF register."""
    found = dict.fromkeys((number ^ 8, number ^ 1, number ^ 2, number ^ 4, 10, 11, 12))
    return [each for each in found if each not in (number, _RSP_NUMBER)]


def _without_rex(insn: Instruction) -> Iterator[str]:
    """With the byte register that the encoding means without its REX prefix; keystone ends the process
    when something else needs one."""
    text = str(insn)
    for operand in insn.operands:
        if isinstance(operand, Reg) and str(operand) in _HIGH_BYTE:
            others = [o for o in insn.operands if o is not operand]
            if not any(_needs_rex(other) for other in others):
                yield text.replace(str(operand), _HIGH_BYTE[str(operand)])


def _needs_rex(operand: Operand) -> bool:
    if isinstance(operand, Mem):
        return max(operand.base, operand.index) > 7
    return isinstance(operand, Reg) and (
        operand.number > 7 or operand.width == 64 or str(operand) in _HIGH_BYTE
    )


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


def _immediates(insn: Instruction) -> Iterator[Instruction]:
    for at, operand in enumerate(insn.operands):
        if isinstance(operand, Imm):
            value = operand.value
            values = [value + 1, value - 1, -value, ~value, 0]
            values += [_signed(value, 8), value & 0xFF, _signed(value, 16), value & 0xFFFF]
            values += [_signed(value ^ 0x80, 32), _signed(value ^ 1 << 31, 32), value ^ 32]
            values += [_signed(value, 32), value & 0xFFFF_FFFF, value ^ 1 << 32, value ^ 1 << 63]
            yield from (_with(insn, at, replace(operand, value=each)) for each in values)


def _displacements(insn: Instruction) -> Iterator[Instruction]:
    for at, operand in enumerate(insn.operands):
        if isinstance(operand, Mem):
            disp = operand.disp
            values = [disp + 1, disp - 1, disp + 8, disp - 8, -disp, 0]
            values += [_signed(disp, 8), disp & 0xFF, disp & 0xFFFF, disp ^ 0x80]
            yield from (_with(insn, at, replace(operand, disp=each)) for each in values)
            if operand.scale != 1:
                yield from (_with(insn, at, replace(operand, scale=each)) for each in (1, 4))
            if operand.segment:
                yield _with(insn, at, replace(operand, segment=""))


def _resized(insn: Instruction, width: int) -> Instruction:
    """Every operand in another width, but for the count of a shift."""
    operands: list[Operand] = []
    for at, operand in enumerate(insn.operands):
        count = at == 1 and insn.mnemonic in _SHIFTS
        fixed = isinstance(operand, Imm) or count
        operands.append(operand if fixed else replace(operand, width=width))  # type: ignore[call-arg]
    return replace(insn, operands=tuple(operands))


_EXTENDING = frozenset(("movzx", "movsx", "movsxd"))


def _widths(insn: Instruction) -> Iterator[Instruction]:
    first = insn.operands[0] if insn.operands else None
    if insn.mnemonic in _EXTENDING:
        yield from _extensions(insn)
    elif isinstance(first, Reg | Mem):
        yield from (_resized(insn, width) for width in _WIDTHS if width != first.width)
    if insn.mnemonic in ("mov", "movabs") and isinstance(first, Reg):
        yield from _constants_and_moves(insn, first)


def _extensions(insn: Instruction) -> Iterator[Instruction]:
    target, source = insn.operands
    assert isinstance(target, Reg) and not isinstance(source, Imm)
    for mnemonic, width, bits in permutations_of_extension():
        if bits < width and (mnemonic, width, bits) != (insn.mnemonic, target.width, source.width):
            yield Instruction(mnemonic, (replace(target, width=width), replace(source, width=bits)))
    for bits in _WIDTHS:
        # Without any extension: 8 and 16 bits leave the rest of the register.
        yield Instruction("mov", (replace(target, width=bits), replace(source, width=bits)))


def permutations_of_extension() -> Iterator[tuple[str, int, int]]:
    """Mnemonic, width of the register, width of the source."""
    for width in (64, 32):
        for bits in (8, 16):
            yield "movzx", width, bits
            yield "movsx", width, bits
    yield "movsxd", 64, 32


def _constants_and_moves(insn: Instruction, first: Reg) -> Iterator[Instruction]:
    second = insn.operands[1]
    if isinstance(second, Imm):
        narrow, wide = Reg(first.number, 32), Reg(first.number, 64)
        yield Instruction("mov", (narrow, Imm(second.value & 0xFFFF_FFFF)))
        yield Instruction("mov", (wide, Imm(_signed(second.value, 32))))
        yield Instruction("movabs", (wide, Imm(second.value & 0xFFFF_FFFF)))
    else:
        wide = Reg(first.number, 64)
        yield Instruction("movsxd", (wide, replace(second, width=32)))
        for bits in (8, 16):
            yield Instruction("movzx", (wide, replace(second, width=bits)))


def _orders(insn: Instruction) -> Iterator[Instruction]:
    if len(insn.operands) > 1:
        for operands in permutations(insn.operands):
            if operands != insn.operands:
                yield replace(insn, operands=operands)


def _operations(insn: Instruction) -> Iterator[str]:
    for other in _OPERATIONS.get(insn.mnemonic, ()):
        if " " in other:
            yield other
            continue
        # Only some instructions may be locked.
        lock = insn.lock and other != "mov"
        yield written(replace(insn, mnemonic=other, lock=lock))
    if insn.lock:
        yield written(replace(insn, lock=False))


def _texts(text: str) -> Iterator[tuple[str, str]]:
    """The mutants of a text: kind and text, with repetitions."""
    yield "dropped", ""
    insn = read(text.removeprefix(KEEP_DISP8))
    for kind, family in (
        ("register", _registers),
        ("immediate", _immediates),
        ("displacement", _displacements),
        ("width", _widths),
        ("order", _orders),
    ):
        yield from ((kind, written(each)) for each in family(insn))
    yield from (("register", each) for each in _without_rex(insn))
    yield from (("operation", each) for each in _operations(insn))


# ---- branches and calls ------------------------------------------------------------------------

CONDITIONS = ("je", "jne", "ja", "jae", "jb", "jbe", "jg", "jge", "jl", "jle")


def _conditions(mnemonic: str) -> list[str]:
    return [each for each in (*CONDITIONS, "jmp") if each != mnemonic]


def _local(item: LocalJump, count: int) -> Iterator[Mutant]:
    yield Mutant("dropped", "", "")
    if not item.near:
        for mnemonic in _conditions(item.mnemonic):
            yield Mutant("condition", f"{mnemonic} .{item.to}", item._replace(mnemonic=mnemonic))
    for to in (item.to - 1, item.to + 1):
        if 0 <= to <= count:
            yield Mutant("target", f"{item.mnemonic} .{to}", item._replace(to=to))


def _outside(item: Far | CallSubprog | FuncAddress, functions: int) -> Iterator[Mutant]:
    if isinstance(item, Far):
        yield Mutant("dropped", "", "")
        for delta in (1, -1, 8, -8, 5, -5):
            text = f"{item.mnemonic} {item.target:#x} {delta:+d}"
            yield Mutant("target", text, item._replace(target=item.target + delta))
        other = {"call": "jmp", "jmp": "call"}[item.mnemonic]
        yield Mutant("operation", f"{other} {item.target:#x}", item._replace(mnemonic=other))
        return
    for number in range(functions):
        if number != item.subprog:
            yield Mutant("target", f"function {number}", item._replace(subprog=number))
    yield Mutant("dropped", "", "")
    if isinstance(item, FuncAddress):
        for number in _others(_BY_NAME[item.reg][0]):
            name = str(Reg(number, 64))
            yield Mutant("register", f"mov {name}, function", item._replace(reg=name))


def mutants_of(item: Item, count: int, functions: int) -> list[Mutant]:
    """The mutants of one of ``count`` items in a program of so many functions, each once."""
    if isinstance(item, LocalJump):
        found = list(_local(item, count))
    elif isinstance(item, Far | CallSubprog | FuncAddress):
        found = list(_outside(item, functions))
    else:
        text = item.replaces if isinstance(item, ByteLine) else item
        nop = text.startswith(("nop", "endbr", "lfence", "int3"))
        texts = [("dropped", "")] if nop else _texts(text)
        distinct = {each: kind for kind, each in reversed(list(texts)) if each != text}
        found = [Mutant(kind, each, each) for each, kind in reversed(distinct.items())]
    return found


def mutants_of_jump(jump: Jump, slots: int) -> list[Mutant]:
    """The mutants of a branch in a function of so many slots."""
    found = [Mutant("dropped", "", jump=None)]
    if jump.target is not None:
        if jump.mnemonic != "jmp":
            for mnemonic in _conditions(jump.mnemonic):
                changed = jump._replace(mnemonic=mnemonic)
                found.append(Mutant("condition", f"{mnemonic} {jump.target}", jump=changed))
        for target in (jump.target - 1, jump.target + 1):
            if 0 <= target < slots:
                changed = jump._replace(target=target)
                found.append(Mutant("target", f"{jump.mnemonic} {target}", jump=changed))
    for skew in (1, -1, 2, -2, 4, -4, 8, -8):
        found.append(Mutant("displacement", f"{jump.mnemonic} {skew:+d} bytes", jump=jump, skew=skew))
    return found
