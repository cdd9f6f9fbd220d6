# SPDX-License-Identifier: GPL-2.0-only
"""Sockets, as far as programs are attached to them: packet sockets with SO_ATTACH_BPF."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..objects import KObject
from ..uapi.enums import bpf_prog_type
from .skb import build_skb

if TYPE_CHECKING:
    from ..bpf.prog import BpfProg
    from ..kernel import Kernel
    from .device import NetDevice

AF_PACKET = 17
SOCK_RAW = 3
ETH_P_ALL = 3
RCVBUF_FRAMES = 1024


class Socket(KObject):
    """A raw packet socket: gets a copy of every frame, cut to what its filter returns (0 drops it)."""

    kind = "socket"

    def __init__(self, kernel: Kernel, family: int, kind: int, protocol: int) -> None:
        super().__init__()
        self.family = family
        self.type = kind
        self.protocol = protocol
        self.ifindex = 0
        self.queue: deque[bytes] = deque()
        self.dropped = 0
        self.filter: BpfProg | None = None
        layout = kernel.layout["sock"]
        self.addr = kernel.alloc.kmalloc(layout.size)
        kernel.memory.put_u16(self.addr + layout.offset("skc_family"), family)
        kernel.memory.put_u16(self.addr + layout.offset("type"), kind)
        kernel.net.sockets.append(self)

    def attach(self, kernel: Kernel, prog: BpfProg) -> None:
        """SO_ATTACH_BPF: replace the filter. KernelError(EINVAL) for another program type."""
        if prog.type != bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER:
            raise KernelError(errno.EINVAL, "not a socket filter program")
        prog.get()
        self.detach(kernel)
        self.filter = prog

    def detach(self, kernel: Kernel) -> None:
        """Drop the filter, if any."""
        if self.filter is not None:
            prog, self.filter = self.filter, None
            prog.put(kernel)

    def deliver(self, kernel: Kernel, device: NetDevice, frame: bytes) -> None:
        """packet_rcv(): run the filter over the frame and queue what it keeps."""
        if self.ifindex not in (0, device.ifindex):
            return
        keep = len(frame)
        if self.filter is not None:
            mac = kernel.memory.read(device.addr + kernel.layout["net_device"].offset("dev_addr"), 6)
            skb = build_skb(kernel, frame, device.addr, device.ifindex, mac, pull_mac=False, sk=self.addr)
            try:
                keep = min(keep, self.filter.run(kernel, skb.addr))
            finally:
                skb.free(kernel)
        if not keep:
            return
        if len(self.queue) >= RCVBUF_FRAMES:
            self.dropped += 1
            return
        self.queue.append(frame[:keep])

    def receive(self) -> bytes:
        """recvmsg(): the next frame; KernelError(EAGAIN) when there is none."""
        if not self.queue:
            raise KernelError(errno.EAGAIN, "no frame is queued")
        return self.queue.popleft()

    def release(self, kernel: Kernel) -> None:
        """close(2)."""
        kernel.net.sockets.remove(self)
        self.detach(kernel)
        kernel.alloc.kfree(self.addr)
