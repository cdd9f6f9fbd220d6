# SPDX-License-Identifier: GPL-2.0-only
"""Perf events that programs write to: PERF_COUNT_SW_BPF_OUTPUT (kernel/events/core.c)."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, NotModelled
from ..mm.address_space import PROT_WRITE, Backing
from ..mm.pages import PAGE_SIZE
from ..objects import KObject
from .ring import PerfRing

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..objects import File
    from ..task import Task

PERF_TYPE_SOFTWARE: Final = 1
PERF_COUNT_SW_BPF_OUTPUT: Final = 10
PERF_SAMPLE_TID, PERF_SAMPLE_TIME, PERF_SAMPLE_ADDR = 1 << 1, 1 << 2, 1 << 3
PERF_SAMPLE_ID, PERF_SAMPLE_CPU, PERF_SAMPLE_PERIOD = 1 << 6, 1 << 7, 1 << 8
PERF_SAMPLE_STREAM_ID, PERF_SAMPLE_RAW, PERF_SAMPLE_IDENTIFIER = 1 << 9, 1 << 10, 1 << 16
PERF_SAMPLE_MAX: Final = 1 << 25
MODELLED_SAMPLES: Final = (
    PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR | PERF_SAMPLE_ID | PERF_SAMPLE_CPU
    | PERF_SAMPLE_PERIOD | PERF_SAMPLE_STREAM_ID | PERF_SAMPLE_RAW | PERF_SAMPLE_IDENTIFIER
)  # fmt: skip
EPOLLHUP: Final = 0x10
_U16_MAX: Final = 0xFFFF


@dataclass(frozen=True)
class PerfAttr:
    """struct perf_event_attr as far as these events use it."""

    sample_type: int
    disabled: bool
    watermark: bool
    wakeup: int
    """Samples between wake-ups, or with ``watermark`` bytes."""
    sample_period: int


class PerfEvent(KObject):
    """One event: of CPU ``cpu`` (-1: whichever), of task ``task`` (None: of every one)."""

    kind = "perf-event"

    def __init__(self, kernel: Kernel, attr: PerfAttr, cpu: int, task: Task | None) -> None:
        super().__init__()
        self.attr = attr
        self.cpu = cpu
        self.task = task
        self.enabled = not attr.disabled
        self.ring: PerfRing | None = None
        layout = kernel.layout["perf_event"]
        self.addr = kernel.alloc.kmalloc(layout.size)
        self.id = kernel.next_perf_event_id
        kernel.next_perf_event_id += 1
        kernel.memory.put_u64(self.addr + layout.offset("id"), self.id)
        kernel.memory.put_u32(self.addr + layout.offset("cpu"), cpu & 0xFFFF_FFFF)
        kernel.perf_events[self.addr] = self

    def runs_on(self, kernel: Kernel, cpu: int) -> bool:
        """Is the event counting on this CPU now (event->oncpu)?"""
        if not self.enabled or self.cpu not in (-1, cpu):
            return False
        return self.task is None or self.task is kernel.current

    def output(self, kernel: Kernel, data: bytes) -> int:
        """perf_event_output() with raw ``data``: 0, or -ENOSPC when there is no ring or no room in it."""
        if self.ring is None:
            return -errno.ENOSPC
        body, pad = self._sample(kernel, data)
        if 8 + len(body) + pad > _U16_MAX:
            raise NotModelled("perf samples of 64 KiB and more", errno.E2BIG)
        wakeup_events = 0 if self.attr.watermark else self.attr.wakeup
        return 0 if self.ring.put(kernel, body, pad, self.id, wakeup_events) else -errno.ENOSPC

    def _sample(self, kernel: Kernel, data: bytes) -> tuple[bytes, int]:
        """The sample's fields in the ABI's order, and the bytes of padding behind it."""
        kinds, task, out = self.attr.sample_type, kernel.current, b""
        pid, tid = (task.tgid, task.pid) if task is not None else (0, 0)
        for kind, value in (
            (PERF_SAMPLE_IDENTIFIER, self.id),
            (PERF_SAMPLE_TID, tid << 32 | pid),
            (PERF_SAMPLE_TIME, kernel.clock.now()),
            (PERF_SAMPLE_ADDR, 0),
            (PERF_SAMPLE_ID, self.id),
            (PERF_SAMPLE_STREAM_ID, self.id),
            (PERF_SAMPLE_CPU, kernel.cpu.this_cpu),
            (PERF_SAMPLE_PERIOD, 0),
        ):
            if kinds & kind:
                out += struct.pack("<Q", value)
        if not kinds & PERF_SAMPLE_RAW:
            return out, 0
        pad = -(4 + len(data)) % 8
        return out + struct.pack("<I", len(data) + pad) + data, pad

    def mmap(self, kernel: Kernel, file: File, size: int, prot: int, shared: bool, pgoff: int) -> Backing:
        """perf_mmap(): the counters' page and 2**n pages of data; without PROT_WRITE the ring overwrites.

        KernelError(EINVAL) for another shape than the first mapping's, for a private one and at an offset.
        """
        pages = -(-size // PAGE_SIZE)
        count = pages - 1
        if not shared or pgoff or (count and count & (count - 1)):
            raise KernelError(
                errno.EINVAL, "a perf ring is one page and a power of two, shared, from its start"
            )
        writable = bool(prot & PROT_WRITE)
        if self.ring is None:
            watermark = self.attr.wakeup if self.attr.watermark else 0
            self.ring = PerfRing(kernel, count, watermark, overwrite=not writable)
        elif len(self.ring.pages) != pages:
            raise KernelError(errno.EINVAL, "the event is mapped with another size already")
        return Backing(file, tuple(kernel.alloc.frame(page) for page in self.ring.pages), writable)

    def poll(self, kernel: Kernel) -> int:
        return self.ring.take_ready() if self.ring is not None else EPOLLHUP

    def wakeups(self, kernel: Kernel) -> int | None:
        return self.ring.wakeups if self.ring is not None else 0

    def vma_open(self, writable: bool) -> None:
        if self.ring is not None:
            self.ring.mappings += 1

    def vma_close(self, writable: bool) -> None:
        if self.ring is not None:
            self.ring.mappings -= 1

    def vma_closed(self, kernel: Kernel) -> None:
        """perf_mmap_close(): the last mapping takes the ring with it."""
        if self.ring is not None and not self.ring.mappings:
            self.ring.free(kernel)
            self.ring = None

    def release(self, kernel: Kernel) -> None:
        if self.ring is not None:
            self.ring.free(kernel)
        del kernel.perf_events[self.addr]
        kernel.alloc.kfree(self.addr)
