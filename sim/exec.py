# SPDX-License-Identifier: GPL-2.0-only
"""Running static ELF programs in ring 3: loading, the initial stack, and the user run loop."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernel_model.boot import new_process
from kernel_model.errors import KernelError, MemoryFault
from kernel_model.mm.address_space import PROT_EXEC, PROT_READ, PROT_WRITE
from kernel_model.syscalls.table import dispatch
from kernel_model.task import Task

from .hardware.cpu import GENERAL_PROTECTION, PAGE_FAULT, RDRAND, RUNAWAY, USER_REGS, UserState, UserStop
from .hardware.guest_fault import GuestFault
from .process import Process
from .userspace.image import PF_R, PF_W, PF_X, Image, parse_image

if TYPE_CHECKING:
    from .machine import Machine

STACK_SIZE = 8 << 20
STACK_TOP = 0x7FFF_FFFF_E000
_PAGE = 4096
_AT_NULL, _AT_PAGESZ, _AT_ENTRY, _AT_UID, _AT_RANDOM = 0, 6, 9, 11, 25
_SYSCALL_REGS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
_RDTSC, _RDTSCP = b"\x0f\x31", b"\x0f\x01\xf9"
_RDRAND = re.compile(rb"([\x66\xf2\xf3]*)([\x40-\x4f]?)\x0f\xc7([\xf0-\xff])")
_BY_NUMBER = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
_CARRY, _ARITHMETIC_FLAGS = 1, 0x8D5
_SIGSEGV_STATUS = 139
_MAX_FRAMES = 32

STAYS_LIMIT = 1 << 18
"""How often a program may enter ring 3 (system calls, page faults): beyond it, it is a runaway."""
TOO_MANY_STAYS = f"runaway guest (left ring 3 {STAYS_LIMIT} times)"
RUNAWAY_BLOCKS = 1 << 18
"""The basic blocks after which a run of the repetition is reported as the runaway that it was."""


def load_program(machine: Machine, task: Task, image: Image, argv: Sequence[str]) -> UserState:
    """execve(): map the segments and the stack into ``task``; the thread, ready to run."""
    kernel = machine.kernel
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
        if prot & PROT_EXEC:
            machine.cpu.trap_user_code(segment.vaddr, segment.data)
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


class _Guest:
    """One program in one process. ``stays`` counts how often it was let into ring 3."""

    def __init__(self, machine: Machine, task: Task, image: Image, argv: Sequence[str]) -> None:
        self.machine = machine
        self.task = task
        self.image = image
        self.state = load_program(machine, task, image, argv)
        self.stays = 0

    def run(self, last: int | None = None) -> None:
        """Until it exits, or up to stay number ``last``. GuestFault when it goes wild."""
        while self.task.exit_code is None and self.stays != last:
            if self.stays == STAYS_LIMIT:
                raise self._fault(TOO_MANY_STAYS)
            self.stays += 1
            try:
                self._stay()
            except GuestFault as fault:
                raise self._located(fault) from None

    def _stay(self) -> None:
        """One stay in ring 3, and what ended it."""
        kernel, cpu, task, state = self.machine.kernel, self.machine.cpu, self.task, self.state
        pt_regs = task.stack_top - kernel.layout["pt_regs"].size
        stop = cpu.run_user(state, task.mm.root, pt_regs)
        if stop.syscall:
            args = tuple(state.get(name) for name in _SYSCALL_REGS)
            result = dispatch(kernel, task, state.get("rax"), args)
            state.set("rax", result)
            state.set("rcx", state.get("rip"))
            state.set("r11", state.get("rflags"))
            return
        if stop.vector == PAGE_FAULT and self._populated(stop):
            return
        replacement = _REPLACED.get(stop.vector)
        if replacement is None or not replacement(self.machine, task, state):
            raise cpu.user_fault(stop, state)

    def _populated(self, stop: UserStop) -> bool:
        try:
            return self.task.mm.fault(self.machine.kernel, stop.addr, stop.kind)
        except KernelError as error:
            raise self._fault(f"killed, no memory left ({error})") from None

    def _fault(self, kind: str) -> GuestFault:
        regs = dict(zip(USER_REGS, self.state.regs, strict=True))
        return self._located(GuestFault(kind, regs["rip"], True, None, regs))

    def _located(self, fault: GuestFault) -> GuestFault:
        """A fault in ring 3 with the program's own symbols along its chain of frame pointers."""
        if fault.user:
            fault.backtrace = tuple(self.symbolise(addr) for addr in self._return_addresses(fault))
            fault.blocks = tuple(self.symbolise(addr) for addr in self.machine.cpu.recorded())
        return fault

    def _return_addresses(self, fault: GuestFault) -> list[int]:
        found, frame = [fault.rip], fault.registers["rbp"]
        while len(found) < _MAX_FRAMES:
            try:
                pair = self.task.mm.read(self.machine.kernel, frame, 16, populate=False)
            except MemoryFault:
                break
            below, back = struct.unpack("<QQ", pair)
            area = self.task.mm.find(back)
            if area is None or not area.prot & PROT_EXEC:
                break
            found.append(back)
            if below <= frame:
                break
            frame = below
        return found

    def symbolise(self, addr: int) -> str:
        """``name+0xoff`` for the program's functions, and for kernel text."""
        for name, start, size in reversed(self.image.symbols):
            if start <= addr < start + max(size, 1):
                return f"{name}+{addr - start:#x}"
        return self.machine.symbolise(addr)


def run_program(machine: Machine, data: bytes, argv: Sequence[str], uid: int) -> Process:
    """Run ``data`` in a new process until it exits.

    A program that goes wild is run a second time from the snapshot taken before it, up to the same stay
    in ring 3, which is then watched: so the report names the same instruction on every host, and the
    last basic blocks are known. GuestFault then; the process is ended first.
    """
    try:
        return _run_twice(machine, parse_image(data, argv[0]), argv, uid)
    finally:
        machine.cpu.release_user_code()


def _run_twice(machine: Machine, image: Image, argv: Sequence[str], uid: int) -> Process:
    before = machine.snapshot()
    guest = _new_guest(machine, image, argv, uid)
    try:
        guest.run()
        return Process(machine, guest.task.pid)
    except GuestFault as fault:
        first, last = fault, guest.stays
        if first.kind == TOO_MANY_STAYS:
            _bury(machine, guest.task)
            raise
    machine.restore(before)
    machine.cpu.release_user_code()
    guest = _new_guest(machine, image, argv, uid)
    guest.run(last - 1)
    try:
        with machine.cpu.repeating(RUNAWAY_BLOCKS if first.kind == RUNAWAY else 1 << 62):
            guest.run()
    except GuestFault as fault:
        _bury(machine, guest.task)
        raise fault from None
    return Process(machine, guest.task.pid)


def _bury(machine: Machine, task: Task) -> None:
    """End a process that nobody has a handle of."""
    task.exit(machine.kernel, _SIGSEGV_STATUS)
    machine.kernel.reap(task)


def _new_guest(machine: Machine, image: Image, argv: Sequence[str], uid: int) -> _Guest:
    task = new_process(machine.kernel, uid, argv[0].rsplit("/", 1)[-1])
    try:
        return _Guest(machine, task, image, argv)
    except BaseException:
        _bury(machine, task)
        raise


def _rdtsc(machine: Machine, task: Task, state: UserState) -> bool:
    """rdtsc is privileged here, so that guests see the machine's clock and not the host's."""
    code = _code_at(machine, task, state.get("rip"), 3)
    size = 2 if code.startswith(_RDTSC) else 3 if code == _RDTSCP else 0
    if not size:
        return False
    kernel = machine.kernel
    kernel.clock.advance(1)
    now = kernel.clock.now()
    state.set("rax", now & 0xFFFF_FFFF)
    state.set("rdx", now >> 32)
    if size == 3:
        state.set("rcx", machine.cpu.this_cpu)
    state.set("rip", state.get("rip") + size)
    return True


def _rdrand(machine: Machine, task: Task, state: UserState) -> bool:
    """rdrand and rdseed give words of the machine's random source (Intel SDM, volume 2)."""
    code = _code_at(machine, task, state.get("rip"), 15)
    match = _RDRAND.match(code)
    if match is None:
        return False
    prefixes, rex = match.group(1), match.group(2)
    wide = rex and rex[0] & 8
    bits = 64 if wide else 16 if b"\x66" in prefixes else 32
    random = machine.kernel.random
    value = random.u32() | random.u32() << 32
    name = _BY_NUMBER[(match.group(3)[0] & 7) + (8 if rex and rex[0] & 1 else 0)]
    # A 16-bit destination keeps the rest of the register; a 32-bit one clears the upper half.
    kept = state.get(name) & ~0xFFFF if bits == 16 else 0
    state.set(name, kept | value & ((1 << bits) - 1))
    state.set("rflags", state.get("rflags") & ~_ARITHMETIC_FLAGS | _CARRY)
    state.set("rip", state.get("rip") + match.end())
    return True


def _code_at(machine: Machine, task: Task, addr: int, size: int) -> bytes:
    """Up to ``size`` bytes of the program at ``addr``: less where the mapping ends."""
    for length in range(size, 0, -1):
        try:
            return task.mm.read(machine.kernel, addr, length, populate=False)
        except MemoryFault:
            continue
    return b""


_REPLACED = {GENERAL_PROTECTION: _rdtsc, RDRAND: _rdrand}
"""What is done instead of instructions that would show a guest something of the host."""
