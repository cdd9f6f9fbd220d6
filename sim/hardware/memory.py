# SPDX-License-Identifier: GPL-2.0-only
"""Physical memory: one private host mapping that the emulated CPU and Python share.

The mapping is copy-on-write over a memory file. A snapshot keeps the file and a copy of the pages written
since it was mapped; restoring maps the file again, which drops every later write, and puts those back.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Sequence

from kernel_model.errors import MemoryFault

from .address_map import CODE_PHYS_END, DIRECT_MAP, PAGE_SIZE, USER_END
from .paging import PageTables

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
_RW = mmap.PROT_READ | mmap.PROT_WRITE

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


_PRESENT, _SWAPPED, _FILE_OR_SHARED = 1 << 63, 1 << 62, 1 << 61
_REBASE_PAGES = 512
"""A snapshot that finds more changed pages than this writes them to a new file and maps that."""


class _BackingFile:
    """A memory file that holds RAM's contents at some moment; closed when nothing refers to it."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("bpfsim-ram")
        os.ftruncate(self.fd, size)

    def __del__(self) -> None:
        os.close(self.fd)

    def pages(self, limit: int) -> Iterator[int]:
        """Addresses of the pages below ``limit`` that may hold something else than zero."""
        at = 0
        while at < limit:
            try:
                at = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return
            end = os.lseek(self.fd, at, os.SEEK_HOLE)
            yield from range(at & -PAGE_SIZE, min(end, limit), PAGE_SIZE)
            at = end


class MemoryImage:
    """A frozen copy of physical memory: a file that may be shared with other images, and what changed
    since. It lives as long as something refers to it."""

    def __init__(self, base: _BackingFile, changed: Sequence[int], contents: bytes) -> None:
        self.base = base
        self.changed = changed
        self.contents = contents


class PhysicalMemory:
    """``size`` bytes of RAM, zero at first. ``view`` is the memory as a memoryview of bytes."""

    def __init__(self, size: int) -> None:
        if size % PAGE_SIZE:
            raise ValueError(f"RAM size {size} is no multiple of {PAGE_SIZE}")
        self.size = size
        self._base: _BackingFile | None = _BackingFile(size)
        self.addr = self._map(None)
        self._buffer = (ctypes.c_ubyte * size).from_address(self.addr)
        self.view = memoryview(self._buffer).cast("B")

    def _map(self, at: int | None) -> int:
        assert self._base is not None
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE | (_MAP_FIXED if at is not None else 0)
        addr = _LIBC.mmap(at, self.size, _RW, flags, self._base.fd, 0)
        if addr in (None, _MAP_FAILED):
            raise OSError(ctypes.get_errno(), "cannot map the machine's RAM")
        return int(addr)

    def close(self) -> None:
        """Unmap; the object and every view taken from it must not be used afterwards."""
        if self._base is not None:
            self._base = None
            self.view.release()
            _LIBC.munmap(self.addr, self.size)

    def _changed(self, limit: int) -> list[int]:
        """Addresses of the pages below ``limit`` that were written since the file was mapped.

        The host's page map tells: a page of a private mapping that was written is the process's own and
        no longer the file's. Where it may not be read, every page counts as written.
        """
        count = -(-limit // PAGE_SIZE)
        entries = array("Q")
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek(self.addr // PAGE_SIZE * 8)
                entries.frombytes(pagemap.read(8 * count))
        except OSError:
            return list(range(0, count * PAGE_SIZE, PAGE_SIZE))
        return [
            index * PAGE_SIZE
            for index, entry in enumerate(entries)
            if entry >= _SWAPPED and not entry & _FILE_OR_SHARED
        ]

    def snapshot(self, used: int) -> MemoryImage:
        """Freeze the first ``used`` bytes (nothing above was ever written)."""
        assert self._base is not None
        changed = self._changed(used)
        if len(changed) > _REBASE_PAGES:
            self._rebase(changed, used)
            changed = []
        view = self.view
        contents = b"".join([view[at : at + PAGE_SIZE] for at in changed])
        return MemoryImage(self._base, changed, contents)

    def _rebase(self, changed: Sequence[int], used: int) -> None:
        """Write the contents to a new file and map that, so that nothing counts as changed."""
        assert self._base is not None
        pages = sorted({*changed, *self._base.pages(used)})
        base = _BackingFile(self.size)
        for first, end in _runs(pages):
            done = first
            while done < end:
                done += os.pwrite(base.fd, self.view[done:end], done)
        self._base = base
        self._map(self.addr)

    def restore(self, image: MemoryImage) -> None:
        """Make the memory what it was when ``image`` was taken."""
        self._base = image.base
        self._map(self.addr)
        contents = memoryview(image.contents)
        for index, at in enumerate(image.changed):
            self.view[at : at + PAGE_SIZE] = contents[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]

    def save_pages(self, used: int) -> dict[int, bytes]:
        """The non-zero pages below ``used`` by physical address: the portable form of the contents."""
        assert self._base is not None
        zero = bytes(PAGE_SIZE)
        pages = {}
        for at in sorted({*self._changed(used), *self._base.pages(used)}):
            page = bytes(self.view[at : at + PAGE_SIZE])
            if page != zero:
                pages[at] = page
        return pages

    def load_pages(self, pages: dict[int, bytes]) -> None:
        """Fill fresh memory with what :meth:`save_pages` gave."""
        for at, page in pages.items():
            self.view[at : at + PAGE_SIZE] = page


def _runs(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending page addresses as ``[first, end)`` ranges without holes."""
    first = end = -1
    for at in pages:
        if at != end:
            if end > 0:
                yield first, end
            first = at
        end = at + PAGE_SIZE
    if end > 0:
        yield first, end


class KernelMemory:
    """The kernel's view of memory (kernel_model.ports.Memory): virtual addresses, supervisor rights.

    The direct map is an offset into RAM; every other address is walked through the kernel's page tables.
    """

    def __init__(self, ram: PhysicalMemory, tables: PageTables) -> None:
        self._view = ram.view
        self._size = ram.size
        self._tables = tables
        self._pages: dict[int, tuple[int, bool]] = {}
        self._generation = tables.generation

    def _page(self, page: int) -> tuple[int, bool] | None:
        """Physical address and writability of a kernel page outside the direct map, remembered."""
        if self._generation != self._tables.generation:
            self._pages.clear()
            self._generation = self._tables.generation
        found = self._pages.get(page)
        if found is None and page >= USER_END // PAGE_SIZE:
            entry = self._tables.walk(self._tables.kernel_root, page * PAGE_SIZE)
            if entry is not None:
                found = self._pages[page] = (entry.phys, entry.writable)
        return found

    def _walk(self, addr: int, size: int, write: bool) -> int:
        """Physical address of ``addr``; MemoryFault unless all ``size`` bytes lie in one mapped page."""
        off = addr - DIRECT_MAP
        if 0 <= off <= self._size - size:
            if write and off < CODE_PHYS_END:
                raise MemoryFault(addr, "write")
            return off
        kind = "write" if write else "read"
        entry = self._page(addr // PAGE_SIZE)
        if entry is None or (write and not entry[1]) or (addr & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
            raise MemoryFault(addr, kind)
        return entry[0] + (addr & (PAGE_SIZE - 1))

    def _pieces(self, addr: int, size: int, write: bool) -> list[tuple[int, int]]:
        off = addr - DIRECT_MAP
        if 0 <= off <= self._size - size:
            return [(self._walk(addr, size, write), size)]
        pieces = []
        while size > 0:
            part = min(size, PAGE_SIZE - (addr & (PAGE_SIZE - 1)))
            pieces.append((self._walk(addr, part, write), part))
            addr += part
            size -= part
        return pieces

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes at ``addr``."""
        off = addr - DIRECT_MAP
        if not 0 <= off <= self._size - size:
            if not 0 < size <= PAGE_SIZE - (addr & (PAGE_SIZE - 1)):
                pieces = self._pieces(addr, size, False)
                return b"".join(bytes(self._view[at : at + part]) for at, part in pieces)
            off = self._walk(addr, size, False)
        return bytes(self._view[off : off + size])

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``addr``; all of it or, on a fault, nothing."""
        done = 0
        for at, part in self._pieces(addr, len(data), True):
            self._view[at : at + part] = data[done : done + part]
            done += part

    def fill(self, addr: int, size: int, byte: int = 0) -> None:
        """Set ``size`` bytes to ``byte``."""
        for at, part in self._pieces(addr, size, True):
            self._view[at : at + part] = bytes((byte,)) * part

    def u8(self, addr: int) -> int:
        off = addr - DIRECT_MAP
        if not 0 <= off < self._size:
            off = self._walk(addr, 1, False)
        return self._view[off]

    def u16(self, addr: int) -> int:
        return self._load(_U16, addr, 2)

    def u32(self, addr: int) -> int:
        return self._load(_U32, addr, 4)

    def u64(self, addr: int) -> int:
        return self._load(_U64, addr, 8)

    def _load(self, form: struct.Struct, addr: int, size: int) -> int:
        off = addr - DIRECT_MAP
        if not 0 <= off <= self._size - size:
            if (addr & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
                return int.from_bytes(self.read(addr, size), "little")
            off = self._walk(addr, size, False)
        value: int = form.unpack_from(self._view, off)[0]
        return value

    def put_u8(self, addr: int, value: int) -> None:
        off = addr - DIRECT_MAP
        if not CODE_PHYS_END <= off < self._size:
            off = self._walk(addr, 1, True)
        self._view[off] = value & 0xFF

    def put_u16(self, addr: int, value: int) -> None:
        self._store(_U16, addr, 2, value & 0xFFFF)

    def put_u32(self, addr: int, value: int) -> None:
        self._store(_U32, addr, 4, value & 0xFFFF_FFFF)

    def put_u64(self, addr: int, value: int) -> None:
        self._store(_U64, addr, 8, value & 0xFFFF_FFFF_FFFF_FFFF)

    def _store(self, form: struct.Struct, addr: int, size: int, value: int) -> None:
        off = addr - DIRECT_MAP
        if not CODE_PHYS_END <= off <= self._size - size:
            if (addr & (PAGE_SIZE - 1)) + size > PAGE_SIZE:
                self.write(addr, value.to_bytes(size, "little"))
                return
            off = self._walk(addr, size, True)
        form.pack_into(self._view, off, value)
