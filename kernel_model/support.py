# SPDX-License-Identifier: GPL-2.0-only
"""The support matrix: one row per item of Linux's BPF subsystem, read off the tables that implement it.

An item is ``machine code`` (emulated text), ``trap`` (a Python function behind a symbol in kernel text),
``python`` (reached by system calls only), ``inlined`` (the verifier replaces the call), ``verified only``
(programs load as in Linux, but nothing here runs them or serves the call) or ``not modelled``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from .boot import REGISTERED
from .btf.parse import Kind
from .btf.vmlinux import kernel_types
from .functions import FUNCTIONS
from .helpers.table import HELPERS
from .helpers.tracing_stubs import UNSERVED
from .hooks.ctx_tracing import ARGUMENTS
from .hooks.progtypes import PROG_TYPES
from .isa.table import TABLE, Origin
from .kfuncs.table import CASTS, KFUNCS, OTHERS
from .maps.types import MAP_TYPES
from .syscalls.bpf import COMMANDS as BPF_COMMANDS
from .syscalls.table import SYSCALLS
from .uapi import bpf_attr
from .uapi.enums import bpf_attach_type

NOT_MODELLED = "not modelled"
VERIFIED_ONLY = "verified only"
_ATTACH_BY = {bpf_attach_type.BPF_XDP: "BPF_LINK_CREATE"}


@dataclass(frozen=True)
class Item:
    """A row. ``kind`` names the table, ``how`` the way it is modelled, ``where`` its module or symbol."""

    kind: str
    number: int
    name: str
    since: str
    how: str
    where: str = ""
    tests: str = ""


def _module(obj: Callable[..., object] | type) -> str:
    return obj.__module__


def _commands() -> Iterator[Item]:
    for row in bpf_attr.COMMANDS:
        handler = BPF_COMMANDS.get(row.name)
        how, where = ("python", _module(handler)) if handler else (NOT_MODELLED, "")
        yield Item("bpf command", row.number, f"BPF_{row.name}", row.since, how, where, _tests(where))


def _map_types() -> Iterator[Item]:
    for number, row in sorted(MAP_TYPES.items()):
        how, where = ("python and machine code", _module(row.cls)) if row.cls else (NOT_MODELLED, "")
        yield Item("map type", number, row.name, row.since, how, where, _tests(where))


def _helpers(machine_code: Collection[str]) -> Iterator[Item]:
    for number, row in sorted(HELPERS.items()):
        symbols = sorted(set(row.symbols.values()))
        found = [symbol for symbol in symbols if symbol in FUNCTIONS or symbol in machine_code]
        if row.proto is None or not found:
            yield Item("helper", number, row.name, row.since, NOT_MODELLED)
            continue
        if set(symbols) <= set(UNSERVED):
            yield Item(
                "helper", number, row.name, row.since, VERIFIED_ONLY, "", "tests/kernel_model/verifier"
            )
            continue
        ways = {"trap" if symbol in FUNCTIONS else "machine code" for symbol in found}
        where = ", ".join(found)
        yield Item(
            "helper",
            number,
            row.name,
            row.since,
            " and ".join(sorted(ways)),
            where,
            "tests/kernel_model/helpers",
        )


def _kfuncs() -> Iterator[Item]:
    types = kernel_types()
    for name in sorted((*KFUNCS, *OTHERS)):
        row = KFUNCS.get(name)
        if row is None:
            yield Item("kfunc", 0, name, "", NOT_MODELLED)
        elif name in CASTS:
            how = "inlined; no structures" if name == "bpf_rdonly_cast" else NOT_MODELLED
            yield Item(
                "kfunc", types.find(name, Kind.FUNC), name, row.since, how, "kernel_model.verifier.kfuncs"
            )
        else:
            how = "trap" if name in FUNCTIONS else "machine code"
            number = types.find(name, Kind.FUNC)
            yield Item("kfunc", number, name, row.since, how, name, "tests/kernel_model/kfuncs")


def _prog_types() -> Iterator[Item]:
    for number, row in sorted(PROG_TYPES.items()):
        how = "verified; test run or hook" if row.modelled else NOT_MODELLED
        how = VERIFIED_ONLY if row.context is ARGUMENTS else how
        where = "kernel_model.hooks" if row.modelled else ""
        yield Item(
            "program type", number, row.name, row.since, how, where, "tests/kernel_model" if where else ""
        )


def _attach_types() -> Iterator[Item]:
    for kind in bpf_attach_type:
        by = _ATTACH_BY.get(kind, "")
        yield Item(
            "attach type", kind, kind.name, "", by or NOT_MODELLED, "kernel_model.bpf.link" if by else ""
        )


def _instructions() -> Iterator[Item]:
    for row in TABLE:
        if row.origin is not Origin.UAPI:
            continue
        yield Item("instruction", row.code, row.name, row.since, "interpreter and JIT", "", "tests/cases")


def _syscalls() -> Iterator[Item]:
    for number, row in sorted(SYSCALLS.items()):
        yield Item(
            "system call", number, row.name, "", "python", _module(row.handler), "tests/kernel_model/syscalls"
        )


def _tests(where: str) -> str:
    return "tests/" + "/".join(where.split(".")[:2]) if where else ""


def items(machine_code: Collection[str]) -> list[Item]:
    """Every row, table by table. ``machine_code`` are the symbols that hand-written kernel text defines."""
    assert REGISTERED, "the tables are filled by importing kernel_model.boot"
    return [
        *_commands(),
        *_map_types(),
        *_helpers(machine_code),
        *_kfuncs(),
        *_prog_types(),
        *_attach_types(),
        *_instructions(),
        *_syscalls(),
    ]
