# SPDX-License-Identifier: GPL-2.0-only
"""Bare programs: memory in, R0 out, no verifier, no context. What conformance suites ask of an engine.

R1 is the address of the memory and R2 its length (both 0 without memory), as the plug-ins of uBPF, rbpf
and bpf_conformance have it. Every function may use the whole of Linux's stack.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import NotModelled
from kernel_model.interpreter import Interpreter
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog
from kernel_model.isa.table import Effect, Use, row_for
from kernel_model.uapi.enums import bpf_prog_type
from kernel_model.verifier.api import MapView, ProgramSpec, Stats, VerifiedProgram
from sim.machine import Machine

from .engines import JIT
from .program import Kind, Program

MAX_MEMORY = 1 << 20
BUDGET = 50_000_000
"""Instructions after which the interpreter gives a program up."""
_STACK = 16384


class BareError(ValueError):
    """A program or memory that no engine is given; the message says why."""


def run_bare(insns: Sequence[Insn], memory: bytes, engine: str) -> tuple[int, bytes]:
    """R0 (64 bits) and the memory afterwards, on ``engine`` (``jit`` or ``interpreter``).

    BareError for what is no program, NotModelled for calls out of the program and map references,
    GuestFault or InterpreterFault when it touches what it may not, BudgetSpent when it does not end.
    """
    slots = tuple(insns)
    _check(slots)
    if len(memory) > MAX_MEMORY:
        raise BareError(f"{len(memory)} bytes of memory; at most {MAX_MEMORY} are taken")
    with Machine.boot(nics=0) as machine:
        kernel = machine.kernel
        prog = BpfProg(kernel, _spec(slots), _verified(slots), [], 0)
        addr = kernel.alloc.kmalloc(len(memory)) if memory else 0
        if memory:
            kernel.memory.write(addr, memory)
        args = (addr, len(memory))
        stack = kernel.alloc_stack(_STACK) + _STACK
        if engine == JIT:
            r0 = kernel.cpu.call(prog.entry(kernel, jit=True), *args, stack=stack)
        else:
            # Below the return address and the pushed frame pointer, as in the JIT's frame.
            interpreter = Interpreter(kernel.memory)
            r0 = interpreter.run(prog.program(), args, stack - 16, budget=BUDGET)
        return r0, kernel.memory.read(addr, len(memory)) if memory else b""


def _check(insns: tuple[Insn, ...]) -> None:
    """What an engine takes for granted because the verifier looks after it."""
    if not insns:
        raise BareError("no instructions")
    slot, starts, targets = 0, set(), []
    while slot < len(insns):
        insn = insns[slot]
        row = row_for(insn)
        if row is None:
            raise BareError(f"slot {slot} is no instruction: opcode {insn.code:#04x}")
        if max(insn.dst, insn.src) > op.BPF_REG_FP:
            raise BareError(f"slot {slot} names a register that there is not")
        if row.effect is Effect.CALL and insn.src != op.BPF_PSEUDO_CALL:
            raise NotModelled(f"calls out of a bare program (slot {slot})")
        if row.effect is Effect.CONST and insn.src:
            raise NotModelled(f"references to kernel objects in a bare program (slot {slot})")
        if row.off is Use.JUMP:
            targets.append((slot, slot + 1 + insn.off))
        elif row.imm is Use.JUMP:
            targets.append((slot, slot + 1 + insn.imm))
        starts.add(slot)
        slot += 2 if insn.code == op.LD_IMM64 else 1
        if slot > len(insns) or (insn.code == op.LD_IMM64 and insns[slot - 1].code):
            raise BareError(f"slot {slot - 2} is half a constant")
    for slot, target in targets:
        if target not in starts:
            raise BareError(f"slot {slot} jumps to where no instruction begins")
    if insns[-1].code not in (op.EXIT, op.BPF_JMP | op.BPF_JA, op.BPF_JMP32 | op.BPF_JA):
        raise BareError("the last instruction is no exit or jump")


def _spec(insns: tuple[Insn, ...]) -> ProgramSpec:
    return ProgramSpec(insns, bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER, _no_map, name="bare")


def _no_map(fd: int) -> MapView:
    raise NotModelled("maps in a bare program")


def _verified(insns: tuple[Insn, ...]) -> VerifiedProgram:
    starts = Program(Kind.XDP, insns).functions()
    ends = (*starts[1:], len(insns))
    subprogs = tuple(
        Subprog(start, end, op.MAX_BPF_STACK, f"f{number}" if number else "bare")
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    )
    return VerifiedProgram(insns, subprogs, (), (), tuple(range(len(insns))), Stats(), "")
