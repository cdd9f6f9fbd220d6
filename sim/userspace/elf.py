# SPDX-License-Identifier: GPL-2.0-only
"""ELF files as plain data, checked: the one place that talks to pyelftools.

Every offset, size and index is checked against the file, so that what comes out can be sliced without
care; anything wrong ends in an :class:`ElfError` that names the file, the section and the offset.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile as _PyElf

MAX_SIZE = 256 << 20
"""Files above this are refused: no BPF object or guest program is near it."""

SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
_SYM = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QQ")
_RELA = struct.Struct("<QQq")
_SYMBOL_KINDS = {0: "STT_NOTYPE", 1: "STT_OBJECT", 2: "STT_FUNC", 3: "STT_SECTION", 4: "STT_FILE"}
_BINDINGS = {0: "STB_LOCAL", 1: "STB_GLOBAL", 2: "STB_WEAK"}
_VISIBILITIES = {0: "STV_DEFAULT", 1: "STV_INTERNAL", 2: "STV_HIDDEN", 3: "STV_PROTECTED"}


class ElfError(Exception):
    """A file that cannot be used: ``path``, the ``section`` ("" for the file itself), the byte ``offset``
    within the section (None when the whole is meant) and the ``cause`` in a few words.
    """

    def __init__(self, path: str, section: str, offset: int | None, cause: str) -> None:
        super().__init__(path, section, offset, cause)
        self.path = path
        self.section = section
        self.offset = offset
        self.cause = cause

    def __str__(self) -> str:
        where = self.path
        if self.section:
            where += f": section {self.section}"
        if self.offset is not None:
            where += f" at {self.offset:#x}" if self.section else f": at {self.offset:#x}"
        text = f"{where}: {self.cause}"
        # Names come from the file; whatever they hold, the message stays one printable line.
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Section:
    """A section: ``data`` is empty for SHT_NOBITS, whose ``size`` counts all the same."""

    index: int
    name: str
    kind: str
    flags: int
    addr: int
    size: int
    link: int
    info: int
    entsize: int
    data: bytes


@dataclass(frozen=True)
class Segment:
    """A program header; ``data`` is what the file holds of its ``memsz`` bytes at ``vaddr``."""

    kind: str
    vaddr: int
    memsz: int
    flags: int
    align: int
    data: bytes


@dataclass(frozen=True)
class Symbol:
    """A symbol. ``section`` is a section index, or one of the SHN_ numbers."""

    index: int
    name: str
    kind: str
    binding: str
    visibility: str
    section: int
    value: int
    size: int


@dataclass(frozen=True)
class Relocation:
    """A relocation of the section it was asked for: byte ``offset``, ``type`` number, ``symbol``.

    ``addend`` is 0 in the SHT_REL form, where it stands in the relocated place.
    """

    offset: int
    type: int
    symbol: Symbol
    addend: int


class ElfFile:
    """A 64-bit little-endian ELF file. Errors are raised as ``error``, a subclass of ElfError."""

    def __init__(self, data: bytes, path: str, error: type[ElfError] = ElfError) -> None:
        self.path = path
        self.data = data
        self._error = error
        if len(data) > MAX_SIZE:
            raise self.fail("", None, f"{len(data)} bytes are too many for an ELF file")
        if data[:4] != b"\x7fELF":
            raise self.fail("", 0, "not an ELF file" if data else "empty file")
        if len(data) < 64:
            raise self.fail("", len(data), "truncated in the ELF header")
        if data[4] != 2:
            raise self.fail("", 4, "a 32-bit ELF file where a 64-bit one is needed")
        if data[5] != 1:
            raise self.fail("", 5, "a big-endian ELF file where a little-endian one is needed")
        try:
            elf = _PyElf(io.BytesIO(data))
            header: Any = elf.header
            self.machine = str(header["e_machine"])
            self.kind = str(header["e_type"])
            self.entry = int(header["e_entry"])
            sections = [
                (str(s.name), str(s["sh_type"]), [int(s[key]) for key in _SECTION_KEYS])
                for s in elf.iter_sections()
            ]
            segments = [
                (str(s["p_type"]), [int(s[key]) for key in _SEGMENT_KEYS]) for s in elf.iter_segments()
            ]
        except Exception as failure:
            # pyelftools answers broken files with whatever its parser stumbles over.
            raise self.fail("", None, f"damaged or truncated ELF file ({_short(failure)})") from None
        self.sections = [self._section(i, *row) for i, row in enumerate(sections)]
        self.segments = [self._segment(*row) for row in segments]
        self.symbols = list(self._symbols())

    @classmethod
    def open(
        cls,
        path: str | Path,
        machine: str | None = None,
        kind: str | None = None,
        error: type[ElfError] = ElfError,
    ) -> ElfFile:
        """Read ``path``; ElfError also when it cannot be opened or is not of ``machine`` and ``kind``."""
        return cls.parse(read_file(path, error), str(path), machine, kind, error)

    @classmethod
    def parse(
        cls,
        data: bytes,
        path: str,
        machine: str | None = None,
        kind: str | None = None,
        error: type[ElfError] = ElfError,
    ) -> ElfFile:
        """The same for bytes already read; ``path`` is only a name for messages."""
        elf = cls(data, path, error)
        if machine is not None and elf.machine != machine:
            raise elf.fail("", 18, f"made for {elf.machine} where {machine} is needed")
        if kind is not None and elf.kind != kind:
            raise elf.fail("", 16, f"of type {elf.kind} where {kind} is needed")
        return elf

    def fail(self, section: str, offset: int | None, cause: str) -> ElfError:
        """The error for this file, to be raised by the caller."""
        return self._error(self.path, section, offset, cause)

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def relocations(self, index: int) -> list[Relocation]:
        """The relocations that apply to section ``index``, in file order."""
        out: list[Relocation] = []
        for section in self.sections:
            if section.kind not in ("SHT_REL", "SHT_RELA") or section.info != index:
                continue
            form = _REL if section.kind == "SHT_REL" else _RELA
            if section.size % form.size:
                raise self.fail(section.name, section.size, f"size is no multiple of {form.size}")
            target = self.sections[index]
            for at, fields in zip(
                range(0, section.size, form.size), form.iter_unpack(section.data), strict=True
            ):
                offset, info = fields[0], fields[1]
                number = info >> 32
                if number >= len(self.symbols):
                    raise self.fail(
                        section.name, at, f"relocation names symbol {number} of {len(self.symbols)}"
                    )
                if offset >= target.size:
                    raise self.fail(section.name, at, f"relocation at {offset:#x} is outside {target.name}")
                addend = fields[2] if form is _RELA else 0
                out.append(Relocation(offset, info & 0xFFFFFFFF, self.symbols[number], addend))
        return out

    def _section(self, index: int, name: str, kind: str, fields: list[int]) -> Section:
        offset, size, flags, addr, link, info, entsize = fields
        data = b""
        if kind not in ("SHT_NOBITS", "SHT_NULL"):
            if offset + size > len(self.data):
                raise self.fail(
                    name, None, f"truncated: ends at {offset + size:#x} of {len(self.data):#x} bytes"
                )
            data = self.data[offset : offset + size]
        return Section(index, name, kind, flags, addr, size, link, info, entsize, data)

    def _segment(self, kind: str, fields: list[int]) -> Segment:
        offset, vaddr, filesz, memsz, flags, align = fields
        if offset + filesz > len(self.data):
            raise self.fail("", offset, f"truncated in the {kind} segment at {vaddr:#x}")
        return Segment(kind, vaddr, memsz, flags, align, self.data[offset : offset + filesz])

    def _symbols(self) -> Iterator[Symbol]:
        table = next((s for s in self.sections if s.kind == "SHT_SYMTAB"), None)
        if table is None:
            return
        if table.size % _SYM.size:
            raise self.fail(table.name, table.size, f"size is no multiple of {_SYM.size}")
        if table.link >= len(self.sections) or self.sections[table.link].kind != "SHT_STRTAB":
            raise self.fail(table.name, None, f"string table {table.link} is none")
        strings = self.sections[table.link].data
        for number, fields in enumerate(_SYM.iter_unpack(table.data)):
            name_off, info, other, section, value, size = fields
            at = number * _SYM.size
            end = strings.find(b"\0", name_off)
            if end < 0:
                raise self.fail(table.name, at, f"symbol {number} has its name outside the string table")
            if section < SHN_LORESERVE and section >= len(self.sections):
                raise self.fail(
                    table.name, at, f"symbol {number} is in section {section} of {len(self.sections)}"
                )
            kind = _SYMBOL_KINDS.get(info & 15, str(info & 15))
            name = strings[name_off:end].decode("utf-8", "backslashreplace")
            if kind == "STT_SECTION" and not name and section < len(self.sections):
                name = self.sections[section].name
            yield Symbol(
                number,
                name,
                kind,
                _BINDINGS.get(info >> 4, str(info >> 4)),
                _VISIBILITIES[other & 3],
                section,
                value,
                size,
            )


_SECTION_KEYS = ("sh_offset", "sh_size", "sh_flags", "sh_addr", "sh_link", "sh_info", "sh_entsize")
_SEGMENT_KEYS = ("p_offset", "p_vaddr", "p_filesz", "p_memsz", "p_flags", "p_align")


def _short(failure: Exception) -> str:
    text = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {text[:80]}" if text else type(failure).__name__


def read_file(path: str | Path, error: type[ElfError] = ElfError) -> bytes:
    """The bytes of a regular file; ``error`` with the system's reason when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_SIZE + 1)
    except OSError as failure:
        raise error(str(path), "", None, failure.strerror or str(failure)) from None
