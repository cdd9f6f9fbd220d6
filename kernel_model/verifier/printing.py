# SPDX-License-Identifier: GPL-2.0-only
"""The log's picture of a state: registers, stack slots, references, source lines (kernel/bpf/log.c, 6.18)."""

from __future__ import annotations

from typing import Final

from . import bounds as bd
from . import objects, tnum
from .api import LineInfo
from .bounds import Bounds
from .env import Env
from .regs import (
    BASE_MASK,
    BPF_ADD_CONST,
    CONST_PTR_TO_DYNPTR,
    CONST_PTR_TO_MAP,
    MEM_SIZE,
    NOT_INIT,
    PACKET_POINTERS,
    PTR_TO_ARENA,
    PTR_TO_BTF_ID,
    PTR_TO_MAP_KEY,
    PTR_TO_MAP_VALUE,
    PTR_TO_MEM,
    PTR_TO_STACK,
    SCALAR_VALUE,
    Reg,
    type_str,
)
from .state import (
    BPF_REG_SIZE,
    SLOT_CHARS,
    STACK_DYNPTR,
    STACK_ITER,
    STACK_SPILL,
    FuncState,
    VerifierState,
)

_MIN_ALIGNMENT: Final = 8
_ALIGNMENT: Final = 40
_OBJECTS: Final = (STACK_DYNPTR, STACK_ITER)
ALL_REGS: Final = (1 << 11) - 1
ALL_SLOTS: Final = (1 << 64) - 1


def scratch_all(env: Env) -> None:
    """Everything is to be printed next time."""
    env.scratched_regs = ALL_REGS
    env.scratched_slots = ALL_SLOTS


def unsigned_text(value: int) -> str:
    """Decimal up to 65535, else hex."""
    return str(value) if value <= 0xFFFF else f"{value:#x}"


def signed_text(value: int) -> str:
    """Decimal in 16 bits, else the 64-bit pattern in hex."""
    return str(value) if -0x8000 <= value <= 0x7FFF else f"{value & bd.U64:#x}"


def ranges_text(b: Bounds) -> str:
    """``smin=0,smax=umax=255,...``: ranges that say something, equal ones joined."""
    low32 = b.s32_min if -0x8000 <= b.s32_min <= 0x7FFF else b.s32_min & bd.U32
    high32 = b.s32_max if -0x8000 <= b.s32_max <= 0x7FFF else b.s32_max & bd.U32
    rows = [
        ["smin", b.smin, b.smin == bd.S64_MIN],
        ["smax", b.smax, b.smax == bd.S64_MAX],
        ["umin", b.umin, b.umin == 0],
        ["umax", b.umax, b.umax == bd.U64],
        ["smin32", low32, b.s32_min == bd.S32_MIN],
        ["smax32", high32, b.s32_max == bd.S32_MAX],
        ["umin32", b.u32_min, b.u32_min == 0],
        ["umax32", b.u32_max, b.u32_max == bd.U32],
    ]
    return ",".join(_join_rows(rows))


def _join_rows(rows: list[list[object]]) -> list[str]:
    out: list[str] = []
    for i, (name, value, omit) in enumerate(rows):
        if omit:
            continue
        assert isinstance(name, str) and isinstance(value, int)
        negative = name[0] == "s" and value < 0
        text = f"{name}="
        for other in rows[i + 2 :: 2]:
            other_name, other_value = other[0], other[1]
            assert isinstance(other_name, str) and isinstance(other_value, int)
            if other[2] or other_value & bd.U64 != value & bd.U64:
                continue
            if (other_name[0] == "s" and other_value < 0) != negative:
                continue
            other[2] = True
            text += f"{other_name}="
        out.append(text + (signed_text(value) if name[0] == "s" else unsigned_text(value)))
    return out


def btf_type_name(env: Env, type_id: int) -> str:
    """The name of a type of the kernel's BTF; ``(anon)`` when it has none."""
    return env.kernel.vmlinux().type(type_id).name or "(anon)"


def reg_text(env: Env, frame: FuncState, reg: Reg, precise: bool) -> str:
    """One register as the log shows it: ``scalar(id=1,umax=255)``, ``map_value(ks=4,vs=8)``, ``fp-8``."""
    kind, b = reg.type, reg.bounds
    mark = "P" if precise and kind == SCALAR_VALUE else ""
    if kind == SCALAR_VALUE and b.mask == 0:
        return mark + signed_text(bd.s64(b.value))
    text = mark + type_str(kind)
    if kind == PTR_TO_ARENA:
        return text
    if kind == PTR_TO_STACK:
        if frame.frameno != reg.frameno:
            text += f"[{reg.frameno}]"
        if b.mask == 0:
            return text + signed_text(bd.s64(b.value + reg.off))
    if kind & BASE_MASK == PTR_TO_BTF_ID:
        text += btf_type_name(env, reg.extra)
    parts: list[str] = []
    if reg.id:
        part = f"id={bd.s32(reg.id & ~BPF_ADD_CONST)}"
        parts.append(part + (f"{reg.off:+d}" if reg.id & BPF_ADD_CONST else ""))
    if reg.ref:
        parts.append(f"ref_obj_id={reg.ref}")
    if kind & BASE_MASK in (CONST_PTR_TO_MAP, PTR_TO_MAP_KEY, PTR_TO_MAP_VALUE) and reg.map is not None:
        if reg.map.name:
            parts.append(f"map={reg.map.name}")
        parts.append(f"ks={reg.map.key_size},vs={reg.map.value_size}")
    if kind != SCALAR_VALUE and reg.off:
        parts.append(f"off={signed_text(reg.off)}")
    if kind in PACKET_POINTERS:
        parts.append(f"r={unsigned_text(reg.extra & bd.U64)}")
    if kind & BASE_MASK == PTR_TO_MEM:
        parts.append(f"sz={unsigned_text(reg.extra & MEM_SIZE)}")
    if kind == CONST_PTR_TO_DYNPTR:
        parts.append(f"type={objects.type_name(objects.type_of(reg))}")
    if b.mask == 0:
        if b.value:
            parts.append(f"imm={signed_text(bd.s64(b.value))}")
    else:
        ranges = ranges_text(b)
        if ranges:
            parts.append(ranges)
        if b.mask != bd.U64:
            parts.append(f"var_off={tnum.text(b.tnum)}")
    return f"{text}({','.join(parts)})"


def _object(env: Env, frame: FuncState, spi: int, out: list[str]) -> None:
    """A slot of a dynptr or an iterator: printed once, at the place of its lowest address."""
    slot = frame.stack[spi]
    if slot.types[7] == STACK_ITER:
        if slot.reg.ref:
            name = env.iter_name(objects.iter_btf_id(slot.reg))
            out.append(objects.iter_text(slot.reg, -(spi + 1) * BPF_REG_SIZE, name))
    elif not objects.is_first(slot.reg):
        out.append(objects.dynptr_text(frame.stack[spi + 1].reg, -(spi + 2) * BPF_REG_SIZE))


def print_state(env: Env, state: VerifierState, frameno: int, everything: bool) -> None:
    """Append `` R1=ctx() R10=fp0 ...`` and a newline; only what changed unless ``everything``."""
    frame = state.frames[frameno]
    out: list[str] = []
    if frame.frameno:
        out.append(f" frame{frame.frameno}:")
    all_precise = not env.bpf_capable
    for i, reg in enumerate(frame.regs):
        if reg.type == NOT_INIT or not (everything or env.scratched_regs >> i & 1):
            continue
        precise = all_precise or bool(frame.precise_regs >> i & 1)
        out.append(f" R{i}={reg_text(env, frame, reg, precise)}")
    for i, slot in enumerate(frame.stack):
        if not (everything or env.scratched_slots >> i & 1):
            continue
        types = slot.types
        if types == b"\0\0\0\0\0\0\0\0":
            continue
        letters = "".join(SLOT_CHARS[kind] for kind in types)
        at = -(i + 1) * BPF_REG_SIZE
        if types[7] in _OBJECTS:
            _object(env, frame, i, out)
        elif types[7] == STACK_SPILL:
            precise = all_precise or bool(frame.precise_slots >> i & 1)
            out.append(
                f" fp{at}={letters[: types.index(STACK_SPILL)]}{reg_text(env, frame, slot.reg, precise)}"
            )
        else:
            out.append(f" fp{at}={letters}")
    if state.refs:
        out.append(" refs=" + ",".join(str(ref.id) for ref in state.refs))
    if frame.in_callback_fn:
        out.append(" cb")
    if frame.in_async_callback_fn:
        out.append(" async_cb")
    for piece in out:
        env.log.write(piece)
    env.log.write("\n")
    if not everything:
        env.scratched_regs = 0
        env.scratched_slots = 0


def print_insn_state(env: Env, state: VerifierState, frameno: int) -> None:
    """What the last instruction changed, on its own line or behind it."""
    if env.prev_log_pos and env.prev_log_pos == env.log.position:
        env.log.reset(env.prev_log_pos - 1)
        at = env.prev_insn_print_pos
        wide = max(at + _MIN_ALIGNMENT // 2, _ALIGNMENT)
        wide = -(-wide // _MIN_ALIGNMENT) * _MIN_ALIGNMENT
        env.log.write(" " * max(wide - at - 1, 1) + ";")
    else:
        env.log.write(f"{env.insn_idx}:")
    print_state(env, state, frameno, False)


def find_line(env: Env, insn_idx: int) -> LineInfo | None:
    """The source line that covers an instruction."""
    lines = env.line_info
    if not lines or insn_idx >= len(env.insns):
        return None
    low, high = 0, len(lines) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if lines[middle].insn_off <= insn_idx:
            low = middle
        else:
            high = middle - 1
    return lines[low]


def print_line(env: Env, insn_idx: int, prefix: str) -> None:
    """The source line of an instruction, unless it was the last one printed."""
    if not env.line_info or not env.log.needed or env.spec.btf is None:
        return
    found, before = find_line(env, insn_idx), env.prev_linfo
    if found is None or found is before:
        return
    if (
        before
        and found.file_name_off == before.file_name_off
        and found.line_col >> 10 == before.line_col >> 10
    ):
        return
    btf = env.spec.btf
    env.log.write(prefix)
    env.log.write(btf.string(found.line_off).lstrip())
    name = btf.string(found.file_name_off).rsplit("/", 1)[-1]
    env.log.write(f" @ {name}:{found.line_col >> 10}\n")
    env.prev_linfo = found


def regs_mask_text(mask: int) -> str:
    """``r0,r2`` for 0b101."""
    return ",".join(f"r{i}" for i in range(32) if mask >> i & 1)


def slots_mask_text(mask: int) -> str:
    """``-8,-24`` for 0b101."""
    return ",".join(str(-(i + 1) * BPF_REG_SIZE) for i in range(64) if mask >> i & 1)
