# SPDX-License-Identifier: GPL-2.0-only
"""Kfuncs that open and close regions. Programs run one at a time and are never interrupted here, so there is
nothing to keep out; the interrupt flags that are saved are those of a CPU with interrupts on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

X86_EFLAGS_IF: Final = 1 << 9
_FIXED: Final = 1 << 1


@leaf("bpf_rcu_read_lock", 0)
def bpf_rcu_read_lock(kernel: Kernel) -> int:
    """Grace periods wait for the end of the whole program run anyway."""
    return 0


@leaf("bpf_rcu_read_unlock", 0)
def bpf_rcu_read_unlock(kernel: Kernel) -> int:
    """See bpf_rcu_read_lock()."""
    return 0


@leaf("bpf_preempt_disable", 0)
def bpf_preempt_disable(kernel: Kernel) -> int:
    """Nothing preempts a program here."""
    return 0


@leaf("bpf_preempt_enable", 0)
def bpf_preempt_enable(kernel: Kernel) -> int:
    """See bpf_preempt_disable()."""
    return 0


@leaf("bpf_local_irq_save", 1)
def bpf_local_irq_save(kernel: Kernel, flags: int) -> int:
    """Store the CPU's flags."""
    kernel.memory.put_u64(flags, X86_EFLAGS_IF | _FIXED)
    return 0


@leaf("bpf_local_irq_restore", 1)
def bpf_local_irq_restore(kernel: Kernel, flags: int) -> int:
    """Take them back."""
    return 0
