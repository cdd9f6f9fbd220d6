# SPDX-License-Identifier: GPL-2.0-only
"""Where the machine code of packet helpers goes when a packet has fragments: this kernel builds none."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

from ..errors import NotModelled
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel


@leaf("skb_load_nonlinear", 3)
def skb_load_nonlinear(kernel: Kernel, skb: int, offset: int, size: int) -> NoReturn:
    """skb_copy_bits() of an skb whose data_len is not 0."""
    raise NotModelled("packet data in skb fragments", errno.EFAULT)


@leaf("skb_load_bytes_nonlinear", 4)
def skb_load_bytes_nonlinear(kernel: Kernel, skb: int, offset: int, to: int, size: int) -> NoReturn:
    """bpf_skb_load_bytes() beyond the linear part of an skb whose data_len is not 0."""
    raise NotModelled("packet data in skb fragments", errno.EFAULT)


@leaf("bpf_xdp_frags_adjust_tail", 2)
def bpf_xdp_frags_adjust_tail(kernel: Kernel, xdp: int, offset: int) -> NoReturn:
    """bpf_xdp_adjust_tail() of an xdp_buff with fragments."""
    raise NotModelled("xdp_buff with fragments", errno.EINVAL)


@leaf("bpf_xdp_frags_get_buff_len", 1)
def bpf_xdp_frags_get_buff_len(kernel: Kernel, xdp: int) -> NoReturn:
    """bpf_xdp_get_buff_len() of an xdp_buff with fragments."""
    raise NotModelled("xdp_buff with fragments", errno.EINVAL)


@leaf("bpf_xdp_frags_pointer", 4)
def bpf_xdp_frags_pointer(kernel: Kernel, xdp: int, offset: int, buf: int, size: int) -> NoReturn:
    """bpf_xdp_load_bytes() and bpf_xdp_store_bytes() of an xdp_buff with fragments."""
    raise NotModelled("xdp_buff with fragments", errno.EINVAL)
