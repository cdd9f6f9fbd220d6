# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim cbpf``: what it shows, and what it says about files that are no programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import guests
from kernel_model.classic.check import ClassicError
from sim.cli.cbpf import cbpf
from sim.cli.errors import InputError

CAPTURE = Path(guests.__file__).with_name("bundled.pcap")
UDP = "ldh [12]\njne #0x800, drop\nldb [23]\njne #17, drop\nret #20\ndrop: ret #0\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "udp.asm"
    path.write_text(UDP)
    return path


def test_json_has_both_programs_and_lengths(program: Path) -> None:
    run = CliRunner().invoke(cbpf, [str(program), "--input", str(CAPTURE), "--json"], standalone_mode=False)
    out = json.loads(run.output)
    assert (run.return_value, out["agree"]) == (0, True)
    assert out["classic"][1] == "(001) jeq      #0x800           jt 2\tjf 5"
    assert out["ebpf"][0]["text"] == "(ac) w0 ^= w0" and out["ebpf"][0]["classic"] is None
    assert out["ebpf"][-1] == out["ebpf"][-1] | {"text": "(95) exit", "classic": 5}
    assert out["kept"]["jit"] == out["kept"]["interpreter"]
    assert set(out["kept"]["jit"]) == {0, 20}


def test_text_shows_one_program_inside_the_other(program: Path) -> None:
    run = CliRunner().invoke(cbpf, [str(program), "--input", str(CAPTURE)], standalone_mode=False)
    lines = run.output.splitlines()
    assert any("call bpf_skb_load_helper_16" in line for line in lines)
    assert "  (004) ret      #20" in lines and "both engines agree" in run.output
    assert sum(line.split()[0] == "kept" for line in lines if line.strip()) == 1


def test_standard_input_and_seccomp() -> None:
    run = CliRunner().invoke(cbpf, ["-", "--seccomp"], input="ld [0]\nret a\n", standalone_mode=False)
    assert "r0 = *(u32 *)(r6 +0)" in run.output


def test_errors(program: Path, tmp_path: Path) -> None:
    runner = CliRunner()

    def error(*args: str) -> BaseException | None:
        return runner.invoke(cbpf, list(args), standalone_mode=False).exception

    bad = tmp_path / "bad.asm"
    bad.write_text("ld #1\nlod #2\n")
    found = error(str(bad))
    assert isinstance(found, InputError) and "line 2: unknown instruction 'lod'" in str(found)
    bad.write_bytes(b"\xff\xfe\x00")
    assert isinstance(error(str(bad)), InputError)
    bad.write_text("ld M[0]\nret a\n")
    assert isinstance(error(str(bad)), ClassicError)
    assert isinstance(error(str(program), "--seccomp"), ClassicError)
    assert isinstance(error(str(program), "--seccomp", "--input", str(CAPTURE)), InputError)
    assert isinstance(error(str(tmp_path / "none")), OSError)
