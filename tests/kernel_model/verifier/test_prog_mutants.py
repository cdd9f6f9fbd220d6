# SPDX-License-Identifier: GPL-2.0-only
"""Every bundled program with one instruction changed: the host's verdict, errno and message."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from host_bpf import host_kernel
from host_process import HostProcess
from load_requests import Kernel, bundled, mutate_insn, requests

from sim import Machine

_LONG = 20_000


def _mutants(machine: Machine, path: Path, each: int, seed: str) -> Counter[str]:
    """Counts for ``each`` mutants of every program of an object; differences by name."""
    here, there = Kernel(machine.process(), path), Kernel(HostProcess(), path)
    out: Counter[str] = Counter()
    for which, base in enumerate(requests(here.spec)):
        for number in range(each):
            rng = random.Random(f"{path.name} {which} {number} {seed}")
            mutant = replace(base, insns=mutate_insn(base.insns, rng))
            host = there.load(mutant, 1)
            if host.processed > _LONG:
                out["too long"] += 1
                continue
            found = here.load(mutant, 1)
            out["mutants"] += 1
            out["accepted"] += host.errno == 0
            out["errno"] += host.errno == found.errno
            if host.errno and not found.errno:
                out[f"false accept: {which} {number} {host.last}"] += 1
            elif host.errno != found.errno:
                out[f"different: {which} {number} {host.last} / {found.last}"] += 1
            elif host.errno:
                out["message"] += host.last == found.last
            else:
                out["processed"] += host.processed == found.processed
    here.close()
    there.close()
    return out


@host_kernel
def test_some_mutants(machine: Machine) -> None:
    out = _mutants(machine, bundled()[-1], 4, "sample")
    assert out["errno"] == out["mutants"]


@host_kernel
@pytest.mark.campaign
def test_mutants_of_every_program(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    out: Counter[str] = Counter()
    for path in bundled():
        out += _mutants(machine, path, 20, "campaign")
    with capsys.disabled():
        print("\n", dict(out))
    assert out["errno"] >= 0.99 * out["mutants"]
    assert not [key for key in out if key.startswith("false accept")]
