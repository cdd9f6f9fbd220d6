# SPDX-License-Identifier: GPL-2.0-only
"""libbpf's table of ELF section names: what program type and attach type a section name stands for.

The names, types and flags are those of libbpf 1.6 (``section_defs``). ``name+`` matches ``name`` and
``name/anything``; other names match exactly. A leading ``?`` in an object only says that the program is
not loaded by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

from kernel_model.uapi.enums import bpf_attach_type, bpf_prog_type


class Sec(Flag):
    """What libbpf does with programs of a section."""

    NONE = 0
    EXP_ATTACH_OPT = auto()
    """The expected attach type may be left out for old kernels."""
    ATTACHABLE = auto()
    """Attached with BPF_PROG_ATTACH."""
    ATTACH_BTF = auto()
    """The target after the slash is looked up in BTF before loading."""
    SLEEPABLE = auto()
    """Loaded with BPF_F_SLEEPABLE."""
    XDP_FRAGS = auto()
    """Loaded with BPF_F_XDP_HAS_FRAGS."""
    USDT = auto()
    """A user-space static probe: attached by many uprobes where the kernel can."""


_FLAGS = {
    "opt": Sec.EXP_ATTACH_OPT,
    "att": Sec.ATTACHABLE,
    "btf": Sec.ATTACH_BTF,
    "slp": Sec.SLEEPABLE,
    "frg": Sec.XDP_FRAGS,
    "sdt": Sec.USDT,
}


@dataclass(frozen=True)
class SectionDef:
    """One row: the name pattern, the types, the flags, and how libbpf attaches the program by itself.

    ``attach`` is libbpf's attach function without its prefix ("" when it has none).
    """

    pattern: str
    prog_type: bpf_prog_type
    attach_type: int
    flags: Sec
    attach: str

    def matches(self, name: str) -> bool:
        """Whether the section ``name`` falls under this row."""
        if self.pattern.endswith("+"):
            prefix = self.pattern[:-1]
            return name == prefix or name.startswith(prefix + "/")
        return name == self.pattern


# pattern, program type, expected attach type (- for 0), flags, attach function
_TABLE = """
socket                    SOCKET_FILTER            -                             -        -
sk_reuseport/migrate      SK_REUSEPORT             SK_REUSEPORT_SELECT_OR_MIGRATE att     -
sk_reuseport              SK_REUSEPORT             SK_REUSEPORT_SELECT           att      -
kprobe+                   KPROBE                   -                             -        kprobe
uprobe+                   KPROBE                   -                             -        uprobe
uprobe.s+                 KPROBE                   -                             slp      uprobe
kretprobe+                KPROBE                   -                             -        kprobe
uretprobe+                KPROBE                   -                             -        uprobe
uretprobe.s+              KPROBE                   -                             slp      uprobe
kprobe.multi+             KPROBE                   TRACE_KPROBE_MULTI            -        kprobe_multi
kretprobe.multi+          KPROBE                   TRACE_KPROBE_MULTI            -        kprobe_multi
kprobe.session+           KPROBE                   TRACE_KPROBE_SESSION          -        kprobe_session
uprobe.multi+             KPROBE                   TRACE_UPROBE_MULTI            -        uprobe_multi
uretprobe.multi+          KPROBE                   TRACE_UPROBE_MULTI            -        uprobe_multi
uprobe.session+           KPROBE                   TRACE_UPROBE_SESSION          -        uprobe_multi
uprobe.multi.s+           KPROBE                   TRACE_UPROBE_MULTI            slp      uprobe_multi
uretprobe.multi.s+        KPROBE                   TRACE_UPROBE_MULTI            slp      uprobe_multi
uprobe.session.s+         KPROBE                   TRACE_UPROBE_SESSION          slp      uprobe_multi
ksyscall+                 KPROBE                   -                             -        ksyscall
kretsyscall+              KPROBE                   -                             -        ksyscall
usdt+                     KPROBE                   -                             sdt      usdt
usdt.s+                   KPROBE                   -                             sdt,slp  usdt
tc/ingress                SCHED_CLS                TCX_INGRESS                   -        -
tc/egress                 SCHED_CLS                TCX_EGRESS                    -        -
tcx/ingress               SCHED_CLS                TCX_INGRESS                   -        -
tcx/egress                SCHED_CLS                TCX_EGRESS                    -        -
tc                        SCHED_CLS                -                             -        -
classifier                SCHED_CLS                -                             -        -
action                    SCHED_ACT                -                             -        -
netkit/primary            SCHED_CLS                NETKIT_PRIMARY                -        -
netkit/peer               SCHED_CLS                NETKIT_PEER                   -        -
tracepoint+               TRACEPOINT               -                             -        tp
tp+                       TRACEPOINT               -                             -        tp
raw_tracepoint+           RAW_TRACEPOINT           -                             -        raw_tp
raw_tp+                   RAW_TRACEPOINT           -                             -        raw_tp
raw_tracepoint.w+         RAW_TRACEPOINT_WRITABLE  -                             -        raw_tp
raw_tp.w+                 RAW_TRACEPOINT_WRITABLE  -                             -        raw_tp
tp_btf+                   TRACING                  TRACE_RAW_TP                  btf      trace
fentry+                   TRACING                  TRACE_FENTRY                  btf      trace
fmod_ret+                 TRACING                  MODIFY_RETURN                 btf      trace
fexit+                    TRACING                  TRACE_FEXIT                   btf      trace
fentry.s+                 TRACING                  TRACE_FENTRY                  btf,slp  trace
fmod_ret.s+               TRACING                  MODIFY_RETURN                 btf,slp  trace
fexit.s+                  TRACING                  TRACE_FEXIT                   btf,slp  trace
freplace+                 EXT                      -                             btf      trace
lsm+                      LSM                      LSM_MAC                       btf      lsm
lsm.s+                    LSM                      LSM_MAC                       btf,slp  lsm
lsm_cgroup+               LSM                      LSM_CGROUP                    btf      -
iter+                     TRACING                  TRACE_ITER                    btf      iter
iter.s+                   TRACING                  TRACE_ITER                    btf,slp  iter
syscall                   SYSCALL                  -                             slp      -
xdp.frags/devmap          XDP                      XDP_DEVMAP                    frg      -
xdp/devmap                XDP                      XDP_DEVMAP                    att      -
xdp.frags/cpumap          XDP                      XDP_CPUMAP                    frg      -
xdp/cpumap                XDP                      XDP_CPUMAP                    att      -
xdp.frags                 XDP                      XDP                           frg      -
xdp                       XDP                      XDP                           att,opt  -
perf_event                PERF_EVENT               -                             -        -
lwt_in                    LWT_IN                   -                             -        -
lwt_out                   LWT_OUT                  -                             -        -
lwt_xmit                  LWT_XMIT                 -                             -        -
lwt_seg6local             LWT_SEG6LOCAL            -                             -        -
sockops                   SOCK_OPS                 CGROUP_SOCK_OPS               att,opt  -
sk_skb/stream_parser      SK_SKB                   SK_SKB_STREAM_PARSER          att,opt  -
sk_skb/stream_verdict     SK_SKB                   SK_SKB_STREAM_VERDICT         att,opt  -
sk_skb/verdict            SK_SKB                   SK_SKB_VERDICT                att,opt  -
sk_skb                    SK_SKB                   -                             -        -
sk_msg                    SK_MSG                   SK_MSG_VERDICT                att,opt  -
lirc_mode2                LIRC_MODE2               LIRC_MODE2                    att,opt  -
flow_dissector            FLOW_DISSECTOR           FLOW_DISSECTOR                att,opt  -
cgroup_skb/ingress        CGROUP_SKB               CGROUP_INET_INGRESS           att,opt  -
cgroup_skb/egress         CGROUP_SKB               CGROUP_INET_EGRESS            att,opt  -
cgroup/skb                CGROUP_SKB               -                             -        -
cgroup/sock_create        CGROUP_SOCK              CGROUP_INET_SOCK_CREATE       att      -
cgroup/sock_release       CGROUP_SOCK              CGROUP_INET_SOCK_RELEASE      att      -
cgroup/sock               CGROUP_SOCK              CGROUP_INET_SOCK_CREATE       att,opt  -
cgroup/post_bind4         CGROUP_SOCK              CGROUP_INET4_POST_BIND        att      -
cgroup/post_bind6         CGROUP_SOCK              CGROUP_INET6_POST_BIND        att      -
cgroup/bind4              CGROUP_SOCK_ADDR         CGROUP_INET4_BIND             att      -
cgroup/bind6              CGROUP_SOCK_ADDR         CGROUP_INET6_BIND             att      -
cgroup/connect4           CGROUP_SOCK_ADDR         CGROUP_INET4_CONNECT          att      -
cgroup/connect6           CGROUP_SOCK_ADDR         CGROUP_INET6_CONNECT          att      -
cgroup/connect_unix       CGROUP_SOCK_ADDR         CGROUP_UNIX_CONNECT           att      -
cgroup/sendmsg4           CGROUP_SOCK_ADDR         CGROUP_UDP4_SENDMSG           att      -
cgroup/sendmsg6           CGROUP_SOCK_ADDR         CGROUP_UDP6_SENDMSG           att      -
cgroup/sendmsg_unix       CGROUP_SOCK_ADDR         CGROUP_UNIX_SENDMSG           att      -
cgroup/recvmsg4           CGROUP_SOCK_ADDR         CGROUP_UDP4_RECVMSG           att      -
cgroup/recvmsg6           CGROUP_SOCK_ADDR         CGROUP_UDP6_RECVMSG           att      -
cgroup/recvmsg_unix       CGROUP_SOCK_ADDR         CGROUP_UNIX_RECVMSG           att      -
cgroup/getpeername4       CGROUP_SOCK_ADDR         CGROUP_INET4_GETPEERNAME      att      -
cgroup/getpeername6       CGROUP_SOCK_ADDR         CGROUP_INET6_GETPEERNAME      att      -
cgroup/getpeername_unix   CGROUP_SOCK_ADDR         CGROUP_UNIX_GETPEERNAME       att      -
cgroup/getsockname4       CGROUP_SOCK_ADDR         CGROUP_INET4_GETSOCKNAME      att      -
cgroup/getsockname6       CGROUP_SOCK_ADDR         CGROUP_INET6_GETSOCKNAME      att      -
cgroup/getsockname_unix   CGROUP_SOCK_ADDR         CGROUP_UNIX_GETSOCKNAME       att      -
cgroup/sysctl             CGROUP_SYSCTL            CGROUP_SYSCTL                 att      -
cgroup/getsockopt         CGROUP_SOCKOPT           CGROUP_GETSOCKOPT             att      -
cgroup/setsockopt         CGROUP_SOCKOPT           CGROUP_SETSOCKOPT             att      -
cgroup/dev                CGROUP_DEVICE            CGROUP_DEVICE                 att,opt  -
struct_ops+               STRUCT_OPS               -                             -        -
struct_ops.s+             STRUCT_OPS               -                             slp      -
sk_lookup                 SK_LOOKUP                SK_LOOKUP                     att      -
netfilter                 NETFILTER                NETFILTER                     -        -
"""


def _row(line: str) -> SectionDef:
    pattern, prog_type, attach_type, flags, attach = line.split()
    combined = Sec.NONE
    for flag in flags.split(",") if flags != "-" else ():
        combined |= _FLAGS[flag]
    return SectionDef(
        pattern,
        bpf_prog_type[f"BPF_PROG_TYPE_{prog_type}"],
        0 if attach_type == "-" else int(bpf_attach_type[f"BPF_{attach_type}"]),
        combined,
        "" if attach == "-" else attach,
    )


SECTION_DEFS: tuple[SectionDef, ...] = tuple(_row(line) for line in _TABLE.strip().splitlines())

_RENAMED = {"xdp_devmap": "xdp/devmap", "xdp_cpumap": "xdp/cpumap"}
"""Sections of the first objects for the feature: libbpf 0.2 to 0.5 knew them by these names."""

_STRICT_HEADS = {"tcx", "netkit", "netfilter", "syscall", "xdp.frags"}
_SLOPPY = tuple(
    row
    for row in SECTION_DEFS
    if not row.pattern.endswith("+") and row.pattern.partition("/")[0] not in _STRICT_HEADS
)
"""What libbpf before 1.0 matched by mere prefix (``xdp_drop``, ``classifier/tx``)."""


def find_section(name: str, legacy: bool = True) -> SectionDef | None:
    """The row for an ELF section name (without a leading ``?``); None when the name says nothing.

    ``legacy`` also tries the names and the prefix rule that libbpf had before version 1.0.
    """
    for row in SECTION_DEFS:
        if row.matches(name):
            return row
    if not legacy:
        return None
    head, slash, _ = name.partition("/")
    if slash and head in _RENAMED:
        return find_section(_RENAMED[head], legacy=False)
    fitting = [row for row in _SLOPPY if name.startswith(row.pattern)]
    return max(fitting, key=lambda row: len(row.pattern), default=None)
