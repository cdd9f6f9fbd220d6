# SPDX-License-Identifier: GPL-2.0-only
"""The root of the kernel's state. Everything the kernel knows hangs here, as plain data.

The ports (memory, CPU, text, clock ...) are plugged in by the machine and are not part of the state:
pickling leaves them out, and :meth:`Kernel.bind` plugs them in again.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .bpf.runtime import Runtime
from .btf.layout import Layout, kernel_layout
from .btf.parse import Btf
from .btf.vmlinux import kernel_btf, parse_kernel_btf
from .errors import KernelError
from .fs.bpffs import BpfFs
from .isa.native import CpuFeatures, Mitigations, NativeCompiler
from .mm.slab import KernelAllocator
from .mm.vmap import Vmaps
from .net.stack import NetStack
from .objects import Idr
from .ports import Clock, Cpu, Memory, Random, Text
from .rc import RcCore
from .sysctl import Sysctls
from .task import Task
from .tracing import TraceBuffer

if TYPE_CHECKING:
    from .bpf.btf_object import BtfObject
    from .bpf.link import BpfLink
    from .bpf.map_object import MapObject
    from .bpf.prog import BpfProg
    from .perf.event import PerfEvent
    from .verifier.api import VerifierObserver

STACK_GUARD = 4096
STACK_MAX = 16 << 10
"""The largest kernel stack (THREAD_SIZE); each has this much room."""


class Paging(Protocol):
    """Page tables, as the kernel uses them (sim.hardware.paging)."""

    kernel_root: int

    def new_root(self) -> int: ...
    def map_page(
        self, root: int, addr: int, phys: int, writable: bool, user: bool = False, executable: bool = False
    ) -> None: ...
    def unmap_page(self, root: int, addr: int) -> None: ...
    def free_user_half(self, root: int) -> None: ...


@dataclass(eq=False)
class Ports:
    """Everything from outside. ``physical`` is RAM as bytes, ``vmalloc_start`` where kernel stacks go."""

    memory: Memory
    alloc: KernelAllocator
    cpu: Cpu
    text: Text
    clock: Clock
    random: Random
    paging: Paging
    physical: memoryview
    compiler: NativeCompiler
    vmalloc_start: int
    vmlinux_btf: bytes | None = None
    """What /sys/kernel/btf/vmlinux shows; None: the types of this kernel itself."""


class Kernel(Ports):
    """The simulated kernel: the ports, and all state (kernel_model.ports.Services among other things)."""

    def __init__(
        self,
        ports: Ports,
        features: CpuFeatures,
        mitigations: Mitigations,
        data: dict[str, int],
        layout: Layout | None = None,
    ) -> None:
        self.layout: Layout = layout or kernel_layout()
        self.features = features
        self.mitigations = mitigations
        self.data = data
        """Addresses of static kernel data by symbol (per-CPU symbols: link addresses)."""
        self.bind(ports)
        self.sysctl = Sysctls()
        self.tracing = TraceBuffer()
        self.bpffs = BpfFs()
        self.net = NetStack()
        self.maps: Idr[MapObject] = Idr("map")
        self.progs: Idr[BpfProg] = Idr("program")
        self.links: Idr[BpfLink] = Idr("link")
        self.btfs: Idr[BtfObject] = Idr("BTF object")
        self.maps_by_addr: dict[int, Any] = {}
        self.progs_by_addr: dict[int, BpfProg] = {}
        self.extable: dict[int, tuple[int, str | None]] = {}
        """Kernel text addresses that may fault: where to go on, and which register then reads zero."""
        self.perf_events: dict[int, PerfEvent] = {}
        """Perf events by the address of their struct perf_event."""
        self.next_perf_event_id = 1
        self.rc = RcCore()
        self.tasks: dict[int, Task] = {}
        self.current: Task | None = None
        self.last_error: KernelError | None = None
        self.verifier_observer: VerifierObserver | None = None
        """Told of every step of every verification while it is set."""
        self.messages: list[str] = []
        """What Linux prints to its log."""
        self._next_pid = 1
        self._stacks_free: list[int] = []
        self._stacks_next = 0
        self._stack_frames: dict[int, list[int]] = {}
        self.vmaps = Vmaps()

    _PORTS = frozenset(Ports.__dataclass_fields__)

    def bind(self, ports: Ports) -> None:
        """Plug the ports in (at boot, and after unpickling)."""
        for name in self._PORTS:
            setattr(self, name, getattr(ports, name))
        self.runtime = Runtime(self)

    def __getstate__(self) -> dict[str, Any]:
        left_out = self._PORTS | {"runtime"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    # Types

    def btf_data(self) -> bytes:
        """The bytes of /sys/kernel/btf/vmlinux."""
        return self.vmlinux_btf if self.vmlinux_btf is not None else kernel_btf()

    def vmlinux(self) -> Btf:
        """The kernel's types, read when somebody first asks."""
        return parse_kernel_btf(self.btf_data())

    def symbol(self, name: str) -> int:
        """The address of a function or of static data (per-CPU symbols: link address); KeyError for none."""
        found = self.data.get(name)
        return found if found is not None else self.text.symbol(name)

    # Kernel stacks

    def alloc_stack(self, size: int) -> int:
        """A kernel stack of ``size`` bytes in vmalloc space, an unmapped page below it.

        KernelError(ENOMEM), with nothing left behind.
        """
        if self._stacks_free:
            base = self._stacks_free.pop()
        else:
            base = self.vmalloc_start + self._stacks_next * (STACK_MAX + STACK_GUARD) + STACK_GUARD
            self._stacks_next += 1
        self._stack_frames[base] = []
        try:
            for page in range(base, base + size, 4096):
                frame = self.alloc.pages.alloc()
                self._stack_frames[base].append(frame)
                self.physical[frame : frame + 4096] = bytes(4096)
                self.paging.map_page(self.paging.kernel_root, page, frame, writable=True)
        except KernelError:
            self.free_stack(base)
            raise
        return base

    def free_stack(self, base: int) -> None:
        """Give a kernel stack back."""
        for index, frame in enumerate(self._stack_frames.pop(base)):
            self.paging.unmap_page(self.paging.kernel_root, base + index * 4096)
            self.alloc.pages.free(frame)
        self._stacks_free.append(base)

    def enter_stack(self, task: Task) -> int | None:
        """Calls into text now go on ``task``'s kernel stack, unless emulated code is running already."""
        if self.cpu.depth:
            return None
        # The top holds the saved user registers (struct pt_regs), as in Linux.
        return self.cpu.on_stack(task.stack_top - self.layout["pt_regs"].size)

    def leave_stack(self, previous: int | None) -> None:
        """Undo :meth:`enter_stack`."""
        if previous is not None:
            self.cpu.on_stack(previous)

    def netdev(self, ifindex: int) -> int:
        """See ports.Services."""
        return self.net.dev_addr(self, ifindex) if self.net.exists(self, ifindex) else 0

    def vmap(self, pages: Sequence[int]) -> int:
        """See ports.Services."""
        return self.vmaps.map(self, pages)

    def vunmap(self, addr: int) -> None:
        """See ports.Services."""
        self.vmaps.unmap(self, addr)

    # Processes

    def set_current(self, task: Task | None) -> None:
        """Tell machine code which task runs on this CPU."""
        self.memory.put_u64(self.per_cpu("current_task", self.cpu.this_cpu), task.addr if task else 0)

    def new_task(self, uid: int, comm: str) -> Task:
        """A process without a program; pids count up from 1."""
        pid = self._next_pid
        self._next_pid += 1
        task = Task(self, pid, uid, comm)
        self.tasks[pid] = task
        return task

    def reap(self, task: Task) -> None:
        """Forget a task that has exited."""
        if task.exit_code is None:
            raise KernelError(errno.EBUSY, f"pid {task.pid} has not exited")
        del self.tasks[task.pid]

    def per_cpu(self, symbol: str, cpu: int) -> int:
        """The address of CPU ``cpu``'s copy of a per-CPU symbol."""
        return self.data[symbol] + self.alloc.per_cpu_offset(cpu)
