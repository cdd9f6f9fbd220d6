# SPDX-License-Identifier: GPL-2.0-only
"""Calls of kernel functions by BTF id (kfuncs, since 5.13): found in the kernel's BTF, checked against it.

An argument's type and the suffix of its name say what it must be (Documentation/bpf/kfuncs.rst).
(add_kfunc_call, check_kfunc_call, check_kfunc_args and fixup_kfunc_call of Linux 6.18)
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from kernel_model.btf.parse import Btf, BtfError, BtfType, Kind, Param
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_MOV64_REG
from kernel_model.kfuncs.table import CASTS, KF, KFUNCS, Kfunc

from . import bounds as bd
from . import dynptr, iterators, regions
from .calls import CallMeta, check_arg_offset
from .env import ENOTSUPP, Env, Reject
from .memory import may_access_packet
from .memory_args import check_helper_mem, check_mem_size
from .objects import FLAG_OF, RINGBUF, slice_extra, type_of
from .operands import scratch_caller_saved
from .precision import mark_chain_precision
from .regs import (
    BASE_MASK,
    CONST_PTR_TO_DYNPTR,
    DYNPTR_TYPE_SKB,
    DYNPTR_TYPE_XDP,
    MEM_RDONLY,
    MEM_UNINIT,
    NOT_INIT_REG,
    PTR_MAYBE_NULL,
    PTR_TO_BTF_ID,
    PTR_TO_CTX,
    PTR_TO_MEM,
    PTR_TO_STACK,
    PTR_UNTRUSTED,
    SCALAR_VALUE,
    SOCK_POINTERS,
    UNKNOWN_REG,
    Reg,
    pointer,
    type_str,
)

MAX_KFUNC_DESCS: Final = 256
_CAST_TO_CTX: Final = "bpf_cast_to_kern_ctx"
_RDONLY_CAST: Final = "bpf_rdonly_cast"
_SLICE: Final = "bpf_dynptr_slice"
_SLICE_RDWR: Final = "bpf_dynptr_slice_rdwr"
_CLONE: Final = "bpf_dynptr_clone"
_FROM_SKB: Final = "bpf_dynptr_from_skb"
_MAKES: Final = {_FROM_SKB: DYNPTR_TYPE_SKB, "bpf_dynptr_from_xdp": DYNPTR_TYPE_XDP}
_CONTEXT_STRUCTS: Final = {"__sk_buff": ("__sk_buff", "sk_buff"), "xdp_md": ("xdp_md", "xdp_buff")}
"""Names of the structures that stand for the context, by the context's own name."""
_SCALARS: Final = (Kind.INT, Kind.ENUM, Kind.ENUM64)
_KIND_WORDS: Final = {Kind.STRUCT: "STRUCT", Kind.UNION: "UNION", Kind.PTR: "PTR", Kind.FWD: "FWD",
                      Kind.VOID: "UNKNOWN", Kind.FUNC_PROTO: "FUNC_PROTO"}  # fmt: skip


class KfuncDesc(NamedTuple):
    """A kernel function that the program calls: its row, and its prototype in the kernel's BTF."""

    row: Kfunc
    returns: int
    params: tuple[Param, ...]

    @property
    def name(self) -> str:
        return self.row.name


class _Meta:
    """What the arguments of one call tell about one another (struct bpf_kfunc_call_arg_meta)."""

    def __init__(self) -> None:
        self.ref = 0
        self.constant: int | None = None
        self.dynptr: Reg | None = None
        self.iterator: iterators.IterArg | None = None
        self.iter_size = 0


# ---- finding --------------------------------------------------------------------------------


def add_kfunc_call(env: Env, insn: Insn) -> None:
    """The conditions on a program that calls kernel functions, and the function's prototype."""
    if not env.kfuncs:
        if not env.kernel.jit:
            raise env.reject(ENOTSUPP, "JIT is required for calling kernel function\n")
        if not env.spec.gpl_compatible:
            raise env.reject(errno.EINVAL, "cannot call kernel function from non-GPL compatible program\n")
    if (not insn.imm and not insn.off) or insn.imm in env.kfuncs:
        return
    if len(env.kfuncs) >= MAX_KFUNC_DESCS:
        raise env.reject(errno.E2BIG, "too many different kernel function calls\n")
    if insn.off < 0:
        env.verbose("negative offset disallowed for kernel module function call\n")
        raise env.reject(errno.EINVAL, "failed to find BTF for kernel function\n")
    if insn.off:
        fds = env.spec.fd_array
        if isinstance(fds, (tuple, list)) and not fds:
            env.verbose("kfunc offset > 0 without fd_array is invalid\n")
            raise env.reject(errno.EPROTO, "failed to find BTF for kernel function\n")
        raise env.not_modelled("kernel functions of modules")
    env.kfuncs[insn.imm] = _describe(env, insn.imm & bd.U32)


def _describe(env: Env, btf_id: int) -> KfuncDesc:
    btf = _btf(env)
    try:
        func = btf.type(btf_id)
    except BtfError:
        func = None
    if func is None or func.kind is not Kind.FUNC:
        raise env.reject(errno.EINVAL, f"kernel btf_id {btf_id} is not a function\n")
    proto = btf.type(func.type)
    row = KFUNCS.get(func.name)
    if row is None:
        raise env.not_modelled(f"kernel function {func.name}", errno.EACCES)
    return KfuncDesc(row, proto.type, proto.params)


def _btf(env: Env) -> Btf:
    return env.kernel.vmlinux()


def desc_of(env: Env, insn: Insn) -> KfuncDesc | None:
    """The function that an instruction calls; None for a call with BTF id 0."""
    return env.kfuncs.get(insn.imm)


def note_in_cfg(env: Env, at: int, insn: Insn) -> None:
    """next() of an iterator is where loops converge, so states are kept there (visit_insn)."""
    desc = desc_of(env, insn)
    if desc is not None and desc.row.flags & KF.ITER_NEXT and desc.row.allows(env.type.name):
        aux = env.aux[at]
        aux.is_iter_next = aux.prune_point = aux.force_checkpoint = True


def num_params(env: Env, insn: Insn) -> int | None:
    """How many arguments a call takes, for live registers."""
    desc = desc_of(env, insn)
    return len(desc.params) if desc is not None and desc.row.allows(env.type.name) else None


# ---- arguments ------------------------------------------------------------------------------


def _strip(btf: Btf, number: int) -> BtfType:
    return btf.resolve(number)


def _is_scalar(found: BtfType) -> bool:
    return found.kind in _SCALARS


def _scalar_struct(btf: Btf, found: BtfType, depth: int = 0) -> bool:
    """A structure of numbers, and of structures and arrays of them."""
    if found.kind is not Kind.STRUCT or depth >= 4:
        return False
    for member in found.members:
        inner = _strip(btf, member.type)
        if inner.kind is Kind.STRUCT:
            if not _scalar_struct(btf, inner, depth + 1):
                return False
            continue
        if inner.kind is Kind.ARRAY:
            inner = _strip(btf, inner.type)
        if not _is_scalar(inner):
            return False
    return True


def _is_context(env: Env, found: BtfType) -> bool:
    names = _CONTEXT_STRUCTS.get(env.type.context.name if env.type.context is not None else "", ())
    return found.kind in (Kind.STRUCT, Kind.FWD) and found.name in names


def _scalar_arg(env: Env, regno: int, reg: Reg, param: Param, meta: _Meta) -> None:
    if reg.type != SCALAR_VALUE:
        raise env.reject(errno.EINVAL, f"R{regno} is not a scalar\n")
    if param.name.endswith("__k"):
        if reg.bounds.mask:
            raise env.reject(errno.EINVAL, f"R{regno} must be a known constant\n")
        mark_chain_precision(env, regno)
        meta.constant = reg.bounds.value


def _dynptr_arg(env: Env, regno: int, reg: Reg, param: Param, desc: KfuncDesc, meta: _Meta) -> None:
    arg = MEM_RDONLY if reg.type == CONST_PTR_TO_DYNPTR else 0
    clone_ref = 0
    if param.name.endswith("__uninit"):
        arg |= MEM_UNINIT
        arg |= _MAKES.get(desc.name, 0)
        if desc.name == _CLONE:
            parent = meta.dynptr
            assert parent is not None
            arg |= FLAG_OF[type_of(parent)]
            clone_ref = parent.ref if type_of(parent) == RINGBUF else 0
    dynptr.process(env, regno, arg, clone_ref)
    if not arg & MEM_UNINIT:
        meta.dynptr = dynptr.described(env, reg)


def _sized_memory(env: Env, regno: int, meta: _Meta, param: Param, size_param: Param, number: int) -> None:
    """A pointer and, in the next argument, how many bytes are behind it."""
    regs = env.frame.regs
    buffer, size = regs[regno], regs[regno + 1]
    optional = param.name.endswith(("__opt", "__nullable"))
    if not (buffer.is_null and optional):
        if buffer.type & PTR_MAYBE_NULL:
            regs[regno] = buffer.with_type(buffer.type & ~PTR_MAYBE_NULL)
        try:
            for write in (False, True):
                check_mem_size(env, size, regno + 1, write, True, CallMeta(0, True))
        except Reject as error:
            if not error.not_modelled:
                env.verbose(
                    f"arg#{number} arg#{number + 1} memory, len pair leads to invalid memory access\n"
                )
            raise
        finally:
            regs[regno] = buffer
    if size_param.name.endswith("__szk"):
        if size.bounds.mask:
            raise env.reject(errno.EINVAL, f"R{regno + 1} must be a known constant\n")
        meta.constant = size.bounds.value


def _memory(env: Env, regno: int, reg: Reg, size: int) -> None:
    if reg.is_null:
        return
    regs = env.frame.regs
    if reg.type & PTR_MAYBE_NULL:
        regs[regno] = reg.with_type(reg.type & ~PTR_MAYBE_NULL)
    try:
        check_helper_mem(env, regno, size, False, True, None)
        check_helper_mem(env, regno, size, True, True, None)
    finally:
        regs[regno] = reg


def _has_size(btf: Btf, params: tuple[Param, ...], number: int, env: Env) -> bool:
    if number + 1 >= len(params):
        return False
    param = params[number + 1]
    scalar = _is_scalar(_strip(btf, param.type)) and env.frame.regs[number + 2].type == SCALAR_VALUE
    return scalar and param.name.endswith(("__sz", "__szk"))


def _pointer_arg(env: Env, number: int, reg: Reg, found: BtfType, desc: KfuncDesc, meta: _Meta) -> int:
    """One pointer argument; how many arguments it took."""
    btf, param, regno = _btf(env), desc.params[number], number + 1
    nullable = param.name.endswith("__nullable")
    if desc.row.flags & KF.TRUSTED_ARGS and not nullable and (reg.is_null or reg.type & PTR_MAYBE_NULL):
        raise env.reject(errno.EACCES, f"Possibly NULL pointer passed to trusted arg{number}\n")
    if reg.ref:
        meta.ref = reg.ref
    target = _strip(btf, found.type)
    sized = _has_size(btf, desc.params, number, env)
    if desc.name == _CAST_TO_CTX or _is_context(env, target):
        check_arg_offset(env, reg, regno)
        if reg.type != PTR_TO_CTX:
            raise env.reject(
                errno.EINVAL, f"arg#{number} expected pointer to ctx, but got {type_str(reg.type)}\n"
            )
    elif reg.is_null and nullable and not sized:
        return 1
    elif target.kind is Kind.STRUCT and target.name == "bpf_dynptr":
        check_arg_offset(env, reg, regno)
        _dynptr_arg(env, regno, reg, param, desc, meta)
    elif desc.row.flags & (KF.ITER_NEW | KF.ITER_NEXT | KF.ITER_DESTROY) and not number:
        check_arg_offset(env, reg, regno)
        new, destroy = bool(desc.row.flags & KF.ITER_NEW), bool(desc.row.flags & KF.ITER_DESTROY)
        meta.iterator = iterators.process(env, regno, target.id, target.size, new=new, destroy=destroy)
        if not new:
            meta.ref = meta.iterator.ref
    elif param.name.endswith("__irq_flag"):
        check_arg_offset(env, reg, regno)
        if reg.type != PTR_TO_STACK:
            raise env.reject(errno.EINVAL, f"arg#{number} doesn't point to an irq flag on stack\n")
        regions.process_irq_flag(env, regno, desc.name == regions.IRQ_SAVE)
    elif reg.type & BASE_MASK == PTR_TO_BTF_ID or reg.type & BASE_MASK in SOCK_POINTERS:
        raise env.not_modelled(f"argument #{number} of type {type_str(reg.type)} to {desc.name}")
    else:
        return _plain_memory(env, number, reg, target, desc, meta, sized)
    return 1


def _plain_memory(
    env: Env, number: int, reg: Reg, target: BtfType, desc: KfuncDesc, meta: _Meta, sized: bool
) -> int:
    btf, regno = _btf(env), number + 1
    void = sized and target.kind is Kind.VOID
    if not (_is_scalar(target) or _scalar_struct(btf, target) or void):
        words, any_ = _KIND_WORDS.get(target.kind, "UNKNOWN"), "void, " if sized else ""
        raise env.reject(
            errno.EINVAL,
            f"arg#{number} pointer type {words} {target.name} must point to {any_}scalar, "
            "or struct with scalar\n",
        )
    check_arg_offset(env, reg, regno)
    if sized:
        _sized_memory(env, regno, meta, desc.params[number], desc.params[number + 1], number)
        return 2
    _memory(env, regno, reg, btf.size_of(target.id))
    return 1


def _check_args(env: Env, desc: KfuncDesc, meta: _Meta) -> None:
    btf = _btf(env)
    number = 0
    while number < len(desc.params):
        param, reg = desc.params[number], env.frame.regs[number + 1]
        found = _strip(btf, param.type)
        if param.name.endswith("__ign"):
            number += 1
        elif _is_scalar(found):
            _scalar_arg(env, number + 1, reg, param, meta)
            number += 1
        else:
            number += _pointer_arg(env, number, reg, found, desc, meta)


# ---- the whole call -------------------------------------------------------------------------


def _slice(env: Env, desc: KfuncDesc, meta: _Meta) -> Reg:
    found = meta.dynptr
    assert found is not None and meta.constant is not None
    kind = PTR_TO_MEM | FLAG_OF[type_of(found)]
    if desc.name == _SLICE:
        kind |= MEM_RDONLY
    elif not may_access_packet(env, True, None):
        raise env.reject(errno.EINVAL, "the prog does not allow writes to packet data\n")
    return pointer(kind, extra=slice_extra(meta.constant & bd.U32, found.id))


def _cast(env: Env, meta: _Meta) -> Reg:
    if meta.constant:
        raise env.not_modelled("bpf_rdonly_cast() to a structure")
    return pointer(PTR_TO_MEM | MEM_RDONLY | PTR_UNTRUSTED)


def _returned(env: Env, desc: KfuncDesc, meta: _Meta) -> Reg:
    btf = _btf(env)
    found = _strip(btf, desc.returns)
    if found.kind is Kind.VOID:
        return NOT_INIT_REG
    if found.kind is not Kind.PTR:
        return UNKNOWN_REG
    if desc.name in (_SLICE, _SLICE_RDWR):
        result = _slice(env, desc, meta)
    elif desc.name == _RDONLY_CAST:
        result = _cast(env, meta)
    elif desc.name == _CAST_TO_CTX:
        raise env.not_modelled("bpf_cast_to_kern_ctx(): the kernel's own context structures")
    else:
        target = _strip(btf, found.type)
        if not _is_scalar(target):
            raise env.not_modelled(f"what {desc.name} returns")
        result = pointer(PTR_TO_MEM | MEM_RDONLY, extra=target.size)
        result = Reg(result.type, result.bounds, 0, 0, None, result.extra, 0, meta.ref)
    if desc.row.flags & KF.RET_NULL:
        result = result.with_type(result.type | PTR_MAYBE_NULL).with_id(env.new_id())
    return result


def check_kfunc_call(env: Env, insn: Insn) -> None:
    """A call of a kernel function: every argument, the regions, R0. Calls with BTF id 0 fail at the end."""
    if not insn.imm:
        return
    desc = desc_of(env, insn)
    if desc is None:
        env.bug("kfunc is not known")
        raise Reject(errno.EFAULT)
    if not desc.row.allows(env.type.name):
        raise env.reject(errno.EACCES, f"calling kernel function {desc.name} is not allowed\n")
    sleepable = bool(desc.row.flags & KF.SLEEPABLE)
    if sleepable and not env.sleepable:
        raise env.reject(errno.EACCES, f"program must be sleepable to call sleepable kfunc {desc.name}\n")
    meta = _Meta()
    _check_args(env, desc, meta)
    regions.note_call(env, desc.name, sleepable)
    regs = env.frame.regs
    for i in range(6):
        regs[i] = NOT_INIT_REG
    scratch_caller_saved(env)
    regs[0] = _returned(env, desc, meta)
    if desc.row.flags & KF.ITER_NEXT:
        assert meta.iterator is not None
        iterators.after_next(env, meta.iterator)


def fix_up(env: Env, insn: Insn) -> list[Insn]:
    """The call by the function's address, or what replaces it (fixup_kfunc_call)."""
    desc = desc_of(env, insn)
    if desc is None:
        raise env.reject(errno.EINVAL, "invalid kernel function call not eliminated in verifier pass\n")
    if desc.name in CASTS:
        return [BPF_MOV64_REG(0, 1)]
    symbol = desc.name
    if symbol == _FROM_SKB and env.type.packet != "rw":
        symbol = "bpf_dynptr_from_skb_rdonly"
    try:
        imm = env.kernel.symbol(symbol) - env.kernel.symbol("__bpf_call_base")
    except KeyError:
        raise env.not_modelled(f"kernel function {symbol}") from None
    return [insn._replace(imm=imm)]
