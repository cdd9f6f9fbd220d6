# SPDX-License-Identifier: GPL-2.0-only
"""vmap(): page frames in a row in kernel address space, whatever their physical addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .pages import PAGE_SIZE

if TYPE_CHECKING:
    from ..kernel import Kernel

_START = 64 << 30
"""Where mappings begin within vmalloc space; kernel stacks lie below."""


class Vmaps:
    """The mappings that there are: how many pages by address. Addresses are not used twice."""

    def __init__(self) -> None:
        self._next = _START
        self.live: dict[int, int] = {}

    def map(self, kernel: Kernel, pages: Sequence[int]) -> int:
        """Map the pages (addresses in the direct map) writable, one after the other; the address.

        A page may stand in several places. KernelError(ENOMEM) when a page table cannot be had.
        """
        addr = kernel.vmalloc_start + self._next
        done = 0
        try:
            for page in pages:
                frame = kernel.alloc.frame(page)
                at = addr + done * PAGE_SIZE
                kernel.paging.map_page(kernel.paging.kernel_root, at, frame, writable=True)
                done += 1
        finally:
            if done < len(pages):
                self._unmap(kernel, addr, done)
        # An unmapped page behind each mapping, as vmalloc leaves one.
        self._next += (len(pages) + 1) * PAGE_SIZE
        self.live[addr] = len(pages)
        return addr

    def unmap(self, kernel: Kernel, addr: int) -> None:
        """vunmap(): the mapping goes, its pages stay the caller's."""
        self._unmap(kernel, addr, self.live.pop(addr))

    @staticmethod
    def _unmap(kernel: Kernel, addr: int, count: int) -> None:
        for number in range(count):
            kernel.paging.unmap_page(kernel.paging.kernel_root, addr + number * PAGE_SIZE)
