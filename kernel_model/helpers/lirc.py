# SPDX-License-Identifier: GPL-2.0-only
"""Helpers of programs that decode infrared signals (drivers/media/rc/bpf-lirc.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..functions import leaf
from .on_skb import MASK32, signed32

if TYPE_CHECKING:
    from ..kernel import Kernel


@leaf("bpf_rc_repeat", 1)
def bpf_rc_repeat(kernel: Kernel, sample: int) -> int:
    """The last key repeats."""
    kernel.rc.of_sample(kernel, sample).repeat(kernel)
    return 0


@leaf("bpf_rc_keydown", 4)
def bpf_rc_keydown(kernel: Kernel, sample: int, protocol: int, scancode: int, toggle: int) -> int:
    """A key's scancode (64 bits) was received by ``protocol`` (enum rc_proto)."""
    kernel.rc.of_sample(kernel, sample).keydown(kernel, protocol & MASK32, scancode, bool(toggle & MASK32))
    return 0


@leaf("bpf_rc_pointer_rel", 3)
def bpf_rc_pointer_rel(kernel: Kernel, sample: int, x: int, y: int) -> int:
    """The pointer moved."""
    kernel.rc.of_sample(kernel, sample).pointer_rel(kernel, signed32(x), signed32(y))
    return 0
