# SPDX-License-Identifier: GPL-2.0-only
"""Speculation: what loaders without CAP_PERFMON may not do because a mispredicting CPU would betray it.

Pointer arithmetic with a number from a register is masked at run time to the pointer's bounds, and branches
that cannot be taken are followed all the same, as a CPU may follow them. (since 5.12; 6.18's rules)
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

from . import bounds as bd
from . import tnum
from .env import MAX_BPF_STACK, Env, InsnAux
from .pending import push_stack
from .regs import PTR_TO_MAP_VALUE, PTR_TO_STACK, UNKNOWN_REG, Reg

ALU_SANITIZE_SRC: Final = 1 << 0
ALU_SANITIZE_DST: Final = 1 << 1
ALU_NEG_VALUE: Final = 1 << 2
ALU_NON_POINTER: Final = 1 << 3
ALU_IMMEDIATE: Final = 1 << 4
ALU_SANITIZE: Final = ALU_SANITIZE_SRC | ALU_SANITIZE_DST

_PROHIBITED: Final = "pointer arithmetic with it prohibited for !root"
_BOUNDS, _TYPE, _PATHS, _LIMIT = range(4)


class Window:
    """The mask found before an operation, compared with the one after it."""

    __slots__ = ("limit", "state", "to_left")

    def __init__(self) -> None:
        self.limit = 0
        self.state = 0
        self.to_left = False


def _skip(env: Env, insn: Insn) -> bool:
    return env.bypass_spec_v1 or not insn.code & 8 or env.aux[env.insn_idx].nospec


def _refuse(env: Env, insn: Insn, why: int, off_is_dst: bool) -> Exception:
    word = "add" if insn.code & 0xF0 == op.BPF_ADD else "sub"
    dst, src = insn.dst, insn.src
    if why == _BOUNDS:
        text = f"R{dst if off_is_dst else src} has unknown scalar with mixed signed bounds, {_PROHIBITED}\n"
    elif why == _TYPE:
        text = f"R{src if off_is_dst else dst} has pointer with unsupported alu operation, {_PROHIBITED}\n"
    elif why == _PATHS:
        text = f"R{dst} tried to {word} from different maps, paths or scalars, {_PROHIBITED}\n"
    else:
        text = f"R{dst} tried to {word} beyond pointer bounds, {_PROHIBITED}\n"
    return env.reject(errno.EACCES, text)


def _update(env: Env, insn: Insn, aux: InsnAux, state: int, limit: int, off_is_dst: bool) -> None:
    if aux.alu_state and (aux.alu_state != state or aux.alu_limit != limit):
        raise _refuse(env, insn, _PATHS, off_is_dst)
    aux.alu_state = state
    aux.alu_limit = limit


def sanitize_value(env: Env, insn: Insn) -> None:
    """Arithmetic on numbers alone must not be masked on another path."""
    if not _skip(env, insn):
        _update(env, insn, env.aux[env.insn_idx], ALU_NON_POINTER, 0, False)


def _pointer_limit(env: Env, insn: Insn, ptr: Reg, to_left: bool, off_is_dst: bool) -> int:
    if ptr.type == PTR_TO_STACK:
        most = MAX_BPF_STACK + to_left
        limit = -(ptr.bounds.smin + ptr.off) & 0xFFFFFFFF
    elif ptr.type == PTR_TO_MAP_VALUE and ptr.map is not None:
        most = ptr.map.value_size
        limit = ((ptr.bounds.smin if to_left else ptr.bounds.umax) + ptr.off) & 0xFFFFFFFF
    else:
        raise _refuse(env, insn, _TYPE, off_is_dst)
    if limit >= most:
        raise _refuse(env, insn, _LIMIT, off_is_dst)
    return limit


def sanitize_pointer(
    env: Env, insn: Insn, ptr: Reg, off: Reg, ptr_is_dst: bool, window: Window, *, commit: bool
) -> None:
    """Decide how ``ptr op off`` is masked; called before the operation and (``commit``) after it."""
    if _skip(env, insn):
        return
    off_is_const = off.bounds.mask == 0
    negative = off.bounds.smin < 0
    off_is_dst = not ptr_is_dst
    if not env.cur.speculative:
        if not commit:
            if not off_is_const and negative != (off.bounds.smax < 0):
                raise _refuse(env, insn, _BOUNDS, off_is_dst)
            adding = insn.code & 0xF0 == op.BPF_ADD
            window.to_left = negative if adding else not negative
        limit = _pointer_limit(env, insn, ptr, window.to_left, off_is_dst)
        if commit:
            _update(env, insn, env.aux[env.insn_idx], window.state, abs(window.limit - limit), off_is_dst)
        else:
            window.state = (
                (ALU_NEG_VALUE if negative else 0)
                | (ALU_IMMEDIATE if off_is_const else 0)
                | (ALU_SANITIZE_SRC if ptr_is_dst else ALU_SANITIZE_DST)
            )
            window.limit = limit
            if not off_is_const:
                env.explore_alu_limits = True
    if commit or off_is_const:
        return
    # The masked number may come out as zero: follow that, too.
    regs = env.frame.regs
    saved = regs[insn.dst]
    if ptr_is_dst:
        bounds = saved.bounds.copy()
        bd.set_unbounded32(bounds)
        regs[insn.dst] = saved.with_bounds(bounds)
    else:
        regs[insn.dst] = ptr
    speculative_path(env, None, env.insn_idx + 1, env.insn_idx)
    regs[insn.dst] = saved


def speculative_path(env: Env, insn: Insn | None, next_idx: int, cur_idx: int) -> None:
    """Follow, as a CPU might, a way that the program cannot go; the compared registers may be anything."""
    branch = push_stack(env, next_idx, cur_idx, True)
    if insn is not None:
        regs = branch.frames[-1].regs
        regs[insn.dst] = UNKNOWN_REG
        if insn.code & 8:
            regs[insn.src] = UNKNOWN_REG


def check_bounds(env: Env, insn: Insn, reg: Reg) -> None:
    """The pointer must not leave what it points into, even before it is used."""
    if env.bypass_spec_v1:
        return
    if reg.type == PTR_TO_STACK:
        off = reg.off + reg.bounds.smin
        if reg.bounds.mask:
            raise env.reject(
                errno.EACCES,
                f"R{insn.dst} variable stack access prohibited for !root, "
                f"var_off={tnum.text(reg.bounds.tnum)} off={off}\n",
            )
        if off >= 0 or off < -MAX_BPF_STACK:
            raise env.reject(
                errno.EACCES,
                f"R{insn.dst} stack pointer arithmetic goes out of range, prohibited for !root; off={off}\n",
            )
    elif reg.type == PTR_TO_MAP_VALUE:
        from .memory import map_access_fits

        if not map_access_fits(env, insn.dst, reg.off, 1):
            raise env.reject(
                errno.EACCES,
                f"R{insn.dst} pointer arithmetic of map value goes out of range, prohibited for !root\n",
            )
