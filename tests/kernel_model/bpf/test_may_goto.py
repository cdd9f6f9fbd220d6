# SPDX-License-Identifier: GPL-2.0-only
"""may_goto loops: both engines count alike over a look at the clock, and time ends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel_model.helpers.constants import TEXT_CONSTANTS
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_MAP_VALUE
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim import Machine
from sim.userspace.bpf import Bpf

ROUNDS = 70_000
LOOP = f"""
loop:
may_goto out
r1 = *(u64 *)(r7 +0)
r1 += 1
*(u64 *)(r7 +0) = r1
if r1 >= {ROUNDS} goto out
goto loop
out:
r0 = *(u32 *)(r7 +0)
exit
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine.boot(nics=0) as booted:
        yield booted


def test_both_engines_count_alike(machine: Machine) -> None:
    assert TEXT_CONSTANTS["CONST_MAX_TIMED_LOOPS"] < ROUNDS
    bpf = Bpf(machine.process())
    counter = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    insns: list[Insn] = [*BPF_LD_MAP_VALUE(7, counter, 0), *assemble(LOOP)]
    prog, _ = bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, insns)
    clocks = []
    for jit in (True, False):
        machine.use_engine(jit)
        bpf.map_update(counter, bytes(4), bytes(8))
        before = machine.clock.now()
        assert bpf.prog_test_run(prog, data=bytes(64)).retval == ROUNDS
        clocks.append(machine.clock.now() - before)
    assert clocks[0] == clocks[1] > TEXT_CONSTANTS["CONST_TIMED_LOOPS_COST_NS"]


def test_time_ends_a_loop(machine: Machine) -> None:
    kernel = machine.kernel
    layout = kernel.layout["bpf_timed_may_goto"]
    bound = kernel.alloc.kmalloc(layout.size)
    check = kernel.text.symbol("bpf_check_timed_may_goto")
    rounds = TEXT_CONSTANTS["CONST_MAX_TIMED_LOOPS"]
    assert kernel.cpu.call(check, bound) == rounds
    assert kernel.memory.u64(bound + layout.offset("timestamp")) == kernel.clock.now()
    kernel.clock.advance(TEXT_CONSTANTS["CONST_TIMED_LOOPS_LIMIT_NS"] // 2)
    assert kernel.cpu.call(check, bound) == rounds
    kernel.clock.advance(TEXT_CONSTANTS["CONST_TIMED_LOOPS_LIMIT_NS"] // 2)
    assert kernel.cpu.call(check, bound) == 0
