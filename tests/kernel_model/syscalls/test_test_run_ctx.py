# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_TEST_RUN on a context: raw tracepoints as the host, and the types that only the simulator runs."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest
from host_bpf import HostProcess, HostRefused, host_kernel, prog_load

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import encode
from kernel_model.rc import PointerEvent, ScancodeEvent
from kernel_model.uapi.bpf_attr import NR_BPF, command, pack
from sim import Machine
from sim.userspace.bpf import Bpf, VerifierError

KPROBE, TRACEPOINT, PERF_EVENT, RAW_TRACEPOINT, LIRC = 2, 5, 7, 17, 20


def run(process: Any, fd: int, ctx: bytes, **fields: int) -> tuple[int, int]:
    """The system call's result and the program's."""
    at = process.alloc(max(len(ctx), 8))
    process.write(at, ctx)
    given = {"ctx_in": at, "ctx_size_in": len(ctx)} if ctx else {}
    attr = pack("PROG_TEST_RUN", prog_fd=fd, **(given | fields))
    spot = process.alloc(len(attr))
    process.write(spot, attr)
    result = process.syscall(NR_BPF, command("PROG_TEST_RUN").number, spot, len(attr))
    return result, command("PROG_TEST_RUN").record.unpack(process.read(spot, len(attr)))["retval"]


ARGS = "r0 = *(u64 *)(r1 +8)\nr2 = *(u64 *)(r1 +0)\nr0 -= r2\nexit"
WORDS = struct.pack("<12Q", *range(100, 112))
RAW_CASES = (
    *((ARGS, WORDS[:size], {}) for size in (0, 8, 15, 16, 17, 96)),
    (ARGS, WORDS + bytes(8), {}),
    ("r0 = 7\nexit", b"", {}),
    ("r0 = -1\nexit", WORDS[:5], {}),
    ("r0 = *(u8 *)(r1 +95)\nexit", WORDS, {}),
    ("r0 = *(u8 *)(r1 +95)\nexit", WORDS[:88], {}),
    *((ARGS, WORDS, {name: 1}) for name in ("repeat", "duration", "batch_size", "cpu")),
    *((ARGS, WORDS, {"flags": flags}) for flags in (1, 2, 4)),
    (ARGS, WORDS, {"flags": 1, "cpu": 99999}),
)


@pytest.mark.parametrize("number", range(len(RAW_CASES)))
def test_raw_tracepoints(bpf: Bpf, machine: Machine, number: int) -> None:
    text, ctx, fields = RAW_CASES[number]
    fd = bpf.prog_load(RAW_TRACEPOINT, assemble(text))[0]
    found = run(bpf.process, fd, ctx, **fields)
    machine.use_engine(jit=False)
    assert run(bpf.process, fd, ctx, **fields) == found


@host_kernel
def test_raw_tracepoints_as_the_host(bpf: Bpf) -> None:
    host = Bpf(HostProcess())
    different = []
    for text, ctx, fields in RAW_CASES:
        here, there = (each.prog_load(RAW_TRACEPOINT, assemble(text))[0] for each in (bpf, host))
        ours, theirs = run(bpf.process, here, ctx, **fields), run(host.process, there, ctx, **fields)
        if ours != theirs:
            different.append((text, len(ctx), fields, ours, theirs))
        host.close(there)
    assert different == []


@pytest.mark.parametrize(
    ("kind", "text", "ctx", "retval"),
    [
        (KPROBE, "r0 = *(u64 *)(r1 +112)\nexit", struct.pack("<21Q", *range(21)), 14),
        (KPROBE, "r0 = *(u64 *)(r1 +160)\nexit", bytes(8), 0),
        (TRACEPOINT, "r0 = *(u32 *)(r1 +16)\nexit", bytes(16) + b"\5\0\0\0", 5),
        (PERF_EVENT, "r0 = *(u64 *)(r1 +112)\nexit", struct.pack("<23Q", *range(23)), 14),
        (PERF_EVENT, "r0 = *(u64 *)(r1 +168)\nexit", struct.pack("<23Q", *range(23)), 21),
        (PERF_EVENT, "r0 = *(u32 *)(r1 +176)\nexit", struct.pack("<23Q", *range(23)), 22),
        (LIRC, "r0 = *(u32 *)(r1 +0)\nexit", struct.pack("<I", 0x1000190), 0x1000190),
    ],
)
def test_contexts_as_bytes(
    bpf: Bpf, machine: Machine, engine: bool, kind: int, text: str, ctx: bytes, retval: int
) -> None:
    machine.use_engine(jit=engine)
    fd = bpf.prog_load(kind, assemble(text))[0]
    assert run(bpf.process, fd, ctx, repeat=3) == (0, retval)
    assert run(bpf.process, fd, ctx, flags=1)[0] == -errno.EINVAL
    assert run(bpf.process, fd, bytes(8193))[0] == -errno.E2BIG


KEYS = """
r6 = r1
r2 = 3
r3 = 0x123456789a ll
r4 = 1
call 78
r1 = r6
call 77
r1 = r6
r2 = -5
r3 = 7
call 92
r0 = 0
exit
"""


def test_a_receivers_events(bpf: Bpf, machine: Machine, engine: bool) -> None:
    machine.use_engine(jit=engine)
    fd = bpf.prog_load(LIRC, assemble(KEYS))[0]
    assert run(bpf.process, fd, bytes(4)) == (0, 0)
    (device,) = machine.kernel.rc.devices
    down, repeat, pointer = device.events
    assert isinstance(down, ScancodeEvent) and isinstance(repeat, ScancodeEvent)
    assert (down.flags, down.rc_proto, down.scancode) == (1, 3, 0x123456789A)
    assert (repeat.flags, repeat.rc_proto, repeat.scancode) == (3, 3, 0x123456789A)
    assert isinstance(pointer, PointerEvent) and (pointer.x, pointer.y) == (-5, 7)


# Programs that a receiver's type allows and refuses: Linux has a list of its own for it.
LIRC_PROGRAMS = {
    "keys": KEYS,
    "ktime": "call 5\nexit",
    "boot time": "call 125\nexit",
    "random": "call 7\nexit",
    "cpu": "call 8\nexit",
    "node": "call 42\nexit",
    "jiffies": "call 118\nexit",
    "coarse time": "call 160\nexit",
    "half a sample": "r0 = *(u16 *)(r1 +0)\nexit",
    "beyond the sample": "r0 = *(u32 *)(r1 +4)\nexit",
    "eight bytes": "r0 = *(u64 *)(r1 +0)\nexit",
    "a write": "*(u32 *)(r1 +0) = 1\nr0 = 0\nexit",
}


def _accepted(bpf: Bpf, text: str) -> bool:
    try:
        bpf.close(bpf.prog_load(LIRC, assemble(text))[0])
    except VerifierError:
        return False
    return True


def test_what_receivers_allow(bpf: Bpf) -> None:
    accepted = {name for name, text in LIRC_PROGRAMS.items() if _accepted(bpf, text)}
    assert accepted == {"keys", "ktime", "boot time", "random"}


@host_kernel
def test_receivers_as_the_host(bpf: Bpf) -> None:
    try:
        os.close(prog_load(encode(assemble("r0 = 0\nexit")), LIRC))
    except HostRefused:
        pytest.skip("the host has no infrared programs (CONFIG_BPF_LIRC_MODE2)")
    host = Bpf(HostProcess())
    for name, text in LIRC_PROGRAMS.items():
        assert _accepted(bpf, text) == _accepted(host, text), name
