# SPDX-License-Identifier: GPL-2.0-only
"""One part of a campaign: some hundred programs on a machine of their own, so that parts may run anywhere.

What a part reports depends on nothing but its :class:`Task`.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kernel_model.errors import NotModelled
from kernel_model.isa import opcodes as op

from .casefile import write_case
from .engines import INTERPRETER, REAL, Engines, Outcome, Refused, Result
from .generator import generate
from .program import Program
from .shrink import shrink

HOST = "host kernel"
MAX_SHRUNK = 20
"""Differences that are shrunk in a campaign; one engine bug shows in very many programs."""
_ADDRESSES = range(0xFFFF_8000_0000_0000, 0xFFFF_FFFF_F000_0000)
"""Where pointers of the kernel lie."""


class Reference(Protocol):
    """Something else that runs programs: the host's kernel."""

    def run(self, program: Program) -> Outcome | Refused: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Task:
    """Programs ``first`` to before ``end`` of ``seed``, on the host's kernel and its CPU too if asked."""

    seed: int
    first: int
    end: int
    host: bool = False
    real_cpu: bool = False


@dataclass
class Found:
    """A program on which the engines differ: number, what differs, the program and its case file.

    ``shrunk`` is the same difference in as few instructions as were found, None when nobody looked.
    """

    number: int
    differences: list[str]
    program: Program
    text: str = ""
    path: Path | None = None
    explanation: list[str] = field(default_factory=list)
    shrunk: Found | None = None


@dataclass
class Counts:
    """What happened to programs. ``refused`` counts the verifier's reasons, ``not_modelled`` our own,
    ``not_real`` why the real CPU did not run one; ``rows`` the instructions of accepted programs.
    """

    programs: int = 0
    accepted: int = 0
    instructions: int = 0
    with_helper: int = 0
    host_runs: int = 0
    real_runs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    not_modelled: Counter[str] = field(default_factory=Counter)
    not_real: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Count what ``other`` counted, too."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif isinstance(mine, list):
                mine.extend(value)
            else:
                setattr(self, name, mine + value)


class Stopped(Exception):
    """Somebody asked for an early end."""


class Part:
    """Runs a task; ``counts`` is good at any time.

    ``tick()`` is called after each program and while one is shrunk, and may raise: Stopped ends the part
    early, anything else passes through.
    """

    def __init__(self, task: Task, tick: Callable[[Counts], None] = lambda counts: None) -> None:
        self.counts = Counts()
        self._task = task
        self._tick = tick
        self._reference: Reference | None = None

    def run(self) -> Counts:
        """All of it."""
        task = self._task
        if task.host:
            from .host import HostKernel

            self._reference = HostKernel()
        try:
            with Engines(real_cpu=task.real_cpu) as engines:
                # The machine's own objects are for life; looking at them again and again costs a tenth.
                gc.freeze()
                for number in range(task.first, task.end):
                    self._one(engines, number, generate(task.seed, number))
                    self._tick(self.counts)
        except Stopped:
            pass
        finally:
            gc.unfreeze()
            if self._reference is not None:
                self._reference.close()
        return self.counts

    def _one(self, engines: Engines, number: int, program: Program) -> None:
        counts = self.counts
        result = engines.run(program)
        counts.programs += 1
        counts.instructions += program.count
        counts.with_helper += any(insn.code == op.CALL and insn.src == 0 for insn in program.insns)
        if result.refused is not None:
            (counts.refused if result.refused.modelled else counts.not_modelled)[result.refused.why] += 1
            return
        counts.accepted += 1
        counts.rows.update(program.rows())
        counts.real_runs += REAL in result.outcomes
        if result.not_run:
            counts.not_real[result.not_run] += 1
        result = self._with_reference(program, result)
        counts.host_runs += HOST in result.outcomes
        if result.differences:
            self._found(engines, Found(number, result.differences, program))

    def _compare(self, engines: Engines, program: Program) -> Result:
        return self._with_reference(program, engines.run(program))

    def _with_reference(self, program: Program, result: Result) -> Result:
        """The result itself, or that of the comparison with the host's kernel where the engines agree."""
        if self._reference is None or result.refused is not None or result.differences:
            return result
        if not program.repeatable:
            return result
        theirs = self._reference.run(program)
        ours = result.outcomes[INTERPRETER]
        if isinstance(theirs, Refused):
            lost = Outcome(0, b"", fault=f"refuses what bpfsim accepts: {theirs.why}")
            return Result({INTERPRETER: ours, HOST: lost})
        # User space sees 32 bits of R0, and no context.
        shown = Outcome(ours.r0 & 0xFFFF_FFFF, ours.packet, b"", ours.maps)
        return Result({INTERPRETER: shown, HOST: theirs})

    def _differs(self, engines: Engines, program: Program) -> bool:
        self._tick(self.counts)
        result = self._compare(engines, program)
        if not result.differences:
            return False
        if HOST in result.outcomes:
            # Two kernels lay memory out differently: a smaller program that returns a pointer shows nothing.
            return engines.run(program, (INTERPRETER,)).outcomes[INTERPRETER].r0 not in _ADDRESSES
        return True

    def _found(self, engines: Engines, found: Found) -> None:
        self.counts.found.append(found)
        found.text = self._case(found, engines)
        if len(self.counts.found) > MAX_SHRUNK:
            return
        small = shrink(found.program, lambda smaller: self._differs(engines, smaller))
        differences = self._compare(engines, small).differences
        shrunk = Found(found.number, differences, small, explanation=_explain(engines, small))
        shrunk.text = self._case(shrunk, engines)
        found.shrunk = shrunk

    def _case(self, found: Found, engines: Engines) -> str:
        task = self._task
        r0 = engines.run(found.program, (INTERPRETER,)).outcomes[INTERPRETER].r0
        options = " --host" * task.host + " --real-cpu" * task.real_cpu
        again = f"bpfsim fuzz --engines --seed {task.seed} --start {found.number} --count 1{options}"
        notes = [again, *found.differences, *found.explanation]
        return write_case(found.program, f"fuzz-{task.seed}-{found.number}", r0, notes)


def _explain(engines: Engines, program: Program) -> list[str]:
    """Where the engines part, when both can be recorded."""
    try:
        return engines.trace(program)[1]
    except (NotModelled, ValueError) as error:
        return [f"no trace: {error}"]


def run_case(program: Program, real_cpu: bool = False) -> tuple[Result, list[str]]:
    """One program on both engines, and on the real CPU if asked: the result, and where they part."""
    with Engines(real_cpu=real_cpu) as engines:
        result = engines.run(program)
        return result, _explain(engines, program) if result.differences else []
