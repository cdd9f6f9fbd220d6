# SPDX-License-Identifier: GPL-2.0-only
"""Dynptrs on the stack: verdicts, and the whole log as the host's kernel writes it."""

from __future__ import annotations

import pytest
from host_bpf import host_kernel
from object_cases import DYNPTRS, ObjectCase
from test_host_verifier import Host, assert_equal
from verifier_world import SCHED_CLS, XDP, check, code

by_name = pytest.mark.parametrize("case", DYNPTRS, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def host():  # type: ignore[no-untyped-def]
    made = Host()
    yield made
    made.close()


@by_name
def test_dynptr_verdicts(case: ObjectCase) -> None:
    found = check(case.text)
    assert (found.errno, found.reason) == (case.errno, case.message)


@host_kernel
@by_name
@pytest.mark.parametrize(("prog_type", "flags"), [(XDP, 0), (SCHED_CLS, 8)], ids=["xdp", "tc, every state"])
def test_dynptrs_as_the_host(host: Host, case: ObjectCase, prog_type: int, flags: int) -> None:
    assert_equal(host, code(case.text), prog_type, 2, flags)
