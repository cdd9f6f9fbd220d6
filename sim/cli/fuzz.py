# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim fuzz``: seeded programs on both engines, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import InputError, Status
from .options import common
from .output import Progress, print_json, print_line, print_table

if TYPE_CHECKING:
    from sim.fuzz.campaign import Report

_REASONS = 10


@click.command
@click.option("--engines", is_flag=True, help="Compare interpreter and JIT (the only target so far).")
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="Programs to run.")
@click.option("--start", type=click.IntRange(0), default=0, help="The number of the first program.")
@click.option("--host", is_flag=True, help="Run them on the host's kernel, too (root only).")
@click.option("--real-cpu", is_flag=True, help="Run the JIT's code on this CPU, too, in a caged process.")
@click.option("--jobs", type=click.IntRange(1), help="Processes that work.  [default: the number of CPUs]")
@click.option("--out", type=click.Path(path_type=Path), help="Directory for the case files of differences.")
@click.option("--case", type=click.Path(path_type=Path), help="Run the program of a case file instead.")
@click.option("--coverage", is_flag=True, help="Show how often each instruction was used.")
@common
def fuzz(
    engines: bool,
    count: int,
    start: int,
    host: bool,
    real_cpu: bool,
    jobs: int | None,
    out: Path | None,
    case: Path | None,
    coverage: bool,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Run generated programs on both engines from the same state and compare what they leave.

    R0, packet, context and maps are compared. What differs is shrunk to a case file (--out) which --case
    runs again. The same seed gives the same programs, and the same report with any number of jobs. Ctrl-C
    ends early and keeps what was found.
    """
    if not engines:
        raise InputError("say what to fuzz: --engines")
    if real_cpu and (reason := _no_real_cpu()) is not None:
        raise InputError(f"--real-cpu: {reason}")
    if case is not None:
        return _run_case(case, real_cpu, as_json)
    from sim.fuzz.campaign import Campaign, cpus
    from sim.fuzz.host import why_not

    if host and (reason := why_not()) is not None:
        raise InputError(f"--host: {reason}")
    with Progress() as progress:
        report = Campaign(
            seed,
            count,
            start,
            host=host,
            real_cpu=real_cpu,
            out=out,
            progress=progress,
            jobs=jobs or cpus(),
        ).run()
    if as_json:
        _print_json(report)
    else:
        _print(report, coverage, verbose)
    return Status.DIFFERS if report.found else Status.OK


def _no_real_cpu() -> str | None:
    """Why the host's CPU cannot run the JIT's code; None when it can."""
    from sim.fuzz.cage import why_not

    return why_not()


def _run_case(path: Path, real_cpu: bool, as_json: bool) -> Status:
    from sim.fuzz.casefile import CaseError, read_case
    from sim.fuzz.part import run_case

    try:
        program = read_case(path.read_text())
    except CaseError as error:
        raise InputError(f"{path}: {error}") from None
    result, explanation = run_case(program, real_cpu)
    if result.refused is not None:
        raise InputError(f"{path}: {result.refused.why}")
    r0 = {name: f"{outcome.r0:#x}" for name, outcome in result.outcomes.items()}
    if as_json:
        print_json("fuzz", case=str(path), r0=r0, differences=result.differences, explanation=explanation)
    else:
        for name, value in r0.items():
            print_line(f"{name}: R0 {value}")
        for line in [*result.differences, *explanation] or [
            "all engines agree" if real_cpu else "both engines agree"
        ]:
            print_line(line)
    return Status.DIFFERS if result.differences else Status.OK


def _print(report: Report, coverage: bool, verbose: int) -> None:
    used = {name: count for name, count in report.coverage.items() if count}
    if coverage:
        print_table(
            "instructions in accepted programs",
            ("instruction", "count"),
            [(name, str(count)) for name, count in report.coverage.items()],
            "lr",
        )
    programs = max(report.programs, 1)
    print_line(
        f"seed {report.seed}: programs {report.start} to {report.start + report.programs - 1}, "
        f"{report.accepted} accepted ({100 * report.accepted / programs:.1f} %), "
        f"{sum(report.refused.values())} refused, {sum(report.not_modelled.values())} not modelled"
        + (" (interrupted)" if report.interrupted else "")
    )
    print_line(
        f"mean of {report.instructions / programs:.1f} instructions, "
        f"{100 * report.with_helper / programs:.0f} % with a helper call; {report.rate:.0f} programs a second"
    )
    if report.host_runs:
        print_line(f"{report.host_runs} programs ran on the host's kernel, too")
    if report.real_runs:
        print_line(f"{report.real_runs} programs ran on the real CPU, too")
    print_line(f"instructions covered: {len(used)} of {len(report.coverage)}")
    for name, reason in report.uncovered.items():
        print_line(f"  not covered: {name} ({reason})")
    for title, counter in (
        ("refused", report.refused),
        ("not modelled", report.not_modelled),
        ("not on the real CPU", report.not_real),
    ):
        for why, times in counter.most_common(None if verbose else _REASONS):
            print_line(f"  {title} {times} times: {why}")
    for found in report.found:
        where = f", {found.path}" if found.path else ""
        size = f"{found.program.count} instructions after shrinking"
        print_line(f"DIFFERENCE in program {found.number} ({size}{where})", "bold red")
        for line in found.text.splitlines():
            print_line(line)
    print_line(f"differences: {len(report.found)}")


def _print_json(report: Report) -> None:
    print_json(
        "fuzz",
        seed=report.seed,
        start=report.start,
        programs=report.programs,
        accepted=report.accepted,
        refused=dict(report.refused.most_common()),
        not_modelled=dict(report.not_modelled.most_common()),
        interrupted=report.interrupted,
        mean_instructions=round(report.instructions / max(report.programs, 1), 2),
        with_helper=report.with_helper,
        programs_per_second=round(report.rate, 1),
        host_runs=report.host_runs,
        real_cpu_runs=report.real_runs,
        not_on_real_cpu=dict(report.not_real.most_common()),
        coverage=report.coverage,
        uncovered=report.uncovered,
        differences=[
            {
                "number": found.number,
                "what": found.differences,
                "instructions": found.program.count,
                "case": found.text,
                "path": str(found.path) if found.path else None,
                "explanation": found.explanation,
            }
            for found in report.found
        ],
    )
