# SPDX-License-Identifier: GPL-2.0-only
"""Small checks on registers that every rule uses: may it be read, may it be written, is it a pointer."""

from __future__ import annotations

import errno

from . import bounds as bd
from .bounds import Bounds
from .env import Env, Reject
from .regs import BPF_ADD_CONST, NOT_INIT, SCALAR_VALUE, Reg, type_str

CALLER_SAVED = (0, 1, 2, 3, 4, 5)


def read_reg(env: Env, regno: int) -> Reg:
    """The register as a source operand; refused when nothing was ever written to it."""
    if regno >= 11:
        raise env.reject(errno.EINVAL, f"R{regno} is invalid\n")
    if env.detailed:
        env.scratched_regs |= 1 << regno
    reg = env.cur.frames[-1].regs[regno]
    if reg.type == NOT_INIT:
        raise env.reject(errno.EACCES, f"R{regno} !read_ok\n")
    return reg


def check_writable(env: Env, regno: int) -> None:
    """Refuse writes to the frame pointer and to registers that do not exist."""
    if regno >= 10:
        if regno > 10:
            raise env.reject(errno.EINVAL, f"R{regno} is invalid\n")
        raise env.reject(errno.EACCES, "frame pointer is read only\n")
    if env.detailed:
        env.scratched_regs |= 1 << regno


def leaks_pointer(env: Env, reg: Reg) -> bool:
    """The register holds a pointer that this loader must not learn."""
    return reg.type != SCALAR_VALUE and not env.allow_ptr_leaks


def check_bounds(env: Env, b: Bounds, where: str) -> Bounds:
    """Bounds that contradict themselves lose their ranges, with a note (kernel: reg_bounds_sanity_check)."""
    if b.sane:
        return b
    what = bd.invariant_violation(b)
    if not what:
        b.sane = True
        return b
    hexes = [f"{value & bd.U64:#x}" for value in (b.umin, b.umax, b.smin, b.smax)]
    low = [f"{value & bd.U32:#x}" for value in (b.u32_min, b.u32_max, b.s32_min, b.s32_max)]
    env.bug(
        f"REG INVARIANTS VIOLATION ({where}): {what} u64=[{hexes[0]}, {hexes[1]}] "
        f"s64=[{hexes[2]}, {hexes[3]}] u32=[{low[0]}, {low[1]}] s32=[{low[2]}, {low[3]}] "
        f"var_off=({b.value:#x}, {b.mask:#x})"
    )
    if env.test_reg_invariants:
        raise Reject(errno.EFAULT)
    out = b.copy()
    bd.set_unbounded(out)
    return out


def tie_before_move(env: Env, reg: Reg) -> Reg:
    """A scalar about to be copied gets an id, so that what is learnt of one copy is known of both.

    A scalar that is another one plus a constant loses that tie first (since 6.11).
    """
    if reg.type != SCALAR_VALUE:
        return reg
    if reg.id & BPF_ADD_CONST:
        reg = reg.with_id(0, 0)
    if not reg.id and reg.bounds.mask:
        reg = reg.with_id(env.new_id())
    return reg


def scratch_caller_saved(env: Env) -> None:
    """R0-R5 show in the log after a call."""
    if env.detailed:
        env.scratched_regs |= 0x3F


def type_words(reg: Reg) -> str:
    """The log's words for the register's type."""
    return type_str(reg.type)
