# SPDX-License-Identifier: GPL-2.0-only
"""Reads the conformance cases of this directory; README.md describes the format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog
from kernel_model.isa.opcodes import BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, CALL, LD_IMM64

UNMAPPED = 0xFFFFDEAD00000000
"""Where no engine may map anything."""
DEFAULT_STACK = 64


@dataclass(frozen=True)
class Case:
    """One case. Exactly one of ``r0`` (unsigned 64-bit) and ``fault`` (``read`` or ``write``) is set.

    ``mem`` are the bytes that R1 points at (R2 is their length), empty for none (R1 and R2 are 0);
    ``after`` are the same bytes afterwards, None when not said. ``stack`` is each function's stack depth in
    bytes, None for the default. ``host`` is why the host's kernel cannot judge the case, or empty.
    """

    name: str
    file: str
    line: int
    insns: tuple[Insn, ...]
    mem: bytes
    r0: int | None
    fault: str | None
    after: bytes | None
    stack: int | None
    host: str

    def __str__(self) -> str:
        return self.name

    def subprogs(self) -> tuple[Subprog, ...]:
        """The functions: they begin at slot 0 and where calls and function addresses point."""
        starts = {0}
        for slot, insn in enumerate(self.insns):
            if (insn.code, insn.src) in ((CALL, BPF_PSEUDO_CALL), (LD_IMM64, BPF_PSEUDO_FUNC)):
                starts.add(slot + 1 + insn.imm)
        order = sorted(starts)
        ends = [*order[1:], len(self.insns)]
        return tuple(
            Subprog(start, end, self._depth(start, end), f"f{number}")
            for number, (start, end) in enumerate(zip(order, ends, strict=True))
        )

    def _depth(self, start: int, end: int) -> int:
        uses_stack = any(10 in (insn.dst, insn.src) for insn in self.insns[start:end])
        if self.stack is not None:
            return self.stack if uses_stack else 0
        return DEFAULT_STACK if uses_stack else 0


def load_cases(directory: Path = Path(__file__).parent) -> list[Case]:
    """All cases, by file and in their order there; ValueError names the file and line of a mistake."""
    cases: list[Case] = []
    for path in sorted(directory.glob("*.txt")):
        cases.extend(_parse(path))
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"cases of the same name: {sorted(twice)}")
    return cases


def _parse(path: Path) -> list[Case]:
    cases = []
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("=== "):
            case, number = _case(path.name, lines, number)
            cases.append(case)
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path.name}:{number + 1}: outside a case: {line}")
        else:
            number += 1
    return cases


def _case(file: str, lines: list[str], first: int) -> tuple[Case, int]:
    header: dict[str, str] = {}
    number = first + 1
    while number < len(lines) and lines[number] != "---":
        match = re.fullmatch(r"(mem|after|stack|host|r0|fault):\s*(.*)", lines[number])
        if not match:
            raise ValueError(f"{file}:{number + 1}: no such line in a case's head: {lines[number]}")
        header[match[1]] = match[2]
        number += 1
    body = number + 1
    number = body
    while number < len(lines) and not lines[number].startswith(("=== ", "#")):
        number += 1
    if ("r0" in header) == ("fault" in header):
        raise ValueError(f"{file}:{first + 1}: a case has either r0 or fault")
    if header.get("fault") not in (None, "read", "write"):
        raise ValueError(f"{file}:{first + 1}: fault is read or write")
    try:
        insns = assemble("\n".join(lines[body:number]))
    except ValueError as error:
        raise ValueError(f"{file}:{body}: {error}") from error
    r0 = sum(int(part, 0) for part in header["r0"].split("+")) & (1 << 64) - 1 if "r0" in header else None
    case = Case(
        lines[first][4:].strip(),
        file,
        first + 1,
        tuple(insns),
        bytes.fromhex(header.get("mem", "")),
        r0,
        header.get("fault"),
        bytes.fromhex(header["after"]) if "after" in header else None,
        int(header["stack"], 0) if "stack" in header else None,
        header.get("host", ""),
    )
    return case, number
