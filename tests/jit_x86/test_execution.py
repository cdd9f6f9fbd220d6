# SPDX-License-Identifier: GPL-2.0-only
"""What the machine code does: the conformance cases, and every form over all registers and edge values."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator

import pytest
from fixups import guard_divisions
from flat import DATA, MASK, PERCPU, machine, request_for

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Mitigations, NativeRequest, PokeSite, Subprog
from tests.cases import Case, load_cases

EXIT = Insn(op.EXIT)
REGS = range(10)
EDGES = (0, 1, 2, 63, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, MASK)


SHIFTS = (op.BPF_LSH, op.BPF_RSH, op.BPF_ARSH)


def _cases() -> Iterator[tuple[Case, bool]]:
    """Every case with BMI2; those that shift by a register without it too."""
    for case in load_cases():
        yield case, True
        forms = {
            (op.bpf_class(insn.code), op.bpf_op(insn.code), op.bpf_src(insn.code)) for insn in case.insns
        }
        if any((klass, shift, op.BPF_X) in forms for klass in (op.BPF_ALU, op.BPF_ALU64) for shift in SHIFTS):
            yield case, False


@pytest.mark.parametrize(("case", "bmi2"), [pytest.param(c, b, id=f"{c}-{b:d}") for c, b in _cases()])
def test_case(case: Case, bmi2: bool) -> None:
    flat = machine()
    insns, subprogs = guard_divisions(case.insns, case.subprogs())
    image = flat.load(request_for(insns, subprogs, bmi2=bmi2))
    flat.write(DATA, case.mem)
    outcome = flat.run(image, DATA if case.mem else 0, len(case.mem))
    assert outcome.fault == case.fault
    if case.fault is None:
        assert outcome.r0 == case.r0, f"{outcome.r0:#x}"
    if case.after is not None:
        assert flat.read(DATA, len(case.after)) == case.after


def ld_imm64(dst: int, value: int) -> list[Insn]:
    halves = [half - (1 << 32) if half >> 31 else half for half in (value & 0xFFFFFFFF, value >> 32)]
    return [Insn(op.LD_IMM64, dst, 0, 0, halves[0]), Insn(0, imm=halves[1])]


def spill(base: int = 10) -> list[Insn]:
    """All of R0-R9 to the stack."""
    return [Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, base, reg, -8 * (10 - reg)) for reg in REGS]


def registers_after(body: list[Insn], values: list[int], bmi2: bool = True) -> list[int]:
    """R0-R9 after ``body`` when they had ``values`` before it."""
    flat = machine()
    insns = [insn for reg in REGS for insn in ld_imm64(reg, values[reg])]
    insns += [*body, *spill(), EXIT]
    image = flat.load(request_for(insns, stack=80, bmi2=bmi2))
    assert flat.run(image).fault is None
    return list(struct.unpack("<10Q", flat.frame(image, 80)))


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


Meaning = Callable[[int, int, int], int]
ALU: dict[tuple[int, int], Meaning] = {
    (op.BPF_ADD, 0): lambda a, b, n: a + b,
    (op.BPF_SUB, 0): lambda a, b, n: a - b,
    (op.BPF_MUL, 0): lambda a, b, n: a * b,
    (op.BPF_AND, 0): lambda a, b, n: a & b,
    (op.BPF_OR, 0): lambda a, b, n: a | b,
    (op.BPF_XOR, 0): lambda a, b, n: a ^ b,
    (op.BPF_MOV, 0): lambda a, b, n: b,
    (op.BPF_MOV, 8): lambda a, b, n: signed(b, 8),
    (op.BPF_MOV, 16): lambda a, b, n: signed(b, 16),
    (op.BPF_LSH, 0): lambda a, b, n: a << (b % n),
    (op.BPF_RSH, 0): lambda a, b, n: a >> (b % n),
    (op.BPF_ARSH, 0): lambda a, b, n: signed(a, n) >> (b % n),
    (op.BPF_DIV, 0): lambda a, b, n: a // b,
    (op.BPF_MOD, 0): lambda a, b, n: a % b,
    (op.BPF_DIV, 1): lambda a, b, n: quotient(signed(a, n), signed(b, n)),
    (op.BPF_MOD, 1): lambda a, b, n: signed(a, n) - signed(b, n) * quotient(signed(a, n), signed(b, n)),
}


def divides(code: int, off: int, value: int, bits: int) -> bool:
    """Whether a verifier lets a division by ``value`` come to the machine's instruction."""
    divisor = value & ((1 << bits) - 1)
    return code not in (op.BPF_DIV, op.BPF_MOD) or (
        divisor != 0 and not (off and signed(divisor, bits) == -1)
    )


@pytest.mark.parametrize(
    ("code", "off", "bmi2"),
    [(*key, bmi2) for key in ALU for bmi2 in ((True, False) if key[0] in SHIFTS else (True,))],
)
@pytest.mark.parametrize("bits", [32, 64])
def test_register_operands(code: int, off: int, bits: int, bmi2: bool) -> None:
    """Every pair of registers; everything but the destination stays as it was."""
    klass = op.BPF_ALU64 if bits == 64 else op.BPF_ALU
    edges = itertools.cycle(itertools.product(EDGES, EDGES))
    for dst, src in itertools.product(REGS, REGS):
        values = [0xA0A0_0000_5050_0000 + 0x1111 * reg for reg in REGS]
        values[dst], values[src] = next(
            (a, b) for a, b in edges if divides(code, off, a if dst == src else b, bits)
        )
        if dst == src and not divides(code, off, values[src], bits):
            values[src] = 3
        mask = (1 << bits) - 1
        expected = list(values)
        expected[dst] = ALU[code, off](values[dst] & mask, values[src] & mask, bits) & mask
        got = registers_after([Insn(klass | code | op.BPF_X, dst, src, off)], values, bmi2)
        assert got == expected, (dst, src, [hex(v) for v in values])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("code", "off"), [key for key in ALU if key[0] != op.BPF_MOV or not key[1]])
def test_immediate_operands(code: int, off: int, bits: int) -> None:
    klass, mask = (op.BPF_ALU64 if bits == 64 else op.BPF_ALU), (1 << bits) - 1
    imms = [0, 1, -1, 7, 127, 128, -128, -129, 0x7FFFFFFF, -0x80000000]
    if code in SHIFTS:
        imms = [0, 1, 2, 31, *([32, 63] if bits == 64 else [])]
    pairs = list(itertools.product(EDGES, imms))
    for number, dst in enumerate([*REGS] * (len(pairs) // 10)):
        value, imm = pairs[number]
        if not divides(code, off, imm, bits):
            continue
        values = [0xA0A0_0000_5050_0000 + 0x1111 * reg for reg in REGS]
        values[dst] = value
        expected = list(values)
        expected[dst] = ALU[code, off](value & mask, imm & mask, bits) & mask
        assert registers_after([Insn(klass | code, dst, 0, off, imm)], values) == expected, (
            dst,
            hex(value),
            imm,
        )


CONDITIONS: dict[int, Callable[[int, int, int], bool]] = {
    op.BPF_JEQ: lambda a, b, n: a == b,
    op.BPF_JNE: lambda a, b, n: a != b,
    op.BPF_JSET: lambda a, b, n: a & b != 0,
    op.BPF_JGT: lambda a, b, n: a > b,
    op.BPF_JGE: lambda a, b, n: a >= b,
    op.BPF_JLT: lambda a, b, n: a < b,
    op.BPF_JLE: lambda a, b, n: a <= b,
    op.BPF_JSGT: lambda a, b, n: signed(a, n) > signed(b, n),
    op.BPF_JSGE: lambda a, b, n: signed(a, n) >= signed(b, n),
    op.BPF_JSLT: lambda a, b, n: signed(a, n) < signed(b, n),
    op.BPF_JSLE: lambda a, b, n: signed(a, n) <= signed(b, n),
}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("code", CONDITIONS)
def test_conditions(code: int, bits: int) -> None:
    """Every pair of edge values in one program that collects a bit for each."""
    klass, mask = (op.BPF_JMP if bits == 64 else op.BPF_JMP32), (1 << bits) - 1
    flat = machine()
    pairs = list(itertools.product(EDGES, EDGES))
    for first in range(0, len(pairs), 48):
        chosen = pairs[first : first + 48]
        insns = [Insn(op.BPF_ALU64 | op.BPF_MOV, 9)]
        expected = 0
        for bit, (a, b) in enumerate(chosen):
            dst, src = bit % 9, (bit * 5 + 1) % 9
            src = src if src != dst else (src + 1) % 9
            imm = signed(b, 32)
            insns += [*ld_imm64(dst, a), *ld_imm64(src, b)]
            # A clear bit is set behind the branch that is not taken.
            use_imm = bit % 2 and imm & MASK == b
            jump = (
                Insn(klass | code, dst, 0, 2, imm) if use_imm else Insn(klass | code | op.BPF_X, dst, src, 2)
            )
            insns += [jump, *ld_imm64(dst, 0), *ld_imm64(dst, 0)][:1]
            insns += [Insn(op.BPF_ALU64 | op.BPF_LSH, 9, 0, 0, 1), Insn(op.BPF_JMP | op.BPF_JA, off=2)]
            insns += [Insn(op.BPF_ALU64 | op.BPF_LSH, 9, 0, 0, 1), Insn(op.BPF_ALU64 | op.BPF_OR, 9, 0, 0, 1)]
            expected = expected << 1 | CONDITIONS[code](a & mask, b & mask, bits)
        insns += [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 0, 9), EXIT]
        assert flat.run(flat.load(request_for(insns))).r0 == expected


ATOMICS: dict[int, Callable[[int, int], int]] = {
    op.BPF_ADD: lambda old, src: old + src,
    op.BPF_AND: lambda old, src: old & src,
    op.BPF_OR: lambda old, src: old | src,
    op.BPF_XOR: lambda old, src: old ^ src,
    op.BPF_XCHG & ~op.BPF_FETCH: lambda old, src: src,
}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("code", [*list(ATOMICS)[:-1], *(c | op.BPF_FETCH for c in ATOMICS)])
def test_atomics(code: int, bits: int) -> None:
    flat, mask = machine(), (1 << bits) - 1
    size = op.BPF_DW if bits == 64 else op.BPF_W
    everywhere = itertools.product(REGS, REGS, (0,))
    some = itertools.product((0, 3, 7), (0, 4, 8), (8, 200))
    for base, src, off in itertools.chain(everywhere, some):
        if base == src:
            continue
        old, operand = 0xFFFF0000FFFF0F0F, 0x0123456789ABCDEF
        values = [0xA0A0_0000_5050_0000 + 0x1111 * reg for reg in REGS]
        values[base], values[src] = DATA + 512, operand
        flat.write(DATA + 512 + off, old.to_bytes(8, "little"))
        got = registers_after([Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, src, off, code)], values)
        new = ATOMICS[code & ~op.BPF_FETCH](old, operand) & mask | old & ~mask & MASK
        assert int.from_bytes(flat.read(DATA + 512 + off, 8), "little") == new
        if code & op.BPF_FETCH:
            values[src] = old & mask
        assert got == values, (base, src, off)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("equal", [True, False])
def test_compare_and_exchange(bits: int, equal: bool) -> None:
    flat, mask = machine(), (1 << bits) - 1
    size = op.BPF_DW if bits == 64 else op.BPF_W
    for base, src in itertools.product(range(1, 10), range(1, 10)):
        if base == src:
            continue
        old = 0xFFFF0000FFFF0F0F
        values = [0xA0A0_0000_5050_0000 + 0x1111 * reg for reg in REGS]
        values[0] = old & mask if equal else 5
        values[base], values[src] = DATA + 512, 0x0123456789ABCDEF
        flat.write(DATA + 512, old.to_bytes(8, "little"))
        got = registers_after([Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, src, 0, op.BPF_CMPXCHG)], values)
        new = values[src] & mask | old & ~mask & MASK if equal else old
        assert int.from_bytes(flat.read(DATA + 512, 8), "little") == new
        values[0] = old & mask
        assert got == values


@pytest.mark.parametrize("size", [op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW])
def test_memory_forms(size: int) -> None:
    """Loads, sign-extending loads, stores of registers and constants through every pair of registers."""
    flat, width = machine(), op.SIZE_BYTES[size]
    mask, content = (1 << 8 * width) - 1, 0x8182838485868788
    everywhere = itertools.product(REGS, REGS, (0, -1))
    some = itertools.product((0, 4, 7), (1, 5, 7), (1, 127, -128, 128, -129))
    for base, other, off in itertools.chain(everywhere, some):
        values = [0xA0A0_0000_5050_0000 + 0x1111 * reg for reg in REGS]
        values[base] = DATA + 1024
        where = DATA + 1024 + off
        flat.write(where, content.to_bytes(8, "little"))
        loads = [(op.BPF_MEM, content & mask), (op.BPF_MEMSX, signed(content, 8 * width) & MASK)]
        for mode, result in loads if size != op.BPF_DW else loads[:1]:
            expected = [result if reg == other else value for reg, value in enumerate(values)]
            assert registers_after([Insn(op.BPF_LDX | mode | size, other, base, off)], values) == expected
        if off != -1:
            stored = values[other] & mask | content & ~mask & MASK
            assert registers_after([Insn(op.BPF_STX | op.BPF_MEM | size, base, other, off)], values) == values
            assert int.from_bytes(flat.read(where, 8), "little") == stored
            flat.write(where, content.to_bytes(8, "little"))
            registers_after([Insn(op.BPF_ST | op.BPF_MEM | size, base, 0, off, -other * 77)], values)
            stored = -other * 77 & mask | content & ~mask & MASK
            assert int.from_bytes(flat.read(where, 8), "little") == stored


@pytest.mark.parametrize("form", [op.BPF_ALU | op.BPF_TO_LE, op.BPF_ALU | op.BPF_TO_BE, op.BPF_ALU64])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_byte_swaps(form: int, bits: int) -> None:
    content = 0x0123456789ABCDEF
    for dst in REGS:
        values = [content + reg for reg in REGS]
        swaps = form != op.BPF_ALU | op.BPF_TO_LE
        low = (values[dst] & ((1 << bits) - 1)).to_bytes(bits // 8, "big" if swaps else "little")
        expected = list(values)
        expected[dst] = int.from_bytes(low, "little")
        assert registers_after([Insn(form | op.BPF_END, dst, imm=bits)], values) == expected


@pytest.mark.parametrize("bad", [0, 0x1000, 0x7FFFFFFFEFFF, 0xFFFFFFFFFF600000, 0xFFFFDEAD00000000])
@pytest.mark.parametrize("mode", [op.BPF_PROBE_MEM, op.BPF_PROBE_MEMSX])
def test_probing_load(bad: int, mode: int) -> None:
    """User addresses and the vsyscall page read zero without an access; others fault, with an entry."""
    flat = machine()
    for dst, base, off in ((0, 1, 0), (3, 6, 8), (5, 5, 2000), (9, 2, -8)):
        insns = [*ld_imm64(base, bad - off & MASK), Insn(op.BPF_LDX | mode | op.BPF_H, dst, base, off)]
        insns += [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 0, dst), EXIT]
        image = flat.load(request_for(insns))
        outcome = flat.run(image, extable=False)
        (entry,) = image.functions[0].exceptions
        if bad != 0xFFFFDEAD00000000:
            assert outcome.fault is None
            assert outcome.r0 == 0
        else:
            assert outcome.fault_rip == image.functions[0].addr + entry.off
            assert (outcome.fault, outcome.fault_addr, entry.bpf_reg) == ("read", bad, dst)
            assert entry.fixup_off == image.functions[0].insn_offs[3]
        flat.write(DATA + 64, b"\x34\xf2")
        insns[:2] = ld_imm64(base, DATA + 64 - off)
        expected = 0xF234 if mode == op.BPF_PROBE_MEM else signed(0xF234, 16) & MASK
        assert flat.run(flat.load(request_for(insns))).r0 == expected


def test_this_cpu() -> None:
    """A per-CPU pointer becomes an address by the word at gs:this_cpu_off, whatever the register."""
    for dst, src in ((0, 1), (5, 5), (9, 3), (7, 0)):
        values = [0x10 * reg + 8 for reg in REGS]
        expected = list(values)
        expected[dst] = PERCPU + values[src]
        body = [Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, dst, src, op.BPF_ADDR_PERCPU)]
        assert registers_after(body, values) == expected


def _tail_program(stack: int, saved: int, direct: bool, array: int) -> NativeRequest:
    """Counts its runs in the word at DATA and tail-calls itself by the array."""
    insns = [
        *ld_imm64(4, DATA),
        Insn(op.BPF_ALU64 | op.BPF_MOV, saved, 0, 0, 1),
        Insn(op.BPF_STX | op.BPF_ATOMIC | op.BPF_DW, 4, saved, 0, op.BPF_ADD),
        *ld_imm64(2, array),
        Insn(op.BPF_ALU64 | op.BPF_MOV, 3, 0, 0, 1),
        Insn(op.TAIL_CALL, imm=int(direct)),
        Insn(op.BPF_ALU64 | op.BPF_MOV, 0, 0, 0, 99),
        EXIT,
    ]
    subprogs = [Subprog(0, len(insns), stack, "main", True, True)]
    pokes = [PokeSite(7, array, 1)] if direct else []
    return request_for(insns, subprogs, pokes=pokes)


@pytest.mark.parametrize("stack", [0, 8, 40, 512])
@pytest.mark.parametrize("saved", [0, 6, 9])
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("retpoline", [True, False])
def test_tail_calls_stop_at_33(stack: int, saved: int, direct: bool, retpoline: bool) -> None:
    """One run and 33 tail calls, then the program goes on behind the call."""
    flat = machine()
    array, prog = DATA + 0x1000, DATA + 0x2000
    request = _tail_program(stack, saved, direct, array)
    request = request_for(
        request.insns, request.subprogs, mitigations=Mitigations(retpoline=retpoline), pokes=request.pokes
    )
    image = flat.load(request)
    function = image.functions[0]
    flat.write(array + 0x4C, (2).to_bytes(4, "little"))
    flat.write(array + 0x138, struct.pack("<QQ", 0, prog))
    flat.write(prog + 0x48, function.addr.to_bytes(8, "little"))
    if direct:
        poke = image.pokes[0]
        for addr, code in flat.compiler.poke_code(poke, function.addr, function.addr + poke.adj_off):
            flat.write(addr, code)
    flat.write(DATA, bytes(8))
    assert flat.run(image).r0 == 99
    assert int.from_bytes(flat.read(DATA, 8), "little") == 34
    if direct:
        # Emptying the slot gives the image's first bytes back.
        for addr, code in flat.compiler.poke_code(poke, function.addr, None):
            flat.write(addr, code)
        assert flat.read(function.addr, len(function.code)) == function.code


@pytest.mark.parametrize("index", [0, 1, 2, 0xFFFFFFFF, 1 << 32])
def test_tail_call_that_does_not_happen(index: int) -> None:
    """An index past the end (32 bits count) or an empty slot: the counter stays, the program goes on."""
    flat, array = machine(), DATA + 0x1000
    flat.write(array + 0x4C, (2).to_bytes(4, "little"))
    flat.write(array + 0x138, bytes(16))
    insns = [*ld_imm64(2, array), *ld_imm64(3, index), Insn(op.TAIL_CALL)]
    insns += [Insn(op.BPF_ALU64 | op.BPF_MOV, 0, 0, 0, 5), EXIT]
    image = flat.load(request_for(insns, [Subprog(0, len(insns), 0, "main", True, True)]))
    assert flat.run(image).r0 == 5


@pytest.mark.parametrize("private", [False, True])
def test_calls_and_frames(private: bool) -> None:
    """Helper and function calls with the frame pointer handed over; both kinds of stack."""
    flat = machine()
    number = flat.stub(0x100, "lea rax, [rdi + rsi]\nmov r9, 7\nmov r10, 7\nret")
    store = op.BPF_STX | op.BPF_MEM | op.BPF_DW
    main = [
        Insn(op.BPF_ALU64 | op.BPF_MOV, 6, 0, 0, 40),
        Insn(store, 10, 6, -8),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 1, 10),
        Insn(op.CALL, src=op.BPF_PSEUDO_CALL, imm=5),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 1, 0),
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 2, 10, -8),
        Insn(op.CALL, imm=number),
        Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, 0, 6),
        EXIT,
    ]
    leaf = [
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 6, 1, -8),
        Insn(store, 10, 6, -16),
        Insn(op.BPF_ALU64 | op.BPF_ADD, 6, 0, 0, 1),
        Insn(store, 1, 6, -8),
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 0, 10, -16),
        EXIT,
    ]
    stacks = (0x1000, 0x2000) if private else (None, None)
    subprogs = [
        Subprog(0, len(main), 128, "main", private_stack=stacks[0]),
        Subprog(len(main), len(main) + len(leaf), 64, "leaf", private_stack=stacks[1]),
    ]
    image = flat.load(request_for([*main, *leaf], subprogs))
    assert flat.run(image).r0 == 40 + 41 + 40
    if private:
        top = PERCPU + 0x1000 + 8 + 128
        assert int.from_bytes(flat.read(top - 8, 8), "little") == 41
        assert [function.frame_bytes for function in image.functions] == [8, 8]
