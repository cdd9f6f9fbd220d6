# SPDX-License-Identifier: GPL-2.0-only
"""Objects as data: programs, maps, relocations, and what is said about bad ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_writer import (
    AX,
    EM_X86_64,
    ET_EXEC,
    FUNC,
    GLOBAL,
    LOCAL,
    NOTYPE,
    OBJECT,
    SECTION,
    WA,
    A,
    BtfWriter,
    ObjectWriter,
)

import guests
from kernel_model.btf.parse import Btf, Kind
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.macros import (
    BPF_CALL_REL,
    BPF_EXIT_INSN,
    BPF_LD_FUNC,
    BPF_LD_MAP_FD,
    BPF_MOV64_IMM,
    BPF_REG_0,
    BPF_REG_1,
    BPF_REG_2,
    program,
)
from kernel_model.isa.opcodes import BPF_PSEUDO_FUNC, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim.userspace.mapdefs import internal_map_name
from sim.userspace.object import ObjectError, ObjectSpec, parse_object, read_object
from sim.userspace.relocate import MapRef

RETURN_0 = program(BPF_MOV64_IMM(BPF_REG_0, 0), BPF_EXIT_INSN())


def parse(writer: ObjectWriter) -> ObjectSpec:
    return parse_object(writer.build(), "dir/made.bpf.o")


def refused(data: bytes) -> ObjectError:
    """The error for ``data``, which prints as one line that begins with the file's name."""
    with pytest.raises(ObjectError) as caught:
        parse_object(data, "bad.o")
    text = str(caught.value)
    assert text.startswith("bad.o: ")
    assert "\n" not in text
    assert text.isprintable()
    return caught.value


def simple(section: str = "xdp") -> tuple[ObjectWriter, int]:
    writer = ObjectWriter()
    index = writer.section(section, encode(RETURN_0), AX)
    writer.symbol("prog", index, 0, 16)
    writer.section("license", b"GPL\0", WA)
    return writer, index


# The bundled objects


def test_main_guest() -> None:
    spec = read_object(guests.path("xdp_filter.o"))
    assert (spec.name, spec.license) == ("xdp_filter", "GPL")
    entry = spec.programs["xdp_filter"]
    assert entry.type is bpf_prog_type.BPF_PROG_TYPE_XDP
    assert [sub.name for sub in entry.subprogs] == ["xdp_filter", "parse_ports", "account"]
    assert entry.subprogs[1].start == entry.subprogs[0].count
    assert {ref.map for ref in entry.map_refs} >= {"blocklist", "flows", "stages", "xdp_filt.rodata"}
    assert len(entry.func_info) == 3 * entry.func_info_rec_size
    offsets = [row[0] for row in struct.iter_unpack("<4I", entry.line_info)]
    assert offsets == sorted(set(offsets))
    assert {sub.start for sub in entry.subprogs} <= set(offsets)
    assert not entry.core
    assert not entry.externs

    maps = spec.maps
    assert maps["stages"].slots == ((1, "xdp_forward"),)
    assert (maps["flows"].key_size, maps["flows"].value_size, maps["flows"].max_entries) == (40, 16, 1024)
    rodata = maps["xdp_filt.rodata"]
    assert rodata.frozen
    assert rodata.initial is not None
    assert rodata.initial[:8] == struct.pack("<II", 24, 2)
    assert (maps["xdp_filt.bss"].initial, maps["xdp_filt.data"].initial) == (None, b"\1\0\0\0")


def test_btf_is_completed_from_the_elf_file() -> None:
    spec = read_object(guests.path("xdp_filter.o"))
    assert spec.btf is not None
    btf = Btf(spec.btf)
    bss = btf.type(btf.find(".bss", Kind.DATASEC))
    assert bss.size == 16
    assert [(btf.type(v.type).name, v.offset) for v in bss.vars] == [("frames_seen", 0), ("bytes_seen", 8)]
    assert spec.maps["xdp_filt.bss"].value_type == bss.id


def test_references_to_global_data_carry_the_offset() -> None:
    spec = read_object(guests.path("xdp_filter.o"))
    prog = spec.programs["xdp_filter"]
    offsets = {ref.offset for ref in prog.map_refs if ref.map == "xdp_filt.bss"}
    assert offsets == {0, 8}
    for ref in prog.map_refs:
        insn, second = prog.insns[ref.insn], prog.insns[ref.insn + 1]
        assert insn.src == (BPF_PSEUDO_MAP_FD if ref.offset is None else BPF_PSEUDO_MAP_VALUE)
        assert second.imm == (ref.offset or 0)


# Linking


def test_calls_across_sections_append_each_function_once() -> None:
    writer = ObjectWriter()
    main = program(BPF_CALL_REL(-1), BPF_CALL_REL(-1), BPF_CALL_REL(-1), BPF_EXIT_INSN())
    xdp = writer.section("xdp", encode(main), AX)
    leaf = program(BPF_MOV64_IMM(BPF_REG_0, 7), BPF_EXIT_INSN())
    # Within a section a call carries its distance and needs no relocation.
    outer = program(BPF_CALL_REL(-5), BPF_EXIT_INSN())
    text = writer.section(".text", encode([*leaf, *RETURN_0, *outer]), AX)
    writer.symbol("main", xdp, 0, 32)
    inner = writer.symbol("inner", text, 0, 16, bind=LOCAL)
    writer.symbol("unused", text, 16, 16)
    outer_symbol = writer.symbol("outer", text, 32, 16)
    for slot, symbol in enumerate((outer_symbol, inner, outer_symbol)):
        writer.reloc(xdp, slot * 8, symbol, 10)
    spec = parse(writer)
    prog = spec.programs["main"]
    assert list(spec.programs) == ["main"]
    assert [(s.name, s.start, s.count) for s in prog.subprogs] == [
        ("main", 0, 4),
        ("outer", 4, 2),
        ("inner", 6, 2),
    ]
    assert [prog.insns[i].imm for i in (0, 1, 2, 4)] == [3, 4, 1, 1]


def test_static_callees_are_found_by_section_symbol_and_offset() -> None:
    writer = ObjectWriter()
    xdp = writer.section("xdp", encode(program(BPF_CALL_REL(1), BPF_EXIT_INSN())), AX)
    text = writer.section(".text", encode([*RETURN_0, *RETURN_0]), AX)
    section_symbol = writer.symbol("", text, kind=SECTION, bind=LOCAL)
    writer.symbol("main", xdp, 0, 16)
    writer.symbol("first", text, 0, 16, bind=LOCAL)
    writer.symbol("second", text, 16, 16, bind=LOCAL)
    writer.reloc(xdp, 0, section_symbol, 10)
    prog = parse(writer).programs["main"]
    assert [s.name for s in prog.subprogs] == ["main", "second"]
    assert prog.insns[0].imm == 1


def test_callbacks_are_linked_through_their_address() -> None:
    writer = ObjectWriter()
    xdp = writer.section("xdp", encode(program(BPF_LD_FUNC(BPF_REG_2, 0), BPF_EXIT_INSN())), AX)
    text = writer.section(".text", encode([*RETURN_0, *RETURN_0]), AX)
    writer.symbol("main", xdp, 0, 24)
    writer.symbol("other", text, 0, 16)
    callback = writer.symbol("callback", text, 16, 16)
    writer.reloc(xdp, 0, callback, 1)
    prog = parse(writer).programs["main"]
    assert prog.insns[0].src == BPF_PSEUDO_FUNC
    assert prog.insns[0].imm == 2
    assert [s.name for s in prog.subprogs] == ["main", "callback"]


def test_static_functions_beside_a_program_are_its_subprograms() -> None:
    writer = ObjectWriter()
    code = program(BPF_CALL_REL(1), BPF_EXIT_INSN(), RETURN_0)
    tc = writer.section("tc", encode(code), AX)
    writer.symbol("main", tc, 0, 16)
    writer.symbol("helper", tc, 16, 16, bind=LOCAL)
    spec = parse(writer)
    assert list(spec.programs) == ["main"]
    assert [s.name for s in spec.programs["main"].subprogs] == ["main", "helper"]


def test_externs_are_kept_by_name() -> None:
    writer = ObjectWriter()
    xdp = writer.section("xdp", encode(program(BPF_CALL_REL(-1), BPF_EXIT_INSN())), AX)
    writer.symbol("main", xdp, 0, 16)
    kfunc = writer.symbol("bpf_rdonly_cast", 0, kind=NOTYPE)
    writer.reloc(xdp, 0, kfunc, 10)
    prog = parse(writer).programs["main"]
    assert [(e.insn, e.name, e.is_call, e.weak) for e in prog.externs] == [
        (0, "bpf_rdonly_cast", True, False)
    ]


def test_sections_from_compilers_without_function_symbols() -> None:
    writer = ObjectWriter()
    index = writer.section("classifier", encode(RETURN_0), AX)
    writer.symbol("cls_main", index, 0, 0, kind=NOTYPE)
    prog = parse(writer).programs["cls_main"]
    assert prog.type is bpf_prog_type.BPF_PROG_TYPE_SCHED_CLS
    assert len(prog.insns) == 2


@pytest.mark.parametrize(
    ("section", "autoload", "prog_type"),
    [
        ("?xdp", False, bpf_prog_type.BPF_PROG_TYPE_XDP),
        ("kprobe/do_unlinkat", True, bpf_prog_type.BPF_PROG_TYPE_KPROBE),
        ("mystery", True, None),
    ],
)
def test_section_names_give_types(section: str, autoload: bool, prog_type: bpf_prog_type | None) -> None:
    prog = parse(simple(section)[0]).programs["prog"]
    assert (prog.autoload, prog.type) == (autoload, prog_type)
    assert prog.target == ("do_unlinkat" if "/" in section else "")


def test_debug_and_core_records_move_with_their_function() -> None:
    writer = ObjectWriter()
    code = program(BPF_CALL_REL(-1), BPF_EXIT_INSN())
    xdp = writer.section("xdp", encode(code), AX)
    text = writer.section(".text", encode([*RETURN_0, *RETURN_0]), AX)
    writer.symbol("main", xdp, 0, 16)
    writer.symbol("first", text, 0, 16)
    writer.reloc(xdp, 0, writer.symbol("second", text, 16, 16), 10)
    btf = BtfWriter()
    btf.int()
    xdp_name, text_name, access = btf.name("xdp"), btf.name(".text"), btf.name("0:2")

    def info(size: int, *sections: tuple[int, list[tuple[int, ...]]]) -> bytes:
        out = struct.pack("<I", size)
        for name, rows in sections:
            out += struct.pack("<II", name, len(rows))
            out += b"".join(struct.pack(f"<{size // 4}I", *row) for row in rows)
        return out

    # Rows out of order, and of a function that is not part of the program.
    funcs = info(8, (xdp_name, [(0, 11)]), (text_name, [(16, 13), (0, 12)]))
    lines = info(16, (text_name, [(24, 0, 0, 5), (16, 0, 0, 4), (8, 0, 0, 3)]))
    core = info(16, (text_name, [(24, 1, access, 0), (0, 1, access, 2)]))
    spans = (0, len(funcs), len(funcs), len(lines), len(funcs) + len(lines), len(core))
    ext = struct.pack("<HBBI6I", 0xEB9F, 1, 0, 32, *spans) + funcs + lines + core
    writer.section(".BTF", btf.build())
    writer.section(".BTF.ext", ext)
    prog = parse(writer).programs["main"]
    assert [s.name for s in prog.subprogs] == ["main", "second"]
    assert list(struct.iter_unpack("<II", prog.func_info)) == [(0, 11), (2, 13)]
    assert list(struct.iter_unpack("<4I", prog.line_info)) == [(2, 0, 0, 4), (3, 0, 0, 5)]
    assert [tuple(vars(relo).values()) for relo in prog.core] == [(3, 1, "0:2", 0)]

    for at, value, words in (
        (0, 0xEB9E, "magic 0xeb9e"),
        (4, 4096, "header of 4096 bytes"),
        (12, 4096, "func_info of 4096 bytes does not fit"),
        (32, 4, "record size 4 is below 8"),
        (40, 99, "99 func_info records do not fit"),
        (36, 1 << 20, "Invalid name_offset"),
        (44, 3, "offset 3 is inside an instruction"),
    ):
        damaged = bytearray(ext)
        struct.pack_into("<H" if at == 0 else "<I", damaged, at, value)
        writer.sections[-1].data = bytes(damaged)
        error = refused(writer.build())
        assert (error.section, words in error.cause) == (".BTF.ext", True), error


# Maps


@pytest.mark.parametrize(
    ("size", "tail", "numa_node", "extra"),
    [
        (20, b"", 0, ()),
        (24, struct.pack("<I", 3), 0, (("inner_map_idx", 3),)),
        (28, struct.pack("<II", 3, 1), 1, (("inner_map_idx", 3),)),
        (32, bytes(12), 0, ()),
        (
            36,
            struct.pack("<4I", 5, 2, 6, 7),
            0,
            (("id", 5), ("pinning", 2), ("inner_id", 6), ("inner_idx", 7)),
        ),
        (40, bytes(20), 0, ()),
    ],
)
def test_old_map_definitions(
    size: int, tail: bytes, numa_node: int, extra: tuple[tuple[str, int], ...]
) -> None:
    writer = ObjectWriter()
    code = program(BPF_LD_MAP_FD(BPF_REG_1, 0), BPF_EXIT_INSN())
    xdp = writer.section("xdp", encode(code), AX)
    one = struct.pack("<5I", 2, 4, 8, 16, 0) + tail
    other = struct.pack("<5I", 1, 4, 4, 64, 1) + tail
    maps = writer.section("maps", one + other, WA)
    writer.symbol("main", xdp, 0, 24)
    writer.symbol("hash", maps, size, size, kind=OBJECT)
    target = writer.symbol("counts", maps, 0, size, kind=OBJECT)
    writer.reloc(xdp, 0, target, 1)
    spec = parse(writer)
    counts, table = spec.maps["counts"], spec.maps["hash"]
    assert (counts.type, counts.key_size, counts.value_size, counts.max_entries) == (2, 4, 8, 16)
    assert (table.type, table.max_entries, table.map_flags) == (1, 64, 1)
    assert counts.numa_node == numa_node
    assert counts.elf_map == extra
    assert spec.programs["main"].map_refs == (MapRef(0, "counts"),)


def elf_map(kind: int, **fields: int) -> bytes:
    """iproute2's struct bpf_elf_map with keys and values of four bytes."""
    names = ("max_elem", "flags", "id", "pinning", "inner_id", "inner_idx")
    return struct.pack("<9I", kind, 4, 4, *(fields.get(name, 0) for name in names))


def test_tail_calls_by_section_name() -> None:
    writer, _ = simple()
    maps = writer.section("maps", elf_map(3, max_elem=8, id=0x10) + elf_map(3, max_elem=8, id=2), WA)
    writer.symbol("jumps", maps, 0, 36, kind=OBJECT)
    writer.symbol("others", maps, 36, 36, kind=OBJECT)
    for name, section in (("b", "0x10/7"), ("a", "16/0x1"), ("c", "2/010"), ("d", "2/x"), ("e", "3/1")):
        writer.symbol(name, writer.section(section, encode(RETURN_0), AX), 0, 16)
    spec = parse(writer)
    assert spec.maps["jumps"].slots == ((1, "a"), (7, "b"))
    assert spec.maps["others"].slots == ((8, "c"),)
    assert spec.programs["a"].type is None


def test_maps_joined_by_their_ids() -> None:
    writer, _ = simple()
    outer_map = elf_map(12, max_elem=4, inner_id=42, pinning=2)
    rows = outer_map + elf_map(2, max_elem=1, id=42, inner_idx=3, pinning=1)
    maps = writer.section("maps", rows, WA)
    writer.symbol("outer", maps, 0, 36, kind=OBJECT)
    writer.symbol("inner", maps, 36, 36, kind=OBJECT)
    spec = parse(writer)
    outer, inner = spec.maps["outer"], spec.maps["inner"]
    assert outer.slots == ((3, "inner"),)
    assert outer.inner is not None
    assert (outer.inner.type, outer.inner.max_entries) == (2, 1)
    assert (outer.pinning, outer.pin_dir) == (1, "tc/globals")
    assert inner.pin_dir.startswith("tc/")
    assert inner.pin_dir != outer.pin_dir


def test_parameters_of_ir_decoders() -> None:
    """A symbol of .data stands for its number: the address of a parameter is never wanted."""
    writer = ObjectWriter()
    code = struct.pack("<BBhiQ", 0x18, 0, 0, 0, 0) + encode(program(BPF_EXIT_INSN()))
    prog = writer.section("lirc_mode2/x", code, AX)
    maps = writer.section("lirc_mode2/maps", struct.pack("<7I", 1, 4, 4, 8, 0, 0, 0), WA)
    data = writer.section(".data", struct.pack("<2i", 7, -200), WA)
    writer.symbol("decode", prog, 0, len(code))
    writer.symbol("state", maps, 0, 28, kind=OBJECT)
    target = writer.symbol("margin", data, 4, 4, kind=OBJECT)
    writer.reloc(prog, 0, target)
    spec = parse(writer)
    assert spec.programs["decode"].insns[0].imm == -200
    assert list(spec.maps) == ["state"]
    beyond = writer.symbol("lost", data, 6, 4, kind=OBJECT)
    writer.reloc(prog, 0, beyond)
    assert "outside its section" in refused(writer.build()).cause


def test_old_definitions_with_unknown_options_are_refused() -> None:
    writer, _ = simple()
    maps = writer.section("maps", struct.pack("<8I", 2, 4, 8, 16, 0, 0, 0, 9), WA)
    writer.symbol("m", maps, 0, 32, kind=OBJECT)
    error = refused(writer.build())
    assert (error.section, error.offset) == ("maps", 20)
    assert "non-zero options" in error.cause


def btf_map_object(fill: Callable[[BtfWriter, int, int], list[tuple[str, int, int]]]) -> ObjectWriter:
    """An object with one map ``m`` of 64 bytes; ``fill(writer, int, array index)`` gives its members."""
    writer, _ = simple()
    btf = BtfWriter()
    number = btf.int()
    index = btf.int("idx", 4, 0)
    definition = btf.struct("", 64, fill(btf, number, index))
    var = btf.var("m", definition)
    btf.datasec(".maps", 0, [(var, 0, 64)])
    maps = writer.section(".maps", bytes(64), WA)
    writer.symbol("m", maps, 0, 64, kind=OBJECT)
    writer.section(".BTF", btf.build())
    return writer


def members(btf: BtfWriter, index: int, **values: int) -> list[tuple[str, int, int]]:
    return [(name, btf.uint_attr(value, index), 64 * i) for i, (name, value) in enumerate(values.items())]


def test_map_attributes_of_btf() -> None:
    def fill(btf: BtfWriter, number: int, index: int) -> list[tuple[str, int, int]]:
        rows = members(btf, index, type=1, max_entries=10, map_flags=1, map_extra=3, pinning=1)
        pair = btf.struct("pair", 8, [("a", number, 0), ("b", number, 32)])
        alias = btf.add(8, "pair_t", pair)
        return [*rows, ("key", btf.ptr(number), 320), ("value", btf.ptr(alias), 384)]

    spec = parse(btf_map_object(fill)).maps["m"]
    assert (spec.type, spec.max_entries, spec.map_flags, spec.map_extra, spec.pinning) == (1, 10, 1, 3, 1)
    assert (spec.key_size, spec.value_size) == (4, 8)
    assert spec.key_type == 1


def test_inner_maps() -> None:
    def fill(btf: BtfWriter, number: int, index: int) -> list[tuple[str, int, int]]:
        inner = btf.struct(
            "inner", 24, members(btf, index, type=2, max_entries=1, key_size=4, value_size=8)[:3]
        )
        rows = members(btf, index, type=int(bpf_map_type.BPF_MAP_TYPE_HASH_OF_MAPS), max_entries=4)
        return [*rows, ("key", btf.ptr(number), 128), ("values", btf.array(btf.ptr(inner), index, 0), 192)]

    spec = parse(btf_map_object(fill)).maps["m"]
    assert spec.value_size == 4
    assert spec.inner is not None
    assert (spec.inner.name, spec.inner.type, spec.inner.max_entries) == ("m.inner", 2, 1)


BAD_MAPS: dict[str, tuple[Callable[[BtfWriter, int, int], list[tuple[str, int, int]]], str]] = {
    "no type": (lambda b, n, i: members(b, i, max_entries=1), "map type isn't specified"),
    "unknown field": (lambda b, n, i: members(b, i, type=1, colour=1), "unknown field 'colour'"),
    "conflicting sizes": (
        lambda b, n, i: [*members(b, i, type=1, key_size=8), ("key", b.ptr(n), 192)],
        "conflicting key size 8 != 4",
    ),
    "key is no pointer": (lambda b, n, i: [*members(b, i, type=1), ("key", n, 64)], "key spec is not PTR"),
    "attribute is an int": (lambda b, n, i: [("type", n, 0)], "not a pointer to an array"),
    "pinning": (lambda b, n, i: members(b, i, type=1, pinning=7), "invalid pinning value 7"),
    "value of void": (lambda b, n, i: [*members(b, i, type=1), ("value", b.ptr(0), 64)], "value size"),
    "values of a hash": (
        lambda b, n, i: [*members(b, i, type=1), ("values", b.array(b.ptr(n), i, 0), 64)],
        "map-in-map or prog-array",
    ),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_map_definitions(name: str) -> None:
    fill, words = BAD_MAPS[name]
    error = refused(btf_map_object(fill).build())
    assert error.section == ".maps"
    assert words in error.cause
    assert "map 'm'" in error.cause


@pytest.mark.parametrize(
    ("object_name", "section", "expected"),
    [
        ("xdp_filter", ".rodata", "xdp_filt.rodata"),
        ("my_object_name", ".bss", "my_objec.bss"),
        ("my_object_name", ".kconfig", "my_obje.kconfig"),
        ("x", ".data", "x.data"),
        ("x", ".rodata.abracadabra", ".rodata.abracad"),
        ("a-b", ".data", "a_b.data"),
    ],
)
def test_names_of_data_maps(object_name: str, section: str, expected: str) -> None:
    assert internal_map_name(object_name, section) == expected


# Bad files


def _headers(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(simple()[0].build())
    change(data)
    return bytes(data)


def _with(section: str, data: bytes, flags: int = WA) -> bytes:
    writer, _ = simple()
    writer.section(section, data, flags)
    return writer.build()


def _bad_reloc(offset: int, section: int, kind: int = OBJECT) -> bytes:
    writer = ObjectWriter()
    code = program(BPF_LD_MAP_FD(BPF_REG_1, 0), BPF_EXIT_INSN())
    xdp = writer.section("xdp", encode(code), AX)
    writer.section("notes", bytes(8), A)
    writer.symbol("prog", xdp, 0, 24)
    target = writer.symbol("thing", section, 0, 8, kind=kind)
    writer.reloc(xdp, offset, target)
    return writer.build()


def _function(value: int, size: int) -> bytes:
    writer = ObjectWriter()
    index = writer.section("xdp", encode(RETURN_0), AX)
    writer.symbol("prog", index, value, size)
    return writer.build()


def _twins() -> bytes:
    writer, _ = simple()
    index = writer.section("tc", encode(RETURN_0), AX)
    writer.symbol("prog", index, 0, 16)
    return writer.build()


def _bad_call() -> bytes:
    writer = ObjectWriter()
    index = writer.section("xdp", encode(program(BPF_CALL_REL(5), BPF_EXIT_INSN())), AX)
    writer.symbol("prog", index, 0, 16)
    return writer.build()


def _half_load() -> bytes:
    writer = ObjectWriter()
    index = writer.section("xdp", encode([Insn(0x18, 1)]), AX)
    writer.symbol("prog", index, 0, 8)
    return writer.build()


BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "text": (lambda: b"#include <linux/bpf.h>\n", "not an ELF file"),
    "header only": (lambda: simple()[0].build()[:40], "truncated in the ELF header"),
    "32 bits": (lambda: _headers(lambda d: d.__setitem__(4, 1)), "32-bit"),
    "big endian": (lambda: _headers(lambda d: d.__setitem__(5, 2)), "big-endian"),
    "x86": (lambda: _headers(lambda d: struct.pack_into("<H", d, 18, EM_X86_64)), "EM_X86_64, not for BPF"),
    "executable": (lambda: _headers(lambda d: struct.pack_into("<H", d, 16, ET_EXEC)), "ET_EXEC"),
    "cut": (lambda: simple()[0].build()[:-100], "damaged or truncated"),
    "section headers gone": (
        lambda: _headers(lambda d: struct.pack_into("<Q", d, 40, 1 << 60)),
        "damaged or truncated",
    ),
    "no symbols": (lambda: _stripped(), "no symbol table"),
    "odd code": (lambda: _with("tc", bytes(12), AX), "no multiple of 8"),
    "short version": (lambda: _with("version", b"\1\2"), "kver"),
    "maps without BTF": (lambda: _with(".maps", bytes(8)), "no .BTF section"),
    "garbage BTF": (lambda: _with(".BTF", b"garbage BTF data......."), "BTF"),
    "relocation to nothing": (lambda: _bad_reloc(0, 2), "bad relo against 'thing' in section 'notes'"),
    "relocation to common": (lambda: _bad_reloc(0, 0xFFF2), "special section 0xfff2"),
    "relocation in mid-instruction": (lambda: _bad_reloc(4, 2), "inside an instruction"),
    "relocation outside": (lambda: _bad_reloc(4096, 2), "outside xdp"),
    "relocation of exit": (lambda: _bad_reloc(16, 2), "invalid relo"),
    "function too long": (lambda: _function(0, 24), "crosses section boundary"),
    "function misaligned": (lambda: _function(4, 8), "misaligned"),
    "two of a name": (_twins, "second program named 'prog'"),
    "call into nowhere": (_bad_call, "no function"),
    "half a load": (_half_load, "lacks its second half"),
}


def _stripped() -> bytes:
    writer = ObjectWriter()
    writer.section("xdp", encode(RETURN_0), AX)
    return writer.build()


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_end_in_one_clear_line(name: str) -> None:
    make, words = BAD_FILES[name]
    assert words in str(refused(make()))


def test_missing_files_name_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match="No such file"):
        read_object(tmp_path / "none.o")
    with pytest.raises(ObjectError, match="directory"):
        read_object(tmp_path)


def test_names_from_the_file_cannot_break_the_line() -> None:
    writer = ObjectWriter()
    index = writer.section("xdp", encode(RETURN_0), AX)
    writer.symbol("evil\n\x1b[31mname", index, 0, 24)
    assert "\\x0a\\x1b[31m" in str(refused(writer.build()))


def _fuzz(cases: int, seed: int) -> int:
    rnd = random.Random(seed)
    bases = [guests.path(n).read_bytes() for n in ("xdp_filter.o", "bench/tail_chain.bpf.o")]
    bases.append(parse_ready())
    failed = 0
    for _ in range(cases):
        data = bytearray(rnd.choice(bases))
        for _ in range(rnd.choice((1, 2, 8))):
            at = rnd.randrange(len(data))
            if rnd.random() < 0.5:
                at = rnd.choice((rnd.randrange(64), len(data) - 1 - rnd.randrange(64 * 18)))
            data[at] = rnd.choice((0, 1, 255, rnd.randrange(256), data[at] ^ 1 << rnd.randrange(8)))
        cut = len(data) if rnd.random() < 0.8 else rnd.randrange(len(data))
        try:
            parse_object(bytes(data[:cut]), "bad.o")
        except ObjectError as error:
            failed += 1
            assert str(error).isprintable()
    return failed


def parse_ready() -> bytes:
    """A small object with old maps, so that most random changes hit something."""
    writer, index = simple()
    maps = writer.section("maps", struct.pack("<5I", 2, 4, 8, 16, 0), WA)
    writer.symbol("m", maps, 0, 20, kind=OBJECT, bind=GLOBAL)
    writer.symbol("f", index, 8, 8, kind=FUNC, bind=LOCAL)
    return writer.build()


def test_damaged_objects_raise_nothing_else() -> None:
    assert _fuzz(400, 1) > 40


@pytest.mark.campaign
def test_damaged_objects_raise_nothing_else_in_many_cases() -> None:
    assert _fuzz(50_000, 2) > 5_000
