# SPDX-License-Identifier: GPL-2.0-only
"""Kernel functions, open-coded iterators and regions: verdicts, and the log as the host's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from host_bpf import host_kernel
from kfunc_cases import PROGRAMS, REFUSED, with_ids
from test_host_verifier import Host, normal_log
from verifier_world import SCHED_CLS, XDP, check, code

from kernel_model.btf.parse import Btf
from kernel_model.btf.vmlinux import kernel_types
from kernel_model.verifier.env import ENOTSUPP

_VMLINUX = Path("/sys/kernel/btf/vmlinux")
_ID = re.compile(r"(?<=#)\d+|(?<=btf_id )\d+")
_PADDING = re.compile(r" +;")


@pytest.fixture(scope="module")
def host():  # type: ignore[no-untyped-def]
    made = Host()
    yield made
    made.close()


@pytest.fixture(scope="module")
def host_types() -> Btf:
    return Btf(_VMLINUX.read_bytes(), tolerant=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_verdicts(name: str) -> None:
    found = check(with_ids(PROGRAMS[name], kernel_types()), SCHED_CLS)
    assert (found.errno, found.reason) == REFUSED.get(name, (0, ""))


@host_kernel
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("prog_type", "flags"), [(SCHED_CLS, 0), (XDP, 8)], ids=["tc", "xdp, every state"])
def test_as_the_host(host: Host, host_types: Btf, name: str, prog_type: int, flags: int) -> None:
    """Ids of types differ, and so does the padding behind calls."""
    number, log, final = host.load(code(with_ids(PROGRAMS[name], host_types)), prog_type, 2, flags)
    found = check(with_ids(PROGRAMS[name], kernel_types()), prog_type, level=2, flags=flags)
    ours, theirs = (
        [_PADDING.sub(" ;", _ID.sub("ID", row)) for row in normal_log(text)] for text in (found.log, log)
    )
    assert ours == theirs
    assert found.errno == number
    assert len(found.program.insns if found.program is not None else ()) == len(final)


def test_only_compiled_programs_have_kfuncs() -> None:
    found = check(with_ids(PROGRAMS["rcu"], kernel_types()), jit=False)
    assert (found.errno, found.reason) == (ENOTSUPP, "JIT is required for calling kernel function")


def test_only_some_types_have_some() -> None:
    found = check(with_ids(PROGRAMS["skb"], kernel_types()), XDP)
    assert found.reason == "calling kernel function bpf_dynptr_from_skb is not allowed"
