# SPDX-License-Identifier: GPL-2.0-only
"""Network devices and the card's driver: rings, the poll loop's slow half, and the XDP attachment."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..errors import KernelError
from ..uapi.enums import bpf_attach_type, bpf_prog_type

if TYPE_CHECKING:
    from ..bpf.prog import BpfProg
    from ..kernel import Kernel

RX_RING = 256
TX_RING = 1024
FRAME_SIZE = 4096
ARPHRD_ETHER = 1
XDP_PACKET_HEADROOM = 256
NAPI_POLL_WEIGHT = 64
PACKET_COST_NS = 50

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
XDP_ACTIONS = ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT")

_DESC_SIZE = 16
_NOT_FOR_DEVICES = (bpf_attach_type.BPF_XDP_DEVMAP, bpf_attach_type.BPF_XDP_CPUMAP)
IFF_UP = 1
VLAN_HLEN = 4


class RingDevice(Protocol):
    """The hardware side of one ring (sim.hardware.nic.Ring)."""

    phys: int
    entries: int
    head: int


class NicDevice(Protocol):
    """A network card as its driver sees it (sim.hardware.nic.Nic)."""

    index: int
    mac: bytes

    @property
    def rx(self) -> RingDevice: ...
    @property
    def tx(self) -> RingDevice: ...


@dataclass
class Outcome:
    """What the XDP hook decided about one received frame. ``frame`` is the frame afterwards."""

    verdict: int
    frame: bytes
    received_len: int


@dataclass
class NetDevice:
    """A device: ``addr`` is its struct net_device, ``adapter`` the driver's struct nic_adapter."""

    name: str
    ifindex: int
    addr: int
    adapter: int
    buffers: int
    pages: list[int]
    xdp_prog: BpfProg | None = None
    xdp_by_link: bool = False
    clean: int = 0
    outcomes: list[Outcome] | None = None
    """Filled per received frame when someone wants to know (a list), else None."""
    verdicts: dict[int, int] = field(default_factory=dict)
    """How many frames got each verdict."""
    tx_copies: list[int] = field(default_factory=list)
    """Frames that wait in the transmit ring and are freed when they were sent."""

    def attach_xdp(self, kernel: Kernel, prog: BpfProg, link: bool) -> None:
        """Put ``prog`` at the hook, native mode. KernelError(EINVAL, EBUSY) as Linux answers."""
        if prog.type != bpf_prog_type.BPF_PROG_TYPE_XDP or prog.expected_attach_type in _NOT_FOR_DEVICES:
            raise KernelError(errno.EINVAL, "not an XDP program for devices")
        if self.xdp_prog is not None:
            raise KernelError(errno.EBUSY, f"{self.name} has an XDP program already")
        prog.get()
        self.xdp_prog, self.xdp_by_link = prog, link
        self._publish(kernel)

    def detach_xdp(self, kernel: Kernel) -> None:
        """Take the program off; nothing happens when there is none."""
        if self.xdp_prog is not None:
            prog, self.xdp_prog = self.xdp_prog, None
            self._publish(kernel)
            prog.put(kernel)

    def replace_xdp(self, kernel: Kernel, prog: BpfProg) -> None:
        """BPF_LINK_UPDATE: one program for another, without a gap."""
        old, self.xdp_prog = self.xdp_prog, prog
        prog.get()
        self._publish(kernel)
        if old is not None:
            old.put(kernel)

    def _publish(self, kernel: Kernel) -> None:
        at = self.addr + kernel.layout["net_device"].offset("xdp_prog")
        kernel.memory.put_u64(at, self.xdp_prog.addr if self.xdp_prog else 0)

    def counter(self, kernel: Kernel, name: str) -> int:
        """One of the driver's counters (a u64 member of struct nic_adapter)."""
        return kernel.memory.u64(self.adapter + kernel.layout["nic_adapter"].offset(name))

    def poll(self, kernel: Kernel, budget: int = NAPI_POLL_WEIGHT) -> int:
        """One NAPI poll in machine code; how many frames were handled (at most ``budget``).

        When the program ends in an exception, the frame counts as aborted and the exception goes on.
        """
        try:
            return kernel.cpu.call(kernel.text.symbol("nic_poll"), self.adapter, budget)
        except BaseException:
            self._abandon(kernel)
            raise

    def _abandon(self, kernel: Kernel) -> None:
        """Finish a poll that did not return: the frame that was being handled is aborted."""
        layout = kernel.layout
        at = kernel.memory.u32(self.adapter + layout["nic_adapter"].offset("rx_next"))
        handled = (at - self.clean) % RX_RING
        if handled:
            buffer = layout["nic_rx_buffer"]
            slot = self.buffers + (at - 1) % RX_RING * buffer.size
            start = kernel.memory.u64(slot + buffer.offset("page")) + XDP_PACKET_HEADROOM
            kernel.memory.put_u32(slot + buffer.offset("verdict"), XDP_ABORTED)
            kernel.memory.put_u64(slot + buffer.offset("data"), start)
            kernel.memory.put_u64(
                slot + buffer.offset("data_end"), start + kernel.memory.u32(slot + buffer.offset("frame_len"))
            )
            self.complete(kernel, handled)

    def complete(self, kernel: Kernel, count: int) -> None:
        """The slow half: count verdicts, pass frames up, give receive buffers back.

        The cards must have sent what was queued: transmitted frames lie in these buffers.
        """
        memory, layout = kernel.memory, kernel.layout
        buffer, desc, adapter = layout["nic_rx_buffer"], layout["nic_rx_desc"], layout["nic_adapter"]
        ring = memory.u64(self.adapter + adapter.offset("rx_ring"))
        for _ in range(count):
            slot = self.buffers + self.clean * buffer.size
            verdict = memory.u32(slot + buffer.offset("verdict"))
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
            data = memory.u64(slot + buffer.offset("data"))
            if self.outcomes is not None or verdict == XDP_PASS:
                end = memory.u64(slot + buffer.offset("data_end"))
                frame = memory.read(data, end - data)
                if self.outcomes is not None:
                    length = memory.u32(slot + buffer.offset("frame_len"))
                    self.outcomes.append(Outcome(verdict, frame, length))
                if verdict == XDP_PASS:
                    kernel.net.receive(kernel, self, frame)
            memory.put_u16(ring + self.clean * _DESC_SIZE + desc.offset("status"), 0)
            self.clean = (self.clean + 1) % RX_RING

    def send_copy(self, kernel: Kernel, frame: bytes) -> int:
        """Queue a copy of ``frame``, which is freed when it was sent; 0 or -ENOSPC. KernelError(ENOMEM)."""
        copy = kernel.alloc.kmalloc(len(frame))
        kernel.memory.write(copy, frame)
        result = self.transmit(kernel, copy, len(frame))
        if result:
            kernel.alloc.kfree(copy)
        else:
            self.tx_copies.append(copy)
        return result

    def reap_tx(self, kernel: Kernel) -> None:
        """Everything queued was sent: the whole transmit ring is free again."""
        for copy in self.tx_copies:
            kernel.alloc.kfree(copy)
        self.tx_copies.clear()
        adapter = kernel.layout["nic_adapter"]
        sent = kernel.memory.u32(self.adapter + adapter.offset("tx_next"))
        kernel.memory.put_u32(self.adapter + adapter.offset("tx_clean"), sent)

    def transmit(self, kernel: Kernel, data: int, length: int) -> int:
        """Queue a frame that lies at ``data``; 0 or -ENOSPC."""
        result = kernel.cpu.call(kernel.text.symbol("nic_xmit"), self.adapter, data, length) & 0xFFFFFFFF
        return result - (1 << 32) if result >> 31 else result


def probe(kernel: Kernel, card: NicDevice, ifindex: int, direct_map: int) -> NetDevice:
    """Bring a card up: allocate rings and buffers, program the device, register the net_device."""
    memory, alloc, layout = kernel.memory, kernel.alloc, kernel.layout
    dev, adapter = layout["net_device"], layout["nic_adapter"]
    buffer = layout["nic_rx_buffer"]
    name = f"eth{card.index}"
    dev_addr, adapter_addr = alloc.kmalloc(dev.size), alloc.kmalloc(adapter.size)
    rx_ring = alloc.kmalloc(RX_RING * _DESC_SIZE, 4096)
    tx_ring = alloc.kmalloc(TX_RING * _DESC_SIZE, 4096)
    buffers = alloc.kmalloc(RX_RING * buffer.size)
    pages = [alloc.kmalloc(FRAME_SIZE, 4096) for _ in range(RX_RING)]
    memory.put_u32(dev_addr + dev.offset("mtu"), 1500)
    memory.put_u32(dev_addr + dev.offset("flags"), IFF_UP)
    memory.put_u32(dev_addr + dev.offset("ifindex"), ifindex)
    memory.put_u16(dev_addr + dev.offset("hard_header_len"), 14)
    memory.put_u16(dev_addr + dev.offset("type"), ARPHRD_ETHER)
    memory.write(dev_addr + dev.offset("name"), name.encode())
    memory.write(dev_addr + dev.offset("dev_addr"), card.mac)
    memory.put_u64(dev_addr + dev.offset("priv"), adapter_addr)
    for field_name, value in (
        ("dev", dev_addr),
        ("rx_ring", rx_ring),
        ("rx_buffers", buffers),
        ("tx_ring", tx_ring),
        ("packet_cost", PACKET_COST_NS),
        ("rxq.dev", dev_addr),
    ):
        memory.put_u64(adapter_addr + adapter.offset(field_name), value)
    for field_name, value in (
        ("rx_mask", RX_RING - 1),
        ("tx_mask", TX_RING - 1),
        ("headroom", XDP_PACKET_HEADROOM),
        ("frame_sz", FRAME_SIZE),
        ("rxq.frag_size", FRAME_SIZE),
    ):
        memory.put_u32(adapter_addr + adapter.offset(field_name), value)
    desc = layout["nic_rx_desc"]
    for index, page in enumerate(pages):
        memory.put_u64(buffers + index * buffer.size + buffer.offset("page"), page)
        phys = page + XDP_PACKET_HEADROOM - direct_map
        memory.put_u64(rx_ring + index * _DESC_SIZE + desc.offset("addr"), phys)
    memory.put_u64(kernel.data["netdev_table"] + 8 * ifindex, dev_addr)
    card.rx.phys, card.rx.entries = rx_ring - direct_map, RX_RING
    card.tx.phys, card.tx.entries = tx_ring - direct_map, TX_RING
    return NetDevice(name, ifindex, dev_addr, adapter_addr, buffers, pages)
