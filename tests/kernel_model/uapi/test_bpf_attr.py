# SPDX-License-Identifier: GPL-2.0-only
"""The layouts of union bpf_attr and the info structs."""

from __future__ import annotations

import errno
from pathlib import Path

import host_bpf
import pytest
from host_process import HostProcess
from hypothesis import given
from hypothesis import strategies as st

from kernel_model.btf.parse import Btf, Kind
from kernel_model.errors import KernelError
from kernel_model.uapi import bpf_attr
from kernel_model.uapi.bpf_attr import ATTR_SIZE, COMMANDS, INFO_RECORDS, Record, check_attr, copy_attr
from kernel_model.uapi.enums import bpf_cmd

VMLINUX = Path("/sys/kernel/btf/vmlinux")


def test_commands_are_numbered_as_in_linux() -> None:
    assert {f"BPF_{c.name}": c.number for c in COMMANDS} == {c.name: int(c) for c in bpf_cmd}


def test_offsets_known_from_the_header() -> None:
    load = bpf_attr.PROG_LOAD.fields
    assert (load["log_buf"].offset, load["prog_name"].offset, load["fd_array"].offset) == (32, 48, 120)
    link = bpf_attr.LINK_CREATE.fields
    assert link["kprobe_multi.syms"].offset == 24
    assert link["target_btf_id"].offset == link["iter_info"].offset == 16
    assert ATTR_SIZE == 168
    assert {name: r.size for name, r in INFO_RECORDS.items()} == {
        "bpf_prog_info": 232,
        "bpf_map_info": 104,
        "bpf_btf_info": 32,
        "bpf_link_info": 64,
    }


def _every_record() -> list[Record]:
    return list({id(c.record): c.record for c in COMMANDS}.values()) + list(INFO_RECORDS.values())


@given(st.data())
def test_pack_and_unpack_are_inverse(data: st.DataObject) -> None:
    record = data.draw(st.sampled_from(_every_record()))
    field = record.fields[data.draw(st.sampled_from(sorted(record.fields)))]
    if field.code:
        bits = field.bits or field.size * 8
        value = data.draw(st.integers(0, (1 << bits) - 1))
        if field.code.islower() and value >> (bits - 1):
            value -= 1 << bits
        assert record.unpack(record.pack(**{field.name: value}))[field.name] == value
    else:
        blob = data.draw(st.binary(max_size=field.size))
        assert record.unpack(record.pack(**{field.name: blob})).blob(field.name) == blob.ljust(
            field.size, b"\0"
        )


@given(st.binary(max_size=200))
def test_unpack_takes_any_length(data: bytes) -> None:
    values = bpf_attr.unpack("MAP_CREATE", data)
    assert values["map_type"] == int.from_bytes(data[:4], "little")


def test_pack_refuses_what_does_not_fit() -> None:
    with pytest.raises(TypeError, match="no field 'map_tpye'"):
        bpf_attr.pack("MAP_CREATE", map_tpye=1)
    with pytest.raises(OverflowError):
        bpf_attr.pack("MAP_CREATE", map_type=1 << 32)
    with pytest.raises(OverflowError):
        bpf_attr.pack("MAP_CREATE", map_name=b"x" * 17)
    assert bpf_attr.unpack("MAP_CREATE", bpf_attr.pack("MAP_CREATE", map_token_fd=-1))["map_token_fd"] == -1
    assert bpf_attr.pack("MAP_DELETE_ELEM", map_fd=3, key=4) == b"\3" + bytes(7) + b"\4" + bytes(7)


def test_longer_attributes_must_end_in_zeroes() -> None:
    assert copy_attr(b"\1") == b"\1" + bytes(ATTR_SIZE - 1)
    assert copy_attr(bytes(4096)) == bytes(ATTR_SIZE)
    for bad in (bytes(4097), bytes(ATTR_SIZE) + b"\1"):
        with pytest.raises(KernelError) as caught:
            copy_attr(bad)
        assert caught.value.errno == errno.E2BIG


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_bytes_behind_the_last_field_are_refused(command: bpf_attr.Command) -> None:
    check_attr(command.number, bytes([1] * command.end).ljust(ATTR_SIZE, b"\0"))
    for at in range(command.end, ATTR_SIZE):
        with pytest.raises(KernelError) as caught:
            check_attr(command.number, bytes(at) + b"\1" + bytes(ATTR_SIZE - at - 1))
        assert caught.value.errno == errno.EINVAL


def test_unknown_command() -> None:
    with pytest.raises(KernelError) as caught:
        bpf_attr.command(len(COMMANDS))
    assert caught.value.errno == errno.EINVAL


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    if not VMLINUX.exists():
        pytest.skip("the host's kernel exposes no BTF")
    btf = Btf(VMLINUX.read_bytes())
    if not btf.find("bpf_attr", Kind.UNION) or "PROG_STREAM_READ_BY_FD" not in "".join(
        v.name for v in btf.type(btf.find("bpf_cmd", Kind.ENUM)).values
    ):
        pytest.skip("the host's kernel is older than 6.18")
    return btf


def _flatten(btf: Btf, number: int, base: int, prefix: str = "") -> dict[str, tuple[int, int]]:
    out: dict[str, tuple[int, int]] = {}
    for member in btf.resolve(number).members:
        at = base + member.bit_offset // 8
        inner = btf.resolve(member.type)
        if inner.kind in (Kind.STRUCT, Kind.UNION):
            deeper = f"{prefix}{member.name}." if member.name else prefix
            out |= {k: v for k, v in _flatten(btf, inner.id, at, deeper).items() if k not in out}
        else:
            out.setdefault(prefix + member.name, (at, btf.size_of(member.type)))
    return out


# The members of union bpf_attr that hold each record; anonymous ones by a field that only they have.
_HOLDERS = {
    "map_create": "map_type",
    "map_elem": "next_key",
    "prog_load": "prog_type",
    "obj": "pathname",
    "prog_attach": "attach_bpf_fd",
    "get_id": "next_id",
    "btf_load": "btf_log_buf",
}


@pytest.mark.host_kernel
@pytest.mark.parametrize("record", _every_record(), ids=lambda r: r.name)
def test_layouts_are_those_of_the_hosts_kernel(record: Record, vmlinux: Btf) -> None:
    if record.name in INFO_RECORDS:
        number = vmlinux.find(record.name, Kind.STRUCT)
    else:
        union = vmlinux.type(vmlinux.find("bpf_attr", Kind.UNION))
        assert union.size == ATTR_SIZE
        number = next(
            m.type
            for m in union.members
            if m.name == record.name
            or (not m.name and _HOLDERS.get(record.name) in _flatten(vmlinux, m.type, 0))
        )
        assert vmlinux.size_of(number) == record.size
    assert {name: (f.offset, f.size) for name, f in record.fields.items()} == _flatten(vmlinux, number, 0)


# Attributes that pass CHECK_ATTR and fail right behind it, with another errno than EINVAL.
_BEYOND = {
    "MAP_LOOKUP_ELEM": {"map_fd": -1},
    "MAP_UPDATE_ELEM": {"map_fd": -1},
    "MAP_DELETE_ELEM": {"map_fd": -1},
    "MAP_GET_NEXT_KEY": {"map_fd": -1},
    "MAP_LOOKUP_AND_DELETE_ELEM": {"map_fd": -1},
    "MAP_FREEZE": {"map_fd": -1},
    "MAP_LOOKUP_BATCH": {"map_fd": -1},
    "PROG_LOAD": {},
    "OBJ_GET": {},
    "PROG_DETACH": {"target_fd": -1},
    "PROG_TEST_RUN": {"prog_fd": -1},
    "PROG_GET_NEXT_ID": {"start_id": 0x7FFFFFFE},
    "MAP_GET_NEXT_ID": {"start_id": 0x7FFFFFFE},
    "BTF_GET_NEXT_ID": {"start_id": 0x7FFFFFFE},
    "LINK_GET_NEXT_ID": {"start_id": 0x7FFFFFFE},
    "PROG_GET_FD_BY_ID": {"prog_id": 0x7FFFFFFE},
    "MAP_GET_FD_BY_ID": {"map_id": 0x7FFFFFFE},
    "BTF_GET_FD_BY_ID": {"btf_id": 0x7FFFFFFE},
    "LINK_GET_FD_BY_ID": {"link_id": 0x7FFFFFFE},
    "OBJ_GET_INFO_BY_FD": {"bpf_fd": -1},
    "PROG_QUERY": {"target_fd": -1},
    "LINK_UPDATE": {"link_fd": -1},
    "LINK_DETACH": {"link_fd": -1},
    "ITER_CREATE": {"link_fd": -1},
    "PROG_BIND_MAP": {"prog_fd": -1},
    "TOKEN_CREATE": {"bpffs_fd": -1},
    "PROG_STREAM_READ_BY_FD": {"prog_fd": -1},
}


@host_bpf.host_kernel
@pytest.mark.parametrize("name", _BEYOND)
def test_last_fields_are_those_of_the_hosts_kernel(name: str, vmlinux: Btf) -> None:
    row = bpf_attr.command(name)
    process = HostProcess()
    good = row.record.pack(**_BEYOND[name])[: row.end].ljust(ATTR_SIZE, b"\0")
    addr = process.alloc(ATTR_SIZE + 1)

    def call(data: bytes) -> int:
        process.write(addr, data)
        return process.syscall(bpf_attr.NR_BPF, row.number, addr, len(data))

    assert call(good) not in (0, -errno.EINVAL)
    if row.end < ATTR_SIZE:
        assert call(good[: row.end] + b"\1" + good[row.end + 1 :]) == -errno.EINVAL
    assert call(good + b"\1") == -errno.E2BIG
