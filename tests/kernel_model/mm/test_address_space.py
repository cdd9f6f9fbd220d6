# SPDX-License-Identifier: GPL-2.0-only
"""A process's memory: areas against a model of pages, and the system calls over them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.errors import KernelError, MemoryFault
from kernel_model.mm.address_space import (
    MMAP_BASE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    USER_END,
    AddressSpace,
)
from sim import Machine
from sim.process import Process

MMAP, MUNMAP, BRK = 9, 11, 12
RW, PRIVATE, FIXED, ANONYMOUS = 3, 2, 0x10, 0x20
PAGE = 4096

STEPS = st.lists(
    st.tuples(st.sampled_from(["map", "unmap", "touch"]), st.integers(0, 30), st.integers(1, 6)), max_size=30
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_areas_and_pages_agree_with_a_model(steps: list[tuple[str, int, int]]) -> None:
    with Machine.boot(nics=1) as machine:
        kernel = machine.kernel
        mm = AddressSpace(kernel.paging.new_root())
        used = machine._pages.used
        model: dict[int, bool] = {}
        """Page number to: was it written?"""
        for what, first, count in steps:
            addr, pages = first * PAGE + PAGE, range(first, first + count)
            if what == "map":
                if any(page in model for page in pages):
                    with pytest.raises(KernelError, match="EEXIST"):
                        mm.map_area(count * PAGE, RW, addr)
                else:
                    assert mm.map_area(count * PAGE, RW, addr) == addr
                    model |= dict.fromkeys(pages, False)
            elif what == "unmap":
                mm.unmap(kernel, addr, count * PAGE)
                for page in pages:
                    model.pop(page, None)
            elif all(page in model for page in pages):
                mm.write(kernel, addr, b"\1" * count * PAGE)
                model |= dict.fromkeys(pages, True)
            else:
                with pytest.raises(MemoryFault):
                    mm.check_writable(addr, count * PAGE)
        assert mm.mapped == len(model) * PAGE
        assert mm.frames.keys() == {page * PAGE + PAGE for page, written in model.items() if written}
        for page in range(40):
            area = mm.find(page * PAGE + PAGE + 5)
            assert (area is not None) == (page in model)
            if page in model:
                assert mm.read(kernel, page * PAGE + PAGE, 1, populate=False) == bytes([model[page]])
        assert [area.start for area in mm.areas] == sorted(area.start for area in mm.areas)
        mm.free(kernel)
        assert machine._pages.used <= used


def test_rights(machine: Machine) -> None:
    """x86 pages with any right can be read; nothing else is granted that the area does not."""
    mm = machine.process().task.mm
    kernel = machine.kernel
    for prot in range(8):
        if prot & PROT_WRITE and prot & PROT_EXEC:
            continue
        addr = mm.map_area(PAGE, prot)
        for kind, needed in (("read", RW | PROT_EXEC), ("write", PROT_WRITE), ("fetch", PROT_EXEC)):
            kernel.paging.unmap_page(mm.root, addr)
            mm.frames.pop(addr, None)
            assert mm.fault(kernel, addr + 7, kind) == bool(prot & needed), (prot, kind)
    assert not mm.fault(kernel, addr + PAGE, "read")
    addr = mm.map_area(PAGE, PROT_READ)
    assert mm.fault(kernel, addr, "read")
    assert not mm.fault(kernel, addr, "read"), "a page that is present cannot be populated again"


def call(process: Process, number: int, *args: int) -> int:
    return process.syscall(number, *args)


def mmap(process: Process, size: int, prot: int = RW, flags: int = PRIVATE | ANONYMOUS, addr: int = 0) -> int:
    return call(process, MMAP, addr, size, prot, flags, -1, 0)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"size": 0}, errno.EINVAL),
        ({"size": 4096, "flags": ANONYMOUS}, errno.EINVAL),
        ({"size": 4096, "prot": 16}, errno.EINVAL),
        ({"size": 4096, "prot": 7}, errno.EACCES),
        ({"size": 4096, "flags": PRIVATE}, errno.EBADF),
        ({"size": 4096, "flags": PRIVATE | ANONYMOUS | FIXED, "addr": 5}, errno.EINVAL),
        ({"size": 4096, "flags": PRIVATE | ANONYMOUS | FIXED, "addr": USER_END}, errno.ENOMEM),
        ({"size": 1 << 40}, errno.ENOMEM),
        ({"size": (1 << 64) - 1}, errno.ENOMEM),
    ],
)
def test_mmap_errors(machine: Machine, args: dict[str, int], expected: int) -> None:
    assert mmap(machine.process(), **args) == -expected


def test_mmap_and_munmap(machine: Machine) -> None:
    process = machine.process()
    used = machine._pages.used
    addr = mmap(process, 3 * PAGE)
    assert addr >= MMAP_BASE
    process.write(addr, b"x" * 3 * PAGE)
    assert call(process, MUNMAP, addr + PAGE, PAGE) == 0
    assert process.read(addr, PAGE) == b"x" * PAGE
    assert process.syscall(1, 1, addr + PAGE, 1) == -errno.EFAULT
    fixed = mmap(process, PAGE, flags=PRIVATE | ANONYMOUS | FIXED, addr=addr)
    assert fixed == addr
    assert process.read(addr, 1) == b"\0", "a fixed mapping replaces what was there"
    assert call(process, MUNMAP, addr, 3 * PAGE) == 0
    assert call(process, MUNMAP, addr + 1, PAGE) == -errno.EINVAL
    assert call(process, MUNMAP, addr, 0) == -errno.EINVAL
    assert call(process, MUNMAP, addr, 1 << 48) == -errno.EINVAL
    process.syscall(60, 0)
    assert machine._pages.used < used


def test_a_place_taken_by_address_is_passed_over(machine: Machine) -> None:
    process = machine.process()
    first = process.alloc(PAGE)
    taken = mmap(process, PAGE, flags=PRIVATE | ANONYMOUS | FIXED, addr=first + 3 * PAGE)
    assert taken == first + 3 * PAGE
    second = process.alloc(4 * PAGE)
    process.write(second, bytes(4 * PAGE))
    assert second > taken


def test_brk_without_a_program(machine: Machine) -> None:
    """A bare process has no heap."""
    assert call(machine.process(), BRK, 0) == 0
    assert call(machine.process(), BRK, 1 << 30) == 0


def test_thousands_of_areas(machine: Machine) -> None:
    process = machine.process()
    addrs = [process.alloc(PAGE) for _ in range(3000)]
    for addr in addrs[::100]:
        process.write(addr, b"here")
        assert process.read(addr, 4) == b"here"
    assert len(set(addrs)) == 3000
