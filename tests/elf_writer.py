# SPDX-License-Identifier: GPL-2.0-only
"""Small ELF files and BTF blobs made to order, good ones and deliberately bad ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SHT = {"PROGBITS": 1, "SYMTAB": 2, "STRTAB": 3, "RELA": 4, "NOBITS": 8, "REL": 9}
EM_BPF, EM_X86_64 = 247, 62
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
AX, WA, A = 6, 3, 2
FUNC, OBJECT, NOTYPE, SECTION = 2, 1, 0, 3
LOCAL, GLOBAL, WEAK = 0, 1, 2


@dataclass
class _Section:
    name: str
    kind: str
    data: bytes
    flags: int = 0
    link: int = 0
    info: int = 0
    entsize: int = 0
    size: int | None = None


@dataclass
class ObjectWriter:
    """Collects sections, symbols and relocations; ``build()`` gives the file."""

    machine: int = EM_BPF
    kind: int = ET_REL
    sections: list[_Section] = field(default_factory=list)
    symbols: list[tuple[str, int, int, int, int, int, int]] = field(default_factory=list)
    relocs: dict[int, list[tuple[int, int, int, int | None]]] = field(default_factory=dict)

    def section(
        self, name: str, data: bytes, flags: int = 0, kind: str = "PROGBITS", size: int | None = None
    ) -> int:
        """Adds a section; its index."""
        self.sections.append(_Section(name, kind, data, flags, size=size))
        return len(self.sections)

    def symbol(
        self,
        name: str,
        section: int,
        value: int = 0,
        size: int = 0,
        kind: int = FUNC,
        bind: int = GLOBAL,
        other: int = 0,
    ) -> int:
        """Adds a symbol; its index."""
        self.symbols.append((name, section, value, size, kind, bind, other))
        return len(self.symbols)

    def reloc(self, section: int, offset: int, symbol: int, kind: int = 1, addend: int | None = None) -> None:
        """Adds a relocation of ``section`` at ``offset`` against ``symbol``; RELA when there is an addend."""
        self.relocs.setdefault(section, []).append((offset, symbol, kind, addend))

    def build(self) -> bytes:
        """The ELF file."""
        sections = list(self.sections)
        strings = bytearray(b"\0")
        table = bytearray(24)
        for name, section, value, size, kind, bind, other in self.symbols:
            table += struct.pack("<IBBHQQ", len(strings), bind << 4 | kind, other, section, value, size)
            strings += name.encode() + b"\0"
        symtab = len(sections) + 1
        if self.symbols:
            sections.append(_Section(".symtab", "SYMTAB", bytes(table), link=symtab + 1, info=1, entsize=24))
            sections.append(_Section(".strtab", "STRTAB", bytes(strings)))
        for target, rows in self.relocs.items():
            rela = any(addend is not None for *_, addend in rows)
            data = b"".join(
                struct.pack("<QQ", at, sym << 32 | kind) + (struct.pack("<q", addend or 0) if rela else b"")
                for at, sym, kind, addend in rows
            )
            name, size = ("RELA", 24) if rela else ("REL", 16)
            sections.append(_Section(f".rel{target}", name, data, link=symtab, info=target, entsize=size))
        names = bytearray(b"\0")
        offsets = []
        for section in [*sections, _Section(".shstrtab", "STRTAB", b"")]:
            offsets.append(len(names))
            names += section.name.encode() + b"\0"
        sections.append(_Section(".shstrtab", "STRTAB", bytes(names)))
        body = bytearray(64)
        headers = bytearray(64)
        for section, name_at in zip(sections, offsets, strict=True):
            body += bytes(-len(body) % 8)
            size = len(section.data) if section.size is None else section.size
            headers += struct.pack(
                "<IIQQQQIIQQ",
                name_at,
                SHT[section.kind],
                section.flags,
                0,
                len(body),
                size,
                section.link,
                section.info,
                8,
                section.entsize,
            )
            if section.kind != "NOBITS":
                body += section.data
        body += bytes(-len(body) % 8)
        head = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            self.kind,
            self.machine,
            1,
            0,
            0,
            len(body),
            0,
            64,
            0,
            0,
            64,
            len(sections) + 1,
            len(sections),
        )
        body[:64] = head
        return bytes(body + headers)


def executable(
    segments: list[tuple[int, bytes, int, int]],
    entry: int,
    kind: int = ET_EXEC,
    machine: int = EM_X86_64,
    extra: list[tuple[int, int, bytes, int, int]] | None = None,
) -> bytes:
    """An executable of PT_LOAD ``segments`` (vaddr, data, memsz, flags); ``extra`` begin with their type."""
    rows = [(1, *segment) for segment in segments] + (extra or [])
    at = 64 + 56 * len(rows)
    headers, body = b"", b""
    for p_type, vaddr, data, memsz, flags in rows:
        headers += struct.pack(
            "<IIQQQQQQ", p_type, flags, at + len(body), vaddr, vaddr, len(data), memsz, 4096
        )
        body += data
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        kind,
        machine,
        1,
        entry,
        64,
        0,
        0,
        64,
        56,
        len(rows),
        64,
        0,
        0,
    )
    return head + headers + body


class BtfWriter:
    """Types one by one; each method returns the new type's id."""

    def __init__(self) -> None:
        self.types = bytearray()
        self.strings = bytearray(b"\0")
        self.count = 0

    def name(self, text: str) -> int:
        """The offset of a string, added when it is not empty."""
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(
        self, kind: int, name: str = "", word: int = 0, vlen: int = 0, tail: bytes = b"", kflag: int = 0
    ) -> int:
        """Any type: ``word`` is its size or type, ``tail`` what follows."""
        self.types += struct.pack("<III", self.name(name), kflag << 31 | kind << 24 | vlen, word) + tail
        self.count += 1
        return self.count

    def int(self, name: str = "int", size: int = 4, encoding: int = 1) -> int:
        return self.add(1, name, size, tail=struct.pack("<I", encoding << 24 | size * 8))

    def ptr(self, to: int) -> int:
        return self.add(2, word=to)

    def array(self, elem: int, index: int, count: int) -> int:
        return self.add(3, tail=struct.pack("<III", elem, index, count))

    def struct(
        self, name: str, size: int, members: list[tuple[str, int, int]], kind: int = 4, kflag: int = 0
    ) -> int:
        tail = b"".join(struct.pack("<III", self.name(n), t, off) for n, t, off in members)
        return self.add(kind, name, size, len(members), tail, kflag)

    def enum(self, name: str, values: list[tuple[str, int]], kflag: int = 0, size: int = 4) -> int:
        tail = b"".join(struct.pack("<II", self.name(n), v & 0xFFFFFFFF) for n, v in values)
        return self.add(6, name, size, len(values), tail, kflag)

    def proto(self, ret: int, params: list[tuple[str, int]]) -> int:
        tail = b"".join(struct.pack("<II", self.name(n), t) for n, t in params)
        return self.add(13, word=ret, vlen=len(params), tail=tail)

    def var(self, name: str, type: int, linkage: int = 1) -> int:
        return self.add(14, name, type, tail=struct.pack("<I", linkage))

    def datasec(self, name: str, size: int, rows: list[tuple[int, int, int]]) -> int:
        tail = b"".join(struct.pack("<III", *row) for row in rows)
        return self.add(15, name, size, len(rows), tail)

    def build(self) -> bytes:
        """The blob."""
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + bytes(self.types) + bytes(self.strings)

    def uint_attr(self, value: int, index: int) -> int:
        """The type of ``__uint(x, value)``."""
        return self.ptr(self.array(index, index, value))
