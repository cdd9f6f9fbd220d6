# SPDX-License-Identifier: GPL-2.0-only
"""Random control flow and arithmetic against a stepper that does one instruction after the other."""

from __future__ import annotations

import ctypes

from fake_memory import STACK_TOP, FakeMemory
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.interpreter import BudgetSpent, Interpreter, Program
from kernel_model.interpreter.flow import MAX_NESTING
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn

STEPS = 300
MASK = (1 << 64) - 1

# What a random program is made of: (text, effect) with registers and values filled in.
LENGTH = st.integers(1, 40)


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    """Instructions as (kind, register, value, target): add, xor, jump if below, jump, exit."""
    length = draw(LENGTH)
    made = []
    for _ in range(length):
        kind = draw(st.sampled_from(["add", "xor", "add", "lt", "eq", "ja", "exit"]))
        made.append((kind, draw(st.integers(0, 3)), draw(st.integers(0, 5)), draw(st.integers(0, length))))
    return [*made, ("exit", 0, 0, 0)]


def step_through(made: list[tuple[str, int, int, int]]) -> tuple[list[int], list[int], bool]:
    """Slots in the order they run, registers at the end, whether it ended within STEPS."""
    regs, slots, at = [0, 1, 2, 3], [], 0
    while len(slots) < STEPS:
        kind, reg, value, target = made[at]
        slots.append(at)
        at += 1
        if kind == "add":
            regs[reg] = (regs[reg] + value) & MASK
        elif kind == "xor":
            regs[reg] ^= value
        elif kind == "ja" or (kind == "lt" and regs[reg] < value) or (kind == "eq" and regs[reg] == value):
            at = target
        elif kind == "exit":
            return slots, regs, True
    return slots, regs, False


def as_text(made: list[tuple[str, int, int, int]]) -> str:
    lines = []
    for at, (kind, reg, value, target) in enumerate(made):
        lines.append(
            {
                "add": f"r{reg} += {value}",
                "xor": f"r{reg} ^= {value}",
                "lt": f"if r{reg} < {value} goto pc{target - at - 1:+d}",
                "eq": f"if r{reg} == {value} goto pc{target - at - 1:+d}",
                "ja": f"goto pc{target - at - 1:+d}",
                "exit": "exit",
            }[kind]
        )
    return "\n".join(lines)


class Stop(Exception):
    pass


@settings(deadline=None, max_examples=300)
@given(programs())
def test_random_flow(made: list[tuple[str, int, int, int]]) -> None:
    expected, regs, ended = step_through(made)
    program = Program.of(assemble(as_text(made)))
    engine = Interpreter(FakeMemory())
    slots: list[int] = []
    last: list[tuple[int, ...]] = []

    def observer(program: Program, slot: int, values: tuple[int, ...]) -> None:
        slots.append(slot)
        last.append(values)
        if len(slots) == STEPS:
            raise Stop

    try:
        engine.run(program, (1, 2, 3), STACK_TOP, observer=observer)
    except Stop:
        assert len(expected) == STEPS
    assert slots == expected
    assert list(last[-1][:4]) == regs
    if ended:
        assert engine.run(program, (1, 2, 3), STACK_TOP) == regs[0]
        assert engine.run(program, (1, 2, 3), STACK_TOP, budget=STEPS) == regs[0]
    else:
        try:
            engine.run(program, (1, 2, 3), STACK_TOP, budget=STEPS)
        except BudgetSpent:
            pass
        else:
            raise AssertionError("ran to an end that the stepper did not find")


def test_deep_nesting_is_cut() -> None:
    """A staircase of taken branches, deeper than Python allows blocks to nest."""
    depth = MAX_NESTING * 4
    lines = ["r0 = 0"]
    for level in range(depth):
        lines += [f"if r1 > {level} goto level{level}", f"r0 = {level}", "exit", f"level{level}:"]
    lines += ["r0 = -1", "exit"]
    program = Program.of(assemble("\n".join(lines)))
    engine = Interpreter(FakeMemory())
    for r1 in (0, 1, MAX_NESTING - 1, MAX_NESTING, MAX_NESTING + 1, depth - 1):
        assert engine.run(program, (r1,), STACK_TOP) == r1
    assert engine.run(program, (depth,), STACK_TOP) == MASK


def test_large_program() -> None:
    """Thousands of instructions in one block and thousands of blocks."""
    straight = Program.of(assemble("r0 = 0\n" + "r0 += 1\n" * 5000 + "exit"))
    assert Interpreter(FakeMemory()).run(straight, (), STACK_TOP) == 5000
    joins = "".join(f"if r1 == {n} goto a{n}\nr0 += 1\na{n}:\n" for n in range(1000))
    many = Program.of(assemble(f"r0 = 0\n{joins}exit"))
    assert Interpreter(FakeMemory()).run(many, (500,), STACK_TOP) == 999


# ---- arithmetic against C's ---------------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 31, 32, 63, 64, MASK, 1 << 63, 1 << 31, (1 << 31) - 1, 0xFFFFFFFF, 1 << 32]),
    st.integers(0, MASK),
)
C_TYPES = {64: (ctypes.c_uint64, ctypes.c_int64), 32: (ctypes.c_uint32, ctypes.c_int32)}


def c_result(operation: int, signed: bool, bits: int, a: int, b: int) -> int:
    """The operation on C's types; division and shift by the rules BPF adds to C's."""
    unsigned, integer = C_TYPES[bits]
    a, b = unsigned(a).value, unsigned(b).value
    x, y = integer(a).value, integer(b).value
    count = b % bits
    if operation in (0x30, 0x90) and b == 0:
        return 0 if operation == 0x30 else a
    if operation in (0x30, 0x90) and signed:
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        return unsigned(quotient if operation == 0x30 else x - quotient * y).value
    results = {
        0x00: lambda: a + b,
        0x10: lambda: a - b,
        0x20: lambda: x * y,
        0x30: lambda: a // b,
        0x40: lambda: a | b,
        0x50: lambda: a & b,
        0x60: lambda: a << count,
        0x70: lambda: a >> count,
        0x90: lambda: a % b,
        0xA0: lambda: a ^ b,
        0xB0: lambda: b,
        0xC0: lambda: x >> count,
    }
    return unsigned(results[operation]()).value


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from([0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xB0, 0xC0]),
    st.booleans(),
    st.sampled_from([32, 64]),
    WORDS,
    WORDS,
)
def test_arithmetic_is_cs(operation: int, signed: bool, bits: int, a: int, b: int) -> None:
    signed = signed and operation in (0x30, 0x90)
    cls = 0x07 if bits == 64 else 0x04
    register = Insn(cls | operation | 0x08, 1, 2, int(signed))
    imm = (b & 0xFFFFFFFF) - ((b & 0x80000000) << 1)
    immediate = Insn(cls | operation, 3, 0, int(signed), imm)
    seen: list[tuple[int, ...]] = []
    Interpreter(FakeMemory()).run(
        Program.of([register, immediate, Insn(0x95)]),
        (a, b, a),
        STACK_TOP,
        observer=lambda program, slot, regs: seen.append(regs),
    )
    assert seen[-1][1] == c_result(operation, signed, bits, a, b)
    assert seen[-1][3] == c_result(operation, signed, bits, a, imm)
