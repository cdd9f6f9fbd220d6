# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) calls that Linux refuses, or takes, as data: each with the errno (0: success).

They run in any process with the process contract, the simulator's and the host's.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kernel_model.isa.insn import encode
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_LD_MAP_FD, BPF_MOV64_IMM, BPF_REG_0, BPF_REG_1, program
from kernel_model.uapi.bpf_attr import NR_BPF, command, pack
from sim.userspace.bpf import Bpf

ENOTSUPP = 524
UNMAPPED = 0x10
XDP, SOCKET_FILTER, SCHED_CLS, KPROBE = 6, 1, 3, 2
HASH, ARRAY, PROG_ARRAY, PERCPU_ARRAY = 1, 2, 3, 6


class World:
    """A process with one object of each kind in it."""

    def __init__(self, process: Any, other_fd: int) -> None:
        self.process = process
        self.bpf = Bpf(process)
        self.other_fd = other_fd
        """An open descriptor that is no BPF object."""
        self.for_once: list[int] = []

    def raw(self, cmd: str | int, size: int | None = None, tail: bytes = b"", **fields: Any) -> int:
        """The system call's own answer."""
        number = command(cmd).number if isinstance(cmd, str) else cmd
        data = (pack(cmd, **fields) if isinstance(cmd, str) else b"") + tail
        if size is not None:
            data = data.ljust(size, b"\0")[:size]
        addr = self.process.alloc(max(len(data), 8))
        self.process.write(addr, data)
        return int(self.process.syscall(NR_BPF, number, addr, len(data)))

    def buf(self, data: bytes) -> int:
        addr = int(self.process.alloc(max(len(data), 8)))
        self.process.write(addr, data)
        return addr

    def map_for_once(self, map_type: int) -> int:
        """An empty map that is closed when the case is over."""
        self.for_once.append(self.bpf.map_create(map_type, 4, 4, 4))
        return self.for_once[-1]

    def answer(self, case: Case) -> int:
        """0 for success, else the errno; descriptors that the case opened are closed."""
        result = case.call(self)
        self.for_once += [result] if result > 2 else []
        while self.for_once:
            self.bpf.close(self.for_once.pop())
        return -result if result < 0 else 0

    @cached_property
    def array(self) -> int:
        return self.bpf.map_create(ARRAY, 4, 8, 4, "an_array")

    @cached_property
    def hash(self) -> int:
        return self.bpf.map_create(HASH, 4, 8, 4, "a_hash")

    @cached_property
    def read_only(self) -> int:
        return self.bpf.map_create(ARRAY, 4, 8, 4, map_flags=1 << 3)

    @cached_property
    def write_only(self) -> int:
        return self.bpf.map_create(ARRAY, 4, 8, 4, map_flags=1 << 4)

    @cached_property
    def frozen(self) -> int:
        fd = self.bpf.map_create(ARRAY, 4, 8, 4)
        self.bpf.map_freeze(fd)
        return fd

    @cached_property
    def progs(self) -> int:
        return self.bpf.map_create(PROG_ARRAY, 4, 4, 4)

    @cached_property
    def xdp(self) -> int:
        return self.bpf.prog_load(XDP, PASS, name="pass")[0]

    @cached_property
    def filter(self) -> int:
        return self.bpf.prog_load(SOCKET_FILTER, DROP)[0]

    @cached_property
    def btf(self) -> int:
        return self.bpf.btf_load(BTF)

    def load(self, **fields: Any) -> int:
        """BPF_PROG_LOAD of a good program with some fields changed."""
        good = {
            "prog_type": SOCKET_FILTER,
            "insn_cnt": 2,
            "insns": self.buf(encode(DROP)),
            "license": self.buf(b"GPL\0"),
        }
        return self.raw("PROG_LOAD", **(good | fields))

    def info(self, fd: int, length: int, contents: bytes = b"") -> int:
        at = self.buf(contents.ljust(length, b"\0"))
        return self.raw("OBJ_GET_INFO_BY_FD", bpf_fd=fd, info_len=length, info=at)

    def run(self, **fields: Any) -> int:
        """BPF_PROG_TEST_RUN on a good packet with some fields changed."""
        good = {"prog_fd": self.xdp, "data_in": self.buf(bytes(64)), "data_size_in": 64}
        return self.raw("PROG_TEST_RUN", **(good | fields))


PASS = program(BPF_MOV64_IMM(BPF_REG_0, 2), BPF_EXIT_INSN())
DROP = program(BPF_MOV64_IMM(BPF_REG_0, 0), BPF_EXIT_INSN())
BAD = program(BPF_EXIT_INSN())


def _btf() -> bytes:
    # Type 1: int (32 bits); 2: long (64 bits, signed).
    strings = b"\0int\0long\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32) + struct.pack(
        "<IIII", 5, 1 << 24, 8, 1 << 24 | 64
    )
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


BTF = _btf()


@dataclass(frozen=True)
class Case:
    name: str
    expected: int
    call: Callable[[World], int]


CASES: list[Case] = []


def case(name: str, expected: int, call: Callable[[World], int]) -> None:
    CASES.append(Case(name, expected, call))


E = errno
case("an unknown command", E.EINVAL, lambda w: w.raw(200))
case("a negative command", E.EINVAL, lambda w: int(w.process.syscall(NR_BPF, -1, w.buf(b""), 8)))
case("attribute at a bad address", E.EFAULT, lambda w: int(w.process.syscall(NR_BPF, 0, UNMAPPED, 20)))
case("attribute larger than a page", E.E2BIG, lambda w: w.raw("MAP_CREATE", size=4097))
case("attribute of one page of zeroes", E.EINVAL, lambda w: w.raw("MAP_CREATE", size=4096))
case(
    "newer field that is set",
    E.E2BIG,
    lambda w: w.raw(
        "MAP_CREATE", tail=bytes(200) + b"\1", map_type=ARRAY, key_size=4, value_size=4, max_entries=1
    ),
)
case(
    "newer fields that are zero",
    0,
    lambda w: w.raw("MAP_CREATE", size=512, map_type=ARRAY, key_size=4, value_size=4, max_entries=1),
)
case(
    "bytes behind the command's last field",
    E.EINVAL,
    lambda w: w.raw("MAP_DELETE_ELEM", tail=b"\1", map_fd=w.array, key=w.buf(bytes(4))),
)
case("an attribute of no bytes", E.EINVAL, lambda w: w.raw("MAP_CREATE", size=0))

# Maps.
case("map without a type", E.EINVAL, lambda w: w.raw("MAP_CREATE", key_size=4, value_size=4, max_entries=1))
case(
    "map of an unknown type",
    E.EINVAL,
    lambda w: w.raw("MAP_CREATE", map_type=99, key_size=4, value_size=4, max_entries=1),
)
case(
    "array with an 8-byte key",
    E.EINVAL,
    lambda w: w.raw("MAP_CREATE", map_type=ARRAY, key_size=8, value_size=4, max_entries=1),
)
case(
    "array without elements",
    E.EINVAL,
    lambda w: w.raw("MAP_CREATE", map_type=ARRAY, key_size=4, value_size=4),
)
case(
    "map with a bad name",
    E.EINVAL,
    lambda w: w.raw("MAP_CREATE", map_type=ARRAY, key_size=4, value_size=4, max_entries=1, map_name=b"a b"),
)
case(
    "map both read-only and write-only",
    E.EINVAL,
    lambda w: w.raw("MAP_CREATE", map_type=ARRAY, key_size=4, value_size=4, max_entries=1, map_flags=3 << 3),
)
case(
    "key type without value type",
    E.EINVAL,
    lambda w: w.raw(
        "MAP_CREATE", map_type=ARRAY, key_size=4, value_size=8, max_entries=1, btf_fd=w.btf, btf_key_type_id=1
    ),
)
for name, expected, key, value, fields in (
    ("fitting types", 0, 1, 2, {}),
    ("a value type of another size", E.EINVAL, 1, 1, {}),
    ("a key type of another size", E.EINVAL, 2, 2, {}),
    ("a value type that does not exist", E.EINVAL, 1, 9, {}),
    ("a BTF descriptor that is none", E.EBADF, 1, 2, {"btf_fd": 900}),
    ("a map as its BTF", E.EINVAL, 1, 2, {"btf_fd": "array"}),
    ("no key type", E.EINVAL, 0, 2, {}),
    ("no key type in a hash", E.EINVAL, 0, 2, {"map_type": HASH}),
):

    def _typed(w: World, key: int = key, value: int = value, fields: dict[str, Any] = fields) -> int:
        given = {"btf_fd": w.btf, "map_type": ARRAY} | {
            k: getattr(w, v) if isinstance(v, str) else v for k, v in fields.items()
        }
        return w.raw(
            "MAP_CREATE",
            key_size=4,
            value_size=8,
            max_entries=1,
            btf_key_type_id=key,
            btf_value_type_id=value,
            **given,
        )

    case(f"map with {name}", expected, _typed)

for cmd, more in (
    ("MAP_LOOKUP_ELEM", "value"),
    ("MAP_UPDATE_ELEM", "value"),
    ("MAP_DELETE_ELEM", ""),
    ("MAP_GET_NEXT_KEY", "next_key"),
):

    def _elem(
        w: World,
        cmd: str = cmd,
        more: str = more,
        key: int | None = 1,
        value: bool = True,
        fd: str | int = "array",
        **fields: Any,
    ) -> int:
        given: dict[str, Any] = {"map_fd": getattr(w, fd) if isinstance(fd, str) else fd}
        given["key"] = UNMAPPED if key is None else w.buf(key.to_bytes(4, "little"))
        if more:
            given[more] = w.buf(bytes(64)) if value else UNMAPPED
        return w.raw(cmd, **given, **fields)

    deletes = cmd == "MAP_DELETE_ELEM"
    case(f"{cmd} on a descriptor that is not open", E.EBADF, lambda w, f=_elem: f(w, fd=900))
    case(f"{cmd} on a program", E.EINVAL, lambda w, f=_elem: f(w, fd="xdp"))
    case(f"{cmd} on no BPF object", E.EINVAL, lambda w, f=_elem: f(w, fd="other_fd"))
    case(f"{cmd} with a key at a bad address", E.EFAULT, lambda w, f=_elem: f(w, key=None))
    if more:
        case(f"{cmd} with a value at a bad address", E.EFAULT, lambda w, f=_elem: f(w, value=False))
    case(f"{cmd} of an array", E.EINVAL if deletes else 0, lambda w, f=_elem: f(w))
    reads = cmd in ("MAP_LOOKUP_ELEM", "MAP_GET_NEXT_KEY")
    case(f"{cmd} by a read-only descriptor", 0 if reads else E.EPERM, lambda w, f=_elem: f(w, fd="read_only"))
    case(
        f"{cmd} by a write-only descriptor",
        E.EPERM if reads else E.EINVAL if deletes else 0,
        lambda w, f=_elem: f(w, fd="write_only"),
    )
    case(f"{cmd} of a frozen map", 0 if reads else E.EPERM, lambda w, f=_elem: f(w, fd="frozen"))
case(
    "lookup beyond an array",
    E.ENOENT,
    lambda w: w.raw("MAP_LOOKUP_ELEM", map_fd=w.array, key=w.buf(b"\x09\0\0\0"), value=w.buf(bytes(8))),
)
case(
    "lookup of an absent key",
    E.ENOENT,
    lambda w: w.raw("MAP_LOOKUP_ELEM", map_fd=w.hash, key=w.buf(b"\x09\0\0\0"), value=w.buf(bytes(8))),
)
case(
    "lookup with unknown flags",
    E.EINVAL,
    lambda w: w.raw("MAP_LOOKUP_ELEM", map_fd=w.array, key=w.buf(bytes(4)), value=w.buf(bytes(8)), flags=8),
)
case(
    "update beyond an array",
    E.E2BIG,
    lambda w: w.raw("MAP_UPDATE_ELEM", map_fd=w.array, key=w.buf(b"\x09\0\0\0"), value=w.buf(bytes(8))),
)
case(
    "update of an array with NOEXIST",
    E.EEXIST,
    lambda w: w.raw("MAP_UPDATE_ELEM", map_fd=w.array, key=w.buf(bytes(4)), value=w.buf(bytes(8)), flags=1),
)
case(
    "update of an absent key with EXIST",
    E.ENOENT,
    lambda w: w.raw(
        "MAP_UPDATE_ELEM", map_fd=w.hash, key=w.buf(b"\x07\0\0\0"), value=w.buf(bytes(8)), flags=2
    ),
)
case(
    "update with unknown flags",
    E.EINVAL,
    lambda w: w.raw("MAP_UPDATE_ELEM", map_fd=w.array, key=w.buf(bytes(4)), value=w.buf(bytes(8)), flags=32),
)
case(
    "delete of an absent key",
    E.ENOENT,
    lambda w: w.raw("MAP_DELETE_ELEM", map_fd=w.hash, key=w.buf(b"\x09\0\0\0")),
)
case(
    "next key of an empty map",
    E.ENOENT,
    lambda w: w.raw("MAP_GET_NEXT_KEY", map_fd=w.map_for_once(HASH), next_key=w.buf(bytes(8))),
)
case("freezing twice", E.EPERM, lambda w: w.raw("MAP_FREEZE", map_fd=w.frozen))
case("freezing a program", E.EINVAL, lambda w: w.raw("MAP_FREEZE", map_fd=w.xdp))
case("freezing by a read-only descriptor", E.EPERM, lambda w: w.raw("MAP_FREEZE", map_fd=w.read_only))
case(
    "a program array holds programs",
    E.EBADF,
    lambda w: w.raw(
        "MAP_UPDATE_ELEM", map_fd=w.progs, key=w.buf(bytes(4)), value=w.buf(struct.pack("<I", 900))
    ),
)
case(
    "a program array holds no maps",
    E.EINVAL,
    lambda w: w.raw(
        "MAP_UPDATE_ELEM", map_fd=w.progs, key=w.buf(bytes(4)), value=w.buf(struct.pack("<I", w.array))
    ),
)
case(
    "lookup in a program array's empty slot",
    E.ENOENT,
    lambda w: w.raw("MAP_LOOKUP_ELEM", map_fd=w.progs, key=w.buf(bytes(4)), value=w.buf(bytes(8))),
)
case(
    "delete of a program array's empty slot",
    E.ENOENT,
    lambda w: w.raw("MAP_DELETE_ELEM", map_fd=w.progs, key=w.buf(bytes(4))),
)


def _mixed_owner(w: World) -> int:
    progs = w.map_for_once(PROG_ARRAY)
    w.bpf.map_update(progs, bytes(4), struct.pack("<I", w.xdp))
    return w.raw(
        "MAP_UPDATE_ELEM", map_fd=progs, key=w.buf(b"\1\0\0\0"), value=w.buf(struct.pack("<I", w.filter))
    )


case("a program array holds one type of program", E.EINVAL, _mixed_owner)


def _in_progs(w: World) -> int:
    progs = w.map_for_once(PROG_ARRAY)
    w.bpf.map_update(progs, bytes(4), struct.pack("<I", w.xdp))
    return w.raw("MAP_LOOKUP_ELEM", map_fd=progs, key=w.buf(bytes(4)), value=w.buf(bytes(8)))


case("lookup in a program array gives an id", 0, _in_progs)

# Programs.
case("a good program", 0, lambda w: w.load())
case("no instructions", E.E2BIG, lambda w: w.load(insn_cnt=0))
case("too many instructions", E.E2BIG, lambda w: w.load(insn_cnt=1_000_001))
case("instructions at a bad address", E.EFAULT, lambda w: w.load(insns=UNMAPPED))
case("license at a bad address", E.EFAULT, lambda w: w.load(license=UNMAPPED))
case("a license without an end", 0, lambda w: w.load(license=w.buf(b"x" * 300)))
case("a program of an unknown type", E.EINVAL, lambda w: w.load(prog_type=99))
case("a program without a type", E.EINVAL, lambda w: w.load(prog_type=0))
case("unknown program flags", E.EINVAL, lambda w: w.load(prog_flags=1 << 20))
case("a bad program name", E.EINVAL, lambda w: w.load(prog_name=b"a-b"))
case("a program name without an end", E.EINVAL, lambda w: w.load(prog_name=b"x" * 16))
case("a program that is refused", E.EACCES, lambda w: w.load(insn_cnt=1, insns=w.buf(encode(BAD))))
case("an unknown attach type for XDP", 0, lambda w: w.load(prog_type=XDP, expected_attach_type=200))
case("an attach type for a socket filter", 0, lambda w: w.load(expected_attach_type=3))
case("XDP for a device map", 0, lambda w: w.load(prog_type=XDP, expected_attach_type=33))
case("a log level without a buffer", 0, lambda w: w.load(log_level=1))
case("a log buffer without a level", E.EINVAL, lambda w: w.load(log_buf=w.buf(bytes(64)), log_size=64))
case("a log size without a buffer", E.EINVAL, lambda w: w.load(log_level=1, log_size=64))
case("a log buffer without a size", E.EINVAL, lambda w: w.load(log_level=1, log_buf=w.buf(bytes(64))))
case("an unknown log level", E.EINVAL, lambda w: w.load(log_level=64, log_buf=w.buf(bytes(64)), log_size=64))
case(
    "a log buffer that is too small",
    E.ENOSPC,
    lambda w: w.load(log_level=1, log_buf=w.buf(bytes(64)), log_size=16),
)
case(
    "a refused program's log buffer that is too small",
    E.ENOSPC,
    lambda w: w.load(
        insn_cnt=1, insns=w.buf(encode(BAD)), log_level=1, log_buf=w.buf(bytes(64)), log_size=16
    ),
)
case(
    "a log buffer at a bad address", E.EFAULT, lambda w: w.load(log_level=1, log_buf=UNMAPPED, log_size=4096)
)
case(
    "a map descriptor that is not open",
    E.EBADF,
    lambda w: w.load(insn_cnt=4, insns=w.buf(encode(program(BPF_LD_MAP_FD(BPF_REG_1, 900), *DROP)))),
)
case(
    "a program as map descriptor",
    E.EINVAL,
    lambda w: w.load(insn_cnt=4, insns=w.buf(encode(program(BPF_LD_MAP_FD(BPF_REG_1, w.filter), *DROP)))),
)
case(
    "line info without BTF",
    E.EBADF,
    lambda w: w.load(line_info=w.buf(bytes(16)), line_info_cnt=1, line_info_rec_size=16, prog_btf_fd=900),
)
case(
    "line info records that are too short",
    E.EINVAL,
    lambda w: w.load(line_info=w.buf(bytes(16)), line_info_cnt=1, line_info_rec_size=12, prog_btf_fd=w.btf),
)
case(
    "BTF that is a map",
    E.EINVAL,
    lambda w: w.load(prog_btf_fd=w.array, line_info=w.buf(bytes(16)), line_info_cnt=1, line_info_rec_size=16),
)

# BTF.
case("BTF", 0, lambda w: w.raw("BTF_LOAD", btf=w.buf(BTF), btf_size=len(BTF)))
case("BTF at a bad address", E.EFAULT, lambda w: w.raw("BTF_LOAD", btf=UNMAPPED, btf_size=64))
case("BTF of 17 MiB", E.E2BIG, lambda w: w.raw("BTF_LOAD", btf=w.buf(BTF), btf_size=17 << 20))
case("BTF without a header", E.EINVAL, lambda w: w.raw("BTF_LOAD", btf=w.buf(bytes(64)), btf_size=64))
case("empty BTF", E.EINVAL, lambda w: w.raw("BTF_LOAD", btf=w.buf(BTF), btf_size=0))

# Information and ids.
case("info of a descriptor that is not open", E.EBADFD, lambda w: w.info(900, 64))
case("info of no BPF object", E.EINVAL, lambda w: w.info(w.other_fd, 64))
case("info of a map", 0, lambda w: w.info(w.array, 64))
case("info of a program", 0, lambda w: w.info(w.xdp, 232))
case("info of BTF", 0, lambda w: w.info(w.btf, 32))
case("no room for info", 0, lambda w: w.info(w.array, 0))
case("little room for info", 0, lambda w: w.info(w.xdp, 8))
case("info with unknown fields that are zero", 0, lambda w: w.info(w.xdp, 512))
case("info with unknown fields that are set", E.E2BIG, lambda w: w.info(w.xdp, 512, bytes(500) + b"\1"))
case("map info with unknown fields that are set", E.E2BIG, lambda w: w.info(w.array, 512, bytes(500) + b"\1"))
case(
    "info at a bad address",
    E.EFAULT,
    lambda w: w.raw("OBJ_GET_INFO_BY_FD", bpf_fd=w.xdp, info_len=64, info=UNMAPPED),
)
case("info larger than a page", E.E2BIG, lambda w: w.info(w.xdp, 5000))
case(
    "func info records of a wrong size",
    E.EINVAL,
    lambda w: w.info(w.xdp, 232, bytes(132) + struct.pack("<I", 3)),
)
for kind in ("PROG", "MAP", "BTF", "LINK"):
    case(f"{kind} id 0", E.ENOENT, lambda w, k=kind: w.raw(f"{k}_GET_FD_BY_ID", start_id=0))
    case(
        f"{kind} id that is not used",
        E.ENOENT,
        lambda w, k=kind: w.raw(f"{k}_GET_FD_BY_ID", start_id=0x7FFF0000),
    )
    case(
        f"next {kind} id above the largest",
        E.EINVAL,
        lambda w, k=kind: w.raw(f"{k}_GET_NEXT_ID", start_id=0x7FFFFFFF),
    )
    case(
        f"next {kind} id behind all",
        E.ENOENT,
        lambda w, k=kind: w.raw(f"{k}_GET_NEXT_ID", start_id=0x7FFFFFFE),
    )
case("map by id with unknown flags", E.EINVAL, lambda w: w.raw("MAP_GET_FD_BY_ID", map_id=1, open_flags=1))
case(
    "map by id both read-only and write-only",
    E.EINVAL,
    lambda w: w.raw("MAP_GET_FD_BY_ID", map_id=1, open_flags=3 << 3),
)

# Pins.
case(
    "pinning outside a bpf file system",
    E.EPERM,
    lambda w: w.raw("OBJ_PIN", bpf_fd=w.array, pathname=w.buf(b"/tmp/bpfsim-none\0")),
)
case(
    "pinning with unknown flags",
    E.EINVAL,
    lambda w: w.raw("OBJ_PIN", bpf_fd=w.array, pathname=w.buf(b"/tmp/x\0"), file_flags=1),
)
case("pinning to a bad address", E.EFAULT, lambda w: w.raw("OBJ_PIN", bpf_fd=w.array, pathname=UNMAPPED))
case(
    "pinning a descriptor that is not open",
    E.EINVAL,
    lambda w: w.raw("OBJ_PIN", bpf_fd=900, pathname=w.buf(b"/tmp/x\0")),
)
case("pinning BTF", E.EINVAL, lambda w: w.raw("OBJ_PIN", bpf_fd=w.btf, pathname=w.buf(b"/tmp/x\0")))
case(
    "getting what does not exist", E.ENOENT, lambda w: w.raw("OBJ_GET", pathname=w.buf(b"/tmp/bpfsim-none\0"))
)
case(
    "getting what is no BPF object", E.EACCES, lambda w: w.raw("OBJ_GET", pathname=w.buf(b"/proc/kallsyms\0"))
)
case("getting with a descriptor", E.EINVAL, lambda w: w.raw("OBJ_GET", bpf_fd=1, pathname=w.buf(b"/tmp/x\0")))

# Test runs.
case("a test run", 0, lambda w: w.run())
case("a test run of a descriptor that is not open", E.EBADF, lambda w: w.run(prog_fd=900))
case("a test run of a map", E.EINVAL, lambda w: w.run(prog_fd=w.array))
case("a packet of 13 bytes", E.EINVAL, lambda w: w.run(data_size_in=13))
case("a packet of 14 bytes", 0, lambda w: w.run(data_size_in=14))
case("no packet", E.EINVAL, lambda w: w.run(data_in=0, data_size_in=0))
case("a packet at a bad address", E.EFAULT, lambda w: w.run(data_in=UNMAPPED))
case("a context size without a context", E.EINVAL, lambda w: w.run(ctx_size_in=24))
case("a context without a size", E.EINVAL, lambda w: w.run(ctx_in=w.buf(bytes(24))))
case("room for a context without a place", E.EINVAL, lambda w: w.run(ctx_size_out=24))
case("unknown test flags", E.EINVAL, lambda w: w.run(flags=1 << 9))
case("a batch without live frames", E.EINVAL, lambda w: w.run(batch_size=4))
case("a CPU for XDP", 0, lambda w: w.run(cpu=1))
case("data_out that is too small", E.ENOSPC, lambda w: w.run(data_out=w.buf(bytes(64)), data_size_out=16))
case("data_out without a size", 0, lambda w: w.run(data_out=w.buf(bytes(64))))
case("data_size_out without a place", E.ENOSPC, lambda w: w.run(data_size_out=16))
case("data_out at a bad address", E.EFAULT, lambda w: w.run(data_out=UNMAPPED, data_size_out=64))


def _md(*fields: int) -> bytes:
    return struct.pack("<6I", *fields)


for name, expected, md in (
    ("that fits", 0, _md(0, 64, 0, 0, 0, 0)),
    ("with metadata", 0, _md(4, 64, 0, 0, 0, 0)),
    ("with 32 bytes of metadata", 0, _md(32, 64, 0, 0, 0, 0)),
    ("with metadata that is not a multiple of 4", E.EINVAL, _md(3, 64, 0, 0, 0, 0)),
    ("with too much metadata", E.EINVAL, _md(256, 64, 0, 0, 0, 0)),
    ("with metadata and 12 bytes of packet", E.EINVAL, _md(52, 64, 0, 0, 0, 0)),
    ("with data_meta", E.EINVAL, _md(0, 64, 4, 0, 0, 0)),
    ("with an end behind the packet", E.EINVAL, _md(0, 65, 0, 0, 0, 0)),
    ("with data behind the end", E.EINVAL, _md(68, 64, 0, 0, 0, 0)),
    ("with a queue but no device", E.EINVAL, _md(0, 64, 0, 0, 1, 0)),
    ("with an egress device", E.EINVAL, _md(0, 64, 0, 0, 0, 1)),
    ("with a device that does not exist", E.ENODEV, _md(0, 64, 0, 9999, 0, 0)),
    ("of the loopback", 0, _md(0, 64, 0, 1, 0, 0)),
    ("shorter than the structure", 0, _md(0, 64, 0, 0, 0, 0)[:8]),
    ("with unknown fields that are zero", 0, _md(0, 64, 0, 0, 0, 0) + bytes(8)),
    ("with unknown fields that are set", E.E2BIG, _md(0, 64, 0, 0, 0, 0) + b"\1" * 8),
):
    case(f"xdp_md {name}", expected, lambda w, md=md: w.run(ctx_in=w.buf(md), ctx_size_in=len(md)))
case("xdp_md at a bad address", E.EFAULT, lambda w: w.run(ctx_in=UNMAPPED, ctx_size_in=24))
case("skb test run", 0, lambda w: w.run(prog_fd=w.filter))
case("skb test run of 13 bytes", E.EINVAL, lambda w: w.run(prog_fd=w.filter, data_size_in=13))
case(
    "skb test run of 3712 bytes",
    0,
    lambda w: w.run(prog_fd=w.filter, data_in=w.buf(bytes(4096)), data_size_in=3712),
)
case(
    "skb test run of 3713 bytes",
    E.EINVAL,
    lambda w: w.run(prog_fd=w.filter, data_in=w.buf(bytes(4096)), data_size_in=3713),
)
case("XDP test run of 3520 bytes", 0, lambda w: w.run(data_in=w.buf(bytes(4096)), data_size_in=3520))
case("skb test run with a CPU", E.EINVAL, lambda w: w.run(prog_fd=w.filter, cpu=1))
case("skb test run with a batch", E.EINVAL, lambda w: w.run(prog_fd=w.filter, batch_size=1))
case("skb test run with flags", E.EINVAL, lambda w: w.run(prog_fd=w.filter, flags=1))
case(
    "skb test run, data_out too small",
    E.ENOSPC,
    lambda w: w.run(prog_fd=w.filter, data_out=w.buf(bytes(64)), data_size_out=16),
)
case(
    "skb test run of a packet that does not fit",
    E.EINVAL,
    lambda w: w.run(prog_fd=w.filter, data_in=w.buf(bytes(8192)), data_size_in=8000),
)

# Links: only what is refused before anything is attached.
case(
    "a link to a device that does not exist",
    E.EINVAL,
    lambda w: w.raw("LINK_CREATE", prog_fd=w.xdp, target_ifindex=9999, attach_type=37),
)
case(
    "a link of a map",
    E.EINVAL,
    lambda w: w.raw("LINK_CREATE", prog_fd=w.array, target_ifindex=9999, attach_type=37),
)
case(
    "a link of a descriptor that is not open",
    E.EBADF,
    lambda w: w.raw("LINK_CREATE", prog_fd=900, target_ifindex=9999, attach_type=37),
)
case(
    "an XDP link of a socket filter",
    E.EINVAL,
    lambda w: w.raw("LINK_CREATE", prog_fd=w.filter, target_ifindex=9999, attach_type=37),
)
case(
    "a link of an unknown attach type",
    E.EINVAL,
    lambda w: w.raw("LINK_CREATE", prog_fd=w.xdp, target_ifindex=9999, attach_type=200),
)
case(
    "a link of another attach type",
    E.EINVAL,
    lambda w: w.raw("LINK_CREATE", prog_fd=w.xdp, target_ifindex=9999, attach_type=0),
)
case(
    "updating a descriptor that is not open",
    E.EBADF,
    lambda w: w.raw("LINK_UPDATE", link_fd=900, new_prog_fd=w.xdp),
)
case("updating what is no link", E.EINVAL, lambda w: w.raw("LINK_UPDATE", link_fd=w.xdp, new_prog_fd=w.xdp))
case(
    "updating with unknown flags",
    E.EINVAL,
    lambda w: w.raw("LINK_UPDATE", link_fd=900, new_prog_fd=w.xdp, flags=1),
)
case("detaching a descriptor that is not open", E.EBADF, lambda w: w.raw("LINK_DETACH", link_fd=900))
case("detaching what is no link", E.EINVAL, lambda w: w.raw("LINK_DETACH", link_fd=w.xdp))


def _skb_ctx(w: World, fields: dict[int, int], size: int = 192, **more: Any) -> int:
    data = bytearray(size)
    for offset, value in fields.items():
        struct.pack_into("<I", data, offset, value)
    return w.run(prog_fd=w.filter, ctx_in=w.buf(bytes(data)), ctx_size_in=size, **more)


for name, expected, fields in (
    ("of zeroes", 0, {}),
    ("with len", E.EINVAL, {0: 1}),
    ("with mark", 0, {8: 1}),
    ("with protocol", E.EINVAL, {16: 8}),
    ("with priority and ingress_ifindex", 0, {32: 1, 36: 1}),
    ("with the loopback's ifindex", 0, {40: 1}),
    ("with an ifindex that does not exist", E.ENODEV, {40: 9999}),
    ("with cb", 0, {48: 1, 64: 5}),
    ("with hash", E.EINVAL, {68: 1}),
    ("with tstamp", 0, {152: 1}),
    ("with wire_len below len", E.EINVAL, {160: 10}),
    ("with wire_len", 0, {160: 100}),
    ("with wire_len above the largest", E.EINVAL, {160: 65537}),
    ("with gso_segs", 0, {164: 65535}),
    ("with too many gso_segs", E.EINVAL, {164: 65536}),
    ("with sk", E.EINVAL, {168: 1}),
    ("with gso_size", 0, {176: 10}),
    ("with tstamp_type", E.EINVAL, {180: 1}),
    ("with hwtstamp", 0, {184: 1}),
):
    case(f"__sk_buff {name}", expected, lambda w, f=fields: _skb_ctx(w, f))
case("__sk_buff with unknown fields that are set", E.E2BIG, lambda w: _skb_ctx(w, {192: 1}, 200))
case(
    "little room for __sk_buff", E.ENOSPC, lambda w: _skb_ctx(w, {}, ctx_out=w.buf(bytes(8)), ctx_size_out=8)
)
case(
    "little room for xdp_md",
    E.ENOSPC,
    lambda w: w.run(
        ctx_in=w.buf(_md(0, 64, 0, 0, 0, 0)), ctx_size_in=24, ctx_out=w.buf(bytes(8)), ctx_size_out=8
    ),
)
