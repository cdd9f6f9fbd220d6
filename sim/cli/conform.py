# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim conform``: one engine as a plug-in of conformance suites (bpf_conformance, uBPF, rbpf)."""

from __future__ import annotations

import sys

import click

from .errors import InputError, Status
from .options import debug_option


def _hex(what: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise InputError(f"{what}: want an even number of hex digits") from None


@click.command
@click.option("--engine", type=click.Choice(["jit", "interpreter"]), required=True, help="What runs it.")
@click.argument("memory", required=False, default="")
@debug_option
def conform(engine: str, memory: str) -> Status:
    """Run a bare program: its bytes as hex on standard input, R0 as hex on standard output.

    MEMORY is hex, too: R1 is its address and R2 its length. There is no verifier, no context and no
    helper. Errors take one line on standard error, and the exit status is not 0.
    """
    from kernel_model.isa.insn import decode
    from sim.fuzz.bare import BareError, run_bare

    code = _hex("standard input", "".join(sys.stdin.read().split()))
    data = _hex("memory", memory)
    try:
        r0, _ = run_bare(decode(code), data, engine)
    except (BareError, ValueError) as error:
        raise InputError(f"the program: {error}") from None
    print(f"{r0:x}")
    return Status.OK
