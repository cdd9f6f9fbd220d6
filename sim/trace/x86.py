# SPDX-License-Identifier: GPL-2.0-only
"""x86-64 machine code as text, by capstone, which is an optional extra."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class MissingExtra(Exception):
    """Something needs a package that is not installed: ``feature`` and the ``extra`` that brings it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.feature} needs an optional package: pip install bpfsim[{self.extra}]"


class X86Line(NamedTuple):
    """One machine instruction: where it lies, its bytes, its text in Intel syntax."""

    addr: int
    code: bytes
    text: str


Symbolise = Callable[[int], str]


def disassemble(code: bytes, addr: int, symbolise: Symbolise | None = None) -> list[X86Line]:
    """The instructions of ``code``, which lies at ``addr``.

    ``symbolise`` names the targets of calls and jumps. Bytes that are no instruction are listed as
    ``(bad)``, one at a time. MissingExtra when capstone is not installed.
    """
    try:
        import capstone
    except ImportError:
        raise MissingExtra("disassembly of x86 code", "x86dis") from None
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    lines: list[X86Line] = []
    at = 0
    while at < len(code):
        for found_at, size, mnemonic, operands in engine.disasm_lite(code[at:], addr + at):
            text = f"{mnemonic} {operands}".strip()
            if symbolise is not None and mnemonic[0] in "jc" and operands.startswith("0x"):
                text += f"  # {symbolise(int(operands, 16))}"
            lines.append(X86Line(found_at, code[at : at + size], text))
            at += size
        if at < len(code):
            lines.append(X86Line(addr + at, code[at : at + 1], "(bad)"))
            at += 1
    return lines
