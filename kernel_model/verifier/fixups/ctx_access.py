# SPDX-License-Identifier: GPL-2.0-only
"""Accesses to the context become accesses to the kernel's own structures (convert_ctx_accesses).

A load of part of a field becomes a load of the whole field, shifted and masked; a sign-extending one is
extended afterwards. Here also go the speculation barriers (since 6.17 in this phase) and the prologue of
programs that write into the packet.
"""

from __future__ import annotations

import errno
from typing import Final

from kernel_model.errors import NotModelled
from kernel_model.hooks.context import SIZE_CODE, Rewrite
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_ALU32_IMM, BPF_ALU64_IMM, BPF_MOVSX64_REG

from ..env import Env
from ..regs import MEM_RDONLY, PTR_TO_BTF_ID, PTR_TO_CTX, PTR_TO_MEM, PTR_UNTRUSTED
from .patch import patch

NOSPEC: Final = Insn(op.BPF_ST | op.BPF_NOSPEC)
_READS: Final = frozenset(
    [op.BPF_LDX | op.BPF_MEM | size for size in op.SIZE_BYTES]
    + [op.BPF_LDX | op.BPF_MEMSX | size for size in (op.BPF_B, op.BPF_H, op.BPF_W)]
)
_WRITES: Final = frozenset(
    cls | op.BPF_MEM | size for cls in (op.BPF_ST, op.BPF_STX) for size in op.SIZE_BYTES
)
_PROBED: Final = frozenset(
    (PTR_TO_BTF_ID, PTR_TO_BTF_ID | PTR_UNTRUSTED, PTR_TO_MEM | MEM_RDONLY | PTR_UNTRUSTED)
)
"""Pointers that may be stale or NULL: loads through them read zero when they fault."""


def _convert(env: Env, insn: Insn, field_size: int, write: bool) -> list[Insn]:
    """One access, rewritten."""
    convert = env.type.context.convert if env.type.context else None
    if convert is None:
        return [insn]
    size = op.SIZE_BYTES[insn.code & 0x18]
    narrow = size < field_size
    off = insn.off
    whole = insn
    if narrow:
        whole = insn._replace(
            code=op.BPF_LDX | op.BPF_MEM | SIZE_CODE[field_size], off=off & ~(field_size - 1)
        )
    rewrite = Rewrite(whole, write, env.kernel.layout, env.prog_flags)
    try:
        out, target_size = convert(rewrite)
    except NotModelled as error:
        raise env.not_modelled(error.feature) from None
    if not out or (field_size and not target_size):
        env.bug(f"error during ctx access conversion ({len(out)})")
        raise env.reject(errno.EFAULT, "")
    if narrow and size < target_size:
        shift = (off & (field_size - 1)) * 8
        right = BPF_ALU32_IMM if field_size <= 4 else BPF_ALU64_IMM
        if shift:
            out.append(right(op.BPF_RSH, insn.dst, shift))
        out.append(BPF_ALU32_IMM(op.BPF_AND, insn.dst, (1 << size * 8) - 1))
    if insn.code & 0xE0 == op.BPF_MEMSX:
        out.append(BPF_MOVSX64_REG(insn.dst, insn.dst, size * 8))
    return out


def convert_ctx_accesses(env: Env) -> None:
    """Rewrite every access to the context, add barriers, and put the prologue in front."""
    patches: dict[int, list[Insn]] = {}
    for i, insn in enumerate(env.insns):
        aux = env.aux[i]
        before = [NOSPEC] if aux.nospec else []
        made = [insn]
        write = insn.code in _WRITES
        if write and aux.nospec_result:
            made = [insn, NOSPEC]
        elif (write or insn.code in _READS) and aux.ptr_type == PTR_TO_CTX:
            made = _convert(env, insn, aux.ctx_field_size, write)
        elif insn.code in _READS and aux.ptr_type in _PROBED:
            mode = op.BPF_PROBE_MEM if insn.code & 0xE0 == op.BPF_MEM else op.BPF_PROBE_MEMSX
            made = [insn._replace(code=op.BPF_LDX | mode | insn.code & 0x18)]
        if before or len(made) > 1 or made[0] is not insn:
            patches[i] = before + made
    entries = {}
    if env.seen_direct_write and env.type.prologue is not None:
        try:
            prologue = env.type.prologue(env.kernel.layout, env.insns[0])[:-1]
        except NotModelled as error:
            raise env.not_modelled(error.feature) from None
        patches[0] = prologue + patches.get(0, [env.insns[0]])
        entries[0] = len(prologue)
    patch(env, patches, entries)
