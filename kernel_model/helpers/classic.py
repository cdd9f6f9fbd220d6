# SPDX-License-Identifier: GPL-2.0-only
"""Functions that converted classic programs call: netlink attributes and the offset of the payload.

bpf_skb_get_nlattr(), bpf_skb_get_nlattr_nest() and bpf_skb_get_pay_offset() of net/core/filter.c, the last
with as much of the flow dissector (net/core/flow_dissector.c) as it needs: where the headers end.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import NotModelled
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

_NLA_HDRLEN: Final = 4
_NLA_TYPE_MASK: Final = 0x3FFF
_U32: Final = 0xFFFF_FFFF


def _linear(kernel: Kernel, skb: int) -> bytes | None:
    """The packet from ``skb->data``; None when it has fragments."""
    layout, memory = kernel.layout["sk_buff"], kernel.memory
    if memory.u32(skb + layout.offset("data_len")):
        return None
    return memory.read(memory.u64(skb + layout.offset("data")), memory.u32(skb + layout.offset("len")))


def _find(data: bytes, at: int, size: int, wanted: int) -> int:
    """nla_find(): where the attribute of that type begins in the ``size`` bytes at ``at``; 0 for none."""
    while size >= _NLA_HDRLEN:
        length, kind = struct.unpack_from("<HH", data, at)
        if not _NLA_HDRLEN <= length <= size:
            return 0
        if kind & _NLA_TYPE_MASK == wanted:
            return at
        step = (length + 3) & ~3
        at, size = at + step, size - step
    return 0


def _attribute_room(data: bytes | None, at: int) -> bool:
    return data is not None and len(data) >= _NLA_HDRLEN and at <= len(data) - _NLA_HDRLEN


@leaf("bpf_skb_get_nlattr", 3)
def bpf_skb_get_nlattr(kernel: Kernel, skb: int, a: int, x: int) -> int:
    """Offset of the netlink attribute of type X in the attributes from offset A on, 0 for none."""
    data, a, x = _linear(kernel, skb), a & _U32, x & _U32
    if data is None or not _attribute_room(data, a):
        return 0
    return _find(data, a, len(data) - a, x)


@leaf("bpf_skb_get_nlattr_nest", 3)
def bpf_skb_get_nlattr_nest(kernel: Kernel, skb: int, a: int, x: int) -> int:
    """The same inside the attribute that begins at offset A."""
    data, a, x = _linear(kernel, skb), a & _U32, x & _U32
    if data is None or not _attribute_room(data, a):
        return 0
    length = int.from_bytes(data[a : a + 2], "little")
    if length > len(data) - a:
        return 0
    return _find(data, a + _NLA_HDRLEN, length - _NLA_HDRLEN, x)


# The flow dissector's walk over headers.

_MAX_FLOW_DISSECT_HDRS: Final = 15
_ETH_P_IP, _ETH_P_IPV6, _ETH_P_ARP, _ETH_P_RARP = 0x0800, 0x86DD, 0x0806, 0x8035
_VLAN_PROTOCOLS: Final = (0x8100, 0x88A8)
_IP_MF, _IP_OFFSET, _IP6_OFFSET = 0x2000, 0x1FFF, 0xFFF8
_IPPROTO_IPIP, _IPPROTO_TCP, _IPPROTO_IPV6 = 4, 6, 41
_EXTENSION_HEADERS: Final = (0, 43, 60)
_FRAGMENT_HEADER: Final = 44
_TUNNELS: Final = {_IPPROTO_IPIP: _ETH_P_IP, _IPPROTO_IPV6: _ETH_P_IPV6}
_NOT_DISSECTED: Final = {
    0x8864: "PPPoE", 0x88CA: "TIPC", 0x8847: "MPLS", 0x8848: "MPLS", 0x8906: "FCoE", 0x4305: "batman-adv",
    0x88F7: "PTP", 0x88FB: "PRP", 0x892F: "HSR", 0x8902: "CFM",
}  # fmt: skip
"""Protocols that Linux's dissector knows and this one does not."""
_NOT_DISSECTED_IP: Final = {47: "GRE", 137: "MPLS in IP"}
_L4_HEADER: Final = {17: 8, 136: 8, 1: 8, 58: 8, 2: 8, 33: 12, 132: 12}
"""Bytes of the headers of UDP, UDP-Lite, ICMP, ICMPv6, IGMP, DCCP and SCTP (__skb_get_poff)."""
_TCP_HLEN: Final = 20


class _Good(Exception):
    """The dissector has seen enough."""


class _Bad(Exception):
    """The dissector cannot make sense of the packet."""


@dataclass
class _Walk:
    """Where the dissector is: ``at`` is the offset of the next header from ``skb->data``."""

    data: bytes
    at: int
    ip_proto: int = 0
    later_fragment: bool = False
    headers: int = 0

    def take(self, size: int) -> bytes:
        """The next header's first ``size`` bytes, without moving."""
        if self.at < 0 or self.at + size > len(self.data):
            raise _Bad
        return self.data[self.at : self.at + size]

    def another(self) -> bool:
        """skb_flow_dissect_allowed(): whether one more header may be looked at."""
        self.headers += 1
        return self.headers <= _MAX_FLOW_DISSECT_HDRS


def _network_header(walk: _Walk, proto: int, tagged: int | None) -> int | None:
    """Pass one header of the network layer: the protocol to go on with, None when ip_proto says more.

    ``tagged`` is the protocol behind a VLAN tag that the card took out, None without one. _Good
    ends the walk well.
    """
    if proto == _ETH_P_IP:
        header = walk.take(20)
        if header[0] & 15 < 5:
            raise _Bad
        walk.at += (header[0] & 15) * 4
        walk.ip_proto = header[9]
        fragment = int.from_bytes(header[6:8], "big")
        if fragment & (_IP_MF | _IP_OFFSET):
            walk.later_fragment = bool(fragment & _IP_OFFSET)
            raise _Good
        return None
    if proto == _ETH_P_IPV6:
        walk.ip_proto = walk.take(40)[6]
        walk.at += 40
        return None
    if proto in _VLAN_PROTOCOLS:
        if tagged is not None:
            return tagged
        inner = int.from_bytes(walk.take(4)[2:], "big")
        walk.at += 4
        return inner
    if proto in (_ETH_P_ARP, _ETH_P_RARP):
        raise _Good
    if proto in _NOT_DISSECTED:
        raise NotModelled(f"flow dissection of {_NOT_DISSECTED[proto]}", errno.EINVAL)
    raise _Bad


def _ip_headers(walk: _Walk, proto: int) -> int | None:
    """Pass extension headers; the protocol of a tunnelled packet, or None at the transport header."""
    while True:
        if walk.ip_proto in _TUNNELS:
            return _TUNNELS[walk.ip_proto]
        if walk.ip_proto in _NOT_DISSECTED_IP:
            raise NotModelled(f"flow dissection of {_NOT_DISSECTED_IP[walk.ip_proto]}", errno.EINVAL)
        if proto != _ETH_P_IPV6:
            return None
        if walk.ip_proto == _FRAGMENT_HEADER:
            header = walk.take(8)
            walk.at += 8
            walk.ip_proto = header[0]
            walk.later_fragment = bool(int.from_bytes(header[2:4], "big") & _IP6_OFFSET)
            return None
        if walk.ip_proto not in _EXTENSION_HEADERS:
            return None
        header = walk.take(2)
        walk.at += (header[1] + 1) << 3
        walk.ip_proto = header[0]
        if not walk.another():
            return None


def _dissect(walk: _Walk, proto: int, tagged: int | None) -> None:
    """__skb_flow_dissect() for the basic keys; _Bad when it answers false."""
    try:
        while True:
            onward = _network_header(walk, proto, tagged)
            if onward is None:
                onward = _ip_headers(walk, proto)
                if onward is None:
                    return
            else:
                tagged = None
            if not walk.another():
                return
            proto = onward
    except _Good:
        return


@leaf("bpf_skb_get_pay_offset", 1)
def bpf_skb_get_pay_offset(kernel: Kernel, skb: int) -> int:
    """skb_get_poff(): offset of the payload behind the transport header; 0 when it is not found.

    NotModelled for packets with fragments, and for protocols of which the dissector here knows only the name.
    """
    layout, memory = kernel.layout["sk_buff"], kernel.memory
    data = _linear(kernel, skb)
    if data is None:
        raise NotModelled("packet data in skb fragments", errno.EFAULT)
    head = memory.u64(skb + layout.offset("head"))
    network = head + memory.u16(skb + layout.offset("network_header"))
    protocol = int.from_bytes(memory.read(skb + layout.offset("protocol"), 2), "big")
    proto, tagged = protocol, None
    if memory.u32(skb + layout.offset("vlan_all")):
        proto = int.from_bytes(memory.read(skb + layout.offset("vlan_proto"), 2), "big")
        tagged = protocol
    walk = _Walk(data, network - memory.u64(skb + layout.offset("data")))
    try:
        _dissect(walk, proto, tagged)
    except _Bad:
        return 0
    at = min(walk.at, len(data))
    if at > 0xFFFF:
        return 0
    if walk.later_fragment:
        return at
    if walk.ip_proto == _IPPROTO_TCP:
        if at + 13 > len(data):
            return at
        return at + max(_TCP_HLEN, (data[at + 12] & 0xF0) >> 2)
    return at + _L4_HEADER.get(walk.ip_proto, 0)
