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
        self._lines: deque[str] = deque(maxlen=TRACE_BUFFER_LINES)

    def printk(self, kernel: Kernel, text: str) -> None:
        """One bpf_trace_printk() event, in trace_pipe's default format."""
        task = kernel.current
        name, pid = (task.comm, task.pid) if task is not None else ("<idle>", 0)
        micros = kernel.clock.now() // 1000
        stamp = f"{micros // 1_000_000:5d}.{micros % 1_000_000:06d}"
        body = text if text.endswith("\n") else text + "\n"
        self._lines.append(
            f"{name:>16}-{pid:<7d} [{kernel.cpu.this_cpu:03d}] ...11 {stamp}: bpf_trace_printk: {body}"
        )

    def read(self, size: int | None = None) -> bytes:
        """Whole unread lines, at most ``size`` bytes of them (None: all); reading consumes."""
        out = bytearray()
        while self._lines:
            line = self._lines[0].encode()
            if size is not None and len(out) + len(line) > size:
                break
            out += line
            self._lines.popleft()
        return bytes(out)
