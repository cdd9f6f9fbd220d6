# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): BPF_PROG_TEST_RUN (net/bpf/test_run.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..net.device import FRAME_SIZE, XDP_PACKET_HEADROOM
from ..net.skb import ETH_HLEN, build_skb
from ..net.stack import LOOPBACK_IFINDEX
from ..task import CAP_NET_ADMIN
from ..uapi.enums import bpf_prog_type
from .bpf import Call, command

if TYPE_CHECKING:
    from ..kernel import Kernel

_XDP_MD_SIZE = 24
_MAX_REPEAT = 1 << 24
_T = bpf_prog_type


def _repeat(kernel: Kernel, prog: BpfProg, ctx: int, repeat: int) -> tuple[int, int]:
    """Run ``repeat`` times in one go; the last R0 and the mean simulated nanoseconds of a run."""
    repeat = max(repeat, 1)
    if repeat > _MAX_REPEAT:
        raise KernelError(errno.EINVAL, f"repeat {repeat} exceeds {_MAX_REPEAT}")
    began = kernel.clock.now()
    loop = kernel.text.symbol("bpf_test_run_loop")
    retval = kernel.cpu.call(loop, prog.bpf_func(kernel), ctx, prog.insnsi(kernel), repeat)
    return retval & 0xFFFF_FFFF, (kernel.clock.now() - began) // repeat


def _copy_out(call: Call, data: bytes) -> None:
    """data_out: as much as fits; ENOSPC when it was cut, the true size in data_size_out."""
    room = call.attr["data_size_out"]
    size = min(len(data), room) if room else len(data)
    short = bool(room) and size < len(data)
    if call.attr["data_out"]:
        call.write(call.attr["data_out"], data[:size])
    call.put("data_size_out", len(data))
    if short and call.attr["data_out"]:
        raise KernelError(errno.ENOSPC, "data_out is too small")


@command("PROG_TEST_RUN")
def prog_test_run(call: Call) -> int:
    """BPF_PROG_TEST_RUN: by program type."""
    prog = call.object(call.attr["prog_fd"], BpfProg)
    attr = call.attr
    for kind in ("ctx", "data"):
        given, size = attr[f"{kind}_in"], attr[f"{kind}_size_in"]
        if kind == "ctx" and bool(given) != bool(size):
            raise KernelError(errno.EINVAL, f"{kind}_in and {kind}_size_in go together")
        if kind == "ctx" and bool(attr["ctx_out"]) != bool(attr["ctx_size_out"]):
            raise KernelError(errno.EINVAL, "ctx_out and ctx_size_out go together")
    if not call.task.bpf_capable(CAP_NET_ADMIN):
        raise KernelError(errno.EPERM, "test runs need CAP_NET_ADMIN")
    if attr["flags"] or attr["batch_size"] or attr["cpu"]:
        raise NotModelled("BPF_PROG_TEST_RUN with flags, batch_size or cpu", errno.EINVAL)
    if prog.type == _T.BPF_PROG_TYPE_XDP:
        return _run_xdp(call, prog)
    if prog.type in (_T.BPF_PROG_TYPE_SOCKET_FILTER, _T.BPF_PROG_TYPE_SCHED_CLS, _T.BPF_PROG_TYPE_SCHED_ACT):
        return _run_skb(call, prog)
    raise NotModelled(f"BPF_PROG_TEST_RUN of program type {_T(prog.type).name}", 524)


def _run_xdp(call: Call, prog: BpfProg) -> int:
    kernel, attr = call.kernel, call.attr
    memory, layout = kernel.memory, kernel.layout["xdp_buff"]
    size = attr["data_size_in"]
    shared = -(-kernel.layout["skb_shared_info"].size // 64) * 64
    if size < ETH_HLEN:
        raise KernelError(errno.EINVAL, f"{size} bytes of packet; at least {ETH_HLEN} are needed")
    if size > FRAME_SIZE - XDP_PACKET_HEADROOM - shared:
        raise NotModelled("XDP test runs with more than one page of data", errno.EINVAL)
    meta, ifindex, queue = _xdp_ctx(call, size)
    page = kernel.alloc.kmalloc(FRAME_SIZE, 4096)
    xdp = kernel.alloc.kmalloc(layout.size)
    rxq_layout = kernel.layout["xdp_rxq_info"]
    rxq = kernel.alloc.kmalloc(rxq_layout.size)
    try:
        memory.write(page + XDP_PACKET_HEADROOM, call.read(attr["data_in"], size))
        start = page + XDP_PACKET_HEADROOM
        memory.put_u64(rxq + rxq_layout.offset("dev"), kernel.net.dev_addr(kernel, ifindex))
        memory.put_u32(rxq + rxq_layout.offset("queue_index"), queue)
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
        data = memory.u64(xdp + layout.offset("data"))
        data_meta = memory.u64(xdp + layout.offset("data_meta"))
        end = memory.u64(xdp + layout.offset("data_end"))
        begin = min(data_meta, data)
        call.put("retval", retval)
        call.put("duration", duration)
        if attr["ctx_out"]:
            fields = (data - begin, end - begin, 0, ifindex, queue, 0)
            out = b"".join(field.to_bytes(4, "little") for field in fields)
            call.write(attr["ctx_out"], out[: attr["ctx_size_out"]])
            call.put("ctx_size_out", min(len(out), attr["ctx_size_out"]))
        _copy_out(call, memory.read(begin, end - begin))
    finally:
        for addr in (rxq, xdp, page):
            kernel.alloc.kfree(addr)
    return 0


def _xdp_ctx(call: Call, size: int) -> tuple[int, int, int]:
    """struct xdp_md in: bytes of metadata before the packet, ingress ifindex, queue (EINVAL rules)."""
    given = call.attr["ctx_size_in"]
    if not given:
        return 0, LOOPBACK_IFINDEX, 0
    raw = call.read(call.attr["ctx_in"], given)
    if any(raw[_XDP_MD_SIZE:]):
        raise KernelError(errno.E2BIG, "unknown fields of xdp_md are set")
    raw = raw[:_XDP_MD_SIZE].ljust(_XDP_MD_SIZE, b"\0")
    data, end, data_meta, ifindex, queue, egress = (
        int.from_bytes(raw[at : at + 4], "little") for at in range(0, _XDP_MD_SIZE, 4)
    )
    if data_meta or end != size or data > 255 or data % 4 or data > size or egress:
        raise KernelError(errno.EINVAL, "xdp_md does not describe the packet")
    if ifindex:
        call.kernel.net.device(ifindex)
    elif queue:
        raise KernelError(errno.EINVAL, "rx_queue_index without ingress_ifindex")
    return data, ifindex or LOOPBACK_IFINDEX, queue


def _run_skb(call: Call, prog: BpfProg) -> int:
    kernel, attr = call.kernel, call.attr
    size = attr["data_size_in"]
    if size < ETH_HLEN:
        raise KernelError(errno.EINVAL, f"{size} bytes of packet; at least {ETH_HLEN} are needed")
    if size > FRAME_SIZE - 512:
        raise NotModelled("skb test runs with more than one page of data", errno.EINVAL)
    if attr["ctx_size_in"] or attr["ctx_size_out"]:
        raise NotModelled("skb test runs with a context", errno.EINVAL)
    layer2 = prog.type in (_T.BPF_PROG_TYPE_SCHED_CLS, _T.BPF_PROG_TYPE_SCHED_ACT)
    frame = call.read(attr["data_in"], size)
    dev = kernel.net.dev_addr(kernel, LOOPBACK_IFINDEX)
    skb = build_skb(kernel, frame, dev, LOOPBACK_IFINDEX, bytes(6), pull_mac=not layer2)
    try:
        retval, duration = _repeat(kernel, prog, skb.addr, attr["repeat"])
        call.put("retval", retval)
        call.put("duration", duration)
        data = skb.data(kernel)
        _copy_out(call, data if layer2 else frame[:ETH_HLEN] + data)
    finally:
        skb.free(kernel)
    return 0
