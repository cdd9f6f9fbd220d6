# SPDX-License-Identifier: GPL-2.0-only
"""Registering kfuncs that are written in Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final

from ..functions import Impl, leaf

_U32: Final = (1 << 32) - 1


def returns_int(name: str, nargs: int) -> Callable[[Impl], Impl]:
    """As functions.leaf, for C functions that return an int: as compilers do, the upper half is zero."""

    def add(impl: Impl) -> Impl:
        @wraps(impl)
        def narrow(*args: int) -> int:
            return impl(*args) & _U32

        leaf(name, nargs)(narrow)
        return impl

    return add
