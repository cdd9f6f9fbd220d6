# SPDX-License-Identifier: GPL-2.0-only
"""What the slots of dynptrs, iterators and interrupt flags hold, packed into a register's ``extra``.

- a dynptr: its type (enum bpf_dynptr_type) and whether the slot is the first of the two; ``id`` ties slices
  (direct pointers into the data) to it;
- an iterator: its state, the BTF id of its type, and how often its next() was followed;
- an interrupt flag: nothing, the slot's ``ref`` says it all.

``ref`` is the reference that must be given back. (struct bpf_reg_state of Linux 6.18)
"""

from __future__ import annotations

from typing import Final

from .regs import (
    BASE_MASK,
    CONST_PTR_TO_DYNPTR,
    DYNPTR_TYPE_LOCAL,
    DYNPTR_TYPE_RINGBUF,
    DYNPTR_TYPE_SKB,
    DYNPTR_TYPE_SKB_META,
    DYNPTR_TYPE_XDP,
    PTR_TO_MEM,
    Reg,
)

INVALID: Final = 0
LOCAL: Final = 1
RINGBUF: Final = 2
SKB: Final = 3
XDP: Final = 4
SKB_META: Final = 5
"""enum bpf_dynptr_type."""
TYPE_NAMES: Final = {LOCAL: "local", RINGBUF: "ringbuf", SKB: "skb", XDP: "xdp", SKB_META: "skb_meta"}
FLAG_OF: Final = {
    LOCAL: DYNPTR_TYPE_LOCAL,
    RINGBUF: DYNPTR_TYPE_RINGBUF,
    SKB: DYNPTR_TYPE_SKB,
    XDP: DYNPTR_TYPE_XDP,
    SKB_META: DYNPTR_TYPE_SKB_META,
}
"""The flag of argument and memory types for each dynptr type."""
FIRST: Final = 1 << 8
_PACKET: Final = DYNPTR_TYPE_SKB | DYNPTR_TYPE_XDP | DYNPTR_TYPE_SKB_META
_SIZE_BITS: Final = 32


# ---- dynptrs --------------------------------------------------------------------------------


def type_name(kind: int) -> str:
    """The log's word for a dynptr type."""
    return TYPE_NAMES.get(kind, "unknown" if kind else "invalid")


def type_of(reg: Reg) -> int:
    """The dynptr type that a CONST_PTR_TO_DYNPTR register describes."""
    return reg.extra & (FIRST - 1)


def is_first(reg: Reg) -> bool:
    """The register describes the first slot of a dynptr."""
    return reg.type == CONST_PTR_TO_DYNPTR and bool(reg.extra & FIRST)


def dynptr_text(reg: Reg, off: int) -> str:
    """The log's picture of a dynptr whose first slot is at ``off``."""
    parts = [f"id={reg.id}"] if reg.id else []
    if reg.ref:
        parts.append(f"ref_id={reg.ref}")
    # The kernel prints the word that it keeps "first slot" in as if it were an id.
    parts.append("dynptr_id=1")
    return f" fp{off}=dynptr_{type_name(type_of(reg))}({','.join(parts)})"


def slice_extra(size: int, dynptr_id: int) -> int:
    """``extra`` of memory that belongs to a dynptr: its size in bytes, and whose it is."""
    return size | dynptr_id << _SIZE_BITS


def slice_id(reg: Reg) -> int:
    """The dynptr that memory belongs to; 0 for none."""
    return reg.extra >> _SIZE_BITS


def is_packet_slice(reg: Reg) -> bool:
    """Memory that is part of a packet, so it is stale when the packet moves."""
    return reg.type & BASE_MASK == PTR_TO_MEM and bool(reg.type & _PACKET)


# ---- iterators ------------------------------------------------------------------------------

ACTIVE: Final = 1
DRAINED: Final = 2
_STATE_NAMES: Final = {ACTIVE: "active", DRAINED: "drained"}
_STATE: Final = 3
_BTF_SHIFT: Final = 2
_BTF_BITS: Final = 30
_DEPTH_SHIFT: Final = 32


def iter_extra(state: int, btf_id: int, depth: int) -> int:
    """``extra`` of an iterator's slot."""
    return state | btf_id << _BTF_SHIFT | depth << _DEPTH_SHIFT


def iter_state(reg: Reg) -> int:
    """ACTIVE or DRAINED."""
    return reg.extra & _STATE


def iter_btf_id(reg: Reg) -> int:
    """The BTF id of the iterator's structure in the kernel's types."""
    return reg.extra >> _BTF_SHIFT & ((1 << _BTF_BITS) - 1)


def iter_depth(reg: Reg) -> int:
    """How often next() was followed on this path."""
    return reg.extra >> _DEPTH_SHIFT


def same_iter(a: Reg, b: Reg) -> bool:
    """Equal in all but depth, which only keeps two rounds apart (stacksafe)."""
    return (a.extra ^ b.extra) & ((1 << _DEPTH_SHIFT) - 1) == 0


def iter_text(reg: Reg, off: int, name: str) -> str:
    """The log's picture of an iterator whose first slot is at ``off``."""
    state = _STATE_NAMES.get(iter_state(reg), "<invalid>")
    return f" fp{off}=iter_{name}(ref_id={reg.ref},state={state},depth={iter_depth(reg)})"
