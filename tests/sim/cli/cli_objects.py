# SPDX-License-Identifier: GPL-2.0-only
"""BPF objects written on the spot, one small program each."""

from __future__ import annotations

from pathlib import Path

from elf_writer import AX, ObjectWriter

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode


def write_object(path: Path, section: str, text: str, name: str = "prog", license: bytes = b"GPL\0") -> str:
    """An object whose only program is ``text``, in ``section``; its path as text."""
    writer = ObjectWriter()
    code = encode(assemble(text))
    writer.section("license", license, flags=3)
    writer.symbol(name, writer.section(section, code, flags=AX), size=len(code))
    path.write_bytes(writer.build())
    return str(path)
