# SPDX-License-Identifier: GPL-2.0-only
"""Seeding of bpf_get_prandom_u32()'s generators (prandom_seed_full_state(), lib/random32.c).

The generators themselves are machine code (jit_x86/text/prandom.S) over the per-CPU symbol
``bpf_user_rnd_state``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..kernel import Kernel

_MEMBERS: Final = ("s1", "s2", "s3", "s4")
_SMALLEST: Final = (2, 8, 16, 128)
"""A generator whose seed is below this would be stuck at 0."""

WARM_UP: Final = 10


def seed_full_state(kernel: Kernel) -> None:
    """Seed every CPU's generators from the machine's random source and run them ten times."""
    layout = kernel.layout["rnd_state"]
    for cpu in range(kernel.alloc.nr_cpus):
        at = kernel.per_cpu("bpf_user_rnd_state", cpu)
        state = []
        for least in _SMALLEST:
            seed = kernel.random.u32()
            state.append(seed + least if seed < least else seed)
        for _ in range(WARM_UP):
            state = step(state)
        for name, value in zip(_MEMBERS, state, strict=True):
            kernel.memory.put_u32(at + layout.offset(name), value)


def step(state: list[int]) -> list[int]:
    """One step of the four generators (``tausworthe()``); their exclusive-or is the number drawn."""
    return [
        ((each & ~low) << move & 0xFFFF_FFFF) ^ (((each << up & 0xFFFF_FFFF) ^ each) >> down)
        for each, (up, down, low, move) in zip(state, _SHIFTS, strict=True)
    ]


_SHIFTS: Final = ((6, 13, 1, 18), (2, 27, 7, 2), (13, 21, 15, 7), (3, 12, 127, 13))
