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


Transcript = list[tuple[str, list[str]]]


def blocks() -> list[tuple[str, Transcript]]:
    """The commands of each block, with the page's name; those of one may use files of those before it.

    Beside each command stand the lines of its output that the page shows.
    """
    found = []
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text()):
            commands: Transcript = []
            for line in block.splitlines():
                if line.startswith("$ "):
                    commands.append((line[2:], []))
                elif commands:
                    commands[-1][1].append(line)
            found.append((page.name, commands))
    return found


def run(command: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line of the docs with this interpreter's bpfsim; files that it writes stay in ``directory``.

    Of a shell's language it knows ``*``, ``> FILE`` and ``|| true``.
    """
    words = shlex.split(command)
    may_fail = words[-2:] == ["||", "true"]
    words = words[:-2] if may_fail else words
    target = words[-1] if words[-2:-1] == [">"] else None
    words = words[:-2] if target else words
    words = [
        name
        for word in words
        for name in (sorted(map(str, Path(directory).glob(word))) if "*" in word else [word])
    ]
    words = [word.removeprefix(f"{directory}/") for word in words]
    if words[:2] == ["make", "run"]:
        words = ["bpfsim", "run"]
    if words[0] == "bpfsim":
        words[:1] = [sys.executable, "-m", "sim.cli.main"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, timeout=120)
    if target:
        (directory / target).write_text(result.stdout)
    if may_fail and "Traceback" not in result.stderr:
        result.returncode = 0
    return result


def assert_shown(shown: list[str], output: str) -> None:
    """Each piece of what a page shows (``...`` lines part them) is in the output, in that order."""
    lines = [line.rstrip() for line in output.splitlines()]
    at = 0
    piece: list[str] = []
    for line in [*shown, "..."]:
        if line.strip() != "...":
            piece.append(line.rstrip())
            continue
        while at + len(piece) <= len(lines) and lines[at : at + len(piece)] != piece:
            at += 1
        assert at + len(piece) <= len(lines), "\n".join(["not in the output:", *piece, "but:", *lines])
        at += len(piece)
        piece = []


@pytest.mark.parametrize(
    ("page", "commands"), blocks(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_run(page: str, commands: Transcript, tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    for command, shown in commands:
        if command.startswith(_NOT_RUN):
            target = command.split()[1]
            assert command.startswith("python") or f"\n{target}:" in (ROOT / "Makefile").read_text()
            continue
        result = run(command, tmp_path)
        assert result.returncode == 0, f"{page}: {command}\n{result.stdout}\n{result.stderr}"
        assert_shown(shown, result.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_support_matrix_is_current() -> None:
    result = run("bpfsim support --markdown")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "docs" / "support.md").read_text()
