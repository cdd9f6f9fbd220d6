# SPDX-License-Identifier: GPL-2.0-only
"""The conformance cases on the interpreter, in all its variants, and on the host's kernel."""

from __future__ import annotations

import os

import host_bpf
import pytest
from cases import UNMAPPED, Case, load_cases
from fake_memory import DATA, STACK_TOP, FakeMemory

from kernel_model.interpreter import Interpreter, InterpreterFault, Program
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.macros import (
    BPF_ALU64_IMM,
    BPF_CALL_REL,
    BPF_EXIT_INSN,
    BPF_LD_IMM64,
    BPF_MOV64_IMM,
    BPF_MOV64_REG,
    BPF_STX_MEM,
    program,
)
from kernel_model.isa.opcodes import BPF_ADD, BPF_DW, BPF_RSH
from kernel_model.isa.table import TABLE, Origin, row_for

CASES = load_cases()


def as_program(case: Case) -> Program:
    subprogs = case.subprogs()
    return Program(case.insns, subprogs, tuple((s.stack_depth + 7) & ~7 for s in subprogs), name=case.name)


def run(case: Case, **options: object) -> tuple[int | str, bytes]:
    """R0 or the kind of fault, and the memory afterwards."""
    memory = FakeMemory({DATA: case.mem})
    args = (DATA, len(case.mem)) if case.mem else ()
    try:
        r0: int | str = Interpreter(memory).run(as_program(case), args, STACK_TOP, **options)  # type: ignore[arg-type]
    except InterpreterFault as fault:
        return fault.kind, b""
    return r0, memory.read(DATA, len(case.mem))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    result, after = run(case)
    if case.fault:
        assert result == case.fault
        return
    assert isinstance(result, int)
    assert f"{result:#x}" == f"{case.r0:#x}"
    if case.after is not None:
        assert after == case.after


@pytest.mark.parametrize("case", CASES, ids=str)
def test_variants_agree(case: Case) -> None:
    steps: list[int] = []
    observed = run(case, observer=lambda program, slot, regs: steps.append(slot))
    assert observed == run(case, budget=100_000) == run(case)
    assert steps, "at least the exit is observed"


def test_cases_cover_every_instruction() -> None:
    used = set()
    for case in CASES:
        for insn in case.insns:
            row = row_for(insn, internal=True)
            if row is not None:
                used.add(row.name)
    # Covered by tests of their own: calls out of the program and what stands for kernel objects.
    elsewhere = ("LD_IMM_DW_", "JMP_CALL", "JMP_TAIL_CALL", "JMP_JCOND", "LD_ABS_", "LD_IND_", "MOV_PERCPU")
    arena = ("ADDR_SPACE_CAST", "LDX_PROBE_MEM32", "STX_PROBE_MEM32", "ST_PROBE_MEM32", "STX_PROBE_ATOMIC")
    missing = {
        row.name
        for row in TABLE
        if row.origin is not Origin.INVALID and not row.name.startswith(elsewhere + arena)
    }
    assert missing - used == set()
    assert len(CASES) >= 150


def test_nothing_is_mapped_at_the_unmapped_address() -> None:
    with pytest.raises(InterpreterFault):
        Interpreter(FakeMemory()).run(
            Program.of(program(BPF_LD_IMM64(1, UNMAPPED), Insn(0x79, 0, 1), BPF_EXIT_INSN())), (), STACK_TOP
        )


# ---- the host's kernel -------------------------------------------------------------------------


def _for_host(case: Case, shift: int) -> list[Insn]:
    """A socket filter that puts the memory on its stack, calls the case and returns one half of R0."""
    size = (len(case.mem) + 7) & ~7
    padded = case.mem.ljust(size, b"\0")
    main: list[Insn] = []
    for at in range(0, size, 8):
        main += BPF_LD_IMM64(3, int.from_bytes(padded[at : at + 8], "little"))
        main.append(BPF_STX_MEM(BPF_DW, 10, 3, at - size))
    main += [BPF_MOV64_REG(1, 10), BPF_ALU64_IMM(BPF_ADD, 1, -size)] if size else [BPF_MOV64_IMM(1, 0)]
    main.append(BPF_MOV64_IMM(2, len(case.mem)))
    return [*main, BPF_CALL_REL(2), BPF_ALU64_IMM(BPF_RSH, 0, shift), BPF_EXIT_INSN(), *case.insns]


def _on_host(insns: list[Insn]) -> int | None:
    """The result's low 32 bits, None when the host's verifier refuses the program."""
    try:
        fd = host_bpf.prog_load(encode(insns))
    except host_bpf.HostRefused:
        return None
    try:
        return host_bpf.test_run(fd).retval
    finally:
        os.close(fd)


@host_bpf.host_kernel
def test_host_agrees() -> None:
    judged, refused = 0, []
    for case in CASES:
        internal = any(row_for(i) is None and row_for(i, internal=True) for i in case.insns)
        if case.host or case.r0 is None or internal:
            continue
        low, high = _on_host(_for_host(case, 0)), _on_host(_for_host(case, 32))
        if low is None or high is None:
            refused.append(case.name)
            continue
        judged += 1
        assert f"{low | high << 32:#x}" == f"{case.r0:#x}", case.name
    assert judged >= 250, refused
    assert not refused
