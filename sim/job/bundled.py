# SPDX-License-Identifier: GPL-2.0-only
"""The main job's own guest: what user space puts into its maps, and how its flows read."""

from __future__ import annotations

import guests
from guests import xdp_filter

from ..userspace.object import read_object
from ..userspace.pcap import read_pcap
from .job import Fill, Job

REDIRECT_IFINDEX = 3
"""Tunnelled traffic leaves by the second card."""


def bundled_job() -> Job:
    """guests/xdp_filter.o over guests/bundled.pcap, with its blocklist filled."""
    fills = [Fill("blocklist", flow.pack(), xdp_filter.Counter().pack()) for flow in xdp_filter.BLOCKED]
    fills.append(Fill("config", bytes(4), xdp_filter.config(redirect_ifindex=REDIRECT_IFINDEX)))
    return Job(
        read_object(guests.path("xdp_filter.o")),
        tuple(read_pcap(guests.path("bundled.pcap"))),
        fills=tuple(fills),
    )


def flow_text(key: bytes) -> str:
    """A ``struct flow`` as people write it."""
    flow = xdp_filter.Flow.unpack(key)
    protocol = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}.get(flow.protocol, str(flow.protocol))

    def end(addr: str, port: int) -> str:
        host = f"[{addr}]" if ":" in addr else addr
        return f"{host}:{port}" if port else host

    return f"{protocol} {end(flow.saddr, flow.sport)} -> {end(flow.daddr, flow.dport)}"


FLOW_MAPS = ("blocklist", "flows")
"""Maps whose keys are flows."""
