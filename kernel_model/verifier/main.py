# SPDX-License-Identifier: GPL-2.0-only
"""The order of everything: checks, simulation, rewrites (bpf_check of Linux 6.18)."""

from __future__ import annotations

import errno
import gc
from dataclasses import replace
from typing import Final

from kernel_model.helpers.table import BASE_BPF, BASE_PERFMON, LIRC_PERFMON
from kernel_model.hooks.progtypes import PROG_TYPES, ProgType
from kernel_model.isa import opcodes as op
from kernel_model.isa.native import Subprog

from . import btfinfo, cfg, pseudo
from .api import Environment, FuncInfo, Privileges, ProgramSpec, VerifiedProgram, VerifierError
from .attach import check_attach_btf_id
from .cfg import is_pseudo_call, is_pseudo_func
from .check import check_program
from .env import Env, Reject
from .fixups.bpf_loop import optimize_bpf_loop
from .fixups.ctx_access import convert_ctx_accesses
from .fixups.dead_code import (
    hard_wire_branches,
    remove_dead_code,
    remove_fastcall_spills,
    remove_nops,
    sanitize,
)
from .fixups.misc import do_misc_fixups
from .fixups.zext import zero_extend_cmpxchg
from .log import VerifierLog
from .registers_live import compute_live_registers, mark_fastcall_patterns
from .stackdepth import check_max_stack_depth

_CHECKS: Final = (
    pseudo.add_fd_array,
    btfinfo.check_func_info_early,
    cfg.add_subprogs,
    cfg.check_subprogs,
    btfinfo.check_btf_info,
    pseudo.resolve,
    cfg.check_cfg,
    cfg.compute_postorder,
    check_attach_btf_id,
    cfg.compute_scc,
    compute_live_registers,
    mark_fastcall_patterns,
    check_program,
)
"""What a program must pass, in order."""


def _prog_type(spec: ProgramSpec, log: VerifierLog) -> ProgType:
    """The row of the program's type, with the helpers that the loader's capabilities open."""
    row = PROG_TYPES.get(spec.prog_type)
    if row is None or not row.modelled:
        reason = f"program type {row.name if row else spec.prog_type} is not modelled"
        log.write(reason + "\n")
        feature = f"program type {row.name}" if row is not None else ""
        raise VerifierError(errno.EINVAL, reason, log.text(), not_modelled=feature)
    allowed = _open_groups(spec.privileges)
    groups = tuple(
        group for group in row.helper_groups if group not in _PRIVILEGED_GROUPS or group in allowed
    )
    return replace(row, helper_groups=groups)


_PRIVILEGED_GROUPS: Final = (BASE_BPF, BASE_PERFMON, LIRC_PERFMON)


def _open_groups(privileges: Privileges) -> tuple[str, ...]:
    bpf = privileges.bpf or privileges.sys_admin
    if not bpf:
        return ()
    perfmon = privileges.perfmon or privileges.sys_admin
    return _PRIVILEGED_GROUPS if perfmon else (BASE_BPF,)


def _rewrite(env: Env) -> None:
    """From the checked program to the one that runs."""
    remove_fastcall_spills(env)
    check_max_stack_depth(env)
    optimize_bpf_loop(env)
    if env.bpf_capable:
        hard_wire_branches(env)
        remove_dead_code(env)
        remove_nops(env)
    else:
        sanitize(env)
    convert_ctx_accesses(env)
    do_misc_fixups(env)
    zero_extend_cmpxchg(env)
    _check_engine(env)


def _check_engine(env: Env) -> None:
    """The functions must be there for the engine that will run them (fixup_call_args, jit_subprogs).

    A callback that is never called is taken out as dead code, while its address is still taken. That goes
    unnoticed as long as nothing else is left to be linked.
    """
    if env.kernel.jit:
        if env.subprog_cnt > 1:
            _link(env)
        return
    if env.subprog_cnt > 1 and env.prog_flags.get("tail_call_reachable"):
        raise env.reject(
            errno.EINVAL, "tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls\n"
        )
    if any(is_pseudo_func(insn) for insn in env.insns):
        raise env.reject(errno.EINVAL, "callbacks are not allowed in non-JITed programs\n")


def _link(env: Env) -> None:
    for at, insn in enumerate(env.insns):
        if not (is_pseudo_call(insn) or is_pseudo_func(insn)):
            continue
        target = at + insn.imm + 1
        if env.find_subprog(target) < 0:
            env.bug(f"No program to jit at insn {target} (subprog < 0)")
            raise Reject(errno.EFAULT)


def _print_stats(env: Env) -> None:
    stats = env.stats
    stats.insn_processed = env.insn_processed
    stats.stack_depths = tuple(sub.stack_depth for sub in env.subprogs[:-1])
    if env.log.stats:
        env.log.write("verification time 0 usec\n")
        env.log.write("stack depth " + "+".join(map(str, stats.stack_depths)) + "\n")
    env.log.write(stats.summary() + "\n")


def _finish(env: Env, verdict: int) -> None:
    _print_stats(env)
    if env.observer is not None:
        env.observer.end(env, verdict)


def _subprogs(env: Env) -> tuple[Subprog, ...]:
    return tuple(
        Subprog(
            sub.start,
            env.subprogs[number + 1].start,
            sub.stack_depth,
            sub.name,
            sub.has_tail_call,
            sub.tail_call_reachable,
            sub.is_cb,
            wants_private_stack=sub.priv_stack,
        )
        for number, sub in enumerate(env.subprogs[:-1])
    )


def _result(env: Env) -> VerifiedProgram:
    func_info = tuple(
        FuncInfo(env.subprogs[number].start, info.type_id) for number, info in enumerate(env.func_info)
    )
    flags = env.prog_flags | {
        "changes_pkt_data": env.subprogs[0].changes_pkt_data,
        "might_sleep": env.subprogs[0].might_sleep,
    }
    if any(insn.code == op.TAIL_CALL for insn in env.insns):
        flags["cb_access"] = True
    return VerifiedProgram(
        insns=tuple(env.insns),
        subprogs=_subprogs(env),
        used_maps=tuple(env.used_maps),
        pokes=tuple(env.pokes),
        orig_index=tuple(aux.orig_idx for aux in env.aux),
        stats=env.stats,
        log=env.log.text(),
        func_info=func_info,
        line_info=tuple(env.line_info),
        flags=flags,
        max_pkt_offset=env.max_pkt_offset,
        max_ctx_offset=env.max_ctx_offset,
        max_tp_access=env.max_tp_access,
    )


def bpf_check(spec: ProgramSpec, kernel: Environment, log: VerifierLog) -> VerifiedProgram:
    """See api.verify."""
    # States hardly ever form cycles; looking for some among so many objects takes a fifth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _bpf_check(spec, kernel, log)
    finally:
        if collecting:
            gc.enable()


def _bpf_check(spec: ProgramSpec, kernel: Environment, log: VerifierLog) -> VerifiedProgram:
    if not spec.insns:
        raise VerifierError(errno.EINVAL, "a program without instructions")
    env = Env(spec, kernel, _prog_type(spec, log), log)
    if env.observer is not None:
        env.observer.begin(env)
    try:
        for check in _CHECKS:
            check(env)
        _rewrite(env)
    except Reject as error:
        reason = env.last_message.strip()
        _finish(env, error.errno)
        raise VerifierError(error.errno, reason, log.text(), env.insn_idx, error.not_modelled) from None
    _finish(env, 0)
    return _result(env)
