# SPDX-License-Identifier: GPL-2.0-only
"""Private stacks: per-CPU memory for the frames of tracing programs, which may run on a deep kernel stack.

Each function with enough stack has its own, with a guard word on both sides that is looked at when the
program goes. Source: bpf_int_jit_compile() and bpf_jit_free(), arch/x86/net/bpf_jit_comp.c (since 6.13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..isa.native import PRIV_STACK_GUARD_SZ, Subprog

if TYPE_CHECKING:
    from ..kernel import Kernel

PRIV_STACK_GUARD_VAL: Final = 0xEB9F_1234_5678_EB9F
ENOTSUPP: Final = 524


@dataclass(frozen=True)
class PrivateStack:
    """The stack of function number ``subprog``: ``size`` bytes on each CPU at the per-CPU ``addr``."""

    subprog: int
    addr: int
    size: int

    def guards(self, kernel: Kernel) -> Iterator[int]:
        """The addresses of the guard words: two a CPU."""
        for cpu in range(kernel.alloc.nr_cpus):
            base = self.addr + kernel.alloc.per_cpu_offset(cpu)
            yield base
            yield base + self.size - PRIV_STACK_GUARD_SZ

    def free(self, kernel: Kernel, name: str) -> None:
        """Give it back; a guard that was written to is told in the kernel's log."""
        if any(kernel.memory.u64(at) != PRIV_STACK_GUARD_VAL for at in self.guards(kernel)):
            kernel.messages.append(f"BPF private stack overflow/underflow detected for prog {name}")
        kernel.alloc.free_percpu(self.addr)


def allocate(kernel: Kernel, subprogs: Sequence[Subprog]) -> tuple[PrivateStack, ...]:
    """Stacks for the functions that want one, guards set.

    KernelError(ENOTSUPP), with nothing left behind, when memory is spent: then there is no machine code.
    """
    made: list[PrivateStack] = []
    for number, each in enumerate(subprogs):
        if not each.wants_private_stack:
            continue
        try:
            addr = kernel.alloc.alloc_percpu(each.private_stack_size, 8)
        except KernelError:
            for stack in made:
                stack.free(kernel, "")
            raise KernelError(ENOTSUPP, "no memory for a private stack") from None
        stack = PrivateStack(number, addr, each.private_stack_size)
        for at in stack.guards(kernel):
            kernel.memory.put_u64(at, PRIV_STACK_GUARD_VAL)
        made.append(stack)
    return tuple(made)
