# SPDX-License-Identifier: GPL-2.0-only
"""The simulated machine around the kernel model, and the front door: ``from sim import Machine``.

The names are imported on first use, so that reading objects or printing help does not load the engines.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hardware.guest_fault import GuestFault
    from .machine import Machine, Snapshot
    from .process import Process

__all__ = ["GuestFault", "Machine", "Process", "Snapshot"]

_HOMES = {
    "GuestFault": ".hardware.guest_fault",
    "Machine": ".machine",
    "Process": ".process",
    "Snapshot": ".machine",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
