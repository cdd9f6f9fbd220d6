# SPDX-License-Identifier: GPL-2.0-only
"""``struct xdp_md``: what an XDP program sees of ``struct xdp_buff`` (since 4.8; net/core/filter.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_attach_type

from .context import (
    PACKET,
    PACKET_END,
    PACKET_META,
    SCALAR,
    Access,
    Context,
    Request,
    Rewrite,
    aligned_within,
)

SIZE: Final = 24


@dataclass(frozen=True)
class XdpField:
    """A field of xdp_md at ``off``, and the loads that reach the kernel's: sizes and dotted names."""

    name: str
    off: int
    yields: str
    path: tuple[tuple[int, str], ...]
    since: str
    devmap_only: bool = False


FIELDS: Final = (
    XdpField("data", 0, PACKET, ((8, "xdp_buff.data"),), "4.8"),
    XdpField("data_end", 4, PACKET_END, ((8, "xdp_buff.data_end"),), "4.8"),
    XdpField("data_meta", 8, PACKET_META, ((8, "xdp_buff.data_meta"),), "4.15"),
    XdpField(
        "ingress_ifindex", 12, SCALAR,
        ((8, "xdp_buff.rxq"), (8, "xdp_rxq_info.dev"), (4, "net_device.ifindex")), "4.16",
    ),
    XdpField(
        "rx_queue_index", 16, SCALAR, ((8, "xdp_buff.rxq"), (4, "xdp_rxq_info.queue_index")), "4.16"
    ),
    XdpField(
        "egress_ifindex", 20, SCALAR,
        ((8, "xdp_buff.txq"), (8, "xdp_txq_info.dev"), (4, "net_device.ifindex")), "5.8", devmap_only=True,
    ),
)  # fmt: skip
BY_OFFSET: Final = {row.off: row for row in FIELDS}


def check(request: Request) -> Access | None:
    """Whole 32-bit reads only; egress_ifindex only where a device map will run the program."""
    row = BY_OFFSET.get(request.off)
    if row is None or request.write or request.size != 4 or not aligned_within(request, SIZE):
        return None
    if row.devmap_only and request.expected_attach_type != bpf_attach_type.BPF_XDP_DEVMAP:
        return None
    if row.yields != SCALAR and request.sign_extends:
        return None
    return Access(row.yields)


def convert(rewrite: Rewrite) -> tuple[list[Insn], int]:
    """Loads from xdp_buff and what it points to."""
    row = BY_OFFSET[rewrite.insn.off]
    out: list[Insn] = []
    for size, path in row.path:
        out.append(rewrite.load(size, path, via=rewrite.insn.dst if out else None))
    return out, 0


XDP_MD: Final = Context("xdp_md", check, convert, "4.8")
