# SPDX-License-Identifier: GPL-2.0-only
"""Machine code for tests: kernel functions put into a running machine, and ring-3 programs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from jit_x86.assembler import assemble
from sim import Machine

CODE, DATA = 0x401000, 0x601000
EXIT = "mov edi, eax; mov eax, 60; syscall"
"""Ends a ring-3 program with the low byte of rax as its exit code."""


@contextmanager
def kernel_code(machine: Machine, source: str | bytes) -> Iterator[int]:
    """A kernel function from assembler text or bytes; its address, as long as the block lasts."""
    text = machine.kernel.text
    size = len(source) if isinstance(source, bytes) else len(assemble(source, 0xFFFFFFFFC0000000))
    (addr,) = text.allocate([size + 16])
    text.poke(addr, source if isinstance(source, bytes) else assemble(source, addr))
    try:
        yield addr
    finally:
        text.free(addr)


def run_kernel(machine: Machine, source: str | bytes, *args: int) -> int:
    """Call such a function once; RAX."""
    with kernel_code(machine, source) as addr:
        return machine.kernel.cpu.call(addr, *args)


def elf(code: str | bytes, data: bytes = b"") -> bytes:
    """A static executable: ``code`` at CODE (its entry), ``data`` at DATA, which may be written."""
    raw = code if isinstance(code, bytes) else assemble(code, CODE)
    segments = [(5, CODE, raw)] + ([(6, DATA, data)] if data else [])
    contents = b""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        *(2, 62, 1, CODE, 64, 0, 0, 64, 56, len(segments), 0, 0, 0),
    )
    for flags, vaddr, part in segments:
        offset = 0x1000 + len(contents)
        header += struct.pack("<IIQQQQQQ", 1, flags, offset, vaddr, vaddr, len(part), len(part), 0x1000)
        contents += part.ljust(-(-len(part) // 0x1000) * 0x1000, b"\0")
    return header.ljust(0x1000, b"\0") + contents
