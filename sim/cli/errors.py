# SPDX-License-Identifier: GPL-2.0-only
"""From an exception to one line on stderr and an exit status."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum

import click


class Status(IntEnum):
    """The exit status of every command."""

    OK = 0
    """Agree, accepted, done."""
    DIFFERS = 1
    """The engines differ, a program was rejected, a guest failed."""
    BAD_INPUT = 2
    """A file, an option or an argument that cannot be used."""
    NOT_MODELLED = 3
    """Linux can do it, this simulator cannot (yet)."""
    INTERNAL = 70
    """A defect of the simulator (EX_SOFTWARE of sysexits.h)."""


class InputError(Exception):
    """An argument that cannot be used; the message says which and why."""


_STATUS = {
    "NotModelled": Status.NOT_MODELLED,
    "UnsupportedObject": Status.NOT_MODELLED,
    "LoadError": Status.DIFFERS,
    "GuestFault": Status.DIFFERS,
    "InterpreterFault": Status.DIFFERS,
    "BudgetSpent": Status.DIFFERS,
    "SyscallError": Status.DIFFERS,
    "KernelError": Status.DIFFERS,
    "InputError": Status.BAD_INPUT,
    "ElfError": Status.BAD_INPUT,
    "BtfError": Status.BAD_INPUT,
    "PcapError": Status.BAD_INPUT,
    "TraceFileError": Status.BAD_INPUT,
    "TraceMismatch": Status.BAD_INPUT,
    "MissingExtra": Status.BAD_INPUT,
    "OSError": Status.BAD_INPUT,
}
"""By class name, nearest base first: looking a name up imports nothing."""


def status_of(error: BaseException) -> Status:
    """The exit status that an exception stands for."""
    return next((_STATUS[c.__name__] for c in type(error).__mro__ if c.__name__ in _STATUS), Status.INTERNAL)


def printable(text: str, keep: str = "") -> str:
    """``text`` with characters that could move a terminal's cursor spelled out."""
    return "".join(c if c.isprintable() or c in keep else f"\\x{ord(c):02x}" for c in text)


def message(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, OSError) and error.filename:
        return printable(f"{error.filename}: {error.strerror}")
    if isinstance(error, click.ClickException):
        return printable(error.format_message())
    text = str(error) or type(error).__name__
    if type(error).__name__ == "NotModelled":
        text = f"not modelled: {getattr(error, 'feature', text)}"
    if type(error).__name__ == "BudgetSpent":
        text = "runaway program (the interpreter's budget is used up)"
    if status_of(error) is Status.INTERNAL:
        text = f"internal error: {type(error).__name__}: {text} (--debug shows where)"
    return printable(" ".join(text.split()))


def details(error: BaseException) -> str:
    """What else the error knows: the verifier's log, a fault's registers and call trace ("" for none)."""
    log = getattr(error, "log", "")
    if isinstance(log, str) and log:
        return log
    more = getattr(error, "details", None)
    return str(more()) if callable(more) else ""


def report(error: BaseException, verbose: bool, debug: bool) -> Status:
    """Print the error to stderr; its status."""
    print(f"bpfsim: {message(error)}", file=sys.stderr)
    if verbose or debug:
        text = details(error)
        if text:
            print(printable(text.rstrip(), "\n\t"), file=sys.stderr)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    return status_of(error)
