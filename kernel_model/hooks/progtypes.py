# SPDX-License-Identifier: GPL-2.0-only
"""The table of program types: all of Linux 6.18, with what the verifier must know of those modelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kernel_model.btf.layout import Layout
from kernel_model.helpers.table import (
    BASE,
    BASE_BPF,
    BASE_PERFMON,
    FUNCTIONS,
    KPROBE,
    LIRC,
    LIRC_PERFMON,
    LSM,
    SK_BASE,
    SOCKET,
    TC,
    TRACING,
    XDP,
)
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_prog_type

from .context import Context
from .ctx_skb import SKB_SOCKET, SKB_TC, tc_prologue
from .ctx_tracing import ARGUMENTS, LIRC_SAMPLE, PERF_EVENT, PT_REGS, RAW_TRACEPOINT, TRACEPOINT
from .ctx_xdp import XDP_MD


@dataclass(frozen=True)
class ProgType:
    """One program type.

    ``context`` is None where the type is not modelled. ``helper_groups`` in the order of Linux's
    lookups. ``packet`` is "" (no direct packet access), "r" or "rw". ``ld_abs``: LD_ABS and LD_IND are
    allowed. ``prologue(layout, first)`` goes in front of programs that write into the packet.
    ``can_sleep``: BPF_F_SLEEPABLE is allowed (kprobe programs stand for uprobes there).
    ``private_stack``: big stacks may leave the kernel's stack (since 6.13).
    """

    number: int
    name: str
    since: str
    context: Context | None = None
    helper_groups: tuple[str, ...] = ()
    packet: str = ""
    ld_abs: bool = False
    prologue: Callable[[Layout, Insn], list[Insn]] | None = None
    tracing: bool = False
    private_stack: bool = False
    can_sleep: bool = False

    @property
    def modelled(self) -> bool:
        return self.context is not None


_BASES: Final = (BASE, BASE_BPF, BASE_PERFMON)
_NET: Final = (SK_BASE, *_BASES)
_TRACE: Final = (KPROBE, TRACING, *_BASES)


def _row(number: bpf_prog_type, since: str, context: Context | None = None, **rest: object) -> ProgType:
    name = number.name.removeprefix("BPF_PROG_TYPE_").lower()
    return ProgType(int(number), name, since, context, **rest)  # type: ignore[arg-type]


_T = bpf_prog_type
PROG_TYPES: Final[dict[int, ProgType]] = {
    row.number: row
    for row in (
        _row(_T.BPF_PROG_TYPE_SOCKET_FILTER, "3.19", SKB_SOCKET, helper_groups=(SOCKET, *_NET), ld_abs=True),
        _row(
            _T.BPF_PROG_TYPE_KPROBE, "4.1", PT_REGS, helper_groups=_TRACE, tracing=True, private_stack=True,
            can_sleep=True,
        ),
        _row(
            _T.BPF_PROG_TYPE_SCHED_CLS, "4.1", SKB_TC, helper_groups=(TC, *_NET), packet="rw", ld_abs=True,
            prologue=tc_prologue,
        ),
        _row(
            _T.BPF_PROG_TYPE_SCHED_ACT, "4.1", SKB_TC, helper_groups=(TC, *_NET), packet="rw", ld_abs=True,
            prologue=tc_prologue,
        ),
        _row(
            _T.BPF_PROG_TYPE_TRACEPOINT, "4.7", TRACEPOINT, helper_groups=_TRACE, tracing=True,
            private_stack=True,
        ),
        _row(_T.BPF_PROG_TYPE_XDP, "4.8", XDP_MD, helper_groups=(XDP, *_NET), packet="rw"),
        _row(
            _T.BPF_PROG_TYPE_PERF_EVENT, "4.9", PERF_EVENT, helper_groups=_TRACE, tracing=True,
            private_stack=True,
        ),
        _row(_T.BPF_PROG_TYPE_CGROUP_SKB, "4.10", packet="r"),
        _row(_T.BPF_PROG_TYPE_CGROUP_SOCK, "4.10"),
        _row(_T.BPF_PROG_TYPE_LWT_IN, "4.10", packet="r"),
        _row(_T.BPF_PROG_TYPE_LWT_OUT, "4.10", packet="r"),
        _row(_T.BPF_PROG_TYPE_LWT_XMIT, "4.10", packet="rw"),
        _row(_T.BPF_PROG_TYPE_SOCK_OPS, "4.13"),
        _row(_T.BPF_PROG_TYPE_SK_SKB, "4.14", packet="rw"),
        _row(_T.BPF_PROG_TYPE_CGROUP_DEVICE, "4.15"),
        _row(_T.BPF_PROG_TYPE_SK_MSG, "4.17", packet="rw"),
        _row(
            _T.BPF_PROG_TYPE_RAW_TRACEPOINT, "4.17", RAW_TRACEPOINT, helper_groups=_TRACE, tracing=True,
            private_stack=True,
        ),
        _row(_T.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "4.17"),
        _row(_T.BPF_PROG_TYPE_LWT_SEG6LOCAL, "4.18", packet="r"),
        _row(_T.BPF_PROG_TYPE_LIRC_MODE2, "4.18", LIRC_SAMPLE, helper_groups=(LIRC, LIRC_PERFMON)),
        _row(_T.BPF_PROG_TYPE_SK_REUSEPORT, "4.19", packet="r"),
        _row(_T.BPF_PROG_TYPE_FLOW_DISSECTOR, "4.20", packet="r"),
        _row(_T.BPF_PROG_TYPE_CGROUP_SYSCTL, "5.2"),
        _row(_T.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, "5.2", tracing=True),
        _row(_T.BPF_PROG_TYPE_CGROUP_SOCKOPT, "5.3"),
        _row(
            _T.BPF_PROG_TYPE_TRACING, "5.5", ARGUMENTS, helper_groups=(FUNCTIONS, *_TRACE), tracing=True,
            private_stack=True,
        ),
        _row(_T.BPF_PROG_TYPE_STRUCT_OPS, "5.6"),
        _row(_T.BPF_PROG_TYPE_EXT, "5.6", ARGUMENTS, helper_groups=_BASES),
        _row(
            _T.BPF_PROG_TYPE_LSM, "5.7", ARGUMENTS, helper_groups=(LSM, FUNCTIONS, *_TRACE), can_sleep=True
        ),
        _row(_T.BPF_PROG_TYPE_SK_LOOKUP, "5.9"),
        _row(_T.BPF_PROG_TYPE_SYSCALL, "5.14"),
        _row(_T.BPF_PROG_TYPE_NETFILTER, "6.4"),
    )
}  # fmt: skip
"""Every program type by number."""
