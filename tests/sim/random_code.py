# SPDX-License-Identifier: GPL-2.0-only
"""Random bytes as machine code, in ring 0 and in ring 3."""

from __future__ import annotations

import random
from collections import Counter

from machine_tools import elf

from sim import Machine
from sim.hardware import address_map as where
from sim.hardware.guest_fault import GuestFault

SIZE = 64
WATCHDOG = 0.05


def random_code(rng: random.Random) -> bytes:
    """Bytes that are wild and yet often decode: plain random ones, or instructions with random operands."""
    if rng.random() < 0.5:
        return rng.randbytes(SIZE)
    out = bytearray()
    while len(out) < SIZE:
        out += rng.choice(_PIECES)
        out += rng.randbytes(rng.randrange(3))
    return bytes(out[:SIZE])


_PIECES = tuple(
    bytes.fromhex(piece)
    for line in (
        "4889 488b 4801 0f05 0f22d8 0f22e0 0f30 0f32 0f01 0f00 0fae 0fc7 cf 48cf cb ea 9a c3 e8 eb74 f4",
        "fa fb cc cd80 9c 9d e4 e6 ec ee 6c 6e 0f34 0f35 0f07 0fa2 0f31 f30fae 660f f3a4 f3aa 8ed8",
        "8ee8 65 64",
    )
    for piece in line.split()
)


def text_of(machine: Machine) -> bytes:
    """The kernel's text in physical memory."""
    return bytes(machine._ram.view[where.TEXT_PHYS : where.TEXT_PHYS + (64 << 10)])


def ring_0(machine: Machine, rng: random.Random, runs: int) -> Counter[str]:
    """Run random kernel functions, each from the same state; how they ended."""
    kernel = machine.kernel
    (addr,) = kernel.text.allocate([SIZE + 16])
    frozen = machine.snapshot()
    ends: Counter[str] = Counter()
    for _ in range(runs):
        code = random_code(rng)
        machine.kernel.text.poke(addr, code)
        args = [
            rng.choice((0, 8, where.DIRECT_MAP + rng.randrange(1 << 29), rng.getrandbits(64)))
            for _ in range(6)
        ]
        try:
            machine.kernel.cpu.call(addr, *args)
            ends["returned"] += 1
        except GuestFault as fault:
            ends[fault.kind] += 1
        except Exception as error:
            # A jump into a kernel function in Python, with any arguments: its own complaint.
            ends[type(error).__name__] += 1
        machine.restore(frozen)
    return ends


def ring_3(machine: Machine, rng: random.Random, runs: int) -> Counter[str]:
    """Run random programs, each in a new process; how they ended."""
    ends: Counter[str] = Counter()
    for _ in range(runs):
        try:
            process = machine.exec(elf(random_code(rng)))
            ends["exited"] += 1
        except GuestFault as fault:
            assert fault.user, fault.details()
            ends[fault.kind] += 1
        else:
            assert process.exit_code is not None
            process.reap()
    return ends
