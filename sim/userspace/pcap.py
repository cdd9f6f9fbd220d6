# SPDX-License-Identifier: GPL-2.0-only
"""Captured frames: reading pcap (every magic of both byte orders) and pcapng, writing pcap.

The record headers are dpkt's; the walk over the file is ours, since a file that ends early has to be
told from one that ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dpkt
from dpkt import pcap as dpcap
from dpkt import pcapng as dpcapng

DLT_EN10MB = 1
MAX_FRAME = 256 * 1024
"""A captured length above this is damage, not a frame (the limit of libpcap's MAXIMUM_SNAPLEN)."""


class PcapError(Exception):
    """A capture file that cannot be read: ``path``, byte ``offset`` (None: the whole), ``cause``."""

    def __init__(self, path: str, offset: int | None, cause: str) -> None:
        super().__init__(path, offset, cause)
        self.path = path
        self.offset = offset
        self.cause = cause

    def __str__(self) -> str:
        where = self.path if self.offset is None else f"{self.path}: at {self.offset:#x}"
        text = f"{where}: {self.cause}"
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Frame:
    """One captured frame: its bytes, the time in nanoseconds since the epoch, its length on the wire."""

    data: bytes
    time_ns: int = 0
    wire_len: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.wire_len < 0:
            object.__setattr__(self, "wire_len", len(self.data))


# The magic as the first four bytes of the file: (file header, packet header, nanoseconds a tick).
_PCAP: dict[bytes, tuple[Any, Any, int]] = {
    b"\xa1\xb2\xc3\xd4": (dpcap.FileHdr, dpcap.PktHdr, 1000),
    b"\xd4\xc3\xb2\xa1": (dpcap.LEFileHdr, dpcap.LEPktHdr, 1000),
    b"\xa1\xb2\x3c\x4d": (dpcap.FileHdr, dpcap.PktHdr, 1),
    b"\x4d\x3c\xb2\xa1": (dpcap.LEFileHdr, dpcap.LEPktHdr, 1),
    b"\xa1\xb2\xcd\x34": (dpcap.FileHdr, dpcap.PktModHdr, 1000),
    b"\x34\xcd\xb2\xa1": (dpcap.LEFileHdr, dpcap.LEPktModHdr, 1000),
}
_PCAPNG = struct.pack(">I", dpcapng.PCAPNG_BT_SHB)
_BLOCKS: dict[tuple[int, str], Any] = {
    (dpcapng.PCAPNG_BT_IDB, "<"): dpcapng.InterfaceDescriptionBlockLE,
    (dpcapng.PCAPNG_BT_IDB, ">"): dpcapng.InterfaceDescriptionBlock,
    (dpcapng.PCAPNG_BT_EPB, "<"): dpcapng.EnhancedPacketBlockLE,
    (dpcapng.PCAPNG_BT_EPB, ">"): dpcapng.EnhancedPacketBlock,
    (dpcapng.PCAPNG_BT_PB, "<"): dpcapng.PacketBlockLE,
    (dpcapng.PCAPNG_BT_PB, ">"): dpcapng.PacketBlock,
}


def read_pcap(path: str | Path) -> list[Frame]:
    """The frames of a capture file, in order; PcapError for anything that is not one, whole and Ethernet."""
    try:
        data = Path(path).read_bytes()
    except OSError as failure:
        raise PcapError(str(path), None, failure.strerror or str(failure)) from None
    return parse_pcap(data, str(path))


def parse_pcap(data: bytes, path: str = "<bytes>") -> list[Frame]:
    """The same for bytes already read; ``path`` is only a name for messages."""
    if not data:
        raise PcapError(path, None, "empty file")
    magic = data[:4]
    if magic == _PCAPNG:
        return list(_pcapng(data, path))
    if magic not in _PCAP:
        raise PcapError(path, 0, "neither pcap nor pcapng")
    return list(_pcap(data, path, *_PCAP[magic]))


def _check_link(path: str, offset: int, link: int) -> None:
    if link != DLT_EN10MB:
        raise PcapError(path, offset, f"link type {link} is not Ethernet (1)")


def _check_length(path: str, offset: int, length: int) -> None:
    if length > MAX_FRAME:
        raise PcapError(path, offset, f"captured length {length} is above {MAX_FRAME}")


def _pcap(data: bytes, path: str, file_header: Any, packet_header: Any, tick: int) -> Iterator[Frame]:
    size = file_header.__hdr_len__
    if len(data) < size:
        raise PcapError(path, len(data), "truncated in the file header")
    header = file_header(data[:size])
    if header.v_major != 2:
        raise PcapError(path, 4, f"pcap version {header.v_major}.{header.v_minor} is unknown")
    # The upper bits of the field tell of a frame check sequence, not of the link.
    _check_link(path, 20, header.linktype & 0xFFFF)
    at = size
    while at < len(data):
        size = packet_header.__hdr_len__
        if at + size > len(data):
            raise PcapError(path, at, "truncated in a packet header")
        record = packet_header(data[at : at + size])
        _check_length(path, at, record.caplen)
        if at + size + record.caplen > len(data):
            raise PcapError(path, at, f"truncated in a packet of {record.caplen} bytes")
        at += size
        yield Frame(
            data[at : at + record.caplen], record.tv_sec * 1_000_000_000 + record.tv_usec * tick, record.len
        )
        at += record.caplen


@dataclass
class _Interface:
    link: int
    snaplen: int
    numerator: int = 1_000_000_000
    denominator: int = 1_000_000
    offset_s: int = 0

    def time_ns(self, high: int, low: int) -> int:
        return self.offset_s * 1_000_000_000 + (high << 32 | low) * self.numerator // self.denominator


def _interface(block: Any, order: str) -> _Interface:
    out = _Interface(block.linktype, block.snaplen)
    for option in block.opts:
        if option.code == dpcapng.PCAPNG_OPT_IF_TSRESOL and len(option.data) == 1:
            exponent = option.data[0]
            out.denominator = 2 ** (exponent & 0x7F) if exponent & 0x80 else 10**exponent
        elif option.code == dpcapng.PCAPNG_OPT_IF_TSOFFSET and len(option.data) == 8:
            out.offset_s = struct.unpack(order + "q", option.data)[0]
    return out


def _pcapng(data: bytes, path: str) -> Iterator[Frame]:
    at, order = 0, "<"
    interfaces: list[_Interface] = []
    while at < len(data):
        if at + 12 > len(data):
            raise PcapError(path, at, "truncated in a block header")
        if data[at : at + 4] == _PCAPNG:
            orders = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
            if data[at + 8 : at + 12] not in orders:
                raise PcapError(path, at + 8, "section header without a byte-order magic")
            order = orders[data[at + 8 : at + 12]]
            interfaces = []
        kind, size = struct.unpack_from(order + "II", data, at)
        if size < 12 or size % 4:
            raise PcapError(path, at, f"block length {size} is impossible")
        if at + size > len(data):
            raise PcapError(path, at, f"truncated in a block of {size} bytes")
        raw = data[at : at + size]
        if raw[-4:] != raw[4:8]:
            raise PcapError(path, at, "the two lengths of a block differ")
        try:
            if kind == dpcapng.PCAPNG_BT_IDB:
                interfaces.append(_interface(_BLOCKS[kind, order](raw), order))
            elif kind == dpcapng.PCAPNG_BT_SPB:
                yield _simple_packet(raw, order, interfaces, path, at)
            elif (kind, order) in _BLOCKS:
                yield _packet(_BLOCKS[kind, order](raw), len(raw), interfaces, path, at)
        except (dpkt.Error, UnicodeDecodeError, struct.error) as failure:
            raise PcapError(path, at, f"damaged block ({type(failure).__name__})") from None
        at += size


def _packet(block: Any, size: int, interfaces: list[_Interface], path: str, at: int) -> Frame:
    if block.iface_id >= len(interfaces):
        raise PcapError(path, at, f"packet of interface {block.iface_id}, which was not described")
    interface = interfaces[block.iface_id]
    _check_link(path, at, interface.link)
    _check_length(path, at, block.caplen)
    if block.caplen > size - block.__hdr_len__:
        raise PcapError(path, at, f"packet of {block.caplen} bytes exceeds its block")
    return Frame(bytes(block.pkt_data), interface.time_ns(block.ts_high, block.ts_low), block.pkt_len)


def _simple_packet(raw: bytes, order: str, interfaces: list[_Interface], path: str, at: int) -> Frame:
    if not interfaces:
        raise PcapError(path, at, "packet before any interface was described")
    interface = interfaces[0]
    _check_link(path, at, interface.link)
    (wire_len,) = struct.unpack_from(order + "I", raw, 8)
    length = min(wire_len, interface.snaplen) if interface.snaplen else wire_len
    if len(raw) < 16 or length > len(raw) - 16:
        raise PcapError(path, at, f"packet of {length} bytes exceeds its block")
    return Frame(raw[12 : 12 + length], 0, wire_len)


def format_pcap(frames: Iterable[Frame]) -> bytes:
    """A little-endian pcap file with nanosecond times."""
    out = [bytes(dpcap.LEFileHdr(magic=dpcap.TCPDUMP_MAGIC_NANO, snaplen=MAX_FRAME, linktype=DLT_EN10MB))]
    for frame in frames:
        seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
        record = dpcap.LEPktHdr(
            tv_sec=seconds & 0xFFFFFFFF, tv_usec=nanoseconds, caplen=len(frame.data), len=frame.wire_len
        )
        out += [bytes(record), frame.data]
    return b"".join(out)


def write_pcap(path: str | Path, frames: Iterable[Frame]) -> None:
    """Write ``frames`` to ``path``; PcapError when the file cannot be written."""
    data = format_pcap(frames)
    try:
        Path(path).write_bytes(data)
    except OSError as failure:
        raise PcapError(str(path), None, failure.strerror or str(failure)) from None
