# SPDX-License-Identifier: GPL-2.0-only
"""Measuring a workload: the same results first, then rounds of all engines in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from statistics import median

from .session import ENGINES, Outcome, Session
from .workloads import Workload

SCHEMA = 1
DEFAULT_ROUNDS = 7
MEASURED = ("jit", "interpreter")
"""The engines that are reported; the native twin is what they are compared with."""

_TLB_DOUBLINGS = 6
"""From 256 pages to 16 384, which hold every workload."""
_ROUND_NS = 20_000_000
"""How long an engine runs in a round: long against the cost of one call from Python."""


class ResultsDiffer(Exception):
    """Engines disagree about a workload, so there is nothing to time: two engines and what each said."""

    def __init__(self, workload: str, engine: str, outcome: Outcome, expected: Outcome) -> None:
        super().__init__(workload, engine, outcome, expected)
        self.workload = workload
        self.engine = engine
        self.outcome = outcome
        self.expected = expected

    def __str__(self) -> str:
        if self.outcome.result != self.expected.result:
            what = f"returned {_short(self.outcome.result)}, native code {_short(self.expected.result)}"
        else:
            names = [
                name for name, values in self.expected.maps.items() if self.outcome.maps.get(name) != values
            ]
            what = f"left other contents in map {', '.join(names)} than native code"
        return f"{self.workload}: {self.engine} {what}"


def _short(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")


@dataclass(frozen=True)
class Measurement:
    """Medians over the rounds, in nanoseconds a run; ``ratio`` is the median of each round's own ratio.

    ``insns_per_run`` are BPF instructions, ``working_set`` is in bytes.
    """

    workload: str
    engine: str
    ns_per_run: float
    insns_per_run: float
    native_ns: float
    ratio: float
    working_set: int
    rounds: int

    @property
    def insns_per_s(self) -> float:
        """BPF instructions per second."""
        return self.insns_per_run / self.ns_per_run * 1e9

    def as_json(self) -> dict[str, object]:
        """The object of ``bpfsim bench --json``."""
        return {
            "schema": SCHEMA,
            "workload": self.workload,
            "engine": self.engine,
            "ns_per_run": round(self.ns_per_run, 2),
            "insns_per_s": round(self.insns_per_s),
            "native_ns": round(self.native_ns, 2),
            "ratio": round(self.ratio, 3),
            "insns_per_run": round(self.insns_per_run, 2),
            "working_set": self.working_set,
            "rounds": self.rounds,
        }


def check_equal(session: Session, repeat: int = 0) -> Outcome:
    """Run the same on all engines; ResultsDiffer when results or map contents are not equal.

    ``repeat`` is the number of runs, by default the smallest that the workload allows.
    """
    repeat = repeat or session.way.unit
    expected = session.outcome("native", repeat)
    for engine in MEASURED:
        outcome = session.outcome(engine, repeat)
        if outcome != expected:
            raise ResultsDiffer(session.workload.name, engine, outcome, expected)
    return expected


def _time(session: Session, engine: str, repeat: int) -> int:
    began = time.perf_counter_ns()
    session.run(engine, repeat)
    return time.perf_counter_ns() - began


def _warm_up(session: Session) -> None:
    """Bring the emulator to its steady state for this working set.

    Its TLB begins with 256 pages and doubles only when it is flushed while most of it is in use, as system
    calls from ring 3 do all the time; runs from Python alone would stay at the first size.
    """
    for _ in range(_TLB_DOUBLINGS):
        session.run("native", session.way.full)
        session.machine.cpu.reset()


def _calibrate(session: Session, engine: str, least: int) -> int:
    """How many runs of at least ``least`` fill a round."""
    repeat = least
    while True:
        took = _time(session, engine, repeat)
        if took >= _ROUND_NS // 2:
            return repeat
        factor = min(16, max(2, _ROUND_NS // max(took, 1)))
        repeat *= factor


def measure(
    workload: Workload, rounds: int = DEFAULT_ROUNDS, progress: Callable[[str], None] = lambda _: None
) -> list[Measurement]:
    """Measure one workload on both engines, a Measurement each.

    ``progress`` is told in words what begins. Raises ResultsDiffer, and what Session raises.
    """
    progress(f"{workload.name}: preparing")
    with Session(workload) as session:
        progress(f"{workload.name}: comparing results")
        check_equal(session)
        insns = session.insns_per_run()
        _warm_up(session)
        repeats = {"native": _calibrate(session, "native", session.way.full)}
        repeats["jit"] = repeats["native"]
        repeats["interpreter"] = _calibrate(session, "interpreter", session.way.unit)
        _time(session, "jit", repeats["jit"])
        taken: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        orders = tuple(permutations(ENGINES))
        collecting = gc.isenabled()
        gc.disable()
        try:
            for number in range(rounds):
                progress(f"{workload.name}: round {number + 1} of {rounds}")
                # Orders change, so that no engine always finds the caches as a certain other left them.
                for engine in orders[number % len(orders)]:
                    taken[engine].append(_time(session, engine, repeats[engine]) / repeats[engine])
        finally:
            if collecting:
                gc.enable()
        native = median(taken["native"])
        return [
            Measurement(
                workload.name,
                engine,
                median(taken[engine]),
                insns,
                native,
                median(mine / theirs for mine, theirs in zip(taken[engine], taken["native"], strict=True)),
                session.working_set(),
                rounds,
            )
            for engine in MEASURED
        ]
