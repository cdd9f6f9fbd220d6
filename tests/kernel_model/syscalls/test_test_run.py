# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_TEST_RUN: what comes out, on both engines and on the host."""

from __future__ import annotations

import pytest
from host_bpf import HostProcess, host_kernel
from run_cases import RUN_CASES, XDP, RunCase, outcome

from kernel_model.isa.asm import assemble
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError


@pytest.mark.parametrize("case", RUN_CASES, ids=lambda case: case.name)
def test_engines_agree(case: RunCase, machine: Machine, bpf: Bpf) -> None:
    fd = bpf.prog_load(case.prog_type, case.program())[0]
    jit = outcome(bpf.process, fd, case)
    machine.use_engine(jit=False)
    assert outcome(bpf.process, fd, case) == jit
    assert jit["result"] == 0


@host_kernel
def test_the_host_gives_the_same(bpf: Bpf) -> None:
    host = Bpf(HostProcess())
    different = {}
    for case in RUN_CASES:
        here, there = (each.prog_load(case.prog_type, case.program())[0] for each in (bpf, host))
        ours, theirs = outcome(bpf.process, here, case), outcome(host.process, there, case)
        different |= {case.name: (ours, theirs)} if ours != theirs else {}
        bpf.close(here)
        host.close(there)
    assert different == {}


def test_duration_is_simulated_time(machine: Machine, bpf: Bpf) -> None:
    """ktime_get_ns takes time; the mean of the runs is the same on both engines, run after run."""
    fd = bpf.prog_load(XDP, assemble("call 5\nr0 = 1\nexit"))[0]
    means = []
    for jit in (True, True, False):
        machine.use_engine(jit=jit)
        means.append(bpf.prog_test_run(fd, bytes(64), repeat=7).duration)
    assert len(set(means)) == 1


def test_many_repeats_are_one_run(bpf: Bpf) -> None:
    fd = bpf.prog_load(XDP, assemble("r0 = 1\nexit"))[0]
    assert bpf.prog_test_run(fd, bytes(64), repeat=100_000).retval == 1


def test_fragments_are_named(machine: Machine, bpf: Bpf) -> None:
    fd = bpf.prog_load(XDP, assemble("r0 = 1\nexit"))[0]
    with pytest.raises(SyscallError):
        bpf.prog_test_run(fd, bytes(4000))
    assert "fragments" in str(machine.kernel.last_error)
    assert bpf.prog_test_run(fd, bytes(3520)).retval == 1


def test_a_redirect_of_a_test_run_is_forgotten(machine: Machine, bpf: Bpf) -> None:
    """A later packet whose program redirects without naming a target goes nowhere."""
    redirect = bpf.prog_load(XDP, assemble("r1 = 3\nr2 = 0\ncall 23\nexit"))[0]
    assert bpf.prog_test_run(redirect, bytes(64)).retval == 4
    bare = bpf.prog_load(XDP, assemble("r0 = 4\nexit"))[0]
    bpf.link_create(bare, 2, 37)
    machine.nic[0].inject(bytes(64))
    machine.run_until_idle()
    assert machine.sent(1) == []
    assert machine.device(0).counter(machine.kernel, "xdp_redirect_err") == 1
