# SPDX-License-Identifier: GPL-2.0-only
"""The one table of machine code that keystone encodes otherwise than Linux does.

Such an instruction goes to the assembler as a ``.byte`` line. Each row of :data:`FORMS` says which text
the bytes stand for and why; :data:`FIXED` are those whose bytes never vary, usable by name in
hand-written kernel text too. A test decodes every form and compares it with the text it replaces.

One row, ``disp8_zero``, is no ``.byte`` line: keystone encodes the same instruction with another
displacement, and :class:`jit_x86.assembler.LineCache` clears that byte.
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
    ByteForm("ibhf", "ibhf", "keystone does not know the instruction"),
    ByteForm("endbr_poison", "nop dword ptr [rax - 42]", "keystone encodes long nops with another opcode"),
    ByteForm("jne_not_taken", "jne 10", "Linux adds a hint and keeps 32 bits"),
    ByteForm("disp8_zero", "mov eax, dword ptr [rdi + 0]", "Linux keeps a displacement byte of zero"),
    ByteForm("imm32_small", "sub rsp, 8", "Linux writes this immediate in 32 bits"),
    ByteForm("no_accumulator", "test rax, 1000", "Linux does not use the short form for rax here"),
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
    "ibhf": _line("ibhf", "ibhf", bytes.fromhex("f3480f1ef8")),
    "endbr_poison": _line("endbr_poison", "nop dword ptr [rax - 42]", bytes.fromhex("0f1f40d6")),
    "jne_not_taken": _line("jne_not_taken", "jne 10", bytes.fromhex("2e0f8503000000")),
    **{f"nop{size}": _line("nop", _NOP_TEXT[size], code) for size, code in NOPS.items()},
}
"""Forms without operands by the name under which kernel text may use them."""


def _imm32(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


_GROUP1: Final = {"add": 0xC0, "or": 0xC8, "sub": 0xE8}


def group1_imm32(mnemonic: str, number: int, name: str, imm: int) -> ByteLine:
    """64-bit arithmetic of register ``number`` (spelled ``name``) with an immediate of 32 bits."""
    code = bytes([0x48 | number >> 3, 0x81, _GROUP1[mnemonic] | number & 7])
    return _line("imm32_small", f"{mnemonic} {name}, {imm}", code + _imm32(imm))


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
