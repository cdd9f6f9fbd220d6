# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): the rules that all commands share, and the table of commands (kernel/bpf/syscall.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..errors import KernelError, NotModelled
from ..objects import File, KObject
from ..uapi import bpf_attr
from ..uapi.bpf_attr import Values
from .table import as_int, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

T = TypeVar("T", bound=KObject)


@dataclass(frozen=True)
class Call:
    """One bpf(2) call: who makes it, the unpacked attribute, and where it lies in user memory."""

    kernel: Kernel
    task: Task
    attr: Values
    command: bpf_attr.Command
    uattr: int
    size: int

    def put(self, field: str, value: int) -> None:
        """Write one result field back into the caller's ``union bpf_attr``, when it was given that far."""
        place = self.command.record.fields[field]
        if place.offset + place.size <= self.size:
            data = (value & ((1 << 8 * place.size) - 1)).to_bytes(place.size, "little")
            self.task.mm.write(self.kernel, self.uattr + place.offset, data)

    def read(self, addr: int, size: int) -> bytes:
        """Copy from the caller's memory."""
        return self.task.mm.read(self.kernel, addr, size)

    def write(self, addr: int, data: bytes) -> None:
        """Copy to the caller's memory."""
        self.task.mm.write(self.kernel, addr, data)

    def object(self, fd: int, cls: type[T]) -> T:
        """The object behind a descriptor; KernelError(EBADF) for none, EINVAL for another kind."""
        obj = self.task.files.find(as_int(fd)).obj
        if not isinstance(obj, cls):
            raise KernelError(errno.EINVAL, f"descriptor {as_int(fd)} is a {obj.kind}, not a {cls.kind}")
        return obj

    def install(self, obj: KObject, flags: int = 0) -> int:
        """A descriptor for ``obj``, whose reference it takes over."""
        try:
            return self.task.files.install(File(obj, flags))
        except KernelError:
            obj.put_user(self.kernel)
            raise


Handler = Callable[[Call], int]
COMMANDS: dict[str, Handler] = {}


def command(name: str) -> Callable[[Handler], Handler]:
    """Register the handler of a bpf(2) command (its name without ``BPF_``)."""

    def add(handler: Handler) -> Handler:
        bpf_attr.command(name)
        COMMANDS[name] = handler
        return handler

    return add


@syscall(321, "bpf", 3)
def sys_bpf(kernel: Kernel, task: Task, cmd: int, uattr: int, size: int) -> int:
    """bpf(2): E2BIG for unknown trailing bytes that are set, EINVAL for unknown commands and fields."""
    size &= 0xFFFF_FFFF
    if size > bpf_attr.PAGE_SIZE:
        raise KernelError(errno.E2BIG, f"union bpf_attr of {size} bytes exceeds a page")
    data = bpf_attr.copy_attr(task.mm.read(kernel, uattr, size))
    row = bpf_attr.command(as_int(cmd))
    handler = COMMANDS.get(row.name)
    if handler is None:
        raise NotModelled(f"bpf command BPF_{row.name}", errno.EINVAL)
    bpf_attr.check_attr(row.number, data)
    return handler(Call(kernel, task, row.record.unpack(data), row, uattr, size))
