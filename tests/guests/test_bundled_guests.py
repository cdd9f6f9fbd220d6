# SPDX-License-Identifier: GPL-2.0-only
"""The bundled guests: built files belong to their sources, and they do what they are for."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import host_bpf
import pytest
from bench_results import PACKET, RESULTS, siphash24
from elf_writer import AX, EM_X86_64, NOTYPE, A, ObjectWriter
from host_process import HostProcess, host_cpus
from xdp_oracle import ABORTED, DROP, PASS, REDIRECT, TX, Oracle

import guests
from guests.bench.flatten import R_X86_64_PLT32, flatten
from guests.make_pcap import frames
from guests.xdp_filter import BLOCKED, Counter, Flow, config
from sim.userspace.elf import ElfError
from sim.userspace.loader import LoadedObject, load
from sim.userspace.object import read_object
from sim.userspace.pcap import format_pcap, read_pcap

ROOT = Path(guests.__file__).parent.parent
BENCH = ("alu_mix", "xdp_flow", "array_atomic", "tail_chain", "csum512", "siphash512")
BUILT_BY = 14
"""The clang whose output is committed."""


def test_guests_are_found_by_name() -> None:
    assert guests.path("bench/csum512.bin").stat().st_size > 0
    with pytest.raises(FileNotFoundError, match="no bundled guest 'nobody'"):
        guests.path("nobody")


def test_the_capture_is_what_its_script_makes() -> None:
    assert format_pcap(frames()) == guests.path("bundled.pcap").read_bytes()


def _clang_version() -> int:
    if not all(shutil.which(tool) for tool in ("clang", "ld.lld", "llvm-strip", "make")):
        return 0
    macro = subprocess.run(
        ["clang", "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True, check=True
    )
    return next(int(line.split()[2]) for line in macro.stdout.splitlines() if "__clang_major__" in line)


def test_built_files_are_reproducible_from_their_sources(tmp_path: Path) -> None:
    if _clang_version() != BUILT_BY:
        pytest.skip(f"the committed files were built by clang {BUILT_BY} with lld, which is not here")
    copy = tmp_path / "elsewhere" / "guests"
    shutil.copytree(ROOT / "guests", copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for target in ("clean", "all"):
        subprocess.run(
            ["make", "-s", "-C", str(copy), f"PYTHON={sys.executable}", target], check=True, env=environment
        )
    suffixes = (".o", ".elf", ".bin", ".json", ".pcap")
    built = sorted(p.relative_to(copy) for p in copy.rglob("*") if p.suffix in suffixes)
    committed = ROOT / "guests"
    assert built == sorted(p.relative_to(committed) for p in committed.rglob("*") if p.suffix in suffixes)
    assert [p for p in built if (copy / p).read_bytes() != (ROOT / "guests" / p).read_bytes()] == []


def test_built_files_name_no_path_of_the_machine_that_built_them() -> None:
    for path in (ROOT / "guests").rglob("*"):
        if path.suffix in (".o", ".elf", ".bin"):
            data = path.read_bytes()
            assert not [p for p in (b"/work", b"/home", b"/root", b"/tmp", b"/usr") if p in data], path


# The main job


def test_flows_and_counters_pack_as_the_program_lays_them_out() -> None:
    maps = read_object(guests.path("xdp_filter.o")).maps
    for flow in (*BLOCKED, Flow("1.2.3.4", "5.6.7.8", 1, 2, 17)):
        assert len(flow.pack()) == maps["flows"].key_size
        assert Flow.unpack(flow.pack()) == flow
    assert Flow("1.2.3.4", "5.6.7.8", 1, 2, 17).pack()[:4] == b"\1\2\3\4"
    assert len(Counter().pack()) == maps["verdicts"].value_size
    assert len(config()) == maps["config"].value_size


def test_the_capture_meets_every_verdict() -> None:
    oracle = Oracle({flow: Counter() for flow in BLOCKED})
    verdicts = oracle.run(frame.data for frame in read_pcap(guests.path("bundled.pcap")))
    assert {v: verdicts.count(v) for v in range(5)} == {
        ABORTED: 12,
        DROP: 60,
        PASS: 187,
        TX: 24,
        REDIRECT: 20,
    }
    assert all(counter.packets for counter in oracle.blocked.values())


@host_bpf.host_kernel
def test_the_main_job_on_the_hosts_kernel() -> None:
    captured = [frame.data for frame in read_pcap(guests.path("bundled.pcap"))]
    oracle = Oracle({flow: Counter() for flow in BLOCKED})
    expected = oracle.run(captured)
    with load(HostProcess(), read_object(guests.path("xdp_filter.o")), cpus=host_cpus()) as job:
        bpf, maps = job.bpf, job.maps
        for flow in BLOCKED:
            bpf.map_update(maps["blocklist"].fd, flow.pack(), Counter().pack())
        runs = [bpf.prog_test_run(job.progs["xdp_filter"].fd, data) for data in captured]
        assert [run.retval for run in runs] == expected
        for data, run in zip(captured, runs, strict=True):
            # Frames are sent back with the addresses swapped; all others stay as they were.
            assert run.data == (data[6:12] + data[:6] + data[12:] if run.retval == TX else data)
        assert _table(job, "flows") == oracle.flows
        assert _table(job, "blocklist") == oracle.blocked
        assert _totals(job) == oracle.verdicts
        bss = bpf.map_lookup(maps["xdp_filt.bss"].fd, bytes(4), 16)
        assert bss == struct.pack("<QQ", oracle.frames, oracle.octets)


def _table(job: LoadedObject, name: str) -> dict[Flow, Counter]:
    fd = job.maps[name].fd
    values = {key: job.bpf.map_lookup(fd, key, 16) for key in job.bpf.map_keys(fd, 40)}
    return {Flow.unpack(key): Counter.unpack(value) for key, value in values.items() if value is not None}


def _totals(job: LoadedObject) -> list[Counter]:
    out = []
    for verdict in range(5):
        value = job.bpf.map_lookup(job.maps["verdicts"].fd, struct.pack("<I", verdict), 16 * host_cpus())
        assert value is not None
        rows = [Counter.unpack(value[i : i + 16]) for i in range(0, len(value), 16)]
        out.append(Counter(sum(r.packets for r in rows), sum(r.octets for r in rows)))
    return out


@host_bpf.host_kernel
def test_config_and_rodata_steer_the_main_job_on_the_hosts_kernel() -> None:
    flood = next(f.data for f in frames() if f.data[34:38] == struct.pack(">HH", 9999, 5353))
    spec = read_object(guests.path("xdp_filter.o"))
    rodata = spec.maps["xdp_filt.rodata"].initial
    assert rodata is not None
    tight = {"xdp_filt.rodata": struct.pack("<I", 2) + rodata[4:]}
    with load(HostProcess(), spec, initial=tight) as job:
        fd = job.progs["xdp_filter"].fd
        assert [job.bpf.prog_test_run(fd, flood).retval for _ in range(4)] == [PASS, PASS, DROP, DROP]
        job.bpf.map_update(job.maps["config"].fd, bytes(4), config(rate_limit=5))
        assert [job.bpf.prog_test_run(fd, flood).retval for _ in range(2)] == [PASS, DROP]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="an x86-64 Linux program"
)
@host_bpf.host_kernel
def test_the_controller_on_the_hosts_kernel() -> None:
    done = subprocess.run([str(guests.path("controller.elf"))], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("controller: verdict 2, counts[1] = 5\n", 0)


# The bench workloads


def test_the_reference_siphash_is_siphash() -> None:
    # The vector of the SipHash paper, appendix A.
    assert siphash24(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


@host_bpf.host_kernel
@pytest.mark.parametrize("name", BENCH)
def test_workloads_on_the_hosts_kernel(name: str) -> None:
    with load(HostProcess(), read_object(guests.path(f"bench/{name}.bpf.o"))) as job:
        assert job.bpf.prog_test_run(job.progs[name].fd, PACKET).retval == RESULTS[name](PACKET)
        if name == "tail_chain":
            assert job.bpf.map_lookup(job.maps["tail_cha.bss"].fd, bytes(4), 8) == struct.pack("<Q", 6)
        if name == "array_atomic":
            sums = [job.bpf.map_lookup(job.maps["sums"].fd, struct.pack("<I", i), 8) for i in range(64)]
            assert sums == [struct.pack("<Q", 1)] * 64


@pytest.mark.parametrize("name", BENCH)
def test_twins_come_with_their_symbols(name: str) -> None:
    table = json.loads(guests.path(f"bench/{name}.json").read_text())
    assert table["schema"] == 1
    assert table["size"] == guests.path(f"bench/{name}.bin").stat().st_size
    assert 0 <= table["symbols"][name] < table["size"]


def _native(text: bytes, data: bytes = b"") -> ObjectWriter:
    writer = ObjectWriter(machine=EM_X86_64)
    index = writer.section(".text.xdp", text, AX)
    writer.symbol("entry", index, 0, len(text))
    if data:
        writer.section(".rodata", data, A)
    return writer


def test_flattening_resolves_calls_between_sections(tmp_path: Path) -> None:
    writer = _native(b"\xe8\0\0\0\0\xc3")
    callee = writer.section(".text", b"\xb8\7\0\0\0\xc3", AX)
    symbol = writer.symbol("callee", callee, 0, 6)
    writer.reloc(1, 1, symbol, R_X86_64_PLT32, addend=-4)
    path = tmp_path / "x.o"
    path.write_bytes(writer.build())
    code, symbols = flatten(str(path))
    assert symbols == {"callee": 16, "entry": 0}
    assert code == b"\xe8\x0b\0\0\0\xc3" + b"\xcc" * 10 + b"\xb8\7\0\0\0\xc3"


def test_flattening_refuses_what_cannot_stand_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(_native(b"\xc3", b"constant").build())
    with pytest.raises(ElfError, match="needs data beside it"):
        flatten(str(path))
    writer = _native(b"\xe8\0\0\0\0\xc3")
    writer.reloc(1, 1, writer.symbol("memset", 0, kind=NOTYPE), R_X86_64_PLT32)
    path.write_bytes(writer.build())
    with pytest.raises(ElfError, match="relocation to 'memset' outside"):
        flatten(str(path))


@host_bpf.host_kernel
def test_xdp_flow_with_its_maps_filled_on_the_hosts_kernel() -> None:
    frame = next(f.data for f in frames() if f.data[34:38] == struct.pack(">HH", 9999, 5353))
    with load(
        HostProcess(), read_object(guests.path("bench/xdp_flow.bpf.o")), max_entries={"flows": 16}
    ) as job:
        key = frame[26:38] + struct.pack("<I", 17)
        job.bpf.map_update(job.maps["flows"].fd, key, struct.pack("<II", 3, DROP))
        assert job.bpf.prog_test_run(job.progs["xdp_flow"].fd, frame, repeat=5).retval == DROP
        value = job.bpf.map_lookup(job.maps["counters"].fd, struct.pack("<I", 3), 16 * host_cpus())
        assert value is not None
        assert sum(struct.unpack(f"<{len(value) // 8}Q", value)[::2]) == 5
