# SPDX-License-Identifier: GPL-2.0-only
"""Every command in the README and in docs/ runs, every link leads somewhere, generated pages are current."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Targets of the Makefile that set up or run the tests themselves: only their existence is checked.
_NOT_RUN = ("make test", "make check", "make campaign", "make guests", "make bench", "python -m pytest")


def blocks() -> list[tuple[str, list[str]]]:
    """The commands of each block, with the page's name; those of one may use files of those before it."""
    found = []
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text()):
            commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
            found.append((page.name, commands))
    return found


def run(command: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line of the docs with this interpreter's bpfsim; files that it writes stay in ``directory``."""
    words = shlex.split(command)
    if words[:2] == ["make", "run"]:
        words = ["bpfsim", "run"]
    if words[0] == "bpfsim":
        words[:1] = [sys.executable, "-m", "sim.cli.main"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("page", "commands"), blocks(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_run(page: str, commands: list[str], tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    for command in commands:
        if command.startswith(_NOT_RUN):
            target = command.split()[1]
            assert command.startswith("python") or f"\n{target}:" in (ROOT / "Makefile").read_text()
            continue
        result = run(command, tmp_path)
        assert result.returncode == 0, f"{page}: {command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_support_matrix_is_current() -> None:
    result = run("bpfsim support --markdown")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "docs" / "support.md").read_text()
