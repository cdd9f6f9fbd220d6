# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of classic BPF share: packets, running on both engines, and an interpreter of its own."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from kernel_model.classic.insn import BPF_TAX, SKF_AD_OFF, SKF_LL_OFF, SKF_NET_OFF, SockFilter, s32, u32
from kernel_model.classic.prog import ClassicProg
from kernel_model.classic.table import ANCILLARY, CLASSIC_INSNS, CONDITIONAL_JUMPS
from kernel_model.isa import opcodes as op
from kernel_model.net.skb import SkBuff, build_skb
from sim import Machine

MAC = bytes((2, 0, 0, 0, 0, 1))
NET_OFFSET = 14


@dataclass
class Case:
    """One case of cases.txt: the program, the packet, fields of its sk_buff, the result."""

    name: str
    packet: bytes
    returns: int
    program: str
    fields: dict[str, int] = field(default_factory=dict)


def load_cases() -> list[Case]:
    """All cases; the file's head gives packets names."""
    text = Path(__file__).with_name("cases.txt").read_text()
    head, *parts = text.split("=== ")
    packets = {}
    for line in head.splitlines():
        if line.startswith("packet "):
            name, _, digits = line.removeprefix("packet ").partition(":")
            packets[name] = bytes.fromhex(digits)
    out = []
    for part in parts:
        top, _, program = part.partition("---\n")
        name, *lines = top.splitlines()
        keys = dict(line.split(": ", 1) for line in lines if line)
        fields = dict(each.split("=") for each in keys.get("set", "").split())
        data = packets[keys["packet"]] if keys["packet"] in packets else bytes.fromhex(keys["packet"])
        values = {key: int(value, 0) for key, value in fields.items()}
        out.append(Case(name, data, u32(int(keys["returns"], 0)), program, values))
    return out


def make_skb(machine: Machine, packet: bytes, fields: Mapping[str, int]) -> SkBuff:
    """A received packet; ``fields`` overwrite members of sk_buff."""
    kernel = machine.kernel
    skb = build_skb(kernel, packet, machine.device(0).addr, 2, MAC, pull_mac=False)
    for name, value in fields.items():
        member = kernel.layout["sk_buff"].member(name)
        kernel.memory.write(skb.addr + member.offset, value.to_bytes(member.size, "little"))
    return skb


def run_both(machine: Machine, prog: ClassicProg, packet: bytes, fields: Mapping[str, int]) -> list[int]:
    """The result on the JIT and on the interpreter."""
    skb = make_skb(machine, packet, fields)
    out = []
    for jit in (True, False):
        prog.use_engine(machine.kernel, jit)
        out.append(prog.run(machine.kernel, skb.addr))
    skb.free(machine.kernel)
    return out


# The reference: a plain interpreter of classic BPF.

_ALU = {
    op.BPF_ADD: lambda a, b: a + b,
    op.BPF_SUB: lambda a, b: a - b,
    op.BPF_MUL: lambda a, b: a * b,
    op.BPF_DIV: lambda a, b: a // b,
    op.BPF_MOD: lambda a, b: a % b,
    op.BPF_AND: lambda a, b: a & b,
    op.BPF_OR: lambda a, b: a | b,
    op.BPF_XOR: lambda a, b: a ^ b,
    op.BPF_LSH: lambda a, b: a << (b & 31),
    op.BPF_RSH: lambda a, b: a >> (b & 31),
    op.BPF_NEG: lambda a, b: -a,
}
_TESTS = {
    op.BPF_JEQ: lambda a, b: a == b,
    op.BPF_JGT: lambda a, b: a > b,
    op.BPF_JGE: lambda a, b: a >= b,
    op.BPF_JSET: lambda a, b: bool(a & b),
}


def load(packet: bytes, offset: int, size: int) -> int | None:
    """A load of packet data, big endian; None outside of it. The frame begins with its MAC header."""
    at = s32(offset)
    if at < 0:
        if at >= SKF_NET_OFF:
            at += NET_OFFSET - SKF_NET_OFF
        elif at >= SKF_LL_OFF:
            at -= SKF_LL_OFF
        else:
            return None
    if at < 0 or at + size > len(packet):
        return None
    return int.from_bytes(packet[at : at + size], "big")


def interpret(insns: Sequence[SockFilter], packet: bytes, special: Mapping[str, int]) -> int:
    """What the program returns; ``special`` gives ancillary loads by Linux's name."""
    a = x = pc = 0
    scratch = [0] * 16
    while True:
        insn = insns[pc]
        pc += 1
        kind, mode = insn.code & 7, insn.code & 0xE0
        operand = x if insn.code & op.BPF_X else insn.k
        value: int | None
        if kind in (op.BPF_LD, op.BPF_LDX):
            size = op.SIZE_BYTES[insn.code & 0x18]
            if mode == op.BPF_IMM:
                value = insn.k
            elif mode == op.BPF_MEM:
                value = scratch[insn.k]
            elif mode == 0x80:
                value = len(packet)
            elif mode == 0xA0:
                value = load(packet, insn.k, 1)
                value = None if value is None else 4 * (value & 15)
            elif mode == op.BPF_ABS and insn.k >= u32(SKF_AD_OFF):
                name = ANCILLARY[insn.k].name
                value = a ^ x if name == "SKF_AD_ALU_XOR_X" else special[name]
            else:
                value = load(packet, insn.k + (x if mode == op.BPF_IND else 0), size)
            if value is None:
                return 0
            if kind == op.BPF_LD:
                a = value
            else:
                x = value
        elif kind in (op.BPF_ST, op.BPF_STX):
            scratch[insn.k] = a if kind == op.BPF_ST else x
        elif kind == op.BPF_ALU:
            operation = insn.code & 0xF0
            if operation in (op.BPF_DIV, op.BPF_MOD) and operand == 0:
                return 0
            a = u32(_ALU[operation](a, operand))
        elif kind == op.BPF_JMP:
            if insn.code & 0xF0 == op.BPF_JA:
                pc += insn.k
            else:
                pc += insn.jt if _TESTS[insn.code & 0xF0](a, operand) else insn.jf
        elif kind == 7:
            if insn.code & 0xF8 == BPF_TAX:
                x = a
            else:
                a = x
        else:
            return a if insn.code & 0x18 == 0x10 else insn.k


# Random programs that the checker accepts.

PREDICTABLE = {
    "SKF_AD_PKTTYPE": 3, "SKF_AD_IFINDEX": 2, "SKF_AD_MARK": 0x8001F00D, "SKF_AD_QUEUE": 0xFEDC,
    "SKF_AD_HATYPE": 1, "SKF_AD_RXHASH": 0xDEADBEEF, "SKF_AD_CPU": 0, "SKF_AD_VLAN_TAG": 0xE123,
    "SKF_AD_VLAN_TAG_PRESENT": 1, "SKF_AD_VLAN_TPID": 0x88A8, "SKF_AD_PROTOCOL": 0x1234,
}  # fmt: skip
SKB_FIELDS = {
    "mark": 0x8001F00D, "queue_mapping": 0xFEDC, "hash": 0xDEADBEEF, "vlan_tci": 0xE123,
    "vlan_proto": 0xA888, "protocol": 0x3412,
}  # fmt: skip
_EDGES = (
    0,
    1,
    2,
    31,
    0x7FFF,
    0x8000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    u32(SKF_NET_OFF),
    u32(SKF_LL_OFF + 3),
)
_SPECIAL = [row.k for row in ANCILLARY.values() if row.name in PREDICTABLE or row.number == 40]
_BODY = [row for row in CLASSIC_INSNS.values() if not row.name.startswith("RET")]


@st.composite
def programs(
    draw: st.DrawFn, tail: Sequence[SockFilter] | None = None, host: bool = False
) -> list[SockFilter]:
    """A valid program that ends with ``tail`` (default: ret a).

    ``host``: only what any kind of socket gives alike.
    """
    end = list(tail) if tail is not None else [SockFilter(op.BPF_RET | 0x10)]
    count = draw(st.integers(1, 24))
    numbers = st.one_of(st.sampled_from(_EDGES), st.integers(0, 70), st.integers(0, 0xFFFFFFFF))
    body = [SockFilter(op.BPF_ST, k=word) for word in range(16)]
    for left in range(count - 1, -1, -1):
        row = draw(st.sampled_from(_BODY))
        jt = jf = 0
        k = draw(numbers)
        if row.code in CONDITIONAL_JUMPS:
            jt, jf = draw(st.integers(0, min(left, 6))), draw(st.integers(0, min(left, 6)))
        elif row.name == "JMP | JA":
            k = draw(st.integers(0, min(left, 6)))
        elif "M[k]" in row.forms[0]:
            k %= 16
        elif row.name.endswith("SH | K"):
            k %= 32
        elif row.name in ("ALU | DIV | K", "ALU | MOD | K"):
            k = k or 1
        elif "[k]" in row.forms[0] and "4*" not in row.forms[0]:
            if not host and draw(st.booleans()):
                k = draw(st.sampled_from(_SPECIAL))
            elif k >= u32(SKF_AD_OFF):
                k = 5
        if host and row.code & 7 in (op.BPF_LD, op.BPF_LDX) and "[" in row.forms[0]:
            k &= 0x7F
        body.append(SockFilter(row.code, jt, jf, k))
    return body + end


def ipv4(protocol: int, payload: bytes, fragment: int = 0, options: bytes = b"") -> bytes:
    """An Ethernet frame with an IPv4 packet."""
    words = 5 + len(options) // 4
    header = struct.pack(
        ">BBHHHBBH", 0x40 | words, 0, 20 + len(options) + len(payload), 1, fragment, 64, protocol, 0
    )
    return MAC + bytes(6) + b"\x08\x00" + header + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + options + payload


def ipv6(following: int, payload: bytes) -> bytes:
    """An Ethernet frame with an IPv6 packet."""
    header = struct.pack(">IHBB", 6 << 28, len(payload), following, 64)
    return MAC + bytes(6) + b"\x86\xdd" + header + bytes(32) + payload
