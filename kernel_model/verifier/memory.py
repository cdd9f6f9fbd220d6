# SPDX-License-Identifier: GPL-2.0-only
"""Loads, stores and atomics: what each kind of pointer allows (check_mem_access of Linux 6.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.hooks.context import (
    PACKET,
    PACKET_END,
    PACKET_META,
    SCALAR,
    SOCK_COMMON_OR_NULL,
    TP_BUFFER,
    Request,
)
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_map_type

from . import bounds as bd
from . import btf_ctx, stack, tnum
from .btf_access import check_btf_access
from .env import Env
from .maprules import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG
from .operands import check_bounds, check_writable, leaks_pointer, read_reg
from .printing import print_line
from .regs import (
    BASE_MASK,
    BPF_MAX_VAR_OFF,
    CONST_PTR_TO_MAP,
    MEM_RDONLY,
    MEM_SIZE,
    NOT_INIT,
    PACKET_POINTERS,
    PTR_MAYBE_NULL,
    PTR_TO_ARENA,
    PTR_TO_BTF_ID,
    PTR_TO_CTX,
    PTR_TO_FLOW_KEYS,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_END,
    PTR_TO_PACKET_META,
    PTR_TO_SOCK_COMMON,
    PTR_TO_SOCKET,
    PTR_TO_STACK,
    PTR_TO_TCP_SOCK,
    PTR_TO_TP_BUFFER,
    PTR_TO_XDP_SOCK,
    PTR_UNTRUSTED,
    SCALAR_VALUE,
    SOCK_POINTERS,
    UNKNOWN_REG,
    Reg,
    const_reg,
    pointer,
    scalar,
    type_str,
)

MAX_PACKET_OFF: Final = 0xFFFF
NO_REG: Final = -1

_ALIGNMENT_WORDS: Final = {
    PTR_TO_FLOW_KEYS: "flow keys ",
    PTR_TO_MAP_KEY: "key ",
    PTR_TO_MAP_VALUE: "value ",
    PTR_TO_CTX: "context ",
    PTR_TO_STACK: "stack ",
    PTR_TO_SOCKET: "sock ",
    PTR_TO_SOCK_COMMON: "sock_common ",
    PTR_TO_TCP_SOCK: "tcp_sock ",
    PTR_TO_XDP_SOCK: "xdp_sock ",
}
_CTX_YIELDS: Final = {
    PACKET: PTR_TO_PACKET,
    PACKET_META: PTR_TO_PACKET_META,
    PACKET_END: PTR_TO_PACKET_END,
    TP_BUFFER: PTR_TO_TP_BUFFER,
    SOCK_COMMON_OR_NULL: PTR_TO_SOCK_COMMON | PTR_MAYBE_NULL,
}
_NO_MISMATCH: Final = frozenset(
    (
        PTR_TO_CTX,
        PTR_TO_SOCKET,
        PTR_TO_SOCK_COMMON,
        PTR_TO_TCP_SOCK,
        PTR_TO_XDP_SOCK,
        PTR_TO_BTF_ID,
        PTR_TO_ARENA,
    )
)
"""Pointers whose accesses are rewritten, so that one instruction must always see the same kind."""
_MERGED: Final = (PTR_TO_MEM, PTR_TO_BTF_ID)
_DIRECT_VALUE: Final = (bpf_map_type.BPF_MAP_TYPE_ARRAY,)


# ---- regions --------------------------------------------------------------------------------


def _check_region_end(env: Env, regno: int, off: int, size: int, mem_size: int, zero_ok: bool) -> bool:
    """One end of an access; on failure its words are logged."""
    if off >= 0 and (size > 0 or (size == 0 and zero_ok)) and off + size <= mem_size:
        return True
    reg = env.frame.regs[regno]
    kind = reg.type
    if kind == PTR_TO_MAP_KEY:
        env.verbose(f"invalid access to map key, key_size={mem_size} off={off} size={size}\n")
    elif kind == PTR_TO_MAP_VALUE:
        env.verbose(f"invalid access to map value, value_size={mem_size} off={off} size={size}\n")
    elif kind in (PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_PACKET_END):
        env.verbose(
            f"invalid access to packet, off={off} size={size}, R{regno}(id={reg.id},off={off},r={mem_size})\n"
        )
    else:
        env.verbose(f"invalid access to memory, mem_size={mem_size} off={off} size={size}\n")
    return False


def _region_fault(env: Env, regno: int, off: int, size: int, mem_size: int, zero_ok: bool) -> str:
    """The last words when an access at a variable offset may leave the region; "" when it cannot."""
    b = env.frame.regs[regno].bounds
    low = b.smin
    if low < 0 and (low == bd.S64_MIN or off + low != bd.s32(off + low) or low + off < 0):
        return f"R{regno} min value is negative, either use unsigned index or do a if (index >=0) check.\n"
    if not _check_region_end(env, regno, bd.s32(low + off), size, mem_size, zero_ok):
        return f"R{regno} min value is outside of the allowed memory range\n"
    if b.umax >= BPF_MAX_VAR_OFF:
        return f"R{regno} unbounded memory access, make sure to bounds check any such access\n"
    if not _check_region_end(env, regno, bd.s32(b.umax + off), size, mem_size, zero_ok):
        return f"R{regno} max value is outside of the allowed memory range\n"
    return ""


def check_region(env: Env, regno: int, off: int, size: int, mem_size: int, zero_ok: bool) -> None:
    """An access to memory of known size, at a fixed and possibly a variable offset."""
    b = env.cur.frames[-1].regs[regno].bounds
    inside = 0 < size <= mem_size - off - b.umax and b.umax < BPF_MAX_VAR_OFF
    if inside and b.smin >= 0 and off + b.smin >= 0 and b.smin <= b.umax:
        return
    fault = _region_fault(env, regno, off, size, mem_size, zero_ok)
    if fault:
        raise env.reject(errno.EACCES, fault)


def map_access_fits(env: Env, regno: int, off: int, size: int) -> bool:
    """Whether a map value access stays inside; its words are logged when not."""
    the_map = env.frame.regs[regno].map
    assert the_map is not None
    fault = _region_fault(env, regno, off, size, the_map.value_size, False)
    if fault:
        env.verbose(fault)
    return not fault


def check_map_type(env: Env, regno: int, off: int, size: int, write: bool) -> None:
    """The map's creator may have made it read-only or write-only for programs."""
    the_map = env.frame.regs[regno].map
    assert the_map is not None
    forbidden = BPF_F_RDONLY_PROG if write else BPF_F_WRONLY_PROG
    if the_map.map_flags & forbidden:
        words = "write into" if write else "read from"
        raise env.reject(
            errno.EACCES,
            f"{words} map forbidden, value_size={the_map.value_size} off={off} size={size}\n",
        )


def check_packet(env: Env, regno: int, off: int, size: int, zero_ok: bool) -> None:
    """Inside the part of the packet that a comparison with data_end has shown to be there."""
    reg = env.frame.regs[regno]
    if reg.bounds.smin < 0:
        raise env.reject(
            errno.EACCES,
            f"R{regno} min value is negative, either use unsigned index or do a if (index >=0) check.\n",
        )
    if reg.extra < 0:
        raise env.reject(errno.EINVAL, f"R{regno} offset is outside of the packet\n")
    if not _check_region_end(env, regno, off, size, reg.extra, zero_ok):
        raise env.reject(errno.EACCES, f"R{regno} offset is outside of the packet\n")
    env.max_pkt_offset = max(env.max_pkt_offset, (off + reg.bounds.umax + size - 1) & bd.U32)


def may_access_packet(env: Env, write: bool, helper_allows: bool | None) -> bool:
    """Whether this program type reads or writes the packet directly.

    ``helper_allows`` is the helper's own word when the packet is handed to one, None for instructions.
    """
    mode = env.type.packet
    if not mode or (write and mode == "r"):
        return False
    if helper_allows is not None:
        return helper_allows
    env.seen_direct_write = True
    return True


def check_ptr_off(env: Env, reg: Reg, regno: int, fixed_ok: bool = False) -> None:
    """The pointer must be unmodified (or, with ``fixed_ok``, moved by a constant only)."""
    words = type_str(reg.type)
    if reg.off < 0:
        raise env.reject(errno.EACCES, f"negative offset {words} ptr R{regno} off={reg.off} disallowed\n")
    if not fixed_ok and reg.off:
        raise env.reject(
            errno.EACCES, f"dereference of modified {words} ptr R{regno} off={reg.off} disallowed\n"
        )
    if reg.bounds.mask or reg.bounds.value:
        raise env.reject(
            errno.EACCES, f"variable {words} access var_off={tnum.text(reg.bounds.tnum)} disallowed\n"
        )


def check_alignment(env: Env, reg: Reg, off: int, size: int, strict_once: bool) -> None:
    """Stack accesses are always aligned; others when asked for (BPF_F_STRICT_ALIGNMENT, atomics)."""
    kind = reg.type
    if size == 1 or kind == PTR_TO_ARENA:
        return
    strict = strict_once or env.strict_alignment or kind == PTR_TO_STACK
    if not strict:
        return
    shift = 2 if kind in PACKET_POINTERS else 0
    if not reg.bounds.mask and not (reg.bounds.value + shift + reg.off + off) & (size - 1):
        return
    if tnum.is_aligned(tnum.add(reg.bounds.tnum, tnum.const(shift + reg.off + off)), size):
        return
    text = tnum.text(reg.bounds.tnum)
    if shift:
        raise env.reject(errno.EACCES, f"misaligned packet access off 2+{text}+{reg.off}+{off} size {size}\n")
    word = _ALIGNMENT_WORDS.get(kind, "")
    raise env.reject(errno.EACCES, f"misaligned {word}access off {text}+{reg.off}+{off} size {size}\n")


# ---- one access -----------------------------------------------------------------------------


def _no_leak(env: Env, value_regno: int, where: str) -> None:
    if value_regno >= 0 and leaks_pointer(env, env.frame.regs[value_regno]):
        raise env.reject(errno.EACCES, f"R{value_regno} leaks addr into {where}\n")


def _known_value(env: Env, reg: Reg, off: int, size: int, signed: bool) -> Reg | None:
    """The contents of a frozen map that programs cannot write either are constants (since 5.6)."""
    the_map = reg.map
    if the_map is None or reg.bounds.mask or the_map.map_type not in _DIRECT_VALUE:
        return None
    if not the_map.frozen or not the_map.map_flags & BPF_F_RDONLY_PROG:
        return None
    data = the_map.read_value(off + reg.bounds.smin, size)
    if data is None:
        return None
    return const_reg(int.from_bytes(data, "little", signed=signed))


def _map_value(
    env: Env, regno: int, reg: Reg, off: int, size: int, write: bool, value: int, sx: bool
) -> None:
    if write:
        _no_leak(env, value, "map")
    check_map_type(env, regno, off, size, write)
    assert reg.map is not None
    check_region(env, regno, off, size, reg.map.value_size, False)
    if not write and value >= 0:
        env.frame.regs[value] = _known_value(env, reg, off, size, sx) or UNKNOWN_REG


def _memory(env: Env, regno: int, reg: Reg, off: int, size: int, write: bool, value: int) -> None:
    read_only = bool(reg.type & MEM_RDONLY)
    if reg.type & PTR_MAYBE_NULL:
        raise env.reject(errno.EACCES, f"R{regno} invalid mem access '{type_str(reg.type)}'\n")
    if write and read_only:
        raise env.reject(errno.EACCES, f"R{regno} cannot write into {type_str(reg.type)}\n")
    if write:
        _no_leak(env, value, "mem")
    if not (read_only and reg.type & PTR_UNTRUSTED):
        check_region(env, regno, off, size, reg.extra & MEM_SIZE, False)
    if value >= 0 and (not write or read_only):
        env.frame.regs[value] = UNKNOWN_REG


def _context(
    env: Env, insn_idx: int, regno: int, reg: Reg, off: int, size: int, write: bool, value: int, sx: bool
) -> None:
    if write:
        _no_leak(env, value, "ctx")
    check_ptr_off(env, reg, regno)
    if env.attach is not None:
        found = btf_ctx.access(env, insn_idx, off, size, write)
        if value >= 0:
            env.frame.regs[value] = found
        return
    context = env.type.context
    request = Request(off, size, write, env.spec.expected_attach_type, sx, env.bpf_capable)
    access = context.check(request) if context is not None else None
    if access is None:
        env.verbose(f"invalid bpf_context access off={off} size={size}\n")
        message = env.last_message
        print_line(env, insn_idx, "; ")
        env.last_message = message
        from .env import Reject

        raise Reject(errno.EACCES)
    if context is not None and context.name == "__sk_buff" and off == 180:
        env.prog_flags["tstamp_type_access"] = True
    env.aux[insn_idx].ctx_field_size = access.field_size
    env.max_ctx_offset = max(env.max_ctx_offset, off + size)
    if not write and value >= 0:
        if access.yields == SCALAR:
            env.frame.regs[value] = UNKNOWN_REG
        else:
            kind = _CTX_YIELDS[access.yields]
            new_id = env.new_id() if kind & PTR_MAYBE_NULL else 0
            env.frame.regs[value] = pointer(kind, id=new_id)


def _tp_buffer(env: Env, regno: int, reg: Reg, off: int, size: int) -> None:
    if off < 0:
        raise env.reject(errno.EACCES, f"R{regno} invalid tracepoint buffer access: off={off}, size={size}\n")
    if reg.bounds.mask or reg.bounds.value:
        text = tnum.text(reg.bounds.tnum)
        raise env.reject(
            errno.EACCES, f"R{regno} invalid variable buffer offset: off={off}, var_off={text}\n"
        )
    env.max_tp_access = max(env.max_tp_access, off + size)


def check_mem_access(
    env: Env,
    insn_idx: int,
    regno: int,
    off: int,
    size: int,
    write: bool,
    value_regno: int,
    strict_once: bool = False,
    sign_extends: bool = False,
) -> None:
    """``size`` bytes at register + ``off``: allowed? And what does ``value_regno`` hold afterwards.

    ``value_regno`` is the register read into or stored from; NO_REG for a constant or unknown data.
    """
    regs = env.cur.frames[-1].regs
    reg = regs[regno]
    check_alignment(env, reg, off, size, strict_once)
    off += reg.off
    kind = reg.type
    if kind == PTR_TO_STACK:
        stack.check_within(env, regno, off, size, write)
        if write:
            stack.check_write(env, regno, off, size, value_regno, insn_idx)
        else:
            stack.check_read(env, regno, off, size, value_regno)
    elif kind == PTR_TO_MAP_VALUE:
        _map_value(env, regno, reg, off, size, write, value_regno, sign_extends)
    elif kind in PACKET_POINTERS:
        if write and not may_access_packet(env, True, None):
            raise env.reject(errno.EACCES, "cannot write into packet\n")
        if write:
            _no_leak(env, value_regno, "packet")
        check_packet(env, regno, off, size, False)
        if not write and value_regno >= 0:
            regs[value_regno] = UNKNOWN_REG
    elif kind == PTR_TO_CTX:
        _context(env, insn_idx, regno, reg, off, size, write, value_regno, sign_extends)
    elif kind & BASE_MASK == PTR_TO_MEM:
        _memory(env, regno, reg, off, size, write, value_regno)
    elif kind == PTR_TO_MAP_KEY:
        if write:
            raise env.reject(errno.EACCES, f"write to change key R{regno} not allowed\n")
        assert reg.map is not None
        check_region(env, regno, off, size, reg.map.key_size, False)
        if value_regno >= 0:
            regs[value_regno] = UNKNOWN_REG
    elif kind == PTR_TO_TP_BUFFER:
        _tp_buffer(env, regno, reg, off, size)
        if not write and value_regno >= 0:
            regs[value_regno] = UNKNOWN_REG
    elif kind & BASE_MASK == PTR_TO_BTF_ID and not kind & PTR_MAYBE_NULL:
        check_btf_access(env, regno, off, size, write, value_regno)
    elif kind in SOCK_POINTERS:
        if write:
            raise env.reject(errno.EACCES, f"R{regno} cannot write into {type_str(kind)}\n")
        raise env.not_modelled(f"loads through a pointer to {type_str(kind)}")
    elif kind == CONST_PTR_TO_MAP:
        raise env.not_modelled("loads from struct bpf_map")
    else:
        raise env.reject(errno.EACCES, f"R{regno} invalid mem access '{type_str(kind)}'\n")
    if size < 8 and value_regno >= 0 and not write:
        loaded = regs[value_regno]
        if loaded.type == SCALAR_VALUE:
            extend = bd.sign_extend if sign_extends else bd.zero_extend
            after = extend(loaded.bounds, size)
            if after is not loaded.bounds:
                regs[value_regno] = loaded.with_bounds(after) if loaded.id or loaded.off else scalar(after)


# ---- instructions ---------------------------------------------------------------------------


def _merged(kind: int, before: int) -> int:
    """What two paths make of a load: faults are handled when one of them wants that (since 6.12)."""
    base = PTR_TO_MEM if PTR_TO_MEM in (kind & BASE_MASK, before & BASE_MASK) else PTR_TO_BTF_ID
    return base | (kind | before) & (PTR_UNTRUSTED | MEM_RDONLY)


def save_ptr_type(env: Env, kind: int, trust_may_differ: bool = False) -> None:
    """An access that will be rewritten must see the same kind of pointer on every path."""
    aux = env.aux[env.insn_idx]
    before = aux.ptr_type
    if before == NOT_INIT:
        aux.ptr_type = kind
    elif kind != before and (kind & BASE_MASK in _NO_MISMATCH or before & BASE_MASK in _NO_MISMATCH):
        if not (trust_may_differ and kind & BASE_MASK in _MERGED and before & BASE_MASK in _MERGED):
            raise env.reject(errno.EINVAL, "same insn cannot be used with different pointers\n")
        aux.ptr_type = _merged(kind, before)


def check_load(env: Env, insn: Insn, strict_once: bool, sign_extends: bool, where: str) -> None:
    """``dst = *(size *)(src + off)``."""
    kind = read_reg(env, insn.src).type
    check_writable(env, insn.dst)
    size = op.SIZE_BYTES[insn.code & 0x18]
    check_mem_access(env, env.insn_idx, insn.src, insn.off, size, False, insn.dst, strict_once, sign_extends)
    save_ptr_type(env, kind, where == "ldx")
    regs = env.cur.frames[-1].regs
    reg = regs[insn.dst]
    if not reg.bounds.sane:
        good = check_bounds(env, reg.bounds, where)
        if good is not reg.bounds:
            regs[insn.dst] = reg.with_bounds(good)


def check_store(env: Env, insn: Insn, strict_once: bool) -> None:
    """``*(size *)(dst + off) = src``."""
    read_reg(env, insn.src)
    kind = read_reg(env, insn.dst).type
    size = op.SIZE_BYTES[insn.code & 0x18]
    check_mem_access(env, env.insn_idx, insn.dst, insn.off, size, True, insn.src, strict_once)
    save_ptr_type(env, kind)


def check_store_imm(env: Env, insn: Insn) -> None:
    """``*(size *)(dst + off) = imm``."""
    kind = read_reg(env, insn.dst).type
    size = op.SIZE_BYTES[insn.code & 0x18]
    check_mem_access(env, env.insn_idx, insn.dst, insn.off, size, True, NO_REG)
    save_ptr_type(env, kind)


def _check_atomic_pointer(env: Env, regno: int, words: str) -> None:
    kind = env.frame.regs[regno].type
    if kind in (PTR_TO_CTX, PTR_TO_FLOW_KEYS) or kind in PACKET_POINTERS or kind in SOCK_POINTERS:
        raise env.reject(errno.EACCES, f"BPF_ATOMIC {words} R{regno} {type_str(kind)} is not allowed\n")


_RMW: Final = frozenset(
    (
        op.BPF_ADD, op.BPF_ADD | op.BPF_FETCH, op.BPF_AND, op.BPF_AND | op.BPF_FETCH,
        op.BPF_OR, op.BPF_OR | op.BPF_FETCH, op.BPF_XOR, op.BPF_XOR | op.BPF_FETCH,
        op.BPF_XCHG, op.BPF_CMPXCHG,
    )
)  # fmt: skip


def _check_rmw(env: Env, insn: Insn) -> None:
    if insn.code & 0x18 not in (op.BPF_W, op.BPF_DW):
        raise env.reject(errno.EINVAL, "invalid atomic operand size\n")
    src = read_reg(env, insn.src)
    read_reg(env, insn.dst)
    if insn.imm == op.BPF_CMPXCHG and leaks_pointer(env, read_reg(env, 0)):
        raise env.reject(errno.EACCES, "R0 leaks addr into mem\n")
    if leaks_pointer(env, src):
        raise env.reject(errno.EACCES, f"R{insn.src} leaks addr into mem\n")
    _check_atomic_pointer(env, insn.dst, "stores into")
    load_reg = NO_REG
    if insn.imm & op.BPF_FETCH:
        load_reg = 0 if insn.imm == op.BPF_CMPXCHG else insn.src
        check_writable(env, load_reg)
        env.frame.regs[load_reg] = UNKNOWN_REG
    size = op.SIZE_BYTES[insn.code & 0x18]
    at = env.insn_idx
    check_mem_access(env, at, insn.dst, insn.off, size, False, NO_REG, True)
    if load_reg >= 0:
        check_mem_access(env, at, insn.dst, insn.off, size, False, load_reg, True)
    check_mem_access(env, at, insn.dst, insn.off, size, True, NO_REG, True)


def check_atomic(env: Env, insn: Insn) -> None:
    """Read-modify-write (5.12), load-acquire and store-release (6.15)."""
    if insn.imm in _RMW:
        _check_rmw(env, insn)
    elif insn.imm == op.BPF_LOAD_ACQ:
        check_load(env, insn, True, False, "atomic_load")
        _check_atomic_pointer(env, insn.src, "loads from")
    elif insn.imm == op.BPF_STORE_REL:
        check_store(env, insn, True)
        _check_atomic_pointer(env, insn.dst, "stores into")
    else:
        raise env.reject(errno.EINVAL, f"BPF_ATOMIC uses invalid atomic opcode {insn.imm & 0xFFFFFFFF:02x}\n")
