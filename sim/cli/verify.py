# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim verify``: the verifier's verdict on every program of some objects, explained and counted."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from .errors import InputError, Status, printable
from .options import btf_option, common, parse_prog_type, prog_type_option
from .output import SCHEMA, print_table

if TYPE_CHECKING:
    from sim.verify.compare import Change, OldRun
    from sim.verify.judge import Verdict

_STATUS = {
    "accepted": Status.OK,
    "rejected": Status.DIFFERS,
    "unusable": Status.BAD_INPUT,
    "not modelled": Status.NOT_MODELLED,
}


@click.command
@click.argument("objects", metavar="OBJECT...", nargs=-1, required=True)
@click.option("--prog", metavar="NAME", help="Only this program.")
@click.option("--cost", "with_cost", is_flag=True, help="Show what each function and source line costs.")
@click.option("--time", "timed", is_flag=True, help="With --cost: host time, too (differs from run to run).")
@click.option("--table", "as_table", is_flag=True, help="One row a program, nothing else.")
@click.option(
    "--against",
    metavar="OLD",
    help="Compare with an earlier run, a file that --json printed; implies --table.",
)
@prog_type_option
@btf_option
@common
def verify(
    objects: tuple[str, ...],
    prog: str | None,
    with_cost: bool,
    timed: bool,
    as_table: bool,
    against: str | None,
    prog_type: str | None,
    btf: str | None,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Verify every program of each OBJECT: accepted, or rejected and why.

    Each program is loaded on its own into a fresh kernel. A rejected one is shown with the verifier's log
    and, under it, an explanation. -v shows the log of accepted programs, too, -vv with every path. --json
    prints one JSON object a line and a program. The exit status is 1 when a program is rejected; with
    --against, when one is rejected that was accepted before, or gone.
    """
    kind = parse_prog_type(prog_type)
    if timed and not with_cost:
        raise InputError("verify: --time goes with --cost")
    old = _old_run(against)
    from sim.verify.judge import Options, judge_all

    as_table = as_table or old is not None
    options = Options(
        prog_type=kind,
        seed=seed,
        btf=_read_btf(btf),
        log_level=min(verbose, 2),
        explain=not as_table,
        cost=with_cost,
        timed=timed,
    )
    rows: list[tuple[Verdict, Change | None]] = []
    for verdict in judge_all(list(objects), prog, options):
        change = old.compare(verdict.to_json()) if old is not None else None
        rows.append((verdict, change))
        if as_json:
            _print_json(verdict, change, bool(verbose))
        elif not as_table and verdict.failure is not None:
            _complain(verdict)
    gone = [] if old is None else old.gone()
    if as_json:
        for row in gone:
            print(json.dumps(dict(row) | {"schema": SCHEMA, "against": {"change": "gone"}}))
    elif as_table:
        _print_wide(rows, [str(row["object"]) + " " + str(row.get("program") or "") for row in gone])
    else:
        _print([verdict for verdict, _ in rows], bool(verbose))
    return _status(rows, bool(gone))


def _read_btf(path: str | None) -> bytes | None:
    if path is None:
        return None
    from sim.machine import read_btf

    return read_btf(path)


def _old_run(path: str | None) -> OldRun | None:
    if path is None:
        return None
    from sim.verify.compare import OldRun, OldRunError

    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return OldRun(file)
    except OldRunError as error:
        raise InputError(f"{path}: {error}") from None


def _status(rows: list[tuple[Verdict, Change | None]], gone: bool) -> Status:
    from sim.verify.compare import WORSE

    if any(change is not None for _, change in rows) or gone:
        worse = gone or any(change is not None and change.kind in WORSE for _, change in rows)
        return Status.DIFFERS if worse else Status.OK
    return max((_STATUS[verdict.verdict] for verdict, _ in rows), default=Status.OK)


def _complain(verdict: Verdict) -> None:
    print(f"bpfsim: {printable(verdict.error)}", file=sys.stderr)


def _print_json(verdict: Verdict, change: Change | None, with_log: bool) -> None:
    out = verdict.to_json(with_log) | {"schema": SCHEMA}
    if change is not None:
        out["against"] = change.to_json()
    print(json.dumps(out), flush=True)


def _text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _print_wide(rows: list[tuple[Verdict, Change | None]], gone: list[str]) -> None:
    from sim.verify.judge import COLUMNS

    names = ["verdict" if name == "ok" else name for name in COLUMNS if name != "error"]
    compared = any(change is not None for _, change in rows)
    cells = []
    for verdict, change in rows:
        row = [_text(getattr(verdict, name)) for name in names]
        if change is not None:
            row.append(change.words)
        cells.append([*row, _text(verdict.error)])
    columns = [*names, *(["against"] if compared else []), "error"]
    if cells:
        print_table("", columns, cells, "lllllrrrrr")
    for each in gone:
        print(f"gone: {printable(each)}")


def _print(verdicts: list[Verdict], verbose: bool) -> None:
    from .verify_text import print_cost, print_explanation, print_log

    shown = [verdict for verdict in verdicts if verdict.failure is None]
    if not shown:
        return
    rows = [
        (v.object, _text(v.program), _text(v.type), v.verdict, _text(v.processed), _text(v.error))
        for v in shown
    ]
    print_table("", ("object", "program", "type", "verdict", "processed", "reason"), rows, "llllr")
    for verdict in shown:
        if verdict.log and (verbose or not verdict.ok):
            print_log(verdict)
        if verdict.explanation is not None:
            print_explanation(verdict.explanation)
        if verdict.cost is not None:
            print_cost(verdict)
