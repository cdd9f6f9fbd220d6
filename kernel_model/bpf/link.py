# SPDX-License-Identifier: GPL-2.0-only
"""bpf links: an attachment that lives as long as its descriptor or pin."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..objects import KObject

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..net.device import NetDevice
    from .prog import BpfProg


class BpfLink(KObject):
    """The base: owns one reference to ``prog`` for as long as it lives, detached or not."""

    kind = "bpf-link"
    link_type = 0

    def __init__(self, kernel: Kernel, prog: BpfProg) -> None:
        super().__init__()
        self.prog = prog
        prog.get()
        self.id = kernel.links.add(self)

    def replace(self, kernel: Kernel, prog: BpfProg, expected: BpfProg | None) -> None:
        """BPF_LINK_UPDATE: another program at the same place.

        KernelError(EPERM) when ``expected`` is not the present one, EINVAL for a program of another kind.
        """
        old = self.prog
        if expected is not None and expected is not old:
            raise KernelError(errno.EPERM, "the link's program is not the expected one")
        if (old.type, old.expected_attach_type) != (prog.type, prog.expected_attach_type):
            raise KernelError(errno.EINVAL, "the new program has another type or attach type")
        if prog is not old:
            self.install(kernel, prog)
            prog.get()
            self.prog = prog
            old.put(kernel)

    def install(self, kernel: Kernel, prog: BpfProg) -> None:
        """Put ``prog`` where the link's present program is."""

    def detach(self, kernel: Kernel) -> None:
        """Undo the attachment; the link object stays (BPF_LINK_DETACH)."""

    def release(self, kernel: Kernel) -> None:
        """The last reference went: detach and forget."""
        self.detach(kernel)
        kernel.links.remove(self.id)
        self.prog.put(kernel)


class XdpLink(BpfLink):
    """BPF_LINK_CREATE with BPF_XDP: the program at a device's XDP hook."""

    link_type = 6

    def __init__(self, kernel: Kernel, prog: BpfProg, device: NetDevice) -> None:
        device.attach_xdp(kernel, prog, link=True)
        super().__init__(kernel, prog)
        self.device: NetDevice | None = device

    def replace(self, kernel: Kernel, prog: BpfProg, expected: BpfProg | None) -> None:
        """The same; KernelError(ENOLINK) after a detach."""
        if self.device is None:
            raise KernelError(errno.ENOLINK, "the link is detached")
        super().replace(kernel, prog, expected)

    def install(self, kernel: Kernel, prog: BpfProg) -> None:
        """Swap the device's program."""
        assert self.device is not None
        self.device.replace_xdp(kernel, prog)

    def detach(self, kernel: Kernel) -> None:
        """Take the program off the device."""
        if self.device is not None:
            device, self.device = self.device, None
            device.detach_xdp(kernel)
