# SPDX-License-Identifier: GPL-2.0-only
"""System calls of descriptors and paths: standard output, /proc/sys, the bpf file system."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bpf.map_object import MapObject
from ..errors import KernelError, NotModelled
from ..fs.bpffs import CONFIG_GZ, MOUNT, VMLINUX_BTF
from ..kconfig import config_gz
from ..net.socket import Socket
from ..objects import File, KObject
from ..sysctl import SYSCTLS
from ..task import CAP_SYSLOG
from .table import as_int, read_string, syscall

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..task import Task

PATH_MAX = 4096
AT_FDCWD = -100
O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE = 0, 1, 2, 3
O_CLOEXEC = 0o2000000
FDINFO = "/proc/self/fdinfo/"
MAX_RW = 1 << 20
STDOUT_LIMIT = 16 << 20
TRACE_PIPE = ("/sys/kernel/tracing/trace_pipe", "/sys/kernel/debug/tracing/trace_pipe")


class Console(KObject):
    """Standard output and error of a process: collected in ``task.stdout``."""

    kind = "console"


class SysctlFile(KObject):
    """A file below /proc/sys."""

    kind = "sysctl"

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class TextFile(KObject):
    """A read-only file whose text is made at open(2)."""

    kind = "text"

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text


class TracePipe(KObject):
    """trace_pipe: reading consumes."""

    kind = "trace_pipe"


def open_path(kernel: Kernel, task: Task, path: str, flags: int) -> KObject:
    """What a path names; KernelError(ENOENT) when nothing that is modelled does, EACCES by its mode."""
    writes = flags & O_ACCMODE != O_RDONLY
    name = path.removeprefix("/proc/sys/")
    if name != path and name in SYSCTLS:
        _allow(path, writes and task.uid != 0)
        return SysctlFile(name)
    if path in TRACE_PIPE:
        _allow(path, writes or task.uid != 0)
        return TracePipe()
    if path == "/proc/kallsyms":
        _allow(path, writes)
        return TextFile(_kallsyms(kernel, task))
    for name, content in ((VMLINUX_BTF, kernel.btf_data), (CONFIG_GZ, config_gz)):
        if path == name:
            _allow(path, writes)
            return TextFile(content())
    number = path.removeprefix(FDINFO)
    if number != path and number.isdecimal() and int(number) in task.files:
        _allow(path, writes)
        return TextFile(_fdinfo(kernel, task.files.find(int(number))))
    raise KernelError(errno.ENOENT, f"{path} does not exist")


def _allow(path: str, refused: bool) -> None:
    if refused:
        raise KernelError(errno.EACCES, f"{path} may not be opened that way")


def _kallsyms(kernel: Kernel, task: Task) -> bytes:
    """Symbols by address; those who may not see addresses read zeroes (kallsyms_show_value())."""
    shown = task.capable(CAP_SYSLOG)
    lines = []
    for name, addr in sorted(kernel.text.symbols().items(), key=lambda item: (item[1], item[0])):
        is_program = name.startswith("bpf_prog_")
        kind, module = ("t", "\t[bpf]") if is_program else ("T", "")
        lines.append(f"{addr if shown else 0:016x} {kind} {name}{module}\n")
    return "".join(lines).encode()


def _fdinfo(kernel: Kernel, file: File) -> bytes:
    """What /proc/self/fdinfo shows of an open file (seq_show(), bpf_map_show_fdinfo()).

    There are no mount and inode numbers here: both lines are left out.
    """
    lines = [f"pos:\t{file.pos}", f"flags:\t0{O_CLOEXEC | O_RDWR:o}"]
    if isinstance(file.obj, MapObject):
        held = file.obj.impl
        lines += [
            f"map_type:\t{held.map_type}",
            f"key_size:\t{held.key_size}",
            f"value_size:\t{held.value_size}",
            f"max_entries:\t{held.max_entries}",
            f"map_flags:\t{held.map_flags:#x}",
            f"map_extra:\t{held.map_extra:#x}",
            f"memlock:\t{held.memory_usage(kernel)}",
            f"map_id:\t{held.id}",
            f"frozen:\t{int(held.frozen)}",
        ]
    else:
        lines[1] = f"flags:\t0{file.flags:o}"
    return "".join(f"{line}\n" for line in lines).encode()


def _open(kernel: Kernel, task: Task, path_at: int, flags: int) -> int:
    path = read_string(kernel, task, path_at, PATH_MAX).decode("utf-8", "replace")
    return task.files.install(File(open_path(kernel, task, path, flags), flags, path))


@syscall(2, "open", 3)
def sys_open(kernel: Kernel, task: Task, path: int, flags: int, mode: int) -> int:
    """open(2)."""
    return _open(kernel, task, path, flags)


@syscall(257, "openat", 4)
def sys_openat(kernel: Kernel, task: Task, dirfd: int, path: int, flags: int, mode: int) -> int:
    """openat(2) with AT_FDCWD or an absolute path."""
    if as_int(dirfd) != AT_FDCWD and not read_string(kernel, task, path, PATH_MAX).startswith(b"/"):
        raise NotModelled("openat relative to a directory", errno.EBADF)
    return _open(kernel, task, path, flags)


@syscall(3, "close", 1)
def sys_close(kernel: Kernel, task: Task, fd: int) -> int:
    """close(2)."""
    task.files.close(kernel, as_int(fd))
    return 0


@syscall(32, "dup", 1)
def sys_dup(kernel: Kernel, task: Task, fd: int) -> int:
    """dup(2): both descriptors share the open file."""
    file = task.files.find(as_int(fd))
    number = task.files.install(file)
    file.get()
    return number


@syscall(0, "read", 3)
def sys_read(kernel: Kernel, task: Task, fd: int, at: int, size: int) -> int:
    """read(2)."""
    file = task.files.find(as_int(fd))
    size = min(size, MAX_RW)
    obj = file.obj
    if file.path and file.flags & O_ACCMODE == O_WRONLY:
        raise KernelError(errno.EBADF, f"{file.path} is open for writing only")
    # Before anything is consumed.
    task.mm.check_writable(at, size)
    if isinstance(obj, SysctlFile):
        data = f"{kernel.sysctl[obj.path]}\n".encode()[file.pos : file.pos + size]
    elif isinstance(obj, TextFile):
        data = obj.text[file.pos : file.pos + size]
    elif isinstance(obj, TracePipe):
        data = kernel.tracing.read(size)
        if not data:
            raise KernelError(errno.EAGAIN, "the trace is empty")
    elif isinstance(obj, Socket):
        data = obj.receive()[:size]
    elif isinstance(obj, Console):
        data = b""
    else:
        raise KernelError(errno.EINVAL, f"a {obj.kind} cannot be read")
    task.mm.write(kernel, at, data)
    file.pos += len(data)
    return len(data)


@syscall(1, "write", 3)
def sys_write(kernel: Kernel, task: Task, fd: int, at: int, size: int) -> int:
    """write(2)."""
    file = task.files.find(as_int(fd))
    obj = file.obj
    if file.path and file.flags & O_ACCMODE == O_RDONLY:
        raise KernelError(errno.EBADF, f"{file.path} is open for reading only")
    data = task.mm.read(kernel, at, min(size, MAX_RW))
    if isinstance(obj, SysctlFile):
        kernel.sysctl.write(obj.path, data.decode("latin-1"))
    elif isinstance(obj, Console):
        if len(task.stdout) + len(data) > STDOUT_LIMIT:
            raise KernelError(errno.ENOSPC, "standard output is full")
        task.stdout += data
    else:
        raise KernelError(errno.EINVAL, f"a {obj.kind} cannot be written")
    return len(data)


def _bpffs_path(kernel: Kernel, task: Task, at: int) -> str:
    path = read_string(kernel, task, at, PATH_MAX).decode("utf-8", "replace")
    if not path.startswith(MOUNT):
        raise KernelError(errno.EROFS, f"{path}: only {MOUNT} can be changed")
    return path


@syscall(83, "mkdir", 2)
def sys_mkdir(kernel: Kernel, task: Task, path: int, mode: int) -> int:
    """mkdir(2) below /sys/fs/bpf."""
    kernel.bpffs.mkdir(_bpffs_path(kernel, task, path))
    return 0


@syscall(84, "rmdir", 1)
def sys_rmdir(kernel: Kernel, task: Task, path: int) -> int:
    """rmdir(2) below /sys/fs/bpf."""
    kernel.bpffs.rmdir(_bpffs_path(kernel, task, path))
    return 0


@syscall(87, "unlink", 1)
def sys_unlink(kernel: Kernel, task: Task, path: int) -> int:
    """unlink(2) below /sys/fs/bpf."""
    kernel.bpffs.unlink(kernel, _bpffs_path(kernel, task, path), task.uid)
    return 0
