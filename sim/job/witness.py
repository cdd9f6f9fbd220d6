# SPDX-License-Identifier: GPL-2.0-only
"""A process that remembers why its last refused system call was refused.

The kernel keeps the reason until the next call only, and whoever cleans up after a failure makes some.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kernel_model.errors import KernelError, NotModelled

from ..process import Process
from ..userspace.bpf import SyscallError
from ..userspace.loader import LoadError


class Witness:
    """The process contract (``alloc``, ``read``, ``write``, ``syscall``) over a process of the machine."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.alloc = process.alloc
        self.read = process.read
        self.write = process.write
        self.refusal: KernelError | None = None

    def syscall(self, nr: int, *args: int) -> int:
        """The system call; a refusal's reason stays in ``refusal``."""
        result = self._process.syscall(nr, *args)
        if result < 0:
            self.refusal = self._process.last_error
        return result

    def not_modelled(self) -> NotModelled | None:
        """The last refusal as NotModelled, when that is what it was."""
        refusal = self.refusal
        if refusal is None or not refusal.not_modelled:
            return None
        return NotModelled(refusal.not_modelled, refusal.errno)


@contextmanager
def witnessed(process: Process, what: str) -> Iterator[Witness]:
    """System calls made through the witness raise NotModelled where that is the kernel's reason.

    ``what`` is named in its message, as the place where the feature is needed.
    """
    witness = Witness(process)
    try:
        yield witness
    except (SyscallError, LoadError) as error:
        reason = witness.not_modelled()
        if reason is None:
            raise
        where = f"{what}: {error.what}" if isinstance(error, LoadError) else what
        raise NotModelled(f"{reason.feature} ({where})", reason.errno) from error
