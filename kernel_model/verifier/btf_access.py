# SPDX-License-Identifier: GPL-2.0-only
"""Loads through pointers to the kernel's structures: what a member yields (btf_struct_access, since 5.5).

A pointer of type PTR_TO_BTF_ID carries a type of the kernel's BTF. What a load yields, and how far it may be
trusted, follows from the member that it hits: rules of btf_struct_walk() and check_ptr_to_btf_access() of
Linux 6.18. Which members keep their parent's trust is said by structures named ``task_struct__safe_rcu`` and
the like in that same BTF.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from kernel_model.btf.parse import MODIFIERS, Btf, BtfError, BtfType, Kind

from . import tnum
from .env import Env
from .regs import (
    BASE_MASK,
    MEM_ALLOC,
    MEM_PERCPU,
    MEM_RCU,
    MEM_RDONLY,
    MEM_USER,
    PTR_MAYBE_NULL,
    PTR_TO_BTF_ID,
    PTR_TO_MEM,
    PTR_TRUSTED,
    PTR_UNTRUSTED,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
    pointer,
)

TRUSTED_MODIFIERS: Final = MEM_ALLOC | PTR_TRUSTED
ANONYMOUS: Final = "(anon)"
COMPOSITE: Final = frozenset((Kind.STRUCT, Kind.UNION))
TAG_FLAGS: Final = {"user": MEM_USER, "percpu": MEM_PERCPU, "rcu": MEM_RCU}
"""What the type tags of pointed-to types say (since 5.17)."""
_MAX_RESOLVE_DEPTH: Final = 32
_SIZED: Final = frozenset((Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.FLOAT, Kind.ENUM64))


class Found(NamedTuple):
    """What lies at an offset: SCALAR_VALUE, PTR_TO_BTF_ID to ``type_id``, or PTR_TO_MEM; and flags."""

    kind: int
    type_id: int = 0
    flags: int = 0
    field: str = ""


def type_name(btf: Btf, type_id: int) -> str:
    """The name of a type; "" when it has none or does not exist."""
    try:
        return btf.type(type_id).name if type_id else ""
    except BtfError:
        return ""


def kind_text(found: BtfType) -> str:
    """A kind as messages name it (btf_type_str)."""
    return "UNKNOWN" if found.kind is Kind.VOID else found.kind.name


def skip_modifiers(btf: Btf, type_id: int) -> BtfType:
    """The type behind typedefs and qualifiers, with its own id."""
    return btf.resolve(type_id)


def tag_flags(btf: Btf, type_id: int) -> int:
    """The flag for a pointed-to type that is a type tag; 0 for other types."""
    found = btf.type(type_id)
    if found.kind is not Kind.TYPE_TAG or found.kflag:
        return 0
    return TAG_FLAGS.get(found.name, 0)


# ---- structures -------------------------------------------------------------------------------


class _Field(NamedTuple):
    """A member's type as __btf_resolve_size() sees it: total bytes, elements, and the type of one."""

    size: int
    nelems: int
    is_array: bool
    element: BtfType


def _resolve(btf: Btf, type_id: int) -> _Field | None:
    nelems, is_array = 1, False
    for _ in range(_MAX_RESOLVE_DEPTH):
        found = btf.type(type_id)
        if found.kind in _SIZED or found.kind is Kind.PTR:
            size = 8 if found.kind is Kind.PTR else found.size
            return _Field(nelems * size, nelems, is_array, found)
        if found.kind is Kind.ARRAY:
            is_array = True
            nelems *= found.nelems
            if nelems >> 32:
                return None
        elif found.kind not in MODIFIERS:
            return None
        type_id = found.type
    return None


class _Walk:
    """One search through nested structures."""

    def __init__(self, env: Env, btf: Btf) -> None:
        self.env = env
        self.btf = btf
        self.flags = 0

    def find(self, found: BtfType, off: int, size: int) -> Found:
        """What ``size`` bytes at ``off`` of a type are; Reject when they are nothing that can be read."""
        at: tuple[BtfType, int] | Found = (found, off)
        while not isinstance(at, Found):
            at = self._step(at[0], at[1], size)
        return at

    def _step(self, found: BtfType, off: int, size: int) -> tuple[BtfType, int] | Found:
        """The answer, or the nested structure and the offset in it where the search goes on."""
        env, btf = self.env, self.btf
        if found.kind in MODIFIERS:
            found = skip_modifiers(btf, found.type)
        name = found.name or ANONYMOUS
        if found.kind not in COMPOSITE:
            raise env.reject(errno.EINVAL, f"Type '{name}' is not a struct\n")
        if found.kind is Kind.UNION and len(found.members) != 1:
            # Nobody knows which member of a union is in use.
            self.flags |= PTR_UNTRUSTED
        if off + size > found.size:
            return self._behind(found, off, size)
        for member in found.members:
            start = member.bit_offset // 8
            if off + size <= start:
                break
            if member.bit_size:
                end = -(-(member.bit_offset + member.bit_size) // 8)
                if off <= start and end <= off + size:
                    return Found(SCALAR_VALUE)
                continue
            if off < start:
                break
            field = _resolve(btf, member.type)
            if field is None:
                raise env.reject(errno.EFAULT, f"field {member.name or ANONYMOUS} doesn't have size\n")
            end = start + field.size
            if off >= end:
                continue
            inner = field.element
            width = field.size
            if field.is_array:
                width //= field.nelems
                start += (off - start) // width * width
            if inner.kind in COMPOSITE:
                return inner, off - start
            if inner.kind is Kind.PTR:
                if width != size or off != start:
                    raise env.reject(
                        errno.EACCES,
                        f"cannot access ptr member {member.name or ANONYMOUS} with moff {start} in "
                        f"struct {name} with off {off} size {size}\n",
                    )
                return self._pointer(inner, member.name)
            if off + size > end and not self.flags & PTR_UNTRUSTED:
                raise env.reject(
                    errno.EACCES,
                    f"access beyond the end of member {member.name or ANONYMOUS} (mend:{end}) in "
                    f"struct {name} with off {off} size {size}\n",
                )
            return Found(SCALAR_VALUE)
        raise env.reject(errno.EINVAL, f"struct {name} doesn't have field at offset {off}\n")

    def _behind(self, found: BtfType, off: int, size: int) -> tuple[BtfType, int] | Found:
        """Behind the end there may be elements of a flexible array."""
        beyond = f"access beyond struct {found.name or ANONYMOUS} at off {off} size {size}\n"
        if not found.members:
            raise self.env.reject(errno.EACCES, beyond)
        last = found.members[-1]
        array = skip_modifiers(self.btf, last.type)
        start = last.bit_offset // 8
        if array.kind is not Kind.ARRAY or array.nelems or off < start:
            raise self.env.reject(errno.EACCES, beyond)
        element = skip_modifiers(self.btf, array.type)
        if element.kind is Kind.INT:
            return Found(SCALAR_VALUE)
        if element.kind not in COMPOSITE or not element.size:
            raise self.env.reject(errno.EACCES, beyond)
        return element, (off - start) % element.size

    def _pointer(self, found: BtfType, field: str) -> Found:
        target = skip_modifiers(self.btf, found.type)
        if target.kind not in COMPOSITE:
            # Since 6.17 memory of unknown size may be read, with faults handled.
            return Found(PTR_TO_MEM, 0, MEM_RDONLY | PTR_UNTRUSTED)
        return Found(PTR_TO_BTF_ID, target.id, self.flags | tag_flags(self.btf, found.type), field)


def struct_access(env: Env, btf: Btf, type_id: int, off: int, size: int) -> Found:
    """What a load of ``size`` bytes at byte ``off`` of a structure yields.

    Reject EACCES or EINVAL, with Linux's words, when no such load is allowed.
    """
    return _Walk(env, btf).find(btf.type(type_id), off, size)


# ---- trust ------------------------------------------------------------------------------------


def is_trusted(reg: Reg) -> bool:
    """The pointer is valid for as long as the program runs (is_trusted_reg)."""
    if reg.ref:
        return True
    flags = reg.type & ~BASE_MASK
    return bool(flags & TRUSTED_MODIFIERS) and not flags & ~TRUSTED_MODIFIERS


def in_rcu(env: Env) -> bool:
    """Programs that cannot sleep run inside an RCU read section."""
    return not env.sleepable


def _safe_field(btf: Btf, type_id: int, found: Found, suffix: str) -> bool:
    """Whether the kernel vouches for a field, by name and type, in ``struct NAME__suffix``."""
    parent = btf.type(type_id)
    safe = btf.find(parent.name + suffix, parent.kind)
    if not safe:
        return False
    for member in btf.type(safe).members:
        target = btf.type(member.type)
        named = target.kind is Kind.PTR and member.name == found.field
        if named and skip_modifiers(btf, target.type).id == found.type_id:
            return True
    return False


def _next_flags(env: Env, btf: Btf, reg: Reg, found: Found) -> int:
    """The flags of a pointer that was read through ``reg``."""
    flags = found.flags
    if reg.type & PTR_UNTRUSTED:
        return PTR_UNTRUSTED
    if not (is_trusted(reg) or reg.type & MEM_RCU):
        # Programs of old: such pointers may be NULL or stale, loads through them handle faults.
        return flags & ~(TRUSTED_MODIFIERS | MEM_RCU)
    if _safe_field(btf, reg.extra, found, "__safe_trusted"):
        return flags | PTR_TRUSTED
    if _safe_field(btf, reg.extra, found, "__safe_trusted_or_null"):
        return flags | PTR_TRUSTED | PTR_MAYBE_NULL
    if not in_rcu(env) or reg.type & PTR_MAYBE_NULL:
        return PTR_UNTRUSTED
    if _safe_field(btf, reg.extra, found, "__safe_rcu"):
        return flags | MEM_RCU
    or_null = _safe_field(btf, reg.extra, found, "__safe_rcu_or_null")
    if flags & MEM_RCU or or_null:
        flags |= MEM_RCU | PTR_MAYBE_NULL
        return flags & ~PTR_UNTRUSTED if or_null else flags
    if flags & (MEM_PERCPU | MEM_USER):
        return flags
    return flags & ~(TRUSTED_MODIFIERS | MEM_RCU)


# ---- one access -------------------------------------------------------------------------------


def btf_pointer(env: Env, type_id: int, flags: int = 0) -> Reg:
    """A pointer to a structure of the kernel, with an id of its own when it may be NULL."""
    new_id = env.new_id() if flags & PTR_MAYBE_NULL else 0
    return pointer(PTR_TO_BTF_ID | flags, extra=type_id, id=new_id)


def check_btf_access(env: Env, regno: int, off: int, size: int, write: bool, value_regno: int) -> None:
    """A load through the pointer in a register, at ``off`` bytes in all; sets the register read into."""
    reg = env.frame.regs[regno]
    btf = env.kernel.vmlinux()
    name = type_name(btf, reg.extra)
    _check_pointer(env, reg, regno, off, name)
    if write:
        raise env.reject(errno.EACCES, "only read is supported\n")
    found = struct_access(env, btf, reg.extra, off, size)
    if value_regno < 0:
        return
    if found.kind == SCALAR_VALUE:
        env.frame.regs[value_regno] = UNKNOWN_REG
        return
    if found.kind == PTR_TO_MEM:
        env.frame.regs[value_regno] = pointer(PTR_TO_MEM | found.flags)
        return
    env.frame.regs[value_regno] = btf_pointer(env, found.type_id, _next_flags(env, btf, reg, found))


def _check_pointer(env: Env, reg: Reg, regno: int, off: int, name: str) -> None:
    if not env.allow_ptr_leaks:
        raise env.reject(
            errno.EPERM, f"'struct {name}' access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN\n"
        )
    if not env.spec.gpl_compatible:
        raise env.reject(
            errno.EINVAL, f"Cannot access kernel 'struct {name}' from non-GPL compatible program\n"
        )
    what = f"R{regno} is ptr_{name}"
    if off < 0:
        raise env.reject(errno.EACCES, f"{what} invalid negative access: off={off}\n")
    if reg.bounds.mask or reg.bounds.value:
        text = tnum.text(reg.bounds.tnum)
        raise env.reject(errno.EACCES, f"{what} invalid variable offset: off={off}, var_off={text}\n")
    for flag, word in ((MEM_USER, "user"), (MEM_PERCPU, "percpu")):
        if reg.type & flag:
            raise env.reject(errno.EACCES, f"{what} access {word} memory: off={off}\n")
