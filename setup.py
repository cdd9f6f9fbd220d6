# SPDX-License-Identifier: GPL-2.0-only
"""The optional part of the build: the verifier compiled by mypyc. All else is in pyproject.toml.

``python setup.py build_fast`` (``make fast``) builds beside the sources, into build/;
``BPFSIM_MYPYC=1 pip install --no-build-isolation .`` builds and installs. Both want mypy and a C compiler.
"""

import os
import runpy
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

_COMPILED = runpy.run_path(str(Path(__file__).parent / "kernel_model" / "verifier" / "compiled.py"))


class BuildFast(build_ext):
    """Build the extension modules where kernel_model/verifier/compiled.py looks for them."""

    def finalize_options(self) -> None:
        self.build_lib = str(_COMPILED["build_directory"]())
        super().finalize_options()


def _extensions() -> list:
    if os.environ.get("BPFSIM_MYPYC") != "1" and "build_fast" not in sys.argv:
        return []
    from mypyc.build import mypycify

    sources = _COMPILED["sources"]()
    return mypycify(sources, group_name=_COMPILED["LIBRARY"], opt_level="2", debug_level="0")


setup(ext_modules=_extensions(), cmdclass={"build_fast": BuildFast})
