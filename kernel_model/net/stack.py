# SPDX-License-Identifier: GPL-2.0-only
"""The network stack above the drivers: devices by index, and delivery to packet sockets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..data_symbols import MAX_NETDEVS
from ..errors import KernelError

if TYPE_CHECKING:
    from ..kernel import Kernel
    from .device import NetDevice
    from .socket import Socket


LOOPBACK_IFINDEX = 1
ARPHRD_LOOPBACK = 772


class NetStack:
    """Devices (the loopback has index 1, cards begin at 2) and packet sockets."""

    def __init__(self) -> None:
        self.devices: dict[int, NetDevice] = {}
        self.sockets: list[Socket] = []
        self.passed = 0

    def device(self, ifindex: int) -> NetDevice:
        """The device; KernelError(ENODEV)."""
        try:
            return self.devices[ifindex]
        except KeyError:
            raise KernelError(errno.ENODEV, f"no device has index {ifindex}") from None

    def exists(self, kernel: Kernel, ifindex: int) -> bool:
        """Is there a device with that index, the loopback included?"""
        return ifindex < MAX_NETDEVS and bool(kernel.memory.u64(kernel.data["netdev_table"] + 8 * ifindex))

    def dev_addr(self, kernel: Kernel, ifindex: int) -> int:
        """The struct net_device of an index; KernelError(ENODEV)."""
        if not self.exists(kernel, ifindex):
            raise KernelError(errno.ENODEV, f"no device has index {ifindex}")
        return kernel.memory.u64(kernel.data["netdev_table"] + 8 * ifindex)

    def add_loopback(self, kernel: Kernel) -> None:
        """Register ``lo``: index 1, no card behind it."""
        layout = kernel.layout["net_device"]
        addr = kernel.alloc.kmalloc(layout.size)
        kernel.memory.put_u32(addr + layout.offset("ifindex"), LOOPBACK_IFINDEX)
        kernel.memory.put_u16(addr + layout.offset("type"), ARPHRD_LOOPBACK)
        kernel.memory.put_u32(addr + layout.offset("mtu"), 65536)
        kernel.memory.put_u16(addr + layout.offset("hard_header_len"), 14)
        kernel.memory.write(addr + layout.offset("name"), b"lo")
        kernel.memory.put_u64(kernel.data["netdev_table"] + 8 * LOOPBACK_IFINDEX, addr)

    def receive(self, kernel: Kernel, device: NetDevice, frame: bytes) -> None:
        """netif_receive_skb(): a frame that XDP passed goes to every packet socket that wants it."""
        self.passed += 1
        for sock in list(self.sockets):
            sock.deliver(kernel, device, frame)
