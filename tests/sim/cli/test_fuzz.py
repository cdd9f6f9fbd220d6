# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim fuzz`` and ``bpfsim conform`` as commands."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode
from sim.cli.main import run
from sim.fuzz.bare import run_bare

ENGINES = ("jit", "interpreter")


def test_fuzz_counts_and_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--engines", "--count", "40", "--seed", "3", "--coverage"]) == 0
    out = capsys.readouterr().out
    assert "seed 3: programs 0 to 39" in out
    assert "programs a second" in out
    assert "ALU64_ADD_X" in out
    assert "not covered: JMP_CALL_KFUNC" in out
    assert out.endswith("differences: 0\n")


def test_fuzz_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--engines", "--count", "20", "--start", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["command"], report["programs"], report["start"]) == ("fuzz", 20, 5)
    assert report["accepted"] + sum(report["refused"].values()) + sum(report["not_modelled"].values()) == 20
    assert report["differences"] == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fuzz"], "--engines"),
        (["fuzz", "--engines", "--case", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_fuzz_bad_input(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    assert words in capsys.readouterr().err


def test_fuzz_runs_a_case_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "case.txt"
    case.write_text("# program type: tc\n=== one\nr0: 0x7\n---\nr0 = 7\nexit\n")
    assert run(["fuzz", "--engines", "--case", str(case)]) == 0
    assert capsys.readouterr().out == "interpreter: R0 0x7\njit: R0 0x7\nboth engines agree\n"
    case.write_text("=== one\nr0: 0x7\n---\nr0 = r5\nexit\n")
    assert run(["fuzz", "--engines", "--case", str(case)]) == 2
    assert "R5 !read_ok" in capsys.readouterr().err


def conform(monkeypatch: pytest.MonkeyPatch, engine: str, text: str, *memory: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return run(["conform", "--engine", engine, *memory])


def code(text: str) -> str:
    return encode(assemble(text)).hex()


@pytest.mark.parametrize("engine", ENGINES)
def test_conform(engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = code("r0 = *(u32 *)(r1 +0)\n*(u64 *)(r10 -8) = r2\nr3 = *(u64 *)(r10 -8)\nr0 += r3\nexit")
    spaced = " ".join(program[at : at + 2] for at in range(0, len(program), 2)) + "\n"
    assert conform(monkeypatch, engine, spaced, "01020304") == 0
    assert capsys.readouterr().out == "4030205\n"
    assert conform(monkeypatch, engine, code("r0 = -1\nexit")) == 0
    assert capsys.readouterr().out == "ffffffffffffffff\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_conform_runs_functions(engine: str) -> None:
    text = "r1 = 20\ncall half\nr0 += 1\nexit\nhalf:\nr1 /= 2\nr0 = r1\nexit"
    assert run_bare(assemble(text), b"", engine) == (11, b"")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        ("b7", 2, "multiple of 8"),
        ("zz", 2, "hex digits"),
        ("", 2, "no instructions"),
        ("ff00000000000000", 2, "opcode 0xff"),
        (code("r0 = 0"), 2, "no exit"),
        (code("goto pc+5\nexit"), 2, "jumps to where"),
        (code("call 1\nexit"), 3, "calls out of a bare program"),
        (code("r0 = *(u64 *)(r1 +0)\nexit"), 1, "fault"),
    ],
)
def test_conform_errors_take_one_line(
    engine: str,
    program: str,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert conform(monkeypatch, engine, program) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1
