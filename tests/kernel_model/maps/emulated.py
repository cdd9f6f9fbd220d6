# SPDX-License-Identifier: GPL-2.0-only
"""A kernel of maps and helpers alone: flat memory in an emulated CPU, the real kernel text, fake ports.

``World`` plays ``kernel_model.kernel.Kernel`` for the code under test: Python and machine code work on
the same memory. Everything is at low addresses, without page tables; an access outside what is mapped
raises MemoryFault on either side.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import random
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import unicorn
from unicorn import x86_const as x86

import jit_x86
from jit_x86.kernel_text import KernelText, Stub, build_kernel_text
from kernel_model.btf.layout import Layout, kernel_layout
from kernel_model.errors import KernelError, MemoryFault
from kernel_model.functions import FUNCTIONS, call_impl
from kernel_model.helpers.constants import TEXT_CONSTANTS
from kernel_model.isa.native import Mitigations
from kernel_model.maps.base import BpfMap

for _module in (
    "kernel_model.maps.functions",
    "kernel_model.maps.memalloc",
    *(
        f"kernel_model.helpers.{name}"
        for name in ("bprintf", "nofault", "nonlinear", "skb", "strings", "task")
    ),
):
    importlib.import_module(_module)

TEXT = 0x40_0000
STACK = 0x80_0000
RAM = 0x1000_0000
RAM_SIZE = 32 << 20
VMAP = 0x6000_0000
PERCPU_LINK = 0x3000_0000
PERCPU_UNIT = 0x10_0000
PERCPU_STATIC = 0x1000
MASK = 0xFFFF_FFFF_FFFF_FFFF

_STATIC = {
    "this_cpu_off": 0,
    "cpu_number": 8,
    "bpf_redirect_info": 64,
    "bpf_user_rnd_state": 192,
    "current_task": 16,
}
# Data symbols outside the per-CPU section, in the page below the allocator's memory.
_DATA = {"sim_clock": RAM, "ptr_key": RAM + 64, "nr_cpu_ids": RAM + 128, "__per_cpu_offset": RAM + 256}
_CLOCK = _DATA["sim_clock"]

_HARNESS = """
ENTRY(__leaf_trap)
	nop
	RET
ENTRY(__leave_trap)
	int3
ENTRY(__stop)
	hlt
ENTRY(__x86_return_thunk)
	ret
"""


def constants(layout: Layout) -> dict[str, int]:
    """The numbers that the machine gives to kernel text."""
    out = {f"OFF_{path.replace('.', '_')}": off for path, off in layout.offsets().items()}
    out |= {f"SIZEOF_{name}": struct.size for name, struct in layout.items()}
    out |= {f"SYM_{name}": PERCPU_LINK + off for name, off in _STATIC.items()}
    out |= {f"SYM_{name}": at for name, at in _DATA.items()}
    return out | TEXT_CONSTANTS


@cache
def sources() -> tuple[tuple[str, str], ...]:
    """Every source of kernel text but those of the machine's entry and of the NIC."""
    folder = resources.files(jit_x86).joinpath("text")
    files = sorted(e.name for e in folder.iterdir() if e.name.endswith(".S"))
    return tuple(
        (name, folder.joinpath(name).read_text()) for name in files if name not in ("entry.S", "nic.S")
    )


@cache
def leaves() -> tuple[Stub, ...]:
    return tuple(Stub(name, False) for name, row in FUNCTIONS.items() if not row.leaving)


@cache
def kernel_text(return_thunk: bool) -> KernelText:
    mitigations = Mitigations(retpoline=return_thunk, return_thunk=return_thunk)
    files = [*sources(), ("harness", _HARNESS)]
    return build_kernel_text(TEXT, leaves(), constants(kernel_layout()), mitigations, files)


class FlatMemory:
    """The Memory port over two byte arrays that the emulated CPU maps too."""

    def __init__(self, uc: unicorn.Uc) -> None:
        self._uc = uc

    def read(self, addr: int, size: int) -> bytes:
        try:
            return bytes(self._uc.mem_read(addr, size))
        except (unicorn.UcError, OverflowError) as error:
            raise MemoryFault(addr, "read") from error

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        try:
            self._uc.mem_write(addr, bytes(data))
        except (unicorn.UcError, OverflowError) as error:
            raise MemoryFault(addr, "write") from error

    def fill(self, addr: int, size: int, byte: int = 0) -> None:
        self.write(addr, bytes([byte]) * size)

    def u8(self, addr: int) -> int:
        return self.read(addr, 1)[0]

    def u16(self, addr: int) -> int:
        return int.from_bytes(self.read(addr, 2), "little")

    def u32(self, addr: int) -> int:
        return int.from_bytes(self.read(addr, 4), "little")

    def u64(self, addr: int) -> int:
        return int.from_bytes(self.read(addr, 8), "little")

    def put_u8(self, addr: int, value: int) -> None:
        self.write(addr, value.to_bytes(1, "little"))

    def put_u16(self, addr: int, value: int) -> None:
        self.write(addr, value.to_bytes(2, "little"))

    def put_u32(self, addr: int, value: int) -> None:
        self.write(addr, value.to_bytes(4, "little"))

    def put_u64(self, addr: int, value: int) -> None:
        self.write(addr, value.to_bytes(8, "little"))


class Arena:
    """A first-fit allocator with its books in Python; freed areas are filled with a pattern."""

    def __init__(self, memory: FlatMemory, start: int, end: int) -> None:
        self._memory = memory
        self.free = [(start, end)]
        self.used: dict[int, int] = {}

    def alloc(self, size: int, align: int) -> int:
        for i, (start, end) in enumerate(self.free):
            at = -(-start // align) * align
            if at + size <= end:
                self.free[i : i + 1] = [(a, b) for a, b in ((start, at), (at + size, end)) if a < b]
                self.used[at] = size
                return at
        raise KernelError(12, "out of memory")

    def release(self, at: int) -> int:
        size = self.used.pop(at)
        merged = []
        for start, end in sorted([*self.free, (at, at + size)]):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self.free = merged
        return size


class FlatAllocator:
    def __init__(self, memory: FlatMemory, nr_cpus: int) -> None:
        self._memory = memory
        self.nr_cpus = nr_cpus
        self.ram = Arena(memory, RAM + 0x1000, RAM + RAM_SIZE)
        self.percpu = Arena(memory, PERCPU_LINK + PERCPU_STATIC, PERCPU_LINK + PERCPU_UNIT)

    def kmalloc(self, size: int, align: int = 8) -> int:
        # Rounded as slabs are, so that neighbours never share a word.
        at = self.ram.alloc(-(-max(size, 8) // 8) * 8, max(align, 8))
        self._memory.fill(at, size)
        return at

    def kfree(self, addr: int) -> None:
        if addr:
            self._memory.fill(addr, self.ram.release(addr), 0x6B)

    def alloc_percpu(self, size: int, align: int = 8) -> int:
        at = self.percpu.alloc(-(-size // 8) * 8, align)
        for cpu in range(self.nr_cpus):
            self._memory.fill(at + self.per_cpu_offset(cpu), size)
        return at

    def free_percpu(self, ptr: int) -> None:
        self.percpu.release(ptr)

    def per_cpu_offset(self, cpu: int) -> int:
        return (cpu + 1) * PERCPU_UNIT

    def frame(self, addr: int) -> int:
        return addr

    def snapshot(self) -> tuple[dict[int, int], dict[int, int]]:
        """What is allocated now, for leak checks."""
        return dict(self.ram.used), dict(self.percpu.used)


class SeededRandom:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def u32(self) -> int:
        return self._random.getrandbits(32)


class SymbolTable:
    def __init__(self, text: KernelText) -> None:
        self._symbols = {name: at for name, (at, _) in text.symbols.items()}

    def symbol(self, name: str) -> int:
        return self._symbols[name]

    def symbols(self) -> Mapping[str, int]:
        return self._symbols

    def lookup(self, addr: int) -> tuple[str, int] | None:
        below = [(at, name) for name, at in self._symbols.items() if at <= addr]
        return (max(below)[1], addr - max(below)[0]) if below else None

    def add_symbol(self, name: str, addr: int, size: int) -> None:
        self._symbols[name] = addr


class WordClock:
    """The machine's clock word in kernel data."""

    def __init__(self, memory: FlatMemory) -> None:
        self._memory = memory

    def now(self) -> int:
        return self._memory.u64(_CLOCK)

    def advance(self, ns: int) -> None:
        self._memory.put_u64(_CLOCK, self.now() + ns)


class Tracing:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def printk(self, kernel: object, text: str) -> None:
        self.lines.append(text)


class UserMemory:
    """A task's address space: some bytes at some addresses."""

    def __init__(self) -> None:
        self.areas: dict[int, bytes] = {}

    def read(self, kernel: object, addr: int, size: int) -> bytes:
        for start, data in self.areas.items():
            if start <= addr and addr + size <= start + len(data):
                return data[addr - start : addr - start + size]
        raise MemoryFault(addr, "read", user=True)


class FakeTask:
    """The running task."""

    def __init__(self) -> None:
        self.mm = UserMemory()
        self.uid, self.gid, self.comm = 1000, 100, "a-task-of-long-name"


class World:
    """Services, the bits of Kernel that leaves use, and the emulated CPU itself (the Cpu port)."""

    def __init__(self, nr_cpus: int = 2, seed: int = 0, return_thunk: bool = False) -> None:
        image = kernel_text(return_thunk)
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        self.uc.mem_map(TEXT, -(-len(image.code) // 4096) * 4096)
        self.uc.mem_write(TEXT, image.code)
        self.uc.mem_map(STACK, 0x10000)
        # RAM is memory of ours, so that a page can be mapped a second time.
        self._ram = mmap.mmap(-1, RAM_SIZE)
        self._ram_at = ctypes.addressof(ctypes.c_char.from_buffer(self._ram))
        self.uc.mem_map_ptr(RAM, RAM_SIZE, unicorn.UC_PROT_ALL, self._ram_at)
        self._vmaps: dict[int, int] = {}
        self._vmap_next = VMAP
        self.uc.mem_map(PERCPU_LINK + PERCPU_UNIT, nr_cpus * PERCPU_UNIT)
        self.image = image
        self.layout = kernel_layout()
        self.memory = FlatMemory(self.uc)
        self.alloc = FlatAllocator(self.memory, nr_cpus)
        self.text = SymbolTable(image)
        self.clock = WordClock(self.memory)
        self.random = SeededRandom(seed)
        self.tracing = Tracing()
        self.data = {name: PERCPU_LINK + off for name, off in _STATIC.items()} | _DATA
        self.memory.put_u32(_DATA["nr_cpu_ids"], nr_cpus)
        self.current: FakeTask | None = None
        self.maps_by_addr: dict[int, BpfMap] = {}
        self.traps: list[str] = []
        self.depth = 0
        self.netdevs: dict[int, int] = {}
        self._error: BaseException | None = None
        for cpu in range(nr_cpus):
            at = PERCPU_LINK + self.alloc.per_cpu_offset(cpu)
            self.memory.put_u64(_DATA["__per_cpu_offset"] + 8 * cpu, self.alloc.per_cpu_offset(cpu))
            self.memory.put_u64(at + _STATIC["this_cpu_off"], self.alloc.per_cpu_offset(cpu))
            self.memory.put_u32(at + _STATIC["cpu_number"], cpu)
        trap = self.text.symbol("__leaf_trap")
        self.uc.hook_add(unicorn.UC_HOOK_CODE, self._leaf, begin=trap, end=trap)
        self.this_cpu = 0

    def netdev(self, ifindex: int) -> int:
        return self.netdevs.get(ifindex, 0)

    def vmap(self, pages: Sequence[int]) -> int:
        """The pages once more, in a row."""
        addr = self._vmap_next
        for number, page in enumerate(pages):
            host = self._ram_at + page - RAM
            self.uc.mem_map_ptr(addr + number * 4096, 4096, unicorn.UC_PROT_ALL, host)
        self._vmaps[addr] = len(pages)
        self._vmap_next += (len(pages) + 1) * 4096
        return addr

    def vunmap(self, addr: int) -> None:
        self.uc.mem_unmap(addr, self._vmaps.pop(addr) * 4096)

    def per_cpu(self, symbol: str, cpu: int) -> int:
        return self.data[symbol] + self.alloc.per_cpu_offset(cpu)

    @property
    def cpu(self) -> World:
        return self

    @property
    def this_cpu(self) -> int:
        return self._this_cpu

    @this_cpu.setter
    def this_cpu(self, cpu: int) -> None:
        self._this_cpu = cpu
        self.uc.reg_write(x86.UC_X86_REG_GS_BASE, self.alloc.per_cpu_offset(cpu))

    def _leaf(self, uc: unicorn.Uc, address: int, size: int, data: object) -> None:
        name = leaves()[uc.reg_read(x86.UC_X86_REG_EAX)].name
        self.traps.append(name)
        regs = [uc.reg_read(reg) for reg in _ARGS]
        try:
            result = call_impl(self, name, *regs)  # type: ignore[arg-type]
        except BaseException as error:
            self._error = error
            uc.emu_stop()
            return
        uc.reg_write(x86.UC_X86_REG_RAX, result)

    def call(self, addr: int, *args: int) -> int:
        top = STACK + 0xFF00
        stop = self.text.symbol("__stop")
        self.memory.put_u64(top, stop)
        self.uc.reg_write(x86.UC_X86_REG_RSP, top)
        # Registers that no argument sets hold rubbish, so that nobody relies on zeroes.
        for reg in _SCRATCH:
            self.uc.reg_write(reg, 0xDEAD_BEEF_DEAD_BEEF)
        for reg, value in zip(_ARGS, args, strict=False):
            self.uc.reg_write(reg, value & MASK)
        for i, reg in enumerate(_SAVED):
            self.uc.reg_write(reg, 0x1111_1111_1111_1111 * (i + 1))
        self._error = None
        self.uc.emu_start(addr, stop, count=2_000_000)
        if self._error is not None:
            raise self._error
        assert self.uc.reg_read(x86.UC_X86_REG_RIP) == stop, "the function did not return"
        assert self.uc.reg_read(x86.UC_X86_REG_RSP) == top + 8, "the stack is out of balance"
        for i, reg in enumerate(_SAVED):
            assert self.uc.reg_read(reg) == 0x1111_1111_1111_1111 * (i + 1), "callee-saved register changed"
        return int(self.uc.reg_read(x86.UC_X86_REG_RAX))

    def run(self, name: str, *args: int) -> int:
        """Call a kernel symbol; RAX, unsigned."""
        return self.call(self.text.symbol(name), *args)

    def run_signed(self, name: str, *args: int) -> int:
        """Call a kernel symbol; RAX as a signed number."""
        value = self.run(name, *args)
        return value - (1 << 64) if value >> 63 else value

    def buffer(self, data: bytes) -> int:
        """A kernel buffer that holds ``data``."""
        at = self.alloc.kmalloc(max(len(data), 8))
        self.memory.write(at, data)
        return at

    def register(self, made: BpfMap) -> BpfMap:
        self.maps_by_addr[made.addr] = made
        return made

    def __getstate__(self) -> Any:
        raise TypeError("a world is not state")


_ARGS = (
    x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_RCX,
    x86.UC_X86_REG_R8,
    x86.UC_X86_REG_R9,
)
_SCRATCH = (*_ARGS, x86.UC_X86_REG_RAX, x86.UC_X86_REG_R10, x86.UC_X86_REG_R11)
_SAVED = (
    x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RBP,
    x86.UC_X86_REG_R12,
    x86.UC_X86_REG_R13,
    x86.UC_X86_REG_R14,
    x86.UC_X86_REG_R15,
)
