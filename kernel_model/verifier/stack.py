# SPDX-License-Identifier: GPL-2.0-only
"""The stack, byte by byte: spills, fills, zeroes, and accesses at offsets that are not constants.

Offsets count from the frame pointer, so they are negative; slot ``(-off - 1) // 8`` holds byte ``off``.
(Documentation/bpf/verifier.rst, "Register value tracking"; check_stack_* of Linux 6.18)
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kernel_model.isa import opcodes as op

from . import tnum
from .env import MAX_BPF_STACK, NO_FASTCALL_STACK, Env
from .operands import leaks_pointer, tie_before_move
from .precision import mark_chain_precision, push_history, stack_access_flags
from .printing import print_line
from .regs import (
    BASE_MASK,
    BPF_MAX_VAR_OFF,
    NOT_INIT_REG,
    PTR_TO_STACK,
    SCALAR_VALUE,
    SPILLABLE,
    UNKNOWN_REG,
    Reg,
    const_reg,
)
from .state import (
    EMPTY_SLOT,
    STACK_DYNPTR,
    STACK_INVALID,
    STACK_MISC,
    STACK_SPILL,
    STACK_ZERO,
    FuncState,
    Slot,
)

if TYPE_CHECKING:
    from .calls import CallMeta

_FIXED: Final = (STACK_MISC, STACK_ZERO)


def frame_of(env: Env, reg: Reg) -> FuncState:
    """The frame that a stack pointer points into."""
    return env.cur.frames[reg.frameno]


def _scratch(env: Env, spi: int) -> None:
    if env.detailed:
        env.scratched_slots |= 1 << spi


def grow(env: Env, frame: FuncState, size: int) -> None:
    """Make the frame's stack at least ``size`` bytes, and remember its function's deepest use."""
    slots = -(-size // 8)
    have = len(frame.stack)
    if have >= slots:
        return
    frame.stack.extend([EMPTY_SLOT] * (slots - have))
    sub = env.subprogs[frame.subprogno]
    if sub.stack_depth < slots * 8:
        sub.stack_depth = slots * 8


def check_within(env: Env, regno: int, off: int, size: int, write: bool) -> None:
    """The access stays inside the 512 bytes (or, for unprivileged reads, inside what was used)."""
    reg = env.frame.regs[regno]
    frame = frame_of(env, reg)
    words = " write to" if write else " read from"
    b = reg.bounds
    if b.mask == 0:
        low = b.smin + off
        high = low + size
    else:
        if b.smax >= BPF_MAX_VAR_OFF or b.smin <= -BPF_MAX_VAR_OFF:
            raise env.reject(errno.EACCES, f"invalid unbounded variable-offset{words} stack R{regno}\n")
        low = b.smin + off
        high = b.smax + off + size
    lowest = -MAX_BPF_STACK if write or env.allow_uninit_stack else -8 * len(frame.stack)
    err = 0
    if low < lowest or low > -1:
        err = errno.EACCES
    elif high > 0:
        err = errno.EINVAL
    elif size < 0:
        err = errno.EFAULT
    if err:
        if b.mask == 0:
            raise env.reject(err, f"invalid{words} stack R{regno} off={off} size={size}\n")
        text = tnum.text(b.tnum)
        raise env.reject(
            err, f"invalid variable-offset{words} stack R{regno} var_off={text} off={off} size={size}\n"
        )
    grow(env, frame, -low)


def _check_fastcall_contract(env: Env, frame: FuncState, insn_idx: int, off: int) -> None:
    """Slots that only spills around inlined calls may use are used otherwise: keep those spills."""
    sub = env.subprogs[frame.subprogno]
    if sub.fastcall_stack_off <= off or env.aux[insn_idx].fastcall_pattern:
        return
    sub.fastcall_stack_off = NO_FASTCALL_STACK
    end = env.subprogs[frame.subprogno + 1].start
    for aux in env.aux[sub.start : end]:
        aux.fastcall_spills_num = 0
        aux.fastcall_pattern = False


_ANY_KIND: Final = bytes(range(256))
_MISC_UNLESS_KNOWN: Final = bytes(k if k in (STACK_ZERO, STACK_INVALID) else STACK_MISC for k in _ANY_KIND)
"""For bytes.translate(): what stays of a byte when a register is spilled over part of its slot."""
_SCRUB: Final = bytes(k if k == STACK_INVALID else STACK_MISC for k in _ANY_KIND)
"""For bytes.translate(): what stays of the bytes of a spill when part of it is overwritten."""
_SPILL8: Final = bytes((STACK_SPILL,)) * 8


def _save(frame: FuncState, spi: int, reg: Reg, size: int) -> None:
    """Spill the low ``size`` bytes of a register; the slot's other bytes keep no more than "something"."""
    if size == 8:
        frame.stack[spi] = Slot(_SPILL8, reg)
        return
    old = frame.stack[spi].types
    kept = old[: 8 - size].translate(_MISC_UNLESS_KNOWN)
    frame.stack[spi] = Slot(kept + _SPILL8[:size], reg)


def _destroy_dynptr(env: Env, frame: FuncState, spi: int) -> None:
    if frame.stack[spi].types[0] == STACK_DYNPTR:
        from .dynptr import destroy

        destroy(env, frame, spi)


def _keep_dynptrs(env: Env, frame: FuncState, low: int, high: int) -> None:
    """What a helper writes must not be a dynptr."""
    for off in range(low, high):
        spi, at = divmod(-off - 1, 8)
        if spi < len(frame.stack) and frame.stack[spi].types[at] == STACK_DYNPTR:
            raise env.reject(errno.EACCES, f"potential write to dynptr at off={off} disallowed\n")


# ---- writes --------------------------------------------------------------------------------


def _write_fixed(env: Env, frame: FuncState, off: int, size: int, value_regno: int, insn_idx: int) -> None:
    spi = (-off - 1) // 8
    slot = frame.stack[spi]
    if not env.allow_ptr_leaks and slot.is_spill and slot.reg.type != SCALAR_VALUE and size != 8:
        raise env.reject(errno.EACCES, "attempt to corrupt spilled pointer on stack\n")
    cur = env.frame
    reg = cur.regs[value_regno] if value_regno >= 0 else None
    if not env.bypass_spec_v4:
        sanitize = reg is not None and reg.type & BASE_MASK in SPILLABLE
        top = (-off - 1) % 8 + 1
        if sanitize or any(kind not in _FIXED for kind in slot.types[top - size : top]):
            env.aux[insn_idx].nospec_result = True
    _destroy_dynptr(env, frame, spi)
    if size == 8 and off % 8 == 0:
        env.liveness.mark_write(frame.frameno, 1 << spi)
    _check_fastcall_contract(env, frame, insn_idx, off)
    _scratch(env, spi)
    insn = env.insns[insn_idx]
    is_st = insn.code & 7 == op.BPF_ST and insn.code & 0xE0 == op.BPF_MEM
    if reg is not None and off % 8 == 0 and reg.type == SCALAR_VALUE and env.bpf_capable:
        if reg.bounds.umax >> (8 * size) == 0:
            tied = tie_before_move(env, reg)
            cur.regs[value_regno] = tied
            _save(frame, spi, tied, size)
        else:
            _save(frame, spi, reg.with_id(0) if reg.id else reg, size)
    elif reg is None and off % 8 == 0 and is_st and env.bpf_capable:
        _save(frame, spi, const_reg(insn.imm), size)
    elif reg is not None and reg.type & BASE_MASK in SPILLABLE:
        if size != 8:
            print_line(env, insn_idx, "; ")
            raise env.reject(errno.EACCES, "invalid size of register spill\n")
        if frame is not cur and reg.type == PTR_TO_STACK:
            raise env.reject(errno.EINVAL, "cannot spill pointers to stack into stack frame of the caller\n")
        _save(frame, spi, reg, size)
    else:
        _write_data(env, frame, off, size, value_regno, reg, insn.imm if is_st else None)
        return
    push_history(env, env.cur, stack_access_flags(frame.frameno, spi))


def _write_data(
    env: Env, frame: FuncState, off: int, size: int, value_regno: int, reg: Reg | None, imm: int | None
) -> None:
    """Bytes that are no whole register: a spill there is destroyed, zeroes are remembered as such."""
    top = -off - 1
    spi = top // 8
    slot = frame.stack[spi]
    types = bytearray(slot.types)
    if types[7] not in (STACK_INVALID, STACK_MISC, STACK_ZERO):
        types = types.translate(_SCRUB)
    kind = STACK_MISC
    if (reg is not None and reg.is_null) or (reg is None and imm == 0):
        mark_chain_precision(env, value_regno)
        kind = STACK_ZERO
    for i in range(size):
        types[(top - i) % 8] = kind
    frame.stack[spi] = Slot(bytes(types), NOT_INIT_REG)


_UNSPILLED: Final = bytes(STACK_MISC if kind == STACK_SPILL else kind for kind in range(256))


def _write_var(
    env: Env, frame: FuncState, ptr_regno: int, off: int, size: int, value_regno: int, insn_idx: int
) -> None:
    """A write somewhere in a range: every slot there may have changed (since 5.12)."""
    cur = env.frame
    b = cur.regs[ptr_regno].bounds
    low, high = b.smin + off, b.smax + off + size
    insn = env.insns[insn_idx]
    if value_regno >= 0:
        zero = cur.regs[value_regno].is_null
    else:
        zero = insn.code & 7 == op.BPF_ST and insn.code & 0xE0 == op.BPF_MEM and insn.imm == 0
    zero_used = False
    for spi in range((-high) // 8, (-low - 1) // 8 + 1):
        _destroy_dynptr(env, frame, spi)
    _check_fastcall_contract(env, frame, insn_idx, low)
    for i in range(low, high):
        top = -i - 1
        spi = top // 8
        slot = frame.stack[spi]
        kind = slot.types[top % 8]
        _scratch(env, spi)
        if not env.allow_ptr_leaks and kind not in _FIXED:
            raise env.reject(
                errno.EINVAL,
                f"spilled ptr in range of var-offset stack write; insn {insn_idx}, ptr off: {i}",
            )
        if zero and kind == STACK_SPILL and slot.is_scalar_spill and slot.reg.is_null:
            zero_used = True
            continue
        new = STACK_MISC
        if zero and kind == STACK_ZERO:
            new = STACK_ZERO
            zero_used = True
        if kind == STACK_INVALID and not env.allow_uninit_stack:
            raise env.reject(
                errno.EINVAL,
                f"uninit stack in range of var-offset write prohibited for !root; insn {insn_idx}, off: {i}",
            )
        # Nothing of a spilled register is left (6.18's stable updates); unwritten bytes stay so.
        types = bytearray(slot.types.translate(_UNSPILLED))
        types[top % 8] = new
        frame.stack[spi] = Slot(bytes(types), NOT_INIT_REG)
    if zero_used:
        mark_chain_precision(env, value_regno)


def check_write(env: Env, ptr_regno: int, off: int, size: int, value_regno: int, insn_idx: int) -> None:
    """A store through a stack pointer, in bounds already. ``value_regno`` -1: unknown data."""
    reg = env.frame.regs[ptr_regno]
    frame = frame_of(env, reg)
    if reg.bounds.mask == 0:
        _write_fixed(env, frame, off + reg.bounds.smin, size, value_regno, insn_idx)
    else:
        _write_var(env, frame, ptr_regno, off, size, value_regno, insn_idx)


# ---- reads ---------------------------------------------------------------------------------


def _set_from_bytes(env: Env, frame: FuncState, low: int, high: int, dst_regno: int) -> None:
    """A register read from plain bytes: zero when all are, else anything."""
    zeros = 0
    for i in range(low, high):
        top = -i - 1
        _scratch(env, top // 8)
        if frame.stack[top // 8].types[top % 8] != STACK_ZERO:
            break
        zeros += 1
    env.frame.regs[dst_regno] = const_reg(0) if zeros == high - low else UNKNOWN_REG


def _check_readable(env: Env, kinds: list[int], off: int, size: int) -> None:
    for i, kind in enumerate(kinds):
        if kind in _FIXED or (kind == STACK_INVALID and env.allow_uninit_stack):
            continue
        raise env.reject(errno.EACCES, f"invalid read from stack off {off}+{i} size {size}\n")


def _read_fixed(env: Env, frame: FuncState, off: int, size: int, dst_regno: int) -> None:
    top = -off - 1
    spi = top // 8
    slot = frame.stack[spi]
    types, reg = slot.types, slot.reg
    regs = env.frame.regs
    _scratch(env, spi)
    _check_fastcall_contract(env, env.frame, env.insn_idx, off)
    env.liveness.mark_read(env, frame.frameno, env.insn_idx, 1 << spi)
    if types[7] != STACK_SPILL:
        _check_readable(env, [types[(top - i) % 8] for i in range(size)], off, size)
        if dst_regno >= 0:
            _set_from_bytes(env, frame, off, off + size, dst_regno)
        return
    fill = True
    if size == 8 and types[0] == STACK_SPILL:
        if dst_regno >= 0:
            regs[dst_regno] = reg
        elif leaks_pointer(env, reg):
            raise env.reject(errno.EACCES, f"leaking pointer from stack off {off}\n")
    else:
        fill = _read_part(env, slot, off, size, dst_regno)
    if fill:
        push_history(env, env.cur, stack_access_flags(frame.frameno, spi))


def _read_part(env: Env, slot: Slot, off: int, size: int, dst_regno: int) -> bool:
    """A read of some bytes of a spilled register; True when it restores (part of) that register."""
    top = -off - 1
    types, reg = slot.types, slot.reg
    regs = env.frame.regs
    if reg.type != SCALAR_VALUE:
        print_line(env, env.insn_idx, "; ")
        raise env.reject(errno.EACCES, "invalid size of register fill\n")
    if dst_regno < 0:
        return False
    spill_size = 8 - types.index(STACK_SPILL)
    while types[8 - spill_size : 8] != _SPILL8[:spill_size]:
        spill_size -= 1
    if size <= spill_size and off % 8 == 0:
        narrowing = reg.bounds.umax >> (8 * size) != 0
        regs[dst_regno] = reg.with_id(0) if narrowing and reg.id else reg
        return True
    spilled = zeros = 0
    for i in range(size):
        kind = types[(top - i) % 8]
        if kind == STACK_SPILL:
            spilled += 1
        elif kind == STACK_ZERO:
            zeros += 1
        elif kind != STACK_MISC and not (kind == STACK_INVALID and env.allow_uninit_stack):
            raise env.reject(errno.EACCES, f"invalid read from stack off {off}+{i} size {size}\n")
    if spilled == size and reg.is_null:
        regs[dst_regno] = const_reg(0)
        return True
    regs[dst_regno] = const_reg(0) if zeros == size else UNKNOWN_REG
    return False


def check_read(env: Env, ptr_regno: int, off: int, size: int, dst_regno: int) -> None:
    """A load through a stack pointer; the caller has checked the bounds. ``dst_regno`` -1: no register."""
    reg = env.frame.regs[ptr_regno]
    frame = frame_of(env, reg)
    b = reg.bounds
    if b.mask == 0:
        _read_fixed(env, frame, off + b.smin, size, dst_regno)
        return
    if dst_regno < 0:
        raise env.reject(
            errno.EACCES,
            "variable offset stack pointer cannot be passed into helper function; "
            f"var_off={tnum.text(b.tnum)} off={off} size={size}\n",
        )
    check_range_initialized(env, ptr_regno, off, size, False, False, None)
    low, high = b.smin + off, b.smax + off
    _set_from_bytes(env, frame, low, high + size, dst_regno)
    _check_fastcall_contract(env, frame, env.insn_idx, low)


def check_range_initialized(
    env: Env, regno: int, off: int, size: int, zero_allowed: bool, write: bool, meta: CallMeta | None
) -> None:
    """Memory on the stack handed to a helper: initialized, or (raw mode) about to be."""
    if size == 0 and not zero_allowed:
        raise env.reject(errno.EACCES, "invalid zero-sized read\n")
    check_within(env, regno, off, size, write)
    reg = env.frame.regs[regno]
    frame = frame_of(env, reg)
    b = reg.bounds
    if b.mask == 0:
        low = high = b.smin + off
    else:
        if not env.bypass_spec_v1:
            raise env.reject(
                errno.EACCES,
                f"R{regno} variable offset stack access prohibited for !root, var_off={tnum.text(b.tnum)}\n",
            )
        meta = None if meta is not None and meta.raw_mode else meta
        low, high = b.smin + off, b.smax + off
    if meta is not None and meta.raw_mode:
        _keep_dynptrs(env, frame, low, high + size)
        meta.access_size = size
        meta.regno = regno
        return
    for i in range(low, high + size):
        top = -i - 1
        spi = top // 8
        if len(frame.stack) <= spi:
            raise env.reject(errno.EFAULT, "allocated_stack too small\n")
        slot = frame.stack[spi]
        kind = slot.types[top % 8]
        if kind in _FIXED or (kind == STACK_INVALID and env.allow_uninit_stack):
            if write and kind != STACK_MISC:
                types = bytearray(slot.types)
                types[top % 8] = STACK_MISC
                frame.stack[spi] = Slot(bytes(types), slot.reg)
        elif slot.is_spill and (slot.reg.type == SCALAR_VALUE or env.allow_ptr_leaks):
            if write:
                frame.stack[spi] = Slot(slot.types.translate(_SCRUB), UNKNOWN_REG)
        elif b.mask == 0:
            raise env.reject(
                errno.EACCES, f"invalid read from stack R{regno} off {low}+{i - low} size {size}\n"
            )
        else:
            raise env.reject(
                errno.EACCES,
                f"invalid read from stack R{regno} var_off {tnum.text(b.tnum)}+{i - low} size {size}\n",
            )
        env.liveness.mark_read(env, frame.frameno, env.insn_idx, 1 << spi)
