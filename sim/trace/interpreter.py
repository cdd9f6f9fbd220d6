# SPDX-License-Identifier: GPL-2.0-only
"""Recording what the interpreter does, by its observer."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from kernel_model.interpreter import InterpreterFault, Program
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from .memory import Effect, Target, target_of
from .record import Execution, ProgText, Recording, Regs, Where

if TYPE_CHECKING:
    from ..machine import Machine

_ARITHMETIC = (op.BPF_ALU, op.BPF_ALU64)
_GOTO = (op.BPF_JMP | op.BPF_JA, op.BPF_JMP32 | op.BPF_JA)
"""With these, what the JIT rightly emits nothing for: a move to itself, a jump over nothing."""


class _Slot(NamedTuple):
    """What the observer asks about an instruction, looked up once."""

    where: Where
    silent: bool
    """No machine code, which is right when nothing changes."""
    goto: bool
    exits: bool
    target: Target | None


def _slot(text: ProgText, slot: int, insn: Insn) -> _Slot:
    goto = insn.code in _GOTO
    silent = slot in text.silent and (goto or op.bpf_class(insn.code) in _ARITHMETIC)
    return _Slot(Where(text.id, slot), silent, goto, insn.code == op.EXIT, target_of(insn))


@dataclass
class _Run:
    """A run of a program under way, with everything that it calls itself."""

    fp: int
    """As Runtime.fp."""
    outermost: int
    """R10 of the function whose exit ends the run."""
    execution: Execution
    last: dict[int, Regs] = field(default_factory=dict)
    """The registers after the last instruction of each frame, by R10."""
    tail_called: bool = False
    """The instruction before was a tail call of the outermost function: its R10 is the next one's."""


class InterpreterRecorder:
    """Records all executions on the interpreter while it is entered as a context manager."""

    def __init__(self, machine: Machine, recording: Recording) -> None:
        self._machine = machine
        self._recording = recording
        self._ids: dict[Program, int] = {}
        self._slots: dict[Program, list[_Slot]] = {}
        self._under_way: list[_Run] = []
        self._goto: tuple[Where, Regs] | None = None
        """A goto without machine code that was not recorded, until it is known where it led."""

    def __enter__(self) -> InterpreterRecorder:
        kernel = self._machine.kernel
        for prog in kernel.progs:
            self._recording.programs[prog.id] = ProgText.of(kernel, prog)
            program = prog.program()
            self._ids[program] = prog.id
            text = self._recording.programs[prog.id]
            self._slots[program] = [_slot(text, slot, insn) for slot, insn in enumerate(program.insns)]
        self._runtime = kernel.runtime
        self._runtime.observer = self._observe
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.observer = None
        where = None
        if isinstance(error, InterpreterFault):
            where = Where(self._ids[error.program], error.slot)
        for run in self._under_way:
            self._recording.stop(run.execution, error, where)

    def _observe(self, program: Program, slot: int, regs: Regs) -> None:
        fp = self._runtime.fp
        frame = regs[10]
        if not self._under_way or self._under_way[-1].fp != fp:
            execution = self._recording.begin(self._machine.cpu.this_cpu, self._machine.clock.now())
            self._under_way.append(_Run(fp, frame, execution))
        run = self._under_way[-1]
        execution, last = run.execution, run.last
        where, silent, goto, exits, target = self._slots[program][slot]
        if run.tail_called:
            run.outermost, run.tail_called = frame, False
        if self._goto is not None:
            self._follow(execution, slot)
        if not silent or last.get(frame, regs) != regs:
            done = None if target is None else self._effect(target, last.get(frame), regs)
            self._recording.add(execution, where, regs, done)
        elif goto:
            self._goto = where, regs
        last[frame] = regs
        if frame != run.outermost:
            return
        run.tail_called = program.insns[slot].code == op.TAIL_CALL
        if exits:
            execution.complete = True
            self._under_way.pop()

    def _follow(self, execution: Execution, slot: int) -> None:
        """A goto that had no machine code has led here: a step, unless it is where falling through leads."""
        assert self._goto is not None
        (where, regs), self._goto = self._goto, None
        text = self._recording.programs[where.prog]
        if text.landing(text.next_slot(where.slot)) != text.landing(slot):
            self._recording.add(execution, where, regs)

    def _effect(self, target: Target, before: Regs | None, regs: Regs) -> Effect | None:
        """What a store left in memory; None when its place is not known."""
        if target.moves:
            if before is None:
                return None
            regs = before
        addr, memory = target.addr(regs), self._machine.kernel.memory
        return Effect(addr, memory.read(addr, target.size))
