# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import Status, details, message, printable
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
from .output import Progress, print_json, print_line, print_table

if TYPE_CHECKING:
    from sim.job import Report
    from sim.job.mapdump import MapDump

SHOWN_ENTRIES = 8
"""Map entries and trace lines that the table shows; --json and -v show all."""


@click.command
@click.argument("object_path", metavar="[OBJECT]", required=False)
@input_option
@prog_option
@prog_type_option
@engine_option
@fill_option
@click.option("--out", metavar="DIR", help="Write one pcap file for each verdict.")
@click.option("--trace/--no-trace", default=True, show_default=True, help="Compare both engines' traces.")
@click.option(
    "--trace-frames", type=click.IntRange(min=1), metavar="N", help="Compare over the first N frames only."
)
@common
def run(
    object_path: str | None,
    input_path: str | None,
    prog: str | None,
    prog_type: str | None,
    engine: str,
    fills: tuple[str, ...],
    out: str | None,
    trace: bool,
    trace_frames: int | None,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Run a program over captured packets on both engines, compared.

    Boots a machine, loads OBJECT by bpf(2), attaches the program to the first network card, feeds the
    frames, and shows verdicts, maps, frames sent and what was printed to the trace pipe. Then both engines
    are watched instruction by instruction. Without OBJECT, the bundled filter runs over the bundled capture.
    """
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
    frames = (trace_frames if trace_frames else None) if trace else 0
    job = make_job(object_path, input_path, prog, prog_type, fills, seed, engines_of(engine), frames)
    from sim.job import run_job

    with Progress() as progress:
        report = run_job(job, progress)
    if out is not None:
        write_pcaps(report, Path(out))
    name = object_path or "bundled xdp_filter.o"
    if as_json:
        print_json("run", **_to_json(report, name, input_path or "bundled.pcap"))
    else:
        _print(report, name, bundled=object_path is None, verbose=bool(verbose))
    return Status.OK if report.agree else Status.DIFFERS


def write_pcaps(report: Report, folder: Path) -> list[Path]:
    """One capture for each verdict, also for those that no frame got; times are those of the input.

    The frames are as the first engine left them. PcapError when a file cannot be written.
    """
    from sim.userspace.pcap import Frame, write_pcap

    outcomes = report.results[0].outcomes
    written = []
    names = dict.fromkeys([*report.verdict_names, *(outcome.name for outcome in outcomes)])
    for name in names:
        frames = [
            Frame(outcome.data, frame.time_ns)
            for frame, outcome in zip(report.frames, outcomes, strict=False)
            if outcome.name == name
        ]
        safe = "".join(c if c.isalnum() else "_" for c in name).strip("_")
        written.append(folder / f"{safe}.pcap")
        write_pcap(written[-1], frames)
    return written


def _to_json(report: Report, name: str, source: str) -> dict[str, Any]:
    return {
        "object": name,
        "input": source,
        "program": report.program.name,
        "hook": report.hook,
        "seed": report.job.seed,
        "frames": len(report.frames),
        "skipped": report.skipped,
        "programs": report.programs,
        "engines": [
            {
                "engine": result.engine,
                "verdicts": {key: result.verdicts.get(key, 0) for key in _verdicts(report)},
                "sent": {f"eth{card}": len(frames) for card, frames in enumerate(result.sent)},
                "trace_pipe": result.trace_pipe.splitlines(),
                "clock_ns": result.clock_ns,
                "fault": message(result.fault) if result.fault else None,
            }
            for result in report.results
        ],
        "maps": [each.to_json() for each in report.results[0].maps],
        "differences": report.differences,
        "trace": _trace_json(report),
        "agree": report.agree,
        "rates": {f"{each.engine}_packets_per_second": each.packets_per_second for each in report.results},
    }


def _trace_json(report: Report) -> dict[str, Any] | None:
    found = report.comparison
    if found is None:
        return None
    difference = found.difference
    return {
        "frames": report.traced_frames,
        "executions": found.executions,
        "instructions": found.steps,
        "cut": report.trace_cut,
        "agree": found.agree,
        "difference": None
        if difference is None
        else {
            "kind": difference.kind.name.lower(),
            "execution": difference.execution,
            "step": difference.step,
            "program_id": difference.where.prog if difference.where else None,
            "slot": difference.where.slot if difference.where else None,
            "registers": list(difference.registers),
            "text": report.explanation,
        },
    }


def _verdicts(report: Report) -> list[str]:
    """The hook's verdicts, then others that came up."""
    found = [name for result in report.results for name in result.verdicts]
    return list(dict.fromkeys([*report.verdict_names, *sorted(found)]))


def _print(report: Report, name: str, bundled: bool, verbose: bool) -> None:
    skipped = (
        f" ({report.skipped} skipped: shorter than a header or longer than a buffer)"
        if report.skipped
        else ""
    )
    print_line(
        f"{name}: program {report.program.name}, {report.hook}, {len(report.frames)} frames{skipped}", "bold"
    )
    engines = [result.engine for result in report.results]
    rows = [(each, *(str(r.verdicts.get(each, 0)) for r in report.results)) for each in _verdicts(report)]
    rows += [
        (f"sent on eth{card}", *(str(len(result.sent[card])) for result in report.results))
        for card in range(len(report.results[0].sent))
    ]
    print_table("", ("verdict", *engines), rows, "lrr")
    for each in report.results[0].maps:
        _print_map(each, bundled, verbose)
    _print_trace_pipe(report.results[0].trace_pipe, verbose)
    for result in report.results:
        if result.fault is not None:
            print_line(f"{result.engine}: {message(result.fault)}", "bold red")
            if verbose:
                print(printable(details(result.fault), "\n"))
        if result.packets_per_second:
            print_line(f"packets per second, {result.engine}: {result.packets_per_second:,.0f}")
    _print_verdict(report)


def _print_map(dumped: MapDump, bundled: bool, verbose: bool) -> None:
    from sim.job.bundled import FLOW_MAPS, flow_text

    rows = dumped.rows()
    if bundled and dumped.name in FLOW_MAPS:
        rows = [(flow_text(entry.key), row[1]) for entry, row in zip(dumped.entries, rows, strict=True)]
    shown = rows if verbose else rows[:SHOWN_ENTRIES]
    title = f"map {dumped.name} ({dumped.type.lower()}, {len(rows)} of {dumped.max_entries} entries in use)"
    if dumped.problem:
        print_line(f"{title}: cannot be read: {dumped.problem}")
        return
    if not rows:
        print_line(title)
        return
    print_table(title, ("key", "value"), shown)
    hidden = len(rows) - len(shown)
    if hidden or dumped.cut:
        print_line(
            f"  ... {hidden} more{' were read, and the map has others' if dumped.cut else ' (-v shows all)'}"
        )


def _print_trace_pipe(text: str, verbose: bool) -> None:
    lines = text.splitlines()
    if not lines:
        return
    print_line(f"trace_pipe: {len(lines)} lines")
    shown = lines if verbose else lines[:SHOWN_ENTRIES]
    for line in shown:
        print_line(f"  {line}")
    if len(lines) > len(shown):
        print_line(f"  ... {len(lines) - len(shown)} more (-v shows all)")


def _print_verdict(report: Report) -> None:
    from sim.trace.report import summary

    if len(report.results) == 2:
        if report.differences:
            print_line(f"results: {len(report.differences)} differences", "bold red")
            for line in report.differences[:SHOWN_ENTRIES]:
                print_line(f"  {line}")
        else:
            print_line("results: both engines agree", "bold green")
    if report.comparison is not None:
        frames = f"{report.traced_frames} of {len(report.frames)} frames watched"
        if report.trace_cut:
            frames += ", as many steps as are kept"
        style = "bold green" if report.comparison.agree else "bold red"
        print_line(f"traces: {summary(report.comparison)} ({frames})", style)
        for line in report.explanation:
            print_line(f"  {line}")
