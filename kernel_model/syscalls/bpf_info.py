# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): BPF_OBJ_GET_INFO_BY_FD, one filler for each kind of object."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

from ..bpf.btf_object import BtfObject
from ..bpf.link import BpfLink, XdpLink
from ..bpf.map_object import MapObject
from ..bpf.prog import BpfProg
from ..errors import KernelError
from ..objects import KObject
from ..task import CAP_BPF, CAP_SYSLOG
from ..uapi import bpf_attr
from .bpf import Call, command

# sizeof() of struct bpf_func_info, struct bpf_line_info and of a line's address, which callers must name.
_REC_SIZES = {"func_info": 8, "line_info": 16, "jited_line_info": 8}


@command("OBJ_GET_INFO_BY_FD")
def obj_get_info_by_fd(call: Call) -> int:
    """BPF_OBJ_GET_INFO_BY_FD: the struct for the object's kind, cut to info_len, which is updated."""
    try:
        obj = call.object(call.attr["bpf_fd"], KObject)
    except KernelError as error:
        raise KernelError(errno.EBADFD, error.reason) from None
    filler = next((fill for cls, fill in _INFO.items() if isinstance(obj, cls)), None)
    if filler is None:
        raise KernelError(errno.EINVAL, f"a {obj.kind} has no info")
    record, fill = filler
    length = call.attr["info_len"]
    if length > bpf_attr.PAGE_SIZE:
        raise KernelError(errno.E2BIG, f"an info struct of {length} bytes exceeds a page")
    given = call.read(call.attr["info"], length)
    if any(given[record.size :]):
        raise KernelError(errno.E2BIG, "unknown fields of the info struct are set")
    data = fill(call, obj, record.unpack(given[: record.size]))
    size = min(length, record.size)
    call.write(call.attr["info"], data[:size])
    call.put("info_len", size)
    return 0


def _array_out(call: Call, addr: int, room: int, data: bytes, unit: int) -> None:
    """Copy as many whole items as the caller has room for."""
    if room and data:
        call.write(addr, data[: room * unit])


def _prog_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, BpfProg)
    kernel = call.kernel
    for name, size in _REC_SIZES.items():
        asked = given[f"{name}_rec_size"]
        if (given[f"nr_{name}"] or asked) and asked != size:
            raise KernelError(errno.EINVAL, f"{name} records of {asked} bytes, not {size}")
    maps = _pack("I", [held.id for held in obj.maps])
    _array_out(call, given["map_ids"], given["nr_map_ids"], maps, 4)
    known: dict[str, int | bytes | str] = {
        "type": obj.type,
        "id": obj.id,
        "tag": obj.tag,
        "jited_prog_insns": given["jited_prog_insns"],
        "xlated_prog_insns": given["xlated_prog_insns"],
        "load_time": obj.load_time,
        "created_by_uid": obj.uid,
        "nr_map_ids": len(obj.maps),
        "map_ids": given["map_ids"],
        "name": obj.name.encode()[:15],
        "gpl_compatible": int(obj.gpl_compatible),
        "btf_id": obj.btf.id if obj.btf else 0,
        "verified_insns": obj.verified.stats.insn_processed,
        **{f"{name}_rec_size": size for name, size in _REC_SIZES.items()},
    }
    # Blinded instructions are shown to those only who may see kernel addresses (bpf_dump_raw_ok()).
    hidden = obj.blinded and obj.shown is obj.verified and not call.task.capable(CAP_SYSLOG)
    if call.task.bpf_capable(CAP_BPF):
        for name, count, data, unit in (
            ("xlated_prog_insns", "xlated_prog_len", obj.xlated(kernel), 1),
            ("jited_prog_insns", "jited_prog_len", obj.jited(), 1),
            ("jited_ksyms", "nr_jited_ksyms", _pack("Q", obj.ksyms(kernel)), 8),
            ("jited_func_lens", "nr_jited_func_lens", _pack("I", obj.func_lens()), 4),
            ("func_info", "nr_func_info", _pack("I", [n for rec in obj.func_info for n in rec]), 8),
            ("line_info", "nr_line_info", _pack("I", [n for rec in obj.line_info for n in rec]), 16),
            ("jited_line_info", "nr_jited_line_info", _pack("Q", obj.line_addrs()), 8),
            ("prog_tags", "nr_prog_tags", b"".join(obj.tags), 8),
        ):
            if name == "xlated_prog_insns" and hidden:
                known |= {name: 0, count: len(data)}
                continue
            _array_out(call, given[name], given[count], data, unit)
            known |= {name: given[name], count: len(data) // unit}
    return bpf_attr.BPF_PROG_INFO.pack(**known)


def _pack(code: str, numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


def _map_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, MapObject)
    impl = obj.impl
    return bpf_attr.BPF_MAP_INFO.pack(
        type=impl.map_type,
        id=impl.id,
        key_size=impl.key_size,
        value_size=impl.value_size,
        max_entries=impl.max_entries,
        map_flags=impl.map_flags,
        name=impl.name[:15],
        btf_id=obj.btf.id if obj.btf else 0,
        btf_key_type_id=impl.btf_key_type_id,
        btf_value_type_id=impl.btf_value_type_id,
        map_extra=impl.map_extra,
    )


def _btf_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, BtfObject)
    _array_out(call, given["btf"], given["btf_size"], obj.data, 1)
    # BTF that user space loaded has no name.
    if bool(given["name"]) != bool(given["name_len"]):
        raise KernelError(errno.EINVAL, "name and name_len go together")
    if given["name_len"]:
        call.write(given["name"], b"\0")
    return bpf_attr.BPF_BTF_INFO.pack(btf=given["btf"], btf_size=len(obj.data), id=obj.id, name=given["name"])


def _link_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, BpfLink)
    extra = {}
    if isinstance(obj, XdpLink):
        extra["xdp.ifindex"] = obj.device.ifindex if obj.device else 0
    return bpf_attr.BPF_LINK_INFO.pack(type=obj.link_type, id=obj.id, prog_id=obj.prog.id, **extra)


_INFO = {
    BpfProg: (bpf_attr.BPF_PROG_INFO, _prog_info),
    MapObject: (bpf_attr.BPF_MAP_INFO, _map_info),
    BtfObject: (bpf_attr.BPF_BTF_INFO, _btf_info),
    BpfLink: (bpf_attr.BPF_LINK_INFO, _link_info),
}
