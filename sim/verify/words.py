# SPDX-License-Identifier: GPL-2.0-only
"""What the verifier knows of registers and stack bytes, in plain words."""

from __future__ import annotations

from kernel_model.uapi.enums import bpf_map_type
from kernel_model.verifier import bounds as bd
from kernel_model.verifier.api import MapView
from kernel_model.verifier.bounds import Bounds
from kernel_model.verifier.regs import (
    BASE_MASK,
    CONST_PTR_TO_DYNPTR,
    CONST_PTR_TO_MAP,
    MEM_RDONLY,
    MEM_RINGBUF,
    NOT_INIT,
    PTR_MAYBE_NULL,
    PTR_TO_ARENA,
    PTR_TO_BTF_ID,
    PTR_TO_BUF,
    PTR_TO_CTX,
    PTR_TO_FLOW_KEYS,
    PTR_TO_FUNC,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_PACKET,
    PTR_TO_PACKET_END,
    PTR_TO_PACKET_META,
    PTR_TO_SOCK_COMMON,
    PTR_TO_SOCKET,
    PTR_TO_STACK,
    PTR_TO_TCP_SOCK,
    PTR_TO_TP_BUFFER,
    PTR_TO_XDP_SOCK,
    SCALAR_VALUE,
    Reg,
    type_str,
)
from kernel_model.verifier.state import STACK_INVALID, STACK_SPILL, STACK_ZERO, Slot

_BIG = 1 << 20

_POINTERS = {
    PTR_TO_CTX: "the program's context",
    PTR_TO_PACKET: "a pointer into the packet",
    PTR_TO_PACKET_META: "a pointer into the packet's metadata",
    PTR_TO_PACKET_END: "the end of the packet (data_end)",
    PTR_TO_STACK: "a pointer to the stack",
    PTR_TO_FLOW_KEYS: "a pointer to the flow keys",
    PTR_TO_SOCKET: "a socket",
    PTR_TO_SOCK_COMMON: "a socket (its common part)",
    PTR_TO_TCP_SOCK: "a TCP socket",
    PTR_TO_XDP_SOCK: "an AF_XDP socket",
    PTR_TO_TP_BUFFER: "the tracepoint's buffer",
    PTR_TO_BTF_ID: "a pointer to a kernel structure",
    PTR_TO_BUF: "a pointer to a buffer",
    PTR_TO_FUNC: "a function of the program",
    PTR_TO_ARENA: "a pointer into the arena",
    CONST_PTR_TO_DYNPTR: "a dynptr",
}


def plural(count: int, word: str) -> str:
    """``1 byte``, ``2 bytes``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def number(value: int) -> str:
    """A number as people read it: decimal, and hex beside it when it is big."""
    return str(value) if -_BIG < value < _BIG else f"{value} ({value:#x})"


def map_name(the_map: MapView) -> str:
    """``map counters (hash)``."""
    kind = bpf_map_type(the_map.map_type).name.removeprefix("BPF_MAP_TYPE_").lower()
    return f"map {the_map.name or 'without a name'} ({kind})"


def range_of(b: Bounds) -> tuple[int, int] | None:
    """The tighter of the signed and the unsigned range; None when it has more than half of all numbers."""
    ends = min(((b.smin, b.smax), (b.umin, b.umax)), key=lambda ends: ends[1] - ends[0])
    return ends if ends[1] - ends[0] <= bd.S64_MAX else None


def freedom(b: Bounds) -> int:
    """How many numbers are possible, by the tighter range and by the known bits."""
    ends = range_of(b)
    step = (b.mask & -b.mask) or 1
    by_range = (bd.U64 if ends is None else ends[1] - ends[0]) // step + 1
    return min(by_range, 1 << b.mask.bit_count())


def _ends(low: int, high: int) -> str:
    if low == high:
        return number(low)
    if high == bd.S64_MAX:
        return f"{number(low)} or more"
    return f"{number(low)} to {number(high)}"


def _lower_half(b: Bounds) -> str:
    """What is known of the lower 32 bits beyond what their number already says; "" for nothing."""
    if (b.u32_min, b.u32_max) != (0, bd.U32):
        return _ends(b.u32_min, b.u32_max)
    if (b.s32_min, b.s32_max) != (bd.S32_MIN, bd.S32_MAX):
        return f"{_ends(b.s32_min, b.s32_max)} as a signed number"
    return ""


def bounds_words(b: Bounds) -> str:
    """``0 to 255``, ``a multiple of 8 from 0 to 120``, ``any 64-bit number``; only what is known for sure."""
    if b.mask == 0:
        return number(bd.s64(b.value))
    ends = range_of(b)
    step = (b.mask & -b.mask) if not b.value & ((b.mask & -b.mask) - 1) else 1
    if ends is None or ends == (0, bd.U32):
        words = "any 32-bit number" if ends else "any 64-bit number"
        if step > 1:
            words = f"any multiple of {step}"
        half = _lower_half(b)
        return f"{words}, the lower half {half}" if half and step == 1 else words
    return _ends(*ends) if step == 1 else f"a multiple of {step} from {_ends(*ends)}"


def _offset(reg: Reg, word: str = "byte") -> str:
    """``14 bytes`` or ``14 bytes plus 0 to 60``: how far a pointer was moved; "" for not at all."""
    fixed = reg.off + (bd.s64(reg.bounds.value) if reg.bounds.mask == 0 else 0)
    if reg.bounds.mask == 0:
        return plural(fixed, word) if fixed else ""
    variable = bounds_words(reg.bounds)
    return f"{plural(fixed, word)} plus {variable}" if fixed else variable


def _packet(reg: Reg) -> str:
    moved = _offset(reg)
    where = f", {moved} behind its start" if moved else ", at its start"
    if reg.bounds.mask and reg.id:
        where = f", moved by {moved}"
    if reg.extra < 0:
        return f"a pointer to or behind the end of the packet{where}"
    if not reg.extra:
        return f"a pointer into the packet{where}; no comparison with data_end covers it"
    since = "from the start" if not reg.bounds.mask else "from where the variable offset leads"
    return (
        f"a pointer into the packet{where}; a comparison with data_end proved "
        f"{plural(reg.extra, 'byte')} {since}"
    )


def _memory(reg: Reg) -> str:
    kind = "a reserved ring-buffer record" if reg.type & MEM_RINGBUF else "memory"
    only = "read-only " if reg.type & MEM_RDONLY else ""
    moved = _offset(reg)
    return f"a pointer to {only}{kind} of {plural(reg.extra, 'byte')}" + (
        f", moved by {moved}" if moved else ""
    )


def reg_words(reg: Reg) -> str:
    """A register in one clause: ``a pointer to a value of map counters (hash), 8 bytes, or NULL``."""
    base = reg.type & BASE_MASK
    if base == NOT_INIT:
        return "nothing that may be read"
    if base == SCALAR_VALUE:
        return (
            f"the number {bounds_words(reg.bounds)}"
            if reg.is_const
            else f"a number: {bounds_words(reg.bounds)}"
        )
    if base == CONST_PTR_TO_MAP and reg.map is not None:
        return f"{map_name(reg.map)} itself"
    if base in (PTR_TO_MAP_VALUE, PTR_TO_MAP_KEY) and reg.map is not None:
        what, size = ("value", reg.map.value_size) if base == PTR_TO_MAP_VALUE else ("key", reg.map.key_size)
        words = f"a pointer to a {what} of {map_name(reg.map)}, {plural(size, 'byte')}"
        moved = _offset(reg)
        words += f", moved by {moved}" if moved else ""
    elif base == PTR_TO_PACKET:
        words = _packet(reg)
    elif base == PTR_TO_MEM:
        words = _memory(reg)
    elif base == PTR_TO_STACK and reg.bounds.mask == 0:
        at = reg.off + bd.s64(reg.bounds.value)
        words = f"a pointer to the stack, fp{at:+d}" if at else "the frame pointer"
    else:
        words = _POINTERS.get(base, type_str(reg.type))
        moved = _offset(reg)
        words += f", moved by {moved}" if moved else ""
    return words + (", or NULL" if reg.type & PTR_MAYBE_NULL else "")


def slot_words(slot: Slot, index: int) -> str:
    """Eight bytes of stack: ``fp-8: 4 bytes written, 4 bytes never written``."""
    at = f"fp-{8 * (index + 1)}"
    if slot.types == bytes((STACK_SPILL,)) * 8:
        return f"{at}: {reg_words(slot.reg)}"
    never = sum(kind == STACK_INVALID for kind in slot.types)
    zero = sum(kind == STACK_ZERO for kind in slot.types)
    parts = [
        f"{plural(8 - never - zero, 'byte')} written" if 8 - never - zero else "",
        f"{plural(zero, 'byte')} zero" if zero else "",
        f"{plural(never, 'byte')} never written" if never else "",
    ]
    return f"{at}: " + ", ".join(part for part in parts if part)
