# SPDX-License-Identifier: GPL-2.0-only
"""What xdp_filter.c must do with a sequence of frames, written anew in Python: a reference for engines."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from guests.xdp_filter import Counter, Flow

ABORTED, DROP, PASS, TX, REDIRECT = range(5)
TCP, UDP = 6, 17
RATE_LIMIT, ECHO, VXLAN = 24, 7, 4789


def _address(data: bytes) -> str:
    if len(data) == 4:
        return ".".join(map(str, data))
    return Flow.unpack(data + bytes(16) + bytes(5) + b"\6" + bytes(2)).saddr


def parse(frame: bytes) -> Flow | str | None:
    """The flow of a frame, None when it is of no interest, "short" when it ends inside a header."""
    at, proto = 14, frame[12:14]
    for _ in range(2):
        if proto not in (b"\x81\x00", b"\x88\xa8"):
            break
        if len(frame) < at + 4:
            return "short"
        at, proto = at + 4, frame[at + 2 : at + 4]
    if proto == b"\x08\x00":
        size = (frame[at] & 15) * 4 if len(frame) >= at + 20 else 0
        if size < 20:
            return "short"
        protocol, addresses = frame[at + 9], (frame[at + 12 : at + 16], frame[at + 16 : at + 20])
        if struct.unpack_from(">H", frame, at + 6)[0] & 0x1FFF:
            return Flow(*map(_address, addresses), 0, 0, protocol)
    elif proto == b"\x86\xdd":
        size = 40
        if len(frame) < at + size:
            return "short"
        protocol, addresses = frame[at + 6], (frame[at + 8 : at + 24], frame[at + 24 : at + 40])
    else:
        return None
    at += size
    ports = (0, 0)
    if protocol in (TCP, UDP):
        if len(frame) < at + (20 if protocol == TCP else 8):
            return "short"
        ports = struct.unpack_from(">HH", frame, at)
    return Flow(*map(_address, addresses), *ports, protocol)


@dataclass
class Oracle:
    """The program's state; ``run`` gives the verdict of each frame."""

    blocked: dict[Flow, Counter] = field(default_factory=dict)
    flows: dict[Flow, Counter] = field(default_factory=dict)
    verdicts: list[Counter] = field(default_factory=lambda: [Counter()] * 5)
    frames: int = 0
    octets: int = 0

    def run(self, frames: Iterable[bytes]) -> list[int]:
        """Feed the frames in order."""
        return [self._one(frame) for frame in frames]

    def _one(self, frame: bytes) -> int:
        self.frames += 1
        self.octets += len(frame)
        verdict = self._verdict(frame)
        self.verdicts[verdict] = _count(self.verdicts[verdict], frame)
        return verdict

    def _verdict(self, frame: bytes) -> int:
        flow = parse(frame)
        if flow is None:
            return PASS
        if isinstance(flow, str):
            return ABORTED
        if flow in self.blocked:
            self.blocked[flow] = _count(self.blocked[flow], frame)
            return DROP
        self.flows[flow] = _count(self.flows.get(flow, Counter()), frame)
        if self.flows[flow].packets > RATE_LIMIT:
            return DROP
        if flow.protocol == UDP and flow.dport == ECHO:
            return TX
        if flow.protocol == UDP and flow.dport == VXLAN:
            return REDIRECT
        return PASS


def _count(counter: Counter, frame: bytes) -> Counter:
    return Counter(counter.packets + 1, counter.octets + len(frame))
