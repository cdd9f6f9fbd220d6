# SPDX-License-Identifier: GPL-2.0-only
"""The machine's one clock and its one source of randomness."""

from __future__ import annotations

import random

from kernel_model.ports import Memory


class SimClock:
    """Simulated nanoseconds since boot: one word of kernel data, so machine code reads the same clock."""

    def __init__(self, memory: Memory, addr: int) -> None:
        self._memory = memory
        self._addr = addr

    def now(self) -> int:
        """Nanoseconds since boot."""
        return self._memory.u64(self._addr)

    def advance(self, ns: int) -> None:
        """Let time pass; ValueError for a negative amount."""
        if ns < 0:
            raise ValueError("time does not go back")
        self._memory.put_u64(self._addr, self._memory.u64(self._addr) + ns)


class SeededRandom:
    """32-bit words from the machine's seed; the same seed gives the same words."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def u32(self) -> int:
        """The next word."""
        return self._random.getrandbits(32)
