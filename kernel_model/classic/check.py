# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel asks of a classic program: bpf_check_classic() and seccomp_check_filter().

Both answer EINVAL to whatever they refuse; the reasons in words are this model's own.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..errors import KernelError
from ..isa import opcodes as op
from .insn import BPF_LEN, BPF_MAXINSNS, BPF_MEMWORDS, SKF_AD_OFF, SockFilter, u32
from .table import (
    ABSOLUTE_LOADS,
    ANCILLARY,
    CLASSIC_INSNS,
    CONDITIONAL_JUMPS,
    JA,
    RETURNS,
    SCRATCH_LOADS,
    STORES,
    codes,
)

SECCOMP_DATA_SIZE: Final = 64
"""sizeof(struct seccomp_data): nr, arch, instruction_pointer and six arguments."""


class ClassicError(KernelError):
    """A classic program is refused; ``insn`` is the instruction's index, -1 for the program as a whole."""

    def __init__(self, reason: str, insn: int = -1) -> None:
        super().__init__(errno.EINVAL, f"instruction {insn}: {reason}" if insn >= 0 else reason)
        self.insn = insn
        self.what = reason

    def __reduce__(self) -> tuple[type[ClassicError], tuple[str, int]]:
        return (ClassicError, (self.what, self.insn))


_Rule = Callable[[SockFilter, int], str | None]
"""Looks at an instruction and how many follow it; why it is refused, or None."""


def _divisor(insn: SockFilter, _left: int) -> str | None:
    return "division by zero" if insn.k == 0 else None


def _shift(insn: SockFilter, _left: int) -> str | None:
    return f"shift by {insn.k}" if insn.k >= 32 else None


def _scratch(insn: SockFilter, _left: int) -> str | None:
    return f"no scratch word {insn.k}" if insn.k >= BPF_MEMWORDS else None


def _always(insn: SockFilter, left: int) -> str | None:
    return f"jump by {insn.k} leaves the program" if insn.k >= left else None


def _conditional(insn: SockFilter, left: int) -> str | None:
    far = max(insn.jt, insn.jf)
    return f"jump by {far} leaves the program" if far >= left else None


def _absolute(insn: SockFilter, _left: int) -> str | None:
    if insn.k < u32(SKF_AD_OFF) or insn.k in ANCILLARY:
        return None
    return f"no ancillary load has offset {insn.signed}"


_RULES: Final[Mapping[int, _Rule]] = (
    dict.fromkeys(codes("ALU | DIV | K", "ALU | MOD | K"), _divisor)
    | dict.fromkeys(codes("ALU | LSH | K", "ALU | RSH | K"), _shift)
    | dict.fromkeys(SCRATCH_LOADS | STORES, _scratch)
    | dict.fromkeys(CONDITIONAL_JUMPS, _conditional)
    | dict.fromkeys(ABSOLUTE_LOADS, _absolute)
    | {JA: _always}
)


def check_classic(insns: Sequence[SockFilter]) -> None:
    """bpf_check_classic() behind bpf_check_basics_ok(): ClassicError for the first thing that is wrong."""
    if not 0 < len(insns) <= BPF_MAXINSNS:
        raise ClassicError(f"{len(insns)} instructions; a program has 1 to {BPF_MAXINSNS}")
    for at, insn in enumerate(insns):
        if insn.code not in CLASSIC_INSNS:
            raise ClassicError(f"unknown opcode {insn.code:#06x}", at)
        rule = _RULES.get(insn.code)
        reason = rule(insn, len(insns) - at - 1) if rule is not None else None
        if reason is not None:
            raise ClassicError(reason, at)
    if insns[-1].code not in RETURNS:
        raise ClassicError("the program does not end with a return", len(insns) - 1)
    check_load_and_stores(insns)


def check_load_and_stores(insns: Sequence[SockFilter]) -> None:
    """Scratch words are read only where every path has stored them (all jumps go forward).

    Code that nothing reaches counts as having stored everything, as in the kernel.
    """
    everything = (1 << BPF_MEMWORDS) - 1
    arriving = [everything] * len(insns)
    valid = 0
    for at, insn in enumerate(insns):
        valid &= arriving[at]
        if insn.code in STORES:
            valid |= 1 << insn.k
        elif insn.code in SCRATCH_LOADS:
            if not valid >> insn.k & 1:
                raise ClassicError(f"scratch word {insn.k} is read before it is stored", at)
        elif insn.code == JA or insn.code in CONDITIONAL_JUMPS:
            for distance in (insn.k,) if insn.code == JA else (insn.jt, insn.jf):
                arriving[at + 1 + distance] &= valid
            valid = everything


SECCOMP_LOAD: Final = op.BPF_LDX | op.BPF_W | op.BPF_ABS
"""What seccomp makes of a load at an absolute offset: it reads struct seccomp_data. Users cannot write it."""

_LD_LEN: Final = op.BPF_LD | op.BPF_W | BPF_LEN
_LDX_LEN: Final = op.BPF_LDX | op.BPF_W | BPF_LEN


def check_seccomp(insns: Sequence[SockFilter]) -> list[SockFilter]:
    """check_classic(), then seccomp_check_filter(): the program with its loads made loads of the context.

    ClassicError when either refuses it.
    """
    check_classic(insns)
    out = []
    for at, insn in enumerate(insns):
        if not CLASSIC_INSNS[insn.code].seccomp:
            raise ClassicError(f"{CLASSIC_INSNS[insn.code].mnemonic} is not for seccomp", at)
        if insn.code == op.BPF_LD | op.BPF_W | op.BPF_ABS:
            if insn.k >= SECCOMP_DATA_SIZE or insn.k & 3:
                raise ClassicError(f"struct seccomp_data has no word at {insn.signed}", at)
            insn = insn._replace(code=SECCOMP_LOAD)
        elif insn.code in (_LD_LEN, _LDX_LEN):
            insn = SockFilter(insn.code & 7 | op.BPF_IMM, insn.jt, insn.jf, SECCOMP_DATA_SIZE)
        out.append(insn)
    return out
