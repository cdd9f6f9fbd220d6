# SPDX-License-Identifier: GPL-2.0-only
"""Helpers about what goes with a packet: its flow hash, its route, the limits of devices (filter.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import NotModelled
from ..functions import leaf
from ..net.flow import skb_get_hash
from ..net.skb_edit import Skb
from .on_skb import MASK32, edits, signed32
from .tunnel import metadata_dst

if TYPE_CHECKING:
    from ..kernel import Kernel

BPF_MTU_CHK_SEGS: Final = 1
BPF_MTU_CHK_RET_SUCCESS, BPF_MTU_CHK_RET_FRAG_NEEDED, BPF_MTU_CHK_RET_SEGS_TOOBIG = range(3)
_SKB_DST_NOREF: Final = 1


@edits("bpf_get_hash_recalc", 1, moves=False)
def bpf_get_hash_recalc(skb: Skb) -> int:
    """The packet's flow hash, computed when it has none."""
    return skb_get_hash(skb.kernel, skb)


@edits("bpf_set_hash_invalid", 1, moves=False)
def bpf_set_hash_invalid(skb: Skb) -> int:
    """Forget the hash; the next bpf_get_hash_recalc() computes one."""
    skb.clear_hash()
    return 0


@edits("bpf_set_hash", 2, moves=False)
def bpf_set_hash(skb: Skb, value: int) -> int:
    """Give the packet this hash, as one that tells connections apart."""
    skb.set_sw_hash(value & MASK32, l4=True)
    return 0


@edits("bpf_get_route_realm", 1, moves=False)
def bpf_get_route_realm(skb: Skb) -> int:
    """The realm of the packet's route (dst->tclassid): 0 before it was routed."""
    if skb.get("_skb_refdst") & ~_SKB_DST_NOREF and not metadata_dst(skb):
        raise NotModelled("realms of routes", errno.EINVAL)
    return 0


def _mtu(kernel: Kernel, dev: int) -> tuple[int, int]:
    """MTU and header length in bytes of a net_device."""
    layout, memory = kernel.layout["net_device"], kernel.memory
    return memory.u32(dev + layout.offset("mtu")), memory.u16(dev + layout.offset("hard_header_len"))


def _check_mtu(
    kernel: Kernel, dev: int, ifindex: int, length: int, given: int, change: int
) -> tuple[int, int]:
    """The helper's answer and the MTU (0 when there is no such device)."""
    ifindex &= MASK32
    device = kernel.netdev(ifindex) if ifindex else dev
    if not device:
        return -errno.ENODEV, 0
    mtu, header = _mtu(kernel, device)
    total = (given + header if given else length) + signed32(change)
    fits = signed32(total) <= mtu + header
    return BPF_MTU_CHK_RET_SUCCESS if fits else BPF_MTU_CHK_RET_FRAG_NEEDED, mtu


@leaf("bpf_skb_check_mtu", 5)
def bpf_skb_check_mtu(kernel: Kernel, addr: int, ifindex: int, mtu_len: int, change: int, flags: int) -> int:
    """Does the packet (or an IP packet of ``*mtu_len`` bytes), longer by ``change``, fit the device?"""
    skb, given = Skb(kernel, addr), kernel.memory.u32(mtu_len)
    if flags & ~BPF_MTU_CHK_SEGS or (flags and (change & MASK32 or given)):
        return -errno.EINVAL
    answer, mtu = _check_mtu(kernel, skb.get("dev"), ifindex, skb.len, given, change)
    if answer < 0:
        return answer
    if answer == BPF_MTU_CHK_RET_FRAG_NEEDED and skb.is_gso:
        if flags:
            raise NotModelled("bpf_check_mtu() of the segments of a packet", errno.EINVAL)
        answer = BPF_MTU_CHK_RET_SUCCESS
    kernel.memory.put_u32(mtu_len, mtu)
    return answer


@leaf("bpf_xdp_check_mtu", 5)
def bpf_xdp_check_mtu(kernel: Kernel, xdp: int, ifindex: int, mtu_len: int, change: int, flags: int) -> int:
    """The same for an xdp_buff; it knows no segments (-EINVAL for flags)."""
    memory, layout = kernel.memory, kernel.layout
    if flags:
        return -errno.EINVAL
    buff = layout["xdp_buff"]
    data, end, rxq = (memory.u64(xdp + buff.offset(name)) for name in ("data", "data_end", "rxq"))
    dev = memory.u64(rxq + layout.offset("xdp_rxq_info.dev"))
    answer, mtu = _check_mtu(kernel, dev, ifindex, end - data, memory.u32(mtu_len), change)
    if answer >= 0:
        memory.put_u32(mtu_len, mtu)
    return answer
