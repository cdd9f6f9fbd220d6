# SPDX-License-Identifier: GPL-2.0-only
"""An sk_buff as the helpers of traffic control change it: room, headers, checksums (net/core/skbuff.c).

Every access goes to struct sk_buff in kernel memory. Packets are linear and belong to one sk_buff alone;
one with fragments, or a clone, raises NotModelled.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, NotModelled
from .csum import csum_add, csum_block_add, csum_block_sub, csum_partial, csum_sub
from .skb import NET_SKB_PAD

if TYPE_CHECKING:
    from ..kernel import Kernel

CHECKSUM_NONE, CHECKSUM_UNNECESSARY, CHECKSUM_COMPLETE, CHECKSUM_PARTIAL = range(4)
SKB_MAX_CSUM_LEVEL: Final = 3
HEADER_UNSET: Final = 0xFFFF
ETH_HLEN: Final = 14
ETH_ALEN: Final = 6
VLAN_HLEN: Final = 4
VLAN_ETH_HLEN: Final = ETH_HLEN + VLAN_HLEN
ETH_P_802_3_MIN: Final = 0x600
ETH_P_802_3, ETH_P_802_2 = 1, 4
ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD, ETH_P_TEB = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x6558

_HEADERS: Final = ("mac_header", "network_header", "transport_header")
_INNER_HEADERS: Final = ("inner_mac_header", "inner_network_header", "inner_transport_header")
_MASK32: Final = 0xFFFF_FFFF


def htons(value: int) -> int:
    """A 16-bit number as a little-endian load sees its network-order bytes."""
    return (value & 0xFF) << 8 | value >> 8 & 0xFF


ntohs = htons


def is_vlan(protocol: int) -> bool:
    """eth_type_vlan() of a protocol in host order."""
    return protocol in (ETH_P_8021Q, ETH_P_8021AD)


class Skb:
    """The sk_buff at ``addr``. ``protocol`` is in host order; offsets of headers count from ``data``."""

    def __init__(self, kernel: Kernel, addr: int) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.addr = addr
        self._layout = kernel.layout["sk_buff"]

    def get(self, name: str) -> int:
        """A member, bit-fields included; signed ones as their bits."""
        member = self._layout.member(name)
        raw = int.from_bytes(self.memory.read(self.addr + member.offset, member.size), "little")
        return raw >> member.bit_offset & ((1 << member.bit_size) - 1) if member.bit_size else raw

    def put(self, name: str, value: int) -> None:
        """Write a member, cut to its width."""
        member = self._layout.member(name)
        at = self.addr + member.offset
        if member.bit_size:
            mask = ((1 << member.bit_size) - 1) << member.bit_offset
            raw = int.from_bytes(self.memory.read(at, member.size), "little")
            value = raw & ~mask | value << member.bit_offset & mask
        self.memory.write(at, (value & ((1 << 8 * member.size) - 1)).to_bytes(member.size, "little"))

    def cb(self, path: str) -> int:
        """The address of a member of the control block, such as ``bpf_skb_data_end.data_end``."""
        return self.addr + self._layout.offset("cb") + self.kernel.layout.offset(path)

    def shared(self, name: str) -> tuple[int, int]:
        """Address and size of a member of skb_shared_info."""
        member = self.kernel.layout["skb_shared_info"].member(name)
        return self.get("head") + self.get("end") + member.offset, member.size

    def get_shared(self, name: str) -> int:
        """A member of skb_shared_info."""
        at, size = self.shared(name)
        return int.from_bytes(self.memory.read(at, size), "little")

    def put_shared(self, name: str, value: int) -> None:
        """Write a member of skb_shared_info."""
        at, size = self.shared(name)
        self.memory.write(at, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    @property
    def data(self) -> int:
        """The address of the packet's first byte."""
        return self.get("data")

    @property
    def len(self) -> int:
        """The packet's length in bytes."""
        return self.get("len")

    @property
    def protocol(self) -> int:
        return ntohs(self.get("protocol"))

    @protocol.setter
    def protocol(self, value: int) -> None:
        self.put("protocol", htons(value))

    @property
    def is_gso(self) -> bool:
        return self.get_shared("gso_size") != 0

    def offset_of(self, header: str) -> int:
        """Where a header begins, counted from ``data``; negative before it (skb_network_offset() ...)."""
        return self.get("head") + self.get(header) - self.data

    def set_header(self, header: str, offset: int) -> None:
        """Let a header begin ``offset`` bytes behind ``data``."""
        self.put(header, self.data - self.get("head") + offset)

    @property
    def mac_header_len(self) -> int:
        """skb_mac_header_len()."""
        return self.get("network_header") - self.get("mac_header")

    # Room

    def check_plain(self) -> None:
        """NotModelled for fragments and clones, which nothing here makes."""
        if self.get("data_len"):
            raise NotModelled("packet data in skb fragments", errno.EFAULT)
        if self.get("cloned"):
            raise NotModelled("writing to a cloned skb", errno.ENOMEM)

    def ensure_writable(self, size: int) -> None:
        """skb_ensure_writable(): KernelError(ENOMEM) when the packet is shorter than ``size`` bytes."""
        self.check_plain()
        if size & _MASK32 > self.len:
            raise KernelError(errno.ENOMEM, f"{size} bytes of a packet of {self.len}")

    def cow(self, headroom: int) -> None:
        """skb_cow(): at least ``headroom`` bytes in front of the data. KernelError(ENOMEM)."""
        self.check_plain()
        missing = headroom - (self.data - self.get("head"))
        if missing > 0:
            self.expand_head(-(-missing // NET_SKB_PAD) * NET_SKB_PAD, 0)

    def expand_head(self, front: int, back: int) -> None:
        """pskb_expand_head(): a larger buffer; headers keep their places in the packet.

        KernelError(ENOMEM), with the packet as it was.
        """
        kernel, memory, old = self.kernel, self.memory, self.get("head")
        end = self.get("end")
        info = kernel.layout["skb_shared_info"].size
        room = -(-(front + end + back) // 64) * 64
        head = kernel.alloc.kmalloc(room + info)
        memory.write(head + front, memory.read(old, self.get("tail")))
        memory.write(head + room, memory.read(old + end, info))
        self.put("data", head + front + (self.data - old))
        self.put("head", head)
        self.put("end", room)
        self.put("tail", self.get("tail") + front)
        for name in _HEADERS:
            if self.get(name) != HEADER_UNSET:
                self.put(name, self.get(name) + front)
        for name in _INNER_HEADERS:
            self.put(name, self.get(name) + front)
        kernel.alloc.kfree(old)

    def push(self, size: int) -> None:
        """__skb_push(): ``size`` bytes more in front, which must be there."""
        self.put("data", self.data - size)
        self.put("len", self.len + size)

    def pull(self, size: int) -> None:
        """__skb_pull(): ``size`` bytes fewer in front."""
        self.put("data", self.data + size)
        self.put("len", self.len - size)

    def grow(self, length: int) -> None:
        """__skb_grow_rcsum(): zeroes at the end. KernelError(ENOMEM)."""
        if self.get("ip_summed") == CHECKSUM_COMPLETE:
            self.put("ip_summed", CHECKSUM_NONE)
        missing = length - self.len
        tailroom = self.get("end") - self.get("tail")
        if missing > tailroom:
            self.expand_head(0, missing - tailroom)
        self.memory.fill(self.data + self.len, missing)
        self.put("tail", self.get("tail") + missing)
        self.put("len", length)

    def trim(self, length: int) -> None:
        """__skb_trim_rcsum(): cut the end off; a complete checksum does not hold any more."""
        if self.get("ip_summed") == CHECKSUM_COMPLETE:
            self.put("ip_summed", CHECKSUM_NONE)
        self.put("tail", self.get("tail") - (self.len - length))
        self.put("len", length)

    # Checksums of what a header gained or lost (CHECKSUM_COMPLETE covers the whole packet)

    def postpull_rcsum(self, start: int, size: int, offset: int = 0) -> None:
        """skb_postpull_rcsum(): the bytes at ``start`` leave the checksum; ``offset`` is their place."""
        if self.get("ip_summed") == CHECKSUM_COMPLETE:
            part = csum_partial(self.memory.read(start, size))
            self.put("csum", csum_block_sub(self.get("csum"), part, offset))
        elif self.get("ip_summed") == CHECKSUM_PARTIAL:
            raise NotModelled("skbs with CHECKSUM_PARTIAL", errno.EINVAL)

    def postpush_rcsum(self, start: int, size: int, offset: int = 0) -> None:
        """skb_postpush_rcsum(): the bytes at ``start`` join the checksum."""
        if self.get("ip_summed") == CHECKSUM_COMPLETE:
            part = csum_partial(self.memory.read(start, size))
            self.put("csum", csum_block_add(self.get("csum"), part, offset))

    def replace_csum(self, old: int, new: int) -> None:
        """The packet's words changed from ``old`` to ``new``: adjust a complete checksum."""
        kept = csum_sub(~self.get("csum") & _MASK32, old)
        self.put("csum", ~csum_add(kept, new))

    # Hash

    def clear_hash(self) -> None:
        """skb_clear_hash()."""
        self.set_sw_hash(0, l4=False, software=False)

    def set_sw_hash(self, value: int, l4: bool, software: bool = True) -> None:
        """__skb_set_sw_hash()."""
        self.put("l4_hash", l4)
        self.put("sw_hash", software)
        self.put("hash", value)

    # VLAN

    def pop_vlan_header(self) -> int:
        """__skb_vlan_pop(): take the tag out of the Ethernet header; its TCI. KernelError(ENOMEM)."""
        self.ensure_writable(VLAN_ETH_HLEN)
        memory, data = self.memory, self.data
        self.postpull_rcsum(data + 2 * ETH_ALEN, VLAN_HLEN)
        tci, inner = (int.from_bytes(memory.read(data + at, 2), "big") for at in (14, 16))
        raw_ipx = self.len >= 20 and memory.read(data + 18, 2) == b"\xff\xff"
        memory.write(data + VLAN_HLEN, memory.read(data, 2 * ETH_ALEN))
        if inner >= ETH_P_802_3_MIN:
            self.protocol = inner
        else:
            self.protocol = ETH_P_802_3 if raw_ipx else ETH_P_802_2
        self.pull(VLAN_HLEN)
        self.put("mac_header", self.get("mac_header") + VLAN_HLEN)
        if self.offset_of("network_header") < ETH_HLEN:
            self.set_header("network_header", ETH_HLEN)
        self.put("mac_len", self.mac_header_len)
        return tci

    def push_vlan_header(self, protocol: int, tci: int) -> None:
        """__vlan_insert_tag(): put a tag into the Ethernet header. KernelError(ENOMEM)."""
        self.cow(VLAN_HLEN)
        self.push(VLAN_HLEN)
        memory, data = self.memory, self.data
        memory.write(data, memory.read(data + VLAN_HLEN, 2 * ETH_ALEN))
        self.put("mac_header", self.get("mac_header") - VLAN_HLEN)
        memory.write(data + 2 * ETH_ALEN, protocol.to_bytes(2, "big") + tci.to_bytes(2, "big"))

    # Programs

    def compute_data_pointers(self) -> None:
        """bpf_compute_data_pointers(): what programs see as data_meta and data_end."""
        data = self.data
        self.memory.put_u64(self.cb("bpf_skb_data_end.data_meta"), data - self.get_shared("meta_len"))
        self.memory.put_u64(self.cb("bpf_skb_data_end.data_end"), data + self.len - self.get("data_len"))
