# SPDX-License-Identifier: GPL-2.0-only
"""The verifier's log buffer: levels, rotation, and what the caller learns of its size.

Rules of bpf(2) since 6.4: by default the buffer keeps the *end* of the log (it rotates); with
BPF_LOG_FIXED it keeps the beginning. ``log_true_size`` is the size that would have held everything,
terminating zero included, and a log that did not fit makes the whole call fail with ENOSPC.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from kernel_model.errors import KernelError
from kernel_model.uapi.enums import (
    BPF_LOG_FIXED,
    BPF_LOG_LEVEL,
    BPF_LOG_LEVEL2,
    BPF_LOG_MASK,
    BPF_LOG_STATS,
)

BPF_VERIFIER_TMP_LOG_SIZE = 1024
UNLIMITED = 0xFFFFFFFF >> 2


@dataclass(frozen=True)
class LogResult:
    """What BPF_PROG_LOAD does with a log at the end.

    ``content`` goes to the user's buffer (terminating zero included; empty when there is no buffer);
    ``errno`` is 0, ENOSPC or EINVAL and overrides the verdict; ``true_size`` goes to log_true_size.
    """

    content: bytes
    true_size: int
    errno: int


class VerifierLog:
    """Collects log text. ``size`` is the user's buffer in bytes, 0 for none (sizes are still counted).

    Raises KernelError(EINVAL) for combinations that Linux refuses: a buffer without a level, or unknown
    level bits, or a buffer above UINT_MAX >> 2.
    """

    def __init__(self, level: int = 0, size: int | None = None, *, has_buffer: bool = True) -> None:
        total = (UNLIMITED if level else 0) if size is None else size
        buffer = has_buffer and total > 0
        if size is not None and bool(has_buffer and size) != bool(size):
            raise KernelError(errno.EINVAL, "log_size without log_buf")
        if buffer and level == 0:
            raise KernelError(errno.EINVAL, "log_buf without log_level")
        if level & ~BPF_LOG_MASK:
            raise KernelError(errno.EINVAL, f"unknown log_level bits {level & ~BPF_LOG_MASK:#x}")
        if total > UNLIMITED:
            raise KernelError(errno.EINVAL, "log_size too large")
        self.level = level
        self.len_total = total
        self.detailed = bool(level & BPF_LOG_LEVEL)
        """Level 1 or 2: the log shows instructions and states."""
        self.every_path = bool(level & BPF_LOG_LEVEL2)
        """Level 2: the log keeps paths that were fine."""
        self.stats = bool(level & BPF_LOG_STATS)
        self._fixed = bool(level & BPF_LOG_FIXED)
        self._window = bytearray()
        self._start = 0
        self._end = 0
        self._len_max = 0
        self.last_line = ""
        """The last complete line written, also when the level is 0: the reason of a rejection."""

    @property
    def needed(self) -> bool:
        """Whether anything is recorded at all."""
        return self.level != 0

    @property
    def position(self) -> int:
        """Where the next text goes, in bytes from the log's beginning."""
        return self._end

    def write(self, text: str) -> None:
        """Append ``text``; a single piece is cut at 1023 bytes, as the kernel's format buffer does."""
        if not self.level:
            return
        data = text.encode()
        if len(data) >= BPF_VERIFIER_TMP_LOG_SIZE:
            data = data[: BPF_VERIFIER_TMP_LOG_SIZE - 1]
        begin = self._end
        self._end += len(data)
        if self._end - self._len_max + 1 > 0:
            self._len_max = self._end + 1
        if self._fixed:
            room = self.len_total - 1 - begin
            if room > 0:
                self._window += data[:room]
            return
        self._window += data
        over = self._end + 1 - self._start - self.len_total
        if over > 0:
            self._start += over
            del self._window[: len(self._window) - (self._end - self._start)]

    def reset(self, position: int) -> None:
        """Forget what was written after ``position`` (a path that turned out to be fine)."""
        if not self.level or position > self._end:
            return
        self._end = position
        self._start = min(self._start, position)
        del self._window[position - self._start :]

    def text(self) -> str:
        """What the buffer holds now, without the terminating zero."""
        return self._window.decode(errors="replace")

    def finalize(self) -> LogResult:
        """The buffer's final bytes, the true size, and the errno that overrides the verdict."""
        if not self.level:
            return LogResult(b"", 0, 0)
        content = bytes(self._window) + b"\0" if self.len_total else b""
        too_small = self.len_total and self._len_max > self.len_total
        return LogResult(content, self._len_max, errno.ENOSPC if too_small else 0)
