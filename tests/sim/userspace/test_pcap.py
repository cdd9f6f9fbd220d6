# SPDX-License-Identifier: GPL-2.0-only
"""Capture files: every magic, pcapng, and files that end early."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.userspace.pcap import Frame, PcapError, format_pcap, parse_pcap, read_pcap, write_pcap

FRAMES = st.lists(
    st.builds(
        Frame,
        data=st.binary(max_size=100),
        time_ns=st.integers(0, (1 << 32) * 10**9 - 1),
        wire_len=st.integers(0, 9000),
    ),
    max_size=5,
)


def old(
    order: str, magic: int, packets: list[tuple[int, int, bytes]], link: int = 1, modified: bool = False
) -> bytes:
    """A pcap file: packets are (seconds, ticks, data)."""
    out = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, link)
    for seconds, ticks, data in packets:
        out += struct.pack(order + "IIII", seconds, ticks, len(data), len(data) + 10)
        out += (struct.pack(order + "IHBB", 2, 0x0800, 0, 0) if modified else b"") + data
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link, 0, snaplen) + options)


def option(order: str, code: int, data: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(data)) + data + bytes(-len(data) % 4)


def packet(order: str, data: bytes, ticks: int = 0, number: int = 0) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data) + 1)
    return block(order, 6, head + data)


@given(FRAMES)
def test_what_is_written_reads_back(frames: list[Frame]) -> None:
    assert parse_pcap(format_pcap(frames)) == frames


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "tick", "modified"),
    [(0xA1B2C3D4, 1000, False), (0xA1B23C4D, 1, False), (0xA1B2CD34, 1000, True)],
)
def test_every_magic_in_both_byte_orders(order: str, magic: int, tick: int, modified: bool) -> None:
    data = old(order, magic, [(5, 7, b"first frame"), (6, 8, b"second")], modified=modified)
    assert parse_pcap(data) == [
        Frame(b"first frame", 5 * 10**9 + 7 * tick, 21),
        Frame(b"second", 6 * 10**9 + 8 * tick, 16),
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng(order: str) -> None:
    nanoseconds = option(order, 9, b"\x09") + option(order, 14, struct.pack(order + "q", 100))
    halves = option(order, 9, b"\x81")
    data = section(order) + interface(order) + interface(order, options=nanoseconds)
    data += interface(order, options=halves)
    data += packet(order, b"micro", 3_000_001) + packet(order, b"nano", 5, 1) + packet(order, b"half", 3, 2)
    data += block(order, 5, bytes(20))  # interface statistics: skipped
    data += block(order, 3, struct.pack(order + "I", 6) + b"simple")
    # A second section may be of the other byte order and counts its interfaces anew.
    other = ">" if order == "<" else "<"
    data += section(other) + interface(other, snaplen=4) + packet(other, b"again", 1)
    data += block(other, 3, struct.pack(other + "I", 9) + b"cut off")
    assert [(f.data, f.time_ns, f.wire_len) for f in parse_pcap(data)] == [
        (b"micro", 3_000_001_000, 6),
        (b"nano", 100 * 10**9 + 5, 5),
        (b"half", 1_500_000_000, 5),
        (b"simple", 0, 6),
        (b"again", 1000, 6),
        (b"cut ", 0, 9),
    ]


GOOD = old("<", 0xA1B2C3D4, [(0, 0, b"x" * 20)])
NG = section("<") + interface("<") + packet("<", b"y" * 20)

BAD: dict[str, tuple[bytes, int | None, str]] = {
    "empty": (b"", None, "empty file"),
    "text": (b"not a capture at all", 0, "neither pcap nor pcapng"),
    "cut in the header": (GOOD[:20], 20, "truncated in the file header"),
    "cut in a packet header": (GOOD[:30], 24, "truncated in a packet header"),
    "cut in a packet": (GOOD[:-1], 24, "truncated in a packet of 20 bytes"),
    "wireless": (old("<", 0xA1B2C3D4, [], link=105), 20, "link type 105 is not Ethernet"),
    "version 3": (GOOD[:4] + b"\3" + GOOD[5:], 4, "version 3.4"),
    "giant": (GOOD[:32] + b"\xff\xff\xff\x7f" + GOOD[36:], 24, "captured length 2147483647"),
    "ng: cut in a block": (NG[:-1], 48, "truncated in a block"),
    "ng: cut in a block header": (NG[:56], 48, "truncated in a block header"),
    "ng: no byte order": (NG[:8] + bytes(4) + NG[12:], 8, "byte-order magic"),
    "ng: odd length": (NG[:4] + b"\x1d" + NG[5:], 0, "block length 29 is impossible"),
    "ng: lengths differ": (NG[:-4] + bytes(4), 48, "two lengths"),
    "ng: no interface": (section("<") + packet("<", b"z"), 28, "interface 0, which was not described"),
    "ng: simple without interface": (
        section("<") + block("<", 3, bytes(8)),
        28,
        "before any interface",
    ),
    "ng: wireless": (section("<") + interface("<", 105) + packet("<", b"z"), 48, "link type 105"),
    "ng: too long for its block": (
        NG[:68] + b"\x40" + NG[69:],
        48,
        "packet of 64 bytes exceeds its block",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_one_line(name: str) -> None:
    data, offset, words = BAD[name]
    with pytest.raises(PcapError) as caught:
        parse_pcap(data, "bad.pcap")
    assert caught.value.offset == offset
    assert words in caught.value.cause
    assert str(caught.value).startswith("bad.pcap: ")
    assert str(caught.value).isprintable()


@given(st.data())
def test_damage_never_escapes_as_another_error(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([GOOD, NG])))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        frames = parse_pcap(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except PcapError as error:
        assert str(error).isprintable()
    else:
        assert all(len(frame.data) <= len(raw) for frame in frames)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    write_pcap(path, [Frame(b"abc", 1)])
    assert read_pcap(path) == [Frame(b"abc", 1)]
    with pytest.raises(PcapError, match="No such file"):
        read_pcap(tmp_path / "none.pcap")
    with pytest.raises(PcapError, match="directory"):
        write_pcap(tmp_path, [])
