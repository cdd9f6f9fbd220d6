# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): BPF_PROG_TEST_RUN (net/bpf/test_run.c)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..net.csum import csum_fold, csum_partial
from ..net.device import FRAME_SIZE, XDP_PACKET_HEADROOM
from ..net.skb import ETH_BROADCAST, ETH_HLEN, NET_IP_ALIGN, NET_SKB_PAD, build_skb, compute_data_pointers
from ..net.skb_ctx import SKB_CTX_SIZE, ctx_ifindex, ctx_to_skb, skb_to_ctx
from ..net.skb_edit import CHECKSUM_COMPLETE, HEADER_UNSET, Skb
from ..net.stack import LOOPBACK_IFINDEX
from ..uapi.bpf_attr import PAGE_SIZE
from ..uapi.enums import bpf_attach_type, bpf_prog_type
from .bpf import Call, command
from .bpf_test_run_ctx import run_on_context, runs_on_context

if TYPE_CHECKING:
    from ..kernel import Kernel

_XDP_MD_SIZE = 24
_XDP_FRAME_SIZE = 40  # sizeof(struct xdp_frame), which metadata leaves room for
_SHARED_INFO_SIZE = 320  # SKB_DATA_ALIGN(sizeof(struct skb_shared_info))
BPF_F_TEST_XDP_LIVE_FRAMES, BPF_F_TEST_SKB_CHECKSUM_COMPLETE = 1 << 1, 1 << 2
_T = bpf_prog_type
_SKB_TYPES = (_T.BPF_PROG_TYPE_SOCKET_FILTER, _T.BPF_PROG_TYPE_SCHED_CLS, _T.BPF_PROG_TYPE_SCHED_ACT)


def _repeat(kernel: Kernel, prog: BpfProg, ctx: int, repeat: int) -> tuple[int, int]:
    """Run ``repeat`` times in one go; the last R0 and the mean simulated nanoseconds of a run."""
    repeat = max(repeat, 1)
    began = kernel.clock.now()
    loop = kernel.text.symbol("bpf_test_run_loop")
    try:
        retval = kernel.cpu.call(loop, prog.bpf_func(kernel), ctx, prog.insnsi(kernel), repeat)
    finally:
        # What bpf_redirect() left behind was this run's alone (struct bpf_net_context).
        info = kernel.per_cpu("bpf_redirect_info", kernel.cpu.this_cpu)
        kernel.memory.fill(info, kernel.layout["bpf_redirect_info"].size)
    return retval & 0xFFFF_FFFF, min((kernel.clock.now() - began) // repeat, 0xFFFF_FFFF)


def _finish(call: Call, data: bytes, retval: int, duration: int) -> None:
    """bpf_test_finish(): data_out as far as it fits, the true size, and ENOSPC when it was cut."""
    room = call.attr["data_size_out"]
    size = min(len(data), room) if room else len(data)
    if call.attr["data_out"]:
        call.write(call.attr["data_out"], data[:size])
    call.put("data_size_out", len(data))
    call.put("retval", retval)
    call.put("duration", duration)
    if size < len(data):
        raise KernelError(errno.ENOSPC, f"{len(data)} bytes of packet, {room} bytes of room")


def _ctx_in(call: Call, size: int) -> bytes | None:
    """bpf_ctx_init(): the context given, filled up to ``size`` bytes; None when none is asked for."""
    given = call.attr["ctx_size_in"]
    if not call.attr["ctx_in"] and not call.attr["ctx_out"]:
        return None
    raw = b""
    if call.attr["ctx_in"]:
        if given > PAGE_SIZE:
            raise KernelError(errno.E2BIG, f"a context of {given} bytes exceeds a page")
        raw = call.read(call.attr["ctx_in"], given)
        if any(raw[size:]):
            raise KernelError(errno.E2BIG, "unknown fields of the context are set")
    return raw[:size].ljust(size, b"\0")


def _ctx_out(call: Call, data: bytes | None) -> None:
    """bpf_ctx_finish(): the context afterwards; ENOSPC when it was cut."""
    room = call.attr["ctx_size_out"]
    if data is None or not call.attr["ctx_out"]:
        return
    call.write(call.attr["ctx_out"], data[:room])
    call.put("ctx_size_out", len(data))
    if room < len(data):
        raise KernelError(errno.ENOSPC, f"{len(data)} bytes of context, {room} bytes of room")


@command("PROG_TEST_RUN")
def prog_test_run(call: Call) -> int:
    """BPF_PROG_TEST_RUN: by program type; ENOTSUPP for types without a test run."""
    attr = call.attr
    for kind in ("ctx_size_in", "ctx_size_out"):
        if bool(attr[kind]) != bool(attr[kind.replace("_size", "")]):
            raise KernelError(errno.EINVAL, f"{kind} and its place go together")
    prog = call.object(attr["prog_fd"], BpfProg)
    if prog.type == _T.BPF_PROG_TYPE_XDP:
        return _run_xdp(call, prog)
    if prog.type in _SKB_TYPES:
        return _run_skb(call, prog)
    if runs_on_context(prog):
        return run_on_context(call, prog, _repeat)
    raise NotModelled(f"BPF_PROG_TEST_RUN of program type {_T(prog.type).name}", 524)


def _run_xdp(call: Call, prog: BpfProg) -> int:
    """bpf_prog_test_run_xdp() without live frames and fragments."""
    kernel, attr = call.kernel, call.attr
    memory, layout = kernel.memory, kernel.layout["xdp_buff"]
    if prog.expected_attach_type in (bpf_attach_type.BPF_XDP_DEVMAP, bpf_attach_type.BPF_XDP_CPUMAP):
        raise KernelError(errno.EINVAL, "programs of device and CPU maps have no test run")
    if attr["flags"] & ~BPF_F_TEST_XDP_LIVE_FRAMES:
        raise KernelError(errno.EINVAL, f"unknown test flags {attr['flags']:#x}")
    if attr["flags"]:
        raise NotModelled("XDP test runs with live frames", errno.EINVAL)
    if attr["batch_size"]:
        raise KernelError(errno.EINVAL, "batch_size is for live frames")
    size = attr["data_size_in"]
    md = _ctx_in(call, _XDP_MD_SIZE)
    meta, linear = (0, size) if md is None else _check_xdp_md(md, size)
    headroom = XDP_PACKET_HEADROOM - meta
    if size - meta < ETH_HLEN:
        raise KernelError(errno.EINVAL, f"{size - meta} bytes of packet; at least {ETH_HLEN} are needed")
    if size > min(linear, FRAME_SIZE - headroom - _SHARED_INFO_SIZE):
        raise NotModelled("XDP test runs with fragments", errno.EINVAL)
    frame = call.read(attr["data_in"], size)
    ifindex, queue = _ingress(call, md)
    page, xdp, rxq = _take(kernel, (FRAME_SIZE, 4096), layout.size, kernel.layout["xdp_rxq_info"].size)
    try:
        start = page + headroom
        memory.write(start, frame)
        _fill_rxq(kernel, rxq, ifindex, queue)
        for name, value in (
            ("data_hard_start", page),
            ("data_meta", start),
            ("data", start + meta),
            ("data_end", start + size),
            ("rxq", rxq),
        ):
            memory.put_u64(xdp + layout.offset(name), value)
        memory.put_u32(xdp + layout.offset("frame_sz"), FRAME_SIZE)
        retval, duration = _repeat(kernel, prog, xdp, attr["repeat"])
        data, begin, end = (memory.u64(xdp + layout.offset(n)) for n in ("data", "data_meta", "data_end"))
        if md is not None:
            md = struct.pack("<II", data - begin, end - begin) + md[8:]
        _finish(call, memory.read(begin, end - begin), retval, duration)
        _ctx_out(call, md)
    finally:
        for addr in (rxq, xdp, page):
            kernel.alloc.kfree(addr)
    return 0


def _take(kernel: Kernel, *sizes: int | tuple[int, int]) -> list[int]:
    """Several kmalloc'd objects at once: all of them or, on ENOMEM, none."""
    taken: list[int] = []
    try:
        for size in sizes:
            taken.append(kernel.alloc.kmalloc(*(size if isinstance(size, tuple) else (size,))))
    except KernelError:
        for addr in taken:
            kernel.alloc.kfree(addr)
        raise
    return taken


def _fill_rxq(kernel: Kernel, rxq: int, ifindex: int, queue: int) -> None:
    fields = kernel.layout["xdp_rxq_info"]
    kernel.memory.put_u64(rxq + fields.offset("dev"), kernel.net.dev_addr(kernel, ifindex))
    kernel.memory.put_u32(rxq + fields.offset("queue_index"), queue)
    kernel.memory.put_u32(rxq + fields.offset("frag_size"), FRAME_SIZE)


def _check_xdp_md(md: bytes, size: int) -> tuple[int, int]:
    """struct xdp_md in: bytes of metadata before the packet, and bytes in the linear part (EINVAL rules)."""
    data, end, data_meta = struct.unpack_from("<3I", md)
    if data_meta or end > size or data > end:
        raise KernelError(errno.EINVAL, "xdp_md does not describe the packet")
    if data % 4 or data > min(255, XDP_PACKET_HEADROOM - _XDP_FRAME_SIZE):
        raise KernelError(errno.EINVAL, f"{data} bytes of metadata")
    return data, end


def _ingress(call: Call, md: bytes | None) -> tuple[int, int]:
    """xdp_convert_md_to_buff(): the receiving device's index and queue; the loopback by default."""
    if md is None:
        return LOOPBACK_IFINDEX, 0
    ifindex, queue, egress = struct.unpack_from("<3I", md, 12)
    if egress or (queue and not ifindex):
        raise KernelError(errno.EINVAL, "egress_ifindex, or rx_queue_index without ingress_ifindex")
    if ifindex:
        call.kernel.net.dev_addr(call.kernel, ifindex)
        if queue:
            raise KernelError(errno.EINVAL, f"device {ifindex} has no receive queue {queue}")
    return ifindex or LOOPBACK_IFINDEX, queue


def _sum_of_packet(skb: Skb) -> int:
    """What CHECKSUM_COMPLETE stands for: the sum from the network header on."""
    offset = skb.offset_of("network_header")
    return csum_partial(skb.memory.read(skb.data + offset, max(skb.len - offset, 0)))


def _run_skb(call: Call, prog: BpfProg) -> int:
    """bpf_prog_test_run_skb() of linear data."""
    kernel, attr = call.kernel, call.attr
    if attr["flags"] & ~BPF_F_TEST_SKB_CHECKSUM_COMPLETE or attr["cpu"] or attr["batch_size"]:
        raise KernelError(errno.EINVAL, "flags, cpu or batch_size on an skb test run")
    size = attr["data_size_in"]
    if not ETH_HLEN <= size <= FRAME_SIZE - NET_SKB_PAD - NET_IP_ALIGN - _SHARED_INFO_SIZE:
        raise KernelError(errno.EINVAL, f"{size} bytes of packet")
    frame = call.read(attr["data_in"], size)
    ctx = _ctx_in(call, SKB_CTX_SIZE)
    ifindex = LOOPBACK_IFINDEX if ctx is None else ctx_ifindex(ctx) or LOOPBACK_IFINDEX
    dev = kernel.net.dev_addr(kernel, ifindex)
    # The switch of bpf_prog_test_run_skb(): tc programs see the Ethernet header, the others what is behind.
    layer2 = prog.type != _T.BPF_PROG_TYPE_SOCKET_FILTER
    mac = kernel.memory.read(dev + kernel.layout["net_device"].offset("dev_addr"), 6)
    # The loopback has no hardware address and no broadcast address.
    broadcast = bytes(6) if ifindex == LOOPBACK_IFINDEX else ETH_BROADCAST
    skb = build_skb(kernel, frame, dev, ifindex, mac, pull_mac=not layer2, sock=True, broadcast=broadcast)
    try:
        fields = kernel.layout["sk_buff"]
        kernel.memory.put_u32(skb.addr + fields.offset("skb_iif"), 0)
        # No protocol handler has seen the packet.
        kernel.memory.put_u16(skb.addr + fields.offset("transport_header"), HEADER_UNSET)
        if ctx is not None:
            ctx_to_skb(kernel, skb, ctx)
        if layer2:
            compute_data_pointers(kernel, skb)
        edited = Skb(kernel, skb.addr)
        if attr["flags"]:
            edited.put("csum", _sum_of_packet(edited))
            edited.put("ip_summed", CHECKSUM_COMPLETE)
        retval, duration = _repeat(kernel, prog, skb.addr, attr["repeat"])
        if attr["flags"] and csum_fold(edited.get("csum")) != csum_fold(_sum_of_packet(edited)):
            raise KernelError(errno.EBADMSG, "the program left the packet with another checksum")
        # The program may not have changed the header that it did not see: it is shown as zeroes.
        data = skb.data(kernel) if layer2 else bytes(ETH_HLEN) + skb.data(kernel)
        after = None if ctx is None else skb_to_ctx(kernel, skb, ctx)
        _finish(call, data, retval, duration)
        _ctx_out(call, after)
    finally:
        skb.free(kernel)
    return 0
