# SPDX-License-Identifier: GPL-2.0-only
"""Recording what the interpreter does, by its observer."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from kernel_model.interpreter import InterpreterFault, Program
from kernel_model.isa import opcodes as op

from .record import Execution, ProgText, Recording, Regs, Where

if TYPE_CHECKING:
    from ..machine import Machine


class InterpreterRecorder:
    """Records all executions on the interpreter while it is entered as a context manager."""

    def __init__(self, machine: Machine, recording: Recording) -> None:
        self._machine = machine
        self._recording = recording
        self._ids: dict[Program, int] = {}
        self._under_way: list[tuple[int, Execution | None, dict[int, Regs]]] = []

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
        reason = str(error) if error is not None else "the program did not return"
        for _, execution, _ in self._under_way:
            if execution is not None:
                execution.ended = reason
                if isinstance(error, InterpreterFault):
                    execution.under_way = Where(self._ids[error.program], error.slot)

    def _observe(self, program: Program, slot: int, regs: Regs) -> None:
        fp = self._runtime.fp
        if not self._under_way or self._under_way[-1][0] != fp:
            self._under_way.append((fp, self._recording.begin(), {}))
        _, execution, last = self._under_way[-1]
        if execution is None:
            self._end_if_exit(program, slot, regs)
            return
        where = Where(self._ids[program], slot)
        silent = slot in self._recording.programs[where.prog].silent
        if not silent or last.get(regs[10], regs) != regs:
            execution.add(where, regs)
        last[regs[10]] = regs
        if self._end_if_exit(program, slot, regs):
            execution.complete = True

    def _end_if_exit(self, program: Program, slot: int, regs: Regs) -> bool:
        fp = self._under_way[-1][0]
        if program.insns[slot].code != op.EXIT or regs[10] != fp:
            return False
        self._under_way.pop()
        return True
