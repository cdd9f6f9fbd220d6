# SPDX-License-Identifier: GPL-2.0-only
"""The one module that owns page tables: real 4-level x86-64 tables in emulated memory.

Entries follow the Intel SDM, volume 3, chapter 5 ("Paging"). A table is named by the physical address
of its top level (what CR3 holds). The upper half of every address space is the kernel's, shared.
Whoever changes an entry that the CPU may have cached is told so by ``generation``: the CPU flushes its
TLB before it runs again whenever that number has moved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .address_map import LARGE_PAGE, PAGE_SIZE

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
LARGE = 1 << 7
GLOBAL = 1 << 8
NX = 1 << 63
_ADDR = 0x000F_FFFF_FFFF_F000
_ENTRIES = 512
_LEVELS = (39, 30, 21, 12)


class Walk(NamedTuple):
    """Where a virtual address leads: physical address, and the rights of all levels combined."""

    phys: int
    writable: bool
    user: bool
    executable: bool


class PageTables:
    """All page tables of the machine, in the physical memory ``view``."""

    def __init__(self, view: memoryview, alloc_frame: Callable[[], int], free_frame: Callable[[int], None]):
        self._entries = view.cast("Q")
        self._alloc = alloc_frame
        self._free = free_frame
        self.generation = 0
        self.code_generation = 0
        """Moves when user code appears at, or goes from, a page: what was translated there is stale."""
        self.kernel_root = 0

    def close(self) -> None:
        """Drop the view of physical memory (before the memory is unmapped)."""
        self._entries.release()

    def _table(self, entry_at: int, user: bool) -> int:
        entry = self._entries[entry_at]
        if not entry & PRESENT:
            entry = self._alloc() | PRESENT | WRITE | (USER if user else 0)
            self._entries[entry_at] = entry
        return entry & _ADDR

    def new_root(self) -> int:
        """A new address space: an empty user half, the kernel's upper half."""
        root = self._alloc()
        if self.kernel_root:
            half = _ENTRIES // 2
            top, kernel = root >> 3, self.kernel_root >> 3
            self._entries[top + half : top + _ENTRIES] = self._entries[kernel + half : kernel + _ENTRIES]
        return root

    def make_kernel_root(self, regions: tuple[int, ...]) -> int:
        """The kernel's own address space. Each region's top-level slot gets its table now, so that all
        spaces made from it later share every change below."""
        root = self._alloc()
        for addr in regions:
            self._table((root >> 3) + ((addr >> _LEVELS[0]) & (_ENTRIES - 1)), user=False)
        self.kernel_root = root
        return root

    def map_page(
        self, root: int, addr: int, phys: int, writable: bool, user: bool = False, executable: bool = False
    ) -> None:
        """Map the 4 KiB page at ``addr`` (replacing what was there).

        ValueError for a page that would be writable and executable.
        """
        if writable and executable:
            raise ValueError(f"page {addr:#x} cannot be both writable and executable")
        if executable and user:
            self.code_generation += 1
        at = self._leaf(root, addr, 12, user)
        flags = PRESENT | (WRITE if writable else 0) | (USER if user else 0) | (0 if executable else NX)
        self._set(at, phys | flags)

    def map_large(self, root: int, addr: int, phys: int, writable: bool) -> None:
        """Map 2 MiB of kernel data (never executable)."""
        if (addr | phys) % LARGE_PAGE:
            raise ValueError(f"large page {addr:#x} -> {phys:#x} is not aligned")
        at = self._leaf(root, addr, 21, user=False)
        self._set(at, phys | PRESENT | LARGE | NX | (WRITE if writable else 0))

    def unmap_page(self, root: int, addr: int) -> None:
        """Remove a 4 KiB mapping; nothing happens where there is none."""
        at = self._find(root, addr)
        if at is not None:
            self._set(at, 0)

    def _set(self, at: int, entry: int) -> None:
        if self._entries[at] & PRESENT:
            self.generation += 1
        self._entries[at] = entry

    def _leaf(self, root: int, addr: int, last: int, user: bool) -> int:
        table = root
        for shift in _LEVELS:
            at = (table >> 3) + ((addr >> shift) & (_ENTRIES - 1))
            if shift == last:
                return at
            table = self._table(at, user)
        raise AssertionError(last)

    def _find(self, root: int, addr: int) -> int | None:
        table = root
        for shift in _LEVELS:
            at = (table >> 3) + ((addr >> shift) & (_ENTRIES - 1))
            entry = self._entries[at]
            if not entry & PRESENT:
                return None
            if shift == 12 or entry & LARGE:
                return at
            table = entry & _ADDR
        return None

    def walk(self, root: int, addr: int) -> Walk | None:
        """What the CPU's page walk would find at ``addr``; None when nothing is mapped."""
        if not -(1 << 47) <= (addr if addr < 1 << 63 else addr - (1 << 64)) < 1 << 47:
            return None
        table, rights, nx = root, WRITE | USER, 0
        for shift in _LEVELS:
            entry = self._entries[(table >> 3) + ((addr >> shift) & (_ENTRIES - 1))]
            if not entry & PRESENT:
                return None
            rights &= entry
            nx |= entry & NX
            if shift == 12 or entry & LARGE:
                mask = (1 << shift) - 1
                return Walk(
                    (entry & _ADDR & ~mask) | (addr & mask), bool(rights & WRITE), bool(rights & USER), not nx
                )
            table = entry & _ADDR
        return None

    def free_user_half(self, root: int) -> None:
        """Give back the tables of an address space (not the frames that its pages map)."""
        self._free_level(root, 0, range(_ENTRIES // 2))
        self._free(root)
        self.generation += 1

    def _free_level(self, table: int, level: int, indices: range) -> None:
        for index in indices:
            entry = self._entries[(table >> 3) + index]
            if entry & PRESENT and level < 3 and not entry & LARGE:
                child = entry & _ADDR
                self._free_level(child, level + 1, range(_ENTRIES if level < 2 else 0))
                self._free(child)


def pages(addr: int, size: int) -> range:
    """The page-aligned addresses that ``[addr, addr + size)`` touches."""
    return range(addr & ~(PAGE_SIZE - 1), addr + size, PAGE_SIZE)
