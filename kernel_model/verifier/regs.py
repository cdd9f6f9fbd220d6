# SPDX-License-Identifier: GPL-2.0-only
"""What a register or a spilled slot holds: its type (enum bpf_reg_type with flags) and its details.

A :class:`Reg` is never changed once made, so states share them freely; a change makes a new one.
Numbers of types are internal to the verifier (they are in Linux too); the flag bits likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import bounds as bd
from .bounds import Bounds

if TYPE_CHECKING:
    from .api import MapView

NOT_INIT: Final = 0
SCALAR_VALUE: Final = 1
PTR_TO_CTX: Final = 2
CONST_PTR_TO_MAP: Final = 3
PTR_TO_MAP_VALUE: Final = 4
PTR_TO_MAP_KEY: Final = 5
PTR_TO_STACK: Final = 6
PTR_TO_PACKET_META: Final = 7
PTR_TO_PACKET: Final = 8
PTR_TO_PACKET_END: Final = 9
PTR_TO_FLOW_KEYS: Final = 10
PTR_TO_SOCKET: Final = 11
PTR_TO_SOCK_COMMON: Final = 12
PTR_TO_TCP_SOCK: Final = 13
PTR_TO_TP_BUFFER: Final = 14
PTR_TO_XDP_SOCK: Final = 15
PTR_TO_BTF_ID: Final = 16
PTR_TO_MEM: Final = 17
PTR_TO_ARENA: Final = 18
PTR_TO_BUF: Final = 19
PTR_TO_FUNC: Final = 20
CONST_PTR_TO_DYNPTR: Final = 21

BASE_MASK: Final = 0xFF
PTR_MAYBE_NULL: Final = 1 << 8
MEM_RDONLY: Final = 1 << 9
MEM_RINGBUF: Final = 1 << 10
MEM_USER: Final = 1 << 11
MEM_PERCPU: Final = 1 << 12
OBJ_RELEASE: Final = 1 << 13
PTR_UNTRUSTED: Final = 1 << 14
MEM_UNINIT: Final = 1 << 15
DYNPTR_TYPE_LOCAL: Final = 1 << 16
DYNPTR_TYPE_RINGBUF: Final = 1 << 17
MEM_FIXED_SIZE: Final = 1 << 18
MEM_ALLOC: Final = 1 << 19
PTR_TRUSTED: Final = 1 << 20
MEM_RCU: Final = 1 << 21
DYNPTR_TYPE_SKB: Final = 1 << 23
DYNPTR_TYPE_XDP: Final = 1 << 24
MEM_WRITE: Final = 1 << 25
MEM_ALIGNED: Final = 1 << 26
DYNPTR_TYPE_SKB_META: Final = 1 << 27
DYNPTR_FLAGS: Final = (
    DYNPTR_TYPE_LOCAL | DYNPTR_TYPE_RINGBUF | DYNPTR_TYPE_SKB | DYNPTR_TYPE_XDP | DYNPTR_TYPE_SKB_META
)
"""Which kind of dynptr an argument is, or memory came from."""
MEM_SIZE: Final = (1 << 32) - 1
"""Of the ``extra`` of PTR_TO_MEM: the size; above it the id of the dynptr that the memory belongs to."""

TYPE_NAMES: Final = {
    NOT_INIT: "?",
    SCALAR_VALUE: "scalar",
    PTR_TO_CTX: "ctx",
    CONST_PTR_TO_MAP: "map_ptr",
    PTR_TO_MAP_VALUE: "map_value",
    PTR_TO_STACK: "fp",
    PTR_TO_PACKET: "pkt",
    PTR_TO_PACKET_META: "pkt_meta",
    PTR_TO_PACKET_END: "pkt_end",
    PTR_TO_FLOW_KEYS: "flow_keys",
    PTR_TO_SOCKET: "sock",
    PTR_TO_SOCK_COMMON: "sock_common",
    PTR_TO_TCP_SOCK: "tcp_sock",
    PTR_TO_TP_BUFFER: "tp_buffer",
    PTR_TO_XDP_SOCK: "xdp_sock",
    PTR_TO_BTF_ID: "ptr_",
    PTR_TO_MEM: "mem",
    PTR_TO_ARENA: "arena",
    PTR_TO_BUF: "buf",
    PTR_TO_FUNC: "func",
    PTR_TO_MAP_KEY: "map_key",
    CONST_PTR_TO_DYNPTR: "dynptr_ptr",
}
"""The words of the log for each base type."""

_PREFIXES: Final = (
    (MEM_RDONLY, "rdonly_"),
    (MEM_RINGBUF, "ringbuf_"),
    (MEM_USER, "user_"),
    (MEM_PERCPU, "percpu_"),
    (MEM_RCU, "rcu_"),
    (PTR_UNTRUSTED, "untrusted_"),
    (PTR_TRUSTED, "trusted_"),
)

PACKET_POINTERS: Final = (PTR_TO_PACKET, PTR_TO_PACKET_META)
PACKET_ANY: Final = (PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_PACKET_END)
SOCK_POINTERS: Final = (PTR_TO_SOCKET, PTR_TO_SOCK_COMMON, PTR_TO_TCP_SOCK, PTR_TO_XDP_SOCK)
SPILLABLE: Final = frozenset(
    (
        PTR_TO_MAP_VALUE, PTR_TO_STACK, PTR_TO_CTX, PTR_TO_PACKET, PTR_TO_PACKET_META, PTR_TO_PACKET_END,
        PTR_TO_FLOW_KEYS, CONST_PTR_TO_MAP, PTR_TO_SOCKET, PTR_TO_SOCK_COMMON, PTR_TO_TCP_SOCK,
        PTR_TO_XDP_SOCK, PTR_TO_BTF_ID, PTR_TO_BUF, PTR_TO_MEM, PTR_TO_FUNC, PTR_TO_MAP_KEY, PTR_TO_ARENA,
    )
)  # fmt: skip
"""Base types that keep their meaning when stored to the stack."""
NEVER_NULL: Final = frozenset(
    (
        PTR_TO_SOCKET, PTR_TO_TCP_SOCK, PTR_TO_MAP_VALUE, PTR_TO_MAP_KEY, PTR_TO_SOCK_COMMON,
        PTR_TO_MEM, CONST_PTR_TO_MAP,
    )
)  # fmt: skip
"""Base types that are not NULL when they are not marked as maybe NULL."""

BPF_ADD_CONST64: Final = 1 << 31
BPF_ADD_CONST32: Final = 1 << 30
BPF_ADD_CONST: Final = BPF_ADD_CONST64 | BPF_ADD_CONST32
"""Flags in a scalar's id: the register is the one of that id plus ``off``, added in 64 bits (since 6.11) or
in 32 (6.18's stable updates)."""
BPF_MAX_VAR_OFF: Final = 1 << 29
BPF_MAX_VAR_SIZ: Final = 1 << 29

AT_PKT_END: Final = -1
BEYOND_PKT_END: Final = -2


def type_str(reg_type: int) -> str:
    """The log's words for a type with its flags, such as ``map_value_or_null``."""
    base = reg_type & BASE_MASK
    prefix = "".join(word for flag, word in _PREFIXES if reg_type & flag)
    postfix = ""
    if reg_type & PTR_MAYBE_NULL:
        postfix = "or_null_" if base == PTR_TO_BTF_ID else "_or_null"
    return f"{prefix}{TYPE_NAMES[base]}{postfix}"


class Reg:
    """One register's content.

    ``off``: fixed offset of a pointer, or the constant of a BPF_ADD_CONST scalar. ``bounds``: a scalar's
    value, or a pointer's variable offset. ``extra`` by type: packet pointers the number of bytes known
    to be readable (or AT_PKT_END, BEYOND_PKT_END), memory its size and whose it is (see dynptr.py),
    functions their number.
    ``id`` ties registers that came from one another; ``ref`` is the reference it stands for (0: none).
    """

    __slots__ = ("bounds", "extra", "frameno", "id", "map", "off", "ref", "type")

    def __init__(
        self,
        type: int,
        bounds: Bounds,
        off: int = 0,
        id: int = 0,
        map: MapView | None = None,
        extra: int = 0,
        frameno: int = 0,
        ref: int = 0,
    ) -> None:
        self.type = type
        self.bounds = bounds
        self.off = off
        self.id = id
        self.map = map
        self.extra = extra
        self.frameno = frameno
        self.ref = ref

    def with_bounds(self, bounds: Bounds) -> Reg:
        """The same with other bounds."""
        return Reg(self.type, bounds, self.off, self.id, self.map, self.extra, self.frameno, self.ref)

    def with_id(self, id: int, off: int | None = None) -> Reg:
        """The same with another id (and offset)."""
        return Reg(
            self.type, self.bounds, self.off if off is None else off, id,
            self.map, self.extra, self.frameno, self.ref,
        )  # fmt: skip

    def with_extra(self, extra: int) -> Reg:
        """The same with another range or size."""
        return Reg(self.type, self.bounds, self.off, self.id, self.map, extra, self.frameno, self.ref)

    def with_type(self, type: int) -> Reg:
        """The same with another type."""
        return Reg(type, self.bounds, self.off, self.id, self.map, self.extra, self.frameno, self.ref)

    @property
    def base(self) -> int:
        return self.type & BASE_MASK

    @property
    def is_const(self) -> bool:
        """The variable part is a known number."""
        return self.bounds.mask == 0

    @property
    def is_null(self) -> bool:
        """A scalar that is the constant zero."""
        return self.type == SCALAR_VALUE and self.bounds.mask == 0 and self.bounds.value == 0

    def exactly(self, other: Reg) -> bool:
        """Equal in all but id, reference and frame (kernel: memcmp up to the id field)."""
        return self is other or (
            self.type == other.type
            and self.off == other.off
            and self.map is other.map
            and self.extra == other.extra
            and bd.same(self.bounds, other.bounds)
        )

    def __repr__(self) -> str:
        return f"Reg({type_str(self.type)}, off={self.off}, id={self.id}, {self.bounds})"


NOT_INIT_REG: Final = Reg(NOT_INIT, bd.UNKNOWN)
UNKNOWN_REG: Final = Reg(SCALAR_VALUE, bd.UNKNOWN)

_const_regs: dict[int, Reg] = {}
_KEPT: Final = 1 << 16


def const_reg(value: int) -> Reg:
    """The scalar of a known value (modulo 2**64)."""
    value &= bd.U64
    found = _const_regs.get(value)
    if found is None:
        found = Reg(SCALAR_VALUE, bd.const(value))
        if len(_const_regs) >= _KEPT:
            _const_regs.clear()
        _const_regs[value] = found
    return found


def scalar(bounds: Bounds) -> Reg:
    """A scalar of these bounds, related to no other."""
    return Reg(SCALAR_VALUE, bounds)


def pointer(type: int, map: MapView | None = None, extra: int = 0, frameno: int = 0, id: int = 0) -> Reg:
    """A pointer to the beginning of something (offset zero)."""
    return Reg(type, bd.const(0), 0, id, map, extra, frameno)
