# SPDX-License-Identifier: GPL-2.0-only
"""The machine: the one place where hardware, kernel text, kernel and JIT are wired together."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jit_x86 import Compiler
from jit_x86.kernel_text import Stub, build_kernel_text
from kernel_model import boot
from kernel_model.btf.follow import layout_of
from kernel_model.btf.vmlinux import parse_kernel_btf
from kernel_model.functions import FUNCTIONS, KernelFunction
from kernel_model.isa.native import CpuFeatures, Mitigations
from kernel_model.kernel import Kernel, Ports
from kernel_model.mm.pages import PageAllocator
from kernel_model.mm.slab import KernelAllocator, PerCpuArea
from kernel_model.net.device import NAPI_POLL_WEIGHT, NetDevice
from kernel_model.net.device import probe as probe_nic

from .exec import run_program
from .hardware import address_map as where
from .hardware.clock import SeededRandom, SimClock
from .hardware.cpu import TEXT_CONSTANTS, Cpu, Fixup
from .hardware.memory import KernelMemory, MemoryImage, PhysicalMemory
from .hardware.nic import Nic
from .hardware.paging import PageTables
from .hardware.text import KernelTextArea
from .process import Process

FIRST_NIC_IFINDEX = 2
MAX_CPUS = 16


@dataclass(frozen=True)
class Config:
    """What a machine is built from. ``watchdog`` is the processor time (seconds) of a hopeless run."""

    seed: int = 0
    cpus: int = 1
    jit: bool = True
    nics: int = 2
    ram: int = where.DEFAULT_RAM
    watchdog: float = 10.0
    flight_recorder: int = 0
    features: CpuFeatures = field(default_factory=CpuFeatures)
    mitigations: Mitigations = field(default_factory=Mitigations)
    btf: bytes | None = None


def read_btf(btf: str | Path | bytes | None) -> bytes | None:
    """The bytes of a kernel's BTF; OSError or BtfError when they cannot be read."""
    if btf is None:
        return None
    data = btf if isinstance(btf, bytes) else Path(btf).read_bytes()
    parse_kernel_btf(data)
    return data


@dataclass
class Snapshot:
    """A frozen machine state: memory, and the pickled kernel and devices."""

    config: Config
    memory: MemoryImage
    state: bytes


class _Clock:
    """``m.clock``: the machine's clock for its user."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def now(self) -> int:
        """Simulated nanoseconds since boot."""
        return self._machine.kernel.clock.now()

    def advance(self, ns: int) -> None:
        """Let simulated time pass; ValueError for a negative amount."""
        self._machine.kernel.clock.advance(ns)


class Machine:
    """A booted machine. Make one with :meth:`boot`; close it, or use it as a context manager.

    Machines are independent of each other and not thread-safe. They can be pickled.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config.seed, int):
            raise TypeError(f"a seed is an integer, not {config.seed!r}")
        if not 1 <= config.cpus <= MAX_CPUS:
            raise ValueError(f"{config.cpus} CPUs; a machine has 1 to {MAX_CPUS}")
        self.config = config
        self._hardware()
        self._boot()

    @classmethod
    def boot(
        cls,
        seed: int = 0,
        cpus: int = 1,
        jit: bool = True,
        *,
        nics: int = 2,
        ram: int = where.DEFAULT_RAM,
        watchdog: float = 10.0,
        flight_recorder: int = 0,
        features: CpuFeatures | None = None,
        mitigations: Mitigations | None = None,
        btf: str | Path | bytes | None = None,
    ) -> Machine:
        """Power a machine on. The same arguments give the same machine, bit for bit.

        ``ram`` is in bytes; ``flight_recorder`` keeps that many last basic blocks for fault reports (it
        slows every block); ``watchdog`` is in seconds of the host's processor for one run, 0 for none.
        ``btf`` is the BTF of a real kernel (a file, or its bytes), which this one then shows as its own:
        programs are relocated against it and verified by it.
        ValueError or TypeError for bad arguments, KernelError(ENOMEM) for too little memory.
        """
        return cls(
            Config(
                seed,
                cpus,
                jit,
                nics,
                ram,
                watchdog,
                flight_recorder,
                features or CpuFeatures(),
                mitigations or Mitigations(),
                read_btf(btf),
            )
        )

    # Building

    def _hardware(self) -> None:
        """RAM and what needs only RAM: the part that is made anew for a restored machine, too."""
        config = self.config
        self._ram = PhysicalMemory(config.ram)
        self._pages = PageAllocator(where.FREE_PHYS, config.ram)
        self._tables = PageTables(self._ram.view, self._zeroed_frame, lambda at: self._pages.free(at))
        self._memory = KernelMemory(self._ram, self._tables)
        self._functions: tuple[KernelFunction, ...] = tuple(FUNCTIONS.values())
        self._compiler = Compiler()
        self._layout = layout_of(config.btf)
        self.clock = _Clock(self)

    def _zeroed_frame(self) -> int:
        frame = self._pages.alloc()
        self._ram.view[frame : frame + where.PAGE_SIZE] = bytes(where.PAGE_SIZE)
        return frame

    def _map_kernel(self) -> None:
        regions = (where.DIRECT_MAP, where.VMALLOC_START, where.KERNEL_TEXT)
        root = self._tables.make_kernel_root(regions)
        for phys in range(0, self.config.ram, where.LARGE_PAGE):
            writable = phys >= where.CODE_PHYS_END
            self._tables.map_large(root, where.DIRECT_MAP + phys, phys, writable)
        self._tables.map_large(root, where.KERNEL_DATA, where.DATA_PHYS, writable=True)

    def _percpu_area(self) -> PerCpuArea:
        count = where.PERCPU_UNIT // where.PAGE_SIZE
        units = [self._pages.alloc(count, where.LARGE_PAGE) for _ in range(self.config.cpus)]
        offsets = tuple(where.DIRECT_MAP + unit - where.PERCPU_START for unit in units)
        dynamic = where.PERCPU_START + where.PERCPU_STATIC_SIZE
        return PerCpuArea(dynamic, where.PERCPU_UNIT - where.PERCPU_STATIC_SIZE, offsets)

    def _boot(self) -> None:
        config = self.config
        self._map_kernel()
        percpu = self._percpu_area()
        data = boot.place_data(self._layout, where.KERNEL_DATA, where.PERCPU_START)
        self._alloc = KernelAllocator(self._memory, self._pages, where.DIRECT_MAP, percpu)
        self._random = SeededRandom(config.seed)
        self._text = KernelTextArea()
        self._power_cpu(data)
        text = build_kernel_text(
            where.KERNEL_TEXT,
            [Stub(row.name, row.leaving) for row in self._functions],
            boot.text_constants(self._layout, data, where.DIRECT_MAP) | TEXT_CONSTANTS,
            config.mitigations,
        )
        self._text.install_kernel(text.code, text.symbols)
        self.kernel = Kernel(self._ports(data), config.features, config.mitigations, data, self._layout)
        self._start_cpus(percpu)
        boot.init(self.kernel)
        self.kernel.sysctl.write("net/core/bpf_jit_enable", str(int(config.jit)))
        self.nic = [Nic(index, bytes((2, 0, 0, 0, 0, index + 1))) for index in range(config.nics)]
        for card in self.nic:
            ifindex = FIRST_NIC_IFINDEX + card.index
            self.kernel.net.devices[ifindex] = probe_nic(self.kernel, card, ifindex, where.DIRECT_MAP)

    def _power_cpu(self, data: dict[str, int]) -> None:
        mailbox = data["mailbox"]
        self._cpu = Cpu(
            self._ram,
            self._tables,
            self._memory,
            mailbox,
            mailbox - where.KERNEL_DATA + where.DATA_PHYS,
            self.config.watchdog,
            self.config.flight_recorder,
        )
        self._text.bind(self._ram.view, self._tables, self._cpu.invalidate_code)

    def _start_cpus(self, percpu: PerCpuArea) -> None:
        if not hasattr(self, "_boot_stack"):
            self._boot_stack = self.kernel.alloc_stack(boot.IRQ_STACK_SIZE) + boot.IRQ_STACK_SIZE
        symbols = self._text.symbols()
        self._cpu.power_on(symbols, self, self.kernel.data["gdt"], percpu.offsets, self._boot_stack)
        self._cpu.on_stack(self._boot_stack)

    def _ports(self, data: dict[str, int]) -> Ports:
        return Ports(
            self._memory,
            self._alloc,
            self._cpu,
            self._text,
            SimClock(self._memory, data["sim_clock"]),
            self._random,
            self._tables,
            self._ram.view,
            self._compiler,
            where.VMALLOC_START,
            self.config.btf,
        )

    # What the CPU asks of the kernel (sim.hardware.cpu.TrapHandler)

    def leaf(self, number: int, args: Sequence[int]) -> int:
        """A leaf function's stub was called."""
        row = self._functions[number]
        return row.impl(self.kernel, *args[: row.nargs])

    def left(self, number: int, args: Sequence[int]) -> int:
        """A leaving function's stub was called; the CPU run has ended for it."""
        row = self._functions[number]
        return row.impl(self.kernel, *args[: row.nargs])

    def kernel_fault(self, rip: int, addr: int | None) -> Fixup | None:
        """A fault on memory in kernel mode: the exception table's answer."""
        entry = self.kernel.extable.get(rip)
        return Fixup(*entry) if entry is not None else None

    def symbolise(self, addr: int) -> str:
        """``name+0xoff`` for kernel text, the bare address elsewhere."""
        found = self._text.lookup(addr)
        return f"{found[0]}+{found[1]:#x}" if found else f"{addr:#x}"

    # Using the machine

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Power off and free everything; a second call does nothing."""
        ram: PhysicalMemory | None = self.__dict__.pop("_ram", None)
        if ram is not None:
            # A machine that did not come up whole has only some of these.
            for part in ("_cpu", "_tables"):
                if part in self.__dict__:
                    self.__dict__[part].close()
            ram.close()

    def __del__(self) -> None:
        self.close()

    def check_powered(self) -> None:
        """RuntimeError when the machine is closed."""
        if "_ram" not in self.__dict__:
            raise RuntimeError("this machine is closed")

    @property
    def cpu(self) -> Cpu:
        """The processor, for observers."""
        return self._cpu

    def process(self, uid: int = 0, comm: str = "bpfsim") -> Process:
        """A bare process: empty address space, standard descriptors, all capabilities when uid is 0."""
        self.check_powered()
        return Process(self, boot.new_process(self.kernel, uid, comm).pid)

    def exec(self, image: bytes, argv: Sequence[str] = ("program",), uid: int = 0) -> Process:
        """Run a static x86-64 ELF program in ring 3 until it exits.

        Raises sim.userspace.image.ImageError for a file that is no such program, GuestFault when it goes
        wild (the process is gone then; the machine has gone back to before it and run it once more, so
        objects of this machine's kernel and cards that were kept are stale, as after a restore).
        """
        self.check_powered()
        return run_program(self, image, argv, uid)

    def device(self, index: int) -> NetDevice:
        """The kernel's device of card ``index``."""
        return self.kernel.net.devices[FIRST_NIC_IFINDEX + index]

    def run_until_idle(self) -> int:
        """Let interrupts, polls and transmissions happen until nothing is left to do; frames handled."""
        self.check_powered()
        total = 0
        while True:
            busy = 0
            for card in self.nic:
                device = self.device(card.index)
                while card.receive(self._ram.view):
                    busy += self._drain(device)
                busy += card.transmit(self._ram.view)
                device.reap_tx(self.kernel)
            total += busy
            if not busy:
                return total

    def _drain(self, device: NetDevice) -> int:
        """NAPI: poll until the ring is empty. Cards send before receive buffers are used again."""
        handled = 0
        while True:
            count = device.poll(self.kernel)
            for card in self.nic:
                card.transmit(self._ram.view)
                self.device(card.index).reap_tx(self.kernel)
            device.complete(self.kernel, count)
            handled += count
            if count < NAPI_POLL_WEIGHT:
                return handled

    def sent(self, index: int) -> list[bytes]:
        """Every frame that card ``index`` has sent so far."""
        return list(self.nic[index].sent)

    def trace_pipe(self) -> str:
        """What programs printed since the last call, in trace_pipe's format."""
        return self.kernel.tracing.read().decode("utf-8", "backslashreplace")

    def use_engine(self, jit: bool) -> None:
        """Point ``bpf_func`` of every loaded program at the JIT image or at the interpreter.

        KernelError(EOPNOTSUPP) when a program was loaded without the JIT.
        """
        for prog in self.kernel.progs_by_addr.values():
            prog.use_engine(self.kernel, jit)

    # Freezing

    def _state(self) -> bytes:
        return pickle.dumps(
            {
                "kernel": self.kernel,
                "alloc": self._alloc,
                "pages": self._pages,
                "text": self._text,
                "random": self._random,
                "nic": self.nic,
                "boot_stack": self._boot_stack,
                "kernel_root": self._tables.kernel_root,
                "cpu": self._cpu.this_cpu,
            },
            protocol=pickle.HIGHEST_PROTOCOL,
        )

    def _adopt(self, state: dict[str, Any]) -> None:
        """Take over unpickled state (the engine is not touched)."""
        self._pages = state["pages"]
        self._alloc = state["alloc"]
        self._alloc.memory = self._memory
        self._text = state["text"]
        self._random = state["random"]
        self.nic = state["nic"]
        self._boot_stack = state["boot_stack"]
        self._tables.kernel_root = state["kernel_root"]
        self._tables.generation += 1
        self.kernel = state["kernel"]

    def digest(self) -> str:
        """A hash of the whole state: equal for machines that nobody inside could tell apart."""
        state = hashlib.sha256()
        for at, page in self._ram.save_pages(self._pages.high_water).items():
            state.update(at.to_bytes(8, "little") + page)
        # A pickle also shows which equal objects are one and the same; reading it back evens that out.
        state.update(pickle.dumps(pickle.loads(self._state())))
        return state.hexdigest()

    def snapshot(self) -> Snapshot:
        """Freeze the whole state; RuntimeError while emulated code runs."""
        self.check_powered()
        if self._cpu.depth:
            raise RuntimeError("a snapshot is taken between runs only")
        return Snapshot(self.config, self._ram.snapshot(self._pages.high_water), self._state())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this machine, or of one booted alike; process handles stay good.

        RuntimeError while emulated code runs, ValueError for a snapshot of another kind of machine.
        """
        self.check_powered()
        if snapshot.config != self.config:
            raise ValueError("the snapshot is of a machine that was booted in another way")
        if self._cpu.depth:
            raise RuntimeError("a machine is restored between runs only")
        self._ram.restore(snapshot.memory)
        state = pickle.loads(snapshot.state)
        self._adopt(state)
        self._text.bind(self._ram.view, self._tables, self._cpu.invalidate_code)
        self.kernel.bind(self._ports(self.kernel.data))
        self._cpu.set_cpu(state["cpu"])
        self._cpu.reset()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "state": self._state(),
            "memory": self._ram.save_pages(self._pages.high_water),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.config = saved["config"]
        self._hardware()
        self._ram.load_pages(saved["memory"])
        state = pickle.loads(saved["state"])
        self._adopt(state)
        self._power_cpu(self.kernel.data)
        self.kernel.bind(self._ports(self.kernel.data))
        self._start_cpus(self._alloc.percpu)
        # Powering the CPUs on used the mailbox and the boot stack.
        self._ram.load_pages(saved["memory"])
        self._cpu.set_cpu(state["cpu"])
