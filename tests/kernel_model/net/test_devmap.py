# SPDX-License-Identifier: GPL-2.0-only
"""Redirection through maps of devices, from card to card, on both engines."""

from __future__ import annotations

import pytest

from kernel_model.isa.asm import assemble
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError

XDP, BPF_XDP = 6, 37
DEVMAP, DEVMAP_HASH = 14, 25
LO, ETH0, ETH1 = 1, 2, 3
BROADCAST, EXCLUDE_INGRESS = 8, 16

# Key and flags are the packet's first bytes.
BY_PACKET = """
	r7 = *(u32 *)(r1 +0)
	r8 = *(u32 *)(r1 +4)
	r2 = r7
	r2 += 14
	r0 = 1
	if r2 > r8 goto out
	r2 = *(u8 *)(r7 +0)
	r3 = *(u8 *)(r7 +1)
	r1 = map_fd({fd}, 0)
	call 51
out:
	exit
"""


def frame(key: int, flags: int = 0, length: int = 60) -> bytes:
    return bytes([key, flags]) + bytes(range(length - 2))


def word(number: int) -> bytes:
    return number.to_bytes(4, "little")


class Router:
    """A map of devices and the program that redirects through it, on the first card."""

    def __init__(self, machine: Machine, bpf: Bpf, map_type: int, jit: bool) -> None:
        self.machine, self.bpf = machine, bpf
        self.fd = bpf.map_create(map_type, 4, 4, 8)
        prog = bpf.prog_load(XDP, assemble(BY_PACKET.format(fd=self.fd)))[0]
        machine.use_engine(jit=jit)
        bpf.link_create(prog, ETH0, BPF_XDP)

    def route(self, key: int, ifindex: int) -> None:
        self.bpf.map_update(self.fd, word(key), word(ifindex))

    def offer(self, *frames: bytes) -> tuple[list[bytes], list[bytes]]:
        """What the two cards sent on."""
        before = [len(self.machine.sent(card)) for card in (0, 1)]
        for each in frames:
            self.machine.nic[0].inject(each)
        self.machine.run_until_idle()
        first, second = (self.machine.sent(card)[start:] for card, start in zip((0, 1), before, strict=True))
        return first, second

    def errors(self) -> int:
        return self.machine.device(0).counter(self.machine.kernel, "xdp_redirect_err")


@pytest.fixture(params=[DEVMAP, DEVMAP_HASH], ids=["devmap", "devmap_hash"])
def router(machine: Machine, bpf: Bpf, engine: bool, request: pytest.FixtureRequest) -> Router:
    return Router(machine, bpf, request.param, engine)


def test_each_frame_goes_where_its_entry_says(router: Router) -> None:
    router.route(1, ETH1)
    router.route(5, ETH0)
    assert router.offer(frame(1), frame(5), frame(1, 0, 100)) == ([frame(5)], [frame(1), frame(1, 0, 100)])
    router.route(1, ETH0)
    assert router.offer(frame(1)) == ([frame(1)], [])
    assert router.errors() == 0


def test_no_entry_gives_the_verdict_in_the_flags(router: Router) -> None:
    passed = router.machine.kernel.net.passed
    assert router.offer(frame(2, 1), frame(2, 2), frame(200, 3)) == ([frame(200, 3)], [])
    assert router.machine.kernel.net.passed == passed + 1


def test_the_loopback_sends_no_xdp_frames(router: Router) -> None:
    router.route(1, LO)
    assert router.offer(frame(1)) == ([], [])
    assert router.errors() == 1


def test_broadcast(router: Router) -> None:
    """To every device that can take it; to all but the one that the frame came by, when asked."""
    router.route(0, ETH1)
    router.route(3, LO)
    router.route(4, ETH0)
    sent = frame(7, BROADCAST)
    assert router.offer(sent) == ([sent], [sent])
    sent = frame(7, BROADCAST | EXCLUDE_INGRESS)
    assert router.offer(sent) == ([], [sent])
    assert router.errors() == 0


def test_an_entry_that_is_gone(router: Router) -> None:
    router.route(1, ETH1)
    assert router.offer(frame(1, 1)) == ([], [frame(1, 1)])
    router.bpf.map_delete(router.fd, word(1))
    assert router.offer(frame(1, 1)) == ([], [])


def test_the_value_is_for_reading(machine: Machine, bpf: Bpf) -> None:
    """Programs may look an entry up; the verifier keeps them from writing to it."""
    fd = bpf.map_create(DEVMAP, 4, 4, 8)
    bpf.map_update(fd, word(1), word(ETH1))
    look = f"""
        r1 = 1
        *(u32 *)(r10 -4) = r1
        r1 = map_fd({fd}, 0)
        r2 = r10
        r2 += -4
        call 1
        if r0 == 0 goto out
        ACCESS
        exit
    out:
        r0 = 77
        exit
    """
    prog = bpf.prog_load(XDP, assemble(look.replace("ACCESS", "r0 = *(u32 *)(r0 +0)")))[0]
    assert bpf.prog_test_run(prog, bytes(64)).retval == ETH1
    with pytest.raises(SyscallError):
        bpf.prog_load(XDP, assemble(look.replace("ACCESS", "*(u32 *)(r0 +0) = r10")))
