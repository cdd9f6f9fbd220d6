# SPDX-License-Identifier: GPL-2.0-only
"""A guest reaches nothing of the host: its memory, files, clock; and what it may use up is bounded."""

from __future__ import annotations

import errno
import os
import random
import time

import pytest
from machine_tools import elf, kernel_code, run_kernel
from random_code import WATCHDOG, ring_0, ring_3, text_of

from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from sim import Machine
from sim.hardware import address_map as where
from sim.hardware.guest_fault import GuestFault
from sim.userspace.bpf import Bpf, SyscallError

XDP, HASH, ARRAY = 6, 1, 2
SAMPLE = 150
CAMPAIGN = 100_000


@pytest.mark.parametrize("ring", [ring_0, ring_3], ids=["ring 0", "ring 3"])
def test_random_bytes(ring: object) -> None:
    """The simulator lives, the kernel's text is what it was, and the machine works."""
    with Machine.boot(watchdog=WATCHDOG) as machine:
        text = text_of(machine)
        ends = ring(machine, random.Random(1), SAMPLE)  # type: ignore[operator]
        assert sum(ends.values()) == SAMPLE
        assert len(ends) > 3, "the bytes did all kinds of things"
        assert text_of(machine) == text
        bpf = Bpf(machine.process())
        fd = bpf.prog_load(XDP, assemble("r0 = 2\nexit"))[0]
        assert bpf.prog_test_run(fd, bytes(64)).retval == 2


@pytest.mark.campaign
@pytest.mark.parametrize("ring", [ring_0, ring_3], ids=["ring 0", "ring 3"])
def test_random_bytes_at_length(ring: object) -> None:
    """100 000 runs, in machines of 2 000 runs each; BPFSIM_CAMPAIGN_SECONDS ends it earlier."""
    limit = float(os.environ.get("BPFSIM_CAMPAIGN_SECONDS", "inf"))
    began, done = time.monotonic(), 0
    while done < CAMPAIGN and time.monotonic() - began < limit:
        with Machine.boot(watchdog=WATCHDOG) as machine:
            text = text_of(machine)
            ring(machine, random.Random(done), 2000)  # type: ignore[operator]
            assert text_of(machine) == text
            done += 2000
    print(f"{done} runs")


def test_physical_addresses_outside_ram(machine: Machine) -> None:
    """A page-table entry that points beyond RAM: nothing is there."""
    addr = where.VMALLOC_START + (1 << 32)
    root = machine._tables.kernel_root
    for phys in (machine.config.ram, 1 << 40, (1 << 51) - 4096 & ~4095):
        machine._tables.map_page(root, addr, phys, writable=True)
        for access in ("mov rax, [rdi]; ret", "mov [rdi], rax; ret", "lock xadd [rdi], rax; ret"):
            with pytest.raises(GuestFault) as caught:
                run_kernel(machine, access, addr)
            # Above 2**40 the bits of the entry are reserved ones of this CPU model: a page fault.
            assert caught.value.kind.startswith("page fault" if phys >= 1 << 40 else "engine stopped: ")
    machine._tables.map_page(root, addr, machine.config.ram, writable=False, executable=True)
    with pytest.raises(GuestFault):
        run_kernel(machine, "call rdi; ret", addr)
    machine._tables.unmap_page(root, addr)
    assert run_kernel(machine, "mov rax, rdi; ret", 3) == 3


def test_the_nic_reaches_ram_only(machine: Machine) -> None:
    """A descriptor with an address outside RAM: the frame is lost, the host is safe."""
    kernel, card = machine.kernel, machine.nic[0]
    ring = where.DIRECT_MAP + card.rx.phys
    for bad in (machine.config.ram - 10, 1 << 40, (1 << 64) - 8):
        kernel.memory.put_u64(ring + card.rx.head * 16, bad)
        card.inject(bytes(60))
        machine.run_until_idle()
    assert card.stats.dma_errors == 3
    page = kernel.alloc.kmalloc(4096, 4096)
    assert machine.device(0).transmit(kernel, page, 60) == 0
    kernel.memory.put_u64(where.DIRECT_MAP + card.tx.phys, 1 << 45)
    machine.run_until_idle()
    assert machine.sent(0) == []
    assert card.stats.dma_errors == 4


def test_text_changes_by_poke_alone(machine: Machine) -> None:
    symbol = machine.kernel.text.symbol("nic_poll")
    direct = symbol - where.KERNEL_TEXT + where.TEXT_PHYS + where.DIRECT_MAP
    for addr in (symbol, direct):
        with pytest.raises(GuestFault):
            run_kernel(machine, "mov [rdi], rax; ret", addr)
    for addr in (
        0,
        where.DIRECT_MAP,
        where.KERNEL_TEXT - 1,
        where.JIT_IMAGES + where.JIT_SIZE,
        symbol + (1 << 30),
    ):
        with pytest.raises(ValueError, match="is not kernel text"):
            machine.kernel.text.poke(addr, b"\x90")


def test_ports_lead_nowhere(machine: Machine) -> None:
    """In the kernel, too: reads give ones, writes go nowhere."""
    assert run_kernel(machine, "mov edx, 0x60; in al, dx; movzx eax, al; ret") == 0xFF
    assert run_kernel(machine, "mov edx, 0x60; in eax, dx; ret") == 0xFFFF_FFFF
    assert run_kernel(machine, "mov edx, 0x604; mov eax, 0x2000; out dx, ax; mov eax, 1; ret") == 1


def test_no_host_file_is_reached(machine: Machine) -> None:
    process = machine.process()
    at = process.alloc(4096)
    for path in (
        __file__,
        "/etc/passwd",
        "/proc/self/maps",
        "/dev/null",
        ".",
        "/",
        "/sys/fs/bpf/../../../etc/passwd",
    ):
        process.write(at, path.encode() + b"\0")
        assert process.syscall(2, at, 0, 0) == -errno.ENOENT
        assert process.syscall(2, at, 0o102, 0o644) == -errno.ENOENT


def test_time_stands_still_by_itself(machine: Machine) -> None:
    """No host time passes into the machine."""
    before = machine.clock.now()
    time.sleep(0.02)
    assert machine.clock.now() == before
    assert machine.process().syscall(39) > 0
    assert machine.clock.now() == before + 100


# What may be used up.


def test_map_memory_is_bounded() -> None:
    with Machine.boot(ram=64 << 20) as machine:
        bpf = Bpf(machine.process())
        used = machine._pages.used
        fds: list[int] = []
        with pytest.raises(SyscallError, match="ENOMEM"):
            for _ in range(100):
                fds.append(bpf.map_create(ARRAY, 4, 1 << 20, 3))
        assert len(fds) > 2
        with pytest.raises(SyscallError, match="ENOMEM"):
            bpf.map_create(HASH, 4, 4096, 100_000)
        for fd in fds:
            bpf.close(fd)
        assert machine._pages.used <= used + (1 << 20)
        assert bpf.map_create(ARRAY, 4, 1 << 20, 3) > 0


def test_huge_maps_are_refused(bpf: Bpf) -> None:
    for size, entries in ((1 << 20, 1 << 20), (8, 1 << 31), (1 << 30, 1), (8, 0xFFFF_FFFF)):
        with pytest.raises(SyscallError, match=r"ENOMEM|E2BIG"):
            bpf.map_create(ARRAY, 4, size, entries)


def test_descriptors_are_bounded(machine: Machine, bpf: Bpf) -> None:
    live = len(machine.kernel.maps)
    with pytest.raises(SyscallError, match="EMFILE"):
        for _ in range(2000):
            bpf.map_create(ARRAY, 4, 4, 1)
    assert len(machine.kernel.maps) == live + 1024 - 3
    assert bpf.process.syscall(32, 0) == -errno.EMFILE
    with pytest.raises(SyscallError, match="EMFILE"):
        bpf.prog_load(XDP, assemble("r0 = 1\nexit"))
    assert len(machine.kernel.progs) == 0
    bpf.close(500)
    assert bpf.process.syscall(32, 0) == 500


def test_images_are_bounded(machine: Machine, bpf: Bpf) -> None:
    """When the area for JIT images is full, loading fails as it does in Linux, and nothing is lost."""
    text = machine.kernel.text
    free = sum(end - start for start, end in text._free)
    (big,) = text.allocate([free - 64])
    live = dict(machine.kernel.alloc.live_objects())
    with pytest.raises(SyscallError, match=r"ENOMEM|ENOTSUPP"):
        bpf.prog_load(XDP, assemble("r0 = 1\n" * 100 + "exit"))
    assert len(machine.kernel.progs) == 0
    assert dict(machine.kernel.alloc.live_objects()) == live
    text.free(big)
    assert bpf.prog_test_run(bpf.prog_load(XDP, assemble("r0 = 1\nexit"))[0], bytes(64)).retval == 1


def test_processes_end_with_memory() -> None:
    with Machine.boot(ram=40 << 20) as machine:
        processes = []
        with pytest.raises(KernelError, match="ENOMEM"):
            while True:
                processes.append(machine.process())
        assert len(processes) > 10
        for process in processes:
            process.syscall(60, 0)
        assert machine.process().syscall(39) > 0


def test_memory_of_a_process_is_bounded() -> None:
    with Machine.boot(ram=40 << 20) as machine:
        process = machine.process()
        addr = process.alloc(1 << 30)
        with pytest.raises(KernelError, match="ENOMEM"):
            process.write(addr, bytes(64 << 20))
        at = process.alloc(64)
        with pytest.raises(KernelError, match="ENOMEM"):
            process.alloc(1 << 47)
        del at
        process.syscall(60, 0)
        assert machine.process().alloc(4096) > 0


def test_the_log_is_bounded(bpf: Bpf) -> None:
    """log_size above UINT_MAX / 4 is refused; a buffer that is too small gives its end, and ENOSPC."""
    with pytest.raises(SyscallError) as caught:
        bpf.prog_load(XDP, assemble("r0 = 1\nexit"), log_level=2, log_size=24)
    assert caught.value.errno == errno.ENOSPC
    process = bpf.process
    code, text = process.alloc(4096), process.alloc(4096)
    process.write(code, b"\xb7\0\0\0\1\0\0\0\x95" + bytes(7))
    with pytest.raises(SyscallError, match="EINVAL"):
        bpf.call(
            "PROG_LOAD",
            prog_type=XDP,
            insns=code,
            insn_cnt=2,
            license=text,
            log_level=1,
            log_buf=text,
            log_size=1 << 31,
        )


def test_output_is_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_model.syscalls.files.STDOUT_LIMIT", 10)
    process = machine.process()
    at = process.alloc(4096)
    assert process.syscall(1, 1, at, 8) == 8
    assert process.syscall(1, 1, at, 8) == -errno.ENOSPC
    assert len(process.stdout) == 8


def test_a_kernel_stack_has_an_end(machine: Machine) -> None:
    """Endless recursion runs into the guard page, not into the next stack."""
    with kernel_code(machine, "x: call x") as code, pytest.raises(GuestFault) as caught:
        machine.kernel.cpu.call(code)
    assert caught.value.kind in ("page fault", "double fault")
    assert run_kernel(machine, "mov rax, rdi; ret", 3) == 3


def test_a_program_without_end_in_every_machine_state() -> None:
    """A runaway in ring 3 leaves a machine in which packets still move."""
    with Machine.boot(watchdog=0.1) as machine:
        with pytest.raises(GuestFault, match="runaway"):
            machine.exec(elf("x: jmp x"))
        machine.nic[0].inject(bytes(60))
        machine.run_until_idle()
        assert machine.kernel.net.passed == 1
