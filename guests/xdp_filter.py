# SPDX-License-Identifier: GPL-2.0-only
"""The main job from user space: keys and values of xdp_filter.c's maps, and the blocklist it starts with."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

_FLOW = struct.Struct("<16s16s2s2sBBxx")
_COUNTER = struct.Struct("<QQ")
_CONFIG = struct.Struct("<II")


class Flow(NamedTuple):
    """A 5-tuple: addresses as text, ports as numbers, the IP protocol's number."""

    saddr: str
    daddr: str
    sport: int
    dport: int
    protocol: int

    def pack(self) -> bytes:
        """``struct flow``: addresses and ports in network order, IPv4 in the first four bytes."""
        source, target = ipaddress.ip_address(self.saddr), ipaddress.ip_address(self.daddr)
        ports = (port.to_bytes(2, "big") for port in (self.sport, self.dport))
        return _FLOW.pack(source.packed, target.packed, *ports, self.protocol, source.version)

    @classmethod
    def unpack(cls, data: bytes) -> Flow:
        """The inverse of :meth:`pack`."""
        source, target, sport, dport, protocol, version = _FLOW.unpack(data)
        size = 4 if version == 4 else 16
        return cls(
            str(ipaddress.ip_address(source[:size])),
            str(ipaddress.ip_address(target[:size])),
            int.from_bytes(sport, "big"),
            int.from_bytes(dport, "big"),
            protocol,
        )


class Counter(NamedTuple):
    """``struct counter``."""

    packets: int = 0
    octets: int = 0

    def pack(self) -> bytes:
        """The 16 bytes of the map value."""
        return _COUNTER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Counter:
        """The inverse of :meth:`pack`."""
        return cls(*_COUNTER.unpack(data))


def config(rate_limit: int = 0, redirect_ifindex: int = 0) -> bytes:
    """The value of map ``config``; 0 keeps what is built in (24 packets a flow, interface 2)."""
    return _CONFIG.pack(rate_limit, redirect_ifindex)


BLOCKED = (
    Flow("203.0.113.66", "192.0.2.10", 6666, 22, 6),
    Flow("2001:db8:bad::1", "2001:db8::10", 31337, 53, 17),
)
"""Flows that the bundled capture contains and the main job puts on the blocklist."""
