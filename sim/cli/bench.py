# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim bench``: how fast both engines are, against native code in the same machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from ..bench.costs import Cost
    from ..bench.measure import Measurement
    from ..bench.verifying import Verification

EXIT_DIFFERS, EXIT_BAD_INPUT, EXIT_NOT_MODELLED = 1, 2, 3


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.1f} ns"


def _rate(per_second: float) -> str:
    return f"{per_second / 1e6:,.0f} M" if per_second >= 1e7 else f"{per_second / 1e6:.2f} M"


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B" if count else "registers"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Tell what goes on, on standard error, when a person is looking."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(text)


def _print_workloads(rows: Sequence[Measurement]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..bench.workloads import WORKLOADS

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("workload")
    table.add_column("engine")
    for head in ("ns per run", "insns/s", "insns per run", "native", "x native", "working set"):
        table.add_column(head, justify="right")
    for row in rows:
        first = row.engine == "jit"
        table.add_row(
            row.workload if first else "",
            row.engine,
            f"{row.ns_per_run:,.1f}",
            _rate(row.insns_per_s),
            f"{row.insns_per_run:,.0f}" if first else "",
            f"{row.native_ns:,.1f}" if first else "",
            f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:,.0f}",
            _bytes(row.working_set) if first else "",
        )
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for name in dict.fromkeys(row.workload for row in rows):
        console.print(f"{name}: {WORKLOADS[name].about}", highlight=False)


def _print_costs(costs: Sequence[Cost]) -> None:
    width = max(len(cost.name) for cost in costs)
    for cost in costs:
        click.echo(f"{cost.name:<{width}} {_time(cost.ns):>9}  {cost.about}")


def _print_verifications(rows: Sequence[Verification]) -> None:
    """A line for each program; ``x host`` is how many times as long as the host's kernel it takes."""
    heads = ("program", "insns", "processed", "s", "processed/s", "memory", "host s", "x host")
    click.echo("{:<14}{:>8}{:>10}{:>9}{:>12}{:>11}{:>9}{:>8}".format(*heads))
    for row in rows:
        host = "-" if row.host_seconds is None else f"{row.host_seconds:.3f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.1f}"
        click.echo(
            f"{row.program:<14}{row.insns:>8,}{row.processed:>10,}{row.seconds:>9.3f}{row.rate:>12,.0f}"
            f"{_bytes(row.memory):>11}{host:>9}{ratio:>8}"
        )
    for row in rows:
        if row.host_processed not in (None, row.processed):
            click.echo(f"{row.program}: the host processed {row.host_processed:,}")
    click.echo(f"verifier: {rows[0].form}")


def _bench_verifier(
    names: Sequence[str], rounds: int | None, growth: bool, pure: bool, as_json: bool
) -> None:
    from ..bench.large_programs import LARGE
    from ..bench.verifying import DEFAULT_ROUNDS, NotAccepted, measure_growth, measure_verifier

    for name in names:
        if name not in LARGE:
            raise click.BadParameter(f"{name!r}; one of: {', '.join(LARGE)}", param_hint="--workload")
    try:
        with _progress() as progress:
            if growth:
                rows = measure_growth(pure=pure, progress=progress)
            else:
                rows = measure_verifier(names, rounds or DEFAULT_ROUNDS, pure=pure, progress=progress)
    except NotAccepted as error:
        _fail(EXIT_DIFFERS, str(error))
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows], indent=1))
        return
    _print_verifications(rows)


def _fail(code: int, text: str) -> NoReturn:
    click.echo(f"bpfsim bench: {text}", err=True)
    sys.exit(code)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one for each workload and engine.")
@click.option("--workload", "names", multiple=True, metavar="NAME", help="Only this one (may be repeated).")
@click.option("--rounds", type=click.IntRange(1), help="Rounds; figures are their medians.  [default: 7]")
@click.option("--costs", is_flag=True, help="Only what the machine's own mechanisms cost, and its start.")
@click.option(
    "--verifier", is_flag=True, help="The verifier on large programs; with root, the host's beside it."
)
@click.option("--growth", is_flag=True, help="With --verifier: two programs in sizes up to the limit.")
@click.option("--pure", is_flag=True, help="With --verifier: not the compiled form, if there is one.")
def bench(
    as_json: bool,
    names: tuple[str, ...],
    rounds: int | None,
    costs: bool,
    verifier: bool,
    growth: bool,
    pure: bool,
) -> None:
    """Time the bundled workloads on the JIT and the interpreter.

    The limit is the same C compiled for x86-64, run in the same machine on the same data. Before anything is
    timed, all three must give equal results and map contents.

    Exit status: 0, 1 when results differ, 2 for bad input, 3 for what is not modelled.
    """
    if verifier:
        _bench_verifier(names, rounds, growth, pure, as_json)
        return
    from kernel_model.errors import KernelError, NotModelled

    from ..bench.costs import measure_costs, startup_costs
    from ..bench.measure import DEFAULT_ROUNDS, ResultsDiffer, measure
    from ..bench.startup import measure_startup
    from ..bench.workloads import WORKLOADS
    from ..userspace.elf import ElfError
    from ..userspace.loader import LoadError

    for name in names:
        if name not in WORKLOADS:
            raise click.BadParameter(f"{name!r}; one of: {', '.join(WORKLOADS)}", param_hint="--workload")
    count = rounds or DEFAULT_ROUNDS
    measured: list[Measurement] = []
    fixed: list[Cost] = []
    try:
        with _progress() as progress:
            if not costs:
                for name in names or WORKLOADS:
                    measured += measure(WORKLOADS[name], count, progress)
            if costs or not (names or as_json):
                progress("boot to first verdict")
                fixed = startup_costs(measure_startup(count)) + measure_costs(count, progress)
    except ResultsDiffer as error:
        _fail(EXIT_DIFFERS, str(error))
    except NotModelled as error:
        _fail(EXIT_NOT_MODELLED, str(error))
    except (ElfError, LoadError, KernelError, FileNotFoundError, RuntimeError) as error:
        _fail(EXIT_BAD_INPUT, str(error))
    if as_json:
        rows = [{"schema": 1, "cost": c.name, "ns": round(c.ns, 1), "about": c.about} for c in fixed]
        click.echo(json.dumps(rows if costs else [row.as_json() for row in measured], indent=1))
        return
    if measured:
        _print_workloads(measured)
    if fixed:
        if measured:
            click.echo()
        _print_costs(fixed)
