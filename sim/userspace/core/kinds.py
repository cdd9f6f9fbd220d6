# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of CO-RE relocations (enum bpf_core_relo_kind of Linux's uapi)."""

from __future__ import annotations

from enum import IntEnum


class CoreKind(IntEnum):
    """What a relocation asks for; the names are those that libbpf prints."""

    byte_off = 0
    byte_sz = 1
    field_exists = 2
    signed = 3
    lshift_u64 = 4
    rshift_u64 = 5
    local_type_id = 6
    target_type_id = 7
    type_exists = 8
    type_size = 9
    enumval_exists = 10
    enumval_value = 11
    type_matches = 12

    @property
    def of_field(self) -> bool:
        """About a field of a structure."""
        return self <= CoreKind.rshift_u64

    @property
    def of_type(self) -> bool:
        """About a type as a whole."""
        return CoreKind.local_type_id <= self <= CoreKind.type_size or self is CoreKind.type_matches

    @property
    def of_enum(self) -> bool:
        """About an enumerator."""
        return self in (CoreKind.enumval_exists, CoreKind.enumval_value)
