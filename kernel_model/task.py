# SPDX-License-Identifier: GPL-2.0-only
"""Processes: credentials, descriptors, address space, and the task_struct that machine code sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import KernelError
from .mm.address_space import AddressSpace
from .objects import FdTable
from .verifier.api import Privileges

if TYPE_CHECKING:
    from .kernel import Kernel

# Capability numbers (include/uapi/linux/capability.h).
CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = 12, 13, 21, 24, 38, 39
CAP_SYSLOG = 34
ALL_CAPS = frozenset(range(41))

THREAD_SIZE = 16 << 10


class Task:
    """One process with one thread. Plain data; ``addr`` is its struct task_struct in kernel memory.

    KernelError(ENOMEM) when memory is spent, with nothing left behind.
    """

    def __init__(self, kernel: Kernel, pid: int, uid: int, comm: str) -> None:
        self.pid = pid
        self.tgid = pid
        self.uid = uid
        self.gid = uid
        self.caps = ALL_CAPS if uid == 0 else frozenset()
        self.comm = comm
        self.files = FdTable()
        layout = kernel.layout["task_struct"]
        self.addr = kernel.alloc.kmalloc(layout.size)
        self.stack = 0
        try:
            self.stack = kernel.alloc_stack(THREAD_SIZE)
            self.mm = AddressSpace(kernel.paging.new_root())
        except KernelError:
            if self.stack:
                kernel.free_stack(self.stack)
            kernel.alloc.kfree(self.addr)
            raise
        self.brk = 0
        self.brk_start = 0
        self.exit_code: int | None = None
        self.stdout = bytearray()
        self.user_state: Any = None
        """Registers of the thread while it is not running (sim.hardware.cpu.UserState), or None."""
        memory = kernel.memory
        memory.put_u64(self.addr + layout.offset("stack"), self.stack)
        memory.put_u32(self.addr + layout.offset("pid"), pid)
        memory.put_u32(self.addr + layout.offset("tgid"), pid)
        memory.write(self.addr + layout.offset("comm"), comm.encode()[:15].ljust(16, b"\0"))

    @property
    def stack_top(self) -> int:
        """The first address above the kernel stack."""
        return self.stack + THREAD_SIZE

    def capable(self, cap: int) -> bool:
        """capable(): exactly this capability."""
        return cap in self.caps

    def bpf_capable(self, cap: int = CAP_BPF) -> bool:
        """This capability or CAP_SYS_ADMIN, which implied them before 5.8 and still does."""
        return cap in self.caps or CAP_SYS_ADMIN in self.caps

    @property
    def privileges(self) -> Privileges:
        """The capabilities that loading programs asks about."""
        return Privileges(
            self.bpf_capable(CAP_BPF),
            self.bpf_capable(CAP_PERFMON),
            self.bpf_capable(CAP_NET_ADMIN),
            self.capable(CAP_SYS_ADMIN),
        )

    def exit(self, kernel: Kernel, code: int) -> None:
        """Close everything and give the memory back; the task stays as a zombie with its code."""
        if self.exit_code is not None:
            return
        self.exit_code = code
        self.files.close_all(kernel)
        self.mm.free(kernel)
        kernel.alloc.kfree(self.addr)
        kernel.free_stack(self.stack)
