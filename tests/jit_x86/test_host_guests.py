# SPDX-License-Identifier: GPL-2.0-only
"""The bundled guests, compiled by clang: our images are the host kernel's."""

from __future__ import annotations

import itertools
from pathlib import Path

import host_bpf
import pytest
from host_reference import HostImage, compare
from test_byte_forms import SHARE, share_of_byte_forms

import guests
from sim.userspace.loader import load
from sim.userspace.object import read_object

OBJECTS = sorted(path for path in Path(guests.__file__).parent.rglob("*.o") if path.parent.name != "rejected")
INDIRECT = {"xdp_filter.o"}
"""Objects whose tail calls take an index that is not constant."""


def images(path: Path) -> list[HostImage]:
    """Each program of the object as the host's JIT compiled it, and as ours does."""
    direct = itertools.repeat(path.name not in INDIRECT)
    with load(host_bpf.HostProcess(), read_object(path), log_level=host_bpf.BPF_LOG_STATS) as loaded:
        return [compare(host_bpf.Loaded(prog.fd, prog.log), direct=direct) for prog in loaded.progs.values()]


@host_bpf.host_kernel
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_guest(path: Path) -> None:
    for result in images(path):
        assert not result.differences, "\n".join(result.differences)


@host_bpf.host_kernel
def test_share_of_byte_forms_in_the_guests() -> None:
    requests = [result.request for path in OBJECTS for result in images(path)]
    share, forms = share_of_byte_forms(requests)
    print(f"byte forms: {share:.2%} {dict(forms)}")
    assert share <= SHARE
