# SPDX-License-Identifier: GPL-2.0-only
"""A process's memory: areas (what may be there), pages on demand, and copies to and from user space."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KernelError, MemoryFault
from .pages import PAGE_SIZE

if TYPE_CHECKING:
    from ..kernel import Kernel

USER_END = 0x0000_7FFF_FFFF_F000
MMAP_BASE = 0x0000_7F00_0000_0000
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4


@dataclass
class Area:
    """A mapped range ``[start, end)`` with PROT_* rights (struct vm_area_struct)."""

    start: int
    end: int
    prot: int
    name: str = ""


class AddressSpace:
    """The user half of one process. Plain data: areas, the frames that back touched pages, a root."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.areas: list[Area] = []
        self.frames: dict[int, int] = {}
        self.next_mmap = MMAP_BASE

    def find(self, addr: int) -> Area | None:
        """The area that holds ``addr``."""
        return next((area for area in self.areas if area.start <= addr < area.end), None)

    def map_area(self, size: int, prot: int, addr: int = 0, name: str = "") -> int:
        """Reserve ``size`` bytes (rounded to pages), demand-zero; returns the address.

        At ``addr`` when given (page-aligned, free: else EINVAL/EEXIST), otherwise at the next free place.
        """
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        if size <= 0:
            raise KernelError(errno.EINVAL, "empty mapping")
        if addr % PAGE_SIZE or addr < 0 or addr + size > USER_END:
            raise KernelError(errno.EINVAL, f"bad mapping address {addr:#x}")
        if not addr:
            addr = self.next_mmap
            if addr + size > USER_END:
                raise KernelError(errno.ENOMEM, "address space is full")
            self.next_mmap = addr + size + PAGE_SIZE  # a guard page between areas
        elif any(area.start < addr + size and addr < area.end for area in self.areas):
            raise KernelError(errno.EEXIST, f"{addr:#x} is mapped already")
        self.areas.append(Area(addr, addr + size, prot, name))
        return addr

    def unmap(self, kernel: Kernel, addr: int, size: int) -> None:
        """Remove ``[addr, addr + size)``; areas are cut, their frames freed."""
        end = addr + -(-size // PAGE_SIZE) * PAGE_SIZE
        kept: list[Area] = []
        for area in self.areas:
            if area.end <= addr or end <= area.start:
                kept.append(area)
                continue
            if area.start < addr:
                kept.append(Area(area.start, addr, area.prot, area.name))
            if end < area.end:
                kept.append(Area(end, area.end, area.prot, area.name))
        self.areas = kept
        for page in [page for page in self.frames if addr <= page < end]:
            kernel.paging.unmap_page(self.root, page)
            kernel.alloc.pages.free(self.frames.pop(page))

    def fault(self, kernel: Kernel, addr: int, kind: str) -> bool:
        """Handle a user page fault: populate the page when the area allows it; False for SIGSEGV."""
        area = self.find(addr)
        needed = {"read": PROT_READ, "write": PROT_WRITE, "fetch": PROT_EXEC}[kind]
        if area is None or not area.prot & needed:
            return False
        page = addr & ~(PAGE_SIZE - 1)
        if page in self.frames:
            return False
        self._populate(kernel, page, area)
        return True

    def _populate(self, kernel: Kernel, page: int, area: Area) -> int:
        frame = kernel.alloc.pages.alloc()
        kernel.physical[frame : frame + PAGE_SIZE] = bytes(PAGE_SIZE)
        self.frames[page] = frame
        kernel.paging.map_page(
            self.root,
            page,
            frame,
            writable=bool(area.prot & PROT_WRITE),
            user=True,
            executable=bool(area.prot & PROT_EXEC),
        )
        return frame

    def _frame(self, kernel: Kernel, page: int, write: bool, force: bool) -> int:
        frame = self.frames.get(page)
        area = self.find(page)
        if area is None or (not force and not area.prot & (PROT_WRITE if write else PROT_READ)):
            raise MemoryFault(page, "write" if write else "read", user=True)
        return self._populate(kernel, page, area) if frame is None else frame

    def read(self, kernel: Kernel, addr: int, size: int) -> bytes:
        """Copy from user space; MemoryFault at the first page that may not be read."""
        parts = []
        while size > 0:
            page, off = addr & ~(PAGE_SIZE - 1), addr & (PAGE_SIZE - 1)
            part = min(size, PAGE_SIZE - off)
            frame = self._frame(kernel, page, write=False, force=False)
            parts.append(bytes(kernel.physical[frame + off : frame + off + part]))
            addr += part
            size -= part
        return b"".join(parts)

    def check_writable(self, addr: int, size: int) -> None:
        """MemoryFault at the first byte of the range that may not be written."""
        end = addr + size
        while addr < end:
            area = self.find(addr)
            if area is None or not area.prot & PROT_WRITE:
                raise MemoryFault(addr, "write", user=True)
            addr = area.end

    def write(self, kernel: Kernel, addr: int, data: bytes, force: bool = False) -> None:
        """Copy to user space; MemoryFault where the page may not be written (``force``: loading code)."""
        done = 0
        while done < len(data):
            page, off = addr & ~(PAGE_SIZE - 1), addr & (PAGE_SIZE - 1)
            part = min(len(data) - done, PAGE_SIZE - off)
            frame = self._frame(kernel, page, write=True, force=force)
            kernel.physical[frame + off : frame + off + part] = data[done : done + part]
            addr += part
            done += part

    def free(self, kernel: Kernel) -> None:
        """Give back every frame and the page tables."""
        for frame in self.frames.values():
            kernel.alloc.pages.free(frame)
        self.frames.clear()
        self.areas.clear()
        kernel.paging.free_user_half(self.root)
