# SPDX-License-Identifier: GPL-2.0-only
"""Tests of helpers share the emulated kernel of the maps' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for _room in ("maps", "syscalls"):
    sys.path.insert(0, str(Path(__file__).parent.parent / _room))

from emulated import World  # noqa: E402


@pytest.fixture
def world() -> World:
    """Two CPUs."""
    return World()
