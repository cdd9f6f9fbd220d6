# SPDX-License-Identifier: GPL-2.0-only
"""The trace buffer that bpf_trace_printk() writes and trace_pipe reads (Documentation/trace/ftrace.rst)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kernel import Kernel

TRACE_BUFFER_LINES = 16384


class TraceBuffer:
    """Lines in the order they were written; the oldest are lost when nobody reads."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=TRACE_BUFFER_LINES)

    def printk(self, kernel: Kernel, text: str) -> None:
        """One bpf_trace_printk() event, in trace_pipe's default format."""
        task = kernel.current
        name, pid = (task.comm, task.pid) if task is not None else ("<idle>", 0)
        micros = kernel.clock.now() // 1000
        stamp = f"{micros // 1_000_000:5d}.{micros % 1_000_000:06d}"
        body = text if text.endswith("\n") else text + "\n"
        head = f"{name:>16}-{pid:<7d} [{kernel.cpu.this_cpu:03d}] ...11 {stamp}: bpf_trace_printk: "
        self._lines.append((head + body).encode("utf-8", "surrogateescape"))

    def read(self, size: int | None = None) -> bytes:
        """What is unread, at most ``size`` bytes of it (None: all); reading consumes.

        As in Linux, whole lines are given as long as they fit, and part of one only when none does.
        """
        out = bytearray()
        while self._lines:
            line = self._lines[0]
            room = len(line) if size is None else size - len(out)
            if len(line) > room:
                if not out:
                    out += line[:room]
                    self._lines[0] = line[room:]
                break
            out += line
            self._lines.popleft()
        return bytes(out)
