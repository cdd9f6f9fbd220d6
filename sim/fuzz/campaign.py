# SPDX-License-Identifier: GPL-2.0-only
"""A campaign: programs by seed and number, run, compared, counted; what differs is shrunk to a case file.

It is cut into parts at fixed numbers, each with a machine of its own, and what they report is put together
in order. So it does not matter how many processes run them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

from kernel_model.isa.table import TABLE, Origin

from .generator import NOT_GENERATED
from .part import MAX_SHRUNK, Counts, Part, Stopped, Task

PART = 1000
"""Programs in a part: as many as make the machine's boot a few hundredths of the work."""


@dataclass
class Report(Counts):
    """What a campaign did: programs ``start`` to ``start + programs`` of ``seed``, in ``seconds``."""

    seed: int = 0
    start: int = 0
    seconds: float = 0.0
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


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Campaign:
    """Runs programs ``start`` to ``start + count`` of ``seed``; ``report`` is good once it has run.

    ``host`` and ``real_cpu`` ask for more engines, ``out`` is the directory for case files (None: they are in
    the report only), ``jobs`` how many processes work; 1 works in this one. The report is the same for any.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        start: int = 0,
        *,
        host: bool = False,
        real_cpu: bool = False,
        out: Path | None = None,
        progress: Progress | None = None,
        jobs: int = 1,
    ) -> None:
        self.report = Report(seed=seed, start=start)
        self._count = count
        self._out = out
        self._progress = progress
        end = start + count
        cuts = [start, *range((start // PART + 1) * PART, end, PART), end]
        self._tasks = [Task(seed, first, after, host, real_cpu) for first, after in pairwise(cuts)]
        self._jobs = min(jobs, len(self._tasks))

    def run(self) -> Report:
        """All of it; KeyboardInterrupt ends it early with what was found so far."""
        began = time.perf_counter()
        parts = self._here() if self._jobs <= 1 else self._in_processes()
        for counts in parts:
            self._take(counts)
        self.report.seconds = time.perf_counter() - began
        return self.report

    def _take(self, counts: Counts) -> None:
        left = MAX_SHRUNK - len(self.report.found)
        for number, found in enumerate(counts.found):
            if found.shrunk is not None and number < left:
                found = counts.found[number] = found.shrunk
            found.shrunk = None
            if self._out is not None:
                self._out.mkdir(parents=True, exist_ok=True)
                found.path = self._out / f"fuzz-{self.report.seed}-{found.number}.txt"
                found.path.write_text(found.text)
        self.report.add(counts)

    def _show(self, done: int) -> None:
        if self._progress is not None:
            self._progress("programs", done, self._count)

    def _here(self) -> Iterator[Counts]:
        for task in self._tasks:
            before = self.report.programs

            def tick(counts: Counts, before: int = before) -> None:
                if counts.programs % 16 == 0:
                    self._show(before + counts.programs)

            part = Part(task, tick)
            try:
                yield part.run()
            except KeyboardInterrupt:
                self.report.interrupted = True
                yield part.counts
                return

    def _in_processes(self) -> Iterator[Counts]:
        """The parts' counts in order, from processes that work ahead."""
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        with context.Pool(self._jobs, _prepare, (stop,)) as pool:
            results = [pool.apply_async(_work, (task,)) for task in self._tasks]
            done = 0
            for result in results:
                try:
                    # With a limit, since only then Python lets Ctrl-C through at once.
                    while not result.ready():
                        result.wait(0.2)
                        now = sum(
                            task.end - task.first
                            for task, each in zip(self._tasks, results, strict=True)
                            if each.ready()
                        )
                        if now != done:
                            done = now
                            self._show(done)
                except KeyboardInterrupt:
                    self.report.interrupted = True
                    stop.set()
                yield result.get()


_stop: Event | None = None


def _prepare(stop: Event) -> None:
    """A working process: Ctrl-C is the campaign's business."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(task: Task) -> Counts:
    def tick(_counts: Counts) -> None:
        if _stop is not None and _stop.is_set():
            raise Stopped

    if _stop is not None and _stop.is_set():
        return Counts()
    return Part(task, tick).run()
