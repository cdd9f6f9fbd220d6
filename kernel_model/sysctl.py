# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's tunables under /proc/sys that this model reads, with Linux's ranges and defaults."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from .errors import KernelError


@dataclass(frozen=True)
class Sysctl:
    """One integer tunable: path below /proc/sys, value at boot, the range that may be written."""

    path: str
    default: int
    low: int
    high: int
    since: str


SYSCTLS = {
    row.path: row
    for row in (
        Sysctl("net/core/bpf_jit_enable", 1, 0, 2, "3.0"),
        Sysctl("net/core/bpf_jit_harden", 0, 0, 2, "4.7"),
        Sysctl("net/core/bpf_jit_kallsyms", 1, 0, 1, "4.11"),
        Sysctl("kernel/unprivileged_bpf_disabled", 2, 0, 2, "4.4"),
        Sysctl("kernel/bpf_stats_enabled", 0, 0, 1, "5.1"),
    )
}


class Sysctls:
    """The values now."""

    def __init__(self) -> None:
        self._values = {path: row.default for path, row in SYSCTLS.items()}

    def __getitem__(self, path: str) -> int:
        return self._values[path]

    def write(self, path: str, text: str) -> None:
        """Write as through /proc/sys; KernelError(EINVAL) for no number or one out of range.

        ``unprivileged_bpf_disabled`` cannot be changed any more once it is 1 (EPERM).
        """
        row = SYSCTLS[path]
        try:
            value = int(text.strip(), 0)
        except ValueError:
            raise KernelError(errno.EINVAL, f"{path}: {text.strip()!r} is no number") from None
        if not row.low <= value <= row.high:
            raise KernelError(errno.EINVAL, f"{path}: {value} is not in {row.low}..{row.high}")
        if path == "kernel/unprivileged_bpf_disabled" and self._values[path] == 1 and value != 1:
            raise KernelError(errno.EPERM, f"{path} is locked at 1")
        self._values[path] = value
