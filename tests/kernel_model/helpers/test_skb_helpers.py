# SPDX-License-Identifier: GPL-2.0-only
"""Helpers of sk_buffs: the two engines against each other, and against the host's kernel."""

from __future__ import annotations

import errno

import pytest
from host_bpf import HostProcess, host_kernel
from run_cases import outcome
from skb_cases import SKB_CASES

from kernel_model.errors import NotModelled
from kernel_model.functions import call_impl
from kernel_model.isa.asm import assemble
from kernel_model.net.skb import build_skb
from kernel_model.net.skb_edit import Skb
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError


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
    assert {
        name for name, each in outcomes.items() if each["result"] not in (0, -errno.ENOSPC, -errno.EBADMSG)
    } == set()


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


def _redirecting(machine: Machine, bpf: Bpf, flags: int) -> bytes:
    """A packet goes out of device 2 by bpf_clone_redirect(), is then changed, and the run ends."""
    text = (
        f"r6 = r1\nr2 = 2\nr3 = {flags}\ncall 13\nr7 = r0\nr1 = r6\nr2 = 20\nr3 = 0\ncall 38\nr0 = r7\nexit"
    )
    fd = bpf.prog_load(3, assemble(text))[0]
    packet = bytes(range(64))
    result = bpf.prog_test_run(fd, packet)
    assert result.retval == 0 and result.data == packet[:20]
    return packet


def test_clone_redirect_sends_a_copy(engine: bool) -> None:
    with Machine.boot(nics=1) as machine:
        machine.use_engine(jit=engine)
        bpf = Bpf(machine.process())
        for _ in range(2):
            packet = _redirecting(machine, bpf, 0)
            machine.run_until_idle()
        assert machine.sent(0) == [packet, packet]
        assert machine.device(0).tx_copies == []


def test_clone_redirect_to_the_loopback_is_named(machine: Machine, bpf: Bpf) -> None:
    with pytest.raises(SyscallError):
        bpf.prog_test_run(bpf.prog_load(3, assemble("r2 = 1\nr3 = 0\ncall 13\nexit"))[0], bytes(64))
    assert "loopback" in str(machine.kernel.last_error)


def test_redirect_neigh_notes_the_next_hop(machine: Machine) -> None:
    kernel = machine.kernel
    params = kernel.alloc.kmalloc(24)
    kernel.memory.write(params, bytes(range(1, 25)))
    assert call_impl(kernel, "bpf_redirect_neigh", 7, params, 20, 0) == 7
    info, layout = kernel.per_cpu("bpf_redirect_info", 0), kernel.layout["bpf_redirect_info"]
    assert kernel.memory.read(info + layout.offset("nh"), 20) == bytes(range(1, 21))
    assert kernel.memory.u32(info + layout.offset("flags")) == 1 << 16 | 1 << 18
    assert kernel.memory.u64(info) == 7


def test_fragments_and_clones_are_named(machine: Machine) -> None:
    kernel = machine.kernel
    packet = build_skb(kernel, bytes(64), kernel.netdev(1), 1, bytes(6), pull_mac=False)
    skb = Skb(kernel, packet.addr)
    for member in ("data_len", "cloned"):
        skb.put(member, 1)
        with pytest.raises(NotModelled):
            call_impl(kernel, "bpf_skb_store_bytes", packet.addr, 0, packet.addr, 4, 0)
        skb.put(member, 0)
