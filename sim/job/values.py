# SPDX-License-Identifier: GPL-2.0-only
"""Bytes of map keys and values as data for people and JSON, by the types in an object's BTF."""

from __future__ import annotations

from typing import Any

from kernel_model.btf.parse import (
    BTF_INT_BOOL,
    BTF_INT_CHAR,
    BTF_INT_SIGNED,
    Btf,
    BtfError,
    BtfType,
    Kind,
    Member,
)

Value = Any
"""What JSON has: int, bool, str, list, dict."""


def decode(btf: Btf | None, type_id: int, data: bytes) -> Value:
    """``data`` as a value of the type; without a type (id 0), a number up to 8 bytes, else hex digits.

    Structs and unions become dicts by member name, arrays lists, arrays of characters text; enumerators
    go by name. What has no plain form (floats, forward declarations) becomes hex digits.
    """
    if btf is None or not type_id:
        return int.from_bytes(data, "little") if len(data) in (1, 2, 4, 8) else data.hex()
    try:
        found = btf.resolve(type_id)
        return _DECODERS.get(found.kind, _hex)(btf, found, data)
    except BtfError:
        return data.hex()


def _hex(_btf: Btf, _type: BtfType, data: bytes) -> Value:
    return data.hex()


def _int(_btf: Btf, found: BtfType, data: bytes) -> Value:
    value = int.from_bytes(data[: found.size], "little", signed=bool(found.encoding & BTF_INT_SIGNED))
    return bool(value) if found.encoding & BTF_INT_BOOL else value


def _enum(_btf: Btf, found: BtfType, data: bytes) -> Value:
    value = int.from_bytes(data[: found.size], "little", signed=any(v.value < 0 for v in found.values))
    return next((each.name for each in found.values if each.value == value), value)


def _pointer(_btf: Btf, _type: BtfType, data: bytes) -> Value:
    return f"{int.from_bytes(data[:8], 'little'):#x}"


def _array(btf: Btf, found: BtfType, data: bytes) -> Value:
    size = btf.size_of(found.type)
    elem = btf.resolve(found.type)
    if elem.kind is Kind.INT and elem.size == 1:
        return _bytes(elem, data[: found.nelems])
    return [decode(btf, found.type, data[at : at + size]) for at in range(0, found.nelems * size, size)]


def _bytes(elem: BtfType, data: bytes) -> Value:
    text = data.rstrip(b"\0")
    if (elem.encoding & BTF_INT_CHAR or elem.name == "char") and all(
        32 <= byte < 127 for byte in text.rstrip(b"\n")
    ):
        return text.decode("ascii")
    return data.hex()


def _struct(btf: Btf, found: BtfType, data: bytes) -> Value:
    out: dict[str, Value] = {}
    for index, member in enumerate(found.members):
        value = _member(btf, member, data)
        if member.name:
            out[member.name] = value
        elif isinstance(value, dict):
            out |= value
        else:
            out[f"({index})"] = value
    return out


def _member(btf: Btf, member: Member, data: bytes) -> Value:
    if member.bit_size:
        raw = int.from_bytes(data, "little") >> member.bit_offset
        return raw & ((1 << member.bit_size) - 1)
    start = member.bit_offset // 8
    return decode(btf, member.type, data[start : start + btf.size_of(member.type)])


def _datasec(btf: Btf, found: BtfType, data: bytes) -> Value:
    out: dict[str, Value] = {}
    for var in found.vars:
        variable = btf.type(var.type)
        out[variable.name] = decode(btf, variable.type, data[var.offset : var.offset + var.size])
    return out


_DECODERS = {
    Kind.INT: _int,
    Kind.ENUM: _enum,
    Kind.ENUM64: _enum,
    Kind.PTR: _pointer,
    Kind.ARRAY: _array,
    Kind.STRUCT: _struct,
    Kind.UNION: _struct,
    Kind.DATASEC: _datasec,
}


def text(value: Value) -> str:
    """A decoded value in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} {text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(text(each) for each in value) + "]"
    return str(value)
