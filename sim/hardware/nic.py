# SPDX-License-Identifier: GPL-2.0-only
"""The network card: it moves frames between the wire and descriptor rings in emulated memory by DMA.

Descriptor layout: 64-bit physical address, 16-bit length, 16-bit status (bit 0: receive descriptor
filled, or transmit descriptor ready), 32 bits reserved. Plain data beside the view of RAM.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

_DESC = struct.Struct("<QHHI")
DESC_DONE = 1
MAX_FRAME = 0xFFFF


@dataclass
class Ring:
    """A ring of descriptors: physical address, number of entries, the device's position."""

    phys: int = 0
    entries: int = 0
    head: int = 0


@dataclass
class NicStats:
    """What happened on the wire."""

    received: int = 0
    sent: int = 0
    too_long: int = 0
    dma_errors: int = 0
    """Descriptors with an address outside RAM."""


@dataclass
class Nic:
    """One card. Frames wait on the wire (``incoming``) until the driver has posted buffers."""

    index: int
    mac: bytes
    buffer_size: int = 3392
    rx: Ring = field(default_factory=Ring)
    tx: Ring = field(default_factory=Ring)
    incoming: deque[bytes] = field(default_factory=deque)
    sent: list[bytes] = field(default_factory=list)
    stats: NicStats = field(default_factory=NicStats)

    DESC_SIZE: ClassVar[int] = _DESC.size

    def inject(self, frame: bytes) -> None:
        """A frame arrives on the wire.

        ValueError for one that no Ethernet could carry, TypeError for what is not bytes.
        """
        if not isinstance(frame, bytes | bytearray | memoryview):
            raise TypeError(f"a frame is bytes, not {type(frame).__name__}")
        if not 14 <= len(frame) <= MAX_FRAME:
            raise ValueError(f"a frame of {len(frame)} bytes; Ethernet frames have 14 to {MAX_FRAME}")
        self.incoming.append(bytes(frame))

    def receive(self, ram: memoryview) -> int:
        """DMA waiting frames into posted receive buffers; how many. The interrupt line follows the count."""
        count = 0
        ring = self.rx
        while self.incoming and ring.entries:
            at = ring.phys + ring.head * _DESC.size
            addr, _, status, _ = _DESC.unpack_from(ram, at)
            if status & DESC_DONE or not addr:
                break
            frame = self.incoming.popleft()
            if len(frame) > self.buffer_size:
                self.stats.too_long += 1
                continue
            if addr + len(frame) > len(ram):
                # The bus answers nothing there: the frame is lost, the buffer stays posted.
                self.stats.dma_errors += 1
                continue
            ram[addr : addr + len(frame)] = frame
            _DESC.pack_into(ram, at, addr, len(frame), DESC_DONE, 0)
            ring.head = (ring.head + 1) % ring.entries
            self.stats.received += 1
            count += 1
        return count

    def transmit(self, ram: memoryview) -> int:
        """Send what the driver queued; how many frames. Their descriptors become free."""
        count = 0
        ring = self.tx
        while ring.entries:
            at = ring.phys + ring.head * _DESC.size
            addr, length, status, _ = _DESC.unpack_from(ram, at)
            if not status & DESC_DONE:
                break
            if addr + length <= len(ram):
                self.sent.append(bytes(ram[addr : addr + length]))
                self.stats.sent += 1
            else:
                self.stats.dma_errors += 1
            _DESC.pack_into(ram, at, 0, 0, 0, 0)
            ring.head = (ring.head + 1) % ring.entries
            count += 1
        return count
