# SPDX-License-Identifier: GPL-2.0-only
"""Trace files: what was written comes back, the same work gives the same bytes, damage is always noticed."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_machine import Tracer, load

from kernel_model.isa.asm import assemble
from kernel_model.isa.native import Subprog
from sim import Machine
from sim.job.bundled import bundled_job
from sim.job.record import trace_frames
from sim.trace import Effect, Execution, ProgText, Recording, Where, compare
from sim.trace.file import (
    MAGIC,
    Packet,
    Trace,
    TraceFileError,
    TraceHead,
    TraceReader,
    TraceWriter,
    is_trace,
    read_trace,
    write_trace,
)
from sim.trace.perfetto import events
from sim.trace.record import NativeText, SourceLine
from sim.trace.rows import rows
from sim.userspace.bpf import Bpf

HEAD = TraceHead("jit", "made.o", "test", "XDP on eth0", -7)
CHUNK = struct.Struct("<4sIII")
BODY = len(MAGIC) + 4
WORD = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.sampled_from([2**63, 2**64 - 1]))
INSNS = tuple(assemble("r6 = 1 ll\n*(u64 *)(r10 -8) = r6\ncall 5\ncall pc+2\nr0 = 0\nexit\nr0 = 1\nexit"))
PROG = ProgText(
    3,
    "test",
    INSNS,
    (Subprog(0, 7, 8, "test"), Subprog(7, 9, 0, "callee", private_stack=2**40)),
    frozenset({5}),
    {3: "bpf_ktime_get_ns"},
    (
        NativeText(2**64 - 4096, bytes(range(20)), (0, 9, 9, 12, 15, 20, 20, 20)),
        NativeText(5, b"x", (0, 1, 1)),
    ),
    {3: 0},
    (SourceLine(0, "a.c", 3, "x = 1;"), SourceLine(4, "b.h", 10, "\tgo();")),
)
SLOTS = (0, 2, 3, 4, 5, 6, 7, 8)
"""Where the instructions of PROG begin."""


def executions() -> st.SearchStrategy[Execution]:
    effect = st.builds(
        Effect,
        WORD,
        st.binary(max_size=9),
        st.lists(st.tuples(WORD, st.integers(0, 255)), max_size=2).map(tuple),
    )
    step = st.tuples(
        st.sampled_from(SLOTS), st.lists(WORD, min_size=11, max_size=11), st.none() | effect, st.booleans()
    )

    def build(
        steps: list[tuple[int, list[int], Effect | None, bool]],
        ended: str,
        flags: tuple[bool, bool],
        cpu: int,
    ) -> Execution:
        out = Execution(complete=flags[0], cut=flags[1], ended=ended, cpu=cpu, clock=cpu * 7, began=cpu * 9)
        before = [0] * 11
        for number, (slot, regs, stored, still) in enumerate(steps):
            before = before if still else regs
            Recording().add(out, Where(PROG.id, slot), tuple(before), stored)
            if ended:
                out.broken[number] = f"rbx {number}"
        out.under_way = Where(PROG.id, 4) if ended else None
        return out

    return st.builds(
        build,
        st.lists(step, max_size=12),
        st.text(max_size=5),
        st.tuples(st.booleans(), st.booleans()),
        st.integers(0, 5),
    )


def packets() -> st.SearchStrategy[list[Packet]]:
    packet = st.builds(
        Packet,
        st.integers(0, 1000),
        st.integers(0, 2000),
        WORD,
        st.sampled_from(["pass", "drop", ""]),
        st.lists(executions(), max_size=3),
        st.text(max_size=6),
    )
    return st.lists(packet, max_size=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@settings(max_examples=40, deadline=None)
@given(packets())
def test_what_was_written_comes_back(directory: Path, found: list[Packet]) -> None:
    trace, path = Trace(HEAD, {PROG.id: PROG}, found), directory / "any.trace"
    assert write_trace(path, trace) == path.stat().st_size
    assert read_trace(path) == trace


def small(path: Path) -> Path:
    """A file with two packets, everything that an execution can have in it."""
    first = Execution(complete=True, cpu=1, clock=5)
    for slot, value in ((0, 1), (2, 1), (3, 1), (7, 2), (8, 2), (4, 2), (6, 2)):
        effect = Effect(2**40, bytes(8), ((2**40 + 9, 255),)) if slot == 2 else None
        Recording().add(
            first, Where(PROG.id, slot), (value, *(2**60 + slot,) * 9, 2**41 - 64 * (slot > 6)), effect
        )
    second = replace(
        first, complete=False, ended="guest fault", under_way=Where(3, 4), broken={1: "rbx"}, began=7
    )
    made = [
        Packet(0, 60, 7, "pass", [first, first]),
        Packet(4, 64, 9, "", [second], "guest fault", "registers"),
    ]
    write_trace(path, Trace(HEAD, {PROG.id: PROG}, made))
    return path


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = small(tmp_path / "whole.trace")
    data = path.read_bytes()
    cut = tmp_path / "cut.trace"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        with pytest.raises(TraceFileError) as caught:
            read_trace(cut)
        assert caught.value.path == str(cut)
        assert 0 <= caught.value.offset <= size
        assert str(caught.value).startswith(f"{cut}: byte {caught.value.offset}: ")


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = small(tmp_path / "changed.trace")
    data, source = path.read_bytes(), random.Random(5)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= source.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(TraceFileError):
            read_trace(path)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Tag and contents of each chunk."""
    found, at = [], BODY
    while at < len(data):
        tag, stored, _, _ = CHUNK.unpack_from(data, at)
        at += CHUNK.size
        found.append((tag, zlib.decompress(data[at : at + stored])))
        at += stored
    return found


def seal(found: list[tuple[bytes, bytes]], size: int | None = None) -> bytes:
    """A file of these chunks whose checksums are right."""
    out = MAGIC + struct.pack("<I", 1)
    for tag, contents in found:
        packed, raw = zlib.compress(contents), len(contents) if size is None else size
        check = zlib.crc32(packed, zlib.crc32(struct.pack("<4sI", tag, raw)))
        out += CHUNK.pack(tag, len(packed), raw, check) + packed
    return out


def use(path: Path) -> None:
    """Everything that is done with a trace that could be read."""
    trace = read_trace(path)
    for packet in trace.packets:
        for execution in packet.executions:
            for row in rows(trace.programs, execution):
                trace.programs[row.where.prog].line(row.where.slot)
                trace.programs[row.where.prog].source(row.where.slot)
                str(row.call)
                str(row.effect)
    list(events(trace.head, trace.programs, trace.packets))
    compare(trace.recording(), trace.recording())


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_wrong_contents_under_right_checksums_are_refused_or_harmless(
    directory: Path, data: st.DataObject
) -> None:
    path = small(directory / "forged.trace")
    found = chunks(path.read_bytes())
    number = data.draw(st.integers(0, len(found) - 1))
    tag, contents = found[number]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(contents) - 1, 0)))
        new = data.draw(st.binary(max_size=3) | st.sampled_from([b"\xff" * 9 + b"\1", b"\xff" * 5, b"\x80"]))
        contents = contents[:at] + new + contents[at + data.draw(st.integers(0, 2)) :]
    found[number] = tag, contents
    path.write_bytes(seal(found))
    try:
        use(path)
    except TraceFileError as error:
        assert error.offset <= path.stat().st_size


WRONG: dict[str, tuple[Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]], str]] = {
    "no head": (lambda c: c[1:], "PROG where HEAD belongs"),
    "two heads": (lambda c: c[:1] + c, "HEAD where DONE belongs"),
    "a program twice": (lambda c: c[:2] + c[1:], "program 3 for the second time"),
    "a program behind runs": (lambda c: [*c[:3], c[1], c[3]], "PROG where DONE belongs"),
    "a batch left out": (lambda c: [*c[:2], c[3]], "does not hold what its end says"),
    "an unknown chunk": (lambda c: [c[0], (b"NEWS", b""), *c[1:]], "NEWS where DONE belongs"),
    "runs without programs": (lambda c: [c[0], *c[2:]], "an instruction that no program has"),
    "something behind the end": (lambda c: [*c, c[-1]], "something follows the end"),
}


@pytest.mark.parametrize("what", WRONG)
def test_chunks_in_wrong_places(tmp_path: Path, what: str) -> None:
    path = small(tmp_path / "wrong.trace")
    change, cause = WRONG[what]
    path.write_bytes(seal(change(chunks(path.read_bytes()))))
    with pytest.raises(TraceFileError, match=cause):
        use(path)


def test_sizes_that_lie_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.trace"
    path.write_bytes(seal([(b"HEAD", bytes(1 << 22))], size=100))
    with pytest.raises(TraceFileError, match="does not unpack to 100 bytes"):
        read_trace(path)
    path.write_bytes(seal([(b"HEAD", b"")], size=1 << 29))
    with pytest.raises(TraceFileError, match="a chunk of 536870912 bytes"):
        read_trace(path)


def test_other_files_and_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\x7fELF" + bytes(60))
    assert not is_trace(path)
    with pytest.raises(TraceFileError, match="byte 0: no trace file"):
        read_trace(path)
    path.write_bytes(MAGIC + struct.pack("<I", 2))
    assert is_trace(path)
    with pytest.raises(TraceFileError, match="version 2 of trace files; this program reads version 1"):
        read_trace(path)


def test_a_writer_that_fails_leaves_a_file_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "failed.trace"
    with pytest.raises(RuntimeError), TraceWriter(path, HEAD, [PROG]) as writer:
        writer.add(Packet(0, 60))
        raise RuntimeError
    with pytest.raises(TraceFileError, match="ends too early"):
        read_trace(path)


def test_programs_of_a_machine_come_back(tmp_path: Path) -> None:
    with Machine.boot() as machine:
        tracer = Tracer(machine, (process := machine.process()), load(Bpf(process), "r6 = 5\nr0 = r6\nexit"))
        recording = tracer.record(jit=True)
    trace = Trace(HEAD, recording.programs, [Packet(0, 64, executions=recording.executions)])
    write_trace(tmp_path / "m.trace", trace)
    again = read_trace(tmp_path / "m.trace")
    assert again == trace
    assert compare(again.recording(), recording).agree


@pytest.mark.parametrize("engine", ["jit", "interpreter"])
def test_the_bundled_job_takes_few_bytes_and_always_the_same(tmp_path: Path, engine: str) -> None:
    sizes = []
    for name in ("a", "b"):
        trace = trace_frames(bundled_job(), engine, range(60))
        sizes.append(write_trace(tmp_path / name, trace))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sizes[0] / trace.recording().steps < 2, "bytes a step, programs included"
    assert read_trace(tmp_path / "a") == trace
    assert {line.file.rsplit("/", 1)[-1] for prog in trace.programs.values() for line in prog.lines} >= {
        "xdp_filter.c"
    }


def test_packets_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.trace import file

    monkeypatch.setattr(file, "_BATCH_STEPS", 100)
    trace = trace_frames(bundled_job(), "interpreter", range(4))
    write_trace(tmp_path / "t", trace)
    assert [tag for tag, _ in chunks((tmp_path / "t").read_bytes())].count(b"RUNS") == 4
    with TraceReader(tmp_path / "t") as reader:
        assert [packet.number for packet in reader.packets()] == [0, 1, 2, 3]
    assert read_trace(tmp_path / "t") == trace
