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
    """The base: owns one reference to ``prog`` while attached."""

    kind = "bpf-link"
    link_type = 0

    def __init__(self, kernel: Kernel, prog: BpfProg) -> None:
        super().__init__()
        self.prog: BpfProg | None = prog
        prog.get()
        self.id = kernel.links.add(self)

    def replace(self, kernel: Kernel, prog: BpfProg) -> None:
        """BPF_LINK_UPDATE: another program at the same place."""
        prog.get()
        old, self.prog = self.prog, prog
        if old is not None:
            old.put(kernel)

    def detach(self, kernel: Kernel) -> None:
        """Undo the attachment; the link object stays (BPF_LINK_DETACH)."""
        if self.prog is not None:
            prog, self.prog = self.prog, None
            prog.put(kernel)

    def release(self, kernel: Kernel) -> None:
        """The last reference went: detach and forget."""
        self.detach(kernel)
        kernel.links.remove(self.id)


class XdpLink(BpfLink):
    """BPF_LINK_CREATE with BPF_XDP: the program at a device's XDP hook."""

    link_type = 6

    def __init__(self, kernel: Kernel, prog: BpfProg, device: NetDevice) -> None:
        device.attach_xdp(kernel, prog, link=True)
        super().__init__(kernel, prog)
        self.device: NetDevice | None = device

    def replace(self, kernel: Kernel, prog: BpfProg) -> None:
        """Swap the device's program; KernelError(ENOLINK) after a detach, EINVAL for another type."""
        if self.device is None:
            raise KernelError(errno.ENOLINK, "the link is detached")
        self.device.replace_xdp(kernel, prog)
        super().replace(kernel, prog)

    def detach(self, kernel: Kernel) -> None:
        """Take the program off the device."""
        if self.device is not None:
            device, self.device = self.device, None
            device.detach_xdp(kernel)
        super().detach(kernel)
