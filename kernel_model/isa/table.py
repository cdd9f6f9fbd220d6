# SPDX-License-Identifier: GPL-2.0-only
"""The instruction table: encoding, operands and text of every BPF instruction of Linux 6.18.

One row per instruction. What an instruction *means* is not here: the verifier, the interpreter and
each JIT say that apart from one another, so that a mistake in one of them shows as a difference.

Sources: RFC 9669, include/uapi/linux/bpf.h, the verifier's reserved-field checks (check_alu_op,
check_cond_jmp_op, check_atomic, check_ld_abs, resolve_pseudo_ldimm64, do_check), and the text that
kernel/bpf/disasm.c prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from . import opcodes as op
from .insn import Insn


class Use(Enum):
    """What a field of an instruction holds where the encoding leaves it free."""

    WRITE = "register written"
    READ = "register read"
    UPDATE = "register read and written"
    DISP = "displacement in bytes"
    JUMP = "distance in slots from the next slot"
    VALUE = "immediate"
    IGNORED = "not looked at"


class Effect(Enum):
    """The kind of an instruction, by what it touches."""

    ALU = "registers only"
    LOAD = "reads memory"
    STORE = "writes memory"
    ATOMIC = "reads and writes memory at once"
    CONST = "loads a 64-bit constant from two slots"
    PACKET = "reads packet bytes into R0 or ends the program"
    JUMP = "jumps always"
    BRANCH = "jumps or falls through"
    CALL = "calls, clobbering R0-R5"
    EXIT = "leaves the function"
    BARRIER = "orders speculation, nothing else"


class Origin(Enum):
    """Who writes the instruction."""

    UAPI = "programs"
    KERNEL = "the verifier's fix-ups only; bpf(2) refuses it"
    INVALID = "nobody: it has a printed form, and the verifier refuses it"


Field: TypeAlias = int | Use
"""A field's exact value, or what it holds when free. 0 is a reserved field."""


@dataclass(frozen=True)
class InsnRow:
    """One instruction.

    ``name`` is what Linux's interpreter calls the opcode's label, with the discriminating fields
    added (``ALU64_ADD_X``, ``ALU_SDIV_K``, ``STX_ATOMIC_DW_FETCH_ADD``).
    ``text`` is the line of disasm.c, ``asm`` the assembler's, which differs only where the kernel's
    text does not tell two instructions apart. Their placeholders: ``{dst}`` ``{src}`` register
    numbers, ``{disp}`` off with a sign, ``{to}`` ``pc+off``, ``{tol}`` ``pc+imm``, ``{imm}`` decimal,
    ``{ximm}`` imm as unsigned hex, ``{imm64}`` the two-slot immediate in hex, ``{lo}`` and ``{hi}`` its
    halves in decimal, ``{idx}`` off in decimal, ``{fn}`` a callee's name, ``{as_dst}`` and ``{as_src}`` the
    halves of an address-space cast.
    ``bits`` is the width of an arithmetic operation or comparison, or of the memory access; 0 where
    there is neither. ``since`` is the Linux version that brought it.
    """

    name: str
    code: int
    text: str
    effect: Effect
    dst: Field = 0
    src: Field = 0
    off: Field = 0
    imm: Field = 0
    bits: int = 0
    since: str = "3.18"
    origin: Origin = Origin.UAPI
    asm: str = ""

    def fits(self, insn: Insn) -> bool:
        """Whether every field with an exact value has it. Register numbers are not judged."""
        return (
            insn.code == self.code
            and (isinstance(self.dst, Use) or insn.dst == self.dst)
            and (isinstance(self.src, Use) or insn.src == self.src)
            and (isinstance(self.off, Use) or insn.off == self.off)
            and (isinstance(self.imm, Use) or insn.imm == self.imm)
        )

    @property
    def syntax(self) -> str:
        """The assembler's template."""
        return self.asm or self.text


# ---- the vocabulary of the families below ------------------------------------------------------

_W, _R, _RW = Use.WRITE, Use.READ, Use.UPDATE
_SIZES: Final = (("B", op.BPF_B, 8), ("H", op.BPF_H, 16), ("W", op.BPF_W, 32), ("DW", op.BPF_DW, 64))
# name, operation bits, the sign that disasm.c prints
_ALU_OPS: Final = (
    ("ADD", op.BPF_ADD, "+="),
    ("SUB", op.BPF_SUB, "-="),
    ("MUL", op.BPF_MUL, "*="),
    ("DIV", op.BPF_DIV, "/="),
    ("OR", op.BPF_OR, "|="),
    ("AND", op.BPF_AND, "&="),
    ("LSH", op.BPF_LSH, "<<="),
    ("RSH", op.BPF_RSH, ">>="),
    ("MOD", op.BPF_MOD, "%="),
    ("XOR", op.BPF_XOR, "^="),
    ("MOV", op.BPF_MOV, "="),
    ("ARSH", op.BPF_ARSH, "s>>="),
)
_SIGNED_OPS: Final = (("SDIV", op.BPF_DIV, "s/="), ("SMOD", op.BPF_MOD, "s%="))
# name, operation bits, sign, the version that brought it to the BPF_JMP class
_CONDITIONS: Final = (
    ("JEQ", op.BPF_JEQ, "==", "3.18"),
    ("JGT", op.BPF_JGT, ">", "3.18"),
    ("JGE", op.BPF_JGE, ">=", "3.18"),
    ("JSET", op.BPF_JSET, "&", "3.18"),
    ("JNE", op.BPF_JNE, "!=", "3.18"),
    ("JSGT", op.BPF_JSGT, "s>", "3.18"),
    ("JSGE", op.BPF_JSGE, "s>=", "3.18"),
    ("JLT", op.BPF_JLT, "<", "4.14"),
    ("JLE", op.BPF_JLE, "<=", "4.14"),
    ("JSLT", op.BPF_JSLT, "s<", "4.14"),
    ("JSLE", op.BPF_JSLE, "s<=", "4.14"),
)
_ATOMIC_OPS: Final = (
    ("ADD", op.BPF_ADD, "+="),
    ("OR", op.BPF_OR, "|="),
    ("AND", op.BPF_AND, "&="),
    ("XOR", op.BPF_XOR, "^="),
)
# name, src, the assembler's text, version
_PSEUDO_CONSTS: Final = (
    ("", 0, "r{dst} = {imm64} ll", "3.18"),
    ("_MAP_FD", op.BPF_PSEUDO_MAP_FD, "r{dst} = map_fd({lo}, {hi})", "3.18"),
    ("_MAP_VALUE", op.BPF_PSEUDO_MAP_VALUE, "r{dst} = map_value({lo}, {hi})", "5.2"),
    ("_BTF_ID", op.BPF_PSEUDO_BTF_ID, "r{dst} = btf_id({lo}, {hi})", "5.10"),
    ("_FUNC", op.BPF_PSEUDO_FUNC, "r{dst} = func {tol}", "5.13"),
    ("_MAP_IDX", op.BPF_PSEUDO_MAP_IDX, "r{dst} = map_idx({lo}, {hi})", "5.14"),
    ("_MAP_IDX_VALUE", op.BPF_PSEUDO_MAP_IDX_VALUE, "r{dst} = map_idx_value({lo}, {hi})", "5.14"),
)


def _alu() -> Iterator[InsnRow]:
    for label, cls, bits, r in (("ALU64", op.BPF_ALU64, 64, "r"), ("ALU", op.BPF_ALU, 32, "w")):
        for signed, ops in ((False, _ALU_OPS), (True, _SIGNED_OPS)):
            for name, code, sign in ops:
                since = "6.6" if signed else "3.18"
                off = 1 if signed else 0
                dst = _W if name == "MOV" else _RW
                yield InsnRow(
                    f"{label}_{name}_X", cls | code | op.BPF_X, f"{r}{{dst}} {sign} {r}{{src}}",
                    Effect.ALU, dst, _R, off, 0, bits, since,
                )  # fmt: skip
                yield InsnRow(
                    f"{label}_{name}_K", cls | code | op.BPF_K, f"{r}{{dst}} {sign} {{imm}}",
                    Effect.ALU, dst, 0, off, Use.VALUE, bits, since,
                )  # fmt: skip
        yield InsnRow(
            f"{label}_NEG", cls | op.BPF_NEG, f"{r}{{dst}} = -{r}{{dst}}", Effect.ALU, _RW, bits=bits
        )
        for width in (8, 16, 32):
            yield InsnRow(
                f"{label}_MOVSX{width}_X", cls | op.BPF_MOV | op.BPF_X, f"{r}{{dst}} = (s{width}){r}{{src}}",
                Effect.ALU, _W, _R, width, 0, bits, "6.6",
                # A 32-bit move that sign-extends 32 bits would be a plain move.
                Origin.INVALID if bits == width else Origin.UAPI,
            )  # fmt: skip
    for width in (16, 32, 64):
        for label, code, word, since in (
            ("ALU_TO_LE", op.BPF_ALU | op.BPF_END | op.BPF_TO_LE, "le", "3.18"),
            ("ALU_TO_BE", op.BPF_ALU | op.BPF_END | op.BPF_TO_BE, "be", "3.18"),
            ("ALU64_BSWAP", op.BPF_ALU64 | op.BPF_END, "bswap", "6.6"),
        ):
            yield InsnRow(
                f"{label}{width}", code, f"r{{dst}} = {word}{{imm}} r{{dst}}",
                Effect.ALU, _RW, imm=width, bits=width, since=since,
            )  # fmt: skip
    mov = op.BPF_ALU64 | op.BPF_MOV | op.BPF_X
    cast = "r{dst} = addr_space_cast(r{src}, {as_dst}, {as_src})"
    for imm, name in ((1, "ADDR_SPACE_CAST_TO_KERN"), (1 << 16, "ADDR_SPACE_CAST_TO_USER")):
        yield InsnRow(name, mov, cast, Effect.ALU, _W, _R, op.BPF_ADDR_SPACE_CAST, imm, 64, "6.9")
    # BPF_ZEXT_REG: a plain 32-bit move that carries a mark, which Linux prints like one without.
    yield InsnRow(
        "ALU_MOV_ZEXT", op.BPF_ALU | op.BPF_MOV | op.BPF_X, "w{dst} = w{src}",
        Effect.ALU, _W, _R, 0, 1, 32, "5.3", Origin.KERNEL, asm="w{dst} = zext(w{src})",
    )  # fmt: skip
    yield InsnRow(
        "MOV_PERCPU", mov, "r{dst} = &(void __percpu *)(r{src})",
        Effect.ALU, _W, _R, op.BPF_ADDR_PERCPU, 0, 64, "6.10", Origin.KERNEL,
    )  # fmt: skip


def _memory() -> Iterator[InsnRow]:
    disp, value = Use.DISP, Use.VALUE
    for label, size, bits in _SIZES:
        at_src = f"*(u{bits} *)(r{{src}} {{disp}})"
        at_dst = f"*(u{bits} *)(r{{dst}} {{disp}})"
        signed = at_src.replace("(u", "(s")
        load, store, put = Effect.LOAD, Effect.STORE, op.BPF_STX | size
        yield InsnRow(
            f"LDX_MEM_{label}", op.BPF_LDX | op.BPF_MEM | size, f"r{{dst}} = {at_src}",
            load, _W, _R, disp, 0, bits,
        )  # fmt: skip
        yield InsnRow(
            f"STX_MEM_{label}", put | op.BPF_MEM, f"{at_dst} = r{{src}}", store, _R, _R, disp, 0, bits
        )
        yield InsnRow(
            f"ST_MEM_{label}", op.BPF_ST | op.BPF_MEM | size, f"{at_dst} = {{imm}}",
            store, _R, 0, disp, value, bits,
        )  # fmt: skip
        if bits < 64:
            yield InsnRow(
                f"LDX_MEMSX_{label}", op.BPF_LDX | op.BPF_MEMSX | size, f"r{{dst}} = {signed}",
                load, _W, _R, disp, 0, bits, "6.6",
            )  # fmt: skip
            yield InsnRow(
                f"LD_ABS_{label}", op.BPF_LD | op.BPF_ABS | size, f"r0 = *(u{bits} *)skb[{{imm}}]",
                Effect.PACKET, imm=value, bits=bits,
            )  # fmt: skip
            yield InsnRow(
                f"LD_IND_{label}", op.BPF_LD | op.BPF_IND | size, f"r0 = *(u{bits} *)skb[r{{src}} + {{imm}}]",
                Effect.PACKET, src=_R, imm=value, bits=bits,
            )  # fmt: skip
        # What the fix-ups make of loads through pointers that may be wrong, and of arena accesses.
        for mode, name, base, since in (
            (op.BPF_PROBE_MEM, "PROBE_MEM", "probe", "5.5"),
            (op.BPF_PROBE_MEM32, "PROBE_MEM32", "arena", "6.9"),
        ):
            yield InsnRow(
                f"LDX_{name}_{label}", op.BPF_LDX | mode | size,
                f"r{{dst}} = *({base} u{bits} *)(r{{src}} {{disp}})",
                load, _W, _R, disp, 0, bits, since, Origin.KERNEL,
            )  # fmt: skip
        for mode, name, base, since in (
            (op.BPF_PROBE_MEMSX, "PROBE_MEMSX", "probe", "6.6"),
            (op.BPF_PROBE_MEM32SX, "PROBE_MEM32SX", "arena", "6.18"),
        ):
            if bits < 64:
                yield InsnRow(
                    f"LDX_{name}_{label}", op.BPF_LDX | mode | size,
                    f"r{{dst}} = *({base} s{bits} *)(r{{src}} {{disp}})",
                    load, _W, _R, disp, 0, bits, since, Origin.KERNEL,
                )  # fmt: skip
        yield InsnRow(
            f"STX_PROBE_MEM32_{label}", put | op.BPF_PROBE_MEM32,
            f"*(arena u{bits} *)(r{{dst}} {{disp}}) = r{{src}}",
            store, _R, _R, disp, 0, bits, "6.9", Origin.KERNEL,
        )  # fmt: skip
        yield InsnRow(
            f"ST_PROBE_MEM32_{label}", op.BPF_ST | op.BPF_PROBE_MEM32 | size,
            f"*(arena u{bits} *)(r{{dst}} {{disp}}) = {{imm}}",
            store, _R, 0, disp, value, bits, "6.9", Origin.KERNEL,
        )  # fmt: skip
    yield InsnRow(
        "ST_NOSPEC", op.BPF_ST | op.BPF_NOSPEC, "nospec", Effect.BARRIER, since="5.14", origin=Origin.KERNEL
    )


def _atomic() -> Iterator[InsnRow]:
    for mode, family, base in (
        (op.BPF_ATOMIC, "ATOMIC", ""),
        (op.BPF_PROBE_ATOMIC, "PROBE_ATOMIC", "arena "),
    ):
        for label, size, bits in _SIZES:
            code = op.BPF_STX | mode | size
            at = f"({base}u{bits} *)(r{{dst}} {{disp}})"
            wide = "64" if bits == 64 else ""
            kernel = Origin.KERNEL if base else Origin.UAPI
            # Read-modify-write has no 8- and 16-bit form; disasm.c prints one all the same.
            rmw = kernel if bits >= 32 else Origin.INVALID
            first, later = ("6.10", "6.10") if base else ("3.18", "5.12")

            def row(
                name: str, imm: int, text: str, since: str, origin: Origin, dst: Use = _R, src: Use = _R,
                *, code: int = code, bits: int = bits, prefix: str = f"STX_{family}_{label}_",
            ) -> InsnRow:  # fmt: skip
                return InsnRow(
                    prefix + name, code, text, Effect.ATOMIC, dst, src, Use.DISP, imm, bits, since, origin
                )

            for name, opcode, sign in _ATOMIC_OPS:
                version = first if name == "ADD" else later
                yield row(name, opcode, f"lock *{at} {sign} r{{src}}", version, rmw)
                fetch = f"r{{src}} = atomic{wide}_fetch_{name.lower()}({at}, r{{src}})"
                yield row(f"FETCH_{name}", opcode | op.BPF_FETCH, fetch, later, rmw, src=_RW)
            yield row(
                "XCHG", op.BPF_XCHG, f"r{{src}} = atomic{wide}_xchg({at}, r{{src}})", later, rmw, src=_RW
            )
            yield row("CMPXCHG", op.BPF_CMPXCHG, f"r0 = atomic{wide}_cmpxchg({at}, r0, r{{src}})", later, rmw)
            acquire = f"r{{dst}} = load_acquire({at.replace('{dst}', '{src}')})"
            yield row("LOAD_ACQ", op.BPF_LOAD_ACQ, acquire, "6.15", kernel, dst=_W)
            yield row("STORE_REL", op.BPF_STORE_REL, f"store_release({at}, r{{src}})", "6.15", kernel)


def _const() -> Iterator[InsnRow]:
    for name, src, asm, since in _PSEUDO_CONSTS:
        yield InsnRow(
            f"LD_IMM_DW{name}", op.LD_IMM64, "r{dst} = {imm64}",
            Effect.CONST, _W, src, 0, Use.VALUE, 64, since, asm=asm,
        )  # fmt: skip


def _control() -> Iterator[InsnRow]:
    for label, cls, bits, r in (("JMP", op.BPF_JMP, 64, "r"), ("JMP32", op.BPF_JMP32, 32, "w")):
        for name, code, sign, version in _CONDITIONS:
            since = version if bits == 64 else "5.1"
            yield InsnRow(
                f"{label}_{name}_X", cls | code | op.BPF_X, f"if {r}{{dst}} {sign} {r}{{src}} goto {{to}}",
                Effect.BRANCH, _R, _R, Use.JUMP, 0, bits, since,
            )  # fmt: skip
            yield InsnRow(
                f"{label}_{name}_K", cls | code | op.BPF_K, f"if {r}{{dst}} {sign} {{ximm}} goto {{to}}",
                Effect.BRANCH, _R, 0, Use.JUMP, Use.VALUE, bits, since,
            )  # fmt: skip
    yield InsnRow("JMP_JA", op.BPF_JMP | op.BPF_JA, "goto {to}", Effect.JUMP, off=Use.JUMP)
    yield InsnRow("JMP32_JA", op.BPF_JMP32 | op.BPF_JA, "gotol {tol}", Effect.JUMP, imm=Use.JUMP, since="6.6")
    yield InsnRow(
        "JMP_JCOND", op.BPF_JMP | op.BPF_JCOND, "may_goto {to}",
        Effect.BRANCH, src=op.BPF_MAY_GOTO, off=Use.JUMP, since="6.9",
    )  # fmt: skip
    yield InsnRow("JMP_CALL", op.CALL, "call {fn}#{imm}", Effect.CALL, imm=Use.VALUE)
    yield InsnRow(
        "JMP_CALL_PSEUDO",
        op.CALL,
        "call {tol}",
        Effect.CALL,
        src=op.BPF_PSEUDO_CALL,
        imm=Use.JUMP,
        since="4.16",
    )
    yield InsnRow(
        "JMP_CALL_KFUNC", op.CALL, "call {fn}#{imm}",
        Effect.CALL, src=op.BPF_PSEUDO_KFUNC_CALL, off=Use.VALUE, imm=Use.VALUE, since="5.13",
        asm="call kfunc({imm}, {idx})",
    )  # fmt: skip
    yield InsnRow("JMP_EXIT", op.EXIT, "exit", Effect.EXIT, off=Use.IGNORED)
    yield InsnRow(
        "JMP_TAIL_CALL", op.TAIL_CALL, "tail_call {imm}",
        Effect.CALL, imm=Use.VALUE, since="4.2", origin=Origin.KERNEL,
    )  # fmt: skip


TABLE: Final = (*_alu(), *_memory(), *_atomic(), *_const(), *_control())
"""Every instruction, once."""

BY_NAME: Final = {row.name: row for row in TABLE}

BY_CODE: Final[dict[int, tuple[InsnRow, ...]]] = {
    code: tuple(row for row in TABLE if row.code == code) for code in sorted({row.code for row in TABLE})
}
"""The rows of each opcode byte, told apart by their fixed fields."""

_FIXED: Final = {
    code: tuple(
        (
            row,
            tuple(
                (Insn._fields.index(name), getattr(row, name))
                for name in ("dst", "src", "off", "imm")
                if not isinstance(getattr(row, name), Use)
            ),
        )
        for row in rows
    )
    for code, rows in BY_CODE.items()
}
"""BY_CODE with what InsnRow.fits() looks at: the numbers and values of the fixed fields."""

_KNOWN: Final = frozenset(row.code for row in TABLE if row.origin is Origin.UAPI)


def known_opcode(code: int) -> bool:
    """Whether bpf(2) takes an instruction with this opcode byte at all (else ``unknown opcode``).

    Linux: bpf_opcode_in_insntable(), which does not look at the other fields.
    """
    return code in _KNOWN


def row_for(insn: Insn, *, internal: bool = False) -> InsnRow | None:
    """The row of an instruction; None when its opcode is unknown or it uses a reserved field.

    Instructions that only the kernel writes are found when ``internal`` is true. Register numbers and
    the second slot of LD_IMM64 are not judged, nor are values that are wrong in themselves (division
    by an immediate zero, a shift by more than the width).
    """
    for row, fixed in _FIXED.get(insn.code, ()):
        for field, value in fixed:
            if insn[field] != value:
                break
        else:
            if row.origin is Origin.UAPI or (internal and row.origin is Origin.KERNEL):
                return row
    return None
