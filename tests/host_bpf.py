# SPDX-License-Identifier: GPL-2.0-only
"""The host's own kernel through raw bpf(2), as a reference to compare with.

Loads programs, reads back what the verifier and the JIT made of them, test-runs them. It attaches
nothing and changes no setting. Needs root; :func:`why_not` says in words what is missing, and
:data:`host_kernel` is the decorator for tests that need the host.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_PROG_LOAD = 5
BPF_PROG_TEST_RUN = 10
BPF_OBJ_GET_INFO_BY_FD = 15
BPF_BTF_LOAD = 18

BPF_MAP_TYPE_HASH = 1
BPF_MAP_TYPE_ARRAY = 2
BPF_MAP_TYPE_PROG_ARRAY = 3
BPF_MAP_TYPE_PERCPU_ARRAY = 6
BPF_MAP_TYPE_ARENA = 33
BPF_F_MMAPABLE = 1 << 10

BPF_PROG_TYPE_SOCKET_FILTER = 1
BPF_PROG_TYPE_KPROBE = 2
BPF_PROG_TYPE_SCHED_CLS = 3
BPF_PROG_TYPE_XDP = 6

BPF_LOG_STATS = 4
MAX_INSNS = 10_000
"""More would make the host's verifier slow enough to disturb it."""

_SYS_BPF = 321
_ATTR_SIZE = 168
_INFO_SIZE = 232


class HostRefused(OSError):
    """The host's kernel answered with an errno; ``log`` is the verifier's log."""

    def __init__(self, number: int, log: str = "") -> None:
        super().__init__(number, os.strerror(number) if number != 524 else "ENOTSUPP")
        self.log = log

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.log}"


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """The system call; ``attr`` is padded with zeroes. The result, or HostRefused."""
    buffer = attr if isinstance(attr, ctypes.Array) else ctypes.create_string_buffer(attr, _ATTR_SIZE)
    result: int = _libc().syscall(_SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        raise HostRefused(ctypes.get_errno())
    return result


@functools.cache
def why_not() -> str | None:
    """Why this host cannot be asked, None when it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the host is not Linux on x86-64"
    if os.geteuid():
        return "bpf(2) as a reference needs root"
    try:
        fd = prog_load(bytes.fromhex("b7000000000000009500000000000000"))
    except OSError as error:
        return f"bpf(BPF_PROG_LOAD) on this host: {error.strerror}"
    os.close(fd)
    return None


def host_kernel(test):  # type: ignore[no-untyped-def]
    """Mark a test (or class) as needing the host's kernel; it is skipped with the reason elsewhere."""
    reason = why_not()
    return pytest.mark.host_kernel(pytest.mark.skipif(reason is not None, reason=reason or "")(test))


def address_of(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """The address of a ctypes buffer, for a pointer in an attribute."""
    return ctypes.addressof(buffer)


def map_create(
    map_type: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, extra: int = 0
) -> int:
    """BPF_MAP_CREATE: the map's fd. ``extra`` is map_extra."""
    attr = struct.pack("<5I", map_type, key_size, value_size, max_entries, flags)
    attr = attr.ljust(64, b"\0") + struct.pack("<Q", extra)
    return bpf(BPF_MAP_CREATE, attr)


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """BPF_MAP_UPDATE_ELEM with BPF_ANY."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    bpf(
        BPF_MAP_UPDATE_ELEM, struct.pack("<IIQQQ", fd, 0, address_of(key_buffer), address_of(value_buffer), 0)
    )


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """BPF_MAP_LOOKUP_ELEM: the value's ``size`` bytes, None where there is no element."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(size)
    try:
        bpf(BPF_MAP_LOOKUP_ELEM, struct.pack("<IIQQQ", fd, 0, address_of(key_buffer), address_of(value), 0))
    except HostRefused as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


class HostProcess:
    """This process as the simulator's ``Process``: its memory, and system calls of the host's kernel.

    Only bpf(2) and close(2) pass; ``alloc``'s memory lives as long as the object.
    """

    ALLOWED = (_SYS_BPF, 3)

    def __init__(self) -> None:
        self._buffers: list[ctypes.Array[ctypes.c_char]] = []

    def alloc(self, size: int) -> int:
        """The address of ``size`` bytes of zeroes."""
        self._buffers.append(ctypes.create_string_buffer(size))
        return address_of(self._buffers[-1])

    def write(self, addr: int, data: bytes) -> None:
        """Write at an address that ``alloc`` gave."""
        ctypes.memmove(addr, bytes(data), len(data))

    def read(self, addr: int, n: int) -> bytes:
        """Read at an address that ``alloc`` gave."""
        return ctypes.string_at(addr, n)

    def syscall(self, nr: int, *args: int) -> int:
        """The raw system call: its result, or minus the errno."""
        if nr not in self.ALLOWED:
            raise PermissionError(f"system call {nr} is not for tests to make on the host")
        result: int = _libc().syscall(nr, *(ctypes.c_long(arg) for arg in args))
        return result if result >= 0 else -ctypes.get_errno()


@dataclass(frozen=True)
class Loaded:
    """A loaded program: its fd and the verifier's log."""

    fd: int
    log: str

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Bytes of stack of each subprogram, from the log's statistics (``log_level`` 4)."""
        found = re.search(r"^stack depth ([\d+]+)", self.log, re.M)
        return tuple(int(part) for part in found[1].split("+")) if found else ()


def prog_load(
    insns: bytes,
    prog_type: int = BPF_PROG_TYPE_SOCKET_FILTER,
    *,
    flags: int = 0,
    attach_type: int = 0,
    license: str = "GPL",
) -> int:
    """BPF_PROG_LOAD without a log: the program's fd."""
    return _load(insns, prog_type, flags, attach_type, license, 0, 0, 0, b"").fd


def prog_load_log(
    insns: bytes,
    prog_type: int = BPF_PROG_TYPE_SOCKET_FILTER,
    *,
    log_level: int = BPF_LOG_STATS,
    flags: int = 0,
    attach_type: int = 0,
    license: str = "GPL",
    btf_fd: int = 0,
    func_info: Sequence[tuple[int, int]] = (),
    log_size: int = 1 << 20,
) -> Loaded:
    """BPF_PROG_LOAD with a log. ``func_info`` pairs each function's first slot with its BTF type.

    Raises HostRefused with the log when the host refuses the program.
    """
    records = b"".join(struct.pack("<II", *record) for record in func_info)
    return _load(insns, prog_type, flags, attach_type, license, log_level, log_size, btf_fd, records)


def _load(
    insns: bytes,
    prog_type: int,
    flags: int,
    attach_type: int,
    license: str,
    log_level: int,
    log_size: int,
    btf_fd: int,
    func_info: bytes,
) -> Loaded:
    count = len(insns) // 8
    if count > MAX_INSNS:
        raise ValueError(f"{count} instructions are too many for the host")
    code = ctypes.create_string_buffer(insns, len(insns))
    gpl = ctypes.create_string_buffer(license.encode())
    log = ctypes.create_string_buffer(log_size or 1)
    records = ctypes.create_string_buffer(func_info, len(func_info) or 1)
    attr = bytearray(_ATTR_SIZE)
    struct.pack_into("<IIQQ", attr, 0, prog_type, count, address_of(code), address_of(gpl))
    if log_level:
        struct.pack_into("<IIQ", attr, 24, log_level, log_size, address_of(log))
    struct.pack_into("<I", attr, 44, flags)
    struct.pack_into("<I", attr, 68, attach_type)
    if func_info:
        struct.pack_into("<IIQI", attr, 72, btf_fd, 8, address_of(records), len(func_info) // 8)
    try:
        fd = bpf(BPF_PROG_LOAD, bytes(attr))
    except HostRefused as error:
        raise HostRefused(error.errno or 0, log.value.decode(errors="replace")) from None
    return Loaded(fd, log.value.decode(errors="replace"))


@dataclass(frozen=True)
class ProgInfo:
    """What the kernel tells of a loaded program (struct bpf_prog_info)."""

    id: int
    tag: bytes
    xlated: bytes
    jited: bytes
    ksyms: tuple[int, ...]
    func_lens: tuple[int, ...]
    map_ids: tuple[int, ...]
    func_starts: tuple[int, ...]
    """First slot of each function where the program came with func_info, else empty."""
    verified_insns: int

    @property
    def images(self) -> tuple[bytes, ...]:
        """The machine code of each function."""
        images, at = [], 0
        for length in self.func_lens:
            images.append(self.jited[at : at + length])
            at += length
        return tuple(images)


def prog_info(fd: int) -> ProgInfo:
    """BPF_OBJ_GET_INFO_BY_FD of a program: asked twice, for the sizes and then for the arrays."""
    info = ctypes.create_string_buffer(_INFO_SIZE)
    _get_info(fd, info)
    jited_len, xlated_len = struct.unpack_from("<II", info, 16)
    (maps,) = struct.unpack_from("<I", info, 52)
    ksyms, lens = struct.unpack_from("<II", info, 104)
    (funcs,) = struct.unpack_from("<I", info, 144)
    sizes = {24: jited_len, 32: xlated_len, 56: maps * 4, 112: ksyms * 8, 120: lens * 4, 136: funcs * 8}
    arrays = {at: ctypes.create_string_buffer(size or 1) for at, size in sizes.items()}
    again = bytearray(_INFO_SIZE)
    struct.pack_into("<II", again, 16, jited_len, xlated_len)
    struct.pack_into("<I", again, 52, maps)
    struct.pack_into("<II", again, 104, ksyms, lens)
    struct.pack_into("<I", again, 132, 8 if funcs else 0)
    struct.pack_into("<I", again, 144, funcs)
    for at, array in arrays.items():
        if sizes[at]:
            struct.pack_into("<Q", again, at, address_of(array))
    info = ctypes.create_string_buffer(bytes(again), _INFO_SIZE)
    _get_info(fd, info)
    raw = {at: arrays[at].raw[: sizes[at]] for at in sizes}
    return ProgInfo(
        id=struct.unpack_from("<I", info, 4)[0],
        tag=info.raw[8:16],
        xlated=raw[32],
        jited=raw[24],
        ksyms=struct.unpack(f"<{ksyms}Q", raw[112]),
        func_lens=struct.unpack(f"<{lens}I", raw[120]),
        map_ids=struct.unpack(f"<{maps}I", raw[56]),
        func_starts=struct.unpack(f"<{funcs * 2}I", raw[136])[::2],
        verified_insns=struct.unpack_from("<I", info, 216)[0],
    )


def _get_info(fd: int, info: ctypes.Array[ctypes.c_char]) -> None:
    bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, len(info), address_of(info)))


@dataclass(frozen=True)
class TestRun:
    """The answer of BPF_PROG_TEST_RUN; ``duration`` in ns a run."""

    __test__ = False

    retval: int
    data: bytes
    duration: int


def test_run(fd: int, data: bytes = b"\0" * 64, repeat: int = 1, room: int = 4096) -> TestRun:
    """BPF_PROG_TEST_RUN with ``data`` as packet and ``room`` bytes for what comes out."""
    data_in = ctypes.create_string_buffer(data, len(data))
    data_out = ctypes.create_string_buffer(room)
    attr = bytearray(_ATTR_SIZE)
    pointers = (address_of(data_in), address_of(data_out))
    struct.pack_into("<IIIIQQII", attr, 0, fd, 0, len(data), room, *pointers, repeat, 0)
    buffer = ctypes.create_string_buffer(bytes(attr), _ATTR_SIZE)
    bpf(BPF_PROG_TEST_RUN, buffer)
    _, retval, _, size, _, _, _, duration = struct.unpack_from("<IIIIQQII", buffer, 0)
    return TestRun(retval, data_out.raw[:size], duration)


test_run.__test__ = False  # type: ignore[attr-defined]


_BTF_KIND_INT = 1
_BTF_KIND_FUNC = 12
_BTF_KIND_FUNC_PROTO = 13


def static_functions(names: Iterable[str], params: int = 0) -> tuple[int, tuple[int, ...]]:
    """Load BTF with ``int name(long, ...)`` for each name: its fd, and the type number of each function.

    Every function has static linkage and ``params`` parameters: what callbacks and their callers need.
    """
    strings = bytearray(b"\0")

    def string(name: str) -> int:
        strings.extend(name.encode() + b"\0")
        return len(strings) - len(name) - 1

    types = struct.pack("<IIII", string("int"), _BTF_KIND_INT << 24, 4, 1 << 24 | 32)
    types += struct.pack("<IIII", string("long"), _BTF_KIND_INT << 24, 8, 1 << 24 | 64)
    types += struct.pack("<III", 0, _BTF_KIND_FUNC_PROTO << 24 | params, 1)
    types += b"".join(struct.pack("<II", string(f"a{index}"), 2) for index in range(params))
    ids = []
    for number, name in enumerate(names):
        types += struct.pack("<III", string(name), _BTF_KIND_FUNC << 24, 3)
        ids.append(4 + number)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = ctypes.create_string_buffer(header + types + bytes(strings))
    size = len(header) + len(types) + len(strings)
    fd = bpf(BPF_BTF_LOAD, struct.pack("<QQII", address_of(blob), 0, size, 0))
    return fd, tuple(ids)


_BTF_TAIL = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes behind a type's header by kind; kinds with a record for each member are in the next table."""
_BTF_RECORD = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


class VmlinuxBtf:
    """The host kernel's BTF, as far as tests need it: functions and struct members by name."""

    def __init__(self, blob: bytes) -> None:
        header_len, type_off, type_len, str_off = struct.unpack_from("<IIII", blob, 4)
        self._blob = blob
        self._strings = header_len + str_off
        self.types: list[tuple[int, str, int, int]] = [(0, "", 0, 0)]
        """Kind, name, size or type, and where the records begin, by type number."""
        at, end = header_len + type_off, header_len + type_off + type_len
        while at < end:
            name, info, size = struct.unpack_from("<III", blob, at)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            self.types.append((kind, self.string(name), size, at))
            at += 12 + _BTF_TAIL.get(kind, 0) + _BTF_RECORD.get(kind, 0) * vlen

    def string(self, offset: int) -> str:
        start = self._strings + offset
        return self._blob[start : self._blob.index(b"\0", start)].decode()

    def function(self, name: str) -> int:
        """The type number of a kernel function; KeyError when the kernel has none of that name."""
        for number, (kind, own, _, _) in enumerate(self.types):
            if kind == _BTF_KIND_FUNC and own == name:
                return number
        raise KeyError(name)

    def offset(self, dotted: str) -> int:
        """The byte offset of ``struct.member.member``, looking into anonymous members."""
        struct_name, *path = dotted.split(".")
        number = next(n for n, t in enumerate(self.types) if t[0] == 4 and t[1] == struct_name)
        total = 0
        for member in path:
            offset, number = self._member(number, member)
            total += offset
        return total // 8

    def _member(self, number: int, name: str) -> tuple[int, int]:
        found = self._find(number, name)
        if found is None:
            raise KeyError(name)
        return found

    def _find(self, number: int, name: str) -> tuple[int, int] | None:
        while self.types[number][0] in (8, 9, 10, 11, 18):
            number = self.types[number][2]
        kind, _, _, at = self.types[number]
        if kind not in (4, 5):
            return None
        info = struct.unpack_from("<I", self._blob, at + 4)[0]
        for index in range(info & 0xFFFF):
            own, target, offset = struct.unpack_from("<III", self._blob, at + 12 + 12 * index)
            offset = offset & 0xFFFFFF if info >> 31 else offset
            if self.string(own) == name:
                return offset, target
            if not own and (inner := self._find(target, name)):
                return offset + inner[0], inner[1]
        return None


@functools.cache
def vmlinux_btf() -> VmlinuxBtf:
    """The host kernel's BTF; OSError where the kernel does not show it."""
    return VmlinuxBtf(Path("/sys/kernel/btf/vmlinux").read_bytes())


@functools.cache
def kallsyms() -> dict[str, int]:
    """Addresses of the host kernel's symbols; empty when it hides them."""
    symbols: dict[str, int] = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split()[:3]
        symbols.setdefault(name, int(address, 16))
    return symbols if symbols.get("_stext") or symbols.get("_text") else {}
