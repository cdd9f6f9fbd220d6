# SPDX-License-Identifier: GPL-2.0-only
"""What runs in the machine: BPF programs, user programs and packets, beside their sources."""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> Path:
    """The file of a bundled guest: ``path("xdp_filter.o")``, ``path("bench/csum512.bin")``.

    FileNotFoundError when there is no such guest.
    """
    found = Path(__file__).parent / name
    if not found.is_file():
        raise FileNotFoundError(f"no bundled guest {name!r}")
    return found
