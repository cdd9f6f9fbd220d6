# SPDX-License-Identifier: GPL-2.0-only
"""The simulation: one instruction after the other, one path after the other (do_check of Linux 6.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_attach_type

from . import bounds as bd
from .alu import check_alu
from .attach import return_range, returns_nothing
from .btfargs import CTX_ARG, MEM_ARG, prepare_args
from .callbacks import check_func_call, invalid_scalar, leave_by_hidden_exit, return_from_func
from .calls import check_helper_call
from .env import BPF_COMPLEXITY_LIMIT_INSNS, Env, Reject
from .fixups.zext import has_cmpxchg32, note_upper_half
from .jumps import check_cond_jump
from .kfuncs import check_kfunc_call
from .liveness import StackLiveness
from .memory import check_atomic, check_load, check_ptr_off, check_store, check_store_imm
from .operands import check_writable, leaks_pointer, read_reg, scratch_caller_saved
from .pending import pop_stack
from .precision import mark_chain_precision, push_history
from .printing import print_insn_state, print_line, print_state, scratch_all
from .pruning import is_state_visited, update_branch_counts
from .refs import check_resource_leak
from .regs import (
    CONST_PTR_TO_MAP,
    NOT_INIT_REG,
    PTR_MAYBE_NULL,
    PTR_TO_CTX,
    PTR_TO_FUNC,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
    const_reg,
    pointer,
    type_str,
)
from .state import MAIN_CALLSITE, FuncState, VerifierState

_ARITHMETIC: Final = (op.BPF_ALU64, op.BPF_ALU)
_RECOVERABLE: Final = (errno.EPERM, errno.EACCES, errno.EINVAL)


# ---- constants and packet loads -------------------------------------------------------------


def _check_ld_imm(env: Env, insn: Insn) -> None:
    if insn.code & 0x18 != op.BPF_DW:
        raise env.reject(errno.EINVAL, "invalid BPF_LD_IMM insn\n")
    if insn.off:
        raise env.reject(errno.EINVAL, "BPF_LD_IMM64 uses reserved fields\n")
    check_writable(env, insn.dst)
    regs = env.frame.regs
    aux = env.aux[env.insn_idx]
    if insn.src == 0:
        high = env.insns[env.insn_idx + 1].imm
        regs[insn.dst] = const_reg((high << 32) | (insn.imm & bd.U32))
    elif aux.constant is not None:
        regs[insn.dst] = aux.constant
    elif insn.src == op.BPF_PSEUDO_FUNC:
        number = env.find_subprog(env.insn_idx + insn.imm + 1)
        if not env.func_info:
            raise env.reject(errno.EINVAL, "missing btf func_info\n")
        if env.subprogs[number].linkage != 0:
            raise env.reject(errno.EINVAL, "callback function not static\n")
        regs[insn.dst] = pointer(PTR_TO_FUNC, extra=number)
    else:
        the_map = env.used_maps[aux.map_index]
        if insn.src in (op.BPF_PSEUDO_MAP_VALUE, op.BPF_PSEUDO_MAP_IDX_VALUE):
            regs[insn.dst] = Reg(PTR_TO_MAP_VALUE, bd.const(0), aux.map_off, 0, the_map)
        else:
            regs[insn.dst] = pointer(CONST_PTR_TO_MAP, the_map)


def _check_ld_abs(env: Env, insn: Insn) -> None:
    """LD_ABS and LD_IND: calls in disguise, with the context in R6."""
    mode = insn.code & 0xE0
    if not env.type.ld_abs:
        raise env.reject(errno.EINVAL, "BPF_LD_[ABS|IND] instructions not allowed for this program type\n")
    if insn.dst or insn.off or insn.code & 0x18 == op.BPF_DW or (mode == op.BPF_ABS and insn.src):
        raise env.reject(errno.EINVAL, "BPF_LD_[ABS|IND] uses reserved fields\n")
    ctx = read_reg(env, 6)
    check_resource_leak(env, "BPF_LD_[ABS|IND]", True)
    if ctx.type != PTR_TO_CTX:
        raise env.reject(errno.EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb\n")
    if mode == op.BPF_IND:
        read_reg(env, insn.src)
    check_ptr_off(env, ctx, 6)
    regs = env.frame.regs
    for i in range(6):
        regs[i] = NOT_INIT_REG
    regs[0] = UNKNOWN_REG
    scratch_caller_saved(env)
    if len(env.cur.frames) > 1:
        leave_by_hidden_exit(env, const_reg(0), packets_stale=False)


# ---- the end of the program -----------------------------------------------------------------


def _check_return_code(env: Env, regno: int) -> None:
    frame = env.cur.frames[0]
    if env.attach is not None and not frame.subprogno and returns_nothing(env):
        return
    reg = read_reg(env, regno)
    if leaks_pointer(env, reg):
        raise env.reject(errno.EACCES, f"R{regno} leaks addr as return value\n")
    if frame.in_async_callback_fn:
        low, high = frame.callback_ret_range
        _enforce(env, regno, reg, "At async callback return", low, high)
        return
    if frame.subprogno:
        if reg.type != SCALAR_VALUE:
            raise env.reject(
                errno.EINVAL,
                f"At subprogram exit the register R{regno} is not a scalar value ({type_str(reg.type)})\n",
            )
        return
    if env.attach is not None:
        _check_traced_return(env, regno, reg)
        return
    sessions = (bpf_attach_type.BPF_TRACE_KPROBE_SESSION, bpf_attach_type.BPF_TRACE_UPROBE_SESSION)
    if env.type.name == "kprobe" and env.spec.expected_attach_type in sessions:
        _enforce(env, regno, reg, "At program exit", 0, 1)


def _check_traced_return(env: Env, regno: int, reg: Reg) -> None:
    limits = return_range(env)
    if limits is not None:
        _enforce(env, regno, reg, "At program exit", *limits)


def _enforce(env: Env, regno: int, reg: Reg, where: str, low: int, high: int) -> None:
    if reg.type != SCALAR_VALUE:
        raise env.reject(
            errno.EINVAL, f"{where} the register R{regno} is not a known value ({type_str(reg.type)})\n"
        )
    mark_chain_precision(env, regno)
    if not (low <= reg.bounds.smin and reg.bounds.smax <= high):
        raise invalid_scalar(env, regno, where, low, high)


def _exit(env: Env) -> bool:
    """EXIT; True when the whole program ends here."""
    check_resource_leak(env, "BPF_EXIT instruction in main prog", len(env.cur.frames) == 1)
    if len(env.cur.frames) > 1:
        env.liveness.update(env)
        return_from_func(env)
        env.do_print_state = True
        return False
    _check_return_code(env, 0)
    return True


# ---- one instruction ------------------------------------------------------------------------


def _check_jump(env: Env, insn: Insn, cls: int) -> bool:
    """Calls, jumps and exits; True at the end of the program."""
    env.jmps_processed += 1
    operation = insn.code & 0xF0
    long = cls == op.BPF_JMP32
    if operation == op.BPF_CALL:
        if (
            insn.code & 8
            or (insn.src != op.BPF_PSEUDO_KFUNC_CALL and insn.off)
            or insn.src not in (0, op.BPF_PSEUDO_CALL, op.BPF_PSEUDO_KFUNC_CALL)
            or insn.dst
            or long
        ):
            raise env.reject(errno.EINVAL, "BPF_CALL uses reserved fields\n")
        if insn.src == op.BPF_PSEUDO_CALL:
            check_func_call(env, insn)
        elif insn.src == op.BPF_PSEUDO_KFUNC_CALL:
            check_kfunc_call(env, insn)
        else:
            check_helper_call(env, insn)
        if env.detailed:
            env.scratched_regs |= 1
    elif operation == op.BPF_JA:
        if insn.code & 8 or insn.src or insn.dst or (insn.off if long else insn.imm):
            raise env.reject(errno.EINVAL, "BPF_JA uses reserved fields\n")
        env.insn_idx += (insn.imm if long else insn.off) + 1
        return False
    elif operation == op.BPF_EXIT:
        if insn.code & 8 or insn.imm or insn.src or insn.dst or long:
            raise env.reject(errno.EINVAL, "BPF_EXIT uses reserved fields\n")
        return _exit(env)
    else:
        check_cond_jump(env, insn)
    env.insn_idx += 1
    return False


def _check_insn(env: Env, insn: Insn) -> bool:
    """Check one instruction and move on; True at the end of the program."""
    code = insn.code
    cls = code & 7
    if cls in (op.BPF_ALU64, op.BPF_ALU):
        check_alu(env, insn)
    elif cls in (op.BPF_JMP, op.BPF_JMP32):
        return _check_jump(env, insn, cls)
    elif cls == op.BPF_LDX:
        check_load(env, insn, False, code & 0xE0 == op.BPF_MEMSX, "ldx")
    elif cls == op.BPF_STX:
        if code & 0xE0 == op.BPF_ATOMIC:
            check_atomic(env, insn)
        elif code & 0xE0 != op.BPF_MEM or insn.imm:
            raise env.reject(errno.EINVAL, "BPF_STX uses reserved fields\n")
        else:
            check_store(env, insn, False)
    elif cls == op.BPF_ST:
        if code & 0xE0 != op.BPF_MEM or insn.src:
            raise env.reject(errno.EINVAL, "BPF_ST uses reserved fields\n")
        check_store_imm(env, insn)
    else:
        mode = code & 0xE0
        if mode in (op.BPF_ABS, op.BPF_IND):
            _check_ld_abs(env, insn)
        elif mode == op.BPF_IMM:
            _check_ld_imm(env, insn)
            env.insn_idx += 1
            if not env.cur.speculative:
                env.aux[env.insn_idx].seen = env.pass_cnt
        else:
            raise env.reject(errno.EINVAL, "invalid BPF_LD mode\n")
    env.insn_idx += 1
    return False


# ---- all paths ------------------------------------------------------------------------------


def _log_insn(env: Env) -> None:
    state = env.cur
    if env.every_path and env.do_print_state:
        speculative = " (speculative execution)" if state.speculative else ""
        env.log.write(f"\nfrom {env.prev_insn_idx} to {env.insn_idx}{speculative}:")
        print_state(env, state, len(state.frames) - 1, True)
        env.do_print_state = False
    if env.scratched_regs or env.scratched_slots:
        print_insn_state(env, state, len(state.frames) - 1)
    print_line(env, env.insn_idx, "; ")
    before = env.log.position
    env.log.write(f"{env.insn_idx}: ")
    env.log.write(env.insn_text(env.insn_idx) + "\n")
    env.prev_insn_print_pos = env.log.position - before
    env.prev_log_pos = env.log.position


def _note_insn(env: Env) -> None:
    if env.detailed:
        _log_insn(env)
    if env.observer is not None:
        env.observer.step(env)


def _log_safe(env: Env) -> None:
    if env.do_print_state:
        speculative = " (speculative execution)" if env.cur.speculative else ""
        env.log.write(f"\nfrom {env.prev_insn_idx} to {env.insn_idx}{speculative}: safe\n")
    else:
        env.log.write(f"{env.insn_idx}: safe\n")


def _end_path(env: Env) -> int | None:
    """The running path is done: take up the next one; the slot it came from, or None at the end."""
    scratch_all(env)
    update_branch_counts(env, env.cur)
    env.liveness.update(env)
    item = pop_stack(env, not env.every_path)
    if item is None:
        return None
    env.insn_idx = item.insn_idx
    env.do_print_state = True
    return item.prev_insn_idx


def _step(env: Env, insn: Insn) -> bool:
    """One instruction, with what speculation forgives; True when the path ends."""
    at = env.insn_idx
    aux = env.aux[at]
    if env.cur.speculative:
        if aux.nospec:
            return True
    elif insn.code & 7 in _ARITHMETIC:
        # It touches no stack, so there is nothing to note of its liveness.
        check_alu(env, insn)
        env.insn_idx = at + 1
        return False
    liveness = env.liveness
    liveness.begin_insn(env, at)
    try:
        done = _check_insn(env, insn)
    except Reject as error:
        if not env.cur.speculative or error.errno not in _RECOVERABLE or error.not_modelled:
            raise
        liveness.commit_insn()
        aux.nospec = True
        aux.alu_state = 0
        return True
    liveness.commit_insn()
    return done or (env.cur.speculative and aux.nospec_result)


def _do_check(env: Env) -> None:
    insns = env.insns
    count = len(insns)
    auxes = env.aux
    per_insn = env.stats.per_insn
    noted = env.detailed or env.observer is not None
    prev: int | None = -1
    env.do_print_state = False
    while True:
        env.have_hist = False
        assert prev is not None
        env.prev_insn_idx = prev
        at = env.insn_idx
        if at >= count:
            raise env.reject(errno.EFAULT, f"invalid insn idx {at} insn_cnt {count}\n")
        env.insn_processed += 1
        if env.insn_processed > BPF_COMPLEXITY_LIMIT_INSNS:
            raise env.reject(errno.E2BIG, f"BPF program is too large. Processed {env.insn_processed} insn\n")
        per_insn[at] += 1
        state = env.cur
        state.last_insn_idx = prev
        state.insn_idx = at
        aux = auxes[at]
        if aux.prune_point and is_state_visited(env, at):
            if env.detailed:
                _log_safe(env)
            prev = _end_path(env)
            if prev is None:
                return
            continue
        if aux.jmp_point:
            push_history(env, state, 0)
        if noted:
            _note_insn(env)
        if not state.speculative:
            aux.seen = env.pass_cnt
        prev = at
        if env.tracks_subreg:
            note_upper_half(env, insns[at])
        if _step(env, insns[at]):
            prev = _end_path(env)
            if prev is None:
                return


def _set_arguments(env: Env, subprog: int, frame: FuncState) -> None:
    if not subprog:
        if env.func_info:
            sub = env.subprogs[0]
            try:
                fits = prepare_args(env, 0) == [(CTX_ARG, 0)]
            except Reject:
                # The types of the main program's argument are never a reason to refuse it.
                fits = False
            if not fits:
                sub.unreliable = True
        frame.regs[1] = pointer(PTR_TO_CTX)
        return
    sub = env.subprogs[subprog]
    env.verbose(f"Validating {sub.name}() func#{subprog}...\n")
    for number, (kind, size) in enumerate(prepare_args(env, subprog)):
        if kind == CTX_ARG:
            frame.regs[number + 1] = pointer(PTR_TO_CTX)
        elif kind == MEM_ARG:
            maybe = pointer(PTR_TO_MEM | PTR_MAYBE_NULL, extra=size)
            frame.regs[number + 1] = maybe.with_id(env.new_id())
        else:
            frame.regs[number + 1] = UNKNOWN_REG


def _check_common(env: Env, subprog: int) -> None:
    env.prev_linfo = None
    env.pass_cnt += 1
    state = VerifierState()
    state.branches = 1
    frame = FuncState(MAIN_CALLSITE, 0, subprog)
    state.frames.append(frame)
    scratch_all(env)
    env.cur = state
    env.insn_idx = env.subprogs[subprog].start
    state.first_insn_idx = env.insn_idx
    state.last_insn_idx = -1
    env.pending = []
    env.explored = [[] for _ in env.insns]
    env.scc_visits = {}
    if env.observer is not None:
        env.observer.enter(env, subprog)
    _set_arguments(env, subprog, frame)
    _do_check(env)
    if env.observer is not None:
        env.observer.leave(env, subprog)
    if not env.every_path:
        env.log.reset(0)


def check_program(env: Env) -> None:
    """The main function, then every global function that is called, each on its own."""
    env.liveness = StackLiveness()
    env.tracks_subreg = has_cmpxchg32(env)
    _check_common(env, 0)
    if not env.func_info:
        return
    again = True
    while again:
        again = False
        for number in range(1, env.subprog_cnt):
            sub = env.subprogs[number]
            if not env.is_global(number) or not sub.called or sub.verified:
                continue
            _check_common(env, number)
            if env.detailed:
                env.verbose(f"Func#{number} ('{sub.name}') is safe for any args that match its prototype\n")
            sub.verified = True
            again = True
