# SPDX-License-Identifier: GPL-2.0-only
"""The ring behind a perf event's mapping (kernel/events/ring_buffer.c).

A ``struct perf_event_mmap_page``, then data in whole pages. The kernel moves ``data_head``, the process
``data_tail``; a ring that the process may not write overwrites what is oldest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ..errors import KernelError
from ..mm.pages import PAGE_SIZE
from ..objects import EPOLLIN, EPOLLRDNORM

if TYPE_CHECKING:
    from ..kernel import Kernel

PERF_RECORD_LOST, PERF_RECORD_SAMPLE = 2, 9
PERF_RECORD_MISC_KERNEL: Final = 1
_HEADER: Final = struct.Struct("<IHH")
_USER_PAGE_SIZE: Final = 96
"""Bytes of struct perf_event_mmap_page before its reserved words."""
_CAP_BIT0_IS_DEPRECATED: Final = 2


class PerfRing:
    """``count`` pages of data, a power of two or 0 (a page of counters alone). KernelError(ENOMEM).

    ``watermark`` is in bytes, 0 for half of the data.
    """

    def __init__(self, kernel: Kernel, count: int, watermark: int, overwrite: bool) -> None:
        self.size = count * PAGE_SIZE
        self.watermark = min(self.size, watermark) or self.size // 2
        self.overwrite = overwrite
        self.paused = False
        self.head = self.lost = self.events = self.woken_at = self.wakeups = self.ready = 0
        self.mappings = 0
        self.pages: list[int] = []
        self.addr = 0
        try:
            for _ in range(1 + count):
                self.pages.append(kernel.alloc.kmalloc(PAGE_SIZE, PAGE_SIZE))
            self.addr = kernel.vmap(self.pages)
        except KernelError:
            self.free(kernel)
            raise
        page, memory = kernel.layout["perf_event_mmap_page"], kernel.memory
        memory.put_u64(self.addr + page.offset("capabilities"), _CAP_BIT0_IS_DEPRECATED)
        memory.put_u32(self.addr + page.offset("size"), _USER_PAGE_SIZE)
        memory.put_u64(self.addr + page.offset("data_offset"), PAGE_SIZE)
        memory.put_u64(self.addr + page.offset("data_size"), self.size)

    def free(self, kernel: Kernel) -> None:
        """Give the pages back."""
        if self.addr:
            kernel.vunmap(self.addr)
        for page in self.pages:
            kernel.alloc.kfree(page)
        self.pages.clear()

    def put(self, kernel: Kernel, body: bytes, pad: int, event_id: int, wakeup_events: int) -> bool:
        """One sample: ``body`` and ``pad`` bytes that are left as they are; False when there is no room.

        Samples lost before are told in a record of their own in front of it. ``wakeup_events``: wake
        readers after so many samples, 0 to go by the watermark alone.
        """
        if not self.size:
            return False
        sample = _HEADER.size + len(body) + pad
        lost = _HEADER.pack(PERF_RECORD_LOST, 0, 24) + struct.pack("<QQ", event_id, self.lost)
        total = sample + (len(lost) if self.lost else 0)
        tail = self._word(kernel, "data_tail")
        full = not self.overwrite and (tail - self.head - 1) % self.size < total
        if self.paused or full:
            self.lost += 1
            return False
        at = self.head
        if self.lost:
            self._write(kernel, at, lost)
            at, self.lost = at + len(lost), 0
        self._write(kernel, at, _HEADER.pack(PERF_RECORD_SAMPLE, PERF_RECORD_MISC_KERNEL, sample) + body)
        self.head += total
        fields = kernel.layout["perf_event_mmap_page"]
        kernel.memory.put_u64(self.addr + fields.offset("data_head"), self.head)
        self._wake(wakeup_events)
        return True

    def _wake(self, wakeup_events: int) -> None:
        wake = False
        if self.head - self.woken_at > self.watermark:
            self.woken_at += self.watermark
            wake = True
        if wakeup_events:
            self.events += 1
            if self.events >= wakeup_events:
                self.events -= wakeup_events
                wake = True
        if wake:
            self.wakeups += 1
            self.ready = EPOLLIN | EPOLLRDNORM

    def take_ready(self) -> int:
        """What perf_poll() reports; it is forgotten then."""
        ready, self.ready = self.ready, 0
        return ready

    def _word(self, kernel: Kernel, name: str) -> int:
        return kernel.memory.u64(self.addr + kernel.layout["perf_event_mmap_page"].offset(name))

    def _write(self, kernel: Kernel, position: int, data: bytes) -> None:
        at = position % self.size
        first = min(len(data), self.size - at)
        start = self.addr + PAGE_SIZE
        kernel.memory.write(start + at, data[:first])
        kernel.memory.write(start, data[first:])
