# SPDX-License-Identifier: GPL-2.0-only
"""Arrays of records that BPF_PROG_LOAD points to: func_info, line_info (5.0), core_relos (5.17).

They are read while they are checked, so that a fault or a bad record is found in Linux's order.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kernel_model.errors import MemoryFault

from .env import Env, Reject

INT_MAX: Final = 0x7FFFFFFF
MAX_RECORD: Final = 252
"""The largest size of a record that a loader may use."""


@dataclass(frozen=True)
class UserRecords:
    """``count`` records of ``rec_size`` bytes each; ``read(offset, size)`` copies from the first one on."""

    count: int
    rec_size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, count: int, rec_size: int, data: bytes) -> UserRecords:
        """Records that were copied already."""
        return cls(count, rec_size, lambda at, size: data[at : at + size])

    def __len__(self) -> int:
        return self.count

    def good_size(self, form: struct.Struct) -> bool:
        """The loader's records have the known fields and whole words."""
        return form.size <= self.rec_size <= MAX_RECORD and self.rec_size % 4 == 0

    def unpack(self, env: Env, form: struct.Struct, what: str) -> Iterator[tuple[int, ...]]:
        """One record after the other, cut to the known fields; those that are not known must be zero."""
        for number in range(self.count):
            try:
                data = self.read(number * self.rec_size, self.rec_size)
            except MemoryFault:
                raise Reject(errno.EFAULT) from None
            if any(data[form.size :]):
                raise env.reject(errno.E2BIG, f"nonzero tailing record in {what}")
            yield form.unpack_from(data)


def known(records: list[tuple[int, ...]], form: struct.Struct) -> UserRecords:
    """Records given as numbers."""
    return UserRecords.of(len(records), form.size, b"".join(form.pack(*record) for record in records))
