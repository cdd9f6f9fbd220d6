# SPDX-License-Identifier: GPL-2.0-only
"""Infrared receivers: what programs that decode pulses report (drivers/media/rc/rc-main.c).

A receiver keeps its events as struct lirc_scancode has them, for who reads /dev/lirc in scancode mode; there
is no key map, so keycode is KEY_RESERVED.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .errors import KernelError

if TYPE_CHECKING:
    from .kernel import Kernel

LIRC_SCANCODE_FLAG_TOGGLE, LIRC_SCANCODE_FLAG_REPEAT = 1, 2
KEY_RESERVED: Final = 0


@dataclass(frozen=True)
class ScancodeEvent:
    """struct lirc_scancode; ``timestamp`` in simulated nanoseconds."""

    timestamp: int
    flags: int
    rc_proto: int
    scancode: int
    keycode: int = KEY_RESERVED


@dataclass(frozen=True)
class PointerEvent:
    """A relative movement (EV_REL), in the device's units."""

    timestamp: int
    x: int
    y: int


@dataclass
class RcDevice:
    """A receiver. ``raw`` is its struct ir_raw_event_ctrl, where the sample lies that programs see."""

    raw: int
    events: list[ScancodeEvent | PointerEvent] = field(default_factory=list)
    last_protocol: int = 0
    last_scancode: int = 0
    last_toggle: bool = False

    def keydown(self, kernel: Kernel, protocol: int, scancode: int, toggle: bool) -> None:
        """rc_keydown(): a key's code was received."""
        self.last_protocol, self.last_scancode, self.last_toggle = protocol, scancode, toggle
        self._event(kernel, 0)

    def repeat(self, kernel: Kernel) -> None:
        """rc_repeat(): the last key is still held."""
        self._event(kernel, LIRC_SCANCODE_FLAG_REPEAT)

    def _event(self, kernel: Kernel, flags: int) -> None:
        flags |= LIRC_SCANCODE_FLAG_TOGGLE if self.last_toggle else 0
        at = kernel.clock.now()
        self.events.append(ScancodeEvent(at, flags, self.last_protocol, self.last_scancode))

    def pointer_rel(self, kernel: Kernel, x: int, y: int) -> None:
        """input_report_rel() of both axes."""
        self.events.append(PointerEvent(kernel.clock.now(), x, y))


class RcCore:
    """The receivers of a machine: one, made when it is used for the first time."""

    def __init__(self) -> None:
        self.devices: list[RcDevice] = []

    def receiver(self, kernel: Kernel) -> RcDevice:
        """The machine's receiver. KernelError(ENOMEM)."""
        if not self.devices:
            self.devices.append(RcDevice(kernel.alloc.kmalloc(kernel.layout["ir_raw_event_ctrl"].size)))
        return self.devices[0]

    def of_sample(self, kernel: Kernel, sample: int) -> RcDevice:
        """The receiver whose sample lies at ``sample``, a program's context. KernelError(ENODEV)."""
        raw = sample - kernel.layout["ir_raw_event_ctrl"].offset("bpf_sample")
        for device in self.devices:
            if device.raw == raw:
                return device
        raise KernelError(errno.ENODEV, "the sample belongs to no receiver")
