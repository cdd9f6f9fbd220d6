# SPDX-License-Identifier: GPL-2.0-only
"""The emulated processor and its one run loop.

One unicorn engine serves all CPUs of the machine; a CPU is a saved context with its own GS base. The
engine runs until something stops it: ``hlt`` in one of the entry routines (jit_x86/text/entry.S), a
``syscall``, an exception, or the watchdog. Every stop is dispatched here, at depth 0 of the engine, so
kernel code in Python may freely call emulated text again; only leaf functions run inside a run.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kernel_model.errors import MemoryFault

from .address_map import GDT, KERNEL_CS, KERNEL_DS, KERNEL_TEXT, PAGE_SIZE, USER_CS, USER_DS
from .guest_fault import GuestFault
from .memory import KernelMemory, PhysicalMemory
from .paging import PageTables
from .unicorn_api import ENGINE_ERRORS, GPRS, RawEngine, RegisterSet
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
_CR4 = (
    _CR4_TSD | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20 | 1 << 21
)  # PAE PGE OSFXSR OSXMMEXCPT SMEP SMAP
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
PAGE_FAULT, GENERAL_PROTECTION, DOUBLE_FAULT = 14, 13, 8

_CALL = struct.Struct("<6Q8xQQ")  # ARG0..ARG5, (NUMBER), TARGET, STACK
_ARGS = struct.Struct("<7Q")  # ARG0..ARG5, NUMBER
_WORD = struct.Struct("<Q")
_RESULT_REASON = struct.Struct("<QQ")
_MASK = 0xFFFF_FFFF_FFFF_FFFF

KERNEL_REGS = (*GPRS, "rip", "rflags", "rsp")
USER_REGS = (*KERNEL_REGS, "fs_base")
XMM_COUNT = 16
_FLAGS_KEPT = 0xCD5  # the arithmetic flags and DF: what a user may carry back in
_FLAGS_SET = 0x202


class Fixup(NamedTuple):
    """How to go on after a kernel fault: continue at ``rip``, with ``zero`` (a register) set to 0."""

    rip: int
    zero: str | None = None


class TrapHandler(Protocol):
    """The kernel, as the CPU sees it."""

    def leaf(self, number: int, args: Sequence[int]) -> int: ...
    def left(self, number: int, args: Sequence[int], stack: int) -> int: ...
    def kernel_fault(self, rip: int, addr: int | None) -> Fixup | None: ...
    def symbolise(self, addr: int) -> str: ...


@dataclass
class UserState:
    """Everything a thread owns in the CPU while it is not running; plain data.

    ``regs`` holds USER_REGS in order, ``xmm`` two 64-bit halves for each of the 16 registers.
    """

    regs: list[int]
    xmm: list[int]

    @classmethod
    def start(cls, rip: int, rsp: int) -> UserState:
        """A thread about to execute its first instruction."""
        regs = dict.fromkeys(USER_REGS, 0) | {"rip": rip, "rsp": rsp, "rflags": _FLAGS_SET}
        return cls([regs[name] for name in USER_REGS], [0] * (2 * XMM_COUNT))

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
        self._raw = RawEngine(ram.addr, ram.size)
        self._kernel_regs = RegisterSet(self._raw, KERNEL_REGS)
        self._user_regs = RegisterSet(self._raw, USER_REGS, XMM_COUNT)
        self._contexts: list[Any] = []
        self._generation = tables.generation
        self._stop: tuple[str, int] | None = None
        self._raised: BaseException | None = None
        self._stack = 0
        self._entry: Mapping[str, int] = {}
        self._trap: TrapHandler
        self.this_cpu = 0
        self.depth = 0
        self.blocks: deque[int] = deque(maxlen=flight_recorder or 1)
        self._watchdog = Watchdog(self._raw.stop, watchdog_seconds)
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
        raw.hook_code(self._on_leaf, point, point)
        raw.hook_interrupt(self._on_interrupt)
        raw.hook_syscall(self._on_syscall)
        if self._recording:
            raw.hook_block(self.blocks.append)
        raw.forget_all_code()

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

        def guarded(addr: int) -> None:
            try:
                function(addr)
            except BaseException as error:
                self._raised = error
                self._raw.stop()

        hook = self._raw.hook_code(guarded, begin, end - 1)
        self._raw.forget_all_code()
        return hook

    def unobserve(self, hook: int) -> None:
        """Remove an observer; the code runs at full speed again."""
        self._raw.unhook(hook)
        self._raw.forget_all_code()

    def registers(self) -> dict[str, int]:
        """The general registers now, by name (inside an observer or after a stop)."""
        return dict(zip(KERNEL_REGS, self._kernel_regs.read(), strict=True))

    def register_values(self) -> tuple[int, ...]:
        """The same as a tuple in the order of KERNEL_REGS, without the names."""
        return self._kernel_regs.read()

    # Callbacks inside a run

    def _on_leaf(self, _addr: int) -> None:
        try:
            *args, number = _ARGS.unpack_from(self._view, self._mb)
            result = self._trap.leaf(number, args) & _MASK
            _WORD.pack_into(self._view, self._mb + MAILBOX_OFFSETS["MB_RESULT"], result)
        except BaseException as error:
            self._raised = error
            self._raw.stop()

    def _on_interrupt(self, vector: int) -> None:
        self._stop = ("exception", vector)
        self._raw.stop()

    def _on_syscall(self) -> None:
        self._stop = ("syscall", 0)
        self._raw.stop()

    # Calling kernel text

    def call(self, addr: int, *args: int, stack: int | None = None) -> int:
        """Run the kernel function at ``addr`` (see kernel_model.ports.Cpu).

        ``stack`` is where its frames begin (16-byte aligned below); by default right under the code
        that called into Python, or the top given by :meth:`on_stack`.
        """
        sp = (self._stack if stack is None else stack) & ~15
        padded = (*args, 0, 0, 0, 0, 0, 0)
        _CALL.pack_into(self._view, self._mb, *(arg & _MASK for arg in padded[:6]), addr, sp)
        outer = self._stack
        self.depth += 1
        try:
            return self._run(self._entry["__call_from_model"])
        finally:
            self.depth -= 1
            self._stack = outer

    @property
    def stack_pointer(self) -> int:
        """In a function that left the run: RSP at its entry (where the return address lies)."""
        return self._stack

    def on_stack(self, top: int) -> int:
        """Set the stack for calls from Python at depth 0; returns the previous one."""
        previous, self._stack = self._stack, top
        return previous

    def _start(self, rip: int) -> int:
        if self._generation != self._tables.generation:
            self._generation = self._tables.generation
            self._raw.flush_tlb()
        self._watchdog.arm()
        try:
            return self._raw.start(rip)
        finally:
            self._watchdog.disarm()

    def _run(self, rip: int) -> int:
        """The run loop for kernel mode: until __call_from_model returns."""
        reason_at = self._mb + MAILBOX_OFFSETS["MB_RESULT"]
        while True:
            self._stop = None
            _WORD.pack_into(self._view, reason_at + 8, 0)
            error = self._start(rip)
            if self._raised is not None:
                raised, self._raised = self._raised, None
                self._recover()
                raise raised
            if self._stop is not None:
                rip = self._kernel_stop(*self._stop)
                continue
            result, reason = _RESULT_REASON.unpack_from(self._view, reason_at)
            if reason == REASON_RETURNED:
                return int(result)
            if reason != REASON_LEFT:
                raise self._wild(error)
            rip = self._leave()

    def _leave(self) -> int:
        *args, number = _ARGS.unpack_from(self._view, self._mb)
        outer = self._stack
        (self._stack,) = _WORD.unpack_from(self._view, self._mb + MAILBOX_OFFSETS["MB_STACK"])
        try:
            result = self._trap.left(number, args, self._stack)
        except BaseException:
            self._recover()
            raise
        finally:
            self._stack = outer
        _WORD.pack_into(self._view, self._mb + MAILBOX_OFFSETS["MB_RESULT"], result & _MASK)
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
        fixup = self._trap.kernel_fault(rip, addr) if what == "exception" and vector == PAGE_FAULT else None
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
        regs = self.registers()
        if self._watchdog.fired():
            kind = "runaway guest (time budget used up)"
        else:
            kind = (
                "unexpected hlt" if not error else f"engine stopped: {ENGINE_ERRORS.get(error, str(error))}"
            )
        self._recover()
        return self._fault(kind, regs, None, user=False)

    def _fault(self, kind: str, regs: Mapping[str, int], addr: int | None, user: bool) -> GuestFault:
        describe = self._trap.symbolise
        return GuestFault(
            kind,
            regs["rip"],
            user,
            addr,
            regs,
            tuple(describe(at) for at in self._return_addresses(regs, user)),
            tuple(describe(at) for at in self.blocks) if self._recording else (),
        )

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
        names = len(KERNEL_REGS)
        flags = names - 2
        state.regs[flags] = (state.regs[flags] & _FLAGS_KEPT) | _FLAGS_SET
        self._write_pt_regs(pt_regs, state.regs, USER_CS, USER_DS)
        kernel = self._kernel_regs.read()
        self._user_regs.write([*kernel, state.regs[-1], *state.xmm])
        self._put("MB_STACK", pt_regs)
        self._put("MB_CR3", cr3)
        self._stop = None
        error = self._start(self._entry["ret_to_user"])
        values = self._user_regs.read()
        cr2 = self._raw.reg("cr2")
        self._recover()
        self._raw.set_reg("cr3", self._tables.kernel_root)
        state.regs[:] = values[: len(USER_REGS)]
        state.xmm[:] = values[len(USER_REGS) :]
        self._write_pt_regs(pt_regs, state.regs, USER_CS, USER_DS, orig_ax=state.get("rax"))
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        regs = dict(zip(USER_REGS, state.regs, strict=True))
        if self._stop is None:
            runaway = self._watchdog.fired()
            why = f"engine stopped: {ENGINE_ERRORS.get(error, str(error))}"
            raise self._fault(
                "runaway guest (time budget used up)" if runaway else why, regs, None, user=True
            )
        what, vector = self._stop
        if what == "syscall":
            return UserStop(syscall=True)
        return UserStop(
            False, vector, cr2, self._fault_kind(cr3, cr2, state.get("rip")) if vector == 14 else ""
        )

    def user_fault(self, stop: UserStop, state: UserState) -> GuestFault:
        """The GuestFault for a user exception that the kernel did not resolve."""
        name = _VECTORS.get(stop.vector, f"vector {stop.vector}")
        regs = dict(zip(USER_REGS, state.regs, strict=True))
        return self._fault(name, regs, stop.addr if stop.vector == PAGE_FAULT else None, user=True)

    def _fault_kind(self, root: int, addr: int, rip: int) -> str:
        """read, write or fetch, found by walking (the engine tells no error code)."""
        if addr // PAGE_SIZE == rip // PAGE_SIZE or addr == rip:
            walk = self._tables.walk(root, rip)
            if walk is None or not walk.executable or not walk.user:
                return "fetch"
        walk = self._tables.walk(root, addr)
        return "write" if walk is not None and walk.user and not walk.writable else "read"
