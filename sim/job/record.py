# SPDX-License-Identifier: GPL-2.0-only
"""Recording what a job's program does with some of its frames, on one engine, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kernel_model.interpreter import BudgetSpent

from ..trace import ProgText, Recording, TraceFull
from ..trace.file import Packet, Trace, TraceHead
from ..userspace.pcap import Frame
from .hooks import follow_clock
from .job import FAULTS, JIT, RECORDERS, TRACE_STEPS, Job, PreparedRun, fits, prepared


class FrameRecorder:
    """A prepared job and one engine. ``programs`` are those that are loaded, by id."""

    def __init__(self, run: PreparedRun, engine: str, limit: int = TRACE_STEPS) -> None:
        self._run = run
        self._frames = run.job.frames
        self._first = next(filter(fits, self._frames), None)
        self._engine = engine
        self._recording = Recording(limit=limit)
        self._bpf = run.system_calls()
        self.programs: Mapping[int, ProgText] = {
            prog.id: ProgText.of(run.machine.kernel, prog) for prog in run.machine.kernel.progs
        }
        self.head = TraceHead(
            engine, Path(run.job.object.path).name, run.report.program.name, run.hook.name, run.job.seed
        )

    def packets(self, numbers: range) -> Iterator[Packet]:
        """What ran for each frame of ``numbers``; those before them are fed first. To be called once.

        Frames that the card does not take are left out; IndexError when none is left, or for numbers that
        there are not. The first fault ends the recording: it stands in that packet. So does the step
        behind ``limit`` others (the execution is cut).
        """
        self._check(numbers)
        machine, recording = self._run.machine, self._recording
        machine.use_engine(self._engine == JIT)
        for number in range(numbers.start):
            self._feed(self._frames[number])
        packet: Packet | None = None
        try:
            with RECORDERS[self._engine](machine, recording):
                for number in numbers:
                    frame = self._frames[number]
                    if not fits(frame):
                        continue
                    self._pass_time(frame)
                    packet = Packet(number, len(frame.data), machine.clock.now())
                    packet.verdict = self._feed(frame)
                    packet.executions, recording.executions = recording.executions, []
                    yield packet
                    packet = None
        except TraceFull:
            pass
        except FAULTS as fault:
            assert packet is not None
            packet.fault = RUNAWAY if isinstance(fault, BudgetSpent) else str(fault)
            more = getattr(fault, "details", None)
            packet.details = more() if callable(more) else ""
        if packet is not None:
            packet.executions = recording.executions
            yield packet

    def _check(self, numbers: range) -> None:
        count = len(self._frames)
        for number in (numbers.start, numbers.stop - 1):
            if not 0 <= number < count:
                raise IndexError(f"no packet {number}: there are {count}")
        if not any(fits(self._frames[number]) for number in numbers):
            size = len(self._frames[numbers.start].data)
            raise IndexError(f"packet {numbers.start} has {size} bytes, which the card does not take")

    def _pass_time(self, frame: Frame) -> None:
        """As much as passed in the capture."""
        assert self._first is not None
        follow_clock(self._run.machine, self._first, frame)

    def _feed(self, frame: Frame) -> str:
        """One frame at its time; the verdict ("" for a frame that the card does not take)."""
        if not fits(frame):
            return ""
        self._pass_time(frame)
        run = self._run
        outcomes = run.hook.feed(run.machine, self._bpf, run.prog_fd, (frame,), _ignore)
        return outcomes[0].name if outcomes else ""


RUNAWAY = "runaway program (the interpreter's budget is used up)"


def _ignore(_count: int) -> None:
    """Progress that nobody watches."""


@contextmanager
def frame_recorder(job: Job, engine: str, limit: int = TRACE_STEPS) -> Iterator[FrameRecorder]:
    """A machine that is ready to record the job on an engine. Raises what run_job() raises."""
    with prepared(job) as run:
        yield FrameRecorder(run, engine, limit)


def trace_frames(job: Job, engine: str, numbers: range, limit: int = TRACE_STEPS) -> Trace:
    """Record some frames on an engine, in memory; see FrameRecorder.packets()."""
    with frame_recorder(job, engine, limit) as recorder:
        return Trace(recorder.head, dict(recorder.programs), list(recorder.packets(numbers)))
