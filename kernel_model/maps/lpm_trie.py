# SPDX-License-Identifier: GPL-2.0-only
"""Longest-prefix-match tries (kernel/bpf/lpm_trie.c).

A key is a prefix length in bits (u32) and ``data_size`` bytes, most significant bit first. A node stands for
a prefix and has a child for either value of the next bit; a node that only parts two others is marked
intermediate and has no value. Programs' lookups are machine code (jit_x86/text/lpm_trie.S).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import ClassVar, Final, NamedTuple

from ..errors import KernelError
from ..ports import Services
from .attr import (
    ACCESS_MASK,
    KMALLOC_MAX_SIZE,
    NO_PREALLOC,
    NUMA_NODE,
    MapAttr,
    access_flags_ok,
    einval,
)
from .base import BPF_EXIST, BPF_NOEXIST, BpfMap
from .memalloc import MemAlloc

_CREATE_FLAGS: Final = NO_PREALLOC | NUMA_NODE | ACCESS_MASK
_DATA_MAX: Final = 256
_PREFIX: Final = 4
"""Bytes of a key before its data."""
_INTERMEDIATE: Final = 1


class _Key(NamedTuple):
    prefixlen: int
    data: bytes

    def bit(self, index: int) -> int:
        """extract_bit()."""
        return self.data[index >> 3] >> (7 - (index & 7)) & 1


class _Node(NamedTuple):
    """A node as read from memory; ``addr`` is 0 for no node."""

    addr: int
    child: tuple[int, int]
    key: _Key
    flags: int


class LpmTrie(BpfMap):
    """BPF_MAP_TYPE_LPM_TRIE."""

    STRUCT: ClassVar[str] = "lpm_trie"
    OPS: ClassVar[str] = "trie_map_ops"
    LINUX_SIZE: ClassVar[int] = 400
    BATCH = frozenset(("lookup", "update", "delete"))

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        """The checks of trie_alloc(): EINVAL."""
        value_max = KMALLOC_MAX_SIZE - _DATA_MAX - services.layout["lpm_trie_node"].size
        if (
            not attr.max_entries
            or not attr.map_flags & NO_PREALLOC
            or attr.map_flags & ~_CREATE_FLAGS
            or not access_flags_ok(attr.map_flags)
            or not _PREFIX + 1 <= attr.key_size <= _PREFIX + _DATA_MAX
            or not 1 <= attr.value_size <= value_max
        ):
            raise einval("a trie needs entries, BPF_F_NO_PREALLOC, keys of 5 to 260 bytes and a value")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        fields, node = services.layout["lpm_trie"], services.layout["lpm_trie_node"]
        self.data_size = self.key_size - _PREFIX
        self.max_prefixlen = 8 * self.data_size
        self._o_root, self._o_entries = fields.offset("root"), fields.offset("n_entries")
        self._o_prefixlen, self._o_flags = node.offset("prefixlen"), node.offset("flags")
        self._o_data, self._node_size = node.offset("data"), node.size
        self.addr = services.alloc.kmalloc(fields.size)
        try:
            self._ma = MemAlloc.create(services, self._node_size + self.data_size + self.value_size)
        except KernelError:
            services.alloc.kfree(self.addr)
            raise
        memory = services.memory
        memory.put_u64(self.addr + fields.offset("ma.cache"), self._ma.cache)
        memory.put_u64(self.addr + fields.offset("max_prefixlen"), self.max_prefixlen)
        memory.put_u64(self.addr + fields.offset("data_size"), self.data_size)

    def free(self, services: Services) -> None:
        for addr in list(self._all(services)):
            self._ma.free(services, addr)
        self._ma.destroy(services)
        services.alloc.kfree(self.addr)
        self.addr = 0

    def memory_usage(self, services: Services) -> int:
        """trie_mem_usage(): the entries alone."""
        entries = services.memory.u64(self.addr + self._o_entries)
        return (self._node_size + self.data_size + self.value_size) * entries

    # Walking.

    def _key(self, raw: bytes) -> _Key:
        return _Key(int.from_bytes(raw[:_PREFIX], "little"), raw[_PREFIX : self.key_size])

    def _node(self, services: Services, addr: int) -> _Node:
        raw = services.memory.read(addr, self._o_data + self.data_size)
        words = memoryview(raw[:16]).cast("Q")
        prefixlen = int.from_bytes(raw[self._o_prefixlen :][:4], "little")
        flags = int.from_bytes(raw[self._o_flags :][:4], "little")
        return _Node(addr, (words[0], words[1]), _Key(prefixlen, raw[self._o_data :]), flags)

    def _match(self, node: _Node, key: _Key) -> int:
        """longest_prefix_match(): how many bits agree, at most the shorter of both prefixes."""
        differ = int.from_bytes(node.key.data, "big") ^ int.from_bytes(key.data, "big")
        return min(self.max_prefixlen - differ.bit_length(), node.key.prefixlen, key.prefixlen)

    def _slot(self, services: Services, key: _Key) -> tuple[int, _Node | None, int, list[tuple[int, _Node]]]:
        """Walk down towards ``key``.

        Gives the slot where the walk ended, the node in it (None when it is empty), how many bits of that
        node match, and the slots and nodes passed on the way.
        """
        slot, matched = self.addr + self._o_root, 0
        passed: list[tuple[int, _Node]] = []
        while addr := services.memory.u64(slot):
            node = self._node(services, addr)
            matched = self._match(node, key)
            if node.key.prefixlen != matched or node.key.prefixlen == key.prefixlen:
                return slot, node, matched, passed
            passed.append((slot, node))
            slot = addr + 8 * key.bit(node.key.prefixlen)
        return slot, None, matched, passed

    def _all(self, services: Services) -> Iterator[int]:
        """Every node, intermediate ones too, parents first."""
        pending = [services.memory.u64(self.addr + self._o_root)]
        while pending:
            addr = pending.pop()
            if addr:
                yield addr
                pending += self._node(services, addr).child

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """trie_lookup_elem(): the value of the longest prefix that covers ``key``; 0 for none."""
        wanted = self._key(key)
        if wanted.prefixlen > self.max_prefixlen:
            return 0
        addr, found = services.memory.u64(self.addr + self._o_root), 0
        while addr:
            node = self._node(services, addr)
            matched = self._match(node, wanted)
            if matched == self.max_prefixlen:
                found = addr
                break
            if matched < node.key.prefixlen:
                break
            if not node.flags & _INTERMEDIATE:
                found = addr
            addr = node.child[wanted.bit(node.key.prefixlen)]
        return found + self._o_data + self.data_size if found else 0

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        """trie_get_next_key(): postorder, so more specific prefixes come before those that cover them."""
        root = services.memory.u64(self.addr + self._o_root)
        if not root:
            raise KernelError(errno.ENOENT)
        wanted = None if key is None else self._key(key)
        if wanted is None or wanted.prefixlen > self.max_prefixlen:
            return self._leftmost(services, root)
        _, node, matched, passed = self._slot(services, wanted)
        if node is None or node.key.prefixlen != matched or node.flags & _INTERMEDIATE:
            return self._leftmost(services, root)
        addr = node.addr
        for _, parent in reversed(passed):
            if parent.child[0] == addr and parent.child[1]:
                return self._leftmost(services, parent.child[1])
            if not parent.flags & _INTERMEDIATE:
                return self._raw(parent.key)
            addr = parent.addr
        raise KernelError(errno.ENOENT)

    def _leftmost(self, services: Services, addr: int) -> bytes:
        found: _Key | None = None
        while addr:
            node = self._node(services, addr)
            if node.flags & _INTERMEDIATE:
                addr = node.child[0]
            else:
                found = node.key
                addr = node.child[0] or node.child[1]
        # An intermediate node has two children, so there is always one with a value below it.
        assert found is not None
        return self._raw(found)

    def _raw(self, key: _Key) -> bytes:
        return key.prefixlen.to_bytes(_PREFIX, "little") + key.data

    # Changing.

    def _new_node(self, services: Services, key: _Key, flags: int, value: bytes = b"") -> int:
        addr = self._ma.alloc(services)
        memory = services.memory
        memory.fill(addr, self._node_size)
        memory.put_u32(addr + self._o_prefixlen, key.prefixlen)
        memory.put_u32(addr + self._o_flags, flags)
        memory.write(addr + self._o_data, key.data + value)
        return addr

    def _check_add(self, services: Services, flags: int) -> None:
        """trie_check_add_elem()."""
        at = self.addr + self._o_entries
        entries = services.memory.u64(at)
        if flags == BPF_EXIST:
            raise KernelError(errno.ENOENT)
        if entries == self.max_entries:
            raise KernelError(errno.ENOSPC, "the trie is full")
        services.memory.put_u64(at, entries + 1)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """trie_update_elem(): EINVAL, ENOSPC for a full trie, EEXIST, ENOENT or ENOMEM."""
        wanted = self._key(key)
        if flags > BPF_EXIST or wanted.prefixlen > self.max_prefixlen:
            raise einval("unknown update flags, or the prefix is longer than the key")
        new = self._new_node(services, wanted, 0, value[: self.value_size])
        try:
            self._insert(services, wanted, new, flags)
        except KernelError:
            self._ma.free(services, new)
            raise

    def _insert(self, services: Services, key: _Key, new: int, flags: int) -> None:
        memory = services.memory
        slot, node, matched, _ = self._slot(services, key)
        if node is None:
            self._check_add(services, flags)
            memory.put_u64(slot, new)
            return
        if node.key.prefixlen == matched:
            if node.flags & _INTERMEDIATE:
                self._check_add(services, flags)
            elif flags == BPF_NOEXIST:
                raise KernelError(errno.EEXIST)
            for side in (0, 1):
                memory.put_u64(new + 8 * side, node.child[side])
            memory.put_u64(slot, new)
            self._ma.free(services, node.addr)
            self._ma.trim(services)
            return
        self._check_add(services, flags)
        if matched == key.prefixlen:
            # The new prefix covers the node.
            memory.put_u64(new + 8 * node.key.bit(matched), node.addr)
            memory.put_u64(slot, new)
            return
        try:
            parting = self._new_node(services, _Key(matched, node.key.data), _INTERMEDIATE)
        except KernelError:
            self._add_entries(services, -1)
            raise
        side = key.bit(matched)
        memory.put_u64(parting + 8 * side, new)
        memory.put_u64(parting + 8 * (1 - side), node.addr)
        memory.put_u64(slot, parting)

    def _add_entries(self, services: Services, change: int) -> None:
        at = self.addr + self._o_entries
        services.memory.put_u64(at, services.memory.u64(at) + change)

    def delete(self, services: Services, key: bytes) -> None:
        """trie_delete_elem(): KernelError(EINVAL) for too long a prefix, ENOENT for none like it."""
        wanted = self._key(key)
        if wanted.prefixlen > self.max_prefixlen:
            raise einval("the prefix is longer than the key")
        slot, node, matched, passed = self._slot(services, wanted)
        if (
            node is None
            or node.key.prefixlen != wanted.prefixlen
            or node.key.prefixlen != matched
            or node.flags & _INTERMEDIATE
        ):
            raise KernelError(errno.ENOENT)
        memory = services.memory
        self._add_entries(services, -1)
        if all(node.child):
            memory.put_u32(node.addr + self._o_flags, node.flags | _INTERMEDIATE)
            return
        above, parent = passed[-1] if passed else (0, None)
        if parent is not None and parent.flags & _INTERMEDIATE and not any(node.child):
            # The parent parted this node from its other child, which takes its place.
            memory.put_u64(above, parent.child[0] if parent.child[1] == node.addr else parent.child[1])
            self._ma.free(services, parent.addr)
        else:
            memory.put_u64(slot, node.child[0] or node.child[1])
        self._ma.free(services, node.addr)
        self._ma.trim(services)
