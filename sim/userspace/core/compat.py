# SPDX-License-Identifier: GPL-2.0-only
"""Which types of a kernel may stand for a type of an object.

Three rules of growing strictness, as in libbpf: a *field* must be of a compatible kind
(:func:`fields_compatible`), types asked for as a whole must agree in their outline
(:func:`types_compatible`), ``bpf_core_type_matches()`` compares them member by member
(:func:`types_match`). Names are compared without their flavour: ``task_struct___old`` is ``task_struct``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kernel_model.btf.parse import Btf, BtfType, EnumValue, Kind

from .spec import COMPOSITES, ENUMS, SpecError

_FLAVOUR = re.compile(r"(?s)(.*[^_])___(?=[^_])")
_DEPTH = 32
_SIGNED = 1


def essential(name: str) -> str:
    """The name without its flavour, the part after the last three underscores between other letters."""
    found = _FLAVOUR.match(name)
    return found[1] if found else name


def kinds_compatible(local: BtfType, target: BtfType) -> bool:
    """The same kind; enums of 32 and 64 bits count as one."""
    return local.kind is target.kind or (local.kind in ENUMS and target.kind in ENUMS)


def fields_compatible(local_btf: Btf, local_id: int, target_btf: Btf, target_id: int) -> bool:
    """Whether a field of the one type may be read as one of the other."""
    while True:
        local, target = local_btf.resolve(local_id), target_btf.resolve(target_id)
        if local.kind in COMPOSITES and target.kind in COMPOSITES:
            return True
        if not kinds_compatible(local, target):
            return False
        if local.kind in (Kind.PTR, Kind.FLOAT):
            return True
        if local.kind is Kind.FWD or local.kind in ENUMS:
            names = essential(local.name), essential(target.name)
            return not all(names) or names[0] == names[1]
        if local.kind is Kind.INT:
            # Integers that are bit-fields by themselves come from compilers of 2018.
            return not local.bit_offset and not target.bit_offset
        if local.kind is not Kind.ARRAY:
            return False
        local_id, target_id = local.type, target.type


def types_compatible(
    local_btf: Btf, local_id: int, target_btf: Btf, target_id: int, depth: int = _DEPTH
) -> bool:
    """Whether the outlines agree: kinds, and what pointers, arrays and prototypes are made of."""
    local, target = local_btf.type(local_id), target_btf.type(target_id)
    if not kinds_compatible(local, target):
        return False
    while True:
        depth -= 1
        if depth < 0:
            raise SpecError("types are nested too deeply")
        local, target = local_btf.resolve(local_id), target_btf.resolve(target_id)
        if not kinds_compatible(local, target):
            return False
        if local.kind in (Kind.VOID, Kind.FWD, *COMPOSITES, *ENUMS):
            return True
        if local.kind is Kind.INT:
            return not local.bit_offset and not target.bit_offset
        if local.kind is Kind.FUNC_PROTO:
            if len(local.params) != len(target.params):
                return False
            for ours, theirs in zip(local.params, target.params, strict=True):
                mine, other = local_btf.resolve(ours.type).id, target_btf.resolve(theirs.type).id
                if not types_compatible(local_btf, mine, target_btf, other, depth - 1):
                    return False
        elif local.kind not in (Kind.PTR, Kind.ARRAY):
            return False
        local_id, target_id = local.type, target.type


def _names_match(local: str, target: str) -> bool:
    return not local if not target else essential(local) == essential(target)


def _forward_matches(local: BtfType, target: BtfType, behind_pointer: bool) -> bool:
    """A declared, undefined type; its kind flag says that it is a union."""
    if local.kind is target.kind:
        return local.kflag == target.kflag
    return behind_pointer and target.kind is (Kind.UNION if local.kflag else Kind.STRUCT)


def _composite_behind_pointer(local: BtfType, target: BtfType) -> bool:
    if local.kind is target.kind:
        return True
    return target.kind is Kind.FWD and (local.kind is Kind.UNION) == target.kflag


def _enums_match(local: Sequence[EnumValue], target: Sequence[EnumValue]) -> bool:
    names = {essential(value.name) for value in target}
    return len(local) <= len(target) and all(essential(value.name) in names for value in local)


def _members_match(
    local_btf: Btf, local: BtfType, target_btf: Btf, target: BtfType, behind_pointer: bool, depth: int
) -> bool:
    if len(local.members) > len(target.members):
        return False
    return all(
        any(
            _names_match(ours.name, theirs.name)
            and types_match(local_btf, ours.type, target_btf, theirs.type, behind_pointer, depth - 1)
            for theirs in target.members
        )
        for ours in local.members
    )


def types_match(
    local_btf: Btf,
    local_id: int,
    target_btf: Btf,
    target_id: int,
    behind_pointer: bool = False,
    depth: int = _DEPTH,
) -> bool:
    """bpf_core_type_matches(): every member of the local type has its like in the other one."""
    while True:
        depth -= 1
        if depth <= 0:
            raise SpecError("types are nested too deeply")
        local, target = local_btf.resolve(local_id), target_btf.resolve(target_id)
        if not _names_match(local.name, target.name):
            return False
        if local.kind is Kind.FWD:
            return _forward_matches(local, target, behind_pointer)
        if local.kind in ENUMS:
            return target.kind in ENUMS and _enums_match(local.values, target.values)
        if local.kind in COMPOSITES and behind_pointer:
            return _composite_behind_pointer(local, target)
        if local.kind is not target.kind:
            return False
        if local.kind in COMPOSITES:
            return _members_match(local_btf, local, target_btf, target, behind_pointer, depth)
        if local.kind is Kind.VOID:
            return True
        if local.kind is Kind.INT:
            return local.size == target.size and not (local.encoding ^ target.encoding) & _SIGNED
        if local.kind is Kind.PTR:
            behind_pointer = True
        elif local.kind is Kind.ARRAY:
            if local.nelems != target.nelems:
                return False
        elif local.kind is Kind.FUNC_PROTO:
            if len(local.params) != len(target.params):
                return False
            for ours, theirs in zip(local.params, target.params, strict=True):
                if not types_match(local_btf, ours.type, target_btf, theirs.type, behind_pointer, depth - 1):
                    return False
        else:
            return False
        local_id, target_id = local.type, target.type
