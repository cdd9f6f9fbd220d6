# SPDX-License-Identifier: GPL-2.0-only
"""The errno of bpf(2) calls, case by case: the simulator's and the host's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from bpf_error_cases import CASES, Case, World
from host_bpf import HostProcess, host_kernel

from sim import Machine


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Machine.boot() as machine:
        yield World(machine.process(), other_fd=0)


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    null = os.open("/dev/null", os.O_RDONLY)
    yield World(HostProcess(), other_fd=null)
    os.close(null)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_errno(case: Case, world: World) -> None:
    assert world.answer(case) == case.expected, world.process.last_error


@host_kernel
def test_the_host_answers_the_same(host: World) -> None:
    different = {
        case.name: (got, case.expected) for case in CASES if (got := host.answer(case)) != case.expected
    }
    assert different == {}


def test_refused_calls_leave_nothing_behind(world: World) -> None:
    """Everything twice: what the first round left alive for good, the second finds."""
    kernel = world.process._machine.kernel

    def alive() -> tuple[int, int, int, int]:
        return (
            len(kernel.maps),
            len(kernel.progs),
            len(kernel.alloc.live_objects()),
            len(kernel.text.symbols()),
        )

    for case in CASES:
        world.answer(case)
    before = alive()
    for case in CASES:
        world.answer(case)
    assert alive() == before
