# SPDX-License-Identifier: GPL-2.0-only
"""A process of the machine, as Python drives it: memory and raw system calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_model.errors import KernelError, MemoryFault
from kernel_model.mm.address_space import PROT_READ, PROT_WRITE
from kernel_model.syscalls.table import dispatch
from kernel_model.task import Task

from .hardware.guest_fault import GuestFault

if TYPE_CHECKING:
    from .machine import Machine


class Process:
    """One process. It is named by its pid, so the handle stays good over snapshots and restores."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self._machine = machine
        self.pid = pid

    @property
    def task(self) -> Task:
        """The kernel's task; KeyError when the machine was restored to a time without it.

        RuntimeError when the machine is closed.
        """
        self._machine.check_powered()
        return self._machine.kernel.tasks[self.pid]

    @property
    def stdout(self) -> bytes:
        """Everything written to descriptors 1 and 2."""
        return bytes(self.task.stdout)

    @property
    def exit_code(self) -> int | None:
        """The code once it has exited."""
        return self.task.exit_code

    @property
    def last_error(self) -> KernelError | None:
        """Why the last system call was refused, in words (Linux itself tells only the number)."""
        return self._machine.kernel.last_error

    def reap(self) -> None:
        """Forget a process that has exited (wait(2)); KernelError(EBUSY) while it lives."""
        self._machine.kernel.reap(self.task)

    def alloc(self, size: int) -> int:
        """``size`` bytes of zeroed memory, page-aligned, present only once touched; the address.

        KernelError(EINVAL) for a size that is not positive, ENOMEM when the address space is full.
        """
        return self.task.mm.map_area(size, PROT_READ | PROT_WRITE)

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes of the process's memory.

        GuestFault when not all of it is mapped, ValueError for a negative size.
        """
        if size < 0:
            raise ValueError(f"cannot read {size} bytes")
        try:
            return self.task.mm.read(self._machine.kernel, addr, size)
        except MemoryFault as fault:
            raise GuestFault("page fault", addr=fault.addr, user=True) from fault

    def write(self, addr: int, data: bytes) -> None:
        """Store ``data``; GuestFault (and nothing written) when not all of it is mapped writable."""
        mm = self.task.mm
        try:
            mm.check_writable(addr, len(data))
            mm.write(self._machine.kernel, addr, bytes(data))
        except MemoryFault as fault:
            raise GuestFault("page fault", addr=fault.addr, user=True) from fault

    def syscall(self, number: int, *args: int) -> int:
        """A raw system call by Linux's x86-64 number: the result, or ``-errno``.

        The reason for a refusal in words is in ``last_error``.
        """
        return dispatch(self._machine.kernel, self.task, number, args)
