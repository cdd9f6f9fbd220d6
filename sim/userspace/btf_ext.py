# SPDX-License-Identifier: GPL-2.0-only
"""``.BTF.ext``: function and line information and CO-RE relocations, by ELF section.

Offsets in the file are bytes from the start of the ELF section; here they are instruction slots. The
records keep their bytes, because the kernel takes them as they are (struct bpf_func_info,
struct bpf_line_info, struct bpf_core_relo) with only the offset adjusted.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from kernel_model.btf.parse import BTF_MAGIC, Btf, BtfError

from .elf import ElfError

SECTION = ".BTF.ext"
_HEADER = struct.Struct("<HBBIIIIIII")
_U32 = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_CORE = struct.Struct("<IIII")

FUNC_INFO_MIN, LINE_INFO_MIN, CORE_RELO_MIN = 8, 16, 16


@dataclass(frozen=True)
class CoreRelo:
    """struct bpf_core_relo with its strings: ``insn`` is a slot, ``kind`` an enum bpf_core_relo_kind."""

    insn: int
    type_id: int
    access: str
    kind: int


@dataclass
class Info:
    """Records of one kind: (slot, record bytes) by ELF section name and rising, ``rec_size`` bytes each."""

    rec_size: int = 0
    sections: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def rows(self, section: str, start: int, count: int) -> list[tuple[int, bytes]]:
        """The records of the slots ``[start, start + count)`` of ``section``."""
        rows = self.sections.get(section, [])
        low = bisect_left(rows, start, key=_slot)
        return rows[low : bisect_left(rows, start + count, lo=low, key=_slot)]

    def select(self, section: str, start: int, count: int, base: int) -> bytes:
        """The same as bytes, moved to begin at slot ``base``."""
        return b"".join(
            _U32.pack(slot - start + base) + record[4:] for slot, record in self.rows(section, start, count)
        )


def _slot(row: tuple[int, bytes]) -> int:
    return row[0]


@dataclass
class BtfExt:
    """The parsed section; empty when the object has none."""

    func_info: Info = field(default_factory=Info)
    line_info: Info = field(default_factory=Info)
    core: Info = field(default_factory=Info)
    btf: Btf | None = None

    def core_relos(self, section: str, start: int, count: int, base: int) -> list[CoreRelo]:
        """The relocations of the slots ``[start, start + count)``, moved to begin at ``base``."""
        out = []
        for slot, record in self.core.rows(section, start, count):
            _, type_id, access_off, kind = _CORE.unpack_from(record)
            assert self.btf is not None
            out.append(CoreRelo(slot - start + base, type_id, self.btf.string(access_off), kind))
        return out


def parse_btf_ext(data: bytes, btf: Btf, fail: Callable[[str, int | None, str], ElfError]) -> BtfExt:
    """Read the section; ``fail(section, offset, cause)`` makes the error that is raised."""
    if len(data) < 24:
        raise fail(SECTION, len(data), "truncated in the header")
    magic, version, _, hdr_len = struct.unpack_from("<HBBI", data)
    if magic != BTF_MAGIC or version != 1:
        raise fail(SECTION, 0, f"magic {magic:#x} version {version} where {BTF_MAGIC:#x} and 1 are needed")
    if not 24 <= hdr_len <= len(data):
        raise fail(SECTION, 4, f"header of {hdr_len} bytes in a section of {len(data)}")
    fields = _HEADER.unpack(data[: min(hdr_len, _HEADER.size)].ljust(_HEADER.size, b"\0"))
    func_off, func_len, line_off, line_len, core_off, core_len = fields[4:]
    out = BtfExt(btf=btf)
    parts = (
        ("func_info", func_off, func_len, FUNC_INFO_MIN),
        ("line_info", line_off, line_len, LINE_INFO_MIN),
        ("core", core_off, core_len, CORE_RELO_MIN),
    )
    for name, off, size, minimum in parts:
        if not size:
            continue
        at = hdr_len + off
        if off % 4 or at + size > len(data):
            raise fail(SECTION, at, f"{name} of {size} bytes does not fit in {len(data)}")
        info = _records(data, at, at + size, name, minimum, btf, fail)
        setattr(out, name, info)
    return out


def _records(
    data: bytes,
    at: int,
    end: int,
    name: str,
    minimum: int,
    btf: Btf,
    fail: Callable[[str, int | None, str], ElfError],
) -> Info:
    if end - at < 4:
        raise fail(SECTION, at, f"{name} lacks its record size")
    (rec_size,) = _U32.unpack_from(data, at)
    if rec_size < minimum or rec_size % 4:
        raise fail(SECTION, at, f"{name} record size {rec_size} is below {minimum} or no multiple of 4")
    out = Info(rec_size)
    at += 4
    while at < end:
        if end - at < 8:
            raise fail(SECTION, at, f"truncated in a {name} section header")
        name_off, count = _PAIR.unpack_from(data, at)
        if not count or count * rec_size > end - at - 8:
            raise fail(SECTION, at, f"{count} {name} records do not fit")
        try:
            section = btf.string(name_off)
        except BtfError as error:
            raise fail(SECTION, at, error.reason) from None
        at += 8
        rows = out.sections.setdefault(section, [])
        for _ in range(count):
            (offset,) = _U32.unpack_from(data, at)
            if offset % 8:
                raise fail(SECTION, at, f"{name} offset {offset} is inside an instruction")
            rows.append((offset // 8, data[at : at + rec_size]))
            at += rec_size
    for rows in out.sections.values():
        rows.sort(key=_slot)
    return out
