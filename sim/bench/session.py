# SPDX-License-Identifier: GPL-2.0-only
"""A machine prepared for one workload: program loaded, twin installed, packets and flows in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import guests
from kernel_model.bpf.map_object import MapObject
from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import NotModelled
from kernel_model.maps.array import ArrayBase
from kernel_model.maps.base import BpfMap
from kernel_model.maps.hash import HtabBase
from kernel_model.net.device import FRAME_SIZE, XDP_PACKET_HEADROOM

from ..machine import Machine
from ..process import Process
from ..userspace.loader import LoadedMap, LoadError, load
from ..userspace.object import read_object
from .twin import Env, install_code, make_prog
from .ways import WAYS, Way
from .workloads import Workload, flow_entry

if TYPE_CHECKING:
    from kernel_model.interpreter import Program
    from kernel_model.interpreter.engine import Regs

ENGINES = ("jit", "interpreter", "native")
Contents = Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True)
class Target:
    """What is called: ``bpf_func``, and the struct bpf_prog whose insnsi it is given."""

    bpf_func: int
    prog: int


@dataclass(frozen=True)
class Outcome:
    """What an engine did: what the way of calling returned, and the contents of the result maps."""

    result: tuple[int, ...]
    maps: Contents


class _Watched(Process):
    """A process that remembers when a system call failed for want of a model (the loader then cleans up)."""

    refusal: NotModelled | None = None

    def syscall(self, number: int, *args: int) -> int:
        result = super().syscall(number, *args)
        if result < 0 and isinstance(self.last_error, NotModelled):
            self.refusal = self.last_error
        return result


class Session:
    """A workload in its own machine; a context manager.

    Raises NotModelled, LoadError or ObjectError when the workload cannot be loaded. ``frame_addrs`` are where
    packets lie, ``contexts`` their struct xdp_buff.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.machine = Machine.boot(nics=1 if workload.way == "nic" else 0)
        try:
            self._load()
            self._install_twin()
            self._fill_flows()
            self._lay_packets()
            self.way: Way = WAYS[workload.way](self)
        except BaseException:
            self.machine.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.close()

    # Preparing

    def _load(self) -> None:
        self.process = _Watched(self.machine, self.machine.process().pid)
        spec = read_object(guests.path(f"bench/{self.workload.guest}.bpf.o"))
        try:
            self.object = load(self.process, spec)
        except LoadError as error:
            if self.process.refusal is not None:
                raise self.process.refusal from error
            raise
        prog = self.process.task.files.find(self.object.progs[self.workload.guest].fd).obj
        assert isinstance(prog, BpfProg)
        self.prog = prog

    def _map(self, name: str) -> LoadedMap:
        """A map of the object; global data is named by its section, whatever stands before the dot."""
        for found, loaded in self.object.maps.items():
            if found == name or (name.startswith(".") and found.endswith(name)):
                return loaded
        raise KeyError(name)

    def _install_twin(self) -> None:
        kernel, workload = self.machine.kernel, self.workload
        self.loops = install_code(kernel, "loops")
        functions = install_code(kernel, workload.guest)
        env = Env(this_cpu_off=kernel.data["this_cpu_off"])
        for number, slot in enumerate(workload.slots):
            env.maps[number] = addr = self.impl(slot.map).addr
            if slot.kind == "hash":
                env.lookup[number] = kernel.text.symbol("__htab_map_lookup_elem")
                key_off = kernel.layout["htab_elem"].offset("key")
                env.value_off[number] = key_off + -(-self.impl(slot.map).key_size // 8) * 8
            else:
                env.values[number] = addr + kernel.layout["bpf_array"].offset("value")
        for index, function in (workload.tail or {}).items():
            env.tail[index] = functions[function]
        twin = make_prog(kernel, functions[workload.guest], env)
        self.targets = {
            "jit": Target(self.prog.entry(kernel, jit=True), self.prog.addr),
            "interpreter": Target(self.prog.entry(kernel, jit=False), self.prog.addr),
            "native": Target(functions[workload.guest], twin),
        }

    def impl(self, name: str) -> BpfMap:
        """The kernel's side of a map."""
        held = self.process.task.files.find(self._map(name).fd).obj
        assert isinstance(held, MapObject)
        return held.impl

    def _fill_flows(self) -> None:
        if self.workload.flows:
            fd = self._map("flows").fd
            for index in range(self.workload.flows):
                self.object.bpf.map_update(fd, *flow_entry(index))

    def _lay_packets(self) -> None:
        """A page for each packet as the card's driver has it, and a struct xdp_buff for each."""
        kernel, layout = self.machine.kernel, self.machine.kernel.layout["xdp_buff"]
        count = 0 if self.workload.way == "nic" else self.workload.packets
        self.xdp_stride = -(-layout.size // 64) * 64
        self.contexts = kernel.alloc.kmalloc(max(count, 1) * self.xdp_stride, 64)
        self.frame_len = len(self.workload.frame(0))
        for index in range(count):
            page = kernel.alloc.kmalloc(FRAME_SIZE, FRAME_SIZE)
            data, at = page + XDP_PACKET_HEADROOM, self.contexts + index * self.xdp_stride
            kernel.memory.write(data, self.workload.frame(index))
            for name, value in (
                ("data_hard_start", page),
                ("data_meta", data),
                ("data", data),
                ("data_end", data + self.frame_len),
            ):
                kernel.memory.put_u64(at + layout.offset(name), value)
            kernel.memory.put_u32(at + layout.offset("frame_sz"), FRAME_SIZE)

    # Running

    def run(self, engine: str, repeat: int) -> tuple[int, ...]:
        """Run ``repeat`` times (a multiple of ``way.unit``) on an engine; what the loop returned."""
        return self.way.run(self.targets[engine], repeat)

    def outcome(self, engine: str, repeat: int) -> Outcome:
        """The same from cleared result maps, with their contents afterwards."""
        self._clear()
        result = self.run(engine, repeat)
        return Outcome(result, {name: self._contents(name) for name in self.workload.results})

    def _value_bytes(self, loaded: LoadedMap) -> int:
        return self.impl(loaded.spec.name).syscall_value_size

    def _clear(self) -> None:
        for name in self.workload.results:
            loaded = self._map(name)
            zero = bytes(self._value_bytes(loaded))
            for index in range(loaded.spec.max_entries):
                self.object.bpf.map_update(loaded.fd, index.to_bytes(4, "little"), zero)

    def _contents(self, name: str) -> tuple[bytes, ...]:
        loaded = self._map(name)
        size = self._value_bytes(loaded)
        values = (
            self.object.bpf.map_lookup(loaded.fd, index.to_bytes(4, "little"), size)
            for index in range(loaded.spec.max_entries)
        )
        return tuple(value for value in values if value is not None)

    def insns_per_run(self) -> float:
        """BPF instructions that a run executes, counted by the interpreter's observer over one unit."""
        counts: Counter[int] = Counter()

        def count(_program: Program, _slot: int, _regs: Regs) -> None:
            counts[0] += 1

        runtime = self.machine.kernel.runtime
        runtime.observer = count
        try:
            self.run("interpreter", self.way.unit)
        finally:
            runtime.observer = None
        return counts[0] / self.way.unit

    def working_set(self) -> int:
        """Bytes of data that the runs touch: packets, contexts, map values and hash buckets."""
        total = 0
        for slot in self.workload.slots:
            impl, entries = self.impl(slot.map), self.workload.flows
            if isinstance(impl, HtabBase):
                total += entries * (impl.elem_size + self.machine.kernel.layout["bucket"].size)
            elif isinstance(impl, ArrayBase):
                total += impl.max_entries * impl.elem_size
        if self.workload.reads_packet:
            total += self.workload.packets * (self.frame_len + self.xdp_stride)
        return total
