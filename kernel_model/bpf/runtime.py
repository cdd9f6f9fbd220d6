# SPDX-License-Identifier: GPL-2.0-only
"""The interpreter's entry points in kernel text: ``__bpf_prog_run32`` .. ``__bpf_prog_run512``.

``prog->bpf_func`` points at one of them when a program is not compiled. They are called like an image,
``(ctx, insnsi)``, and leave the CPU run, since the program may call kernel text.

Functions that a program hands to helpers (callbacks) have the address of their machine code, so that the
program's registers are the same on both engines. While the interpreter runs such a program, the first
bytes of these functions are a call that leads back to it (Linux's interpreter has no callbacks at all).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..functions import leaving
from ..interpreter import Interpreter, Program
from .prog import INTERPRETERS, BpfProg

if TYPE_CHECKING:
    from ..interpreter.engine import Observer
    from ..kernel import Kernel

INTERPRETER_BUDGET = 200_000_000
"""Instructions after which a run is ended: as unreachable for real programs as a soft lockup."""


AroundCall = Callable[[int, int, tuple[int, ...], Callable[[], int]], int]
"""Given a kernel function's address, the stack pointer, R1-R5, and what makes the call; answers R0."""


class Runtime:
    """Interpreters bound to one kernel's ports. Not part of the kernel's state: rebuilt after a restore."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._callbacks: dict[int, tuple[BpfProg, int]] = {}
        """Program and function number by the return address of the call over its first bytes."""
        self._diverted: dict[int, bytes] = {}
        """What the run under way has put such calls over, by address."""
        self.fp = 0
        """R10 of the main function of the run under way (the innermost one): what tells runs apart."""
        self.observer: Observer | None = None
        self.around_call: AroundCall | None = None
        """Makes every call of kernel text in the interpreter's stead, to look at what it does."""
        self._interpreter = Interpreter(kernel.memory, self._call, self._tail_call, self._this_cpu_off)

    def _call(self, addr: int, stack: int, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
        call = self._kernel.cpu.call
        if self.around_call is not None:
            args = (r1, r2, r3, r4, r5)
            return self.around_call(addr, stack, args, lambda: call(addr, *args, stack=stack))
        return call(addr, r1, r2, r3, r4, r5, stack=stack)

    def _this_cpu_off(self) -> int:
        return self._kernel.alloc.per_cpu_offset(self._kernel.cpu.this_cpu)

    def _tail_call(self, ctx: int, map_addr: int, index: int) -> Program | None:
        kernel = self._kernel
        array = kernel.layout["bpf_array"]
        index &= 0xFFFF_FFFF
        if index >= kernel.memory.u32(map_addr + array.offset("map.max_entries")):
            return None
        addr = kernel.memory.u64(map_addr + array.offset("ptrs") + 8 * index)
        if not addr:
            return None
        prog = kernel.progs_by_addr[addr]
        self._divert(prog)
        return prog.program()

    def _divert(self, prog: BpfProg) -> None:
        """Let calls of the program's callbacks come here until the run under way ends."""
        if prog.image is None:
            return
        kernel = self._kernel
        for number in prog.callbacks:
            addr = prog.image.functions[number].addr
            code = kernel.compiler.call_code(addr, kernel.text.symbol("bpf_callback_thunk"))
            if addr + len(code) in self._callbacks:
                continue
            self._callbacks[addr + len(code)] = prog, number
            self._diverted[addr] = kernel.memory.read(addr, len(code))
            kernel.text.poke(addr, code)

    def _give_back(self) -> None:
        for addr, code in self._diverted.items():
            self._kernel.text.poke(addr, code)
            del self._callbacks[addr + len(code)]

    def run(self, insnsi: int, ctx: int, fp: int) -> int:
        """Interpret the program whose instructions lie at ``insnsi``; R0."""
        prog = self._kernel.progs_by_addr[insnsi - self._kernel.layout["bpf_prog"].offset("insnsi")]
        outer = self._diverted, self.fp
        self._diverted, self.fp = {}, fp
        try:
            self._divert(prog)
            return self._interpreter.run(
                prog.program(), (ctx,), fp, observer=self.observer, budget=INTERPRETER_BUDGET
            )
        finally:
            self._give_back()
            self._diverted, self.fp = outer

    def call_back(self, place: int, args: tuple[int, ...], fp: int) -> int:
        """A helper calls a function of a program under way; ``place`` tells which. R0."""
        prog, number = self._callbacks[place]
        return self._interpreter.call_back(prog.program(), number, args, fp)


def bpf_prog_run(kernel: Kernel, ctx: int, insnsi: int) -> int:
    """Run a program on the interpreter; R10 is where the JIT's prologue would have put it."""
    return kernel.runtime.run(insnsi, ctx, kernel.cpu.stack_pointer - 8)


@leaving("bpf_run_callback", 6)
def bpf_run_callback(kernel: Kernel, r1: int, r2: int, r3: int, r4: int, r5: int, place: int) -> int:
    """A callback on the interpreter; its R10 is where the prologue of its machine code would have put it."""
    return kernel.runtime.call_back(place, (r1, r2, r3, r4, r5), kernel.cpu.stack_pointer - 8)


for _name in INTERPRETERS:
    leaving(_name, 2)(bpf_prog_run)
