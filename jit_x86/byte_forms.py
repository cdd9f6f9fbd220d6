# SPDX-License-Identifier: GPL-2.0-only
"""The one table of machine code that keystone encodes otherwise than Linux does.

Such an instruction goes to the assembler as a ``.byte`` line. Each row of :data:`FORMS` says which text
the bytes stand for and why; :data:`FIXED` are those whose bytes never vary, usable by name in
hand-written kernel text too. A test decodes every form and compares it with the text it replaces.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ByteForm(NamedTuple):
    """One row: an example of the text that the bytes replace, and the reason."""

    name: str
    replaces: str
    reason: str


class ByteLine(NamedTuple):
    """One instruction as ``.byte`` text, the name of its form and the text it replaces."""

    text: str
    form: str
    replaces: str


_ROWS: Final = (
    ByteForm("nop", "nop dword ptr [rax + rax]", "keystone encodes long nops with another opcode"),
    ByteForm("endbr64", "endbr64", "keystone does not know the instruction"),
    ByteForm("sysretq", "sysretq", "keystone does not know the instruction"),
    ByteForm("disp8_zero", "mov eax, dword ptr [rdi + 0]", "Linux keeps a displacement byte of zero"),
    ByteForm("disp32_small", "mov rax, qword ptr [rbp - 16]", "Linux writes this displacement in 32 bits"),
    ByteForm("imm32_small", "sub rsp, 8", "Linux writes this immediate in 32 bits"),
    ByteForm("no_accumulator", "cmp rax, 1000", "Linux does not use the short form for rax here"),
    ByteForm("spare_rex", "movsx eax, al", "Linux emits a REX prefix that nothing needs"),
    ByteForm("near_branch", "jmp 16", "Linux keeps 32 bits where the distance fits in 8"),
)
FORMS: Final = {row.name: row for row in _ROWS}

NOPS: Final = {
    3: bytes.fromhex("0f1f00"),
    4: bytes.fromhex("0f1f4000"),
    5: bytes.fromhex("0f1f440000"),
    6: bytes.fromhex("660f1f440000"),
    7: bytes.fromhex("0f1f8000000000"),
    8: bytes.fromhex("0f1f840000000000"),
}
"""Linux's multi-byte nops by length; ``nop`` and ``xchg ax, ax`` are the shorter ones."""

_NOP_TEXT: Final = {
    3: "nop dword ptr [rax]",
    4: "nop dword ptr [rax]",
    5: "nop dword ptr [rax + rax]",
    6: "nop word ptr [rax + rax]",
    7: "nop dword ptr [rax]",
    8: "nop dword ptr [rax + rax]",
}


def byte_text(code: bytes) -> str:
    """The assembler line that yields exactly ``code``."""
    return ".byte " + ",".join(f"{byte:#04x}" for byte in code)


def _line(form: str, replaces: str, code: bytes) -> ByteLine:
    return ByteLine(byte_text(code), FORMS[form].name, replaces)


FIXED: Final = {
    "endbr64": _line("endbr64", "endbr64", bytes.fromhex("f30f1efa")),
    "sysretq": _line("sysretq", "sysretq", bytes.fromhex("480f07")),
    **{f"nop{size}": _line("nop", _NOP_TEXT[size], code) for size, code in NOPS.items()},
}
"""Forms without operands by the name under which kernel text may use them."""


def _rex(w: bool, reg: int, base: int, index: int = 0) -> int:
    return 0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3


def _imm32(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


class Memory(NamedTuple):
    """The parts of an instruction with one register and one memory operand.

    ``prefix`` stands before the REX byte, ``opcode`` after it. ``rex``: 0 where needed, 1 always.
    """

    opcode: bytes
    wide: bool = False
    prefix: bytes = b""
    rex: bool = False


def disp8_zero(
    replaces: str, shape: Memory, reg: int, base: int, imm: bytes = b"", index: int | None = None
) -> ByteLine:
    """``shape`` with the machine registers ``reg``, ``[base + 0]`` and, for the arena, an ``index``."""
    rex = _rex(shape.wide, reg, base, index or 0)
    code = shape.prefix
    if rex != 0x40 or shape.rex:
        code += bytes([rex])
    code += shape.opcode
    if index is None:
        code += bytes([0x40 | (reg & 7) << 3 | base & 7])
    else:
        code += bytes([0x44 | (reg & 7) << 3, (index & 7) << 3 | base & 7])
    return _line("disp8_zero", replaces, code + b"\0" + imm)


def rax_from_frame(off: int) -> ByteLine:
    """``mov rax, [rbp + off]`` with a 32-bit displacement."""
    return _line("disp32_small", f"mov rax, qword ptr [rbp {off:+d}]", b"\x48\x8b\x85" + _imm32(off))


def rcx_from_array(off: int) -> ByteLine:
    """``mov rcx, [rsi + rdx*8 + off]`` with a 32-bit displacement."""
    text = f"mov rcx, qword ptr [rsi + rdx*8 {off:+d}]"
    return _line("disp32_small", text, b"\x48\x8b\x8c\xd6" + _imm32(off))


_GROUP1: Final = {"add": 0xC0, "or": 0xC8, "and": 0xE0, "sub": 0xE8, "xor": 0xF0, "cmp": 0xF8}


def group1_imm32(mnemonic: str, number: int, name: str, imm: int, wide: bool, form: str) -> ByteLine:
    """Arithmetic of register ``number`` (spelled ``name``) with an immediate of 32 bits: opcode 81."""
    rex = _rex(wide, 0, number)
    code = bytes([rex] if rex != 0x40 else []) + bytes([0x81, _GROUP1[mnemonic] | number & 7])
    return _line(form, f"{mnemonic} {name}, {imm}", code + _imm32(imm))


def rax_or_imm32(imm: int) -> ByteLine:
    """``or rax, imm`` by the accumulator's opcode with 32 bits of immediate."""
    return _line("imm32_small", f"or rax, {imm}", b"\x48\x0d" + _imm32(imm))


def test_rax_imm32(name: str, imm: int, wide: bool) -> ByteLine:
    """``test rax, imm32`` by opcode f7."""
    code = (b"\x48" if wide else b"") + b"\xf7\xc0" + _imm32(imm)
    return _line("no_accumulator", f"test {name}, {imm}", code)


def movsx32_from8(text: str, dst: int, src: int) -> ByteLine:
    """``movsx r32, r8`` of machine registers that need no REX prefix, with one."""
    return _line("spare_rex", text, bytes([0x40, 0x0F, 0xBE, 0xC0 | (dst & 7) << 3 | src & 7]))


_NEAR: Final = {
    "jmp": b"\xe9",
    "jb": b"\x0f\x82",
    "jae": b"\x0f\x83",
    "je": b"\x0f\x84",
    "jne": b"\x0f\x85",
    "jbe": b"\x0f\x86",
    "ja": b"\x0f\x87",
    "jl": b"\x0f\x8c",
    "jge": b"\x0f\x8d",
    "jle": b"\x0f\x8e",
    "jg": b"\x0f\x8f",
}


def near_branch(mnemonic: str, disp: int) -> ByteLine:
    """A branch with a 32-bit displacement, measured from its end. The text has it stand at address 0."""
    opcode = _NEAR[mnemonic]
    return _line("near_branch", f"{mnemonic} {disp + len(opcode) + 4}", opcode + _imm32(disp))
