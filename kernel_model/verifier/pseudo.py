# SPDX-License-Identifier: GPL-2.0-only
"""Constants that stand for something else: map descriptors, map values, functions."""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.errors import KernelError, MemoryFault
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.table import known_opcode
from kernel_model.uapi.enums import bpf_map_type

from .api import MapView
from .btf_args import variable
from .env import Env, Reject
from .maprules import SLEEPABLE_MAPS
from .regs import BPF_MAX_VAR_OFF, PTR_TO_FUNC

MAX_USED_MAPS: Final = 64
_VALUES: Final = (op.BPF_PSEUDO_MAP_VALUE, op.BPF_PSEUDO_MAP_IDX_VALUE)
_MAPS: Final = (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_IDX)
_BY_INDEX: Final = (op.BPF_PSEUDO_MAP_IDX, op.BPF_PSEUDO_MAP_IDX_VALUE)


def _check_map(env: Env, the_map: MapView) -> None:
    kind = the_map.map_type
    if kind == bpf_map_type.BPF_MAP_TYPE_STRUCT_OPS:
        raise env.reject(errno.EINVAL, "bpf_struct_ops map cannot be used in prog\n")
    if env.sleepable and kind not in SLEEPABLE_MAPS:
        raise env.reject(
            errno.EINVAL,
            "Sleepable programs can only use array, hash, ringbuf and local storage maps\n",
        )
    if kind == bpf_map_type.BPF_MAP_TYPE_ARENA:
        _check_arena(env)


def _check_arena(env: Env) -> None:
    """Arenas are reached by instructions that only a JIT has."""
    if not (env.allow_ptr_leaks and env.bpf_capable):
        raise env.reject(errno.EPERM, "CAP_BPF and CAP_PERFMON are required to use arena\n")
    if not env.kernel.jit:
        raise env.reject(errno.EOPNOTSUPP, "JIT is required to use arena\n")
    raise env.not_modelled("arenas")


def add_used_map(env: Env, the_map: MapView) -> int:
    """The map's number among those that the program uses."""
    for number, known in enumerate(env.used_maps):
        if known.addr == the_map.addr:
            return number
    if len(env.used_maps) >= MAX_USED_MAPS:
        raise env.reject(
            errno.E2BIG, f"The total number of maps per program has reached the limit of {MAX_USED_MAPS}\n"
        )
    _check_map(env, the_map)
    env.used_maps.append(the_map)
    return len(env.used_maps) - 1


def _map_by_fd(env: Env, fd: int, what: str = "bpf_map") -> MapView:
    try:
        return env.spec.map_by_fd(fd)
    except KernelError as error:
        raise env.reject(error.errno, f"fd {fd} is not pointing to valid {what}\n") from None


def _fd_by_index(env: Env, index: int) -> int:
    """The descriptor at a place of fd_array, which may still be unread user memory."""
    fds = env.spec.fd_array
    if isinstance(fds, (tuple, list)):
        if not fds:
            raise env.reject(errno.EPROTO, "fd_idx without fd_array is invalid\n")
        if not 0 <= index < len(fds):
            raise Reject(errno.EFAULT)
    try:
        return fds[index]
    except KernelError as error:
        raise env.reject(error.errno, "fd_idx without fd_array is invalid\n") from None
    except MemoryFault:
        raise Reject(errno.EFAULT) from None


def add_fd_array(env: Env) -> None:
    """The program holds every map of a counted fd_array, used or not (since 6.14)."""
    count = len(env.spec.fd_array)
    if count >= 0xFFFFFFFF // 4:
        raise env.reject(errno.EINVAL, f"fd_array_cnt is too big ({count})\n")
    for index in range(count):
        fd = _fd_by_index(env, index)
        if env.spec.is_btf_fd(fd):
            continue
        add_used_map(env, _map_by_fd(env, fd, "bpf_map or btf"))


def _resolve(env: Env, i: int) -> None:
    first, second = env.insns[i], env.insns[i + 1]
    aux = env.aux[i]
    if first.src == op.BPF_PSEUDO_BTF_ID:
        if second.imm:
            raise env.not_modelled("variables of modules")
        addr, aux.constant = variable(env, first.imm)
        env.insns[i] = first._replace(imm=_s32(addr))
        env.insns[i + 1] = second._replace(imm=_s32(addr >> 32))
        return
    if first.src == op.BPF_PSEUDO_FUNC:
        aux.ptr_type = PTR_TO_FUNC
        return
    if first.src not in _VALUES and (first.src not in _MAPS or second.imm):
        raise env.reject(errno.EINVAL, "unrecognized bpf_ld_imm64 insn\n")
    fd = first.imm
    if first.src in _BY_INDEX:
        fd = _fd_by_index(env, fd)
    number = add_used_map(env, _map_by_fd(env, fd))
    the_map = env.used_maps[number]
    aux.map_index = number
    addr = the_map.addr
    if first.src in _VALUES:
        off = second.imm & 0xFFFFFFFF
        if off >= BPF_MAX_VAR_OFF:
            raise env.reject(errno.EINVAL, f"direct value offset of {off} is not allowed\n")
        if the_map.map_type != bpf_map_type.BPF_MAP_TYPE_ARRAY:
            raise env.reject(errno.EINVAL, "no direct value access support for this map type\n")
        try:
            addr = the_map.value_addr(off)
        except KernelError as error:
            raise env.reject(
                error.errno,
                f"invalid access to map value pointer, value_size={the_map.value_size} off={off}\n",
            ) from None
        aux.map_off = off
    env.insns[i] = first._replace(imm=_s32(addr))
    env.insns[i + 1] = second._replace(imm=_s32(addr >> 32))


def _s32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def resolve(env: Env) -> None:
    """Put addresses where descriptors were, and refuse opcodes that are none."""
    insns = env.insns
    count = len(insns)
    i = 0
    while i < count:
        insn = insns[i]
        code = insn.code
        if code & 7 == op.BPF_LDX and (code & 0xE0 not in (op.BPF_MEM, op.BPF_MEMSX) or insn.imm):
            raise env.reject(errno.EINVAL, "BPF_LDX uses reserved fields\n")
        if code == op.LD_IMM64:
            if i == count - 1 or insns[i + 1][:4] != (0, 0, 0, 0):
                raise env.reject(errno.EINVAL, "invalid bpf_ld_imm64 insn\n")
            if insn.src:
                _resolve(env, i)
            i += 2
            continue
        if not known_opcode(code):
            raise env.reject(errno.EINVAL, f"unknown opcode {code:02x}\n")
        i += 1


def clear_sources(insns: list[Insn]) -> list[Insn]:
    """What the engines see of constants: only function addresses keep their mark."""
    return [
        insn._replace(src=0) if insn.code == op.LD_IMM64 and insn.src != op.BPF_PSEUDO_FUNC else insn
        for insn in insns
    ]
