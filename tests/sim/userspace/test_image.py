# SPDX-License-Identifier: GPL-2.0-only
"""Static executables: what exec gets of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from elf_writer import EM_BPF, ET_DYN, ET_REL, executable

import guests
from sim.userspace.image import PF_R, PF_W, PF_X, ImageError, parse_image, read_image

CODE = b"\x0f\x05" * 8
RX, RW = PF_R | PF_X, PF_R | PF_W


def test_the_bundled_controller() -> None:
    image = read_image(guests.path("controller.elf"))
    assert [(s.vaddr, s.flags) for s in image.segments] == [(0x400000, PF_R), (0x401000, RX)]
    names = {name: addr for name, addr, _ in image.symbols}
    assert names["_start"] == image.entry
    assert "controller" in names
    assert not image.executable_stack
    assert image.phdr == 0x400040
    assert image.brk == 0x402000
    # AT_PHDR must point at the program headers as they lie in memory.
    first = image.segments[0].data
    assert first[:4] == b"\x7fELF"
    assert int.from_bytes(first[image.phdr - 0x400000 :][:4], "little") == 6


def test_segments_keep_their_zeroed_tail() -> None:
    data = executable(
        [(0x600000, b"data", 0x3000, RW), (0x400000, CODE, len(CODE), RX)],
        0x400002,
        extra=[(0x6474E551, 0, b"", 0, RW)],
    )
    image = parse_image(data, "a.elf")
    assert [(s.vaddr, s.data, s.memsz) for s in image.segments] == [
        (0x400000, CODE, len(CODE)),
        (0x600000, b"data", 0x3000),
    ]
    assert (image.entry, image.brk, image.phnum) == (0x400002, 0x603000, 3)


def test_without_a_stack_header_the_stack_is_executable() -> None:
    assert parse_image(executable([(0x400000, CODE, len(CODE), RX)], 0x400000), "a.elf").executable_stack


def _one(vaddr: int = 0x400000, memsz: int = len(CODE), flags: int = RX, entry: int = 0x400000) -> bytes:
    return executable([(vaddr, CODE, memsz, flags)], entry)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "a script": (lambda: b"#!/bin/sh\n", "not an ELF file"),
    "an object": (lambda: executable([(0x400000, CODE, 16, RX)], 0x400000, kind=ET_REL), "not an executable"),
    "a shared object": (lambda: executable([(0, CODE, 16, RX)], 0, kind=ET_DYN), "only static executables"),
    "another machine": (lambda: executable([(0x400000, CODE, 16, RX)], 0x400000, machine=EM_BPF), "EM_BPF"),
    "an interpreter": (
        lambda: executable(
            [(0x400000, CODE, 16, RX)], 0x400000, extra=[(3, 0x500000, b"/lib/ld.so\0", 11, PF_R)]
        ),
        "dynamically linked",
    ),
    "nothing to load": (lambda: executable([], 0), "no segment to load"),
    "more file than memory": (lambda: _one(memsz=4), "more bytes than memory"),
    "kernel address": (lambda: _one(vaddr=0xFFFF800000000000), "outside the user's address space"),
    "page zero": (lambda: _one(vaddr=0x1000, entry=0x1000), "outside the user's address space"),
    "wraps around": (lambda: _one(memsz=(1 << 64) - 0x1000), "outside the user's address space"),
    "writable code": (lambda: _one(flags=RX | PF_W), "both writable and executable"),
    "shared page": (
        lambda: executable([(0x400000, CODE, 16, RX), (0x400800, CODE, 16, RW)], 0x400000),
        "share a page",
    ),
    "entry outside": (lambda: _one(entry=0x400010), "in no executable segment"),
    "entry in data": (
        lambda: executable([(0x400000, CODE, 16, RX), (0x500000, CODE, 16, RW)], 0x500000),
        "in no executable segment",
    ),
    "cut": (lambda: _one()[:-8], "truncated in the PT_LOAD segment at 0x400000"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_end_in_one_line(name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(ImageError) as caught:
        parse_image(make(), "bad.elf")
    text = str(caught.value)
    assert text.startswith("bad.elf: ")
    assert words in text
    assert text.isprintable()


def test_damaged_images_raise_nothing_else() -> None:
    rnd = random.Random(3)
    good = guests.path("controller.elf").read_bytes()
    failed = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rnd.choice((1, 3))):
            data[rnd.randrange(64 + 4 * 56)] = rnd.randrange(256)
        try:
            parse_image(bytes(data), "bad.elf")
        except ImageError:
            failed += 1
    assert failed > 50
