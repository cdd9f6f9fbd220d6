# SPDX-License-Identifier: GPL-2.0-only
"""The quick look at two executions says what the step-by-step comparison says."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.job.bundled import bundled_job
from sim.job.record import trace_frames
from sim.trace import Effect, Execution, Recording, agree
from sim.trace.agree import Agreement
from sim.trace.compare import _compare_one


@pytest.fixture(scope="module")
def recordings() -> tuple[Recording, Recording]:
    """Interpreter and JIT over some packets of the bundled capture."""
    left, right = (
        trace_frames(bundled_job(), engine, range(24)).recording() for engine in ("interpreter", "jit")
    )
    return left, right


def slow(known: Recording, left: Execution, right: Execution) -> bool:
    return _compare_one(known, 0, left, right) is None


@pytest.mark.parametrize("at_once", [1, 7, 1024])
def test_all_runs_agree(
    recordings: tuple[Recording, Recording], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(agree, "_AT_ONCE", at_once)
    left, right = recordings
    ask = Agreement(right.programs)
    for here, there in zip(left.executions, right.executions, strict=True):
        assert here.values != there.values, "dead registers differ, or this shows nothing"
        assert ask(here, there)
        assert slow(right, here, there)
    # Runs that end elsewhere, or go other ways.
    for here, there in zip(left.executions, right.executions[1:], strict=False):
        assert ask(here, there) == slow(right, here, there)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 23), st.integers(0, 10**6), st.integers(0, 10), st.integers(0, 63))
def test_a_changed_bit_counts_where_it_is_live(
    recordings: tuple[Recording, Recording], run: int, step: int, register: int, bit: int
) -> None:
    left, right = recordings
    here, there = left.executions[run], deepcopy(right.executions[run])
    ask = Agreement(right.programs)
    assert ask(here, right.executions[run]), "what is remembered of this way is used below"
    there.values[step % len(there) * 11 + register] ^= 1 << bit
    assert ask(here, there) == slow(right, here, there)


def test_everything_else_counts(recordings: tuple[Recording, Recording]) -> None:
    left, right = recordings
    here, ask = left.executions[0], Agreement(right.programs)
    changes = {
        "place": lambda run: run.places.__setitem__(5, run.places[6]),
        "store": lambda run: run.effects.__setitem__(min(run.effects), Effect(1, b"")),
        "end": lambda run: setattr(run, "complete", False),
        "frame": lambda run: run.broken.__setitem__(3, "rbx"),
        "length": lambda run: (run.places.pop(), run.values.__delitem__(slice(-11, None))),
    }
    for what, change in changes.items():
        there = deepcopy(right.executions[0])
        assert ask(here, there)
        change(there)
        assert not ask(here, there), what
        assert not slow(right, here, there), what


def test_what_is_remembered_has_a_limit(
    recordings: tuple[Recording, Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = recordings
    monkeypatch.setattr(agree, "_KEPT_STEPS", 250)
    ask = Agreement(right.programs)
    for here, there in zip(left.executions, right.executions, strict=True):
        assert ask(here, there)
        assert ask._kept <= 250
