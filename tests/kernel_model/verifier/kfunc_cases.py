# SPDX-License-Identifier: GPL-2.0-only
"""Programs that call kernel functions, and what Linux 6.18 says to them (kfunc_programs.txt)."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from kernel_model.btf.parse import Btf, Kind

PROGRAMS: dict[str, str] = {}
REFUSED: dict[str, tuple[int, str]] = {}
"""Errno and last words of those that are refused."""


def _read() -> None:
    name = ""
    for line in Path(__file__).with_name("kfunc_programs.txt").read_text().splitlines():
        if line.startswith("== "):
            name = line[3:]
            PROGRAMS[name] = ""
        elif line.startswith("!= "):
            number, _, words = line[3:].partition(" ")
            REFUSED[name] = (getattr(errno, number), words)
        elif name:
            PROGRAMS[name] += line + "\n"


_read()


def with_ids(text: str, btf: Btf) -> str:
    """The program for a kernel with these types."""
    return re.sub(r"kfunc\((\w+)\)", lambda found: f"kfunc({btf.find(found[1], Kind.FUNC)}, 0)", text)
