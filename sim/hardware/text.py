# SPDX-License-Identifier: GPL-2.0-only
"""Kernel text in memory: symbols, room for JIT images, and text_poke()."""

from __future__ import annotations

import bisect
import errno
from collections.abc import Callable, Mapping, Sequence

from kernel_model.errors import KernelError

from .address_map import JIT_IMAGES, JIT_PHYS, JIT_SIZE, KERNEL_TEXT, PAGE_SIZE, TEXT_PHYS, TEXT_SIZE
from .paging import PageTables

_CHUNK = 64  # bpf_prog_pack hands out whole cache lines
_INT3 = 0xCC


class KernelTextArea:
    """kernel_model.ports.Text. Plain data but for what :meth:`bind` plugs in."""

    def __init__(self) -> None:
        self._symbols: dict[str, int] = {}
        self._sizes: dict[int, tuple[str, int]] = {}
        self._sorted: list[int] = []
        self._free: list[tuple[int, int]] = [(JIT_IMAGES, JIT_IMAGES + JIT_SIZE)]
        self._images: dict[int, int] = {}
        self._mapped_end = JIT_IMAGES

    def bind(self, view: memoryview, tables: PageTables, invalidate: Callable[[int, int], None]) -> None:
        """``view`` is RAM; ``invalidate(addr, size)`` drops what the CPU translated there."""
        self._view = view
        self._tables = tables
        self._invalidate = invalidate

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in _BOUND}

    def install_kernel(self, code: bytes, symbols: Mapping[str, tuple[int, int]]) -> None:
        """Put the kernel's own text in place (once, at boot)."""
        if len(code) > TEXT_SIZE:
            raise ValueError(f"kernel text of {len(code)} bytes exceeds {TEXT_SIZE}")
        self._view[TEXT_PHYS : TEXT_PHYS + len(code)] = code
        root = self._tables.kernel_root
        for off in range(0, len(code), PAGE_SIZE):
            self._tables.map_page(root, KERNEL_TEXT + off, TEXT_PHYS + off, writable=False, executable=True)
        for name, (addr, size) in symbols.items():
            self.add_symbol(name, addr, size)

    def symbol(self, name: str) -> int:
        """The address of a symbol; KeyError."""
        return self._symbols[name]

    def symbols(self) -> Mapping[str, int]:
        """All of them."""
        return self._symbols

    def add_symbol(self, name: str, addr: int, size: int) -> None:
        """Make ``name`` known (kallsyms). A name already taken gets a number: two programs may share one."""
        unique, number = name, 1
        while unique in self._symbols:
            number += 1
            unique = f"{name}.{number}"
        self._symbols[unique] = addr
        if addr not in self._sizes:
            bisect.insort(self._sorted, addr)
        self._sizes[addr] = (unique, size)

    def lookup(self, addr: int) -> tuple[str, int] | None:
        """The symbol that holds ``addr``, and the offset into it."""
        index = bisect.bisect_right(self._sorted, addr) - 1
        if index < 0:
            return None
        start = self._sorted[index]
        name, size = self._sizes[start]
        return (name, addr - start) if addr < start + max(size, 1) else None

    def allocate(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Room for JIT images; KernelError(ENOMEM) when the area is full (bpf_jit_limit)."""
        taken: list[int] = []
        try:
            for size in sizes:
                taken.append(self._allocate(size))
        except KernelError:
            for addr in taken:
                self.free(addr)
            raise
        return tuple(taken)

    def _allocate(self, size: int) -> int:
        size = -(-max(size, 1) // _CHUNK) * _CHUNK
        for index, (start, end) in enumerate(self._free):
            if start + size <= end:
                self._free[index : index + 1] = [(start + size, end)] if start + size < end else []
                self._images[start] = size
                self._map_up_to(start + size)
                return start
        raise KernelError(errno.ENOMEM, "the area for JIT images is full")

    def _map_up_to(self, end: int) -> None:
        while self._mapped_end < end:
            phys = self._mapped_end - JIT_IMAGES + JIT_PHYS
            self._view[phys : phys + PAGE_SIZE] = bytes([_INT3]) * PAGE_SIZE
            self._tables.map_page(
                self._tables.kernel_root, self._mapped_end, phys, writable=False, executable=True
            )
            self._mapped_end += PAGE_SIZE

    def poke(self, addr: int, code: bytes) -> None:
        """text_poke(): change code and drop its translation. ValueError outside kernel text and images."""
        end = addr + len(code)
        if addr >= KERNEL_TEXT and end <= KERNEL_TEXT + TEXT_SIZE:
            phys = addr - KERNEL_TEXT + TEXT_PHYS
        elif addr >= JIT_IMAGES and end <= self._mapped_end:
            phys = addr - JIT_IMAGES + JIT_PHYS
        else:
            raise ValueError(f"{addr:#x} is not kernel text")
        self._view[phys : phys + len(code)] = code
        self._invalidate(addr, len(code))

    def free(self, addr: int) -> None:
        """Give an image back: the symbols in it go, its bytes become traps."""
        size = self._images.pop(addr)
        self.poke(addr, bytes([_INT3]) * size)
        first, last = bisect.bisect_left(self._sorted, addr), bisect.bisect_left(self._sorted, addr + size)
        for place in self._sorted[first:last]:
            del self._symbols[self._sizes.pop(place)[0]]
        del self._sorted[first:last]
        self._free.append((addr, addr + size))
        self._free.sort()
        joined: list[tuple[int, int]] = []
        for start, end in self._free:
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self._free = joined


_BOUND = frozenset(("_view", "_tables", "_invalidate"))
