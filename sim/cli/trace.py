# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim trace``: what a program does with one packet, instruction by instruction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .errors import InputError, Status, details, message, printable
from .options import (
    common,
    engine_option,
    engines_of,
    fill_option,
    input_option,
    make_job,
    prog_option,
    prog_type_option,
)
from .output import print_json, print_line

if TYPE_CHECKING:
    from sim.trace import Execution, Recording


class _Row(NamedTuple):
    prog: int
    slot: int
    depth: int
    text: str
    changed: dict[str, int]


def _rows(recording: Recording, execution: Execution) -> Iterator[_Row]:
    """Each step with the registers that it gave a new value (dead ones are not shown)."""
    from sim.trace.live import Liveness
    from sim.trace.record import REGISTERS

    live = Liveness(recording.programs)
    known: dict[int, dict[int, int]] = {}
    for index, step in enumerate(execution):
        following = execution.places[index + 1] if index + 1 < len(execution) else None
        mask = live.after(execution.places[index], step.regs[10], following)
        frame = known.get(step.regs[10])
        if frame is None:
            # A function begins: its arguments were there before the first instruction.
            changes = live.written(execution.places[index])
            frame = {number: step.regs[number] for number in range(1, 6) if not changes >> number & 1}
        now = {number: step.regs[number] for number in range(10) if mask >> number & 1}
        changed = {REGISTERS[n]: value for n, value in now.items() if frame.get(n) != value}
        known = {fp: regs for fp, regs in known.items() if fp >= step.regs[10]} | {step.regs[10]: now}
        yield _Row(step.where.prog, step.where.slot, live.depth, recording.line(step.where), changed)


@click.command
@click.argument("object_path", metavar="[OBJECT]", required=False)
@engine_option
@input_option
@click.option(
    "--packet", type=click.IntRange(min=0), default=0, show_default=True, help="Which frame, from 0."
)
@prog_option
@prog_type_option
@fill_option
@common
def trace(
    object_path: str | None,
    engine: str,
    input_path: str | None,
    packet: int,
    prog: str | None,
    prog_type: str | None,
    fills: tuple[str, ...],
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Show every instruction that runs for one packet.

    Beside each stand the registers that it changes. The frames before it are fed first, so maps hold what
    they would. With both engines, the interpreter's trace is shown and the JIT's compared with it.
    """
    job = make_job(object_path, input_path, prog, prog_type, fills, seed, engines_of(engine))
    from sim.job import INTERPRETER, JIT
    from sim.job.job import trace_frame
    from sim.trace import compare
    from sim.trace.report import explain, summary

    try:
        recordings, results = trace_frame(job, packet)
    except IndexError as error:
        raise InputError(f"--packet: {error}") from None
    comparison = compare(recordings[INTERPRETER], recordings[JIT]) if engine == "both" else None
    shown = INTERPRETER if engine == "both" else engine
    recording, result = recordings[shown], results[shown]
    agree = comparison is None or comparison.agree
    fault = next((each.fault for each in results.values() if each.fault is not None), None)
    explanation: list[str] = []
    if comparison is not None and comparison.difference is not None:
        explanation = explain(comparison.difference, recordings[INTERPRETER], recordings[JIT])
    if as_json:
        print_json(
            "trace",
            engine=engine,
            packet=packet,
            verdict=result.outcomes[0].name if result.outcomes else None,
            executions=[_to_json(recording, each) for each in recording.executions],
            fault=message(fault) if fault is not None else None,
            agree=agree,
            difference=explanation or None,
        )
    else:
        for execution in recording.executions:
            _print(recording, execution)
        if result.outcomes:
            print_line(f"verdict: {result.outcomes[0].name}")
        if fault is not None:
            print_line(message(fault))
            if verbose:
                print(printable(details(fault), "\n"))
        if comparison is not None:
            print_line(f"both engines: {summary(comparison)}")
        for line in explanation:
            print_line(f"  {line}")
    return Status.OK if agree and fault is None else Status.DIFFERS


def _to_json(recording: Recording, execution: Execution) -> list[dict[str, Any]]:
    return [
        {
            "program": recording.programs[row.prog].name,
            "program_id": row.prog,
            "slot": row.slot,
            "depth": row.depth,
            "text": row.text,
            "changed": {name: f"{value:#x}" for name, value in row.changed.items()},
        }
        for row in _rows(recording, execution)
    ]


def _print(recording: Recording, execution: Execution) -> None:
    at: int | None = None
    for row in _rows(recording, execution):
        if row.prog != at:
            at = row.prog
            print_line(f"program {recording.programs[at].name} (id {at})", "bold")
        changes = " ".join(f"{name}={value:#x}" for name, value in row.changed.items())
        print_line(f"  {'  ' * row.depth}{row.text:<44} {changes}".rstrip())
    if execution.ended or execution.cut:
        print_line(f"  ended: {execution.ended or 'too many steps to record'}")
