# SPDX-License-Identifier: GPL-2.0-only
"""Tunnel keys and options of a packet, kept in a metadata dst as devices of tunnels read it (filter.c).

A packet that came out of a tunnel has such a dst; one that a program gave a key has the running CPU's.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from ..net.skb_edit import Skb
from .on_skb import MASK32, edits

if TYPE_CHECKING:
    from ..kernel import Kernel

BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, BPF_F_DONT_FRAGMENT, BPF_F_SEQ_NUMBER = 1, 2, 4, 8
BPF_F_TUNINFO_FLAGS = BPF_F_NO_TUNNEL_KEY = 1 << 4
# Bits of ip_tunnel_key.tun_flags (IP_TUNNEL_*_BIT).
TUNNEL_CSUM, TUNNEL_KEY, TUNNEL_SEQ, TUNNEL_DONT_FRAGMENT, TUNNEL_NOCACHE = (
    1 << bit for bit in (0, 2, 3, 8, 13)
)
TUNNEL_OPTIONS_PRESENT: Final = 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15
"""GENEVE, VXLAN, ERSPAN and GTP options."""
IP_TUNNEL_INFO_TX, IP_TUNNEL_INFO_IPV6 = 1, 2
IP_TUNNEL_OPTS_MAX: Final = 255
_KEY: Final = struct.Struct("<I16sBBHI16s")
"""struct bpf_tunnel_key: id, remote address, tos, ttl, extension, label, local address."""
_OLD_SIZES: Final = (28, 24, 22, 8)
"""What the structure measured before it grew: up to local_ipv6, tunnel_label, tunnel_ext, remote_ipv6[1]."""
_LABEL_MASK: Final = 0xFFFFF


def metadata_dst(skb: Skb) -> int:
    """The packet's metadata dst (skb_metadata_dst()): its address, or 0 for none."""
    dst = skb.get("_skb_refdst")
    cpus = range(skb.kernel.alloc.nr_cpus)
    return dst if dst in [skb.kernel.per_cpu("md_dst", cpu) for cpu in cpus] else 0


class _Info:
    """struct ip_tunnel_info in the metadata dst at ``dst``."""

    def __init__(self, kernel: Kernel, dst: int) -> None:
        self._memory, self._layout = kernel.memory, kernel.layout["metadata_dst"]
        self._dst = dst

    def _at(self, name: str) -> tuple[int, int]:
        member = self._layout.member(f"tun_info.{name}")
        return self._dst + member.offset, member.size

    def read(self, name: str) -> bytes:
        return self._memory.read(*self._at(name))

    def get(self, name: str) -> int:
        return int.from_bytes(self.read(name), "little")

    def write(self, name: str, data: bytes) -> None:
        self._memory.write(self._at(name)[0], data)

    def put(self, name: str, value: int) -> None:
        at, size = self._at(name)
        self._memory.write(at, value.to_bytes(size, "little"))

    def clear(self) -> None:
        self._memory.fill(self._dst, self._layout.size)


@edits("bpf_skb_set_tunnel_key", 4, moves=False)
def bpf_skb_set_tunnel_key(skb: Skb, source: int, size: int, flags: int) -> int:
    """Give the packet the key under which a tunnel device is to send it; 0 or -EINVAL."""
    size &= MASK32
    known = (
        BPF_F_TUNINFO_IPV6 | BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT | BPF_F_SEQ_NUMBER | BPF_F_NO_TUNNEL_KEY
    )
    if flags & ~known or (size != _KEY.size and size not in _OLD_SIZES):
        return -errno.EINVAL
    raw = skb.memory.read(source, size).ljust(_KEY.size, b"\0")
    number, remote, tos, ttl, extension, label, local = _KEY.unpack(raw)
    ipv6 = bool(flags & BPF_F_TUNINFO_IPV6)
    if (label and not ipv6) or extension:
        return -errno.EINVAL
    dst = skb.kernel.per_cpu("md_dst", skb.kernel.cpu.this_cpu)
    skb.put("_skb_refdst", dst)
    info = _Info(skb.kernel, dst)
    info.clear()
    tun_flags = TUNNEL_KEY | TUNNEL_CSUM | TUNNEL_NOCACHE
    tun_flags |= TUNNEL_DONT_FRAGMENT if flags & BPF_F_DONT_FRAGMENT else 0
    tun_flags |= TUNNEL_SEQ if flags & BPF_F_SEQ_NUMBER else 0
    tun_flags &= ~TUNNEL_CSUM if flags & BPF_F_ZERO_CSUM_TX else ~0
    tun_flags &= ~TUNNEL_KEY if flags & BPF_F_NO_TUNNEL_KEY else ~0
    info.put("key.tun_flags", tun_flags)
    info.write("key.tun_id", number.to_bytes(8, "big"))
    info.put("key.tos", tos)
    info.put("key.ttl", ttl)
    info.put("mode", IP_TUNNEL_INFO_TX | (IP_TUNNEL_INFO_IPV6 if ipv6 else 0))
    if ipv6:
        info.write("key.dst", remote)
        info.write("key.src", local)
        info.write("key.label", (label & _LABEL_MASK).to_bytes(4, "big"))
    else:
        info.write("key.dst", remote[3::-1])
        info.write("key.src", local[3::-1])
    return 0


@edits("bpf_skb_get_tunnel_key", 4, moves=False)
def bpf_skb_get_tunnel_key(skb: Skb, to: int, size: int, flags: int) -> int:
    """The key that the packet came with: 0, or zeroes and -EINVAL, -EPROTO (of the other IP version)."""
    size &= MASK32
    dst, found = metadata_dst(skb), b""
    ipv6 = bool(flags & BPF_F_TUNINFO_IPV6)
    error = 0
    if not dst or flags & ~(BPF_F_TUNINFO_IPV6 | BPF_F_TUNINFO_FLAGS):
        error = errno.EINVAL
    else:
        info = _Info(skb.kernel, dst)
        is_ipv6 = bool(info.get("mode") & IP_TUNNEL_INFO_IPV6)
        if is_ipv6 != ipv6:
            error = errno.EPROTO
        elif (size != _KEY.size and size not in _OLD_SIZES) or (size == _OLD_SIZES[-1] and is_ipv6):
            error = errno.EINVAL
        else:
            found = _key_of(info, ipv6, bool(flags & BPF_F_TUNINFO_FLAGS))
    skb.memory.write(to, found[:size] if not error else bytes(size))
    return -error


def _key_of(info: _Info, ipv6: bool, with_flags: bool) -> bytes:
    remote, local, label = info.read("key.src"), info.read("key.dst"), 0
    if ipv6:
        label = int.from_bytes(info.read("key.label"), "big")
    else:
        remote, local = (addr[3::-1].ljust(16, b"\0") for addr in (remote, local))
    number = int.from_bytes(info.read("key.tun_id"), "big") & MASK32
    shown = (
        int.from_bytes((info.get("key.tun_flags") & 0xFFFF).to_bytes(2, "big"), "little") if with_flags else 0
    )
    return _KEY.pack(number, remote, info.get("key.tos"), info.get("key.ttl"), shown, label, local)


@edits("bpf_skb_set_tunnel_opt", 3, moves=False)
def bpf_skb_set_tunnel_opt(skb: Skb, source: int, size: int) -> int:
    """Options for the key that the program gave: whole words, 255 bytes at most (-EINVAL, -ENOMEM)."""
    size &= MASK32
    dst = metadata_dst(skb)
    if dst != skb.kernel.per_cpu("md_dst", skb.kernel.cpu.this_cpu) or size % 4:
        return -errno.EINVAL
    if size > IP_TUNNEL_OPTS_MAX:
        return -errno.ENOMEM
    info = _Info(skb.kernel, dst)
    info.put("options_len", size)
    info.put("key.tun_flags", info.get("key.tun_flags") | TUNNEL_OPTIONS_PRESENT)
    info.write("options", skb.memory.read(source, size))
    return 0


@edits("bpf_skb_get_tunnel_opt", 3, moves=False)
def bpf_skb_get_tunnel_opt(skb: Skb, to: int, size: int) -> int:
    """The packet's tunnel options and their length; zeroes and -ENOENT, -ENOMEM (no room)."""
    size &= MASK32
    dst, data, result = metadata_dst(skb), b"", -errno.ENOENT
    if dst:
        info = _Info(skb.kernel, dst)
        length = info.get("options_len")
        if info.get("key.tun_flags") & TUNNEL_OPTIONS_PRESENT:
            fits = size >= length
            result, data = (length, info.read("options")[:length]) if fits else (-errno.ENOMEM, b"")
    skb.memory.write(to, data.ljust(size, b"\0"))
    return result
