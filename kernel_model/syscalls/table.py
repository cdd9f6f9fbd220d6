# SPDX-License-Identifier: GPL-2.0-only
"""The system-call table: Linux's x86-64 numbers, one row a call, and the one dispatcher.

A handler is ``handler(kernel, task, *args) -> int`` with as many arguments as the row says, each the raw
64-bit register value. It returns the result or raises: KernelError becomes ``-errno``, a fault on the
caller's memory ``-EFAULT``. Numbers that Linux has and this kernel does not are NotModelled (ENOSYS).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KernelError, MemoryFault, NotModelled

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

Handler = Callable[..., int]
SYSCALL_COST_NS = 100


@dataclass(frozen=True)
class Syscall:
    """A row. ``nargs`` is how many registers the handler takes."""

    number: int
    name: str
    nargs: int
    handler: Handler


SYSCALLS: dict[int, Syscall] = {}


def syscall(number: int, name: str, nargs: int) -> Callable[[Handler], Handler]:
    """Register a handler under Linux's number and name."""

    def add(handler: Handler) -> Handler:
        if number in SYSCALLS:
            raise ValueError(f"system call {number} is defined twice")
        SYSCALLS[number] = Syscall(number, name, nargs, handler)
        return handler

    return add


def dispatch(kernel: Kernel, task: Task, number: int, args: tuple[int, ...]) -> int:
    """Run one system call for ``task``; the raw result: a value, or ``-errno``.

    The last refused call's reason stays in ``kernel.last_error`` for people.
    """
    if task.exit_code is not None:
        kernel.last_error = KernelError(errno.ESRCH, f"pid {task.pid} has exited")
        return -errno.ESRCH
    previous, kernel.current = kernel.current, task
    stack = kernel.enter_stack(task)
    kernel.clock.advance(SYSCALL_COST_NS)
    kernel.set_current(task)
    kernel.last_error = None
    try:
        row = SYSCALLS.get(number)
        if row is None:
            raise NotModelled(f"system call {number}", errno.ENOSYS)
        padded = (*args, 0, 0, 0, 0, 0, 0)
        return row.handler(kernel, task, *(arg & 0xFFFF_FFFF_FFFF_FFFF for arg in padded[: row.nargs]))
    except KernelError as error:
        kernel.last_error = error
        return -error.errno
    except MemoryFault as fault:
        if not fault.user:
            raise
        kernel.last_error = KernelError(errno.EFAULT, str(fault))
        return -errno.EFAULT
    finally:
        kernel.current = previous
        kernel.set_current(previous)
        kernel.leave_stack(stack)


def as_int(value: int) -> int:
    """A register as a C ``int``: the low 32 bits, signed."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def read_string(kernel: Kernel, task: Task, addr: int, limit: int) -> bytes:
    """A NUL-terminated string from user space, without the NUL; KernelError(ENAMETOOLONG) if too long."""
    out = bytearray()
    while len(out) < limit:
        part = min(4096 - (addr & 4095), limit - len(out))
        chunk = task.mm.read(kernel, addr, part)
        end = chunk.find(b"\0")
        if end >= 0:
            return bytes(out + chunk[:end])
        out += chunk
        addr += part
    raise KernelError(errno.ENAMETOOLONG, f"a string of {limit} bytes or more")
