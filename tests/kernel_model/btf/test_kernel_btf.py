# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own BTF: as its layout, readable by a process, and what CO-RE is resolved against."""

from __future__ import annotations

from kernel_model.btf.layout import kernel_layout
from kernel_model.btf.parse import Btf, BtfType, Kind
from kernel_model.btf.vmlinux import kernel_btf
from sim import Machine
from sim.userspace.bpf import Bpf

PATH = "/sys/kernel/btf/vmlinux"


def struct(btf: Btf, name: str) -> BtfType:
    return btf.type(btf.find(name, Kind.STRUCT))


def test_every_structure_is_described() -> None:
    btf, layout = Btf(kernel_btf()), kernel_layout()
    assert {"task_struct", "sk_buff", "bpf_map"} <= set(layout)
    for name, laid_out in layout.items():
        found = struct(btf, name)
        assert found.size == laid_out.size
        for member in found.members:
            wanted = laid_out.members[member.name]
            assert member.bit_offset == wanted.offset * 8 + wanted.bit_offset, (name, member.name)
            if not member.bit_size:
                assert btf.size_of(member.type) == wanted.size, (name, member.name)
        assert len(found.members) == len(laid_out.members)


def test_members_have_their_types() -> None:
    btf = Btf(kernel_btf())
    members = {member.name: member for member in struct(btf, "bpf_map").members}
    assert btf.type(btf.resolve(members["ops"].type).type).name == "bpf_map_ops"
    name = btf.resolve(members["name"].type)
    assert (name.kind, name.nelems, btf.resolve(name.type).name) == (Kind.ARRAY, 16, "char")
    assert btf.type(members["id"].type).name == "u32"


def test_processes_read_it() -> None:
    with Machine.boot() as machine:
        assert Bpf(machine.process(uid=1000)).read_file(PATH) == kernel_btf()
