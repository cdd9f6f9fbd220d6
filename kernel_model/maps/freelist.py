# SPDX-License-Identifier: GPL-2.0-only
"""Per-CPU free lists of preallocated elements (kernel/bpf/percpu_freelist.c), in kernel memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from ..ports import Services
from .base import per_cpu_ptr

_CHUNK: Final = 1 << 14
"""Elements that are written at once when a list is populated: few enough for the host's cache."""


@dataclass(frozen=True)
class PcpuFreelist:
    """The lists at the per-CPU pointer ``heads`` (struct pcpu_freelist_head each).

    ``link`` is the offset of the list's node within an element.
    """

    heads: int
    link: int
    nr_cpus: int

    @classmethod
    def create(cls, services: Services, link: int) -> PcpuFreelist:
        """Empty lists. KernelError(ENOMEM)."""
        heads = services.alloc.alloc_percpu(services.layout["pcpu_freelist_head"].size)
        return cls(heads, link, services.alloc.nr_cpus)

    def destroy(self, services: Services) -> None:
        services.alloc.free_percpu(self.heads)

    def populate(self, services: Services, base: int, elem_size: int, count: int) -> None:
        """Share ``count`` zeroed elements from ``base`` on among the CPUs, as pcpu_freelist_populate() does.

        Every CPU gets a run of neighbours, of which the one with the highest address comes out first.
        """
        share, extra = divmod(count, self.nr_cpus)
        start = base
        for cpu in range(self.nr_cpus):
            here = share + (cpu < extra)
            if not here:
                break
            self._link_run(services, start, elem_size, here)
            last = start + (here - 1) * elem_size + self.link
            services.memory.put_u64(per_cpu_ptr(services, self.heads, cpu), last)
            start += here * elem_size

    def _link_run(self, services: Services, start: int, elem_size: int, count: int) -> None:
        """Make each element's node point at the element before it, the first one's at nothing."""
        words, column = elem_size // 8, self.link // 8
        block = array("Q", bytes(min(_CHUNK, count) * elem_size))
        for done in range(0, count, _CHUNK):
            here = min(_CHUNK, count - done)
            first = start + (done - 1) * elem_size + self.link
            links = array("Q", range(first, first + here * elem_size, elem_size))
            if not done:
                links[0] = 0
            block[column : here * words : words] = links
            services.memory.write(start + done * elem_size, memoryview(block)[: here * words].cast("B"))

    def push(self, services: Services, elem: int) -> None:
        """Give ``elem`` to the running CPU's list."""
        head = per_cpu_ptr(services, self.heads, services.cpu.this_cpu)
        services.memory.put_u64(elem + self.link, services.memory.u64(head))
        services.memory.put_u64(head, elem + self.link)

    def pop(self, services: Services) -> int:
        """Take an element from the running CPU's list, else from the next CPU's that has one; 0 for none."""
        this = services.cpu.this_cpu
        for step in range(self.nr_cpus):
            head = per_cpu_ptr(services, self.heads, (this + step) % self.nr_cpus)
            node = services.memory.u64(head)
            if node:
                services.memory.put_u64(head, services.memory.u64(node))
                return node - self.link
        return 0
