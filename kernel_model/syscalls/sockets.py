# SPDX-License-Identifier: GPL-2.0-only
"""System calls of sockets: packet sockets and the options that attach programs."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..bpf.prog import BpfProg
from ..classic.check import ClassicError
from ..classic.insn import BPF_MAXINSNS, SOCK_FILTER_SIZE, SOCK_FPROG, decode, encode
from ..classic.prog import ClassicProg
from ..errors import KernelError, NotModelled
from ..net.socket import AF_PACKET, SOCK_RAW, Socket
from ..objects import File
from ..task import CAP_NET_RAW
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

SOL_SOCKET = 1
SO_ATTACH_FILTER = 26
SO_GET_FILTER = SO_ATTACH_FILTER
SO_DETACH_FILTER = 27
SO_LOCK_FILTER = 44
SO_ATTACH_BPF = 50
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


def _attach_filter(kernel: Kernel, task: Task, sock: Socket, at: int, size: int) -> None:
    """struct sock_fprog: how many instructions, and where they are."""
    if size != SOCK_FPROG.size:
        raise KernelError(errno.EINVAL, f"struct sock_fprog has {SOCK_FPROG.size} bytes, not {size}")
    count, insns = SOCK_FPROG.unpack(task.mm.read(kernel, at, size))
    if sock.locked:
        raise KernelError(errno.EPERM, "the socket's filter is locked")
    if not insns or not 0 < count <= BPF_MAXINSNS:
        raise ClassicError(f"{count} instructions; a program has 1 to {BPF_MAXINSNS}")
    code = task.mm.read(kernel, insns, count * SOCK_FILTER_SIZE)
    sock.attach_classic(kernel, decode(code), task)


def _detach_filter(kernel: Kernel, _task: Task, sock: Socket, _at: int, _size: int) -> None:
    sock.detach_by_user(kernel)


def _lock_filter(kernel: Kernel, task: Task, sock: Socket, at: int, _size: int) -> None:
    sock.lock_filter(any(task.mm.read(kernel, at, 4)))


def _attach_bpf(kernel: Kernel, task: Task, sock: Socket, at: int, size: int) -> None:
    if size != 4:
        raise KernelError(errno.EINVAL, "the option's value is no descriptor")
    number = as_int(int.from_bytes(task.mm.read(kernel, at, 4), "little"))
    prog = task.files.find(number).obj
    if not isinstance(prog, BpfProg):
        raise KernelError(errno.EINVAL, f"descriptor {number} is no program")
    sock.attach(kernel, prog)


_SET = {
    SO_ATTACH_FILTER: _attach_filter,
    SO_DETACH_FILTER: _detach_filter,
    SO_LOCK_FILTER: _lock_filter,
    SO_ATTACH_BPF: _attach_bpf,
}


@syscall(54, "setsockopt", 5)
def sys_setsockopt(kernel: Kernel, task: Task, fd: int, level: int, name: int, at: int, size: int) -> int:
    """setsockopt(2): filters attached, detached and locked."""
    sock = _socket(task, fd)
    level, name, size = as_int(level), as_int(name), as_int(size)
    if level != SOL_SOCKET or name not in _SET:
        raise NotModelled(f"socket option {level}/{name}", errno.ENOPROTOOPT)
    if size < 4:
        raise KernelError(errno.EINVAL, "the option's value is too short")
    task.mm.read(kernel, at, 4)
    _SET[name](kernel, task, sock, at, size)
    return 0


@syscall(55, "getsockopt", 5)
def sys_getsockopt(kernel: Kernel, task: Task, fd: int, level: int, name: int, at: int, len_at: int) -> int:
    """getsockopt(2): SO_LOCK_FILTER, and SO_GET_FILTER, which counts in instructions (sk_get_filter)."""
    sock = _socket(task, fd)
    level, name = as_int(level), as_int(name)
    if level != SOL_SOCKET or name not in (SO_GET_FILTER, SO_LOCK_FILTER):
        raise NotModelled(f"socket option {level}/{name}", errno.ENOPROTOOPT)
    size = as_int(int.from_bytes(task.mm.read(kernel, len_at, 4), "little"))
    if size < 0:
        raise KernelError(errno.EINVAL, "a negative length")
    if name == SO_LOCK_FILTER:
        value = int(sock.locked).to_bytes(4, "little")[:size]
        task.mm.write(kernel, at, value)
        task.mm.write(kernel, len_at, len(value).to_bytes(4, "little"))
        return 0
    if sock.filter is None:
        count = 0
    elif not isinstance(sock.filter, ClassicProg):
        raise KernelError(errno.EACCES, "the socket's filter is no classic program")
    else:
        count = len(sock.filter.classic)
        if 0 < size < count:
            raise KernelError(errno.EINVAL, f"room for {size} of {count} instructions")
        if size:
            task.mm.write(kernel, at, encode(sock.filter.classic))
    task.mm.write(kernel, len_at, count.to_bytes(4, "little"))
    return 0


@syscall(45, "recvfrom", 6)
def sys_recvfrom(
    kernel: Kernel, task: Task, fd: int, at: int, size: int, flags: int, addr: int, alen: int
) -> int:
    """recvfrom(2): the next frame, cut to ``size``; EAGAIN when none is queued."""
    data = _socket(task, fd).receive()[:size]
    task.mm.write(kernel, at, data)
    return len(data)
