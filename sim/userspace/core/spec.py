# SPDX-License-Identifier: GPL-2.0-only
"""What a relocation asks for: its access string read against a type (libbpf: bpf_core_parse_spec).

``0:3:1`` on ``struct task_struct`` is member 1 of member 3 of the object: an index into the array that
the pointer may point at, then a member or an array index at each level. Anonymous structures are crossed
without a name, so that only the named members must be found in another kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel_model.btf.parse import Btf, BtfError, BtfType, Kind

from .kinds import CoreKind

MAX_SPEC = 64
"""How many levels an access may have."""
COMPOSITES = (Kind.STRUCT, Kind.UNION)
ENUMS = (Kind.ENUM, Kind.ENUM64)


class SpecError(ValueError):
    """An access string that does not fit its type."""


@dataclass(frozen=True)
class Accessor:
    """A step: index ``idx`` into the type ``type_id``; ``name`` is "" for array elements."""

    type_id: int
    idx: int
    name: str = ""


@dataclass
class CoreSpec:
    """An access, resolved in one BTF. ``bit_offset`` is that of the field in the root type."""

    btf: Btf
    root: int
    kind: CoreKind
    steps: list[Accessor] = field(default_factory=list)
    raw: list[int] = field(default_factory=list)
    bit_offset: int = 0

    def __str__(self) -> str:
        """libbpf's form: ``<byte_off> [7] struct task_struct.pid (0:3 @ offset 8)``."""
        found = self.btf.type(self.root)
        text = f"<{self.kind.name}> [{self.root}] {kind_word(found)} {found.name or '<anon>'}"
        if self.kind.of_type:
            return text
        if self.kind.of_enum:
            value = enumerator(self.btf, self.steps[0])
            return f"{text}::{self.steps[0].name} = {value}"
        for at, step in enumerate(self.steps):
            if step.name:
                text += f".{step.name}"
            elif at or step.idx:
                text += f"[{step.idx}]"
        byte, bits = divmod(self.bit_offset, 8)
        return f"{text} ({':'.join(map(str, self.raw))} @ offset {byte}{f'.{bits}' if bits else ''})"


_WORDS = {Kind.VOID: "void", Kind.ENUM64: "enum", Kind.FWD: "fwd", Kind.TYPE_TAG: "type_tag"}


def kind_word(found: BtfType) -> str:
    """A type's kind as libbpf writes it in messages."""
    return _WORDS.get(found.kind, found.kind.name.lower())


def enumerator(btf: Btf, step: Accessor) -> int:
    """The value of the enumerator that ``step`` stands for."""
    return btf.resolve(step.type_id).values[step.idx].value


def is_flexible(btf: Btf, owner: Accessor | None, array: BtfType) -> bool:
    """Whether ``array`` is the open end of the structure whose member ``owner`` it is."""
    if owner is None or not owner.name or array.nelems:
        return False
    return owner.idx == len(btf.resolve(owner.type_id).members) - 1


def parse_spec(btf: Btf, root: int, access: str, kind: CoreKind) -> CoreSpec:
    """The access string of an object, against its own types. SpecError or BtfError when it does not fit."""
    if not access or access == ":":
        raise SpecError("empty access string")
    spec = CoreSpec(btf, root, kind)
    if kind.of_type:
        if access != "0":
            raise SpecError(f"access string '{access}' of a type")
        return spec
    spec.raw = _indices(access)
    found = btf.resolve(root)
    first = spec.raw[0]
    if kind.of_enum:
        if found.kind not in ENUMS or len(spec.raw) > 1 or first >= len(found.values):
            raise SpecError(f"access string '{access}' into {kind_word(found)} {found.name}")
        spec.steps.append(Accessor(found.id, first, found.values[first].name))
        return spec
    spec.steps.append(Accessor(found.id, first))
    spec.bit_offset = first * btf.size_of(found.id) * 8
    for index in spec.raw[1:]:
        found = _step(spec, found, index)
    return spec


def _indices(access: str) -> list[int]:
    parts = access.split(":")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SpecError(f"access string '{access}' is no list of numbers")
    if len(parts) > MAX_SPEC:
        raise SpecError(f"access string of {len(parts)} levels; at most {MAX_SPEC} are possible")
    return [int(part) for part in parts]


def _step(spec: CoreSpec, found: BtfType, index: int) -> BtfType:
    btf = spec.btf
    if found.kind in COMPOSITES:
        if index >= len(found.members):
            raise SpecError(f"member {index} of {found.name or '<anon>'}, which has {len(found.members)}")
        member = found.members[index]
        spec.bit_offset += member.bit_offset
        if member.name:
            spec.steps.append(Accessor(found.id, index, member.name))
        return btf.resolve(member.type)
    if found.kind is not Kind.ARRAY:
        raise SpecError(f"an access into {kind_word(found)} {found.name}")
    if index >= found.nelems and not is_flexible(btf, spec.steps[-1], found):
        raise SpecError(f"element {index} of an array of {found.nelems}")
    element = btf.resolve(found.type)
    spec.steps.append(Accessor(element.id, index))
    spec.bit_offset += index * btf.size_of(element.id) * 8
    return element


__all__ = ["Accessor", "BtfError", "CoreSpec", "SpecError", "enumerator", "is_flexible", "parse_spec"]
