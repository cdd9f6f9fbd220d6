# SPDX-License-Identifier: GPL-2.0-only
"""Which steps a selection takes, and the forms in which its parts are written."""

from __future__ import annotations

import pytest

from sim.job.bundled import bundled_job
from sim.job.record import trace_frames
from sim.trace.file import Trace
from sim.trace.rows import Row, rows
from sim.trace.select import Selection, SourceSpan, Span


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_frames(bundled_job(), "jit", range(1))


def taken(trace: Trace, selection: Selection) -> list[Row]:
    (execution,) = trace.packets[0].executions
    return [row for row in rows(trace.programs, execution) if selection.takes(trace.programs, row)]


@pytest.mark.parametrize(
    ("text", "span"),
    [("7", (7, 7)), ("3..9", (3, 9)), ("..9", (0, 9)), ("0..0", (0, 0)), ("3..", (3, 1 << 62))],
)
def test_spans(text: str, span: tuple[int, int]) -> None:
    assert Span.parse(text) == span


@pytest.mark.parametrize("text", ["", "a", "9..3", "-1", "1...2", "1..2..3", "0x3"])
def test_no_spans(text: str) -> None:
    with pytest.raises(ValueError, match="no numbers"):
        Span.parse(text)


def test_source_spans() -> None:
    assert SourceSpan.parse("a/b.c:3..4") == ("a/b.c", (3, 4))
    assert SourceSpan.parse("3") == ("", (3, 3))
    with pytest.raises(ValueError, match="no numbers"):
        SourceSpan.parse("b.c")


def test_everything(trace: Trace) -> None:
    assert Selection().everything
    assert len(taken(trace, Selection())) == trace.packets[0].steps


def test_programs_and_functions(trace: Trace) -> None:
    by_program = [len(taken(trace, Selection(programs=(name,)))) for name in ("xdp_filter", "xdp_forward")]
    assert sum(by_program) == trace.packets[0].steps
    accounts = taken(trace, Selection(programs=("account",)))
    assert {row.depth for row in accounts} == {1}
    assert len(accounts) < len(taken(trace, Selection(programs=("xdp_forward",))))
    assert not taken(trace, Selection(programs=("nothing",)))


def test_slots_lines_and_registers(trace: Trace) -> None:
    assert {row.where.slot for row in taken(trace, Selection(slots=(Span(3, 9),)))} <= set(range(3, 10))
    found = taken(trace, Selection(lines=(SourceSpan("xdp_filter.c", Span(206, 207)),)))
    assert [row.where.slot for row in found if row.where.prog == 2] == [1, 2]
    assert not taken(trace, Selection(lines=(SourceSpan("filter.c", Span(206, 207)),))), "no whole name"
    found = taken(trace, Selection(registers=(8,)))
    assert found
    assert all(8 in row.changed for row in found)


def test_calls_and_stores(trace: Trace) -> None:
    calls, stores = taken(trace, Selection(calls=True)), taken(trace, Selection(effects=True))
    assert [str(row.call).partition("(")[0] for row in calls] == [
        "__htab_map_lookup_elem", "__htab_map_lookup_elem", "htab_map_update_elem", "bpf_tail_call",
    ]  # fmt: skip
    assert str(calls[2].call).endswith(", 0x1) = 0x0")
    assert len(stores) == len(trace.packets[0].executions[0].effects)
    both = taken(trace, Selection(calls=True, effects=True))
    assert len(both) == len(calls) + len(stores)
    assert len(taken(trace, Selection(calls=True, slots=(Span(0, 120),)))) == 1
