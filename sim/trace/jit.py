# SPDX-License-Identifier: GPL-2.0-only
"""Recording what JIT images do, by watching the emulated CPU at the addresses where instructions begin.

When machine code arrives at the first byte of a BPF instruction, the one before it in the same frame is
complete and the registers are the state after it. Two kinds of addresses more are watched: a function's
entry (a frame is pushed) and the place behind its prologue's first instructions where tail calls land
(the top frame goes over to the next program). An exit is complete where it begins: it changes nothing
but the frame. That it gives back its caller's registers and stack is looked at where its epilogue ends
(and at tail calls where they land): no step of the program would show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import TYPE_CHECKING

from kernel_model.isa import opcodes as op

from ..hardware.cpu import KERNEL_REGS
from ..hardware.guest_fault import GuestFault
from .memory import Effect, Target, effect, look, target_of
from .record import Execution, ProgText, Recording, Where

if TYPE_CHECKING:
    from ..machine import Machine

X86_REGISTERS = ("rax", "rdi", "rsi", "rdx", "rcx", "r8", "rbx", "r13", "r14", "r15", "rbp")
"""Where the JIT keeps R0 to R10 (arch/x86/net/bpf_jit_comp.c, reg2hex)."""
_PICK: Callable[[tuple[int, ...]], tuple[int, ...]] = itemgetter(*map(KERNEL_REGS.index, X86_REGISTERS))
_PRIVATE_FP = KERNEL_REGS.index("r9")
"""R10 of a function with a private stack."""
_PROLOGUE_HEAD = 12
"""Bytes from a function's entry to where tail calls land, without endbr64 (X86_TAIL_CALL_OFFSET)."""
_ENDBR = 4
_SAVED = ("rbx", "r12", "r13", "r14", "r15", "rbp")
"""What a function gives back as it found it, besides the stack pointer."""
_PICK_SAVED: Callable[[tuple[int, ...]], tuple[int, ...]] = itemgetter(
    *map(KERNEL_REGS.index, (*_SAVED, "rsp"))
)
_RAX = KERNEL_REGS.index("rax")
_WORD = 8
_FIXED = ("r12", "rsp")
"""What stays as it is from a function's first instruction to its exit: no BPF register shows it."""
_PICK_FIXED: Callable[[tuple[int, ...]], tuple[int, ...]] = itemgetter(*map(KERNEL_REGS.index, _FIXED))


@dataclass
class _Point:
    """What begins at an address."""

    prog: ProgText
    function: int
    private: bool = False
    """The function has a private stack."""
    entry: bool = False
    landing: bool = False
    slot: int = -1
    where: Where | None = None
    target: Target | None = None
    exits: bool = False
    plain: bool = False
    """Nothing but an instruction that is no exit begins here."""
    leaving: bool = False
    """The last instruction of an epilogue."""
    epilogue: int = 0
    """For an exit that jumps to the function's only epilogue: the address of that."""


@dataclass
class _Frame:
    saved: tuple[int, ...]
    """The caller's registers and stack pointer at the entry, as _PICK_SAVED has them."""
    under_way: Where | None = None
    in_prologue: bool = True
    store: tuple[int, int, tuple[int, bytes] | None] | None = None
    """Address and size of what the instruction under way stores, and the memory there before it."""
    fixed: tuple[int, ...] = ()
    """_FIXED at the first instruction."""


class JitRecorder:
    """Records all executions of JIT images while it is entered as a context manager.

    Programs loaded meanwhile are not seen.
    """

    def __init__(self, machine: Machine, recording: Recording) -> None:
        self._machine = machine
        self._recording = recording
        self._points: dict[int, _Point] = {}
        self._hook: int | None = None
        self._frames: list[_Frame] = []
        self._execution: Execution | None = None
        self._outer: list[tuple[Execution | None, list[_Frame], int]] = []
        self._skip = 0
        self._tail_calls = 0
        """Those that the execution has made."""
        self._left: tuple[Execution, int, _Frame] | None = None
        self._returning: tuple[Execution, Where] | None = None
        """The execution whose last exit was the last that was seen."""
        self._leave_size = machine.kernel.mitigations.return_size

    def __enter__(self) -> JitRecorder:
        kernel = self._machine.kernel
        landing = _PROLOGUE_HEAD + (_ENDBR if kernel.mitigations.ibt else 0)
        for prog in kernel.progs:
            text = ProgText.of(kernel, prog)
            self._recording.programs[prog.id] = text
            for number in range(len(text.functions)):
                self._add_points(text, number, landing)
        if self._points:
            end = max(f.addr + len(f.code) for p in self._recording.programs.values() for f in p.functions)
            self._hook = self._machine.cpu.observe_code(self._at, min(self._points), end)
            self._machine.cpu.scatter_registers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hook is not None:
            self._machine.cpu.unobserve(self._hook)
            self._hook = None
        if isinstance(error, GuestFault) and self._returning is not None:
            # Nothing of the caller was seen since: the last exit did not lead back there.
            execution, where = self._returning
            execution.complete = False
            self._recording.stop(execution, error, where)
            if execution is self._execution:
                self._resume_outer()
        while self._execution is not None:
            self._give_up(error)

    def _add_points(self, text: ProgText, number: int, landing: int) -> None:
        subprog, function = text.subprogs[number], text.functions[number]
        points: dict[int, _Point] = {}

        def point(off: int) -> _Point:
            return points.setdefault(
                function.addr + off, _Point(text, number, subprog.private_stack is not None)
            )

        epilogue = 0
        for slot in range(subprog.start, subprog.end):
            if slot in text.silent:
                continue
            here = point(function.offs[slot - subprog.start])
            here.slot, here.where = slot, Where(text.id, slot)
            here.target = target_of(text.insns[slot])
            if text.insns[slot].code == op.EXIT:
                here.exits = True
                here.epilogue = epilogue
                if not epilogue:
                    epilogue = function.addr + function.offs[slot - subprog.start]
                    point(function.offs[slot - subprog.start + 1] - self._leave_size).leaving = True
        point(0).entry = True
        if number == 0:
            point(landing).landing = True
        for each in points.values():
            each.plain = each.slot >= 0 and not (each.exits or each.entry or each.landing or each.leaving)
        self._points |= points

    def _at(self, addr: int) -> None:
        point = self._points.get(addr)
        if point is None:
            return
        if point.plain:
            if self._execution is not None:
                self._slot(point)
            return
        if addr == self._skip:
            self._skip = 0
            return
        if point.leaving and self._left is not None:
            self._check_leaving(*self._left)
            return
        if point.entry:
            self._enter(point)
        if self._execution is None:
            return
        self._returning = None
        if point.landing:
            self._land()
        if point.slot >= 0:
            self._slot(point)

    def _enter(self, point: _Point) -> None:
        under_way = self._frames[-1].under_way if self._frames else None
        caller = self._recording.programs[under_way.prog].insns[under_way.slot] if under_way else None
        if caller is not None and caller.code == op.CALL:
            if caller.src == op.BPF_PSEUDO_CALL or point.function:
                # Called by the program itself, or by the helper that it called.
                self._frames.append(self._new_frame())
                return
            # A helper ran another program: an execution of its own.
            self._outer.append((self._execution, self._frames, self._tail_calls))
        elif self._execution is not None:
            self._give_up(None)
        self._frames = [self._new_frame()]
        self._execution = self._recording.begin(self._machine.cpu.this_cpu, self._machine.clock.now())
        self._tail_calls = 0

    def _land(self) -> None:
        frame = self._frames[-1]
        if frame.in_prologue:
            frame.in_prologue = False
            return
        self._complete(frame, _PICK(self._machine.cpu.register_values()))
        frame.fixed = ()
        if self._execution is not None:
            self._tail_calls += 1
            self._check_saved(self._execution, len(self._execution) - 1, frame, landing=True)
            self._check_counter(self._execution)

    def _new_frame(self) -> _Frame:
        return _Frame(_PICK_SAVED(self._machine.cpu.register_values()))

    def _check_leaving(self, execution: Execution, step: int, frame: _Frame) -> None:
        """At the last instruction of an epilogue: everything is as the caller had it, and R0 as it was."""
        self._left = None
        self._check_saved(execution, step, frame, landing=False)
        r0, now = execution[step].regs[0], self._machine.cpu.register_values()[_RAX]
        if r0 != now:
            _note(execution, step, f"R0 is {now:#x}, was {r0:#x}")

    def _check_saved(self, execution: Execution, step: int, frame: _Frame, landing: bool) -> None:
        """Note what is not restored. A tail call lands with rbp pushed, and both pointing there."""
        now, saved = _PICK_SAVED(self._machine.cpu.register_values()), frame.saved
        if landing:
            pushed = saved[-1] - _WORD
            saved = (*saved[:-2], pushed, pushed)
        if now != saved:
            _note(execution, step, _in_words((*_SAVED, "rsp"), now, saved))

    def _check_counter(self, execution: Execution) -> None:
        """Where a tail call lands: rax is how many there were, or points at that (tail_call_cnt_ptr)."""
        rax = self._machine.cpu.register_values()[_RAX]
        count: int | None = rax
        if rax > op.MAX_TAIL_CALL_CNT:
            found = look(self._machine.kernel.memory, rax, _WORD, 0)
            count = int.from_bytes(found[1], "little") if found else None
        if count != self._tail_calls:
            _note(
                execution,
                len(execution) - 1,
                f"the tail-call counter is {count} (rax {rax:#x}) after {self._tail_calls} calls",
            )

    def _complete(self, frame: _Frame, regs: tuple[int, ...]) -> None:
        if frame.under_way is not None and self._execution is not None:
            done = None if frame.store is None else self._effect(*frame.store)
            self._recording.add(self._execution, frame.under_way, regs, done)
            frame.under_way = frame.store = None

    def _effect(self, addr: int, size: int, before: tuple[int, bytes] | None) -> Effect | None:
        return effect(before, look(self._machine.kernel.memory, addr, size), addr, size)

    def _slot(self, point: _Point) -> None:
        frame = self._frames[-1]
        frame.in_prologue = False
        values = self._machine.cpu.register_values()
        regs = _PICK(values)
        if point.private:
            regs = (*regs[:-1], values[_PRIVATE_FP])
        done = frame.under_way is not None
        self._complete(frame, regs)
        fixed = _PICK_FIXED(values)
        if fixed != frame.fixed:
            if done and frame.fixed and self._execution is not None:
                _note(self._execution, len(self._execution) - 1, _in_words(_FIXED, fixed, frame.fixed))
            frame.fixed = fixed
        frame.under_way = point.where
        target = point.target
        if target is not None:
            addr = target.addr(regs)
            frame.store = addr, target.size, look(self._machine.kernel.memory, addr, target.size)
        if point.exits:
            self._complete(frame, regs)
            if self._execution is not None and point.where is not None:
                self._left = self._execution, len(self._execution) - 1, frame
                self._returning = self._execution, point.where
            self._skip = point.epilogue
            self._frames.pop()
            if not self._frames and self._execution is not None:
                self._execution.complete = True
                self._resume_outer()

    def _resume_outer(self) -> None:
        self._execution, self._frames, self._tail_calls = self._outer.pop() if self._outer else (None, [], 0)

    def _give_up(self, error: BaseException | None) -> None:
        """The execution under way ends without its exit."""
        if self._execution is not None:
            where = self._frames[-1].under_way if self._frames else None
            self._recording.stop(self._execution, error, where)
        self._resume_outer()


def _note(execution: Execution, step: int, what: str) -> None:
    """Something that the step broke, besides what is known already."""
    known = execution.broken.get(step)
    execution.broken[step] = f"{known}, {what}" if known else what


def _in_words(names: tuple[str, ...], now: tuple[int, ...], before: tuple[int, ...]) -> str:
    return ", ".join(
        f"{name} is {here:#x}, was {there:#x}"
        for name, here, there in zip(names, now, before, strict=True)
        if here != there
    )
