# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim diff``: the first instruction where interpreter and JIT part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import InputError, Status
from .options import (
    common,
    fill_option,
    input_option,
    make_job,
    parse_prog_type,
    prog_option,
    prog_type_option,
)
from .output import Progress, print_json, print_line, print_table

if TYPE_CHECKING:
    from sim.diff.finding import Finding, Line

SHOWN = 8
"""Programs that differ and are shown in full."""


@click.command
@click.argument("path", metavar="OBJECT|ASM.txt")
@input_option
@prog_option
@prog_type_option
@fill_option
@click.option("--html", metavar="FILE", help="Write one self-contained HTML page.")
@common
def diff(
    path: str,
    input_path: str | None,
    prog: str | None,
    prog_type: str | None,
    fills: tuple[str, ...],
    html: str | None,
    seed: int,
    as_json: bool,
    verbose: int,
) -> Status:
    """Name the first instruction where interpreter and JIT part.

    An OBJECT's program is attached and fed the frames, on both engines from the same state. A text file
    holds a program in the verifier log's syntax, which is loaded and fed likewise (as XDP program unless
    --prog-type says otherwise), or cases as in tests/cases, which run as they are; --prog names one case.
    """
    with Progress() as progress:
        findings = _findings(path, input_path, prog, prog_type, fills, seed, progress)
    agree = all(each.agree for each in findings)
    if html is not None:
        from sim.diff.page import page

        Path(html).write_text(page(path, findings), "utf-8")
    if as_json:
        print_json("diff", file=path, agree=agree, programs=[each.to_json() for each in findings])
    else:
        _print(findings, bool(verbose))
    return Status.OK if agree else Status.DIFFERS


def _findings(
    path: str,
    input_path: str | None,
    prog: str | None,
    prog_type: str | None,
    fills: tuple[str, ...],
    seed: int,
    progress: Progress,
) -> list[Finding]:
    from dataclasses import replace

    from sim.diff import work
    from sim.diff.cases import CaseError, is_case_file, read_cases

    if work.is_object(path):
        return [work.diff_job(make_job(path, input_path, prog, prog_type, fills, seed, ()), progress)]
    try:
        text = work.read_text(path)
        if not is_case_file(text):
            kind = parse_prog_type(prog_type or "xdp")
            assert kind is not None
            spec = work.text_object(text, path, kind)
            job = make_job(None, input_path, prog, prog_type, (), seed, ())
            return [work.diff_job(replace(job, object=spec, fills=()), progress)]
        if input_path is not None:
            raise InputError("--input: cases have their own memory, no frames")
        cases = [each for each in read_cases(text, path) if prog in (None, each.name)]
        if not cases:
            raise InputError(f"--prog {prog}: {path} has no case of that name")
        return work.diff_cases(cases, seed, progress)
    except CaseError as error:
        raise InputError(str(error)) from None


def _print(findings: list[Finding], verbose: bool) -> None:
    shown = 0
    for each in findings:
        if each.agree:
            if verbose or len(findings) == 1:
                print_line(f"{each.name}: {each.headline()}", "bold green")
            continue
        shown += 1
        if shown <= SHOWN or verbose:
            _print_finding(each)
        else:
            print_line(f"{each.name}: {each.headline()}")
    if len(findings) > 1:
        same = sum(each.agree for each in findings)
        print_line(f"{same} of {len(findings)} programs agree")


def _print_finding(finding: Finding) -> None:
    from sim.trace.record import REGISTERS

    print_line(f"{finding.name}: {finding.headline()}", "bold red")
    for line in finding.ending:
        print_line(f"  at the end: {line}")
    found = finding.comparison.difference
    if found is None:
        return
    if found.reason:
        print_line(f"  {found.reason}")
    before = finding.before()
    rows = [
        (
            name + (" *" if name in found.registers else ""),
            *(
                f"{step.regs[number]:#x}" if step is not None else "-"
                for step in (before, found.interpreter, found.jit)
            ),
        )
        for number, name in enumerate(REGISTERS)
    ]
    print_table("registers (* differs)", ("", "before", "interpreter after", "jit after"), rows, "lrrr")
    native = [(f"{each.addr:x}", each.code, each.text) for each in finding.native()]
    if native:
        print_table("x86 of the instruction", ("address", "bytes", "text"), native)
    for name, lines in zip(("interpreter", "jit"), finding.histories(), strict=True):
        print_table(f"{name}, last steps", ("", "instruction", "changes"), [_row(each) for each in lines])


def _row(line: Line) -> tuple[str, str, str]:
    changed = " ".join(f"{name}={value:#x}" for name, value in line.changed.items())
    return f"{'>' if line.marked else ' '} {line.step}", line.text, f"{changed} {line.memory}".strip()
