# SPDX-License-Identifier: GPL-2.0-only
"""The main job: one object, one capture, both engines, and whether they did the same.

The machine is brought to the point where the program is attached, frozen, and each engine starts from
there: once at full speed, and once more watched, when traces are wanted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kernel_model.interpreter import BudgetSpent, InterpreterFault
from kernel_model.uapi.enums import bpf_prog_type

from ..hardware.guest_fault import GuestFault
from ..machine import Machine, Snapshot
from ..process import Process
from ..trace import Comparison, InterpreterRecorder, JitRecorder, Recording, TraceFull, compare
from ..trace.report import explain
from ..userspace.bpf import Bpf
from ..userspace.loader import LoadedObject, load
from ..userspace.object import ObjectError, ObjectSpec, ProgSpec
from ..userspace.pcap import Frame
from .hooks import BURST, FrameOutcome, Hook, hook_for
from .mapdump import MapDump, dump_all
from .witness import Witness, witnessed

JIT, INTERPRETER = "jit", "interpreter"
ENGINES = (JIT, INTERPRETER)
MIN_FRAME, MAX_FRAME = 14, 3392
"""What the card takes: an Ethernet header at least, one buffer at most."""
TRACE_FRAMES = 1000
TRACE_STEPS = 500_000
"""Steps that are kept of each engine (96 bytes a step, some 10 microseconds to record and compare)."""
RATE_SECONDS = 0.1
"""Host seconds that are spent on measuring each engine's rate."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``."""


@dataclass(frozen=True)
class Fill:
    """An entry that user space puts into a map before the program is attached."""

    map: str
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Job:
    """What to do. ``prog`` names the program to attach (None: the object's first that no map holds);
    ``trace_frames`` is how many frames are watched (0: none, None: TRACE_FRAMES at most).
    """

    object: ObjectSpec
    frames: tuple[Frame, ...]
    prog: str | None = None
    prog_type: bpf_prog_type | None = None
    engines: tuple[str, ...] = ENGINES
    seed: int = 0
    cpus: int = 1
    fills: tuple[Fill, ...] = ()
    trace_frames: int | None = None


@dataclass
class EngineResult:
    """What one engine did. ``packets_per_second`` is by the host's clock, with the frames fed again and
    again: the only thing here that differs from run to run. ``fault`` is what ended the run early.
    """

    engine: str
    outcomes: list[FrameOutcome] = field(default_factory=list)
    maps: tuple[MapDump, ...] = ()
    trace_pipe: str = ""
    sent: tuple[tuple[bytes, ...], ...] = ()
    clock_ns: int = 0
    packets_per_second: float = 0.0
    fault: BaseException | None = None

    @property
    def verdicts(self) -> dict[str, int]:
        """How many frames got each verdict."""
        return dict(Counter(outcome.name for outcome in self.outcomes))


@dataclass
class Report:
    """Everything the job found out. ``frames`` were fed, ``skipped`` are too short or long for the card."""

    job: Job
    program: ProgSpec
    hook: str
    verdict_names: Sequence[str]
    frames: tuple[Frame, ...]
    skipped: int
    programs: list[dict[str, Any]]
    results: list[EngineResult] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    traced_frames: int = 0
    trace_cut: bool = False
    """The recordings became full (TRACE_STEPS): the last execution is compared to that point."""
    comparison: Comparison | None = None
    explanation: list[str] = field(default_factory=list)
    recordings: dict[str, Recording] = field(default_factory=dict)
    """What was compared, by engine."""

    @property
    def agree(self) -> bool:
        """No fault, no difference in results, none in traces."""
        faults = any(result.fault is not None for result in self.results)
        return not faults and not self.differences and (self.comparison is None or self.comparison.agree)


FAULTS = (GuestFault, InterpreterFault, BudgetSpent)
"""What a program that goes wild raises."""


def run_job(job: Job, progress: Progress | None = None) -> Report:
    """Do it. Raises what the loader raises, NotModelled for what the machine cannot do, and
    SyscallError when attaching fails.
    """
    with prepared(job, progress or _silent) as run:
        return run.run()


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


RECORDERS: dict[str, type[JitRecorder | InterpreterRecorder]] = {
    JIT: JitRecorder,
    INTERPRETER: InterpreterRecorder,
}


@contextmanager
def prepared(job: Job, progress: Progress = _silent) -> Iterator[PreparedRun]:
    """A booted machine with the job's program attached."""
    with Machine.boot(seed=job.seed, cpus=job.cpus) as machine:
        process = machine.process(comm="bpfsim")
        with witnessed(process, job.object.path) as witness:
            yield PreparedRun(machine, process, witness, job, progress)


def fits(frame: Frame) -> bool:
    """Whether the card takes the frame."""
    return MIN_FRAME <= len(frame.data) <= MAX_FRAME


class PreparedRun:
    """The job's machine, with its program attached and no frame fed."""

    def __init__(
        self, machine: Machine, process: Process, witness: Witness, job: Job, progress: Progress
    ) -> None:
        self.machine = machine
        self.process = process
        self.witness = witness
        self.job = job
        self.progress = progress
        spec = _chosen(job)
        self.loaded: LoadedObject = load_object(
            self.process, job.object, _needed(job.object, spec), job.prog_type, job.cpus
        )
        prog_type = spec.type if spec.type is not None else job.prog_type
        assert prog_type is not None
        self.hook: Hook = hook_for(prog_type)
        self.prog_fd = self.loaded.progs[spec.name].fd
        bpf = self.loaded.bpf
        for fill in job.fills:
            self._fill(bpf, fill)
        self.hook.attach(self.system_calls(), self.prog_fd)
        frames = tuple(filter(fits, job.frames))
        self.report = Report(
            job,
            spec,
            self.hook.name,
            self.hook.verdicts,
            frames,
            len(job.frames) - len(frames),
            [describe_program(bpf, name, each.fd) for name, each in self.loaded.progs.items()],
        )

    def _fill(self, bpf: Bpf, fill: Fill) -> None:
        if fill.map not in self.loaded.maps:
            raise ObjectError(self.job.object.path, "", None, f"no map named '{fill.map}'")
        target = self.loaded.maps[fill.map]
        for what, data, size in (
            ("key", fill.key, target.spec.key_size),
            ("value", fill.value, target.spec.value_size),
        ):
            if len(data) != size:
                cause = f"map '{fill.map}': a {what} of {len(data)} bytes, {size} are needed"
                raise ObjectError(self.job.object.path, "", None, cause)
        bpf.map_update(target.fd, fill.key, fill.value)

    def system_calls(self) -> Bpf:
        """System calls for one pass: memory that was handed out before the restore is gone."""
        return Bpf(self.witness)

    def run(self) -> Report:
        """Everything."""
        report, job, start = self.report, self.job, self.machine.snapshot()
        for engine in job.engines:
            report.results.append(self._pass(start, engine, report.frames, None))
        if len(report.results) == 2:
            report.differences = differences(*report.results)
        wanted = TRACE_FRAMES if job.trace_frames is None else job.trace_frames
        if len(job.engines) == 2 and wanted:
            self._trace(start, report.frames[:wanted])
        return report

    def _start(self, start: Snapshot, engine: str) -> None:
        self.machine.restore(start)
        self.machine.use_engine(engine == JIT)

    def _trace(self, start: Snapshot, frames: tuple[Frame, ...]) -> None:
        recordings = {engine: Recording(limit=TRACE_STEPS) for engine in ENGINES}
        for engine, recording in recordings.items():
            self._pass(start, engine, frames, recording)
        report = self.report
        report.traced_frames = len(frames)
        report.recordings = recordings
        report.trace_cut = any(each.cut for r in recordings.values() for each in r.executions)
        if report.trace_cut:
            report.traced_frames = len(recordings[JIT].executions)
        report.comparison = compare(recordings[INTERPRETER], recordings[JIT])
        if report.comparison.difference is not None:
            report.explanation = explain(
                report.comparison.difference, recordings[INTERPRETER], recordings[JIT]
            )

    def _pass(
        self, start: Snapshot, engine: str, frames: tuple[Frame, ...], recording: Recording | None
    ) -> EngineResult:
        """One engine over all frames, from the frozen start."""
        machine = self.machine
        self._start(start, engine)
        bpf = self.system_calls()
        result = EngineResult(engine)
        what = f"{engine}, watched" if recording is not None else engine
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress(what, done, len(frames))

        try:
            if recording is None:
                result.outcomes = self.feed(bpf, frames, advance)
            else:
                # One by one: a watched run is slow, and the watchdog looks at each stay in the CPU.
                with suppress(TraceFull), RECORDERS[engine](machine, recording):
                    result.outcomes = self.feed(bpf, frames, advance, burst=1)
        except FAULTS as fault:
            result.fault = fault
        result.maps = dump_all(bpf, self.loaded.maps, self.job.object.btf_types, self.job.cpus)
        result.trace_pipe = machine.trace_pipe()
        result.sent = tuple(tuple(machine.sent(card.index)) for card in machine.nic)
        result.clock_ns = machine.clock.now()
        if recording is None and result.fault is None:
            result.packets_per_second = self._rate(bpf, frames)
        return result

    def feed(
        self, bpf: Bpf, frames: tuple[Frame, ...], advance: Callable[[int], None], burst: int = BURST
    ) -> list[FrameOutcome]:
        """The frames through the hook; ``bpf`` belongs to the current pass."""
        return self.hook.feed(self.machine, bpf, self.prog_fd, frames, advance, burst)

    def _rate(self, bpf: Bpf, frames: tuple[Frame, ...]) -> float:
        """Packets by host second, warm. What this does to the machine is undone by the next restore."""
        done, began = 0, time.perf_counter()
        elapsed = 0.0
        try:
            while frames and elapsed < RATE_SECONDS:
                burst = frames[done % len(frames) :][:BURST]
                self.hook.feed_again(self.machine, bpf, self.prog_fd, burst)
                done += len(burst)
                elapsed = time.perf_counter() - began
        except FAULTS:
            # The results stand; a program that fails on later rounds only has no rate.
            return 0.0
        return done / elapsed if elapsed else 0.0


def load_object(
    process: Process,
    spec: ObjectSpec,
    programs: list[str] | None = None,
    prog_type: bpf_prog_type | None = None,
    cpus: int = 1,
    log_level: int = 0,
) -> LoadedObject:
    """Load an object; NotModelled instead of LoadError when that is the kernel's reason."""
    with witnessed(process, spec.path) as witness:
        return load(witness, spec, programs=programs, prog_type=prog_type, cpus=cpus, log_level=log_level)


def _chosen(job: Job) -> ProgSpec:
    """The program to attach: the one named, else the first that no program array holds."""
    programs = job.object.programs
    if job.prog is not None:
        if job.prog not in programs:
            names = ", ".join(programs) or "none"
            raise ObjectError(
                job.object.path, "", None, f"no program named '{job.prog}' (there are: {names})"
            )
        chosen = programs[job.prog]
    else:
        held = {name for spec in job.object.maps.values() for _, name in spec.slots}
        free = [prog for prog in programs.values() if prog.name not in held and prog.autoload]
        if not free:
            raise ObjectError(job.object.path, "", None, "object doesn't contain a BPF program to load")
        chosen = next((prog for prog in free if prog.type == bpf_prog_type.BPF_PROG_TYPE_XDP), free[0])
    if chosen.type is None and job.prog_type is None:
        cause = f"prog '{chosen.name}': missing BPF prog type, check ELF section name '{chosen.section}'"
        raise ObjectError(job.object.path, chosen.section, None, cause)
    return chosen if chosen.type is not None else replace(chosen, type=job.prog_type)


def _needed(spec: ObjectSpec, chosen: ProgSpec) -> list[str]:
    """The program, and those that program arrays of the object hold."""
    held = {name for each in spec.maps.values() for _, name in each.slots if name in spec.programs}
    return [name for name in spec.programs if name == chosen.name or name in held]


def describe_program(bpf: Bpf, name: str, fd: int) -> dict[str, Any]:
    """What BPF_OBJ_GET_INFO_BY_FD says about a program."""
    info, _ = bpf.obj_info(fd)
    return {
        "name": name,
        "id": info["id"],
        "type": bpf_prog_type(info["type"]).name.removeprefix("BPF_PROG_TYPE_").lower(),
        "tag": info.blob("tag").hex(),
        "xlated_bytes": info["xlated_prog_len"],
        "jited_bytes": info["jited_prog_len"],
        "functions": max(info["nr_jited_func_lens"], 1),
        "verified_insns": info["verified_insns"],
    }


def differences(left: EngineResult, right: EngineResult) -> list[str]:
    """What two engines' results do not have in common, a line each."""
    names = left.engine, right.engine
    found = []

    def differ(what: str, here: object, there: object) -> None:
        if here != there:
            found.append(f"{what}: {names[0]} {here}, {names[1]} {there}")

    differ("frames handled", len(left.outcomes), len(right.outcomes))
    for number, (here, there) in enumerate(zip(left.outcomes, right.outcomes, strict=False)):
        differ(f"verdict of frame {number}", here.name, there.name)
        if here.data != there.data:
            found.append(f"contents of frame {number} differ")
    for one, other in zip(left.maps, right.maps, strict=True):
        if one != other:
            found.append(f"contents of map {one.name} differ")
    for card, (here_sent, there_sent) in enumerate(zip(left.sent, right.sent, strict=True)):
        if here_sent != there_sent:
            found.append(f"frames sent on eth{card} differ")
    if left.trace_pipe != right.trace_pipe:
        found.append("trace_pipe differs")
    differ("simulated nanoseconds", left.clock_ns, right.clock_ns)
    return found
