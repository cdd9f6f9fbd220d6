# SPDX-License-Identifier: GPL-2.0-only
"""The map types of Linux 6.18, one row each (include/linux/bpf_types.h), and how a map is created.

A row without a class is not modelled: creating such a map raises NotModelled by the type's name, with
the errno of a kernel that was built without it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from ..errors import KernelError, NotModelled
from ..ports import Services
from ..uapi.enums import bpf_map_type
from .array import ArrayMap, CgroupArrayMap, PercpuArrayMap, PerfEventArrayMap, ProgArrayMap
from .attr import CAP_BPF, CAP_NET_ADMIN, ROOT, TOKEN_FD, Creator, MapAttr, check_common, check_name, einval
from .base import BpfMap
from .bloom_filter import BloomFilter
from .devmap import DevMap, DevMapHash
from .hash import HtabMap, PercpuHtabMap
from .lpm_trie import LpmTrie
from .lru_hash import LruHtabMap, LruPercpuHtabMap
from .map_in_map import ArrayOfMaps, HashOfMaps
from .queue_stack import QueueMap, StackMap
from .ringbuf import RingbufMap


@dataclass(frozen=True)
class MapType:
    """A row: ``name`` as libbpf and bpftool spell it, the kernel version that brought it, the capability
    that creating one needs (0: none beyond kernel.unprivileged_bpf_disabled), and the class or None."""

    number: int
    name: str
    since: str
    capability: int = 0
    cls: type[BpfMap] | None = None


def _row(number: bpf_map_type, since: str, cls: type[BpfMap] | None = None, capability: int = 0) -> MapType:
    name = number.name.removeprefix("BPF_MAP_TYPE_").removesuffix("_DEPRECATED").lower()
    return MapType(int(number), name, since, capability, cls)


_T = bpf_map_type

MAP_TYPES: Final[dict[int, MapType]] = {
    row.number: row
    for row in (
        _row(_T.BPF_MAP_TYPE_HASH, "3.19", HtabMap),
        _row(_T.BPF_MAP_TYPE_ARRAY, "3.19", ArrayMap),
        _row(_T.BPF_MAP_TYPE_PROG_ARRAY, "4.2", ProgArrayMap),
        _row(_T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, "4.3", PerfEventArrayMap),
        _row(_T.BPF_MAP_TYPE_PERCPU_HASH, "4.6", PercpuHtabMap),
        _row(_T.BPF_MAP_TYPE_PERCPU_ARRAY, "4.6", PercpuArrayMap),
        _row(_T.BPF_MAP_TYPE_STACK_TRACE, "4.6", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_CGROUP_ARRAY, "4.8", CgroupArrayMap),
        _row(_T.BPF_MAP_TYPE_LRU_HASH, "4.10", LruHtabMap, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_LRU_PERCPU_HASH, "4.10", LruPercpuHtabMap, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_LPM_TRIE, "4.11", LpmTrie, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_ARRAY_OF_MAPS, "4.12", ArrayOfMaps),
        _row(_T.BPF_MAP_TYPE_HASH_OF_MAPS, "4.12", HashOfMaps),
        _row(_T.BPF_MAP_TYPE_DEVMAP, "4.14", DevMap, CAP_NET_ADMIN),
        _row(_T.BPF_MAP_TYPE_SOCKMAP, "4.14", None, CAP_NET_ADMIN),
        _row(_T.BPF_MAP_TYPE_CPUMAP, "4.15", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_XSKMAP, "4.18", None, CAP_NET_ADMIN),
        _row(_T.BPF_MAP_TYPE_SOCKHASH, "4.18", None, CAP_NET_ADMIN),
        _row(_T.BPF_MAP_TYPE_CGROUP_STORAGE, "4.19"),
        _row(_T.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, "4.19", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, "4.20"),
        _row(_T.BPF_MAP_TYPE_QUEUE, "4.20", QueueMap, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_STACK, "4.20", StackMap, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_SK_STORAGE, "5.2", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_DEVMAP_HASH, "5.4", DevMapHash, CAP_NET_ADMIN),
        _row(_T.BPF_MAP_TYPE_STRUCT_OPS, "5.6", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_RINGBUF, "5.8", RingbufMap),
        _row(_T.BPF_MAP_TYPE_INODE_STORAGE, "5.10", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_TASK_STORAGE, "5.11", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_BLOOM_FILTER, "5.16", BloomFilter, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_USER_RINGBUF, "6.1"),
        _row(_T.BPF_MAP_TYPE_CGRP_STORAGE, "6.2", None, CAP_BPF),
        _row(_T.BPF_MAP_TYPE_ARENA, "6.9", None, CAP_BPF),
    )
}


def create(services: Services, attr: MapAttr, creator: Creator = ROOT) -> BpfMap:
    """map_create() from the common checks to the filled struct bpf_map, in Linux's order of errors.

    The id and the BTF ids are set by the caller (set_id(), set_btf()). Raises KernelError, and
    NotModelled(EINVAL) for a type or feature that this simulator lacks.
    """
    check_common(attr)
    row = MAP_TYPES.get(attr.map_type)
    if row is None:
        raise einval(f"there is no map type {attr.map_type}")
    if attr.map_flags & TOKEN_FD:
        raise NotModelled("BPF token", errno.EINVAL)
    if row.cls is None:
        raise NotModelled(f"map type {row.name}", errno.EINVAL)
    row.cls.alloc_check(services, attr, creator)
    if attr.map_ifindex:
        raise NotModelled("map offloaded to a device", errno.EINVAL)
    if creator.unprivileged_bpf_disabled and not creator.bpf_capable(CAP_BPF):
        raise KernelError(errno.EPERM, "unprivileged bpf is disabled")
    if row.capability and not creator.bpf_capable(row.capability):
        raise KernelError(errno.EPERM, f"map type {row.name} needs a capability")
    name = _name_or_none(attr)
    made = row.cls.create(services, attr, creator, name or b"")
    if name is None:
        # Linux looks at the name after the allocation, so ENOMEM comes before this EINVAL.
        made.free(services)
        check_name(attr.map_name)
    return made


def _name_or_none(attr: MapAttr) -> bytes | None:
    try:
        return check_name(attr.map_name)
    except KernelError:
        return None
