# SPDX-License-Identifier: GPL-2.0-only
"""Which program types may call which helpers: the host's word for every pair."""

from __future__ import annotations

import pytest
from host_bpf import HostRefused, host_kernel, prog_load_log

from kernel_model.helpers.reach import reachable
from kernel_model.helpers.table import HELPERS, proto_for
from kernel_model.hooks.progtypes import PROG_TYPES, ProgType
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, encode

_LOCKED_DOWN = ("probe_write_user",)
"""A host may be locked down."""
_EVENT_ONLY = ("perf_prog_read_value", "read_branch_records")
"""Not told from other tracing programs here: refused as not modelled."""


_BY_BTF = ("tracing", "lsm", "ext")
"""Refused for want of a target before a helper is looked at."""


def _host_has(prog_type: int, number: int) -> bool:
    program = [Insn(op.CALL, 0, 0, 0, number), Insn(0xB7), Insn(op.EXIT)]
    try:
        prog_load_log(encode(program), prog_type, log_level=1)
    except HostRefused as error:
        return "cannot use helper" not in error.log and "unknown func" not in error.log
    return True


@host_kernel
@pytest.mark.parametrize(
    "row",
    [row for row in PROG_TYPES.values() if row.modelled and row.name not in _BY_BTF],
    ids=lambda row: row.name,
)
def test_helpers_of_a_program_type(row: ProgType) -> None:
    try:
        prog_load_log(encode([Insn(0xB7), Insn(op.EXIT)]), row.number, log_level=1)
    except HostRefused as error:
        if not error.log:
            pytest.skip(f"the host has no programs of type {row.name}")
    for number, helper in HELPERS.items():
        if helper.name in _LOCKED_DOWN + _EVENT_ONLY:
            continue
        here = reachable(helper, row) if helper.proto is None else proto_for(helper, row) is not None
        assert here == _host_has(row.number, number), f"{row.name}: bpf_{helper.name}"
