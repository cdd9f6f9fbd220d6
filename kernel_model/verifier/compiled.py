# SPDX-License-Identifier: GPL-2.0-only
"""The verifier compiled to machine code by mypyc, where somebody built it (``make fast``).

The sources are the same, and so are all results. The extension modules lie in a directory named by a digest
of these sources, so a build of other sources is never taken; ``BPFSIM_PURE=1`` in the environment turns even
a fitting one down. ``api.py`` stays Python: its records are pickled with the machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

LIBRARY: Final = "bpfsim_verifier"
"""mypyc's name for the one library behind the package's modules."""
LIBRARY_MODULE: Final = f"{LIBRARY}__mypyc"
_HERE: Final = Path(__file__).resolve().parent
_ROOT: Final = _HERE.parents[1]
_BUILDS: Final = _ROOT / "build" / "fast"
_PYTHON: Final = ("__init__.py", "api.py", "compiled.py")


def sources() -> list[str]:
    """The modules to compile, as paths from the directory that holds ``kernel_model``, in a fixed order."""
    found = (path for path in _HERE.rglob("*.py") if path.name not in _PYTHON)
    return sorted(path.relative_to(_ROOT).as_posix() for path in found)


def build_directory() -> Path:
    """Where a build of the sources as they are now belongs (it need not exist)."""
    digest = hashlib.sha256()
    for name in sources():
        digest.update(name.encode() + b"\0" + (_ROOT / name).read_bytes() + b"\0")
    return _BUILDS / digest.hexdigest()[:16]


def _library() -> Path | None:
    """The build's library, loaded (once a process); None when the sources have no build for this Python."""
    loaded = sys.modules.get(LIBRARY_MODULE)
    if loaded is not None and loaded.__file__:
        return Path(loaded.__file__)
    if os.environ.get("BPFSIM_PURE") or not _BUILDS.is_dir():
        return None
    directory = build_directory()
    for suffix in EXTENSION_SUFFIXES:
        path = directory / f"{LIBRARY_MODULE}{suffix}"
        if path.exists():
            spec = importlib.util.spec_from_file_location(LIBRARY_MODULE, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[LIBRARY_MODULE] = module
            spec.loader.exec_module(module)
            return path
    return None


def adopt(package: str, search: list[str]) -> None:
    """Let ``package`` (with its ``search`` path) find compiled modules before sources, if there are any."""
    library = _library()
    if library is not None:
        search.insert(0, str(library.parent.joinpath(*package.split("."))))


def in_use() -> bool:
    """Whether the verifier of this process is the compiled one."""
    from . import check

    return not str(check.__file__).endswith(".py")
