# SPDX-License-Identifier: GPL-2.0-only
"""The ways in which a workload's program is called many times without returning to Python."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kernel_model.net.device import RX_RING

from .workloads import SOURCE_PORT_OFF

if TYPE_CHECKING:
    from .session import Session, Target

FLOWS_A_PASS = 65536
"""Runs after which the packet loop has gone through all ports."""


class Way(Protocol):
    """``unit`` is what a number of runs must be a multiple of; ``full`` covers the whole working set once."""

    unit: int
    full: int

    def run(self, target: Target, repeat: int) -> tuple[int, ...]: ...


class RepeatWay:
    """bpf_test_run_loop, as BPF_PROG_TEST_RUN: one context again and again; the last R0 (32 bits)."""

    unit = full = 1

    def __init__(self, session: Session) -> None:
        self._kernel = session.machine.kernel
        self._ctx = session.contexts
        self._insnsi = self._kernel.layout["bpf_prog"].offset("insnsi")
        self._loop = self._kernel.text.symbol("bpf_test_run_loop")

    def run(self, target: Target, repeat: int) -> tuple[int, ...]:
        insnsi = target.prog + self._insnsi
        return (self._kernel.cpu.call(self._loop, target.bpf_func, self._ctx, insnsi, repeat) & 0xFFFF_FFFF,)


class PacketWay:
    """bench_packet_loop: packet after packet, each time of another flow; the sum of all R0."""

    def __init__(self, session: Session) -> None:
        self._kernel = kernel = session.machine.kernel
        self._insnsi = kernel.layout["bpf_prog"].offset("insnsi")
        self._loop = session.loops["bench_packet_loop"]
        self.unit = session.workload.packets
        self.full = max(self.unit, min(FLOWS_A_PASS, session.workload.flows))
        where = (session.contexts, session.xdp_stride, self.unit - 1, SOURCE_PORT_OFF)
        self._packets = kernel.alloc.kmalloc(8 * len(where))
        kernel.memory.write(self._packets, struct.pack("<4Q", *where))

    def run(self, target: Target, repeat: int) -> tuple[int, ...]:
        insnsi = target.prog + self._insnsi
        return (self._kernel.cpu.call(self._loop, target.bpf_func, self._packets, insnsi, repeat),)


class NicWay:
    """The card's poll loop: a burst arrives by DMA once, its descriptors are posted again for each poll.

    Answers how many packets were handled, and the verdict of each frame of the burst.
    """

    unit = full = RX_RING

    def __init__(self, session: Session) -> None:
        self._kernel = kernel = session.machine.kernel
        self._dev = session.machine.device(0)
        self._loop = session.loops["bench_poll_loop"]
        self._poll = kernel.text.symbol("nic_poll")
        self._ring = kernel.memory.u64(self._dev.adapter + kernel.layout["nic_adapter"].offset("rx_ring"))
        card = session.machine.nic[0]
        for index in range(session.workload.packets):
            card.inject(session.workload.frame(index))
        received = card.receive(kernel.physical)
        if received != RX_RING:
            raise RuntimeError(f"the card took {received} of {RX_RING} frames")

    def run(self, target: Target, repeat: int) -> tuple[int, ...]:
        kernel, dev = self._kernel, self._dev
        func_at = target.prog + kernel.layout["bpf_prog"].offset("bpf_func")
        hook = dev.addr + kernel.layout["net_device"].offset("xdp_prog")
        before = kernel.memory.u64(func_at)
        kernel.memory.put_u64(func_at, target.bpf_func)
        kernel.memory.put_u64(hook, target.prog)
        try:
            done = kernel.cpu.call(
                self._loop, self._poll, dev.adapter, self._ring, RX_RING, repeat // RX_RING
            )
        finally:
            kernel.memory.put_u64(hook, 0)
            kernel.memory.put_u64(func_at, before)
        buffer = kernel.layout["nic_rx_buffer"]
        at = dev.buffers + buffer.offset("verdict")
        return (done, *(kernel.memory.u32(at + index * buffer.size) for index in range(RX_RING)))


WAYS: dict[str, Callable[[Session], Way]] = {"repeat": RepeatWay, "packets": PacketWay, "nic": NicWay}
