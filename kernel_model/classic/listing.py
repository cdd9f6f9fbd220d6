# SPDX-License-Identifier: GPL-2.0-only
"""Programs as numbers: ``tcpdump -ddd``, ``tcpdump -dd``, bpf_asm's own output; and which form a text has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from .insn import BPF_MAXINSNS, SockFilter
from .text import ClassicSyntaxError, assemble, parse_number

_LIMITS: Final = (("code", 0xFFFF), ("jt", 0xFF), ("jf", 0xFF), ("k", 0xFFFF_FFFF))
_C_ROW: Final = re.compile(r"\{([^{}]*)\}")
_C_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def _insn(fields: Sequence[str], line: int) -> SockFilter:
    if len(fields) != len(_LIMITS):
        raise ClassicSyntaxError(line, f"an instruction is four numbers, here are {len(fields)}")
    values = []
    for text, (name, limit) in zip(fields, _LIMITS, strict=True):
        try:
            value = parse_number(text)
        except ValueError:
            raise ClassicSyntaxError(line, f"{name} is no number: {text!r}") from None
        if not 0 <= value <= limit:
            raise ClassicSyntaxError(line, f"{name} is {value}, more than {limit}")
        values.append(value)
    return SockFilter(*values)


def read_ddd(text: str) -> list[SockFilter]:
    """``tcpdump -ddd``: a count, then four decimal numbers an instruction, on lines or between commas.

    Commas instead of line ends are bpf_asm's output and what iptables and tc take. ClassicSyntaxError
    names the line.
    """
    rows = [
        (number, part.split())
        for number, line in enumerate(text.splitlines(), 1)
        for part in line.split(",")
        if part.strip()
    ]
    if not rows or len(rows[0][1]) != 1 or not rows[0][1][0].isdecimal():
        raise ClassicSyntaxError(rows[0][0] if rows else 0, "the first entry is not a count of instructions")
    count = int(rows[0][1][0])
    if count > BPF_MAXINSNS:
        raise ClassicSyntaxError(rows[0][0], f"{count} instructions, more than {BPF_MAXINSNS}")
    if count != len(rows) - 1:
        raise ClassicSyntaxError(rows[0][0], f"the count is {count}, but {len(rows) - 1} instructions follow")
    return [_insn(fields, line) for line, fields in rows[1:]]


def read_dd(text: str) -> list[SockFilter]:
    """``tcpdump -dd``: ``{ 0x28, 0, 0, 0x0000000c },`` an instruction; ClassicSyntaxError names the line."""
    blank = _C_COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    out, at = [], 0
    for match in _C_ROW.finditer(blank):
        line = blank.count("\n", 0, match.start()) + 1
        between = blank[at : match.start()].strip(" \t\r\n,")
        if between:
            raise ClassicSyntaxError(line, f"unexpected text before the instruction: {between[:40]!r}")
        out.append(_insn([part.strip() for part in match.group(1).split(",")], line))
        at = match.end()
    if blank[at:].strip(" \t\r\n,"):
        raise ClassicSyntaxError(blank.count("\n", 0, at) + 1, "unexpected text behind the instructions")
    if not 0 < len(out) <= BPF_MAXINSNS:
        raise ClassicSyntaxError(0, f"{len(out)} instructions; a program has 1 to {BPF_MAXINSNS}")
    return out


def write_ddd(insns: Sequence[SockFilter]) -> str:
    """As ``tcpdump -ddd`` prints it."""
    rows = [str(len(insns)), *(" ".join(map(str, insn)) for insn in insns)]
    return "\n".join(rows) + "\n"


def write_dd(insns: Sequence[SockFilter]) -> str:
    """As ``tcpdump -dd`` prints it."""
    return "".join(f"{{ {i.code:#x}, {i.jt}, {i.jf}, 0x{i.k:08x} }},\n" for i in insns)


READERS: Final[dict[str, Callable[[str], list[SockFilter]]]] = {
    "ddd": read_ddd,
    "dd": read_dd,
    "asm": assemble,
}
"""By the name of the form."""


def form_of(text: str) -> str:
    """Which reader a text is for: its first character that is no comment tells."""
    start = _C_COMMENT.sub("", text).lstrip()
    if start.startswith("{"):
        return "dd"
    return "ddd" if start[:1].isdecimal() else "asm"


def read_program(text: str) -> list[SockFilter]:
    """A program in any of the forms; ClassicSyntaxError names the line."""
    return READERS[form_of(text)](text)
