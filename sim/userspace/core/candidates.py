# SPDX-License-Identifier: GPL-2.0-only
"""Finding a kernel's types for a type of an object: by name without flavour, then step by step.

Libbpf's functions are bpf_core_add_cands(), bpf_core_match_member() and bpf_core_spec_match().
"""

from __future__ import annotations

from functools import lru_cache

from kernel_model.btf.parse import Btf, Kind

from .compat import essential, fields_compatible, kinds_compatible, types_compatible, types_match
from .kinds import CoreKind
from .spec import COMPOSITES, ENUMS, MAX_SPEC, Accessor, CoreSpec, SpecError, is_flexible


@lru_cache(maxsize=4)
def names_of(btf: Btf) -> Names:
    """The named types of a kernel's BTF, which every object that is loaded there looks through."""
    return Names(btf)


class Names:
    """The named types of one BTF by their name without flavour."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._ids: dict[str, list[int]] | None = None

    def candidates(self, local_btf: Btf, local_id: int) -> list[int]:
        """The ids of all types that carry the name of the local type and are of its kind."""
        local = local_btf.type(local_id)
        wanted = essential(local.name)
        found = (self.btf.type(number) for number in self._index().get(wanted, ()))
        return [each.id for each in found if kinds_compatible(local, each)]

    def _index(self) -> dict[str, list[int]]:
        if self._ids is None:
            self._ids = {}
            for number, name in self.btf.names():
                self._ids.setdefault(essential(name), []).append(number)
        return self._ids


def match_spec(local: CoreSpec, btf: Btf, target_id: int) -> CoreSpec | None:
    """The local access in the type ``target_id`` of ``btf``; None when it is not to be found there."""
    target = CoreSpec(btf, target_id, local.kind)
    if local.kind is CoreKind.type_matches:
        return target if types_match(local.btf, local.root, btf, target_id) else None
    if local.kind.of_type:
        return target if types_compatible(local.btf, local.root, btf, target_id) else None
    if local.kind.of_enum:
        return target if _match_enumerator(local, target) else None
    number = target_id
    for at, step in enumerate(local.steps):
        if step.name:
            following = _match_named(local, step, target, number)
        else:
            following = _element(at, step, target, number)
        if following is None:
            return None
        number = following
    return target


def _match_enumerator(local: CoreSpec, target: CoreSpec) -> bool:
    found = target.btf.resolve(target.root)
    if found.kind not in ENUMS:
        return False
    wanted = essential(local.steps[0].name)
    for index, value in enumerate(found.values):
        if essential(value.name) == wanted:
            target.steps.append(Accessor(found.id, index, value.name))
            target.raw.append(index)
            return True
    return False


def _element(at: int, step: Accessor, target: CoreSpec, number: int) -> int | None:
    """An array element; the first step is an index to the root type itself."""
    btf = target.btf
    found = btf.resolve(number)
    if at:
        if found.kind is not Kind.ARRAY:
            return None
        if step.idx >= found.nelems and not is_flexible(btf, target.steps[-1], found):
            return None
        found = btf.resolve(found.type)
    _push(target, step.idx)
    target.steps.append(Accessor(found.id, step.idx))
    target.bit_offset += step.idx * btf.size_of(found.id) * 8
    return found.id


def _push(target: CoreSpec, index: int) -> None:
    if len(target.raw) == MAX_SPEC:
        raise SpecError(f"an access of more than {MAX_SPEC} levels")
    target.raw.append(index)


def _match_named(local: CoreSpec, step: Accessor, target: CoreSpec, number: int) -> int | None:
    """The member of that name, also inside anonymous members; the id of its type, None without one."""
    wanted = local.btf.resolve(step.type_id).members[step.idx]
    found = target.btf.resolve(number)
    if found.kind not in COMPOSITES:
        return None
    for index, member in enumerate(found.members):
        target.bit_offset += member.bit_offset
        _push(target, index)
        if not member.name:
            inside = _match_named(local, step, target, member.type)
            if inside is not None:
                return inside
        elif member.name == wanted.name:
            if fields_compatible(local.btf, wanted.type, target.btf, member.type):
                target.steps.append(Accessor(found.id, index, member.name))
                return member.type
            target.bit_offset -= member.bit_offset
            target.raw.pop()
            return None
        target.bit_offset -= member.bit_offset
        target.raw.pop()
    return None
