# SPDX-License-Identifier: GPL-2.0-only
"""Which BTF the kernel takes: the rules of BTF_LOAD (kernel/bpf/btf.c of Linux 6.18).

Two passes, as in the kernel: each type by itself, then what types say of each other. The first broken
rule ends in a BtfError with Linux's errno and, in the reason, Linux's words.
"""

from __future__ import annotations

import errno
import struct
from enum import Enum, auto

from .parse import (
    BTF_FUNC_GLOBAL,
    BTF_INT_BOOL,
    BTF_INT_CHAR,
    BTF_INT_SIGNED,
    BTF_VAR_GLOBAL_ALLOCATED,
    BTF_VAR_STATIC,
    ENOTSUPP,
    MODIFIERS,
    SIZED,
    Btf,
    BtfError,
    BtfType,
    Kind,
    Member,
)

KSYM_NAME_LEN = 512
MAX_RESOLVE_DEPTH = 32
MAX_TYPE_CHAIN = 32
U32_MAX = 0xFFFFFFFF

_U32 = struct.Struct("<I")
_COMPOSITE = (Kind.STRUCT, Kind.UNION)
_SOURCE_ONLY = frozenset({Kind.VAR, Kind.DECL_TAG, Kind.DATASEC})
_NO_SIZE = frozenset({Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO})
_NEEDS_RESOLVE = (
    MODIFIERS | _SOURCE_ONLY | frozenset({Kind.PTR, Kind.STRUCT, Kind.UNION, Kind.ARRAY, Kind.FUNC})
)
_TAGGED = frozenset({Kind.FUNC, Kind.STRUCT, Kind.UNION, Kind.VAR, Kind.TYPEDEF})
# Kinds that may carry the kind flag.
_KFLAG = frozenset({Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FWD, Kind.DECL_TAG, Kind.TYPE_TAG})
# Kinds whose vlen counts something.
_VLEN = frozenset({Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FUNC, Kind.FUNC_PROTO, Kind.DATASEC})


def load_btf(data: bytes, base: Btf | None = None) -> Btf:
    """Parse and check ``data`` as BTF_LOAD does.

    BtfError for the first rule that is broken; ``base``, if any, counts as checked.
    """
    btf = Btf(data, base, tolerant=True)
    _Metas(btf).run()
    if btf.damage is not None:
        raise btf.damage
    _Resolver(btf).run()
    _check_type_tags(btf)
    return btf


_LETTERS = frozenset(chr(code) for code in (*range(0xC0, 0xD7), *range(0xD8, 0xF7), *range(0xF8, 0x100)))
"""What Linux's isalpha() takes beyond ASCII: the letters of Latin-1."""
_NAME = frozenset("_.") | frozenset(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123)))) | _LETTERS


def _identifier(name: str) -> bool:
    return 0 < len(name) < KSYM_NAME_LEN and name[0] not in "0123456789" and _NAME.issuperset(name)


def _name_offsets(btf: Btf, found: BtfType, stride: int) -> list[int]:
    """The name offsets of members or parameters, ``stride`` bytes apart, as they stand in the file."""
    at = btf.offset_of(found.id) + 12
    count = len(found.members) or len(found.params)
    return [_U32.unpack_from(btf.data, at + stride * i)[0] for i in range(count)]


def _section_name(name: str) -> bool:
    return 0 < len(name) < KSYM_NAME_LEN and all(" " <= c <= "~" or c >= "\xa0" for c in name)


def _fail(btf: Btf, found: BtfType, reason: str, number: int = errno.EINVAL) -> BtfError:
    text = f"[{found.id}] {found.kind.name} {found.name or '(anon)'} {reason}"
    return BtfError(number, text, btf.offset_of(found.id) if found.id >= btf.start_id else 0)


class _Metas:
    """Each type by itself: btf_check_all_metas()."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf

    def run(self) -> None:
        for number in range(self.btf.start_id, len(self.btf)):
            at = self.btf.offset_of(number)
            name_off, info, word = struct.unpack_from("<III", self.btf.data, at)
            if not self.btf.name_valid(name_off):
                raise BtfError(errno.EINVAL, f"[{number}] Invalid name_offset:{name_off}", at)
            try:
                found = self.btf.type(number)
            except BtfError as error:
                raise BtfError(error.errno, f"[{number}] {error.reason}", at) from None
            self.common(found, name_off, info, word)
            check = getattr(self, "check_" + found.kind.name.lower(), None)
            if check is not None:
                check(found)

    def fail(self, found: BtfType, reason: str, number: int = errno.EINVAL) -> BtfError:
        return _fail(self.btf, found, reason, number)

    def common(self, found: BtfType, name_off: int, info: int, word: int) -> None:
        # A name that is given but empty is an invalid one, not none at all.
        kind, name = found.kind, found.name
        if kind is not Kind.FWD and info >> 31 and kind not in _KFLAG:
            raise self.fail(found, "Invalid btf_info kind_flag")
        if info & 0xFFFF and kind not in _VLEN:
            raise self.fail(found, "vlen != 0")
        if (
            kind in (Kind.PTR, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.ARRAY, Kind.FUNC_PROTO)
            and name_off
        ):
            raise self.fail(found, "Invalid name")
        if kind in (Kind.TYPEDEF, Kind.FWD, Kind.FUNC, Kind.VAR) and not _identifier(name):
            raise self.fail(found, "Invalid name")
        if kind in (*_COMPOSITE, Kind.ENUM, Kind.ENUM64) and name_off and not _identifier(name):
            raise self.fail(found, "Invalid name")
        if kind is Kind.TYPE_TAG and not name:
            raise self.fail(found, "Invalid name")
        if kind in MODIFIERS | {Kind.PTR} and word > _MAX_ID:
            raise self.fail(found, "Invalid type_id")

    def check_int(self, found: BtfType) -> None:
        (word,) = _U32.unpack_from(self.btf.data, self.btf.offset_of(found.id) + 12)
        if word & ~0x0FFFFFFF:
            raise self.fail(found, f"Invalid int_data:{word:x}")
        bits = found.bits + found.bit_offset
        if bits > 128:
            raise self.fail(found, "nr_bits exceeds 128")
        if -(-bits // 8) > found.size:
            raise self.fail(found, "nr_bits exceeds type_size")
        if found.encoding not in (0, BTF_INT_SIGNED, BTF_INT_CHAR, BTF_INT_BOOL):
            raise self.fail(found, "Unsupported encoding", ENOTSUPP)

    def check_fwd(self, found: BtfType) -> None:
        if found.type:
            raise self.fail(found, "type != 0")

    def check_array(self, found: BtfType) -> None:
        at = self.btf.offset_of(found.id)
        if _U32.unpack_from(self.btf.data, at + 8)[0]:
            raise self.fail(found, "size != 0")
        if not 0 < found.type <= _MAX_ID:
            raise self.fail(found, "Invalid elem")
        if not 0 < found.index <= _MAX_ID:
            raise self.fail(found, "Invalid index")

    def check_struct(self, found: BtfType) -> None:
        last = 0
        for member, name_off in zip(found.members, _name_offsets(self.btf, found, 12), strict=True):
            if name_off and not _identifier(member.name):
                raise self.fail(found, f"{member.name} Invalid name")
            if not 0 < member.type <= _MAX_ID:
                raise self.fail(found, f"{member.name} Invalid type_id")
            if (found.kind is Kind.UNION and member.bit_offset) or last > member.bit_offset:
                raise self.fail(found, f"{member.name} Invalid member bits_offset")
            if -(-member.bit_offset // 8) > found.size:
                raise self.fail(found, f"{member.name} Member bits_offset exceeds its struct size")
            last = member.bit_offset

    check_union = check_struct

    def check_enum(self, found: BtfType) -> None:
        if found.size not in (1, 2, 4, 8):
            raise self.fail(found, "Unexpected size")
        if not all(_identifier(value.name) for value in found.values):
            raise self.fail(found, "Invalid name")

    check_enum64 = check_enum

    def check_func(self, found: BtfType) -> None:
        if found.linkage > BTF_FUNC_GLOBAL:
            raise self.fail(found, "Invalid func linkage")

    def check_var(self, found: BtfType) -> None:
        if not 0 < found.type <= _MAX_ID:
            raise self.fail(found, "Invalid type_id")
        if found.linkage not in (BTF_VAR_STATIC, BTF_VAR_GLOBAL_ALLOCATED):
            raise self.fail(found, "Linkage not supported")

    def check_datasec(self, found: BtfType) -> None:
        if not found.size:
            raise self.fail(found, "size == 0")
        if not _section_name(found.name):
            raise self.fail(found, "Invalid name")
        end = 0
        for var in found.vars:
            if not 0 < var.type <= _MAX_ID:
                raise self.fail(found, "Invalid type_id")
            if var.offset < end or var.offset >= found.size:
                raise self.fail(found, "Invalid offset")
            if not 0 < var.size <= found.size:
                raise self.fail(found, "Invalid size")
            end = var.offset + var.size
            if end > found.size:
                raise self.fail(found, "Invalid offset+size")

    def check_float(self, found: BtfType) -> None:
        if found.size not in (2, 4, 8, 12, 16):
            raise self.fail(found, "Invalid type_size")

    def check_decl_tag(self, found: BtfType) -> None:
        if not found.name:
            raise self.fail(found, "Invalid value")
        if found.component < -1:
            raise self.fail(found, "Invalid component_idx")


_MAX_ID = 0x000FFFFF


class _Mode(Enum):
    TBD = auto()
    PTR = auto()
    STRUCT_OR_ARRAY = auto()


class _Resolver:
    """What types say of each other: btf_check_all_types().

    A depth-first walk with an explicit stack. Loops through pointers are legal, so the walk stops at
    composite types while it follows a pointer, and at pointers while it follows a composite type.
    """

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.resolved: set[int] = set()
        self.visited: set[int] = set()
        self.mode = _Mode.TBD

    def fail(self, found: BtfType, reason: str) -> BtfError:
        return _fail(self.btf, found, reason)

    def run(self) -> None:
        for number in range(self.btf.start_id, len(self.btf)):
            found = self.btf.type(number)
            if found.kind in _NEEDS_RESOLVE and number not in self.resolved:
                self.resolve(number)
            if found.kind is Kind.FUNC_PROTO:
                self.check_func_proto(found)

    def get(self, number: int) -> BtfType | None:
        return self.btf.type(number) if number < len(self.btf) else None

    def is_resolved(self, number: int) -> bool:
        return number < self.btf.start_id or number in self.resolved

    def is_sink(self, found: BtfType) -> bool:
        if self.mode is _Mode.TBD:
            return found.kind not in _NEEDS_RESOLVE
        if self.mode is _Mode.PTR:
            return found.kind not in MODIFIERS and found.kind is not Kind.PTR
        return found.kind not in MODIFIERS and found.kind not in (Kind.ARRAY, *_COMPOSITE)

    def pending(self, found: BtfType) -> bool:
        """Whether ``found`` has to be resolved before the one that refers to it."""
        return not self.is_sink(found) and not self.is_resolved(found.id)

    def resolve(self, root: int) -> None:
        self.mode = _Mode.TBD
        stack: list[list[int]] = []
        self.push(stack, root)
        while stack:
            number, position = stack[-1]
            found = self.btf.type(number)
            if found.kind is Kind.DATASEC:
                self.mode = _Mode.TBD
            child, stack[-1][1] = self.step(found, position)
            if child:
                self.push(stack, child)
            else:
                stack.pop()
                self.resolved.add(number)

    def push(self, stack: list[list[int]], number: int) -> None:
        found = self.btf.type(number)
        if len(stack) == MAX_RESOLVE_DEPTH:
            root = self.btf.type(stack[0][0])
            raise _fail(self.btf, root, f"Exceeded max resolving depth:{MAX_RESOLVE_DEPTH}", errno.E2BIG)
        if number in self.visited:
            raise _fail(self.btf, self.btf.type(stack[0][0]), "Loop detected", errno.EEXIST)
        self.visited.add(number)
        stack.append([number, 0])
        if self.mode is _Mode.TBD:
            if found.kind is Kind.PTR:
                self.mode = _Mode.PTR
            elif found.kind in (*_COMPOSITE, Kind.ARRAY):
                self.mode = _Mode.STRUCT_OR_ARRAY

    def step(self, found: BtfType, position: int) -> tuple[int, int]:
        """One look at a type: (the id that must be resolved first or 0, where to go on afterwards)."""
        if found.kind in MODIFIERS or found.kind in (Kind.PTR, Kind.VAR):
            return self.reference(found), 0
        if found.kind is Kind.ARRAY:
            return self.array(found), 0
        if found.kind in _COMPOSITE:
            return self.composite(found, position)
        if found.kind is Kind.DATASEC:
            return self.datasec(found, position)
        if found.kind is Kind.DECL_TAG:
            return self.decl_tag(found), 0
        self.func(found)
        return 0, 0

    def target(self, number: int) -> BtfType:
        """The type behind modifiers, which are resolved already."""
        return self.btf.resolve(number)

    def has_size(self, number: int) -> bool:
        found = self.target(number)
        if found.kind is Kind.VAR:
            found = self.target(found.type)
        return found.kind in SIZED or found.kind in (Kind.ARRAY, Kind.PTR)

    def reference(self, found: BtfType) -> int:
        other = self.get(found.type)
        if other is None or other.kind in _SOURCE_ONLY:
            raise self.fail(found, "Invalid type_id")
        if self.pending(other):
            return other.id
        if found.kind in (Kind.PTR, Kind.VAR) and other.kind in MODIFIERS:
            behind = self.target(other.id)
            if behind.kind is Kind.PTR and self.pending(behind):
                return behind.id
        if not self.has_size(other.id):
            behind = self.target(other.id)
            nothing = (Kind.VOID, Kind.FWD, Kind.FUNC_PROTO)
            if found.kind is Kind.VAR or behind.kind not in nothing:
                raise self.fail(found, "Invalid type_id")
        return 0

    def array(self, found: BtfType) -> int:
        index, elem = self.get(found.index), self.get(found.type)
        if index is None or index.kind in _NO_SIZE | _SOURCE_ONLY:
            raise self.fail(found, "Invalid index")
        if self.pending(index):
            return index.id
        behind = self.target(index.id)
        if behind.kind is not Kind.INT or not _regular(behind):
            raise self.fail(found, "Invalid index")
        if elem is None or elem.kind in _NO_SIZE | _SOURCE_ONLY:
            raise self.fail(found, "Invalid elem")
        if self.pending(elem):
            return elem.id
        behind = self.target(elem.id)
        if not self.has_size(elem.id):
            raise self.fail(found, "Invalid elem")
        if behind.kind is Kind.INT and not _regular(behind):
            raise self.fail(found, "Invalid array of int")
        if self.btf.size_of(elem.id) * found.nelems > U32_MAX:
            raise self.fail(found, "Array size overflows U32_MAX")
        return 0

    def composite(self, found: BtfType, position: int) -> tuple[int, int]:
        for i in range(position, len(found.members)):
            member = found.members[i]
            other = self.get(member.type)
            if other is None or other.kind in _NO_SIZE | _SOURCE_ONLY:
                raise self.fail(found, f"{member.name} Invalid member")
            if self.pending(other):
                return other.id, i
            self.check_member(found, member, other)
        return 0, 0

    def check_member(self, found: BtfType, member: Member, other: BtfType) -> None:
        if not self.has_size(other.id):
            raise self.fail(found, f"{member.name} Invalid member")
        behind = self.target(other.id)
        reason = _misplaced(found, member, behind, self.btf.size_of(behind.id))
        if reason:
            raise self.fail(found, f"{member.name} {reason}")

    def datasec(self, found: BtfType, position: int) -> tuple[int, int]:
        for i in range(position, len(found.vars)):
            row = found.vars[i]
            var = self.get(row.type)
            if var is None or var.kind is not Kind.VAR:
                raise self.fail(found, "Not a VAR kind member")
            if self.pending(var):
                return var.id, i
            if not self.has_size(var.type):
                raise self.fail(found, "Invalid type")
            if row.size < self.btf.size_of(var.type):
                raise self.fail(found, "Invalid size")
        return 0, 0

    def decl_tag(self, found: BtfType) -> int:
        other = self.get(found.type)
        if other is None or other.kind not in _TAGGED:
            raise self.fail(found, "Invalid type_id")
        if self.pending(other):
            return other.id
        if found.component != -1:
            if other.kind in _COMPOSITE:
                count = len(other.members)
            elif other.kind is Kind.FUNC:
                count = len(self.btf.type(other.type).params)
            else:
                count = 0
            if found.component >= count:
                raise self.fail(found, "Invalid component_idx")
        return 0

    def func(self, found: BtfType) -> None:
        proto = self.get(found.type)
        if proto is None or proto.kind is not Kind.FUNC_PROTO:
            raise self.fail(found, "Invalid type_id")
        for i, param in enumerate(proto.params, 1):
            if not param.name and param.type:
                raise self.fail(found, f"Invalid arg#{i}")

    def check_func_proto(self, found: BtfType) -> None:
        if found.type and not self.usable(found.type):
            raise self.fail(found, "Invalid return type")
        params, name_offs = found.params, _name_offsets(self.btf, found, 8)
        if params and not params[-1].type:
            if name_offs[-1]:
                raise self.fail(found, f"Invalid arg#{len(params)}")
            params = params[:-1]
        for i, param in enumerate(params, 1):
            if (name_offs[i - 1] and not _identifier(param.name)) or not self.usable(param.type):
                raise self.fail(found, f"Invalid arg#{i}")

    def usable(self, number: int) -> bool:
        """Whether a parameter or result may be of that type."""
        other = self.get(number)
        if other is None or other.kind in _SOURCE_ONLY:
            return False
        if other.kind in _NEEDS_RESOLVE and not self.is_resolved(number):
            self.resolve(number)
        return self.has_size(number)


def _regular(found: BtfType) -> bool:
    """An integer of whole bytes, a power of two of them: btf_type_int_is_regular()."""
    return found.bit_offset == 0 and found.bits in (8, 16, 32, 64, 128)


def _misplaced(found: BtfType, member: Member, behind: BtfType, size: int) -> str:
    """Why the member does not fit its struct; "" when it does."""
    at, room = member.bit_offset, found.size * 8
    if behind.kind is Kind.INT and not found.kflag:
        at += behind.bit_offset
        if behind.bits + at % 8 > 128:
            return "nr_copy_bits exceeds 128"
        return "Member exceeds struct_size" if at + behind.bits > room else ""
    if found.kflag and behind.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64):
        # The kernel takes every enum for an int here.
        widest = behind.bits if behind.kind is Kind.INT else 32
        if behind.kind is Kind.INT and not _regular(behind):
            return "Invalid member base type"
        if not member.bit_size and at % 8:
            return "Invalid member offset" if behind.kind is Kind.INT else "Member is not byte aligned"
        bits = member.bit_size or widest
        if bits > widest:
            return "Invalid member bitfield_size"
        return "Member exceeds struct_size" if at + bits > room else ""
    if member.bit_size:
        return "Invalid member bitfield_size"
    if at % 8:
        return "Member is not byte aligned"
    if behind.kind is Kind.FLOAT and at % (min(8, size) * 8):
        return "Member is not properly aligned"
    return "Member exceeds struct_size" if at + size * 8 > room else ""


def _check_type_tags(btf: Btf) -> None:
    """Type tags stand before other modifiers, and no chain of modifiers is longer than 32."""
    for number in range(btf.start_id, len(btf)):
        found = btf.type(number)
        if found.kind not in MODIFIERS:
            continue
        in_tags, left = found.kind is Kind.TYPE_TAG, MAX_TYPE_CHAIN
        while found.kind in MODIFIERS:
            if not left:
                raise _fail(btf, btf.type(number), "Max chain length or cycle detected", errno.ELOOP)
            left -= 1
            if found.kind is Kind.TYPE_TAG:
                if not in_tags:
                    raise _fail(btf, btf.type(number), "Type tags don't precede modifiers")
            else:
                in_tags = False
            found = btf.type(found.type)
