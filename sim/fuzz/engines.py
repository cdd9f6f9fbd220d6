# SPDX-License-Identifier: GPL-2.0-only
"""One machine that loads program after program and runs each on both engines from the same state.

The surroundings (sim/fuzz/program.py) are made once. Before each run what a program can change is
written back: map values, packet, context, clock, random numbers. That takes some ten microseconds where
a snapshot takes milliseconds.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType

from kernel_model.bpf.map_object import MapObject
from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import NotModelled
from kernel_model.interpreter import BudgetSpent, InterpreterFault
from kernel_model.net.device import FRAME_SIZE, XDP_PACKET_HEADROOM
from kernel_model.net.skb import build_skb
from kernel_model.net.stack import LOOPBACK_IFINDEX
from sim.hardware.guest_fault import GuestFault
from sim.machine import Machine
from sim.trace import Comparison, InterpreterRecorder, JitRecorder, Recording, TraceFull, compare
from sim.trace.report import explain
from sim.userspace.bpf import VerifierError

from .cage import Crash
from .program import ARRAY, DATA_MAPS, HASH, MAPS, PACKET, VALUE_SIZE, Kind, Program
from .real_cpu import NotRunnable, RealCpu, same
from .surroundings import Surroundings

INTERPRETER, JIT, REAL = "interpreter", "jit", "real CPU"
ENGINES = (INTERPRETER, JIT)
TRACE_STEPS = 20_000
WATCHDOG = 2.0
"""A program runs for microseconds; only a wrong engine keeps it going for so long."""
_FAULTS = (GuestFault, InterpreterFault, BudgetSpent)


@dataclass(frozen=True)
class Outcome:
    """What a run left: R0 (64 bits), the packet, the context's bytes, each data map's entries.

    ``fault`` says how the run went wrong, "" when it came to its exit; the rest then counts for nothing.
    """

    r0: int
    packet: bytes
    context: bytes = b""
    maps: tuple[tuple[tuple[bytes, bytes], ...], ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Refused:
    """A program that was not loaded: ``why`` in one line; ``modelled`` is False when only we cannot."""

    why: str
    modelled: bool = True


@dataclass
class Result:
    """A program's run on each engine by name, or why there was none."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    refused: Refused | None = None
    not_run: str = ""
    """Why the real CPU did not run it, "" when it did or was not asked to."""

    @property
    def differences(self) -> list[str]:
        """In words, what the engines do not agree on; empty when they do. A fault is a difference, too,
        even of both: verified programs have none.
        """
        if self.refused is not None:
            return []
        out: list[str] = []
        for name, outcome in self.outcomes.items():
            if outcome.fault:
                out.append(f"{name}: {outcome.fault}")
        if out or len(self.outcomes) < 2:
            return out
        first, *others = self.outcomes.items()
        return [line for other in others for line in _between(first, other)]


def _between(first: tuple[str, Outcome], second: tuple[str, Outcome]) -> list[str]:
    """What two engines do not agree on, in words."""
    (left, one), (right, two) = first, second
    out: list[str] = []
    if one != two:
        if one.r0 != two.r0:
            out.append(f"R0: {left} {one.r0:#x}, {right} {two.r0:#x}")
        for what, here, there in (
            ("packet", one.packet, two.packet),
            ("context", one.context, two.context),
        ):
            if here != there:
                out.append(f"{what}: {_first_byte(left, here, right, there)}")
        for spec, mine, its in zip((MAPS[index] for index in DATA_MAPS), one.maps, two.maps, strict=True):
            if mine != its:
                out.append(f"map {spec.name}: {_entries(left, mine, right, its)}")
    return out


def _first_byte(left: str, here: bytes, right: str, there: bytes) -> str:
    if len(here) != len(there):
        return f"{left} {len(here)} bytes, {right} {len(there)}"
    at = next(at for at in range(len(here)) if here[at] != there[at])
    return f"byte {at}: {left} {here[at]:#04x}, {right} {there[at]:#04x}"


def _entries(
    left: str, mine: tuple[tuple[bytes, bytes], ...], right: str, its: tuple[tuple[bytes, bytes], ...]
) -> str:
    one, two = dict(mine), dict(its)
    if one.keys() != two.keys():
        return f"keys: {left} {sorted(k.hex() for k in one)}, {right} {sorted(k.hex() for k in two)}"
    key = next(key for key in one if one[key] != two[key])
    return f"key {key.hex()}, {_first_byte(left, one[key], right, two[key])}"


class Engines:
    """The machine. ``trace`` names the first instruction where the engines part."""

    def __init__(self, seed: int = 0, watchdog: float = WATCHDOG, real_cpu: bool = False) -> None:
        """``watchdog`` is in host seconds, after which a run counts as one that does not end; ``real_cpu``
        adds the JIT's code on the host's own processor (see sim.fuzz.cage.why_not).
        """
        self.machine = Machine.boot(seed=seed, watchdog=watchdog)
        self._process = process = self.machine.process()
        self._around = Surroundings(process)
        self._maps = [self._map(fd) for fd in self._around.fds]
        self._build_contexts()
        self._kept = self._keep()
        self._around.add_tail_targets()
        self._reset(True)
        self._real = RealCpu(self.machine, self._objects()) if real_cpu else None
        self.engines = (*ENGINES, REAL) if real_cpu else ENGINES

    def __enter__(self) -> Engines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._real is not None:
            self._real.close()
        self.machine.close()

    def _objects(self) -> list[int]:
        """Addresses of the kernel objects that a program is given or names."""
        contexts = [addr for addr, _, _ in self._contexts.values()]
        return [*contexts, self._frame, *(held.impl.addr for held in self._maps)]

    def _map(self, fd: int) -> MapObject:
        held = self._process.task.files.find(fd).obj
        assert isinstance(held, MapObject)
        return held

    # What surrounds a program

    def _build_contexts(self) -> None:
        kernel = self.machine.kernel
        memory, alloc = kernel.memory, kernel.alloc
        device = kernel.net.dev_addr(kernel, LOOPBACK_IFINDEX)
        page = self._frame = alloc.kmalloc(FRAME_SIZE, 4096)
        start = page + XDP_PACKET_HEADROOM
        xdp_layout, rxq_layout = kernel.layout["xdp_buff"], kernel.layout["xdp_rxq_info"]
        xdp, rxq = alloc.kmalloc(xdp_layout.size), alloc.kmalloc(rxq_layout.size)
        memory.put_u64(rxq + rxq_layout.offset("dev"), device)
        for name, value in (
            ("data_hard_start", page),
            ("data_meta", start),
            ("data", start),
            ("data_end", start + len(PACKET)),
            ("rxq", rxq),
        ):
            memory.put_u64(xdp + xdp_layout.offset(name), value)
        memory.put_u32(xdp + xdp_layout.offset("frame_sz"), FRAME_SIZE)
        skb = build_skb(kernel, PACKET, device, LOOPBACK_IFINDEX, bytes(6), pull_mac=False)
        data = memory.u64(skb.addr + kernel.layout["sk_buff"].offset("data"))
        # bpf_compute_data_pointers(), which every caller of a tc program does.
        control = skb.addr + kernel.layout["sk_buff"].offset("cb")
        ends = kernel.layout["bpf_skb_data_end"]
        memory.put_u64(control + ends.offset("data_meta"), data)
        memory.put_u64(control + ends.offset("data_end"), data + len(PACKET))
        self._contexts = {
            Kind.XDP: (xdp, xdp_layout.size, start),
            Kind.TC: (skb.addr, kernel.layout["sk_buff"].size, data),
        }
        self._initial = {kind: memory.read(addr, size) for kind, (addr, size, _) in self._contexts.items()}

    def _keep(self) -> list[tuple[int, bytes]]:
        """Places outside maps and contexts that programs change through helpers, and what they hold."""
        kernel = self.machine.kernel
        random = kernel.per_cpu("bpf_user_rnd_state", 0), kernel.layout["rnd_state"].size
        places = [(kernel.data["sim_clock"], 8), random]
        return [(addr, kernel.memory.read(addr, size)) for addr, size in places]

    def _reset(self, hash_too: bool) -> None:
        kernel, write = self.machine.kernel, self.machine.kernel.memory.write
        for kind, (addr, _, data) in self._contexts.items():
            write(addr, self._initial[kind])
            write(data, PACKET)
        for place, content in self._kept:
            write(place, content)
        write(self._maps[ARRAY].value_addr(0), MAPS[ARRAY].entries[0][1])
        if hash_too:
            table, wanted = self._maps[HASH].impl, dict(MAPS[HASH].entries)
            for key, _ in self._entries(HASH):
                table.delete(kernel, key)
            for key, value in wanted.items():
                table.update(kernel, key, value, 0)

    def _entries(self, index: int) -> tuple[tuple[bytes, bytes], ...]:
        """A map's entries, sorted: the order of a hash table is no result."""
        kernel, held = self.machine.kernel, self._maps[index]
        if index == ARRAY:
            return ((bytes(4), kernel.memory.read(held.value_addr(0), held.value_size)),)
        table, found = held.impl, []
        key: bytes | None = None
        with suppress(Exception):
            while True:
                key = table.get_next_key(kernel, key)
                found.append((key, table.lookup(kernel, key) or b""))
        return tuple(sorted(found))

    # Programs

    def load(self, program: Program) -> BpfProg | Refused:
        """Through the kernel's BPF_PROG_LOAD. The caller gives it back by :meth:`unload`."""
        try:
            self.fd = self._around.load(program)
        except VerifierError as error:
            reason = self._process.last_error
            return Refused(f"{error.name}: {reason}", reason is None or not reason.not_modelled)
        except (ValueError, struct.error) as error:
            return Refused(str(error))
        prog = self._process.task.files.find(self.fd).obj
        assert isinstance(prog, BpfProg)
        return prog

    def unload(self) -> None:
        """Close the program that was loaded last."""
        self._around.bpf.close(self.fd)

    def run(self, program: Program, engines: tuple[str, ...] = ()) -> Result:
        """Load it, run it on each engine (by default all) from the same state, and unload it.

        The real CPU is asked only for programs on which the others agree.
        """
        prog = self.load(program)
        if isinstance(prog, Refused):
            return Result(refused=prog)
        try:
            names_hash = program.names_map(HASH)
            wanted = engines or self.engines
            outcomes = {
                name: self._run(prog, program.kind, name, names_hash) for name in wanted if name != REAL
            }
            result = Result(outcomes)
            if self._real is not None and REAL in wanted and not result.differences:
                self._run_real(self._real, prog, program.kind, result)
            return result
        except NotModelled as error:
            return Result(refused=Refused(str(error), modelled=False))
        finally:
            self.unload()

    def _run(self, prog: BpfProg, kind: Kind, engine: str, names_hash: bool) -> Outcome:
        self._reset(names_hash)
        kernel = self.machine.kernel
        memory = kernel.memory
        addr, size, data = self._contexts[kind]
        try:
            entry = prog.entry(kernel, engine == JIT)
            r0 = kernel.cpu.call(entry, addr, prog.insnsi(kernel))
        except _FAULTS as fault:
            return Outcome(0, b"", fault=" ".join(str(fault).split()) or type(fault).__name__)
        maps = tuple(self._entries(index) if names_hash or index == ARRAY else () for index in DATA_MAPS)
        return Outcome(r0, memory.read(data, len(PACKET)), memory.read(addr, size), maps)

    def _run_real(self, real: RealCpu, prog: BpfProg, kind: Kind, result: Result) -> None:
        """Add the real CPU's outcome: the emulated JIT's where nothing differs."""
        kernel = self.machine.kernel
        addr, size, data = self._contexts[kind]
        insnsi = prog.insnsi(kernel)
        self._reset(True)
        initial = real.save()
        calls = real.record(lambda: kernel.cpu.call(prog.entry(kernel, False), addr, insnsi))
        real.restore(initial)
        self._reset(False)
        r0 = kernel.cpu.call(prog.entry(kernel, True), addr, insnsi)
        final = real.save()
        try:
            answer = real.run(prog, addr, initial, calls)
        except NotRunnable as reason:
            result.not_run = str(reason)
            return
        except Crash as crash:
            result.outcomes[REAL] = Outcome(0, b"", fault=str(crash))
            return
        jit = result.outcomes[JIT]
        mine = replace(jit, r0=r0 if same(answer.rax, r0) else answer.rax)
        parted = real.difference(final, prog)
        if parted is not None:
            value = self._maps[ARRAY].value_addr(0)
            mine = replace(
                mine,
                packet=real.read(data, len(PACKET)),
                context=real.read(addr, size),
                maps=(((bytes(4), real.read(value, VALUE_SIZE)),), *jit.maps[1:]),
            )
            if mine == jit:
                at, ours, theirs = parted
                mine = replace(mine, fault=f"memory at {at:#x}: {ours.hex()}, {JIT} {theirs.hex()}")
        result.outcomes[REAL] = mine

    def trace(self, program: Program) -> tuple[Comparison, list[str]]:
        """Both engines instruction by instruction: how far they agree, and the first difference in lines.

        ValueError when the program is refused, NotModelled for what cannot be recorded.
        """
        prog = self.load(program)
        if isinstance(prog, Refused):
            raise ValueError(prog.why)
        recordings = {}
        try:
            for name, recorder in ((INTERPRETER, InterpreterRecorder), (JIT, JitRecorder)):
                recordings[name] = Recording(limit=TRACE_STEPS)
                with suppress(TraceFull, *_FAULTS), recorder(self.machine, recordings[name]):
                    self._reset(True)
                    kernel, (addr, _, _) = self.machine.kernel, self._contexts[program.kind]
                    kernel.cpu.call(prog.entry(kernel, name == JIT), addr, prog.insnsi(kernel))
            comparison = compare(recordings[INTERPRETER], recordings[JIT])
            lines = []
            if comparison.difference is not None:
                lines = explain(comparison.difference, recordings[INTERPRETER], recordings[JIT])
            return comparison, lines
        finally:
            self.unload()
