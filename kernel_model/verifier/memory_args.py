# SPDX-License-Identifier: GPL-2.0-only
"""Memory handed to a helper: a pointer and how many bytes behind it the helper touches."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from . import stack
from .env import Env
from .memory import check_map_type, check_packet, check_region
from .precision import mark_chain_precision
from .regs import (
    BASE_MASK,
    BPF_MAX_VAR_SIZ,
    MEM_RDONLY,
    MEM_SIZE,
    PACKET_POINTERS,
    PTR_TO_BTF_ID,
    PTR_TO_BUF,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_STACK,
    Reg,
    type_str,
)

if TYPE_CHECKING:
    from .calls import CallMeta


def check_helper_mem(
    env: Env, regno: int, size: int, write: bool, zero_ok: bool, meta: CallMeta | None
) -> None:
    """``size`` bytes at the register, read (or written) by a helper (check_helper_mem_access)."""
    reg = env.frame.regs[regno]
    base = reg.type & BASE_MASK
    if base in PACKET_POINTERS:
        check_packet(env, regno, reg.off, size, zero_ok)
    elif base == PTR_TO_MAP_KEY:
        _no_write(env, regno, reg, write)
        assert reg.map is not None
        check_region(env, regno, reg.off, size, reg.map.key_size, False)
    elif base == PTR_TO_MAP_VALUE:
        check_map_type(env, regno, reg.off, size, write)
        assert reg.map is not None
        check_region(env, regno, reg.off, size, reg.map.value_size, zero_ok)
    elif base == PTR_TO_MEM:
        if reg.type & MEM_RDONLY:
            _no_write(env, regno, reg, write)
        check_region(env, regno, reg.off, size, reg.extra & MEM_SIZE, zero_ok)
    elif base == PTR_TO_STACK:
        stack.check_range_initialized(env, regno, reg.off, size, zero_ok, write, meta)
    elif base in (PTR_TO_BUF, PTR_TO_BTF_ID):
        raise env.not_modelled(f"memory argument of type {type_str(reg.type)}")
    elif not (zero_ok and size == 0 and reg.is_null):
        raise env.reject(
            errno.EACCES, f"R{regno} type={type_str(reg.type)} expected={type_str(PTR_TO_STACK)}\n"
        )


def _no_write(env: Env, regno: int, reg: Reg, write: bool) -> None:
    if write:
        raise env.reject(errno.EACCES, f"R{regno} cannot write into {type_str(reg.type)}\n")


def check_mem_size(env: Env, reg: Reg, regno: int, write: bool, zero_ok: bool, meta: CallMeta) -> None:
    """A register with the size of the memory that the register before it points to."""
    b = reg.bounds
    meta.msize_max = b.umax
    if b.smin < 0:
        raise env.reject(
            errno.EACCES,
            f"R{regno} min value is negative, either use unsigned or 'var &= const'\n",
        )
    if b.umin == 0 and not zero_ok:
        raise env.reject(errno.EACCES, f"R{regno} invalid zero-sized read: u64=[{b.umin},{b.umax}]\n")
    if b.umax >= BPF_MAX_VAR_SIZ:
        raise env.reject(
            errno.EACCES,
            f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'\n",
        )
    check_helper_mem(env, regno - 1, b.umax, write, zero_ok, None if b.mask else meta)
    mark_chain_precision(env, regno)
