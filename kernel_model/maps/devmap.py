# SPDX-License-Identifier: GPL-2.0-only
"""Maps of network devices for XDP redirection (kernel/bpf/devmap.c).

An entry is a ``struct bpf_dtab_netdev``: the device, and the value that programs and user space read (its
ifindex, and the id of a program that runs on egress, which is not modelled). Programs redirect in machine
code (jit_x86/text/redirect.S, nic.S) and may look an entry up, but not change it.
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from typing import ClassVar, Final

from ..errors import KernelError, NotModelled
from ..ports import Services
from .attr import NUMA_NODE, RDONLY, RDONLY_PROG, U32_MAX, WRONLY, MapAttr, einval, roundup_pow_of_two
from .base import BPF_EXIST, BPF_NOEXIST, BpfMap

_CREATE_FLAGS: Final = NUMA_NODE | RDONLY | WRONLY
_VALUE_SIZES: Final = (4, 8)
"""An ifindex, or that and a program."""


class _DtabBase(BpfMap):
    STRUCT: ClassVar[str] = "bpf_dtab"
    LINUX_SIZE: ClassVar[int] = 344
    NO_BTF: ClassVar[bool] = True
    TABLE: ClassVar[str]
    """The member of struct bpf_dtab that points to the table."""

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        """The checks of dev_map_alloc_check() and dev_map_init_map(): EINVAL."""
        if (
            not attr.max_entries
            or attr.key_size != 4
            or attr.value_size not in _VALUE_SIZES
            or attr.map_flags & ~_CREATE_FLAGS
        ):
            raise einval("a map of devices needs entries, 4-byte keys and values of 4 or 8 bytes")

    def _slots(self) -> int:
        """How many words the table has."""
        return self.max_entries

    def alloc(self, services: Services, attr: MapAttr) -> None:
        # Lookups give the entry itself, which programs must not change.
        self.map_flags |= RDONLY_PROG
        fields, entry = services.layout["bpf_dtab"], services.layout["bpf_dtab_netdev"]
        self._o_items = fields.offset("items")
        self._entry_size = entry.size
        self._o_dev, self._o_idx, self._o_val = entry.offset("dev"), entry.offset("idx"), entry.offset("val")
        self.addr = services.alloc.kmalloc(fields.size)
        try:
            self._table = services.alloc.kmalloc(self._slots() * 8)
        except KernelError:
            services.alloc.kfree(self.addr)
            raise
        services.memory.put_u64(self.addr + fields.offset(self.TABLE), self._table)

    def free(self, services: Services) -> None:
        for entry in self._entries(services):
            services.alloc.kfree(entry)
        services.alloc.kfree(self._table)
        services.alloc.kfree(self.addr)
        self.addr = self._table = 0

    def _entries(self, services: Services) -> list[int]:
        """All entries, in the order of broadcasts."""
        raw = services.memory.read(self._table, self._slots() * 8)
        return [word for word in memoryview(raw).cast("Q") if word]

    def memory_usage(self, services: Services) -> int:
        """dev_map_mem_usage()."""
        items = services.memory.u32(self.addr + self._o_items)
        return self.LINUX_SIZE + 8 * self._slots() + self._entry_size * items

    def _add_items(self, services: Services, change: int) -> None:
        at = self.addr + self._o_items
        services.memory.put_u32(at, services.memory.u32(at) + change & U32_MAX)

    def _new_entry(self, services: Services, key: int, value: bytes) -> int:
        """__dev_map_alloc_node(): KernelError(EINVAL) when there is no such device."""
        ifindex, prog_fd = (
            int.from_bytes(value[:4], "little"),
            int.from_bytes(value[4:8], "little", signed=True),
        )
        dev = services.netdev(ifindex)
        if not dev:
            raise einval(f"no device has index {ifindex}")
        if prog_fd > 0:
            raise NotModelled("XDP program of a devmap entry", errno.EINVAL)
        entry = services.alloc.kmalloc(self._entry_size)
        services.memory.put_u64(entry + self._o_dev, dev)
        services.memory.put_u32(entry + self._o_idx, key)
        services.memory.put_u32(entry + self._o_val, ifindex)
        return entry

    @abstractmethod
    def _find(self, services: Services, key: int) -> int:
        """The address of the entry with that key, 0 for none."""

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """The value within the entry, 0 for none."""
        entry = self._find(services, int.from_bytes(key, "little"))
        return entry + self._o_val if entry else 0


class DevMap(_DtabBase):
    """BPF_MAP_TYPE_DEVMAP: an array of devices."""

    OPS = "dev_map_ops"
    TABLE = "netdev_map"

    def _find(self, services: Services, key: int) -> int:
        return services.memory.u64(self._table + 8 * key) if key < self.max_entries else 0

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """dev_map_update_elem(): ifindex 0 empties the slot. KernelError(EINVAL, E2BIG, EEXIST)."""
        index = int.from_bytes(key, "little")
        if flags > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        if index >= self.max_entries:
            raise KernelError(errno.E2BIG, "index out of range")
        if flags == BPF_NOEXIST:
            raise KernelError(errno.EEXIST)
        entry = 0
        if int.from_bytes(value[:4], "little"):
            entry = self._new_entry(services, index, value)
        elif int.from_bytes(value[4:8], "little", signed=True) > 0:
            raise einval("a program without a device")
        self._replace(services, index, entry)

    def _replace(self, services: Services, index: int, entry: int) -> None:
        old = self._find(services, index)
        services.memory.put_u64(self._table + 8 * index, entry)
        self._add_items(services, bool(entry) - bool(old))
        # Programs cannot get here, so none holds the old entry.
        services.alloc.kfree(old)

    def delete(self, services: Services, key: bytes) -> None:
        """dev_map_delete_elem(): KernelError(EINVAL) outside; an empty slot stays empty."""
        index = int.from_bytes(key, "little")
        if index >= self.max_entries:
            raise einval("index out of range")
        self._replace(services, index, 0)

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        index = U32_MAX if key is None else int.from_bytes(key, "little")
        if index >= self.max_entries:
            return bytes(4)
        if index == self.max_entries - 1:
            raise KernelError(errno.ENOENT)
        return (index + 1).to_bytes(4, "little")


class DevMapHash(_DtabBase):
    """BPF_MAP_TYPE_DEVMAP_HASH: devices by any number; buckets are chained by ``index_hlist``."""

    OPS = "dev_map_hash_ops"
    TABLE = "dev_index_head"

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        super().late_check(services, attr)
        if attr.max_entries > 1 << 31:
            raise einval("more than 2**31 entries")

    def _slots(self) -> int:
        return roundup_pow_of_two(self.max_entries)

    def alloc(self, services: Services, attr: MapAttr) -> None:
        self._o_link = services.layout["bpf_dtab_netdev"].offset("index_hlist")
        super().alloc(services, attr)
        at = self.addr + services.layout["bpf_dtab"].offset("n_buckets")
        services.memory.put_u32(at, self._slots())

    def _head(self, key: int) -> int:
        return self._table + 8 * (key & self._slots() - 1)

    def _chain(self, services: Services, head: int) -> list[int]:
        found, node = [], services.memory.u64(head)
        while node:
            found.append(node - self._o_link)
            node = services.memory.u64(node)
        return found

    def _entries(self, services: Services) -> list[int]:
        heads = range(self._table, self._table + 8 * self._slots(), 8)
        return [entry for head in heads for entry in self._chain(services, head)]

    def _key_of(self, services: Services, entry: int) -> int:
        return services.memory.u32(entry + self._o_idx)

    def _find(self, services: Services, key: int) -> int:
        for entry in self._chain(services, self._head(key)):
            if self._key_of(services, entry) == key:
                return entry
        return 0

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """dev_map_hash_update_elem(): KernelError(EINVAL, EEXIST), E2BIG for a full map."""
        index = int.from_bytes(key, "little")
        if flags > BPF_EXIST or not int.from_bytes(value[:4], "little"):
            raise einval("unknown update flags, or no device")
        old = self._find(services, index)
        if old and flags & BPF_NOEXIST:
            raise KernelError(errno.EEXIST)
        entry = self._new_entry(services, index, value)
        if old:
            self._unlink(services, old)
        elif services.memory.u32(self.addr + self._o_items) >= self.max_entries:
            services.alloc.kfree(entry)
            raise KernelError(errno.E2BIG, "the map is full")
        self._link(services, self._head(index), entry + self._o_link)

    def _link(self, services: Services, head: int, node: int) -> None:
        memory = services.memory
        first = memory.u64(head)
        memory.put_u64(node, first)
        memory.put_u64(node + 8, head)
        memory.put_u64(head, node)
        if first:
            memory.put_u64(first + 8, node)
        self._add_items(services, 1)

    def _unlink(self, services: Services, entry: int) -> None:
        memory, node = services.memory, entry + self._o_link
        following, before = memory.u64(node), memory.u64(node + 8)
        memory.put_u64(before, following)
        if following:
            memory.put_u64(following + 8, before)
        self._add_items(services, -1)
        services.alloc.kfree(entry)

    def delete(self, services: Services, key: bytes) -> None:
        """dev_map_hash_delete_elem()."""
        entry = self._find(services, int.from_bytes(key, "little"))
        if not entry:
            raise KernelError(errno.ENOENT)
        self._unlink(services, entry)

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        """dev_map_hash_get_next_key(): along the chain, then by bucket; from the start for an unknown key."""
        entries = self._entries(services)
        at = 0
        if key is not None:
            known = self._find(services, int.from_bytes(key, "little"))
            at = entries.index(known) + 1 if known else 0
        if at >= len(entries):
            raise KernelError(errno.ENOENT)
        return self._key_of(services, entries[at]).to_bytes(4, "little")
