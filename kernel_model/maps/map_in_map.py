# SPDX-License-Identifier: GPL-2.0-only
"""Arrays and hash maps whose values are maps (kernel/bpf/map_in_map.c).

An element holds the address of a struct bpf_map; a program's lookup gives that address. User space
writes a map's fd and reads a map's id. The system call resolves the fd, checks the map with
``inner_map_meta.equals()`` (EINVAL when it differs), takes a reference and calls ``update_ptr``; what
comes back, and what ``lookup_ptr`` said before a deletion, is for the caller to put.
"""

from __future__ import annotations

from ..ports import Services
from .array import FdArrayMap
from .attr import Creator, MapAttr, einval
from .base import BPF_EXIST, InnerMapMeta
from .hash import HtabBase
from .jhash import jhash


def _id_of(services: Services, ptr: int) -> bytes | None:
    """bpf_map_fd_sys_lookup_elem(): the id of the map at ``ptr``, 4 bytes."""
    return services.memory.read(ptr + services.layout["bpf_map"].offset("id"), 4) if ptr else None


class ArrayOfMaps(FdArrayMap):
    """BPF_MAP_TYPE_ARRAY_OF_MAPS."""

    OPS = "array_of_maps_map_ops"
    META_EQUAL = False
    BATCH = frozenset(("lookup", "update"))

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self.inner_map_meta = InnerMapMeta(attr.inner)
        super().alloc(services, attr)

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """array_of_map_lookup_elem(): the inner map's address."""
        return self.lookup_ptr(services, key)

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """The inner map's id, 4 bytes."""
        self._check_lookup_flags(flags)
        return _id_of(services, self.lookup_ptr(services, key))


class HashOfMaps(HtabBase):
    """BPF_MAP_TYPE_HASH_OF_MAPS: updates replace the pointer in place."""

    OPS = "htab_of_maps_map_ops"
    META_EQUAL = False
    _BATCH_BY_KEY = True

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """fd_htab_map_alloc_check(): values are file descriptors of 4 bytes."""
        if attr.value_size != 4:
            raise einval("values of this map type are file descriptors of 4 bytes")
        super().alloc_check(services, attr, creator)

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self.inner_map_meta = InnerMapMeta(attr.inner)
        super().alloc(services, attr)

    def lookup_ptr(self, services: Services, key: bytes) -> int:
        """The inner map's address, 0 for none."""
        elem = self.find(services, key)
        return services.memory.u64(elem + self._o_value) if elem else 0

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """htab_of_map_lookup_elem(): the inner map's address."""
        return self.lookup_ptr(services, key)

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """The inner map's id, 4 bytes."""
        self._check_lookup_flags(flags)
        return _id_of(services, self.lookup_ptr(services, key))

    def update_ptr(self, services: Services, key: bytes, ptr: int, flags: int = 0) -> int:
        """htab_map_update_elem_in_place(): store ``ptr`` and return what was there, 0 for nothing.

        KernelError as any hash map's update; the caller then puts ``ptr`` itself.
        """
        if flags > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        hash_ = jhash(key, self.hashrnd)
        bucket = self._bucket(hash_)
        elem = self._find(services, bucket, key)
        self._check_flags(elem, flags)
        if elem:
            old = services.memory.u64(elem + self._o_value)
            services.memory.put_u64(elem + self._o_value, ptr)
            return old
        elem = self._new_elem(services, key, hash_)
        services.memory.put_u64(elem + self._o_value, ptr)
        self._link(services, bucket, elem)
        return 0

    def update(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        raise einval("an inner map is stored by update_ptr")

    def clear(self, services: Services) -> dict[bytes, int]:
        """Empty the map; the inner maps that it held by key, for the caller to put."""
        held = {key: self.lookup_ptr(services, key) for key in list(self.keys(services))}
        for key in held:
            self.delete(services, key)
        return held
