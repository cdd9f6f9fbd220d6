# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim exec``: a static x86-64 program in ring 3 of the simulated machine."""

from __future__ import annotations

import sys

import click

from .errors import Status
from .options import common
from .output import print_json


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--uid", type=click.IntRange(min=0), default=0, show_default=True, help="The process's user id."
)
@common
@click.argument("elf")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def exec_(elf: str, args: tuple[str, ...], uid: int, seed: int, as_json: bool, verbose: int) -> Status:
    """Run a static x86-64 program in ring 3 and show what it wrote.

    Options for bpfsim go before ELF. The exit status is 0 when the program exits with 0, else 1; the
    program's own code is printed.
    """
    from sim import Machine
    from sim.userspace.elf import read_file
    from sim.userspace.image import ImageError

    data = read_file(elf, ImageError)
    with Machine.boot(seed=seed) as machine:
        process = machine.exec(data, (elf, *args), uid)
        code, output = process.exit_code, process.stdout
    if as_json:
        print_json("exec", program=elf, exit_code=code, stdout=output.decode("utf-8", "backslashreplace"))
    else:
        sys.stdout.write(output.decode("utf-8", "backslashreplace"))
        sys.stdout.flush()
        if code:
            print(f"bpfsim: {elf}: exited with code {code}", file=sys.stderr)
    return Status.DIFFERS if code else Status.OK
