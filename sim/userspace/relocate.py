# SPDX-License-Identifier: GPL-2.0-only
"""From functions in ELF sections to whole programs: what libbpf does before loading.

Each entry program gets the functions that it calls (or takes the address of) appended in the order in
which they are met, calls are rewired, and references to maps and global data become named entries that
the loader turns into file descriptors. Nothing here needs a kernel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import (
    BPF_PSEUDO_CALL,
    BPF_PSEUDO_FUNC,
    BPF_PSEUDO_KFUNC_CALL,
    BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE,
    CALL,
    LD_IMM64,
)

from .btf_ext import BtfExt, CoreRelo
from .elf import SHN_LORESERVE, SHN_UNDEF, ElfError, Relocation

BPF_INSN_SIZE = 8
R_BPF_64_64, R_BPF_64_ABS64, R_BPF_64_ABS32, R_BPF_64_NODYLD32, R_BPF_64_32 = 1, 2, 3, 4, 10


@dataclass(frozen=True)
class MapRef:
    """A LD_IMM64 at slot ``insn`` that stands for a map, or for its value at ``offset``."""

    insn: int
    map: str
    offset: int | None = None


@dataclass(frozen=True)
class ExternRef:
    """A LD_IMM64 or call at slot ``insn`` that stands for something of the kernel's (.ksyms, .kconfig)."""

    insn: int
    name: str
    is_call: bool
    weak: bool


@dataclass(frozen=True)
class SubprogSpec:
    """Where a function stands in a linked program."""

    name: str
    start: int
    count: int


@dataclass
class Function:
    """A function in a section: slots ``[start, start + len(insns))`` and the relocations in them by slot."""

    name: str
    section: str
    section_index: int
    start: int
    insns: list[Insn]
    relocs: dict[int, Relocation] = field(default_factory=dict)
    is_entry: bool = True

    @property
    def end(self) -> int:
        return self.start + len(self.insns)


@dataclass
class Linked:
    """A program with everything it calls."""

    insns: list[Insn]
    subprogs: list[SubprogSpec] = field(default_factory=list)
    map_refs: list[MapRef] = field(default_factory=list)
    externs: list[ExternRef] = field(default_factory=list)
    func_info: bytes = b""
    line_info: bytes = b""
    core: list[CoreRelo] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """What a symbol outside the code stands for: a map, or global data in the map of its section."""

    map: str
    is_data: bool


class Linker:
    """Links the programs of one object.

    ``functions`` are all functions; ``places`` maps (section index, offset) of declared maps and
    (section index, -1) of global-data sections to what they are; ``fail`` makes the error to raise;
    ``parameters`` are sections by index whose symbols stand for the 32-bit number there, not its address;
    ``config`` gives map and offset of the configuration values among the externs.
    """

    def __init__(
        self,
        functions: list[Function],
        places: dict[tuple[int, int], Place],
        section_names: list[str],
        ext: BtfExt,
        fail: Callable[[str, int | None, str], ElfError],
        parameters: Mapping[int, bytes] = MappingProxyType({}),
        config: Mapping[str, tuple[str, int]] = MappingProxyType({}),
    ) -> None:
        self._parameters = parameters
        self._config = config
        self._places = places
        self._names = section_names
        self._ext = ext
        self._fail = fail
        self._by_section: dict[int, list[Function]] = {}
        for function in sorted(functions, key=lambda f: (f.section_index, f.start)):
            self._by_section.setdefault(function.section_index, []).append(function)
        self._starts = {index: [f.start for f in fs] for index, fs in self._by_section.items()}

    def link(self, entry: Function) -> Linked:
        """The program that begins with ``entry``."""
        out = Linked([])
        placed: dict[tuple[int, int], int] = {}
        # Depth first, in the order of the calls, as libbpf's recursion goes.
        work: list[tuple[Function, int, int]] = [(entry, self._append(out, entry, placed), 0)]
        while work:
            function, base, slot = work.pop()
            while slot < len(function.insns):
                insn = out.insns[base + slot]
                if insn.code == LD_IMM64:
                    self._load(out, function, base, slot)
                    if insn.src != BPF_PSEUDO_FUNC:
                        slot += 2
                        continue
                elif not (insn.code == CALL and insn.src == BPF_PSEUDO_CALL):
                    if slot in function.relocs:
                        raise self._bad(function, slot, f"invalid relo for instruction {insn.code:#x}")
                    slot += 1
                    continue
                if insn.code == CALL and self._is_extern(function, slot):
                    self._extern(out, function, base, slot)
                    slot += 1
                    continue
                callee = self._callee(function, slot, insn)
                key = (callee.section_index, callee.start)
                step = 2 if insn.code == LD_IMM64 else 1
                known = key in placed
                target = placed[key] if known else self._append(out, callee, placed)
                out.insns[base + slot] = insn._replace(imm=target - (base + slot) - 1)
                slot += step
                if not known:
                    work.append((function, base, slot))
                    function, base, slot = callee, target, 0
        return out

    def _append(self, out: Linked, function: Function, placed: dict[tuple[int, int], int]) -> int:
        base = len(out.insns)
        placed[function.section_index, function.start] = base
        out.insns += function.insns
        out.subprogs.append(SubprogSpec(function.name, base, len(function.insns)))
        span = (function.section, function.start, len(function.insns), base)
        out.func_info += self._ext.func_info.select(*span)
        out.line_info += self._ext.line_info.select(*span)
        out.core += self._ext.core_relos(*span)
        return base

    def _bad(self, function: Function, slot: int, cause: str) -> ElfError:
        offset = (function.start + slot) * BPF_INSN_SIZE
        return self._fail(function.section, offset, f"prog '{function.name}': insn #{slot}: {cause}")

    def _is_extern(self, function: Function, slot: int) -> bool:
        reloc = function.relocs.get(slot)
        return reloc is not None and reloc.symbol.section == SHN_UNDEF and reloc.symbol.binding != "STB_LOCAL"

    def _extern(self, out: Linked, function: Function, base: int, slot: int) -> None:
        symbol = function.relocs[slot].symbol
        insn = out.insns[base + slot]
        is_call = insn.code == CALL
        if symbol.name in self._config:
            if is_call:
                raise self._bad(function, slot, f"call of the configuration value '{symbol.name}'")
            place, offset = self._config[symbol.name]
            self._point(out, base + slot, place, offset)
            return
        out.externs.append(ExternRef(base + slot, symbol.name, is_call, symbol.binding == "STB_WEAK"))
        if is_call:
            out.insns[base + slot] = insn._replace(src=BPF_PSEUDO_KFUNC_CALL)

    @staticmethod
    def _point(out: Linked, slot: int, place: str, offset: int) -> None:
        """Make the LD_IMM64 at ``slot`` the address of byte ``offset`` in the value of a map."""
        out.insns[slot] = out.insns[slot]._replace(src=BPF_PSEUDO_MAP_VALUE, imm=0)
        out.insns[slot + 1] = Insn(0, imm=_s32(offset))
        out.map_refs.append(MapRef(slot, place, offset))

    def _load(self, out: Linked, function: Function, base: int, slot: int) -> None:
        """A LD_IMM64: a constant, a map, a place in global data, or (left to the caller) a function."""
        insn = out.insns[base + slot]
        reloc = function.relocs.get(slot)
        if slot + 1 >= len(function.insns):
            raise self._bad(function, slot, "LD_IMM64 lacks its second half")
        if insn.src == BPF_PSEUDO_FUNC or reloc is None:
            return
        symbol = reloc.symbol
        if self._is_extern(function, slot):
            self._extern(out, function, base, slot)
            return
        if symbol.section == SHN_UNDEF or symbol.section >= SHN_LORESERVE:
            cause = f"relo against '{symbol.name}' in special section {symbol.section:#x}"
            raise self._bad(function, slot, f"{cause}; forgot to initialize a global variable?")
        if symbol.section in self._by_section:
            raise self._bad(function, slot, f"address of function '{symbol.name}' without BPF_PSEUDO_FUNC")
        if symbol.section in self._parameters:
            value = self._parameters[symbol.section][symbol.value : symbol.value + 4]
            if len(value) != 4:
                raise self._bad(function, slot, f"parameter '{symbol.name}' is outside its section")
            out.insns[base + slot] = insn._replace(imm=int.from_bytes(value, "little", signed=True))
            return
        place = self._places.get((symbol.section, -1))
        if place is None:
            place = self._places.get((symbol.section, symbol.value + (insn.imm if _is_section(reloc) else 0)))
        if place is None:
            where = self._names[symbol.section]
            raise self._bad(function, slot, f"bad relo against '{symbol.name}' in section '{where}'")
        if place.is_data:
            self._point(out, base + slot, place.map, symbol.value + insn.imm)
        else:
            out.insns[base + slot] = insn._replace(src=BPF_PSEUDO_MAP_FD, imm=0)
            out.map_refs.append(MapRef(base + slot, place.map))

    def _callee(self, function: Function, slot: int, insn: Insn) -> Function:
        reloc = function.relocs.get(slot)
        if reloc is None:
            if insn.code == LD_IMM64:
                raise self._bad(function, slot, "missing subprog addr relo")
            section, target = function.section_index, function.start + slot + insn.imm + 1
            name = ""
        else:
            section, name = reloc.symbol.section, reloc.symbol.name
            # Static functions are named by their section, with the offset left in the instruction.
            if insn.code == CALL:
                target = reloc.symbol.value // BPF_INSN_SIZE + insn.imm + 1
            else:
                target, rest = divmod(reloc.symbol.value + insn.imm, BPF_INSN_SIZE)
                if rest:
                    raise self._bad(function, slot, f"bad subprog addr relo against '{name}'")
            if section not in self._by_section:
                where = self._names[section] if section < len(self._names) else hex(section)
                raise self._bad(function, slot, f"bad call relo against '{name}' in section '{where}'")
        functions = self._by_section[section]
        index = bisect_right(self._starts[section], target) - 1
        if index < 0 or functions[index].start != target:
            raise self._bad(function, slot, f"call to {self._names[section]}+{target * 8:#x}, no function")
        return functions[index]


def _s32(value: int) -> int:
    return (value + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def _is_section(reloc: Relocation) -> bool:
    return reloc.symbol.kind == "STT_SECTION"
