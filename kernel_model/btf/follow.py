# SPDX-License-Identifier: GPL-2.0-only
"""Layouts of the simulated kernel's own structures, taken from the BTF of a real kernel.

Structures that programs reach through rewritten context accesses or through pointers have the real kernel's
size and offsets then, in memory and in code alike. One whose members the BTF lacks, or has in other sizes,
stays as it is; so do structures that only the simulated kernel itself looks into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final

from .layout import Layout, Member, Struct, kernel_layout, kernel_types, parse_types
from .parse import Btf, BtfError, Kind
from .vmlinux import parse_kernel_btf

FOLLOWED: Final = frozenset(
    (
        "xdp_buff", "xdp_rxq_info", "xdp_txq_info", "xdp_frame", "sk_buff", "net_device", "net_device_ops",
        "task_struct",
    )
)  # fmt: skip
"""The structures that take the real kernel's layout."""


def _members(btf: Btf, number: int, base: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset in bits, type and size in bits (0: no bit-field) of each, anonymous ones opened."""
    for member in btf.resolve(number).members:
        at = base + member.bit_offset
        if member.name:
            yield member.name, at, member.type, member.bit_size
        else:
            yield from _members(btf, member.type, at)


def _moved(btf: Btf, member: Member, at: int, type_id: int, bits: int) -> Member | None:
    """The member at its real place; None when it is of another size there."""
    if bits != member.bit_size:
        return None
    if bits:
        unit = member.size * 8
        start = at // unit * unit
        return replace(member, offset=start // 8, bit_offset=at - start)
    if btf.size_of(type_id) not in (member.size, 0):  # 0: a flexible array
        return None
    return replace(member, offset=at // 8)


def _follow(btf: Btf, struct: Struct) -> Struct:
    number = btf.find(struct.name, Kind.STRUCT) if struct.name in FOLLOWED else 0
    if not number:
        return struct
    real = {name: (at, type_id, bits) for name, at, type_id, bits in _members(btf, number)}
    members = {}
    for name, member in struct.members.items():
        try:
            moved = _moved(btf, member, *real[name]) if name in real else None
        except BtfError:
            moved = None
        if moved is None:
            return struct
        members[name] = moved
    size = btf.type(number).size
    return Struct(struct.name, size, max(struct.align, 8), members, struct.nested)


@lru_cache(maxsize=4)
def layout_of(btf: bytes | None) -> Layout:
    """The layout of a kernel that shows this BTF; None: the simulated kernel's own."""
    if btf is None:
        return kernel_layout()
    parsed = parse_kernel_btf(btf)
    return parse_types(kernel_types(), lambda struct: _follow(parsed, struct))
