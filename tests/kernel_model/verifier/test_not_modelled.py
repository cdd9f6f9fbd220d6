# SPDX-License-Identifier: GPL-2.0-only
"""What only the simulator refuses is told apart from what Linux refuses, by data and not by words."""

from __future__ import annotations

import pickle

import pytest
from verifier_world import MAPS, XDP, FakeMap, code, map_by_fd

from kernel_model.btf.layout import kernel_layout
from kernel_model.errors import KernelError, NotModelled
from kernel_model.isa.asm import assemble
from kernel_model.uapi.enums import bpf_map_type
from kernel_model.verifier.api import Environment, ProgramSpec, VerifierError, verify
from kernel_model.verifier.log import VerifierLog
from sim import Machine
from sim.job.witness import witnessed
from sim.userspace.bpf import Bpf, SyscallError


def refusal(text: str, prog_type: int = XDP) -> VerifierError:
    spec = ProgramSpec(tuple(code(text)), prog_type, map_by_fd)
    with pytest.raises(VerifierError) as refused:
        verify(spec, Environment(kernel_layout(), lambda name: 0xFFFFFFFF81000000), VerifierLog(1))
    return refused.value


def test_the_verifier_names_the_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAPS, "arena", FakeMap(bpf_map_type.BPF_MAP_TYPE_ARENA, 0, 0, 1, fd=40))
    error = refusal("r1 = map(arena)\nr0 = 0\nexit")
    assert error.not_modelled == "arenas"
    assert pickle.loads(pickle.dumps(error)).not_modelled == "arenas"
    assert refusal("exit").not_modelled == ""
    assert refusal("r0 = 0\nexit", 999).not_modelled == ""


def test_other_errors_name_it_likewise() -> None:
    assert NotModelled("tokens").not_modelled == "tokens"
    assert KernelError(22).not_modelled == ""


def test_the_reason_outlives_later_system_calls() -> None:
    with Machine.boot(nics=0) as machine:
        process = machine.process()
        insns = assemble("r0 = 0\nexit")
        with pytest.raises(NotModelled, match="tokens"), witnessed(process, "here") as witness:
            bpf = Bpf(witness)
            try:
                bpf.prog_load(XDP, insns, prog_flags=1 << 16)
            finally:
                fd, _ = bpf.prog_load(XDP, insns)
                bpf.close(fd)
        with pytest.raises(SyscallError), witnessed(process, "here") as witness:
            Bpf(witness).prog_load(XDP, assemble("exit"))
