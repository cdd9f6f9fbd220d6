# SPDX-License-Identifier: GPL-2.0-only
"""Build step: the bundled capture, a few hundred frames chosen so that the main job meets every verdict.

``python -m guests.make_pcap OUT.pcap`` writes the same bytes each time.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Callable

from guests.xdp_filter import BLOCKED, Flow
from sim.userspace.pcap import Frame, write_pcap

CLIENT, SERVER = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb")
START_NS, STEP_NS = 1_700_000_000_000_000_000, 12_345
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SYN, ACK, PSH_ACK, CHRISTMAS = 0x02, 0x10, 0x18, 0x29


def checksum(data: bytes) -> int:
    """The internet checksum of ``data``, padded to an even length."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pattern(size: int, seed: int) -> bytes:
    """``size`` bytes that differ from frame to frame."""
    return bytes((seed * 31 + i * 7) & 0xFF for i in range(size))


def ethernet(proto: int, payload: bytes, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet frame of at least 60 bytes; ``tags`` are (ethertype, tag control) pairs."""
    head = SERVER + CLIENT + b"".join(struct.pack(">HH", *tag) for tag in tags)
    return (head + struct.pack(">H", proto) + payload).ljust(60, b"\0")


def l4(flow: Flow, payload: bytes, flags: int = ACK, sequence: int = 0) -> bytes:
    """A TCP or UDP header with its payload; the checksum is left zero."""
    if flow.protocol == TCP:
        head = struct.pack(">HHIIBBHHH", flow.sport, flow.dport, sequence, 0, 5 << 4, flags, 64240, 0, 0)
    elif flow.protocol == UDP:
        head = struct.pack(">HHHH", flow.sport, flow.dport, 8 + len(payload), 0)
    else:
        head = b""
    return head + payload


def ip(
    flow: Flow, payload: bytes, options: bytes = b"", frag_off: int = 0, ident: int = 0
) -> tuple[int, bytes]:
    """The ethertype and bytes of an IPv4 or IPv6 packet of ``flow``."""
    source, target = ipaddress.ip_address(flow.saddr), ipaddress.ip_address(flow.daddr)
    if source.version == 6:
        head = struct.pack(">IHBB", 6 << 28, len(payload), flow.protocol, 64)
        return 0x86DD, head + source.packed + target.packed + payload
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), ident, frag_off, 64, flow.protocol, 0
    )
    head += source.packed + target.packed + options
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return 0x0800, head + payload


def frame(
    flow: Flow, size: int, seed: int, flags: int = ACK, tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """A whole frame of ``flow`` with ``size`` bytes of payload."""
    return ethernet(*ip(flow, l4(flow, pattern(size, seed), flags, seed), ident=seed), tags=tags)


def web(i: int) -> bytes:
    """Ordinary TCP: eight clients, each well below the rate limit."""
    flow = Flow(f"198.51.100.{i % 8 + 1}", "192.0.2.10", 40000 + i % 8, 443, TCP)
    return frame(flow, 40 + i * 17 % 900, i, SYN if i < 8 else PSH_ACK)


def flood(i: int) -> bytes:
    """One UDP flow that sends far above the rate limit."""
    return frame(Flow("198.51.100.200", "192.0.2.10", 9999, 5353, UDP), 200, i)


def echo(i: int) -> bytes:
    """UDP echo from a new port each time."""
    return frame(Flow("198.51.100.7", "192.0.2.10", 20000 + i, 7, UDP), 18 + i, i)


def tunnel(i: int) -> bytes:
    """VXLAN, with an inner frame as payload."""
    inner = frame(Flow("10.0.0.1", "10.0.0.2", 1000 + i, 80, TCP), 20, i)
    outer = Flow("198.51.100.30", "192.0.2.20", 50000 + i, 4789, UDP)
    return ethernet(*ip(outer, l4(outer, struct.pack(">II", 0x08000000, i << 8) + inner), ident=i))


def ipv6(i: int) -> bytes:
    """IPv6: TCP, UDP and ICMPv6 in turn."""
    protocol = (TCP, UDP, ICMPV6)[i % 3]
    ports = (0, 0) if protocol == ICMPV6 else (30000 + i, 443)
    return frame(Flow("2001:db8::99", "2001:db8::10", *ports, protocol), 64 + i, i)


def tagged(i: int) -> bytes:
    """One VLAN tag, or two."""
    tags = ((0x8100, 10 + i),) if i % 2 else ((0x88A8, 5), (0x8100, 100 + i))
    return frame(Flow("198.51.100.40", "192.0.2.10", 41000 + i, 80, TCP), 100, i, tags=tags)


def blocked(i: int) -> bytes:
    """Flows that the main job's blocklist names."""
    return frame(BLOCKED[i % len(BLOCKED)], 32, i)


def truncated(i: int) -> bytes:
    """Frames that end inside a header: IPv4, a VLAN tag, IPv6, UDP, TCP, and an impossible header length."""
    tcp = frame(Flow("198.51.100.50", "192.0.2.10", 42000, 80, TCP), 0, i)
    udp = frame(Flow("198.51.100.50", "192.0.2.10", 42000, 80, UDP), 20, i)
    six = frame(Flow("2001:db8::99", "2001:db8::10", 42000, 80, UDP), 20, i)
    cut: tuple[bytes, ...] = (
        tcp[:30],
        tagged(1)[:16],
        six[:50],
        udp[:40],
        tcp[:50],
        tcp[:14] + b"\x43" + tcp[15:],
    )
    return cut[i % len(cut)]


def other(i: int) -> bytes:
    """ARP, ICMP, a later fragment, IPv4 with options, an unknown ethertype, a christmas tree."""
    quiet = Flow("198.51.100.60", "192.0.2.10", 0, 0, ICMP)
    udp = Flow("198.51.100.61", "192.0.2.10", 43000, 123, UDP)
    tree = Flow("198.51.100.62", "192.0.2.10", 44000 + i, 25, TCP)
    arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + CLIENT + bytes(4) + bytes(6) + bytes(4)
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: ethernet(0x0806, arp),
        lambda: ethernet(*ip(quiet, b"\x08\0\0\0" + pattern(52, i), ident=i)),
        lambda: ethernet(*ip(udp, pattern(64, i), frag_off=185, ident=i)),
        lambda: ethernet(*ip(udp, l4(udp, pattern(48, i)), options=b"\x01" * 8, ident=i)),
        lambda: ethernet(0x88CC, pattern(46, i)),
        lambda: frame(tree, 0, i, CHRISTMAS),
    )
    return kinds[i % len(kinds)]()


# How many frames of each kind the capture has.
KINDS: tuple[tuple[Callable[[int], bytes], int], ...] = (
    (web, 96),
    (flood, 64),
    (echo, 24),
    (tunnel, 20),
    (ipv6, 27),
    (tagged, 16),
    (blocked, 20),
    (truncated, 12),
    (other, 24),
)


def frames() -> list[Frame]:
    """All frames: the kinds interleaved evenly, 12.345 us apart."""
    order = sorted(
        ((i + 0.5) / count, kind, i) for kind, (_, count) in enumerate(KINDS) for i in range(count)
    )
    return [Frame(KINDS[kind][0](i), START_NS + at * STEP_NS) for at, (_, kind, i) in enumerate(order)]


if __name__ == "__main__":
    write_pcap(sys.argv[1], frames())
