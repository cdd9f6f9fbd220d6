# SPDX-License-Identifier: GPL-2.0-only
"""What BPF_MAP_CREATE asks for, and who asks: the checks that every map type shares."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import KernelError
from ..uapi.enums import MapFlags

if TYPE_CHECKING:
    from .base import BpfMap

KMALLOC_MAX_SIZE: Final = 1 << 22
"""The largest kmalloc of x86-64 with 4 KiB pages: MAX_PAGE_ORDER 10 (include/linux/slab.h)."""

PCPU_MIN_UNIT_SIZE: Final = 32 << 10
"""The largest per-CPU value (include/linux/percpu.h)."""

MAX_BPF_STACK: Final = 512
U32_MAX: Final = 0xFFFF_FFFF
INT_MAX: Final = 0x7FFF_FFFF
PAGE_SIZE: Final = 4096
NUMA_NO_NODE: Final = -1

CAP_NET_ADMIN: Final = 12
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39

# Plain integers: an IntFlag operation costs a microsecond.
NO_PREALLOC: Final = int(MapFlags.BPF_F_NO_PREALLOC)
NO_COMMON_LRU: Final = int(MapFlags.BPF_F_NO_COMMON_LRU)
NUMA_NODE: Final = int(MapFlags.BPF_F_NUMA_NODE)
RDONLY: Final = int(MapFlags.BPF_F_RDONLY)
WRONLY: Final = int(MapFlags.BPF_F_WRONLY)
STACK_BUILD_ID: Final = int(MapFlags.BPF_F_STACK_BUILD_ID)
ZERO_SEED: Final = int(MapFlags.BPF_F_ZERO_SEED)
RDONLY_PROG: Final = int(MapFlags.BPF_F_RDONLY_PROG)
WRONLY_PROG: Final = int(MapFlags.BPF_F_WRONLY_PROG)
MMAPABLE: Final = int(MapFlags.BPF_F_MMAPABLE)
PRESERVE_ELEMS: Final = int(MapFlags.BPF_F_PRESERVE_ELEMS)
INNER_MAP: Final = int(MapFlags.BPF_F_INNER_MAP)
TOKEN_FD: Final = int(MapFlags.BPF_F_TOKEN_FD)

ACCESS_MASK: Final = RDONLY | WRONLY | RDONLY_PROG | WRONLY_PROG


class _Fields(Protocol):
    """An unpacked record: ``uapi.bpf_attr.Values``."""

    def __getitem__(self, name: str) -> int: ...
    def blob(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class MapAttr:
    """The fields of ``union bpf_attr`` that BPF_MAP_CREATE reads, as user space gave them.

    ``inner`` is the map behind ``inner_map_fd``, which the system call looks up (None when the fd is
    not one of a map).
    """

    map_type: int
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    map_flags: int = 0
    inner_map_fd: int = 0
    numa_node: int = 0
    map_name: bytes = b""
    map_ifindex: int = 0
    btf_fd: int = 0
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    btf_vmlinux_value_type_id: int = 0
    map_extra: int = 0
    inner: BpfMap | None = field(default=None, compare=False)

    @classmethod
    def from_values(cls, values: _Fields, inner: BpfMap | None = None) -> MapAttr:
        """Take the fields out of an unpacked ``MAP_CREATE`` record."""
        numbers: Mapping[str, int] = {name: values[name] for name in _NUMBERS}
        return cls(**numbers, map_name=values.blob("map_name"), inner=inner)

    @property
    def numa(self) -> int:
        """The NUMA node asked for, NUMA_NO_NODE (-1) without BPF_F_NUMA_NODE."""
        if not self.map_flags & NUMA_NODE:
            return NUMA_NO_NODE
        return self.numa_node - (1 << 32) if self.numa_node >= 1 << 31 else self.numa_node


_NUMBERS: Final = (
    "map_type",
    "key_size",
    "value_size",
    "max_entries",
    "map_flags",
    "inner_map_fd",
    "numa_node",
    "map_ifindex",
    "btf_fd",
    "btf_key_type_id",
    "btf_value_type_id",
    "btf_vmlinux_value_type_id",
    "map_extra",
)


@dataclass(frozen=True)
class Creator:
    """The rights of the task that creates a map: its effective capabilities (None: all of them).

    ``unprivileged_bpf_disabled`` is the sysctl kernel.unprivileged_bpf_disabled.
    """

    caps: frozenset[int] | None = None
    unprivileged_bpf_disabled: int = 0

    def capable(self, cap: int) -> bool:
        """capable(): exactly this capability."""
        return self.caps is None or cap in self.caps

    def bpf_capable(self, cap: int) -> bool:
        """bpf_token_capable(): this capability or CAP_SYS_ADMIN."""
        return self.capable(cap) or self.capable(CAP_SYS_ADMIN)


ROOT: Final = Creator()


def einval(reason: str) -> KernelError:
    """KernelError(EINVAL) with a reason for people."""
    return KernelError(errno.EINVAL, reason)


def access_flags_ok(flags: int) -> bool:
    """bpf_map_flags_access_ok(): a program may not be kept from both reading and writing."""
    return flags & (RDONLY_PROG | WRONLY_PROG) != RDONLY_PROG | WRONLY_PROG


def check_common(attr: MapAttr) -> None:
    """The checks of map_create() before the map type's own, in Linux's order. KernelError(EINVAL)."""
    if attr.btf_vmlinux_value_type_id:
        if attr.map_type != 26 or attr.btf_key_type_id or attr.btf_value_type_id:
            raise einval("btf_vmlinux_value_type_id is for struct_ops maps alone")
    elif attr.btf_key_type_id and not attr.btf_value_type_id:
        raise einval("btf_key_type_id without btf_value_type_id")
    if attr.map_extra and attr.map_type not in (30, 33):
        raise einval("map_extra is for bloom filters and arenas alone")
    if attr.map_flags & RDONLY and attr.map_flags & WRONLY:
        raise einval("BPF_F_RDONLY with BPF_F_WRONLY")
    if attr.numa not in (NUMA_NO_NODE, 0):
        raise einval(f"there is no NUMA node {attr.numa}")


# The kernel's isalnum() (lib/ctype.c) knows the letters of Latin-1 too.
_NAME_BYTES: Final = frozenset(
    each
    for each in range(256)
    if (each < 128 and chr(each).isalnum()) or each in b"_." or (each >= 0xC0 and each not in (0xD7, 0xF7))
)


def check_name(name: bytes) -> bytes:
    """bpf_obj_name_cpy(): letters, digits, ``_`` and ``.``, ended within 16 bytes. The name without NULs."""
    text, nul, _ = name[:16].partition(b"\0")
    if not _NAME_BYTES.issuperset(text):
        raise einval("name has a character other than letters, digits, '_' and '.'")
    if not nul and len(text) == 16:
        raise einval("name is not ended within 16 bytes")
    return text


def round_up(value: int, unit: int) -> int:
    """The next multiple of ``unit`` at or above ``value``."""
    return -(-value // unit) * unit


def roundup_pow_of_two(value: int) -> int:
    """The smallest power of two that is not below ``value`` (at least 1)."""
    return 1 << max(value - 1, 0).bit_length()
