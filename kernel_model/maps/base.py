# SPDX-License-Identifier: GPL-2.0-only
"""``struct bpf_map`` and what all map types share.

A BpfMap is the system call's side of a map: plain picklable data that knows where the map's structures
lie in kernel memory. Everything that a program can see or change lies there and nowhere else, so that
machine code and Python may be used in any order. Methods take ``services`` (kernel_model.ports).
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from typing import ClassVar, Final, Self

from ..errors import KernelError
from ..ports import Services
from .attr import CAP_PERFMON, INNER_MAP, RDONLY, WRONLY, Creator, MapAttr, einval
from .ops import ops_address

BPF_ANY: Final = 0
BPF_NOEXIST: Final = 1
BPF_EXIST: Final = 2
BPF_F_LOCK: Final = 4
ENOTSUPP: Final = 524


def per_cpu_ptr(services: Services, ptr: int, cpu: int) -> int:
    """The address of ``cpu``'s copy of the per-CPU pointer ``ptr``."""
    return ptr + services.alloc.per_cpu_offset(cpu) & 0xFFFF_FFFF_FFFF_FFFF


class BpfMap(ABC):
    """A map. ``addr`` is its struct bpf_map in kernel memory; sizes are in bytes.

    ``key_size``, ``value_size``, ``max_entries``, ``map_flags`` and ``map_extra`` are those that the map
    ended up with, which OBJ_GET_INFO shows. ``refcnt`` and ``usercnt`` belong to the kernel's object
    tables. Subclasses name their structure and their ops in ``STRUCT`` and ``OPS``.
    """

    STRUCT: ClassVar[str] = "bpf_map"
    OPS: ClassVar[str]
    LINUX_SIZE: ClassVar[int] = 312
    """sizeof() of the type's own structure in Linux 6.18, which memory accounting shows (ours may be
    smaller); 312 is struct bpf_array's and struct bpf_queue_stack's."""
    META_EQUAL: ClassVar[bool] = True
    """Whether the type has map_meta_equal(), without which a map cannot be in a map of maps."""
    META_EQUAL_ENTRIES: ClassVar[bool] = False
    """Whether maps in one map of maps must have equally many entries."""

    NO_BTF: ClassVar[bool] = False
    """Whether the type refuses BTF (map_check_no_btf())."""
    MMAP: ClassVar[bool] = False
    """Whether the type has map_mmap()."""

    BATCH: ClassVar[frozenset[str]] = frozenset()
    """Which operations on many elements the type has: lookup, lookup and delete, update, delete."""

    def __init__(self, services: Services, attr: MapAttr, name: bytes) -> None:
        self.addr = 0
        self.id = 0
        self.map_type = attr.map_type
        self.key_size = attr.key_size
        self.value_size = attr.value_size
        self.max_entries = attr.max_entries
        # These two belong to the fd, not to the map (bpf_map_flags_retain_permanent()).
        self.map_flags = attr.map_flags & ~(RDONLY | WRONLY)
        self.map_extra = attr.map_extra
        self.numa_node = attr.numa
        self.name = name
        self.frozen = False
        self.bypass_spec_v1 = False
        self.btf_key_type_id = 0
        self.btf_value_type_id = 0
        self.btf_vmlinux_value_type_id = 0
        self.inner_map_meta: InnerMapMeta | None = None
        self.refcnt = 1
        self.usercnt = 1
        self._nr_cpus = services.alloc.nr_cpus

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """map_alloc_check(): KernelError when the attributes are not legal for this type."""
        return

    @classmethod
    def late_check(cls, services: Services, attr: MapAttr) -> None:
        """The checks that map_alloc() itself makes, after those of the creator's rights."""
        return

    @classmethod
    def create(cls, services: Services, attr: MapAttr, creator: Creator, name: bytes) -> Self:
        """map_alloc(): the map with all its memory. KernelError(ENOMEM or E2BIG)."""
        cls.late_check(services, attr)
        made = cls(services, attr, name)
        made.bypass_spec_v1 = creator.bpf_capable(CAP_PERFMON)
        made.alloc(services, attr)
        made.init_struct(services)
        return made

    @abstractmethod
    def alloc(self, services: Services, attr: MapAttr) -> None:
        """Allocate the map's structures and set ``addr``; nothing may be left behind on an error."""

    @abstractmethod
    def free(self, services: Services) -> None:
        """map_free(): give all memory back. What elements refer to must have been put before."""

    def init_struct(self, services: Services) -> None:
        """Fill the struct bpf_map in memory (bpf_map_init_from_attr() and the end of map_create())."""
        memory, fields, at = services.memory, services.layout["bpf_map"], self.addr
        memory.put_u64(at + fields.offset("ops"), ops_address(services, self.OPS))
        for name in (
            "map_type",
            "key_size",
            "value_size",
            "max_entries",
            "map_flags",
            "btf_key_type_id",
            "btf_value_type_id",
            "btf_vmlinux_value_type_id",
        ):
            memory.put_u32(at + fields.offset(name), getattr(self, name))
        memory.put_u32(at + fields.offset("numa_node"), self.numa_node & 0xFFFF_FFFF)
        memory.put_u64(at + fields.offset("map_extra"), self.map_extra)
        memory.write(at + fields.offset("name"), self.name)
        memory.put_u64(at + fields.offset("refcnt"), 1)
        memory.put_u64(at + fields.offset("usercnt"), 1)
        memory.put_u8(at + fields.offset("bypass_spec_v1"), self.bypass_spec_v1)

    def set_id(self, services: Services, map_id: int) -> None:
        """Give the map its number (0 takes it away), here and in kernel memory."""
        self.id = map_id
        services.memory.put_u32(self.addr + services.layout["bpf_map"].offset("id"), map_id)

    def set_btf(self, services: Services, key_type_id: int, value_type_id: int) -> None:
        """Note the BTF type ids of key and value, here and in kernel memory."""
        fields = services.layout["bpf_map"]
        self.btf_key_type_id, self.btf_value_type_id = key_type_id, value_type_id
        services.memory.put_u32(self.addr + fields.offset("btf_key_type_id"), key_type_id)
        services.memory.put_u32(self.addr + fields.offset("btf_value_type_id"), value_type_id)

    def freeze(self, services: Services) -> None:
        """BPF_MAP_FREEZE: no more writes by system calls. KernelError(EBUSY) when it is frozen already."""
        if self.frozen:
            raise KernelError(errno.EBUSY, "the map is frozen already")
        self.frozen = True
        services.memory.put_u8(self.addr + services.layout["bpf_map"].offset("frozen"), 1)

    @property
    def syscall_value_size(self) -> int:
        """bpf_map_value_size(): the bytes of a value in lookups and updates by system call."""
        return self.value_size

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """The value for a system call (``syscall_value_size`` bytes), None when there is none.

        KernelError(EINVAL) for BPF_F_LOCK, since no value modelled has a spin lock, and for other flags;
        map types that cannot be read this way answer with their own errno.
        """
        self._check_lookup_flags(flags)
        at = self.lookup_elem(services, key, services.cpu.this_cpu)
        return services.memory.read(at, self.value_size) if at else None

    @staticmethod
    def _check_lookup_flags(flags: int) -> None:
        if flags & ~BPF_F_LOCK:
            raise einval(f"unknown lookup flags {flags:#x}")
        if flags:
            raise einval("BPF_F_LOCK on a value without a spin lock")

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """map_lookup_elem() as a program on ``cpu`` sees it: the value's address, 0 when there is none."""
        raise KernelError(errno.EOPNOTSUPP, "this map type has no lookup")

    def update(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """BPF_MAP_UPDATE_ELEM with ``syscall_value_size`` bytes. KernelError as Linux answers."""
        if flags & BPF_F_LOCK:
            raise einval("BPF_F_LOCK on a value without a spin lock")
        self.update_elem(services, key, value, flags)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """map_update_elem() as a program on the running CPU calls it, with ``value_size`` bytes."""
        raise KernelError(errno.EOPNOTSUPP, "this map type has no update")

    def delete(self, services: Services, key: bytes) -> None:
        """map_delete_elem(). KernelError(ENOENT) when there is no such key."""
        raise KernelError(errno.EOPNOTSUPP, "this map type has no delete")

    def lookup_and_delete(self, services: Services, key: bytes, flags: int = 0) -> bytes:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM: the value, which is gone afterwards."""
        raise KernelError(ENOTSUPP, "this map type has no lookup-and-delete")

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        """The key after ``key``, the first one for None. KernelError(ENOENT) after the last."""
        raise KernelError(ENOTSUPP, "this map type has no get_next_key")

    def value_addr(self, off: int) -> int:
        """map_direct_value_addr(): where byte ``off`` of a one-element array's value lies."""
        raise KernelError(errno.EINVAL, "this map type has no direct value access")

    def mmap_pages(self, start: int, count: int, writable: bool) -> list[int]:
        """map_mmap(): the kernel addresses of ``count`` pages from page ``start`` on of what is mapped."""
        raise KernelError(ENOTSUPP, "maps of this type cannot be mapped")

    @abstractmethod
    def memory_usage(self, services: Services) -> int:
        """map_mem_usage(): bytes, as fdinfo's memlock shows it."""

    def _percpu_read(self, services: Services, ptr: int, size: int) -> bytes:
        memory = services.memory
        return b"".join(memory.read(per_cpu_ptr(services, ptr, cpu), size) for cpu in range(self._nr_cpus))

    def _percpu_write(self, services: Services, ptr: int, size: int, value: bytes) -> None:
        for cpu in range(self._nr_cpus):
            part = value[cpu * size : (cpu + 1) * size]
            services.memory.write(per_cpu_ptr(services, ptr, cpu), part)


class InnerMapMeta:
    """What a map of maps keeps of its first inner map, plain data (bpf_map_meta_alloc()).

    Every map put in later must equal it (:meth:`equals`); the verifier takes an inner map's sizes from
    here. KernelError(EINVAL) for an inner map of maps, ENOTSUPP for a type that cannot be one.
    """

    def __init__(self, inner: BpfMap | None) -> None:
        if inner is None:
            raise einval("inner_map_fd is not a map")
        if inner.inner_map_meta is not None:
            raise einval("a map of maps cannot hold maps of maps")
        if not inner.META_EQUAL:
            raise KernelError(ENOTSUPP, "maps of this type cannot be in a map of maps")
        self.map_type = inner.map_type
        self.key_size = inner.key_size
        self.value_size = inner.value_size
        self.max_entries = inner.max_entries
        self.map_flags = inner.map_flags
        self.bypass_spec_v1 = inner.bypass_spec_v1
        self.elem_size: int = getattr(inner, "elem_size", 0)
        self.index_mask: int = getattr(inner, "index_mask", 0)
        self._entries_matter = inner.META_EQUAL_ENTRIES and not inner.map_flags & INNER_MAP

    def equals(self, inner: BpfMap) -> bool:
        """map_meta_equal(): may ``inner`` stand where the first inner map stood?"""
        return (
            (self.map_type, self.key_size, self.value_size, self.map_flags)
            == (inner.map_type, inner.key_size, inner.value_size, inner.map_flags)
        ) and (not self._entries_matter or self.max_entries == inner.max_entries)
