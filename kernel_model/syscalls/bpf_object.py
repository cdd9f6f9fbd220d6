# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) commands on objects in general: BTF, pins, ids, information, links."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..bpf.btf_object import BtfObject
from ..bpf.link import BpfLink, XdpLink
from ..bpf.map_object import MapObject
from ..bpf.prog import BpfProg
from ..btf.check import load_btf
from ..btf.parse import BtfError
from ..errors import KernelError, NotModelled
from ..objects import Idr, KObject
from ..task import CAP_BPF, CAP_NET_ADMIN
from ..uapi import bpf_attr
from ..uapi.enums import bpf_attach_type
from .bpf import Call, command
from .files import PATH_MAX
from .table import read_string

if TYPE_CHECKING:
    from ..kernel import Kernel

BTF_MAX_SIZE = 16 << 20
_XDP_FLAGS = 0b11110  # SKB, DRV, HW, REPLACE modes of IFLA_XDP_FLAGS
_XDP_FLAGS_DRV_MODE = 1 << 2


@command("BTF_LOAD")
def btf_load(call: Call) -> int:
    """BPF_BTF_LOAD: a descriptor for checked BTF."""
    if not call.task.bpf_capable(CAP_BPF):
        raise KernelError(errno.EPERM, "loading BTF needs CAP_BPF")
    size = call.attr["btf_size"]
    if size > BTF_MAX_SIZE:
        raise KernelError(errno.E2BIG, f"BTF of {size} bytes")
    data = call.read(call.attr["btf"], size)
    try:
        btf = load_btf(data)
    except BtfError as error:
        _btf_log(call, error.reason)
        raise
    return call.install(BtfObject(call.kernel, btf))


def _btf_log(call: Call, text: str) -> None:
    size = call.attr["btf_log_size"]
    if call.attr["btf_log_level"] and size:
        call.write(call.attr["btf_log_buf"], text.encode()[: size - 1] + b"\0")


@command("OBJ_PIN")
def obj_pin(call: Call) -> int:
    """BPF_OBJ_PIN: name the object behind attr.bpf_fd."""
    if call.attr["file_flags"]:
        raise NotModelled("BPF_OBJ_PIN relative to a directory", errno.EINVAL)
    path = read_string(call.kernel, call.task, call.attr["pathname"], PATH_MAX).decode("utf-8", "replace")
    call.kernel.bpffs.pin(path, call.object(call.attr["bpf_fd"], KObject))
    return 0


@command("OBJ_GET")
def obj_get(call: Call) -> int:
    """BPF_OBJ_GET: a descriptor for a pinned object."""
    if call.attr["bpf_fd"]:
        raise KernelError(errno.EINVAL, "bpf_fd must be 0")
    path = read_string(call.kernel, call.task, call.attr["pathname"], PATH_MAX).decode("utf-8", "replace")
    return call.install(call.kernel.bpffs.get(path), 0)


def _by_id(call: Call, table: Idr[KObject], number: int) -> int:
    if not call.task.bpf_capable(21):
        raise KernelError(errno.EPERM, "ids are for CAP_SYS_ADMIN")
    obj = table.find(number)
    obj.get()
    return call.install(obj)


def _next_id(call: Call, table: Idr[KObject]) -> int:
    if not call.task.bpf_capable(21):
        raise KernelError(errno.EPERM, "ids are for CAP_SYS_ADMIN")
    call.put("next_id", table.next_after(call.attr["start_id"]))
    return 0


def _tables(kernel: Kernel) -> dict[str, Idr[KObject]]:
    return {"PROG": kernel.progs, "MAP": kernel.maps, "BTF": kernel.btfs, "LINK": kernel.links}  # type: ignore[dict-item]


def _register_id_commands() -> None:
    for kind, field in (("PROG", "prog_id"), ("MAP", "map_id"), ("BTF", "btf_id"), ("LINK", "link_id")):

        def get_fd(call: Call, kind: str = kind, field: str = field) -> int:
            return _by_id(call, _tables(call.kernel)[kind], call.attr[field])

        def get_next(call: Call, kind: str = kind) -> int:
            return _next_id(call, _tables(call.kernel)[kind])

        command(f"{kind}_GET_FD_BY_ID")(get_fd)
        command(f"{kind}_GET_NEXT_ID")(get_next)


_register_id_commands()


@command("LINK_CREATE")
def link_create(call: Call) -> int:
    """BPF_LINK_CREATE; attach type BPF_XDP (native mode)."""
    kind = call.attr["attach_type"]
    prog = call.object(call.attr["prog_fd"], BpfProg)
    if kind != bpf_attach_type.BPF_XDP:
        try:
            name = bpf_attach_type(kind).name
        except ValueError:
            raise KernelError(errno.EINVAL, f"attach type {kind} is unknown") from None
        raise NotModelled(f"links of attach type {name}", errno.EINVAL)
    if not call.task.capable(CAP_NET_ADMIN):
        raise KernelError(errno.EPERM, "attaching to a device needs CAP_NET_ADMIN")
    flags = call.attr["flags"]
    if flags & ~_XDP_FLAGS:
        raise KernelError(errno.EINVAL, f"unknown XDP link flags {flags:#x}")
    if flags & ~_XDP_FLAGS_DRV_MODE:
        raise NotModelled("XDP in generic or offload mode", errno.EOPNOTSUPP)
    device = call.kernel.net.device(call.attr["target_ifindex"])
    return call.install(XdpLink(call.kernel, prog, device))


@command("LINK_UPDATE")
def link_update(call: Call) -> int:
    """BPF_LINK_UPDATE: another program at the same place."""
    link = call.object(call.attr["link_fd"], BpfLink)
    prog = call.object(call.attr["new_prog_fd"], BpfProg)
    if call.attr["flags"] or call.attr["old_prog_fd"]:
        raise NotModelled("BPF_LINK_UPDATE with BPF_F_REPLACE", errno.EINVAL)
    link.replace(call.kernel, prog)
    return 0


@command("LINK_DETACH")
def link_detach(call: Call) -> int:
    """BPF_LINK_DETACH: the link stays, without effect."""
    call.object(call.attr["link_fd"], BpfLink).detach(call.kernel)
    return 0


@command("OBJ_GET_INFO_BY_FD")
def obj_get_info_by_fd(call: Call) -> int:
    """BPF_OBJ_GET_INFO_BY_FD: the struct for the object's kind, cut to info_len, which is updated."""
    obj = call.object(call.attr["bpf_fd"], KObject)
    filler = next((fill for cls, fill in _INFO.items() if isinstance(obj, cls)), None)
    if filler is None:
        raise KernelError(errno.EINVAL, f"a {obj.kind} has no info")
    record, fill = filler
    length = call.attr["info_len"]
    given = call.read(call.attr["info"], length)
    if any(given[record.size :]):
        raise KernelError(errno.E2BIG, "unknown fields of the info struct are set")
    data = fill(call, obj, record.unpack(given))
    size = min(length, record.size)
    call.write(call.attr["info"], data[:size])
    call.put("info_len", size)
    return 0


def _array_out(call: Call, addr: int, room: int, data: bytes, unit: int) -> None:
    """Copy as many whole items as the caller has room for, when it gave an address."""
    if addr and room:
        call.write(addr, data[: room * unit])


def _prog_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, BpfProg)
    kernel = call.kernel
    xlated, jited = obj.xlated(kernel), obj.jited()
    functions = obj.image.functions if obj.image else ()
    ksyms = struct.pack(f"<{len(functions)}Q", *(fn.addr for fn in functions))
    lens = struct.pack(f"<{len(functions)}I", *(len(fn.code) for fn in functions))
    ids = struct.pack(f"<{len(obj.maps)}I", *(held.id for held in obj.maps))
    for addr, room, data, unit in (
        ("xlated_prog_insns", given["xlated_prog_len"], xlated, 1),
        ("jited_prog_insns", given["jited_prog_len"], jited, 1),
        ("map_ids", given["nr_map_ids"], ids, 4),
        ("jited_ksyms", given["nr_jited_ksyms"], ksyms, 8),
        ("jited_func_lens", given["nr_jited_func_lens"], lens, 4),
    ):
        _array_out(call, given[addr], room, data, unit)
    return bpf_attr.BPF_PROG_INFO.pack(
        type=obj.type,
        id=obj.id,
        tag=obj.tag,
        jited_prog_len=len(jited),
        xlated_prog_len=len(xlated),
        jited_prog_insns=given["jited_prog_insns"],
        xlated_prog_insns=given["xlated_prog_insns"],
        load_time=obj.load_time,
        created_by_uid=obj.uid,
        nr_map_ids=len(obj.maps),
        map_ids=given["map_ids"],
        name=obj.name.encode()[:15],
        gpl_compatible=int(obj.gpl_compatible),
        nr_jited_ksyms=len(functions),
        nr_jited_func_lens=len(functions),
        jited_ksyms=given["jited_ksyms"],
        jited_func_lens=given["jited_func_lens"],
        btf_id=obj.btf.id if obj.btf else 0,
        verified_insns=obj.verified.stats.insn_processed,
        nr_prog_tags=0,
    )


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
    return bpf_attr.BPF_BTF_INFO.pack(
        btf=given["btf"], btf_size=len(obj.data), id=obj.id, name=given["name"], name_len=0
    )


def _link_info(call: Call, obj: KObject, given: bpf_attr.Values) -> bytes:
    assert isinstance(obj, BpfLink)
    extra = {}
    if isinstance(obj, XdpLink):
        extra["xdp.ifindex"] = obj.device.ifindex if obj.device else 0
    prog = obj.prog.id if obj.prog else 0
    return bpf_attr.BPF_LINK_INFO.pack(type=obj.link_type, id=obj.id, prog_id=prog, **extra)


_INFO = {
    BpfProg: (bpf_attr.BPF_PROG_INFO, _prog_info),
    MapObject: (bpf_attr.BPF_MAP_INFO, _map_info),
    BtfObject: (bpf_attr.BPF_BTF_INFO, _btf_info),
    BpfLink: (bpf_attr.BPF_LINK_INFO, _link_info),
}
