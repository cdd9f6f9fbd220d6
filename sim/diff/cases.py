# SPDX-License-Identifier: GPL-2.0-only
"""Reads text programs: case files of tests/cases (its README describes the format), and plain assembly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kernel_model.isa.asm import AsmError, assemble
from kernel_model.isa.insn import Insn

_HEAD = re.compile(r"(mem|after|stack|host|r0|fault):\s*(.*)")


class CaseError(ValueError):
    """Text that is no case file; the message names file and line."""


@dataclass(frozen=True)
class Case:
    """One case: ``mem`` is what R1 points at (R2 is its length; both 0 when it is empty), ``stack`` the
    bytes of each function's frame. ``r0`` is the expected result, None where the program must fault.
    """

    name: str
    insns: tuple[Insn, ...]
    mem: bytes = b""
    stack: int = 64
    r0: int | None = None


def is_case_file(text: str) -> bool:
    """Whether the text holds cases, not a bare program."""
    return re.search(r"^=== ", text, re.M) is not None


def read_program(text: str, path: str) -> tuple[Insn, ...]:
    """A bare program in the verifier log's syntax; CaseError names the line that is none."""
    return _assembled(text.splitlines(), path, 0)


def read_cases(text: str, path: str) -> list[Case]:
    """All cases, in order; CaseError for a file that cannot be read."""
    lines = text.splitlines()
    cases, number = [], 0
    while number < len(lines):
        if lines[number].startswith("=== "):
            case, number = _case(lines, number, path)
            cases.append(case)
        elif lines[number].strip() and not lines[number].startswith("#"):
            raise CaseError(f"{path}:{number + 1}: outside a case: {lines[number]}")
        else:
            number += 1
    return cases


def _case(lines: Sequence[str], first: int, path: str) -> tuple[Case, int]:
    head: dict[str, str] = {}
    number = first + 1
    while number < len(lines) and lines[number] != "---":
        match = _HEAD.fullmatch(lines[number])
        if match is None:
            raise CaseError(f"{path}:{number + 1}: no such line in a case's head: {lines[number]}")
        head[match[1]] = match[2]
        number += 1
    body = number + 1
    number = body
    while number < len(lines) and not lines[number].startswith(("=== ", "#")):
        number += 1
    insns = _assembled(lines[body:number], path, body)
    try:
        mem = bytes.fromhex(head.get("mem", ""))
        stack = int(head.get("stack", "64"), 0)
        r0 = sum(int(part, 0) for part in head["r0"].split("+")) & (1 << 64) - 1 if "r0" in head else None
    except ValueError as error:
        raise CaseError(f"{path}:{first + 1}: {error}") from None
    return Case(lines[first][4:].strip(), insns, mem, stack, r0), number


def _assembled(lines: Sequence[str], path: str, first: int) -> tuple[Insn, ...]:
    try:
        insns = tuple(assemble("\n".join(lines)))
    except AsmError as error:
        reason = f"{error.reason}: {error.text.strip()}"
        raise CaseError(f"{path}:{first + error.line}: {reason}") from None
    if not insns:
        raise CaseError(f"{path}:{first + 1}: a program without instructions")
    return insns
