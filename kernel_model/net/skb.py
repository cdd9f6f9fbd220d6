# SPDX-License-Identifier: GPL-2.0-only
"""struct sk_buff with linear data, built for the programs that take one as context."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KernelError

if TYPE_CHECKING:
    from ..kernel import Kernel

ETH_HLEN = 14
NET_SKB_PAD = 64
NET_IP_ALIGN = 0
_SHARED_INFO_ALIGN = 64
PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST = range(4)
ETH_P_802_3_MIN = 0x600
_ETH_P_802_2 = 0x0400  # htons(ETH_P_802_2)
_ETH_P_802_3 = 0x0100  # htons(ETH_P_802_3)
ETH_BROADCAST = b"\xff" * 6


@dataclass
class SkBuff:
    """Where a built sk_buff lies: the struct, its data area, and a socket of its own or 0 (all kmalloc'd)."""

    addr: int
    head: int
    sock: int = 0

    def data(self, kernel: Kernel) -> bytes:
        """The linear data now."""
        layout = kernel.layout["sk_buff"]
        at = kernel.memory.u64(self.addr + layout.offset("data"))
        return kernel.memory.read(at, kernel.memory.u32(self.addr + layout.offset("len")))

    def free(self, kernel: Kernel) -> None:
        """kfree_skb(): also when helpers gave it another buffer."""
        if self.addr:
            self.head = kernel.memory.u64(self.addr + kernel.layout["sk_buff"].offset("head")) or self.head
        kernel.alloc.kfree(self.head)
        kernel.alloc.kfree(self.addr)
        kernel.alloc.kfree(self.sock)


def build_skb(
    kernel: Kernel,
    frame: bytes,
    dev: int,
    ifindex: int,
    dev_addr: bytes,
    pull_mac: bool,
    sk: int = 0,
    sock: bool = False,
    broadcast: bytes = ETH_BROADCAST,
) -> SkBuff:
    """An sk_buff as the receive path makes it, after eth_type_trans().

    ``pull_mac``: data begins behind the Ethernet header (what protocol handlers and most program
    types see); otherwise at it (tc and packet sockets, which push it back). ``sk`` is the socket that it
    belongs to, ``sock`` gives it one of its own. KernelError(ENOMEM) leaves nothing behind.
    """
    memory, layout = kernel.memory, kernel.layout["sk_buff"]
    room = NET_SKB_PAD + len(frame)
    end = -(-room // _SHARED_INFO_ALIGN) * _SHARED_INFO_ALIGN
    shinfo = kernel.layout["skb_shared_info"].size
    skb = SkBuff(0, 0)
    try:
        head = skb.head = kernel.alloc.kmalloc(end + shinfo)
        addr = skb.addr = kernel.alloc.kmalloc(layout.size)
        if sock:
            sk = skb.sock = kernel.alloc.kmalloc(kernel.layout["sock"].size)
    except KernelError:
        skb.free(kernel)
        raise
    memory.write(head + NET_SKB_PAD, frame)
    protocol, packet_type = _classify(frame, dev_addr, broadcast)
    pulled = min(ETH_HLEN, len(frame)) if pull_mac else 0
    for name, value in (
        ("head", head),
        ("data", head + NET_SKB_PAD + pulled),
        ("dev", dev),
        ("sk", sk),
    ):
        memory.put_u64(addr + layout.offset(name), value)
    for name, value in (
        ("len", len(frame) - pulled),
        ("tail", NET_SKB_PAD + len(frame)),
        ("end", end),
        ("skb_iif", ifindex),
        ("truesize", end + shinfo + layout.size),
        ("users", 1),
    ):
        memory.put_u32(addr + layout.offset(name), value)
    for name, value in (
        ("protocol", protocol),
        ("mac_header", NET_SKB_PAD),
        ("network_header", NET_SKB_PAD + ETH_HLEN),
        ("transport_header", NET_SKB_PAD + ETH_HLEN),
        ("mac_len", ETH_HLEN),
    ):
        memory.put_u16(addr + layout.offset(name), value)
    packet = layout.member("pkt_type")
    at = addr + packet.offset
    memory.put_u8(at, memory.u8(at) | packet_type << packet.bit_offset)
    return skb


def compute_data_pointers(kernel: Kernel, skb: SkBuff) -> None:
    """bpf_compute_data_pointers(): the bounds that programs with direct packet access read, in skb->cb."""
    layout, bounds, memory = kernel.layout["sk_buff"], kernel.layout["bpf_skb_data_end"], kernel.memory
    data = memory.u64(skb.addr + layout.offset("data"))
    headlen = memory.u32(skb.addr + layout.offset("len")) - memory.u32(skb.addr + layout.offset("data_len"))
    cb = skb.addr + layout.offset("cb")
    memory.put_u64(cb + bounds.offset("data_meta"), data)
    memory.put_u64(cb + bounds.offset("data_end"), data + headlen)


def _classify(frame: bytes, dev_addr: bytes, broadcast: bytes) -> tuple[int, int]:
    """Protocol (network byte order, as the u16 reads in memory) and packet type: eth_type_trans()."""
    dest = frame[:6]
    if dest == dev_addr:
        packet_type = PACKET_HOST
    elif dest == broadcast and dest[0] & 1:
        packet_type = PACKET_BROADCAST
    elif dest and dest[0] & 1:
        packet_type = PACKET_MULTICAST
    else:
        packet_type = PACKET_OTHERHOST
    if len(frame) < ETH_HLEN:
        return 0, packet_type
    big = int(struct.unpack_from(">H", frame, 12)[0])
    if big < ETH_P_802_3_MIN:
        raw_ipx = frame[ETH_HLEN : ETH_HLEN + 2] == b"\xff\xff"
        return (_ETH_P_802_3 if raw_ipx else _ETH_P_802_2), packet_type
    return int(struct.unpack_from("<H", frame, 12)[0]), packet_type
