# SPDX-License-Identifier: GPL-2.0-only
"""/sys/fs/bpf: names for BPF objects, each holding a reference (kernel/bpf/inode.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..objects import KObject
from ..sysctl import SYSCTLS

if TYPE_CHECKING:
    from ..kernel import Kernel

MOUNT = "/sys/fs/bpf"
VMLINUX_BTF = "/sys/kernel/btf/vmlinux"
CONFIG_GZ = "/proc/config.gz"
OTHER_FILES = frozenset(
    (
        "/proc/kallsyms",
        VMLINUX_BTF,
        CONFIG_GZ,
        "/sys/kernel/tracing/trace_pipe",
        "/sys/kernel/debug/tracing/trace_pipe",
        *(f"/proc/sys/{path}" for path in SYSCTLS),
    )
)
"""The files of this kernel that are not on a bpf file system."""
PINNABLE = ("bpf-map", "bpf-prog", "bpf-link")


class BpfFs:
    """Directories and pins by absolute path."""

    def __init__(self) -> None:
        self.dirs = {MOUNT}
        self.pins: dict[str, KObject] = {}
        self._owners: dict[str, int] = {}

    def _place(self, path: str) -> str:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        clean = "/" + "/".join(parts)
        if ".." in parts or not clean.startswith(MOUNT + "/"):
            raise KernelError(errno.EPERM, f"{path} is not on a bpf file system")
        parent = clean.rsplit("/", 1)[0]
        if parent not in self.dirs:
            raise KernelError(errno.ENOENT, f"{parent} does not exist")
        if "." in clean.rsplit("/", 1)[1]:
            raise KernelError(errno.EPERM, "a name on a bpf file system has no dot")
        return clean

    def pin(self, path: str, obj: KObject, uid: int = 0) -> None:
        """BPF_OBJ_PIN by user ``uid``, whose file it is (mode 0600).

        KernelError(EINVAL, EPERM, ENOENT, EEXIST).
        """
        if obj.kind not in PINNABLE:
            raise KernelError(errno.EINVAL, f"a {obj.kind} cannot be pinned")
        clean = self._place(path)
        if clean in self.pins or clean in self.dirs:
            raise KernelError(errno.EEXIST, f"{path} exists")
        obj.get_user()
        self.pins[clean] = obj
        self._owners[clean] = uid

    def get(self, path: str, uid: int = 0) -> KObject:
        """BPF_OBJ_GET by user ``uid``: the pinned object with a reference taken.

        KernelError(ENOENT) for no such file, EACCES for a file that is no pin or another user's.
        """
        if not (path + "/").startswith(MOUNT + "/"):
            if path in OTHER_FILES:
                raise KernelError(errno.EACCES, f"{path} is no BPF object")
            raise KernelError(errno.ENOENT, f"{path} does not exist")
        if path.rstrip("/") in self.dirs:
            raise KernelError(errno.EACCES, f"{path} is a directory")
        clean = self._place(path)
        if clean not in self.pins:
            raise KernelError(errno.ENOENT, f"{path} does not exist")
        if uid not in (0, self._owners[clean]):
            raise KernelError(errno.EACCES, f"{path} belongs to user {self._owners[clean]}")
        obj = self.pins[clean]
        obj.get_user()
        return obj

    def mkdir(self, path: str) -> None:
        """mkdir(2): KernelError(EEXIST)."""
        clean = self._place(path)
        if clean in self.dirs or clean in self.pins:
            raise KernelError(errno.EEXIST, f"{path} exists")
        self.dirs.add(clean)

    def unlink(self, kernel: Kernel, path: str, uid: int = 0) -> None:
        """unlink(2) by user ``uid``: the pin's reference goes.

        KernelError(ENOENT, EISDIR), EPERM for another user's pin (the directory is sticky).
        """
        clean = self._place(path)
        if clean in self.dirs:
            raise KernelError(errno.EISDIR, f"{path} is a directory")
        if clean not in self.pins:
            raise KernelError(errno.ENOENT, f"{path} does not exist")
        if uid not in (0, self._owners[clean]):
            raise KernelError(errno.EPERM, f"{path} belongs to user {self._owners[clean]}")
        del self._owners[clean]
        self.pins.pop(clean).put_user(kernel)

    def rmdir(self, path: str) -> None:
        """rmdir(2): KernelError(ENOTEMPTY, ENOENT)."""
        clean = self._place(path)
        if clean in self.pins:
            raise KernelError(errno.ENOTDIR, f"{path} is no directory")
        if clean not in self.dirs:
            raise KernelError(errno.ENOENT, f"{path} does not exist")
        if any(other.startswith(clean + "/") for other in (*self.dirs, *self.pins)):
            raise KernelError(errno.ENOTEMPTY, f"{path} is not empty")
        self.dirs.remove(clean)
