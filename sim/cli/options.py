# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands share, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import InputError

if TYPE_CHECKING:
    from kernel_model.uapi.enums import bpf_prog_type
    from sim.job import Fill, Job

F = TypeVar("F", bound=Callable[..., Any])

VERBOSE, DEBUG = "bpfsim.verbose", "bpfsim.debug"
"""Keys of the click context's ``meta``, which all levels share."""


def _note(key: str) -> Callable[[click.Context, click.Parameter, int], int]:
    def note(ctx: click.Context, _param: click.Parameter, value: int) -> int:
        ctx.meta[key] = max(ctx.meta.get(key, 0), int(value))
        return value

    return note


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    callback=_note(VERBOSE),
    help="Show details: verifier logs, registers of guest faults.",
)
debug_option = click.option(
    "--debug", is_flag=True, callback=_note(DEBUG), expose_value=False, help="Show Python tracebacks too."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="The machine's only source of randomness."
)
prog_type_option = click.option(
    "--prog-type", metavar="TYPE", help="Program type when the section names none: xdp, sched_cls, kprobe ..."
)


btf_option = click.option(
    "--btf", "btf", metavar="FILE", help="The BTF of a real kernel: relocate and verify against its types."
)


def common(function: F) -> F:
    """``--json``, ``--seed``, ``-v`` and ``--debug``."""
    for option in (debug_option, verbose_option, seed_option, json_option):
        function = option(function)
    return function


def parse_prog_type(name: str | None) -> bpf_prog_type | None:
    """A program type by bpftool's or the kernel's name; InputError for an unknown one."""
    if name is None:
        return None
    from kernel_model.uapi.enums import bpf_prog_type

    full = f"BPF_PROG_TYPE_{name.upper().removeprefix('BPF_PROG_TYPE_')}"
    try:
        return bpf_prog_type[full]
    except KeyError:
        known = ", ".join(each.name.removeprefix("BPF_PROG_TYPE_").lower() for each in bpf_prog_type)
        raise InputError(f"--prog-type {name}: unknown type (known: {known})") from None


def parse_fill(text: str) -> Fill:
    """``MAP:KEY=VALUE`` with hex digits; InputError when it is not of that form."""
    from sim.job import Fill

    name, colon, rest = text.rpartition(":")
    key, equals, value = rest.partition("=")
    try:
        if not (colon and equals and name):
            raise ValueError
        return Fill(name, bytes.fromhex(key), bytes.fromhex(value))
    except ValueError:
        raise InputError(f"--fill {text}: want MAP:KEY=VALUE, key and value in hex digits") from None


def make_job(
    object_path: str | None,
    input_path: str | None,
    prog: str | None,
    prog_type: str | None,
    fills: tuple[str, ...],
    seed: int,
    engines: tuple[str, ...],
    trace_frames: int | None = None,
) -> Job:
    """The job that ``run`` and ``trace`` describe by their arguments; the bundled one by default.

    Raises what reading the object and the capture raises, and InputError.
    """
    from dataclasses import replace

    from sim.job import Job
    from sim.job.bundled import bundled_job
    from sim.userspace.object import read_object
    from sim.userspace.pcap import read_pcap

    if object_path is None:
        base = bundled_job()
    else:
        base = Job(read_object(object_path), bundled_job().frames if input_path is None else ())
    if input_path is not None:
        base = replace(base, frames=tuple(read_pcap(input_path)))
    return replace(
        base,
        prog=prog,
        prog_type=parse_prog_type(prog_type),
        fills=base.fills + tuple(parse_fill(fill) for fill in fills),
        seed=seed,
        engines=engines,
        trace_frames=trace_frames,
    )


def engines_of(name: str) -> tuple[str, ...]:
    """``both`` or one engine's name."""
    return ("jit", "interpreter") if name == "both" else (name,)


engine_option = click.option(
    "--engine",
    type=click.Choice(["both", "jit", "interpreter"]),
    default="both",
    show_default=True,
    help="Which engine runs the program.",
)
input_option = click.option(
    "--input",
    "input_path",
    metavar="PCAP",
    help="Frames to feed (pcap or pcapng). Default: the bundled capture.",
)
prog_option = click.option(
    "--prog", metavar="NAME", help="The program to attach. Default: the first that no program array holds."
)
fill_option = click.option(
    "--fill",
    "fills",
    multiple=True,
    metavar="MAP:KEY=VALUE",
    help="Set a map entry before attaching (hex digits).",
)
