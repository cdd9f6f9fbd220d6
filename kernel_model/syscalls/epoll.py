# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for descriptors: poll(2) and epoll(7) (fs/select.c, fs/eventpoll.c).

An epoll item is on the ready list from when it was found ready at EPOLL_CTL_ADD or its object woke those who
wait, until a wait finds nothing to report or reports it edge-triggered. So data that came without a wakeup
(BPF_RB_NO_WAKEUP) is not reported by itself, as in Linux. Nothing here blocks: a wait with a timeout lets
the time pass, one without an end is not modelled.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..errors import KernelError, NotModelled
from ..objects import EPOLLERR, File, KObject
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
EPOLLHUP = 0x10
EPOLLONESHOT, EPOLLET = 1 << 30, 1 << 31
EPOLL_CLOEXEC = 0o2000000
POLLNVAL = 0x20
_ALWAYS = EPOLLERR | EPOLLHUP
_PRIVATE = EPOLLONESHOT | EPOLLET | 1 << 29 | 1 << 28
_EVENT = struct.Struct("<IQ")
_POLLFD = struct.Struct("<iHH")
_MAX_EVENTS = 0x7FFF_FFFF // _EVENT.size


class EpollItem:
    """A descriptor that is watched: for which events, with what data, and whether it is on the ready list."""

    def __init__(self, file: File, events: int, data: int) -> None:
        self.file = file
        self.events = events
        self.data = data
        self.seen: int | None = 0


class Epoll(KObject):
    """What epoll_create1() makes: items by descriptor number, and which of them are ready, oldest first."""

    kind = "epoll"

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[int, EpollItem] = {}
        self.ready: list[int] = []

    def set(self, kernel: Kernel, fd: int, item: EpollItem) -> None:
        """ep_insert() and ep_modify(): ready at once when there is something to report."""
        self.items[fd] = item
        item.seen = item.file.obj.wakeups(kernel)
        if item.file.obj.poll(kernel) & (item.events | _ALWAYS) and fd not in self.ready:
            self.ready.append(fd)

    def remove(self, fd: int) -> None:
        del self.items[fd]
        if fd in self.ready:
            self.ready.remove(fd)

    def collect(self, kernel: Kernel, limit: int) -> list[bytes]:
        """ep_send_events(): up to ``limit`` events as struct epoll_event."""
        for fd, item in list(self.items.items()):
            if not item.file.refs:
                self.remove(fd)
                continue
            woken = item.file.obj.wakeups(kernel)
            if woken != item.seen and item.events & ~_PRIVATE and fd not in self.ready:
                self.ready.append(fd)
            item.seen = woken
        events: list[bytes] = []
        again: list[int] = []
        while self.ready and len(events) < limit:
            fd = self.ready.pop(0)
            item = self.items[fd]
            wanted = (item.events | _ALWAYS) & ~_PRIVATE if item.events & ~_PRIVATE else 0
            found = item.file.obj.poll(kernel) & wanted
            if not found:
                continue
            events.append(_EVENT.pack(found, item.data))
            if item.events & EPOLLONESHOT:
                item.events &= _PRIVATE
            elif not item.events & EPOLLET:
                again.append(fd)
        self.ready += again
        return events


@syscall(291, "epoll_create1", 1)
def sys_epoll_create1(kernel: Kernel, task: Task, flags: int) -> int:
    """epoll_create1(2)."""
    if flags & ~EPOLL_CLOEXEC:
        raise KernelError(errno.EINVAL, f"unknown flags {flags:#x}")
    return task.files.install(File(Epoll()))


@syscall(213, "epoll_create", 1)
def sys_epoll_create(kernel: Kernel, task: Task, size: int) -> int:
    """epoll_create(2): the size only has to be positive."""
    if as_int(size) <= 0:
        raise KernelError(errno.EINVAL, "the size is not positive")
    return task.files.install(File(Epoll()))


def _epoll(task: Task, fd: int) -> Epoll:
    obj = task.files.find(as_int(fd)).obj
    if not isinstance(obj, Epoll):
        raise KernelError(errno.EINVAL, f"descriptor {as_int(fd)} is a {obj.kind}, not an epoll instance")
    return obj


@syscall(233, "epoll_ctl", 4)
def sys_epoll_ctl(kernel: Kernel, task: Task, epfd: int, operation: int, fd: int, at: int) -> int:
    """epoll_ctl(2): KernelError(EBADF, EINVAL, EEXIST, ENOENT), EPERM for a file that one cannot wait for."""
    events, data = (
        (0, 0) if operation == EPOLL_CTL_DEL else _EVENT.unpack(task.mm.read(kernel, at, _EVENT.size))
    )
    task.files.find(as_int(epfd))
    file = task.files.find(as_int(fd))
    if file.obj.wakeups(kernel) is None:
        raise KernelError(errno.EPERM, f"a {file.obj.kind} cannot be waited for")
    epoll = _epoll(task, epfd)
    if file.obj is epoll or isinstance(file.obj, Epoll):
        raise NotModelled("epoll of epoll", errno.EINVAL)
    number = as_int(fd)
    known = number in epoll.items and epoll.items[number].file is file
    if operation == EPOLL_CTL_ADD:
        if known:
            raise KernelError(errno.EEXIST, f"descriptor {number} is watched already")
        epoll.set(kernel, number, EpollItem(file, events, data))
        return 0
    if operation not in (EPOLL_CTL_DEL, EPOLL_CTL_MOD):
        raise KernelError(errno.EINVAL, f"unknown operation {operation}")
    if not known:
        raise KernelError(errno.ENOENT, f"descriptor {number} is not watched")
    if operation == EPOLL_CTL_DEL:
        epoll.remove(number)
    else:
        epoll.set(kernel, number, EpollItem(file, events, data))
    return 0


def _pass(kernel: Kernel, timeout: int) -> None:
    """Nothing is ready, and nothing can become so while the caller waits."""
    if timeout < 0:
        raise NotModelled("a process that blocks", errno.EINTR)
    kernel.clock.advance(timeout * 1_000_000)


@syscall(232, "epoll_wait", 4)
def sys_epoll_wait(kernel: Kernel, task: Task, epfd: int, at: int, limit: int, timeout: int) -> int:
    """epoll_wait(2): how many events were stored. ``timeout`` is in milliseconds."""
    limit = as_int(limit)
    if not 0 < limit <= _MAX_EVENTS:
        raise KernelError(errno.EINVAL, f"{limit} events")
    events = _epoll(task, epfd).collect(kernel, limit)
    if not events:
        _pass(kernel, as_int(timeout))
    task.mm.write(kernel, at, b"".join(events))
    return len(events)


@syscall(281, "epoll_pwait", 6)
def sys_epoll_pwait(
    kernel: Kernel, task: Task, epfd: int, at: int, limit: int, timeout: int, mask: int, size: int
) -> int:
    """epoll_pwait(2); there are no signals whose mask could matter."""
    return sys_epoll_wait(kernel, task, epfd, at, limit, timeout)


@syscall(7, "poll", 3)
def sys_poll(kernel: Kernel, task: Task, at: int, count: int, timeout: int) -> int:
    """poll(2): how many descriptors have something to report."""
    if count > task.files.limit:
        raise KernelError(errno.EINVAL, f"{count} descriptors")
    found = 0
    for number in range(count):
        where = at + number * _POLLFD.size
        fd, wanted, _ = _POLLFD.unpack(task.mm.read(kernel, where, _POLLFD.size))
        events = 0
        if fd >= 0:
            events = POLLNVAL
            if fd in task.files:
                events = task.files.find(fd).obj.poll(kernel) & (wanted | _ALWAYS)
        found += bool(events)
        task.mm.write(kernel, where + 6, events.to_bytes(2, "little"))
    if not found:
        _pass(kernel, as_int(timeout))
    return found
