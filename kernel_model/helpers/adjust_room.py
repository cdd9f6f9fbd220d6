# SPDX-License-Identifier: GPL-2.0-only
"""bpf_skb_adjust_room() and bpf_skb_change_proto(): room between headers (net/core/filter.c)."""

from __future__ import annotations

import errno
from typing import Final

from ..errors import KernelError
from ..net.skb_edit import ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_TEB, Skb, htons, ntohs
from .on_skb import MASK32, edits, signed32
from .skb import ENOTSUPP, SKB_MAX_ALLOC, reset_checksum
from .tunnel import metadata_dst

BPF_ADJ_ROOM_NET, BPF_ADJ_ROOM_MAC = 0, 1
FIXED_GSO, ENCAP_L3_IPV4, ENCAP_L3_IPV6, ENCAP_L4_GRE, ENCAP_L4_UDP, NO_CSUM_RESET, ENCAP_L2_ETH = (
    1 << bit for bit in range(7)
)
DECAP_L3_IPV4, DECAP_L3_IPV6 = 1 << 7, 1 << 8
_ENCAP_L3: Final = ENCAP_L3_IPV4 | ENCAP_L3_IPV6
_DECAP_L3: Final = DECAP_L3_IPV4 | DECAP_L3_IPV6
_ENCAP_L2_SHIFT: Final = 56
_ENCAP_L2: Final = 0xFF << _ENCAP_L2_SHIFT
_KNOWN: Final = (
    FIXED_GSO | _ENCAP_L3 | ENCAP_L4_GRE | ENCAP_L4_UDP | NO_CSUM_RESET | ENCAP_L2_ETH | _DECAP_L3 | _ENCAP_L2
)
_BASE_LEN: Final = {ETH_P_IP: 20, ETH_P_IPV6: 40}
_IP_DIFFERENCE: Final = 20

SKB_GSO_TCPV4, SKB_GSO_DODGY, SKB_GSO_TCPV6 = 1 << 0, 1 << 1, 1 << 4
SKB_GSO_GRE, SKB_GSO_IPXIP4, SKB_GSO_IPXIP6 = 1 << 6, 1 << 8, 1 << 9
SKB_GSO_UDP_TUNNEL, SKB_GSO_UDP_L4 = 1 << 10, 1 << 17


def _change_protocol(skb: Skb, protocol: int) -> None:
    skb.protocol = protocol
    if not metadata_dst(skb):
        skb.put("_skb_refdst", 0)


def _push_header(skb: Skb, offset: int, size: int) -> None:
    """bpf_skb_net_hdr_push(): zeroes behind the first ``offset`` bytes; headers move to the front."""
    together = skb.get("transport_header") == skb.get("network_header")
    front = skb.memory.read(skb.data, offset)
    skb.push(size)
    skb.memory.write(skb.data, front + bytes(size))
    for name in ("mac_header", "network_header"):
        skb.put(name, skb.get(name) - size)
    if together:
        skb.put("transport_header", skb.get("network_header"))


def _pop_header(skb: Skb, offset: int, size: int) -> None:
    """bpf_skb_net_hdr_pop(): ``size`` bytes behind the first ``offset`` go. KernelError(ENOMEM)."""
    skb.ensure_writable(offset + size)
    together = skb.get("transport_header") == skb.get("network_header")
    front = skb.memory.read(skb.data, offset)
    skb.postpull_rcsum(skb.data + offset, size)
    skb.pull(size)
    skb.memory.write(skb.data, front)
    for name in ("mac_header", "network_header"):
        skb.put(name, skb.get(name) + size)
    if together:
        skb.put("transport_header", skb.get("network_header"))


@edits("bpf_skb_change_proto", 3)
def bpf_skb_change_proto(skb: Skb, protocol: int, flags: int) -> int:
    """Exchange IPv4 for IPv6 or back: the room for the header, the protocol, GSO types; no contents."""
    if flags:
        return -errno.EINVAL
    change = (skb.protocol, ntohs(protocol & 0xFFFF))
    if change == (ETH_P_IP, ETH_P_IPV6):
        skb.cow(_IP_DIFFERENCE)
        _push_header(skb, skb.mac_header_len, _IP_DIFFERENCE)
        before, after = SKB_GSO_TCPV4, SKB_GSO_TCPV6
    elif change == (ETH_P_IPV6, ETH_P_IP):
        skb.check_plain()
        _pop_header(skb, skb.mac_header_len, _IP_DIFFERENCE)
        before, after = SKB_GSO_TCPV6, SKB_GSO_TCPV4
    else:
        return -ENOTSUPP
    if skb.is_gso:
        kind = skb.get_shared("gso_type")
        kind = kind & ~before | after if kind & before else kind
        skb.put_shared("gso_type", kind | SKB_GSO_DODGY)
    _change_protocol(skb, change[1])
    skb.clear_hash()
    return 0


def _check_gso(skb: Skb, flags: int) -> None:
    """Datagrams keep their size: only with a fixed one. KernelError(ENOTSUPP)."""
    kind = skb.get_shared("gso_type")
    if not skb.is_gso or kind & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6):
        return
    if not kind & SKB_GSO_UDP_L4 or not flags & FIXED_GSO:
        raise KernelError(ENOTSUPP, "segments of another kind than TCP's")


def _check_encapsulation(skb: Skb, size: int, flags: int) -> None:
    inner_mac = flags >> _ENCAP_L2_SHIFT
    if flags & _ENCAP_L3 == _ENCAP_L3 or (flags & ENCAP_L4_GRE and flags & ENCAP_L4_UDP):
        raise KernelError(errno.EINVAL, "two kinds of header at once")
    if flags & ENCAP_L2_ETH and inner_mac < ETH_HLEN:
        raise KernelError(errno.EINVAL, f"{inner_mac} bytes of inner Ethernet header")
    if skb.get("encapsulation"):
        raise KernelError(errno.EALREADY, "the packet is encapsulated already")
    if inner_mac > size:
        raise KernelError(errno.EINVAL, "more inner Ethernet header than room")


def _encapsulate(skb: Skb, flags: int, mac_len: int, inner_net: int, inner_trans: int) -> int:
    """Note the inner headers and what the outer ones are; the GSO type for it."""
    skb.put("inner_mac_header", inner_net - (flags >> _ENCAP_L2_SHIFT))
    skb.put("inner_network_header", inner_net)
    skb.put("inner_transport_header", inner_trans)
    skb.put("inner_protocol", htons(ETH_P_TEB if flags & ENCAP_L2_ETH else skb.protocol))
    skb.put("inner_protocol_type", 0)
    skb.put("encapsulation", 1)
    skb.set_header("network_header", mac_len)
    outer = ETH_P_IPV6 if flags & ENCAP_L3_IPV6 else ETH_P_IP
    if flags & (ENCAP_L4_GRE | ENCAP_L4_UDP):
        skb.set_header("transport_header", mac_len + _BASE_LEN[outer])
    if skb.protocol != outer:
        _change_protocol(skb, outer)
    if flags & ENCAP_L4_UDP:
        return SKB_GSO_UDP_TUNNEL
    if flags & ENCAP_L4_GRE:
        return SKB_GSO_GRE
    return SKB_GSO_IPXIP6 if outer == ETH_P_IPV6 else SKB_GSO_IPXIP4


def _grow(skb: Skb, offset: int, size: int, flags: int) -> None:
    """bpf_skb_net_grow()."""
    _check_gso(skb, flags)
    skb.cow(size)
    encap = flags & _ENCAP_L3
    if encap:
        _check_encapsulation(skb, size, flags)
    inner_net, inner_trans = skb.get("network_header"), skb.get("transport_header")
    mac_len = skb.mac_header_len
    _push_header(skb, offset, size)
    kind = SKB_GSO_DODGY
    if encap:
        kind |= _encapsulate(skb, flags, mac_len, inner_net, inner_trans)
    _resize_segments(skb, kind, -size, flags)


def _resize_segments(skb: Skb, kind: int, change: int, flags: int) -> None:
    if skb.is_gso:
        skb.put_shared("gso_type", skb.get_shared("gso_type") | kind)
        skb.put_shared("gso_segs", 0)
        if not flags & FIXED_GSO:
            skb.put_shared("gso_size", skb.get_shared("gso_size") + change)


def _shrink(skb: Skb, offset: int, size: int, flags: int) -> None:
    """bpf_skb_net_shrink()."""
    if flags & ~(FIXED_GSO | _DECAP_L3 | NO_CSUM_RESET):
        raise KernelError(errno.EINVAL, "flags of growing on a packet that shrinks")
    _check_gso(skb, flags)
    skb.check_plain()
    _pop_header(skb, offset, size)
    for flag, protocol in ((DECAP_L3_IPV4, ETH_P_IP), (DECAP_L3_IPV6, ETH_P_IPV6)):
        if flags & flag and skb.protocol != protocol:
            _change_protocol(skb, protocol)
    _resize_segments(skb, SKB_GSO_DODGY, size, flags)


@edits("bpf_skb_adjust_room", 4)
def bpf_skb_adjust_room(skb: Skb, difference: int, mode: int, flags: int) -> int:
    """Make or take room behind the MAC header or the network header of an IP packet.

    At most 4095 bytes; -EINVAL, -EFAULT, -ENOTSUPP and -EALREADY as bpf_skb_adjust_room() answers.
    """
    difference, size = signed32(difference), abs(signed32(difference))
    mode &= MASK32
    if flags & ~_KNOWN:
        return -errno.EINVAL
    if size > 0xFFF:
        return -errno.EFAULT
    least = _BASE_LEN.get(skb.protocol)
    if least is None or mode not in (BPF_ADJ_ROOM_NET, BPF_ADJ_ROOM_MAC):
        return -ENOTSUPP
    offset = skb.mac_header_len + (least if mode == BPF_ADJ_ROOM_NET else 0)
    if flags & _DECAP_L3:
        if difference >= 0 or flags & _DECAP_L3 == _DECAP_L3:
            return -errno.EINVAL
        least = _BASE_LEN[ETH_P_IP if flags & DECAP_L3_IPV4 else ETH_P_IPV6]
    now = skb.len - skb.offset_of("network_header")
    if difference < 0:
        if size >= now or now - size < least:
            return -ENOTSUPP
        _shrink(skb, offset, size, flags)
    else:
        if skb.len + size > SKB_MAX_ALLOC and not skb.is_gso:
            return -ENOTSUPP
        _grow(skb, offset, size, flags)
    if not flags & NO_CSUM_RESET:
        reset_checksum(skb)
    return 0
