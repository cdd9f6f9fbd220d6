# SPDX-License-Identifier: GPL-2.0-only
"""Sockets, as far as programs are attached to them: packet sockets with SO_ATTACH_BPF or SO_ATTACH_FILTER."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..classic.insn import SockFilter
from ..classic.prog import OPTMEM_MAX, ClassicProg, create_socket_filter
from ..errors import KernelError
from ..objects import KObject
from ..uapi.enums import bpf_prog_type
from .skb import build_skb

if TYPE_CHECKING:
    from ..bpf.prog import BpfProg
    from ..kernel import Kernel
    from ..task import Task
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
        self.locked = False
        """SOCK_FILTER_LOCKED: the filter stays as it is."""
        layout = kernel.layout["sock"]
        self.addr = kernel.alloc.kmalloc(layout.size)
        kernel.memory.put_u16(self.addr + layout.offset("skc_family"), family)
        kernel.memory.put_u16(self.addr + layout.offset("type"), kind)
        kernel.net.sockets.append(self)

    def attach(self, kernel: Kernel, prog: BpfProg) -> None:
        """SO_ATTACH_BPF: replace the filter.

        KernelError(EPERM) when it is locked, EINVAL for another program type.
        """
        self._check_unlocked()
        if prog.type != bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER:
            raise KernelError(errno.EINVAL, "not a socket filter program")
        prog.get()
        self.detach(kernel)
        self.filter = prog

    def attach_classic(self, kernel: Kernel, insns: Sequence[SockFilter], task: Task) -> None:
        """SO_ATTACH_FILTER: replace the filter by a classic program (sk_attach_filter).

        KernelError(EPERM) when it is locked, ClassicError (EINVAL) for a bad program, ENOMEM when it and
        the filter that it replaces are larger together than what a socket may have.
        """
        self._check_unlocked()
        prog = create_socket_filter(kernel, insns, task.uid, task.privileges)
        charged = self.filter.bytes(kernel) if isinstance(self.filter, ClassicProg) else 0
        if prog.bytes(kernel) + charged >= OPTMEM_MAX:
            prog.put(kernel)
            raise KernelError(errno.ENOMEM, f"the filter is larger than {OPTMEM_MAX} bytes")
        self.detach(kernel)
        self.filter = prog

    def _check_unlocked(self) -> None:
        if self.locked:
            raise KernelError(errno.EPERM, "the socket's filter is locked")

    def detach_by_user(self, kernel: Kernel) -> None:
        """SO_DETACH_FILTER: KernelError(EPERM) when it is locked, ENOENT when there is none."""
        self._check_unlocked()
        if self.filter is None:
            raise KernelError(errno.ENOENT, "the socket has no filter")
        self.detach(kernel)

    def lock_filter(self, on: bool) -> None:
        """SO_LOCK_FILTER: for good; KernelError(EPERM) for an attempt to unlock it."""
        if self.locked and not on:
            raise KernelError(errno.EPERM, "the socket's filter is locked")
        self.locked = on

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
