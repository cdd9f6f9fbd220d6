# SPDX-License-Identifier: GPL-2.0-only
"""What goes wrong ends in one line on stderr and the right status; differences are named."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_objects import write_object

import guests
from kernel_model.helpers.reach import reachable
from kernel_model.helpers.table import HELPERS
from kernel_model.hooks.progtypes import PROG_TYPES
from kernel_model.uapi.enums import bpf_prog_type
from sim import Machine
from sim.cli.errors import Status, message, status_of
from sim.cli.main import run
from sim.job.hooks import FrameOutcome, XdpHook
from sim.userspace.bpf import Bpf

FILTER, PCAP = guests.path("xdp_filter.o"), guests.path("bundled.pcap")


def cut(path: Path, size: int) -> Callable[[Path], str]:
    """A file that ends early."""

    def make(folder: Path) -> str:
        made = folder / f"cut{path.suffix}"
        made.write_bytes(path.read_bytes()[:size])
        return str(made)

    return make


def program(section: str, text: str) -> Callable[[Path], str]:
    return lambda folder: write_object(folder / "made.o", section, text)


def no_license(folder: Path) -> str:
    text = "r1 = 0\nr2 = 0\ncall 6\nr0 = 2\nexit"
    return write_object(folder / "made.o", "xdp", text, license=b"Proprietary\0")


def unreadable(folder: Path) -> str:
    return str(folder)


def the_filter(folder: Path) -> str:
    return str(FILTER)


def missing_helper(folder: Path) -> str:
    xdp = PROG_TYPES[bpf_prog_type.BPF_PROG_TYPE_XDP]
    rows = (row for row in HELPERS.values() if row.proto is None and reachable(row, xdp))
    number = next((row.id for row in rows), None)
    if number is None:
        pytest.skip("every helper is modelled")
    arguments = "r2 = 0\nr3 = 0\nr4 = 0\nr5 = 0\n"
    return write_object(folder / "made.o", "xdp", f"{arguments}call {number}\nr0 = 0\nexit")


FAILURES: dict[str, tuple[tuple[str, ...], Callable[[Path], str], int, str]] = {
    "object not there": (("run",), lambda folder: "nowhere.o", 2, "nowhere.o: No such file"),
    "object is a folder": (("load",), unreadable, 2, "Is a directory"),
    "object is a capture": (("verify",), lambda folder: str(PCAP), 2, "not an ELF file"),
    "object cut short": (("load",), cut(FILTER, 300), 2, "truncated ELF file"),
    "empty object": (("disasm",), cut(FILTER, 0), 2, "empty file"),
    "object is a program": (("load",), lambda f: str(guests.path("controller.elf")), 2, "ET_EXEC"),
    "unknown section": (("run",), program("frobnicate", "r0 = 0\nexit"), 2, "section frobnicate"),
    "capture not there": (("run", "--input"), lambda folder: "nowhere.pcap", 2, "nowhere.pcap: No such"),
    "capture cut short": (("run", "--input"), cut(PCAP, 1000), 2, "truncated in a packet"),
    "capture is an object": (("run", "--input"), lambda folder: str(FILTER), 2, "neither pcap nor pcapng"),
    "program to run is not there": (
        ("run", "--prog", "nope"),
        lambda f: str(FILTER),
        2,
        "no program named 'nope'",
    ),
    "program to verify is not there": (
        ("verify", "--prog", "x"),
        lambda f: str(FILTER),
        2,
        "no program named 'x'",
    ),
    "map to fill is not there": (
        ("run", "--fill", "no:00=00"),
        lambda f: str(FILTER),
        2,
        "no map named 'no'",
    ),
    "fill of the wrong size": (("run", "--fill", "flows:00=00"), lambda f: str(FILTER), 2, "40 are needed"),
    "fill of another form": (("run", "--fill", "flows"), lambda f: str(FILTER), 2, "MAP:KEY=VALUE"),
    "unknown program type": (("load", "--prog-type", "xpd"), lambda f: str(FILTER), 2, "--prog-type xpd"),
    "rejected program": (("run",), program("xdp", "r0 = r5\nexit"), 1, "EACCES: R5 !read_ok"),
    "license": (("run",), no_license, 1, "cannot call GPL-restricted function"),
    "helper that is not modelled": (("load",), missing_helper, 3, "not modelled: helper"),
    "packets for a kprobe": (
        ("run",),
        program("kprobe/f", "r0 = 0\nexit"),
        3,
        "packets for programs of type",
    ),
    "program to execute is BPF": (("exec",), lambda folder: str(FILTER), 2, "EM_BPF"),
    "odd hex digits": (("disasm", "--hex"), lambda folder: "b70", 2, "--hex"),
    "half an instruction": (("disasm", "--hex"), lambda folder: "b700", 2, "multiple of 8"),
    "half a constant": (("disasm", "--hex"), lambda folder: "1800000000000000", 0, ""),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failures_end_in_one_line(what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args, make, status, expected = FAILURES[what]
    name = make(tmp_path)
    assert run([*args, name]) == status
    captured = capsys.readouterr()
    if status:
        assert captured.out == ""
        assert captured.err.startswith("bpfsim: ")
        assert captured.err.count("\n") == 1
        assert expected in captured.err
        assert "Traceback" not in captured.err


USAGE = {
    "no such command": (["frobnicate"], "No such command 'frobnicate'"),
    "no such option": (["run", "--frob"], "No such option"),
    "no argument": (["load"], "Missing argument"),
    "no such engine": (["run", "--engine", "vm"], "'vm' is not one of"),
    "seed is no number": (["run", "--seed", "x"], "not a valid integer"),
}


@pytest.mark.parametrize("what", USAGE)
def test_wrong_usage(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    args, expected = USAGE[what]
    assert run(args) == Status.BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_verbose_shows_the_verifiers_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_object(tmp_path / "bad.o", "xdp", "r0 = r5\nexit")
    assert run(["run", path, "-v"]) == Status.DIFFERS
    assert "0: (bf) r0 = r5" in capsys.readouterr().err
    assert run(["-v", "load", path]) == Status.DIFFERS
    assert "0: (bf) r0 = r5" in capsys.readouterr().err


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--debug", "load", "nowhere.o"]) == Status.BAD_INPUT
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: XdpHook, bpf: Bpf, prog_fd: int) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(XdpHook, "attach", broken)
    assert run(["run"]) == Status.INTERNAL
    err = capsys.readouterr().err
    assert err == "bpfsim: internal error: ZeroDivisionError: surprise (--debug shows where)\n"


def plant(monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> None:
    """When frames arrive, the machine code of the program is not what the JIT made."""
    honest = XdpHook.feed

    def feed(self: XdpHook, machine: Machine, *args: Any, **options: Any) -> list[FrameOutcome]:
        for prog in machine.kernel.progs:
            assert prog.image is not None
            function = prog.image.functions[0]
            machine.kernel.text.poke(function.addr + function.code.index(old), new)
        return honest(self, machine, *args, **options)

    monkeypatch.setattr(XdpHook, "feed", feed)


def test_run_names_a_planted_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_object(tmp_path / "made.o", "xdp", "r6 = 2\nr0 = r6\nexit")
    plant(monkeypatch, b"\x02\x00\x00\x00", b"\x01\x00\x00\x00")
    assert run(["run", path]) == Status.DIFFERS
    out = capsys.readouterr().out
    assert "verdict of frame 0: jit drop, interpreter pass" in out
    assert "traces: 0 instructions agree, then run 0 parts at step 0" in out
    assert "registers differ after the instruction: program prog (id 1), instruction 0: (b7) r6 = 2" in out
    assert "<-- differs" in out


def test_run_reports_machine_code_that_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write_object(tmp_path / "made.o", "xdp", "r6 = 2\nr0 = r6\nexit")
    plant(monkeypatch, b"\x48\x89\xd8", b"\x0f\x0b\x90")
    assert run(["run", path, "-v"]) == Status.DIFFERS
    out = capsys.readouterr().out
    assert "jit: guest fault: invalid opcode in kernel mode" in out
    assert "call trace:" in out
    assert "instruction 1: (bf) r0 = r6" in out
    assert "results:" in out


def _run(args: list[str], **more: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sim.cli.main", *args]
    return subprocess.run(command, check=False, timeout=60, **more)  # type: ignore[call-overload, no-any-return]


def test_colours_on_a_terminal_and_none_in_a_pipe() -> None:
    env = os.environ | {"TERM": "xterm-256color", "FORCE_COLOR": "1"}
    env.pop("NO_COLOR", None)
    piped = _run(["disasm", str(FILTER)], stdout=subprocess.PIPE, env=env)
    assert piped.returncode == Status.OK
    assert b"\x1b" not in piped.stdout
    ours, theirs = pty.openpty()
    try:
        shown = _run(["load", str(FILTER)], stdout=theirs, env=env)
        assert shown.returncode == Status.OK
        assert b"\x1b[" in os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = _run(["disasm", str(FILTER)], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (Status.OK, b"")


def test_messages_are_one_printable_line() -> None:
    error = OSError("two\nlines \x1b[31m")
    assert message(error) == "two lines \\x1b[31m"
    assert status_of(error) == Status.BAD_INPUT
    assert status_of(LookupError()) == Status.INTERNAL


def test_without_arguments_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: bpfsim ")
    assert "Commands:" in shown
