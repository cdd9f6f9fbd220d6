# SPDX-License-Identifier: GPL-2.0-only
"""Assembler for the verifier log's syntax, with labels. The reverse of disasm.py, by the same table.

A line holds one instruction, a label (``name:``), both, or nothing; ``;``, ``#`` and ``//`` begin a
comment (``#`` only at the start of a word, as ``call name#1`` uses it). Spaces are free. Numbers are
decimal or 0x-hexadecimal, of either sign. Where a jump or a bpf-to-bpf call goes is ``pc+N`` or a
label::

    r0 = 0
    loop:
    r0 += 1
    if r0 < 10 goto loop
    exit

``r1 = 5`` is a move (32-bit immediate, sign-extended), ``r1 = 5 ll`` the two-slot 64-bit constant. A
line of the disassembler's output, ``7: (18) r1 = 0x5``, is taken too: its opcode decides there.
Helpers are called by number (``call 1``, ``call bpf_map_lookup_elem#1``) or by a name in ``calls``,
kfuncs as ``call kfunc(btf_id, fd_index)``, map constants are ``r1 = map_fd(3, 0)`` and the like
(``InsnRow.syntax`` has every form).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from . import opcodes as op
from .insn import Insn
from .table import TABLE, InsnRow, Origin


class AsmError(ValueError):
    """A line that cannot be assembled: ``line`` counts from 1, ``reason`` says why."""

    def __init__(self, line: int, text: str, reason: str) -> None:
        super().__init__(line, text, reason)
        self.line = line
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}: {self.text.strip()}"


_NUMBER: Final = r"[+-]?(?:0x[0-9a-f]+|\d+)"
_LABEL: Final = r"[A-Za-z_.$][\w.$]*"
_TARGET: Final = rf"(?:pc\s*(?P<{{name}}>[+-]\s*\d+)|(?P<{{name}}_label>{_LABEL}))"
_PLACEHOLDER: Final = {
    "dst": r"(?P<dst>\d+)",
    "src": r"(?P<src>\d+)",
    "disp": r"(?:(?P<disp>[+-]\s*(?:0x[0-9a-f]+|\d+)))?",
    "idx": rf"(?P<idx>{_NUMBER})",
    "to": _TARGET.format(name="to"),
    "tol": _TARGET.format(name="tol"),
    "imm": rf"(?P<imm>{_NUMBER})",
    "ximm": rf"(?P<imm>{_NUMBER})",
    "imm64": rf"(?P<imm64>{_NUMBER})",
    "lo": rf"(?P<imm>{_NUMBER})",
    "hi": rf"(?P<hi>{_NUMBER})",
    "fn": rf"(?P<fn>{_LABEL})?",
    "as_dst": rf"(?P<as_dst>{_NUMBER})",
    "as_src": rf"(?P<as_src>{_NUMBER})",
}
_TOKEN: Final = re.compile(r"\{(\w+)\}|(\w+)|(\s+)|(.)")
_HEAD: Final = re.compile(r"\s*(?:\d+\s*:\s*)?(?:\((?P<code>[0-9a-f]{2})\))?(?P<rest>.*)$")
_LABEL_LINE: Final = re.compile(rf"\s*(?P<label>{_LABEL})\s*:(?!:)(?P<rest>.*)$")
_COMMENT: Final = re.compile(r"(?:;|//|(?:^|(?<=\s))#).*$")
_CALL_BY_NUMBER: Final = re.compile(rf"call\s+(?:{_LABEL}\s*#\s*)?(?P<imm>{_NUMBER})\s*$", re.IGNORECASE)
_CALL_BY_NAME: Final = re.compile(rf"call\s+(?P<fn>{_LABEL})\s*$")


def _pattern(template: str) -> re.Pattern[str]:
    """A template of the table as a regular expression: spaces free, a repeated register the same one."""
    parts: list[str] = []
    seen: set[str] = set()
    for token in _TOKEN.finditer(template):
        placeholder, word, space, sign = token.groups()
        if placeholder:
            repeated = placeholder in seen
            seen.add(placeholder)
            parts.append(rf"(?P={placeholder})" if repeated else _PLACEHOLDER[placeholder])
        elif word:
            parts.append(re.escape(word))
        elif space:
            parts.append(r"\s*")
        else:
            parts.append(rf"\s*{re.escape(sign)}\s*")
    return re.compile("".join(parts) + r"\s*$", re.IGNORECASE)


_ROWS: Final = tuple(row for row in TABLE if row.origin is not Origin.INVALID and row.code != op.CALL)
_CALL_ROWS: Final = tuple(row for row in TABLE if row.code == op.CALL and row.src != 0)


@cache
def _syntax() -> tuple[tuple[re.Pattern[str], re.Pattern[str], InsnRow], ...]:
    return tuple((_pattern(row.syntax), _pattern(row.text), row) for row in (*_ROWS, *_CALL_ROWS))


@dataclass
class _Pending:
    """A slot whose jump distance waits for its label."""

    slot: int
    field: str
    label: str
    line: int
    text: str


def assemble(text: str, calls: Mapping[str, int] | None = None) -> list[Insn]:
    """The slots of a program given as text.

    ``calls`` maps names to helper numbers. Raises AsmError naming the line for a line that is no
    instruction, a number that does not fit, and a label that is missing or defined twice.
    """
    slots: list[Insn] = []
    labels: dict[str, int] = {}
    pending: list[_Pending] = []
    for number, source in enumerate(text.splitlines(), 1):
        rest = _COMMENT.sub("", source)
        while match := _LABEL_LINE.match(rest):
            if match["label"] in labels:
                raise AsmError(number, source, f"label {match['label']} is defined twice")
            labels[match["label"]] = len(slots)
            rest = match["rest"]
        if rest.strip():
            _assemble_line(rest, number, calls or {}, slots, pending)
    for wait in pending:
        if wait.label not in labels:
            raise AsmError(wait.line, wait.text, f"no label {wait.label}")
        distance = labels[wait.label] - wait.slot - 1
        values = {wait.field: _fit(distance, 16 if wait.field == "off" else 32, wait.line, wait.text)}
        slots[wait.slot] = slots[wait.slot]._replace(**values)
    return slots


def _assemble_line(
    text: str, number: int, calls: Mapping[str, int], slots: list[Insn], pending: list[_Pending]
) -> None:
    head = _HEAD.match(text)
    assert head is not None, "the pattern matches any line"
    code = int(head["code"], 16) if head["code"] else None
    body = head["rest"].strip()
    candidates = _candidates(body, code)
    by_number = _CALL_BY_NUMBER.match(body) if code in (None, op.CALL) else None
    by_name = _CALL_BY_NAME.match(body) if code in (None, op.CALL) else None
    if candidates:
        row, match = candidates[0]
        _emit(row, match, text, number, slots, pending)
    elif by_number:
        slots.append(Insn(op.CALL, imm=_fit(_number(by_number["imm"]), 32, number, text)))
    elif by_name and by_name["fn"] in calls:
        slots.append(Insn(op.CALL, imm=calls[by_name["fn"]]))
    elif by_name:
        # A name that is no helper is a label: call of a BPF function.
        pending.append(_Pending(len(slots), "imm", by_name["fn"], number, text))
        slots.append(Insn(op.CALL, src=op.BPF_PSEUDO_CALL))
    else:
        raise AsmError(number, text, "no such instruction")


def _candidates(body: str, code: int | None) -> list[tuple[InsnRow, re.Match[str]]]:
    """The rows that a line may be; with an opcode given, the kernel's ambiguous text is taken too."""
    found = []
    for syntax, text, row in _syntax():
        if code is not None and row.code != code:
            continue
        match = syntax.match(body) or (text.match(body) if code is not None and row.src == 0 else None)
        if match is not None and _fixed_values_agree(row, match) and not _is_named_call(row, match):
            found.append((row, match))
    return found


def _is_named_call(row: InsnRow, match: re.Match[str]) -> bool:
    return row.code == op.CALL and match.groupdict().get("tol_label") is not None


def _fixed_values_agree(row: InsnRow, match: re.Match[str]) -> bool:
    """Whether the immediate a row fixes (the width of a byte swap, a cast's spaces) is the line's."""
    groups = match.groupdict()
    if "as_dst" in groups:
        return row.imm == _number(groups["as_dst"]) << 16 | _number(groups["as_src"])
    if isinstance(row.imm, int) and groups.get("imm") is not None:
        return row.imm == _number(groups["imm"])
    return True


def _emit(
    row: InsnRow, match: re.Match[str], text: str, number: int, slots: list[Insn], pending: list[_Pending]
) -> None:
    groups = {name: value for name, value in match.groupdict().items() if value is not None}
    fields = {
        name: value for name in ("dst", "src", "off", "imm") if isinstance(value := getattr(row, name), int)
    }
    high = 0
    for name, value in groups.items():
        if name in ("dst", "src"):
            register = int(value)
            if register > op.MAX_BPF_REG:
                raise AsmError(number, text, f"no register {register}")
            fields[name] = register
        elif name in ("disp", "idx", "to"):
            fields["off"] = _fit(_number(value), 16, number, text)
        elif name in ("imm", "tol"):
            fields["imm"] = _fit(_number(value), 32, number, text)
        elif name == "hi":
            high = _fit(_number(value), 32, number, text)
        elif name == "imm64":
            constant = _fit(_number(value), 64, number, text)
            fields["imm"] = _fit(constant & 0xFFFFFFFF, 32, number, text)
            high = _fit(constant >> 32 & 0xFFFFFFFF, 32, number, text)
        elif name.endswith("_label"):
            field = "off" if name == "to_label" else "imm"
            pending.append(_Pending(len(slots), field, value, number, text))
    slots.append(Insn(row.code, **fields))
    if row.code == op.LD_IMM64:
        slots.append(Insn(0, imm=high))


def _number(text: str) -> int:
    text = re.sub(r"\s+", "", text).lower()
    # int(.., 0) would refuse leading zeros of decimals.
    return int(text, 16 if "0x" in text else 10)


def _fit(value: int, bits: int, number: int, text: str) -> int:
    """``value`` as a signed field; jump distances and displacements (16 bits) have no unsigned form."""
    high = 1 << (bits - 1) if bits == 16 else 1 << bits
    if not -(1 << (bits - 1)) <= value < high:
        raise AsmError(number, text, f"{value} does not fit in {bits} bits")
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign
