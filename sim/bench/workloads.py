# SPDX-License-Identifier: GPL-2.0-only
"""The workloads as one table, and the packets and flows that they run over."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kernel_model.net.device import RX_RING, XDP_DROP, XDP_PASS

PORT_STEP = 40503
"""Odd, so that its multiples go through all 65 536 ports (as in guests/bench/loops.c)."""
SOURCE_PORT_OFF = 14 + 20
_CLASSES = 16


def flow_port(index: int) -> bytes:
    """The source port of flow ``index`` as it is in the packet, 2 bytes."""
    return struct.pack("<H", index * PORT_STEP & 0xFFFF)


def flow_entry(index: int) -> tuple[bytes, bytes]:
    """Key and value of flow ``index`` (0..65535) in the map ``flows``: a class, and DROP or PASS."""
    key = bytes((10, 0, 0, 1, 10, 0, 0, 2)) + flow_port(index) + struct.pack(">H", 53)
    value = struct.pack("<II", index % _CLASSES, XDP_PASS if index % 3 else XDP_DROP)
    return key + struct.pack("<I", 17), value


def udp_frame(index: int) -> bytes:
    """A 64-byte frame (without its check sequence: 60) of flow ``index``."""
    payload = bytes(18)
    udp = flow_port(index) + struct.pack(">HHH", 53, 8 + len(payload), 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0)
    ethernet = bytes((2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0))
    return ethernet + ip + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + udp + payload


def data_frame(_index: int) -> bytes:
    """600 bytes that are no two alike in a row."""
    return bytes((7 * at * at + 3 * at + 1) & 0xFF for at in range(600))


@dataclass(frozen=True)
class Slot:
    """A map that the twin uses, by its place in the table: ``kind`` is hash, array or percpu_array."""

    map: str
    kind: str


@dataclass(frozen=True)
class Workload:
    """One benchmark.

    ``guest`` names the object, the twin and the program in them. ``way`` is how programs are called:
    ``repeat`` (one packet, bpf_test_run_loop), ``packets`` (over ``packets`` buffers, a page each, each
    round with another flow) or ``nic`` (through the card's poll loop). ``flows`` entries are put into the
    map ``flows``. ``results`` are the maps whose contents are compared. ``helper_free`` marks the loops that
    call no kernel text, ``reads_packet`` is false for those that need no packet.
    """

    name: str
    guest: str
    about: str
    way: str = "repeat"
    packets: int = 1
    flows: int = 0
    frame: Callable[[int], bytes] = udp_frame
    slots: tuple[Slot, ...] = ()
    tail: Mapping[int, str] | None = None
    results: tuple[str, ...] = ()
    helper_free: bool = False
    reads_packet: bool = True


_FLOW = (Slot("flows", "hash"), Slot("counters", "percpu_array"))

WORKLOADS = {
    row.name: row
    for row in (
        Workload(
            "alu_mix", "alu_mix", "50 000 rounds of 16 ALU instructions", helper_free=True, reads_packet=False
        ),
        Workload("csum512", "csum512", "internet checksum of 512 bytes", frame=data_frame, helper_free=True),
        Workload("siphash512", "siphash512", "SipHash-2-4 of 512 bytes", frame=data_frame, helper_free=True),
        Workload(
            "array_atomic",
            "array_atomic",
            "64 array lookups, an atomic add each",
            slots=(Slot("sums", "array"),),
            results=("sums",),
            reads_packet=False,
        ),
        Workload(
            "tail_chain",
            "tail_chain",
            "5 tail calls, a counter each",
            slots=(Slot(".bss", "array"),),
            tail={index: f"link_{index}" for index in range(1, 6)},
            results=(".bss",),
            reads_packet=False,
        ),
        Workload(
            "xdp_flow",
            "xdp_flow",
            "parse UDP, 5-tuple lookup, per-CPU counter; one packet of 64 flows",
            flows=64,
            slots=_FLOW,
            results=("counters",),
        ),
        Workload(
            "xdp_flow_64k",
            "xdp_flow",
            "the same over 65 536 flows and 4 096 packet buffers",
            way="packets",
            packets=4096,
            flows=65536,
            slots=_FLOW,
            results=("counters",),
        ),
        Workload(
            "xdp_flow_nic",
            "xdp_flow",
            "the same through the card's poll loop, 256 frames of 256 flows a burst",
            way="nic",
            packets=RX_RING,
            flows=RX_RING,
            slots=_FLOW,
            results=("counters",),
        ),
    )
}
"""Every workload by name."""
