# SPDX-License-Identifier: GPL-2.0-only
"""The lists behind LRU maps (kernel/bpf/bpf_lru_list.c), in kernel memory.

A ``struct bpf_lru_list`` has an active, an inactive and a free list. With the common LRU there is one for
the map, and each CPU has a local list in front of it: elements that it added lately (pending) and a stock of
free ones, refilled ``target_free`` at a time by shrinking the inactive list. With BPF_F_NO_COMMON_LRU
each CPU has a ``bpf_lru_list`` of its own. Which element goes is decided by the reference bit alone, that a
lookup by a program sets.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..ports import Memory, Services
from .base import per_cpu_ptr

ACTIVE, INACTIVE, FREE, LOCAL_FREE, LOCAL_PENDING = range(5)
LOCAL_FREE_TARGET: Final = 128
PERCPU_FREE_TARGET: Final = 4
_LISTS: Final = 3
_HEAD: Final = 16
"""Bytes of a struct list_head."""
_PREV: Final = 8
_CHUNK: Final = 1 << 14

Unlink = Callable[[Services, int], bool]
"""del_from_htab: take the element of a node out of its bucket; False when it was not in it."""


def _init_head(memory: Memory, head: int) -> None:
    memory.put_u64(head, head)
    memory.put_u64(head + _PREV, head)


def _del(memory: Memory, node: int) -> None:
    following, before = memory.u64(node), memory.u64(node + _PREV)
    memory.put_u64(following + _PREV, before)
    memory.put_u64(before, following)


def _add(memory: Memory, node: int, head: int) -> None:
    first = memory.u64(head)
    memory.put_u64(node, first)
    memory.put_u64(node + _PREV, head)
    memory.put_u64(head, node)
    memory.put_u64(first + _PREV, node)


def _move(memory: Memory, node: int, head: int) -> None:
    _del(memory, node)
    _add(memory, node, head)


@dataclass(frozen=True)
class BpfLru:
    """A map's lists: at the address ``common``, or at the per-CPU pointer ``percpu``; the other one is 0.

    ``local`` is the per-CPU pointer of the local lists, ``nr_scans`` how many nodes one round looks at. The
    ``o_*`` are offsets of members of struct bpf_lru_node, bpf_lru_list and bpf_lru_locallist; nodes are given
    by the address of their list_head.
    """

    common: int
    percpu: int
    local: int
    nr_cpus: int
    nr_scans: int
    target_free: int
    hash_offset: int
    o_cpu: int
    o_type: int
    o_ref: int
    o_counts: int
    o_rotation: int
    o_free: int
    o_steal: int

    @classmethod
    def create(cls, services: Services, at: int, percpu: bool, entries: int, hash_offset: int) -> BpfLru:
        """bpf_lru_init() of the ``struct bpf_lru`` at ``at``, for a map of ``entries`` elements.

        KernelError(ENOMEM).
        """
        lru, lists = services.layout["bpf_lru"], services.layout["bpf_lru_list"]
        local, node = services.layout["bpf_lru_locallist"], services.layout["bpf_lru_node"]
        cpus = services.alloc.nr_cpus
        area = services.alloc.alloc_percpu(lists.size if percpu else local.size)
        made = cls(
            common=0 if percpu else at + lru.offset("common_lru.lru_list"),
            percpu=area if percpu else 0,
            local=0 if percpu else area,
            nr_cpus=cpus,
            nr_scans=PERCPU_FREE_TARGET if percpu else LOCAL_FREE_TARGET,
            # Since 6.16 a small map does not keep most of its elements in the CPUs' stocks.
            target_free=min(max(entries // cpus // 2, 1), LOCAL_FREE_TARGET),
            hash_offset=hash_offset,
            o_cpu=node.offset("cpu"),
            o_type=node.offset("type"),
            o_ref=node.offset("ref"),
            o_counts=lists.offset("counts"),
            o_rotation=lists.offset("next_inactive_rotation"),
            o_free=local.offset("free_llist.first"),
            o_steal=local.offset("next_steal"),
        )
        memory = services.memory
        for cpu in range(cpus):
            if percpu:
                made._init_list(memory, per_cpu_ptr(services, area, cpu))
            else:
                _init_head(memory, per_cpu_ptr(services, area, cpu))
                memory.put_u16(per_cpu_ptr(services, area, cpu) + made.o_steal, cpu)
        if not percpu:
            made._init_list(memory, made.common)
        memory.put_u64(at + lru.offset("percpu_lru" if percpu else "common_lru.local_list"), area)
        memory.put_u8(at + lru.offset("percpu"), percpu)
        for name in ("hash_offset", "target_free", "nr_scans"):
            memory.put_u32(at + lru.offset(name), getattr(made, name) & 0xFFFF_FFFF)
        return made

    def destroy(self, services: Services) -> None:
        services.alloc.free_percpu(self.percpu or self.local)

    def _init_list(self, memory: Memory, lists: int) -> None:
        for kind in range(_LISTS):
            _init_head(memory, lists + kind * _HEAD)
        memory.put_u64(lists + self.o_rotation, lists + INACTIVE * _HEAD)

    def populate(self, services: Services, nodes: int, elem_size: int, count: int) -> None:
        """bpf_lru_populate(): ``count`` zeroed elements, whose first node is at ``nodes``, are free.

        Each list's elements are neighbours; the one with the highest address comes out first.
        """
        if not self.percpu:
            self._fill(services.memory, self.common, nodes, elem_size, count, 0)
            return
        share = count // self.nr_cpus
        for cpu in range(self.nr_cpus):
            lists = per_cpu_ptr(services, self.percpu, cpu)
            self._fill(services.memory, lists, nodes + cpu * share * elem_size, elem_size, share, cpu)

    def _fill(self, memory: Memory, lists: int, nodes: int, elem_size: int, count: int, cpu: int) -> None:
        head, words = lists + FREE * _HEAD, elem_size // 8
        state = cpu << 8 * (self.o_cpu % 8) | FREE << 8 * (self.o_type % 8)
        block = array("Q", bytes(min(_CHUNK, count) * elem_size))
        for done in range(0, count, _CHUNK):
            here = min(_CHUNK, count - done)
            first = nodes + done * elem_size
            links = array("Q", range(first - elem_size, first + (here + 1) * elem_size, elem_size))
            if not done:
                links[0] = head
            if done + here == count:
                links[here + 1] = head
            block[0 : here * words : words] = links[:here]
            block[1 : here * words : words] = links[2:]
            block[self.o_cpu // 8 : here * words : words] = array("Q", [state]) * here
            # The last element's bytes in front of its node belong to somebody else.
            size = here * elem_size - (elem_size - _NODE_WORDS * 8)
            memory.write(first, memoryview(block).cast("B")[:size])
        memory.put_u64(head, nodes + (count - 1) * elem_size)
        memory.put_u64(head + _PREV, nodes)

    # Within one struct bpf_lru_list.

    def _count(self, memory: Memory, lists: int, kind: int, change: int) -> None:
        if kind < FREE:
            at = lists + self.o_counts + 4 * kind
            memory.put_u32(at, memory.u32(at) + change & 0xFFFF_FFFF)

    def _leave_rotation(self, memory: Memory, lists: int, node: int) -> None:
        """The rotation may not stand on a node that moves away."""
        if memory.u64(lists + self.o_rotation) == node:
            memory.put_u64(lists + self.o_rotation, memory.u64(node + _PREV))

    def _move_to(self, memory: Memory, lists: int, node: int, kind: int) -> None:
        """__bpf_lru_node_move()."""
        old = memory.u8(node + self.o_type)
        if old != kind:
            self._count(memory, lists, old, -1)
            self._count(memory, lists, kind, 1)
            memory.put_u8(node + self.o_type, kind)
        memory.put_u8(node + self.o_ref, 0)
        self._leave_rotation(memory, lists, node)
        _move(memory, node, lists + kind * _HEAD)

    def _move_to_free(self, memory: Memory, lists: int, node: int, local: int) -> None:
        """__bpf_lru_node_move_to_free(): to the stock at ``local``, or to the list's own free nodes."""
        self._leave_rotation(memory, lists, node)
        self._count(memory, lists, memory.u8(node + self.o_type), -1)
        if local:
            _del(memory, node)
            self._stock(memory, local, node)
        else:
            memory.put_u8(node + self.o_type, FREE)
            _move(memory, node, lists + FREE * _HEAD)

    def _rotate(self, memory: Memory, lists: int) -> None:
        """__bpf_lru_list_rotate(): age the active list when it outweighs the inactive one, and then that."""
        counts = lists + self.o_counts
        if memory.u32(counts + 4 * INACTIVE) < memory.u32(counts + 4 * ACTIVE):
            self._rotate_active(memory, lists)
        self._rotate_inactive(memory, lists)

    def _rotate_active(self, memory: Memory, lists: int) -> None:
        head = lists + ACTIVE * _HEAD
        first, node = memory.u64(head), memory.u64(head + _PREV)
        for _ in range(self.nr_scans):
            if node == head:
                return
            before = memory.u64(node + _PREV)
            self._move_to(memory, lists, node, ACTIVE if memory.u8(node + self.o_ref) else INACTIVE)
            if node == first:
                return
            node = before

    def _rotate_inactive(self, memory: Memory, lists: int) -> None:
        head = lists + INACTIVE * _HEAD
        if memory.u64(head) == head:
            return
        current = memory.u64(lists + self.o_rotation)
        last = memory.u64(current)
        if last == head:
            last = memory.u64(last)
        following, looked = head, 0
        while looked < self.nr_scans:
            if current == head:
                current = memory.u64(current + _PREV)
                continue
            following = memory.u64(current + _PREV)
            if memory.u8(current + self.o_ref):
                self._move_to(memory, lists, current, ACTIVE)
            if current == last:
                break
            current = following
            looked += 1
        memory.put_u64(lists + self.o_rotation, following)

    def _shrink(self, services: Services, lists: int, wanted: int, local: int, unlink: Unlink) -> None:
        """__bpf_lru_list_shrink(): free up to ``wanted`` unused nodes, or else any one."""
        memory, freed = services.memory, 0
        head = lists + INACTIVE * _HEAD
        node = memory.u64(head + _PREV)
        for _ in range(self.nr_scans):
            if node == head:
                break
            before = memory.u64(node + _PREV)
            if memory.u8(node + self.o_ref):
                self._move_to(memory, lists, node, ACTIVE)
            elif unlink(services, node):
                self._move_to_free(memory, lists, node, local)
                freed += 1
                if freed == wanted:
                    break
            node = before
        if freed:
            return
        if memory.u64(head) == head:
            head = lists + ACTIVE * _HEAD
        node = memory.u64(head + _PREV)
        while node != head:
            before = memory.u64(node + _PREV)
            if unlink(services, node):
                self._move_to_free(memory, lists, node, local)
                return
            node = before

    # Local lists.

    def _stock(self, memory: Memory, local: int, node: int) -> None:
        memory.put_u8(node + self.o_type, LOCAL_FREE)
        memory.put_u64(node, memory.u64(local + self.o_free))
        memory.put_u64(local + self.o_free, node)

    def _take_stock(self, memory: Memory, local: int) -> int:
        node = memory.u64(local + self.o_free)
        if node:
            memory.put_u64(local + self.o_free, memory.u64(node))
        return node

    def _refill(self, services: Services, local: int, unlink: Unlink) -> None:
        """bpf_lru_list_pop_free_to_local()."""
        memory, lists = services.memory, self.common
        # What the CPU added lately joins the others, oldest first.
        node = memory.u64(local + _PREV)
        while node != local:
            before = memory.u64(node + _PREV)
            kind = ACTIVE if memory.u8(node + self.o_ref) else INACTIVE
            self._count(memory, lists, kind, 1)
            memory.put_u8(node + self.o_type, kind)
            memory.put_u8(node + self.o_ref, 0)
            _move(memory, node, lists + kind * _HEAD)
            node = before
        self._rotate(memory, lists)
        head, taken = lists + FREE * _HEAD, 0
        node = memory.u64(head)
        while node != head and taken < self.target_free:
            following = memory.u64(node)
            self._move_to_free(memory, lists, node, local)
            taken += 1
            node = following
        if taken < self.target_free:
            self._shrink(services, lists, self.target_free - taken, local, unlink)

    def _take_pending(self, services: Services, local: int, unlink: Unlink) -> int:
        """__local_list_pop_pending(): the oldest without a reference, else the oldest."""
        memory = services.memory
        for force in (False, True):
            node = memory.u64(local + _PREV)
            while node != local:
                if (force or not memory.u8(node + self.o_ref)) and unlink(services, node):
                    _del(memory, node)
                    return node
                node = memory.u64(node + _PREV)
        return 0

    # For maps.

    def pop_free(self, services: Services, hash_: int, unlink: Unlink) -> int:
        """bpf_lru_pop_free(): a node for an element with that hash, evicting another if need be.

        0 when there is none to be had.
        """
        cpu = services.cpu.this_cpu
        if self.percpu:
            return self._percpu_pop_free(services, cpu, hash_, unlink)
        memory = services.memory
        local = per_cpu_ptr(services, self.local, cpu)
        node = self._take_stock(memory, local)
        if not node:
            self._refill(services, local, unlink)
            node = self._take_stock(memory, local)
        if not node:
            node = self._steal(services, local, unlink)
        if node:
            memory.put_u32(node + self.hash_offset, hash_)
            memory.put_u16(node + self.o_cpu, cpu)
            memory.put_u8(node + self.o_type, LOCAL_PENDING)
            memory.put_u8(node + self.o_ref, 0)
            _add(memory, node, local)
        return node

    def _steal(self, services: Services, local: int, unlink: Unlink) -> int:
        """From another CPU's local list, the CPUs in turn."""
        memory, node = services.memory, 0
        cpu = memory.u16(local + self.o_steal)
        for _ in range(self.nr_cpus):
            other = per_cpu_ptr(services, self.local, cpu)
            node = self._take_stock(memory, other) or self._take_pending(services, other, unlink)
            cpu = (cpu + 1) % self.nr_cpus
            if node:
                break
        memory.put_u16(local + self.o_steal, cpu)
        return node

    def _percpu_pop_free(self, services: Services, cpu: int, hash_: int, unlink: Unlink) -> int:
        memory = services.memory
        lists = per_cpu_ptr(services, self.percpu, cpu)
        self._rotate(memory, lists)
        head = lists + FREE * _HEAD
        if memory.u64(head) == head:
            self._shrink(services, lists, PERCPU_FREE_TARGET, 0, unlink)
        node = memory.u64(head)
        if node == head:
            return 0
        memory.put_u32(node + self.hash_offset, hash_)
        self._move_to(memory, lists, node, INACTIVE)
        return node

    def push_free(self, services: Services, node: int) -> None:
        """bpf_lru_push_free(): the node's element is out of the table; whichever list has it, it is free."""
        memory = services.memory
        cpu = memory.u16(node + self.o_cpu)
        if self.percpu:
            self._move_to(memory, per_cpu_ptr(services, self.percpu, cpu), node, FREE)
        elif memory.u8(node + self.o_type) == LOCAL_PENDING:
            _del(memory, node)
            memory.put_u8(node + self.o_ref, 0)
            self._stock(memory, per_cpu_ptr(services, self.local, cpu), node)
        else:
            self._move_to(memory, self.common, node, FREE)


_NODE_WORDS: Final = 3
"""sizeof(struct bpf_lru_node) in words."""
