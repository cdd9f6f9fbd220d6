# SPDX-License-Identifier: GPL-2.0-only
"""Memory for elements that programs make and free (kernel/bpf/memalloc.c): caches of objects, one a CPU.

A free object waits on its CPU's list and is the first to be handed out again; only what exceeds the high
watermark goes back to the slabs, and that while no program runs, so that an object which a program still
holds stays memory of this kind. The word in front of an object links it while it is free; the object
itself keeps its contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..functions import leaf
from ..ports import Services
from .attr import round_up
from .base import per_cpu_ptr

if TYPE_CHECKING:
    from ..kernel import Kernel

_LLIST_NODE: Final = 8
_SMALL: Final = 256


def _watermarks(size: int) -> tuple[int, int, int]:
    """init_refill_work(): the low and the high watermark and how many objects a refill brings."""
    if size <= _SMALL:
        low, high = 32, 96
    else:
        low, high = max(32 * _SMALL // size, 1), max(96 * _SMALL // size, 3)
    return low, high, max((high - low) // 4 * 3, 1)


@dataclass(frozen=True)
class MemAlloc:
    """A ``struct bpf_mem_alloc``: ``cache`` is the per-CPU pointer to its caches.

    With ``percpu`` an object is one word, which points to ``size`` bytes of per-CPU memory.
    """

    cache: int
    nr_cpus: int

    @classmethod
    def create(cls, services: Services, size: int, percpu: bool = False) -> MemAlloc:
        """bpf_mem_alloc_init(): empty caches for objects of ``size`` bytes. KernelError(ENOMEM)."""
        fields = services.layout["bpf_mem_cache"]
        made = cls(services.alloc.alloc_percpu(fields.size), services.alloc.nr_cpus)
        unit = size if percpu else size + _LLIST_NODE
        low, high, batch = _watermarks(unit)
        for cpu in range(made.nr_cpus):
            at = per_cpu_ptr(services, made.cache, cpu)
            for name, value in (
                ("unit_size", unit),
                ("low_watermark", low),
                ("high_watermark", high),
                ("batch", batch),
                ("percpu_size", 2 * _LLIST_NODE if percpu else 0),
            ):
                services.memory.put_u32(at + fields.offset(name), value)
        return made

    def alloc(self, services: Services) -> int:
        """bpf_mem_cache_alloc() on the running CPU: an object (contents undefined). KernelError(ENOMEM)."""
        at = per_cpu_ptr(services, self.cache, services.cpu.this_cpu)
        memory, fields = services.memory, services.layout["bpf_mem_cache"]
        first = at + fields.offset("free_llist.first")
        if not memory.u64(first):
            refill(services, at)
        node = memory.u64(first)
        memory.put_u64(first, memory.u64(node))
        count = at + fields.offset("free_cnt")
        memory.put_u32(count, memory.u32(count) - 1)
        return node + _LLIST_NODE

    def free(self, services: Services, obj: int) -> None:
        """bpf_mem_cache_free(): ``obj`` goes to the running CPU's list."""
        at = per_cpu_ptr(services, self.cache, services.cpu.this_cpu)
        memory, fields = services.memory, services.layout["bpf_mem_cache"]
        first, count = at + fields.offset("free_llist.first"), at + fields.offset("free_cnt")
        memory.put_u64(obj - _LLIST_NODE, memory.u64(first))
        memory.put_u64(first, obj - _LLIST_NODE)
        memory.put_u32(count, memory.u32(count) + 1)

    def trim(self, services: Services) -> None:
        """free_bulk() after a grace period: give back what exceeds the high watermark.

        Does nothing while emulated code is under way, which may hold any of it.
        """
        if services.cpu.depth:
            return
        memory, fields = services.memory, services.layout["bpf_mem_cache"]
        for cpu in range(self.nr_cpus):
            at = per_cpu_ptr(services, self.cache, cpu)
            count, high = (memory.u32(at + fields.offset(name)) for name in ("free_cnt", "high_watermark"))
            if count > high:
                self._release(
                    services, at, count - (high + memory.u32(at + fields.offset("low_watermark"))) // 2
                )

    def destroy(self, services: Services) -> None:
        """bpf_mem_alloc_destroy(): everything goes; objects in use must have been freed before."""
        fields = services.layout["bpf_mem_cache"]
        for cpu in range(self.nr_cpus):
            at = per_cpu_ptr(services, self.cache, cpu)
            self._release(services, at, services.memory.u32(at + fields.offset("free_cnt")))
        services.alloc.free_percpu(self.cache)

    @staticmethod
    def _release(services: Services, at: int, count: int) -> None:
        memory, fields = services.memory, services.layout["bpf_mem_cache"]
        first, left = at + fields.offset("free_llist.first"), at + fields.offset("free_cnt")
        percpu = memory.u32(at + fields.offset("percpu_size"))
        for _ in range(count):
            node = memory.u64(first)
            memory.put_u64(first, memory.u64(node))
            memory.put_u32(left, memory.u32(left) - 1)
            if percpu:
                services.alloc.free_percpu(memory.u64(node + _LLIST_NODE))
            services.alloc.kfree(node)


def refill(services: Services, at: int) -> None:
    """alloc_bulk() for the cache at ``at``: one batch of objects. KernelError(ENOMEM) when there is none.

    Linux refills from an interrupt that the low watermark raises; here it happens when a list is empty.
    """
    memory, fields = services.memory, services.layout["bpf_mem_cache"]
    unit, batch, percpu = (
        memory.u32(at + fields.offset(name)) for name in ("unit_size", "batch", "percpu_size")
    )
    first, count = at + fields.offset("free_llist.first"), at + fields.offset("free_cnt")
    for number in range(batch):
        try:
            node = _new_object(services, round_up(unit, 8), percpu)
        except KernelError:
            if number:
                return
            raise
        memory.put_u64(node, memory.u64(first))
        memory.put_u64(first, node)
        memory.put_u32(count, memory.u32(count) + 1)


def _new_object(services: Services, unit: int, percpu: int) -> int:
    if not percpu:
        return services.alloc.kmalloc(unit)
    node = services.alloc.kmalloc(percpu)
    try:
        services.memory.put_u64(node + _LLIST_NODE, services.alloc.alloc_percpu(unit))
    except KernelError:
        services.alloc.kfree(node)
        raise
    return node


@leaf("bpf_mem_refill", 1)
def bpf_mem_refill(kernel: Kernel, at: int) -> int:
    """For machine code that finds a list empty: 0, or -ENOMEM."""
    try:
        refill(kernel, at)
    except KernelError as error:
        return -error.errno
    return 0
