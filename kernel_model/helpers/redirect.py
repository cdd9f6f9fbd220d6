# SPDX-License-Identifier: GPL-2.0-only
"""bpf_clone_redirect() and bpf_redirect_neigh(); the other redirections are machine code (redirect.S)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..errors import KernelError, NotModelled
from ..functions import leaf, leaving
from ..net.skb_edit import Skb
from ..net.stack import LOOPBACK_IFINDEX
from .on_skb import MASK32

if TYPE_CHECKING:
    from ..kernel import Kernel

BPF_F_INGRESS: Final = 1
BPF_F_NEIGH, BPF_F_NEXTHOP = 1 << 16, 1 << 18
TC_ACT_SHOT, TC_ACT_REDIRECT = 2, 7
NET_XMIT_DROP: Final = 1
_IFF_UP: Final = 1


@leaving("bpf_clone_redirect", 3)
def bpf_clone_redirect(kernel: Kernel, addr: int, ifindex: int, flags: int) -> int:
    """Send a copy of the packet out of a device, or let it arrive there (BPF_F_INGRESS); 0 or an error."""
    skb, ifindex = Skb(kernel, addr), ifindex & MASK32
    if flags & ~BPF_F_INGRESS:
        return -errno.EINVAL
    if skb.is_gso and not skb.get_shared("gso_type"):
        return -errno.EBADMSG
    if not kernel.netdev(ifindex):
        return -errno.EINVAL
    skb.check_plain()
    skb.compute_data_pointers()
    if skb.get("mac_header") >= skb.get("network_header") or not skb.len:
        return -errno.ERANGE
    if ifindex == LOOPBACK_IFINDEX:
        raise NotModelled("packets through the loopback device", errno.EINVAL)
    device, frame = kernel.net.device(ifindex), skb.memory.read(skb.data, skb.len)
    if not kernel.memory.u32(device.addr + kernel.layout["net_device"].offset("flags")) & _IFF_UP:
        return -errno.ENETDOWN
    if flags & BPF_F_INGRESS:
        kernel.net.receive(kernel, device, frame)
        return 0
    try:
        return NET_XMIT_DROP if device.send_copy(kernel, frame) else 0
    except KernelError:
        return -errno.ENOMEM


@leaf("bpf_redirect_neigh", 4)
def bpf_redirect_neigh(kernel: Kernel, ifindex: int, params: int, size: int, flags: int) -> int:
    """Note a device, and the next hop's address if it is given (struct bpf_redir_neigh): a tc verdict."""
    info, layout = (
        kernel.per_cpu("bpf_redirect_info", kernel.cpu.this_cpu),
        kernel.layout["bpf_redirect_info"],
    )
    room = layout.member("nh").size
    size &= MASK32
    if (size and size < room) or flags:
        return TC_ACT_SHOT
    kernel.memory.put_u32(info + layout.offset("flags"), BPF_F_NEIGH | (BPF_F_NEXTHOP if size else 0))
    kernel.memory.put_u64(info + layout.offset("tgt_index"), ifindex & MASK32)
    if size:
        kernel.memory.write(info + layout.offset("nh"), kernel.memory.read(params, room))
    return TC_ACT_REDIRECT
