# SPDX-License-Identifier: GPL-2.0-only
"""The simulated machine around the kernel model, and the front door: ``from sim import Machine``."""

from .hardware.guest_fault import GuestFault
from .machine import Machine, Snapshot
from .process import Process

__all__ = ["GuestFault", "Machine", "Process", "Snapshot"]
