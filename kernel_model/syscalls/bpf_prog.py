# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): BPF_PROG_LOAD."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ..bpf.blind import blinding_enabled
from ..bpf.btf_object import BtfObject
from ..bpf.btf_view import ProgramBtfView
from ..bpf.map_object import MapObject
from ..bpf.prog import BpfProg
from ..errors import KernelError, MemoryFault, NotModelled
from ..isa.insn import INSN_SIZE, decode
from ..isa.opcodes import BPF_COMPLEXITY_LIMIT_INSNS, BPF_MAXINSNS
from ..maps.array import ProgArrayMap
from ..maps.attr import check_name
from ..task import CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON
from ..uapi.enums import bpf_prog_type
from ..verifier.api import Environment, ProgramSpec, VerifierError, verify
from ..verifier.log import VerifierLog
from ..verifier.records import UserRecords
from .bpf import Call, command
from .bpf_prog_target import attach_type, check_target
from .table import as_int, read_string

_LICENSE_MAX = 128
_GPL_COMPATIBLE = {
    b"GPL",
    b"GPL v2",
    b"GPL and additional rights",
    b"Dual BSD/GPL",
    b"Dual MIT/GPL",
    b"Dual MPL/GPL",
}
"""Linux's list (include/linux/license.h)."""

_T = bpf_prog_type
_UNPRIVILEGED_TYPES = frozenset((_T.BPF_PROG_TYPE_SOCKET_FILTER, _T.BPF_PROG_TYPE_CGROUP_SKB))
_PERFMON_TYPES = frozenset(
    (
        _T.BPF_PROG_TYPE_KPROBE,
        _T.BPF_PROG_TYPE_TRACEPOINT,
        _T.BPF_PROG_TYPE_PERF_EVENT,
        _T.BPF_PROG_TYPE_RAW_TRACEPOINT,
        _T.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
        _T.BPF_PROG_TYPE_TRACING,
        _T.BPF_PROG_TYPE_LSM,
        _T.BPF_PROG_TYPE_STRUCT_OPS,
        _T.BPF_PROG_TYPE_EXT,
    )
)
"""is_perfmon_prog_type()."""
_NET_ADMIN_TYPES = frozenset(
    (
        _T.BPF_PROG_TYPE_SCHED_CLS,
        _T.BPF_PROG_TYPE_SCHED_ACT,
        _T.BPF_PROG_TYPE_XDP,
        _T.BPF_PROG_TYPE_LWT_IN,
        _T.BPF_PROG_TYPE_LWT_OUT,
        _T.BPF_PROG_TYPE_LWT_XMIT,
        _T.BPF_PROG_TYPE_LWT_SEG6LOCAL,
        _T.BPF_PROG_TYPE_SK_SKB,
        _T.BPF_PROG_TYPE_SK_MSG,
        _T.BPF_PROG_TYPE_FLOW_DISSECTOR,
        _T.BPF_PROG_TYPE_CGROUP_DEVICE,
        _T.BPF_PROG_TYPE_CGROUP_SOCK,
        _T.BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        _T.BPF_PROG_TYPE_CGROUP_SOCKOPT,
        _T.BPF_PROG_TYPE_CGROUP_SYSCTL,
        _T.BPF_PROG_TYPE_SOCK_OPS,
        _T.BPF_PROG_TYPE_EXT,
        _T.BPF_PROG_TYPE_NETFILTER,
    )
)
"""is_net_admin_prog_type(). CGROUP_SKB needs CAP_BPF or nothing, SK_REUSEPORT CAP_BPF alone."""

_RECORDS_MAX = 1 << 24
"""Bytes of records that are copied at once; what is more is read record by record."""
_BPF_F_TOKEN_FD = 1 << 16
_PROG_FLAGS = 0xFF | _BPF_F_TOKEN_FD
"""BPF_F_STRICT_ALIGNMENT to BPF_F_TEST_REG_INVARIANTS, and the token."""


def _check_rights(call: Call) -> None:
    """KernelError(EPERM) when the caller lacks a capability for the program's type."""
    task, prog_type = call.task, call.attr["prog_type"]
    if not task.bpf_capable(CAP_BPF):
        if call.kernel.sysctl["kernel/unprivileged_bpf_disabled"]:
            raise KernelError(errno.EPERM, "loading programs needs CAP_BPF")
        if prog_type not in _UNPRIVILEGED_TYPES:
            raise KernelError(errno.EPERM, "this program type needs CAP_BPF")
    if prog_type in _NET_ADMIN_TYPES and not task.bpf_capable(CAP_NET_ADMIN):
        raise KernelError(errno.EPERM, "this program type needs CAP_NET_ADMIN")
    if prog_type in _PERFMON_TYPES and not task.bpf_capable(CAP_PERFMON):
        raise KernelError(errno.EPERM, "this program type needs CAP_PERFMON")


@command("PROG_LOAD")
def prog_load(call: Call) -> int:
    """BPF_PROG_LOAD: verify, compile, and give a descriptor."""
    attr, task, kernel = call.attr, call.task, call.kernel
    if attr["prog_flags"] & ~_PROG_FLAGS:
        raise KernelError(errno.EINVAL, f"unknown prog_flags {attr['prog_flags'] & ~_PROG_FLAGS:#x}")
    if attr["prog_flags"] & _BPF_F_TOKEN_FD:
        raise NotModelled("BPF tokens", errno.EBADF)
    license_text = _license(call)
    limit = BPF_COMPLEXITY_LIMIT_INSNS if task.bpf_capable(CAP_BPF) else BPF_MAXINSNS
    if not 0 < attr["insn_cnt"] <= limit:
        raise KernelError(errno.E2BIG, f"{attr['insn_cnt']} instructions")
    _check_rights(call)
    to_program = check_target(call)
    if attr["prog_ifindex"]:
        raise NotModelled("programs offloaded to a device", errno.EINVAL)
    if bool(attr["log_buf"]) != bool(attr["log_size"]):
        raise KernelError(errno.EINVAL, "log_buf and log_size go together")
    log = VerifierLog(attr["log_level"], attr["log_size"], has_buffer=bool(attr["log_buf"]))
    insns = tuple(decode(call.read(attr["insns"], attr["insn_cnt"] * INSN_SIZE)))
    spec, btf = _spec(call, insns, license_text in _GPL_COMPATIBLE, to_program)
    env = Environment(
        kernel.layout,
        kernel.symbol,
        jit=bool(kernel.sysctl["net/core/bpf_jit_enable"]),
        blinding=blinding_enabled(kernel, task.privileges),
        nr_cpus=kernel.alloc.nr_cpus,
        observer=kernel.verifier_observer,
        vmlinux=kernel.vmlinux,
    )
    try:
        verified = verify(spec, env, log)
    except VerifierError as error:
        too_small = _finish_log(call, log)
        if too_small and error.errno:
            raise KernelError(too_small, "the log buffer is too small") from error
        raise
    failed = _finish_log(call, log)
    if failed:
        raise KernelError(failed, "the log buffer is too small")
    by_addr = {held.addr: held for held in kernel.maps}
    prog = BpfProg(kernel, spec, verified, [by_addr[used.addr] for used in verified.used_maps], task.uid)
    if btf is not None:
        btf.get()
        prog.btf = btf
    try:
        for held in prog.maps:
            if isinstance(held.impl, ProgArrayMap):
                held.check_owner(prog)
    except KernelError:
        prog.put(kernel)
        raise
    return call.install(prog)


def _license(call: Call) -> bytes:
    try:
        return read_string(call.kernel, call.task, call.attr["license"], _LICENSE_MAX)
    except MemoryFault:
        raise KernelError(errno.EFAULT, "the license string cannot be read") from None
    except KernelError:
        # strncpy_from_bpfptr(): a longer string is cut, and no such license is compatible.
        return b"?"


def _spec(
    call: Call, insns: tuple[object, ...], gpl: bool, to_program: bool
) -> tuple[ProgramSpec, BtfObject | None]:
    attr, task = call.attr, call.task

    def is_btf_fd(fd: int) -> bool:
        try:
            return isinstance(task.files.find(fd).obj, BtfObject)
        except KernelError:
            return False

    def map_by_fd(fd: int) -> MapObject:
        obj = task.files.find(fd).obj
        if not isinstance(obj, MapObject):
            raise KernelError(errno.EINVAL, f"fd {fd} is not pointing to valid bpf_map")
        return obj

    btf, btf_errno = None, 0
    if attr["func_info_cnt"] or attr["line_info_cnt"]:
        try:
            btf = call.object(attr["prog_btf_fd"], BtfObject)
        except KernelError as error:
            btf_errno = error.errno
    spec = ProgramSpec(
        insns=insns,  # type: ignore[arg-type]
        prog_type=attr["prog_type"],
        map_by_fd=map_by_fd,
        expected_attach_type=attach_type(call),
        name=check_name(attr.blob("prog_name")).decode(),
        gpl_compatible=gpl,
        flags=attr["prog_flags"],
        privileges=task.privileges,
        is_btf_fd=is_btf_fd,
        fd_array=_FdArray(call, attr["fd_array"], attr["fd_array_cnt"]),
        btf=ProgramBtfView(btf.parsed()) if btf is not None else None,
        btf_errno=btf_errno,
        func_info=_records(call, "func_info"),
        line_info=_records(call, "line_info"),
        core_relos=_records(call, "core_relo"),
        attach_btf_id=attr["attach_btf_id"],
        attach_to_program=to_program,
    )
    return spec, btf


class _FdArray(Sequence[int]):
    """attr.fd_array, read from user memory when an instruction names an entry."""

    def __init__(self, call: Call, addr: int, count: int) -> None:
        self._call = call
        self._addr = addr
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        if not self._addr:
            if self._count:
                raise MemoryFault(4 * index, "read", True)
            raise KernelError(errno.EPROTO, "fd_array is not given")
        return as_int(int.from_bytes(self._call.read(self._addr + 4 * index, 4), "little"))


def _records(call: Call, name: str) -> UserRecords:
    """The records behind a pointer of the attribute; where some cannot be read, checking finds out."""
    attr = call.attr
    addr = attr[name if name != "core_relo" else "core_relos"]
    count, size = attr[f"{name}_cnt"], attr[f"{name}_rec_size"]
    if count * size <= _RECORDS_MAX:
        try:
            return UserRecords.of(count, size, call.read(addr, count * size) if count else b"")
        except MemoryFault:
            pass
    return UserRecords(count, size, lambda at, length: call.read(addr + at, length))


def _finish_log(call: Call, log: VerifierLog) -> int:
    """Copy the log out; the errno that overrides the verdict, or 0 (bpf_vlog_finalize)."""
    result = log.finalize()
    if result.content:
        try:
            call.write(call.attr["log_buf"], result.content)
        except MemoryFault:
            return errno.EFAULT
    call.put("log_true_size", result.true_size)
    return result.errno
