# SPDX-License-Identifier: GPL-2.0-only
"""What ``bpfsim diff`` compares: an object's program over captured frames, or text programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kernel_model.uapi.enums import bpf_prog_type

from ..job import INTERPRETER, JIT, Job, Report, run_job
from ..trace import Comparison, Recording
from ..userspace.object import ObjectSpec, ProgSpec
from .cases import Case, CaseError, read_program
from .finding import Finding
from .raw import RawRunner

Progress = Callable[[str, int, int], None]
ELF_MAGIC = b"\x7fELF"


def is_object(path: str) -> bool:
    """Whether the file is an ELF object; any other is taken for text. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC


def read_text(path: str) -> str:
    """The file as text; CaseError when it is none."""
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise CaseError(f"{path}: neither an ELF object nor text") from None


def text_object(text: str, path: str, prog_type: bpf_prog_type) -> ObjectSpec:
    """A bare program in assembly as an object with this one program and no maps."""
    name = Path(path).stem[:15]
    prog = ProgSpec(name, "", read_program(text, path), prog_type)
    return ObjectSpec(path, name, {name: prog}, {}, license="GPL")


def diff_job(job: Job, progress: Progress | None = None) -> Finding:
    """The job's frames over its program on both engines; raises what :func:`sim.job.run_job` raises."""
    report: Report = run_job(replace(job, engines=(JIT, INTERPRETER)), progress)
    comparison = report.comparison or Comparison(0, 0)
    empty = Recording()
    ending = list(report.differences)
    ending += [f"{each.engine}: {each.fault}" for each in report.results if each.fault is not None]
    left = report.recordings.get(INTERPRETER, empty)
    right = report.recordings.get(JIT, empty)
    if left.steps != right.steps:
        ending.append(f"instructions: interpreter {left.steps}, jit {right.steps}")
    return Finding(report.program.name, comparison, left, right, ending)


def diff_cases(cases: list[Case], seed: int, progress: Progress) -> list[Finding]:
    """Each case on both engines, one after the other in one machine."""
    findings = []
    with RawRunner(seed) as runner:
        for done, case in enumerate(cases, 1):
            findings.append(runner.run(case))
            progress("cases", done, len(cases))
    return findings
