# SPDX-License-Identifier: GPL-2.0-only
"""What a program costs the verifier: instructions, states and time, by function and by source line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from kernel_model.verifier.api import Stats
from kernel_model.verifier.env import BPF_COMPLEXITY_LIMIT_INSNS, Env

from .recorder import Observer
from .source import Sources

LIMIT = BPF_COMPLEXITY_LIMIT_INSNS


@dataclass
class Row:
    """The cost of one function or line.

    ``processed`` counts instructions over all paths, ``visits`` is the most that one of them was processed;
    ``states`` were kept for comparison at the end, ``pruned`` paths ended because they met one, ``branches``
    were put aside to be followed later. ``seconds`` is host time, None when it was not asked for.
    """

    name: str
    place: str
    text: str = ""
    insns: int = 0
    processed: int = 0
    visits: int = 0
    states: int = 0
    pruned: int = 0
    branches: int = 0
    seconds: float | None = None


@dataclass
class Cost:
    """The cost of one verification. Rows are sorted by ``processed``, the most expensive first."""

    processed: int
    total_states: int
    peak_states: int
    max_states_per_insn: int
    pruned: int
    branches: int
    functions: list[Row]
    lines: list[Row]
    seconds: float | None = None

    @property
    def percent(self) -> float:
        """``processed`` in percent of the limit."""
        return 100 * self.processed / LIMIT

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; ``nondeterministic`` names the fields that differ from run to run."""
        out = {"limit": LIMIT, "percent": round(self.percent, 4)} | asdict(self)
        if self.seconds is None:
            rows = [out, *out["functions"], *out["lines"]]
            for row in rows:
                del row["seconds"]
        out["nondeterministic"] = [] if self.seconds is None else ["seconds"]
        return out


class CostRecorder(Observer):
    """Counts by slot of the loaded program."""

    def __init__(self, timed: bool = False) -> None:
        super().__init__()
        self._clock = time.perf_counter if timed else None
        self._steps: list[int] = []
        self._branches: list[int] = []
        self._states: list[int] = []
        self._seconds: list[float] = []
        self._since = 0.0
        self._current = -1

    def begin(self, env: Env) -> None:
        super().begin(env)
        count, self._current = len(env.spec.insns), -1
        self._steps, self._branches = [0] * count, [0] * count
        self._states, self._seconds = [0] * count, [0.0] * count

    def step(self, env: Env) -> None:
        slot = env.insn_idx
        self._steps[slot] += 1
        self._charge(slot)

    def _charge(self, slot: int) -> None:
        """Give the time since the last call to the instruction that was checked in it."""
        if self._clock is None:
            self._current = slot
            return
        now = self._clock()
        if self._current >= 0:
            self._seconds[self._current] += now - self._since
        self._current, self._since = slot, now

    def fork(self, env: Env) -> None:
        self._branches[self._current] += 1

    def leave(self, env: Env, subprog: int) -> None:
        super().leave(env, subprog)
        self._keep_states(env)
        self._charge(-1)

    def _keep_states(self, env: Env) -> None:
        for slot, states in enumerate(env.explored):
            self._states[slot] += len(states)

    def end(self, env: Env, errno: int) -> None:
        super().end(env, errno)
        if self._current >= 0:
            self._keep_states(env)
            self._charge(-1)

    def cost(self) -> Cost | None:
        """The cost of the last run; None when the verifier was not reached."""
        recording = self.recording
        if recording is None:
            return None
        sources, stats = Sources(recording.spec), recording.stats
        functions: dict[str, Row] = {}
        lines: dict[tuple[str, int, str], Row] = {}
        for slot in range(len(recording.insns)):
            sub = recording.subprog_of(slot)
            name = sub.name if sub is not None else ""
            function = functions.setdefault(name, Row(name, f"instruction {sub.start if sub else 0}"))
            self._add(function, slot, stats)
            line = sources.at(slot)
            if line is not None:
                found = lines.setdefault(
                    (line.file, line.line, name), Row(name, line.place, line.text.strip())
                )
                self._add(found, slot, stats)
        seconds = sum(self._seconds) if self._clock is not None else None
        return Cost(
            stats.insn_processed,
            stats.total_states,
            stats.peak_states,
            stats.max_states_per_insn,
            sum(row.pruned for row in functions.values()),
            sum(self._branches),
            _sorted(functions.values()),
            _sorted(lines.values()),
            seconds,
        )

    def _add(self, row: Row, slot: int, stats: Stats) -> None:
        processed = stats.per_insn[slot] if slot < len(stats.per_insn) else 0
        row.insns += 1
        row.processed += processed
        row.visits = max(row.visits, processed)
        row.states += self._states[slot]
        # An instruction that is counted but not checked is where a path met a known state.
        row.pruned += processed - self._steps[slot]
        row.branches += self._branches[slot]
        if self._clock is not None:
            row.seconds = (row.seconds or 0.0) + self._seconds[slot]


def _sorted(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.processed, row.place, row.name))
