# SPDX-License-Identifier: GPL-2.0-only
"""The loader's system calls, recorded by a process without a kernel."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from fake_process import Call, FakeProcess

import guests
from kernel_model.btf.vmlinux import kernel_types
from kernel_model.isa.insn import decode, imm64
from kernel_model.isa.opcodes import BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim import Machine
from sim.userspace.bpf import Bpf
from sim.userspace.btf_ext import CoreRelo
from sim.userspace.externs import Extern
from sim.userspace.loader import LoadError, UnsupportedObject, load
from sim.userspace.mapdefs import MapSpec
from sim.userspace.object import ObjectError, ObjectSpec, read_object
from sim.userspace.relocate import ExternRef


@pytest.fixture(scope="module")
def spec() -> ObjectSpec:
    return read_object(guests.path("xdp_filter.o"))


def names(process: FakeProcess) -> list[str]:
    return [call.name for call in process.calls]


def of(process: FakeProcess, name: str) -> list[Call]:
    return [call for call in process.calls if call.name == name]


def test_order_and_content_of_the_calls(spec: ObjectSpec) -> None:
    process = FakeProcess()
    loaded = load(process, spec)
    assert names(process) == [
        "BTF_LOAD",
        *["MAP_CREATE"] * 6,
        *["MAP_CREATE", "MAP_UPDATE_ELEM", "MAP_FREEZE"],
        *["MAP_CREATE", "MAP_CREATE", "MAP_UPDATE_ELEM"],
        *["PROG_LOAD"] * 2,
        "MAP_UPDATE_ELEM",
    ]
    assert of(process, "BTF_LOAD")[0].blobs["btf"] == spec.btf
    rodata = next(c for c in of(process, "MAP_CREATE") if c.attr.text("map_name") == "xdp_filt.rodata")
    assert (rodata.attr["map_flags"], rodata.attr["btf_fd"]) == (0x480, loaded.btf_fd)
    assert rodata.attr["btf_value_type_id"] == spec.maps["xdp_filt.rodata"].value_type
    assert of(process, "MAP_FREEZE")[0].attr["map_fd"] == loaded.maps["xdp_filt.rodata"].fd

    slot = process.calls[-1]
    assert (slot.attr["map_fd"], slot.blobs["key"]) == (loaded.maps["stages"].fd, b"\1\0\0\0")
    value = process.read(slot.attr["value"], 4)
    assert int.from_bytes(value, "little") == loaded.progs["xdp_forward"].fd


def test_programs_carry_fds_type_and_debug_information(spec: ObjectSpec) -> None:
    process = FakeProcess()
    loaded = load(process, spec)
    call = next(c for c in of(process, "PROG_LOAD") if c.attr.text("prog_name") == "xdp_filter")
    prog = spec.programs["xdp_filter"]
    assert call.attr["prog_type"] == bpf_prog_type.BPF_PROG_TYPE_XDP
    assert call.attr["expected_attach_type"] == 37
    assert call.blobs["license"] == b"GPL\0"
    assert (call.attr["func_info_cnt"], call.attr["func_info_rec_size"]) == (3, 8)
    assert call.attr["line_info_cnt"] * call.attr["line_info_rec_size"] == len(prog.line_info)
    assert (call.attr["log_level"], call.attr["log_buf"]) == (0, 0)
    insns = decode(call.blobs["insns"])
    for ref in prog.map_refs:
        fd = loaded.maps[ref.map].fd
        assert imm64(insns, ref.insn) == fd | (ref.offset or 0) << 32
        wanted = BPF_PSEUDO_MAP_FD if ref.offset is None else BPF_PSEUDO_MAP_VALUE
        assert insns[ref.insn].src == wanted


def test_close_closes_everything(spec: ObjectSpec) -> None:
    process = FakeProcess()
    with load(process, spec) as loaded:
        assert process.open == set(loaded.fds())
        assert len(process.open) == 1 + 9 + 2
    assert process.open == set()


def test_a_refused_program_is_tried_again_for_its_log(spec: ObjectSpec) -> None:
    log = b"R0 !read_ok\nprocessed 3 insns (limit 1000000)\n\0"

    def answer(process: FakeProcess, call: Call) -> int | None:
        if call.name != "PROG_LOAD":
            return None
        if call.attr["log_buf"]:
            process.write(call.attr["log_buf"], log)
        return -errno.EACCES

    process = FakeProcess(answer)
    with pytest.raises(LoadError) as caught:
        load(process, spec)
    error = caught.value
    assert [c.attr["log_level"] for c in of(process, "PROG_LOAD")] == [0, 1]
    assert (error.errno, error.what, error.reason) == (errno.EACCES, "prog 'xdp_forward'", "R0 !read_ok")
    assert error.log.endswith("(limit 1000000)\n")
    assert str(error).endswith(": prog 'xdp_forward': bpf(BPF_PROG_LOAD): EACCES: R0 !read_ok")
    assert process.open == set()


def test_a_log_that_does_not_fit_gets_more_room(spec: ObjectSpec) -> None:
    def answer(process: FakeProcess, call: Call) -> int | None:
        if call.name == "PROG_LOAD" and call.attr["log_size"] < 4 * Bpf.LOG_SIZE:
            return -errno.ENOSPC
        return None

    process = FakeProcess(answer)
    load(process, spec, programs=["xdp_forward"], log_level=2)
    sizes = [c.attr["log_size"] // Bpf.LOG_SIZE for c in of(process, "PROG_LOAD")]
    assert sizes == [1, 2, 4]


def test_maps_that_take_no_description_are_made_without(spec: ObjectSpec) -> None:
    def answer(process: FakeProcess, call: Call) -> int | None:
        return -errno.EINVAL if call.name == "MAP_CREATE" and call.attr["btf_fd"] else None

    process = FakeProcess(answer)
    load(process, spec)
    made = [c.attr.text("map_name") for c in of(process, "MAP_CREATE") if not c.attr["btf_fd"]]
    assert sorted(made) == sorted(spec.maps)


def test_failing_maps_are_named(spec: ObjectSpec) -> None:
    process = FakeProcess(lambda p, c: -errno.ENOMEM if c.name == "MAP_CREATE" else None)
    with pytest.raises(LoadError, match=r"map 'stages': bpf\(BPF_MAP_CREATE\): ENOMEM"):
        load(process, spec)
    assert process.open == set()


def _with_map(spec: ObjectSpec, made: MapSpec) -> ObjectSpec:
    return replace(spec, maps={**spec.maps, made.name: made})


def test_inner_map_is_made_first_and_closed(spec: ObjectSpec) -> None:
    inner = MapSpec("outer.inner", bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    outer = MapSpec(
        "outer", bpf_map_type.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 8, inner=inner, slots=((2, "config"),)
    )
    process = FakeProcess()
    loaded = load(process, _with_map(spec, outer))
    calls = of(process, "MAP_CREATE")[-2:]
    assert [c.attr.text("map_name") for c in calls] == ["outer.inner", "outer"]
    inner_fd = calls[1].attr["inner_map_fd"]
    assert inner_fd not in process.open
    update = next(c for c in of(process, "MAP_UPDATE_ELEM") if c.attr["map_fd"] == loaded.maps["outer"].fd)
    assert update.blobs["key"] == b"\2\0\0\0"


@pytest.mark.parametrize(
    ("map_type", "given_entries", "entries"),
    [
        (bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 0, 4),
        (bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 2, 2),
        (bpf_map_type.BPF_MAP_TYPE_RINGBUF, 5000, 8192),
        (bpf_map_type.BPF_MAP_TYPE_RINGBUF, 1, 4096),
        (bpf_map_type.BPF_MAP_TYPE_HASH, 5000, 5000),
    ],
)
def test_sizes_that_libbpf_adjusts(
    spec: ObjectSpec, map_type: bpf_map_type, given_entries: int, entries: int
) -> None:
    process = FakeProcess()
    load(process, _with_map(spec, MapSpec("extra", map_type, 4, 4, given_entries)), cpus=4)
    assert of(process, "MAP_CREATE")[-1].attr["max_entries"] == entries


def test_pinned_maps_are_reused_or_pinned(spec: ObjectSpec) -> None:
    def missing(process: FakeProcess, call: Call) -> int | None:
        return -errno.ENOENT if call.name == "OBJ_GET" else None

    made = MapSpec("shared", bpf_map_type.BPF_MAP_TYPE_HASH, 4, 4, 8, pinning=1)
    process = FakeProcess(missing)
    loaded = load(process, _with_map(spec, made), pin_root="/sys/fs/bpf/here")
    pin = of(process, "OBJ_PIN")[0]
    assert pin.blobs["pathname"].split(b"\0")[0] == b"/sys/fs/bpf/here/shared"
    assert pin.attr["bpf_fd"] == loaded.maps["shared"].fd

    def present(process: FakeProcess, call: Call) -> int | None:
        if call.name == "OBJ_GET_INFO_BY_FD":
            process.write(call.attr["info"], b"\1\0\0\0" + bytes(4) + b"\4\0\0\0\4\0\0\0\x10\0\0\0")
        return None

    process = FakeProcess(present)
    with pytest.raises(ObjectError, match="max_entries of the map pinned at '/sys/fs/bpf/shared' differs"):
        load(process, _with_map(spec, made))
    assert process.open == set()
    process = FakeProcess(present)
    load(process, _with_map(spec, replace(made, max_entries=16)))
    assert "shared" not in [c.attr.text("map_name") for c in of(process, "MAP_CREATE")]


def test_pins_below_directories(machine: Machine, spec: ObjectSpec) -> None:
    """The second object finds what the first one pinned, in directories made on the way."""
    flows = replace(spec.maps["flows"], pinning=1, pin_dir="tc/globals")
    process = machine.process()
    bpf = Bpf(process)
    ids = []
    for _ in range(2):
        with load(process, _with_map(spec, flows)) as loaded:
            ids.append(bpf.obj_info(loaded.maps["flows"].fd, "bpf_map_info")[0]["id"])
    assert ids[0] == ids[1]
    bpf.close(bpf.obj_get("/sys/fs/bpf/tc/globals/flows"))


def test_initial_values_and_sizes_can_be_given(spec: ObjectSpec) -> None:
    process = FakeProcess()
    load(process, spec, initial={"xdp_filt.data": b"\7\0\0\0"}, max_entries={"flows": 9})
    flows = next(c for c in of(process, "MAP_CREATE") if c.attr.text("map_name") == "flows")
    assert flows.attr["max_entries"] == 9
    with pytest.raises(ObjectError, match="2 initial bytes for a value of 4"):
        load(FakeProcess(), spec, initial={"xdp_filt.data": b"\7\0"})
    with pytest.raises(ObjectError, match="no map named 'none'"):
        load(FakeProcess(), spec, initial={"none": b""})


def test_what_to_load(spec: ObjectSpec) -> None:
    with pytest.raises(ObjectError, match="no program named 'nobody'"):
        load(FakeProcess(), spec, programs=["nobody"])
    with pytest.raises(ObjectError, match="doesn't contain a BPF program"):
        load(FakeProcess(), replace(spec, programs={}))
    with pytest.raises(ObjectError, match=r"slot \[1\] wants prog 'xdp_forward', which was not loaded"):
        load(FakeProcess(), spec, programs=["xdp_filter"])


def test_sections_that_say_nothing_need_a_type(spec: ObjectSpec) -> None:
    mystery = replace(spec.programs["xdp_forward"], type=None, section="mystery")
    changed = replace(spec, programs={"xdp_forward": mystery})
    with pytest.raises(ObjectError, match="missing BPF prog type, check ELF section name 'mystery'"):
        load(FakeProcess(), changed)
    process = FakeProcess()
    load(process, changed, prog_type=bpf_prog_type.BPF_PROG_TYPE_XDP)
    assert of(process, "PROG_LOAD")[0].attr["prog_type"] == bpf_prog_type.BPF_PROG_TYPE_XDP


def test_core_relocations_that_cannot_be_done_are_named(spec: ObjectSpec) -> None:
    prog = spec.programs["xdp_forward"]
    core = replace(prog, core=(CoreRelo(3, spec.maps["flows"].key_type, "0:99", 0),))
    with pytest.raises(ObjectError, match=r"prog 'xdp_forward': CO-RE relocation: .*member 99") as caught:
        load(FakeProcess(), replace(spec, programs={"xdp_forward": core}), kernel_btf=spec.btf_types)
    assert caught.value.offset == 24


def test_what_is_not_supported_is_named(spec: ObjectSpec) -> None:
    assert spec.btf_types is not None
    prog = spec.programs["xdp_forward"]
    process = FakeProcess()
    extern = replace(prog, externs=(ExternRef(1, "bpf_cast", True, False),))
    declared = Extern("bpf_cast", ".ksyms", False, 1, is_func=True)
    with pytest.raises(ObjectError, match=r"extern \(func ksym\) 'bpf_cast': not found"):
        load(
            process,
            replace(spec, programs={"xdp_forward": extern}, externs=(declared,)),
            kernel_btf=kernel_types(),
        )
    with pytest.raises(UnsupportedObject, match="struct_ops"):
        load(process, replace(spec, struct_ops=(".struct_ops",)))
    assert process.open == set()
