# SPDX-License-Identifier: GPL-2.0-only
"""What number goes into an instruction for a relocation (libbpf: bpf_core_calc_relo_insn).

The value is computed twice: for the object's own types, which is what the compiler must have left in the
instruction, and for each type of the kernel that fits. All that fit must agree. Where none does, questions
("does it exist?") are answered with 0 and everything else becomes a poisoned instruction, which the
verifier refuses only if it can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernel_model.btf.parse import Btf, BtfError, BtfType, Kind

from .candidates import match_spec, names_of
from .kinds import CoreKind
from .spec import ENUMS, CoreSpec, SpecError, enumerator, parse_spec

_SIGNED = 1
_MASK = (1 << 64) - 1


class CoreError(ValueError):
    """A relocation that cannot be done in any kernel or not in this one; the cause in words."""


@dataclass(frozen=True)
class _Value:
    """One side's value. ``size`` is that of the field for byte offsets (else 0), ``type`` its type's id.

    ``checked`` says whether the compiler's value in the instruction must be this one.
    """

    number: int
    size: int = 0
    type: int = 0
    checked: bool = True


@dataclass(frozen=True)
class Resolution:
    """A relocation's outcome.

    ``local`` and ``target`` are the accesses in the object's and the kernel's types (target None: nothing
    fits); ``old`` and ``new`` the values, ``checked`` whether the instruction must hold ``old``;
    ``poison`` that there is no value. ``old_size`` and ``new_size`` are the bytes of the field,
    ``bad_size`` says that a load or store may not simply take the other size.
    """

    local: CoreSpec
    target: CoreSpec | None
    old: int = 0
    new: int = 0
    checked: bool = True
    poison: bool = False
    old_size: int = 0
    new_size: int = 0
    bad_size: bool = False

    @property
    def resolved(self) -> bool:
        """Whether the kernel has what was asked for."""
        return self.target is not None


class Resolver:
    """Resolves the relocations of one object against the types of one kernel."""

    def __init__(self, local: Btf, kernel: Btf) -> None:
        self.local = local
        self.kernel = kernel
        self._names = names_of(kernel)
        self._found: dict[int, list[int]] = {}

    def resolve(self, type_id: int, access: str, kind: int) -> Resolution:
        """One relocation by the numbers of struct bpf_core_relo; CoreError when it makes no sense."""
        try:
            what = CoreKind(kind)
        except ValueError:
            raise CoreError(f"unknown relocation kind {kind}") from None
        try:
            spec = parse_spec(self.local, type_id, access, what)
            if what is CoreKind.local_type_id:
                return Resolution(spec, spec, type_id, type_id, checked=False)
            return self._search(spec)
        except (BtfError, SpecError) as error:
            raise CoreError(f"{what.name} of type [{type_id}] '{access}': {error}") from None

    def _search(self, spec: CoreSpec) -> Resolution:
        name = self.local.type(spec.root).name
        if not name or not spec.root:
            raise CoreError(f"{spec}: anonymous types cannot be relocated")
        if spec.root not in self._found:
            self._found[spec.root] = self._names.candidates(self.local, spec.root)
        best: Resolution | None = None
        fitting: list[int] = []
        for number in self._found[spec.root]:
            target = match_spec(spec, self.kernel, number)
            if target is None:
                continue
            found = _outcome(spec, target)
            fitting.append(number)
            if best is None:
                best = found
                continue
            assert best.target is not None
            if target.bit_offset != best.target.bit_offset:
                offsets = f"{target.bit_offset} != {best.target.bit_offset}"
                raise CoreError(f"{spec}: field offset ambiguity: {offsets} bits, {target} and {best.target}")
            if (found.poison, found.new) != (best.poison, best.new):
                raise CoreError(f"{spec}: relocation decision ambiguity: {target} and {best.target}")
        if fitting:
            # What has once been told apart by its members is no candidate for later relocations either.
            self._found[spec.root] = fitting
        return best if best is not None else _outcome(spec, None)


def _outcome(spec: CoreSpec, target: CoreSpec | None) -> Resolution:
    value = _field if spec.kind.of_field else _type if spec.kind.of_type else _enum
    old = value(spec)
    if old is None:
        raise CoreError(f"{spec}: the object's own types have no such field")
    new = value(target) if target is not None else _absent(spec.kind)
    if new is None:
        return Resolution(spec, target, old.number, 0, old.checked, poison=True)
    bad_size = old.size != new.size and target is not None and not _resizable(spec, old, target, new)
    return Resolution(spec, target, old.number, new.number, old.checked, False, old.size, new.size, bad_size)


def _absent(kind: CoreKind) -> _Value | None:
    if kind in (CoreKind.field_exists, CoreKind.enumval_exists) or kind.of_type:
        return _Value(0)
    return None


def _resizable(local: CoreSpec, old: _Value, target: CoreSpec, new: _Value) -> bool:
    """Loads may change their size for pointers (a 32-bit kernel's) and unsigned integers only."""
    before, after = local.btf.resolve(old.type), target.btf.resolve(new.type)
    if before.kind is Kind.PTR and after.kind is Kind.PTR:
        return True
    if before.kind is not Kind.INT or after.kind is not Kind.INT:
        return False
    return not (before.encoding | after.encoding) & _SIGNED


def _type(spec: CoreSpec) -> _Value | None:
    if spec.kind is CoreKind.target_type_id:
        # The object's ids change when objects are linked, so the instruction may hold another one.
        return _Value(spec.root, checked=False)
    if spec.kind is CoreKind.type_size:
        return _Value(spec.btf.size_of(spec.root))
    return _Value(1)


def _enum(spec: CoreSpec) -> _Value | None:
    if spec.kind is CoreKind.enumval_exists:
        return _Value(1)
    return _Value(enumerator(spec.btf, spec.steps[0]) & _MASK)


def _field(spec: CoreSpec) -> _Value | None:
    btf, kind = spec.btf, spec.kind
    if kind is CoreKind.field_exists:
        return _Value(1)
    last = spec.steps[-1]
    if not last.name:
        if kind is CoreKind.byte_off:
            element = _element_type(btf, btf.resolve(last.type_id))
            return _Value(spec.bit_offset // 8, btf.size_of(element.id), last.type_id)
        if kind is CoreKind.byte_sz:
            return _Value(btf.size_of(last.type_id))
        raise CoreError(f"{spec}: {kind.name} of an array element")
    member = btf.resolve(last.type_id).members[last.idx]
    found = btf.resolve(member.type)
    byte_off, byte_sz, bits = _span(spec, found, member.bit_size)
    # A compiler may load a bit-field in another way than we would.
    checked = not member.bit_size
    if kind is CoreKind.byte_off:
        if member.bit_size:
            return _Value(byte_off, checked=False)
        return _Value(byte_off, btf.size_of(_element_type(btf, found).id), found.id)
    if kind is CoreKind.byte_sz:
        return _Value(byte_sz, checked=checked)
    if kind is CoreKind.signed:
        return _Value(int(_is_signed(found)))
    if kind is CoreKind.lshift_u64:
        return _Value(64 - (spec.bit_offset + bits - byte_off * 8), checked=checked)
    return _Value(64 - bits)


def _element_type(btf: Btf, found: BtfType) -> BtfType:
    while found.kind is Kind.ARRAY:
        found = btf.resolve(found.type)
    return found


def _is_signed(found: BtfType) -> bool:
    if found.kind in ENUMS:
        return found.kflag
    return found.kind is Kind.INT and bool(found.encoding & _SIGNED)


def _span(spec: CoreSpec, found: BtfType, bit_size: int) -> tuple[int, int, int]:
    """Where a field lies: byte offset and size of the load that gets it, and its bits."""
    at = spec.bit_offset
    if not bit_size:
        size = spec.btf.size_of(found.id)
        return at // 8, size, size * 8
    size = found.size
    if not size:
        raise CoreError(f"{spec}: a bit-field of a type without size")
    byte_off = at // 8 // size * size
    while at + bit_size - byte_off * 8 > size * 8:
        if size >= 8:
            raise CoreError(f"{spec}: no load of 8 bytes gets the whole bit-field")
        size *= 2
        byte_off = at // 8 // size * size
    return byte_off, size, bit_size
