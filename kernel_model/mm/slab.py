# SPDX-License-Identifier: GPL-2.0-only
"""kmalloc and per-CPU memory (kernel_model.ports.Allocator) over page frames in the direct map."""

from __future__ import annotations

import errno

from ..errors import KernelError
from ..ports import Memory
from .pages import PAGE_SIZE, PageAllocator

_CLASSES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048)
_SLAB_PAGES = 4


class PerCpuArea:
    """Where per-CPU memory lies: a range of link addresses, and each CPU's distance to its own copy."""

    def __init__(self, start: int, size: int, offsets: tuple[int, ...]) -> None:
        self.start = start
        self.size = size
        self.offsets = offsets


class KernelAllocator:
    """Small objects from slabs by size class, large ones as whole pages. Plain data beside ``memory``."""

    def __init__(self, memory: Memory, pages: PageAllocator, direct_map: int, percpu: PerCpuArea) -> None:
        self.memory = memory
        self.pages = pages
        self._direct_map = direct_map
        self.percpu = percpu
        self._free: dict[int, list[int]] = {size: [] for size in _CLASSES}
        self._live: dict[int, int] = {}
        self._percpu_free: list[tuple[int, int]] = [(percpu.start, percpu.start + percpu.size)]
        self._percpu_live: dict[int, int] = {}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "memory"}

    def kmalloc(self, size: int, align: int = 8) -> int:
        """See ports.Allocator. Objects of a power-of-two class are aligned to their class."""
        if size <= 0:
            raise KernelError(errno.EINVAL, f"allocation of {size} bytes")
        if size > _CLASSES[-1] or align > 64:
            at = self.pages.alloc(-(-size // PAGE_SIZE), max(align, PAGE_SIZE)) + self._direct_map
            self._live[at] = 0
            self.memory.fill(at, -(-size // PAGE_SIZE) * PAGE_SIZE)
            return at
        wanted = next(klass for klass in _CLASSES if klass >= size and klass % align == 0)
        free = self._free[wanted]
        if not free:
            slab = self.pages.alloc(_SLAB_PAGES) + self._direct_map
            count = _SLAB_PAGES * PAGE_SIZE // wanted
            free.extend(slab + wanted * number for number in range(count - 1, -1, -1))
        at = free.pop()
        self._live[at] = wanted
        self.memory.fill(at, wanted)
        return at

    def kfree(self, addr: int) -> None:
        """See ports.Allocator; KeyError for an address that kmalloc did not give or that is free."""
        if not addr:
            return
        klass = self._live.pop(addr)
        if klass:
            self._free[klass].append(addr)
        else:
            self.pages.free(addr - self._direct_map)

    def live_objects(self) -> dict[int, int]:
        """Every live kmalloc object: bytes by address (for leak checks)."""
        return {at: klass or self.pages.size_of(at - self._direct_map) for at, klass in self._live.items()}

    def alloc_percpu(self, size: int, align: int = 8) -> int:
        """See ports.Allocator. First fit in the per-CPU unit."""
        size = -(-size // 8) * 8
        for index, (start, end) in enumerate(self._percpu_free):
            at = -(-start // align) * align
            if at + size <= end:
                rest = [piece for piece in ((start, at), (at + size, end)) if piece[0] < piece[1]]
                self._percpu_free[index : index + 1] = rest
                self._percpu_live[at] = size
                for offset in self.percpu.offsets:
                    self.memory.fill(at + offset, size)
                return at
        raise KernelError(errno.ENOMEM, f"no {size} bytes of per-CPU memory are free")

    def free_percpu(self, ptr: int) -> None:
        """See ports.Allocator."""
        if not ptr:
            return
        size = self._percpu_live.pop(ptr)
        pieces = sorted([*self._percpu_free, (ptr, ptr + size)])
        joined = [pieces[0]]
        for start, end in pieces[1:]:
            if joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self._percpu_free = joined

    def frame(self, addr: int) -> int:
        """See ports.Allocator."""
        return addr - self._direct_map

    def per_cpu_offset(self, cpu: int) -> int:
        """What to add to a per-CPU pointer for CPU ``cpu``."""
        return self.percpu.offsets[cpu]

    @property
    def nr_cpus(self) -> int:
        """How many CPUs the machine has."""
        return len(self.percpu.offsets)
