# SPDX-License-Identifier: GPL-2.0-only
"""Ring buffers (kernel/bpf/ringbuf.c): records that programs reserve and submit, and a process maps.

A ``struct bpf_ringbuf`` is a page of the kernel's own, a page with the consumer's position, one with the
producer's, and the data, whose pages follow once more behind the end, so that no record is ever split. All
of what programs do is machine code (jit_x86/text/ringbuf.S).
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

from ..errors import KernelError
from ..ports import Services
from .attr import NUMA_NODE, PAGE_SIZE, MapAttr, einval
from .base import ENOTSUPP, BpfMap

BUSY_BIT: Final = 1 << 31
DISCARD_BIT: Final = 1 << 30
HDR_SZ: Final = 8
_PGOFF: Final = 1
"""Pages before those that a process may map."""
_META_PAGES: Final = 3


class RingbufMap(BpfMap):
    """BPF_MAP_TYPE_RINGBUF; ``max_entries`` is the size of the data in bytes."""

    STRUCT: ClassVar[str] = "bpf_ringbuf_map"
    OPS: ClassVar[str] = "ringbuf_map_ops"
    LINUX_SIZE: ClassVar[int] = 304
    MMAP: ClassVar[bool] = True

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        """The checks of ringbuf_map_alloc(): EINVAL."""
        size = attr.max_entries
        if attr.map_flags & ~NUMA_NODE or attr.key_size or attr.value_size:
            raise einval("a ring buffer has neither keys nor values")
        if not size or size & (size - 1) or size % PAGE_SIZE:
            raise einval("a ring buffer's size is a power of two, in whole pages")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self._pages: list[int] = []
        self.rb = 0
        self.addr = services.alloc.kmalloc(services.layout["bpf_ringbuf_map"].size)
        count = _META_PAGES + self.max_entries // PAGE_SIZE
        try:
            for _ in range(count):
                self._pages.append(services.alloc.kmalloc(PAGE_SIZE, PAGE_SIZE))
            self.rb = services.vmap([*self._pages, *self._pages[_META_PAGES:]])
        except KernelError:
            self.free(services)
            raise
        fields = services.layout["bpf_ringbuf"]
        services.memory.put_u64(self.rb + fields.offset("mask"), self.max_entries - 1)
        services.memory.put_u32(self.rb + fields.offset("nr_pages"), count)
        services.memory.put_u64(self.addr + services.layout["bpf_ringbuf_map"].offset("rb"), self.rb)

    def free(self, services: Services) -> None:
        if self.rb:
            services.vunmap(self.rb)
        for page in self._pages:
            services.alloc.kfree(page)
        services.alloc.kfree(self.addr)
        self._pages.clear()
        self.addr = self.rb = 0

    def memory_usage(self, services: Services) -> int:
        """ringbuf_map_mem_usage(): the pages, and the array of them with the data twice."""
        data = self.max_entries // PAGE_SIZE
        return self.LINUX_SIZE + (_META_PAGES + data) * PAGE_SIZE + 8 * (_META_PAGES + 2 * data)

    def position(self, services: Services, name: str) -> int:
        """``consumer_pos``, ``producer_pos`` or ``pending_pos``, in bytes since creation."""
        return services.memory.u64(self.rb + services.layout["bpf_ringbuf"].offset(name))

    def poll(self, services: Services) -> bool:
        """ringbuf_map_poll_kern(): is there anything between the positions?"""
        return self.position(services, "producer_pos") != self.position(services, "consumer_pos")

    def wakeups(self, services: Services) -> int:
        """How often those who wait for the map were woken."""
        return services.memory.u64(self.rb + services.layout["bpf_ringbuf"].offset("wakeups"))

    def mmap_pages(self, start: int, count: int, writable: bool) -> list[int]:
        """ringbuf_map_mmap_kern(): ``count`` pages from page ``start`` on, by their kernel addresses.

        KernelError(EPERM) for a writable mapping of more than the consumer's page, EINVAL beyond the data.
        """
        if writable and (start or count != 1):
            raise KernelError(errno.EPERM, "only the consumer's page may be mapped writable")
        whole = [*self._pages[_PGOFF:], *self._pages[_META_PAGES:]]
        if start + count > len(whole):
            raise einval("the mapping goes beyond the ring buffer")
        return whole[start : start + count]

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        self._check_lookup_flags(flags)
        raise KernelError(ENOTSUPP, "a ring buffer has no elements")

    def update(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        raise KernelError(ENOTSUPP, "a ring buffer has no elements")

    def delete(self, services: Services, key: bytes) -> None:
        raise KernelError(ENOTSUPP, "a ring buffer has no elements")
