# SPDX-License-Identifier: GPL-2.0-only
"""``union bpf_attr`` and the info structs of bpf(2), as one declarative layout a command.

The tables follow include/uapi/linux/bpf.h of Linux 6.18; a test compares them with a real kernel's BTF.
User space packs with them, the kernel's system call unpacks with the same ones. Nobody writes an
offset: fields are laid out by the x86-64 ABI in the order of the table.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import KernelError

NR_BPF = 321
"""The system call number of bpf(2) on x86-64."""

PAGE_SIZE = 4096

_CODES = {"u8": "B", "s8": "b", "u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q"}
_SIZES = {"u8": 1, "s8": 1, "char": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4, "u64": 8, "s64": 8}
_DECLARATION = re.compile(r"(\w+) ([\w./]+)(?:\[(\d+)\]|:(\d+))?$")


@dataclass(frozen=True)
class Field:
    """One field: byte ``offset`` and ``size``; ``code`` is its struct-module letter, "" for bytes.

    ``bits`` is the width of a bit-field that starts at bit 0 of its storage unit, else 0. ``since`` is
    the kernel version that brought the field.
    """

    name: str
    offset: int
    size: int
    code: str
    since: str
    bits: int = 0


class Values:
    """The fields of one unpacked record: ``values["map_fd"]`` is an int, ``blob("map_name")`` is bytes."""

    __slots__ = ("_blobs", "_ints")

    def __init__(self, ints: dict[str, int], blobs: dict[str, bytes]) -> None:
        self._ints = ints
        self._blobs = blobs

    def __getitem__(self, name: str) -> int:
        return self._ints[name]

    def __contains__(self, name: object) -> bool:
        return name in self._ints or name in self._blobs

    def blob(self, name: str) -> bytes:
        """A byte-array field, whole (``map_name``: 16 bytes, NULs included)."""
        return self._blobs[name]

    def text(self, name: str) -> str:
        """A character-array field up to its first NUL."""
        return self._blobs[name].split(b"\0", 1)[0].decode("latin-1")

    def asdict(self) -> dict[str, int | bytes]:
        """All fields by name, in no particular order."""
        return {**self._ints, **self._blobs}

    def __repr__(self) -> str:
        return f"Values({self.asdict()!r})"


class Record:
    """A C structure of scalars and byte arrays, packed and unpacked by field name.

    ``text`` has one line a kernel version: the version, then ``type name;`` declarations.
    ``name/alias`` names a union of equal types; ``@name`` goes back to where field ``name`` starts,
    for unions of structures; ``type name:n`` is an n-bit field at the start of its unit.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.fields: dict[str, Field] = {}
        self.size = 0
        align = self._layout(text)
        self.size = -(-self.size // align) * align
        scalars = [f for f in self.fields.values() if f.code]
        # Fields that do not overlap an earlier one are read by a single struct call; unions get their own.
        main, end = [], 0
        self._extra: list[tuple[Field, struct.Struct]] = []
        for each in sorted(scalars, key=lambda f: f.offset):
            if each.offset >= end and not each.bits:
                main.append(each)
                end = each.offset + each.size
            else:
                self._extra.append((each, struct.Struct("<" + each.code)))
        self._blobs = [f for f in self.fields.values() if not f.code]
        self._names = tuple(f.name for f in main)
        fmt, at = "<", 0
        for each in main:
            fmt += f"{each.offset - at}x{each.code}"
            at = each.offset + each.size
        self._struct = struct.Struct(fmt + f"{self.size - at}x")

    def _layout(self, text: str) -> int:
        at, align = 0, 1
        for line in text.strip().splitlines():
            since, _, rest = line.strip().partition(" ")
            for item in filter(None, (part.strip() for part in rest.split(";"))):
                if item.startswith("@"):
                    at = self.fields[item[1:]].offset
                    continue
                match = _DECLARATION.match(item)
                if match is None:
                    raise ValueError(f"{self.name}: cannot read the declaration {item!r}")
                kind, names, count, bits = match.groups()
                unit = _SIZES[kind]
                at = -(-at // unit) * unit
                align = max(align, unit)
                size = unit * int(count or 1)
                for name in names.split("/"):
                    code = "" if count else _CODES[kind]
                    self.fields[name] = Field(name, at, size, code, since, int(bits or 0))
                at += size
                self.size = max(self.size, at)
        return align

    def pack(self, **values: int | bytes | str) -> bytes:
        """The record's bytes, zero where nothing is given; signed and unsigned numbers are both taken.

        Names with a dot are given as ``**{"tcx.relative_fd": 3}``. TypeError for an unknown field,
        OverflowError for a value that does not fit.
        """
        out = bytearray(self.size)
        for name, value in values.items():
            each = self.fields.get(name)
            if each is None:
                raise TypeError(f"{self.name} has no field {name!r}")
            if isinstance(value, int):
                if not each.code:
                    raise TypeError(f"{self.name}.{name} takes bytes")
                bits = each.bits or each.size * 8
                if not -(1 << (bits - 1)) <= value < 1 << bits:
                    raise OverflowError(f"{self.name}.{name}: {value} does not fit {bits} bits")
                data = (value & ((1 << bits) - 1)).to_bytes(each.size, "little")
            else:
                data = value.encode() if isinstance(value, str) else bytes(value)
                if each.code or len(data) > each.size:
                    raise OverflowError(f"{self.name}.{name}: {len(data)} bytes do not fit")
            out[each.offset : each.offset + len(data)] = data
        return bytes(out)

    def unpack(self, data: bytes | bytearray | memoryview) -> Values:
        """The fields of ``data``, which may be shorter (the rest reads zero) or longer than the record."""
        if len(data) < self.size:
            data = bytes(data).ljust(self.size, b"\0")
        ints: dict[str, int] = dict(zip(self._names, self._struct.unpack_from(data), strict=True))
        for each, code in self._extra:
            value: int = code.unpack_from(data, each.offset)[0]
            ints[each.name] = value & ((1 << each.bits) - 1) if each.bits else value
        blobs = {f.name: bytes(data[f.offset : f.offset + f.size]) for f in self._blobs}
        return Values(ints, blobs)


MAP_CREATE = Record(
    "map_create",
    """
    3.18 u32 map_type; u32 key_size; u32 value_size; u32 max_entries
    4.6  u32 map_flags
    4.12 u32 inner_map_fd
    4.14 u32 numa_node
    4.15 char map_name[16]
    4.16 u32 map_ifindex
    4.18 u32 btf_fd; u32 btf_key_type_id; u32 btf_value_type_id
    5.6  u32 btf_vmlinux_value_type_id
    5.16 u64 map_extra
    6.9  s32 value_type_btf_obj_fd; s32 map_token_fd
    6.18 u64 excl_prog_hash; u32 excl_prog_hash_size
    """,
)
MAP_ELEM = Record("map_elem", "3.18 u32 map_fd; u64 key; u64 value/next_key; u64 flags")
MAP_BATCH = Record(
    "batch",
    "5.6 u64 in_batch; u64 out_batch; u64 keys; u64 values; u32 count; u32 map_fd; u64 elem_flags; u64 flags",
)
PROG_LOAD = Record(
    "prog_load",
    """
    3.18 u32 prog_type; u32 insn_cnt; u64 insns; u64 license; u32 log_level; u32 log_size; u64 log_buf
    4.1  u32 kern_version
    4.11 u32 prog_flags
    4.15 char prog_name[16]; u32 prog_ifindex
    4.17 u32 expected_attach_type
    5.0  u32 prog_btf_fd; u32 func_info_rec_size; u64 func_info; u32 func_info_cnt
    5.0  u32 line_info_rec_size; u64 line_info; u32 line_info_cnt
    5.5  u32 attach_btf_id; u32 attach_prog_fd/attach_btf_obj_fd
    5.17 u32 core_relo_cnt
    5.14 u64 fd_array
    5.17 u64 core_relos; u32 core_relo_rec_size
    6.4  u32 log_true_size
    6.9  s32 prog_token_fd
    6.14 u32 fd_array_cnt
    6.18 u64 signature; u32 signature_size; s32 keyring_id
    """,
)
OBJ = Record(
    "obj",
    """
    4.4  u64 pathname; u32 bpf_fd
    4.15 u32 file_flags
    6.5  s32 path_fd
    """,
)
PROG_ATTACH = Record(
    "prog_attach",
    """
    4.10 u32 target_fd/target_ifindex; u32 attach_bpf_fd; u32 attach_type; u32 attach_flags
    5.6  u32 replace_bpf_fd
    6.6  u32 relative_fd/relative_id; u64 expected_revision
    """,
)
TEST_RUN = Record(
    "test",
    """
    4.12 u32 prog_fd; u32 retval; u32 data_size_in; u32 data_size_out; u64 data_in; u64 data_out
    4.12 u32 repeat; u32 duration
    5.2  u32 ctx_size_in; u32 ctx_size_out; u64 ctx_in; u64 ctx_out
    5.10 u32 flags; u32 cpu
    5.18 u32 batch_size
    """,
)
GET_ID = Record(
    "get_id",
    """
    4.13 u32 start_id/prog_id/map_id/btf_id/link_id; u32 next_id
    4.15 u32 open_flags
    6.15 s32 fd_by_id_token_fd
    """,
)
GET_INFO = Record("info", "4.13 u32 bpf_fd; u32 info_len; u64 info")
PROG_QUERY = Record(
    "query",
    """
    4.15 u32 target_fd/target_ifindex; u32 attach_type; u32 query_flags; u32 attach_flags; u64 prog_ids
    4.15 u32 prog_cnt/count
    6.1  u64 prog_attach_flags
    6.6  u64 link_ids; u64 link_attach_flags; u64 revision
    """,
)
RAW_TRACEPOINT = Record(
    "raw_tracepoint",
    """
    4.17 u64 name; u32 prog_fd
    6.10 u64 cookie
    """,
)
BTF_LOAD = Record(
    "btf_load",
    """
    4.18 u64 btf; u64 btf_log_buf; u32 btf_size; u32 btf_log_size; u32 btf_log_level
    6.4  u32 btf_log_true_size
    6.9  u32 btf_flags; s32 btf_token_fd
    """,
)
TASK_FD_QUERY = Record(
    "task_fd_query",
    """
    4.18 u32 pid; u32 fd; u32 flags; u32 buf_len; u64 buf; u32 prog_id; u32 fd_type; u64 probe_offset
    4.18 u64 probe_addr
    """,
)
LINK_CREATE = Record(
    "link_create",
    """
    5.7  u32 prog_fd/map_fd; u32 target_fd/target_ifindex; u32 attach_type; u32 flags
    5.9  u64 iter_info; u32 iter_info_len
    5.10 @iter_info; u32 target_btf_id
    5.15 @iter_info; u64 perf_event.bpf_cookie
    5.18 @iter_info; u32 kprobe_multi.flags; u32 kprobe_multi.cnt; u64 kprobe_multi.syms
    5.18 u64 kprobe_multi.addrs; u64 kprobe_multi.cookies
    6.0  @iter_info; u32 tracing.target_btf_id; u64 tracing.cookie
    6.4  @iter_info; u32 netfilter.pf; u32 netfilter.hooknum; s32 netfilter.priority; u32 netfilter.flags
    6.6  @iter_info; u32 tcx.relative_fd/tcx.relative_id; u64 tcx.expected_revision
    6.6  @iter_info; u64 uprobe_multi.path; u64 uprobe_multi.offsets; u64 uprobe_multi.ref_ctr_offsets
    6.6  u64 uprobe_multi.cookies; u32 uprobe_multi.cnt; u32 uprobe_multi.flags; u32 uprobe_multi.pid
    6.7  @iter_info; u32 netkit.relative_fd/netkit.relative_id; u64 netkit.expected_revision
    6.17 @iter_info; u32 cgroup.relative_fd/cgroup.relative_id; u64 cgroup.expected_revision
    """,
)
LINK_UPDATE = Record(
    "link_update", "5.7 u32 link_fd; u32 new_prog_fd/new_map_fd; u32 flags; u32 old_prog_fd/old_map_fd"
)
LINK_DETACH = Record("link_detach", "5.9 u32 link_fd")
ENABLE_STATS = Record("enable_stats", "5.8 u32 type")
ITER_CREATE = Record("iter_create", "5.8 u32 link_fd; u32 flags")
PROG_BIND_MAP = Record("prog_bind_map", "5.10 u32 prog_fd; u32 map_fd; u32 flags")
TOKEN_CREATE = Record("token_create", "6.9 u32 flags; u32 bpffs_fd")
PROG_STREAM_READ = Record(
    "prog_stream_read", "6.17 u64 stream_buf; u32 stream_buf_len; u32 stream_id; u32 prog_fd"
)

BPF_PROG_INFO = Record(
    "bpf_prog_info",
    """
    4.13 u32 type; u32 id; u8 tag[8]; u32 jited_prog_len; u32 xlated_prog_len; u64 jited_prog_insns
    4.13 u64 xlated_prog_insns
    4.15 u64 load_time; u32 created_by_uid; u32 nr_map_ids; u64 map_ids; char name[16]
    4.16 u32 ifindex
    4.18 u32 gpl_compatible:1
    4.16 u64 netns_dev; u64 netns_ino
    4.18 u32 nr_jited_ksyms; u32 nr_jited_func_lens; u64 jited_ksyms; u64 jited_func_lens
    5.0  u32 btf_id; u32 func_info_rec_size; u64 func_info; u32 nr_func_info; u32 nr_line_info
    5.0  u64 line_info; u64 jited_line_info; u32 nr_jited_line_info; u32 line_info_rec_size
    5.0  u32 jited_line_info_rec_size; u32 nr_prog_tags; u64 prog_tags
    5.1  u64 run_time_ns; u64 run_cnt
    5.12 u64 recursion_misses
    5.16 u32 verified_insns
    6.0  u32 attach_btf_obj_id; u32 attach_btf_id
    """,
)
BPF_MAP_INFO = Record(
    "bpf_map_info",
    """
    4.13 u32 type; u32 id; u32 key_size; u32 value_size; u32 max_entries; u32 map_flags
    4.15 char name[16]
    4.16 u32 ifindex
    5.6  u32 btf_vmlinux_value_type_id
    4.16 u64 netns_dev; u64 netns_ino
    4.18 u32 btf_id; u32 btf_key_type_id; u32 btf_value_type_id
    6.9  u32 btf_vmlinux_id
    5.16 u64 map_extra
    6.18 u64 hash; u32 hash_size
    """,
)
BPF_BTF_INFO = Record(
    "bpf_btf_info",
    """
    4.18 u64 btf; u32 btf_size; u32 id
    5.11 u64 name; u32 name_len; u32 kernel_btf
    """,
)
BPF_LINK_INFO = Record(
    "bpf_link_info",
    """
    5.8  u32 type; u32 id; u32 prog_id
    5.8  u64 raw_tracepoint.tp_name; u32 raw_tracepoint.tp_name_len
    6.10 u64 raw_tracepoint.cookie
    5.8  @raw_tracepoint.tp_name; u32 tracing.attach_type
    5.13 u32 tracing.target_obj_id; u32 tracing.target_btf_id
    6.19 u64 tracing.cookie
    5.8  @raw_tracepoint.tp_name; u64 cgroup.cgroup_id; u32 cgroup.attach_type
    5.9  @raw_tracepoint.tp_name; u64 iter.target_name; u32 iter.target_name_len; u32 iter.map.map_id
    6.1  u64 iter.cgroup.cgroup_id; u32 iter.cgroup.order
    6.1  @iter.cgroup.cgroup_id; u32 iter.task.tid; u32 iter.task.pid
    5.8  @raw_tracepoint.tp_name; u32 netns.netns_ino; u32 netns.attach_type
    5.9  @raw_tracepoint.tp_name; u32 xdp.ifindex
    6.4  @raw_tracepoint.tp_name; u32 struct_ops.map_id
    6.4  @raw_tracepoint.tp_name; u32 netfilter.pf; u32 netfilter.hooknum; s32 netfilter.priority
    6.4  u32 netfilter.flags
    6.6  @raw_tracepoint.tp_name; u64 kprobe_multi.addrs; u32 kprobe_multi.count; u32 kprobe_multi.flags
    6.7  u64 kprobe_multi.missed
    6.9  u64 kprobe_multi.cookies
    6.8  @raw_tracepoint.tp_name; u64 uprobe_multi.path; u64 uprobe_multi.offsets
    6.8  u64 uprobe_multi.ref_ctr_offsets; u64 uprobe_multi.cookies; u32 uprobe_multi.path_size
    6.8  u32 uprobe_multi.count; u32 uprobe_multi.flags; u32 uprobe_multi.pid
    6.6  @raw_tracepoint.tp_name; u32 perf_event.type
    6.6  u64 perf_event.uprobe.file_name; u32 perf_event.uprobe.name_len; u32 perf_event.uprobe.offset
    6.9  u64 perf_event.uprobe.cookie
    6.17 u64 perf_event.uprobe.ref_ctr_offset
    6.6  @perf_event.uprobe.file_name; u64 perf_event.kprobe.func_name; u32 perf_event.kprobe.name_len
    6.6  u32 perf_event.kprobe.offset; u64 perf_event.kprobe.addr
    6.7  u64 perf_event.kprobe.missed
    6.9  u64 perf_event.kprobe.cookie
    6.6  @perf_event.uprobe.file_name; u64 perf_event.tracepoint.tp_name
    6.6  u32 perf_event.tracepoint.name_len
    6.9  u64 perf_event.tracepoint.cookie
    6.6  @perf_event.uprobe.file_name; u64 perf_event.event.config; u32 perf_event.event.type
    6.9  u64 perf_event.event.cookie
    6.6  @raw_tracepoint.tp_name; u32 tcx.ifindex; u32 tcx.attach_type
    6.7  @raw_tracepoint.tp_name; u32 netkit.ifindex; u32 netkit.attach_type
    6.10 @raw_tracepoint.tp_name; u32 sockmap.map_id; u32 sockmap.attach_type
    """,
)

INFO_RECORDS: Mapping[str, Record] = {
    record.name: record for record in (BPF_PROG_INFO, BPF_MAP_INFO, BPF_BTF_INFO, BPF_LINK_INFO)
}


@dataclass(frozen=True)
class Command:
    """One bpf(2) command: its number and name, the fields it reads, and the last field it knows.

    Bytes of the union behind ``last_field`` must be zero (kernel: CHECK_ATTR, EINVAL); None for the
    commands that check nothing. ``end`` is the offset behind it.
    """

    number: int
    name: str
    record: Record
    last_field: str | None
    since: str
    end: int = field(init=False)

    def __post_init__(self) -> None:
        last = self.record.fields[self.last_field] if self.last_field else None
        object.__setattr__(self, "end", last.offset + last.size if last else 0)


_COMMANDS: tuple[tuple[str, Record, str | None, str], ...] = (
    ("MAP_CREATE", MAP_CREATE, "excl_prog_hash_size", "3.18"),
    ("MAP_LOOKUP_ELEM", MAP_ELEM, "flags", "3.18"),
    ("MAP_UPDATE_ELEM", MAP_ELEM, "flags", "3.18"),
    ("MAP_DELETE_ELEM", MAP_ELEM, "key", "3.18"),
    ("MAP_GET_NEXT_KEY", MAP_ELEM, "next_key", "3.18"),
    ("PROG_LOAD", PROG_LOAD, "keyring_id", "3.18"),
    ("OBJ_PIN", OBJ, "path_fd", "4.4"),
    ("OBJ_GET", OBJ, "path_fd", "4.4"),
    ("PROG_ATTACH", PROG_ATTACH, "expected_revision", "4.10"),
    ("PROG_DETACH", PROG_ATTACH, "expected_revision", "4.10"),
    ("PROG_TEST_RUN", TEST_RUN, "batch_size", "4.12"),
    ("PROG_GET_NEXT_ID", GET_ID, "next_id", "4.13"),
    ("MAP_GET_NEXT_ID", GET_ID, "next_id", "4.13"),
    ("PROG_GET_FD_BY_ID", GET_ID, "prog_id", "4.13"),
    ("MAP_GET_FD_BY_ID", GET_ID, "open_flags", "4.13"),
    ("OBJ_GET_INFO_BY_FD", GET_INFO, "info", "4.13"),
    ("PROG_QUERY", PROG_QUERY, "revision", "4.15"),
    ("RAW_TRACEPOINT_OPEN", RAW_TRACEPOINT, "cookie", "4.17"),
    ("BTF_LOAD", BTF_LOAD, "btf_token_fd", "4.18"),
    ("BTF_GET_FD_BY_ID", GET_ID, "fd_by_id_token_fd", "4.18"),
    ("TASK_FD_QUERY", TASK_FD_QUERY, "probe_addr", "4.18"),
    ("MAP_LOOKUP_AND_DELETE_ELEM", MAP_ELEM, "flags", "4.20"),
    ("MAP_FREEZE", MAP_ELEM, "map_fd", "5.2"),
    ("BTF_GET_NEXT_ID", GET_ID, "next_id", "5.4"),
    ("MAP_LOOKUP_BATCH", MAP_BATCH, "flags", "5.6"),
    ("MAP_LOOKUP_AND_DELETE_BATCH", MAP_BATCH, "flags", "5.6"),
    ("MAP_UPDATE_BATCH", MAP_BATCH, "flags", "5.6"),
    ("MAP_DELETE_BATCH", MAP_BATCH, "flags", "5.6"),
    ("LINK_CREATE", LINK_CREATE, "uprobe_multi.pid", "5.7"),
    ("LINK_UPDATE", LINK_UPDATE, "old_prog_fd", "5.7"),
    ("LINK_GET_FD_BY_ID", GET_ID, "link_id", "5.8"),
    ("LINK_GET_NEXT_ID", GET_ID, "next_id", "5.8"),
    ("ENABLE_STATS", ENABLE_STATS, "type", "5.8"),
    ("ITER_CREATE", ITER_CREATE, "flags", "5.8"),
    ("LINK_DETACH", LINK_DETACH, "link_fd", "5.9"),
    ("PROG_BIND_MAP", PROG_BIND_MAP, "flags", "5.10"),
    ("TOKEN_CREATE", TOKEN_CREATE, "bpffs_fd", "6.9"),
    ("PROG_STREAM_READ_BY_FD", PROG_STREAM_READ, "prog_fd", "6.17"),
)

COMMANDS: tuple[Command, ...] = tuple(Command(number, *row) for number, row in enumerate(_COMMANDS))
"""Every command of enum bpf_cmd; the index is the number (BPF_PROG_RUN is PROG_TEST_RUN's other name)."""

BY_NAME: Mapping[str, Command] = {command.name: command for command in COMMANDS}

ATTR_SIZE = max(command.record.size for command in COMMANDS)
"""sizeof(union bpf_attr)."""


def command(cmd: int | str) -> Command:
    """The command by number or by name without ``BPF_``; KernelError(EINVAL) for an unknown number."""
    if isinstance(cmd, str):
        return BY_NAME[cmd]
    if not 0 <= cmd < len(COMMANDS):
        raise KernelError(errno.EINVAL, f"bpf command {cmd} is unknown")
    return COMMANDS[cmd]


def pack(cmd: int | str, **fields: int | bytes | str) -> bytes:
    """``union bpf_attr`` for a command, as long as the fields that the command knows."""
    row = command(cmd)
    return row.record.pack(**fields)[: row.end]


def unpack(cmd: int | str, data: bytes | bytearray | memoryview) -> Values:
    """The fields that a command reads from ``union bpf_attr`` (missing bytes read zero)."""
    return command(cmd).record.unpack(data)


def copy_attr(data: bytes | bytearray | memoryview) -> bytes:
    """What the kernel keeps of the caller's ``data``: ATTR_SIZE bytes, zero-filled.

    A longer ``data`` comes from newer user space and is fine as long as what this kernel does not know is
    zero (kernel: bpf_check_uarg_tail_zero); else, or above a page, KernelError(E2BIG).
    """
    if len(data) > PAGE_SIZE:
        raise KernelError(errno.E2BIG, f"union bpf_attr of {len(data)} bytes exceeds a page")
    if any(data[ATTR_SIZE:]):
        raise KernelError(errno.E2BIG, f"bytes behind the {ATTR_SIZE} known of union bpf_attr are not zero")
    return bytes(data[:ATTR_SIZE]).ljust(ATTR_SIZE, b"\0")


def check_attr(cmd: int | str, data: bytes | bytearray | memoryview) -> None:
    """KernelError(EINVAL) when a byte behind the command's last field is set (kernel: CHECK_ATTR)."""
    row = command(cmd)
    if row.last_field is not None and any(data[row.end :]):
        raise KernelError(errno.EINVAL, f"bytes behind {row.last_field} are not zero for BPF_{row.name}")
