# SPDX-License-Identifier: GPL-2.0-only
"""A process's memory: areas (what may be there), pages on demand, and copies to and from user space."""

from __future__ import annotations

import bisect
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KernelError, MemoryFault
from .pages import PAGE_SIZE

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..objects import File

USER_END = 0x0000_7FFF_FFFF_F000
MMAP_BASE = 0x0000_7F00_0000_0000
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
# What an access needs of its area. x86 pages have no right to read of their own: all that is mapped
# with any right is readable.
_NEEDED = {"read": PROT_READ | PROT_WRITE | PROT_EXEC, "write": PROT_WRITE, "fetch": PROT_EXEC}


@dataclass(eq=False)
class Backing:
    """Memory of a kernel object that areas show: its page frames, by number from the mapping's start.

    Each area holds a reference to ``file``, and the object is told of areas that may write.
    """

    file: File
    frames: tuple[int, ...]
    writable: bool

    def open(self) -> None:
        """An area more."""
        self.file.get()
        self.file.obj.vma_open(self.writable)

    def close(self, kernel: Kernel) -> None:
        """An area less."""
        self.file.obj.vma_close(self.writable)
        self.file.obj.vma_closed(kernel)
        self.file.put(kernel)


@dataclass
class Area:
    """A mapped range ``[start, end)`` with PROT_* rights (struct vm_area_struct).

    With a ``backing``, ``first`` is the number of its frame that lies at ``start``.
    """

    start: int
    end: int
    prot: int
    name: str = ""
    backing: Backing | None = None
    first: int = 0

    def part(self, start: int, end: int) -> Area:
        """What is left of the area when only ``[start, end)`` stays."""
        first = self.first + (start - self.start) // PAGE_SIZE
        return Area(start, end, self.prot, self.name, self.backing, first)


class AddressSpace:
    """The user half of one process. Plain data: areas, the frames that back touched pages, a root."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.frames: dict[int, int] = {}
        self.borrowed: set[int] = set()
        """Pages whose frames belong to a backing."""
        self._areas: list[Area] = []
        self._starts: list[int] = []
        self.mapped = 0
        """Bytes in all areas."""
        self._next_mmap = MMAP_BASE

    @property
    def areas(self) -> tuple[Area, ...]:
        """All areas by address."""
        return tuple(self._areas)

    def find(self, addr: int) -> Area | None:
        """The area that holds ``addr``."""
        index = bisect.bisect_right(self._starts, addr) - 1
        return self._areas[index] if index >= 0 and addr < self._areas[index].end else None

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        """The areas that touch ``[start, end)``, as a range of indices."""
        first = bisect.bisect_right(self._starts, start)
        if first and self._areas[first - 1].end > start:
            first -= 1
        return first, max(first, bisect.bisect_left(self._starts, end))

    def map_area(
        self, size: int, prot: int, addr: int = 0, name: str = "", backing: Backing | None = None
    ) -> int:
        """Reserve ``size`` bytes (rounded to pages), demand-zero or with a backing; returns the address.

        At ``addr`` when given (page-aligned, free: else EINVAL/EEXIST), otherwise at the next free place
        (ENOMEM when there is none). KernelError(ESRCH) when the process has exited.
        """
        if not self.root:
            raise KernelError(errno.ESRCH, "the process has exited")
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        if size <= 0:
            raise KernelError(errno.EINVAL, "empty mapping")
        if addr % PAGE_SIZE or addr < 0 or (addr and addr + size > USER_END):
            raise KernelError(errno.EINVAL, f"bad mapping address {addr:#x}")
        if not addr:
            addr = self._free_place(size)
            self._next_mmap = addr + size + PAGE_SIZE  # a guard page between areas
        first, end = self._overlapping(addr, addr + size)
        if first != end:
            raise KernelError(errno.EEXIST, f"{addr:#x} is mapped already")
        if backing is not None:
            backing.open()
        self._replace(first, first, [Area(addr, addr + size, prot, name, backing)])
        return addr

    def _free_place(self, size: int) -> int:
        """Above everything mapped by this rule before; past areas that were put there by address."""
        addr = self._next_mmap
        while addr + size <= USER_END:
            first, end = self._overlapping(addr, addr + size)
            if first == end:
                return addr
            addr = self._areas[end - 1].end
        raise KernelError(errno.ENOMEM, "address space is full")

    def _replace(self, first: int, end: int, areas: list[Area]) -> None:
        self.mapped += sum(area.end - area.start for area in areas)
        self.mapped -= sum(area.end - area.start for area in self._areas[first:end])
        self._areas[first:end] = areas
        self._starts[first:end] = [area.start for area in areas]

    def unmap(self, kernel: Kernel, addr: int, size: int) -> None:
        """Remove ``[addr, addr + size)``; areas are cut, their frames freed."""
        stop = addr + -(-size // PAGE_SIZE) * PAGE_SIZE
        first, end = self._overlapping(addr, stop)
        kept: list[Area] = []
        gone = self._areas[first:end]
        for area in gone:
            if area.start < addr:
                kept.append(area.part(area.start, addr))
            if stop < area.end:
                kept.append(area.part(stop, area.end))
        for area in kept:
            if area.backing is not None:
                area.backing.open()
        self._replace(first, end, kept)
        for page in [page for page in self.frames if addr <= page < stop]:
            kernel.paging.unmap_page(self.root, page)
            self._put_frame(kernel, page)
        for area in gone:
            if area.backing is not None:
                area.backing.close(kernel)

    def _put_frame(self, kernel: Kernel, page: int) -> None:
        frame = self.frames.pop(page)
        if page in self.borrowed:
            self.borrowed.remove(page)
        else:
            kernel.alloc.pages.free(frame)

    def fault(self, kernel: Kernel, addr: int, kind: str) -> bool:
        """Handle a user page fault: populate the page when the area allows it; False for SIGSEGV."""
        area = self.find(addr)
        if area is None or not area.prot & _NEEDED[kind]:
            return False
        page = addr & ~(PAGE_SIZE - 1)
        if page in self.frames:
            return False
        self._populate(kernel, page, area)
        return True

    def _populate(self, kernel: Kernel, page: int, area: Area) -> int:
        if area.backing is not None:
            frame = area.backing.frames[area.first + (page - area.start) // PAGE_SIZE]
            self.borrowed.add(page)
        else:
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

    def _frame(self, kernel: Kernel, addr: int, kind: str, force: bool = False) -> int:
        area = self.find(addr)
        if area is None or not (force or area.prot & _NEEDED[kind]):
            raise MemoryFault(addr, kind, user=True)
        page = addr & ~(PAGE_SIZE - 1)
        frame = self.frames.get(page)
        return self._populate(kernel, page, area) if frame is None else frame

    def read(self, kernel: Kernel, addr: int, size: int, populate: bool = True) -> bytes:
        """Copy from user space; MemoryFault at the first byte that may not be read.

        Without ``populate``, pages of their own that were never touched are not made present: they read
        zero.
        """
        self._check(addr, size, "read")
        parts = []
        while size > 0:
            page, off = addr & ~(PAGE_SIZE - 1), addr & (PAGE_SIZE - 1)
            part = min(size, PAGE_SIZE - off)
            if populate or page in self.frames or self._backed(page):
                frame = self._frame(kernel, addr, "read")
                parts.append(bytes(kernel.physical[frame + off : frame + off + part]))
            else:
                parts.append(bytes(part))
            addr += part
            size -= part
        return b"".join(parts)

    def _backed(self, page: int) -> bool:
        area = self.find(page)
        return area is not None and area.backing is not None

    def check_writable(self, addr: int, size: int) -> None:
        """MemoryFault at the first byte of the range that may not be written."""
        self._check(addr, size, "write")

    def _check(self, addr: int, size: int, kind: str) -> None:
        end = addr + size
        while addr < end:
            area = self.find(addr)
            if area is None or not area.prot & _NEEDED[kind]:
                raise MemoryFault(addr, kind, user=True)
            addr = area.end

    def write(self, kernel: Kernel, addr: int, data: bytes, force: bool = False) -> None:
        """Copy to user space; MemoryFault where the page may not be written (``force``: loading code)."""
        done = 0
        while done < len(data):
            off = addr & (PAGE_SIZE - 1)
            part = min(len(data) - done, PAGE_SIZE - off)
            frame = self._frame(kernel, addr, "write", force)
            kernel.physical[frame + off : frame + off + part] = data[done : done + part]
            addr += part
            done += part

    def free(self, kernel: Kernel) -> None:
        """Give back every frame and the page tables; nothing can be mapped any more."""
        for page in list(self.frames):
            self._put_frame(kernel, page)
        gone = list(self._areas)
        self._replace(0, len(self._areas), [])
        kernel.paging.free_user_half(self.root)
        self.root = 0
        for area in gone:
            if area.backing is not None:
                area.backing.close(kernel)
