# SPDX-License-Identifier: GPL-2.0-only
"""The context of programs on kernel functions: their arguments, typed by BTF (btf_ctx_access, since 5.5)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from kernel_model.btf.parse import Btf, BtfType, Kind
from kernel_model.hooks.ctx_tracing import MAX_BPF_FUNC_ARGS
from kernel_model.hooks.tp_null_args import TP_NULL_ARGS
from kernel_model.uapi.enums import bpf_attach_type as a

from . import bounds as bd
from .bounds import Bounds
from .btf_access import COMPOSITE, btf_pointer, kind_text, skip_modifiers, tag_flags
from .env import Env, Reject
from .operands import check_bounds
from .printing import print_line
from .regs import (
    MEM_RCU,
    PTR_MAYBE_NULL,
    PTR_TRUSTED,
    UNKNOWN_REG,
    Reg,
    scalar,
)

TRACE_PREFIX: Final = "btf_trace_"
_ENUMS: Final = frozenset((Kind.ENUM, Kind.ENUM64))


@dataclass(frozen=True)
class AttachTarget:
    """The kernel function that a program is for.

    ``proto`` is its FUNC_PROTO; ``skipped`` says how many leading parameters the program does not see (the
    ``__data`` of tracepoints); ``trusted``: pointers among the arguments are valid while the program runs;
    ``returns``: the least and the greatest result that it may have, None for any.
    """

    btf: Btf
    type_id: int
    name: str
    proto: BtfType
    skipped: int = 0
    trusted: bool = False
    returns: tuple[int, int] | None = None
    arg_flags: tuple[tuple[int, int, str], ...] = ()
    """Arguments that the kernel describes by hand: byte offset, flags, and the structure's name."""


def small_int(found: BtfType) -> bool:
    """An integer that fits a register."""
    return found.kind is Kind.INT and found.size <= 8


def _arg_index(target: AttachTarget, off: int) -> int:
    """The number of the argument at a byte offset; one more than the last: the result; then nothing."""
    end = 0
    params = target.proto.params
    for number, param in enumerate(params):
        end += _slot(target.btf, param.type)
        if off < end:
            return number
    end += _slot(target.btf, target.proto.type)
    return len(params) if off < end else len(params) + 1


def _slot(btf: Btf, type_id: int) -> int:
    found = skip_modifiers(btf, type_id)
    return 8 if found.kind is Kind.PTR else -(-found.size // 8) * 8


def access(env: Env, insn_idx: int, off: int, size: int, write: bool) -> Reg:
    """What a load from the context yields; Reject(EACCES) when it may not be made."""
    found = None
    if not write and 0 <= off < 8 * MAX_BPF_FUNC_ARGS and off % size == 0:
        found = _argument(env, off, size)
    if found is not None:
        if not found.extra:
            env.max_ctx_offset = max(env.max_ctx_offset, off + size)
        return found
    env.verbose(f"invalid bpf_context access off={off} size={size}\n")
    message = env.last_message
    print_line(env, insn_idx, "; ")
    env.last_message = message
    raise Reject(errno.EACCES)


def _argument(env: Env, off: int, size: int) -> Reg | None:
    target = env.attach
    assert target is not None
    btf = target.btf
    func = f"func '{target.name}'"
    if off % 8:
        env.verbose(f"{func} offset {off} is not multiple of 8\n")
        return None
    arg = _arg_index(target, off)
    params = target.proto.params[target.skipped :]
    kind = env.spec.expected_attach_type
    returned = False
    if arg < len(params):
        found = skip_modifiers(btf, params[arg].type)
    elif arg > len(params) or kind not in _SEE_RESULT:
        env.verbose(f"{func} doesn't have {arg + 1}-th argument\n")
        return None
    else:
        returned = kind == a.BPF_LSM_MAC
        found = skip_modifiers(btf, target.proto.type)
        if kind == a.BPF_MODIFY_RETURN and not small_int(found):
            env.verbose(f"ret type {kind_text(found)} not allowed for fmod_ret\n")
            return None
    if small_int(found) or found.kind in _ENUMS or found.kind in COMPOSITE:
        return _result(env, target.returns) if returned and target.returns is not None else UNKNOWN_REG
    if found.kind is not Kind.PTR:
        name = found.name or "(anon)"
        env.verbose(f"{func} arg{arg} '{name}' has type {kind_text(found)}. Only pointer access is allowed\n")
        return None
    if size != 8:
        env.verbose(f"{func} size {size} must be 8\n")
        return None
    return _pointer(env, target, found, arg, off)


_SEE_RESULT: Final = frozenset((a.BPF_LSM_MAC, a.BPF_LSM_CGROUP, a.BPF_TRACE_FEXIT, a.BPF_MODIFY_RETURN))


def _result(env: Env, limits: tuple[int, int]) -> Reg:
    out: Bounds = bd.UNKNOWN.copy()
    out.smin = out.s32_min = limits[0]
    out.smax = out.s32_max = limits[1]
    bd.sync(out)
    return scalar(check_bounds(env, out, "retval"))


def _pointer(env: Env, target: AttachTarget, found: BtfType, arg: int, off: int) -> Reg | None:
    btf = target.btf
    first = skip_modifiers(btf, found.type)
    if first.kind is Kind.VOID or first.kind is Kind.INT:
        return UNKNOWN_REG
    for at, special, name in target.arg_flags:
        if at == off:
            return btf_pointer(env, btf.find(name, Kind.STRUCT), special)
    flags = PTR_TRUSTED if target.trusted else 0
    params = target.proto.params[target.skipped :]
    if arg < len(params) and params[arg].name.endswith("__nullable"):
        flags |= PTR_MAYBE_NULL
    may_be_error = False
    if env.spec.expected_attach_type == a.BPF_TRACE_RAW_TP:
        mask = TP_NULL_ARGS.get(target.name, 0) >> arg * 4
        flags |= PTR_MAYBE_NULL if mask & 1 else 0
        may_be_error = bool(mask & 2)
    flags |= tag_flags(btf, found.type) & ~MEM_RCU
    if first.kind not in COMPOSITE:
        env.verbose(f"func '{target.name}' arg{arg} type {kind_text(first)} is not a struct\n")
        return None
    name = first.name or "(anon)"
    env.verbose(f"func '{target.name}' arg{arg} has btf_id {first.id} type {kind_text(first)} '{name}'\n")
    if may_be_error:
        env.verbose(f"marking pointer arg{arg} as scalar as it may encode error")
        return UNKNOWN_REG
    return btf_pointer(env, first.id, flags)
