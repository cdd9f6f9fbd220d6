# SPDX-License-Identifier: GPL-2.0-only
"""Static x86-64 programs: what execve(2) needs of an ELF file, checked as binfmt_elf does."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .elf import ElfError, ElfFile, read_file

PAGE_SIZE = 4096
TASK_SIZE = 0x0000_7FFF_FFFF_F000
"""End of the user half of the address space (4-level paging, less the guard page)."""
MMAP_MIN_ADDR = 0x10000

PF_X, PF_W, PF_R = 1, 2, 4


class ImageError(ElfError):
    """A file that cannot be executed: ``path``, ``section``, ``offset`` and ``cause``."""


@dataclass(frozen=True)
class ImageSegment:
    """A PT_LOAD segment: ``data`` goes to ``vaddr``, zeroes follow up to ``memsz`` bytes.

    ``flags`` are PF_R, PF_W and PF_X. Segments do not overlap and no page belongs to two of them.
    """

    vaddr: int
    data: bytes
    memsz: int
    flags: int


@dataclass(frozen=True)
class Image:
    """A program: its segments by rising address, where it begins, and the rights of its stack.

    ``phdr`` is the address of the program headers in memory (AT_PHDR; 0 when no segment holds them),
    ``symbols`` the functions by name, for backtraces.
    """

    path: str
    entry: int
    segments: tuple[ImageSegment, ...]
    symbols: tuple[tuple[str, int, int], ...] = ()
    executable_stack: bool = False
    phdr: int = 0
    phnum: int = 0

    @property
    def brk(self) -> int:
        """Where the heap begins: the first page behind the last segment."""
        last = self.segments[-1]
        return -(-(last.vaddr + last.memsz) // PAGE_SIZE) * PAGE_SIZE


def read_image(path: str | Path) -> Image:
    """Read a static executable; ImageError when the file is none, or cannot be opened."""
    return parse_image(read_file(path, ImageError), str(path))


def parse_image(data: bytes, path: str) -> Image:
    """The same for bytes already read; ``path`` is only a name for messages."""
    elf = ElfFile.parse(data, path, machine="EM_X86_64", error=ImageError)
    if elf.kind == "ET_DYN":
        raise elf.fail("", 16, "position-independent or shared; only static executables (ET_EXEC) run")
    if elf.kind != "ET_EXEC":
        raise elf.fail("", 16, f"of type {elf.kind}, not an executable")
    if any(s.kind in ("PT_INTERP", "PT_DYNAMIC") for s in elf.segments):
        raise elf.fail("", None, "dynamically linked; only static executables run")
    segments: list[ImageSegment] = []
    for segment in elf.segments:
        if segment.kind != "PT_LOAD" or not segment.memsz:
            continue
        if len(segment.data) > segment.memsz:
            raise elf.fail("", None, f"segment at {segment.vaddr:#x} has more bytes than memory")
        if not MMAP_MIN_ADDR <= segment.vaddr < segment.vaddr + segment.memsz <= TASK_SIZE:
            raise elf.fail("", None, f"segment at {segment.vaddr:#x} is outside the user's address space")
        if segment.flags & PF_W and segment.flags & PF_X:
            raise elf.fail("", None, f"segment at {segment.vaddr:#x} is both writable and executable")
        segments.append(ImageSegment(segment.vaddr, segment.data, segment.memsz, segment.flags))
    if not segments:
        raise elf.fail("", None, "no segment to load")
    segments.sort(key=lambda s: s.vaddr)
    for low, high in pairwise(segments):
        if (low.vaddr + low.memsz - 1) // PAGE_SIZE >= high.vaddr // PAGE_SIZE:
            raise elf.fail("", None, f"segments at {low.vaddr:#x} and {high.vaddr:#x} share a page")
    if not any(s.flags & PF_X and s.vaddr <= elf.entry < s.vaddr + len(s.data) for s in segments):
        raise elf.fail("", 24, f"entry {elf.entry:#x} is in no executable segment")
    stack = next((s for s in elf.segments if s.kind == "PT_GNU_STACK"), None)
    phoff = int.from_bytes(data[32:40], "little")
    holder = next((s for s in elf.segments if s.kind == "PT_PHDR"), None)
    return Image(
        path,
        elf.entry,
        tuple(segments),
        tuple(
            (s.name, s.value, s.size)
            for s in sorted(elf.symbols, key=lambda s: s.value)
            if s.kind in ("STT_FUNC", "STT_NOTYPE") and s.name and s.section
        ),
        bool(stack is None or stack.flags & PF_X),
        holder.vaddr if holder is not None else _phdr(data, phoff, segments),
        len(elf.segments),
    )


def _phdr(data: bytes, phoff: int, segments: list[ImageSegment]) -> int:
    """The address of the program headers when no PT_PHDR tells it: inside the segment of file offset 0."""
    for segment in segments:
        if data.startswith(segment.data[:64]) and phoff < len(segment.data):
            return segment.vaddr + phoff
    return 0
