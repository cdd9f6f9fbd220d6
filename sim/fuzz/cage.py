# SPDX-License-Identifier: GPL-2.0-only
"""A child process that runs machine code on the real CPU and can do nothing else.

Parent and child share one anonymous memory file; the child has pieces of it mapped at fixed addresses,
code without write permission and data without execute permission. The child sits in a loop of machine
code: a byte on standard input starts a call, a byte on standard output ends it. Before the first call it
installs a seccomp filter that kills it for any system call but read(0), write(1) and exit_group; mapping
memory is out of the question, too. Resource limits and a processor-time limit by the parent bound it.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jit_x86.assembler import assemble
from kernel_model.classic.insn import encode
from kernel_model.classic.text import assemble as assemble_filter

PAGE: Final = 4096
READ, WRITE, EXEC = 1, 2, 4
CONTROL: Final = 0x3000_0000
"""Where the child has the page of cells that parent and machine code talk through."""
_CODE: Final = CONTROL + 0x1_0000
_LOG: Final = CONTROL + 0x2_0000
_LOG_SIZE: Final = 1 << 20
_STACKS: Final = CONTROL + 0x20_0000
_STACK_SIZE: Final = 4 * PAGE
_FILTER: Final = CONTROL + 0x800
_CELLS: Final = (
    "command", "status", "entry", "rsp", "rdi", "rsi",
    "log", "log_end", "rax", "rbx", "rbp", "r12", "r13", "r14", "r15", "rsp_after", "rflags",
    "signal", "fault_addr", "fault_rip", "number",
)  # fmt: skip
_CELL: Final = {name: 8 * index for index, name in enumerate(_CELLS)}
RETURNED, DIVERGED = 1, 2
SAVED: Final = {
    name: 0x5AFE_0000_5AFE_0000 + number
    for number, name in enumerate(("rbx", "rbp", "r12", "r13", "r14", "r15"))
}
"""What callee-saved registers hold when a call starts, and must hold when it ends."""
POISON: Final = 0x0BAD_BEEF_0BAD_BEEF
"""What a replayed function leaves in the registers that it may change."""
CPU_SECONDS: Final = 0.25
"""Processor time of one call, after which it counts as endless."""
_LIMITS: Final = {
    "CPU": 60,
    "AS": 1 << 30,
    "CORE": 0,
    "NOFILE": 0,
    "FSIZE": 0,
    "NPROC": 0,
    "MEMLOCK": 0,
}
_CALLS_PER_CHILD: Final = 5000
"""Calls after which a new child takes over: the limit of processor time counts over all of them."""
_START_SECONDS: Final = 30.0

_SECCOMP: Final = """
        ld [4]
        jne #0xc000003e, kill
        ld [0]
        jeq #0, reading
        jeq #1, writing
        jeq #231, allow, kill
reading: ld [16]
        jeq #0, allow, kill
writing: ld [16]
        jeq #1, allow, kill
allow:  ret #0x7fff0000
kill:   ret #0x80000000
"""
"""In struct seccomp_data the number is at 0, the architecture (AUDIT_ARCH_X86_64) at 4, the first argument at
16; the answers are SECCOMP_RET_ALLOW and SECCOMP_RET_KILL_PROCESS."""

_LOOP: Final = """
start:
        mov eax, 157
        mov edi, 22
        mov esi, 2
        mov edx, FILTER
        xor r10d, r10d
        xor r8d, r8d
        syscall
        test rax, rax
        jnz die
answer:
        mov esp, STACK_TOP
        mov eax, 1
        mov edi, 1
        mov esi, CONTROL + AT_command
        mov edx, 1
        syscall
        cmp rax, 1
        jne die
wait:
        mov esp, STACK_TOP
        xor eax, eax
        xor edi, edi
        mov esi, CONTROL + AT_command
        mov edx, 1
        syscall
        cmp rax, 1
        jne die
        mov eax, ss
        push rax
        mov eax, STACK_TOP
        push rax
        pushfq
        mov eax, cs
        push rax
        lea rax, [rip + fresh]
        push rax
        iretq
fresh:
        cld
        mov r11d, CONTROL
        mov rsp, [r11 + AT_rsp]
        mov rdi, [r11 + AT_rdi]
        mov rsi, [r11 + AT_rsi]
        movabs rax, POISON
        mov rdx, rax
        mov rcx, rax
        mov r8, rax
        mov r9, rax
        mov r10, rax
        SAVED_REGISTERS
        call qword ptr [r11 + AT_entry]
        mov r11d, CONTROL
        mov [r11 + AT_rax], rax
        mov [r11 + AT_rsp_after], rsp
        mov esp, STACK_TOP
        pushfq
        pop qword ptr [r11 + AT_rflags]
        mov [r11 + AT_rbx], rbx
        mov [r11 + AT_rbp], rbp
        mov [r11 + AT_r12], r12
        mov [r11 + AT_r13], r13
        mov [r11 + AT_r14], r14
        mov [r11 + AT_r15], r15
        mov qword ptr [r11 + AT_status], RETURNED
        jmp answer
replay:
        mov r11d, CONTROL
        mov [r11 + AT_number], rax
        mov r10, [r11 + AT_log]
        cmp r10, [r11 + AT_log_end]
        jae diverged
        cmp [r10], rax
        jne diverged
        mov [r10 + 16], rdi
        mov [r10 + 24], rsi
        mov [r10 + 32], rdx
        mov [r10 + 40], rcx
        mov [r10 + 48], r8
        mov rax, [r10 + 8]
        mov r9, [r10 + 56]
        add r10, 64
piece:
        test r9, r9
        jz replayed
        mov rdi, [r10]
        mov rcx, [r10 + 8]
        lea rsi, [r10 + 16]
        rep movsb
        lea r10, [rsi + 7]
        and r10, -8
        dec r9
        jmp piece
replayed:
        mov [r11 + AT_log], r10
        movabs rdi, POISON
        mov rsi, rdi
        mov rdx, rdi
        mov rcx, rdi
        mov r8, rdi
        mov r9, rdi
        mov r10, rdi
        mov r11, rdi
        ret
diverged:
        mov qword ptr [r11 + AT_status], DIVERGED
        jmp answer
handler:
        mov r11d, CONTROL
        mov [r11 + AT_signal], rdi
        mov rax, [rsi + 16]
        mov [r11 + AT_fault_addr], rax
        mov rax, [rdx + 168]
        mov [r11 + AT_fault_rip], rax
        add edi, 128
        jmp leave
die:
        mov edi, 1
leave:
        mov eax, 231
        syscall
        int3
end:
        .long replay - start
        .long handler - start
"""
"""``answer`` ends a call, ``wait`` begins the next; between them lies ``iretq``, since a CPU must serialise
before it runs code that another one has written. ``replay`` is jumped to with a function's number in rax: the
next record of the log must be of it; the arguments are noted, the memory effects made, the result returned.
``handler`` takes signals: siginfo holds the address at 16, ucontext RIP at 168."""


class CageError(RuntimeError):
    """The child could not be started."""


class Crash(Exception):
    """A call that did not come back: the reason in words."""


@dataclass(frozen=True)
class Region:
    """A piece of memory of the child: address and size in bytes (whole pages), READ | WRITE | EXEC."""

    addr: int
    size: int
    prot: int


@dataclass(frozen=True)
class Answer:
    """What a call left: RAX, the callee-saved registers, rflags, how far the stack pointer is off.

    ``diverged`` is the number of a function that was called out of order, None when none was; the rest then
    means nothing. ``log_used`` is how many bytes of the log were read.
    """

    rax: int
    saved: dict[str, int]
    rflags: int
    rsp_off: int
    diverged: int | None
    log_used: int


def why_not() -> str | None:
    """Why this host cannot run the code, None when it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the host is not Linux on x86-64"
    return None


def _machine_code() -> tuple[bytes, int, int]:
    """The loop's code, and the addresses of ``replay`` and of the signal handler."""
    text = _LOOP.replace(
        "SAVED_REGISTERS", "\n".join(f"movabs {name}, {value}" for name, value in SAVED.items())
    )
    numbers = {f"AT_{name}": at for name, at in _CELL.items()} | {
        "CONTROL": CONTROL,
        "STACK_TOP": _STACKS + _STACK_SIZE,
        "FILTER": _FILTER,
        "POISON": POISON,
        "RETURNED": RETURNED,
        "DIVERGED": DIVERGED,
    }
    for name in sorted(numbers, key=len, reverse=True):
        text = text.replace(name, str(numbers[name]))
    code = assemble(text, _CODE)
    replay, handler = struct.unpack("<II", code[-8:])
    return code[:-8], _CODE + replay, _CODE + handler


class Cage:
    """The child, started when it is first needed and again after each crash.

    ``regions`` are mapped besides its own; :meth:`memory` gives the parent's view of one. ``gs_base`` is the
    child's GS base. Close it, or use it as a context manager.
    """

    def __init__(self, regions: Sequence[Region], gs_base: int = 0) -> None:
        own = (
            Region(CONTROL, PAGE, READ | WRITE),
            Region(_CODE, PAGE, READ | EXEC),
            Region(_LOG, _LOG_SIZE, READ | WRITE),
            Region(_STACKS, _STACK_SIZE, READ | WRITE),
            # Apart, so that a page without access lies below each stack.
            Region(_STACKS + _STACK_SIZE + PAGE, _STACK_SIZE, READ | WRITE),
        )
        self._regions = (*own, *regions)
        size = sum(region.size for region in self._regions)
        self._fd = os.memfd_create("cage")
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self._view = memoryview(self._map)
        self._offsets, at = {}, 0
        for region in self._regions:
            self._offsets[region] = at
            at += region.size
        self._control, code, self._log = (self.memory(region) for region in own[:3])
        text, self.replay, handler = _machine_code()
        code[: len(text)] = text
        filters = encode(assemble_filter(_SECCOMP))
        at = _FILTER - CONTROL
        struct.pack_into("<HxxxxxxQ", self._control, at, len(filters) // 8, _FILTER + 16)
        self._control[at + 16 : at + 16 + len(filters)] = filters
        self._spec = {
            "regions": [
                (region.addr, region.size, self._offsets[region], region.prot) for region in self._regions
            ],
            "alt_stack": own[4].addr,
            "alt_stack_size": own[4].size,
            "handler": handler,
            "gs_base": gs_base,
            "entry": _CODE,
            "limits": _LIMITS,
        }
        self._child: subprocess.Popen[bytes] | None = None
        self._calls = 0
        self.starts = 0
        """How many children there have been."""

    def __enter__(self) -> Cage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and free the memory; a second call does nothing."""
        self._end()
        if self._fd >= 0:
            for view in (self._control, self._log, self._view):
                view.release()
            os.close(self._fd)
            self._fd = -1

    def memory(self, region: Region) -> memoryview:
        """The parent's view of a region's bytes, writable."""
        at = self._offsets[region]
        return self._view[at : at + region.size]

    def _cell(self, name: str) -> int:
        value: int = struct.unpack_from("<Q", self._control, _CELL[name])[0]
        return value

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("<Q", self._control, _CELL[name], value & 0xFFFF_FFFF_FFFF_FFFF)

    # The child

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("caged.py")
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self._fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(self._fd,),
            env={},
        )
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        self._child, self._calls = child, 0
        self.starts += 1
        child.stdin.write(json.dumps(self._spec).encode() + b"\n")
        ready, _, _ = select.select([child.stdout], [], [], _START_SECONDS)
        if not ready or child.stdout.read(1) == b"":
            child.kill()
            reason = child.stderr.read().decode("utf-8", "replace").strip().splitlines()
            self._end()
            raise CageError(f"the child did not start: {reason[-1] if reason else 'no reason given'}")
        return child

    def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()

    def call(
        self, entry: int, rdi: int, rsi: int, rsp: int, log: bytes = b"", cpu_seconds: float = CPU_SECONDS
    ) -> Answer:
        """Call ``entry`` (rdi, rsi) on the stack ``rsp``; ``log`` is what replayed functions answer.

        Raises Crash for code that faults, makes a system call or does not end, CageError when there can be
        no child.
        """
        if self._calls >= _CALLS_PER_CHILD:
            self._end()
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        if len(log) > len(self._log):
            raise ValueError(f"a log of {len(log)} bytes")
        self._log[: len(log)] = log
        for name, value in (
            ("status", 0), ("signal", 0), ("entry", entry), ("rdi", rdi), ("rsi", rsi), ("rsp", rsp),
            ("log", _LOG), ("log_end", _LOG + len(log)),
        ):  # fmt: skip
            self._set(name, value)
        self._calls += 1
        limit = _cpu_time(child.pid) + cpu_seconds
        child.stdin.write(b"!")
        while not select.select([child.stdout], [], [], 0.05)[0]:
            if _cpu_time(child.pid) > limit:
                self._end()
                raise Crash(f"no end after {cpu_seconds:g} s of processor time")
        if not child.stdout.read(1):
            raise Crash(self._died(child))
        status = self._cell("status")
        return Answer(
            self._cell("rax"),
            {name: self._cell(name) for name in SAVED},
            self._cell("rflags"),
            (self._cell("rsp_after") - rsp) & 0xFFFF_FFFF_FFFF_FFFF,
            self._cell("number") if status != RETURNED else None,
            self._cell("log") - _LOG,
        )

    def log_record(self, at: int, size: int) -> bytes:
        """Bytes of the log after the call: records hold the arguments that were given."""
        return bytes(self._log[at : at + size])

    def _died(self, child: subprocess.Popen[bytes]) -> str:
        code = child.wait()
        self._end()
        number = self._cell("signal")
        if number and code == 128 + number:
            where = f"at {self._cell('fault_addr'):#x}, RIP {self._cell('fault_rip'):#x}"
            return f"{signal.Signals(number).name} {where}"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _cpu_time(pid: int) -> float:
    """Processor time of a process in seconds (the kernel's clock id of another process)."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0
