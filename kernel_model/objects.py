# SPDX-License-Identifier: GPL-2.0-only
"""Reference-counted kernel objects, their ids, and open files."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import KernelError

if TYPE_CHECKING:
    from .kernel import Kernel


EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLRDNORM, EPOLLWRNORM = 1, 4, 8, 0x40, 0x100


class KObject:
    """Something that lives as long as anything refers to it."""

    kind = "object"

    def __init__(self) -> None:
        self.refs = 1

    def get(self) -> None:
        """Take a reference."""
        self.refs += 1

    def put(self, kernel: Kernel) -> None:
        """Drop a reference; the last one releases the object."""
        self.refs -= 1
        if self.refs < 0:
            raise RuntimeError(f"a reference to a {self.kind} was dropped that nobody held")
        if self.refs == 0:
            self.release(kernel)

    def get_user(self) -> None:
        """Take a reference for user space: a descriptor or a pin."""
        self.get()

    def put_user(self, kernel: Kernel) -> None:
        """Drop such a reference. An object's first reference is one of these."""
        self.put(kernel)

    def poll(self, kernel: Kernel) -> int:
        """What poll(2) would report now (EPOLL* bits); files without a poll of their own are always ready."""
        return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM

    def wakeups(self, kernel: Kernel) -> int | None:
        """How often those who wait for the object were woken; None for one that cannot be waited for."""
        return None

    def vma_open(self, writable: bool) -> None:
        """A process maps the object's memory."""

    def vma_close(self, writable: bool) -> None:
        """Such a mapping is gone."""

    def vma_closed(self, kernel: Kernel) -> None:
        """After :meth:`vma_close`, for what goes with the last mapping."""

    def file_released(self, kernel: Kernel, file: File) -> None:
        """An open file of the object is closed for good; the object is still there."""

    def release(self, kernel: Kernel) -> None:
        """Give back what the object owns."""


T = TypeVar("T", bound=KObject)


class Idr(Generic[T]):
    """Ids that count up from 1 and wrap only when exhausted (the kernel's cyclic idr)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = 1
        self._objects: dict[int, T] = {}

    def add(self, obj: T) -> int:
        """A fresh id for ``obj``."""
        number = self._next
        self._next += 1
        self._objects[number] = obj
        return number

    def remove(self, number: int) -> None:
        self._objects.pop(number, None)

    def find(self, number: int) -> T:
        """The object with that id; KernelError(ENOENT)."""
        try:
            return self._objects[number]
        except KeyError:
            raise KernelError(errno.ENOENT, f"no {self._what} has id {number}") from None

    def next_after(self, number: int) -> int:
        """The smallest id above ``number``; KernelError(ENOENT)."""
        above = [each for each in self._objects if each > number]
        if not above:
            raise KernelError(errno.ENOENT, f"no {self._what} id above {number}")
        return min(above)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)


class File(KObject):
    """An open file description: what a descriptor refers to. It owns one user reference to ``obj``."""

    kind = "file"

    def __init__(self, obj: KObject, flags: int = 0, path: str = "") -> None:
        super().__init__()
        self.obj = obj
        self.flags = flags
        self.path = path
        self.pos = 0

    def release(self, kernel: Kernel) -> None:
        """The last descriptor went: drop the object."""
        self.obj.file_released(kernel, self)
        self.obj.put_user(kernel)


class FdTable:
    """A process's descriptors: the lowest free number is taken first (POSIX)."""

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        self._files: dict[int, File] = {}
        self._hint = 0

    def install(self, file: File) -> int:
        """Give ``file`` (its reference is taken over) a descriptor; KernelError(EMFILE)."""
        number = self._hint
        while number in self._files:
            number += 1
        if number >= self.limit:
            raise KernelError(errno.EMFILE, f"more than {self.limit} descriptors")
        self._files[number] = file
        self._hint = number + 1
        return number

    def set(self, number: int, file: File) -> None:
        """Put ``file`` at a chosen free number."""
        self._files[number] = file

    def find(self, number: int) -> File:
        """The open file; KernelError(EBADF)."""
        try:
            return self._files[number]
        except KeyError:
            raise KernelError(errno.EBADF, f"descriptor {number} is not open") from None

    def close(self, kernel: Kernel, number: int) -> None:
        """close(2); KernelError(EBADF)."""
        file = self.find(number)
        del self._files[number]
        self._hint = min(self._hint, number)
        file.put(kernel)

    def close_all(self, kernel: Kernel) -> None:
        """At exit."""
        for number in sorted(self._files):
            self.close(kernel, number)

    def __contains__(self, number: int) -> bool:
        return number in self._files

    def __len__(self) -> int:
        return len(self._files)
