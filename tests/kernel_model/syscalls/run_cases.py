# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_TEST_RUN as data: a program, a packet, a context, and everything that comes out.

Programs are written in the verifier log's syntax. Expected results are not stored: the simulator's two
engines are compared with each other, and with the host's kernel where it answers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.uapi.bpf_attr import NR_BPF, command, pack

XDP, SOCKET_FILTER, SCHED_CLS = 6, 1, 3
ROOM = 4096


@dataclass(frozen=True)
class RunCase:
    name: str
    prog_type: int
    text: str
    packet: bytes = bytes(range(64))
    ctx: bytes = b""
    repeat: int = 1
    flags: int = 0

    def program(self) -> list[Insn]:
        return list(assemble(self.text))


def outcome(process: Any, prog_fd: int, case: RunCase) -> dict[str, Any]:
    """What the system call answers and writes, the duration aside."""

    def buf(data: bytes) -> int:
        addr = int(process.alloc(max(len(data), 8)))
        process.write(addr, data)
        return addr

    out, ctx_out = buf(bytes(ROOM)), buf(bytes(ROOM))
    ctx = {}
    if case.ctx:
        ctx = {
            "ctx_in": buf(case.ctx),
            "ctx_size_in": len(case.ctx),
            "ctx_out": ctx_out,
            "ctx_size_out": ROOM,
        }
    attr = pack(
        "PROG_TEST_RUN",
        prog_fd=prog_fd,
        data_in=buf(case.packet),
        data_size_in=len(case.packet),
        data_out=out,
        data_size_out=ROOM,
        repeat=case.repeat,
        flags=case.flags,
        **ctx,
    )
    addr = buf(attr)
    result = process.syscall(NR_BPF, command("PROG_TEST_RUN").number, addr, len(attr))
    after = command("PROG_TEST_RUN").record.unpack(process.read(addr, len(attr)))
    return {
        "result": result,
        "retval": after["retval"],
        "data_size_out": after["data_size_out"],
        "data": process.read(out, ROOM),
        "ctx_size_out": after["ctx_size_out"],
        "ctx": process.read(ctx_out, ROOM),
    }


def md(*fields: int) -> bytes:
    return struct.pack("<6I", *fields)


def skb(**fields: int) -> bytes:
    places = {
        "mark": 8,
        "priority": 32,
        "ingress_ifindex": 36,
        "ifindex": 40,
        "cb": 48,
        "wire_len": 160,
        "gso_segs": 164,
        "gso_size": 176,
    }
    data = bytearray(192)
    for name, value in fields.items():
        struct.pack_into("<I", data, places[name], value)
    return bytes(data)


def _adjust(helper: int, delta: int) -> str:
    """Call the helper on the context; the result is returned."""
    return f"r2 = {delta}\ncall {helper}\nexit"


HEAD, TAIL, META, REDIRECT = 44, 65, 54, 23
# After an adjustment the packet is written through, so the result's bytes tell where it lies.
_MARK = """
r6 = r1
r2 = {delta}
call {helper}
r7 = r0
r2 = *(u32 *)(r6 +0)
r3 = *(u32 *)(r6 +4)
r4 = r2
r4 += 14
if r4 > r3 goto pc+1
*(u32 *)(r2 +0) = 305419896
r0 = r7
exit
"""

RUN_CASES = (
    RunCase("returns 64 bits", XDP, "r0 = -2\nexit"),
    RunCase("returns a verdict", XDP, "r0 = 2\nexit", packet=bytes(14)),
    *(
        RunCase(f"adjust_head by {delta}", XDP, _MARK.format(delta=delta, helper=HEAD))
        for delta in (0, 1, 14, 49, 50, 51, 64, -1, -8, -216, -217, -256, -257, 100000)
    ),
    *(
        RunCase(f"adjust_tail by {delta}", XDP, _MARK.format(delta=delta, helper=TAIL))
        for delta in (0, 1, 64, 3456, 3457, 5000, -1, -50, -51, -64)
    ),
    *(
        RunCase(f"adjust_meta by {delta}", XDP, _MARK.format(delta=delta, helper=META))
        for delta in (0, 4, -4, -3, -32, -216, -220, -252, -256)
    ),
    *(
        RunCase(
            f"adjust_{name} by {delta} with metadata",
            XDP,
            _MARK.format(delta=delta, helper=helper),
            ctx=md(8, 64, 0, 0, 0, 0),
        )
        for name, helper in (("head", HEAD), ("meta", META), ("tail", TAIL))
        for delta in (0, 4, 8, -4, -8, -100)
    ),
    RunCase("adjust_head five times", XDP, _adjust(HEAD, 8), repeat=5),
    RunCase("adjust_head five times, the last fails", XDP, _adjust(HEAD, 12), repeat=5),
    RunCase("xdp_md is read", XDP, "r2 = *(u32 *)(r1 +4)\nr3 = *(u32 *)(r1 +0)\nr2 -= r3\nr0 = r2\nexit"),
    RunCase("the ingress device", XDP, "r0 = *(u32 *)(r1 +12)\nexit"),
    RunCase("the ingress device given", XDP, "r0 = *(u32 *)(r1 +12)\nexit", ctx=md(0, 64, 0, 1, 0, 0)),
    RunCase("the receive queue", XDP, "r0 = *(u32 *)(r1 +16)\nexit", ctx=md(0, 64, 0, 1, 0, 0)),
    RunCase("a short xdp_md", XDP, "r0 = 1\nexit", ctx=md(4, 64, 0, 0, 0, 0)[:8]),
    RunCase(
        "metadata is read",
        XDP,
        """
        r2 = *(u32 *)(r1 +8)
        r3 = *(u32 *)(r1 +0)
        r4 = r2
        r4 += 4
        r0 = 0
        if r4 > r3 goto pc+1
        r0 = *(u32 *)(r2 +0)
        exit
    """,
        ctx=md(4, 64, 0, 0, 0, 0),
    ),
    RunCase("redirect to a device", XDP, "r1 = 2\nr2 = 0\ncall 23\nexit"),
    RunCase("redirect with flags", XDP, "r1 = 2\nr2 = 1\ncall 23\nexit"),
    RunCase("a filter's length", SOCKET_FILTER, "r0 = *(u32 *)(r1 +0)\nexit"),
    RunCase("a filter's packet type", SOCKET_FILTER, "r0 = *(u32 *)(r1 +4)\nexit"),
    RunCase(
        "a filter's protocol",
        SOCKET_FILTER,
        "r0 = *(u32 *)(r1 +16)\nexit",
        packet=bytes(12) + b"\x08\0" + bytes(50),
    ),
    RunCase("a filter's device", SOCKET_FILTER, "r0 = *(u32 *)(r1 +40)\nexit"),
    RunCase("a filter's ingress device", SOCKET_FILTER, "r0 = *(u32 *)(r1 +36)\nexit"),
    RunCase("a filter's mark", SOCKET_FILTER, "r0 = *(u32 *)(r1 +8)\nexit", ctx=skb(mark=77)),
    RunCase(
        "a filter's cb", SOCKET_FILTER, "r0 = *(u32 *)(r1 +48)\n*(u32 *)(r1 +52) = 9\nexit", ctx=skb(cb=5)
    ),
    RunCase("legacy loads", SOCKET_FILTER, "r6 = r1\nr0 = *(u8 *)skb[9]\nexit"),
    RunCase("legacy loads behind the end", SOCKET_FILTER, "r6 = r1\nr0 = *(u32 *)skb[48]\nexit"),
    RunCase("legacy loads of the link layer", SOCKET_FILTER, "r6 = r1\nr0 = *(u16 *)skb[-1048564]\nexit"),
    RunCase("a classifier's length", SCHED_CLS, "r0 = *(u32 *)(r1 +0)\nexit"),
    RunCase(
        "a classifier writes its context",
        SCHED_CLS,
        "*(u32 *)(r1 +8) = 5\n*(u32 *)(r1 +32) = 6\n*(u32 *)(r1 +48) = 7\nr0 = -1\nexit",
        ctx=skb(mark=1, priority=2, wire_len=70),
    ),
    RunCase(
        "a classifier's direct packet access",
        SCHED_CLS,
        "r2 = *(u32 *)(r1 +76)\nr3 = *(u32 *)(r1 +80)\nr4 = r2\nr4 += 14\nr0 = 77\n"
        "if r4 > r3 goto pc+1\nr0 = *(u8 *)(r2 +13)\nexit",
    ),
    RunCase("a classifier's wire_len", SCHED_CLS, "r0 = *(u32 *)(r1 +160)\nexit"),
    RunCase("broadcast", SOCKET_FILTER, "r0 = *(u32 *)(r1 +4)\nexit", packet=b"\xff" * 6 + bytes(58)),
    RunCase("multicast", SOCKET_FILTER, "r0 = *(u32 *)(r1 +4)\nexit", packet=b"\x01" * 6 + bytes(58)),
    RunCase("to the device", SOCKET_FILTER, "r0 = *(u32 *)(r1 +4)\nexit", packet=bytes(64)),
    RunCase(
        "an 802.2 frame",
        SOCKET_FILTER,
        "r0 = *(u32 *)(r1 +16)\nexit",
        packet=bytes(12) + b"\0\x20" + bytes(50),
    ),
    RunCase(
        "an 802.3 frame",
        SOCKET_FILTER,
        "r0 = *(u32 *)(r1 +16)\nexit",
        packet=bytes(12) + b"\0\x20\xff\xff" + bytes(48),
    ),
)
