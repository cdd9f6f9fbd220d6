# SPDX-License-Identifier: GPL-2.0-only
"""Machine code against recorded images of Linux 6.18: needs no host kernel."""

from __future__ import annotations

from typing import Any

import pytest
from flat import request_for
from golden_images import load_forms, load_programs
from host_masks import masked

from jit_x86 import Compiler
from jit_x86.compiler import TEMPLATES
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.native import NativeRequest


def test_every_recorded_form() -> None:
    """All of them in one program, each compared on its own."""
    forms = load_forms()
    insns = [insn for slots, _ in forms for insn in slots]
    request = request_for([*insns, Insn(op.EXIT)], stack=512)
    (function,) = Compiler().compile(request, lambda _: (0xFFFFFFFFC0000000,)).functions
    different, slot, base = [], 0, function.insn_offs
    for slots, expected in forms:
        code = function.code[base[slot] : base[slot + len(slots)]]
        if code != expected:
            different.append(f"{encode(slots).hex()}: {code.hex()}, Linux {expected.hex()}")
        slot += len(slots)
    assert not different, "\n".join(different)


def test_recorded_forms_cover_the_opcodes() -> None:
    """Every opcode that can be compiled is recorded: alone, or in a program where it holds addresses."""
    recorded = {slots[0].code for slots, _ in load_forms()}
    elsewhere = {op.CALL, op.EXIT, op.TAIL_CALL, op.BPF_JMP | op.BPF_JA, op.BPF_JMP32 | op.BPF_JA}
    # Nothing makes the host's verifier write a barrier into a program of root's.
    in_programs = {insn.code for _, request, _, _, _ in load_programs() for insn in request.insns}
    assert set(TEMPLATES) - recorded - elsewhere - in_programs <= {op.BPF_ST | op.BPF_NOSPEC}
    assert elsewhere <= in_programs


@pytest.mark.parametrize(
    ("request_", "addrs", "images", "masks"),
    [pytest.param(*rest, id=name) for name, *rest in load_programs()],
)
def test_recorded_program(
    request_: NativeRequest, addrs: tuple[int, ...], images: list[bytes], masks: list[Any]
) -> None:
    ours = Compiler().compile(request_, lambda _: addrs)
    for function, image, mask in zip(ours.functions, images, masks, strict=False):
        assert masked(function.code, mask) == masked(image, mask)
