# SPDX-License-Identifier: GPL-2.0-only
"""The host's own kernel as a further engine, through raw bpf(2).

Creates maps, loads programs, test-runs them, and closes them again; it attaches nothing and changes no
setting. Needs root on Linux x86-64: :func:`why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

from sim.userspace.bpf import SyscallError

from .engines import Outcome, Refused
from .program import ARRAY, DATA_MAPS, HASH, MAPS, PACKET, Program
from .surroundings import Surroundings

_SYS_CLOSE, _SYS_BPF = 3, 321
MAX_INSNS = 10_000


class HostProcess:
    """This process with the contract of sim.userspace.bpf.Process; only bpf(2) and close(2) pass."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._memory: list[ctypes.Array[ctypes.c_char]] = []

    def alloc(self, size: int) -> int:
        """Zeroed memory that lives as long as this object."""
        self._memory.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(self._memory[-1])

    def write(self, addr: int, data: bytes) -> None:
        """Write at an address that ``alloc`` gave."""
        ctypes.memmove(addr, data, len(data))

    def read(self, addr: int, n: int) -> bytes:
        """Read at an address that ``alloc`` gave."""
        return ctypes.string_at(addr, n)

    def syscall(self, nr: int, *args: int) -> int:
        """The raw system call: its result, or minus the errno. PermissionError for any other call."""
        if nr not in (_SYS_CLOSE, _SYS_BPF):
            raise PermissionError(f"system call {nr} is not for the fuzzer to make")
        result: int = self._libc.syscall(nr, *(ctypes.c_long(arg) for arg in args))
        return result if result >= 0 else -ctypes.get_errno()


@functools.cache
def why_not() -> str | None:
    """Why this host's kernel cannot be used, None when it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the host is not Linux on x86-64"
    if os.geteuid():
        return "bpf(2) on the host needs root"
    try:
        HostKernel().close()
    except SyscallError as error:
        return f"the host refuses {error}"
    return None


class HostKernel:
    """The same maps and tail-call targets as :class:`Engines` has, in the host's kernel."""

    def __init__(self) -> None:
        self._around = Surroundings(HostProcess())
        self._around.add_tail_targets()
        self._bpf, self._fds = self._around.bpf, self._around.fds

    def close(self) -> None:
        """Let go of everything (programs and maps go with their last descriptor)."""
        self._around.close()

    def run(self, program: Program) -> Outcome | Refused:
        """Load, test-run once on the packet, read the maps back. R0 has 32 bits, the context is not shown."""
        if len(program.insns) > MAX_INSNS:
            return Refused(f"{len(program.insns)} instructions are too many for the host")
        try:
            fd = self._around.load(program)
        except SyscallError as error:
            return Refused(str(error))
        try:
            self._reset()
            ran = self._bpf.prog_test_run(fd, PACKET)
            names_hash = program.names_map(HASH)
            maps = tuple(self._entries(index) if names_hash or index == ARRAY else () for index in DATA_MAPS)
            return Outcome(ran.retval, ran.data, b"", maps)
        finally:
            self._bpf.close(fd)

    def _reset(self) -> None:
        for index in DATA_MAPS:
            spec, fd = MAPS[index], self._fds[index]
            if index == HASH:
                for key in list(self._bpf.map_keys(fd, spec.key_size)):
                    self._bpf.map_delete(fd, key)
            for key, value in spec.entries:
                self._bpf.map_update(fd, key, value)

    def _entries(self, index: int) -> tuple[tuple[bytes, bytes], ...]:
        spec, fd = MAPS[index], self._fds[index]
        keys = sorted(self._bpf.map_keys(fd, spec.key_size))
        return tuple((key, self._bpf.map_lookup(fd, key, spec.value_size) or b"") for key in keys)
