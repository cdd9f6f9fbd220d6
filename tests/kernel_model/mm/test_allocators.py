# SPDX-License-Identifier: GPL-2.0-only
"""Page frames, slabs, per-CPU memory, descriptors and ids against simple models."""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kernel_model.errors import KernelError
from kernel_model.mm.pages import PAGE_SIZE, PageAllocator
from kernel_model.mm.slab import KernelAllocator, PerCpuArea
from kernel_model.objects import FdTable, File, Idr, KObject

START, END = 0x10_0000, 0x18_0000
QUICK = settings(max_examples=40, stateful_step_count=40, deadline=None)


class FlatMemory:
    """Enough of kernel memory for an allocator: bytes from 0."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)

    def fill(self, addr: int, size: int, byte: int = 0) -> None:
        assert addr in range(len(self.bytes) - size + 1)
        self.bytes[addr : addr + size] = bytes((byte,)) * size


def disjoint(ranges: list[tuple[int, int]]) -> bool:
    return all(low[1] <= high[0] for low, high in itertools.pairwise(sorted(ranges)))


class Pages(RuleBasedStateMachine):
    """Runs of frames: disjoint, aligned, inside; all free memory is found again."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(START, END)
        self.live: dict[int, int] = {}

    @rule(count=st.integers(1, 40), shift=st.integers(12, 17))
    def alloc(self, count: int, shift: int) -> None:
        try:
            at = self.pages.alloc(count, 1 << shift)
        except KernelError as error:
            assert error.errno == errno.ENOMEM
            assert not self.fits(count * PAGE_SIZE, 1 << shift)
            return
        assert at % (1 << shift) == 0
        assert at in range(START, END - count * PAGE_SIZE + 1)
        self.live[at] = count * PAGE_SIZE

    def fits(self, size: int, align: int) -> bool:
        edges = [START, *(end for at, length in sorted(self.live.items()) for end in (at, at + length)), END]
        gaps = zip(edges[::2], edges[1::2], strict=True)
        return any(-(-low // align) * align + size <= high for low, high in gaps)

    @precondition(lambda self: self.live)
    @rule(number=st.integers(0, 1000))
    def free(self, number: int) -> None:
        at = sorted(self.live)[number % len(self.live)]
        assert self.pages.size_of(at) == self.live.pop(at)
        self.pages.free(at)

    @invariant()
    def consistent(self) -> None:
        assert disjoint([(at, at + size) for at, size in self.live.items()])
        assert self.pages.used == sum(self.live.values())
        assert all(at + size <= self.pages.high_water for at, size in self.live.items())


class Slabs(RuleBasedStateMachine):
    """kmalloc and per-CPU memory: zeroed, aligned, disjoint, freed for use again."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Any = FlatMemory(0x40_0000)
        self.alloc = KernelAllocator(
            self.memory, PageAllocator(START, END), 0, PerCpuArea(0x20_0000, 0x4000, (0, 0x1_0000))
        )
        self.live: dict[int, int] = {}
        self.percpu: dict[int, int] = {}

    @rule(size=st.integers(1, 20_000), align=st.sampled_from([1, 8, 16, 32, 64, 4096]))
    def kmalloc(self, size: int, align: int) -> None:
        try:
            at = self.alloc.kmalloc(size, align)
        except KernelError as error:
            assert error.errno == errno.ENOMEM
            return
        assert at % align == 0
        assert not any(self.memory.bytes[at : at + size])
        self.memory.fill(at, size, 0xA5)
        self.live[at] = size

    @precondition(lambda self: self.live)
    @rule(number=st.integers(0, 1000))
    def kfree(self, number: int) -> None:
        at = sorted(self.live)[number % len(self.live)]
        del self.live[at]
        self.alloc.kfree(at)
        with pytest.raises(KeyError):
            self.alloc.kfree(at)

    @rule(size=st.integers(1, 3000), align=st.sampled_from([8, 64, 256]))
    def alloc_percpu(self, size: int, align: int) -> None:
        try:
            at = self.alloc.alloc_percpu(size, align)
        except KernelError as error:
            assert error.errno == errno.ENOMEM
            return
        assert at % align == 0
        for cpu in range(self.alloc.nr_cpus):
            there = at + self.alloc.per_cpu_offset(cpu)
            assert not any(self.memory.bytes[there : there + size])
            self.memory.fill(there, size, 0x5A)
        self.percpu[at] = size

    @precondition(lambda self: self.percpu)
    @rule(number=st.integers(0, 1000))
    def free_percpu(self, number: int) -> None:
        at = sorted(self.percpu)[number % len(self.percpu)]
        del self.percpu[at]
        self.alloc.free_percpu(at)

    @invariant()
    def consistent(self) -> None:
        assert disjoint([(at, at + size) for at, size in self.live.items()])
        assert disjoint([(at, at + size) for at, size in self.percpu.items()])
        assert self.alloc.live_objects().keys() == self.live.keys()
        assert all(self.alloc.live_objects()[at] >= size for at, size in self.live.items())

    def teardown(self) -> None:
        for at in [*self.percpu]:
            self.alloc.free_percpu(at)
        assert self.alloc.alloc_percpu(0x4000) == 0x20_0000, "per-CPU memory is whole again"


class Descriptors(RuleBasedStateMachine):
    """The lowest free number is given; limits hold; every open file is released once."""

    LIMIT = 12

    def __init__(self) -> None:
        super().__init__()
        self.table = FdTable(self.LIMIT)
        self.model: dict[int, Counted] = {}

    @rule()
    def install(self) -> None:
        obj = Counted()
        free = next((n for n in range(self.LIMIT) if n not in self.model), None)
        if free is None:
            with pytest.raises(KernelError, match="EMFILE"):
                self.table.install(File(obj))
            return
        assert self.table.install(File(obj)) == free
        self.model[free] = obj

    @rule(number=st.integers(-2, LIMIT + 2))
    def close(self, number: int) -> None:
        obj = self.model.pop(number, None)
        if obj is None:
            with pytest.raises(KernelError, match="EBADF"):
                self.table.close(NO_KERNEL, number)
            return
        self.table.close(NO_KERNEL, number)
        assert obj.released == 1

    @invariant()
    def consistent(self) -> None:
        assert len(self.table) == len(self.model)
        assert all(n in self.table and self.table.find(n).obj is obj for n, obj in self.model.items())

    def teardown(self) -> None:
        self.table.close_all(NO_KERNEL)
        assert all(obj.released == 1 for obj in self.model.values())


NO_KERNEL: Any = None


class Counted(KObject):
    def __init__(self) -> None:
        super().__init__()
        self.released = 0

    def release(self, kernel: Any) -> None:
        self.released += 1


class Ids(RuleBasedStateMachine):
    """Ids count up and are not used again; iteration is by id."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Idr[Counted] = Idr("thing")
        self.model: dict[int, Counted] = {}
        self.last = 0

    @rule()
    def add(self) -> None:
        obj = Counted()
        number = self.table.add(obj)
        assert number == self.last + 1
        self.last, self.model[number] = number, obj

    @rule(number=st.integers(0, 30))
    def remove(self, number: int) -> None:
        self.table.remove(number)
        self.model.pop(number, None)

    @rule(number=st.integers(0, 30))
    def look(self, number: int) -> None:
        if number in self.model:
            assert self.table.find(number) is self.model[number]
        else:
            with pytest.raises(KernelError, match="ENOENT"):
                self.table.find(number)
        above = [n for n in self.model if n > number]
        if above:
            assert self.table.next_after(number) == min(above)
        else:
            with pytest.raises(KernelError, match="ENOENT"):
                self.table.next_after(number)

    @invariant()
    def consistent(self) -> None:
        assert list(self.table) == list(self.model.values())
        assert len(self.table) == len(self.model)


for _machine in (Pages, Slabs, Descriptors, Ids):
    _machine.TestCase.settings = QUICK
TestPages = Pages.TestCase
TestSlabs = Slabs.TestCase
TestDescriptors = Descriptors.TestCase
TestIds = Ids.TestCase


def test_references_are_counted() -> None:
    obj = Counted()
    obj.get()
    obj.put(NO_KERNEL)
    assert obj.released == 0
    obj.put(NO_KERNEL)
    assert obj.released == 1
    with pytest.raises(RuntimeError, match="nobody held"):
        obj.put(NO_KERNEL)


@pytest.mark.parametrize("size", [0, -5])
def test_no_allocation_of_nothing(size: int) -> None:
    memory: Any = FlatMemory(END)
    alloc = KernelAllocator(memory, PageAllocator(START, END), 0, PerCpuArea(0, 8, (0,)))
    with pytest.raises(KernelError, match="EINVAL"):
        alloc.kmalloc(size)
    alloc.kfree(0)
    alloc.free_percpu(0)
