# SPDX-License-Identifier: GPL-2.0-only
"""Hash maps and per-CPU hash maps (kernel/bpf/hashtab.c).

A table of ``struct bucket`` heads singly linked lists of ``struct htab_elem`` that end in an odd word
(hlist_nulls: the bucket's number shifted left, plus 1). Behind an element's header lie the key, rounded
up to 8 bytes, and the value, or a per-CPU pointer to it.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator
from typing import ClassVar, Final

from ..errors import KernelError
from ..ports import Services
from .attr import (
    ACCESS_MASK,
    CAP_SYS_ADMIN,
    KMALLOC_MAX_SIZE,
    NO_COMMON_LRU,
    NO_PREALLOC,
    NUMA_NO_NODE,
    NUMA_NODE,
    PCPU_MIN_UNIT_SIZE,
    U32_MAX,
    ZERO_SEED,
    Creator,
    MapAttr,
    access_flags_ok,
    einval,
    round_up,
    roundup_pow_of_two,
)
from .base import BPF_EXIST, BPF_F_LOCK, BPF_NOEXIST, ENOTSUPP, BpfMap, per_cpu_ptr
from .freelist import PcpuFreelist
from .jhash import jhash
from .memalloc import MemAlloc

_CREATE_FLAGS: Final = NO_PREALLOC | NO_COMMON_LRU | NUMA_NODE | ACCESS_MASK | ZERO_SEED
_LIST_POISON2: Final = 0xDEAD_0000_0000_0122
_LOCK_COUNT: Final = 8
_LLIST_NODE: Final = 8
_WRITTEN: Final = 1 << 15
"""Buckets that are written at once when the table is made."""
_WORTH_COPYING: Final = 64
"""A batch of more than one in so many elements reads them all at once."""
_SCAN: Final = 512
"""Buckets that are read at once when the table is walked."""


class Batch:
    """Elements of neighbouring buckets: addresses, keys and values.

    ``ends`` has how many elements there are up to the end of each bucket, ``bucket`` is the number of the
    bucket behind them.
    """

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.elements: list[int] = []
        self.ends: list[int] = []
        self.keys: list[bytes] = []
        self.values: list[bytes] = []


class HtabBase(BpfMap):
    """The table, its buckets and elements; ``elem_size`` is the whole element's, ``n_buckets`` 2**n."""

    STRUCT: ClassVar[str] = "bpf_htab"
    LINUX_SIZE: ClassVar[int] = 832
    BATCH = frozenset(("lookup", "lookup and delete", "update", "delete"))
    PERCPU: ClassVar[bool] = False
    LRU: ClassVar[bool] = False
    EXTRA_ELEMS: ClassVar[bool] = False
    _BATCH_BY_KEY: ClassVar[bool] = False
    """Values are not the element's own bytes: batches look them up."""

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """htab_map_alloc_check(): EPERM, EINVAL, ENOTSUPP or E2BIG."""
        flags = attr.map_flags
        if flags & ZERO_SEED and not creator.capable(CAP_SYS_ADMIN):
            raise KernelError(errno.EPERM, "BPF_F_ZERO_SEED needs CAP_SYS_ADMIN")
        if flags & ~_CREATE_FLAGS or not access_flags_ok(flags):
            raise einval(f"flags {flags:#x} do not suit a hash map")
        if not cls.LRU and flags & NO_COMMON_LRU:
            raise einval("BPF_F_NO_COMMON_LRU is for LRU maps")
        if cls.LRU and flags & NO_PREALLOC:
            raise KernelError(ENOTSUPP, "LRU maps are always preallocated")
        if attr.numa != NUMA_NO_NODE and (cls.PERCPU or flags & NO_COMMON_LRU):
            raise einval("per-CPU memory has no single NUMA node")
        if not attr.max_entries or not attr.key_size or not attr.value_size:
            raise einval("a hash map needs entries, a key size and a value size")
        if attr.key_size + attr.value_size >= KMALLOC_MAX_SIZE - services.layout["htab_elem"].size:
            raise KernelError(errno.E2BIG, "key and value do not fit an allocation")
        if cls.PERCPU and round_up(attr.value_size, 8) > PCPU_MIN_UNIT_SIZE:
            raise KernelError(errno.E2BIG, "a per-CPU value is at most 32 KiB")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        elem, fields = services.layout["htab_elem"], services.layout["bpf_htab"]
        self._o_pprev = elem.offset("hash_node.pprev")
        self._o_ptr_to_pptr = elem.offset("ptr_to_pptr")
        self._o_hash, self._o_key = elem.offset("hash"), elem.offset("key")
        self._o_count = fields.offset("count")
        self._bucket_size = services.layout["bucket"].size
        self._o_value = self._o_key + round_up(self.key_size, 8)
        self._round_entries(attr)
        if self.max_entries > 1 << 31:
            raise KernelError(errno.E2BIG, "more than 2**31 entries")
        self.n_buckets = roundup_pow_of_two(self.max_entries)
        self.elem_size = self._o_value + (8 if self.PERCPU else round_up(self.value_size, 8))
        if self.n_buckets > U32_MAX // self._bucket_size:
            raise KernelError(errno.E2BIG, "the bucket table is too large")
        self.prealloc = not self.map_flags & NO_PREALLOC
        self.hashrnd = 0 if self.map_flags & ZERO_SEED else services.random.u32()
        self._buckets = self._elems = self._pcpu_values = self._extra_elems = 0
        self._freelist: PcpuFreelist | None = None
        self._ma: MemAlloc | None = None
        self._pcpu_ma: MemAlloc | None = None
        try:
            self.addr = services.alloc.kmalloc(fields.size)
            self._buckets = services.alloc.kmalloc(self.n_buckets * self._bucket_size, self._bucket_size)
            self._init_buckets(services)
            if self.prealloc:
                self._prealloc_init(services)
            else:
                self._alloc_init(services)
        except KernelError:
            self._release(services)
            raise
        memory = services.memory
        memory.put_u64(self.addr + fields.offset("buckets"), self._buckets)
        memory.put_u64(self.addr + fields.offset("elems"), self._elems)
        memory.put_u64(self.addr + fields.offset("extra_elems"), self._extra_elems)
        memory.put_u32(self.addr + fields.offset("n_buckets"), self.n_buckets)
        memory.put_u32(self.addr + fields.offset("elem_size"), self.elem_size)
        memory.put_u32(self.addr + fields.offset("hashrnd"), self.hashrnd)
        if self._freelist is not None:
            memory.put_u64(self.addr + fields.offset("freelist"), self._freelist.heads)
        for name, caches in (("ma", self._ma), ("pcpu_ma", self._pcpu_ma)):
            if caches is not None:
                memory.put_u64(self.addr + fields.offset(f"{name}.cache"), caches.cache)

    def _round_entries(self, attr: MapAttr) -> None:
        """LRU maps round ``max_entries``; the others leave it."""

    def _init_buckets(self, services: Services) -> None:
        words = self._bucket_size // 8
        block = array("Q", bytes(min(_WRITTEN, self.n_buckets) * self._bucket_size))
        for start in range(0, self.n_buckets, _WRITTEN):
            # n_buckets and _WRITTEN are powers of two, so the block is always full.
            block[::words] = array("Q", range(2 * start + 1, 2 * (start + len(block) // words) + 1, 2))
            services.memory.write(self._buckets + start * self._bucket_size, memoryview(block).cast("B"))

    def _alloc_init(self, services: Services) -> None:
        """What a map without preallocation takes its elements, and their per-CPU values, from."""
        self._ma = MemAlloc.create(services, self.elem_size)
        if self.PERCPU:
            self._pcpu_ma = MemAlloc.create(services, round_up(self.value_size, 8), percpu=True)

    def _prealloc_init(self, services: Services) -> None:
        count = self._prealloc_elems(services)
        self._freelist = PcpuFreelist.create(services, services.layout["htab_elem"].offset("fnode"))
        self._freelist.populate(services, self._elems, self.elem_size, count)
        if self.PERCPU:
            self._prealloc_pcpu_values(services, count)
        if self.EXTRA_ELEMS:
            self._extra_elems = services.alloc.alloc_percpu(8)
            for cpu in range(self._nr_cpus):
                # There are as many spare elements as CPUs, so this never comes back empty.
                spare = self._freelist.pop(services)
                services.memory.put_u64(per_cpu_ptr(services, self._extra_elems, cpu), spare)

    def _prealloc_elems(self, services: Services) -> int:
        self._spare = self._nr_cpus if self.EXTRA_ELEMS else 0
        count = self.max_entries + self._spare
        self._elems = services.alloc.kmalloc(count * self.elem_size)
        return count

    def _prealloc_pcpu_values(self, services: Services, count: int) -> None:
        size = round_up(self.value_size, 8)
        # One per-CPU allocation for all values; Linux makes one for each.
        self._pcpu_values = services.alloc.alloc_percpu(count * size)
        at = self._elems + self._o_value
        for index in range(count):
            services.memory.put_u64(at + index * self.elem_size, self._pcpu_values + index * size)

    def free(self, services: Services) -> None:
        if self._ma is not None:
            for elem in list(self.elements(services)):
                self._free_elem_memory(services, self._ma, elem)
        self._release(services)

    def _release(self, services: Services) -> None:
        alloc = services.alloc
        if self._freelist is not None:
            self._freelist.destroy(services)
        for caches in (self._ma, self._pcpu_ma):
            if caches is not None:
                caches.destroy(services)
        for percpu in (self._pcpu_values, self._extra_elems):
            if percpu:
                alloc.free_percpu(percpu)
        for area in (self._elems, self._buckets, self.addr):
            alloc.kfree(area)
        self._freelist = self._ma = self._pcpu_ma = None
        self.addr = self._buckets = self._elems = self._pcpu_values = self._extra_elems = 0

    def memory_usage(self, services: Services) -> int:
        """htab_map_mem_usage(): preallocated elements, or those that there are now."""
        value = round_up(self.value_size, 8)
        usage = self.LINUX_SIZE + self._bucket_size * self.n_buckets + 4 * self._nr_cpus * _LOCK_COUNT
        if not self.prealloc:
            each = self.elem_size + _LLIST_NODE
            if self.PERCPU:
                each += _LLIST_NODE + 8 + value * self._nr_cpus
            return usage + each * services.memory.u32(self.addr + self._o_count)
        entries = self.max_entries + (self._nr_cpus if self.EXTRA_ELEMS else 0)
        usage += self.elem_size * entries
        if self.PERCPU:
            return usage + value * self._nr_cpus * entries
        return usage if self.LRU else usage + 8 * self._nr_cpus

    # Walking.

    def _bucket(self, hash_: int) -> int:
        return self._buckets + (hash_ & self.n_buckets - 1) * self._bucket_size

    def _find(self, services: Services, bucket: int, key: bytes) -> int:
        """The element with ``key`` in the chain of ``bucket``, 0 for none. Equal keys have equal hashes."""
        memory = services.memory
        size, start = self._o_key + self.key_size, self._o_key
        node = memory.u64(bucket)
        while not node & 1:
            raw = memory.read(node, size)
            if raw[start:] == key:
                return node
            node = int.from_bytes(raw[:8], "little")
        return 0

    def find(self, services: Services, key: bytes) -> int:
        """__htab_map_lookup_elem(): the address of the element with ``key``, 0 for none."""
        return self._find(services, self._bucket(jhash(key, self.hashrnd)), key)

    def elements(self, services: Services, bucket: int = 0) -> Iterator[int]:
        """The addresses of all elements from bucket number ``bucket`` on, in Linux's order."""
        memory, words = services.memory, self._bucket_size // 8
        for start in range(bucket, self.n_buckets, _SCAN):
            count = min(_SCAN, self.n_buckets - start)
            raw = memory.read(self._buckets + start * self._bucket_size, count * self._bucket_size)
            for node in memoryview(raw).cast("Q")[::words]:
                while not node & 1:
                    following = memory.u64(node)
                    yield node
                    node = following

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        """htab_map_get_next_key(): by bucket, then along the chain; from the start for an unknown key."""
        start = 0
        if key is not None:
            hash_ = jhash(key, self.hashrnd)
            elem = self._find(services, self._bucket(hash_), key)
            if elem:
                following = services.memory.u64(elem)
                if not following & 1:
                    return services.memory.read(following + self._o_key, self.key_size)
                start = (hash_ & self.n_buckets - 1) + 1
        for elem in self.elements(services, start):
            return services.memory.read(elem + self._o_key, self.key_size)
        raise KernelError(errno.ENOENT)

    def keys(self, services: Services) -> Iterator[bytes]:
        """Every key, in the order of get_next_key."""
        for elem in self.elements(services):
            yield services.memory.read(elem + self._o_key, self.key_size)

    def batch(self, services: Services, bucket: int, count: int) -> Batch:
        """Whole buckets from number ``bucket`` on, as long as not more than ``count`` elements come together.

        Values are as system calls read them.
        """
        found = Batch(bucket)
        region = b""
        total = self.max_entries * self.elem_size
        if self._elems and count * _WORTH_COPYING > self.max_entries:
            # All elements at once: a few nanoseconds each, where a look at one costs a microsecond.
            region = services.memory.read(self._elems, total + self._spare * self.elem_size)
        self._collect(services, found, count, region)
        key, key_end = self._o_key, self._o_key + self.key_size
        value, end = self._o_value, self._o_value + self.value_size
        if self._BATCH_BY_KEY:
            read = services.memory.read
            found.keys = [read(elem + key, self.key_size) for elem in found.elements]
            found.values = [self._batch_value(services, each) for each in found.keys]
        elif region:
            places = [elem - self._elems for elem in found.elements]
            found.keys = [region[at + key : at + key_end] for at in places]
            found.values = [region[at + value : at + end] for at in places]
        else:
            read = services.memory.read
            raw = [read(elem, end) for elem in found.elements]
            found.keys = [each[key:key_end] for each in raw]
            found.values = [each[value:] for each in raw]
        return found

    def _collect(self, services: Services, found: Batch, count: int, region: bytes) -> None:
        memory, words, base = services.memory, self._bucket_size // 8, self._elems
        nexts = memoryview(region).cast("Q")
        elements, ends, number = found.elements, found.ends, found.bucket
        for start in range(found.bucket, self.n_buckets, _SCAN):
            here = min(_SCAN, self.n_buckets - start)
            raw = memory.read(self._buckets + start * self._bucket_size, here * self._bucket_size)
            for node in memoryview(raw).cast("Q")[::words].tolist():
                if not node & 1:
                    before = len(elements)
                    while not node & 1:
                        elements.append(node)
                        node = nexts[node - base >> 3] if region else memory.u64(node)
                    if len(elements) > count:
                        del elements[before:]
                        found.bucket = number
                        return
                    ends.append(len(elements))
                number += 1
        found.bucket = number

    def _batch_value(self, services: Services, key: bytes) -> bytes:
        """The value that a system call reads, of an element that is there."""
        value = self.lookup(services, key)
        assert value is not None
        return value

    def delete_batch(self, services: Services, batch: Batch) -> None:
        """Take out what :meth:`batch` found. Linux frees a bucket's elements last one first."""
        start = 0
        for end in batch.ends:
            chain = batch.elements[start:end]
            for elem in chain:
                self._unlink(services, elem)
            for elem in reversed(chain):
                self._free_elem(services, elem)
            start = end

    # Changing.

    def _link(self, services: Services, bucket: int, elem: int) -> None:
        """hlist_nulls_add_head_rcu()."""
        memory = services.memory
        first = memory.u64(bucket)
        memory.put_u64(elem, first)
        memory.put_u64(elem + self._o_pprev, bucket)
        memory.put_u64(bucket, elem)
        if not first & 1:
            memory.put_u64(first + self._o_pprev, elem)

    def _unlink(self, services: Services, elem: int) -> None:
        """hlist_nulls_del_rcu(): the element still points onwards, for readers that stand on it."""
        memory = services.memory
        following, pprev = memory.u64(elem), memory.u64(elem + self._o_pprev)
        memory.put_u64(pprev, following)
        if not following & 1:
            memory.put_u64(following + self._o_pprev, pprev)
        memory.put_u64(elem + self._o_pprev, _LIST_POISON2)

    def _add_count(self, services: Services, change: int) -> None:
        at = self.addr + self._o_count
        services.memory.put_u32(at, services.memory.u32(at) + change & U32_MAX)

    @staticmethod
    def _check_flags(exists: int, flags: int) -> None:
        wanted = flags & ~BPF_F_LOCK
        if exists and wanted == BPF_NOEXIST:
            raise KernelError(errno.EEXIST)
        if not exists and wanted == BPF_EXIST:
            raise KernelError(errno.ENOENT)

    def _new_elem(self, services: Services, key: bytes, hash_: int, replaces: int = 0) -> int:
        """alloc_htab_elem(): an element with key and hash. KernelError(E2BIG) when the map is full."""
        memory = services.memory
        if self._freelist is not None:
            if replaces:
                spare = per_cpu_ptr(services, self._extra_elems, services.cpu.this_cpu)
                elem = memory.u64(spare)
                memory.put_u64(spare, replaces)
            else:
                elem = self._freelist.pop(services)
                if not elem:
                    raise KernelError(errno.E2BIG, "the map is full")
        else:
            if not replaces and memory.u32(self.addr + self._o_count) >= self.max_entries:
                raise KernelError(errno.E2BIG, "the map is full")
            elem = self._alloc_elem(services)
            self._add_count(services, 1)
        memory.write(elem + self._o_key, key)
        memory.put_u32(elem + self._o_hash, hash_)
        return elem

    def _alloc_elem(self, services: Services) -> int:
        """Memory for an element, with per-CPU values where they belong. KernelError(ENOMEM)."""
        assert self._ma is not None
        elem = self._ma.alloc(services)
        if self._pcpu_ma is not None:
            try:
                values = self._pcpu_ma.alloc(services)
            except KernelError:
                self._ma.free(services, elem)
                raise
            services.memory.put_u64(elem + self._o_ptr_to_pptr, values)
            services.memory.put_u64(elem + self._o_value, services.memory.u64(values))
        return elem

    def _free_elem(self, services: Services, elem: int) -> None:
        """free_htab_elem(): back to the free list, or to the allocator."""
        if self._ma is None:
            assert self._freelist is not None
            self._freelist.push(services, elem)
            return
        self._add_count(services, -1)
        self._free_elem_memory(services, self._ma, elem)
        for caches in (self._ma, self._pcpu_ma):
            if caches is not None:
                caches.trim(services)

    def _free_elem_memory(self, services: Services, caches: MemAlloc, elem: int) -> None:
        if self._pcpu_ma is not None:
            self._pcpu_ma.free(services, services.memory.u64(elem + self._o_ptr_to_pptr))
        caches.free(services, elem)

    def delete(self, services: Services, key: bytes) -> None:
        """htab_map_delete_elem()."""
        elem = self.find(services, key)
        if not elem:
            raise KernelError(errno.ENOENT)
        self._unlink(services, elem)
        self._free_elem(services, elem)

    def lookup_and_delete(self, services: Services, key: bytes, flags: int = 0) -> bytes:
        value = self.lookup(services, key, flags)
        if value is None:
            raise KernelError(errno.ENOENT)
        self.delete(services, key)
        return value


class HtabMap(HtabBase):
    """BPF_MAP_TYPE_HASH."""

    OPS = "htab_map_ops"
    EXTRA_ELEMS = True

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        elem = self.find(services, key)
        return elem + self._o_value if elem else 0

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """htab_map_update_elem(): a new element takes the old one's place, at the head of the chain."""
        if flags & ~BPF_F_LOCK > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        if flags & BPF_F_LOCK:
            raise einval("BPF_F_LOCK on a value without a spin lock")
        hash_ = jhash(key, self.hashrnd)
        bucket = self._bucket(hash_)
        old = self._find(services, bucket, key)
        self._check_flags(old, flags)
        elem = self._new_elem(services, key, hash_, old)
        services.memory.write(elem + self._o_value, value[: self.value_size])
        self._link(services, bucket, elem)
        if old:
            self._unlink(services, old)
            if self._freelist is None:
                self._free_elem(services, old)


class PercpuHtabMap(HtabBase):
    """BPF_MAP_TYPE_PERCPU_HASH: every element has a value for each CPU; updates are made in place."""

    OPS = "htab_percpu_map_ops"
    PERCPU = True
    _BATCH_BY_KEY = True

    @property
    def syscall_value_size(self) -> int:
        return round_up(self.value_size, 8) * self._nr_cpus

    def _values(self, services: Services, elem: int) -> int:
        return services.memory.u64(elem + self._o_value)

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        elem = self.find(services, key)
        if not elem or cpu >= self._nr_cpus:
            return 0
        return per_cpu_ptr(services, self._values(services, elem), cpu)

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """bpf_percpu_hash_copy(): every CPU's value, rounded up to 8 bytes each."""
        self._check_lookup_flags(flags)
        elem = self.find(services, key)
        if not elem:
            return None
        return self._percpu_read(services, self._values(services, elem), round_up(self.value_size, 8))

    def update(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """bpf_percpu_hash_update(): the values of all CPUs at once."""
        self._update(services, key, value, flags, all_cpus=True)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """The running CPU's value; a new element is zero on the others."""
        self._update(services, key, value, flags, all_cpus=False)

    def _update(self, services: Services, key: bytes, value: bytes, flags: int, all_cpus: bool) -> None:
        """htab_map_update_elem_in_place() for per-CPU values."""
        if flags > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        hash_ = jhash(key, self.hashrnd)
        bucket = self._bucket(hash_)
        elem = self._find(services, bucket, key)
        self._check_flags(elem, flags)
        fresh = not elem
        if fresh:
            elem = self._new_elem(services, key, hash_)
        self._store(services, self._values(services, elem), value, all_cpus, fresh)
        if fresh:
            self._link(services, bucket, elem)

    def _store(self, services: Services, ptr: int, value: bytes, all_cpus: bool, fresh: bool) -> None:
        """pcpu_copy_value(), or pcpu_init_value() when the element is fresh."""
        size = round_up(self.value_size, 8)
        if all_cpus:
            self._percpu_write(services, ptr, size, value)
            return
        this = services.cpu.this_cpu
        if fresh:
            for cpu in range(self._nr_cpus):
                services.memory.fill(per_cpu_ptr(services, ptr, cpu), size)
        services.memory.write(per_cpu_ptr(services, ptr, this), value[: self.value_size])
