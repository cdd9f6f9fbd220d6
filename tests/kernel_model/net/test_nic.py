# SPDX-License-Identifier: GPL-2.0-only
"""Packets through the emulated cards: verdicts, rings, redirection; on both engines."""

from __future__ import annotations

import pytest

from kernel_model.isa.asm import assemble
from kernel_model.net.device import RX_RING, TX_RING
from sim import Machine
from sim.userspace.bpf import Bpf

XDP, BPF_XDP = 6, 37
ABORTED, DROP, PASS, TX, REDIRECT = range(5)
ETH0, ETH1 = 2, 3

# The verdict is the packet's first byte.
BY_FIRST_BYTE = """
r2 = *(u32 *)(r1 +0)
r3 = *(u32 *)(r1 +4)
r4 = r2
r4 += 14
r0 = 0
if r4 > r3 goto pc+1
r0 = *(u8 *)(r2 +0)
exit
"""


def verdict(value: int) -> str:
    return f"r0 = {value}\nexit"


def redirect(ifindex: int) -> str:
    return f"r1 = {ifindex}\nr2 = 0\ncall 23\nexit"


def attach(machine: Machine, bpf: Bpf, text: str, jit: bool, device: int = ETH0) -> int:
    fd = bpf.prog_load(XDP, assemble(text))[0]
    machine.use_engine(jit=jit)
    return bpf.link_create(fd, device, BPF_XDP)


def frame(first: int = 0, number: int = 0, length: int = 60) -> bytes:
    return bytes([first]) + bytes(13) + number.to_bytes(4, "little") + bytes(length - 18)


def offer(machine: Machine, frames: list[bytes], card: int = 0) -> int:
    for each in frames:
        machine.nic[card].inject(each)
    return machine.run_until_idle()


def counter(machine: Machine, name: str, card: int = 0) -> int:
    return machine.device(card).counter(machine.kernel, name)


def test_no_program_passes(machine: Machine) -> None:
    assert offer(machine, [frame()] * 3) == 3
    assert machine.device(0).verdicts == {PASS: 3}
    assert machine.kernel.net.passed == 3


def test_each_verdict(machine: Machine, bpf: Bpf, engine: bool) -> None:
    attach(machine, bpf, BY_FIRST_BYTE, engine)
    machine.device(0).outcomes = []
    frames = [frame(value, number) for number, value in enumerate((0, 1, 2, 3, 5, 255, 2))]
    offer(machine, frames)
    outcomes = machine.device(0).outcomes
    assert [(each.verdict, each.frame) for each in outcomes] == [(f[0], f) for f in frames]
    assert machine.sent(0) == [frames[3]]
    assert machine.kernel.net.passed == 2
    assert counter(machine, "xdp_exceptions") == 3, "ABORTED and the two unknown verdicts"
    assert counter(machine, "rx_packets") == 7
    assert counter(machine, "rx_bytes") == sum(map(len, frames))


@pytest.mark.parametrize("count", [1, 63, 64, 65, RX_RING - 1, RX_RING, RX_RING + 1, 3 * RX_RING + 7])
def test_rings_wrap(machine: Machine, bpf: Bpf, engine: bool, count: int) -> None:
    """Frames keep their order and bytes, however often the rings go round."""
    attach(machine, bpf, verdict(TX), engine)
    frames = [frame(number=number, length=60 + number % 40) for number in range(count)]
    assert offer(machine, frames) >= count
    assert machine.sent(0) == frames
    assert machine.device(0).verdicts == {TX: count}
    assert machine.nic[0].stats.sent == count


def test_rings_wrap_over_many_batches(machine: Machine, bpf: Bpf) -> None:
    attach(machine, bpf, verdict(TX), jit=True)
    sent = []
    for batch in range(12):
        frames = [frame(number=batch * 100 + number) for number in range(100)]
        offer(machine, frames)
        sent += frames
    assert machine.sent(0) == sent


def test_redirect_to_the_other_card(machine: Machine, bpf: Bpf, engine: bool) -> None:
    attach(machine, bpf, redirect(ETH1), engine)
    frames = [frame(number=number) for number in range(300)]
    offer(machine, frames)
    assert machine.sent(1) == frames
    assert machine.sent(0) == []
    assert counter(machine, "tx_packets", 1) == 300


@pytest.mark.parametrize("target", [0, 1, 4, 63, 64, 1 << 20], ids=lambda n: f"ifindex {n}")
def test_redirect_to_no_card(machine: Machine, bpf: Bpf, engine: bool, target: int) -> None:
    """Nobody, the loopback (which cannot send), and indices outside the table."""
    attach(machine, bpf, redirect(target), engine)
    offer(machine, [frame()] * 2)
    assert machine.sent(0) == machine.sent(1) == []
    assert counter(machine, "xdp_redirect_err") == 2


@pytest.mark.parametrize(("length", "fits"), [(1518, True), (1519, False)])
def test_redirect_respects_the_mtu(machine: Machine, bpf: Bpf, length: int, fits: bool) -> None:
    """1500 bytes, the Ethernet header and a VLAN tag."""
    attach(machine, bpf, redirect(ETH1), jit=True)
    offer(machine, [frame(length=length)])
    assert len(machine.sent(1)) == int(fits)
    assert counter(machine, "xdp_redirect_err") == int(not fits)


def test_both_cards_at_once(machine: Machine, bpf: Bpf, engine: bool) -> None:
    attach(machine, bpf, redirect(ETH1), engine, ETH0)
    attach(machine, bpf, redirect(ETH0), engine, ETH1)
    frames = [frame(number=number) for number in range(70)]
    for each in frames:
        machine.nic[0].inject(each)
        machine.nic[1].inject(each[::-1])
    machine.run_until_idle()
    assert machine.sent(1) == frames
    assert machine.sent(0) == [each[::-1] for each in frames]


def test_a_full_transmit_ring_drops(machine: Machine, bpf: Bpf, engine: bool) -> None:
    """One poll of 100 frames, with room for 10: one slot of a ring stays empty."""
    attach(machine, bpf, verdict(TX), engine)
    kernel, device, card = machine.kernel, machine.device(0), machine.nic[0]
    layout = kernel.layout["nic_adapter"]
    kernel.memory.put_u32(device.adapter + layout.offset("tx_clean"), 11)
    for number in range(100):
        card.inject(frame(number=number))
    card.receive(machine._ram.view)
    assert device.poll(kernel, 100) == 100
    assert card.transmit(machine._ram.view) == 10
    assert counter(machine, "tx_dropped") == 90
    device.reap_tx(kernel)
    device.complete(kernel, 100)
    offer(machine, [frame(number=7)])
    assert len(machine.sent(0)) == 11


def test_the_transmit_ring_holds_all_but_one(machine: Machine) -> None:
    kernel, device = machine.kernel, machine.device(0)
    page = kernel.alloc.kmalloc(4096, 4096)
    results = [device.transmit(kernel, page, 60) for _ in range(TX_RING)]
    assert results == [0] * (TX_RING - 1) + [-28]


@pytest.mark.parametrize("length", [14, 15, 59, 60, 1514, 3392])
def test_frames_of_every_length(machine: Machine, bpf: Bpf, length: int) -> None:
    attach(machine, bpf, verdict(TX), jit=True)
    data = bytes(n % 251 for n in range(length))
    offer(machine, [data])
    assert machine.sent(0) == [data]


def test_frames_that_do_not_fit_a_buffer(machine: Machine, bpf: Bpf) -> None:
    attach(machine, bpf, verdict(TX), jit=True)
    offer(machine, [bytes(3393), frame(number=1), bytes(0xFFFF), frame(number=2)])
    assert machine.sent(0) == [frame(number=1), frame(number=2)]
    assert machine.nic[0].stats.too_long == 2


@pytest.mark.parametrize("length", [0, 13, 0x10000])
def test_what_is_no_frame(machine: Machine, length: int) -> None:
    with pytest.raises(ValueError, match="Ethernet"):
        machine.nic[0].inject(bytes(length))


def test_adjusted_frames_leave_as_the_program_left_them(machine: Machine, bpf: Bpf, engine: bool) -> None:
    attach(machine, bpf, "r6 = r1\nr2 = 4\ncall 44\nr1 = r6\nr2 = -10\ncall 65\nr0 = 3\nexit", engine)
    data = bytes(range(60))
    offer(machine, [data, data])
    assert machine.sent(0) == [data[4:50]] * 2


def test_buffers_are_as_new_after_an_adjustment(machine: Machine, bpf: Bpf) -> None:
    """A frame behind one whose head was moved, in the same buffer, begins where every frame begins."""
    attach(machine, bpf, "r2 = 20\ncall 44\nr0 = 3\nexit", jit=True)
    frames = [frame(number=number) for number in range(RX_RING + 3)]
    offer(machine, frames)
    assert machine.sent(0) == [each[20:] for each in frames]


def test_packets_take_time_alike_on_both_engines(machine: Machine, bpf: Bpf) -> None:
    attach(machine, bpf, "call 5\nr0 = 1\nexit", jit=True)
    spent = []
    for jit in (True, False):
        machine.use_engine(jit=jit)
        began = machine.clock.now()
        offer(machine, [frame()] * 100)
        spent.append(machine.clock.now() - began)
    assert spent[0] == spent[1] > 0


def test_the_program_can_be_changed_between_packets(machine: Machine, bpf: Bpf) -> None:
    link = attach(machine, bpf, verdict(DROP), jit=True)
    offer(machine, [frame(number=1)])
    bpf.link_update(link, bpf.prog_load(XDP, assemble(verdict(TX)))[0])
    offer(machine, [frame(number=2)])
    bpf.link_detach(link)
    offer(machine, [frame(number=3)])
    assert machine.device(0).verdicts == {DROP: 1, TX: 1, PASS: 1}
    assert machine.sent(0) == [frame(number=2)]


def test_a_program_that_fails_aborts_its_frame(
    machine: Machine, bpf: Bpf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the middle of a batch reaches the caller; the rings stay in step."""
    attach(machine, bpf, BY_FIRST_BYTE, jit=False)
    device, kernel = machine.device(0), machine.kernel
    runs = []
    real = type(kernel.runtime).run

    def fail_once(self: object, insnsi: int, ctx: int, fp: int) -> int:
        runs.append(ctx)
        if len(runs) == 4:
            raise RuntimeError("planned")
        return real(self, insnsi, ctx, fp)  # type: ignore[arg-type]

    monkeypatch.setattr(type(kernel.runtime), "run", fail_once)
    frames = [frame(TX, number) for number in range(6)]
    with pytest.raises(RuntimeError, match="planned"):
        offer(machine, frames)
    machine.run_until_idle()
    offer(machine, [frame(TX, 100)] * RX_RING)
    assert device.verdicts == {TX: 5 + RX_RING, ABORTED: 1}
    assert machine.sent(0) == frames[:3] + frames[4:] + [frame(TX, 100)] * RX_RING
