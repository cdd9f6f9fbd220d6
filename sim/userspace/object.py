# SPDX-License-Identifier: GPL-2.0-only
"""A BPF object file as plain data, before any kernel is involved: what libbpf's bpf_object__open() finds.

``read_object(path)`` gives an :class:`ObjectSpec`: programs with their subprograms appended and their
references to maps by name, maps, BTF as it is uploaded, license. Whatever is wrong with the file ends in one
:class:`ObjectError` that names file, section, offset and cause.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path

from kernel_model.btf.parse import BTF_VAR_STATIC, Btf, BtfError, Kind
from kernel_model.isa.insn import Insn, decode
from kernel_model.uapi.enums import ProgFlags, bpf_prog_type

from .btf_ext import BtfExt, CoreRelo, parse_btf_ext
from .elf import SHN_LORESERVE, ElfError, ElfFile, Relocation, Section, Symbol, read_file
from .externs import KCONFIG, Extern, ExternError, collect, fix_up, map_size
from .mapdefs import (
    KCONFIG_KIND,
    MAPS,
    MapSpec,
    btf_maps,
    config_map,
    data_map,
    internal_map_name,
    is_old_maps,
    join_by_id,
    old_maps,
    with_tails,
)
from .relocate import BPF_INSN_SIZE, ExternRef, Function, Linker, MapRef, Place, SubprogSpec
from .sections import Sec, SectionDef, find_section

SHF_EXECINSTR = 4
LIRC_MAPS = "lirc_mode2/maps"
_STRUCT_OPS = (".struct_ops", ".struct_ops.link")


class ObjectError(ElfError):
    """A BPF object that cannot be used: ``path``, ``section``, ``offset`` and ``cause``."""


@dataclass(frozen=True)
class ProgSpec:
    """A program as it is loaded, but for the file descriptors of its maps.

    ``type`` is None when the section name says nothing. ``attach_type`` and ``flags`` are those of
    BPF_PROG_LOAD (expected_attach_type, prog_flags). ``target`` is what follows the slash in the section
    name. ``func_info`` and ``line_info`` are records with slots of ``insns``, ``*_rec_size`` bytes each.
    """

    name: str
    section: str
    insns: tuple[Insn, ...]
    type: bpf_prog_type | None
    attach_type: int = 0
    flags: int = 0
    target: str = ""
    autoload: bool = True
    definition: SectionDef | None = None
    subprogs: tuple[SubprogSpec, ...] = ()
    map_refs: tuple[MapRef, ...] = ()
    externs: tuple[ExternRef, ...] = ()
    core: tuple[CoreRelo, ...] = ()
    func_info: bytes = b""
    func_info_rec_size: int = 0
    line_info: bytes = b""
    line_info_rec_size: int = 0


@dataclass(frozen=True)
class ObjectSpec:
    """A whole object. ``btf`` are the bytes to upload (None: no BTF), ``version`` is the old section's.

    ``struct_ops`` names the sections that hold struct_ops maps; ``externs`` are what it wants of the kernel.
    """

    path: str
    name: str
    programs: Mapping[str, ProgSpec]
    maps: Mapping[str, MapSpec]
    license: str = ""
    version: int = 0
    btf: bytes | None = None
    struct_ops: tuple[str, ...] = ()
    btf_types: Btf | None = field(default=None, compare=False, repr=False)
    externs: tuple[Extern, ...] = ()


def read_object(path: str | Path) -> ObjectSpec:
    """Read the object file at ``path``; ObjectError when it cannot be opened or used."""
    return parse_object(read_file(path, ObjectError), str(path))


def parse_object(data: bytes, path: str) -> ObjectSpec:
    """The same for bytes already read; the object's name comes from ``path``."""
    elf = ElfFile.parse(data, path, kind="ET_REL", error=ObjectError)
    if elf.machine not in ("EM_BPF", "EM_NONE"):
        raise elf.fail("", 18, f"made for {elf.machine}, not for BPF")
    if not elf.symbols:
        raise elf.fail("", None, "no symbol table; was the object stripped?")
    try:
        return _Object(elf).spec()
    except BtfError as error:
        raise elf.fail(".BTF", error.offset, error.reason) from None


class _Object:
    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        # libbpf cuts the file name at its first dot.
        self.name = Path(elf.path).name.partition(".")[0]
        self.externs: tuple[Extern, ...] = ()
        self.btf = self._btf()
        self.maps = self._maps()

    def spec(self) -> ObjectSpec:
        ext = self._ext()
        functions = self._functions()
        names = [s.name for s in self.elf.sections]
        linker = Linker(
            functions, self._places(), names, ext, self.elf.fail, self._parameters(), self._config_places()
        )
        programs: dict[str, ProgSpec] = {}
        for function in functions:
            if function.is_entry:
                if function.name in programs:
                    raise self.elf.fail(function.section, None, f"second program named '{function.name}'")
                programs[function.name] = self._program(function, linker, ext)
        sections = {prog.section: prog.name for prog in programs.values()}
        version = self.elf.section("version")
        if version is not None and version.size != 4:
            raise self.elf.fail("version", 0, f"invalid kver section of {version.size} bytes")
        return ObjectSpec(
            self.elf.path,
            self.name,
            programs,
            {spec.name: spec for spec in with_tails(self.maps, sections)},
            self._license(),
            struct.unpack("<I", version.data)[0] if version is not None and version.data else 0,
            self.btf.data if self.btf is not None else None,
            tuple(s.name for s in self.elf.sections if s.name in _STRUCT_OPS and s.size),
            self.btf,
            self.externs,
        )

    def _license(self) -> str:
        section = self.elf.section("license")
        return section.data.split(b"\0", 1)[0][:63].decode("latin-1") if section else ""

    def _btf(self) -> Btf | None:
        section = self.elf.section(".BTF")
        if section is None or not section.data:
            return None
        fixed = fix_up_btf(Btf(section.data), self.elf)
        btf = Btf(fixed)
        try:
            self.externs = collect(btf, self.elf.symbols)
        except ExternError as error:
            raise self.elf.fail(KCONFIG, None, str(error)) from None
        return Btf(fix_up(fixed, btf, self.externs))

    def _ext(self) -> BtfExt:
        section = self.elf.section(".BTF.ext")
        if section is None or self.btf is None or not section.data:
            return BtfExt()
        return parse_btf_ext(section.data, self.btf, self.elf.fail)

    def _maps(self) -> list[MapSpec]:
        out: list[MapSpec] = []
        for section in self.elf.sections:
            if is_old_maps(section.name) and section.data:
                out += join_by_id(old_maps(self.elf, section), f"tc/{sha1(self.elf.data).hexdigest()}")
            elif section.name == MAPS and section.size:
                if self.btf is None:
                    raise self.elf.fail(
                        MAPS, None, "maps are declared by BTF, but the object has no .BTF section"
                    )
                out += btf_maps(self.elf, section, self.btf)
        for section in self.elf.sections:
            kind = data_kind(section)
            if kind and section.index not in self._parameters():
                if section.size > 0xFFFFFFFF:
                    raise self.elf.fail(section.name, None, f"{section.size} bytes are too many for a map")
                value_type = self.btf.find(section.name, Kind.DATASEC) if self.btf is not None else 0
                out.append(data_map(self.name, section, kind, value_type))
        if size := map_size(self.externs):
            value_type = self.btf.find(KCONFIG, Kind.DATASEC) if self.btf is not None else 0
            out.append(config_map(self.name, size, value_type))
        seen: dict[str, str] = {}
        for spec in out:
            if spec.name in seen:
                raise self.elf.fail(spec.section, spec.offset, f"second map named '{spec.name}'")
            seen[spec.name] = spec.section
        return out

    def _parameters(self) -> dict[int, bytes]:
        """IR decoders have parameters: their loader puts the number where other loaders put an address."""
        if self.elf.section(LIRC_MAPS) is None:
            return {}
        return {s.index: s.data for s in self.elf.sections if s.name == ".data"}

    def _config_places(self) -> dict[str, tuple[str, int]]:
        """Map and offset of each configuration value."""
        name = internal_map_name(self.name, KCONFIG)
        return {e.name: (name, e.offset) for e in self.externs if e.section == KCONFIG}

    def _places(self) -> dict[tuple[int, int], Place]:
        index = {section.name: section.index for section in reversed(self.elf.sections)}
        return {
            (index[spec.section], spec.offset if spec.kind == "user" else -1): Place(
                spec.name, spec.kind != "user"
            )
            for spec in self.maps
            if spec.kind != KCONFIG_KIND
        }

    def _functions(self) -> list[Function]:
        out: list[Function] = []
        for section in self.elf.sections:
            if section.kind != "SHT_PROGBITS" or not section.flags & SHF_EXECINSTR or not section.size:
                continue
            if section.size % BPF_INSN_SIZE:
                raise self.elf.fail(section.name, section.size, "size is no multiple of 8")
            found = self._section_functions(section)
            self._attach_relocs(section, found)
            out += found
        if any(f.section != ".text" for f in out) or len(out) > 1:
            for function in out:
                if function.section == ".text":
                    function.is_entry = False
        return out

    def _section_functions(self, section: Section) -> list[Function]:
        symbols = sorted(
            (s for s in self.elf.symbols if s.section == section.index and s.kind == "STT_FUNC"),
            key=lambda s: s.value,
        )
        if not symbols:
            return [self._whole_section(section)]
        out: list[Function] = []
        for symbol in symbols:
            if symbol.value % BPF_INSN_SIZE or symbol.size % BPF_INSN_SIZE:
                raise self.elf.fail(section.name, symbol.value, f"function '{symbol.name}' is misaligned")
            if not symbol.size or symbol.value + symbol.size > section.size:
                cause = f"program '{symbol.name}' crosses section boundary" if symbol.size else "is empty"
                raise self.elf.fail(section.name, symbol.value, cause)
            out.append(self._function(section, symbol, symbol.value, symbol.size))
        return out

    def _whole_section(self, section: Section) -> Function:
        """A section without function symbols, from compilers before 2019: all of it is one program."""
        named = [
            s
            for s in self.elf.symbols
            if s.section == section.index and s.value == 0 and s.binding == "STB_GLOBAL" and s.name
        ]
        return self._function(section, named[0] if named else None, 0, section.size)

    def _function(self, section: Section, symbol: Symbol | None, start: int, size: int) -> Function:
        try:
            insns = decode(section.data[start : start + size])
        except ValueError as error:
            raise self.elf.fail(section.name, start, str(error)) from None
        name = symbol.name if symbol is not None else section.name
        local = symbol is not None and symbol.binding == "STB_LOCAL"
        return Function(name, section.name, section.index, start // BPF_INSN_SIZE, insns, is_entry=not local)

    def _attach_relocs(self, section: Section, functions: list[Function]) -> None:
        relocs: dict[int, Relocation] = {}
        for rel in self.elf.relocations(section.index):
            if rel.offset % BPF_INSN_SIZE:
                raise self.elf.fail(section.name, rel.offset, "relocation inside an instruction")
            relocs[rel.offset // BPF_INSN_SIZE] = rel
        slots = sorted(relocs)
        for function in functions:
            low, high = bisect_left(slots, function.start), bisect_left(slots, function.end)
            function.relocs = {slot - function.start: relocs[slot] for slot in slots[low:high]}

    def _program(self, function: Function, linker: Linker, ext: BtfExt) -> ProgSpec:
        linked = linker.link(function)
        section = function.section.removeprefix("?")
        definition = find_section(section)
        flags = ProgFlags(0)
        if definition is not None and Sec.SLEEPABLE in definition.flags:
            flags |= ProgFlags.BPF_F_SLEEPABLE
        if definition is not None and Sec.XDP_FRAGS in definition.flags:
            flags |= ProgFlags.BPF_F_XDP_HAS_FRAGS
        return ProgSpec(
            function.name,
            section,
            tuple(linked.insns),
            definition.prog_type if definition is not None else None,
            attach_type=definition.attach_type if definition is not None else 0,
            flags=int(flags),
            target=section.partition("/")[2],
            autoload=not function.section.startswith("?"),
            definition=definition,
            subprogs=tuple(linked.subprogs),
            map_refs=tuple(linked.map_refs),
            externs=tuple(linked.externs),
            core=tuple(linked.core),
            func_info=linked.func_info,
            func_info_rec_size=ext.func_info.rec_size if linked.func_info else 0,
            line_info=linked.line_info,
            line_info_rec_size=ext.line_info.rec_size if linked.line_info else 0,
        )


def data_kind(section: Section) -> str:
    """``rodata``, ``data`` or ``bss`` for sections of global data, "" for others (rules of libbpf)."""
    if not section.size:
        return ""
    if section.kind == "SHT_PROGBITS" and not section.flags & SHF_EXECINSTR:
        for kind in ("rodata", "data"):
            if section.name == f".{kind}" or section.name.startswith(f".{kind}."):
                return kind
    if section.kind == "SHT_NOBITS" and (section.name == ".bss" or section.name.startswith(".bss.")):
        return "bss"
    return ""


def fix_up_btf(btf: Btf, elf: ElfFile) -> bytes:
    """The object's BTF with what only the ELF file knows.

    The compiler leaves sizes and offsets in DATASEC types to the linker (libbpf: btf_fixup_datasec), and
    functions that are hidden count as static ones.
    """
    data = bytearray(btf.data)
    offsets = {
        s.name: s.value
        for s in elf.symbols
        if s.kind == "STT_OBJECT"
        and s.binding in ("STB_GLOBAL", "STB_WEAK")
        and 0 < s.section < SHN_LORESERVE
    }
    hidden = {
        s.name
        for s in elf.symbols
        if s.kind == "STT_FUNC"
        and s.binding != "STB_LOCAL"
        and s.visibility in ("STV_HIDDEN", "STV_INTERNAL")
    }
    for number in range(btf.start_id, len(btf)):
        kind = btf.kind(number)
        at = btf.offset_of(number)
        if kind is Kind.FUNC and btf.type(number).name in hidden:
            struct.pack_into("<I", data, at + 4, int(Kind.FUNC) << 24)
        if kind is not Kind.DATASEC:
            continue
        datasec = btf.type(number)
        rows = [tuple(var) for var in datasec.vars]
        section = elf.section(datasec.name)
        if not datasec.size and section is not None and section.size:
            struct.pack_into("<I", data, at + 8, section.size & 0xFFFFFFFF)
            for i, var in enumerate(datasec.vars):
                variable = btf.type(var.type)
                if variable.kind is not Kind.VAR:
                    raise elf.fail(
                        ".BTF", at, f"[{number}] DATASEC {datasec.name} holds a {variable.kind.name}"
                    )
                if variable.linkage == BTF_VAR_STATIC:
                    continue
                if variable.name not in offsets:
                    cause = f"no symbol for the variable '{variable.name}' of {datasec.name}"
                    raise elf.fail(".BTF", at, cause)
                rows[i] = (var.type, offsets[variable.name] & 0xFFFFFFFF, var.size)
        for i, row in enumerate(sorted(rows, key=lambda row: row[1])):
            struct.pack_into("<III", data, at + 12 + 12 * i, *row)
    return bytes(data)
