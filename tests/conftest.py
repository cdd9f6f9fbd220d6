# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sim import Machine
from sim.userspace.bpf import Bpf


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine just booted."""
    with Machine.boot() as booted:
        yield booted


@pytest.fixture
def bpf(machine: Machine) -> Bpf:
    """bpf(2) in a process of that machine (``bpf.process``)."""
    return Bpf(machine.process())


@pytest.fixture(params=[True, False], ids=["jit", "interpreter"])
def engine(request: pytest.FixtureRequest) -> bool:
    """Each engine in turn: is it the JIT?"""
    return bool(request.param)
