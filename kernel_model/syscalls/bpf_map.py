# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) commands on maps."""

from __future__ import annotations

import errno

from ..bpf.btf_object import BtfObject
from ..bpf.map_btf import map_check_btf
from ..bpf.map_object import FMODE_READ, FMODE_WRITE, MapObject
from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..maps import types as map_types
from ..maps.array import FdArrayMap, PerfEventArrayMap, ProgArrayMap
from ..maps.attr import RDONLY, WRONLY, Creator, MapAttr
from ..maps.bloom_filter import BloomFilter
from ..maps.map_in_map import ArrayOfMaps, HashOfMaps
from ..perf.event import PerfEvent
from .bpf import Call, command
from .table import as_int


def file_access(flags: int) -> int:
    """File mode bits from BPF_F_RDONLY and BPF_F_WRONLY (bpf_get_file_flag); neither: both bits.

    KernelError(EINVAL) when both are given.
    """
    if flags & RDONLY and flags & WRONLY:
        raise KernelError(errno.EINVAL, "BPF_F_RDONLY with BPF_F_WRONLY")
    return (0 if flags & WRONLY else FMODE_READ) | (0 if flags & RDONLY else FMODE_WRITE)


def map_for(call: Call, mode: int) -> MapObject:
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
            map_check_btf(impl, btf.parsed(), attr["btf_key_type_id"], attr["btf_value_type_id"])
        except KernelError:
            impl.free(kernel)
            raise
        btf.get()
        impl.set_btf(kernel, attr["btf_key_type_id"], attr["btf_value_type_id"])
    return call.install(MapObject(kernel, impl, btf), file_access(attr["map_flags"]))


def _key(call: Call, held: MapObject) -> bytes:
    """The key from user memory; KernelError(EINVAL) for a key to a map without keys (queue, stack)."""
    if held.key_size:
        return call.read(call.attr["key"], held.key_size)
    if call.attr["key"]:
        raise KernelError(errno.EINVAL, "this map type has no keys, so the key must be NULL")
    return b""


@command("MAP_LOOKUP_ELEM")
def map_lookup_elem(call: Call) -> int:
    """BPF_MAP_LOOKUP_ELEM: the value is copied to attr.value; ENOENT when there is none."""
    held = map_for(call, FMODE_READ)
    if isinstance(held.impl, BloomFilter):
        _key(call, held)
        held.impl.peek(call.kernel, call.read(call.attr["value"], held.value_size), call.attr["flags"])
        return 0
    value = held.impl.lookup(call.kernel, _key(call, held), call.attr["flags"])
    if value is None:
        raise KernelError(errno.ENOENT, "no such key")
    call.write(call.attr["value"], value)
    return 0


@command("MAP_UPDATE_ELEM")
def map_update_elem(call: Call) -> int:
    """BPF_MAP_UPDATE_ELEM."""
    held = map_for(call, FMODE_WRITE)
    key = _key(call, held)
    value = call.read(call.attr["value"], held.impl.syscall_value_size)
    update_value(call, held, key, value, call.attr["flags"])
    return 0


def update_value(call: Call, held: MapObject, key: bytes, value: bytes, flags: int) -> None:
    """bpf_map_update_value(): one element, whichever kind of map; descriptors in it are looked up."""
    impl = held.impl
    if isinstance(impl, ProgArrayMap):
        impl.check_update_ptr(key, flags)
        prog = _prog_for(call, held, value)
        impl.update_ptr(call.kernel, key, prog.addr)
        held.refer(call.kernel, key, prog)
    elif isinstance(impl, ArrayOfMaps):
        impl.check_update_ptr(key, flags)
        inner = _inner_for(call, impl, value)
        impl.update_ptr(call.kernel, key, inner.addr)
        held.refer(call.kernel, key, inner)
    elif isinstance(impl, HashOfMaps):
        inner = _inner_for(call, impl, value)
        impl.update_ptr(call.kernel, key, inner.addr, flags)
        held.refer(call.kernel, key, inner)
    elif isinstance(impl, PerfEventArrayMap):
        impl.check_update_ptr(key, flags)
        event = _perf_event_for(call, value)
        impl.update_ptr(call.kernel, key, event.addr)
        held.refer(call.kernel, key, event)
        held.by_file[key] = call.task.files.find(as_int(call.attr["map_fd"]))
    elif isinstance(impl, FdArrayMap):
        raise NotModelled(f"elements of map type {held.map_type}", errno.EOPNOTSUPP)
    else:
        impl.update(call.kernel, key, value, flags)


def _prog_for(call: Call, held: MapObject, value: bytes) -> BpfProg:
    """The program behind the descriptor in ``value``; EINVAL when the array is another kind's."""
    prog = call.object(int.from_bytes(value, "little"), BpfProg)
    held.check_owner(prog)
    return prog


def _perf_event_for(call: Call, value: bytes) -> PerfEvent:
    """The perf event behind the descriptor in ``value``; KernelError(EBADF) for another kind of file."""
    event = call.task.files.find(as_int(int.from_bytes(value, "little"))).obj
    if not isinstance(event, PerfEvent):
        raise KernelError(errno.EBADF, f"a {event.kind} is no perf event")
    return event


def _inner_for(call: Call, impl: ArrayOfMaps | HashOfMaps, value: bytes) -> MapObject:
    """The map behind the descriptor in ``value``; EINVAL when it is unlike the first inner map."""
    inner = call.object(int.from_bytes(value, "little"), MapObject)
    if impl.inner_map_meta is None or not impl.inner_map_meta.equals(inner.impl):
        raise KernelError(errno.EINVAL, "the map is unlike the inner map that the outer one was made with")
    return inner


@command("MAP_DELETE_ELEM")
def map_delete_elem(call: Call) -> int:
    """BPF_MAP_DELETE_ELEM."""
    held = map_for(call, FMODE_WRITE)
    delete_value(call, held, _key(call, held))
    return 0


def delete_value(call: Call, held: MapObject, key: bytes) -> None:
    """One element goes, and the reference that it was."""
    held.impl.delete(call.kernel, key)
    held.refer(call.kernel, key, None)


@command("MAP_LOOKUP_AND_DELETE_ELEM")
def map_lookup_and_delete_elem(call: Call) -> int:
    """BPF_MAP_LOOKUP_AND_DELETE_ELEM."""
    held = map_for(call, FMODE_READ | FMODE_WRITE)
    value = held.impl.lookup_and_delete(call.kernel, _key(call, held), call.attr["flags"])
    call.write(call.attr["value"], value)
    return 0


@command("MAP_GET_NEXT_KEY")
def map_get_next_key(call: Call) -> int:
    """BPF_MAP_GET_NEXT_KEY: a NULL key asks for the first."""
    held = map_for(call, FMODE_READ)
    key = call.read(call.attr["key"], held.key_size) if call.attr["key"] else None
    call.write(call.attr["next_key"], held.impl.get_next_key(call.kernel, key))
    return 0


@command("MAP_FREEZE")
def map_freeze(call: Call) -> int:
    """BPF_MAP_FREEZE: system calls can no longer write."""
    map_for(call, FMODE_WRITE).freeze(call.kernel)
    return 0
