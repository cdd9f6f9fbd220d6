# SPDX-License-Identifier: GPL-2.0-only
"""Each command: what it prints, its JSON, its exit status."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cli_objects import write_object

import guests
from sim.cli.errors import Status
from sim.cli.main import run
from sim.userspace.pcap import read_pcap

FILTER = str(guests.path("xdp_filter.o"))
CONTROLLER = str(guests.path("controller.elf"))


def bpfsim(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command."""
    capsys.readouterr()
    status = run(args)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def as_json(capsys: pytest.CaptureFixture[str], *args: str, status: int = Status.OK) -> dict[str, Any]:
    """The JSON document of a command that ends with ``status``."""
    got, out, err = bpfsim(capsys, *args, "--json")
    assert (got, err) == (status, "")
    document: dict[str, Any] = json.loads(out)
    assert (document["schema"], document["command"]) == (1, args[0])
    return document


VERDICTS = {"aborted": 12, "drop": 60, "pass": 187, "tx": 24, "redirect": 20}
"""What guests/make_pcap.py made the capture for."""


def test_run_without_arguments_is_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json(capsys, "run")
    assert set(document) == {
        "schema", "command", "object", "input", "program", "hook", "seed", "frames", "skipped", "programs",
        "engines", "maps", "differences", "trace", "agree", "rates",
    }  # fmt: skip
    assert document["agree"] is True
    assert [engine["engine"] for engine in document["engines"]] == ["jit", "interpreter"]
    for engine in document["engines"]:
        assert engine["verdicts"] == VERDICTS
        assert engine["sent"] == {"eth0": 24, "eth1": 20}
        assert engine["fault"] is None
        assert len(engine["trace_pipe"]) == 4
    maps = {each["name"]: each for each in document["maps"]}
    assert [entry["value"]["packets"] for entry in maps["blocklist"]["entries"]] == [10, 10]
    assert [entry["values"][0]["packets"] for entry in maps["verdicts"]["entries"]] == list(VERDICTS.values())
    assert maps["xdp_filt.bss"]["entries"][0]["value"]["frames_seen"] == 303
    trace = document["trace"]
    assert (trace["agree"], trace["frames"], trace["executions"]) == (True, 303, 303)
    assert trace["instructions"] > 30_000
    assert set(document["rates"]) == {"jit_packets_per_second", "interpreter_packets_per_second"}
    assert all(rate > 0 for rate in document["rates"].values())


def test_run_prints_a_table_and_where_the_engines_stand(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = bpfsim(capsys, "run", "--trace-frames", "5")
    assert (status, err) == (Status.OK, "")
    lines = [line.split() for line in out.splitlines()]
    for name, count in VERDICTS.items():
        assert [name, str(count), str(count)] in lines
    assert "results: both engines agree" in out
    assert "instructions of 5 program runs agree (5 of 303 frames watched)" in out
    assert "udp [2001:db8:bad::1]:31337 -> [2001:db8::10]:53" in out
    assert "\x1b" not in out


def test_run_on_one_engine_compares_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("jit", "interpreter"):
        document = as_json(capsys, "run", "--engine", engine)
        assert [each["engine"] for each in document["engines"]] == [engine]
        assert document["engines"][0]["verdicts"] == VERDICTS
        assert document["trace"] is None


def test_run_writes_one_capture_a_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert bpfsim(capsys, "run", "--no-trace", "--engine", "jit", "--out", str(out))[0] == Status.OK
    counts = {path.stem: len(read_pcap(path)) for path in out.iterdir()}
    assert counts == VERDICTS
    times = [frame.time_ns for path in out.iterdir() for frame in read_pcap(path)]
    assert sorted(times) == [frame.time_ns for frame in read_pcap(guests.path("bundled.pcap"))]


def test_run_of_another_object_with_entries_from_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = "config:00000000=" + struct.pack("<II", 1, 3).hex()
    document = as_json(capsys, "run", FILTER, "--fill", config, "--no-trace")
    # A limit of one packet a flow, and nothing on the blocklist.
    verdicts = document["engines"][0]["verdicts"]
    assert verdicts["drop"] > VERDICTS["drop"]
    assert document["program"] == "xdp_filter"
    maps = {each["name"]: each["entries"] for each in document["maps"]}
    assert maps["blocklist"] == []
    assert maps["config"][0]["value"] == {"rate_limit": 1, "redirect_ifindex": 3}


def test_run_of_a_classifier_goes_by_test_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "tc.o", "tc", "r0 = 2\nexit")
    document = as_json(capsys, "run", path, "--trace-frames", "3")
    assert document["hook"] == "BPF_PROG_TEST_RUN"
    assert document["engines"][1]["verdicts"]["shot"] == 303
    assert document["trace"]["agree"] is True


def test_the_same_seed_prints_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", "--seed", "7", "--trace-frames", "20")
    texts = [
        [line for line in bpfsim(capsys, *command)[1].splitlines() if "per second" not in line]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    documents = [as_json(capsys, *command, trace) for trace in ("--trace", "--no-trace")]
    for document in documents:
        del document["rates"], document["trace"]
    assert documents[0] == documents[1]


def test_load_lists_programs_and_maps(capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json(capsys, "load", FILTER)
    assert [prog["name"] for prog in document["programs"]] == ["xdp_forward", "xdp_filter"]
    for prog in document["programs"]:
        assert (prog["type"], prog["section"]) == ("xdp", "xdp")
        assert prog["jited_bytes"] > 0 < prog["verified_insns"]
        assert prog["xlated_bytes"] % 8 == 0
    maps = {each["name"]: each for each in document["maps"]}
    assert maps["flows"] | {"id": 0} == {
        "name": "flows", "id": 0, "type": "hash", "key_size": 40, "value_size": 16, "max_entries": 1024,
        "map_flags": 0,
    }  # fmt: skip
    status, out, _ = bpfsim(capsys, "load", FILTER, "-v")
    assert status == Status.OK
    assert "blocklist" in out
    assert "log of xdp_filter:" in out
    assert "processed" in out


def test_load_takes_a_type_for_unknown_sections(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "odd.o", "mystery", "r0 = 2\nexit")
    status, out, err = bpfsim(capsys, "load", path)
    assert (status, out) == (Status.BAD_INPUT, "")
    assert err.startswith(f"bpfsim: {path}: section mystery")
    assert err.count("\n") == 1
    assert as_json(capsys, "load", path, "--prog-type", "xdp")["programs"][0]["type"] == "xdp"


def test_verify_says_accepted_or_rejected(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = write_object(tmp_path / "bad.o", "xdp", "r0 = r5\nexit", "reads_r5")
    status, out, _ = bpfsim(capsys, "verify", FILTER, bad, "--json")
    assert status == Status.DIFFERS
    rows = {row["program"]: row for row in map(json.loads, out.splitlines())}
    assert [row["verdict"] for row in rows.values()] == ["accepted", "accepted", "rejected"]
    assert rows["xdp_filter"]["processed"] > 200
    assert rows["reads_r5"]["error"] == "R5 !read_ok"
    assert "log" not in rows["xdp_filter"]
    assert "0: (bf) r0 = r5" in rows["reads_r5"]["log"]

    status, out, _ = bpfsim(capsys, "verify", bad)
    assert status == Status.DIFFERS
    assert "rejected" in out
    assert "0: (bf) r0 = r5" in out
    assert "processed 1 insns" in out
    assert "error: r5 is read, but holds nothing [unwritten-register]" in out
    status, out, _ = bpfsim(capsys, "verify", FILTER)
    assert status == Status.OK
    assert "log of" not in out
    assert "log of xdp_filter" in bpfsim(capsys, "verify", FILTER, "-v")[1]


def test_trace_shows_instructions_and_changes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "two.o", "xdp", "r6 = 5\nr6 += 2\nr0 = 2\nexit")
    for engine in ("both", "jit", "interpreter"):
        document = as_json(capsys, "trace", path, "--engine", engine, "--packet", "1")
        (steps,) = document["executions"]
        assert [(step["slot"], step["changed"]) for step in steps] == [
            (0, {"r6": "0x5"}),
            (1, {"r6": "0x7"}),
            (2, {"r0": "0x2"}),
            (3, {}),
        ]
        assert steps[1]["text"] == "1: (07) r6 += 2"
        assert (document["verdict"], document["agree"]) == ("pass", True)
    status, out, _ = bpfsim(capsys, "trace", "--packet", "0")
    assert status == Status.OK
    assert "program xdp_forward" in out, "the tail call's target is shown, too"
    assert "both engines:" in out


def test_trace_of_a_packet_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = bpfsim(capsys, "trace", "--packet", "303")
    assert (status, err) == (Status.BAD_INPUT, "bpfsim: --packet: no packet 303: there are 303\n")


def test_disasm_in_all_forms(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("capstone")
    raw = as_json(capsys, "disasm", FILTER, "--prog", "xdp_filter")
    (program,) = raw["programs"]
    texts = [line["text"] for line in program["instructions"]]
    assert texts[1] == "(61) r2 = *(u32 *)(r6 +4)"
    assert any(text.endswith("; blocklist") for text in texts)
    assert "(85) call bpf_tail_call#12" in texts
    xlated = as_json(capsys, "disasm", FILTER, "--xlated")
    texts = [line["text"] for line in xlated["programs"][1]["instructions"]]
    assert texts[1].startswith("(79) r2 = *(u64 *)(r6 +")
    assert any(text.endswith("; map blocklist") for text in texts)
    jited = as_json(capsys, "disasm", FILTER, "--jited", "--prog", "xdp_forward")
    texts = [line["text"] for line in jited["programs"][0]["instructions"]]
    assert "push rbp" in texts
    assert "(bad)" not in texts
    assert any("bpf_prog_" in text for text in texts)
    status, out, _ = bpfsim(capsys, "disasm", "--hex", "b700000001000000 9500000000000000")
    assert (status, out) == (Status.OK, "  0: (b7) r0 = 1\n  1: (95) exit\n")


def test_exec_runs_the_controller(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = bpfsim(capsys, "exec", CONTROLLER)
    assert (status, err) == (Status.OK, "")
    assert out.startswith("controller: ")
    status, out, _ = bpfsim(capsys, "exec", "--json", CONTROLLER)
    assert json.loads(out)["exit_code"] == 0
    status, _, err = bpfsim(capsys, "exec", "--uid", "1000", CONTROLLER)
    assert status == Status.DIFFERS
    assert "exited with code" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "version")["linux"] == "6.18"
    assert "models Linux 6.18" in bpfsim(capsys, "version")[1]
