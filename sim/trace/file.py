# SPDX-License-Identifier: GPL-2.0-only
"""Trace files: what one engine did, with everything that is needed to show and compare it elsewhere.

Eight bytes of magic and a version (u32), then chunks: a tag of four letters, the size of the contents as
they lie in the file and unpacked, a CRC-32 over the tag, the second size and the contents (u32 each, little
endian), and the contents, deflated. They come in this order:

- ``HEAD``, once: engine, object, program, hook, seed;
- ``PROG``, one for each program: instructions after the fix-ups, machine code, called functions, source;
- ``RUNS``, any number: some packets, and what ran for each (:mod:`sim.trace.steps`). Each can be read
  without those before it, so neither writer nor reader holds more than one;
- ``DONE``, once: how many packets, executions and steps there are. A file without it was cut off.

The bytes follow from what was recorded (and from the zlib that deflates). Numbers and texts inside are as
in :mod:`sim.trace.wire`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from .progfile import decode_program, encode_program
from .record import Execution, ProgText, Recording, Where
from .steps import decode_steps, encode_steps
from .wire import Reader, WireError, put_bytes, put_text, put_uint

MAGIC = b"\x89BPFTR\r\n"
"""Not text, and damaged by everything that takes it for text."""
VERSION = 1
_VERSION = struct.Struct("<I")
_CHUNK = struct.Struct("<4sIII")
_CHECKED = struct.Struct("<4sI")
_MAX_CONTENTS = 1 << 28
_BATCH_STEPS = 1 << 15
_LEVEL = 9
_HEAD, _PROG, _RUNS, _DONE = b"HEAD", b"PROG", b"RUNS", b"DONE"
_COMPLETE, _CUT, _UNDER_WAY = 1, 2, 4


class TraceFileError(Exception):
    """A trace file that cannot be used: its ``path``, the ``offset`` in bytes, and the ``cause``."""

    def __init__(self, path: str, offset: int, cause: str) -> None:
        super().__init__(path, offset, cause)
        self.path = path
        self.offset = offset
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.path}: byte {self.offset}: {self.cause}"


@dataclass(frozen=True)
class TraceHead:
    """What was recorded: ``engine`` (jit or interpreter), ``object`` (the file's name without directories),
    ``program`` that is attached to ``hook``, the machine's ``seed``.
    """

    engine: str
    object: str
    program: str
    hook: str
    seed: int


@dataclass
class Packet:
    """One frame: its ``number`` in the capture (from 0), ``length`` in bytes, the simulated ``clock`` when it
    arrived (ns), the ``verdict`` by name ("" when there is none), the executions, the ``fault`` that ended
    them early ("" for none) and what is known besides in ``details``.
    """

    number: int
    length: int
    clock: int = 0
    verdict: str = ""
    executions: list[Execution] = field(default_factory=list)
    fault: str = ""
    details: str = ""

    @property
    def steps(self) -> int:
        """How many instructions ran."""
        return sum(map(len, self.executions))


@dataclass
class Trace:
    """A whole file."""

    head: TraceHead
    programs: dict[int, ProgText]
    packets: list[Packet] = field(default_factory=list)

    def recording(self) -> Recording:
        """All executions in one recording, to compare it with another."""
        executions = [each for packet in self.packets for each in packet.executions]
        return Recording(self.programs, executions, steps=sum(map(len, executions)))


class TraceWriter:
    """Writes a trace packet by packet; a context manager. Without an orderly end the file stays cut off.

    OSError when the file cannot be written.
    """

    def __init__(self, path: str | Path, head: TraceHead, programs: Iterable[ProgText]) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._waiting: list[Packet] = []
        self.packets = self.executions = self.steps = self.size = 0
        self._write(MAGIC + _VERSION.pack(VERSION))
        out = bytearray()
        for text in (head.engine, head.object, head.program, head.hook):
            put_text(out, text)
        put_text(out, str(head.seed))
        self._chunk(_HEAD, out)
        for prog in programs:
            self._chunk(_PROG, encode_program(prog))

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                out = bytearray()
                for count in (self.packets, self.executions, self.steps):
                    put_uint(out, count)
                self._chunk(_DONE, out)
        finally:
            self._file.close()

    def add(self, packet: Packet) -> None:
        """The next packet; it is not looked at again once this returns and the batch is full."""
        self._waiting.append(packet)
        self.packets += 1
        self.executions += len(packet.executions)
        self.steps += packet.steps
        if sum(each.steps + 1 for each in self._waiting) >= _BATCH_STEPS:
            self._flush()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def _chunk(self, tag: bytes, contents: bytearray) -> None:
        if len(contents) > _MAX_CONTENTS:
            raise ValueError(f"{len(contents)} bytes in a chunk of a trace file, {_MAX_CONTENTS} is the most")
        packed = zlib.compress(contents, _LEVEL)
        check = _crc(tag, len(contents), packed)
        self._write(_CHUNK.pack(tag, len(packed), len(contents), check) + packed)

    def _flush(self) -> None:
        if not self._waiting:
            return
        out = bytearray()
        put_uint(out, len(self._waiting))
        for packet in self._waiting:
            _encode_packet(out, packet)
        for stream in encode_steps([each for packet in self._waiting for each in packet.executions]):
            put_bytes(out, stream)
        self._chunk(_RUNS, out)
        self._waiting = []


def _crc(tag: bytes, size: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(_CHECKED.pack(tag, size)))


def _encode_packet(out: bytearray, packet: Packet) -> None:
    for number in (packet.number, packet.length, packet.clock, len(packet.executions)):
        put_uint(out, number)
    put_text(out, packet.verdict)
    put_text(out, packet.fault)
    put_text(out, packet.details)
    for each in packet.executions:
        under_way = each.under_way
        put_uint(out, each.complete * _COMPLETE | each.cut * _CUT | (under_way is not None) * _UNDER_WAY)
        for number in (each.cpu, each.clock, each.began):
            put_uint(out, number)
        put_text(out, each.ended)
        if under_way is not None:
            put_uint(out, under_way.prog)
            put_uint(out, under_way.slot)
        put_uint(out, len(each.broken))
        for step, text in sorted(each.broken.items()):
            put_uint(out, step)
            put_text(out, text)


def _decode_packet(data: Reader, is_place: _IsPlace) -> Packet:
    number, length, clock = data.uint(), data.uint(), data.uint()
    count = data.count("number of executions")
    packet = Packet(number, length, clock, data.text(), [], data.text(), data.text())
    for _ in range(count):
        flags = data.uint(_COMPLETE + _CUT + _UNDER_WAY + 1, "the flags of an execution")
        each = Execution(complete=bool(flags & _COMPLETE), cut=bool(flags & _CUT))
        each.cpu, each.clock, each.began = data.uint(), data.uint(), data.uint()
        each.ended = data.text()
        if flags & _UNDER_WAY:
            each.under_way = Where(data.uint(1 << 32), data.uint(1 << 32))
            if not is_place(each.under_way.prog << 32 | each.under_way.slot):
                raise WireError(data.at, "an instruction that no program has")
        for _ in range(data.count("number of broken frames")):
            step = data.uint()
            each.broken[step] = data.text()
        packet.executions.append(each)
    return packet


class _IsPlace:
    """Whether a place is an instruction of one of the programs."""

    def __init__(self) -> None:
        self._places: set[int] = set()

    def add(self, prog: ProgText) -> None:
        slot = 0
        while slot < len(prog.insns):
            self._places.add(prog.id << 32 | slot)
            slot = prog.next_slot(slot)

    def __call__(self, place: int) -> bool:
        return place in self._places


class TraceReader:
    """Reads a trace: head and programs at once, packets as they are asked for (once). A context manager.

    Raises OSError, and TraceFileError for whatever is wrong with the contents.
    """

    head: TraceHead

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.programs: dict[int, ProgText] = {}
        self._is_place = _IsPlace()
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        self._at = 0
        try:
            self._read_start()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read_start(self) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise TraceFileError(self.path, 0, "no trace file")
        raw = self._file.read(_VERSION.size)
        if len(raw) < _VERSION.size:
            raise TraceFileError(self.path, len(MAGIC) + len(raw), "the file ends within its version")
        (version,) = _VERSION.unpack(raw)
        if version != VERSION:
            cause = f"version {version} of trace files; this program reads version {VERSION}"
            raise TraceFileError(self.path, len(MAGIC), cause)
        self._at = len(MAGIC) + _VERSION.size
        self._next()
        self._expect(_HEAD)
        with self._contents() as data:
            names = [data.text() for _ in range(4)]
            at, seed = data.at, data.text()
            if not seed.removeprefix("-").isdecimal() or not seed.isascii() or len(seed) > _MAX_SEED:
                raise WireError(at, "the seed is no number")
            engine, object_name, program, hook = names
            self.head = TraceHead(engine, object_name, program, hook, int(seed))
        self._next()
        while self._tag == _PROG:
            with self._contents() as data:
                prog = decode_program(data)
                if prog.id in self.programs:
                    raise WireError(0, f"program {prog.id} for the second time")
                self.programs[prog.id] = prog
            self._is_place.add(prog)
            self._next()

    def packets(self) -> Iterator[Packet]:
        """The packets in order."""
        packets = executions = steps = 0
        while self._tag == _RUNS:
            with self._contents() as data:
                batch = [_decode_packet(data, self._is_place) for _ in range(data.count("number of packets"))]
                runs = [each for packet in batch for each in packet.executions]
                streams = [data.bytes() for _ in range(4)]
                count = decode_steps(streams, runs, self._is_place)
                for each in runs:
                    if any(step >= len(each) for step in each.broken):
                        raise WireError(0, "a broken frame behind the last step")
            yield from batch
            packets, executions, steps = packets + len(batch), executions + len(runs), steps + count
            self._next()
        self._expect(_DONE)
        with self._contents() as data:
            if (packets, executions, steps) != (data.uint(), data.uint(), data.uint()):
                raise WireError(0, "the file does not hold what its end says")
        if self._file.read(1):
            raise TraceFileError(self.path, self._at, "something follows the end")

    def _next(self) -> None:
        """Read the next chunk: ``_tag``, ``_raw`` (unpacked), ``_start`` (where it begins)."""
        self._start = self._at
        head = self._file.read(_CHUNK.size)
        if len(head) < _CHUNK.size:
            raise TraceFileError(self.path, self._at + len(head), "the file ends too early")
        tag, stored, size, check = _CHUNK.unpack(head)
        if max(stored, size) > _MAX_CONTENTS:
            raise TraceFileError(self.path, self._at, f"a chunk of {max(stored, size)} bytes")
        packed = self._file.read(stored)
        if len(packed) < stored:
            offset = self._at + len(head) + len(packed)
            raise TraceFileError(self.path, offset, f"the file ends {stored - len(packed)} bytes too early")
        if _crc(tag, size, packed) != check:
            raise TraceFileError(self.path, self._at, f"chunk {_name(tag)} is damaged (checksum)")
        unpacker = zlib.decompressobj()
        try:
            self._raw = unpacker.decompress(packed, size + 1)
        except zlib.error as error:
            raise TraceFileError(self.path, self._at, f"chunk {_name(tag)}: {error}") from None
        if len(self._raw) != size or not unpacker.eof or unpacker.unused_data:
            raise TraceFileError(self.path, self._at, f"chunk {_name(tag)} does not unpack to {size} bytes")
        self._tag = tag
        self._at += len(head) + stored

    def _expect(self, tag: bytes) -> None:
        if self._tag != tag:
            cause = f"chunk {_name(self._tag)} where {_name(tag)} belongs"
            raise TraceFileError(self.path, self._start, cause)

    def _contents(self) -> _Contents:
        return _Contents(self.path, self._start, self._tag, self._raw)


_MAX_SEED = 40


def _name(tag: bytes) -> str:
    return tag.decode("ascii", "backslashreplace")


class _Contents(Reader):
    """A chunk's contents; as a context manager it names file and place of what is wrong with them."""

    def __init__(self, path: str, start: int, tag: bytes, raw: bytes) -> None:
        super().__init__(raw)
        self._path = path
        self._start = start
        self._tag = tag

    def __enter__(self) -> _Contents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.end()
        except WireError as found:
            error = found
        if isinstance(error, WireError):
            cause = f"chunk {_name(self._tag)}, byte {error.at} of its contents: {error.cause}"
            raise TraceFileError(self._path, self._start, cause) from None


def is_trace(path: str | Path) -> bool:
    """Whether the file begins as a trace does. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def write_trace(path: str | Path, trace: Trace) -> int:
    """Write a whole trace; the size of the file in bytes."""
    with TraceWriter(path, trace.head, trace.programs.values()) as writer:
        for packet in trace.packets:
            writer.add(packet)
    return writer.size


def read_trace(path: str | Path) -> Trace:
    """A whole trace."""
    with TraceReader(path) as reader:
        return Trace(reader.head, reader.programs, list(reader.packets()))
