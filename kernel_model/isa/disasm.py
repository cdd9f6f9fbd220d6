# SPDX-License-Identifier: GPL-2.0-only
"""The text of instructions, as the verifier log and ``bpftool prog dump xlated`` print it.

The text of each instruction stands in the table; here are only the rules by which the kernel's
kernel/bpf/disasm.c picks a text, also for instructions that the verifier is about to refuse.
Instructions that only the kernel writes have a text of our own, where disasm.c prints ``BUG_..``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from . import opcodes as op
from .insn import Insn, imm64
from .table import BY_CODE, Effect, InsnRow, Use

CallNames: TypeAlias = Callable[[Insn], str | None]
"""The name of a helper or kfunc that a call instruction names, or None when it has none."""

_DECIDES: Final = {Effect.ALU: "off", Effect.ATOMIC: "imm", Effect.CALL: "src"}
"""The one field by which disasm.c tells apart the instructions of an opcode byte."""
_BUG: Final = {
    op.BPF_STX: "BUG_{code:02x}",
    op.BPF_ST: "BUG_st_{code:02x}",
    op.BPF_LDX: "BUG_ldx_{code:02x}",
    op.BPF_LD: "BUG_ld_{code:02x}",
}
_CLASS_NAMES: Final = ("ld", "ldx", "st", "stx", "alu", "jmp", "jmp32", "alu64")


def _printed_as(insn: Insn) -> InsnRow | None:
    """The row whose text disasm.c prints for ``insn``, whatever its reserved fields hold."""
    rows = BY_CODE.get(insn.code, ())
    if not rows:
        return None
    field = _DECIDES.get(rows[0].effect)
    if field is None:
        return rows[0]
    exact = [row for row in rows if getattr(row, field) == getattr(insn, field)]
    plain = [row for row in rows if getattr(row, field) == 0]
    if exact or rows[0].effect is not Effect.ATOMIC:
        return (exact or plain)[0]
    return None


def disasm(
    insns: Sequence[Insn], index: int, names: CallNames | None = None, *, allow_ptr_leaks: bool = True
) -> str:
    """The text of the instruction at slot ``index``, without the opcode: ``r0 = *(u32 *)(r1 +4)``.

    ``names`` gives the names of called functions; ``unknown`` or ``kernel-function`` stands for those
    without. Without ``allow_ptr_leaks`` the map constants print as 0x0. An opcode that is no
    instruction prints as disasm.c prints it (``BUG_..`` or the name of its class).
    """
    insn = insns[index]
    row = _printed_as(insn)
    if row is None:
        bug = _BUG.get(op.bpf_class(insn.code))
        return bug.format(code=insn.code) if bug else _CLASS_NAMES[op.bpf_class(insn.code)]
    if insn.code == op.BPF_JMP | op.BPF_JCOND and insn.src != op.BPF_MAY_GOTO:
        # The kernel has no word for this comparison.
        return render("if r{dst} (null) {ximm} goto {to}", insns, index)
    return render(row.text, insns, index, names, allow_ptr_leaks=allow_ptr_leaks)


def render(
    template: str,
    insns: Sequence[Insn],
    index: int,
    names: CallNames | None = None,
    *,
    allow_ptr_leaks: bool = True,
) -> str:
    """Fill a template of the instruction table (``InsnRow.text`` or ``.syntax``) for the slot ``index``."""
    insn = insns[index]
    high, constant, name = 0, 0, ""
    if insn.code == op.LD_IMM64:
        high = insns[index + 1].imm if index + 1 < len(insns) else 0
        hidden = not allow_ptr_leaks and insn.src in (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_VALUE)
        constant = 0 if hidden or index + 1 >= len(insns) else imm64(insns, index)
    elif insn.code == op.CALL:
        found = names(insn) if names else None
        fallback = "kernel-function" if insn.src == op.BPF_PSEUDO_KFUNC_CALL else "unknown"
        name = fallback if found is None else found
    return template.format(
        dst=insn.dst,
        src=insn.src,
        disp=f"{insn.off:+d}",
        idx=insn.off,
        to=f"pc{insn.off:+d}",
        tol=f"pc{insn.imm:+d}",
        imm=insn.imm,
        ximm=f"{insn.imm & 0xFFFFFFFF:#x}",
        imm64=f"{constant:#x}",
        lo=insn.imm,
        hi=high,
        fn=name,
        as_dst=(insn.imm & 0xFFFFFFFF) >> 16,
        as_src=insn.imm & 0xFFFF,
    )


def line(
    insns: Sequence[Insn], index: int, names: CallNames | None = None, *, allow_ptr_leaks: bool = True
) -> str:
    """The verifier log's form, opcode in front: ``(61) r0 = *(u32 *)(r1 +4)``.

    ``BUG_..`` texts carry no opcode in front, as in the kernel.
    """
    text = disasm(insns, index, names, allow_ptr_leaks=allow_ptr_leaks)
    return text if text.startswith("BUG_") else f"({insns[index].code:02x}) {text}"


def disasm_all(insns: Sequence[Insn], names: CallNames | None = None) -> list[str]:
    """All instructions as ``N: (xx) text``; the second slot of LD_IMM64 has no line of its own."""
    lines = []
    index = 0
    while index < len(insns):
        lines.append(f"{index}: {line(insns, index, names)}")
        index += 2 if insns[index].code == op.LD_IMM64 else 1
    return lines


def jump_target(insn: Insn, row: InsnRow, index: int) -> int | None:
    """The slot that a jump, branch or bpf-to-bpf call at ``index`` goes to; None for other instructions."""
    if row.off is Use.JUMP:
        return index + 1 + insn.off
    if row.imm is Use.JUMP:
        return index + 1 + insn.imm
    return None
