# SPDX-License-Identifier: GPL-2.0-only
"""The flow hash of a packet: dissecting its headers and hashing what identifies the flow.

What skb_get_hash() does (net/core/flow_dissector.c): addresses and ports are ordered, so that both
directions of a connection have one hash, and SipHash under a key of the machine's makes 32 bits of them.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import NotModelled
from ..helpers.siphash import siphash
from .skb_edit import ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6

if TYPE_CHECKING:
    from ..kernel import Kernel
    from .skb_edit import Skb

_IPPROTO_HOPOPTS, _IPPROTO_TCP, _IPPROTO_UDP, _IPPROTO_ROUTING = 0, 6, 17, 43
_IPPROTO_FRAGMENT, _IPPROTO_DSTOPTS = 44, 60
_WITH_PORTS: Final = frozenset((6, 17, 33, 50, 132, 136))
"""TCP, UDP, DCCP, ESP, SCTP, UDP-Lite: four bytes behind the IP header tell flows apart (proto_ports)."""
_AH: Final = 51
_DEEPER_ETH: Final = frozenset((0x8847, 0x8848, 0x8864, 0x88CA, 0x8906, 0x4305, 0x0806, 0x88F7))
"""MPLS, PPPoE, TIPC, FCoE, batman-adv ...: Linux looks into them."""
_DEEPER_IP: Final = frozenset((4, 41, 47, 137, 115))
"""IP in IP, IPv6 in IP, GRE, MPLS in IP, L2TP: Linux looks into them."""
_IP_FRAGMENT: Final = 0x3FFF
_IP_OFFSET: Final = 0x1FFF


@dataclass
class FlowKeys:
    """struct flow_keys as far as it is hashed. Numbers of two bytes and more are in network order."""

    n_proto: int = 0
    ip_proto: int = 0
    flow_label: int = 0
    vlan_tci: int = 0
    vlan_tpid: int = 0
    ports: bytes = bytes(4)
    src: bytes = b""
    dst: bytes = b""

    @property
    def has_ports(self) -> bool:
        """The hash tells connections apart (flow_keys_have_l4())."""
        return any(self.ports) or bool(self.flow_label)

    def ordered(self) -> FlowKeys:
        """__flow_hash_consistentify(): the lower end first, whichever way the packet went."""
        sport, dport = self.ports[:2], self.ports[2:]
        if self.dst < self.src or (self.dst == self.src and dport < sport):
            return FlowKeys(
                self.n_proto, self.ip_proto, self.flow_label, self.vlan_tci, self.vlan_tpid,
                dport + sport, self.dst, self.src,
            )  # fmt: skip
        return self

    def pack(self) -> bytes:
        """The bytes that are hashed: from the basic key to the end of the addresses."""
        return (
            struct.pack(">HBx", self.n_proto, self.ip_proto)
            + struct.pack("<I", self.flow_label)
            + struct.pack("<HHHH", self.vlan_tci, self.vlan_tpid, 0, 0)
            + bytes(8 + 4)  # a second tag, a key number
            + self.ports
            + bytes(4)  # ICMP
            + self.src
            + self.dst
        )


def dissect(packet: bytes, protocol: int, network: int, vlan_tci: int = 0, vlan_tpid: int = 0) -> FlowKeys:
    """The keys of ``packet``, whose header of ``protocol`` begins ``network`` bytes into it.

    A packet cut short has the keys found so far. NotModelled for headers that Linux looks into and this
    does not.
    """
    keys = FlowKeys(vlan_tci=vlan_tci, vlan_tpid=vlan_tpid)
    at = network
    while protocol in (ETH_P_8021Q, ETH_P_8021AD):
        if len(packet) < at + 4:
            return keys
        tci, inner = struct.unpack_from(">HH", packet, at)
        if not keys.vlan_tpid:
            keys.vlan_tci, keys.vlan_tpid = tci, protocol
        protocol, at = inner, at + 4
    if protocol in _DEEPER_ETH:
        raise NotModelled(f"flow hash of packets of protocol {protocol:#06x}", errno.EINVAL)
    if protocol == ETH_P_IP:
        _ipv4(keys, packet, at)
    elif protocol == ETH_P_IPV6:
        _ipv6(keys, packet, at)
    return keys


def _ipv4(keys: FlowKeys, packet: bytes, at: int) -> None:
    if len(packet) < at + 20 or packet[at] & 0xF < 5:
        return
    keys.n_proto, keys.ip_proto = ETH_P_IP, packet[at + 9]
    keys.src, keys.dst = packet[at + 12 : at + 16], packet[at + 16 : at + 20]
    (fragment,) = struct.unpack_from(">H", packet, at + 6)
    if fragment & _IP_FRAGMENT:
        return
    _transport(keys, packet, at + 4 * (packet[at] & 0xF))


def _ipv6(keys: FlowKeys, packet: bytes, at: int) -> None:
    if len(packet) < at + 40:
        return
    keys.n_proto, keys.ip_proto = ETH_P_IPV6, packet[at + 6]
    keys.src, keys.dst = packet[at + 8 : at + 24], packet[at + 24 : at + 40]
    keys.flow_label = struct.unpack_from(">I", packet, at)[0] & 0xFFFFF
    at += 40
    if keys.flow_label:
        return
    while keys.ip_proto in (_IPPROTO_HOPOPTS, _IPPROTO_ROUTING, _IPPROTO_DSTOPTS):
        if len(packet) < at + 2:
            return
        keys.ip_proto, at = packet[at], at + 8 * (packet[at + 1] + 1)
    if keys.ip_proto == _IPPROTO_FRAGMENT:
        if len(packet) >= at + 8:
            keys.ip_proto = packet[at]
        return
    _transport(keys, packet, at)


def _transport(keys: FlowKeys, packet: bytes, at: int) -> None:
    proto = keys.ip_proto
    if proto in _DEEPER_IP:
        raise NotModelled(f"flow hash of encapsulated packets (IP protocol {proto})", errno.EINVAL)
    if proto == _AH:
        raise NotModelled("flow hash of packets with an authentication header", errno.EINVAL)
    if proto in _WITH_PORTS and len(packet) >= at + 4:
        keys.ports = packet[at : at + 4]


def skb_get_hash(kernel: Kernel, skb: Skb) -> int:
    """The hash that the packet has, or else the one of its flow, which it then keeps; never 0."""
    if not skb.get("l4_hash") and not skb.get("sw_hash"):
        packet = skb.memory.read(skb.data, skb.len - skb.get("data_len"))
        tag = (skb.get("vlan_tci"), skb.get("vlan_proto")) if skb.get("vlan_all") else (0, 0)
        keys = dissect(packet, skb.protocol, skb.offset_of("network_header"), *tag).ordered()
        skb.set_sw_hash(siphash(keys.pack(), _key(kernel)) & 0xFFFF_FFFF or 1, l4=keys.has_ports)
    return skb.get("hash")


def _key(kernel: Kernel) -> tuple[int, int]:
    """The machine's hash key, drawn when it is needed for the first time (net_get_random_once())."""
    at, memory = kernel.data["hashrnd"], kernel.memory
    if not memory.u64(at) and not memory.u64(at + 8):
        for offset in range(0, 16, 4):
            memory.put_u32(at + offset, kernel.random.u32() | 1)
    return memory.u64(at), memory.u64(at + 8)
