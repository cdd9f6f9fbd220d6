# SPDX-License-Identifier: GPL-2.0-only
"""A program's own BTF as the verifier asks for it (kernel_model.verifier.api.ProgramBtf)."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ..btf.parse import Btf, BtfError, BtfType, Kind
from ..errors import KernelError

_MODIFIERS = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
_CONTEXTS = ("xdp_md", "__sk_buff", "bpf_user_pt_regs_t", "pt_regs", "bpf_perf_event_data")


class ProgramBtfView:
    """Functions, parameters and source lines by type id and string offset."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def _func(self, type_id: int) -> BtfType:
        try:
            found = self._btf.type(type_id)
        except BtfError as error:
            raise KernelError(errno.EINVAL, str(error)) from None
        if found.kind != Kind.FUNC:
            raise KernelError(errno.EINVAL, f"type {type_id} is no function")
        return found

    def func_name(self, type_id: int) -> str:
        """See ProgramBtf."""
        return self._func(type_id).name

    def func_linkage(self, type_id: int) -> int:
        """See ProgramBtf."""
        return self._func(type_id).linkage

    def func_params(self, type_id: int) -> Sequence[tuple[str, str, int]]:
        """See ProgramBtf."""
        proto = self._btf.type(self._func(type_id).type)
        return [(param.name, *self._kind(param.type)) for param in proto.params]

    def func_returns(self, type_id: int) -> str:
        """See ProgramBtf."""
        proto = self._btf.type(self._func(type_id).type)
        kind, _ = self._kind(proto.type)
        return kind if kind in ("int", "enum", "void") else "other"

    def _strip(self, type_id: int) -> BtfType:
        found = self._btf.type(type_id)
        while found.kind in _MODIFIERS:
            found = self._btf.type(found.type)
        return found

    def _kind(self, type_id: int) -> tuple[str, int]:
        found = self._strip(type_id)
        if found.kind == Kind.VOID:
            return "void", 0
        if found.kind == Kind.INT:
            return "int", found.size
        if found.kind in (Kind.ENUM, Kind.ENUM64):
            return "enum", found.size
        if found.kind != Kind.PTR:
            return "other", found.size
        target = self._strip(found.type)
        if target.kind == Kind.VOID:
            return "ptr:void", 0
        if target.kind == Kind.STRUCT and target.name in _CONTEXTS:
            return "ctx", target.size
        try:
            return "ptr", self._btf.size_of(found.type)
        except BtfError:
            return "other", 0

    def string(self, off: int) -> str:
        """See ProgramBtf."""
        try:
            return self._btf.string(off)
        except BtfError:
            return ""

    def has_string(self, off: int) -> bool:
        """See ProgramBtf."""
        return off < self._btf.strings_end
