# SPDX-License-Identifier: GPL-2.0-only
"""Queues and stacks (kernel/bpf/queue_stack_maps.c): values in a ring, without keys.

Programs use bpf_map_push_elem(), _pop_elem() and _peek_elem(), which are machine code; system calls
push by update, peek by lookup, pop by lookup-and-delete. The ring has one slot more than entries, so
that ``head == tail`` means empty.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

from ..errors import KernelError
from ..ports import Services
from .attr import ACCESS_MASK, KMALLOC_MAX_SIZE, NUMA_NODE, Creator, MapAttr, access_flags_ok, einval
from .base import BPF_EXIST, BPF_NOEXIST, BpfMap

_CREATE_FLAGS: Final = NUMA_NODE | ACCESS_MASK


class QueueMap(BpfMap):
    """BPF_MAP_TYPE_QUEUE: first in, first out."""

    STRUCT: ClassVar[str] = "bpf_queue_stack"
    OPS: ClassVar[str] = "queue_map_ops"
    STACK: ClassVar[bool] = False

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """queue_stack_map_alloc_check(): EINVAL or E2BIG."""
        if (
            not attr.max_entries
            or attr.key_size
            or not attr.value_size
            or attr.map_flags & ~_CREATE_FLAGS
            or not access_flags_ok(attr.map_flags)
        ):
            raise einval("a queue or stack needs entries and a value size, and no keys")
        if attr.value_size > KMALLOC_MAX_SIZE:
            raise KernelError(errno.E2BIG, "the value does not fit an allocation")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        fields = services.layout["bpf_queue_stack"]
        self._o_head, self._o_tail = fields.offset("head"), fields.offset("tail")
        self._o_elements = fields.offset("elements")
        self._size = self.max_entries + 1
        self.addr = services.alloc.kmalloc(self._o_elements + self._size * self.value_size)
        services.memory.put_u32(self.addr + fields.offset("size"), self._size)

    def free(self, services: Services) -> None:
        services.alloc.kfree(self.addr)
        self.addr = 0

    def memory_usage(self, services: Services) -> int:
        return self.LINUX_SIZE + self._size * self.value_size

    def _at(self, index: int) -> int:
        return self.addr + self._o_elements + index * self.value_size

    def take(self, services: Services, remove: bool) -> bytes:
        """Pop (``remove``) or peek. KernelError(ENOENT) when there is nothing."""
        memory = services.memory
        head, tail = memory.u32(self.addr + self._o_head), memory.u32(self.addr + self._o_tail)
        if head == tail:
            raise KernelError(errno.ENOENT)
        index = (head - 1) % self._size if self.STACK else tail
        value = memory.read(self._at(index), self.value_size)
        if remove and self.STACK:
            memory.put_u32(self.addr + self._o_head, index)
        elif remove:
            memory.put_u32(self.addr + self._o_tail, (tail + 1) % self._size)
        return value

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """Peek."""
        self._check_lookup_flags(flags)
        return self.take(services, remove=False)

    def lookup_and_delete(self, services: Services, key: bytes, flags: int = 0) -> bytes:
        """Pop. KernelError(EINVAL) for any flag."""
        if flags:
            raise einval("queues and stacks take no flags here")
        return self.take(services, remove=True)

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        return 0

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """Push. BPF_EXIST drops the oldest value of a full map, else KernelError(E2BIG)."""
        if flags & BPF_NOEXIST or flags > BPF_EXIST:
            raise einval(f"flags {flags:#x} do not suit a push")
        memory = services.memory
        head, tail = memory.u32(self.addr + self._o_head), memory.u32(self.addr + self._o_tail)
        following = (head + 1) % self._size
        if following == tail:
            if not flags & BPF_EXIST:
                raise KernelError(errno.E2BIG, "the map is full")
            memory.put_u32(self.addr + self._o_tail, (tail + 1) % self._size)
        memory.write(self._at(head), value[: self.value_size])
        memory.put_u32(self.addr + self._o_head, following)

    def delete(self, services: Services, key: bytes) -> None:
        raise einval("queues and stacks have no keys")

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        raise einval("queues and stacks have no keys")


class StackMap(QueueMap):
    """BPF_MAP_TYPE_STACK: last in, first out."""

    OPS = "stack_map_ops"
    STACK = True
