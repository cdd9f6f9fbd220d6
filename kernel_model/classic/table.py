# SPDX-License-Identifier: GPL-2.0-only
"""Every classic BPF instruction and every ancillary load, a row each.

The forms are those of bpf_asm (Documentation/networking/filter.rst, "BPF engine and instruction set");
assembler and disassembler are both made from them. In a form, ``k`` stands for a number shown in decimal,
``hex`` for one shown in hexadecimal, ``ext`` for the name of an ancillary load, ``jt``, ``jf`` and ``to``
for labels. The first form is the one that is printed. A jump without ``jt`` or ``jf`` falls through there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..isa.opcodes import (
    BPF_ABS,
    BPF_ADD,
    BPF_ALU,
    BPF_AND,
    BPF_B,
    BPF_DIV,
    BPF_H,
    BPF_IMM,
    BPF_IND,
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JMP,
    BPF_JSET,
    BPF_K,
    BPF_LD,
    BPF_LDX,
    BPF_LSH,
    BPF_MEM,
    BPF_MISC,
    BPF_MOD,
    BPF_MUL,
    BPF_NEG,
    BPF_OR,
    BPF_RET,
    BPF_RSH,
    BPF_ST,
    BPF_STX,
    BPF_SUB,
    BPF_W,
    BPF_X,
    BPF_XOR,
)
from .insn import BPF_A, BPF_LEN, BPF_MSH, BPF_TAX, BPF_TXA, SKF_AD_OFF, u32


@dataclass(frozen=True)
class ClassicInsn:
    """A row. ``seccomp``: seccomp_check_filter() lets it pass (loads and lengths it rewrites)."""

    code: int
    name: str
    forms: tuple[str, ...]
    seccomp: bool = False

    @property
    def mnemonic(self) -> str:
        """The word that the disassembler prints."""
        return self.forms[0].split()[0]


def _row(code: int, name: str, *forms: str, seccomp: bool = False) -> ClassicInsn:
    return ClassicInsn(code, name, forms, seccomp)


CLASSIC_INSNS: Final[dict[int, ClassicInsn]] = {
    row.code: row
    for row in (
        _row(BPF_LD | BPF_W | BPF_ABS, "LD | W | ABS", "ld [k]", "ld ext", seccomp=True),
        _row(BPF_LD | BPF_H | BPF_ABS, "LD | H | ABS", "ldh [k]", "ldh ext"),
        _row(BPF_LD | BPF_B | BPF_ABS, "LD | B | ABS", "ldb [k]", "ldb ext"),
        _row(BPF_LD | BPF_W | BPF_IND, "LD | W | IND", "ld [x + k]"),
        _row(BPF_LD | BPF_H | BPF_IND, "LD | H | IND", "ldh [x + k]"),
        _row(BPF_LD | BPF_B | BPF_IND, "LD | B | IND", "ldb [x + k]"),
        _row(BPF_LD | BPF_W | BPF_LEN, "LD | W | LEN", "ld #len", "ld #pktlen", seccomp=True),
        _row(BPF_LD | BPF_IMM, "LD | IMM", "ld #hex", "ldi #hex", "ldi hex", seccomp=True),
        _row(BPF_LD | BPF_MEM, "LD | MEM", "ld M[k]", seccomp=True),
        _row(BPF_LDX | BPF_W | BPF_LEN, "LDX | W | LEN", "ldx #len", "ldx #pktlen", seccomp=True),
        _row(BPF_LDX | BPF_B | BPF_MSH, "LDX | B | MSH", "ldxb 4*([k]&0xf)", "ldx 4*([k]&0xf)"),
        _row(BPF_LDX | BPF_IMM, "LDX | IMM", "ldx #hex", "ldxi #hex", "ldxi hex", seccomp=True),
        _row(BPF_LDX | BPF_MEM, "LDX | MEM", "ldx M[k]", seccomp=True),
        _row(BPF_ST, "ST", "st M[k]", seccomp=True),
        _row(BPF_STX, "STX", "stx M[k]", seccomp=True),
        _row(BPF_ALU | BPF_ADD | BPF_K, "ALU | ADD | K", "add #k", seccomp=True),
        _row(BPF_ALU | BPF_ADD | BPF_X, "ALU | ADD | X", "add x", seccomp=True),
        _row(BPF_ALU | BPF_SUB | BPF_K, "ALU | SUB | K", "sub #k", seccomp=True),
        _row(BPF_ALU | BPF_SUB | BPF_X, "ALU | SUB | X", "sub x", seccomp=True),
        _row(BPF_ALU | BPF_MUL | BPF_K, "ALU | MUL | K", "mul #k", seccomp=True),
        _row(BPF_ALU | BPF_MUL | BPF_X, "ALU | MUL | X", "mul x", seccomp=True),
        _row(BPF_ALU | BPF_DIV | BPF_K, "ALU | DIV | K", "div #k", seccomp=True),
        _row(BPF_ALU | BPF_DIV | BPF_X, "ALU | DIV | X", "div x", seccomp=True),
        _row(BPF_ALU | BPF_MOD | BPF_K, "ALU | MOD | K", "mod #k"),
        _row(BPF_ALU | BPF_MOD | BPF_X, "ALU | MOD | X", "mod x"),
        _row(BPF_ALU | BPF_AND | BPF_K, "ALU | AND | K", "and #hex", seccomp=True),
        _row(BPF_ALU | BPF_AND | BPF_X, "ALU | AND | X", "and x", seccomp=True),
        _row(BPF_ALU | BPF_OR | BPF_K, "ALU | OR | K", "or #hex", seccomp=True),
        _row(BPF_ALU | BPF_OR | BPF_X, "ALU | OR | X", "or x", seccomp=True),
        _row(BPF_ALU | BPF_XOR | BPF_K, "ALU | XOR | K", "xor #hex", seccomp=True),
        _row(BPF_ALU | BPF_XOR | BPF_X, "ALU | XOR | X", "xor x", seccomp=True),
        _row(BPF_ALU | BPF_LSH | BPF_K, "ALU | LSH | K", "lsh #k", seccomp=True),
        _row(BPF_ALU | BPF_LSH | BPF_X, "ALU | LSH | X", "lsh x", seccomp=True),
        _row(BPF_ALU | BPF_RSH | BPF_K, "ALU | RSH | K", "rsh #k", seccomp=True),
        _row(BPF_ALU | BPF_RSH | BPF_X, "ALU | RSH | X", "rsh x", seccomp=True),
        _row(BPF_ALU | BPF_NEG, "ALU | NEG", "neg", seccomp=True),
        _row(BPF_JMP | BPF_JA, "JMP | JA", "ja to", "jmp to", seccomp=True),
        _row(
            BPF_JMP | BPF_JEQ | BPF_K, "JMP | JEQ | K",
            "jeq #hex, jt, jf", "jeq #hex, jt", "jneq #hex, jf", "jne #hex, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JEQ | BPF_X, "JMP | JEQ | X",
            "jeq x, jt, jf", "jeq x, jt", "jneq x, jf", "jne x, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JGT | BPF_K, "JMP | JGT | K",
            "jgt #hex, jt, jf", "jgt #hex, jt", "jle #hex, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JGT | BPF_X, "JMP | JGT | X",
            "jgt x, jt, jf", "jgt x, jt", "jle x, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JGE | BPF_K, "JMP | JGE | K",
            "jge #hex, jt, jf", "jge #hex, jt", "jlt #hex, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JGE | BPF_X, "JMP | JGE | X",
            "jge x, jt, jf", "jge x, jt", "jlt x, jf", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JSET | BPF_K, "JMP | JSET | K",
            "jset #hex, jt, jf", "jset #hex, jt", seccomp=True,
        ),
        _row(
            BPF_JMP | BPF_JSET | BPF_X, "JMP | JSET | X",
            "jset x, jt, jf", "jset x, jt", seccomp=True,
        ),
        _row(BPF_MISC | BPF_TAX, "MISC | TAX", "tax", seccomp=True),
        _row(BPF_MISC | BPF_TXA, "MISC | TXA", "txa", seccomp=True),
        _row(BPF_RET | BPF_K, "RET | K", "ret #hex", seccomp=True),
        _row(BPF_RET | BPF_A, "RET | A", "ret a", seccomp=True),
    )
}  # fmt: skip
"""By opcode: what chk_code_allowed() allows (net/core/filter.c)."""

RET_X: Final = ClassicInsn(BPF_RET | BPF_X, "RET | X", ("ret x",))
"""bpf_asm can write it, no kernel takes it."""


@dataclass(frozen=True)
class Ancillary:
    """A load of no packet data: its offset from SKF_AD_OFF, and the words that bpf_asm knows it by."""

    number: int
    name: str
    words: tuple[str, ...]

    @property
    def k(self) -> int:
        """The instruction's ``k``."""
        return u32(SKF_AD_OFF + self.number)


ANCILLARY: Final[dict[int, Ancillary]] = {
    row.k: row
    for row in (
        Ancillary(0, "SKF_AD_PROTOCOL", ("proto",)),
        Ancillary(4, "SKF_AD_PKTTYPE", ("type",)),
        Ancillary(8, "SKF_AD_IFINDEX", ("ifidx",)),
        Ancillary(12, "SKF_AD_NLATTR", ("nla",)),
        Ancillary(16, "SKF_AD_NLATTR_NEST", ("nlan",)),
        Ancillary(20, "SKF_AD_MARK", ("mark",)),
        Ancillary(24, "SKF_AD_QUEUE", ("queue",)),
        Ancillary(28, "SKF_AD_HATYPE", ("hatype",)),
        Ancillary(32, "SKF_AD_RXHASH", ("rxhash",)),
        Ancillary(36, "SKF_AD_CPU", ("cpu",)),
        Ancillary(40, "SKF_AD_ALU_XOR_X", ("xor_x",)),
        Ancillary(44, "SKF_AD_VLAN_TAG", ("vlan_tci",)),
        Ancillary(48, "SKF_AD_VLAN_TAG_PRESENT", ("vlan_avail", "vlan_pr")),
        Ancillary(52, "SKF_AD_PAY_OFFSET", ("poff",)),
        Ancillary(56, "SKF_AD_RANDOM", ("rand",)),
        Ancillary(60, "SKF_AD_VLAN_TPID", ("vlan_tpid",)),
    )
}
"""By ``k``."""


def codes(*names: str) -> frozenset[int]:
    """Opcodes by their names in the table."""
    by_name = {row.name: row.code for row in CLASSIC_INSNS.values()}
    return frozenset(by_name[name] for name in names)


def codes_of(rows: Iterable[ClassicInsn], mnemonics: Iterable[str]) -> frozenset[int]:
    """Opcodes of the rows whose printed mnemonic is one of these."""
    wanted = frozenset(mnemonics)
    return frozenset(row.code for row in rows if row.mnemonic in wanted)


_ROWS: Final = tuple(CLASSIC_INSNS.values())
CONDITIONAL_JUMPS: Final = codes_of(_ROWS, ("jeq", "jgt", "jge", "jset"))
ABSOLUTE_LOADS: Final = codes("LD | W | ABS", "LD | H | ABS", "LD | B | ABS")
STORES: Final = codes("ST", "STX")
SCRATCH_LOADS: Final = codes("LD | MEM", "LDX | MEM")
RETURNS: Final = codes("RET | K", "RET | A")
JA: Final = BPF_JMP | BPF_JA
