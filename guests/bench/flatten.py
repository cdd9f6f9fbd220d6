# SPDX-License-Identifier: GPL-2.0-only
"""Build step: a relocatable x86-64 object becomes flat position-independent bytes and a symbol table.

``python -m guests.bench.flatten IN.o OUT.bin OUT.json``. The allocated code sections are laid out one behind
the other; the JSON gives the offset of each function. What cannot stand alone (writable or constant data,
relocations that leave the code) ends in an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sim.userspace.elf import ElfError, ElfFile

R_X86_64_PC32, R_X86_64_PLT32 = 2, 4
SHF_ALLOC, SHF_EXECINSTR = 2, 4


def flatten(path: str) -> tuple[bytes, dict[str, int]]:
    """The flat code of the object at ``path`` and the offset of every function in it."""
    elf = ElfFile.open(path, machine="EM_X86_64", kind="ET_REL")
    base: dict[int, int] = {}
    code = bytearray()
    for section in elf.sections:
        if not section.flags & SHF_ALLOC or not section.size:
            continue
        if not section.flags & SHF_EXECINSTR:
            raise ElfError(path, section.name, 0, "the code needs data beside it")
        code += b"\xcc" * (-len(code) % 16)
        base[section.index] = len(code)
        code += section.data
    for index in base:
        for rel in elf.relocations(index):
            symbol = rel.symbol
            if symbol.section not in base or rel.type not in (R_X86_64_PC32, R_X86_64_PLT32):
                raise ElfError(
                    path, elf.sections[index].name, rel.offset, f"relocation to {symbol.name!r} outside"
                )
            place = base[index] + rel.offset
            value = base[symbol.section] + symbol.value + rel.addend - place
            code[place : place + 4] = value.to_bytes(4, "little", signed=True)
    symbols = {
        s.name: base[s.section] + s.value for s in elf.symbols if s.kind == "STT_FUNC" and s.section in base
    }
    return bytes(code), dict(sorted(symbols.items()))


def main(argv: list[str]) -> int:
    """Entry point; 0 on success, 2 with one line on stderr for an object that cannot be flattened."""
    source, binary, symbols = argv
    try:
        code, offsets = flatten(source)
    except ElfError as error:
        print(error, file=sys.stderr)
        return 2
    Path(binary).write_bytes(code)
    Path(symbols).write_text(
        json.dumps({"schema": 1, "size": len(code), "symbols": offsets}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
