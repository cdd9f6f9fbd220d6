# SPDX-License-Identifier: GPL-2.0-only
"""A reader of bpf_perf_event_output(), as libbpf's perf_buffer: an event and a mapped ring for each CPU."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .bpf import Bpf, SyscallError

_PAGE: Final = 4096
_PERF_EVENT_OPEN, _MMAP = 298, 9
_PROT_READ_WRITE, _MAP_SHARED = 3, 1
_CLOEXEC: Final = 8
_TYPE_SOFTWARE, _BPF_OUTPUT, _SAMPLE_RAW = 1, 10, 1 << 10
_LOST, _SAMPLE = 2, 9
_HEAD: Final = 1024
_TAIL: Final = _HEAD + 8


@dataclass(frozen=True)
class Sample:
    """Raw data of one bpf_perf_event_output() call, the padding of the record behind it."""

    cpu: int
    data: bytes


@dataclass(frozen=True)
class Lost:
    """So many samples found no room."""

    cpu: int
    count: int


class PerfBuffer:
    """Opens an event on every CPU of ``cpus``, maps ``pages`` (a power of two) of ring each and puts the
    events into the perf event array ``map_fd``. SyscallError as the system calls answer."""

    def __init__(self, bpf: Bpf, map_fd: int, cpus: int, pages: int = 8, wakeup_events: int = 1) -> None:
        self._process = bpf.process
        self._size = pages * _PAGE
        self.fds: list[int] = []
        self._rings: list[int] = []
        for cpu in range(cpus):
            attr = struct.pack(
                "<IIQQQQQI", _TYPE_SOFTWARE, 112, _BPF_OUTPUT, 1, _SAMPLE_RAW, 0, 0, wakeup_events
            )
            at = self._process.alloc(_PAGE)
            self._process.write(at, attr.ljust(112, b"\0"))
            fd = self._call("perf_event_open", _PERF_EVENT_OPEN, at, -1, cpu, -1, _CLOEXEC)
            size = _PAGE + self._size
            self._rings.append(self._call("mmap", _MMAP, 0, size, _PROT_READ_WRITE, _MAP_SHARED, fd, 0))
            bpf.map_update(map_fd, struct.pack("<I", cpu), struct.pack("<I", fd))
            self.fds.append(fd)

    def _call(self, name: str, number: int, *args: int) -> int:
        result = self._process.syscall(number, *args)
        if result < 0:
            raise SyscallError(-result, name)
        return result

    def read(self) -> Iterator[Sample | Lost]:
        """What is unread, CPU by CPU; reading makes room."""
        for cpu, ring in enumerate(self._rings):
            head, tail = struct.unpack("<QQ", self._process.read(ring + _HEAD, 16))
            while tail < head:
                kind, _, size = struct.unpack("<IHH", self._bytes(ring, tail, 8))
                body = self._bytes(ring, tail + 8, size - 8)
                tail += size
                self._process.write(ring + _TAIL, struct.pack("<Q", tail))
                if kind == _SAMPLE:
                    yield Sample(cpu, body[4 : 4 + struct.unpack_from("<I", body)[0]])
                elif kind == _LOST:
                    yield Lost(cpu, struct.unpack_from("<Q", body, 8)[0])

    def _bytes(self, ring: int, position: int, size: int) -> bytes:
        """``size`` bytes of the ring, around its end if need be."""
        at = position % self._size
        first = min(size, self._size - at)
        start = ring + _PAGE
        return self._process.read(start + at, first) + self._process.read(start, size - first)
