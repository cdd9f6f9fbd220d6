# SPDX-License-Identifier: GPL-2.0-only
"""``struct __sk_buff`` as BPF_PROG_TEST_RUN takes and gives it (net/bpf/test_run.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..uapi.bpf_attr import Record, Values

if TYPE_CHECKING:
    from ..kernel import Kernel
    from .skb import SkBuff

_SK_BUFF = Record(
    "__sk_buff",
    """
    3.19 u32 len; u32 pkt_type; u32 mark; u32 queue_mapping; u32 protocol; u32 vlan_present; u32 vlan_tci
    3.19 u32 vlan_proto; u32 priority; u32 ingress_ifindex; u32 ifindex; u32 tc_index; u8 cb[20]; u32 hash
    4.7  u32 tc_classid; u32 data; u32 data_end
    4.12 u32 napi_id
    4.14 u32 family; u32 remote_ip4; u32 local_ip4; u8 remote_ip6[16]; u8 local_ip6[16]; u32 remote_port
    4.14 u32 local_port
    4.15 u32 data_meta
    4.20 u64 flow_keys; u64 tstamp
    5.0  u32 wire_len; u32 gso_segs
    5.1  u64 sk
    5.7  u32 gso_size
    5.18 u8 tstamp_type; u8 pad[3]; u64 hwtstamp
    """,
)
SKB_CTX_SIZE = _SK_BUFF.size
_TAKEN = (
    "mark",
    "priority",
    "ingress_ifindex",
    "ifindex",
    "cb",
    "tstamp",
    "wire_len",
    "gso_segs",
    "gso_size",
)
_MAY_BE_SET = (*_TAKEN, "hwtstamp")
_GSO_MAX_SEGS = 65535
_GSO_LEGACY_MAX_SIZE = 65536
# Where the fields that pass through unchanged lie in struct sk_buff.
_MEMBERS = (("mark", "mark"), ("priority", "priority"), ("ingress_ifindex", "skb_iif"))


def ctx_ifindex(ctx: bytes) -> int:
    """The index of the device that the packet is to come from."""
    return _SK_BUFF.unpack(ctx)["ifindex"]


def ctx_to_skb(kernel: Kernel, skb: SkBuff, ctx: bytes) -> None:
    """convert___skb_to_skb(): KernelError(EINVAL) for fields that cannot be given."""
    values = _SK_BUFF.unpack(ctx)
    free = bytearray(ctx)
    for name in _MAY_BE_SET:
        field = _SK_BUFF.fields[name]
        free[field.offset : field.offset + field.size] = bytes(field.size)
    if any(free):
        raise KernelError(errno.EINVAL, "fields of __sk_buff are set that cannot be given")
    memory, layout = kernel.memory, kernel.layout["sk_buff"]
    for name, member in _MEMBERS:
        memory.put_u32(skb.addr + layout.offset(member), values[name])
    memory.put_u64(skb.addr + layout.offset("tstamp"), values["tstamp"])
    cb, length = _control_block(kernel, skb), memory.u32(skb.addr + layout.offset("len"))
    memory.write(cb + kernel.layout["qdisc_skb_cb"].offset("data"), values.blob("cb"))
    wire_len = values["wire_len"] or length
    if values["wire_len"] and not length <= wire_len <= _GSO_LEGACY_MAX_SIZE:
        raise KernelError(errno.EINVAL, f"wire_len {wire_len} of a packet of {length} bytes")
    memory.put_u32(cb + kernel.layout["qdisc_skb_cb"].offset("pkt_len"), wire_len)
    if values["gso_segs"] > _GSO_MAX_SEGS:
        raise KernelError(errno.EINVAL, f"{values['gso_segs']} GSO segments")
    _put_shared_info(kernel, skb, values)


def skb_to_ctx(kernel: Kernel, skb: SkBuff, ctx: bytes) -> bytes:
    """convert_skb_to___skb(): the context afterwards; what is not shown stays as it was given."""
    memory, layout = kernel.memory, kernel.layout["sk_buff"]
    given = _SK_BUFF.unpack(ctx)
    cb, qdisc = _control_block(kernel, skb), kernel.layout["qdisc_skb_cb"]
    shared, info = _shared_info(kernel, skb), kernel.layout["skb_shared_info"]
    dev = memory.u64(skb.addr + layout.offset("dev"))
    return _SK_BUFF.pack(
        **{name: memory.u32(skb.addr + layout.offset(member)) for name, member in _MEMBERS},
        ifindex=memory.u32(dev + kernel.layout["net_device"].offset("ifindex")),
        tstamp=memory.u64(skb.addr + layout.offset("tstamp")),
        cb=memory.read(cb + qdisc.offset("data"), 20),
        wire_len=memory.u32(cb + qdisc.offset("pkt_len")),
        gso_segs=memory.u16(shared + info.offset("gso_segs")),
        gso_size=given["gso_size"],
        hwtstamp=memory.u64(shared + info.offset("hwtstamps")),
    )


def _control_block(kernel: Kernel, skb: SkBuff) -> int:
    return skb.addr + kernel.layout["sk_buff"].offset("cb")


def _shared_info(kernel: Kernel, skb: SkBuff) -> int:
    layout = kernel.layout["sk_buff"]
    memory = kernel.memory
    return memory.u64(skb.addr + layout.offset("head")) + memory.u32(skb.addr + layout.offset("end"))


def _put_shared_info(kernel: Kernel, skb: SkBuff, values: Values) -> None:
    shared, info = _shared_info(kernel, skb), kernel.layout["skb_shared_info"]
    kernel.memory.put_u16(shared + info.offset("gso_segs"), values["gso_segs"])
    kernel.memory.put_u16(shared + info.offset("gso_size"), values["gso_size"] & 0xFFFF)
    kernel.memory.put_u64(shared + info.offset("hwtstamps"), values["hwtstamp"])
