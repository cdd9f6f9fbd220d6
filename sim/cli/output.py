# SPDX-License-Identifier: GPL-2.0-only
"""How commands print: rich tables on a terminal, aligned plain text elsewhere, JSON on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from .errors import printable

SCHEMA = 1
"""The version of everything that ``--json`` prints."""


def is_terminal() -> bool:
    """Whether colours, boxes and progress may be used on stdout."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def print_json(command: str, **fields: Any) -> None:
    """One JSON document: ``schema`` and ``command`` first, then the command's own fields."""
    print(json.dumps({"schema": SCHEMA, "command": command} | fields, indent=2))


def print_line(text: str = "", style: str = "") -> None:
    """A line; ``style`` is rich's, for terminals."""
    text = printable(text, "\t")
    if style and is_terminal():
        _console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """A table. ``right`` has a ``r`` for each column that is aligned to the right, other letters else."""
    cells = [[printable(cell) for cell in row] for row in rows]
    sides = right.ljust(len(columns), "l")[: len(columns)]
    if is_terminal():
        _rich_table(title, columns, cells, sides)
        return
    widths = [max(len(row[at]) for row in [list(columns), *cells]) for at in range(len(columns))]
    if title:
        print(title)
    for row in [list(columns), *cells]:
        parts = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ]
        print(("  " + "  ".join(parts)).rstrip())


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout)


def _rich_table(title: str, columns: Sequence[str], rows: list[list[str]], sides: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name, side in zip(columns, sides, strict=True):
        table.add_column(name, justify="right" if side == "r" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


class Progress:
    """A progress bar on stderr, for people only: nothing at all when either stream is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        if is_terminal() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` units of ``what`` are finished."""
        if self._bar is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done)
