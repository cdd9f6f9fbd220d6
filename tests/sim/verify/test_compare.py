# SPDX-License-Identifier: GPL-2.0-only
"""Many objects in one table, and two runs over them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import guests
from sim.cli.errors import Status
from sim.cli.main import run
from sim.verify.compare import OldRun, OldRunError

FILTER, BAD = str(guests.path("xdp_filter.o")), str(guests.path("rejected/null_check.o"))


def row(
    object: str = "a.o", program: str = "p", ok: bool = True, processed: int | None = 100, error: str = ""
) -> Any:
    return {"object": object, "program": program, "ok": ok, "processed": processed, "error": error}


def old(*rows: Any) -> OldRun:
    return OldRun(json.dumps(each) for each in rows)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (row(), row(), "same"),
        (row(), row(processed=125), "processed +25.0 %"),
        (row(), row(processed=50), "processed -50.0 %"),
        (row(), row(ok=False, error="R1 !read_ok"), "now rejected"),
        (row(ok=False, error="R1 !read_ok"), row(), "now accepted"),
        (row(ok=False, error="R1 !read_ok"), row(ok=False, error="R2 !read_ok"), "was: R1 !read_ok"),
        (row(processed=None, ok=False, error="x"), row(processed=None, ok=False, error="x"), "same"),
        (row(program="q"), row(), "new"),
        (row(object="old/a.o"), row(object="new/a.o"), "same"),
        (row(object="old/b.o"), row(object="new/a.o"), "new"),
    ],
)
def test_change(before: Any, now: Any, words: str) -> None:
    assert old(before).compare(now).words == words


def test_ambiguous_file_names_are_not_guessed() -> None:
    run_before = old(row(object="x/a.o"), row(object="y/a.o"))
    assert run_before.compare(row(object="z/a.o")).words == "new"
    assert len(run_before.gone()) == 2


def test_gone() -> None:
    run_before = old(row(), row(program="q"))
    run_before.compare(row())
    assert [each["program"] for each in run_before.gone()] == ["q"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', "null"])
def test_not_a_run(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OldRunError, match="line 1: "):
        OldRun([text])
    path = tmp_path / "old.jsonl"
    path.write_text(text)
    assert run(["verify", FILTER, "--against", str(path)]) == Status.BAD_INPUT
    assert f"bpfsim: {path}: line 1: " in capsys.readouterr().err


def _columns(out: str) -> list[list[str]]:
    return [line.split(None, 9) for line in out.splitlines()]


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", FILTER, BAD, "nowhere.o", "--table"]) == Status.BAD_INPUT
    captured = capsys.readouterr()
    head, *rows = _columns(captured.out)
    names = "object program section type verdict errno processed insns xlated_len"
    assert head == [*names.split(), "jited_len  error"]
    assert [each[4] for each in rows] == ["accepted", "accepted", "rejected", "unusable"]
    assert rows[2][9] == "-  R0 invalid mem access 'map_value_or_null'"
    assert "log of" not in captured.out
    assert captured.err == ""


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", FILTER, BAD, "--table", "--json"]) == Status.DIFFERS
    before = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all("explanation" not in each for each in before)
    path = tmp_path / "old.jsonl"

    path.write_text("\n".join(map(json.dumps, before)))
    # A program that was rejected before is no regression.
    assert run(["verify", FILTER, BAD, "--against", str(path)]) == Status.OK
    assert [line.split()[10] for line in capsys.readouterr().out.splitlines()] == [
        "against",
        "same",
        "same",
        "same",
    ]

    before[0]["processed"] //= 2
    before[2].update(ok=True, error="")
    path.write_text("\n".join(map(json.dumps, [*before, row("b.o", "lost")])))
    assert run(["verify", FILTER, BAD, "--against", str(path)]) == Status.DIFFERS
    out = capsys.readouterr().out
    assert "processed +101" in out
    assert "now rejected" in out
    assert "gone: b.o lost" in out

    assert run(["verify", FILTER, BAD, "--against", str(path), "--json"]) == Status.DIFFERS
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["against"]["change"] for each in rows] == ["cost", "same", "now rejected", "gone"]
