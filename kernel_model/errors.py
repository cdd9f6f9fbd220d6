# SPDX-License-Identifier: GPL-2.0-only
"""The kernel model's errors: each carries Linux's errno, prints one line, and keeps its details as data."""

from __future__ import annotations

import errno as _errno


def errno_name(number: int) -> str:
    """An errno's name as the kernel's headers have it; the number for one without a name."""
    return _KERNEL_NAMES.get(number) or _errno.errorcode.get(number, str(number))


_KERNEL_NAMES = {524: "ENOTSUPP", _errno.EOPNOTSUPP: "EOPNOTSUPP"}
"""524 is internal to the kernel; Python knows 95 by the C library's second name for it."""


class KernelError(Exception):
    """An operation that Linux answers with ``-errno``.

    ``errno`` is the positive number; ``reason`` says in one line why, for people (Linux itself gives
    only the number). ``not_modelled`` names the feature when it is only the simulator that refuses, and is
    "" for what Linux refuses, too.
    """

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(errno, reason)
        self.errno = errno
        self.reason = reason
        self.not_modelled = ""

    @property
    def name(self) -> str:
        """The errno's symbolic name, such as ``EINVAL`` (524 is the kernel-internal ENOTSUPP)."""
        return errno_name(self.errno)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.reason else self.name


class NotModelled(KernelError):
    """A feature that Linux has and this simulator does not: ``feature`` names it in Linux's words.

    The errno is what a kernel without the feature answers, so a guest sees a legal kernel.
    """

    def __init__(self, feature: str, errno: int = _errno.EOPNOTSUPP) -> None:
        super().__init__(errno, f"not modelled: {feature}")
        self.feature = self.not_modelled = feature

    def __reduce__(self) -> tuple[type[NotModelled], tuple[str, int]]:
        return (NotModelled, (self.feature, self.errno))


class MemoryFault(Exception):
    """An access to an address that the current page tables do not map, or forbid.

    ``kind`` is ``read``, ``write`` or ``fetch``; ``user`` says whether it was made with user rights.
    """

    def __init__(self, addr: int, kind: str, user: bool = False) -> None:
        super().__init__(addr, kind, user)
        self.addr = addr
        self.kind = kind
        self.user = user

    def __str__(self) -> str:
        return f"{'user' if self.user else 'kernel'} {self.kind} fault at {self.addr:#x}"
