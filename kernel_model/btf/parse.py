# SPDX-License-Identifier: GPL-2.0-only
"""The wire format of BTF (Documentation/bpf/btf.rst): reading types out of it by id and by name.

Reading is lazy: one pass finds where each type begins, a type is decoded when it is asked for; so a
kernel's 5 MB are open in a fraction of a second. What this module checks is what it needs to read
safely; the kernel's full rules for BTF_LOAD are in ``kernel_model.btf.check``. User space and the kernel
share both.
"""

from __future__ import annotations

import errno
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from ..errors import KernelError

BTF_MAGIC: Final = 0xEB9F
BTF_VERSION: Final = 1
BTF_MAX_TYPE: Final = 0x000FFFFF
BTF_MAX_NAME_OFFSET: Final = 0x00FFFFFF
BTF_MAX_SIZE: Final = 16 << 20
ENOTSUPP: Final = 524

HEADER = struct.Struct("<HBBIIIII")
"""magic, version, flags, hdr_len, type_off, type_len, str_off, str_len."""
_TYPE = struct.Struct("<III")
_U32 = struct.Struct("<I")
_ARRAY = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ENUM = struct.Struct("<II")
_ENUM64 = struct.Struct("<III")
_PARAM = struct.Struct("<II")
_SECVAR = struct.Struct("<III")
_I32 = struct.Struct("<i")

BTF_INT_SIGNED, BTF_INT_CHAR, BTF_INT_BOOL = 1, 2, 4
BTF_VAR_STATIC, BTF_VAR_GLOBAL_ALLOCATED, BTF_VAR_GLOBAL_EXTERN = 0, 1, 2
BTF_FUNC_STATIC, BTF_FUNC_GLOBAL, BTF_FUNC_EXTERN = 0, 1, 2


class Kind(IntEnum):
    """BTF_KIND_ numbers."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS: Final = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
SIZED: Final = frozenset(
    {Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.DATASEC, Kind.FLOAT, Kind.ENUM64}
)

# Bytes that follow the 12 of struct btf_type: once, and for each of the vlen elements.
_TRAILER: Final[dict[int, tuple[int, int]]] = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}


class BtfError(KernelError):
    """BTF that cannot be used: Linux's ``errno``, the ``reason``, and the byte ``offset`` in the blob."""

    def __init__(self, errno: int, reason: str, offset: int = 0) -> None:
        super().__init__(errno, reason)
        self.offset = offset

    def __reduce__(self) -> tuple[type[BtfError], tuple[int, str, int]]:
        return (BtfError, (self.errno, self.reason, self.offset))

    def __str__(self) -> str:
        return f"BTF at {self.offset:#x}: {self.reason}"


class Member(NamedTuple):
    """A member: ``bit_size`` is 0 unless it is a bit-field of a type with the kind flag."""

    name: str
    type: int
    bit_offset: int
    bit_size: int


class EnumValue(NamedTuple):
    """An enumerator, its value signed or not as the enum says."""

    name: str
    value: int


class Param(NamedTuple):
    """A parameter; type 0 in the last place stands for "..."."""

    name: str
    type: int


class SecVar(NamedTuple):
    """A variable (type id of a VAR) at ``offset`` in its section, ``size`` bytes."""

    type: int
    offset: int
    size: int


@dataclass(frozen=True)
class BtfType:
    """One type. ``size`` is set for sized kinds, ``type`` (an id) for those that refer to another type.

    The other fields belong to the kinds that have them: members (STRUCT, UNION), values (ENUM, ENUM64),
    params (FUNC_PROTO), vars (DATASEC), nelems, elem and index (ARRAY), encoding, bits and bit_offset
    (INT), linkage (VAR, FUNC), component (DECL_TAG; -1 is the whole).
    """

    id: int
    kind: Kind
    name: str
    kflag: bool = False
    size: int = 0
    type: int = 0
    members: tuple[Member, ...] = ()
    values: tuple[EnumValue, ...] = ()
    params: tuple[Param, ...] = ()
    vars: tuple[SecVar, ...] = ()
    nelems: int = 0
    index: int = 0
    encoding: int = 0
    bits: int = 0
    bit_offset: int = 0
    linkage: int = 0
    component: int = -1


_VOID = BtfType(0, Kind.VOID, "void")


class Btf:
    """Parsed BTF. Type ids run from 1 (or from the end of ``base`` for split BTF) to ``len(btf) - 1``.

    Raises BtfError when the header, the sections or the type stream do not hold together. A ``tolerant``
    reading keeps the types before a damaged one, and the error in ``damage``.
    """

    def __init__(self, data: bytes, base: Btf | None = None, tolerant: bool = False) -> None:
        self.data = data
        self.base = base
        self.start_id = len(base) if base else 1
        self._base_strings = base.strings_end if base else 0
        self._types_at, types_len, self._strings_at, self._strings_len = self._header()
        self._offsets = array("I")
        self.damage: BtfError | None = None
        try:
            self._scan(self._types_at + types_len)
        except BtfError as error:
            if not tolerant:
                raise
            self.damage = error
        self._cache: dict[int, BtfType] = {}
        self._names: dict[tuple[str, Kind], int] | None = None

    def __len__(self) -> int:
        return self.start_id + len(self._offsets)

    def __iter__(self) -> Iterator[BtfType]:
        """The types of this BTF by id, without those of the base."""
        return (self.type(number) for number in range(self.start_id, len(self)))

    @property
    def strings_end(self) -> int:
        """The first string offset behind this BTF's strings (where a split BTF goes on)."""
        return self._base_strings + self._strings_len

    def _header(self) -> tuple[int, int, int, int]:
        data = self.data
        if len(data) > BTF_MAX_SIZE:
            raise BtfError(errno.E2BIG, f"{len(data)} bytes exceed {BTF_MAX_SIZE}")
        if len(data) < 8:
            raise BtfError(errno.EINVAL, "hdr_len not found")
        (hdr_len,) = _U32.unpack_from(data, 4)
        if len(data) < hdr_len:
            raise BtfError(errno.EINVAL, "btf_header not found", 4)
        if any(data[HEADER.size : hdr_len]):
            raise BtfError(errno.E2BIG, "Unsupported btf_header", HEADER.size)
        fields = HEADER.unpack(data[: min(hdr_len, HEADER.size)].ljust(HEADER.size, b"\0"))
        magic, version, flags, _, type_off, type_len, str_off, str_len = fields
        if magic != BTF_MAGIC:
            raise BtfError(errno.EINVAL, "Invalid magic")
        if version != BTF_VERSION:
            raise BtfError(ENOTSUPP, "Unsupported version", 2)
        if flags:
            raise BtfError(ENOTSUPP, "Unsupported flags", 3)
        body = len(data) - hdr_len
        if not body and self.base is None:
            raise BtfError(errno.EINVAL, "No data", hdr_len)
        total = 0
        for off, size in sorted(((type_off, type_len), (str_off, str_len))):
            if body < off:
                raise BtfError(errno.EINVAL, "Invalid section offset", 8)
            if total != off:
                cause = "Unsupported section found" if total < off else "Section overlap found"
                raise BtfError(errno.EINVAL, cause, 8)
            if body - total < size:
                raise BtfError(errno.EINVAL, "Total section length too long", 8)
            total += size
        if body != total:
            raise BtfError(errno.EINVAL, "Unsupported section found", hdr_len + total)
        strings = hdr_len + str_off
        if str_off + str_len != body:
            raise BtfError(errno.EINVAL, "String section is not at the end", strings)
        bad = not str_len or str_len - 1 > BTF_MAX_NAME_OFFSET or data[-1]
        if (bad and not (self.base and not str_len)) or (self.base is None and data[strings]):
            raise BtfError(errno.EINVAL, "Invalid string section", strings)
        if type_off % 4:
            raise BtfError(errno.EINVAL, "Unaligned type_off", 8)
        if not type_len and self.base is None:
            raise BtfError(errno.EINVAL, "No type found", 12)
        return hdr_len + type_off, type_len, strings, str_len

    def _scan(self, end: int) -> None:
        at, data, offsets = self._types_at, self.data, self._offsets
        unpack, trailer = _TYPE.unpack_from, _TRAILER
        while at < end:
            if end - at < 12:
                raise BtfError(errno.EINVAL, f"[{len(self)}] meta_left:{end - at} meta_needed:12", at)
            _, info, _ = unpack(data, at)
            kind = info >> 24 & 0x1F
            if info & ~0x9F00FFFF:
                raise BtfError(errno.EINVAL, f"[{len(self)}] Invalid btf_info:{info:x}", at)
            if not 1 <= kind <= Kind.ENUM64:
                raise BtfError(errno.EINVAL, f"[{len(self)}] Invalid kind:{kind}", at)
            once, each = trailer.get(kind, (0, 0))
            size = once + each * (info & 0xFFFF)
            if end - at - 12 < size:
                text = f"[{len(self)}] meta_left:{end - at - 12} meta_needed:{size}"
                raise BtfError(errno.EINVAL, text, at)
            if len(self) > BTF_MAX_TYPE:
                raise BtfError(errno.E2BIG, f"BTF has more than {BTF_MAX_TYPE} types", at)
            offsets.append(at)
            at += 12 + size

    def name_valid(self, offset: int) -> bool:
        """Whether ``offset`` points into the strings (of the base or of this BTF)."""
        return offset < self.strings_end

    def string(self, offset: int) -> str:
        """The string at ``offset``; BtfError(EINVAL) outside the strings."""
        if offset < self._base_strings:
            assert self.base is not None
            return self.base.string(offset)
        at = offset - self._base_strings
        if at >= self._strings_len:
            raise BtfError(errno.EINVAL, f"Invalid name_offset:{offset}", self._strings_at)
        at += self._strings_at
        # latin-1 keeps each byte apart, so a name reads back as it was written.
        return self.data[at : self.data.index(b"\0", at)].decode("latin-1")

    def offset_of(self, number: int) -> int:
        """Where in ``data`` the type begins; BtfError for an id that is not of this BTF."""
        if not self.start_id <= number < len(self):
            raise BtfError(errno.EINVAL, f"type id {number} is outside {self.start_id}..{len(self) - 1}")
        return self._offsets[number - self.start_id]

    def kind(self, number: int) -> Kind:
        """The kind alone, without decoding the type."""
        if number == 0:
            return Kind.VOID
        if self.base is not None and number < self.start_id:
            return self.base.kind(number)
        return Kind(self.data[self.offset_of(number) + 7] & 0x1F)

    def type(self, number: int) -> BtfType:
        """The type with that id (0 is void); BtfError(EINVAL) when there is none."""
        if number == 0:
            return _VOID
        if self.base is not None and number < self.start_id:
            return self.base.type(number)
        found = self._cache.get(number)
        if found is None:
            found = self._cache[number] = self._decode(number)
        return found

    def names(self) -> Iterator[tuple[int, str]]:
        """Every named type, those of the base first, as (id, name), without decoding the types."""
        if self.base is not None:
            yield from self.base.names()
        for number, at in enumerate(self._offsets, self.start_id):
            (name_off,) = _U32.unpack_from(self.data, at)
            if name_off:
                yield number, self.string(name_off)

    def find(self, name: str, kind: Kind) -> int:
        """The id of the first type of that name and kind; 0 when there is none."""
        if self.base is not None and (number := self.base.find(name, kind)):
            return number
        if self._names is None:
            self._names = {}
            for number in range(self.start_id, len(self)):
                (name_off,) = _U32.unpack_from(self.data, self.offset_of(number))
                if name_off and self.name_valid(name_off):
                    self._names.setdefault((self.string(name_off), self.kind(number)), number)
        return self._names.get((name, kind), 0)

    def resolve(self, number: int) -> BtfType:
        """The type behind typedefs, qualifiers and type tags; BtfError(ELOOP) when they form a circle."""
        for _ in range(len(self)):
            found = self.type(number)
            if found.kind not in MODIFIERS:
                return found
            number = found.type
        raise BtfError(errno.ELOOP, f"[{number}] chain of modifiers has no end")

    def size_of(self, number: int) -> int:
        """sizeof() in bytes; BtfError(EINVAL) for a type that has none (void, functions, forwards)."""
        count = 1
        for _ in range(len(self)):
            found = self.resolve(number)
            if found.kind in SIZED:
                return count * found.size
            if found.kind is Kind.PTR:
                return count * 8
            if found.kind is Kind.VAR:
                number = found.type
            elif found.kind is Kind.ARRAY:
                count *= found.nelems
                number = found.type
            else:
                raise BtfError(errno.EINVAL, f"[{found.id}] {found.kind.name} {found.name} has no size")
        raise BtfError(errno.ELOOP, f"[{number}] array of itself")

    def _decode(self, number: int) -> BtfType:
        at = self.offset_of(number)
        name_off, info, size = _TYPE.unpack_from(self.data, at)
        kind, vlen, kflag = Kind(info >> 24 & 0x1F), info & 0xFFFF, bool(info >> 31)
        decode = _DECODERS.get(kind)
        common = (number, kind, self.string(name_off), kflag)
        if decode is not None:
            return decode(self, common, at + 12, vlen, size)
        if kind in SIZED:
            return BtfType(*common, size=size)
        return BtfType(*common, type=size, linkage=vlen)

    def _array(self, common: _Common, at: int, _vlen: int, _size: int) -> BtfType:
        elem, index, nelems = _ARRAY.unpack_from(self.data, at)
        return BtfType(*common, type=elem, index=index, nelems=nelems)

    def _int(self, common: _Common, at: int, _vlen: int, size: int) -> BtfType:
        (word,) = _U32.unpack_from(self.data, at)
        return BtfType(
            *common, size=size, encoding=word >> 24 & 0xF, bit_offset=word >> 16 & 0xFF, bits=word & 0xFF
        )

    def _composite(self, common: _Common, at: int, vlen: int, size: int) -> BtfType:
        rows = _MEMBER.iter_unpack(self.data[at : at + 12 * vlen])
        if common[3]:
            members = [Member(self.string(n), t, off & 0xFFFFFF, off >> 24) for n, t, off in rows]
        else:
            members = [Member(self.string(n), t, off, 0) for n, t, off in rows]
        return BtfType(*common, size=size, members=tuple(members))

    def _enum(self, common: _Common, at: int, vlen: int, size: int) -> BtfType:
        rows = _ENUM.iter_unpack(self.data[at : at + 8 * vlen])
        wrap = 1 << 32 if common[3] else 0
        values = [EnumValue(self.string(n), v - wrap if v >> 31 else v) for n, v in rows]
        return BtfType(*common, size=size, values=tuple(values))

    def _enum64(self, common: _Common, at: int, vlen: int, size: int) -> BtfType:
        rows = _ENUM64.iter_unpack(self.data[at : at + 12 * vlen])
        wrap = 1 << 64 if common[3] else 0
        values = [
            EnumValue(self.string(n), (high << 32 | low) - (wrap if high >> 31 else 0))
            for n, low, high in rows
        ]
        return BtfType(*common, size=size, values=tuple(values))

    def _func_proto(self, common: _Common, at: int, vlen: int, size: int) -> BtfType:
        rows = _PARAM.iter_unpack(self.data[at : at + 8 * vlen])
        return BtfType(*common, type=size, params=tuple(Param(self.string(n), t) for n, t in rows))

    def _var(self, common: _Common, at: int, _vlen: int, size: int) -> BtfType:
        return BtfType(*common, type=size, linkage=_U32.unpack_from(self.data, at)[0])

    def _datasec(self, common: _Common, at: int, vlen: int, size: int) -> BtfType:
        rows = _SECVAR.iter_unpack(self.data[at : at + 12 * vlen])
        return BtfType(*common, size=size, vars=tuple(SecVar(*row) for row in rows))

    def _decl_tag(self, common: _Common, at: int, _vlen: int, size: int) -> BtfType:
        return BtfType(*common, type=size, component=_I32.unpack_from(self.data, at)[0])


_Common = tuple[int, Kind, str, bool]

_DECODERS = {
    Kind.INT: Btf._int,
    Kind.ARRAY: Btf._array,
    Kind.STRUCT: Btf._composite,
    Kind.UNION: Btf._composite,
    Kind.ENUM: Btf._enum,
    Kind.FUNC_PROTO: Btf._func_proto,
    Kind.VAR: Btf._var,
    Kind.DATASEC: Btf._datasec,
    Kind.DECL_TAG: Btf._decl_tag,
    Kind.ENUM64: Btf._enum64,
}
