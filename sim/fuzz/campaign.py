# SPDX-License-Identifier: GPL-2.0-only
"""A campaign: programs by seed and number, run, compared, counted; what differs is shrunk to a case file."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kernel_model.errors import NotModelled
from kernel_model.isa import opcodes as op
from kernel_model.isa.table import TABLE, Origin

from .casefile import write_case
from .engines import INTERPRETER, Engines, Outcome, Refused, Result
from .generator import NOT_GENERATED, generate
from .program import Program
from .shrink import shrink

HOST = "host kernel"
MAX_SHRUNK = 20
"""Differences that are shrunk in a campaign; one engine bug shows in very many programs."""
_REBOOT = 20_000
"""Programs after which the machine is booted anew, so that no program depends on all before it."""


_ADDRESSES = range(0xFFFF_8000_0000_0000, 0xFFFF_FFFF_F000_0000)
"""Where pointers of the kernel lie."""


class Reference(Protocol):
    """Something else that runs programs: the host's kernel."""

    def run(self, program: Program) -> Outcome | Refused: ...


@dataclass
class Found:
    """A program on which the engines differ: number, what differs, the shrunk program and its case file."""

    number: int
    differences: list[str]
    program: Program
    text: str = ""
    path: Path | None = None
    explanation: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a campaign did. ``refused`` counts the verifier's reasons, ``not_modelled`` our own."""

    seed: int
    start: int
    programs: int = 0
    accepted: int = 0
    instructions: int = 0
    with_helper: int = 0
    seconds: float = 0.0
    host_runs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    not_modelled: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    interrupted: bool = False

    @property
    def rate(self) -> float:
        """Programs by host second."""
        return self.programs / self.seconds if self.seconds else 0.0

    @property
    def coverage(self) -> dict[str, int]:
        """How often each instruction that user space may write stood in an accepted program."""
        return {row.name: self.rows[row.name] for row in TABLE if row.origin is Origin.UAPI}

    @property
    def uncovered(self) -> dict[str, str]:
        """The instructions that stood in none, and why when that is known."""
        return {
            name: NOT_GENERATED.get(name, "by chance") for name, count in self.coverage.items() if not count
        }


Progress = Callable[[str, int, int], None]


class Campaign:
    """Runs programs ``start`` to ``start + count`` of ``seed``; ``report`` is good at any time.

    ``out`` is the directory for case files (None: they are in the report only).
    """

    def __init__(
        self,
        seed: int,
        count: int,
        start: int = 0,
        reference: Reference | None = None,
        out: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.report = Report(seed, start)
        self._count = count
        self._reference = reference
        self._out = out
        self._progress = progress

    def run(self) -> Report:
        """All of it; KeyboardInterrupt ends it early with what was found so far."""
        began = time.perf_counter()
        try:
            for first in range(self.report.start, self.report.start + self._count, _REBOOT):
                self._part(first, min(first + _REBOOT, self.report.start + self._count), began)
        except KeyboardInterrupt:
            self.report.interrupted = True
        finally:
            gc.unfreeze()
        self.report.seconds = time.perf_counter() - began
        return self.report

    def _part(self, first: int, end: int, began: float) -> None:
        with Engines() as engines:
            # The machine's own objects are for life; looking at them again and again costs a tenth.
            gc.freeze()
            for number in range(first, end):
                program = generate(self.report.seed, number)
                self._one(engines, number, program)
                if self._progress is not None and number % 16 == 15:
                    self._progress("programs", number + 1 - self.report.start, self._count)

    def _one(self, engines: Engines, number: int, program: Program) -> None:
        report = self.report
        result = self._compare(engines, program)
        report.programs += 1
        report.instructions += program.count
        report.with_helper += any(insn.code == op.CALL and insn.src == 0 for insn in program.insns)
        if result.refused is not None:
            (report.refused if result.refused.modelled else report.not_modelled)[result.refused.why] += 1
            return
        report.accepted += 1
        report.rows.update(program.rows())
        differences = result.differences
        if differences:
            self._found(engines, number, program, differences)

    def _compare(self, engines: Engines, program: Program) -> Result:
        result = engines.run(program)
        if self._reference is None or result.refused is not None or result.differences:
            return result
        if not program.repeatable:
            return result
        theirs = self._reference.run(program)
        self.report.host_runs += 1
        ours = result.outcomes[INTERPRETER]
        if isinstance(theirs, Refused):
            lost = Outcome(0, b"", fault=f"refuses what bpfsim accepts: {theirs.why}")
            return Result({INTERPRETER: ours, HOST: lost})
        # User space sees 32 bits of R0, and no context.
        shown = Outcome(ours.r0 & 0xFFFF_FFFF, ours.packet, b"", ours.maps)
        return Result({INTERPRETER: shown, HOST: theirs})

    def _differs(self, engines: Engines, program: Program) -> bool:
        result = self._compare(engines, program)
        if not result.differences:
            return False
        if HOST in result.outcomes:
            # Two kernels lay memory out differently: a smaller program that returns a pointer shows nothing.
            return engines.run(program, (INTERPRETER,)).outcomes[INTERPRETER].r0 not in _ADDRESSES
        return True

    def _found(self, engines: Engines, number: int, program: Program, differences: list[str]) -> None:
        found = Found(number, differences, program)
        self.report.found.append(found)
        if len(self.report.found) <= MAX_SHRUNK:
            found.program = shrink(program, lambda smaller: self._differs(engines, smaller))
            found.differences = self._compare(engines, found.program).differences
        found.explanation = _explain(engines, found.program)
        seed = self.report.seed
        name = f"fuzz-{seed}-{number}"
        r0 = engines.run(found.program).outcomes[INTERPRETER].r0
        notes = [
            f"bpfsim fuzz --engines --seed {seed} --start {number} --count 1",
            *found.differences,
            *(line for line in found.explanation),
        ]
        found.text = write_case(found.program, name, r0, notes)
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
            found.path = self._out / f"{name}.txt"
            found.path.write_text(found.text)


def _explain(engines: Engines, program: Program) -> list[str]:
    """Where the engines part, when both can be recorded."""
    try:
        return engines.trace(program)[1]
    except (NotModelled, ValueError) as error:
        return [f"no trace: {error}"]


def run_case(program: Program) -> tuple[Result, list[str]]:
    """One program on both engines: the result, and where they part."""
    with Engines() as engines:
        result = engines.run(program)
        return result, _explain(engines, program) if result.differences else []
