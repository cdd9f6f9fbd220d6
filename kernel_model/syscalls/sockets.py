# SPDX-License-Identifier: GPL-2.0-only
"""System calls of sockets: packet sockets and the options that attach programs."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..net.socket import AF_PACKET, SOCK_RAW, Socket
from ..objects import File
from ..task import CAP_NET_RAW
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

SOL_SOCKET = 1
SO_ATTACH_BPF = 50
SO_DETACH_BPF = 27
_TYPE_MASK = 0xF


def _socket(task: Task, fd: int) -> Socket:
    obj = task.files.find(as_int(fd)).obj
    if not isinstance(obj, Socket):
        raise KernelError(errno.ENOTSOCK, f"descriptor {as_int(fd)} is no socket")
    return obj


@syscall(41, "socket", 3)
def sys_socket(kernel: Kernel, task: Task, family: int, kind: int, protocol: int) -> int:
    """socket(2): AF_PACKET with SOCK_RAW."""
    if family != AF_PACKET or kind & _TYPE_MASK != SOCK_RAW:
        raise NotModelled(f"sockets of family {family}, type {kind & _TYPE_MASK}", errno.EAFNOSUPPORT)
    if not task.capable(CAP_NET_RAW):
        raise KernelError(errno.EPERM, "packet sockets need CAP_NET_RAW")
    return task.files.install(File(Socket(kernel, family, kind & _TYPE_MASK, protocol)))


@syscall(49, "bind", 3)
def sys_bind(kernel: Kernel, task: Task, fd: int, at: int, size: int) -> int:
    """bind(2) with struct sockaddr_ll: only that device's frames."""
    sock = _socket(task, fd)
    if size < 12:
        raise KernelError(errno.EINVAL, "sockaddr_ll is too short")
    family, _, ifindex = struct.unpack_from("<HHi", task.mm.read(kernel, at, 8))
    if family != AF_PACKET:
        raise KernelError(errno.EINVAL, "not a sockaddr_ll")
    if ifindex:
        kernel.net.device(ifindex)
    sock.ifindex = ifindex
    return 0


@syscall(54, "setsockopt", 5)
def sys_setsockopt(kernel: Kernel, task: Task, fd: int, level: int, name: int, at: int, size: int) -> int:
    """setsockopt(2): SO_ATTACH_BPF and SO_DETACH_BPF."""
    sock = _socket(task, fd)
    if level != SOL_SOCKET or name not in (SO_ATTACH_BPF, SO_DETACH_BPF):
        raise NotModelled(f"socket option {level}/{name}", errno.ENOPROTOOPT)
    if size < 4:
        raise KernelError(errno.EINVAL, "the option's value is too short")
    if name == SO_DETACH_BPF:
        if sock.filter is None:
            raise KernelError(errno.ENOENT, "the socket has no filter")
        sock.detach(kernel)
        return 0
    number = as_int(int.from_bytes(task.mm.read(kernel, at, 4), "little"))
    prog = task.files.find(number).obj
    if not isinstance(prog, BpfProg):
        raise KernelError(errno.EINVAL, f"descriptor {number} is no program")
    sock.attach(kernel, prog)
    return 0


@syscall(45, "recvfrom", 6)
def sys_recvfrom(
    kernel: Kernel, task: Task, fd: int, at: int, size: int, flags: int, addr: int, alen: int
) -> int:
    """recvfrom(2): the next frame, cut to ``size``; EAGAIN when none is queued."""
    data = _socket(task, fd).receive()[:size]
    task.mm.write(kernel, at, data)
    return len(data)
