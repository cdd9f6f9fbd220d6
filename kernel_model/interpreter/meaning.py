# SPDX-License-Identifier: GPL-2.0-only
"""What each instruction does, as lines of Python over the registers ``r0`` .. ``r11``.

Registers hold unsigned 64-bit integers. Sources: RFC 9669 and the label bodies of Linux's
___bpf_prog_run(). The names that the lines use (``u32``, ``put_u32``, ``probe``, ``call`` ...) are given to
the generated code by engine.py; ``a`` and ``t`` are its scratch variables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from kernel_model.errors import NotModelled
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, imm64
from kernel_model.isa.table import Effect, InsnRow, row_for

from .program import Program

M64: Final = "0xFFFFFFFFFFFFFFFF"
M32: Final = "0xFFFFFFFF"
_SIGN: Final = {64: "0x8000000000000000", 32: "0x80000000", 16: "0x8000", 8: "0x80"}
_MASK: Final = {64: M64, 32: M32, 16: "0xFFFF", 8: "0xFF"}

# {d} and {s} are the operands, {m} the width's mask, {n} the mask of a shift count, {h} the sign bit,
# {w} the width.
_ALU: Final = {
    "ADD": "({d} + {s}) & {m}",
    "SUB": "({d} - {s}) & {m}",
    "MUL": "({d} * {s}) & {m}",
    "OR": "({d} | {s}) & {m}",
    "AND": "{d} & {s} & {m}",
    "XOR": "({d} ^ {s}) & {m}",
    "MOV": "{s} & {m}",
    "NEG": "-{d} & {m}",
    "LSH": "({d} << ({s} & {n})) & {m}",
    "RSH": "({d} & {m}) >> ({s} & {n})",
    "ARSH": "(((({d} & {m}) ^ {h}) - {h}) >> ({s} & {n})) & {m}",
    "DIV": "udiv({d}, {s}, {w})",
    "MOD": "umod({d}, {s}, {w})",
    "SDIV": "sdiv({d}, {s}, {w})",
    "SMOD": "smod({d}, {s}, {w})",
}
# 64-bit operations on two registers that stay below 2**64 without a mask, written short.
_ALU64_SHORT: Final = {
    "OR": "{d} | {s}",
    "AND": "{d} & {s}",
    "XOR": "{d} ^ {s}",
    "MOV": "{s}",
    "RSH": "{d} >> ({s} & 63)",
}
_CONDITION: Final = {
    "JEQ": "{d} == {s}",
    "JNE": "{d} != {s}",
    "JGT": "{d} > {s}",
    "JGE": "{d} >= {s}",
    "JLT": "{d} < {s}",
    "JLE": "{d} <= {s}",
    "JSET": "{d} & {s}",
    # Flipping the sign bit turns the signed order into the unsigned one.
    "JSGT": "{d} ^ {h} > {s} ^ {h}",
    "JSGE": "{d} ^ {h} >= {s} ^ {h}",
    "JSLT": "{d} ^ {h} < {s} ^ {h}",
    "JSLE": "{d} ^ {h} <= {s} ^ {h}",
}
_ATOMIC: Final = {
    "ADD": "(t + {s}) & {m}",
    "OR": "t | {s} & {m}",
    "AND": "t & {s}",
    "XOR": "t ^ {s} & {m}",
    "XCHG": "{s} & {m}",
    # A mismatch writes the old value back, as the processor does: the page must be writable.
    "CMPXCHG": "{s} & {m} if t == r0 & {m} else t",
}


def condition(row: InsnRow, insn: Insn) -> str:
    """The Python expression of a conditional jump, true when it is taken."""
    kind = row.name.split("_")[1]
    if insn.code & op.BPF_X:
        source = f"r{insn.src}" if row.bits == 64 else f"(r{insn.src} & {M32})"
    else:
        source = _literal(insn.imm, row.bits)
    target = f"r{insn.dst}" if row.bits == 64 else f"(r{insn.dst} & {M32})"
    return _CONDITION[kind].format(d=target, s=source, h=_SIGN[row.bits])


def statements(program: Program, row: InsnRow, index: int) -> list[str]:
    """The lines of the instruction at slot ``index``, not to be changed; jumps and exits are the code
    generator's.

    Raises NotModelled for an instruction that no engine is given after the verifier's fix-ups, or
    that needs the arena.
    """
    if row.effect in _BY_INSN:
        return _lines(program.insns[index])
    return _BY_EFFECT[row.effect](program, row, index)


def _alu(row: InsnRow, insn: Insn) -> list[str]:
    dst, src = f"r{insn.dst}", f"r{insn.src}"
    family, kind, *_ = (*row.name.split("_"), "")
    if row.name.startswith("ALU_TO_LE"):
        return [f"{dst} = {dst} & {_MASK[row.bits]}"]
    if row.name.startswith(("ALU_TO_BE", "ALU64_BSWAP")):
        return [f"{dst} = bswap({dst}, {row.bits})"]
    if row.name == "MOV_PERCPU":
        return [f"{dst} = ({src} + this_cpu_off()) & {M64}"]
    if row.name.startswith("ADDR_SPACE_CAST"):
        raise NotModelled("BPF arena (address space cast)")
    if kind.startswith("MOVSX"):
        return [f"{dst} = {_sign_extend(src, int(kind[5:]), row.bits)}"]
    source = src if insn.code & op.BPF_X else _literal(insn.imm, row.bits)
    short = _ALU64_SHORT.get(kind) if family == "ALU64" else None
    template = short or _ALU[kind]
    values = {"m": _MASK[row.bits], "n": row.bits - 1, "h": _SIGN[row.bits], "w": row.bits}
    return [f"{dst} = {template.format(d=dst, s=source, **values)}"]


def _load(row: InsnRow, insn: Insn) -> list[str]:
    address = _address(insn.src, insn.off)
    if "MEM32" in row.name:
        raise NotModelled("BPF arena (load)")
    value = f"u{row.bits}({address})"
    if "PROBE" in row.name:
        value = f"probe(u{row.bits}, {address})"
    if "MEMSX" in row.name:
        value = f"(({value} ^ {_SIGN[row.bits]}) - {_SIGN[row.bits]}) & {M64}"
    return [f"r{insn.dst} = {value}"]


def _store(row: InsnRow, insn: Insn) -> list[str]:
    if "MEM32" in row.name:
        raise NotModelled("BPF arena (store)")
    if op.bpf_class(insn.code) == op.BPF_ST:
        value = _literal(insn.imm, row.bits)
    else:
        value = f"r{insn.src}" if row.bits == 64 else f"r{insn.src} & {_MASK[row.bits]}"
    return [f"put_u{row.bits}({_address(insn.dst, insn.off)}, {value})"]


def _atomic(row: InsnRow, insn: Insn) -> list[str]:
    dst, src, bits = f"r{insn.dst}", f"r{insn.src}", row.bits
    if "PROBE_ATOMIC" in row.name:
        raise NotModelled("BPF arena (atomic operation)")
    if insn.imm == op.BPF_LOAD_ACQ:
        return [f"{dst} = u{bits}({_address(insn.src, insn.off)})"]
    address = _address(insn.dst, insn.off)
    if insn.imm == op.BPF_STORE_REL:
        return [f"put_u{bits}({address}, {src} & {_MASK[bits]})"]
    kind = row.name.rsplit("_", 1)[1]
    lines = [
        f"a = {address}",
        f"t = u{bits}(a)",
        f"put_u{bits}(a, {_ATOMIC[kind].format(s=src, m=_MASK[bits])})",
    ]
    if insn.imm == op.BPF_CMPXCHG:
        lines.append("r0 = t")
    elif insn.imm & op.BPF_FETCH:
        lines.append(f"{src} = t")
    return lines


def _const(program: Program, row: InsnRow, index: int) -> list[str]:
    insn = program.insns[index]
    if insn.src != op.BPF_PSEUDO_FUNC or len(program.subprogs) == 1:
        return [f"r{insn.dst} = {imm64(program.insns, index):#x}"]
    callee = subprog_starting_at(program, index + 1 + insn.imm)
    if callee >= len(program.func_addrs):
        raise NotModelled("callback functions without an address for the interpreter")
    return [f"r{insn.dst} = {program.func_addrs[callee]:#x}"]


def _call(program: Program, row: InsnRow, index: int) -> list[str]:
    insn = program.insns[index]
    # In a program of one function what calls another one is never reached: that one is gone, see jit_x86.
    if row.name == "JMP_CALL_PSEUDO" and len(program.subprogs) > 1:
        caller = program.subprog_at(index)
        callee = subprog_starting_at(program, index + 1 + insn.imm)
        # Below the caller's frame lie the return address and the pushed frame pointer.
        return [f"r0 = f{callee}(r1, r2, r3, r4, r5, {_stack_at_call(program, caller)} - 16, calls)"]
    address = (program.symbols["__bpf_call_base"] + insn.imm) & 0xFFFFFFFFFFFFFFFF
    number = program.subprog_at(index)
    stack = _stack_at_call(program, number)
    if address == program.symbols.get("arch_bpf_timed_may_goto"):
        # Its own calling convention: AX carries the counter's stack offset in and the new count out,
        # and R0-R5 survive (arch/x86/net/bpf_timed_may_goto.S).
        check = program.symbols["bpf_check_timed_may_goto"]
        # It adds to rbp, which is R10 on the ordinary stack only.
        fp = machine_fp(program, number)
        return [f"r11 = call({check:#x}, {stack}, ({fp} + r11) & {M64}, 0, 0, 0, 0) & {M64}"]
    return [f"r0 = call({address:#x}, {stack}, r1, r2, r3, r4, r5) & {M64}"]


def _barrier(program: Program, row: InsnRow, index: int) -> list[str]:
    return []


def _packet(program: Program, row: InsnRow, index: int) -> list[str]:
    raise NotModelled(f"{row.name} in an engine: the verifier's fix-ups replace it")


_BY_INSN: Final[dict[Effect, Callable[[InsnRow, Insn], list[str]]]] = {
    Effect.ALU: _alu,
    Effect.LOAD: _load,
    Effect.STORE: _store,
    Effect.ATOMIC: _atomic,
}
"""What means the same in every program."""
_BY_EFFECT: Final[dict[Effect, Callable[[Program, InsnRow, int], list[str]]]] = {
    Effect.CONST: _const,
    Effect.CALL: _call,
    Effect.BARRIER: _barrier,
    Effect.PACKET: _packet,
}


@lru_cache(maxsize=1 << 14)
def _lines(insn: Insn) -> list[str]:
    row = row_for(insn, internal=True)
    assert row is not None, "the code generator has found its row before"
    return _BY_INSN[row.effect](row, insn)


def machine_fp(program: Program, number: int) -> str:
    """The variable with the frame pointer on the kernel's stack: R10, unless there is a private stack."""
    return "r10" if program.subprogs[number].private_stack is None else "rbp"


def _stack_at_call(program: Program, number: int) -> str:
    """The stack pointer where function ``number`` calls: with a private stack, R10's register is pushed."""
    private = program.subprogs[number].private_stack is not None
    return f"{machine_fp(program, number)} - {program.frame_bytes[number] + 8 * private}"


def subprog_starting_at(program: Program, slot: int) -> int:
    """The number of the subprogram that starts at ``slot``; ValueError when none does."""
    for number, subprog in enumerate(program.subprogs):
        if subprog.start == slot:
            return number
    raise ValueError(f"no function of the program starts at slot {slot}")


def _address(register: int, off: int) -> str:
    return f"r{register}" if off == 0 else f"(r{register} {off:+d}) & {M64}"


def _literal(imm: int, bits: int) -> str:
    """The immediate, sign-extended to ``bits`` and unsigned."""
    return f"{imm & ((1 << bits) - 1):#x}"


def _sign_extend(value: str, width: int, bits: int) -> str:
    return f"((({value} & {_MASK[width]}) ^ {_SIGN[width]}) - {_SIGN[width]}) & {_MASK[bits]}"
