# SPDX-License-Identifier: GPL-2.0-only
"""Page tables: what the walk says is what the CPU does; nothing is writable and executable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_tools import kernel_code, run_kernel

from kernel_model.errors import MemoryFault
from sim import Machine
from sim.hardware import address_map as where
from sim.hardware.guest_fault import GuestFault
from sim.hardware.paging import PageTables

READ = "mov rax, [rdi]; ret"
WRITE = "mov byte ptr [rdi], 0x90; mov eax, 1; ret"
FETCH = "call rdi; mov eax, 1; ret"
USE_USER_TABLES = "mov rax, cr3; push rax; mov cr3, rsi;"


def allowed(machine: Machine, access: str, addr: int) -> bool:
    """Does the CPU, in kernel mode, let this access pass?"""
    try:
        run_kernel(machine, access, addr)
    except GuestFault as fault:
        assert fault.kind == "page fault"
        assert fault.addr == addr
        assert not fault.user
        return False
    return True


def places(machine: Machine) -> dict[str, int]:
    kernel = machine.kernel
    stack = next(iter(kernel._stack_frames))
    return {
        "direct map of data": kernel.alloc.kmalloc(64),
        "direct map of kernel text": where.DIRECT_MAP + where.TEXT_PHYS + 0x100,
        "direct map of JIT images": where.DIRECT_MAP + where.JIT_PHYS + 0x100,
        "last byte of the direct map": where.DIRECT_MAP + machine.config.ram - 8,
        "behind the direct map": where.DIRECT_MAP + machine.config.ram,
        "kernel data": kernel.data["netdev_table"] + 400,
        "kernel stack": stack,
        "guard page": stack - 8,
        "kernel text": kernel.text.symbol("__bpf_call_base"),
        "behind kernel text": where.KERNEL_TEXT + where.TEXT_SIZE - 8,
        "hole": 0xFFFF_F000_0000_0000,
        "null": 0,
        "user": 0x7F00_0000_0000,
    }


EXPECTED = {
    "direct map of data": "rw",
    "direct map of kernel text": "r",
    "direct map of JIT images": "r",
    "last byte of the direct map": "rw",
    "behind the direct map": "",
    "kernel data": "rw",
    "kernel stack": "rw",
    "guard page": "",
    "kernel text": "rx",
    "behind kernel text": "",
    "hole": "",
    "null": "",
    "user": "",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_kernel_rights(machine: Machine, name: str) -> None:
    addr = places(machine)[name]
    walk = machine._tables.walk(machine._tables.kernel_root, addr)
    rights = "" if walk is None else "r" + "w" * walk.writable + "x" * walk.executable
    assert rights == EXPECTED[name]
    assert allowed(machine, READ, addr) == ("r" in rights)
    assert allowed(machine, WRITE, addr) == ("w" in rights)
    assert allowed(machine, FETCH, addr) == ("x" in rights)


@pytest.mark.parametrize("name", EXPECTED)
def test_python_sees_the_same_rights(machine: Machine, name: str) -> None:
    addr = places(machine)[name]
    memory = machine.kernel.memory
    for right, access in (("r", lambda: memory.u64(addr)), ("w", lambda: memory.put_u64(addr, 1))):
        if right in EXPECTED[name]:
            access()
        else:
            with pytest.raises(MemoryFault):
                access()


def test_no_page_is_writable_and_executable(machine: Machine) -> None:
    """Every mapping of the kernel and of a process, and every physical page under all of them."""
    process = machine.process()
    process.write(process.alloc(8192), b"x" * 8192)
    tables = machine._tables
    rights: dict[int, set[str]] = {}
    for root in (tables.kernel_root, process.task.mm.root):
        for addr, size in mappings(machine, root):
            walk = tables.walk(root, addr)
            assert walk is not None
            assert not (walk.writable and walk.executable), f"{addr:#x}"
            for frame in range(walk.phys, walk.phys + size, 4096):
                rights.setdefault(frame, set()).update("w" * walk.writable + "x" * walk.executable)
    assert [hex(frame) for frame, have in rights.items() if have == {"w", "x"}] == []
    with pytest.raises(ValueError, match="writable and executable"):
        tables.map_page(tables.kernel_root, where.VMALLOC_START, 0, writable=True, executable=True)


def mappings(machine: Machine, root: int) -> list[tuple[int, int]]:
    """All leaves of an address space by reading the tables: address and size."""
    entries = machine._ram.view.cast("Q")
    out = []

    def read(table: int, base: int, shift: int) -> None:
        for index in range(512):
            entry = entries[table // 8 + index]
            addr = base + (index << shift)
            if shift == 39 and index >= 256:
                addr |= 0xFFFF << 48
            if not entry & 1:
                continue
            if shift == 12 or entry & 0x80:
                out.append((addr, 1 << shift))
            else:
                read(entry & 0x000F_FFFF_FFFF_F000, addr, shift - 9)

    read(root, 0, 39)
    return out


def test_smap_and_smep(machine: Machine) -> None:
    """The kernel neither reads, writes nor runs user pages, unless it says so (stac) for data."""
    process = machine.process()
    addr = process.alloc(4096)
    process.write(addr, b"\xc3" + bytes(7))
    root = process.task.mm.root
    for access in ("mov rcx, [rdi];", "mov byte ptr [rdi], 1;", "call rdi;"):
        with pytest.raises(GuestFault) as caught:
            run_kernel(machine, USE_USER_TABLES + access + "pop rax; mov cr3, rax; ret", addr, root)
        assert (caught.value.kind, caught.value.addr, caught.value.user) == ("page fault", addr, False)
    assert (
        run_kernel(
            machine,
            USE_USER_TABLES + "stac; mov rcx, [rdi]; clac; pop rax; mov cr3, rax; mov rax, rcx; ret",
            addr,
            root,
        )
        == 0xC3
    )
    assert run_kernel(machine, "mov rax, rdi; ret", 5) == 5, "the machine goes on"


def test_changes_of_the_tables_are_seen(machine: Machine) -> None:
    """A page is mapped, moved, made read-only and unmapped while the CPU has it in its TLB."""
    tables, pages = machine._tables, machine._pages
    addr = where.VMALLOC_START + (1 << 30)
    first, second = pages.alloc(), pages.alloc()
    machine._ram.view[first] = 1
    machine._ram.view[second] = 2
    with kernel_code(machine, "movzx eax, byte ptr [rdi]; ret") as read, kernel_code(machine, WRITE) as write:
        call = machine.kernel.cpu.call
        tables.map_page(tables.kernel_root, addr, first, writable=True)
        assert call(read, addr) == 1
        tables.map_page(tables.kernel_root, addr, second, writable=True)
        assert call(read, addr) == 2
        assert call(write, addr) == 1
        tables.map_page(tables.kernel_root, addr, second, writable=False)
        with pytest.raises(GuestFault):
            call(write, addr)
        assert call(read, addr) == 0x90
        assert machine.kernel.memory.u8(addr) == 0x90
        tables.unmap_page(tables.kernel_root, addr)
        with pytest.raises(GuestFault):
            call(read, addr)
        with pytest.raises(MemoryFault):
            machine.kernel.memory.u8(addr)


def test_address_spaces_share_the_kernel(machine: Machine) -> None:
    """What is mapped in the kernel's half after a process was made is there in its tables, too."""
    process = machine.process()
    base = machine.kernel.alloc_stack(16384)
    walk = machine._tables.walk(process.task.mm.root, base)
    assert walk is not None and walk.writable and not walk.user


class FakeRam:
    """Frames counted up from 0 for tables in a bytearray."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(4096 * 400))
        self.next = 0
        self.freed: list[int] = []
        self.tables = PageTables(self.view, self.alloc, self.freed.append)

    def alloc(self) -> int:
        self.next += 4096
        return self.next - 4096


ADDRS = st.integers(0, (1 << 35) - 1).map(lambda page: page << 12) | st.sampled_from(
    [0, 0x1000, 0x7FFF_FFFF_F000, 0x20_0000, 0x4000_0000]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(ADDRS, st.integers(0, 1 << 20), st.booleans(), st.booleans(), st.booleans()), max_size=12
    )
)
def test_walk_finds_what_was_mapped(maps: list[tuple[int, int, bool, bool, bool]]) -> None:
    """Against a dict: random mappings, overwritten and removed."""
    ram = FakeRam()
    root = ram.tables.new_root()
    model: dict[int, tuple[int, bool, bool, bool]] = {}
    for addr, frame, writable, second, remove in maps:
        phys = frame << 12
        ram.tables.map_page(root, addr, phys, writable, user=True, executable=second and not writable)
        model[addr] = (phys, writable, True, second and not writable)
        if remove:
            ram.tables.unmap_page(root, addr)
            del model[addr]
    for addr, *_ in maps:
        walk = ram.tables.walk(root, addr + 0x123)
        assert (walk is not None) == (addr in model)
        if walk is not None:
            assert tuple(walk) == (model[addr][0] + 0x123, *model[addr][1:])
    ram.tables.free_user_half(root)
    assert sorted(ram.freed) == list(range(0, ram.next, 4096)), "every table is given back once"


@pytest.mark.parametrize("addr", [1 << 47, 0xFFFF_7FFF_FFFF_FFFF, 1 << 63])
def test_addresses_that_are_not_canonical(machine: Machine, addr: int) -> None:
    assert machine._tables.walk(machine._tables.kernel_root, addr) is None
    with pytest.raises(GuestFault, match="general protection"):
        run_kernel(machine, READ, addr)


def test_large_pages_are_aligned(machine: Machine) -> None:
    with pytest.raises(ValueError, match="aligned"):
        machine._tables.map_large(machine._tables.kernel_root, where.DIRECT_MAP + 4096, 0, True)
