# SPDX-License-Identifier: GPL-2.0-only
"""The tables of helpers and program types are complete and consistent."""

from __future__ import annotations

from kernel_model.helpers.prototypes import ARG_DONTCARE
from kernel_model.helpers.table import BY_NAME, HELPERS, changes_packet_data, group_of, proto_for, symbol_for
from kernel_model.hooks.context import Request
from kernel_model.hooks.progtypes import PROG_TYPES
from kernel_model.uapi.enums import bpf_func_id, bpf_prog_type


def test_every_helper_has_a_row() -> None:
    assert set(HELPERS) == {int(number) for number in bpf_func_id if number}
    assert len(HELPERS) == 211
    assert BY_NAME["map_lookup_elem"].id == 1 and BY_NAME["map_lookup_elem"].since == "3.19"
    assert BY_NAME["loop"].since == "5.17" and BY_NAME["cgrp_storage_get"].since == "6.2"


def test_prototypes_and_symbols_go_together() -> None:
    for row in HELPERS.values():
        assert (row.proto is None) == (not row.symbols), row.name
        if row.proto is not None:
            assert len(row.proto.args) <= 5
            assert ARG_DONTCARE not in row.proto.args


def test_every_program_type_has_a_row() -> None:
    assert set(PROG_TYPES) == {int(number) for number in bpf_prog_type if number}
    for row in PROG_TYPES.values():
        assert bool(row.helper_groups) == row.modelled


def test_lookups_go_through_the_types_own_groups_first() -> None:
    xdp = PROG_TYPES[bpf_prog_type.BPF_PROG_TYPE_XDP]
    tc = PROG_TYPES[bpf_prog_type.BPF_PROG_TYPE_SCHED_CLS]
    assert symbol_for(BY_NAME["redirect"], xdp) == "bpf_xdp_redirect"
    assert symbol_for(BY_NAME["redirect"], tc) == "bpf_redirect"
    assert proto_for(BY_NAME["xdp_adjust_head"], tc) is None
    socket = PROG_TYPES[bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER]
    assert group_of(BY_NAME["redirect"], socket) is None
    assert symbol_for(BY_NAME["get_smp_processor_id"], socket) == "bpf_get_raw_cpu_id"


def test_helpers_that_move_packet_data() -> None:
    assert changes_packet_data(BY_NAME["xdp_adjust_head"].id)
    assert changes_packet_data(BY_NAME["skb_vlan_push"].id)
    assert not changes_packet_data(BY_NAME["map_lookup_elem"].id)


def test_context_offsets_that_are_refused_everywhere() -> None:
    for row in PROG_TYPES.values():
        if row.context is not None:
            for off, size in ((-4, 4), (8192, 4), (1, 4)):
                assert row.context.check(Request(off, size, False)) is None, (row.name, off)
