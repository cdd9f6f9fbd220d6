# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) for programs written in Python: typed calls over a process's raw system calls.

Each method makes exactly the system call of its name, through memory of the process; results are values,
failures are :class:`SyscallError`. Any object with the process contract serves (``alloc``, ``read``,
``write``, ``syscall``), the simulator's as well as a real kernel's.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from kernel_model.errors import errno_name
from kernel_model.isa.insn import Insn, encode
from kernel_model.uapi.bpf_attr import INFO_RECORDS, NR_BPF, Values, command, pack

NR_READ, NR_CLOSE, NR_UNAME, NR_MKDIR, NR_OPENAT = 0, 3, 63, 83, 257
AT_FDCWD = -100
_READ_SIZE = 1 << 20
_UTS_FIELD = 65

BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 0, 1, 2, 4


class Process(Protocol):
    """A process: its memory, and the raw x86-64 system call (result, or a negative errno)."""

    def alloc(self, size: int) -> int: ...
    def write(self, addr: int, data: bytes) -> None: ...
    def read(self, addr: int, n: int) -> bytes: ...
    def syscall(self, nr: int, *args: int) -> int: ...


class SyscallError(OSError):
    """A system call that failed: ``errno`` (positive) and ``call``, such as ``bpf(BPF_MAP_CREATE)``."""

    def __init__(self, errno: int, call: str) -> None:
        super().__init__(errno, call)
        self.call = call

    @property
    def name(self) -> str:
        """The errno's symbolic name; ``ENOTSUPP`` for the kernel's own 524."""
        return errno_name(self.errno or 0)

    def __str__(self) -> str:
        return f"{self.call}: {self.name}"


class VerifierError(SyscallError):
    """PROG_LOAD or BTF_LOAD that failed, with the kernel's ``log``."""

    def __init__(self, errno: int, call: str, log: str) -> None:
        super().__init__(errno, call)
        self.log = log

    def __reduce__(self) -> tuple[type[VerifierError], tuple[int, str, str]]:
        return (VerifierError, (self.errno or 0, self.call, self.log))


@dataclass(frozen=True)
class TestRun:
    """What BPF_PROG_TEST_RUN gave: ``duration`` is the mean of a run in nanoseconds."""

    retval: int
    data: bytes
    ctx: bytes
    duration: int


class Arena:
    """Scratch memory of a process, taken in big pieces and given out anew for each call.

    Addresses stay valid until the next :meth:`reset`.
    """

    PIECE = 1 << 16

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pieces: list[tuple[int, int]] = []
        self._piece = 0
        self._used = 0

    def reset(self) -> None:
        """Forget what was put; the memory itself is kept."""
        self._piece = self._used = 0

    def take(self, size: int) -> int:
        """``size`` bytes, aligned to 8, of undefined content."""
        size = -(-max(size, 1) // 8) * 8
        while self._piece < len(self._pieces):
            addr, length = self._pieces[self._piece]
            if self._used + size <= length:
                self._used += size
                return addr + self._used - size
            self._piece += 1
            self._used = 0
        length = max(self.PIECE, size)
        addr = self._process.alloc(length)
        self._pieces.append((addr, length))
        self._used = size
        return addr

    def put(self, data: bytes) -> int:
        """The address of a copy of ``data`` (0 for nothing at all)."""
        if not data:
            return 0
        addr = self.take(len(data))
        self._process.write(addr, data)
        return addr


class Bpf:
    """bpf(2) in ``process``. Fds are plain ints and belong to the caller, who closes them."""

    LOG_SIZE = 1 << 20

    def __init__(self, process: Process) -> None:
        self.process = process
        self._arena = Arena(process)

    def call(self, cmd: str, **fields: int | bytes | str) -> tuple[int, Values]:
        """One bpf(2) call with the attribute fields given; its result and the attribute afterwards.

        SyscallError when it fails. Fields that are pointers are plain addresses here.
        """
        row = command(cmd)
        data = pack(cmd, **fields)
        addr = self._arena.take(len(data))
        self.process.write(addr, data)
        result = self.process.syscall(NR_BPF, row.number, addr, len(data))
        if result < 0:
            raise SyscallError(-result, f"bpf(BPF_{row.name})")
        return result, row.record.unpack(self.process.read(addr, len(data)))

    def read_file(self, path: str) -> bytes:
        """The whole content of a file, through the process's system calls. SyscallError."""
        self._arena.reset()
        fd = self._checked(f"open({path})", NR_OPENAT, AT_FDCWD, self._arena.put(path.encode() + b"\0"), 0)
        parts = []
        try:
            buffer = self._arena.take(_READ_SIZE)
            while size := self._checked(f"read({path})", NR_READ, fd, buffer, _READ_SIZE):
                parts.append(self.process.read(buffer, size))
        finally:
            self.close(fd)
        return b"".join(parts)

    def uname(self) -> os.uname_result:
        """uname(2)."""
        self._arena.reset()
        at = self._arena.take(6 * _UTS_FIELD)
        self._checked("uname", NR_UNAME, at)
        data = self.process.read(at, 6 * _UTS_FIELD)
        fields = [data[start : start + _UTS_FIELD] for start in range(0, 5 * _UTS_FIELD, _UTS_FIELD)]
        return os.uname_result(field.split(b"\0", 1)[0].decode("latin-1") for field in fields)

    def make_dir(self, path: str) -> None:
        """mkdir(2); a directory that is there is fine. SyscallError."""
        self._arena.reset()
        result = self.process.syscall(NR_MKDIR, self._arena.put(path.encode() + b"\0"), 0o700)
        if result < 0 and result != -_errno.EEXIST:
            raise SyscallError(-result, f"mkdir({path})")

    def close(self, fd: int) -> None:
        """close(2)."""
        self._checked("close", NR_CLOSE, fd)

    def _checked(self, call: str, number: int, *args: int) -> int:
        result = self.process.syscall(number, *args)
        if result < 0:
            raise SyscallError(-result, call)
        return result

    # Maps

    def map_create(
        self,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        name: str = "",
        map_flags: int = 0,
        **more: int,
    ) -> int:
        """A new map's fd. ``more`` are further fields of BPF_MAP_CREATE (btf_fd, map_extra ...)."""
        self._arena.reset()
        return self.call(
            "MAP_CREATE",
            map_type=map_type,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            map_flags=map_flags,
            map_name=name.encode()[:15],
            **more,
        )[0]

    def map_lookup(self, fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes | None:
        """The value at ``key``, None when there is none.

        For per-CPU maps ``value_size`` is that of all CPUs' values, each rounded up to 8 bytes.
        """
        self._arena.reset()
        value = self._arena.put(bytes(value_size))
        try:
            self.call("MAP_LOOKUP_ELEM", map_fd=fd, key=self._arena.put(key), value=value, flags=flags)
        except SyscallError as error:
            if error.errno == _errno.ENOENT:
                return None
            raise
        return self.process.read(value, value_size)

    def map_update(self, fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        """Set ``key`` to ``value``; SyscallError (EEXIST, ENOENT, E2BIG ...) as the flags and map say."""
        self._arena.reset()
        put = self._arena.put
        self.call("MAP_UPDATE_ELEM", map_fd=fd, key=put(key), value=put(value), flags=flags)

    def map_delete(self, fd: int, key: bytes) -> None:
        """Remove ``key``; SyscallError(ENOENT) when it is not there."""
        self._arena.reset()
        self.call("MAP_DELETE_ELEM", map_fd=fd, key=self._arena.put(key))

    def map_lookup_and_delete(self, fd: int, key: bytes, value_size: int, flags: int = 0) -> bytes | None:
        """Take the value at ``key`` out of the map; None when there is none."""
        self._arena.reset()
        value = self._arena.put(bytes(value_size))
        try:
            self.call(
                "MAP_LOOKUP_AND_DELETE_ELEM", map_fd=fd, key=self._arena.put(key), value=value, flags=flags
            )
        except SyscallError as error:
            if error.errno == _errno.ENOENT:
                return None
            raise
        return self.process.read(value, value_size)

    def map_get_next_key(self, fd: int, key: bytes | None, key_size: int) -> bytes | None:
        """The key behind ``key`` (None: the first); None at the end."""
        self._arena.reset()
        following = self._arena.put(bytes(key_size))
        try:
            self.call("MAP_GET_NEXT_KEY", map_fd=fd, key=self._arena.put(key or b""), next_key=following)
        except SyscallError as error:
            if error.errno == _errno.ENOENT:
                return None
            raise
        return self.process.read(following, key_size)

    def map_keys(self, fd: int, key_size: int) -> Iterator[bytes]:
        """All keys in the map's own order."""
        key = self.map_get_next_key(fd, None, key_size)
        while key is not None:
            yield key
            key = self.map_get_next_key(fd, key, key_size)

    def map_lookup_batch(
        self, fd: int, key_size: int, value_size: int, count: int, start: bytes | None = None
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Up to ``count`` elements, from the first one on or from where ``start`` says.

        Gives the elements and the ``start`` of the next call, None after the last one. SyscallError(ENOSPC)
        when ``count`` is less than what one bucket of a hash map holds.
        """
        self._arena.reset()
        keys, values = self._arena.take(count * key_size), self._arena.take(count * value_size)
        out = self._arena.take(max(key_size, 4))
        row = command("MAP_LOOKUP_BATCH")
        data = pack(
            row.name, map_fd=fd, count=count, keys=keys, values=values, out_batch=out,
            in_batch=self._arena.put(start) if start is not None else 0,
        )  # fmt: skip
        attr = self._arena.put(data)
        result = self.process.syscall(NR_BPF, row.number, attr, len(data))
        if result < 0 and result != -_errno.ENOENT:
            raise SyscallError(-result, f"bpf(BPF_{row.name})")
        found = row.record.unpack(self.process.read(attr, len(data)))["count"]
        raw_keys = self.process.read(keys, found * key_size)
        raw_values = self.process.read(values, found * value_size)
        elements = [
            (raw_keys[n * key_size : (n + 1) * key_size], raw_values[n * value_size : (n + 1) * value_size])
            for n in range(found)
        ]
        following = self.process.read(out, max(key_size, 4)) if result >= 0 else None
        return elements, following

    def map_items(
        self, fd: int, key_size: int, value_size: int, step: int = 4096
    ) -> Iterator[tuple[bytes, bytes]]:
        """All elements, read ``step`` at a time, and more where a bucket is larger.

        For map types that have BPF_MAP_LOOKUP_BATCH. An element that comes or goes meanwhile may be missed.
        """
        start: bytes | None = None
        while True:
            try:
                elements, start = self.map_lookup_batch(fd, key_size, value_size, step, start)
            except SyscallError as error:
                if error.errno != _errno.ENOSPC:
                    raise
                step *= 2
                continue
            yield from elements
            if start is None:
                return

    def map_update_batch(self, fd: int, elements: Iterable[tuple[bytes, bytes]], flags: int = BPF_ANY) -> int:
        """Set many elements; how many that were. SyscallError when one is refused (those before it stay)."""
        self._arena.reset()
        pairs = list(elements)
        if not pairs:
            return 0
        keys = self._arena.put(b"".join(key for key, _ in pairs))
        values = self._arena.put(b"".join(value for _, value in pairs))
        fields = {"keys": keys, "values": values, "elem_flags": flags}
        return self.call("MAP_UPDATE_BATCH", map_fd=fd, count=len(pairs), **fields)[1]["count"]

    def map_freeze(self, fd: int) -> None:
        """No more writes from user space."""
        self._arena.reset()
        self.call("MAP_FREEZE", map_fd=fd)

    # Programs and BTF

    def prog_load(
        self,
        prog_type: int,
        insns: Iterable[Insn],
        license: str = "GPL",
        name: str = "",
        log_level: int = 0,
        log_size: int = LOG_SIZE,
        func_info: bytes = b"",
        line_info: bytes = b"",
        **more: int,
    ) -> tuple[int, str]:
        """A loaded program's fd and the verifier's log ("" at ``log_level`` 0).

        ``more`` are further fields of BPF_PROG_LOAD (expected_attach_type, prog_flags, prog_btf_fd ...).
        VerifierError with the log when the kernel refuses.
        """
        self._arena.reset()
        code = encode(insns)
        log = self._log(log_level, log_size)
        put = self._arena.put
        fields: dict[str, int | bytes] = {
            "prog_type": prog_type,
            "insns": put(code),
            "insn_cnt": len(code) // 8,
            "license": put(license.encode() + b"\0"),
            "prog_name": name.encode()[:15],
            "log_level": log_level,
            "log_buf": log,
            "log_size": log_size if log else 0,
            "func_info": put(func_info),
            "line_info": put(line_info),
            **more,
        }
        try:
            fd, _ = self.call("PROG_LOAD", **fields)
        except SyscallError as error:
            raise VerifierError(error.errno or 0, error.call, self._read_log(log, log_size)) from None
        return fd, self._read_log(log, log_size)

    def btf_load(self, btf: bytes, log_level: int = 0, log_size: int = LOG_SIZE) -> int:
        """The fd of BTF loaded into the kernel; VerifierError with the log when it is refused."""
        self._arena.reset()
        log = self._log(log_level, log_size)
        try:
            return self.call(
                "BTF_LOAD",
                btf=self._arena.put(btf),
                btf_size=len(btf),
                btf_log_buf=log,
                btf_log_size=log_size if log else 0,
                btf_log_level=log_level,
            )[0]
        except SyscallError as error:
            raise VerifierError(error.errno or 0, error.call, self._read_log(log, log_size)) from None

    def _log(self, level: int, size: int) -> int:
        if not level:
            return 0
        addr = self._arena.take(size)
        self.process.write(addr, b"\0")
        return addr

    def _read_log(self, addr: int, size: int) -> str:
        if not addr:
            return ""
        out = b""
        # Page by page: the log is short as a rule, and the buffer is not.
        for at in range(0, size, 4096):
            piece = self.process.read(addr + at, min(4096, size - at))
            out += piece
            if 0 in piece:
                break
        return out.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")

    def prog_test_run(
        self,
        fd: int,
        data: bytes = b"",
        repeat: int = 0,
        ctx: bytes = b"",
        data_size_out: int | None = None,
        flags: int = 0,
        cpu: int = 0,
        batch_size: int = 0,
    ) -> TestRun:
        """Run the program on ``data`` and ``ctx``; what came out, cut to the room given.

        ``data_size_out`` is the room for the packet afterwards; None takes 256 bytes more than went in,
        0 asks for none.
        """
        self._arena.reset()
        room = (len(data) + 256 if data else 0) if data_size_out is None else data_size_out
        data_out = self._arena.take(room) if room else 0
        ctx_out = self._arena.put(bytes(len(ctx)))
        _, after = self.call(
            "PROG_TEST_RUN",
            prog_fd=fd,
            data_in=self._arena.put(data),
            data_size_in=len(data),
            data_out=data_out,
            data_size_out=room,
            ctx_in=self._arena.put(ctx),
            ctx_size_in=len(ctx),
            ctx_out=ctx_out,
            ctx_size_out=len(ctx),
            repeat=repeat,
            flags=flags,
            cpu=cpu,
            batch_size=batch_size,
        )
        got = min(after["data_size_out"], room)
        return TestRun(
            after["retval"],
            self.process.read(data_out, got) if got else b"",
            self.process.read(ctx_out, len(ctx)) if ctx else b"",
            after["duration"],
        )

    def prog_bind_map(self, prog_fd: int, map_fd: int) -> None:
        """Tie a map's life to a program's."""
        self._arena.reset()
        self.call("PROG_BIND_MAP", prog_fd=prog_fd, map_fd=map_fd)

    # Objects

    def obj_info(
        self, fd: int, kind: str = "bpf_prog_info", **buffers: int
    ) -> tuple[Values, dict[str, bytes]]:
        """BPF_OBJ_GET_INFO_BY_FD: the info record (``kind`` names it), and what was asked for beside it.

        ``buffers`` gives the room in bytes for pointer fields: ``obj_info(fd, xlated_prog_insns=4096)``
        also returns those bytes.
        """
        self._arena.reset()
        record = INFO_RECORDS[kind]
        fields: dict[str, int] = {}
        places: dict[str, tuple[int, int]] = {}
        for name, size in buffers.items():
            places[name] = (self._arena.put(bytes(size)), size)
            count, unit = INFO_COUNTS[kind, name]
            fields |= {name: places[name][0], count: size // unit}
        addr = self._arena.put(record.pack(**fields))
        self.call("OBJ_GET_INFO_BY_FD", bpf_fd=fd, info_len=record.size, info=addr)
        info = record.unpack(self.process.read(addr, record.size))
        out: dict[str, bytes] = {}
        for name, (place, size) in places.items():
            count, unit = INFO_COUNTS[kind, name]
            out[name] = self.process.read(place, min(size, info[count] * unit))
        return info, out

    def next_id(self, what: str, start: int = 0) -> int | None:
        """BPF_PROG_GET_NEXT_ID and its like (``what``: PROG, MAP, BTF, LINK); None behind the last."""
        self._arena.reset()
        try:
            return self.call(f"{what}_GET_NEXT_ID", start_id=start)[1]["next_id"]
        except SyscallError as error:
            if error.errno == _errno.ENOENT:
                return None
            raise

    def fd_by_id(self, what: str, number: int) -> int:
        """BPF_PROG_GET_FD_BY_ID and its like; SyscallError(ENOENT) for an unknown id."""
        self._arena.reset()
        return self.call(f"{what}_GET_FD_BY_ID", start_id=number)[0]

    def obj_pin(self, fd: int, path: str) -> None:
        """Give the object a name in bpffs."""
        self._arena.reset()
        self.call("OBJ_PIN", bpf_fd=fd, pathname=self._arena.put(path.encode() + b"\0"))

    def obj_get(self, path: str, file_flags: int = 0) -> int:
        """An fd of the object pinned at ``path``."""
        self._arena.reset()
        return self.call("OBJ_GET", pathname=self._arena.put(path.encode() + b"\0"), file_flags=file_flags)[0]

    # Attaching

    def prog_attach(self, target_fd: int, prog_fd: int, attach_type: int, flags: int = 0) -> None:
        """BPF_PROG_ATTACH."""
        self._arena.reset()
        self.call(
            "PROG_ATTACH",
            target_fd=target_fd,
            attach_bpf_fd=prog_fd,
            attach_type=attach_type,
            attach_flags=flags,
        )

    def link_create(self, prog_fd: int, target: int, attach_type: int, flags: int = 0, **more: int) -> int:
        """A link's fd. ``target`` is an fd or, for network devices, an interface index.

        ``more`` are further fields, ``**{"tracing.cookie": 1}``.
        """
        self._arena.reset()
        return self.call(
            "LINK_CREATE", prog_fd=prog_fd, target_fd=target, attach_type=attach_type, flags=flags, **more
        )[0]

    def link_update(self, link_fd: int, prog_fd: int, flags: int = 0, old_prog_fd: int = 0) -> None:
        """Replace the link's program; with BPF_F_REPLACE (4) only when it is ``old_prog_fd``'s."""
        self._arena.reset()
        self.call("LINK_UPDATE", link_fd=link_fd, new_prog_fd=prog_fd, flags=flags, old_prog_fd=old_prog_fd)

    def link_detach(self, link_fd: int) -> None:
        """Detach, leaving the link's fd open."""
        self._arena.reset()
        self.call("LINK_DETACH", link_fd=link_fd)


INFO_COUNTS: dict[tuple[str, str], tuple[str, int]] = {
    ("bpf_prog_info", "jited_prog_insns"): ("jited_prog_len", 1),
    ("bpf_prog_info", "xlated_prog_insns"): ("xlated_prog_len", 1),
    ("bpf_prog_info", "map_ids"): ("nr_map_ids", 4),
    ("bpf_prog_info", "jited_ksyms"): ("nr_jited_ksyms", 8),
    ("bpf_prog_info", "jited_func_lens"): ("nr_jited_func_lens", 4),
    ("bpf_prog_info", "prog_tags"): ("nr_prog_tags", 8),
    ("bpf_btf_info", "btf"): ("btf_size", 1),
    ("bpf_btf_info", "name"): ("name_len", 1),
}
"""For the pointers in the info structs: the field with their count, and the bytes of one element."""
