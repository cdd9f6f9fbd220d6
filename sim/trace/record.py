# SPDX-License-Identifier: GPL-2.0-only
"""What a trace is: executions of programs as sequences of steps, the same on both engines.

An *execution* is one call of ``bpf_func`` from its first instruction to the exit that returns to the
hook; tail calls and bpf-to-bpf calls belong to it. A *step* is one instruction that ran: the program, its
slot (in the final program, after the fix-ups) and R0 to R10 after it. Rules that make the streams of both
engines comparable, whichever recorded them:

- a step is listed when its instruction is complete. A call is therefore listed after it returned, behind
  the steps of its callee, or of the functions that the helper called back; a tail call that is made is
  listed before the next program's first step;
- LD_IMM64 is one step, at its first slot;
- slots for which the JIT emits no byte (``goto +0``) have no step: machine code has no moment that
  belongs to them. Should the interpreter change a register there, store, or go elsewhere than to the next
  instruction, the step is kept and shows as a difference.

A step that stores has an effect besides: the bytes at its target afterwards, and what changed beside them
(:mod:`sim.trace.memory`).

Which registers mean anything after a step is the business of :mod:`sim.trace.live`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kernel_model.bpf.prog import BpfProg
from kernel_model.isa import opcodes as op
from kernel_model.isa.disasm import disasm
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog
from kernel_model.kernel import Kernel

from .arity import arity
from .memory import Effect

REGISTERS = tuple(f"r{number}" for number in range(11))
WIDTH = len(REGISTERS)
Regs = tuple[int, ...]
"""R0 to R10, unsigned 64-bit."""
_LINE_SHIFT = 10
"""Where the line begins in bpf_line_info's line_col (BPF_LINE_INFO_LINE_NUM)."""


class Where(NamedTuple):
    """An instruction: the program's id and the slot."""

    prog: int
    slot: int


class Step(NamedTuple):
    """An instruction that ran, and the registers after it."""

    where: Where
    regs: Regs


@dataclass(frozen=True)
class NativeText:
    """The machine code of one function as it was when recording began: ``offs`` as NativeFunction has it."""

    addr: int
    code: bytes
    offs: tuple[int, ...]


class SourceLine(NamedTuple):
    """A line of C: the first slot that was made from it, the file's path, the number, the text."""

    slot: int
    file: str
    number: int
    text: str


@dataclass(frozen=True)
class ProgText:
    """A loaded program, as far as traces and their texts need it; plain data.

    ``silent`` are the slots without machine code, ``calls`` the names of called kernel functions by slot and
    ``arities`` how many arguments they take where that is known, ``functions`` the machine code of each
    subprogram (none when the program was not compiled), ``lines`` the source in the order of slots.
    """

    id: int
    name: str
    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    silent: frozenset[int]
    calls: Mapping[int, str]
    functions: tuple[NativeText, ...] = ()
    arities: Mapping[int, int] = field(default_factory=dict)
    lines: tuple[SourceLine, ...] = ()

    @classmethod
    def of(cls, kernel: Kernel, prog: BpfProg) -> ProgText:
        """What ``prog`` looks like now; its machine code is read from memory, patches included."""
        functions = tuple(
            NativeText(each.addr, kernel.memory.read(each.addr, len(each.code)), each.insn_offs)
            for each in (prog.image.functions if prog.image else ())
        )
        silent = {
            subprog.start + index
            for subprog, function in zip(prog.verified.subprogs, functions, strict=False)
            for index in range(subprog.end - subprog.start)
            if function.offs[index] == function.offs[index + 1]
        }
        insns = prog.verified.insns
        base = kernel.text.symbol("__bpf_call_base")
        calls, arities = {}, {}
        for slot, insn in enumerate(insns):
            if insn.code == op.CALL and insn.src != op.BPF_PSEUDO_CALL:
                found = kernel.text.lookup(base + insn.imm)
                calls[slot] = found[0] if found else f"{base + insn.imm:#x}"
                known = arity(calls[slot])
                if known is not None:
                    arities[slot] = known
        return cls(
            prog.id,
            prog.name,
            insns,
            prog.verified.subprogs,
            frozenset(silent),
            calls,
            functions,
            arities,
            _source_lines(prog),
        )

    def source(self, slot: int) -> SourceLine | None:
        """The line of C that an instruction was made from; None when that is not known."""
        at = bisect_right(self.lines, slot, key=lambda line: line.slot)
        return self.lines[at - 1] if at else None

    def line(self, slot: int) -> str:
        """The instruction as text, as in the verifier's log."""
        name = self.calls.get(slot)
        text = disasm(self.insns, slot, (lambda insn: name) if name else None)
        return f"{slot}: ({self.insns[slot].code:02x}) {text}"

    def next_slot(self, slot: int) -> int:
        """The slot that follows in the program."""
        return slot + (2 if self.insns[slot].code == op.LD_IMM64 else 1)

    def landing(self, slot: int) -> int:
        """The slot of the first step when control comes to ``slot``: behind those without machine code."""
        while slot in self.silent:
            slot = self.next_slot(slot)
        return slot

    def function_at(self, slot: int) -> int:
        """The number of the subprogram that holds ``slot``."""
        return next(n for n, subprog in enumerate(self.subprogs) if subprog.start <= slot < subprog.end)


def _source_lines(prog: BpfProg) -> tuple[SourceLine, ...]:
    """line_info in words, one entry where another line begins."""
    if prog.btf is None:
        return ()
    btf = prog.btf.parsed()
    lines: list[SourceLine] = []
    for info in prog.verified.line_info:
        file, number = btf.string(info.file_name_off), info.line_col >> _LINE_SHIFT
        if not lines or (lines[-1].file, lines[-1].number) != (file, number):
            lines.append(SourceLine(info.insn_off, file, number, btf.string(info.line_off)))
    return tuple(lines)


class TraceFull(Exception):
    """A recording has all the steps that it may hold; the run that made them is stopped."""


@dataclass
class Execution:
    """One run of a program. ``ended`` says why it did not come to its exit ("" when it did).

    ``under_way`` is the instruction that was begun and not completed then. ``cut``: the recording was full,
    so that nothing is known about the rest. ``places`` holds ``prog << 32 | slot`` of each step, ``values``
    its registers, ``effects`` by step what stores did to memory, ``broken`` by step how the machine code
    left its caller's registers or stack other than it found them. ``cpu`` and ``clock`` (simulated
    nanoseconds) tell where and when it began, ``began`` behind how many steps of its recording: a program
    that a helper runs begins among the steps of its caller.
    """

    places: array[int] = field(default_factory=lambda: array("Q"))
    values: array[int] = field(default_factory=lambda: array("Q"))
    complete: bool = False
    ended: str = ""
    cut: bool = False
    under_way: Where | None = None
    effects: dict[int, Effect] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    cpu: int = 0
    clock: int = 0
    began: int = 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Step:
        place = self.places[index]
        values = tuple(self.values[index * WIDTH : (index + 1) * WIDTH])
        return Step(Where(place >> 32, place & 0xFFFF_FFFF), values)

    def __iter__(self) -> Iterator[Step]:
        return (self[index] for index in range(len(self)))


@dataclass
class Recording:
    """Everything that was recorded in one go: the programs by id, and the executions in order.

    A step takes 96 bytes. The step behind ``limit`` others raises TraceFull through the engine.
    """

    programs: dict[int, ProgText] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    limit: int = 1 << 62
    steps: int = 0
    """How many steps all executions have."""

    def begin(self, cpu: int = 0, clock: int = 0) -> Execution:
        """A new execution."""
        self.executions.append(Execution(cpu=cpu, clock=clock, began=self.steps))
        return self.executions[-1]

    def add(self, execution: Execution, where: Where, regs: Regs, effect: Effect | None = None) -> None:
        """A step of one of the executions; TraceFull when there are enough."""
        if self.steps >= self.limit:
            raise TraceFull
        self.steps += 1
        places = execution.places
        if effect is not None:
            execution.effects[len(places)] = effect
        prog, slot = where
        places.append(prog << 32 | slot)
        execution.values.extend(regs)

    def stop(self, execution: Execution, error: BaseException | None, where: Where | None) -> None:
        """An execution does not come to its exit, for this reason, at this instruction."""
        if isinstance(error, TraceFull):
            execution.cut = True
            return
        execution.ended = str(error) if error is not None else "the program did not return through its exit"
        execution.under_way = where

    def line(self, where: Where) -> str:
        """An instruction as text."""
        return self.programs[where.prog].line(where.slot)
