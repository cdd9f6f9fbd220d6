# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) commands on objects in general: BTF, pins, ids, information, links."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bpf.btf_object import BtfObject
from ..bpf.link import BpfLink, XdpLink
from ..bpf.map_object import MapObject
from ..bpf.prog import BpfProg
from ..btf.check import load_btf
from ..btf.parse import BtfError
from ..errors import KernelError, NotModelled
from ..maps.attr import RDONLY, WRONLY
from ..objects import Idr, KObject
from ..task import CAP_BPF, CAP_SYS_ADMIN
from ..uapi.enums import bpf_attach_type, bpf_prog_type
from .bpf import Call, command
from .bpf_map import file_access
from .files import PATH_MAX
from .table import read_string

if TYPE_CHECKING:
    from ..kernel import Kernel

BTF_MAX_SIZE = 16 << 20
INT_MAX = 0x7FFF_FFFF
_XDP_FLAGS_MODES = 0b1110  # SKB, DRV and HW mode of IFLA_XDP_FLAGS
_XDP_FLAGS_DRV_MODE = 1 << 2
_BPF_F_REPLACE = 1 << 2
_BPF_F_PATH_FD = 1 << 14
_OBJ_FLAGS = RDONLY | WRONLY


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


def _path(call: Call) -> str:
    return read_string(call.kernel, call.task, call.attr["pathname"], PATH_MAX).decode("utf-8", "replace")


@command("OBJ_PIN")
def obj_pin(call: Call) -> int:
    """BPF_OBJ_PIN: name the object behind attr.bpf_fd."""
    _no_path_fd(call, call.attr["file_flags"])
    try:
        obj = call.object(call.attr["bpf_fd"], KObject)
    except KernelError as error:
        raise KernelError(errno.EINVAL, error.reason) from None
    call.kernel.bpffs.pin(_path(call), obj, call.task.uid)
    return 0


@command("OBJ_GET")
def obj_get(call: Call) -> int:
    """BPF_OBJ_GET: a descriptor for a pinned object; BPF_F_RDONLY and BPF_F_WRONLY restrict a map's."""
    flags = call.attr["file_flags"]
    if call.attr["bpf_fd"]:
        raise KernelError(errno.EINVAL, "bpf_fd must be 0")
    _no_path_fd(call, flags & ~_OBJ_FLAGS)
    mode = file_access(flags)
    obj = call.kernel.bpffs.get(_path(call), call.task.uid)
    if isinstance(obj, BpfLink) and flags:
        obj.put_user(call.kernel)
        raise KernelError(errno.EINVAL, "a link's descriptor takes no access flags")
    return call.install(obj, mode if isinstance(obj, MapObject) else 0)


def _no_path_fd(call: Call, flags: int) -> None:
    if flags & ~_BPF_F_PATH_FD or (call.attr["path_fd"] and not flags):
        raise KernelError(errno.EINVAL, f"unknown file_flags {flags:#x}, or path_fd without BPF_F_PATH_FD")
    if flags:
        raise NotModelled("paths relative to a directory (BPF_F_PATH_FD)", errno.EBADF)


def _may_use_ids(call: Call) -> None:
    if not call.task.capable(CAP_SYS_ADMIN):
        raise KernelError(errno.EPERM, "ids are for CAP_SYS_ADMIN")


def _by_id(call: Call, table: Idr[KObject], number: int) -> int:
    flags = call.attr["open_flags"]
    if flags & ~_OBJ_FLAGS:
        raise KernelError(errno.EINVAL, f"unknown open_flags {flags:#x}")
    _may_use_ids(call)
    mode = file_access(flags)
    obj = table.find(number)
    obj.get_user()
    return call.install(obj, mode if isinstance(obj, MapObject) else 0)


def _next_id(call: Call, table: Idr[KObject]) -> int:
    if call.attr["start_id"] >= INT_MAX:
        raise KernelError(errno.EINVAL, f"no id is above {call.attr['start_id']}")
    _may_use_ids(call)
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
    if (kind == bpf_attach_type.BPF_XDP) != (prog.type == bpf_prog_type.BPF_PROG_TYPE_XDP):
        raise KernelError(errno.EINVAL, f"attach type {kind} is not one of program type {prog.type}")
    if kind != bpf_attach_type.BPF_XDP:
        try:
            name = bpf_attach_type(kind).name
        except ValueError:
            raise KernelError(errno.EINVAL, f"attach type {kind} is unknown") from None
        raise NotModelled(f"links of attach type {name}", errno.EINVAL)
    return _xdp_link(call, prog)


def _xdp_link(call: Call, prog: BpfProg) -> int:
    """bpf_xdp_link_attach() and dev_xdp_attach(): one mode at most, no program at the device yet."""
    ifindex, flags = call.attr["target_ifindex"], call.attr["flags"]
    if not call.kernel.net.exists(call.kernel, ifindex):
        raise KernelError(errno.EINVAL, f"no device has index {ifindex}")
    if flags & ~_XDP_FLAGS_MODES or flags.bit_count() > 1:
        raise KernelError(errno.EINVAL, f"XDP link flags {flags:#x} are not one mode")
    device = call.kernel.net.devices.get(ifindex)
    if device is None or flags & ~_XDP_FLAGS_DRV_MODE:
        raise NotModelled("XDP in generic or offload mode", errno.EOPNOTSUPP)
    return call.install(XdpLink(call.kernel, prog, device))


@command("LINK_UPDATE")
def link_update(call: Call) -> int:
    """BPF_LINK_UPDATE: another program at the same place."""
    flags = call.attr["flags"]
    if flags & ~_BPF_F_REPLACE:
        raise KernelError(errno.EINVAL, f"unknown link update flags {flags:#x}")
    link = call.object(call.attr["link_fd"], BpfLink)
    prog = call.object(call.attr["new_prog_fd"], BpfProg)
    old = None
    if flags:
        old = call.object(call.attr["old_prog_fd"], BpfProg)
    elif call.attr["old_prog_fd"]:
        raise KernelError(errno.EINVAL, "old_prog_fd without BPF_F_REPLACE")
    link.replace(call.kernel, prog, old)
    return 0


@command("LINK_DETACH")
def link_detach(call: Call) -> int:
    """BPF_LINK_DETACH: the link stays, without effect."""
    call.object(call.attr["link_fd"], BpfLink).detach(call.kernel)
    return 0
