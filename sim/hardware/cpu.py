# SPDX-License-Identifier: GPL-2.0-only
"""The emulated processor and its one run loop.

One unicorn engine serves all CPUs of the machine; a CPU is a saved context with its own GS base. The
engine runs until something stops it: ``hlt`` in one of the entry routines (jit_x86/text/entry.S), a
``syscall``, an exception, or the watchdog. Every stop is dispatched here, at depth 0 of the engine, so
kernel code in Python may freely call emulated text again; only leaf functions run inside a run.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kernel_model.data_symbols import MAILBOX_AREA
from kernel_model.errors import MemoryFault

from .address_map import GDT, KERNEL_CS, KERNEL_DS, KERNEL_TEXT, PAGE_SIZE, USER_CS, USER_DS
from .guest_fault import GuestFault
from .memory import KernelMemory, PhysicalMemory
from .paging import PageTables
from .unicorn_api import ENGINE_ERRORS, FPU_REGS, GPRS, INVALID_INSTRUCTION, RawEngine, RegisterSet
from .watchdog import Watchdog

_FIELDS = (
    "ARG0",
    "ARG1",
    "ARG2",
    "ARG3",
    "ARG4",
    "ARG5",
    "NUMBER",
    "TARGET",
    "STACK",
    "SAVE",
    "RESULT",
    "REASON",
    "CR3",
)
MAILBOX_OFFSETS = {f"MB_{name}": 8 * index for index, name in enumerate(_FIELDS)}
MAILBOX_SIZE = 8 * len(_FIELDS)
REASON_RETURNED, REASON_LEFT = 1, 2
TEXT_CONSTANTS = MAILBOX_OFFSETS | {
    "REASON_RETURNED": REASON_RETURNED,
    "REASON_LEFT": REASON_LEFT,
    "SEL_KERNEL_CS": KERNEL_CS,
    "SEL_KERNEL_DS": KERNEL_DS,
}

_CR0 = 0x8001_0033  # PG | WP | NE | ET | MP | PE
_CR4_TSD = 1 << 2  # rdtsc is privileged: the host's counter is not for guests
_CR4_OTHERS = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20 | 1 << 21  # PAE PGE OSFXSR OSXMMEXCPT SMEP SMAP
_CR4 = _CR4_TSD | _CR4_OTHERS
_EFER = 0xD01  # NXE | LMA | LME | SCE

_VECTORS = {
    0: "divide error",
    1: "debug exception",
    3: "breakpoint",
    4: "overflow",
    5: "bound range exceeded",
    6: "invalid opcode",
    7: "device not available",
    8: "double fault",
    10: "invalid TSS",
    11: "segment not present",
    12: "stack segment fault",
    13: "general protection fault",
    14: "page fault",
    16: "x87 floating-point error",
    17: "alignment check",
    19: "SIMD floating-point error",
}
PAGE_FAULT, GENERAL_PROTECTION, DOUBLE_FAULT, INVALID_OPCODE = 14, 13, 8, 6
RDRAND = 256
"""Not an exception: a guest is about to execute ``rdrand`` or ``rdseed``, see :meth:`Cpu.trap_user_code`."""

RUNAWAY = "runaway guest (budget used up)"

_CALL = struct.Struct("<6Q8xQQQ")  # ARG0..ARG5, (NUMBER), TARGET, STACK, SAVE
_ARGS = struct.Struct("<7Q")  # ARG0..ARG5, NUMBER
_WORD = struct.Struct("<Q")
_RESULT_REASON = struct.Struct("<QQ")
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_BLOCKS_KEPT = 16
_RDRAND_CODE = re.compile(rb"[\x66\xf2\xf3\x40-\x4f]*\x0f\xc7[\xf0-\xff]")
_MAX_PREFIXES, _MAX_INSN = 12, 15
_PATIENCE = 100
"""How much longer than other runs a repetition may take, which is slow since every block is noted."""
# Leaf -> register (as in the instruction's order eax, ebx, ecx, edx) and the bits that guests must not see.
_HIDDEN_FEATURES = {1: (2, 1 << 30), 7: (1, 1 << 18)}  # RDRAND, RDSEED

KERNEL_REGS = (*GPRS, "rip", "rflags", "rsp")
USER_REGS = (*KERNEL_REGS, "fs_base")
_SAVED_BY_CALL = ("r15", "r14", "r13", "r12", "rbx", "rbp", "rsp")
"""What __call_from_model keeps for each call under way, from low addresses to high."""
_SAVE_SIZE = 64
_SAVE_AREA = -(-MAILBOX_SIZE // _SAVE_SIZE) * _SAVE_SIZE
MAX_DEPTH = (MAILBOX_AREA - _SAVE_AREA) // _SAVE_SIZE
"""Calls into emulated text that may be under way: as many rows of registers fit behind the mailbox."""
_SCATTERED = tuple(0x5A00_0000_0000_0000 + 0x0123_4567_89AB * number for number in range(1, 7))
_NO_FPU = tuple(half for register in FPU_REGS for half in (register.initial, 0))
_FLAGS_KEPT = 0xCD5  # the arithmetic flags and DF: what a user may carry back in
_FLAGS_SET = 0x202


class Fixup(NamedTuple):
    """How to go on after a kernel fault: continue at ``rip``, with ``zero`` (a register) set to 0."""

    rip: int
    zero: str | None = None


class TrapHandler(Protocol):
    """The kernel, as the CPU sees it."""

    def leaf(self, number: int, args: Sequence[int]) -> int: ...
    def left(self, number: int, args: Sequence[int]) -> int: ...
    def kernel_fault(self, rip: int, addr: int | None) -> Fixup | None: ...
    def symbolise(self, addr: int) -> str: ...


@dataclass
class UserState:
    """Everything a thread owns in the CPU while it is not running; plain data.

    ``regs`` holds USER_REGS in order, ``fpu`` two 64-bit halves for each of FPU_REGS.
    """

    regs: list[int]
    fpu: list[int]

    @classmethod
    def start(cls, rip: int, rsp: int) -> UserState:
        """A thread about to execute its first instruction."""
        regs = dict.fromkeys(USER_REGS, 0) | {"rip": rip, "rsp": rsp, "rflags": _FLAGS_SET}
        return cls([regs[name] for name in USER_REGS], list(_NO_FPU))

    def get(self, name: str) -> int:
        return self.regs[USER_REGS.index(name)]

    def set(self, name: str, value: int) -> None:
        self.regs[USER_REGS.index(name)] = value & _MASK


class UserStop(NamedTuple):
    """Why ring 3 was left: ``syscall``, or an exception ``vector`` with its address (page faults)."""

    syscall: bool
    vector: int = 0
    addr: int = 0
    kind: str = ""


class Cpu:
    """The processor. ``mailbox`` is the virtual address of the mailbox, inside ``data_phys``'s page."""

    def __init__(
        self,
        ram: PhysicalMemory,
        tables: PageTables,
        memory: KernelMemory,
        mailbox: int,
        mailbox_phys: int,
        watchdog_seconds: float,
        flight_recorder: int = 0,
    ) -> None:
        self._view = ram.view
        self._tables = tables
        self._memory = memory
        self._mailbox = mailbox
        self._mb = mailbox_phys
        self._mb_result = mailbox_phys + MAILBOX_OFFSETS["MB_RESULT"]
        self._raw = RawEngine(ram.addr, ram.size)
        self._kernel_regs = RegisterSet(self._raw, KERNEL_REGS)
        self._user_regs = RegisterSet(self._raw, USER_REGS, FPU_REGS)
        self._call_regs = RegisterSet(self._raw, _SAVED_BY_CALL)
        self._contexts: list[Any] = []
        self._generation = tables.generation
        self._code_generation = tables.code_generation
        self._in_leaf = False
        self._budget = 0
        self._stop_rip = 0
        self._blocks_left = 0
        self._out_of_blocks = False
        self._user_root = 0
        self._trapped: list[int] = []
        self._random_at: dict[int, bool] = {}
        self._cpuid: dict[int, tuple[int, ...]] = {}
        self._stop: tuple[str, int] | None = None
        self._raised: BaseException | None = None
        self._stack = 0
        self._entry: Mapping[str, int] = {}
        self._trap: TrapHandler
        self.this_cpu = 0
        self.depth = 0
        self.blocks: deque[int] = deque(maxlen=flight_recorder or _BLOCKS_KEPT)
        """Where the last basic blocks began, when they are recorded (newest last)."""
        self._watchdog = Watchdog(self._raw.stopper(), watchdog_seconds)
        self._recording = bool(flight_recorder)

    # Power and wiring

    def power_on(
        self,
        entry: Mapping[str, int],
        trap: TrapHandler,
        gdt: int,
        percpu_offsets: Sequence[int],
        boot_stack: int,
    ) -> None:
        """Enter long mode with all protections, load the segments, and save one context for each CPU.

        ``entry`` has the addresses of kernel text symbols, ``gdt`` where the table lies (virtual).
        """
        self._entry = entry
        self._trap = trap
        raw = self._raw
        raw.set_control(_CR0, self._tables.kernel_root, _CR4, _EFER)
        self._memory.write(gdt, struct.pack(f"<{len(GDT)}Q", *GDT))
        raw.set_gdt(gdt, 8 * len(GDT) - 1)
        raw.set_reg("rsp", boot_stack)
        error = raw.start(entry["startup_64"])
        if error or raw.reg("cs") != KERNEL_CS:
            raise RuntimeError(f"the emulated CPU did not come up: {ENGINE_ERRORS.get(error, error)}")
        for offset in percpu_offsets:
            raw.set_reg("gs_base", offset)
            self._contexts.append(raw.save_context())
        raw.restore_context(self._contexts[0])
        point = entry["__leaf_point"]
        raw.hook_point(self._on_leaf, point)
        raw.hook_interrupt(self._on_interrupt)
        raw.hook_syscall(self._on_syscall)
        raw.hook_ports(self._on_port)
        raw.hook_sysenter(self._forbidden)
        if self._recording:
            raw.hook_block(self.blocks.append)
        raw.forget_all_code()
        self._hide_features(boot_stack)

    def _hide_features(self, stack: int) -> None:
        """CPUID without the instructions that would give a guest the host's randomness."""
        out = stack - 4096
        for leaf in _HIDDEN_FEATURES:
            self.call(self._entry["native_cpuid"], leaf, 0, out, stack=stack)
            self._cpuid[leaf] = struct.unpack("<4I", self._memory.read(out, 16))
        self._raw.hook_cpuid(self._on_cpuid)
        self._raw.forget_all_code()

    def close(self) -> None:
        """Stop the watchdog and free the engine."""
        self._watchdog.close()
        self._raw.close()

    def set_cpu(self, number: int) -> None:
        """Continue as another CPU; only between runs."""
        if number != self.this_cpu:
            if self.depth:
                raise RuntimeError("a CPU is switched between runs only")
            self._raw.restore_context(self._contexts[number])
            self.this_cpu = number

    def invalidate_code(self, addr: int, size: int) -> None:
        """After a change of code at the executable address ``addr``."""
        self._raw.forget_code(addr, addr + size)

    def reset(self) -> None:
        """After all memory was replaced: forget every translation of addresses and code."""
        self._raw.restore_context(self._contexts[self.this_cpu])
        self._raw.forget_all_code()
        self._raw.flush_tlb()

    def observe_code(self, function: Callable[[int], None], begin: int, end: int) -> int:
        """Call ``function(address)`` before each instruction in ``[begin, end)`` until :meth:`unobserve`."""

        def guarded(_engine: int, addr: int, _size: int, _data: int) -> None:
            try:
                function(addr)
            except BaseException as error:
                self._raised = error
                self._raw.stop()

        hook = self._raw.hook_range(guarded, begin, end - 1)
        self._raw.forget_all_code()
        return hook

    def unobserve(self, hook: int) -> None:
        """Remove an observer; the code runs at full speed again."""
        self._raw.unhook(hook)
        self._raw.forget_all_code()

    def scatter_registers(self) -> None:
        """Between runs: give each register that calls preserve a value of its own, which points nowhere.

        Code that mixes them up, or takes one for its own, then shows. Calls leave them so.
        """
        if not self.depth:
            self._call_regs.write((*_SCATTERED, self._raw.reg("rsp")))

    def registers(self) -> dict[str, int]:
        """The general registers now, by name (inside an observer or after a stop)."""
        return dict(zip(KERNEL_REGS, self._kernel_regs.read(), strict=True))

    def register_values(self) -> tuple[int, ...]:
        """The same as a tuple in the order of KERNEL_REGS, without the names."""
        return self._kernel_regs.read()

    # Callbacks inside a run

    def _on_leaf(self, _engine: int, _addr: int, _size: int, _data: int) -> None:
        self._in_leaf = True
        try:
            args = _ARGS.unpack_from(self._view, self._mb)
            result = self._trap.leaf(args[6], args) & _MASK
            _WORD.pack_into(self._view, self._mb_result, result)
        except BaseException as error:
            self._raised = error
            self._raw.stop()
        finally:
            self._in_leaf = False

    def _on_interrupt(self, vector: int) -> None:
        if self._stop is None:
            self._stop = ("exception", vector)
        self._raw.stop()

    def _on_cpuid(self) -> int:
        leaf, subleaf = self._raw.reg("rax") & 0xFFFF_FFFF, self._raw.reg("rcx") & 0xFFFF_FFFF
        hidden = _HIDDEN_FEATURES.get(leaf)
        if hidden is None or (leaf == 7 and subleaf):
            return 0
        values = list(self._cpuid[leaf])
        values[hidden[0]] &= ~hidden[1]
        for name, value in zip(("rax", "rbx", "rcx", "rdx"), values, strict=True):
            self._raw.set_reg(name, value)
        return 1

    def _on_port(self) -> int:
        """No device listens at I/O ports, and ring 3 may not ask (the engine itself checks no IOPL)."""
        self._forbidden()
        return _MASK

    def _forbidden(self) -> None:
        """An instruction that ring 3 may not use and that the engine would let pass."""
        if self._stop is None and self._raw.reg("cs") == USER_CS:
            self._stop = ("exception", GENERAL_PROTECTION)
            # The engine stops only some instructions later.
            self._stop_rip = self._raw.reg("rip")
            self._raw.stop()

    def _on_random(self, addr: int) -> None:
        # User code is never writable and executable, so what an address holds is looked at once.
        found = self._random_at.get(addr)
        if found is None:
            code = self._user_bytes(addr, _MAX_INSN)
            found = bool(_RDRAND_CODE.match(code))
            if found or len(code) == _MAX_INSN:
                self._random_at[addr] = found
        if found and self._stop is None and self._raw.reg("cs") == USER_CS:
            self._stop = ("exception", RDRAND)
            self._raw.stop()

    def _user_bytes(self, addr: int, size: int) -> bytes:
        """Code of the running thread, as far as it is mapped."""
        out = bytearray()
        for at in range(addr, addr + size):
            walk = self._tables.walk(self._user_root, at)
            if walk is None or walk.phys >= len(self._view):
                break
            out.append(self._view[walk.phys])
        return bytes(out)

    def trap_user_code(self, addr: int, code: bytes) -> None:
        """Leave ring 3 before each ``rdrand`` and ``rdseed`` in ``code`` (mapped at ``addr``): they would
        read the host's random numbers, and the engine can neither forbid nor replace them."""
        for found in re.finditer(rb"\x0f\xc7[\xf0-\xff]", code):
            span = (addr + found.start() - _MAX_PREFIXES, addr + found.start())
            self._trapped.append(self._raw.hook_code(self._on_random, *span))
            self._raw.forget_all_code()

    @property
    def watches_user_code(self) -> bool:
        """Whether :meth:`trap_user_code` is in force anywhere."""
        return bool(self._trapped)

    def release_user_code(self) -> None:
        """Undo :meth:`trap_user_code`: the program has ended, and other code comes to its addresses."""
        if self._trapped:
            for hook in self._trapped:
                self._raw.unhook(hook)
            self._trapped.clear()
            self._raw.forget_all_code()
        self._random_at.clear()

    def _on_block(self, addr: int) -> None:
        self.blocks.append(addr)
        self._blocks_left -= 1
        if not self._blocks_left:
            self._out_of_blocks = True
            self._raw.stop()

    @contextmanager
    def repeating(self, budget: int) -> Iterator[None]:
        """Runs inside are those of a repetition: their basic blocks are noted, and each run is ended
        after ``budget`` of them, so at the same instruction on every host."""
        self.blocks.clear()
        self._budget = budget
        hook = self._raw.hook_block(self._on_block)
        self._raw.forget_all_code()
        try:
            yield
        finally:
            self._budget = 0
            self._raw.unhook(hook)
            self._raw.forget_all_code()

    def _on_syscall(self) -> None:
        if self._stop is None:
            self._stop = ("syscall", 0)
        self._raw.stop()

    # Calling kernel text

    def call(self, addr: int, *args: int, stack: int | None = None) -> int:
        """Run the kernel function at ``addr`` (see kernel_model.ports.Cpu).

        ``stack`` is the stack pointer at the call instruction, to the byte; by default a multiple of 16
        right under the code that called into Python, or the top given by :meth:`on_stack`.
        RuntimeError for more than MAX_DEPTH calls inside each other.
        """
        if self._in_leaf:
            raise RuntimeError("a leaf function cannot call emulated text: register it as leaving")
        if self.depth >= MAX_DEPTH:
            raise RuntimeError(f"more than {MAX_DEPTH} calls into emulated text inside each other")
        sp = self._stack & ~15 if stack is None else stack
        save = self._mailbox + _SAVE_AREA + _SAVE_SIZE * (self.depth + 1)
        padded = (*args, 0, 0, 0, 0, 0, 0)
        _CALL.pack_into(self._view, self._mb, *(arg & _MASK for arg in padded[:6]), addr, sp, save)
        outer = self._stack
        self.depth += 1
        try:
            return self._run(self._entry["__call_from_model"])
        except BaseException:
            self._recover()
            if self.depth > 1:
                self._reinstate(save)
            raise
        finally:
            self.depth -= 1
            self._stack = outer

    def _reinstate(self, save: int) -> None:
        """After a nested call ended in an exception: give the interrupted code its registers back, so
        that a kernel function that handles the exception can return to it."""
        size = 8 * len(_SAVED_BY_CALL)
        self._call_regs.write(struct.unpack(f"<{len(_SAVED_BY_CALL)}Q", self._memory.read(save - size, size)))

    @property
    def stack_pointer(self) -> int:
        """In a function that left the run: RSP at its entry (where the return address lies)."""
        return self._stack

    def on_stack(self, top: int) -> int:
        """Set the stack for calls from Python at depth 0; returns the previous one."""
        previous, self._stack = self._stack, top
        return previous

    def _start(self, rip: int) -> int:
        tables = self._tables
        if self._generation != tables.generation:
            self._generation = tables.generation
            self._raw.flush_tlb()
        if self._code_generation != tables.code_generation:
            self._code_generation = tables.code_generation
            self._raw.forget_all_code()
        self._stop = None
        _WORD.pack_into(self._view, self._mb_result + 8, 0)
        self._out_of_blocks = False
        self._blocks_left = self._budget
        # A repetition is bounded by its budget, so that nothing of the host shows in the report.
        self._watchdog.arm(_PATIENCE if self._budget else 1)
        try:
            return self._noted(self._raw.start(rip))
        finally:
            self._watchdog.disarm()

    def _noted(self, error: int) -> int:
        """unicorn tells an undefined instruction by its result and not by the exception hook."""
        if error == INVALID_INSTRUCTION and self._stop is None:
            self._stop = ("exception", INVALID_OPCODE)
            return 0
        return error

    def _run(self, rip: int) -> int:
        """The run loop for kernel mode: until __call_from_model returns."""
        while True:
            error = self._start(rip)
            self._raise_pending()
            if self._stop is not None:
                rip = self._kernel_stop(*self._stop)
                continue
            result, reason = _RESULT_REASON.unpack_from(self._view, self._mb_result)
            if reason == REASON_RETURNED:
                return int(result)
            if reason != REASON_LEFT:
                raise self._wild(error)
            rip = self._leave()

    def _raise_pending(self) -> None:
        """Raise what a callback inside the run raised."""
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised

    def _leave(self) -> int:
        *args, number = _ARGS.unpack_from(self._view, self._mb)
        outer = self._stack
        (self._stack,) = _WORD.unpack_from(self._view, self._mb + MAILBOX_OFFSETS["MB_STACK"])
        try:
            result = self._trap.left(number, args)
        finally:
            self._stack = outer
        _WORD.pack_into(self._view, self._mb_result, result & _MASK)
        return self._entry["__leave_resume"]

    def _recover(self) -> None:
        """Bring the engine back to a clean kernel context (no pending exception, the kernel's CR3)."""
        self._raw.restore_context(self._contexts[self.this_cpu])

    def _kernel_stop(self, what: str, vector: int) -> int:
        """An exception in kernel mode: resolve it by the kernel's tables, or raise GuestFault."""
        regs = list(self._kernel_regs.read())
        addr = self._raw.reg("cr2") if vector == PAGE_FAULT else None
        self._recover()
        rip = regs[KERNEL_REGS.index("rip")]
        # A non-canonical address raises #GP, for which Linux asks the same table (fixup_exception).
        fixable = what == "exception" and vector in (PAGE_FAULT, GENERAL_PROTECTION)
        fixup = self._trap.kernel_fault(rip, addr) if fixable else None
        if fixup is None:
            name = "syscall instruction" if what == "syscall" else _VECTORS.get(vector, f"vector {vector}")
            raise self._fault(name, dict(zip(KERNEL_REGS, regs, strict=True)), addr, user=False)
        if fixup.zero is not None:
            regs[KERNEL_REGS.index(fixup.zero)] = 0
        regs[KERNEL_REGS.index("rip")] = fixup.rip
        frame = (regs[KERNEL_REGS.index("rsp")] - 512) & ~15
        self._write_pt_regs(frame, regs, KERNEL_CS, KERNEL_DS)
        self._put("MB_STACK", frame)
        return self._entry["ret_to_kernel"]

    def _put(self, name: str, value: int) -> None:
        _WORD.pack_into(self._view, self._mb + MAILBOX_OFFSETS[name], value)

    def _write_pt_regs(self, at: int, regs: Sequence[int], cs: int, ss: int, orig_ax: int = 0) -> None:
        count = len(GPRS)
        rip, flags, rsp = regs[count : count + 3]
        self._memory.write(at, struct.pack("<21Q", *regs[:count], orig_ax, rip, cs, flags, rsp, ss))

    def _wild(self, error: int) -> GuestFault:
        """A run that ended for no reason of the kernel's."""
        regs = self.registers()
        self._recover()
        return self._fault(self._why(error), regs, None, user=False)

    def _why(self, error: int) -> str:
        if self._out_of_blocks or self._watchdog.fired():
            return RUNAWAY
        return f"engine stopped: {ENGINE_ERRORS.get(error, str(error))}" if error else "unexpected hlt"

    def _fault(self, kind: str, regs: Mapping[str, int], addr: int | None, user: bool) -> GuestFault:
        describe = self._trap.symbolise
        return GuestFault(
            kind,
            regs["rip"],
            user,
            addr,
            regs,
            tuple(describe(at) for at in self._return_addresses(regs, user)),
            tuple(describe(at) for at in self.recorded()),
        )

    def recorded(self) -> tuple[int, ...]:
        """Where the last basic blocks began, newest last; none when nobody records them."""
        return tuple(self.blocks) if self._recording or self._budget else ()

    def _return_addresses(self, regs: Mapping[str, int], user: bool) -> list[int]:
        """RIP and the return addresses along the chain of frame pointers (at most 32)."""
        found = [regs["rip"]]
        frame = regs["rbp"]
        while not user and len(found) < 32:
            try:
                below, back = self._memory.u64(frame), self._memory.u64(frame + 8)
            except MemoryFault:
                break
            if back < KERNEL_TEXT:
                break
            found.append(back)
            if below <= frame:
                break
            frame = below
        return found

    # Running ring 3

    def run_user(self, state: UserState, cr3: int, pt_regs: int) -> UserStop:
        """Run a thread in ring 3 until it makes a system call or faults; ``state`` is updated.

        ``pt_regs`` is where its saved registers lie on its kernel stack (struct pt_regs, as in Linux).
        Raises GuestFault when the watchdog ends the run.
        """
        flags = USER_REGS.index("rflags")
        state.regs[flags] = (state.regs[flags] & _FLAGS_KEPT) | _FLAGS_SET
        self._write_pt_regs(pt_regs, state.regs, USER_CS, USER_DS)
        # ret_to_user takes the general registers from pt_regs; only the others are set from here.
        self._user_regs.write([*self._kernel_regs.read(), state.get("fs_base"), *state.fpu])
        self._put("MB_STACK", pt_regs)
        self._put("MB_CR3", cr3)
        self._user_root = cr3
        error = self._start(self._entry["ret_to_user"])
        values = self._user_regs.read()
        cr2 = self._raw.reg("cr2")
        self._recover()
        self._raw.set_reg("cr3", self._tables.kernel_root)
        state.regs[:] = values[: len(USER_REGS)]
        state.fpu[:] = values[len(USER_REGS) :]
        if self._stop_rip:
            state.set("rip", self._stop_rip)
            self._stop_rip = 0
        self._write_pt_regs(pt_regs, state.regs, USER_CS, USER_DS, orig_ax=state.get("rax"))
        self._raise_pending()
        if self._stop is None:
            raise self._fault(self._why(error), self._named(state), None, user=True)
        what, vector = self._stop
        if what == "syscall":
            return UserStop(True)
        if vector != PAGE_FAULT:
            return UserStop(False, vector)
        return UserStop(False, vector, cr2, self._fault_kind(cr3, cr2, state.get("rip")))

    @staticmethod
    def _named(state: UserState) -> dict[str, int]:
        return dict(zip(USER_REGS, state.regs, strict=True))

    def user_fault(self, stop: UserStop, state: UserState) -> GuestFault:
        """The GuestFault for a user exception that the kernel did not resolve."""
        name = _VECTORS.get(stop.vector, f"vector {stop.vector}")
        addr = stop.addr if stop.vector == PAGE_FAULT else None
        return self._fault(name, self._named(state), addr, user=True)

    def _fault_kind(self, root: int, addr: int, rip: int) -> str:
        """read, write or fetch, found by walking (the engine tells no error code)."""
        if addr // PAGE_SIZE == rip // PAGE_SIZE or addr == rip:
            walk = self._tables.walk(root, rip)
            if walk is None or not walk.executable or not walk.user:
                return "fetch"
        walk = self._tables.walk(root, addr)
        return "write" if walk is not None and walk.user and not walk.writable else "read"
