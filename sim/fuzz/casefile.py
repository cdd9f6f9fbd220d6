# SPDX-License-Identifier: GPL-2.0-only
"""Programs as text: the format of tests/cases, with what a fuzzed program needs besides in comments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.disasm import render
from kernel_model.isa.insn import Insn
from kernel_model.isa.table import row_for

from .program import MAPS, Kind, Program

_KIND = re.compile(r"^# program type: (\w+)$", re.M)


class CaseError(ValueError):
    """A case file that cannot be read; the message says why."""


def write_case(program: Program, name: str, r0: int, notes: Sequence[str]) -> str:
    """The text of a case file. ``r0`` is what R0 should be at the end, ``notes`` become comments.

    Map references are written with indices into the fuzzer's maps. A case that uses neither context,
    maps nor helpers can be put into tests/cases as it is.
    """
    lines = [f"# {note}" for note in notes]
    lines.append(f"# program type: {program.kind.name.lower()}")
    if program.uses_surroundings:
        maps = ", ".join(f"{index} {spec.name}" for index, spec in enumerate(MAPS))
        lines.append(f"# needs the fuzzer's surroundings (maps: {maps}): bpfsim fuzz --engines --case FILE")
    lines += [f"=== {name}", f"r0: {r0:#x}", "---"]
    lines += [_line(program.insns, slot) for slot, insn in enumerate(program.insns) if insn.code]
    return "\n".join(lines) + "\n"


def _line(insns: Sequence[Insn], slot: int) -> str:
    insn = insns[slot]
    if insn.code == op.CALL and insn.src == 0:
        return f"call {insn.imm}"
    if insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL:
        return f"call pc{insn.imm:+d}"
    row = row_for(insn)
    if row is None:
        raise CaseError(f"slot {slot} is no instruction: {insn}")
    return render(row.syntax, insns, slot)


def read_case(text: str) -> Program:
    """The program of a case file (the first case of it). CaseError for what is none."""
    kind = _KIND.search(text)
    head, dashes, body = text.partition("\n---\n")
    if not dashes or "=== " not in head:
        raise CaseError("no case: want '=== name', a head, '---' and a program")
    body = re.split(r"^(?:===|#)", body, maxsplit=1, flags=re.M)[0]
    try:
        return Program(Kind[kind[1].upper()] if kind else Kind.XDP, tuple(assemble(body)))
    except KeyError:
        raise CaseError(f"program type {kind[1] if kind else ''}: want xdp or tc") from None
    except ValueError as error:
        raise CaseError(str(error)) from None
