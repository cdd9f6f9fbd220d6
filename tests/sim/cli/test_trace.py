# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim trace``: recording, showing again, choosing, comparing, exporting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_objects import write_object

from sim.cli.errors import Status
from sim.cli.main import run


def bpfsim(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = run([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return status, out, err


def as_json(capsys: pytest.CaptureFixture[str], *args: object, status: int = Status.OK) -> dict[str, Any]:
    found, out, err = bpfsim(capsys, "trace", *args, "--json")
    assert (found, err) == (status, "")
    document: dict[str, Any] = json.loads(out)
    assert (document["schema"], document["command"]) == (1, "trace")
    return document


@pytest.fixture
def recorded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    path = tmp_path / "jit.trace"
    assert bpfsim(capsys, "trace", "--engine", "jit", "--packets", "3..5", "-o", path)[0] == Status.OK
    return path


def test_recording_says_what_it_holds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t"
    document = as_json(capsys, "--engine", "interpreter", "--packets", "all", "-o", path)
    assert (document["packets"], document["engine"], document["cut"]) == (303, "interpreter", False)
    assert document["bytes"] == path.stat().st_size
    assert document["bytes"] / document["instructions"] < 1
    status, out, _ = bpfsim(
        capsys, "trace", "--engine", "jit", "--packets", "..1", "-o", path, "--limit", "50"
    )
    assert status == Status.OK
    assert out.startswith(f"{path}: jit, 1 packets, 1 program runs, 50 instructions; ")
    assert "the recording was full" in out
    assert "too many steps to record" in bpfsim(capsys, "trace", path)[1]


def test_a_recorded_trace_shows_as_the_live_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, recorded: Path
) -> None:
    live = bpfsim(capsys, "trace", "--engine", "jit", "--packets", "3..5")
    assert bpfsim(capsys, "trace", recorded) == live
    assert live[1].count("verdict: ") == 3
    assert as_json(capsys, recorded) == as_json(capsys, "--engine", "jit", "--packets", "3..5")
    one = tmp_path / "one"
    bpfsim(capsys, "trace", "--engine", "interpreter", "--packet", "2", "-o", one)
    assert bpfsim(capsys, "trace", one) == bpfsim(capsys, "trace", "--engine", "interpreter", "--packet", "2")


def test_choosing_steps(capsys: pytest.CaptureFixture[str], recorded: Path) -> None:
    whole = as_json(capsys, recorded)
    some = as_json(capsys, recorded, "--slots", "3..9", "--prog", "xdp_filter", "--reg", "r4", "--reg", "R8")
    rows = [row for packet in some["packets"] for run_ in packet["executions"] for row in run_]
    assert rows
    assert all(3 <= row["slot"] <= 9 and {"r4", "r8"} & set(row["changed"]) for row in rows)
    every = [row for packet in whole["packets"] for run_ in packet["executions"] for row in run_]
    assert all(row in every for row in rows)
    status, out, _ = bpfsim(capsys, "trace", recorded, "--calls")
    assert status == Status.OK
    assert "  116: __htab_map_lookup_elem(0x" in out
    _, out, _ = bpfsim(capsys, "trace", recorded, "--line", "xdp_filter.c:206..207", "--source", "--effects")
    assert out == "", "no packet stores anything there"
    _, out, _ = bpfsim(capsys, "trace", recorded, "--line", "xdp_filter.c:207", "--source")
    assert out.count("; ./xdp_filter.c:207 void *data_end = (void *)(long)ctx->data_end;") == 3


def test_a_limit_holds_for_both_engines(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = bpfsim(capsys, "trace", "--limit", "30")
    assert status == Status.OK
    assert out.splitlines()[-2:] == [
        "  ended: too many steps to record",
        "both engines: 30 instructions of 1 program runs agree",
    ]


def test_choosing_packets_of_a_file(capsys: pytest.CaptureFixture[str], recorded: Path) -> None:
    found = as_json(capsys, recorded, "--packets", "4..")["packets"]
    assert [packet["packet"] for packet in found] == [4, 5]
    assert found[0] == {key: as_json(capsys, recorded, "--packet", "4")[key] for key in found[0]}
    status, _, err = bpfsim(capsys, "trace", recorded, "--packet", "6")
    assert (status, err) == (Status.BAD_INPUT, f"bpfsim: {recorded}: none of these packets is in it\n")


def test_comparing_two_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, recorded: Path) -> None:
    other = tmp_path / "interpreter.trace"
    bpfsim(capsys, "trace", "--engine", "interpreter", "--packets", "3..5", "-o", other)
    status, out, _ = bpfsim(capsys, "trace", "--compare", other, recorded)
    assert status == Status.OK
    assert out.splitlines()[-1].endswith("instructions of 3 program runs agree")
    document = as_json(capsys, "--compare", other, recorded)
    assert (document["agree"], document["packets"], document["difference"]) == (True, 3, None)

    path = write_object(tmp_path / "one.o", "xdp", "call 5\nr6 = r0\nr0 = 2\nexit")
    times = []
    for number in (0, 40):
        times.append(tmp_path / f"at{number}")
        bpfsim(capsys, "trace", path, "--engine", "jit", "--packet", number, "-o", times[-1])
    status, _, err = bpfsim(capsys, "trace", "--compare", *times)
    assert status == Status.BAD_INPUT
    assert err.startswith("bpfsim: not the same packets: packet 0 of ")


def test_files_that_differ(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "random.o", "xdp", "call 7\nr6 = r0\nr0 = 2\nexit")
    traces = [tmp_path / "a", tmp_path / "b"]
    for seed, trace in enumerate(traces):
        bpfsim(capsys, "trace", path, "--engine", "jit", "--seed", seed, "-o", trace)
    status, out, err = bpfsim(capsys, "trace", "--compare", *traces)
    assert (status, err) == (Status.DIFFERS, "")
    assert "0 instructions agree, then run 0 parts at step 0" in out
    assert "(85) call bpf_user_rnd_u32" in out
    document = as_json(capsys, "--compare", *traces, status=Status.DIFFERS)
    assert (document["agree"], document["packet"], document["execution"], document["step"]) == (
        False,
        0,
        0,
        0,
    )
    other = write_object(tmp_path / "other.o", "xdp", "call 7\nr7 = r0\nr0 = 2\nexit")
    bpfsim(capsys, "trace", other, "--engine", "jit", "-o", tmp_path / "c")
    status, out, err = bpfsim(capsys, "trace", "--compare", traces[0], tmp_path / "c")
    assert (status, out) == (Status.BAD_INPUT, "")
    assert err == (
        "bpfsim: program prog (id 1) is not the same: '1: (bf) r6 = r0' in one trace and "
        "'1: (bf) r7 = r0' in the other\n"
    )


def test_exporting(capsys: pytest.CaptureFixture[str], tmp_path: Path, recorded: Path) -> None:
    files = [tmp_path / "recorded.json", tmp_path / "live.json"]
    document = as_json(capsys, recorded, "--perfetto", files[0])
    status, out, _ = bpfsim(capsys, "trace", "--engine", "jit", "--packets", "3..5", "--perfetto", files[1])
    assert status == Status.OK
    assert out.startswith(f"{files[1]}: {document['events']} events for https://ui.perfetto.dev ")
    assert files[0].read_bytes() == files[1].read_bytes()
    events = json.loads(files[0].read_text())["traceEvents"]
    assert [e["name"] for e in events if e.get("cat") == "packet"] == [
        f"packet {packet['packet']}: {packet['verdict']}" for packet in as_json(capsys, recorded)["packets"]
    ]


def test_a_damaged_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "odd.o", "xdp", "r0 = 2\nexit")
    trace = tmp_path / "t"
    assert bpfsim(capsys, "trace", path, "--engine", "jit", "-o", trace)[0] == Status.OK
    data = trace.read_bytes()
    trace.write_bytes(data[:-3])
    status, _, err = bpfsim(capsys, "trace", trace)
    assert status == Status.BAD_INPUT
    assert err == f"bpfsim: {trace}: byte {len(data) - 3}: the file ends 3 bytes too early\n"


REFUSED = {
    "both engines in a file": (("-o", "FILE"), "a file holds one engine's trace"),
    "both ways to name packets": (("--packet", "1", "--packets", "all"), "--packet and --packets: give one"),
    "two files": (
        ("--engine", "jit", "-o", "FILE", "--perfetto", "FILE"),
        "--output and --perfetto: give one",
    ),
    "no such packets": (("--engine", "jit", "--packets", "300..303", "-o", "FILE"), "no packet 303"),
    "an odd range": (("--engine", "jit", "--packets", "9..3"), "--packets 9..3: want all, N, N..M"),
    "an odd slot": (("--slots", "x"), "--slots x: want N, N..M"),
    "an odd line": (("--line", "a.c"), "--line a.c: want FILE:N"),
    "no register": (("--reg", "r10"), "--reg r10: want r0 to r9"),
    "choosing what is recorded": (
        ("--engine", "jit", "-o", "FILE", "--calls"),
        "--calls: a file holds everything",
    ),
    "running what is recorded": (("TRACE", "--engine", "jit"), "is recorded already"),
    "seeding what is recorded": (("TRACE", "--seed", "1"), "is recorded already"),
    "comparing something else": (
        ("OBJECT", "--compare", "TRACE", "TRACE"),
        "--compare takes two recorded traces",
    ),
    "comparing an object": (("--compare", "TRACE", "OBJECT"), "byte 0: no trace file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path, recorded: Path, what: str) -> None:
    args, cause = REFUSED[what]
    path = write_object(tmp_path / "two.o", "xdp", "r0 = 2\nexit")
    paths = {"FILE": tmp_path / "never", "TRACE": recorded, "OBJECT": path}
    status, out, err = bpfsim(capsys, "trace", *(paths.get(arg, arg) for arg in args))
    assert (status, out) == (Status.BAD_INPUT, "")
    assert cause in err
    assert err.count("\n") == 1
    assert not paths["FILE"].exists()
