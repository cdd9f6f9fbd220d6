# SPDX-License-Identifier: GPL-2.0-only
"""Hash maps that evict (the LRU half of kernel/bpf/hashtab.c); lru_list decides which element goes.

Programs' lookups set the element's reference bit, in machine code (jit_x86/text/hash_map.S); those of system
calls leave it alone, so that a dump does not change what is evicted. Updates and deletions are machine code
(lru_hash.S) as long as nothing need be evicted.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from ..errors import KernelError
from ..ports import Services
from .attr import NO_COMMON_LRU, U32_MAX, MapAttr, einval, round_up
from .base import BPF_EXIST, BPF_F_LOCK
from .hash import HtabBase, HtabMap, PercpuHtabMap
from .jhash import jhash
from .lru_list import BpfLru


class _LruBase(HtabBase):
    LRU: ClassVar[bool] = True
    EXTRA_ELEMS: ClassVar[bool] = False

    def _round_entries(self, attr: MapAttr) -> None:
        """With BPF_F_NO_COMMON_LRU every CPU has equally many elements, at least one."""
        if attr.map_flags & NO_COMMON_LRU:
            rounded = round_up(self.max_entries, self._nr_cpus)
            self.max_entries = rounded if rounded <= U32_MAX else rounded - self._nr_cpus

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self._lru: BpfLru | None = None
        elem = services.layout["htab_elem"]
        self._o_node = elem.offset("lru_node")
        self._o_ref = self._o_node + services.layout["bpf_lru_node"].offset("ref")
        super().alloc(services, attr)

    def _prealloc_init(self, services: Services) -> None:
        count = self._prealloc_elems(services)
        self._lru = BpfLru.create(
            services,
            self.addr + services.layout["bpf_htab"].offset("lru"),
            bool(self.map_flags & NO_COMMON_LRU),
            count,
            self._o_hash - self._o_node,
        )
        self._lru.populate(services, self._elems + self._o_node, self.elem_size, count)
        if self.PERCPU:
            self._prealloc_pcpu_values(services, count)

    def _release(self, services: Services) -> None:
        if self._lru is not None:
            self._lru.destroy(services)
            self._lru = None
        super()._release(services)

    @property
    def _lists(self) -> BpfLru:
        assert self._lru is not None
        return self._lru

    def _delete_node(self, services: Services, node: int) -> bool:
        """htab_lru_map_delete_node(): unlink an element that is to be evicted, when it is in the table."""
        elem = node - self._o_node
        at = services.memory.u64(self._bucket(services.memory.u32(elem + self._o_hash)))
        while not at & 1:
            if at == elem:
                self._unlink(services, elem)
                return True
            at = services.memory.u64(at)
        return False

    def _pop(self, services: Services, key: bytes, hash_: int) -> int:
        """prealloc_lru_pop(): an element with ``key`` that is in no bucket yet. KernelError(ENOMEM)."""
        node = self._lists.pop_free(services, hash_, self._delete_node)
        if not node:
            raise KernelError(errno.ENOMEM, "no element can be evicted")
        elem = node - self._o_node
        services.memory.write(elem + self._o_key, key)
        return elem

    def _free_elem(self, services: Services, elem: int) -> None:
        self._lists.push_free(services, elem + self._o_node)

    def _set_ref(self, services: Services, elem: int) -> None:
        services.memory.put_u8(elem + self._o_ref, 1)


class LruHtabMap(_LruBase, HtabMap):
    """BPF_MAP_TYPE_LRU_HASH."""

    OPS = "htab_lru_map_ops"
    EXTRA_ELEMS = False

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """htab_lru_map_lookup_elem_sys()."""
        self._check_lookup_flags(flags)
        elem = self.find(services, key)
        return services.memory.read(elem + self._o_value, self.value_size) if elem else None

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        elem = self.find(services, key)
        if not elem:
            return 0
        self._set_ref(services, elem)
        return elem + self._o_value

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """htab_lru_map_update_elem(): a new element first, which may evict another, then the flags."""
        if flags & ~BPF_F_LOCK > BPF_EXIST or flags & BPF_F_LOCK:
            raise einval(f"unknown update flags {flags:#x}")
        hash_ = jhash(key, self.hashrnd)
        elem = self._pop(services, key, hash_)
        services.memory.write(elem + self._o_value, value[: self.value_size])
        bucket = self._bucket(hash_)
        old = self._find(services, bucket, key)
        try:
            self._check_flags(old, flags)
        except KernelError:
            self._free_elem(services, elem)
            raise
        self._link(services, bucket, elem)
        if old:
            self._set_ref(services, elem)
            self._unlink(services, old)
            self._free_elem(services, old)


class LruPercpuHtabMap(_LruBase, PercpuHtabMap):
    """BPF_MAP_TYPE_LRU_PERCPU_HASH: an element that is there is updated in place."""

    OPS = "htab_lru_percpu_map_ops"

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        elem = self.find(services, key)
        if not elem or cpu >= self._nr_cpus:
            return 0
        self._set_ref(services, elem)
        return super().lookup_elem(services, key, cpu)

    def _update(self, services: Services, key: bytes, value: bytes, flags: int, all_cpus: bool) -> None:
        """__htab_lru_percpu_map_update_elem(): room is made even when the key turns out to be there."""
        if flags > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        hash_ = jhash(key, self.hashrnd)
        fresh = self._pop(services, key, hash_) if flags != BPF_EXIST else 0
        bucket = self._bucket(hash_)
        old = self._find(services, bucket, key)
        try:
            self._check_flags(old, flags)
        except KernelError:
            if fresh:
                self._free_elem(services, fresh)
            raise
        if not old:
            self._store(services, self._values(services, fresh), value, all_cpus, fresh=True)
            self._link(services, bucket, fresh)
            return
        self._set_ref(services, old)
        self._store(services, self._values(services, old), value, all_cpus, fresh=False)
        if fresh:
            self._free_elem(services, fresh)
