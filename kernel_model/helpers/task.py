# SPDX-License-Identifier: GPL-2.0-only
"""Helpers about the running task that are Python; those that only read it are machine code (task.S)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel


@leaf("bpf_get_current_uid_gid", 0)
def bpf_get_current_uid_gid(kernel: Kernel) -> int:
    """The group id in the upper half, the user id in the lower; the idle task is root's."""
    task = kernel.current
    return task.gid << 32 | task.uid if task is not None else 0


@leaf("bpf_get_current_comm", 2)
def bpf_get_current_comm(kernel: Kernel, buf: int, size: int) -> int:
    """The task's name, padded with zeroes to ``size`` (1 and more) bytes; 0."""
    task = kernel.current
    name = task.comm if task is not None else f"swapper/{kernel.cpu.this_cpu}"
    size &= 0xFFFF_FFFF
    kernel.memory.write(buf, name.encode()[:15][: size - 1].ljust(size, b"\0"))
    return 0
