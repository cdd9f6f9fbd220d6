# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim core``: one object against the types of several kernels."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from kernel_model.btf.build import BtfBuilder
from kernel_model.btf.parse import Kind
from sim.cli.core import core
from sim.cli.main import run

SOURCE = """
#define SEC(name) __attribute__((section(name), used))
struct thing { int old; int gone; } __attribute__((preserve_access_index));
SEC("xdp") int both(struct thing *ctx) { return __builtin_preserve_field_info(ctx->gone, 2) ? 1 : 2; }
SEC("xdp") int needs(struct thing *ctx) { return __builtin_preserve_field_info(ctx->gone, 0); }
char _license[] SEC("license") = "GPL";
"""


def kernel(path: Path, *members: str) -> str:
    """A kernel whose struct thing has these members."""
    builder = BtfBuilder()
    number = builder.add_int("int", 4, 1)
    rows = [(name, number, at * 32, 0) for at, name in enumerate(members)]
    builder.add_composite(Kind.STRUCT, "thing", 4 * len(rows), rows)
    path.write_bytes(builder.bytes())
    return str(path)


@pytest.fixture
def thing(tmp_path: Path) -> str:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    (tmp_path / "thing.c").write_text(SOURCE)
    command = [clang, "-O2", "-g", "-target", "bpf", "-c", "thing.c", "-o", "thing.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return str(tmp_path / "thing.o")


def test_a_table_of_kernels(thing: str, tmp_path: Path) -> None:
    new = kernel(tmp_path / "new.btf", "pad", "old", "gone")
    other = kernel(tmp_path / "other.btf", "old")
    done = CliRunner().invoke(core, [thing, "--btf", new, "--btf", other, "-v"], standalone_mode=False)
    assert done.return_value == 1
    rows = [line.split() for line in done.output.splitlines() if thing in line]
    assert [row[1:] for row in rows] == [
        ["both", "1/1", "accepted", "0/1", "accepted"],
        ["needs", "1/1", "accepted", "0/1", "rejected"],
    ]
    assert "both on other: not there: <field_exists>" in done.output
    assert "needs on other: missing: <byte_off>" in done.output
    assert "needs on other: failed to resolve CO-RE relocation <byte_off>" in done.output


def test_json(thing: str, tmp_path: Path) -> None:
    new = kernel(tmp_path / "new.btf", "gone", "old")
    done = CliRunner().invoke(core, [thing, "--btf", new, "--json"], standalone_mode=False)
    assert done.return_value == 0
    out = json.loads(done.output)
    assert out["kernels"] == ["new"]
    assert [(row["program"], row["relocations"]) for row in out["programs"]] == [("both", 1), ("needs", 1)]
    assert out["programs"][1]["kernels"]["new"]["resolved"] == 1


def test_files_of_one_name_are_told_apart(thing: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [kernel(tmp_path / where / "vmlinux", "gone") for where in ("a", "b")]
    done = CliRunner().invoke(
        core, [thing, "--btf", paths[0], "--btf", paths[1], "--json"], standalone_mode=False
    )
    assert json.loads(done.output)["kernels"] == paths


def test_bad_types(thing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.btf"
    bad.write_bytes(b"nothing of the kind")
    assert run(["core", thing, "--btf", str(bad)]) == 2
    assert run(["core", thing, "--btf", str(tmp_path / "nowhere")]) == 2
    assert run(["core", thing]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"bpfsim: {bad}: BTF at ")
