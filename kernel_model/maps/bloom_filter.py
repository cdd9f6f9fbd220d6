# SPDX-License-Identifier: GPL-2.0-only
"""Bloom filters (kernel/bpf/bloom_filter.c): a set that may say yes where it should say no.

There are no keys. A value is pushed (by system call: updated) and asked for (peeked, by system call: looked
up, the value to ask for being where the answer would go). ``map_extra`` is how many hashes a value has, 5
when it is 0. Programs push and peek in machine code (jit_x86/text/map_bloom.S).
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

from ..errors import KernelError
from ..ports import Services
from .attr import (
    ACCESS_MASK,
    KMALLOC_MAX_SIZE,
    NUMA_NODE,
    U32_MAX,
    ZERO_SEED,
    Creator,
    MapAttr,
    access_flags_ok,
    einval,
    roundup_pow_of_two,
)
from .base import BPF_ANY, BpfMap
from .jhash import jhash

_CREATE_FLAGS: Final = NUMA_NODE | ZERO_SEED | ACCESS_MASK
_DEFAULT_HASHES: Final = 5
_MAX_HASHES: Final = 15
_LONG: Final = 64


class BloomFilter(BpfMap):
    """BPF_MAP_TYPE_BLOOM_FILTER."""

    STRUCT: ClassVar[str] = "bpf_bloom_filter"
    OPS: ClassVar[str] = "bloom_filter_map_ops"

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """bloom_map_alloc_check(): E2BIG."""
        if attr.value_size > KMALLOC_MAX_SIZE:
            raise KernelError(errno.E2BIG, "the value does not fit an allocation")

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        """The checks of bloom_map_alloc(): EINVAL."""
        if (
            attr.key_size
            or not attr.value_size
            or not attr.max_entries
            or attr.map_flags & ~_CREATE_FLAGS
            or not access_flags_ok(attr.map_flags)
            or attr.map_extra > _MAX_HASHES
        ):
            raise einval("a bloom filter has values and entries, no keys, and at most 15 hashes")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self.hashes = attr.map_extra or _DEFAULT_HASHES
        # The best size is n * k / ln 2 bits, taken as 7 / 5 n k and rounded up to a power of two.
        product = self.max_entries * self.hashes
        bits = product // 5 * 7
        if product > U32_MAX or bits > U32_MAX or bits > 1 << 31:
            self.bitset_mask = U32_MAX
        else:
            self.bitset_mask = max(roundup_pow_of_two(bits), _LONG) - 1
        fields = services.layout["bpf_bloom_filter"]
        self._bitset = fields.offset("bitset")
        self.addr = services.alloc.kmalloc(self._bitset + self._bitset_bytes)
        self.hash_seed = 0 if self.map_flags & ZERO_SEED else services.random.u32()
        for name, value in (
            ("bitset_mask", self.bitset_mask),
            ("hash_seed", self.hash_seed),
            ("nr_hash_funcs", self.hashes),
        ):
            services.memory.put_u32(self.addr + fields.offset(name), value)

    @property
    def _bitset_bytes(self) -> int:
        return (self.bitset_mask + 1) // 8

    def free(self, services: Services) -> None:
        services.alloc.kfree(self.addr)
        self.addr = 0

    def memory_usage(self, services: Services) -> int:
        return self.LINUX_SIZE + self._bitset_bytes

    def _places(self, value: bytes) -> list[tuple[int, int]]:
        """Address and bit of each of the value's hashes."""
        places = []
        for index in range(self.hashes):
            bit = jhash(value, self.hash_seed + index & U32_MAX) & self.bitset_mask
            places.append((self.addr + self._bitset + bit // _LONG * 8, 1 << bit % _LONG))
        return places

    def peek(self, services: Services, value: bytes, flags: int = 0) -> None:
        """bloom_map_peek_elem(): KernelError(ENOENT) when ``value`` was certainly never pushed."""
        self._check_lookup_flags(flags)
        for word, bit in self._places(value[: self.value_size]):
            if not services.memory.u64(word) & bit:
                raise KernelError(errno.ENOENT)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """bloom_map_push_elem(): KernelError(EINVAL) for any flag."""
        if flags != BPF_ANY:
            raise einval("only BPF_ANY suits a bloom filter")
        for word, bit in self._places(value[: self.value_size]):
            services.memory.put_u64(word, services.memory.u64(word) | bit)

    def delete(self, services: Services, key: bytes) -> None:
        raise KernelError(errno.EOPNOTSUPP, "nothing can be taken out of a bloom filter")

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        raise KernelError(errno.EOPNOTSUPP, "a bloom filter has no keys")
