# SPDX-License-Identifier: GPL-2.0-only
"""Reading BTF and the kernel's rules for it."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Callable
from pathlib import Path

import host_bpf
import pytest
from elf_writer import BtfWriter
from host_process import HostProcess
from hypothesis import given
from hypothesis import strategies as st

import guests
from kernel_model.btf.check import load_btf
from kernel_model.btf.parse import ENOTSUPP, Btf, BtfError, Kind, Member
from sim.userspace.bpf import Bpf, SyscallError
from sim.userspace.object import read_object

VMLINUX = Path("/sys/kernel/btf/vmlinux")


def sample() -> BtfWriter:
    w = BtfWriter()
    number = w.int()
    pair = w.struct("pair", 8, [("a", number, 0), ("b", number, 32)])
    alias = w.add(8, "pair_t", pair)
    w.array(alias, number, 3)
    w.struct("bits", 4, [("low", number, 3 << 24), ("high", number, 5 << 24 | 3)], kflag=1)
    w.enum("color", [("RED", 0), ("BLUE", -2)], kflag=1)
    w.add(19, "wide", 8, 1, struct.pack("<III", w.name("BIG"), 1, 2))
    func = w.add(12, "f", w.proto(number, [("x", number), ("", 0)]), vlen=1)
    w.add(17, "tag", func, tail=struct.pack("<i", 0))
    w.datasec(".data", 12, [(w.var("v", pair), 4, 8)])
    w.add(16, "double", 8)
    w.add(7, "unknown")
    w.ptr(w.add(18, "user", w.add(10, "", 0)))
    return w


def test_every_kind_reads_back() -> None:
    btf = load_btf(sample().build())
    assert btf.type(btf.find("pair", Kind.STRUCT)).members == (Member("a", 1, 0, 0), Member("b", 1, 32, 0))
    assert btf.type(btf.find("bits", Kind.STRUCT)).members == (
        Member("low", 1, 0, 3),
        Member("high", 1, 3, 5),
    )
    color = btf.type(btf.find("color", Kind.ENUM))
    assert [tuple(v) for v in color.values] == [("RED", 0), ("BLUE", -2)]
    assert btf.type(btf.find("wide", Kind.ENUM64)).values[0].value == 1 | 2 << 32
    func = btf.type(btf.find("f", Kind.FUNC))
    assert func.linkage == 1
    assert [tuple(p) for p in btf.type(func.type).params] == [("x", 1), ("", 0)]
    assert btf.type(btf.find("tag", Kind.DECL_TAG)).component == 0
    assert btf.type(btf.find(".data", Kind.DATASEC)).vars[0].offset == 4
    assert btf.size_of(4) == 24
    assert btf.resolve(btf.find("pair_t", Kind.TYPEDEF)).name == "pair"
    assert btf.find("pair", Kind.UNION) == 0
    with pytest.raises(BtfError):
        btf.size_of(btf.find("unknown", Kind.FWD))


def test_split_btf_goes_on_where_its_base_ends() -> None:
    base = Btf(sample().build())
    w = BtfWriter()
    w.strings = bytearray()
    w.types += struct.pack("<III", base.strings_end, 8 << 24, base.find("pair", Kind.STRUCT))
    w.strings += b"more\0"
    split = Btf(w.build(), base)
    assert split.start_id == len(base)
    assert split.type(len(base)).name == "more"
    assert split.size_of(split.find("more", Kind.TYPEDEF)) == 8
    assert split.find("color", Kind.ENUM) == base.find("color", Kind.ENUM)


def _loop(w: BtfWriter) -> None:
    first = w.count + 1
    w.add(8, "one", first + 1)
    w.add(8, "two", first)


def _self_array(w: BtfWriter) -> None:
    w.array(w.count + 1, 1, 2)


def _deep(w: BtfWriter) -> None:
    # Outermost first, so that the walk starts at the deep end.
    for _ in range(40):
        w.add(10, "", w.count + 2)
    w.int("deep")


# What is added to a good blob, and how Linux answers (asked of a 6.18 kernel by the test below).
RULES: dict[str, tuple[Callable[[BtfWriter], object], int, str]] = {
    "fine": (lambda w: w.ptr(1), 0, ""),
    "int of no bits": (lambda w: w.add(1, "x", 4, tail=struct.pack("<I", 0)), 0, ""),
    "int wider than its size": (
        lambda w: w.add(1, "x", 1, tail=struct.pack("<I", 9)),
        errno.EINVAL,
        "type_size",
    ),
    "two encodings": (lambda w: w.int("x", 4, 3), ENOTSUPP, "Unsupported encoding"),
    "pointer with a name": (lambda w: w.add(2, "p", 1), errno.EINVAL, "Invalid name"),
    "typedef without": (lambda w: w.add(8, "", 1), errno.EINVAL, "Invalid name"),
    "bad identifier": (lambda w: w.add(8, "1st", 1), errno.EINVAL, "Invalid name"),
    "dotted identifier": (lambda w: w.add(8, "a.b", 1), 0, ""),
    "unknown id": (lambda w: w.ptr(999), errno.EINVAL, "Invalid type_id"),
    "member of void": (lambda w: w.struct("s", 8, [("m", 0, 0)]), errno.EINVAL, "Invalid type_id"),
    "member outside": (lambda w: w.struct("s", 4, [("m", 1, 32)]), errno.EINVAL, "exceeds struct_size"),
    "members backwards": (
        lambda w: w.struct("s", 8, [("a", 1, 32), ("b", 1, 0)]),
        errno.EINVAL,
        "bits_offset",
    ),
    "union not at 0": (lambda w: w.struct("u", 8, [("a", 1, 32)], kind=5), errno.EINVAL, "bits_offset"),
    "wide bit-field": (
        lambda w: w.struct("s", 8, [("a", 1, 33 << 24)], kflag=1),
        errno.EINVAL,
        "bitfield_size",
    ),
    "enum of 3 bytes": (lambda w: w.enum("e", [("A", 1)], size=3), errno.EINVAL, "Unexpected size"),
    "array of void": (lambda w: w.array(0, 1, 2), errno.EINVAL, "Invalid elem"),
    "huge array": (lambda w: w.array(2, 1, 0xFFFFFFFF), errno.EINVAL, "overflows"),
    "array of itself": (_self_array, errno.EEXIST, "Loop detected"),
    "typedef loop": (_loop, errno.EEXIST, "Loop detected"),
    "struct in itself": (lambda w: w.struct("s", 8, [("m", w.count + 1, 0)]), errno.EEXIST, "Loop detected"),
    "deep chain": (_deep, errno.E2BIG, "depth"),
    "extern variable": (lambda w: w.var("x", 1, 2), errno.EINVAL, "Linkage"),
    "datasec of no size": (lambda w: w.datasec(".bss", 0, []), errno.EINVAL, "size == 0"),
    "overlapping variables": (
        lambda w: w.datasec(".bss", 8, [(w.var("x", 1), 0, 4), (w.var("y", 1), 2, 4)]),
        errno.EINVAL,
        "Invalid offset",
    ),
    "datasec of an int": (lambda w: w.datasec(".bss", 8, [(1, 0, 4)]), errno.EINVAL, "Not a VAR"),
    "func of an int": (lambda w: w.add(12, "g", 1), errno.EINVAL, "Invalid type_id"),
    "nameless parameter": (lambda w: w.add(12, "g", w.proto(0, [("", 1)])), errno.EINVAL, "Invalid arg#1"),
    "void parameter": (lambda w: w.proto(0, [("a", 0), ("b", 1)]), errno.EINVAL, "Invalid arg#1"),
    "float of 3 bytes": (lambda w: w.add(16, "f3", 3), errno.EINVAL, "type_size"),
    "late type tag": (lambda w: w.add(10, "", w.add(18, "user", 1)), errno.EINVAL, "precede"),
    "tag of the third parameter": (
        lambda w: w.add(17, "t", w.count, tail=struct.pack("<i", 7)),
        errno.EINVAL,
        "Invalid",
    ),
    "flags in vlen": (lambda w: w.add(2, word=1, vlen=1), errno.EINVAL, "vlen != 0"),
    "kind flag of an int": (
        lambda w: w.add(1, "x", 4, tail=struct.pack("<I", 32), kflag=1),
        errno.EINVAL,
        "kind_flag",
    ),
    "kind 20": (lambda w: w.add(20, "x"), errno.EINVAL, "Invalid kind:20"),
}


def _case(name: str) -> bytes:
    w = sample()
    RULES[name][0](w)
    return w.build()


@pytest.mark.parametrize("name", RULES)
def test_rules_of_btf_load(name: str) -> None:
    _, number, words = RULES[name]
    if not number:
        load_btf(_case(name))
        return
    with pytest.raises(BtfError) as caught:
        load_btf(_case(name))
    assert caught.value.errno == number
    assert words in caught.value.reason


def _host_errno(bpf: Bpf, blob: bytes) -> int:
    try:
        bpf.close(bpf.btf_load(blob))
    except SyscallError as error:
        return error.errno or 0
    return 0


@host_bpf.host_kernel
@pytest.mark.parametrize("name", RULES)
def test_the_hosts_kernel_answers_alike(name: str) -> None:
    assert _host_errno(Bpf(HostProcess()), _case(name)) == RULES[name][1]


def _mutate(blob: bytes, rnd: random.Random) -> bytes:
    """One or two words of the types changed, by a value that often means something."""
    btf, out = Btf(blob), bytearray(blob)
    for _ in range(rnd.choice((1, 1, 2))):
        start = btf.offset_of(rnd.randrange(1, len(btf)))
        at = start + 4 * rnd.randrange(3 if rnd.random() < 0.7 else 6)
        old = int.from_bytes(out[at : at + 4], "little")
        new = rnd.choice(
            (
                0,
                1,
                old ^ 1 << rnd.randrange(32),
                old + 1,
                rnd.randrange(len(btf) + 2),
                rnd.randrange(21) << 24,
            )
        )
        out[at : at + 4] = (new & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(out)


def _my_errno(blob: bytes) -> int:
    try:
        load_btf(blob)
    except BtfError as error:
        return error.errno
    return 0


@host_bpf.host_kernel
def test_mutated_blobs_get_the_hosts_errno() -> None:
    bpf, rnd = Bpf(HostProcess()), random.Random(20251122)
    blob = read_object(guests.path("xdp_filter.o")).btf
    assert blob is not None
    blobs = [_mutate(rnd.choice((blob, sample().build())), rnd) for _ in range(300)]
    answers = [(_my_errno(b), _host_errno(bpf, b)) for b in blobs]
    assert [i for i, (mine, host) in enumerate(answers) if mine != host] == []
    assert {host for _, host in answers} >= {0, errno.EINVAL, errno.EEXIST}


@given(st.data())
def test_damage_never_escapes_as_another_error(data: st.DataObject) -> None:
    blob = bytearray(sample().build())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    _my_errno(bytes(blob[: data.draw(st.integers(0, len(blob)))]))


@pytest.mark.host_kernel
def test_a_kernels_btf_opens() -> None:
    if not VMLINUX.exists():
        pytest.skip("the host's kernel exposes no BTF")
    data = VMLINUX.read_bytes()
    btf = Btf(data)
    number = btf.find("task_struct", Kind.STRUCT)
    assert btf.size_of(number) > 1000
