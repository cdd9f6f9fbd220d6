# SPDX-License-Identifier: GPL-2.0-only
"""The byte forms mean what the text says that they replace, are needed, and are few."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from flat import request_for
from golden_images import load_forms, load_programs
from hypothesis import given
from hypothesis import strategies as st
from random_programs import random_program

from jit_x86.assembler import KEEP_DISP8, AssemblyError, LineCache, assemble
from jit_x86.byte_forms import FIXED, FORMS, NOPS, ByteLine, near_branch
from jit_x86.code import Item
from jit_x86.compiler import contexts, select
from jit_x86.registers import R16, R32, R64
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import NativeRequest

capstone = pytest.importorskip("capstone", reason="decoding x86 needs the extra x86dis (capstone)")
SHARE = 0.05
BY_NAME = ("nop", "endbr64", "sysretq", "endbr_poison")
"""Forms whose text keystone cannot encode right at all."""
IBHF = bytes.fromhex("f3480f1ef8")
"""What capstone does not know either: Intel's encoding of the indirect branch history fence."""


def decoded(code: bytes) -> list[str]:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [f"{insn.mnemonic} {insn.op_str}".strip() for insn in engine.disasm(code, 0)]


def body_items(request: NativeRequest) -> list[Item]:
    """Machine instructions outside prologue and epilogue; a branch that the layout sizes is a string."""
    items: list[Item] = []
    for ctx in contexts(request):
        selected = select(ctx)
        for slot, code in enumerate(selected.codes):
            if slot != selected.epilogue_slot:
                items += [*code.items, *([code.jump.mnemonic] if code.jump else [])]
    return items


def entry_items(request: NativeRequest) -> list[Item]:
    return [item for ctx in contexts(request) for item in select(ctx).entry]


def used_lines() -> set[ByteLine]:
    """Every byte line that the recorded programs and forms come to."""
    insns = [insn for slots, _ in load_forms() for insn in slots]
    requests = [request_for(insns), *(request for _, request, *_ in load_programs())]
    # An arena whose upper half fits in a byte needs a form of its own.
    requests += [
        dataclasses.replace(r, arena_user_vm_start=5 << 32) for r in requests if r.arena_user_vm_start
    ]
    items = [item for request in requests for item in (*entry_items(request), *body_items(request))]
    return {item for item in items if isinstance(item, ByteLine)}


def test_byte_lines_mean_what_they_replace() -> None:
    """Decoded, they are the text's instruction; assembled, the text gives other bytes or none."""
    lines = used_lines() | set(FIXED.values()) | {near_branch(m, 11) for m in ("jmp", "je", "jg")}
    assert {line.form for line in lines} == set(FORMS) - {"disp8_zero"}, "every row of the table is used"
    for line in lines:
        code = assemble(line.text)
        if line.form == "ibhf":
            assert code == IBHF
            continue
        (text,) = decoded(code)
        if line.form in BY_NAME:
            assert text.split()[0] == line.replaces.split()[0]
            continue
        replaced = assemble(line.replaces)
        assert decoded(replaced) == [text], line
        assert replaced != code, f"{line} is needless"


@pytest.mark.parametrize("name", FORMS)
def test_rows_say_what_keystone_does(name: str) -> None:
    """The row's own example: keystone refuses it, or encodes it otherwise than Linux."""
    row = FORMS[name]
    assert row.reason
    try:
        code = assemble(row.replaces)
    except ValueError:
        assert "does not know" in row.reason
        return
    if name in ("nop", "endbr_poison"):
        assert code[:2] != NOPS[5][:2]
    elif name == "ibhf":
        assert code == IBHF
    else:
        assert decoded(code)


OPERATIONS = [
    *("movzx {r64}, byte ptr {at}", "mov {r32}, dword ptr {at}", "mov word ptr {at}, {r16}"),
    *(
        "lock xadd qword ptr {at}, {r64}",
        "mov qword ptr {at}, 1",
        "mov byte ptr {at}, 2",
        "mov dword ptr {at}, 0",
    ),
]


@given(st.sampled_from(OPERATIONS), st.integers(0, 11), st.integers(0, 11), st.sampled_from([None, 14]))
def test_kept_displacement(operation: str, reg: int, base: int, index: int | None) -> None:
    """It decodes as the text does, and is the encoding of a displacement of 8 but for that byte."""
    inside = f"{R64[base]} + {R64[index]}" if index is not None else R64[base]
    names = {"r64": R64[reg], "r32": R32[reg], "r16": R16[reg]}
    text = operation.format(at=f"[{inside} +0]", **names)
    code = LineCache().encode([KEEP_DISP8 + text])[KEEP_DISP8 + text]
    assert decoded(code) == decoded(assemble(text))
    other = assemble(operation.format(at=f"[{inside} +8]", **names))
    assert len(code) == len(other)
    assert [(a, b) for a, b in zip(code, other, strict=True) if a != b] == [(0, 8)]


@pytest.mark.parametrize("text", ["mov eax, [rdi +1]", "nop", "mov eax, [rdi+0x10 +0] # [rdi +0]"])
def test_kept_displacement_needs_a_zero(text: str) -> None:
    with pytest.raises(AssemblyError, match="disp8"):
        LineCache().encode([KEEP_DISP8 + text])


def share_of_byte_forms(requests: list[NativeRequest]) -> tuple[float, Counter[str]]:
    """The share of ``.byte`` lines outside prologue and epilogue, and how often each form stands there."""
    items = [item for request in requests for item in body_items(request)]
    forms = Counter(item.form for item in items if isinstance(item, ByteLine))
    kept = sum(isinstance(item, str) and item.startswith(KEEP_DISP8) for item in items)
    print(f"{len(items)} instructions, displacement of zero kept in {kept / len(items):.2%}")
    return forms.total() / len(items), forms


def test_share_of_byte_forms() -> None:
    """At most one instruction in twenty outside prologue and epilogue."""
    requests = [request for name, request, *_ in load_programs() if name.startswith("random")]
    for seed in range(100):
        insns: list[Insn] = random_program(seed)
        requests.append(request_for([i for i in insns if i.src != 1 or i.code != 0x85]))
    share, forms = share_of_byte_forms(requests)
    print(f"byte forms: {share:.2%} {dict(forms)}")
    assert 0 < share <= SHARE
