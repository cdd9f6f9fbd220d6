# SPDX-License-Identifier: GPL-2.0-only
"""Map definitions in an object: BTF-defined ones in ``.maps``, the old structs in ``maps``, global data.

The rules and names are libbpf's (parse_btf_map_def, bpf_object__init_internal_map); the old section is
read as libbpf did before version 1.0, with the longer structs of the kernel's samples and of iproute2.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import Final

from kernel_model.btf.parse import BTF_VAR_GLOBAL_ALLOCATED, Btf, BtfError, BtfType, Kind, Member
from kernel_model.uapi.enums import MapFlags, bpf_map_type

from .elf import ElfFile, Section, Symbol

MAPS, OLD_MAPS = ".maps", "maps"
OBJ_NAME_LEN: Final = 16
LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME = 0, 1

MAP_IN_MAP: Final = (bpf_map_type.BPF_MAP_TYPE_ARRAY_OF_MAPS, bpf_map_type.BPF_MAP_TYPE_HASH_OF_MAPS)


@dataclass(frozen=True)
class MapSpec:
    """A map as the object asks for it.

    ``kind`` is ``user`` for declared maps and ``rodata``, ``data``, ``bss`` or ``kconfig`` for global data,
    which is a one-element array with ``initial`` as its value; ``frozen`` says that it is frozen once filled.
    ``section`` and ``offset`` are where relocations point. ``slots`` are the values that a prog_array or
    map-in-map starts with: (index, name of the program or map). ``key_type`` and ``value_type`` are ids in
    the object's BTF, 0 for none. ``pinning`` is LIBBPF_PIN_NONE or LIBBPF_PIN_BY_NAME. ``elf_map`` holds
    the fields that only the old structs have (id, pinning, inner_id, inner_idx); ``pin_dir`` is the directory
    below the root of pins.
    """

    name: str
    type: int
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    map_flags: int = 0
    numa_node: int = 0
    map_extra: int = 0
    pinning: int = LIBBPF_PIN_NONE
    key_type: int = 0
    value_type: int = 0
    inner: MapSpec | None = None
    slots: tuple[tuple[int, str], ...] = ()
    kind: str = "user"
    initial: bytes | None = None
    frozen: bool = False
    section: str = ""
    offset: int = 0
    elf_map: tuple[tuple[str, int], ...] = ()
    pin_dir: str = ""

    @property
    def type_name(self) -> str:
        """The map type without its prefix, such as ``PERCPU_ARRAY``; the number when it is unknown."""
        try:
            return bpf_map_type(self.type).name.removeprefix("BPF_MAP_TYPE_")
        except ValueError:
            return str(self.type)


class _Reader:
    """Reads the definitions of one object."""

    def __init__(self, elf: ElfFile, btf: Btf) -> None:
        self.elf = elf
        self.btf = btf

    def fail(self, section: str, offset: int | None, name: str, cause: str) -> Exception:
        return self.elf.fail(section, offset, f"map '{name}': {cause}")

    def variables(self, section: Section) -> list[tuple[BtfType, int, int]]:
        number = self.btf.find(section.name, Kind.DATASEC)
        if not number:
            raise self.elf.fail(section.name, None, "BTF does not describe the section")
        return [(self.btf.type(var.type), var.offset, var.size) for var in self.btf.type(number).vars]

    def maps(self, section: Section) -> list[MapSpec]:
        out = []
        for var, offset, size in self.variables(section):
            if var.kind is not Kind.VAR or not var.name:
                raise self.elf.fail(section.name, offset, f"BTF type [{var.id}] is no named variable")
            if offset + size > section.size:
                raise self.fail(section.name, offset, var.name, "BTF data is corrupted: outside the section")
            if var.linkage != BTF_VAR_GLOBAL_ALLOCATED:
                raise self.fail(section.name, offset, var.name, "unsupported map linkage, must be global")
            definition = self.btf.resolve(var.type)
            if definition.kind is not Kind.STRUCT:
                raise self.fail(
                    section.name, offset, var.name, f"defined as {definition.kind.name}, not STRUCT"
                )
            if definition.size > size:
                raise self.fail(section.name, offset, var.name, "invalid def size")
            out.append(self.definition(var.name, definition, section.name, offset))
        return out

    def definition(
        self, name: str, definition: BtfType, section: str, offset: int, inner: bool = False
    ) -> MapSpec:
        fields: dict[str, int] = {}
        inner_spec: MapSpec | None = None
        for position, member in enumerate(definition.members):
            if member.name in _INT_FIELDS:
                if inner and member.name == "pinning":
                    raise self.fail(section, offset, name, "inner def can't be pinned")
                self.merge(
                    name, section, offset, fields, member.name, self.number(name, section, offset, member)
                )
            elif member.name in ("key", "value"):
                target = self.pointee(name, section, offset, member.name, member.type)
                try:
                    size = self.btf.size_of(target)
                except BtfError as error:
                    cause = f"can't determine {member.name} size: {error.reason}"
                    raise self.fail(section, offset, name, cause) from None
                self.merge(name, section, offset, fields, f"{member.name}_size", size)
                fields[f"{member.name}_type"] = target
            elif member.name == "values":
                if inner:
                    raise self.fail(section, offset, name, "multi-level inner maps not supported")
                if position != len(definition.members) - 1:
                    raise self.fail(section, offset, name, "'values' member should be last")
                inner_spec = self.values(name, section, offset, fields, member.type)
            else:
                raise self.fail(section, offset, name, f"unknown field '{member.name}'")
        map_type = fields.pop("type", 0)
        if not map_type:
            raise self.fail(section, offset, name, "map type isn't specified")
        if fields.get("pinning", 0) not in (LIBBPF_PIN_NONE, LIBBPF_PIN_BY_NAME):
            raise self.fail(section, offset, name, f"invalid pinning value {fields['pinning']}")
        return MapSpec(
            name,
            map_type,
            key_size=fields.get("key_size", 0),
            value_size=fields.get("value_size", 0),
            max_entries=fields.get("max_entries", 0),
            map_flags=fields.get("map_flags", 0),
            numa_node=fields.get("numa_node", 0),
            map_extra=fields.get("map_extra", 0),
            pinning=fields.get("pinning", LIBBPF_PIN_NONE),
            key_type=fields.get("key_type", 0),
            value_type=fields.get("value_type", 0),
            inner=inner_spec,
            section=section,
            offset=offset,
        )

    def merge(
        self, name: str, section: str, offset: int, fields: dict[str, int], key: str, value: int
    ) -> None:
        known = fields.get(key, 0)
        if known and known != value and key in ("key_size", "value_size"):
            raise self.fail(section, offset, name, f"conflicting {key.replace('_', ' ')} {known} != {value}")
        fields[key] = value

    def number(self, name: str, section: str, offset: int, member: Member) -> int:
        """The value of ``__uint(field, value)``: a pointer to an array of that many ints."""
        pointer = self.btf.resolve(member.type)
        target = self.btf.resolve(pointer.type) if pointer.kind is Kind.PTR else pointer
        # __ulong() writes an enumerator of an anonymous 64-bit enum instead.
        if target.kind is Kind.ENUM64 or target.kind is Kind.ENUM:
            return target.values[0].value if target.values else 0
        if pointer.kind is not Kind.PTR or target.kind is not Kind.ARRAY:
            raise self.fail(
                section, offset, name, f"attribute is {target.kind.name}, not a pointer to an array"
            )
        return target.nelems

    def pointee(self, name: str, section: str, offset: int, what: str, number: int) -> int:
        found = self.btf.type(number)
        if found.kind is not Kind.PTR:
            raise self.fail(section, offset, name, f"{what} spec is not PTR: {found.kind.name}")
        return found.type

    def values(
        self, name: str, section: str, offset: int, fields: dict[str, int], number: int
    ) -> MapSpec | None:
        map_type = fields.get("type", 0)
        is_prog_array = map_type == bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY
        if not is_prog_array and map_type not in MAP_IN_MAP:
            raise self.fail(section, offset, name, "should be map-in-map or prog-array")
        self.merge(name, section, offset, fields, "value_size", 4)
        found = self.btf.type(number)
        if found.kind is not Kind.ARRAY or found.nelems:
            raise self.fail(section, offset, name, "values spec is not a zero-sized array")
        pointer = self.btf.resolve(found.type)
        target = self.btf.resolve(pointer.type) if pointer.kind is Kind.PTR else pointer
        wanted = Kind.FUNC_PROTO if is_prog_array else Kind.STRUCT
        if pointer.kind is not Kind.PTR or target.kind is not wanted:
            raise self.fail(section, offset, name, f"values are {target.kind.name}, not {wanted.name}")
        if is_prog_array:
            return None
        return self.definition(f"{name}.inner", target, section, offset, inner=True)


_INT_FIELDS = frozenset(
    {"type", "max_entries", "map_flags", "numa_node", "key_size", "value_size", "pinning", "map_extra"}
)


def btf_maps(elf: ElfFile, section: Section, btf: Btf) -> list[MapSpec]:
    """The maps that BTF declares in the section ``.maps``, in its order, their ``slots`` filled in."""
    maps = _Reader(elf, btf).maps(section)
    starts = {spec.offset: spec for spec in maps}
    slots: dict[int, list[tuple[int, str]]] = {}
    for rel in elf.relocations(section.index):
        start = max((at for at in starts if at <= rel.offset), default=None)
        spec = starts[start] if start is not None else None
        if start is None or spec is None or not (spec.inner or spec.type == _PROG_ARRAY):
            raise elf.fail(
                section.name, rel.offset, f"relocation against '{rel.symbol.name}' in no map's values"
            )
        definition = _values_offset(btf, section.name, start)
        index, rest = divmod(rel.offset - start - definition, 8)
        if index < 0 or rest:
            raise elf.fail(
                section.name, rel.offset, f"map '{spec.name}': value of '{rel.symbol.name}' is misplaced"
            )
        slots.setdefault(start, []).append((index, _target_name(elf, section, rel.symbol, starts)))
    return [replace(spec, slots=tuple(slots.get(spec.offset, ()))) for spec in maps]


_PROG_ARRAY = bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY


def _values_offset(btf: Btf, section: str, start: int) -> int:
    datasec = btf.type(btf.find(section, Kind.DATASEC))
    var = next(var for var in datasec.vars if var.offset == start)
    definition = btf.resolve(btf.type(var.type).type)
    return next(m.bit_offset // 8 for m in definition.members if m.name == "values")


def _target_name(elf: ElfFile, section: Section, symbol: Symbol, starts: dict[int, MapSpec]) -> str:
    if symbol.section == section.index and symbol.kind != "STT_SECTION":
        return symbol.name
    if symbol.kind == "STT_FUNC":
        return symbol.name
    raise elf.fail(section.name, None, f"values point at '{symbol.name}', neither a map nor a program")


PIN_OBJECT_NS, PIN_GLOBAL_NS = 1, 2
"""iproute2's pinning: under a directory of the object's own, or under the one that all objects share."""
PIN_GLOBAL = "tc/globals"


def is_old_maps(section: str) -> bool:
    """Whether old structs stand in it: ``maps``, or ``lirc_mode2/maps`` as IR decoders have it."""
    return section == OLD_MAPS or section.endswith("/maps")


# What follows type, key_size, value_size, max_entries and map_flags, by the size of the struct.
_OLD_EXTRA: dict[int, tuple[str, ...]] = {
    20: (),
    24: ("inner_map_idx",),
    28: ("inner_map_idx", "numa_node"),
    36: ("id", "pinning", "inner_id", "inner_idx"),
}


def old_maps(elf: ElfFile, section: Section) -> list[MapSpec]:
    """The maps of a ``maps`` section: one struct a symbol, all of one size (20 to 40 bytes or more)."""
    symbols = sorted(
        (s for s in elf.symbols if s.section == section.index and s.kind in ("STT_OBJECT", "STT_NOTYPE")),
        key=lambda s: s.value,
    )
    symbols = [s for s in symbols if s.name]
    if not symbols or section.size % len(symbols):
        raise elf.fail(
            section.name, None, f"{section.size} bytes for {len(symbols)} map symbols: no uniform struct size"
        )
    size = section.size // len(symbols)
    if size < 20 or size % 4:
        raise elf.fail(section.name, None, f"map definitions of {size} bytes are too small")
    out = []
    for symbol in symbols:
        if symbol.value % size or symbol.value + size > section.size:
            raise elf.fail(section.name, symbol.value, f"map '{symbol.name}' is misplaced")
        raw = section.data[symbol.value : symbol.value + size]
        extra = _OLD_EXTRA.get(size)
        if extra is None:
            if any(raw[20:]):
                cause = f"map '{symbol.name}' has unrecognized, non-zero options in its {size} bytes"
                raise elf.fail(section.name, symbol.value + 20, cause)
            extra = ()
        more = dict(zip(extra, struct.unpack_from(f"<{len(extra)}I", raw, 20), strict=True))
        map_type, key_size, value_size, max_entries, map_flags = struct.unpack_from("<5I", raw)
        out.append(
            MapSpec(
                symbol.name,
                map_type,
                key_size,
                value_size,
                max_entries,
                map_flags,
                numa_node=more.pop("numa_node", 0),
                section=section.name,
                offset=symbol.value,
                elf_map=tuple(more.items()),
            )
        )
    return out


def data_map(object_name: str, section: Section, kind: str, value_type: int) -> MapSpec:
    """The map that holds a global-data section; its kernel name is libbpf's (``xdp_filt.rodata``)."""
    flags = MapFlags.BPF_F_MMAPABLE | (MapFlags.BPF_F_RDONLY_PROG if kind == "rodata" else 0)
    return MapSpec(
        internal_map_name(object_name, section.name),
        bpf_map_type.BPF_MAP_TYPE_ARRAY,
        key_size=4,
        value_size=section.size,
        max_entries=1,
        map_flags=int(flags),
        value_type=value_type,
        kind=kind,
        initial=None if kind == "bss" else section.data,
        frozen=kind == "rodata",
        section=section.name,
    )


KCONFIG_KIND = "kconfig"


def config_map(object_name: str, size: int, value_type: int) -> MapSpec:
    """The map that holds configuration values; the loader fills it."""
    flags = MapFlags.BPF_F_MMAPABLE | MapFlags.BPF_F_RDONLY_PROG
    return MapSpec(
        internal_map_name(object_name, ".kconfig"),
        bpf_map_type.BPF_MAP_TYPE_ARRAY,
        key_size=4,
        value_size=size,
        max_entries=1,
        map_flags=int(flags),
        value_type=value_type,
        kind=KCONFIG_KIND,
        frozen=True,
        section=".kconfig",
    )


def internal_map_name(object_name: str, section: str) -> str:
    """libbpf's name for a global-data map, at most 15 characters.

    The object's name is cut so that a suffix of at least seven characters fits; sections with a second
    dot (``.rodata.foo``) go by their own name alone.
    """
    suffix = min(max(7, len(section)), OBJ_NAME_LEN - 1)
    prefix = "" if "." in section[1:] else object_name[: OBJ_NAME_LEN - 1 - suffix]
    name = prefix + section[:suffix]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)


def join_by_id(maps: list[MapSpec], object_dir: str) -> list[MapSpec]:
    """What iproute2's structs say by their ids: pinning, and maps in maps.

    A map with ``inner_id`` is made for maps like the one of that ``id``, which goes into it at its
    ``inner_idx``. ``object_dir`` is the directory of pins that are the object's own.
    """
    by_id = {fields["id"]: spec for spec in maps if (fields := dict(spec.elf_map)).get("id")}
    out = []
    for spec in maps:
        fields = dict(spec.elf_map)
        scope = fields.get("pinning", 0)
        if scope in (PIN_OBJECT_NS, PIN_GLOBAL_NS):
            where = PIN_GLOBAL if scope == PIN_GLOBAL_NS else object_dir
            spec = replace(spec, pinning=LIBBPF_PIN_BY_NAME, pin_dir=where)
        inner = by_id.get(fields.get("inner_id", 0)) if spec.type in MAP_IN_MAP else None
        if inner is not None:
            slot = (dict(inner.elf_map)["inner_idx"], inner.name)
            spec = replace(spec, inner=replace(inner, name=f"{spec.name}.inner", pinning=0), slots=(slot,))
        out.append(spec)
    return out


def with_tails(maps: list[MapSpec], entries: dict[str, str]) -> list[MapSpec]:
    """iproute2's tail calls: ``entries`` gives program names by sections ``ID/KEY``.

    The program goes to slot KEY of the program array with that id; numbers are decimal, octal or hex.
    """
    slots: dict[int, list[tuple[int, str]]] = {}
    for section, prog in entries.items():
        number, _, key = section.partition("/")
        if _is_number(number) and _is_number(key):
            slots.setdefault(_number(number), []).append((_number(key), prog))
    return [
        replace(spec, slots=tuple(sorted(slots.get(dict(spec.elf_map).get("id", 0), ()))))
        if spec.type == _PROG_ARRAY and spec.elf_map
        else spec
        for spec in maps
    ]


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text))


def _number(text: str) -> int:
    """As strtoul(3) with base 0."""
    return int(text, 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10)


_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
