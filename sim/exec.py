# SPDX-License-Identifier: GPL-2.0-only
"""Running static ELF programs in ring 3: loading, the initial stack, and the user run loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernel_model.mm.address_space import PROT_EXEC, PROT_READ, PROT_WRITE
from kernel_model.syscalls.table import dispatch
from kernel_model.task import Task

from .hardware.cpu import GENERAL_PROTECTION, PAGE_FAULT, UserState
from .hardware.guest_fault import GuestFault
from .userspace.image import PF_R, PF_W, PF_X, parse_image

if TYPE_CHECKING:
    from .machine import Machine
    from .process import Process

STACK_SIZE = 8 << 20
STACK_TOP = 0x7FFF_FFFF_E000
_PAGE = 4096
_AT_NULL, _AT_PAGESZ, _AT_ENTRY, _AT_UID, _AT_RANDOM = 0, 6, 9, 11, 25
_SYSCALL_REGS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_RDTSC, _RDTSCP = b"\x0f\x31", b"\x0f\x01\xf9"
_SIGSEGV_STATUS = 139


def load_program(machine: Machine, task: Task, data: bytes, argv: Sequence[str]) -> UserState:
    """execve(): map the segments and the stack into ``task``; the thread, ready to run."""
    kernel = machine.kernel
    image = parse_image(data, argv[0])
    for segment in image.segments:
        start = segment.vaddr & ~(_PAGE - 1)
        end = -(-(segment.vaddr + segment.memsz) // _PAGE) * _PAGE
        prot = (
            (PROT_READ if segment.flags & PF_R else 0)
            | (PROT_WRITE if segment.flags & PF_W else 0)
            | (PROT_EXEC if segment.flags & PF_X else 0)
        )
        task.mm.map_area(end - start, prot, start, "program")
        task.mm.write(kernel, segment.vaddr, segment.data, force=True)
    task.brk = task.brk_start = image.brk
    task.mm.map_area(STACK_SIZE, PROT_READ | PROT_WRITE, STACK_TOP - STACK_SIZE, "[stack]")
    return UserState.start(image.entry, _initial_stack(machine, task, argv, image.entry))


def _initial_stack(machine: Machine, task: Task, argv: Sequence[str], entry: int) -> int:
    """argc, argv, envp and the auxiliary vector, as the System V ABI lays them out; the stack pointer."""
    kernel = machine.kernel
    seed = b"".join(kernel.random.u32().to_bytes(4, "little") for _ in range(4))
    strings = [arg.encode() + b"\0" for arg in argv]
    blob = seed + b"".join(strings)
    at = (STACK_TOP - len(blob)) & ~15
    task.mm.write(kernel, at, blob)
    pointers, place = [], at + len(seed)
    for text in strings:
        pointers.append(place)
        place += len(text)
    auxv = (_AT_PAGESZ, _PAGE, _AT_ENTRY, entry, _AT_UID, task.uid, _AT_RANDOM, at, _AT_NULL, 0)
    words = [len(argv), *pointers, 0, 0, *auxv]
    sp = (at - 8 * len(words)) & ~15
    task.mm.write(kernel, sp, b"".join(word.to_bytes(8, "little") for word in words))
    return sp


def run_program(machine: Machine, process: Process, data: bytes, argv: Sequence[str]) -> None:
    """Run ``data`` in ``process`` until it exits. GuestFault when it faults; the process is ended first."""
    task = process.task
    state = load_program(machine, task, data, argv)
    try:
        while task.exit_code is None:
            _step(machine, task, state)
    except GuestFault:
        task.exit(machine.kernel, _SIGSEGV_STATUS)
        raise


def _step(machine: Machine, task: Task, state: UserState) -> None:
    """One stay in ring 3, and what ended it."""
    kernel, cpu = machine.kernel, machine.cpu
    pt_regs = task.stack_top - kernel.layout["pt_regs"].size
    stop = cpu.run_user(state, task.mm.root, pt_regs)
    if stop.syscall:
        args = tuple(state.get(name) for name in _SYSCALL_REGS)
        result = dispatch(kernel, task, state.get("rax"), args)
        state.set("rax", result)
        state.set("rcx", state.get("rip"))
        state.set("r11", state.get("rflags"))
        return
    if stop.vector == PAGE_FAULT and task.mm.fault(kernel, stop.addr, stop.kind):
        return
    if stop.vector == GENERAL_PROTECTION and _emulate_rdtsc(machine, task, state):
        return
    raise cpu.user_fault(stop, state)


def _emulate_rdtsc(machine: Machine, task: Task, state: UserState) -> bool:
    """rdtsc is privileged here, so that guests see the machine's clock and not the host's."""
    kernel = machine.kernel
    rip = state.get("rip")
    try:
        code = task.mm.read(kernel, rip, 3)
    except Exception:
        return False
    size = 2 if code.startswith(_RDTSC) else 3 if code == _RDTSCP else 0
    if not size:
        return False
    kernel.clock.advance(1)
    now = kernel.clock.now()
    state.set("rax", now & 0xFFFF_FFFF)
    state.set("rdx", now >> 32)
    if size == 3:
        state.set("rcx", cpu_number(machine))
    state.set("rip", rip + size)
    return True


def cpu_number(machine: Machine) -> int:
    """The CPU that the thread runs on."""
    return machine.cpu.this_cpu
