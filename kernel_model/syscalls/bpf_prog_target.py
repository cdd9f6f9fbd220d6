# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_LOAD: what a program says of where it will be attached (bpf_prog_load_check_attach, 6.18)."""

from __future__ import annotations

import errno
from typing import Final

from ..bpf.btf_object import BtfObject
from ..bpf.prog import BpfProg
from ..btf.parse import BTF_MAX_TYPE
from ..errors import KernelError
from ..uapi.enums import bpf_attach_type as a
from ..uapi.enums import bpf_prog_type as t
from .bpf import Call

_DEFAULT: Final[dict[int, int]] = {
    t.BPF_PROG_TYPE_CGROUP_SOCK: a.BPF_CGROUP_INET_SOCK_CREATE,
    t.BPF_PROG_TYPE_SK_REUSEPORT: a.BPF_SK_REUSEPORT_SELECT,
}
"""Types older than expected_attach_type: what zero stands for (bpf_prog_load_fixup_attach_type)."""
_EXPECTED: Final[dict[int, frozenset[int]]] = {
    t.BPF_PROG_TYPE_CGROUP_SOCK: frozenset(
        (
            a.BPF_CGROUP_INET_SOCK_CREATE, a.BPF_CGROUP_INET_SOCK_RELEASE,
            a.BPF_CGROUP_INET4_POST_BIND, a.BPF_CGROUP_INET6_POST_BIND,
        )
    ),
    t.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: frozenset(
        (
            a.BPF_CGROUP_INET4_BIND, a.BPF_CGROUP_INET6_BIND,
            a.BPF_CGROUP_INET4_CONNECT, a.BPF_CGROUP_INET6_CONNECT, a.BPF_CGROUP_UNIX_CONNECT,
            a.BPF_CGROUP_INET4_GETPEERNAME, a.BPF_CGROUP_INET6_GETPEERNAME, a.BPF_CGROUP_UNIX_GETPEERNAME,
            a.BPF_CGROUP_INET4_GETSOCKNAME, a.BPF_CGROUP_INET6_GETSOCKNAME, a.BPF_CGROUP_UNIX_GETSOCKNAME,
            a.BPF_CGROUP_UDP4_SENDMSG, a.BPF_CGROUP_UDP6_SENDMSG, a.BPF_CGROUP_UNIX_SENDMSG,
            a.BPF_CGROUP_UDP4_RECVMSG, a.BPF_CGROUP_UDP6_RECVMSG, a.BPF_CGROUP_UNIX_RECVMSG,
        )
    ),
    t.BPF_PROG_TYPE_CGROUP_SKB: frozenset((a.BPF_CGROUP_INET_INGRESS, a.BPF_CGROUP_INET_EGRESS)),
    t.BPF_PROG_TYPE_CGROUP_SOCKOPT: frozenset((a.BPF_CGROUP_SETSOCKOPT, a.BPF_CGROUP_GETSOCKOPT)),
    t.BPF_PROG_TYPE_SK_LOOKUP: frozenset((a.BPF_SK_LOOKUP,)),
    t.BPF_PROG_TYPE_SK_REUSEPORT: frozenset(
        (a.BPF_SK_REUSEPORT_SELECT, a.BPF_SK_REUSEPORT_SELECT_OR_MIGRATE)
    ),
    t.BPF_PROG_TYPE_NETFILTER: frozenset((a.BPF_NETFILTER,)),
    t.BPF_PROG_TYPE_SYSCALL: frozenset((0,)),
    t.BPF_PROG_TYPE_EXT: frozenset((0,)),
}  # fmt: skip
"""The expected_attach_type that a program type takes; other types take any."""
_BY_BTF_ID: Final = frozenset(
    (t.BPF_PROG_TYPE_TRACING, t.BPF_PROG_TYPE_LSM, t.BPF_PROG_TYPE_STRUCT_OPS, t.BPF_PROG_TYPE_EXT)
)
_TO_PROGRAMS: Final = frozenset((t.BPF_PROG_TYPE_TRACING, t.BPF_PROG_TYPE_EXT))
_ENOTSUPP: Final = 524


def attach_type(call: Call) -> int:
    """expected_attach_type, with the default of old program types filled in."""
    given = call.attr["expected_attach_type"]
    return int(given or _DEFAULT.get(call.attr["prog_type"], 0))


def _target_program(call: Call) -> bool:
    """Whether attach_prog_fd names a program; KernelError when it names nothing to attach to."""
    try:
        obj = call.object(call.attr["attach_prog_fd"], BpfProg)
    except KernelError:
        obj = None
    if obj is not None:
        return True
    try:
        call.object(call.attr["attach_prog_fd"], BtfObject)
    except KernelError:
        raise KernelError(errno.EINVAL, "attach_prog_fd is neither a program nor BTF") from None
    raise KernelError(_ENOTSUPP, "only programs and the kernel can be attached to")


def check_target(call: Call) -> bool:
    """The rules on attach_prog_fd, attach_btf_id and expected_attach_type; whether a program is the target.

    KernelError EINVAL or ENOTSUPP.
    """
    attr = call.attr
    prog_type, btf_id = attr["prog_type"], attr["attach_btf_id"]
    to_program = bool(attr["attach_prog_fd"]) and _target_program(call)
    if btf_id and (btf_id > BTF_MAX_TYPE or prog_type not in _BY_BTF_ID):
        raise KernelError(errno.EINVAL, f"attach_btf_id {btf_id} for a program of type {prog_type}")
    if to_program and prog_type not in _TO_PROGRAMS:
        raise KernelError(errno.EINVAL, "programs of this type are not attached to programs")
    allowed = _EXPECTED.get(prog_type)
    if allowed is not None and attach_type(call) not in allowed:
        raise KernelError(errno.EINVAL, f"expected_attach_type {attr['expected_attach_type']}")
    return to_program
