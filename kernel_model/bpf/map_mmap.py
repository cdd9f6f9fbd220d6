# SPDX-License-Identifier: GPL-2.0-only
"""mmap(2) of a map: the process and the kernel then have the same page frames (bpf_map_mmap())."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..maps.attr import RDONLY_PROG
from ..maps.base import ENOTSUPP
from ..mm.address_space import PROT_EXEC, PROT_WRITE, Backing
from ..mm.pages import PAGE_SIZE
from .map_object import FMODE_READ, FMODE_WRITE, MapObject

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..objects import File


def map_mmap(kernel: Kernel, file: File, size: int, prot: int, shared: bool, pgoff: int) -> Backing:
    """What an area of ``size`` bytes with rights ``prot`` shows of the map from page ``pgoff`` on.

    KernelError(EACCES) when the descriptor may not be used that way or programs rely on the contents,
    EPERM for a frozen map and for execution, EINVAL for a private or too large mapping, ENOTSUPP for a map
    without memory to show.
    """
    held = file.obj
    assert isinstance(held, MapObject)
    mode = file.flags or FMODE_READ | FMODE_WRITE
    writable = bool(prot & PROT_WRITE)
    if (shared and writable and not mode & FMODE_WRITE) or not mode & FMODE_READ:
        raise KernelError(errno.EACCES, "the descriptor does not allow this mapping")
    if prot & PROT_EXEC:
        raise KernelError(errno.EPERM, "maps cannot be executed")
    if not held.impl.MMAP:
        raise KernelError(ENOTSUPP, "maps of this type cannot be mapped")
    # A shared mapping of a file that is open for reading alone counts as private.
    if not shared or not mode & FMODE_WRITE:
        raise KernelError(errno.EINVAL, "maps are mapped MAP_SHARED, by a descriptor that may write")
    if writable and held.frozen:
        raise KernelError(errno.EPERM, "the map is frozen")
    if writable and held.map_flags & RDONLY_PROG:
        raise KernelError(errno.EACCES, "programs take the map's contents for constants")
    pages = held.impl.mmap_pages(pgoff, -(-size // PAGE_SIZE), writable)
    return Backing(file, tuple(kernel.alloc.frame(page) for page in pages), writable)
