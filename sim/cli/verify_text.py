# SPDX-License-Identifier: GPL-2.0-only
"""How ``bpfsim verify`` shows logs, explanations and costs to people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from .output import print_line, print_table

if TYPE_CHECKING:
    from sim.verify.cost import Row
    from sim.verify.explain import Explanation, PathLine
    from sim.verify.judge import Verdict
    from sim.verify.source import SourceLine

_WIDTH = 100
_TAB = 4
HOTTEST = 12
"""Source lines in the table of costs; ``--json`` has all."""


def print_log(verdict: Verdict) -> None:
    """The verifier's own words, whole."""
    print_line()
    print_line(f"log of {verdict.program}:", "bold")
    for line in verdict.log.splitlines():
        print_line(f"  {line}")


def _wrapped(text: str, first: str, rest: str, style: str = "") -> None:
    for line in textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ):
        print_line(line, style)


def _gutter(explanation: Explanation) -> int:
    """The width of the line numbers that will be shown."""
    sources = [explanation.source, *(line.source for line in explanation.path)]
    numbers = [source.line for source in sources if source is not None]
    slots = [line.first for line in explanation.path if line.source is None]
    return max((len(str(number)) for number in (*numbers, *slots)), default=1)


def print_explanation(explanation: Explanation) -> None:
    """The rejection in plain words, under the log."""
    wide = _gutter(explanation)
    print_line()
    print_line(f"error: {explanation.title} [{explanation.rule}]", "bold red")
    place = "" if explanation.source is None else explanation.source.place
    at = [
        place,
        f"function {explanation.function}" if explanation.function else "",
        f"instruction {explanation.slot}" if explanation.slot >= 0 else explanation.phase,
    ]
    print_line(f"{' ' * wide}--> {', '.join(part for part in at if part)}", "cyan")
    if explanation.source is not None:
        _excerpt(explanation.source, wide)
    if explanation.instruction:
        print_line(f"{' ' * wide} = {explanation.slot}: {explanation.instruction}")
    if explanation.known:
        _heading("What is known")
        for known in explanation.known:
            role = f" ({known.role})" if known.role else ""
            _wrapped(f"{known.register}{role}: {known.words}", "  ", "      ")
    if explanation.path:
        steps = explanation.path_length
        _heading(f"The way there, {steps} instruction{'s' if steps > 1 else ''}" if steps else "Where")
        for line in explanation.path:
            _path_line(line, wide)
    _heading("Why")
    _wrapped(" ".join([*explanation.cause, explanation.why]), "  ", "  ")
    if explanation.fixes:
        _heading("What usually helps")
        for fix in explanation.fixes:
            _wrapped(fix, "  - ", "    ")


def _heading(text: str) -> None:
    print_line(f"{text}:", "bold")


def _excerpt(source: SourceLine, wide: int) -> None:
    """The line with a caret under the column."""
    text = source.text.expandtabs(_TAB)
    lead = len(text) - len(text.lstrip())
    print_line(f"{' ' * wide} |", "cyan")
    print_line(f"{source.line:>{wide}} | {text[lead:]}")
    if source.column:
        column = len(source.text[: source.column - 1].expandtabs(_TAB)) - lead
        print_line(f"{' ' * wide} | {' ' * max(column, 0)}^", "bold red")


def _path_line(line: PathLine, wide: int) -> None:
    if line.skipped:
        print_line(f"  {'.' * wide} | {line.skipped} more")
    if line.source is not None:
        print_line(f"  {line.source.line:>{wide}} | {line.source.text.strip()}")
    else:
        print_line(f"  {line.first:>{wide}} | {line.text}")
    for mark in line.marks:
        _wrapped(f"{mark.slot}: {mark.text}", f"  {' ' * wide} |     ", f"  {' ' * wide} |       ")


def print_cost(verdict: Verdict) -> None:
    """What the verification cost, by function and by source line."""
    cost = verdict.cost
    assert cost is not None
    print_line()
    print_line(f"cost of {verdict.program}:", "bold")
    print_line(f"  {cost.processed} instructions processed, {cost.percent:.2f} % of the limit")
    print_line(
        f"  states: {cost.total_states} in all, at most {cost.peak_states} at a time and "
        f"{cost.max_states_per_insn} at one instruction"
    )
    print_line(f"  branches put aside: {cost.branches}; paths that met a known state: {cost.pruned}")
    timed = cost.seconds is not None
    columns = [
        "processed",
        "%",
        "insns",
        "visits",
        "states",
        "pruned",
        "branches",
        *(["ms"] if timed else []),
    ]
    total = cost.processed or 1
    rows = [[row.name, *_counts(row, total)] for row in cost.functions]
    print_table("  by function", ["function", *columns], rows, "l" + "r" * len(columns))
    if cost.lines:
        rows = [[row.place, *_counts(row, total), row.text] for row in cost.lines[:HOTTEST] if row.processed]
        left = len(cost.lines) - len(rows)
        title = "  by source line" + (f" (the {len(rows)} hottest of {len(cost.lines)})" if left else "")
        print_table(title, ["line", *columns, "source"], rows, "l" + "r" * len(columns))


def _counts(row: Row, total: int) -> list[str]:
    out = [
        str(row.processed),
        f"{100 * row.processed / total:.1f}",
        str(row.insns),
        str(row.visits),
        str(row.states),
        str(row.pruned),
        str(row.branches),
    ]
    return out + ([f"{1000 * row.seconds:.1f}"] if row.seconds is not None else [])
