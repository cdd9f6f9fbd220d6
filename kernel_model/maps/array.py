# SPDX-License-Identifier: GPL-2.0-only
"""Arrays, per-CPU arrays and arrays of file descriptors (kernel/bpf/arraymap.c).

All are a ``struct bpf_array``: behind the header lie values of ``elem_size`` bytes, or pointers to
per-CPU areas, or pointers to programs and other objects.
"""

from __future__ import annotations

import errno
from array import array
from typing import ClassVar, Final

from ..errors import KernelError
from ..ports import Services
from .attr import (
    ACCESS_MASK,
    INNER_MAP,
    INT_MAX,
    MMAPABLE,
    NUMA_NO_NODE,
    NUMA_NODE,
    PAGE_SIZE,
    PCPU_MIN_UNIT_SIZE,
    PRESERVE_ELEMS,
    RDONLY_PROG,
    U32_MAX,
    WRONLY_PROG,
    Creator,
    MapAttr,
    access_flags_ok,
    einval,
    round_up,
    roundup_pow_of_two,
)
from .base import BPF_ANY, BPF_EXIST, BPF_F_LOCK, BPF_NOEXIST, ENOTSUPP, BpfMap, per_cpu_ptr

_CREATE_FLAGS: Final = NUMA_NODE | MMAPABLE | ACCESS_MASK | PRESERVE_ELEMS | INNER_MAP
_TYPE_ARRAY: Final = 2
_TYPE_PERF_EVENT_ARRAY: Final = 4


class ArrayBase(BpfMap):
    """What every array has: ``elem_size`` (the value's size rounded up to 8) and ``index_mask``."""

    STRUCT: ClassVar[str] = "bpf_array"
    PERCPU: ClassVar[bool] = False

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """array_map_alloc_check(): EINVAL or E2BIG."""
        if (
            not attr.max_entries
            or attr.key_size != 4
            or not attr.value_size
            or attr.map_flags & ~_CREATE_FLAGS
            or not access_flags_ok(attr.map_flags)
            or (cls.PERCPU and attr.numa != NUMA_NO_NODE)
        ):
            raise einval("an array needs entries, 4-byte keys, a value size and flags for arrays")
        if attr.map_type != _TYPE_ARRAY and attr.map_flags & (MMAPABLE | INNER_MAP):
            raise einval("BPF_F_MMAPABLE and BPF_F_INNER_MAP are for plain arrays")
        if attr.map_type != _TYPE_PERF_EVENT_ARRAY and attr.map_flags & PRESERVE_ELEMS:
            raise einval("BPF_F_PRESERVE_ELEMS is for perf event arrays")
        if attr.value_size > INT_MAX:
            raise KernelError(errno.E2BIG, "the value is larger than 2 GiB")
        if cls.PERCPU and round_up(attr.value_size, 8) > PCPU_MIN_UNIT_SIZE:
            raise KernelError(errno.E2BIG, "a per-CPU value is at most 32 KiB")

    def alloc(self, services: Services, attr: MapAttr) -> None:
        fields = services.layout["bpf_array"]
        self.elem_size = round_up(self.value_size, 8)
        self.index_mask = roundup_pow_of_two(self.max_entries) - 1
        self._data = fields.offset("value")
        entries = self.max_entries
        if not self.bypass_spec_v1:
            entries = self.index_mask + 1
            if entries > U32_MAX:
                raise KernelError(errno.E2BIG, "entries rounded up to a power of two overflow")
        stride = 8 if self.PERCPU else self.elem_size
        self._entries = entries
        self._base = 0
        if attr.map_flags & MMAPABLE:
            # The values begin on a page of their own, the header ends right before it.
            head = round_up(fields.size, PAGE_SIZE)
            self._base = services.alloc.kmalloc(head + round_up(entries * stride, PAGE_SIZE), PAGE_SIZE)
            self.addr = self._base + head - self._data
        else:
            self.addr = self._base = services.alloc.kmalloc(fields.size + entries * stride)
        services.memory.put_u32(self.addr + fields.offset("elem_size"), self.elem_size)
        services.memory.put_u32(self.addr + fields.offset("index_mask"), self.index_mask)

    def free(self, services: Services) -> None:
        services.alloc.kfree(self._base)
        self.addr = self._base = 0

    def _slot(self, key: bytes) -> int:
        """The address of the element ``key`` (4 bytes), 0 when the index is out of range."""
        index = int.from_bytes(key[:4], "little")
        if index >= self.max_entries:
            return 0
        return self.addr + self._data + (8 if self.PERCPU else self.elem_size) * (index & self.index_mask)

    def get_next_key(self, services: Services, key: bytes | None) -> bytes:
        index = U32_MAX if key is None else int.from_bytes(key[:4], "little")
        if index >= self.max_entries:
            return bytes(4)
        if index == self.max_entries - 1:
            raise KernelError(errno.ENOENT)
        return (index + 1).to_bytes(4, "little")

    def delete(self, services: Services, key: bytes) -> None:
        raise einval("an array's elements cannot be deleted")

    def memory_usage(self, services: Services) -> int:
        if self.PERCPU:
            return self.LINUX_SIZE + self.max_entries * (8 + self.elem_size * self._nr_cpus)
        if self.map_flags & MMAPABLE:
            return round_up(self.LINUX_SIZE, PAGE_SIZE) + round_up(
                self.max_entries * self.elem_size, PAGE_SIZE
            )
        return self.LINUX_SIZE + self.max_entries * self.elem_size

    def _check_update(self, key: bytes, flags: int) -> int:
        if flags & ~BPF_F_LOCK > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        slot = self._slot(key)
        if not slot:
            raise KernelError(errno.E2BIG, "index out of range")
        if flags & BPF_NOEXIST:
            raise KernelError(errno.EEXIST)
        if flags & BPF_F_LOCK:
            raise einval("BPF_F_LOCK on a value without a spin lock")
        return slot


class ArrayMap(ArrayBase):
    """BPF_MAP_TYPE_ARRAY: zeroed values in a row; BPF_F_MMAPABLE puts them on pages of their own."""

    OPS = "array_map_ops"
    BATCH = frozenset(("lookup", "update"))
    META_EQUAL_ENTRIES = True
    MMAP = True

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        return self._slot(key)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        services.memory.write(self._check_update(key, flags), value[: self.value_size])

    def value_addr(self, off: int) -> int:
        """KernelError(ENOTSUPP) for an array of several elements, EINVAL beyond the value."""
        if self.max_entries != 1:
            raise KernelError(ENOTSUPP, "direct value access needs an array of one element")
        if off >= self.value_size:
            raise einval("offset beyond the value")
        return self.addr + self._data + off

    def mmap_pages(self, start: int, count: int, writable: bool) -> list[int]:
        """array_map_mmap(): KernelError(EINVAL) without BPF_F_MMAPABLE, or beyond the values' pages."""
        first = self.addr + self._data
        size = round_up(self.max_entries * self.elem_size, PAGE_SIZE)
        if not self.map_flags & MMAPABLE or (start + count) * PAGE_SIZE > size:
            raise einval("no such pages can be mapped")
        return [first + PAGE_SIZE * page for page in range(start, start + count)]


class PercpuArrayMap(ArrayBase):
    """BPF_MAP_TYPE_PERCPU_ARRAY: one value for each CPU behind each per-CPU pointer."""

    OPS = "percpu_array_map_ops"
    BATCH = frozenset(("lookup", "update"))
    PERCPU = True

    def alloc(self, services: Services, attr: MapAttr) -> None:
        super().alloc(services, attr)
        # One per-CPU allocation for all elements; Linux makes one for each, at a multiple of 8 as well.
        try:
            self._percpu = services.alloc.alloc_percpu(self.max_entries * self.elem_size)
        except KernelError:
            super().free(services)
            raise
        end = self._percpu + self.max_entries * self.elem_size
        pointers = array("Q", range(self._percpu, end, self.elem_size))
        services.memory.write(self.addr + self._data, pointers.tobytes())

    def free(self, services: Services) -> None:
        services.alloc.free_percpu(self._percpu)
        super().free(services)

    @property
    def syscall_value_size(self) -> int:
        return self.elem_size * self._nr_cpus

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        """percpu_array_map_lookup_elem() on ``cpu``; 0 too for a CPU that does not exist."""
        slot = self._slot(key)
        if not slot or cpu >= self._nr_cpus:
            return 0
        return per_cpu_ptr(services, services.memory.u64(slot), cpu)

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """bpf_percpu_array_copy(): every CPU's value, rounded up to 8 bytes each."""
        self._check_lookup_flags(flags)
        slot = self._slot(key)
        return self._percpu_read(services, services.memory.u64(slot), self.elem_size) if slot else None

    def update(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """bpf_percpu_array_update(): the values of all CPUs at once."""
        if flags > BPF_EXIST:
            raise einval(f"unknown update flags {flags:#x}")
        slot = self._check_update(key, flags)
        self._percpu_write(services, services.memory.u64(slot), self.elem_size, value)

    def update_elem(self, services: Services, key: bytes, value: bytes, flags: int) -> None:
        """array_map_update_elem() on a per-CPU array: the running CPU's value alone."""
        slot = self._check_update(key, flags)
        at = per_cpu_ptr(services, services.memory.u64(slot), services.cpu.this_cpu)
        services.memory.write(at, value[: self.value_size])


class FdArrayMap(ArrayBase):
    """Arrays whose elements point to kernel objects that user space names by fd.

    The system call resolves the fd and calls :meth:`update_ptr`; what was there before is returned, for
    the caller to put. Programs neither look up nor update here.
    """

    @classmethod
    def alloc_check(cls, services: Services, attr: MapAttr, creator: Creator) -> None:
        """fd_array_map_alloc_check(): EINVAL unless values are 4 bytes, without program access flags."""
        if attr.value_size != 4:
            raise einval("values of this map type are file descriptors of 4 bytes")
        if attr.map_flags & (RDONLY_PROG | WRONLY_PROG):
            raise einval("BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG do not suit this map type")
        super().alloc_check(services, attr, creator)

    def lookup_elem(self, services: Services, key: bytes, cpu: int) -> int:
        return -errno.EOPNOTSUPP & 0xFFFF_FFFF_FFFF_FFFF

    def lookup_ptr(self, services: Services, key: bytes) -> int:
        """The object at ``key``; 0 when the slot is empty or out of range."""
        slot = self._slot(key)
        return services.memory.u64(slot) if slot else 0

    def check_update_ptr(self, key: bytes, flags: int) -> None:
        """The checks that bpf_fd_array_map_update_elem() makes before it looks at the fd."""
        if flags != BPF_ANY:
            raise einval("only BPF_ANY suits this map type")
        if not self._slot(key):
            raise KernelError(errno.E2BIG, "index out of range")

    def update_ptr(self, services: Services, key: bytes, ptr: int) -> int:
        """Store ``ptr`` (an object that the caller holds) and return what was there, 0 for nothing."""
        slot = self._slot(key)
        if not slot:
            raise KernelError(errno.E2BIG, "index out of range")
        old = services.memory.u64(slot)
        services.memory.put_u64(slot, ptr)
        return old

    def delete_ptr(self, services: Services, key: bytes) -> int:
        """Empty the slot and return what was there. KernelError(ENOENT) when it was empty, E2BIG outside."""
        old = self.update_ptr(services, key, 0)
        if not old:
            raise KernelError(errno.ENOENT)
        return old

    def delete(self, services: Services, key: bytes) -> None:
        """As :meth:`delete_ptr`; the caller must have kept what lay there (see :meth:`lookup_ptr`)."""
        self.delete_ptr(services, key)

    def pointers(self, services: Services) -> dict[int, int]:
        """Every slot that is not empty: index to object."""
        raw = services.memory.read(self.addr + self._data, self.max_entries * 8)
        return {i: ptr for i, ptr in enumerate(memoryview(raw).cast("Q")) if ptr}

    def clear(self, services: Services) -> dict[int, int]:
        """bpf_fd_array_map_clear(): empty every slot; what lay there, for the caller to put."""
        held = self.pointers(services)
        services.memory.fill(self.addr + self._data, self.max_entries * 8)
        return held


class ProgArrayMap(FdArrayMap):
    """BPF_MAP_TYPE_PROG_ARRAY: the targets of tail calls, as addresses of struct bpf_prog."""

    OPS = "prog_array_map_ops"
    META_EQUAL = False

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        """The id of the program in the slot, 4 bytes (bpf_fd_array_map_lookup_elem())."""
        self._check_lookup_flags(flags)
        prog = self.lookup_ptr(services, key)
        if not prog:
            return None
        memory, layout = services.memory, services.layout
        aux = memory.u64(prog + layout["bpf_prog"].offset("aux"))
        return memory.read(aux + layout["bpf_prog_aux"].offset("id"), 4)


class PerfEventArrayMap(FdArrayMap):
    """BPF_MAP_TYPE_PERF_EVENT_ARRAY: slots for perf events, one a CPU; not readable by system call."""

    OPS = "perf_event_array_map_ops"

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        self._check_lookup_flags(flags)
        raise KernelError(ENOTSUPP, "perf event arrays cannot be read")


class CgroupArrayMap(FdArrayMap):
    """BPF_MAP_TYPE_CGROUP_ARRAY: slots for cgroups, of which there are none yet, so they stay empty."""

    OPS = "cgroup_array_map_ops"

    def lookup(self, services: Services, key: bytes, flags: int = 0) -> bytes | None:
        self._check_lookup_flags(flags)
        raise KernelError(ENOTSUPP, "cgroup arrays cannot be read")
