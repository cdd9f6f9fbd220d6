# SPDX-License-Identifier: GPL-2.0-only
"""The interpreter's entry points in kernel text: ``__bpf_prog_run32`` .. ``__bpf_prog_run512``.

``prog->bpf_func`` points at one of them when a program is not compiled. They are called like an image,
``(ctx, insnsi)``, and leave the CPU run, since the program may call kernel text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..functions import leaving
from ..interpreter import Interpreter, Program
from .prog import INTERPRETERS

if TYPE_CHECKING:
    from ..interpreter.engine import Observer
    from ..kernel import Kernel

INTERPRETER_BUDGET = 200_000_000
"""Instructions after which a run is ended: as unreachable for real programs as a soft lockup."""

_HELPER_STACK = 2048
"""Bytes kept free below R10 for the frames of BPF functions (512 bytes of stack, 8 frames, saved
registers); helpers that the program calls use the kernel stack below."""


AroundCall = Callable[[int, tuple[int, ...], Callable[[], int]], int]
"""Given a kernel function's address, R1-R5, and what makes the call; answers R0."""


class Runtime:
    """Interpreters bound to one kernel's ports. Not part of the kernel's state: rebuilt after a restore."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._stack = 0
        self.fp = 0
        """R10 of the main function of the run under way (the innermost one): what tells runs apart."""
        self.observer: Observer | None = None
        self.around_call: AroundCall | None = None
        """Makes every call of kernel text in the interpreter's stead, to look at what it does."""
        self._interpreter = Interpreter(kernel.memory, self._call, self._tail_call, self._this_cpu_off)

    def _call(self, addr: int, r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
        call, stack = self._kernel.cpu.call, self._stack
        if self.around_call is not None:
            args = (r1, r2, r3, r4, r5)
            return self.around_call(addr, args, lambda: call(addr, *args, stack=stack))
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
        return kernel.progs_by_addr[addr].program() if addr else None

    def run(self, insnsi: int, ctx: int, fp: int) -> int:
        """Interpret the program whose instructions lie at ``insnsi``; R0."""
        prog = self._kernel.progs_by_addr[insnsi - self._kernel.layout["bpf_prog"].offset("insnsi")]
        outer = self._stack, self.fp
        self._stack, self.fp = fp - _HELPER_STACK, fp
        try:
            return self._interpreter.run(
                prog.program(), (ctx,), fp, observer=self.observer, budget=INTERPRETER_BUDGET
            )
        finally:
            self._stack, self.fp = outer


def bpf_prog_run(kernel: Kernel, ctx: int, insnsi: int) -> int:
    """Run a program on the interpreter; R10 is where the JIT's prologue would have put it."""
    return kernel.runtime.run(insnsi, ctx, kernel.cpu.stack_pointer - 8)


for _name in INTERPRETERS:
    leaving(_name, 2)(bpf_prog_run)
