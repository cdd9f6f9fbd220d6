# SPDX-License-Identifier: GPL-2.0-only
"""libbpf's table of section names."""

from __future__ import annotations

import pytest

from kernel_model.uapi.enums import bpf_attach_type, bpf_prog_type
from sim.userspace.sections import SECTION_DEFS, Sec, find_section


def test_the_table_is_whole_and_unambiguous() -> None:
    assert len(SECTION_DEFS) == 103
    assert len({row.pattern for row in SECTION_DEFS}) == 103
    for row in SECTION_DEFS:
        name = row.pattern.removesuffix("+")
        assert [r.pattern for r in SECTION_DEFS if r.matches(name)] == [row.pattern]
    # Of the program types only "unspecified" has no section.
    assert {row.prog_type for row in SECTION_DEFS} == set(bpf_prog_type) - {
        bpf_prog_type.BPF_PROG_TYPE_UNSPEC
    }


@pytest.mark.parametrize(
    ("name", "prog_type", "attach_type", "flags"),
    [
        ("xdp", "XDP", "XDP", Sec.ATTACHABLE | Sec.EXP_ATTACH_OPT),
        ("xdp.frags/devmap", "XDP", "XDP_DEVMAP", Sec.XDP_FRAGS),
        ("kprobe/vfs_read", "KPROBE", None, Sec.NONE),
        ("kretprobe.multi/tcp_*", "KPROBE", "TRACE_KPROBE_MULTI", Sec.NONE),
        ("uprobe.session.s//bin/sh:main", "KPROBE", "TRACE_UPROBE_SESSION", Sec.SLEEPABLE),
        ("fentry.s/vfs_read", "TRACING", "TRACE_FENTRY", Sec.ATTACH_BTF | Sec.SLEEPABLE),
        ("lsm_cgroup/socket_bind", "LSM", "LSM_CGROUP", Sec.ATTACH_BTF),
        ("cgroup/connect_unix", "CGROUP_SOCK_ADDR", "CGROUP_UNIX_CONNECT", Sec.ATTACHABLE),
        ("tcx/egress", "SCHED_CLS", "TCX_EGRESS", Sec.NONE),
        ("struct_ops.s/init", "STRUCT_OPS", None, Sec.SLEEPABLE),
        ("syscall", "SYSCALL", None, Sec.SLEEPABLE),
    ],
)
def test_names(name: str, prog_type: str, attach_type: str | None, flags: Sec) -> None:
    row = find_section(name, legacy=False)
    assert row is not None
    assert row.prog_type is bpf_prog_type[f"BPF_PROG_TYPE_{prog_type}"]
    assert row.attach_type == (bpf_attach_type[f"BPF_{attach_type}"] if attach_type else 0)
    assert row.flags == flags


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("xdp_drop", "xdp"),
        ("xdp_devmap/egress", "xdp/devmap"),
        ("classifier/tx", "classifier"),
        ("cgroup/skb/ingress", "cgroup/skb"),
        ("cgroup/sock_create2", "cgroup/sock_create"),
        ("sk_skb/stream_parser1", "sk_skb/stream_parser"),
        ("netfilter2", None),
        ("kprobes/x", None),
        ("nonsense", None),
    ],
)
def test_what_libbpf_took_before_1_0(name: str, pattern: str | None) -> None:
    assert find_section(name, legacy=False) is None
    row = find_section(name)
    assert (row.pattern if row is not None else None) == pattern
