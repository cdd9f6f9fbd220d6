# SPDX-License-Identifier: GPL-2.0-only
"""Map values as data: every kind of BTF type, and what stands in where there is none."""

from __future__ import annotations

import struct

import pytest

import guests
from guests.xdp_filter import BLOCKED, Counter
from kernel_model.btf.parse import Btf, Kind
from sim.job.bundled import bundled_job, flow_text
from sim.job.values import decode, text
from sim.userspace.object import read_object

STRINGS = b"\0int\0char\0u8\0bool\0E\0ONE\0TWO\0a\0b\0c\0d\0S\0U\0"


def _name(name: str) -> int:
    return STRINGS.index(b"\0" + name.encode() + b"\0") + 1 if name else 0


def _type(name: str, kind: Kind, size: int, vlen: int = 0, tail: bytes = b"", kflag: bool = False) -> bytes:
    return struct.pack("<III", _name(name), kind << 24 | vlen | kflag << 31, size) + tail


def _int(name: str, size: int, encoding: int = 0) -> bytes:
    return _type(name, Kind.INT, size, 0, struct.pack("<I", encoding << 24 | 8 * size))


def _members(*rows: tuple[str, int, int]) -> bytes:
    return b"".join(struct.pack("<III", _name(name), number, at) for name, number, at in rows)


INT, CHAR, U8, BOOL, ENUM, PTR, TEXT, BYTES, INTS, STRUCT, UNION, BITS, ALIAS, FLOAT = range(1, 15)
TYPES = [
    _int("int", 4, 1),
    _int("char", 1, 1),
    _int("u8", 1),
    _int("bool", 1, 4),
    _type("E", Kind.ENUM, 4, 2, struct.pack("<IIII", _name("ONE"), 1, _name("TWO"), 2)),
    _type("", Kind.PTR, INT),
    _type("", Kind.ARRAY, 0, 0, struct.pack("<III", CHAR, INT, 8)),
    _type("", Kind.ARRAY, 0, 0, struct.pack("<III", U8, INT, 3)),
    _type("", Kind.ARRAY, 0, 0, struct.pack("<III", INT, INT, 2)),
    _type("S", Kind.STRUCT, 12, 3, _members(("a", INT, 0), ("", UNION, 32), ("d", ENUM, 64))),
    _type("U", Kind.UNION, 4, 2, _members(("b", INT, 0), ("c", BYTES, 0))),
    _type("S", Kind.STRUCT, 4, 2, _members(("a", INT, 3 << 24), ("b", INT, 5 << 24 | 3)), kflag=True),
    _type("E", Kind.TYPEDEF, ENUM),
    _type("int", Kind.FLOAT, 4),
]


@pytest.fixture(scope="module")
def btf() -> Btf:
    body = b"".join(TYPES)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(STRINGS))
    return Btf(head + body + STRINGS)


CASES = [
    (INT, "feffffff", -2, "-2"),
    (BOOL, "01", True, "True"),
    (ENUM, "02000000", "TWO", "TWO"),
    (ENUM, "07000000", 7, "7"),
    (ALIAS, "01000000", "ONE", "ONE"),
    (PTR, "1000000000000080", "0x8000000000000010", "0x8000000000000010"),
    (TEXT, "6869210000000000", "hi!", "hi!"),
    (TEXT, "6800690000000000", "6800690000000000", "6800690000000000"),
    (BYTES, "010203", "010203", "010203"),
    (INTS, "01000000ffffffff", [1, -1], "[1 -1]"),
    (
        STRUCT,
        "05000000010203000200 0000",
        {"a": 5, "b": 0x030201, "c": "010203", "d": "TWO"},
        "{a 5, b 197121, c 010203, d TWO}",
    ),
    (BITS, "ad000000", {"a": 5, "b": 21}, "{a 5, b 21}"),
    (FLOAT, "0000803f", "0000803f", "0000803f"),
    (0, "01000000", 1, "1"),
    (0, "010203", "010203", "010203"),
]


@pytest.mark.parametrize(("number", "data", "value", "line"), CASES)
def test_values(btf: Btf, number: int, data: str, value: object, line: str) -> None:
    found = decode(btf, number, bytes.fromhex(data))
    assert found == value
    assert text(found) == line


def test_global_data_by_the_names_of_its_variables() -> None:
    spec = read_object(guests.path("xdp_filter.o"))
    bss = spec.maps["xdp_filt.bss"]
    found = decode(spec.btf_types, bss.value_type, struct.pack("<QQ", 3, 4))
    assert found == {"frames_seen": 3, "bytes_seen": 4}


def test_the_bundled_job_reads_its_flows() -> None:
    assert [flow_text(flow.pack()) for flow in BLOCKED] == [
        "tcp 203.0.113.66:6666 -> 192.0.2.10:22",
        "udp [2001:db8:bad::1]:31337 -> [2001:db8::10]:53",
    ]
    fills = bundled_job().fills
    assert [fill.map for fill in fills] == ["blocklist", "blocklist", "config"]
    assert Counter.unpack(fills[0].value) == Counter(0, 0)
