# SPDX-License-Identifier: GPL-2.0-only
"""The program that runs: rewrites, functions, direct tail calls, and where everything came from."""

from __future__ import annotations

import pytest
from accept_reject import PACKET, lookup
from rewrites import REWRITES
from verifier_world import MAPS, ONLY_BPF, SOCKET_FILTER, UNPRIVILEGED, XDP, check

from kernel_model.isa import opcodes as op
from kernel_model.verifier.api import LineInfo


@pytest.mark.parametrize("name", REWRITES)
def test_rewrite(name: str) -> None:
    prog_type, text, expected = REWRITES[name]
    found = check(text, prog_type)
    assert found.xlated() == expected


def test_origins_of_instructions() -> None:
    found = check("r0 = *(u32 *)(r1 + 16)\nr2 = r0\nr0 /= r2\nexit").program
    assert found is not None
    assert found.orig_index == (0, 0, 1, 2, 2, 2, 2, 3)


def test_line_info_moves_along() -> None:
    lines = [LineInfo(at, 0, 0, at << 10) for at in (0, 1, 2, 4)]
    text = "r0 = 1\nif r0 == 1 goto good\nr0 = 7\nr0 += 1\ngood:\nr1 = *(u32 *)(r1 + 16)\nexit"

    class Names:
        def func_name(self, type_id: int) -> str:
            return "main"

        def func_linkage(self, type_id: int) -> int:
            return 1

        def func_params(self, type_id: int) -> list[tuple[str, str, int]]:
            return [("ctx", "ctx", 0)]

        def func_returns(self, type_id: int) -> str:
            return "int"

        def string(self, off: int) -> str:
            return "source line"

        def has_string(self, off: int) -> bool:
            return True

    found = check(text, line_info=lines, btf=Names())
    assert found.program is not None, found.log
    assert [(info.insn_off, info.line_col >> 10) for info in found.program.line_info] == [(0, 0), (1, 4)]


def test_functions_and_their_stacks() -> None:
    found = check("*(u64 *)(r10 - 16) = 1\ncall pc+1\nexit\n*(u8 *)(r10 - 3) = 1\nr0 = 1\nexit").program
    assert found is not None
    assert [(sub.start, sub.end, sub.stack_depth) for sub in found.subprogs] == [(0, 3, 16), (3, 6, 8)]
    assert found.insns[1].src == op.BPF_PSEUDO_CALL and found.insns[1].imm == 1


def test_direct_tail_call() -> None:
    text = "r2 = map(progs)\nr3 = 2\ncall 12\nr0 = *(u32 *)(r6 + 16)\nexit"
    found = check("r6 = r1\n" + text).program
    assert found is not None
    (poke,) = found.pokes
    assert (poke.insn, poke.map_addr, poke.key) == (4, MAPS["progs"].addr, 2)
    assert found.insns[4].code == op.TAIL_CALL and found.insns[4].imm == 1
    assert found.flags["cb_access"]
    assert found.subprogs[0].has_tail_call


def test_tail_call_with_unknown_key_is_indirect() -> None:
    found = check("r3 = *(u32 *)(r1 + 16)\nr2 = map(progs)\ncall 12\nr0 = 0\nexit").program
    assert found is not None
    assert found.pokes == ()
    assert [insn.imm for insn in found.insns if insn.code == op.TAIL_CALL] == [0]


def test_interpreter_gets_plain_helper_calls() -> None:
    found = check(lookup("array") + "r0 = 0\nexit", jit=False)
    assert "call bpf_map_lookup_elem" in found.xlated()


def test_maps_in_use() -> None:
    found = check(lookup("array") + lookup("hash") + lookup("array") + "r0 = 0\nexit").program
    assert found is not None
    assert [used.id for used in found.used_maps] == [MAPS["array"].id, MAPS["hash"].id]


def test_pointer_arithmetic_is_masked_without_perfmon() -> None:
    text = (
        "r0 = *(u32 *)(r1 + 0)\nr7 = r0\nr7 &= 31\n" + lookup("array") + "if r0 == 0 goto out\nr0 += r7\n"
        "r7 = *(u8 *)(r0 + 0)\nout:\nr0 = 0\nexit"
    )
    plain = check(text, SOCKET_FILTER).xlated()
    masked = check(text, SOCKET_FILTER, privileges=ONLY_BPF).xlated()
    at = masked.index("w11 = 31")
    assert masked[at : at + 8] == [
        "w11 = 31", "r11 -= r7", "r11 |= r7", "r11 = -r11", "r11 s>>= 63", "r11 &= r7", "r0 += r11",
        "r7 = *(u8 *)(r0 +0)",
    ]  # fmt: skip
    assert "w11 = 31" not in plain


def test_unreached_code_becomes_a_trap_without_bpf() -> None:
    text = "r0 = 1\nif r0 == 1 goto good\nr0 = 7\ngood:\nexit"
    assert check(text, SOCKET_FILTER, privileges=UNPRIVILEGED).xlated() == [
        "r0 = 1", "if r0 == 0x1 goto pc+1", "goto pc-1", "exit",
    ]  # fmt: skip
    assert check(text, SOCKET_FILTER).xlated() == ["r0 = 1", "exit"]


def test_packet_programs_keep_their_loads() -> None:
    found = check(PACKET + "r0 = *(u16 *)(r2 + 12)\nout:\nr0 = 2\nexit", XDP)
    assert "r0 = *(u16 *)(r2 +12)" in found.xlated()
