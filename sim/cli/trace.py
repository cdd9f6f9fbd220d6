# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim trace``: what a program does with packets, instruction by instruction, now or recorded before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from .errors import InputError, Status
from .options import common, engine_option, fill_option, input_option, make_job, prog_option, prog_type_option
from .output import print_json, print_line
from .trace_compare import compare_recorded
from .trace_select import packet_numbers, selection_of, selection_options
from .trace_show import View

if TYPE_CHECKING:
    from sim.job import Job
    from sim.trace import ProgText
    from sim.trace.file import Packet, TraceHead
    from sim.trace.select import Selection

_NO_END = 1 << 62
_RECORDED_LIMIT = 10_000_000
_LIVE = ("engine", "input_path", "prog_type", "fills", "seed", "output", "limit")
"""Parameters that say what to run."""
_SHOWING = ("slots", "lines", "registers", "calls", "effects", "source")
"""Parameters that say what to show."""
_OTHERS = ("object_path", "packet", "packets", "prog", "perfetto")


@click.command
@click.argument("object_path", metavar="[OBJECT|TRACE]", required=False)
@engine_option
@input_option
@click.option("--packet", type=click.IntRange(min=0), metavar="N", help="Which frame, from 0.  [default: 0]")
@click.option("--packets", metavar="all|N..M", help="Several frames.")
@prog_option
@prog_type_option
@fill_option
@click.option(
    "-o", "--output", metavar="FILE", help="Record one engine to a file instead of showing what it does."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Instructions after which a recording ends.  [default: 500000, with -o 10000000]",
)
@click.option("--perfetto", metavar="FILE", help="Write Chrome trace events (JSON) for Perfetto instead.")
@click.option("--compare", nargs=2, metavar="TRACE TRACE", help="Compare two recorded traces, step by step.")
@selection_options
@common
@click.pass_context
def trace(
    ctx: click.Context,
    object_path: str | None,
    engine: str,
    input_path: str | None,
    packet: int | None,
    packets: str | None,
    prog: str | None,
    prog_type: str | None,
    fills: tuple[str, ...],
    output: str | None,
    limit: int | None,
    perfetto: str | None,
    compare: tuple[str, str] | None,
    slots: tuple[str, ...],
    lines: tuple[str, ...],
    registers: tuple[str, ...],
    calls: bool,
    effects: bool,
    source: bool,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Show every instruction that runs for a packet, or record it to a file (-o).

    Beside each stand the registers that it changes and the memory that it stores to. The frames before it
    are fed first, so maps hold what they would. With both engines, the interpreter's trace is shown and the
    JIT's compared with it. Of a recorded TRACE the same is shown; --prog then names the program or function
    to show. The options from --slots on choose what is shown.
    """
    if compare is not None:
        _refuse(ctx, (*_LIVE, *_SHOWING, *_OTHERS), "--compare takes two recorded traces and nothing else")
        return compare_recorded(*compare, as_json)
    recorded = object_path if object_path is not None and _is_recorded(object_path) else None
    selection = selection_of(prog if recorded else None, slots, lines, registers, calls, effects)
    if output and perfetto:
        raise InputError("--output and --perfetto: give one of them; what is recorded can be exported later")
    if output or perfetto:
        _refuse(ctx, _SHOWING, "a file holds everything: choose steps when they are shown")
    if recorded is not None:
        _refuse(ctx, _LIVE, f"{recorded} is recorded already")
        from sim.trace.file import TraceReader

        with TraceReader(recorded) as reader:
            found = reader.packets()
            if packet is not None or packets is not None:
                found = _some(recorded, found, packet_numbers(packet, packets, _NO_END))
            if perfetto:
                return _export(perfetto, reader.head, reader.programs, found, as_json)
            return _show(reader.head, View(reader.programs, selection, source, bool(verbose)), found, as_json)
    job = make_job(object_path, input_path, prog, prog_type, fills, seed, (engine,))
    numbers = packet_numbers(packet, packets, len(job.frames))
    if engine == "both":
        if output or perfetto:
            raise InputError("a file holds one engine's trace: give --engine jit or --engine interpreter")
        return _show_both(job, numbers, limit, selection, source, bool(verbose), as_json)
    from sim.job.job import TRACE_STEPS
    from sim.job.record import frame_recorder

    most = limit or (_RECORDED_LIMIT if output else TRACE_STEPS)
    with frame_recorder(job, engine, most) as recorder, _input_errors():
        found = recorder.packets(numbers)
        if output:
            return _record(output, recorder.head, recorder.programs, found, as_json)
        if perfetto:
            return _export(perfetto, recorder.head, recorder.programs, found, as_json)
        return _show(recorder.head, View(recorder.programs, selection, source, bool(verbose)), found, as_json)


def _is_recorded(path: str) -> bool:
    from sim.trace.file import is_trace

    return is_trace(path)


def _some(path: str, packets: Iterator[Packet], numbers: range) -> Iterator[Packet]:
    """The packets of a file that have one of these numbers; InputError when there is none."""
    some = False
    for packet in packets:
        if packet.number in numbers:
            some = True
            yield packet
    if not some:
        raise InputError(f"{path}: none of these packets is in it")


def _refuse(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """InputError when one of these parameters was given."""
    for param in ctx.command.params:
        given = param.name and ctx.get_parameter_source(param.name)
        if param.name in names and given is click.core.ParameterSource.COMMANDLINE:
            shown = param.opts[-1] if isinstance(param, click.Option) else str(ctx.params[param.name])
            raise InputError(f"{shown}: {why}")


@contextmanager
def _input_errors() -> Iterator[None]:
    """Numbers of packets that there are not."""
    try:
        yield
    except IndexError as error:
        raise InputError(f"--packet: {error}") from None


def _status(packets: Iterable[Packet]) -> Status:
    return Status.DIFFERS if any(packet.fault for packet in packets) else Status.OK


def _record(
    path: str, head: TraceHead, programs: Mapping[int, ProgText], packets: Iterator[Packet], as_json: bool
) -> Status:
    """Write the packets to a file as they come."""
    from sim.trace.file import TraceWriter

    # The first one first: a file is not replaced before there is something to put into it.
    first = next(packets)
    fault, cut = "", False
    with TraceWriter(path, head, programs.values()) as writer:
        for packet in chain((first,), packets):
            writer.add(packet)
            fault = fault or packet.fault
            cut = cut or any(each.cut for each in packet.executions)
    if as_json:
        print_json(
            "trace",
            file=path,
            engine=head.engine,
            packets=writer.packets,
            executions=writer.executions,
            instructions=writer.steps,
            bytes=writer.size,
            fault=fault or None,
            cut=cut,
        )
    else:
        each = f"{writer.size / writer.steps:.2f}" if writer.steps else "-"
        print_line(
            f"{path}: {head.engine}, {writer.packets} packets, {writer.executions} program runs, "
            f"{writer.steps} instructions; {writer.size} bytes, {each} an instruction"
        )
        if cut:
            print_line("the recording was full (--limit): the rest is not in the file")
        if fault:
            print_line(fault)
    return Status.DIFFERS if fault else Status.OK


def _export(
    path: str, head: TraceHead, programs: Mapping[int, ProgText], packets: Iterator[Packet], as_json: bool
) -> Status:
    """Write Chrome trace events as the packets come."""
    from sim.trace.perfetto import write_events

    first = next(packets, None)
    with open(path, "w", encoding="utf-8") as out:
        count = write_events(out, head, programs, chain([] if first is None else [first], packets))
    if as_json:
        print_json("trace", file=path, engine=head.engine, events=count)
    else:
        print_line(f"{path}: {count} events for https://ui.perfetto.dev or chrome://tracing")
    return Status.OK


def _show(head: TraceHead, view: View, packets: Iterator[Packet], as_json: bool) -> Status:
    """One engine's packets."""
    if as_json:
        kept = list(packets)
        print_json("trace", engine=head.engine, **_packets_json(view, kept), agree=True, difference=None)
        return _status(kept)
    status, first, second = Status.OK, next(packets, None), next(packets, None)
    some = [each for each in (first, second) if each is not None]
    for packet in chain(some, packets):
        view.print_packet(packet, head=len(some) > 1)
        status = max(status, _status([packet]))
    return status


def _packets_json(view: View, packets: list[Packet]) -> dict[str, Any]:
    """One packet's fields, or a list of several packets'."""
    if len(packets) == 1:
        return view.packet_json(packets[0])
    return {"packets": [view.packet_json(packet) for packet in packets]}


def _show_both(
    job: Job,
    numbers: range,
    limit: int | None,
    selection: Selection,
    source: bool,
    verbose: bool,
    as_json: bool,
) -> Status:
    """The interpreter's packets, and whether the JIT did the same."""
    from sim.job import INTERPRETER, JIT
    from sim.job.job import TRACE_STEPS
    from sim.job.record import trace_frames
    from sim.trace import compare
    from sim.trace.report import explain, summary

    with _input_errors():
        left, right = (
            trace_frames(job, engine, numbers, limit or TRACE_STEPS) for engine in (INTERPRETER, JIT)
        )
    recordings = left.recording(), right.recording()
    comparison = compare(*recordings)
    explanation: list[str] = []
    if comparison.difference is not None:
        explanation = explain(comparison.difference, *recordings)
    faults = [packet for packet in right.packets if packet.fault]
    failed = _status([*left.packets, *faults])
    view = View(left.programs, selection, source, verbose)
    if as_json:
        shown = _packets_json(view, left.packets)
        if faults and not shown.get("fault"):
            shown["fault"] = faults[0].fault
        print_json("trace", engine="both", **shown, agree=comparison.agree, difference=explanation or None)
    else:
        for packet in left.packets:
            view.print_packet(packet, head=len(left.packets) > 1)
        if faults and not any(packet.fault for packet in left.packets):
            print_line(faults[0].fault)
        print_line(f"both engines: {summary(comparison)}")
        for line in explanation:
            print_line(f"  {line}")
    return failed if comparison.agree else Status.DIFFERS
