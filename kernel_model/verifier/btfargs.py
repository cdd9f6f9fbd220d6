# SPDX-License-Identifier: GPL-2.0-only
"""Arguments of the program's own functions by their BTF: what a global function may assume (since 5.6)."""

from __future__ import annotations

import errno
from typing import Final

from .env import Env, Reject
from .memory import check_ptr_off
from .memory_args import check_helper_mem
from .regs import (
    MEM_RDONLY,
    MEM_RINGBUF,
    PTR_MAYBE_NULL,
    PTR_TO_BUF,
    PTR_TO_CTX,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_META,
    PTR_TO_STACK,
    SCALAR_VALUE,
)

SCALAR_ARG: Final = "scalar"
CTX_ARG: Final = "ctx"
MEM_ARG: Final = "mem"

_ANY_OFFSET: Final = frozenset(
    (
        PTR_TO_STACK, PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_MAP_KEY, PTR_TO_MAP_VALUE, PTR_TO_MEM,
        PTR_TO_MEM | MEM_RDONLY, PTR_TO_MEM | MEM_RINGBUF, PTR_TO_BUF, PTR_TO_BUF | MEM_RDONLY, SCALAR_VALUE,
    )
)  # fmt: skip


def prepare_args(env: Env, subprog: int) -> list[tuple[str, int]]:
    """Kind (scalar, ctx or mem) and, for memory, size of each argument; Reject when BTF does not say."""
    sub = env.subprogs[subprog]
    if sub.args is not None:
        return sub.args
    btf = env.spec.btf
    if btf is None or not env.func_info or sub.unreliable:
        raise Reject(errno.EINVAL)
    type_id = env.func_info[subprog].type_id
    is_global = env.is_global(subprog)
    params = btf.func_params(type_id)
    if len(params) > 5:
        if not is_global:
            raise Reject(errno.EINVAL)
        raise env.reject(
            errno.EINVAL, f"Global function {sub.name}() with {len(params)} > 5 args. Buggy compiler.\n"
        )
    if btf.func_returns(type_id) not in ("int", "enum"):
        if not is_global:
            raise Reject(errno.EINVAL)
        raise env.reject(
            errno.EINVAL, f"Global function {sub.name}() doesn't return scalar. Only those are supported.\n"
        )
    args: list[tuple[str, int]] = []
    for number, (_, kind, size) in enumerate(params):
        if kind in ("int", "enum"):
            args.append((SCALAR_ARG, 0))
        elif kind == "ctx":
            args.append((CTX_ARG, 0))
        elif kind == "ptr" and size > 0:
            if not is_global:
                raise Reject(errno.EINVAL)
            args.append((MEM_ARG, size))
        elif not is_global:
            raise Reject(errno.EINVAL)
        elif kind == "ptr:void":
            text = f"arg#{number} reference type('UNKNOWN ') size cannot be determined: -{errno.EINVAL}\n"
            raise env.reject(errno.EINVAL, text)
        else:
            raise env.not_modelled(f"argument #{number} of global function {sub.name}()")
    sub.args = args
    return args


def _check_one(env: Env, number: int, kind: str, size: int) -> None:
    regno = number + 1
    reg = env.frame.regs[regno]
    if kind == SCALAR_ARG:
        if reg.type != SCALAR_VALUE:
            raise env.reject(errno.EINVAL, f"R{regno} is not a scalar\n")
        return
    if reg.type not in _ANY_OFFSET:
        check_ptr_off(env, reg, regno)
    if kind == CTX_ARG:
        if reg.type != PTR_TO_CTX:
            raise env.reject(errno.EINVAL, f"arg#{number} expects pointer to ctx\n")
        return
    # The callee must reckon with NULL, as it has no say (decl_tag "arg:nonnull" is not read).
    if not reg.is_null:
        maybe_null = bool(reg.type & PTR_MAYBE_NULL)
        if maybe_null:
            env.frame.regs[regno] = reg.with_type(reg.type & ~PTR_MAYBE_NULL)
        try:
            check_helper_mem(env, regno, size, False, True, None)
            check_helper_mem(env, regno, size, True, True, None)
        except Reject as error:
            raise Reject(errno.EINVAL, error.not_modelled) from None
        finally:
            if maybe_null:
                env.frame.regs[regno] = reg


def check_call_args(env: Env, subprog: int) -> int:
    """0 when a call's arguments fit the callee's BTF, else an errno (which only a global callee minds)."""
    sub = env.subprogs[subprog]
    if not env.func_info or sub.unreliable:
        return errno.EINVAL
    try:
        for number, (kind, size) in enumerate(prepare_args(env, subprog)):
            _check_one(env, number, kind, size)
    except Reject as error:
        if error.errno == errno.EFAULT or error.not_modelled:
            raise
        sub.unreliable = True
        return error.errno
    return 0
