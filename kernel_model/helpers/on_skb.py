# SPDX-License-Identifier: GPL-2.0-only
"""How helpers that change an sk_buff are written: a function of an Skb, registered with :func:`edits`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec

from ..errors import KernelError
from ..functions import leaf
from ..net.skb_edit import Skb

if TYPE_CHECKING:
    from ..kernel import Kernel

P = ParamSpec("P")
MASK32: Final = 0xFFFF_FFFF


def signed32(value: int) -> int:
    """The low 32 bits as a signed number."""
    value &= MASK32
    return value - (1 << 32) if value >> 31 else value


def edits(
    name: str, nargs: int, moves: bool = True
) -> Callable[[Callable[Concatenate[Skb, P], int]], Callable[Concatenate[Skb, P], int]]:
    """Register ``impl(skb, ...)`` as helper ``name`` of ``nargs`` arguments, the sk_buff's address first.

    A KernelError becomes its negative errno. With ``moves`` the program's packet pointers are computed anew
    afterwards, in the case of an error too. What is not modelled ends the run.
    """

    def add(impl: Callable[Concatenate[Skb, P], int]) -> Callable[Concatenate[Skb, P], int]:
        @leaf(name, nargs)
        @functools.wraps(impl)
        def helper(kernel: Kernel, addr: int, *args: P.args, **kwargs: P.kwargs) -> int:
            skb = Skb(kernel, addr)
            try:
                return impl(skb, *args, **kwargs)
            except KernelError as error:
                if error.not_modelled:
                    raise
                return -error.errno
            finally:
                if moves:
                    skb.compute_data_pointers()

        return impl

    return add
