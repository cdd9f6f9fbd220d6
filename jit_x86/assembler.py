# SPDX-License-Identifier: GPL-2.0-only
"""Keystone's only home: text to x86-64 machine code.

Three ways in: :func:`assemble` for a whole text with labels, :func:`assemble_lines` when the offset of
each line is wanted too, and :class:`LineCache` for single instructions whose bytes do not depend on
where they stand. Errors name the line at fault, which keystone itself does not tell.

Intel syntax. Known of keystone 0.9.2: an address without a register (``[0x1000]``) becomes
RIP-relative, so such a line is refused here; ``[riz*1 + 0x1000]`` is the absolute form. Instructions
that it lacks or encodes wrongly (``endbr64``, ``sysretq``, ``nop3`` .. ``nop8``) are taken from
``byte_forms.FIXED`` when one stands alone on its line, after a label at most.

Two ways to ask for an encoding that is not the shortest, after the fashion of other assemblers:
``late(5)`` is the number 5 as a symbol that is defined behind the code, so that keystone takes the form
that fits any number (32 bits of displacement; no short form for rax); and in a :class:`LineCache`
a text may begin with ``{disp8}`` to keep a displacement byte of zero.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import keystone

from .byte_forms import FIXED

_FIXED_LINE: Final = re.compile(r"^(\s*(?:[\w.$]+:\s*)?)(" + "|".join(FIXED) + r")\s*(?:[#;].*|//.*)?$")
_ABSOLUTE: Final = re.compile(
    r"(?<![:\w])\[\s*(?:0x[0-9a-fA-F]+|-?\d+)\s*\]|s:\[\s*(?:0x[0-9a-fA-F]+|-?\d+)\s*\]"
)
_IDENTIFIER: Final = re.compile(r"(?<![\w.$])[A-Za-z_.$][\w.$]*")
_DEFINED: Final = re.compile(
    r"^\s*([A-Za-z_.$][\w.$]*)\s*:|^\s*\.(?:equ|set)\s+([\w.$]+)|^\s*([A-Za-z_$][\w.$]*)\s*="
)
_LABEL: Final = "__bpfsim_line_"
_LATE: Final = re.compile(r"late\((-?\d+)\)")
KEEP_DISP8: Final = "{disp8} "
"""Begins a text whose memory operand ends in ``+0]``, with that displacement encoded in 8 bits."""


class AssemblyError(ValueError):
    """Text that cannot be assembled: ``line_no`` counts from 1, ``reason`` is keystone's."""

    def __init__(self, line_no: int, line: str, reason: str) -> None:
        super().__init__(line_no, line, reason)
        self.line_no = line_no
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.line_no}: {self.line.strip()!r}: {self.reason}"


class Listing(NamedTuple):
    """Machine code and where each line of it begins; one more offset at the end is the length."""

    code: bytes
    offsets: tuple[int, ...]


@functools.cache
def _engine() -> keystone.Ks:
    return keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


def _run(text: str, addr: int) -> bytes:
    code, _ = _engine().asm(text, addr, as_bytes=True)
    return code or b""


def _fails(lines: Sequence[str], errno: int) -> bool:
    try:
        _run("\n".join(lines), 0)
    except keystone.KsError as error:
        return bool(error.errno == errno)
    return False


def _definition(line: str) -> str:
    match = _DEFINED.match(line)
    return next((name for name in match.groups() if name), "") if match else ""


def _undefined(lines: Sequence[str]) -> int:
    """The index of the first line that uses a symbol which no line defines."""
    defined = {name for name in map(_definition, lines) if name}
    for index, line in enumerate(lines):
        body = line.split(":", 1)[1] if _definition(line) and ":" in line else line
        stubs = [f".equ {name}, 0" for name in _IDENTIFIER.findall(body) if name in defined]
        if _fails([*stubs, body], keystone.KS_ERR_ASM_SYMBOL_MISSING):
            return index
    return len(lines) - 1


def _blame(lines: Sequence[str], error: keystone.KsError) -> AssemblyError:
    """Find the first line that makes keystone answer ``error``: a search over prefixes."""
    reason = str(error)
    if error.errno == keystone.KS_ERR_ASM_SYMBOL_MISSING:
        index = _undefined(lines)
    else:
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            if _fails(lines[:middle], error.errno):
                high = middle
            else:
                low = middle
        index = low
    line = lines[index] if index < len(lines) else ""
    return AssemblyError(index + 1, line, reason)


def _prepare(lines: Iterable[str]) -> list[str]:
    prepared = []
    for number, line in enumerate(lines, 1):
        if "[" in line and _ABSOLUTE.search(line.split("#")[0]):
            raise AssemblyError(number, line, "an address without a register: write [riz*1 + address]")
        fixed = _FIXED_LINE.match(line)
        # The directive takes no comment behind it.
        prepared.append(fixed[1] + FIXED[fixed[2]].text if fixed else line)
    return prepared


def _late_name(match: re.Match[str]) -> str:
    return "__bpfsim_late_" + match[1].replace("-", "minus_")


def _with_late(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The lines with late numbers as symbols, and what defines those."""
    named = [_LATE.sub(_late_name, line) if "late(" in line else line for line in lines]
    found = {match[0]: match for line in lines if "late(" in line for match in _LATE.finditer(line)}
    return named, [f".equ {_late_name(match)}, {match[1]}" for match in found.values()]


def assemble(text: str, addr: int = 0) -> bytes:
    """The machine code of ``text`` (Intel syntax, labels allowed) when placed at ``addr``.

    Raises AssemblyError naming the line at fault.
    """
    lines, late = _with_late(_prepare(text.split("\n")))
    try:
        return _run("\n".join([*lines, *late]), addr)
    except keystone.KsError as error:
        raise _blame(lines, error) from None


def assemble_lines(lines: Sequence[str], addr: int = 0) -> Listing:
    """Assemble ``lines`` in one go at ``addr``; ``offsets[i]`` is where the code of line ``i`` begins.

    A line may hold a label, a directive or nothing, and may refer to labels of other lines; none may
    switch sections or open a block (``.if``, ``.macro``, ``.rept``). Raises AssemblyError naming the
    line at fault.
    """
    count = len(lines)
    if not count:
        return Listing(b"", (0,))
    prepared, late = _with_late(_prepare(lines))
    marked = [f"{_LABEL}{index}: {line}" for index, line in enumerate(prepared)]
    # The offsets come from the assembler itself: a table of label differences behind the code.
    table = ",".join(f"{_LABEL}{index}-{_LABEL}0" for index in range(count + 1))
    try:
        code = _run("\n".join([*marked, f"{_LABEL}{count}:", f".long {table}", *late]), addr)
    except keystone.KsError as error:
        raise _blame(prepared, error) from None
    offsets = struct.unpack_from(f"<{count + 1}I", code, len(code) - 4 * (count + 1))
    return Listing(code[: offsets[-1]], offsets)


class Relative(NamedTuple):
    """A branch or call by its displacement, which counts from its end, and its size in bytes."""

    mnemonic: str
    disp: int
    size: int


def _neighbours(text: str) -> tuple[str, ...]:
    """What to assemble for ``text``: itself, or with a displacement of 1 and of 2 in the place of 0."""
    if not text.startswith(KEEP_DISP8):
        return (text,)
    bare = text.removeprefix(KEEP_DISP8)
    if bare.count("+0]") != 1:
        raise AssemblyError(1, text, "{disp8} needs one memory operand that ends in +0]")
    return bare.replace("+0]", "+1]"), bare.replace("+0]", "+2]")


def _cleared(one: bytes, two: bytes) -> bytes:
    """The instruction with displacement 0: its neighbours differ in the displacement's byte alone."""
    (at,) = (index for index, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    return one[:at] + b"\0" + one[at + 1 :]


class LineCache:
    """Bytes of single instructions that mean the same at every address: texts, and relative branches.

    Every byte in it came from keystone. It forgets everything once ``limit`` texts are held.
    """

    def __init__(self, limit: int = 1 << 17) -> None:
        self._limit = limit
        self._bytes: dict[str, bytes] = {}
        self._branches: dict[Relative, bytes] = {}

    def encode(self, texts: Collection[str]) -> dict[str, bytes]:
        """The bytes of each distinct text; what is not known yet is assembled in one batch.

        The answer may hold other texts besides. Raises AssemblyError.
        """
        known = self._bytes
        missing = list(dict.fromkeys([text for text in texts if text not in known]))
        if missing:
            if len(known) + len(missing) > self._limit:
                # A new dict: an answer given earlier stays whole for whoever holds it.
                known = self._bytes = {}
                missing = list(dict.fromkeys(texts))
            lines = [line for text in missing for line in _neighbours(text)]
            code, offsets = assemble_lines(lines)
            at = 0
            for text in missing:
                count = 2 if text.startswith(KEEP_DISP8) else 1
                codes = [code[offsets[n] : offsets[n + 1]] for n in range(at, at + count)]
                known[text] = codes[0] if count == 1 else _cleared(*codes)
                at += count
        return known

    def encode_branches(self, branches: Collection[Relative]) -> dict[Relative, bytes]:
        """The same for branches; what is not known yet is assembled in one batch.

        Raises ValueError for one whose size is not the one that keystone gives it.
        """
        known = self._branches
        missing = list(dict.fromkeys([branch for branch in branches if branch not in known]))
        if missing:
            if len(known) + len(missing) > self._limit:
                known = self._branches = {}
                missing = list(dict.fromkeys(branches))
            lines, end = [], 0
            for mnemonic, disp, size in missing:
                # Keystone wants targets, so each branch is aimed from where it stands in the batch.
                end += size
                lines.append(f"{mnemonic} {end + disp}")
            code, offsets = assemble_lines(lines)
            for index, branch in enumerate(missing):
                known[branch] = code[offsets[index] : offsets[index + 1]]
                if len(known[branch]) != branch.size:
                    raise ValueError(f"{branch} takes {len(known.pop(branch))} bytes")
        return known
