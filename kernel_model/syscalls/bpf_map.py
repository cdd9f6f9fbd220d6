# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) commands on maps."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bpf.btf_object import BtfObject
from ..bpf.map_object import MapObject
from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..maps import types as map_types
from ..maps.array import FdArrayMap, ProgArrayMap
from ..maps.attr import RDONLY, WRONLY, Creator, MapAttr
from .bpf import Call, command
from .table import as_int

if TYPE_CHECKING:
    from ..kernel import Kernel

FMODE_READ, FMODE_WRITE = 1, 2
MAP_MEMORY_LIMIT = 1 << 30
"""Bytes of kernel memory that all maps together may take before ENOMEM."""


def _access(flags: int) -> int:
    """File mode bits from BPF_F_RDONLY and BPF_F_WRONLY (bpf_get_file_flag); 0 flags: both."""
    return (0 if flags & WRONLY else FMODE_READ) | (0 if flags & RDONLY else FMODE_WRITE)


def _map(call: Call, mode: int) -> MapObject:
    """The map behind attr.map_fd; KernelError(EPERM) when the descriptor may not be used that way."""
    number = as_int(call.attr["map_fd"])
    held = call.object(number, MapObject)
    allowed = call.task.files.find(number).flags or (FMODE_READ | FMODE_WRITE)
    if mode & ~allowed or (mode & FMODE_WRITE and held.frozen):
        raise KernelError(errno.EPERM, f"map {held.name or held.id} may not be used that way")
    return held


@command("MAP_CREATE")
def map_create(call: Call) -> int:
    """BPF_MAP_CREATE: a descriptor for a new map."""
    attr, kernel = call.attr, call.kernel
    inner = None
    if attr["inner_map_fd"]:
        inner = call.object(attr["inner_map_fd"], MapObject).impl
    creator = Creator(call.task.caps, kernel.sysctl["kernel/unprivileged_bpf_disabled"])
    impl = map_types.create(kernel, MapAttr.from_values(attr, inner), creator)
    btf = None
    if attr["btf_key_type_id"] or attr["btf_value_type_id"]:
        try:
            btf = call.object(attr["btf_fd"], BtfObject)
        except KernelError:
            impl.free(kernel)
            raise
        btf.get()
        impl.set_btf(kernel, attr["btf_key_type_id"], attr["btf_value_type_id"])
    return call.install(MapObject(kernel, impl, btf), _access(attr["map_flags"]))


@command("MAP_LOOKUP_ELEM")
def map_lookup_elem(call: Call) -> int:
    """BPF_MAP_LOOKUP_ELEM: the value is copied to attr.value; ENOENT when there is none."""
    held = _map(call, FMODE_READ)
    key = call.read(call.attr["key"], held.key_size) if held.key_size else b""
    value = held.impl.lookup(call.kernel, key, call.attr["flags"])
    if value is None:
        raise KernelError(errno.ENOENT, "no such key")
    call.write(call.attr["value"], value)
    return 0


@command("MAP_UPDATE_ELEM")
def map_update_elem(call: Call) -> int:
    """BPF_MAP_UPDATE_ELEM."""
    held = _map(call, FMODE_WRITE)
    key = call.read(call.attr["key"], held.key_size) if held.key_size else b""
    value = call.read(call.attr["value"], held.impl.syscall_value_size)
    if isinstance(held.impl, ProgArrayMap):
        _update_prog_array(call, held, held.impl, key, as_int(int.from_bytes(value, "little")))
    elif isinstance(held.impl, FdArrayMap):
        raise NotModelled(f"elements of map type {held.map_type}", errno.EOPNOTSUPP)
    else:
        held.impl.update(call.kernel, key, value, call.attr["flags"])
    return 0


def _update_prog_array(call: Call, held: MapObject, impl: ProgArrayMap, key: bytes, fd: int) -> None:
    impl.check_update_ptr(key, call.attr["flags"])
    prog = call.object(fd, BpfProg)
    owner = (prog.type, prog.image is not None)
    if held.owner is None:
        held.owner = owner
    elif held.owner != owner:
        raise KernelError(errno.EINVAL, "the program does not suit those that share this program array")
    prog.get()
    impl.update_ptr(call.kernel, key, prog.addr)
    _replace(call.kernel, held, key, prog)


def _replace(kernel: Kernel, held: MapObject, key: bytes, prog: BpfProg | None) -> None:
    """Note a slot's new program, patch direct tail calls through it, drop the old one."""
    index = int.from_bytes(key, "little")
    old = held.entries.pop(index, None)
    if prog is not None:
        held.entries[index] = prog
    for user in held.poke_progs:
        user.poke(kernel, held.addr, index, prog)
    if old is not None:
        old.put(kernel)


@command("MAP_DELETE_ELEM")
def map_delete_elem(call: Call) -> int:
    """BPF_MAP_DELETE_ELEM."""
    held = _map(call, FMODE_WRITE)
    key = call.read(call.attr["key"], held.key_size) if held.key_size else b""
    held.impl.delete(call.kernel, key)
    if isinstance(held.impl, ProgArrayMap):
        _replace(call.kernel, held, key, None)
    return 0


@command("MAP_LOOKUP_AND_DELETE_ELEM")
def map_lookup_and_delete_elem(call: Call) -> int:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM."""
    held = _map(call, FMODE_READ | FMODE_WRITE)
    key = call.read(call.attr["key"], held.key_size) if held.key_size else b""
    value = held.impl.lookup_and_delete(call.kernel, key, call.attr["flags"])
    call.write(call.attr["value"], value)
    return 0


@command("MAP_GET_NEXT_KEY")
def map_get_next_key(call: Call) -> int:
    """BPF_MAP_GET_NEXT_KEY: a NULL key asks for the first."""
    held = _map(call, FMODE_READ)
    key = call.read(call.attr["key"], held.key_size) if call.attr["key"] else None
    call.write(call.attr["next_key"], held.impl.get_next_key(call.kernel, key))
    return 0


@command("MAP_FREEZE")
def map_freeze(call: Call) -> int:
    """BPF_MAP_FREEZE: system calls can no longer write."""
    held = call.object(call.attr["map_fd"], MapObject)
    held.impl.freeze(call.kernel)
    return 0
