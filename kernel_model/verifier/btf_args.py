# SPDX-License-Identifier: GPL-2.0-only
"""Kernel structures and variables by BTF: as arguments and results of helpers, and as constants.

Rules of check_reg_type(), check_helper_call() and check_pseudo_btf_id() of Linux 6.18.
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.btf.parse import Btf, BtfError, Kind

from .btf_access import COMPOSITE, skip_modifiers, type_name
from .env import Env
from .regs import (
    MEM_PERCPU,
    MEM_RCU,
    MEM_RDONLY,
    PTR_TO_BTF_ID,
    PTR_TO_MEM,
    PTR_TRUSTED,
    Reg,
    pointer,
)

BTF_POINTERS: Final = (PTR_TO_BTF_ID, PTR_TO_BTF_ID | PTR_TRUSTED, PTR_TO_BTF_ID | MEM_RCU)
PERCPU_POINTERS: Final = tuple(PTR_TO_BTF_ID | MEM_PERCPU | flag for flag in (0, MEM_RCU, PTR_TRUSTED))
PERCPU_SECTION: Final = ".data..percpu"
UNKNOWN_SYMBOLS: Final = 0xFFFFFFFFA0000000
"""Where variables of a given BTF lie that the simulated kernel does not have: nothing is mapped there."""


def struct_id(env: Env, name: str) -> int:
    """The id of a structure that a helper's prototype names; NotModelled when the kernel's BTF lacks it."""
    found = env.kernel.vmlinux().find(name, Kind.STRUCT)
    if not found:
        raise env.not_modelled(f"struct {name}, which the kernel's BTF lacks")
    return found


def embeds(btf: Btf, type_id: int, off: int, wanted: int) -> bool:
    """Whether a structure is the wanted one, or has it at a byte offset (btf_struct_ids_match)."""
    while True:
        if not off and type_id == wanted:
            return True
        for member in skip_modifiers(btf, type_id).members:
            inner = skip_modifiers(btf, member.type)
            start = member.bit_offset // 8
            while inner.kind is Kind.ARRAY and inner.nelems:
                size = btf.size_of(inner.type)
                if size and start <= off < start + inner.nelems * size:
                    start += (off - start) // size * size
                inner = skip_modifiers(btf, inner.type)
            if inner.kind in COMPOSITE and start <= off < start + inner.size:
                type_id, off = inner.id, off - start
                break
        else:
            return False


def check_struct(env: Env, reg: Reg, regno: int, name: str) -> None:
    """An argument must point to the structure, or to one that has it at that place."""
    wanted = struct_id(env, name)
    btf = env.kernel.vmlinux()
    if not embeds(btf, reg.extra, reg.off, wanted):
        raise env.reject(
            errno.EACCES, f"R{regno} is of type {type_name(btf, reg.extra)} but {name} is expected\n"
        )


def struct_result(env: Env, name: str, flags: int) -> Reg:
    """A helper's result: a pointer to a structure of the kernel."""
    return pointer(PTR_TO_BTF_ID | flags, extra=struct_id(env, name))


def variable_result(env: Env, type_id: int, flags: int) -> Reg:
    """This CPU's copy of a variable: a structure, or plain memory of its size."""
    btf = env.kernel.vmlinux()
    found = skip_modifiers(btf, type_id)
    if found.kind in COMPOSITE:
        return pointer(PTR_TO_BTF_ID | flags & ~MEM_RDONLY, extra=type_id)
    try:
        size = btf.size_of(type_id)
    except BtfError:
        text = f"unable to resolve the size of type '{found.name}': -{errno.EINVAL}\n"
        raise env.reject(errno.EINVAL, text) from None
    return pointer(PTR_TO_MEM | flags, extra=size)


# ---- constants --------------------------------------------------------------------------------


def _is_percpu(btf: Btf, number: int) -> bool:
    section = btf.find(PERCPU_SECTION, Kind.DATASEC)
    return bool(section) and any(var.type == number for var in btf.type(section).vars)


def variable(env: Env, number: int) -> tuple[int, Reg]:
    """Address of the kernel symbol with that BTF id, and what a register with it holds."""
    btf = env.kernel.vmlinux()
    try:
        found = btf.type(number)
    except BtfError:
        raise env.reject(errno.ENOENT, f"ldimm64 insn specifies invalid btf_id {number}.\n") from None
    if found.kind not in (Kind.VAR, Kind.FUNC):
        raise env.reject(errno.EINVAL, f"pseudo btf_id {number} in ldimm64 isn't KIND_VAR or KIND_FUNC\n")
    try:
        addr = env.kernel.symbol(found.name)
    except KeyError:
        addr = UNKNOWN_SYMBOLS + 16 * number
    if found.kind is Kind.FUNC:
        return addr, pointer(PTR_TO_MEM | MEM_RDONLY)
    if _is_percpu(btf, number):
        return addr, pointer(PTR_TO_BTF_ID | MEM_PERCPU, extra=found.type)
    target = skip_modifiers(btf, found.type)
    if target.kind in COMPOSITE:
        return addr, pointer(PTR_TO_BTF_ID, extra=found.type)
    try:
        size = btf.size_of(found.type)
    except BtfError:
        text = f"ldimm64 unable to resolve the size of type '{target.name}': -{errno.EINVAL}\n"
        raise env.reject(errno.EINVAL, text) from None
    return addr, pointer(PTR_TO_MEM | MEM_RDONLY, extra=size)
