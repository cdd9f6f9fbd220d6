# SPDX-License-Identifier: GPL-2.0-only
"""bpf_asm's language: the assembler, and disassembly in the styles of bpf_dbg and of ``tcpdump -d``.

Both directions come from the forms in the table. Beyond bpf_asm, signs may be written apart from their
numbers (``[x - 4]``), labels may have one letter, and an instruction may have several.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .insn import BPF_MAXINSNS, SockFilter, s32, u32
from .table import ANCILLARY, CLASSIC_INSNS, CONDITIONAL_JUMPS, JA, RET_X, ClassicInsn

_NUMBERS: Final = ("k", "hex")
"""What stands for a number in the table's forms."""


class ClassicSyntaxError(ValueError):
    """Text that is no program; ``line`` counts from 1 (0: the text as a whole)."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line = line
        self.reason = reason


_TOKEN: Final = re.compile(
    r"(?P<skip>[ \t\r\f\v]+|/\*.*?\*/|;[^\n]*)"
    r"|(?P<newline>\n)"
    r"|(?P<number>0[xX][0-9a-fA-F]+|0[bB][01]+|[0-9]+)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<mark>[:,#%\[\]()+*&-])",
    re.DOTALL,
)
_HASH_COMMENT: Final = re.compile(r"^#.*$", re.MULTILINE)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str) -> list[_Token]:
    """Words, numbers and marks; ``%`` and ``#`` before words are left out, as they say nothing."""
    text = _HASH_COMMENT.sub("", text)
    out: list[_Token] = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ClassicSyntaxError(line, f"unexpected character {text[at]!r}")
        kind, found = str(match.lastgroup), match.group()
        if kind == "word" and found not in _NUMBERS and out and out[-1].text in ("#", "%"):
            out.pop()
        if kind not in ("skip", "newline"):
            out.append(_Token(kind, found, line))
        line += found.count("\n")
        at = match.end()
    return out


def parse_number(text: str) -> int:
    """A number as bpf_asm writes it: decimal, 0x, 0b, or octal with a leading 0; ValueError."""
    lower = text.lower()
    if lower.startswith("0b"):
        return int(lower[2:], 2)
    if lower.startswith("0x"):
        return int(lower, 16)
    return int(lower, 8) if lower.startswith("0") and len(lower) > 1 else int(lower)


@dataclass(frozen=True)
class _Form:
    row: ClassicInsn
    pattern: tuple[str, ...]


def _forms() -> dict[str, list[_Form]]:
    """The table's forms by mnemonic, their operands as tokens."""
    out: dict[str, list[_Form]] = {}
    for row in (*CLASSIC_INSNS.values(), RET_X):
        for text in row.forms:
            words = [token.text.lower() for token in _tokens(text.replace("#", " # "))]
            out.setdefault(words[0], []).append(_Form(row, tuple(words[1:])))
    return out


_FORMS: Final = _forms()
_LABELS: Final = ("jt", "jf", "to")
_WORDS: Final = {word: row.k for row in ANCILLARY.values() for word in row.words}
_FIXED_NUMBERS: Final = {"4", "0xf"}


@dataclass
class _Statement:
    """An instruction whose labels have no places yet."""

    line: int
    code: int
    k: int
    labels: dict[str, str]


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0
        self.places: dict[str, int] = {}
        self.statements: list[_Statement] = []

    def peek(self, ahead: int = 0) -> _Token | None:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def parse(self) -> list[SockFilter]:
        while (token := self.peek()) is not None:
            after = self.peek(1)
            if token.kind == "word" and after is not None and after.text == ":":
                self._label(token)
            else:
                self._instruction(token)
        if not self.statements:
            raise ClassicSyntaxError(0, "there are no instructions")
        return [self._resolve(at, each) for at, each in enumerate(self.statements)]

    def _label(self, token: _Token) -> None:
        if token.text in self.places:
            raise ClassicSyntaxError(token.line, f"label {token.text} is defined twice")
        self.places[token.text] = len(self.statements)
        self.at += 2

    def _instruction(self, token: _Token) -> None:
        mnemonic = token.text.lower()
        forms = _FORMS.get(mnemonic) if token.kind == "word" else None
        if forms is None:
            raise ClassicSyntaxError(token.line, f"unknown instruction {token.text!r}")
        if len(self.statements) >= BPF_MAXINSNS:
            raise ClassicSyntaxError(token.line, f"more than {BPF_MAXINSNS} instructions")
        best: tuple[int, _Statement] | None = None
        for form in forms:
            found = self._match(form, token.line)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            wanted = " | ".join(dict.fromkeys(" ".join(form.pattern) for form in forms))
            raise ClassicSyntaxError(token.line, f"{mnemonic}: operands are not of the form {wanted}")
        self.at, statement = best
        self.statements.append(statement)

    def _match(self, form: _Form, line: int) -> tuple[int, _Statement] | None:
        """The form's operands at the instruction's: where they end, and the instruction."""
        at = self.at + 1
        made = _Statement(line, form.row.code, 0, {})
        for item in form.pattern:
            if at >= len(self.tokens):
                return None
            token = self.tokens[at]
            if item in _NUMBERS:
                number = self._number(at)
                if number is None:
                    return None
                at, made.k = number
                continue
            if item == "ext":
                if token.text.lower() not in _WORDS:
                    return None
                made.k = _WORDS[token.text.lower()]
            elif item in _LABELS:
                if token.kind != "word" or token.text.lower() in ("x", "a"):
                    return None
                made.labels[item] = token.text
            elif item in _FIXED_NUMBERS:
                if token.kind != "number" or parse_number(token.text) != parse_number(item):
                    return None
            elif item == "+" and token.text == "-":
                # The number's own sign: [x - 4].
                continue
            elif token.text.lower() != item:
                return None
            at += 1
        return at, made

    def _number(self, at: int) -> tuple[int, int] | None:
        sign = 1
        token = self.tokens[at]
        if token.text in ("+", "-"):
            sign = -1 if token.text == "-" else 1
            at += 1
        if at >= len(self.tokens) or self.tokens[at].kind != "number":
            return None
        token = self.tokens[at]
        try:
            value = sign * parse_number(token.text)
        except ValueError:
            raise ClassicSyntaxError(token.line, f"bad number {token.text}") from None
        if not -(1 << 31) <= value < 1 << 32:
            raise ClassicSyntaxError(token.line, f"{value} does not fit in 32 bits")
        return at + 1, u32(value)

    def _resolve(self, at: int, statement: _Statement) -> SockFilter:
        distances = {name: self._distance(at, statement, label) for name, label in statement.labels.items()}
        if "to" in distances:
            return SockFilter(statement.code, k=distances["to"])
        for name, distance in distances.items():
            if distance > 255:
                label = statement.labels[name]
                raise ClassicSyntaxError(
                    statement.line, f"label {label} is {distance} instructions away, more than 255"
                )
        return SockFilter(statement.code, distances.get("jt", 0), distances.get("jf", 0), statement.k)

    def _distance(self, at: int, statement: _Statement, label: str) -> int:
        if label not in self.places:
            raise ClassicSyntaxError(statement.line, f"no label {label}")
        place = self.places[label]
        if place >= len(self.statements):
            raise ClassicSyntaxError(statement.line, f"label {label} has no instruction behind it")
        if place <= at:
            raise ClassicSyntaxError(statement.line, f"label {label} lies behind: jumps only go forward")
        return place - at - 1


def assemble(text: str) -> list[SockFilter]:
    """The instructions of a program in bpf_asm's language; ClassicSyntaxError names the line.

    Comments: ``;`` to the end of the line, ``#`` lines, ``/* */``.
    """
    return _Parser(text).parse()


# The other way.


def _operands(insn: SockFilter, at: int, pattern: str, hexadecimal: str) -> str:
    values = {
        "hex": format(insn.k, hexadecimal),
        "k": str(s32(insn.k)),
        "jt": f"l{at + insn.jt + 1}",
        "jf": f"l{at + insn.jf + 1}",
        "to": f"l{at + insn.k + 1}",
    }
    return re.sub(r"\b(hex|k|jt|jf|to)\b", lambda match: values[match.group()], pattern)


def disassemble_insn(insn: SockFilter, at: int) -> str:
    """One instruction in bpf_asm's language, jumps to ``l<index>``; ``.word`` for an unknown opcode.

    ``at`` is its index. Ancillary loads appear by name.
    """
    row = CLASSIC_INSNS.get(insn.code) or (RET_X if insn.code == RET_X.code else None)
    if row is None:
        return f".word {insn.code:#06x}, {insn.jt}, {insn.jf}, {insn.k:#x}"
    form = row.forms[0]
    if "ld ext" in row.forms or "ldh ext" in row.forms or "ldb ext" in row.forms:
        found = ANCILLARY.get(insn.k)
        if found is not None:
            return f"{row.mnemonic} {found.words[0]}"
    return _operands(insn, at, form, "#x")


def disassemble(insns: Sequence[SockFilter]) -> str:
    """A program in bpf_dbg's style, ``l0:  ldh [12]`` on a line each, that assemble() reads back."""
    return "".join(f"l{at}:\t{disassemble_insn(insn, at)}\n" for at, insn in enumerate(insns))


_TCPDUMP_OPERANDS: Final = {"ld #len": "#pktlen", "ldx #len": "#pktlen", "ret #hex": "#k", "ret a": ""}


def tcpdump_insn(insn: SockFilter, at: int) -> str:
    """One instruction as ``tcpdump -d`` shows it: ``(001) jeq      #0x800           jt 2	jf 5``."""
    row = CLASSIC_INSNS.get(insn.code) or (RET_X if insn.code == RET_X.code else None)
    if row is None:
        return f"({at:03d}) unimp    {insn.code:#x}"
    form = row.forms[0]
    operands = _TCPDUMP_OPERANDS.get(form, form.partition(" ")[2].partition(",")[0])
    found = ANCILLARY.get(insn.k)
    if found is not None and "[k]" in form and "4*" not in form:
        text = found.words[-1]
    elif insn.code == JA:
        text = str(at + insn.k + 1)
    else:
        text = _operands(insn, at, operands, "#x")
        if operands == "#hex":
            text = f"#0x{insn.k:x}"
    if insn.code in CONDITIONAL_JUMPS:
        return f"({at:03d}) {row.mnemonic:<8} {text:<16} jt {at + insn.jt + 1}\tjf {at + insn.jf + 1}"
    return f"({at:03d}) {row.mnemonic:<8} {text}"
