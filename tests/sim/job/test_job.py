# SPDX-License-Identifier: GPL-2.0-only
"""The job beyond its command: frames the card does not take, time, long programs, refusals in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_writer import AX, ObjectWriter

from kernel_model.errors import NotModelled
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode
from kernel_model.uapi.enums import bpf_map_type
from sim import Machine
from sim.job import Job, job, run_job
from sim.job.record import trace_frames
from sim.job.witness import witnessed
from sim.userspace.bpf import Bpf, SyscallError
from sim.userspace.object import ObjectSpec, parse_object
from sim.userspace.pcap import Frame


def xdp(text: str) -> ObjectSpec:
    """An object with one XDP program."""
    writer = ObjectWriter()
    code = encode(assemble(text))
    writer.section("license", b"GPL\0", flags=3)
    writer.symbol("prog", writer.section("xdp", code, flags=AX), size=len(code))
    return parse_object(writer.build(), "made.o")


def test_frames_that_no_card_takes_are_skipped() -> None:
    frames = tuple(Frame(bytes(size)) for size in (13, 14, 3392, 3393))
    report = run_job(Job(xdp("r0 = 1\nexit"), frames))
    assert (len(report.frames), report.skipped) == (2, 2)
    assert report.agree
    assert [len(outcome.data) for outcome in report.results[0].outcomes] == [14, 3392]
    with pytest.raises(IndexError, match="packet 3 has 3393 bytes"):
        trace_frames(Job(xdp("r0 = 1\nexit"), frames), "jit", range(3, 4))


def test_no_frames_at_all() -> None:
    report = run_job(Job(xdp("r0 = 1\nexit"), ()))
    assert report.agree
    assert [result.packets_per_second for result in report.results] == [0, 0]


def test_time_passes_as_in_the_capture() -> None:
    frames = tuple(Frame(bytes(60), time_ns=10**18 + index * 10**9) for index in range(65))
    report = run_job(Job(xdp("call 5\nr0 = 2\nexit"), frames))
    assert [result.clock_ns // 10**9 for result in report.results] == [64, 64]


def test_long_programs_are_watched_as_far_as_steps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "TRACE_STEPS", 1000)
    text = "r0 = 100\nagain:\nr0 += -1\nif r0 != 0 goto again\nexit"
    report = run_job(Job(xdp(text), (Frame(bytes(60)),) * 10))
    assert report.comparison is not None
    assert report.agree
    assert (report.comparison.steps, report.trace_cut, report.traced_frames) == (1000, True, 5)
    assert len(report.results[0].outcomes) == 10


def test_results_that_differ_are_listed() -> None:
    frames = (Frame(bytes(60)),) * 2
    report = run_job(Job(xdp("r0 = 2\nexit"), frames))
    left, right = report.results
    right.outcomes[1] = job.FrameOutcome(1, "drop", b"changed")
    right.clock_ns += 5
    right.trace_pipe = "x\n"
    assert job.differences(left, right) == [
        "verdict of frame 1: jit pass, interpreter drop",
        "contents of frame 1 differ",
        "trace_pipe differs",
        f"simulated nanoseconds: jit {left.clock_ns}, interpreter {left.clock_ns + 5}",
    ]


def test_the_kernels_words_outlive_the_clean_up(tmp_path: Path) -> None:
    with Machine.boot(nics=0) as machine:
        process = machine.process()
        with (
            pytest.raises(NotModelled, match=r"BPF_MAP_TYPE_ARENA|map type.*made.o"),
            witnessed(process, "made.o") as witness,
        ):
            bpf = Bpf(witness)
            fd = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 4, 1)
            try:
                bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARENA, 0, 0, 1, map_flags=1 << 10)
            finally:
                bpf.close(fd)
        with pytest.raises(SyscallError), witnessed(process, "made.o") as witness:
            Bpf(witness).map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 3, 4, 1)
