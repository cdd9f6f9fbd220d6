# SPDX-License-Identifier: GPL-2.0-only
"""Loads that may fault (BPF_PROBE_MEM): the exception table of a program's image, on both engines.

The verifier makes such loads of pointers into kernel structures; here they are written directly, so that
the addresses can be as bad as they come.
"""

from __future__ import annotations

import pytest

from kernel_model.bpf.prog import BpfProg
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Subprog
from kernel_model.verifier.api import ProgramSpec, Stats, VerifiedProgram
from sim import Machine
from sim.hardware import address_map as where

VALUE = 0x8899_AABB_CCDD_EEFF
SIZES = {op.BPF_B: 0xFF, op.BPF_H: 0xEEFF, op.BPF_W: 0xCCDD_EEFF, op.BPF_DW: VALUE}


def install(machine: Machine, insns: list[Insn]) -> BpfProg:
    verified = VerifiedProgram(
        tuple(insns), (Subprog(0, len(insns)),), (), (), tuple(range(len(insns))), Stats(), ""
    )

    def no_map(_fd: int) -> object:
        raise AssertionError

    spec = ProgramSpec(tuple(insns), 1, no_map)  # type: ignore[arg-type]
    return BpfProg(machine.kernel, spec, verified, [], 0)


def probe(size: int, dst: int = 0, off: int = 0, mode: int = op.BPF_PROBE_MEM) -> list[Insn]:
    """R0 = what lies at the address in R1, by way of ``dst``."""
    code = [
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 2, 1, 0, 0),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_K, dst, 0, 0, 5),
        Insn(op.BPF_LDX | mode | size, dst, 2, off, 0),
    ]
    if dst:
        code.append(Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 0, dst, 0, 0))
    return [*code, Insn(op.BPF_JMP | op.BPF_EXIT, 0, 0, 0, 0)]


def run(machine: Machine, prog: BpfProg, addr: int) -> int:
    kernel = machine.kernel
    return kernel.cpu.call(prog.bpf_func(kernel), addr, prog.insnsi(kernel))


@pytest.fixture
def place(machine: Machine) -> int:
    addr = machine.kernel.alloc.kmalloc(64)
    machine.kernel.memory.put_u64(addr + 16, VALUE)
    return addr + 16


BAD = {
    "null": 0,
    "user": 0x7F00_0000_0000,
    "guard page": where.VMALLOC_START,
    "hole": 0xFFFF_F000_0000_0000,
    "behind the direct map": where.DIRECT_MAP + (1 << 40),
    "vsyscall": 0xFFFF_FFFF_FF60_0000,
    "last": (1 << 64) - 8,
}


@pytest.mark.parametrize("size", SIZES, ids=["u8", "u16", "u32", "u64"])
def test_good_addresses_are_read(machine: Machine, place: int, engine: bool, size: int) -> None:
    prog = install(machine, probe(size, off=-4))
    machine.use_engine(jit=engine)
    assert run(machine, prog, place + 4) == SIZES[size]


@pytest.mark.parametrize("bad", BAD)
def test_bad_addresses_read_zero(machine: Machine, place: int, engine: bool, bad: str) -> None:
    """Again and again, in every destination register, and good ones in between."""
    progs = [install(machine, probe(op.BPF_DW, dst)) for dst in (0, 1, 3, 5, 7, 9)]
    machine.use_engine(jit=engine)
    for prog in progs * 2:
        assert run(machine, prog, BAD[bad]) == 0
        assert run(machine, prog, place) == VALUE


def test_sign_extending_probes(machine: Machine, place: int, engine: bool) -> None:
    prog = install(machine, probe(op.BPF_B, mode=op.BPF_PROBE_MEMSX))
    machine.use_engine(jit=engine)
    assert run(machine, prog, place) == (1 << 64) - 1
    assert run(machine, prog, 0) == 0


def test_the_table_goes_with_the_program(machine: Machine, engine: bool) -> None:
    prog = install(machine, probe(op.BPF_DW))
    assert len(machine.kernel.extable) == 1
    prog.put(machine.kernel)
    assert machine.kernel.extable == {}


def test_dumps_show_the_load_that_was_written(machine: Machine) -> None:
    """User space sees BPF_MEM, as bpf_insn_prepare_dump() makes it."""
    prog = install(machine, probe(op.BPF_DW))
    assert prog.xlated(machine.kernel)[16] == op.BPF_LDX | op.BPF_MEM | op.BPF_DW
