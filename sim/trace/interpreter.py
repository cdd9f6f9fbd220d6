# SPDX-License-Identifier: GPL-2.0-only
"""Recording what the interpreter does, by its observer."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from kernel_model.interpreter import InterpreterFault, Program
from kernel_model.isa import opcodes as op

from .memory import Effect, effect, target_of
from .record import Execution, ProgText, Recording, Regs, Where

if TYPE_CHECKING:
    from ..machine import Machine


class InterpreterRecorder:
    """Records all executions on the interpreter while it is entered as a context manager."""

    def __init__(self, machine: Machine, recording: Recording) -> None:
        self._machine = machine
        self._recording = recording
        self._ids: dict[Program, int] = {}
        self._under_way: list[tuple[int, Execution, dict[int, Regs]]] = []

    def __enter__(self) -> InterpreterRecorder:
        kernel = self._machine.kernel
        for prog in kernel.progs:
            self._recording.programs[prog.id] = ProgText.of(kernel, prog)
            self._ids[prog.program()] = prog.id
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
        for _, execution, _ in self._under_way:
            self._recording.stop(execution, error, where)

    def _observe(self, program: Program, slot: int, regs: Regs) -> None:
        fp = self._runtime.fp
        if not self._under_way or self._under_way[-1][0] != fp:
            self._under_way.append(
                (fp, self._recording.begin(self._machine.cpu.this_cpu, self._machine.clock.now()), {})
            )
        _, execution, last = self._under_way[-1]
        where = Where(self._ids[program], slot)
        silent = slot in self._recording.programs[where.prog].silent
        if not silent or last.get(regs[10], regs) != regs:
            done = self._effect(program, slot, last.get(regs[10]), regs)
            self._recording.add(execution, where, regs, done)
        last[regs[10]] = regs
        if program.insns[slot].code == op.EXIT and regs[10] == fp:
            execution.complete = True
            self._under_way.pop()

    def _effect(self, program: Program, slot: int, before: Regs | None, regs: Regs) -> Effect | None:
        """What a store left in memory; None for other instructions."""
        target = target_of(program.insns[slot])
        if target is None:
            return None
        if target.moves:
            if before is None:
                return None
            regs = before
        addr, memory = target.addr(regs), self._machine.kernel.memory
        return effect(None, (addr, memory.read(addr, target.size)), addr, target.size)
