# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel needs from outside, as small Protocols. ``sim.machine`` plugs them in.

The kernel model imports no emulator and no assembler; a test can plug in plain Python fakes.
All addresses are virtual unless a name says ``phys`` or ``frame`` (a frame is a physical address that
is a multiple of 4096).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .btf.layout import Layout


class Memory(Protocol):
    """Kernel-virtual memory: the direct map, kernel data, kernel text (read only) and per-CPU areas.

    Values are unsigned, little endian. Raises MemoryFault at an unmapped or forbidden address.
    """

    def read(self, addr: int, size: int) -> bytes: ...
    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None: ...
    def fill(self, addr: int, size: int, byte: int = 0) -> None: ...
    def u8(self, addr: int) -> int: ...
    def u16(self, addr: int) -> int: ...
    def u32(self, addr: int) -> int: ...
    def u64(self, addr: int) -> int: ...
    def put_u8(self, addr: int, value: int) -> None: ...
    def put_u16(self, addr: int, value: int) -> None: ...
    def put_u32(self, addr: int, value: int) -> None: ...
    def put_u64(self, addr: int, value: int) -> None: ...


class Allocator(Protocol):
    """The kernel's allocators. All raise KernelError(ENOMEM) when the machine's memory is spent."""

    def kmalloc(self, size: int, align: int = 8) -> int:
        """Zeroed memory in the direct map; at most the largest contiguous run. Returns its address."""
        ...

    def kfree(self, addr: int) -> None:
        """Give a kmalloc'd object back (0 is ignored)."""
        ...

    def alloc_percpu(self, size: int, align: int = 8) -> int:
        """Zeroed per-CPU memory. Returns a per-CPU pointer: add ``per_cpu_offset(cpu)`` for an address."""
        ...

    def free_percpu(self, ptr: int) -> None: ...
    def per_cpu_offset(self, cpu: int) -> int: ...
    def frame(self, addr: int) -> int:
        """The physical address of kmalloc'd memory."""
        ...

    @property
    def nr_cpus(self) -> int: ...


class Cpu(Protocol):
    """Calling into emulated text."""

    def call(self, addr: int, *args: int, stack: int | None = None) -> int:
        """Run the kernel function at ``addr`` with up to six arguments (SysV ABI); its RAX, unsigned.

        ``stack`` is the stack pointer at the call instruction, by default right below the code that called
        into Python.

        Callable from kernel code that itself was entered from emulated text (nested), except from a
        leaf trap. Raises GuestFault when the function goes wild.
        """
        ...

    def on_stack(self, top: int) -> int:
        """Let calls at depth 0 begin at this stack address; returns the previous one."""
        ...

    @property
    def stack_pointer(self) -> int:
        """In a kernel function that left the CPU run: the stack pointer at its entry."""
        ...

    @property
    def depth(self) -> int:
        """How many calls into emulated text are under way."""
        ...

    @property
    def this_cpu(self) -> int:
        """The number of the CPU that runs now."""
        ...


class Text(Protocol):
    """Kernel text: symbols and code that is installed at run time."""

    def symbol(self, name: str) -> int:
        """The address of a kernel symbol; KeyError when there is none."""
        ...

    def symbols(self) -> Mapping[str, int]: ...
    def lookup(self, addr: int) -> tuple[str, int] | None:
        """The symbol at or below ``addr`` within its length, with the offset into it."""
        ...

    def allocate(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Room for JIT images: one address for each size."""
        ...

    def poke(self, addr: int, code: bytes) -> None:
        """text_poke(): the only way code changes; invalidates what was translated there."""
        ...

    def add_symbol(self, name: str, addr: int, size: int) -> None: ...
    def free(self, addr: int) -> None:
        """Give an image back: its symbol goes, its bytes become traps."""
        ...


class Clock(Protocol):
    """The machine's one clock, in simulated nanoseconds since boot."""

    def now(self) -> int: ...
    def advance(self, ns: int) -> None: ...


class Random(Protocol):
    """The machine's one source of randomness."""

    def u32(self) -> int: ...


class Services(Protocol):
    """What every part of the kernel is given: the ports in one place (``kernel_model.kernel.Kernel``)."""

    @property
    def memory(self) -> Memory: ...
    @property
    def alloc(self) -> Allocator: ...
    @property
    def cpu(self) -> Cpu: ...
    @property
    def text(self) -> Text: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def random(self) -> Random: ...
    @property
    def layout(self) -> Layout: ...

    def netdev(self, ifindex: int) -> int:
        """The struct net_device of a device; 0 when there is none."""
        ...

    def vmap(self, pages: Sequence[int]) -> int:
        """Map pages (page-aligned kmalloc'd addresses; one may stand in several places) in a row in kernel
        address space. The address. KernelError(ENOMEM)."""
        ...

    def vunmap(self, addr: int) -> None:
        """Undo :meth:`vmap`; the pages stay the caller's."""
        ...
