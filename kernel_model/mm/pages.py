# SPDX-License-Identifier: GPL-2.0-only
"""Page frames: which physical pages are free. Plain data; first fit, lowest address first."""

from __future__ import annotations

import bisect
import errno

from ..errors import KernelError

PAGE_SIZE = 4096


class PageAllocator:
    """Runs of whole frames in the physical range ``[start, end)``."""

    def __init__(self, start: int, end: int) -> None:
        self._free: list[tuple[int, int]] = [(start, end)]
        self._runs: dict[int, int] = {}
        self.start = start
        self.used = 0
        self.high_water = start
        """No frame at or above this address was ever handed out."""

    def alloc(self, count: int = 1, align: int = PAGE_SIZE) -> int:
        """The physical address of ``count`` contiguous frames (contents undefined); KernelError(ENOMEM)."""
        size = count * PAGE_SIZE
        for index, (start, end) in enumerate(self._free):
            at = -(-start // align) * align
            if at + size > end:
                continue
            rest = [piece for piece in ((start, at), (at + size, end)) if piece[0] < piece[1]]
            self._free[index : index + 1] = rest
            self._runs[at] = count
            self.used += size
            self.high_water = max(self.high_water, at + size)
            return at
        raise KernelError(errno.ENOMEM, f"no {size} contiguous bytes of memory are free")

    def free(self, at: int) -> None:
        """Give a run back; it joins its free neighbours."""
        size = self._runs.pop(at) * PAGE_SIZE
        self.used -= size
        start, end = at, at + size
        index = bisect.bisect(self._free, (start, end))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            index -= 1
            start = self._free.pop(index)[0]
        self._free.insert(index, (start, end))

    def size_of(self, at: int) -> int:
        """Bytes in the run at ``at``."""
        return self._runs[at] * PAGE_SIZE
