# SPDX-License-Identifier: GPL-2.0-only
"""Which scalars must be known exactly: walking a path backwards from where a value mattered (since 5.3).

Scalars start out imprecise, so that states which differ only in numbers nobody relies on count as equal.
When a number decides (an offset, a size, a branch that was foreseen), the path that led here is walked
backwards, and the registers and stack slots that the number came from are marked in the parent states.
(kernel/bpf/verifier.c of 6.18: backtrack_insn, __mark_chain_precision)
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id

from .cfg import calls_sync_callback, is_pseudo_call, returns_abnormally
from .env import Env, Reject
from .printing import print_state, regs_mask_text, slots_mask_text
from .regs import SCALAR_VALUE
from .state import MAIN_CALLSITE, STACK_SPILL, Jump, VerifierState

STACK_ACCESS: Final = 1 << 9
DST_REG_STACK: Final = 1 << 10
SRC_REG_STACK: Final = 1 << 11
_SPI_SHIFT: Final = 3
_ARGS: Final = 0x3E
"""R1-R5."""


class _GiveUp(Exception):
    """The walk met something it does not follow: every scalar of the path becomes precise."""


def stack_access_flags(frameno: int, spi: int) -> int:
    """History flags of an instruction that spilled or filled a stack slot."""
    return STACK_ACCESS | spi << _SPI_SHIFT | frameno


def push_history(
    env: Env, cur: VerifierState, flags: int, linked: tuple[tuple[int, int, bool], ...] = ()
) -> None:
    """Write this instruction into the path's history, or add to what it wrote already."""
    history = cur.jmp_history
    if env.have_hist:
        last = history[-1]
        history[-1] = Jump(last.idx, last.prev_idx, last.flags | flags, linked)
        return
    history.append(Jump(env.insn_idx, env.prev_insn_idx, flags, linked))
    env.have_hist = True


_bits: dict[int, tuple[int, ...]] = {}
_BITS_KEPT: Final = 1 << 12


def set_bits(mask: int) -> tuple[int, ...]:
    """The numbers of the bits that are set, lowest first."""
    found = _bits.get(mask)
    if found is None:
        if len(_bits) >= _BITS_KEPT:
            _bits.clear()
        found = _bits[mask] = tuple(i for i in range(mask.bit_length()) if mask >> i & 1)
    return found


# ---- the set of what is looked for ---------------------------------------------------------


def _empty(env: Env) -> bool:
    regs, slots = env.bt_regs, env.bt_slots
    frame = env.bt_frame
    while frame >= 0 and not regs[frame] and not slots[frame]:
        frame -= 1
    return frame < 0


def _reset(env: Env) -> None:
    env.bt_regs = [0] * 8
    env.bt_slots = [0] * 8
    env.bt_frame = 0


def want_reg(env: Env, frame: int, regno: int) -> None:
    """Ask for a register before a batch walk."""
    env.bt_regs[frame] |= 1 << regno


def want_slot(env: Env, frame: int, spi: int) -> None:
    """Ask for a stack slot before a batch walk."""
    env.bt_slots[frame] |= 1 << spi


def _sync_linked(env: Env, hist: Jump | None) -> None:
    """One of several registers that learnt a range together is looked for: so are the others."""
    if hist is None or not hist.linked:
        return
    for frame, number, is_reg in hist.linked:
        masks = env.bt_regs if is_reg else env.bt_slots
        if masks[frame] >> number & 1:
            break
    else:
        return
    for frame, number, is_reg in hist.linked:
        masks = env.bt_regs if is_reg else env.bt_slots
        masks[frame] |= 1 << number


def _bug(env: Env, text: str) -> Reject:
    env.bug(text)
    return Reject(errno.EFAULT)


# ---- one instruction backwards --------------------------------------------------------------


def _back_alu(env: Env, insn: Insn) -> None:
    regs, frame = env.bt_regs, env.bt_frame
    if not regs[frame] >> insn.dst & 1:
        return
    operation = insn.code & 0xF0
    if operation in (op.BPF_END, op.BPF_NEG):
        return
    if operation == op.BPF_MOV:
        regs[frame] &= ~(1 << insn.dst)
    if insn.code & 8 and insn.src != 10:
        regs[frame] |= 1 << insn.src


def _back_load(env: Env, insn: Insn, hist: Jump | None) -> None:
    regs, frame = env.bt_regs, env.bt_frame
    if not regs[frame] >> insn.dst & 1:
        return
    regs[frame] &= ~(1 << insn.dst)
    if hist is not None and hist.flags & STACK_ACCESS:
        env.bt_slots[hist.flags & 7] |= 1 << (hist.flags >> _SPI_SHIFT & 0x3F)


def _back_store(env: Env, insn: Insn, hist: Jump | None) -> None:
    regs, frame = env.bt_regs, env.bt_frame
    if regs[frame] >> insn.dst & 1:
        raise _GiveUp
    if hist is None or not hist.flags & STACK_ACCESS:
        return
    at, bit = hist.flags & 7, 1 << (hist.flags >> _SPI_SHIFT & 0x3F)
    if not env.bt_slots[at] & bit:
        return
    env.bt_slots[at] &= ~bit
    if insn.code & 7 == op.BPF_STX:
        regs[frame] |= 1 << insn.src


def _back_call(env: Env, insn: Insn, idx: int, subseq_idx: int) -> None:
    regs, frame = env.bt_regs, env.bt_frame
    if is_pseudo_call(insn):
        subprog = env.find_subprog(idx + insn.imm + 1)
        if subprog < 0:
            raise Reject(errno.EFAULT)
        if env.is_global(subprog):
            if regs[frame] & _ARGS:
                raise _bug(env, f"global subprog unexpected regs {regs[frame]:x}")
            regs[frame] &= ~1
            return
        if regs[frame] & ~_ARGS:
            raise _bug(env, f"static subprog unexpected regs {regs[frame]:x}")
        if env.bt_slots[frame]:
            raise _bug(env, f"static subprog leftover stack slots {env.bt_slots[frame]:x}")
        if frame == 0:
            raise _bug(env, "subprog exit from frame 0")
        regs[frame - 1] |= regs[frame] & _ARGS
        regs[frame] = 0
        env.bt_frame -= 1
        return
    if calls_sync_callback(insn) and idx != subseq_idx - 1:
        if regs[frame] & ~_ARGS:
            raise _bug(env, f"callback unexpected regs {regs[frame]:x}")
        if env.bt_slots[frame]:
            raise _bug(env, f"callback leftover stack slots {env.bt_slots[frame]:x}")
        if frame == 0:
            raise _bug(env, "subprog exit from frame 0")
        regs[frame] = 0
        env.bt_frame -= 1
        return
    regs[frame] &= ~1
    if regs[frame] & _ARGS:
        raise _bug(env, f"backtracking call unexpected regs {regs[frame]:x}")
    if insn.imm == bpf_func_id.BPF_FUNC_tail_call and subseq_idx - idx != 1:
        _enter_callee(env)


def _enter_callee(env: Env) -> None:
    if env.bt_frame == 7:
        raise _bug(env, "subprog enter from frame 7")
    env.bt_frame += 1


def _back_exit(env: Env, subseq_idx: int) -> None:
    regs, frame = env.bt_regs, env.bt_frame
    if subseq_idx >= 0 and env.aux[subseq_idx].calls_callback:
        regs[frame] &= ~_ARGS
    if regs[frame] & _ARGS:
        raise _bug(env, f"backtracking exit unexpected regs {regs[frame]:x}")
    r0 = subseq_idx >= 1 and is_pseudo_call(env.insns[subseq_idx - 1]) and bool(regs[frame] & 1)
    regs[frame] &= ~1
    _enter_callee(env)
    if r0:
        regs[env.bt_frame] |= 1


def _back_jump(env: Env, insn: Insn, idx: int, subseq_idx: int, hist: Jump | None) -> bool:
    """Calls, exits and branches; True when linked registers need no second look."""
    operation = insn.code & 0xF0
    if insn.code == op.CALL or operation == op.BPF_CALL:
        _back_call(env, insn, idx, subseq_idx)
        return is_pseudo_call(insn) or (calls_sync_callback(insn) and idx != subseq_idx - 1)
    if operation == op.BPF_EXIT:
        _back_exit(env, subseq_idx)
        return True
    if insn.code & 8:
        regs, frame = env.bt_regs, env.bt_frame
        if not regs[frame] & (1 << insn.dst | 1 << insn.src):
            return True
        if hist is None or not hist.flags & SRC_REG_STACK:
            regs[frame] |= 1 << insn.src
        if hist is None or not hist.flags & DST_REG_STACK:
            regs[frame] |= 1 << insn.dst
    return False


def _backtrack(env: Env, idx: int, subseq_idx: int, hist: Jump | None) -> None:
    insn = env.insns[idx]
    code = insn.code
    if code == 0:
        return
    if env.every_path:
        frame = env.bt_frame
        env.log.write(f"mark_precise: frame{frame}: regs={regs_mask_text(env.bt_regs[frame])} ")
        env.log.write(f"stack={slots_mask_text(env.bt_slots[frame])} before ")
        env.log.write(f"{idx}: {env.insn_text(idx)}\n")
    _sync_linked(env, hist)
    cls = code & 7
    wanted = bool(env.bt_regs[env.bt_frame] >> insn.dst & 1)
    if cls in (op.BPF_ALU, op.BPF_ALU64):
        _back_alu(env, insn)
        if not wanted or code & 0xF0 in (op.BPF_END, op.BPF_NEG):
            return
    elif cls == op.BPF_LDX or (
        cls == op.BPF_STX and code & 0xE0 == op.BPF_ATOMIC and insn.imm == op.BPF_LOAD_ACQ
    ):
        _back_load(env, insn, hist)
        if not wanted or hist is None or not hist.flags & STACK_ACCESS:
            return
    elif cls in (op.BPF_STX, op.BPF_ST):
        _back_store(env, insn, hist)
    elif cls in (op.BPF_JMP, op.BPF_JMP32):
        if _back_jump(env, insn, idx, subseq_idx, hist):
            return
    elif cls == op.BPF_LD:
        if not wanted:
            return
        env.bt_regs[env.bt_frame] &= ~(1 << insn.dst)
        if code & 0xE0 in (op.BPF_IND, op.BPF_ABS):
            raise _GiveUp
    _sync_linked(env, hist)


# ---- the walk -------------------------------------------------------------------------------


def mark_all_scalars_precise(env: Env, state: VerifierState) -> None:
    """Give up on finding out: all scalars of all parent states are precise."""
    if env.every_path:
        env.log.write(
            f"mark_precise: frame{len(state.frames) - 1}: falling back to forcing all scalars precise\n"
        )
    parent = state.parent
    while parent is not None:
        for number, frame in enumerate(parent.frames):
            for i in range(10):
                if frame.regs[i].type == SCALAR_VALUE and not frame.precise_regs >> i & 1:
                    frame.precise_regs |= 1 << i
                    if env.every_path:
                        env.log.write(f"force_precise: frame{number}: forcing r{i} to be precise\n")
            for i, slot in enumerate(frame.stack):
                if slot.is_scalar_spill and not frame.precise_slots >> i & 1:
                    frame.precise_slots |= 1 << i
                    if env.every_path:
                        env.log.write(
                            f"force_precise: frame{number}: forcing fp{-(i + 1) * 8} to be precise\n"
                        )
        parent = parent.parent


def _mark_parent(env: Env, state: VerifierState) -> bool:
    """Mark what is looked for in a parent state; what is marked already needs no further walk."""
    changed = False
    for number in range(env.bt_frame, -1, -1):
        frame = state.frames[number]
        for i in set_bits(env.bt_regs[number]):
            bit = 1 << i
            if frame.regs[i].type != SCALAR_VALUE or frame.precise_regs & bit:
                env.bt_regs[number] &= ~bit
            else:
                frame.precise_regs |= bit
                changed = True
        for i in set_bits(env.bt_slots[number]):
            bit = 1 << i
            if i >= len(frame.stack):
                raise _bug(env, f"stack slot {i}, total slots {len(frame.stack)}")
            slot = frame.stack[i]
            if slot.types[7] != STACK_SPILL or slot.reg.type != SCALAR_VALUE or frame.precise_slots & bit:
                env.bt_slots[number] &= ~bit
            else:
                frame.precise_slots |= bit
                changed = True
        if env.every_path:
            env.log.write(
                f"mark_precise: frame{number}: parent state regs={regs_mask_text(env.bt_regs[number])} "
            )
            env.log.write(f"stack={slots_mask_text(env.bt_slots[number])}: ")
            print_state(env, state, number, True)
    return changed


def _at_entry(env: Env, state: VerifierState) -> bool:
    """The walk reached a global function's arguments: mark them; True when anything changed."""
    first = state.frames[0]
    wanted = env.bt_regs[env.bt_frame]
    if not (
        len(state.frames) == 1
        and first.subprogno > 0
        and first.callsite == MAIN_CALLSITE
        and not env.bt_slots[env.bt_frame]
        and not wanted & ~_ARGS
    ):
        raise _bug(
            env,
            f"backtracking func entry subprog {first.subprogno} reg_mask {wanted:x} "
            f"stack_mask {env.bt_slots[env.bt_frame]:x}",
        )
    changed = False
    for i in range(1, 6):
        if wanted >> i & 1:
            env.bt_regs[env.bt_frame] &= ~(1 << i)
            if first.regs[i].type == SCALAR_VALUE:
                first.precise_regs |= 1 << i
                changed = True
    return changed


_NOBODY: Final = 1 << 16


def _skip_mask(insn: Insn) -> int:
    code = insn.code
    cls = code & 7
    if code == 0:
        return _NOBODY
    if cls in (op.BPF_ALU, op.BPF_ALU64, op.BPF_LDX, op.BPF_ST) or code == op.LD_IMM64:
        return 1 << insn.dst
    if cls == op.BPF_STX:
        return 1 << insn.dst if code & 0xE0 == op.BPF_MEM else 0
    if cls in (op.BPF_JMP, op.BPF_JMP32):
        operation = code & 0xF0
        if operation == op.BPF_CALL:
            plain = insn.src == 0 and not calls_sync_callback(insn) and not returns_abnormally(insn)
            return _ARGS | 1 if plain else 0
        if operation == op.BPF_EXIT:
            return 0
        return 1 << insn.dst | 1 << insn.src if code & 8 else _NOBODY
    return 0


def _irrelevant(env: Env) -> list[int]:
    """By slot, registers: when none of them is looked for (and the path's history has no note on the slot),
    the instruction changes nothing for the search. 0: always look at it."""
    if not env.back_skips:
        if env.every_path:
            env.back_skips = [0] * len(env.insns)
        else:
            env.back_skips = [_skip_mask(insn) for insn in env.insns]
    return env.back_skips


def _walk(env: Env, start: VerifierState) -> bool:
    state = start
    first_idx = state.first_insn_idx
    last_idx = start.insn_idx
    subseq_idx = -1
    skip_first = True
    changed = False
    skips = _irrelevant(env)
    if _empty(env):
        return False
    while True:
        history = state.jmp_history
        left = len(history)
        if env.every_path:
            env.log.write(
                f"mark_precise: frame{env.bt_frame}: last_idx {last_idx} first_idx {first_idx} "
                f"subseq_idx {subseq_idx} \n"
            )
        if last_idx < 0:
            return _at_entry(env, state) or changed
        i = last_idx
        while True:
            if skip_first:
                skip_first = False
            else:
                hist = history[left - 1] if left and history[left - 1].idx == i else None
                skip = skips[i] if hist is None else 0
                if not skip or env.bt_regs[env.bt_frame] & skip:
                    _backtrack(env, i, subseq_idx, hist)
                    if _empty(env):
                        return changed
            subseq_idx = i
            if i == first_idx and (left == 0 or (left == 1 and history[0].idx == i)):
                break
            if left and history[left - 1].idx == i:
                i = history[left - 1].prev_idx
                left -= 1
            else:
                i -= 1
            if not 0 <= i < len(env.insns):
                raise _bug(env, f"backtracking idx {i}")
        parent = state.parent
        if parent is None:
            raise _GiveUp
        state = parent
        changed = _mark_parent(env, state) or changed
        if _empty(env):
            return changed
        subseq_idx = first_idx
        last_idx = state.last_insn_idx
        first_idx = state.first_insn_idx


def mark_precise_batch(env: Env, start: VerifierState) -> bool:
    """Walk back from ``start`` for what want_reg() and want_slot() asked for; True when a mark was new."""
    env.bt_frame = len(start.frames) - 1
    if not env.bpf_capable or _empty(env):
        return False
    try:
        return _walk(env, start)
    except _GiveUp:
        mark_all_scalars_precise(env, start)
        _reset(env)
        return False


def mark_chain_precision(env: Env, regno: int) -> None:
    """The number in ``regno`` (-1: nothing) decides here: mark where it came from."""
    if not env.bpf_capable or regno < 0:
        return
    cur = env.cur
    env.bt_frame = len(cur.frames) - 1
    if cur.frames[-1].regs[regno].type != SCALAR_VALUE:
        raise _bug(env, "backtracking misuse")
    env.bt_regs[env.bt_frame] |= 1 << regno
    try:
        _walk(env, cur)
    except _GiveUp:
        mark_all_scalars_precise(env, cur)
        _reset(env)
