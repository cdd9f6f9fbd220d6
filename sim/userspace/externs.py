# SPDX-License-Identifier: GPL-2.0-only
"""What an object wants to know of the kernel: configuration values (``.kconfig``) and symbols (``.ksyms``).

Rules and order are libbpf's (bpf_object__collect_externs, set_kcfg_value). Configuration values become one
read-only map; symbols become addresses or BTF ids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from kernel_model.btf.parse import BTF_VAR_GLOBAL_ALLOCATED, HEADER, Btf, BtfError, BtfType, Kind

from .elf import SHN_UNDEF, Symbol

KCONFIG, KSYMS = ".kconfig", ".ksyms"
_BTF_FUNC_GLOBAL = 1
_INT_SIZE = 4
_SIGNED, _CHAR, _BOOL = 1, 2, 4


class ValueKind(Enum):
    """How a configuration value is stored."""

    BOOL = auto()
    CHAR = auto()
    INT = auto()
    TRISTATE = auto()
    STRING = auto()


@dataclass(frozen=True)
class Extern:
    """An extern variable or function. ``number`` is the id of its VAR or FUNC in the object's BTF.

    ``typed``: a variable that is more than an address (void). For configuration values: ``kind``, ``size``
    in bytes, ``signed``, and ``offset`` in the map.
    """

    name: str
    section: str
    weak: bool
    number: int
    is_func: bool = False
    typed: bool = False
    kind: ValueKind | None = None
    size: int = 0
    align: int = 1
    signed: bool = False
    offset: int = 0


class ExternError(ValueError):
    """An extern that cannot be what it is declared as; the cause in words."""


def collect(btf: Btf, symbols: Iterable[Symbol]) -> tuple[Extern, ...]:
    """The externs of an object, configuration values first and in the order in which they are stored."""
    declared = {}
    for section in (KCONFIG, KSYMS):
        number = btf.find(section, Kind.DATASEC)
        for var in btf.type(number).vars if number else ():
            declared[btf.type(var.type).name] = (section, btf.type(var.type))
    out = []
    for symbol in symbols:
        undefined = symbol.section == SHN_UNDEF and symbol.binding in ("STB_GLOBAL", "STB_WEAK")
        if not undefined or symbol.kind != "STT_NOTYPE" or symbol.name not in declared:
            continue
        section, found = declared[symbol.name]
        out.append(_extern(btf, section, found, symbol.binding == "STB_WEAK"))
    out.sort(key=lambda e: (e.section != KCONFIG, -e.align if e.section == KCONFIG else 0, e.size, e.name))
    placed, end = [], 0
    for each in out:
        if each.section == KCONFIG:
            offset = -(-end // each.align) * each.align
            end = offset + each.size
            each = replace(each, offset=offset)
        placed.append(each)
    return tuple(placed)


def _extern(btf: Btf, section: str, found: BtfType, weak: bool) -> Extern:
    if section == KSYMS or found.kind is not Kind.VAR:
        if section == KCONFIG:
            raise ExternError(f"extern function '{found.name}' is unsupported under {KCONFIG} section")
        is_func = found.kind is Kind.FUNC
        typed = not is_func and btf.resolve(found.type).kind is not Kind.VOID
        return Extern(found.name, section, weak, found.id, is_func, typed)
    try:
        size = btf.size_of(found.type)
    except BtfError as error:
        raise ExternError(f"extern '{found.name}': {error.reason}") from None
    kind, signed = _value_kind(btf, found)
    align = _alignment(btf, found.type)
    return Extern(found.name, section, weak, found.id, False, False, kind, size, align, signed)


def _value_kind(btf: Btf, var: BtfType) -> tuple[ValueKind, bool]:
    found = btf.resolve(var.type)
    if found.kind is Kind.INT:
        signed = bool(found.encoding & _SIGNED)
        if found.encoding & _BOOL and found.size == 1:
            return ValueKind.BOOL, signed
        if not found.encoding & _BOOL and found.size in (1, 2, 4, 8):
            return (ValueKind.CHAR if found.size == 1 else ValueKind.INT), signed
    elif found.kind is Kind.ENUM and found.size == 4 and found.name == "libbpf_tristate":
        return ValueKind.TRISTATE, False
    elif found.kind is Kind.ARRAY and found.nelems:
        element = btf.resolve(found.type)
        if element.kind is Kind.INT and element.size == 1:
            return ValueKind.STRING, False
    raise ExternError(f"extern (kcfg) '{var.name}': type is unsupported")


def _alignment(btf: Btf, number: int) -> int:
    found = btf.resolve(number)
    return _alignment(btf, found.type) if found.kind is Kind.ARRAY else max(found.size, 1)


def map_size(externs: Iterable[Extern]) -> int:
    """The bytes of the map of configuration values; 0 when there are none."""
    return max((e.offset + e.size for e in externs if e.section == KCONFIG), default=0)


# The object's BTF as the kernel takes it


def fix_up(data: bytes, btf: Btf, externs: tuple[Extern, ...]) -> bytes:
    """The BTF with externs as if they were defined, since the kernel knows no others.

    Symbols become integers of a section that nobody loads; a function stands there as a variable.
    """
    if not externs:
        return data
    out = bytearray(data)
    by_id = {each.number: each for each in externs}
    sections = {name: btf.find(name, Kind.DATASEC) for name in (KCONFIG, KSYMS)}
    if sections[KCONFIG]:
        _fix_config(out, btf, sections[KCONFIG], by_id)
    if sections[KSYMS]:
        return _fix_symbols(out, btf, sections[KSYMS])
    return bytes(out)


def _fix_config(out: bytearray, btf: Btf, number: int, externs: Mapping[int, Extern]) -> None:
    rows = []
    for var in btf.type(number).vars:
        found = externs.get(var.type)
        if found is None:
            rows.append((var.type, var.offset, var.size))
            continue
        struct.pack_into("<I", out, btf.offset_of(var.type) + 12, BTF_VAR_GLOBAL_ALLOCATED)
        rows.append((var.type, found.offset, found.size))
    rows.sort(key=lambda row: row[1])
    _set_section(out, btf, number, map_size(externs.values()), rows)


def _set_section(out: bytearray, btf: Btf, number: int, size: int, rows: list[tuple[int, int, int]]) -> None:
    at = btf.offset_of(number)
    struct.pack_into("<I", out, at + 8, size)
    for index, row in enumerate(rows):
        struct.pack_into("<III", out, at + 12 + 12 * index, *row)


def _fix_symbols(out: bytearray, btf: Btf, number: int) -> bytes:
    variables = btf.type(number).vars
    functions = [btf.type(var.type) for var in variables if btf.type(var.type).kind is Kind.FUNC]
    integer = _find_int(btf)
    types, strings = bytearray(), bytearray()
    next_id, next_string = len(btf), btf.strings_end
    if not integer:
        types += struct.pack("<IIII", next_string, Kind.INT << 24, _INT_SIZE, _SIGNED << 24 | 32)
        strings += b"int\0"
        integer, next_id, next_string = next_id, next_id + 1, next_string + 4
    dummy = 0
    if functions:
        dummy = next_id
        types += struct.pack("<IIII", next_string, Kind.VAR << 24, integer, BTF_VAR_GLOBAL_ALLOCATED)
        strings += b"dummy_ksym\0"
    rows = []
    for index, var in enumerate(variables):
        at = btf.offset_of(var.type)
        if btf.kind(var.type) is Kind.FUNC:
            (info,) = struct.unpack_from("<I", out, at + 4)
            struct.pack_into("<I", out, at + 4, info & ~0xFFFF | _BTF_FUNC_GLOBAL)
            _name_params(out, btf, btf.type(var.type).type, next_string)
            rows.append((dummy, index * _INT_SIZE, _INT_SIZE))
        else:
            struct.pack_into("<II", out, at + 8, integer, BTF_VAR_GLOBAL_ALLOCATED)
            rows.append((var.type, index * _INT_SIZE, _INT_SIZE))
    _set_section(out, btf, number, len(rows) * _INT_SIZE, rows)
    return _append(bytes(out), bytes(types), bytes(strings))


def _name_params(out: bytearray, btf: Btf, proto: int, name: int) -> None:
    """The kernel wants names for the parameters of functions that count as defined."""
    at = btf.offset_of(proto) + 12
    for index, param in enumerate(btf.type(proto).params):
        if not param.name and param.type:
            struct.pack_into("<I", out, at + 8 * index, name)


def _find_int(btf: Btf) -> int:
    for found in btf:
        if found.kind is Kind.INT and found.size == _INT_SIZE and found.bits == 32 and not found.bit_offset:
            return found.id
    return 0


def _append(data: bytes, types: bytes, strings: bytes) -> bytes:
    head = list(HEADER.unpack_from(data))
    size, type_off, type_len, str_off, str_len = head[3:8]
    body = data[size:]
    new = body[type_off : type_off + type_len] + types
    head[3:8] = [HEADER.size, 0, len(new), len(new), str_len + len(strings)]
    return HEADER.pack(*head) + new + body[str_off : str_off + str_len] + strings


# Configuration values


def config_values(externs: Iterable[Extern], config: Mapping[str, str]) -> bytes:
    """The content of the map. ``config`` gives each value as the kernel's .config has it (``y``, ``"text"``,
    ``250``). ExternError for one that is missing and not weak, or does not fit its type."""
    wanted = [each for each in externs if each.section == KCONFIG]
    out = bytearray(map_size(wanted))
    for each in wanted:
        text = config.get(each.name)
        if text is None:
            if not each.weak:
                raise ExternError(f"extern (kcfg) '{each.name}' (strong): not resolved")
            continue
        out[each.offset : each.offset + each.size] = _encode(each, text)
    return bytes(out)


_TRISTATE = {"n": 0, "y": 1, "m": 2}


def _encode(extern: Extern, text: str) -> bytes:
    if text.startswith('"'):
        return _string(extern, text)
    if text in _TRISTATE:
        return _tristate(extern, text)
    return _number(extern, text)


def _bad(extern: Extern, text: str, cause: str) -> ExternError:
    return ExternError(f"extern (kcfg) '{extern.name}': value '{text}' {cause}")


def _tristate(extern: Extern, text: str) -> bytes:
    if extern.kind is ValueKind.CHAR:
        return text.encode()
    if extern.kind is ValueKind.TRISTATE or (extern.kind is ValueKind.BOOL and text != "m"):
        return _TRISTATE[text].to_bytes(extern.size, "little")
    raise _bad(extern, text, "implies tristate type")


def _string(extern: Extern, text: str) -> bytes:
    if extern.kind is not ValueKind.STRING:
        raise _bad(extern, text, "implies char array type")
    if len(text) < 2 or not text.endswith('"'):
        raise _bad(extern, text, "is invalid: the closing quote is missing")
    return text[1:-1].encode()[: extern.size - 1].ljust(extern.size, b"\0")


def _number(extern: Extern, text: str) -> bytes:
    if extern.kind not in (ValueKind.INT, ValueKind.CHAR):
        raise _bad(extern, text, "implies integer type")
    try:
        value = int(text, 0)
        # Values with the upper bit set are written as unsigned numbers, whatever the type.
        if value >= 1 << 63:
            value -= (1 << 64) * extern.signed
        return value.to_bytes(extern.size, "little", signed=extern.signed)
    except (ValueError, OverflowError):
        raise _bad(extern, text, f"doesn't fit in {extern.size} bytes") from None


def parse_config(text: str) -> dict[str, str]:
    """A kernel's .config: CONFIG_NAME=value lines; everything else is a comment."""
    out = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.startswith("CONFIG_"):
            out[name] = value
    return out
