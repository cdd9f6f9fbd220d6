# SPDX-License-Identifier: GPL-2.0-only
"""Kernel functions that are written in Python, and the one table that lists them.

Each becomes a symbol in emulated kernel text: a stub that traps. Arguments arrive in the SysV order
(rdi, rsi, rdx, rcx, r8, r9) as unsigned 64-bit integers, the result goes to rax (taken modulo 2**64, so
``-errno.EINVAL`` may be returned as it is). There are two kinds:

- ``leaf``: runs inside the CPU run (a trap of well under a microsecond); must not call emulated text,
  block or switch;
- ``leaving``: the CPU run is left, the function runs from the run loop and may call emulated text
  (``kernel.cpu.call``), and the run is then resumed.

Functions written in machine code live in ``jit_x86/text`` instead, one file a concept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kernel import Kernel

Impl = Callable[..., int]


@dataclass(frozen=True)
class KernelFunction:
    """A row: the symbol's name, how many arguments it takes (0-6), the Python function, and its kind."""

    name: str
    nargs: int
    impl: Impl
    leaving: bool = False


FUNCTIONS: dict[str, KernelFunction] = {}


def _register(name: str, nargs: int, leaving: bool) -> Callable[[Impl], Impl]:
    def add(impl: Impl) -> Impl:
        if name in FUNCTIONS:
            raise ValueError(f"kernel function {name} is defined twice")
        FUNCTIONS[name] = KernelFunction(name, nargs, impl, leaving)
        return impl

    return add


def leaf(name: str, nargs: int) -> Callable[[Impl], Impl]:
    """Register ``impl(kernel, a1, ... a_nargs) -> int`` as a leaf kernel function."""
    return _register(name, nargs, leaving=False)


def leaving(name: str, nargs: int) -> Callable[[Impl], Impl]:
    """Register ``impl(kernel, a1, ... a_nargs) -> int`` as a function that leaves the CPU run."""
    return _register(name, nargs, leaving=True)


def call_impl(kernel: Kernel, name: str, *args: int) -> int:
    """Call a Python kernel function directly, as its stub would (for tests)."""
    row = FUNCTIONS[name]
    return row.impl(kernel, *args[: row.nargs]) & 0xFFFFFFFFFFFFFFFF
