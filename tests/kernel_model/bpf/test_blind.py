# SPDX-License-Identifier: GPL-2.0-only
"""Constant blinding: the shape of every replaced instruction, distances, and that meanings stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_model.bpf.blind import blind_constants, blind_imm64, blind_insn
from kernel_model.errors import KernelError
from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_MAP_FD
from kernel_model.isa.native import Subprog
from kernel_model.isa.table import TABLE
from kernel_model.verifier.api import FuncInfo, LineInfo, Stats, VerifiedProgram
from sim import Machine
from sim.diff.cases import Case, read_cases
from sim.diff.raw import RawRunner
from sim.userspace.bpf import Bpf

KEY = 0x1234_5678
XDP = 6
CAP_NET_ADMIN, CAP_BPF = 12, 39
CASES = Path(__file__).parents[2] / "cases"


def draw() -> int:
    return KEY


SHAPES = {
    "r1 += 7": "r11 = 305419903\nr11 ^= 305419896\nr1 += r11",
    "w3 *= -2": "w11 = -305419898\nw11 ^= 305419896\nw3 *= w11",
    "w3 = 0": "r3 ^= r3",
    "r3 = 0": "r3 ^= r3",
    "r4 s/= 5": "r11 = 305419901\nr11 ^= 305419896\nr4 s/= r11",
    "r1 <<= 7": "r1 <<= 7",
    "r1 ^= r2": "r1 ^= r2",
    "*(u8 *)(r10 -3) = 5": "r11 = 305419901\nr11 ^= 305419896\n*(u8 *)(r10 -3) = r11",
    "*(u64 *)(r7 +8) = 0": "r11 = 305419896\nr11 ^= 305419896\n*(u64 *)(r7 +8) = r11",
    "if r1 > 9 goto pc+4": "r11 = 305419889\nr11 ^= 305419896\nif r1 > r11 goto pc+4",
    "if w1 s< -1 goto pc+4": "w11 = -305419897\nw11 ^= 305419896\nif w1 s< w11 goto pc+4",
    "goto pc+3": "goto pc+3",
    "r0 = *(u32 *)(r1 +4)": "r0 = *(u32 *)(r1 +4)",
}


@pytest.mark.parametrize("text", SHAPES)
def test_shape(text: str) -> None:
    """Against kernel/bpf/core.c's rules: AX of the jump's or operation's width, then the register form."""
    (insn,) = assemble(text)
    assert blind_insn(insn, draw) == assemble(SHAPES[text])


def test_wide_constant() -> None:
    """The upper half first, in 64 bits, then the lower one in 32."""
    first, second = assemble("r6 = 0x1122334455667788 ll")
    upper, lower = blind_imm64(first, second, draw)
    assert upper == assemble("r11 = 51799356\nr11 ^= 305419896\nr11 <<= 32\nr6 = r11")
    assert lower == assemble("w11 = 1196564976\nw11 ^= 305419896\nr6 |= r11")
    function = first._replace(src=op.BPF_PSEUDO_FUNC)
    assert blind_imm64(function, second, draw) == ([function], [second])


def test_what_the_kernel_wrote_stays() -> None:
    for insn in assemble("r11 = 7\nr11 += 1\nif r11 == 0 goto pc+2"):
        assert blind_insn(insn, draw) == [insn]


def test_no_immediate_is_left() -> None:
    """Of arithmetic, comparisons and stores; shifts keep their counts."""
    left = set()
    for row in TABLE:
        insn = Insn(row.code, 1, 0, 0, 0x11223344)
        if op.bpf_class(row.code) in (op.BPF_ALU, op.BPF_ALU64, op.BPF_JMP, op.BPF_JMP32, op.BPF_ST):
            left |= {row.code for made in blind_insn(insn, draw) if made.imm == insn.imm and made == insn}
    kept = {klass | code for klass in (op.BPF_ALU, op.BPF_ALU64) for code in (0x60, 0x70, 0xC0)}
    with_meaning = {
        code for code in left if not code & 8 and code & 0xF0 not in (0x80, 0xD0, 0x00, 0x90, 0xE0)
    }
    assert kept <= with_meaning
    assert {code & 0xF0 for code in with_meaning if op.bpf_class(code) in (op.BPF_ALU, op.BPF_ALU64)} == {
        0x60,
        0x70,
        0xC0,
    }


def verified(text: str, *starts: int) -> VerifiedProgram:
    insns = tuple(assemble(text))
    bounds = [0, *starts, len(insns)]
    return VerifiedProgram(
        insns,
        tuple(Subprog(a, b) for a, b in itertools.pairwise(bounds)),
        (),
        (),
        tuple(range(len(insns))),
        Stats(),
        "",
        tuple(FuncInfo(start, 1) for start in bounds[:-1]),
        tuple(LineInfo(at, 0, 0, 0) for at in range(len(insns))),
    )


def test_distances() -> None:
    """Forwards over what grew, backwards from behind it, to itself, calls and far jumps."""
    before = verified(
        "if r1 == 1 goto pc+1\nr2 = 5\ncall pc+2\ngotol pc-4\nexit\nr0 = 9\nif r0 > 3 goto pc-2\nexit", 5
    )
    after = blind_constants(before, draw)
    place = [line.insn_off for line in after.line_info]
    assert place == [0, 3, 6, 7, 8, 9, 12, 15]
    assert after.insns[2].off == place[2] - 3
    assert after.insns[6].imm == place[5] - 7
    assert after.insns[7].imm == place[0] - 8
    assert after.insns[14].off == place[5] - 15
    assert [(each.start, each.end) for each in after.subprogs] == [(0, 9), (9, 16)]
    assert [each.insn_off for each in after.func_info] == [0, 9]
    assert after.orig_index == (0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 7)


def test_a_jump_that_gets_too_long() -> None:
    text = "\n".join(["goto pc+20000", *["r1 += 5"] * 20000, "exit"])
    with pytest.raises(KernelError, match="16 bits"):
        blind_constants(verified(text), draw)


@pytest.fixture(scope="module")
def hardened() -> Iterator[RawRunner]:
    with RawRunner(seed=3) as runner:
        runner.machine.kernel.sysctl.write("net/core/bpf_jit_harden", "2")
        yield runner


ALL = [case for path in sorted(CASES.glob("*.txt")) for case in read_cases(path.read_text(), path.name)]


@pytest.mark.parametrize("case", ALL[::5], ids=lambda case: case.name)
def test_cases_mean_the_same(hardened: RawRunner, case: Case) -> None:
    """Both engines run the blinded program and agree, and the result is the case's."""
    prog = hardened.load(case)
    assert prog.blinded and len(prog.verified.insns) > len(case.insns)
    prog.put(hardened.machine.kernel)
    finding = hardened.run(case)
    assert finding.agree, finding.headline()
    if case.r0 is not None:
        prog = hardened.load(case)
        assert hardened.record(prog, case, True).ending.r0 == case.r0
        prog.put(hardened.machine.kernel)


def loaded(machine: Machine, caps: set[int] | None = None) -> tuple[Bpf, int]:
    process = machine.process(uid=0 if caps is None else 1000)
    if caps is not None:
        process.task.caps = frozenset(caps)
    bpf = Bpf(process)
    return bpf, bpf.prog_load(XDP, assemble("r0 = 0x11223344\nr0 &= 0x7ffffff\nexit"))[0]


@pytest.mark.parametrize(
    ("harden", "caps", "blinded"),
    [
        ("0", {CAP_NET_ADMIN, CAP_BPF}, False),
        ("1", None, False),
        ("1", {CAP_NET_ADMIN, CAP_BPF}, False),
        ("2", {CAP_NET_ADMIN, CAP_BPF}, True),
        ("2", None, True),
    ],
)
def test_who_is_blinded(machine: Machine, harden: str, caps: set[int] | None, blinded: bool) -> None:
    """net.core.bpf_jit_harden: 1 spares who has CAP_BPF. What is blinded is shown to CAP_SYSLOG alone."""
    machine.kernel.sysctl.write("net/core/bpf_jit_harden", harden)
    bpf, fd = loaded(machine, caps)
    (prog,) = machine.kernel.progs
    assert prog.blinded == blinded
    assert (bytes.fromhex("44332211") in prog.jited()) == (not blinded)
    assert bpf.prog_test_run(fd, bytes(64)).retval == 0x11223344 & 0x7FFFFFF
    info, _ = bpf.obj_info(fd, "bpf_prog_info", xlated_prog_insns=4096)
    shown = not blinded or caps is None
    assert bool(info["xlated_prog_insns"]) == shown
    assert info["xlated_prog_len"] == 8 * (7 if blinded else 3)


def test_the_interpreter_is_not_blinded(machine: Machine) -> None:
    machine.kernel.sysctl.write("net/core/bpf_jit_harden", "2")
    machine.kernel.sysctl.write("net/core/bpf_jit_enable", "0")
    loaded(machine)
    assert [prog.blinded for prog in machine.kernel.progs] == [False]


def test_of_several_functions_the_dump_stays(machine: Machine) -> None:
    """jit_subprogs() blinds its copies; the program itself keeps its instructions, and tail calls are
    found by a table, since their sites would be numbers of the kernel's."""
    machine.kernel.sysctl.write("net/core/bpf_jit_harden", "2")
    bpf = Bpf(machine.process())
    progs = bpf.map_create(3, 4, 4, 2)
    text = "call pc+2\nr0 += 5\nexit\nr0 = 0x11223344\nexit"
    bpf.prog_load(XDP, assemble(text))
    bpf.prog_load(XDP, [*BPF_LD_MAP_FD(2, progs), *assemble("r3 = 1\ncall 12\nr0 = 7\nexit")])
    first, second = machine.kernel.progs
    assert first.xlated_len == 8 * 5 and len(first.verified.insns) == 9
    assert first.image is not None and bytes.fromhex("44332211") not in first.jited()
    assert second.image is not None and not second.image.pokes
