# SPDX-License-Identifier: GPL-2.0-only
"""The child process of :mod:`sim.fuzz.cage`: run as a script by a bare interpreter.

It imports nothing of bpfsim. It maps what its parent describes on standard input, gives up what it may do,
and jumps into machine code, from which it never comes back to Python.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from typing import Any

_MAP_SHARED, _MAP_FIXED_NOREPLACE = 1, 0x10_0000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIGKILL = 9
_SYS_RT_SIGACTION, _SYS_SIGALTSTACK, _SYS_ARCH_PRCTL = 13, 131, 158
_ARCH_SET_GS = 0x1001
_SA_SIGINFO, _SA_RESTORER, _SA_ONSTACK = 0x4, 0x400_0000, 0x800_0000
_SIGNALS = (4, 5, 7, 8, 11)
"""SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: what machine code raises by itself."""

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]


class Sigaction(ctypes.Structure):
    """struct sigaction as the system call takes it."""

    _fields_ = [
        ("handler", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("restorer", ctypes.c_uint64),
        ("mask", ctypes.c_uint64),
    ]


class Stack(ctypes.Structure):
    """stack_t."""

    _fields_ = [("sp", ctypes.c_uint64), ("flags", ctypes.c_int), ("size", ctypes.c_uint64)]


def call(number: int, *args: Any) -> None:
    """A system call that must succeed."""
    if libc.syscall(number, *(arg if not isinstance(arg, int) else ctypes.c_long(arg) for arg in args)):
        raise OSError(ctypes.get_errno(), f"system call {number}")


def read_line() -> bytes:
    """The first line of standard input, not a byte more."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise EOFError
        line += byte
    return bytes(line)


def main() -> None:
    """Set up and go."""
    fd = int(sys.argv[1])
    spec = json.loads(read_line())
    for addr, size, offset, prot in spec["regions"]:
        if libc.mmap(addr, size, prot, _MAP_SHARED | _MAP_FIXED_NOREPLACE, fd, offset) != addr:
            raise OSError(ctypes.get_errno(), f"mapping {addr:#x}")
    os.close(fd)
    stack = Stack(spec["alt_stack"], 0, spec["alt_stack_size"])
    call(_SYS_SIGALTSTACK, ctypes.byref(stack), 0)
    action = Sigaction(spec["handler"], _SA_SIGINFO | _SA_RESTORER | _SA_ONSTACK, spec["handler"], 0)
    for number in _SIGNALS:
        call(_SYS_RT_SIGACTION, number, ctypes.byref(action), 0, 8)
    call(_SYS_ARCH_PRCTL, _ARCH_SET_GS, spec["gs_base"])
    for name, limit in spec["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    for option, value in ((_PR_SET_PDEATHSIG, _SIGKILL), (_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    ctypes.CFUNCTYPE(None)(spec["entry"])()


if __name__ == "__main__":
    main()
