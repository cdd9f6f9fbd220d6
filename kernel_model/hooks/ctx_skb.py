# SPDX-License-Identifier: GPL-2.0-only
"""``struct __sk_buff``: what socket filters and traffic control see of ``struct sk_buff``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kernel_model.btf.layout import Layout
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id

from .context import (
    PACKET,
    PACKET_END,
    PACKET_META,
    SCALAR,
    SOCK_COMMON_OR_NULL,
    Access,
    Context,
    Converter,
    Request,
    Rewrite,
    aligned_within,
    narrow,
)

SIZE: Final = 192
CONFIG_NR_CPUS: Final = 256
NO_QUEUE_MAPPING: Final = 0xFFFF
TC_ACT_SHOT: Final = 2
_AX: Final = op.BPF_REG_AX
_MOV32_K: Final = op.BPF_ALU | op.BPF_MOV
_MOV64_K: Final = op.BPF_ALU64 | op.BPF_MOV
_AND32_K: Final = op.BPF_ALU | op.BPF_AND
_LDX_B: Final = op.BPF_LDX | op.BPF_MEM | op.BPF_B

OFFSETS: Final = {
    "len": 0, "pkt_type": 4, "mark": 8, "queue_mapping": 12, "protocol": 16, "vlan_present": 20,
    "vlan_tci": 24, "vlan_proto": 28, "priority": 32, "ingress_ifindex": 36, "ifindex": 40, "tc_index": 44,
    "cb": 48, "hash": 68, "tc_classid": 72, "data": 76, "data_end": 80, "napi_id": 84, "family": 88,
    "remote_ip4": 92, "local_ip4": 96, "remote_ip6": 100, "local_ip6": 116, "remote_port": 132,
    "local_port": 136, "data_meta": 140, "flow_keys": 144, "tstamp": 152, "wire_len": 160, "gso_segs": 164,
    "sk": 168, "gso_size": 176, "tstamp_type": 180, "hwtstamp": 184,
}  # fmt: skip
"""The uapi structure: byte offset of each member."""
_SIZES: Final = {
    "cb": 20, "remote_ip6": 16, "local_ip6": 16, "flow_keys": 8, "tstamp": 8, "sk": 8, "tstamp_type": 1,
    "hwtstamp": 8,
}  # fmt: skip


def _fields_by_byte() -> list[str]:
    names = ["(padding)"] * SIZE
    for name, off in OFFSETS.items():
        size = _SIZES.get(name, 4)
        names[off : off + size] = [name] * size
    return names


_AT: Final = _fields_by_byte()
_WHOLE_ONLY: Final = frozenset(
    ("data", "data_meta", "data_end", "remote_ip4", "local_ip4", "remote_ip6", "local_ip6")
)
_SOCKET_FIELDS: Final = frozenset(
    ("family", "remote_ip4", "local_ip4", "remote_ip6", "local_ip6", "remote_port", "local_port")
)


def _field_at(off: int) -> str:
    return _AT[off] if 0 <= off < SIZE else "(padding)"


def _common(request: Request) -> Access | None:
    """The rules that all users of __sk_buff share (bpf_skb_is_valid_access)."""
    if not aligned_within(request, SIZE):
        return None
    name, size = _AT[request.off], request.size
    if name == "cb":
        return Access() if request.off + size <= OFFSETS["cb"] + 20 else None
    if name in _WHOLE_ONLY:
        return Access() if size == 4 else None
    if name in ("flow_keys", "tstamp_type", "(padding)"):
        return None
    if name == "tstamp":
        return Access() if size == 8 else None
    if name == "hwtstamp":
        return Access() if size == 8 and not request.write else None
    if name == "sk":
        return Access(SOCK_COMMON_OR_NULL) if size == 8 and not request.write else None
    if request.write:
        return Access() if size == 4 else None
    return narrow(request)


def check_socket_filter(request: Request) -> Access | None:
    """SOCKET_FILTER: no packet pointers, no socket fields; only cb may be written."""
    name = _field_at(request.off)
    if name in _SOCKET_FIELDS or name in (
        "tc_classid", "data", "data_meta", "data_end", "tstamp", "wire_len", "hwtstamp",
    ):  # fmt: skip
        return None
    if request.write and name != "cb":
        return None
    return _common(request)


_TC_POINTERS: Final = {"data": PACKET, "data_meta": PACKET_META, "data_end": PACKET_END}
_TC_WRITABLE: Final = frozenset(
    ("mark", "tc_index", "priority", "tc_classid", "cb", "tstamp", "queue_mapping")
)


def check_tc(request: Request) -> Access | None:
    """SCHED_CLS and SCHED_ACT: direct packet access, some fields writable, no socket fields."""
    name = _field_at(request.off)
    if request.write and name not in _TC_WRITABLE:
        return None
    if name in _SOCKET_FIELDS:
        return None
    if name == "tstamp_type":
        return Access() if request.size == 1 else None
    yields = _TC_POINTERS.get(name, SCALAR)
    if yields != SCALAR and request.sign_extends:
        return None
    access = _common(request)
    if access is None or yields == SCALAR:
        return access
    return Access(yields)


# ---- rewriting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plain:
    """A field that is one field of sk_buff: its name there and size."""

    path: str
    size: int

    def __call__(self, rewrite: Rewrite) -> tuple[list[Insn], int]:
        if rewrite.write:
            return [rewrite.store(self.size, rewrite.offset(self.path))], self.size
        return [rewrite.load(self.size, self.path)], self.size


def _ifindex(rewrite: Rewrite) -> tuple[list[Insn], int]:
    dst = rewrite.insn.dst
    return [
        rewrite.load(8, "sk_buff.dev"),
        Insn(op.BPF_JMP | op.BPF_JEQ, dst, 0, 1, 0),
        rewrite.load(4, "net_device.ifindex", via=dst),
    ], 4


def _tc_ifindex(rewrite: Rewrite) -> tuple[list[Insn], int]:
    """Traffic control always has a device."""
    return [rewrite.load(8, "sk_buff.dev"), rewrite.load(4, "net_device.ifindex", via=rewrite.insn.dst)], 4


def _pkt_type(rewrite: Rewrite) -> tuple[list[Insn], int]:
    rewrite.offset("sk_buff.pkt_type")
    member = rewrite.layout["sk_buff"].member("pkt_type")
    dst = rewrite.insn.dst
    out = [Insn(_LDX_B, dst, rewrite.insn.src, member.offset + member.bit_offset // 8)]
    out.append(Insn(_AND32_K, dst, 0, 0, (1 << member.bit_size) - 1))
    return out, 1


def _queue_mapping(rewrite: Rewrite) -> tuple[list[Insn], int]:
    insn = rewrite.insn
    if not rewrite.write:
        return [rewrite.load(2, "sk_buff.queue_mapping")], 2
    off = rewrite.offset("sk_buff.queue_mapping")
    if insn.code & 7 == op.BPF_ST and insn.imm & 0xFFFFFFFF >= NO_QUEUE_MAPPING:
        return [Insn(op.BPF_JMP | op.BPF_JA)], 2
    out = [rewrite.store(2, off)]
    if insn.code & 7 == op.BPF_STX:
        out.insert(0, Insn(op.BPF_JMP | op.BPF_JGE, insn.src, 0, 1, NO_QUEUE_MAPPING))
    return out, 2


def _vlan_present(rewrite: Rewrite) -> tuple[list[Insn], int]:
    dst = rewrite.insn.dst
    return [
        rewrite.load(4, "sk_buff.vlan_all"),
        Insn(op.BPF_JMP | op.BPF_JEQ, dst, 0, 1, 0),
        Insn(_MOV32_K, dst, 0, 0, 1),
    ], 4


def _access(rewrite: Rewrite, size: int, off: int) -> Insn:
    if rewrite.write:
        return rewrite.store(size, off)
    insn = rewrite.insn
    return Insn(
        op.BPF_LDX | op.BPF_MEM | {1: op.BPF_B, 2: op.BPF_H, 4: op.BPF_W, 8: op.BPF_DW}[size],
        insn.dst,
        insn.src,
        off,
    )


def _cb(rewrite: Rewrite) -> tuple[list[Insn], int]:
    rewrite.flags["cb_access"] = True
    off = (
        rewrite.insn.off - OFFSETS["cb"] + rewrite.offset("sk_buff.cb") + rewrite.offset("qdisc_skb_cb.data")
    )
    return [_access(rewrite, op.SIZE_BYTES[rewrite.insn.code & 0x18], off)], 0


def _tc_classid(rewrite: Rewrite) -> tuple[list[Insn], int]:
    off = rewrite.offset("sk_buff.cb") + rewrite.offset("qdisc_skb_cb.tc_classid")
    return [_access(rewrite, 2, off)], 2


def _wire_len(rewrite: Rewrite) -> tuple[list[Insn], int]:
    off = rewrite.offset("sk_buff.cb") + rewrite.offset("qdisc_skb_cb.pkt_len")
    return [_access(rewrite, 4, off)], 4


def _in_data_end(name: str) -> Converter:
    return _DataEnd(name)


@dataclass(frozen=True)
class _DataEnd:
    """A packet pointer that the kernel keeps in the control block while the program runs."""

    name: str

    def __call__(self, rewrite: Rewrite) -> tuple[list[Insn], int]:
        off = rewrite.offset("sk_buff.cb") + rewrite.offset(f"bpf_skb_data_end.{self.name}")
        return [_access(rewrite, 8, off)], 0


@dataclass(frozen=True)
class _Pointer:
    """A pointer of sk_buff, as it is."""

    path: str

    def __call__(self, rewrite: Rewrite) -> tuple[list[Insn], int]:
        return [rewrite.load(8, self.path)], 0


def _napi_id(rewrite: Rewrite) -> tuple[list[Insn], int]:
    dst = rewrite.insn.dst
    return [
        rewrite.load(4, "sk_buff.napi_id"),
        Insn(op.BPF_JMP | op.BPF_JGE, dst, 0, 1, CONFIG_NR_CPUS + 1),
        Insn(_MOV64_K, dst, 0, 0, 0),
    ], 4


def _timestamp_bits(rewrite: Rewrite) -> tuple[int, int, int]:
    """The byte of sk_buff with the kind of timestamp, and the masks of its bits and of tc_at_ingress."""
    rewrite.offset("sk_buff.tstamp_type")
    kind = rewrite.layout["sk_buff"].member("tstamp_type")
    ingress = rewrite.layout["sk_buff"].member("tc_at_ingress")
    return (
        kind.offset + kind.bit_offset // 8,
        ((1 << kind.bit_size) - 1) << kind.bit_offset % 8,
        1 << ingress.bit_offset % 8,
    )


def _tstamp(rewrite: Rewrite) -> tuple[list[Insn], int]:
    insn = rewrite.insn
    byte, kind, ingress = _timestamp_bits(rewrite)
    skb = insn.dst if rewrite.write else insn.src
    jset, ja = op.BPF_JMP32 | op.BPF_JSET, op.BPF_JMP | op.BPF_JA
    out: list[Insn] = []
    if not rewrite.flags.get("tstamp_type_access"):
        out.append(Insn(_LDX_B, _AX, skb, byte))
        out.append(Insn(jset, _AX, 0, 1, ingress))
        if rewrite.write:
            out += [
                Insn(ja, off=2),
                Insn(_AND32_K, _AX, 0, 0, ~kind),
                Insn(op.BPF_STX | op.BPF_MEM | op.BPF_B, skb, _AX, byte),
            ]
        else:
            out += [
                Insn(ja, off=4),
                Insn(jset, _AX, 0, 1, kind),
                Insn(ja, off=2),
                Insn(_MOV64_K, insn.dst, 0, 0, 0),
                Insn(ja, off=1),
            ]
    out.append(_access(rewrite, 8, rewrite.offset("sk_buff.tstamp")))
    return out, 0


def _tstamp_type(rewrite: Rewrite) -> tuple[list[Insn], int]:
    byte, kind, _ = _timestamp_bits(rewrite)
    dst = rewrite.insn.dst
    return [Insn(_LDX_B, dst, rewrite.insn.src, byte), Insn(_AND32_K, dst, 0, 0, kind)], 0


@dataclass(frozen=True)
class _Shared:
    """A field of skb_shared_info, behind the packet's buffer."""

    name: str
    size: int

    def __call__(self, rewrite: Rewrite) -> tuple[list[Insn], int]:
        insn = rewrite.insn
        return [
            Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, _AX, insn.src, rewrite.offset("sk_buff.end")),
            rewrite.load(8, "sk_buff.head"),
            Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, insn.dst, _AX),
            rewrite.load(self.size, f"skb_shared_info.{self.name}", via=insn.dst),
        ], self.size


_REWRITES: Final[dict[str, Converter]] = {
    "len": _Plain("sk_buff.len", 4),
    "pkt_type": _pkt_type,
    "mark": _Plain("sk_buff.mark", 4),
    "queue_mapping": _queue_mapping,
    "protocol": _Plain("sk_buff.protocol", 2),
    "vlan_present": _vlan_present,
    "vlan_tci": _Plain("sk_buff.vlan_tci", 2),
    "vlan_proto": _Plain("sk_buff.vlan_proto", 2),
    "priority": _Plain("sk_buff.priority", 4),
    "ingress_ifindex": _Plain("sk_buff.skb_iif", 4),
    "ifindex": _ifindex,
    "tc_index": _Plain("sk_buff.tc_index", 2),
    "cb": _cb,
    "hash": _Plain("sk_buff.hash", 4),
    "tc_classid": _tc_classid,
    "data": _Pointer("sk_buff.data"),
    "data_end": _in_data_end("data_end"),
    "napi_id": _napi_id,
    "data_meta": _in_data_end("data_meta"),
    "tstamp": _tstamp,
    "wire_len": _wire_len,
    "gso_segs": _Shared("gso_segs", 2),
    "sk": _Pointer("sk_buff.sk"),
    "gso_size": _Shared("gso_size", 2),
    "tstamp_type": _tstamp_type,
    "hwtstamp": _Shared("hwtstamps", 8),
}


def convert(rewrite: Rewrite) -> tuple[list[Insn], int]:
    """Loads and stores of sk_buff's own fields."""
    return _REWRITES[_field_at(rewrite.insn.off)](rewrite)


def convert_tc(rewrite: Rewrite) -> tuple[list[Insn], int]:
    """The same for traffic control."""
    name = _field_at(rewrite.insn.off)
    return _tc_ifindex(rewrite) if name == "ifindex" else _REWRITES[name](rewrite)


SKB_SOCKET: Final = Context("__sk_buff", check_socket_filter, convert, "3.19")
SKB_TC: Final = Context("__sk_buff", check_tc, convert_tc, "4.1")


def tc_prologue(layout: Layout, first: Insn) -> list[Insn]:
    """In front of a program that writes into the packet: make an skb that is a clone private.

    Ends with ``first``, the program's first instruction (bpf_unclone_prologue; the call is by number).
    """
    Rewrite(first, True, layout).offset("sk_buff.cloned")
    cloned = layout["sk_buff"].member("cloned")
    jeq = op.BPF_JMP | op.BPF_JEQ
    return [
        Insn(_LDX_B, 6, 1, cloned.offset + cloned.bit_offset // 8),
        Insn(_AND32_K, 6, 0, 0, 1 << cloned.bit_offset % 8),
        Insn(jeq, 6, 0, 7, 0),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 6, 1),
        Insn(op.BPF_ALU64 | op.BPF_XOR | op.BPF_X, 2, 2),
        Insn(op.CALL, 0, 0, 0, bpf_func_id.BPF_FUNC_skb_pull_data),
        Insn(jeq, 0, 0, 2, 0),
        Insn(_MOV32_K, 0, 0, 0, TC_ACT_SHOT),
        Insn(op.EXIT),
        Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 1, 6),
        first,
    ]
