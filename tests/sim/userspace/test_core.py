# SPDX-License-Identifier: GPL-2.0-only
"""CO-RE relocations: what is found in another kernel's types, which number results, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_model.btf.build import BtfBuilder
from kernel_model.btf.parse import Btf, Kind
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_prog_type
from sim import Machine
from sim.userspace.btf_ext import CoreRelo
from sim.userspace.core import CoreError, Resolution, Resolver
from sim.userspace.core.compat import essential
from sim.userspace.core.kinds import CoreKind
from sim.userspace.core.patch import POISON, patch
from sim.userspace.loader import LoadError, load
from sim.userspace.object import ObjectSpec, ProgSpec

SIGNED = 1


class Types:
    """A BTF under construction with the basic types in place."""

    def __init__(self) -> None:
        self.b = BtfBuilder()
        self.int = self.b.add_int("int", 4, SIGNED)
        self.u32 = self.b.add_int("unsigned int", 4)
        self.u64 = self.b.add_int("unsigned long", 8)
        self.char = self.b.add_int("char", 1, SIGNED)

    def struct(self, name: str, size: int, *members: tuple[str, int, int], kind: Kind = Kind.STRUCT) -> int:
        """Members with offsets in bytes."""
        return self.b.add_composite(kind, name, size, [(n, t, at * 8, 0) for n, t, at in members])

    def bits(self, name: str, size: int, *members: tuple[str, int, int, int]) -> int:
        """Members with offsets and sizes in bits."""
        return self.b.add_composite(Kind.STRUCT, name, size, members)

    def array(self, element: int, count: int) -> int:
        return self.b.add_array(element, self.u32, count)

    def typedef(self, name: str, number: int) -> int:
        return self.b.add(Kind.TYPEDEF, name, number)

    @property
    def btf(self) -> Btf:
        return Btf(self.b.bytes())


def resolve(local: Types, kernel: Types, root: int, access: str, kind: CoreKind) -> Resolution:
    return Resolver(local.btf, kernel.btf).resolve(root, access, kind)


def offset(local: Types, kernel: Types, root: int, access: str = "0:0") -> int | None:
    """The new byte offset; None for a poisoned instruction."""
    found = resolve(local, kernel, root, access, CoreKind.byte_off)
    return None if found.poison else found.new


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("task_struct", "task_struct"),
        ("task_struct___old", "task_struct"),
        ("a___b___c", "a___b"),
        ("___a", "___a"),
        ("a___", "a___"),
        ("a____b", "a____b"),
        ("a__b", "a__b"),
        ("", ""),
    ],
)
def test_flavours(name: str, without: str) -> None:
    assert essential(name) == without


def test_a_field_that_moved() -> None:
    local, kernel = Types(), Types()
    root = local.struct("task___mine", 8, ("pid", local.int, 4))
    kernel.struct("other", 8, ("pid", kernel.int, 0))
    kernel.struct("task", 64, ("state", kernel.u64, 0), ("pid", kernel.int, 40))
    assert offset(local, kernel, root) == 40


def test_through_anonymous_members_and_arrays() -> None:
    local, kernel = Types(), Types()
    inner = local.struct("in", 8, ("x", local.int, 0), ("y", local.int, 4))
    root = local.struct("s", 32, ("rows", local.array(inner, 4), 0))
    moved = kernel.struct("in", 12, ("x", kernel.int, 0), ("z", kernel.int, 4), ("y", kernel.int, 8))
    hidden = kernel.struct("", 96, ("rows", kernel.array(moved, 8), 0), kind=Kind.UNION)
    kernel.struct("s", 104, ("first", kernel.u64, 0), ("", hidden, 8))
    assert offset(local, kernel, root, "0:0:3:1") == 8 + 3 * 12 + 8
    assert str(resolve(local, kernel, root, "0:0:3:1", CoreKind.byte_off).target) == (
        f"<byte_off> [{len(kernel.btf) - 1}] struct s.rows[3].y (0:1:0:3:2 @ offset 52)"
    )


def test_elements_beyond_an_array() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 32, ("row", local.array(local.u64, 4), 0))
    kernel.struct("s", 16, ("row", kernel.array(kernel.u64, 2), 0))
    assert offset(local, kernel, root, "0:0:1") == 8
    assert offset(local, kernel, root, "0:0:2") is None
    open_end = Types()
    open_end.struct("s", 8, ("n", open_end.u64, 0), ("row", open_end.array(open_end.u64, 0), 8))
    assert offset(local, open_end, root, "0:0:3") == 32


def test_an_index_of_the_root() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 24, ("b", kernel.u64, 0), ("a", kernel.u64, 16))
    assert offset(local, kernel, root, "2:0") == 2 * 24 + 16


def test_what_is_missing() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("gone", local.int, 0))
    kernel.struct("s", 8, ("here", kernel.int, 0))
    found = resolve(local, kernel, root, "0:0", CoreKind.byte_off)
    assert found.poison
    assert not found.resolved
    assert resolve(local, kernel, root, "0:0", CoreKind.byte_sz).poison
    exists = resolve(local, kernel, root, "0:0", CoreKind.field_exists)
    assert (exists.new, exists.old, exists.poison) == (0, 1, False)


@pytest.mark.parametrize("kind", [CoreKind.type_exists, CoreKind.type_size, CoreKind.target_type_id])
def test_a_missing_type_counts_as_zero(kind: CoreKind) -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    assert resolve(local, kernel, root, "0", kind).new == 0
    here = kernel.struct("s", 24)
    wanted = {CoreKind.type_exists: 1, CoreKind.type_size: 24, CoreKind.target_type_id: here}
    assert resolve(local, kernel, root, "0", kind).new == wanted[kind]


def test_a_local_type_is_not_looked_for() -> None:
    local = Types()
    root = local.struct("nowhere", 8)
    assert resolve(local, Types(), root, "0", CoreKind.local_type_id).new == root


def test_incompatible_fields_do_not_count() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 8, ("a", kernel.b.add_ptr(kernel.int), 0))
    assert offset(local, kernel, root) is None


def test_all_candidates_must_agree() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 16, ("a", kernel.u64, 8))
    kernel.struct("s", 24, ("b", kernel.u64, 0))
    assert offset(local, kernel, root) == 8, "the second s has no such field"
    kernel.struct("s", 24, ("a", kernel.u64, 8))
    assert offset(local, kernel, root) == 8
    kernel.struct("s", 24, ("a", kernel.u64, 16))
    with pytest.raises(CoreError, match="field offset ambiguity"):
        offset(local, kernel, root)


def test_sizes_must_agree_between_candidates() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 8, ("a", kernel.u64, 0))
    kernel.struct("s", 8, ("a", kernel.u32, 0))
    with pytest.raises(CoreError, match="decision ambiguity"):
        resolve(local, kernel, root, "0:0", CoreKind.byte_sz)


def test_bit_fields() -> None:
    local, kernel = Types(), Types()
    root = local.bits("s", 4, ("a", local.u32, 0, 3), ("b", local.int, 3, 5))
    kernel.bits("s", 8, ("pad", kernel.u32, 0, 30), ("b", kernel.int, 30, 5))
    values = {
        kind: resolve(local, kernel, root, "0:1", kind).new
        for kind in (
            CoreKind.byte_off,
            CoreKind.byte_sz,
            CoreKind.lshift_u64,
            CoreKind.rshift_u64,
            CoreKind.signed,
        )
    }
    # Bits 30 to 34 need a load of eight bytes.
    assert values == {
        CoreKind.byte_off: 0,
        CoreKind.byte_sz: 8,
        CoreKind.lshift_u64: 64 - 35,
        CoreKind.rshift_u64: 64 - 5,
        CoreKind.signed: 1,
    }


@pytest.mark.parametrize("size", [4, 8])
def test_enumerators(size: int) -> None:
    local, kernel = Types(), Types()
    root = local.b.add_enum("e___mine", [("ONE", 1), ("TWO___mine", 2), ("GONE", 3)])
    big = (1 << 40) + 7 if size == 8 else 77
    kernel.b.add_enum("e", [("TWO", big), ("ONE", -5)], size, signed=True)
    assert resolve(local, kernel, root, "1", CoreKind.enumval_value).new == big
    assert resolve(local, kernel, root, "0", CoreKind.enumval_value).new == (1 << 64) - 5
    assert resolve(local, kernel, root, "0", CoreKind.enumval_exists).new == 1
    assert resolve(local, kernel, root, "2", CoreKind.enumval_exists).new == 0
    assert resolve(local, kernel, root, "2", CoreKind.enumval_value).poison


def test_type_matches_compares_members() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u32, 0), ("p", local.b.add_ptr(local.struct("t", 0)), 4))
    wrong = Types()
    wrong.struct("s", 8, ("a", wrong.u64, 0), ("p", wrong.b.add_ptr(wrong.struct("t", 0)), 8))
    assert resolve(local, wrong, root, "0", CoreKind.type_matches).new == 0
    kernel.struct("s", 24, ("p", kernel.b.add_ptr(kernel.b.add(Kind.FWD, "t")), 0), ("a", kernel.u32, 8))
    assert resolve(local, kernel, root, "0", CoreKind.type_matches).new == 1
    assert resolve(local, wrong, root, "0", CoreKind.type_exists).new == 1


def test_typedefs_are_looked_through() -> None:
    local, kernel = Types(), Types()
    root = local.typedef("s_t", local.struct("", 8, ("a", local.typedef("pid_t", local.int), 0)))
    kernel.typedef("s_t", kernel.struct("", 16, ("a", kernel.int, 12)))
    assert offset(local, kernel, root) == 12


@pytest.mark.parametrize("access", ["", ":", "0:", "0:9", "0:0:0", "x", "-1", "0:" * 70 + "0", "٣"])
def test_bad_access_strings(access: str) -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 8, ("a", kernel.u64, 0))
    with pytest.raises(CoreError):
        offset(local, kernel, root, access)


@pytest.mark.parametrize("kind", [13, 1 << 31])
def test_unknown_kinds(kind: int) -> None:
    local = Types()
    with pytest.raises(CoreError, match="unknown relocation kind"):
        Resolver(local.btf, local.btf).resolve(1, "0", kind)


def test_anonymous_types_cannot_be_looked_for() -> None:
    local = Types()
    root = local.struct("", 8, ("a", local.u64, 0))
    with pytest.raises(CoreError, match="anonymous"):
        offset(local, local, root)


def test_void_cannot_be_looked_for() -> None:
    with pytest.raises(CoreError, match="anonymous"):
        resolve(Types(), Types(), 0, "0", CoreKind.type_exists)


@given(st.integers(0, 12), st.integers(0, 20), st.text("0123456789:", max_size=9))
def test_whatever_a_relocation_says(kind: int, root: int, access: str) -> None:
    """A value or a CoreError, never anything else."""
    types = Types()
    types.struct("s", 24, ("a", types.u64, 0), ("rows", types.array(types.u32, 4), 8))
    types.b.add_enum("e", [("A", 0)])
    types.typedef("self", 9)
    try:
        found = Resolver(types.btf, types.btf).resolve(root, access, kind)
    except CoreError:
        return
    assert found.old == found.new, "a type is like itself"
    assert not found.poison


# Instructions

LDX = op.BPF_LDX | op.BPF_MEM
STX_DW = op.BPF_STX | op.BPF_MEM | op.BPF_DW


def moved(local_type: str, kernel_type: str) -> Resolution:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", getattr(local, local_type), 0))
    kernel.struct("s", 16, ("a", getattr(kernel, kernel_type), 8))
    return resolve(local, kernel, root, "0:0", CoreKind.byte_off)


@pytest.mark.parametrize(
    ("insn", "after"),
    [
        (Insn(LDX | op.BPF_DW, 1, 2, 0), Insn(LDX | op.BPF_DW, 1, 2, 8)),
        (
            Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 1, 2, 0),
            Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 1, 2, 8),
        ),
        (Insn(op.BPF_ALU64 | op.BPF_ADD, 1), Insn(op.BPF_ALU64 | op.BPF_ADD, 1, imm=8)),
        (Insn(op.BPF_ALU | op.BPF_MOV, 1), Insn(op.BPF_ALU | op.BPF_MOV, 1, imm=8)),
    ],
)
def test_patching(insn: Insn, after: Insn) -> None:
    insns = [insn]
    patch(insns, 0, moved("u64", "u64"))
    assert insns == [after]


def test_loads_change_their_size() -> None:
    insns = [Insn(LDX | op.BPF_DW, 1, 2, 0)]
    patch(insns, 0, moved("u64", "u32"))
    assert insns == [Insn(LDX | op.BPF_W, 1, 2, 8)]


def test_signed_fields_keep_their_size() -> None:
    insns = [Insn(LDX | op.BPF_W, 1, 2, 0)]
    patch(insns, 0, moved("int", "u64"))
    assert insns[0].imm == POISON


def test_64_bit_values() -> None:
    local, kernel = Types(), Types()
    root = local.b.add_enum("e", [("A", 1)])
    kernel.b.add_enum("e", [("A", 0xFFFF_FFFF_8000_0001)], 8)
    insns = [Insn(op.LD_IMM64, 1, imm=1), Insn(0)]
    found = resolve(local, kernel, root, "0", CoreKind.enumval_value)
    patch(insns, 0, found)
    assert insns == [Insn(op.LD_IMM64, 1, imm=0x8000_0001 - (1 << 32)), Insn(0, imm=-1)]
    gone = resolve(local, Types(), root, "0", CoreKind.enumval_value)
    patch(insns, 0, gone)
    assert [insn.imm for insn in insns] == [POISON, POISON]


@pytest.mark.parametrize(
    "insn",
    [
        Insn(LDX | op.BPF_DW, 1, 2, 4),
        Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, 1, 2),
        Insn(op.BPF_ALU64 | op.BPF_ADD, 1, imm=3),
        Insn(op.EXIT),
        Insn(op.LD_IMM64, 1),
    ],
)
def test_instructions_that_do_not_fit(insn: Insn) -> None:
    with pytest.raises(CoreError, match="insn #0"):
        patch([insn], 0, moved("u64", "u64"))


def test_poisoned_instructions_are_named_in_the_log() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("gone", local.u64, 0))
    kernel.struct("s", 8, ("here", kernel.u64, 0))
    insns = (Insn(op.BPF_ALU64 | op.BPF_MOV), Insn(LDX | op.BPF_DW, 0, 1, 0), Insn(op.EXIT))
    prog = ProgSpec("p", "xdp", insns, bpf_prog_type.BPF_PROG_TYPE_XDP, core=(CoreRelo(1, root, "0:0", 0),))
    spec = ObjectSpec("o.o", "o", {"p": prog}, {}, btf_types=local.btf)
    with Machine.boot() as machine, pytest.raises(LoadError) as caught:
        load(machine.process(), spec, kernel_btf=kernel.btf)
    assert "1: <invalid CO-RE relocation>\n" in caught.value.log
    assert caught.value.reason == (
        f"failed to resolve CO-RE relocation <byte_off> [{root}] struct s.gone (0:0 @ offset 0)"
    )


def test_poison_that_is_not_reached_does_no_harm() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("gone", local.u64, 0))
    insns = (
        Insn(op.BPF_ALU64 | op.BPF_MOV, imm=1),
        Insn(op.BPF_JMP | op.BPF_JEQ, off=1),
        Insn(LDX | op.BPF_DW, 0, 1, 0),
        Insn(op.EXIT),
    )
    relos = (CoreRelo(0, root, "0:0", CoreKind.field_exists), CoreRelo(2, root, "0:0", 0))
    prog = ProgSpec("p", "xdp", insns, bpf_prog_type.BPF_PROG_TYPE_XDP, core=relos)
    spec = ObjectSpec("o.o", "o", {"p": prog}, {}, btf_types=local.btf)
    with Machine.boot() as machine:
        load(machine.process(), spec, kernel_btf=kernel.btf).close()


def test_offsets_beyond_a_load() -> None:
    local, kernel = Types(), Types()
    root = local.struct("s", 8, ("a", local.u64, 0))
    kernel.struct("s", 1 << 17, ("a", kernel.u64, 1 << 16))
    found = resolve(local, kernel, root, "0:0", CoreKind.byte_off)
    with pytest.raises(CoreError, match="too large"):
        patch([Insn(LDX | op.BPF_DW, 1, 2, 0)], 0, found)
