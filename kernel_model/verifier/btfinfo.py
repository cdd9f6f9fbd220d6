# SPDX-License-Identifier: GPL-2.0-only
"""func_info and line_info of a program: they must match its functions and instructions (since 5.0)."""

from __future__ import annotations

import errno

from kernel_model.errors import KernelError

from .env import Env, Reject


def _abnormal_return(env: Env) -> None:
    """Functions that may leave the program early need BTF that says what they return."""
    for sub in env.subprogs[1:-1]:
        if sub.has_ld_abs:
            raise env.reject(errno.EINVAL, "LD_ABS is not allowed in subprogs without BTF\n")
        if sub.has_tail_call:
            raise env.reject(errno.EINVAL, "tail_call is not allowed in subprogs without BTF\n")


def check_func_info_early(env: Env) -> None:
    """Before the functions are known: offsets rise, types are functions."""
    spec = env.spec
    if not spec.func_info and not spec.line_info:
        return
    if spec.btf is None:
        raise Reject(errno.EINVAL)
    before = 0
    for number, record in enumerate(spec.func_info):
        if number == 0:
            if record.insn_off:
                raise env.reject(
                    errno.EINVAL, f"nonzero insn_off {record.insn_off} for the first func info record"
                )
        elif record.insn_off <= before:
            raise env.reject(
                errno.EINVAL,
                f"same or smaller insn offset ({record.insn_off}) than previous func info record ({before})",
            )
        try:
            spec.btf.func_name(record.type_id)
        except KernelError:
            raise env.reject(errno.EINVAL, f"invalid type id {record.type_id} in func info") from None
        before = record.insn_off
    env.func_info = list(spec.func_info)


def _check_funcs(env: Env) -> None:
    btf = env.spec.btf
    if not env.func_info:
        _abnormal_return(env)
        return
    assert btf is not None
    if len(env.func_info) != env.subprog_cnt:
        raise env.reject(errno.EINVAL, "number of funcs in func_info doesn't match number of subprogs\n")
    for number, (record, sub) in enumerate(zip(env.func_info, env.subprogs, strict=False)):
        if sub.start != record.insn_off:
            raise env.reject(
                errno.EINVAL, "func_info BTF section doesn't match subprog layout in BPF program\n"
            )
        sub.linkage = btf.func_linkage(record.type_id)
        sub.name = btf.func_name(record.type_id)
        scalar = btf.func_returns(record.type_id) in ("int", "enum")
        if number and not scalar and sub.has_ld_abs:
            raise env.reject(errno.EINVAL, "LD_ABS is only allowed in functions that return 'int'.\n")
        if number and not scalar and sub.has_tail_call:
            raise env.reject(errno.EINVAL, "tail_call is only allowed in functions that return 'int'.\n")


def _check_lines(env: Env) -> None:
    lines = env.line_info
    if not lines:
        return
    count = len(env.insns)
    before = 0
    number = 0
    for i, record in enumerate(lines):
        off = record.insn_off
        if (i and off <= before) or off >= count:
            raise env.reject(
                errno.EINVAL,
                f"Invalid line_info[{i}].insn_off:{off} (prev_offset:{before} prog->len:{count})\n",
            )
        if not env.insns[off].code:
            raise env.reject(errno.EINVAL, f"Invalid insn code at line_info[{i}].insn_off\n")
        if number != env.subprog_cnt:
            start = env.subprogs[number].start
            if off == start:
                number += 1
            elif start < off:
                raise env.reject(errno.EINVAL, f"missing bpf_line_info for func#{number}\n")
        before = off
    if number != env.subprog_cnt:
        raise env.reject(
            errno.EINVAL,
            f"missing bpf_line_info for {env.subprog_cnt - number} funcs starting from func#{number}\n",
        )


def check_btf_info(env: Env) -> None:
    """After the functions are known: each has its record, and lines begin where instructions do."""
    if not env.spec.func_info and not env.spec.line_info:
        _abnormal_return(env)
        return
    _check_funcs(env)
    _check_lines(env)
