# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from kernel_model.verifier import compiled

from .errors import Status
from .options import json_option
from .output import print_json, print_line

MODELS = "6.18"
"""The Linux release that is modelled."""
_PACKAGES = ("unicorn", "keystone-engine", "capstone")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@click.command
@json_option
def version(as_json: bool) -> Status:
    """Show the versions of bpfsim, the modelled kernel and the engines."""
    own = _installed("bpfsim") or "not installed as a package"
    verifier = "compiled" if compiled.in_use() else "Python"
    packages = {name: _installed(name) for name in _PACKAGES}
    if as_json:
        print_json(
            "version",
            bpfsim=own,
            linux=MODELS,
            python=platform.python_version(),
            verifier=verifier,
            packages=packages,
        )
        return Status.OK
    print_line(f"bpfsim {own}, models Linux {MODELS} on x86-64")
    print_line(f"  verifier: {verifier}")
    for name, found in packages.items():
        print_line(f"  {name} {found or 'not installed'}")
    return Status.OK
