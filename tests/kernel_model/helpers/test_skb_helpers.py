# SPDX-License-Identifier: GPL-2.0-only
"""Helpers of sk_buffs: the two engines against each other, and against the host's kernel."""

from __future__ import annotations

import pytest
from host_bpf import HostProcess, host_kernel
from run_cases import outcome
from skb_cases import SKB_CASES

from sim import Machine
from sim.userspace.bpf import Bpf


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, object]]:
    """Every case's outcome in the simulator, compiled; the interpreter's is the same."""
    found, different = {}, []
    with Machine.boot() as machine:
        bpf = Bpf(machine.process())
        for case in SKB_CASES:
            fd = bpf.prog_load(case.prog_type, case.program())[0]
            machine.use_engine(jit=True)
            found[case.name] = outcome(bpf.process, fd, case)
            machine.use_engine(jit=False)
            if outcome(bpf.process, fd, case) != found[case.name]:
                different.append(case.name)
            bpf.close(fd)
    assert different == []
    return found


def test_every_case_ran(outcomes: dict[str, dict[str, object]]) -> None:
    assert len(outcomes) == len(SKB_CASES), "names are unique"
    assert {name for name, each in outcomes.items() if each["result"] not in (0, -28)} == set()


@host_kernel
def test_the_host_agrees(outcomes: dict[str, dict[str, object]]) -> None:
    host = Bpf(HostProcess())
    different = {}
    for case in SKB_CASES:
        fd = host.prog_load(case.prog_type, case.program())[0]
        theirs = outcome(host.process, fd, case)
        if theirs != outcomes[case.name]:
            ours = outcomes[case.name]
            different[case.name] = {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}
        host.close(fd)
    assert different == {}
