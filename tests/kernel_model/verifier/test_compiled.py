# SPDX-License-Identifier: GPL-2.0-only
"""The compiled form of the verifier: taken when it fits the sources, and with the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_model.verifier import compiled

ROOT = Path(__file__).resolve().parents[3]
TESTS = "tests/kernel_model/verifier"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sources and builds of a test's own."""
    package = tmp_path / "kernel_model" / "verifier"
    (package / "fixups").mkdir(parents=True)
    for name in ("__init__.py", "api.py", "compiled.py", "check.py", "fixups/zext.py", "fixups/__init__.py"):
        (package / name).write_text(f"# {name}\n")
    monkeypatch.setattr(compiled, "_HERE", package)
    monkeypatch.setattr(compiled, "_ROOT", tmp_path)
    monkeypatch.setattr(compiled, "_BUILDS", tmp_path / "build" / "fast")
    monkeypatch.delenv("BPFSIM_PURE", raising=False)
    monkeypatch.delitem(sys.modules, compiled.LIBRARY_MODULE, raising=False)
    yield tmp_path
    sys.modules.pop(compiled.LIBRARY_MODULE, None)


def test_records_and_package_files_stay_python(tree: Path) -> None:
    assert compiled.sources() == ["kernel_model/verifier/check.py", "kernel_model/verifier/fixups/zext.py"]


def test_every_change_of_a_source_has_its_own_build(tree: Path) -> None:
    first = compiled.build_directory()
    assert first == compiled.build_directory()
    (tree / "kernel_model/verifier/check.py").write_text("# other\n")
    second = compiled.build_directory()
    (tree / "kernel_model/verifier/check.py").rename(tree / "kernel_model/verifier/cheek.py")
    assert len({first, second, compiled.build_directory()}) == 3


def _adopted() -> list[str]:
    search = ["sources"]
    compiled.adopt("kernel_model.verifier.fixups", search)
    return search


def test_only_the_build_that_fits_is_adopted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [".py"])
    assert _adopted() == ["sources"]
    build = compiled.build_directory()
    build.mkdir(parents=True)
    assert _adopted() == ["sources"]
    (build / f"{compiled.LIBRARY_MODULE}.py").write_text("loaded = True\n")
    assert _adopted() == [str(build / "kernel_model" / "verifier" / "fixups"), "sources"]
    assert sys.modules.pop(compiled.LIBRARY_MODULE).loaded
    monkeypatch.setenv("BPFSIM_PURE", "1")
    assert _adopted() == ["sources"]
    monkeypatch.delenv("BPFSIM_PURE")
    (tree / "kernel_model/verifier/check.py").write_text("# changed\n")
    assert _adopted() == ["sources"]


@pytest.mark.campaign
def test_the_compiled_verifier_passes_its_tests() -> None:
    """Build it (about a minute) and run this directory's tests on it."""
    pytest.importorskip("mypyc")
    env = {name: value for name, value in os.environ.items() if name != "BPFSIM_PURE"}
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_fast"], cwd=ROOT, env=env, check=True)
    asks = "from kernel_model.verifier import compiled; print(compiled.in_use())"
    answer = subprocess.run(
        [sys.executable, "-c", asks], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    assert answer.stdout == "True\n"
    subprocess.run([sys.executable, "-m", "pytest", "-q", TESTS], cwd=ROOT, env=env, check=True)
