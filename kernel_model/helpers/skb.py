# SPDX-License-Identifier: GPL-2.0-only
"""Helpers of traffic control that change packets: bytes, checksums, length, VLAN tags (net/core/filter.c)."""

from __future__ import annotations

import errno
from typing import Final

from ..errors import KernelError
from ..net.csum import csum_add, csum_fold, csum_sub, replace2, replace4, replace_by_diff
from ..net.skb_edit import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    ETH_ALEN,
    ETH_P_8021Q,
    HEADER_UNSET,
    SKB_MAX_CSUM_LEVEL,
    VLAN_HLEN,
    Skb,
    htons,
    is_vlan,
    ntohs,
)
from .on_skb import MASK32, edits, signed32

BPF_F_RECOMPUTE_CSUM, BPF_F_INVALIDATE_HASH = 1, 2
BPF_F_HDR_FIELD_MASK: Final = 0xF
BPF_F_PSEUDO_HDR, BPF_F_MARK_MANGLED_0, BPF_F_MARK_ENFORCE, BPF_F_IPV6 = 1 << 4, 1 << 5, 1 << 6, 1 << 7
BPF_CSUM_LEVEL_QUERY, BPF_CSUM_LEVEL_INC, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_RESET = range(4)
CSUM_MANGLED_0: Final = 0xFFFF
SKB_MAX_ALLOC: Final = 4 * 4096 - 320
"""Four pages without struct skb_shared_info: the longest packet that a helper makes, in bytes."""
ENOTSUPP: Final = 524
_PACKET_OTHERHOST: Final = 3
_INT_MAX: Final = 0x7FFF_FFFF


def _writable(skb: Skb, size: int) -> None:
    """bpf_try_make_writable() as the byte helpers use it: KernelError(EFAULT) beyond the packet."""
    skb.check_plain()
    if size & MASK32 > skb.len:
        raise KernelError(errno.EFAULT, f"{size} bytes of a packet of {skb.len}")


@edits("bpf_skb_store_bytes", 5)
def bpf_skb_store_bytes(skb: Skb, offset: int, source: int, size: int, flags: int) -> int:
    """Write ``size`` bytes into the packet; 0, -EINVAL for a flag, -EFAULT beyond the packet."""
    offset &= MASK32
    size &= MASK32
    if flags & ~(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH):
        return -errno.EINVAL
    if offset > _INT_MAX:
        return -errno.EFAULT
    _writable(skb, offset + size)
    at = skb.data + offset
    if flags & BPF_F_RECOMPUTE_CSUM:
        skb.postpull_rcsum(at, size, offset)
    skb.memory.write(at, skb.memory.read(source, size))
    if flags & BPF_F_RECOMPUTE_CSUM:
        skb.postpush_rcsum(at, size, offset)
    if flags & BPF_F_INVALIDATE_HASH:
        skb.clear_hash()
    return 0


@edits("bpf_skb_pull_data", 2)
def bpf_skb_pull_data(skb: Skb, size: int) -> int:
    """Make ``size`` bytes (0: all linear ones) readable in place; -ENOMEM when there are fewer."""
    skb.ensure_writable(size & MASK32)
    return 0


def _checksum_field(skb: Skb, offset: int) -> int:
    """The address of a checksum in the packet. KernelError(EFAULT)."""
    offset &= MASK32
    if offset > 0xFFFF or offset & 1:
        raise KernelError(errno.EFAULT, f"no checksum at offset {offset}")
    _writable(skb, offset + 2)
    return skb.data + offset


@edits("bpf_l3_csum_replace", 5)
def bpf_l3_csum_replace(skb: Skb, offset: int, old: int, new: int, flags: int) -> int:
    """Update the IP header's checksum after a field of 2 or 4 bytes changed, or by a difference (size 0)."""
    if flags & ~BPF_F_HDR_FIELD_MASK:
        return -errno.EINVAL
    at = _checksum_field(skb, offset)
    check = skb.memory.u16(at)
    if flags == 0:
        if old:
            return -errno.EINVAL
        check = replace_by_diff(check, new & MASK32)
    elif flags == 2:
        check = replace2(check, old & 0xFFFF, new & 0xFFFF)
    elif flags == 4:
        check = replace4(check, old & MASK32, new & MASK32)
    else:
        return -errno.EINVAL
    skb.memory.put_u16(at, check)
    return 0


@edits("bpf_l4_csum_replace", 5)
def bpf_l4_csum_replace(skb: Skb, offset: int, old: int, new: int, flags: int) -> int:
    """Update a TCP, UDP or ICMP checksum; the packet's own, too, when the pseudo header changed."""
    mark_zero = bool(flags & BPF_F_MARK_MANGLED_0)
    known = BPF_F_HDR_FIELD_MASK | BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE | BPF_F_IPV6
    if flags & ~known:
        return -errno.EINVAL
    at = _checksum_field(skb, offset)
    check = skb.memory.u16(at)
    if mark_zero and not flags & BPF_F_MARK_ENFORCE and not check:
        return 0
    size = flags & BPF_F_HDR_FIELD_MASK
    if size not in (0, 2, 4) or (size == 0 and old):
        return -errno.EINVAL
    mask = 0xFFFF if size == 2 else MASK32
    check = _l4_checksum(skb, check, old & mask, new & mask, size, flags)
    skb.memory.put_u16(at, CSUM_MANGLED_0 if mark_zero and not check else check)
    return 0


def _l4_checksum(skb: Skb, check: int, old: int, new: int, size: int, flags: int) -> int:
    """inet_proto_csum_replace4() and inet_proto_csum_replace_by_diff(); the checksum afterwards."""
    pseudo, state = bool(flags & BPF_F_PSEUDO_HDR), skb.get("ip_summed")
    if state == CHECKSUM_PARTIAL:
        # The field holds the pseudo header's sum only.
        sum_ = csum_add(new, check) if size == 0 else csum_add(csum_sub(check, old), new)
        return ~csum_fold(sum_) & 0xFFFF if pseudo else check
    if size == 0:
        if state == CHECKSUM_COMPLETE and pseudo and not flags & BPF_F_IPV6:
            skb.put("csum", ~csum_sub(new, skb.get("csum")))
        return replace_by_diff(check, new)
    if state == CHECKSUM_COMPLETE and pseudo:
        skb.replace_csum(old, new)
    return replace4(check, old, new)


@edits("bpf_csum_update", 2, moves=False)
def bpf_csum_update(skb: Skb, difference: int) -> int:
    """Add to the packet's complete checksum: the new one; -ENOTSUPP when there is none."""
    if skb.get("ip_summed") != CHECKSUM_COMPLETE:
        return -ENOTSUPP
    csum = csum_add(skb.get("csum"), difference)
    skb.put("csum", csum)
    return csum


@edits("bpf_csum_level", 2, moves=False)
def bpf_csum_level(skb: Skb, level: int) -> int:
    """Ask for, raise, lower or drop the number of checksums that the card has verified."""
    verified = skb.get("ip_summed") == CHECKSUM_UNNECESSARY
    now = skb.get("csum_level")
    if level == BPF_CSUM_LEVEL_QUERY:
        return now if verified else -errno.EACCES
    if level == BPF_CSUM_LEVEL_INC:
        if verified:
            skb.put("csum_level", min(now + 1, SKB_MAX_CSUM_LEVEL))
        elif skb.get("ip_summed") == CHECKSUM_NONE:
            skb.put("csum_level", 0)
            skb.put("ip_summed", CHECKSUM_UNNECESSARY)
    elif level == BPF_CSUM_LEVEL_DEC:
        if verified and now:
            skb.put("csum_level", now - 1)
        elif verified:
            skb.put("ip_summed", CHECKSUM_NONE)
    elif level == BPF_CSUM_LEVEL_RESET:
        reset_checksum(skb)
    else:
        return -errno.EINVAL
    return 0


def reset_checksum(skb: Skb) -> None:
    """__skb_reset_checksum_unnecessary(): what the card verified does not count any more."""
    if skb.get("ip_summed") == CHECKSUM_UNNECESSARY:
        skb.put("ip_summed", CHECKSUM_NONE)
        skb.put("csum_level", 0)


@edits("bpf_skb_change_tail", 3)
def bpf_skb_change_tail(skb: Skb, length: int, flags: int) -> int:
    """Cut the packet or lengthen it with zeroes, to at most 16064 bytes; headers stay (-EINVAL)."""
    length &= MASK32
    least = max(skb.offset_of("network_header"), 0)
    if skb.get("transport_header") != HEADER_UNSET and skb.offset_of("transport_header") > 0:
        least = skb.offset_of("transport_header")
    if flags or not least <= length <= SKB_MAX_ALLOC:
        return -errno.EINVAL
    if skb.get("encapsulation"):
        return -ENOTSUPP
    skb.check_plain()
    if length > skb.len:
        skb.grow(length)
    elif length < skb.len:
        skb.trim(length)
    for name in ("gso_size", "gso_segs", "gso_type") if skb.is_gso else ():
        skb.put_shared(name, 0)
    return 0


@edits("bpf_skb_change_head", 3)
def bpf_skb_change_head(skb: Skb, room: int, flags: int) -> int:
    """``room`` bytes of zeroes in front of the packet, where the MAC header then begins."""
    room = signed32(room)
    if flags or room < 0 or (not skb.is_gso and skb.len + room > SKB_MAX_ALLOC):
        return -errno.EINVAL
    skb.cow(room)
    skb.push(room)
    skb.memory.fill(skb.data, room)
    skb.set_header("mac_header", 0)
    skb.put("mac_len", skb.mac_header_len)
    return 0


@edits("bpf_skb_change_type", 2, moves=False)
def bpf_skb_change_type(skb: Skb, kind: int) -> int:
    """Set pkt_type to PACKET_HOST .. PACKET_OTHERHOST, from one of these."""
    kind &= MASK32
    if kind > _PACKET_OTHERHOST or skb.get("pkt_type") > _PACKET_OTHERHOST:
        return -errno.EINVAL
    skb.put("pkt_type", kind)
    return 0


# A packet on its way in has its Ethernet header pulled as far as its checksum is concerned.


def _push_mac_rcsum(skb: Skb) -> None:
    if skb.get("tc_at_ingress"):
        skb.postpush_rcsum(skb.get("head") + skb.get("mac_header"), skb.get("mac_len"))


def _pull_mac_rcsum(skb: Skb) -> None:
    if skb.get("tc_at_ingress"):
        skb.postpull_rcsum(skb.get("head") + skb.get("mac_header"), skb.get("mac_len"))


@edits("bpf_skb_vlan_push", 3)
def bpf_skb_vlan_push(skb: Skb, protocol: int, tci: int) -> int:
    """Give the packet a VLAN tag; one that it carries beside it goes into the Ethernet header."""
    wanted = ntohs(protocol & 0xFFFF)
    _push_mac_rcsum(skb)
    try:
        if skb.get("vlan_all"):
            if skb.offset_of("mac_header"):
                return -errno.EINVAL
            skb.push_vlan_header(ntohs(skb.get("vlan_proto")), skb.get("vlan_tci"))
            skb.protocol = ntohs(skb.get("vlan_proto"))
            skb.put("network_header", skb.get("network_header") - VLAN_HLEN)
            skb.put("mac_len", skb.get("mac_len") + VLAN_HLEN)
            skb.postpush_rcsum(skb.data + 2 * ETH_ALEN, VLAN_HLEN)
        skb.put("vlan_proto", htons(wanted if is_vlan(wanted) else ETH_P_8021Q))
        skb.put("vlan_tci", tci)
    finally:
        _pull_mac_rcsum(skb)
    return 0


@edits("bpf_skb_vlan_pop", 1)
def bpf_skb_vlan_pop(skb: Skb) -> int:
    """Take the outer VLAN tag off; a tag behind it then is beside the packet."""
    _push_mac_rcsum(skb)
    try:
        if skb.get("vlan_all"):
            skb.put("vlan_all", 0)
        elif not is_vlan(skb.protocol):
            return 0
        else:
            skb.pop_vlan_header()
        if is_vlan(skb.protocol):
            protocol = skb.protocol
            tci = skb.pop_vlan_header()
            skb.put("vlan_proto", htons(protocol))
            skb.put("vlan_tci", tci)
    finally:
        _pull_mac_rcsum(skb)
    return 0
