# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim core``: will these objects load on those kernels?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import InputError, Status
from .options import common, parse_prog_type, prog_type_option
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from sim.verify.portability import Fate, Row


@click.command
@click.argument("objects", metavar="OBJECT...", nargs=-1, required=True)
@click.option(
    "--btf",
    "btfs",
    metavar="FILE",
    multiple=True,
    required=True,
    help="A kernel's BTF, as /sys/kernel/btf/vmlinux or from BTFHub; may be given many times.",
)
@prog_type_option
@common
def core(
    objects: tuple[str, ...],
    btfs: tuple[str, ...],
    prog_type: str | None,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Check CO-RE portability: which relocations resolve, which programs load, kernel by kernel.

    One row a program, one column a kernel: relocations that found their field, type or enumerator, and the
    verifier's verdict there. -v lists what is missing. The exit status is 1 unless all programs load on all
    kernels.
    """
    kind = parse_prog_type(prog_type)
    kernels = _read(btfs)
    from sim.userspace.object import read_object
    from sim.verify.judge import Options
    from sim.verify.portability import portability

    options = Options(prog_type=kind, seed=seed)
    rows = [row for path in objects for row in portability(read_object(path), kernels, options)]
    if as_json:
        print_json("core", kernels=list(kernels), programs=[_to_json(row) for row in rows])
    else:
        _print(rows, list(kernels), bool(verbose))
    return Status.OK if all(fate.loads for row in rows for fate in row.fates.values()) else Status.DIFFERS


def _read(paths: tuple[str, ...]) -> dict[str, bytes]:
    """The blobs by the shortest names that tell the files apart."""
    from kernel_model.btf.parse import BtfError
    from kernel_model.btf.vmlinux import parse_kernel_btf

    stems = [Path(path).stem for path in paths]
    out = {}
    for path, stem in zip(paths, stems, strict=True):
        data = Path(path).read_bytes()
        try:
            parse_kernel_btf(data)
        except BtfError as error:
            raise InputError(f"{path}: {error}") from None
        out[stem if stems.count(stem) == 1 else path] = data
    return out


def _to_json(row: Row) -> dict[str, object]:
    out = dataclasses.asdict(row)
    out["kernels"] = {name: fate.to_json() for name, fate in row.fates.items()}
    del out["fates"]
    return out


def _cell(row: Row, fate: Fate) -> str:
    text = f"{fate.resolved}/{row.relocations} {fate.verdict}"
    return f"{text}, {len(fate.errors)} impossible" if fate.errors else text


def _print(rows: list[Row], kernels: list[str], verbose: bool) -> None:
    cells = [[row.object, row.program, *(_cell(row, row.fates[name]) for name in kernels)] for row in rows]
    print_table("", ("object", "program", *kernels), cells)
    for row in rows:
        for name in kernels:
            fate = row.fates[name]
            if not fate.loads and fate.reason:
                print_line(f"{row.program} on {name}: {fate.reason}")
            for word, texts in _details(fate) if verbose else ():
                for text in texts:
                    print_line(f"{row.program} on {name}: {word}: {text}")


def _details(fate: Fate) -> tuple[tuple[str, list[str]], ...]:
    return (("missing", fate.missing), ("not there", fate.absent), ("impossible", fate.errors))
