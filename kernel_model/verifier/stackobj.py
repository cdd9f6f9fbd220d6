# SPDX-License-Identifier: GPL-2.0-only
"""The slots of objects that a program keeps on its stack for the kernel (dynptrs, iterators, irq flags).

An object of several slots begins at its lowest address, which is the slot with the highest number.
(stack_slot_obj_get_spi and friends of Linux 6.18)
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from . import bounds as bd
from .env import Env, Reject
from .memory import NO_REG, check_mem_access
from .regs import PTR_TO_STACK, Reg
from .state import BPF_REG_SIZE, EMPTY_SLOT, FuncState, Slot


class BadSlot(Exception):
    """No object can be there; the log has the reason, except where the stack is only not that deep yet."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


def get_spi(env: Env, reg: Reg, kind: str, nr_slots: int) -> int:
    """The first slot of the object at a stack pointer; BadSlot when there can be none."""
    if reg.bounds.mask:
        env.verbose(f"{kind} has to be at a constant offset\n")
        raise BadSlot(errno.EINVAL)
    off = reg.off + bd.s64(reg.bounds.value)
    spi = (-off - 1) // BPF_REG_SIZE
    if off % BPF_REG_SIZE or spi + 1 < nr_slots:
        env.verbose(f"cannot pass in {kind} at an offset={off}\n")
        raise BadSlot(errno.EINVAL)
    if spi >= len(frame_at(env, reg).stack):
        raise BadSlot(errno.ERANGE)
    return spi


def frame_at(env: Env, reg: Reg) -> FuncState:
    """The frame that a stack pointer points into."""
    return env.cur.frames[reg.frameno]


def reserve(env: Env, regno: int, nr_slots: int) -> None:
    """Write the object's bytes as a helper would, which checks the bounds and destroys what was there."""
    assert env.frame.regs[regno].type == PTR_TO_STACK
    for at in range(0, nr_slots * BPF_REG_SIZE, BPF_REG_SIZE):
        check_mem_access(env, env.insn_idx, regno, at, BPF_REG_SIZE, True, NO_REG)


def spi_or_reject(env: Env, reg: Reg, kind: str, nr_slots: int) -> int:
    """As get_spi, where a failure is the program's end."""
    try:
        return get_spi(env, reg, kind, nr_slots)
    except BadSlot as error:
        raise Reject(error.errno) from None


def place(env: Env, frame: FuncState, spi: int, kind: int, regs: Sequence[Reg]) -> None:
    """Put an object into slots ``spi``, ``spi - 1`` ...; ``kind`` is the STACK_ number of its bytes."""
    types = bytes((kind,)) * BPF_REG_SIZE
    for at, reg in enumerate(regs):
        frame.stack[spi - at] = Slot(types, reg)


def remove(env: Env, frame: FuncState, spi: int, nr_slots: int) -> None:
    """Make the object's slots empty."""
    for at in range(nr_slots):
        frame.stack[spi - at] = EMPTY_SLOT
    written(env, frame, spi, nr_slots)


def written(env: Env, frame: FuncState, spi: int, nr_slots: int) -> None:
    """The instruction overwrites the object's slots."""
    env.liveness.mark_write(frame.frameno, slots(spi, nr_slots))


def read(env: Env, frame: FuncState, spi: int, nr_slots: int) -> None:
    """The instruction reads the object's slots."""
    env.liveness.mark_read(env, frame.frameno, env.insn_idx, slots(spi, nr_slots))
    show(env, spi, nr_slots)


def show(env: Env, spi: int, nr_slots: int) -> None:
    """The object's slots are to be printed."""
    if env.detailed:
        env.scratched_slots |= slots(spi, nr_slots)


def slots(spi: int, nr_slots: int) -> int:
    """The mask of an object's slots."""
    return ((1 << nr_slots) - 1) << (spi - nr_slots + 1)
