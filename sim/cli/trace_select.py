# SPDX-License-Identifier: GPL-2.0-only
"""The options of ``bpfsim trace`` that choose packets and steps, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import InputError

if TYPE_CHECKING:
    from sim.trace.select import Selection

F = TypeVar("F", bound=Callable[..., Any])
_P = TypeVar("_P")

_OPTIONS = (
    click.option("--slots", multiple=True, metavar="N..M", help="Only these slots of the program."),
    click.option("--line", "lines", multiple=True, metavar="FILE:N..M", help="Only these lines of C."),
    click.option("--reg", "registers", multiple=True, metavar="R0..R9", help="Only what changes it."),
    click.option("--calls", is_flag=True, help="Only calls of kernel functions, with arguments and results."),
    click.option("--effects", is_flag=True, help="Only stores to memory (with --calls: both)."),
    click.option("--source", is_flag=True, help="Show the lines of C between the instructions."),
)


def selection_options(function: F) -> F:
    """``--slots``, ``--line``, ``--reg``, ``--calls``, ``--effects`` and ``--source``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _parsed(option: str, texts: tuple[str, ...], parse: Callable[[str], _P], want: str) -> tuple[_P, ...]:
    found = []
    for text in texts:
        try:
            found.append(parse(text))
        except ValueError:
            raise InputError(f"{option} {text}: want {want}") from None
    return tuple(found)


def _register(text: str) -> int:
    number = text.lower().removeprefix("r")
    if number not in tuple("0123456789"):
        raise ValueError(text)
    return int(number)


def selection_of(
    prog: str | None,
    slots: tuple[str, ...],
    lines: tuple[str, ...],
    registers: tuple[str, ...],
    calls: bool,
    effects: bool,
) -> Selection:
    """What the options choose; InputError for values of another form."""
    from sim.trace.select import Selection, SourceSpan, Span

    return Selection(
        () if prog is None else (prog,),
        _parsed("--slots", slots, Span.parse, "N, N..M, N.. or ..M"),
        _parsed("--line", lines, SourceSpan.parse, "FILE:N, FILE:N..M or N"),
        _parsed("--reg", registers, _register, "r0 to r9"),
        calls,
        effects,
    )


def packet_numbers(packet: int | None, packets: str | None, count: int) -> range:
    """The frames that ``--packet`` or ``--packets`` name, of ``count``; InputError for what is neither."""
    from sim.trace.select import Span

    if packets is None:
        return range(packet or 0, (packet or 0) + 1)
    if packet is not None:
        raise InputError("--packet and --packets: give one of them")
    if packets == "all":
        return range(count)
    (span,) = _parsed("--packets", (packets,), Span.parse, "all, N, N..M, N.. or ..M")
    last = count - 1 if packets.endswith("..") else span.last
    return range(span.first, last + 1)
