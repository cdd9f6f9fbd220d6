# SPDX-License-Identifier: GPL-2.0-only
"""Worlds for tests of maps: one for each number of CPUs, since booting the emulator takes a while."""

from __future__ import annotations

import pytest
from emulated import World


@pytest.fixture
def world() -> World:
    """Two CPUs."""
    return World()
