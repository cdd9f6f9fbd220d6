# SPDX-License-Identifier: GPL-2.0-only
"""This machine's kernel behind the process contract, for bpf(2) and close(2) alone."""

from __future__ import annotations

import ctypes
from pathlib import Path

from kernel_model.uapi.bpf_attr import NR_BPF

ALLOWED = {NR_BPF: 3, 3: 1}


def host_cpus() -> int:
    """The number of possible CPUs of this machine (``0-1``: two)."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.rpartition("-")[2]) + 1


class HostProcess:
    """Memory is ctypes buffers of this very process; a system call is the real one."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}

    def alloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size + 8)
        addr = ctypes.addressof(buffer) + 7 & ~7
        self._buffers[addr] = buffer
        return addr

    def _check(self, addr: int, size: int) -> None:
        if not any(a <= addr and addr + size <= a + len(b) for a, b in self._buffers.items()):
            raise ValueError(f"{addr:#x}+{size} is no memory of the process")

    def write(self, addr: int, data: bytes) -> None:
        self._check(addr, len(data))
        ctypes.memmove(addr, data, len(data))

    def read(self, addr: int, n: int) -> bytes:
        self._check(addr, n)
        return ctypes.string_at(addr, n)

    def syscall(self, nr: int, *args: int) -> int:
        assert len(args) == ALLOWED[nr]
        result: int = self._libc.syscall(nr, *(ctypes.c_uint64(a) for a in args))
        return result if result >= 0 else -ctypes.get_errno()
