# SPDX-License-Identifier: GPL-2.0-only
"""Two runs over the same objects: what is rejected now, what costs more, what is gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

SAME, NEW, GONE = "same", "new", "gone"
NOW_REJECTED, NOW_ACCEPTED, OTHER_ERROR, COST = "now rejected", "now accepted", "other error", "cost"
WORSE = (NOW_REJECTED, GONE)
"""Changes that make the comparison fail."""


class OldRunError(ValueError):
    """The old run's file is not what ``bpfsim verify --json`` prints; the message names line and cause."""


@dataclass(frozen=True)
class Change:
    """How a program stands to the old run. ``percent`` is the growth of ``processed``, None when unknown."""

    kind: str
    was_processed: int | None = None
    percent: float | None = None
    was_error: str = ""

    @property
    def words(self) -> str:
        """A few words for a table."""
        if self.kind == COST and self.percent is not None:
            return f"processed {self.percent:+.1f} %"
        if self.kind == OTHER_ERROR:
            return f"was: {self.was_error}"
        return self.kind

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "change": self.kind,
            "was_processed": self.was_processed,
            "percent": None if self.percent is None else round(self.percent, 3),
            "was_error": self.was_error,
        }


class OldRun:
    """The lines of an earlier run, by object and program.

    An object that is not there under its path is looked for by its file name, when that is unambiguous.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rows: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._by_name: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._seen: set[tuple[str, str]] = set()
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._read(line, number)

    def _read(self, line: str, number: int) -> None:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise OldRunError(f"line {number}: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("object"), str) or "ok" not in row:
            raise OldRunError(f"line {number}: not a result of bpfsim verify --json")
        key = (row["object"], str(row.get("program") or ""))
        self._rows[key] = row
        self._by_name.setdefault((PurePath(key[0]).name, key[1]), []).append(key)

    def compare(self, row: Mapping[str, Any]) -> Change:
        """How a result (fields as in ``--json``) stands to the old one."""
        key = (str(row["object"]), str(row.get("program") or ""))
        if key not in self._rows:
            candidates = self._by_name.get((PurePath(key[0]).name, key[1]), [])
            if len(candidates) != 1:
                return Change(NEW)
            key = candidates[0]
        self._seen.add(key)
        old = self._rows[key]
        was, now = old.get("processed"), row["processed"]
        percent = 100 * (now - was) / was if isinstance(was, int) and was and now is not None else None
        error = str(old.get("error") or "")
        if bool(old["ok"]) != bool(row["ok"]):
            kind = NOW_ACCEPTED if row["ok"] else NOW_REJECTED
        elif error != row["error"]:
            kind = OTHER_ERROR
        else:
            kind = COST if percent else SAME
        return Change(kind, was, percent, error)

    def gone(self) -> list[Mapping[str, Any]]:
        """The old results that nothing was compared with."""
        return [row for key, row in self._rows.items() if key not in self._seen]
