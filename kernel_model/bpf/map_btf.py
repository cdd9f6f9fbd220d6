# SPDX-License-Identifier: GPL-2.0-only
"""What BTF may say of a map's key and value (map_check_btf() and the map types' own checks)."""

from __future__ import annotations

import errno

from ..btf.parse import Btf, BtfError, BtfType, Kind
from ..errors import KernelError, NotModelled
from ..maps.base import ENOTSUPP, BpfMap
from ..uapi.enums import bpf_map_type

_ARRAYS = (bpf_map_type.BPF_MAP_TYPE_ARRAY, bpf_map_type.BPF_MAP_TYPE_PERCPU_ARRAY)
_SPECIAL = (
    *("bpf_spin_lock", "bpf_res_spin_lock", "bpf_timer", "bpf_wq", "bpf_task_work", "bpf_refcount"),
    *("bpf_list_head", "bpf_list_node", "bpf_rb_root", "bpf_rb_node"),
)
_KPTR_TAGS = ("kptr_untrusted", "kptr", "percpu_kptr", "uptr")


def map_check_btf(held: BpfMap, btf: Btf, key_id: int, value_id: int) -> None:
    """KernelError(EINVAL) when the types do not fit the map's key and value sizes.

    Values with fields that the kernel itself looks after (locks, timers, kernel pointers ...) are
    NotModelled.
    """
    key = btf.type(0)
    if held.NO_BTF:
        raise KernelError(ENOTSUPP, "maps of this type have no BTF")
    if key_id:
        key = _sized(btf, key_id, held.key_size, "key")
    elif held.map_type not in (*_ARRAYS, bpf_map_type.BPF_MAP_TYPE_BLOOM_FILTER):
        raise KernelError(errno.EINVAL, "this map type needs a key type")
    if held.map_type == bpf_map_type.BPF_MAP_TYPE_LPM_TRIE and key.kind != Kind.STRUCT:
        raise KernelError(errno.EINVAL, "a trie's key type is a struct")
    value = _sized(btf, value_id, held.value_size, "value")
    _refuse_special(btf, value, 0)
    if held.map_type in _ARRAYS:
        _check_array(held, key, value)


def _sized(btf: Btf, type_id: int, size: int, what: str) -> BtfType:
    """btf_type_id_size(): the type behind typedefs and qualifiers, when it is as large as the map wants."""
    try:
        found, actual = btf.resolve(type_id), btf.size_of(type_id)
    except BtfError as error:
        raise KernelError(errno.EINVAL, f"{what} type {type_id}: {error.reason}") from None
    if actual != size:
        raise KernelError(errno.EINVAL, f"the {what} type has {actual} bytes, the map's {what} {size}")
    return found


def _check_array(held: BpfMap, key: BtfType, value: BtfType) -> None:
    """array_map_check_btf(): an int of 32 bits as key, or no key type for the one value of a section."""
    if key.kind == Kind.VOID:
        single = held.map_type == bpf_map_type.BPF_MAP_TYPE_ARRAY and held.max_entries == 1
        if not single or value.kind != Kind.DATASEC:
            raise KernelError(errno.EINVAL, "only the map of a data section has no key type")
    elif key.kind != Kind.INT or key.size != 4 or key.bits != 32 or key.bit_offset:
        raise KernelError(errno.EINVAL, "an array's key type is a 32-bit int")


def _refuse_special(btf: Btf, found: BtfType, depth: int) -> None:
    """Look for fields with kernel semantics in a value (btf_parse_fields())."""
    if depth > 16:
        return
    if found.kind == Kind.STRUCT and found.name in _SPECIAL:
        raise NotModelled(f"map values with struct {found.name}", errno.EOPNOTSUPP)
    inner = [member.type for member in found.members] + [each.type for each in found.vars]
    if found.kind in (Kind.ARRAY, Kind.VAR):
        inner.append(found.type)
    for number in inner:
        _refuse_kptr(btf, number)
        try:
            _refuse_special(btf, btf.resolve(number), depth + 1)
        except BtfError:
            continue


def _refuse_kptr(btf: Btf, number: int) -> None:
    pointer = btf.type(number)
    if pointer.kind != Kind.PTR:
        return
    tag = btf.type(pointer.type)
    if tag.kind == Kind.TYPE_TAG and tag.name in _KPTR_TAGS:
        raise NotModelled(f"map values with pointers tagged {tag.name}", errno.EOPNOTSUPP)
