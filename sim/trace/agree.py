# SPDX-License-Identifier: GPL-2.0-only
"""Whether two executions agree, without saying where they do not: what a comparison asks first.

All steps are looked at together, as long integers: the bits in which the registers differ, and the bits that
are live. Which those are follows from the instructions and the frames, and is kept for runs that go the
same way, as those over packets of one kind do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from .live import Liveness
from .record import WIDTH, Execution, ProgText

_AT_ONCE = 1024
"""Steps in one integer."""
_STEP = 8 * WIDTH
_KEPT_STEPS = 1 << 18
"""Steps whose live bits are remembered (88 bytes each)."""
_FP = 10


@cache
def _bits(mask: int) -> bytes:
    """A step's registers with all bits set in those of the mask."""
    return b"".join((b"\xff" if mask >> number & 1 else b"\0") * 8 for number in range(WIDTH))


class Agreement:
    """Answers for executions of the same programs, one pair after the other."""

    def __init__(self, programs: Mapping[int, ProgText]) -> None:
        self._programs = programs
        self._live: dict[tuple[bytes, bytes], list[int]] = {}
        self._kept = 0

    def __call__(self, left: Execution, right: Execution) -> bool:
        """Whether path, live registers, stores and ends are the same, and no frame is broken.

        False also where only a closer look can tell: one engine knows of a store that the other does not.
        """
        if left.complete != right.complete or left.places != right.places or left.effects != right.effects:
            return False
        if left.broken or right.broken:
            return False
        here, there = left.values.tobytes(), right.values.tobytes()
        if here == there:
            return True
        for number, live in enumerate(self._live_bits(left)):
            part = slice(number * _AT_ONCE * _STEP, (number + 1) * _AT_ONCE * _STEP)
            if (int.from_bytes(here[part], "little") ^ int.from_bytes(there[part], "little")) & live:
                return False
        return True

    def _live_bits(self, execution: Execution) -> list[int]:
        """The live bits behind each step, _AT_ONCE steps in a number."""
        places, fps = execution.places, execution.values[_FP::WIDTH]
        key = places.tobytes(), fps.tobytes()
        found = self._live.get(key)
        if found is None:
            after = Liveness(self._programs).after
            following = (*places[1:], None)
            rows = [_bits(after(*step)) for step in zip(places, fps, following, strict=True)]
            found = [
                int.from_bytes(b"".join(rows[at : at + _AT_ONCE]), "little")
                for at in range(0, len(rows), _AT_ONCE)
            ]
            if self._kept + len(rows) > _KEPT_STEPS:
                self._live.clear()
                self._kept = 0
            if len(rows) <= _KEPT_STEPS:
                self._live[key] = found
                self._kept += len(rows)
        return found
