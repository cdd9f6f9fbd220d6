# SPDX-License-Identifier: GPL-2.0-only
"""func_info and line_info of a program: they must match its functions and instructions (since 5.0)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

from kernel_model.errors import KernelError, MemoryFault

from .api import FuncInfo, LineInfo, ProgramSpec
from .bounds import s32
from .env import Env, Reject
from .records import INT_MAX, UserRecords, known

FUNC_INFO: Final = struct.Struct("<II")
LINE_INFO: Final = struct.Struct("<IIII")
CORE_RELO: Final = struct.Struct("<IIII")
"""struct bpf_func_info, bpf_line_info, bpf_core_relo."""


def _abnormal_return(env: Env) -> None:
    """Functions that may leave the program early need BTF that says what they return."""
    for sub in env.subprogs[1:-1]:
        if sub.has_ld_abs:
            raise env.reject(errno.EINVAL, "LD_ABS is not allowed in subprogs without BTF\n")
        if sub.has_tail_call:
            raise env.reject(errno.EINVAL, "tail_call is not allowed in subprogs without BTF\n")


def _records(env: Env, given: UserRecords | Sequence[object], form: struct.Struct) -> UserRecords:
    if isinstance(given, UserRecords):
        return given
    return known([astuple(record) for record in given], form)  # type: ignore[call-overload]


def lines_of(spec: ProgramSpec) -> list[LineInfo]:
    """The program's line_info as it was given, unchecked; empty when it cannot be read."""
    given = spec.line_info
    if not isinstance(given, UserRecords):
        return list(given)
    if given.count > INT_MAX // LINE_INFO.size or not given.good_size(LINE_INFO):
        return []
    try:
        data = given.read(0, given.count * given.rec_size)
    except MemoryFault:
        return []
    return [LineInfo(*LINE_INFO.unpack_from(data, at)) for at in range(0, len(data), given.rec_size)]


def _has_info(env: Env) -> bool:
    return bool(len(env.spec.func_info) or len(env.spec.line_info))


def check_func_info_early(env: Env) -> None:
    """Before the functions are known: offsets rise, types are functions (check_btf_func_early)."""
    spec = env.spec
    if not _has_info(env):
        return
    if spec.btf is None:
        raise Reject(spec.btf_errno or errno.EINVAL)
    records = _records(env, spec.func_info, FUNC_INFO)
    if not records.count:
        return
    if not records.good_size(FUNC_INFO):
        raise env.reject(errno.EINVAL, f"invalid func info rec size {records.rec_size}\n")
    if records.count * FUNC_INFO.size > INT_MAX:
        raise Reject(errno.ENOMEM)
    before = 0
    for number, (insn_off, type_id) in enumerate(records.unpack(env, FUNC_INFO, "func info")):
        if number == 0:
            if insn_off:
                raise env.reject(errno.EINVAL, f"nonzero insn_off {insn_off} for the first func info record")
        elif insn_off <= before:
            raise env.reject(
                errno.EINVAL,
                f"same or smaller insn offset ({insn_off}) than previous func info record ({before})",
            )
        try:
            spec.btf.func_name(type_id)
        except KernelError:
            raise env.reject(errno.EINVAL, f"invalid type id {s32(type_id)} in func info") from None
        before = insn_off
        env.func_info.append(FuncInfo(insn_off, type_id))


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
    """Lines begin where instructions do, and each function has its first (check_btf_line)."""
    btf = env.spec.btf
    records = _records(env, env.spec.line_info, LINE_INFO)
    if not records.count:
        return
    assert btf is not None
    if records.count > INT_MAX // LINE_INFO.size or not records.good_size(LINE_INFO):
        raise Reject(errno.EINVAL)
    count = len(env.insns)
    before = 0
    number = 0
    for i, (off, file_name, line, column) in enumerate(records.unpack(env, LINE_INFO, "line_info")):
        if (i and off <= before) or off >= count:
            raise env.reject(
                errno.EINVAL,
                f"Invalid line_info[{i}].insn_off:{off} (prev_offset:{before} prog->len:{count})\n",
            )
        if not env.insns[off].code:
            raise env.reject(errno.EINVAL, f"Invalid insn code at line_info[{i}].insn_off\n")
        if not (btf.has_string(line) and btf.has_string(file_name)):
            raise env.reject(errno.EINVAL, f"Invalid line_info[{i}].line_off or .file_name_off\n")
        if number != env.subprog_cnt:
            start = env.subprogs[number].start
            if off == start:
                number += 1
            elif start < off:
                raise env.reject(errno.EINVAL, f"missing bpf_line_info for func#{number}\n")
        before = off
        env.line_info.append(LineInfo(off, file_name, line, column))
    if number != env.subprog_cnt:
        raise env.reject(
            errno.EINVAL,
            f"missing bpf_line_info for {env.subprog_cnt - number} funcs starting from func#{number}\n",
        )


def _check_relocations(env: Env) -> None:
    """Relocations that the kernel is asked to make; only their form is known here (check_core_relo)."""
    records = env.spec.core_relos
    if records is None or not records.count:
        return
    if records.count > INT_MAX // CORE_RELO.size or not records.good_size(CORE_RELO):
        raise Reject(errno.EINVAL)
    for i, (insn_off, _, _, _) in enumerate(records.unpack(env, CORE_RELO, "core_relo")):
        if insn_off % 8 or insn_off // 8 >= len(env.insns):
            raise env.reject(
                errno.EINVAL, f"Invalid core_relo[{i}].insn_off:{insn_off} prog->len:{len(env.insns)}\n"
            )
        raise env.not_modelled("CO-RE relocations by the kernel")


def check_btf_info(env: Env) -> None:
    """After the functions are known: each has its record, and lines begin where instructions do."""
    if not _has_info(env):
        _abnormal_return(env)
        return
    _check_funcs(env)
    _check_lines(env)
    _check_relocations(env)
