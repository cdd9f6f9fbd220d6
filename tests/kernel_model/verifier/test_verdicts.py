# SPDX-License-Identifier: GPL-2.0-only
"""Programs are accepted or refused for the kernel's reasons; whatever comes in, a verdict comes out."""

from __future__ import annotations

import random

import pytest
from accept_reject import CASES, Case, lookup
from verifier_world import KPROBE, ONLY_BPF, SCHED_CLS, SOCKET_FILTER, UNPRIVILEGED, XDP, check

from kernel_model.isa.insn import Insn, decode
from kernel_model.isa.table import TABLE
from kernel_model.uapi.enums import bpf_func_id
from kernel_model.verifier.api import VerifierError


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: Case) -> None:
    found = check(case.text, case.prog_type)
    assert (found.errno, found.reason) == (case.errno, case.reason), found.log
    assert "processed " in found.log.splitlines()[-1]


def test_log_tells_registers_and_path() -> None:
    found = check("r6 = *(u32 *)(r1 + 16)\nif r6 == 7 goto pc+1\nr6 = 1\nr0 = r6\nexit", level=2)
    assert found.errno == 0
    assert [text.rstrip() for text in found.log.splitlines()[7:]] == [
        "0: R1=ctx() R10=fp0",
        "0: (61) r6 = *(u32 *)(r1 +16)         ; R1=ctx() R6=scalar(smin=0,smax=umax=0xffffffff,"
        "var_off=(0x0; 0xffffffff))",
        "1: (15) if r6 == 0x7 goto pc+1        ; R6=scalar(smin=0,smax=umax=0xffffffff,"
        "var_off=(0x0; 0xffffffff))",
        "2: (b7) r6 = 1                        ; R6=1",
        "3: (bf) r0 = r6                       ; R0=1 R6=1",
        "4: (95) exit",
        "",
        "from 1 to 3: R1=ctx() R6=7 R10=fp0",
        "3: R1=ctx() R6=7 R10=fp0",
        "3: (bf) r0 = r6                       ; R0=7 R6=7",
        "4: (95) exit",
        "processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0",
    ]


@pytest.mark.parametrize(
    ("text", "privileges", "reason"),
    [
        ("r0 = r10\nexit", UNPRIVILEGED, "R0 leaks addr as return value"),
        ("call pc+1\nexit\nr0 = 0\nexit", UNPRIVILEGED, "loading/calling other bpf or kernel functions are "
         "allowed for CAP_BPF and CAP_SYS_ADMIN"),
        ("loop:\ncall 5\nif r0 != 0 goto loop\nexit", UNPRIVILEGED, "back-edge from insn 1 to 0"),
        ("if r1 == r10 goto pc+0\nr0 = 0\nexit", UNPRIVILEGED, "R10 pointer comparison prohibited"),
        (lookup("array") + "if r0 == 0 goto pc+1\n*(u64 *)(r0 + 0) = r10\nr0 = 0\nexit", ONLY_BPF,
         "R10 leaks addr into map"),
    ],
)  # fmt: skip
def test_without_capabilities(text: str, privileges: object, reason: str) -> None:
    allowed = check(text, SOCKET_FILTER)
    found = check(text, SOCKET_FILTER, privileges=privileges)  # type: ignore[arg-type]
    assert found.errno != 0
    assert found.reason.endswith(reason), found.log
    assert allowed.errno == 0 or allowed.reason != found.reason


@pytest.mark.campaign
def test_million_instructions_are_the_limit() -> None:
    found = check("r1 = 0\nloop:\nr1 += 1\nif r1 < 600000 goto loop\nr0 = 0\nexit", level=0)
    assert (found.errno, found.reason) == (7, "BPF program is too large. Processed 1000001 insn")


def test_unmodelled_helpers_are_named() -> None:
    found = check(f"call {int(bpf_func_id.BPF_FUNC_fib_lookup)}\nexit")
    assert found.errno == 22
    assert "not modelled" in found.reason and "bpf_fib_lookup" in found.reason


def test_unmodelled_program_types_are_named() -> None:
    found = check("r0 = 0\nexit", 27)
    assert (found.errno, found.reason) == (22, "program type struct_ops is not modelled")


def _noise(rng: random.Random) -> list[Insn]:
    return decode(rng.randbytes(8 * rng.randrange(1, 12)))


CODES = [row.code for row in TABLE]


def _plausible(rng: random.Random) -> list[Insn]:
    """Known opcodes and small fields: most get past the first checks."""
    out = []
    for _ in range(rng.randrange(1, 14)):
        code = rng.choice(CODES)
        dst, src = rng.randrange(11), rng.choice((0, 0, rng.randrange(11)))
        off = rng.choice((0, 0, 0, 1, -8, -4, rng.randrange(-9, 9)))
        imm = rng.choice((0, 0, 1, 8, 16, -1, rng.randrange(-(1 << 31), 1 << 31)))
        out.append(Insn(code, dst, src, off, imm))
        if code == 0x18:
            out.append(Insn(0, 0, 0, 0, imm))
    return [*out, Insn(0xB7, 0), Insn(0x95)]


@pytest.mark.parametrize("make", [_noise, _plausible])
def test_any_bytes_end_in_a_verdict(make: object) -> None:
    rng = random.Random(1)
    verdicts = set()
    for _ in range(1500):
        insns = make(rng)  # type: ignore[operator]
        found = check(insns, rng.choice((XDP, SOCKET_FILTER, SCHED_CLS, KPROBE)), level=rng.choice((0, 2)))
        verdicts.add(found.errno)
    assert verdicts & {13, 22}


def test_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(VerifierError(13, "R0 !read_ok", "log", 4)))
    assert (error.errno, error.reason, error.log, error.insn) == (13, "R0 !read_ok", "log", 4)
