# SPDX-License-Identifier: GPL-2.0-only
"""A machine that was booted with another kernel's BTF has that kernel's structures in its memory."""

from __future__ import annotations

from functools import cache

import pytest

from kernel_model.btf.build import BtfBuilder
from kernel_model.btf.follow import FOLLOWED, layout_of
from kernel_model.btf.layout import kernel_layout
from kernel_model.btf.parse import Kind
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, decode
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_LDX_MEM
from kernel_model.uapi.enums import bpf_prog_type
from sim.machine import Machine
from sim.userspace.bpf import Bpf

_MOVED = 72
"""Bytes by which every member lies further behind than in the simulated kernel's own types."""


@cache
def shifted_btf(without: str = "") -> bytes:
    """The followed structures with all members moved (or lacking the one named)."""
    b = BtfBuilder()
    ints = {size: b.add_int(f"u{size * 8}", size) for size in (1, 2, 4, 8)}
    for name in sorted(FOLLOWED):
        struct = kernel_layout()[name]
        members = []
        for member in struct.members.values():
            if f"{name}.{member.name}" == without:
                continue
            number = ints.get(member.size) or b.add_array(ints[1], ints[4], member.size)
            at = (member.offset + _MOVED) * 8 + member.bit_offset
            members.append((member.name, number, at, member.bit_size))
        members.sort(key=lambda row: row[2])
        b.add_composite(Kind.STRUCT, name, struct.size + _MOVED, members)
    return b.bytes()


def test_layouts_follow() -> None:
    layout = layout_of(shifted_btf())
    for name in FOLLOWED:
        before, after = kernel_layout()[name], layout[name]
        assert after.size == before.size + _MOVED
        for member in before.members.values():
            moved = after.members[member.name]
            assert moved.offset * 8 + moved.bit_offset == (member.offset + _MOVED) * 8 + member.bit_offset
    assert layout["bpf_array"] == kernel_layout()["bpf_array"]
    # What embeds a structure makes room for it.
    assert layout["nic_adapter"].size >= kernel_layout()["nic_adapter"].size + _MOVED


def test_a_structure_without_a_member_that_is_needed_stays() -> None:
    layout = layout_of(shifted_btf("net_device.mtu"))
    assert layout["net_device"] == kernel_layout()["net_device"]
    assert layout["xdp_rxq_info"].size == kernel_layout()["xdp_rxq_info"].size + _MOVED


@pytest.mark.parametrize("jit", [True, False])
def test_rewritten_accesses_and_memory_agree(jit: bool) -> None:
    """A program that reads its device's number finds it, at the other kernel's place."""
    insns = [BPF_LDX_MEM(op.BPF_W, 0, 1, 12), BPF_EXIT_INSN()]
    found = []
    for btf in (None, shifted_btf()):
        with Machine.boot(jit=jit, btf=btf) as machine:
            bpf = Bpf(machine.process())
            fd, _ = bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, insns)
            xlated = decode(bpf.obj_info(fd, xlated_prog_insns=4096)[1]["xlated_prog_insns"])
            found.append((bpf.prog_test_run(fd, bytes(64)).retval, _offsets(xlated)))
    (own, own_offsets), (other, other_offsets) = found
    assert own == other > 0
    assert other_offsets == [off + _MOVED for off in own_offsets]


def _offsets(insns: list[Insn]) -> list[int]:
    return [insn.off for insn in insns if insn.code & 7 == op.BPF_LDX]


def test_the_current_task_lies_where_the_btf_says() -> None:
    with Machine.boot(btf=shifted_btf()) as machine:
        task = machine.kernel.tasks[machine.process().pid]
        at = kernel_layout()["task_struct"].offset("pid") + _MOVED
        assert machine.kernel.memory.u32(task.addr + at) == task.pid
