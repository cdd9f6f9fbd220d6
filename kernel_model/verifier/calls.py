# SPDX-License-Identifier: GPL-2.0-only
"""Calls of helpers: arguments against prototypes, and what R0 holds afterwards (check_helper_call, 6.18)."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.helpers import prototypes as p
from kernel_model.helpers.prototypes import HelperProto
from kernel_model.helpers.reach import reachable
from kernel_model.helpers.table import HELPERS, proto_for
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_map_type as m

from . import bounds as bd
from . import dynptr
from .api import MapView
from .attach import check_allowed, has_helper
from .btf_args import BTF_POINTERS, PERCPU_POINTERS, check_struct, struct_result, variable_result
from .env import Env, func_id_name
from .maprules import BPF_F_RDONLY_PROG, ELIDES_NULL, check_map_and_helper
from .memory import NO_REG, check_alignment, check_mem_access, check_ptr_off, may_access_packet
from .memory_args import check_helper_mem, check_mem_size
from .objects import slice_extra, type_of
from .operands import check_bounds, leaks_pointer, read_reg, scratch_caller_saved
from .precision import mark_chain_precision, mark_precise_batch, want_slot
from .refs import acquire_reference, check_resource_leak, clear_packet_pointers, release_reference
from .regs import (
    BASE_MASK,
    CONST_PTR_TO_DYNPTR,
    CONST_PTR_TO_MAP,
    DYNPTR_FLAGS,
    MEM_RDONLY,
    MEM_RINGBUF,
    NOT_INIT_REG,
    PACKET_POINTERS,
    PTR_MAYBE_NULL,
    PTR_TO_ARENA,
    PTR_TO_BUF,
    PTR_TO_CTX,
    PTR_TO_FUNC,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_META,
    PTR_TO_SOCK_COMMON,
    PTR_TO_SOCKET,
    PTR_TO_STACK,
    PTR_TO_TCP_SOCK,
    PTR_TO_XDP_SOCK,
    SCALAR_VALUE,
    UNKNOWN_REG,
    Reg,
    pointer,
    scalar,
    type_str,
)
from .state import STACK_SPILL, STACK_ZERO

MAX_ERRNO: Final = 4095
_MEM_TYPES: Final = (
    PTR_TO_STACK, PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_MAP_KEY, PTR_TO_MAP_VALUE, PTR_TO_MEM,
    PTR_TO_MEM | MEM_RINGBUF, PTR_TO_BUF, 16 | 1 << 20,
)  # fmt: skip
_SCALAR: Final = (SCALAR_VALUE,)
COMPATIBLE: Final[dict[int, tuple[int, ...]]] = {
    p.ARG_PTR_TO_MAP_KEY: _MEM_TYPES,
    p.ARG_PTR_TO_MAP_VALUE: _MEM_TYPES,
    p.ARG_PTR_TO_MEM: _MEM_TYPES,
    p.ARG_CONST_SIZE: _SCALAR,
    p.ARG_CONST_SIZE_OR_ZERO: _SCALAR,
    p.ARG_CONST_ALLOC_SIZE_OR_ZERO: _SCALAR,
    p.ARG_CONST_MAP_PTR: (CONST_PTR_TO_MAP,),
    p.ARG_PTR_TO_CTX: (PTR_TO_CTX,),
    p.ARG_PTR_TO_SOCK_COMMON: (PTR_TO_SOCK_COMMON, PTR_TO_SOCKET, PTR_TO_TCP_SOCK, PTR_TO_XDP_SOCK),
    p.ARG_PTR_TO_SOCKET: (PTR_TO_SOCKET,),
    p.ARG_PTR_TO_RINGBUF_MEM: (PTR_TO_MEM | MEM_RINGBUF,),
    p.ARG_PTR_TO_FUNC: (PTR_TO_FUNC,),
    p.ARG_PTR_TO_STACK: (PTR_TO_STACK,),
    p.ARG_PTR_TO_CONST_STR: (PTR_TO_MAP_VALUE,),
    p.ARG_PTR_TO_TIMER: (PTR_TO_MAP_VALUE,),
    p.ARG_PTR_TO_DYNPTR: (PTR_TO_STACK, CONST_PTR_TO_DYNPTR),
    p.ARG_PTR_TO_BTF_ID: BTF_POINTERS,
    p.ARG_PTR_TO_PERCPU_BTF_ID: PERCPU_POINTERS,
}
"""The register types that each argument type takes."""
_OFFSET_OK: Final = frozenset(
    (
        PTR_TO_STACK, PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_MAP_KEY, PTR_TO_MAP_VALUE, PTR_TO_MEM,
        PTR_TO_MEM | MEM_RDONLY, PTR_TO_MEM | MEM_RINGBUF, PTR_TO_BUF, PTR_TO_BUF | MEM_RDONLY,
        PTR_TO_ARENA, SCALAR_VALUE,
    )
)  # fmt: skip
"""Pointers that may be passed at any offset."""
_RECORDS_MAP: Final = frozenset(
    (
        f.BPF_FUNC_tail_call, f.BPF_FUNC_map_lookup_elem, f.BPF_FUNC_map_update_elem,
        f.BPF_FUNC_map_delete_elem, f.BPF_FUNC_map_push_elem, f.BPF_FUNC_map_pop_elem,
        f.BPF_FUNC_map_peek_elem, f.BPF_FUNC_for_each_map_elem, f.BPF_FUNC_redirect_map,
        f.BPF_FUNC_map_lookup_percpu_elem,
    )
)  # fmt: skip
_WRITES_MAP: Final = frozenset(
    (
        f.BPF_FUNC_map_delete_elem,
        f.BPF_FUNC_map_update_elem,
        f.BPF_FUNC_map_push_elem,
        f.BPF_FUNC_map_pop_elem,
    )
)
_BOUNDED_STRINGS: Final = frozenset(
    (
        f.BPF_FUNC_get_stack, f.BPF_FUNC_get_task_stack, f.BPF_FUNC_probe_read_str,
        f.BPF_FUNC_probe_read_kernel_str, f.BPF_FUNC_probe_read_user_str,
    )
)  # fmt: skip
_NO_KEY: Final = -1


class CallMeta:
    """What the arguments of one call tell about one another (struct bpf_call_arg_meta)."""

    __slots__ = (
        "access_size",
        "btf_id",
        "const_map_key",
        "dynptr_id",
        "func_id",
        "map",
        "mem_size",
        "msize_max",
        "pkt_access",
        "raw_mode",
        "ref",
        "regno",
        "release_regno",
        "subprogno",
    )

    def __init__(self, func_id: int, pkt_access: bool) -> None:
        self.func_id = func_id
        self.pkt_access = pkt_access
        self.map: MapView | None = None
        self.raw_mode = False
        self.regno = 0
        self.access_size = 0
        self.btf_id = 0
        self.mem_size = 0
        self.msize_max = 0
        self.ref = 0
        self.release_regno = 0
        self.subprogno = 0
        self.const_map_key = 0
        self.dynptr_id = 0


def value_pointer_type(env: Env, reg: Reg) -> Reg:
    """A looked-up value, now known not to be NULL: in some maps it is something else than a value."""
    if reg.type & BASE_MASK != PTR_TO_MAP_VALUE or reg.map is None:
        return reg
    kind = reg.map.map_type
    if kind in (m.BPF_MAP_TYPE_ARRAY_OF_MAPS, m.BPF_MAP_TYPE_HASH_OF_MAPS):
        raise env.not_modelled("maps in maps")
    if kind == m.BPF_MAP_TYPE_XSKMAP:
        return pointer(PTR_TO_XDP_SOCK, id=reg.id)
    if kind in (m.BPF_MAP_TYPE_SOCKMAP, m.BPF_MAP_TYPE_SOCKHASH):
        raise env.not_modelled("sockets from maps")
    return reg


# ---- one argument ---------------------------------------------------------------------------


def _check_reg_type(env: Env, regno: int, arg: int) -> None:
    types = COMPATIBLE.get(arg & p.BASE_MASK)
    if types is None:
        raise env.not_modelled(f"helper argument type {arg & p.BASE_MASK}")
    reg = env.frame.regs[regno]
    kind = reg.type
    if arg & p.BASE_MASK == p.ARG_PTR_TO_MEM:
        kind &= ~DYNPTR_FLAGS
    if arg & p.MEM_RDONLY:
        kind &= ~MEM_RDONLY
    if arg & p.PTR_MAYBE_NULL:
        kind &= ~PTR_MAYBE_NULL
    if kind in types:
        return
    wanted = ", ".join(type_str(one) for one in types)
    raise env.reject(errno.EACCES, f"R{regno} type={type_str(reg.type)} expected={wanted}\n")


def check_arg_offset(env: Env, reg: Reg, regno: int, arg: int = 0) -> None:
    """The pointer may be moved only where its type allows that (check_func_arg_reg_off)."""
    if arg & p.OBJ_RELEASE:
        if arg & p.BASE_MASK == p.ARG_PTR_TO_DYNPTR and reg.type == PTR_TO_STACK:
            return
        if reg.off:
            raise env.reject(
                errno.EINVAL,
                f"R{regno} must have zero offset when passed to release func or trusted arg to kfunc\n",
            )
        check_ptr_off(env, reg, regno)
    elif reg.type not in _OFFSET_OK:
        check_ptr_off(env, reg, regno, fixed_ok=reg.type in BTF_POINTERS)


def _constant_key(env: Env, key: Reg, key_size: int) -> int:
    """The key on the stack as a number when it is known, else -1 (get_constant_map_key)."""
    if not env.bpf_capable or key.type != PTR_TO_STACK or key.bounds.mask:
        return _NO_KEY
    top = -(key.off + key.bounds.smin) - 1
    spi, at = top // 8, top % 8
    slot = env.cur.frames[key.frameno].stack[spi]
    zeros = spilled = 0
    while at - zeros >= 0 and slot.types[at - zeros] == STACK_ZERO:
        zeros += 1
    if zeros >= key_size:
        return 0
    if not slot.is_scalar_spill:
        return _NO_KEY
    while at - spilled >= 0 and slot.types[at - spilled] == STACK_SPILL:
        spilled += 1
    if spilled != key_size or slot.reg.bounds.mask:
        return _NO_KEY
    want_slot(env, key.frameno, spi)
    mark_precise_batch(env, env.cur)
    return bd.s64(slot.reg.bounds.value)


def _check_map_pointers(env: Env, regno: int, reg: Reg, arg: int, meta: CallMeta) -> None:
    base = arg & p.BASE_MASK
    if base == p.ARG_CONST_MAP_PTR:
        meta.map = reg.map
        return
    if meta.map is None:
        env.bug("invalid map_ptr to access map->key")
        raise env.reject(errno.EFAULT, "")
    if base == p.ARG_PTR_TO_MAP_KEY:
        check_helper_mem(env, regno, meta.map.key_size, False, False, None)
        if meta.map.map_type in ELIDES_NULL:
            meta.const_map_key = _constant_key(env, reg, meta.map.key_size)
        return
    if arg & p.PTR_MAYBE_NULL and reg.is_null:
        return
    meta.raw_mode = bool(arg & p.MEM_UNINIT)
    check_helper_mem(env, regno, meta.map.value_size, bool(arg & p.MEM_WRITE), False, meta)


def _check_const_str(env: Env, reg: Reg, regno: int) -> None:
    the_map = reg.map
    assert the_map is not None
    if not (the_map.frozen and the_map.map_flags & BPF_F_RDONLY_PROG):
        raise env.reject(errno.EACCES, f"R{regno} does not point to a readonly map'\n")
    if reg.bounds.mask:
        raise env.reject(errno.EACCES, f"R{regno} is not a constant address'\n")
    if the_map.map_type != m.BPF_MAP_TYPE_ARRAY:
        raise env.reject(errno.EACCES, "no direct value access support for this map type\n")
    at = reg.off + reg.bounds.smin
    data = the_map.read_value(at, the_map.value_size - at) if 0 <= at < the_map.value_size else None
    if data is None:
        raise env.reject(errno.EINVAL, "direct value access on string failed\n")
    if 0 not in data:
        raise env.reject(errno.EINVAL, "string is not zero-terminated\n")


def _check_arg(env: Env, index: int, meta: CallMeta, proto: HelperProto) -> None:
    regno = index + 1
    arg = proto.args[index]
    if arg == p.ARG_DONTCARE:
        return
    reg = read_reg(env, regno)
    if arg == p.ARG_ANYTHING:
        if leaks_pointer(env, reg):
            raise env.reject(errno.EACCES, f"R{regno} leaks addr into helper function\n")
        return
    if reg.type in PACKET_POINTERS and not may_access_packet(env, False, meta.pkt_access):
        raise env.reject(errno.EACCES, "helper access to the packet is not allowed\n")
    base = arg & p.BASE_MASK
    if not (reg.is_null and arg & p.PTR_MAYBE_NULL):
        _check_reg_type(env, regno, arg)
        if base == p.ARG_PTR_TO_BTF_ID:
            check_struct(env, reg, regno, proto.arg_btf[index])
        check_arg_offset(env, reg, regno, arg)
    if arg & p.OBJ_RELEASE:
        if base == p.ARG_PTR_TO_DYNPTR:
            dynptr.check_release(env, reg, regno)
        elif not reg.ref and not reg.is_null:
            raise env.reject(errno.EINVAL, f"R{regno} must be referenced when passed to release function\n")
        meta.release_regno = regno
    if reg.ref:
        if meta.ref:
            raise env.reject(errno.EACCES, f"more than one arg with ref_obj_id R{regno} {reg.ref} {meta.ref}")
        meta.ref = reg.ref
    if base in (p.ARG_CONST_MAP_PTR, p.ARG_PTR_TO_MAP_KEY, p.ARG_PTR_TO_MAP_VALUE):
        _check_map_pointers(env, regno, reg, arg, meta)
    elif base == p.ARG_PTR_TO_MEM:
        meta.raw_mode = bool(arg & p.MEM_UNINIT)
        if arg & p.MEM_FIXED_SIZE:
            size = proto.arg_sizes[index]
            check_helper_mem(env, regno, size, bool(arg & p.MEM_WRITE), False, meta)
            if arg & p.MEM_ALIGNED:
                check_alignment(env, reg, 0, size, True)
    elif base in (p.ARG_CONST_SIZE, p.ARG_CONST_SIZE_OR_ZERO):
        write = bool(proto.args[index - 1] & p.MEM_WRITE)
        check_mem_size(env, reg, regno, write, base == p.ARG_CONST_SIZE_OR_ZERO, meta)
    elif base == p.ARG_CONST_ALLOC_SIZE_OR_ZERO:
        if reg.bounds.mask:
            raise env.reject(errno.EACCES, f"R{regno} is not a known constant'\n")
        meta.mem_size = reg.bounds.value & bd.U32
        mark_chain_precision(env, regno)
    elif base == p.ARG_PTR_TO_DYNPTR:
        dynptr.process(env, regno, arg)
    elif base == p.ARG_PTR_TO_PERCPU_BTF_ID:
        meta.btf_id = reg.extra
    elif base == p.ARG_PTR_TO_FUNC:
        meta.subprogno = reg.extra
    elif base == p.ARG_PTR_TO_CONST_STR:
        _check_const_str(env, reg, regno)


# ---- the whole call -------------------------------------------------------------------------


def _find_proto(env: Env, func_id: int) -> HelperProto:
    row = HELPERS.get(func_id)
    name = func_id_name(func_id)
    if row is None:
        if func_id == 0:
            raise env.reject(errno.EINVAL, f"program of this type cannot use helper {name}#{func_id}\n")
        raise env.reject(errno.EINVAL, f"invalid func {name}#{func_id}\n")
    if row.proto is None and not reachable(row, env.type):
        raise env.reject(errno.EINVAL, f"program of this type cannot use helper {name}#{func_id}\n")
    if row.proto is None:
        raise env.not_modelled(f"helper {name}#{func_id}")
    proto = proto_for(row, env.type)
    if proto is None or not has_helper(env, func_id):
        raise env.reject(errno.EINVAL, f"program of this type cannot use helper {name}#{func_id}\n")
    if proto.gpl_only and not env.spec.gpl_compatible:
        raise env.reject(
            errno.EINVAL, "cannot call GPL-restricted function from non-GPL compatible program\n"
        )
    if proto.might_sleep and not env.sleepable:
        raise env.reject(errno.EINVAL, "helper call might sleep in a non-sleepable prog\n")
    check_allowed(env, func_id)
    return proto


def _record_map(env: Env, meta: CallMeta) -> None:
    """Remember which map this call takes, for inlining; another one on another path spoils that."""
    if meta.func_id not in _RECORDS_MAP:
        return
    if meta.map is None:
        env.bug("expected map for helper call")
        raise env.reject(errno.EFAULT, "")
    if meta.map.map_flags & BPF_F_RDONLY_PROG and meta.func_id in _WRITES_MAP:
        raise env.reject(errno.EACCES, "write into map forbidden\n")
    aux = env.aux[env.insn_idx]
    aux.map_unpriv |= not meta.map.bypass_spec_v1
    if aux.map is not None and aux.map is not meta.map:
        aux.map_poisoned = True
    aux.map = meta.map


def _record_key(env: Env, meta: CallMeta) -> None:
    """A constant index of a tail call makes it a direct jump."""
    if meta.func_id != f.BPF_FUNC_tail_call:
        return
    the_map = meta.map
    if the_map is None or the_map.map_type != m.BPF_MAP_TYPE_PROG_ARRAY:
        raise env.reject(errno.EINVAL, "expected prog array map for tail call")
    aux = env.aux[env.insn_idx]
    reg = env.frame.regs[3]
    value = reg.bounds.value
    if reg.type != SCALAR_VALUE or reg.bounds.mask or value >= the_map.max_entries:
        aux.map_key_poisoned = True
        return
    mark_chain_precision(env, 3)
    if aux.map_key < 0 and not aux.map_key_poisoned:
        aux.map_key = value
    elif not aux.map_key_poisoned and aux.map_key != value:
        aux.map_key_poisoned = True


def _returned(env: Env, proto: HelperProto, meta: CallMeta) -> Reg:
    base, flag = proto.ret & p.BASE_MASK, proto.ret & ~p.BASE_MASK
    if base == p.RET_INTEGER:
        return UNKNOWN_REG
    if base == p.RET_VOID:
        return NOT_INIT_REG
    if base == p.RET_PTR_TO_MAP_VALUE:
        the_map = meta.map
        if the_map is None:
            env.bug("unexpected null map_ptr")
            raise env.reject(errno.EFAULT, "")
        if (
            meta.func_id == f.BPF_FUNC_map_lookup_elem
            and the_map.map_type in ELIDES_NULL
            and 0 <= meta.const_map_key < the_map.max_entries
        ):
            flag &= ~PTR_MAYBE_NULL
        return pointer(PTR_TO_MAP_VALUE | flag, the_map)
    if base == p.RET_PTR_TO_MEM:
        return pointer(PTR_TO_MEM | flag, extra=slice_extra(meta.mem_size, meta.dynptr_id))
    if base == p.RET_PTR_TO_BTF_ID:
        return struct_result(env, proto.ret_btf, flag)
    if base == p.RET_PTR_TO_MEM_OR_BTF_ID:
        return variable_result(env, meta.btf_id, flag)
    raise env.not_modelled(f"return type {base} of func {func_id_name(meta.func_id)}#{meta.func_id}")


def _refine(env: Env, proto: HelperProto, meta: CallMeta) -> None:
    """What some helpers promise of their result."""
    if proto.ret != p.RET_INTEGER:
        return
    regs = env.frame.regs
    out = None
    if meta.func_id in _BOUNDED_STRINGS:
        out = bd.UNKNOWN.copy()
        out.smax = bd.s64(meta.msize_max)
        out.s32_max = bd.s32(meta.msize_max)
        out.smin = out.s32_min = -MAX_ERRNO
    elif meta.func_id == f.BPF_FUNC_get_smp_processor_id:
        out = bd.UNKNOWN.copy()
        top = env.kernel.nr_cpus - 1
        out.umax = out.u32_max = out.smax = out.s32_max = top
        out.smin = out.s32_min = 0
    if out is None:
        return
    bd.sync(out)
    regs[0] = scalar(check_bounds(env, out, "retval"))


def _check_dynptr_call(env: Env, meta: CallMeta) -> bool:
    """What single dynptr helpers want besides their prototype; True when the call may move the packet."""
    regs = env.frame.regs
    if meta.func_id == f.BPF_FUNC_dynptr_from_mem and regs[1].type != PTR_TO_MAP_VALUE:
        words = type_str(regs[1].type)
        raise env.reject(errno.EACCES, f"Unsupported reg type {words} for bpf_dynptr_from_mem data\n")
    if meta.func_id == f.BPF_FUNC_dynptr_data:
        found = dynptr.described(env, regs[1])
        meta.dynptr_id, meta.ref = found.id, found.ref
    elif meta.func_id == f.BPF_FUNC_dynptr_write:
        return type_of(dynptr.described(env, regs[1])) in dynptr.CHANGES_PACKET
    return False


def check_helper_call(env: Env, insn: Insn) -> None:
    """A call by number: find the prototype, check every argument, set R0."""
    from . import callbacks

    func_id = insn.imm
    proto = _find_proto(env, func_id)
    row = HELPERS[func_id]
    meta = CallMeta(func_id, proto.pkt_access)
    for index in range(len(proto.args)):
        _check_arg(env, index, meta, proto)
    _record_map(env, meta)
    _record_key(env, meta)
    for i in range(meta.access_size):
        check_mem_access(env, env.insn_idx, meta.regno, i, 1, True, NO_REG)
    regs = env.frame.regs
    changes_packet = row.changes_packet
    if meta.release_regno:
        if proto.args[meta.release_regno - 1] & p.BASE_MASK == p.ARG_PTR_TO_DYNPTR:
            dynptr.release(env, regs[meta.release_regno])
        elif meta.ref:
            if not release_reference(env, meta.ref):
                raise env.reject(
                    errno.EINVAL,
                    f"func {func_id_name(func_id)}#{func_id} reference has not been acquired before\n",
                )
        elif not regs[meta.release_regno].is_null:
            raise env.reject(
                errno.EINVAL,
                f"func {func_id_name(func_id)}#{func_id} reference has not been acquired before\n",
            )
    if func_id == f.BPF_FUNC_tail_call:
        check_resource_leak(env, "tail_call", True)
    changes_packet |= _check_dynptr_call(env, meta)
    callbacks.run(env, insn, meta)
    for i in range(6):
        regs[i] = NOT_INIT_REG
    scratch_caller_saved(env)
    result = _returned(env, proto, meta)
    if result.type & PTR_MAYBE_NULL:
        result = result.with_id(env.new_id())
    if func_id == f.BPF_FUNC_ringbuf_reserve:
        ref = acquire_reference(env)
        result = Reg(result.type, result.bounds, 0, ref, result.map, result.extra, 0, ref)
    elif func_id == f.BPF_FUNC_dynptr_data:
        result = Reg(result.type, result.bounds, 0, result.id, None, result.extra, 0, meta.ref)
    regs[0] = result
    _refine(env, proto, meta)
    check_map_and_helper(env, meta.map, func_id)
    if func_id == f.BPF_FUNC_tail_call:
        # A tail call that comes back has done nothing; one that succeeds leaves the function.
        if len(env.cur.frames) > 1:
            callbacks.leave_by_hidden_exit(env, UNKNOWN_REG, packets_stale=True)
    elif changes_packet:
        clear_packet_pointers(env)
