# SPDX-License-Identifier: GPL-2.0-only
"""What instruction selection yields: machine instructions as text and as things to be resolved later."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kernel_model.errors import KernelError
from kernel_model.isa.native import NativeRequest, Subprog

from .byte_forms import ByteLine

NEAR_SIZE: Final = 5
"""Bytes of ``call rel32`` and ``jmp rel32`` (Linux: X86_PATCH_SIZE)."""
SHORT_SIZE: Final = 2
FUNC_ADDRESS_SIZE: Final = 7
"""Bytes of ``mov r64, simm32``: code lies in the top 2 GiB of the address space."""


class Far(NamedTuple):
    """``call`` or ``jmp`` to the address ``target`` outside the function; always 5 bytes."""

    mnemonic: str
    target: int


class CallSubprog(NamedTuple):
    """``call`` of the program's function number ``subprog``; 5 bytes."""

    subprog: int


class FuncAddress(NamedTuple):
    """``mov reg, address of function subprog``; 7 bytes. ``reg`` is the register's name."""

    reg: str
    subprog: int


class LocalJump(NamedTuple):
    """A jump to the beginning of item ``to`` of the same instruction's code; 2 bytes, 5 if ``near``."""

    mnemonic: str
    to: int
    near: bool = False


class AtRip(NamedTuple):
    """An instruction of ``size`` bytes with the operand ``[rip + {}]``, which is the address ``target``."""

    template: str
    target: int
    size: int


Item = str | ByteLine | Far | CallSubprog | FuncAddress | LocalJump | AtRip
"""One machine instruction; a plain string is assembler text that means the same at every address."""


class Jump(NamedTuple):
    """The branch that ends a BPF instruction's code and whose size the layout decides.

    ``target`` is a slot counted from the function's start, or None for its epilogue.
    """

    mnemonic: str
    target: int | None
    minus_one: bool = False
    """A jump to itself: Linux gives it the short form without looking at the distance."""


class Code(NamedTuple):
    """The machine code of one BPF instruction, in order: the items, then the jump.

    ``fault``: the item that may fault, and the BPF register that reads zero then (None for stores);
    execution goes on behind the last item. ``poke``: the number of the direct tail call's poke site,
    with the items of its bypass jump and its target nop.
    """

    items: Sequence[Item] = ()
    jump: Jump | None = None
    fault: tuple[int, int | None] | None = None
    poke: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Context:
    """What templates may know of the function being compiled."""

    request: NativeRequest
    number: int
    subprog: Subprog
    stack_depth: int
    """Bytes below the frame pointer, rounded up to 8; 0 with a private stack."""
    used: tuple[int, ...]
    """Callee-saved BPF registers that the function mentions, in the order of the pushes."""
    function_at: dict[int, int]
    """The number of the function that starts at a slot."""

    def function(self, slot: int) -> int:
        """The number of the function that starts at ``slot``; KernelError(EINVAL) when none does."""
        number = self.function_at.get(slot)
        if number is None:
            raise KernelError(errno.EINVAL, f"no function starts at slot {slot}")
        return number

    @property
    def unlinked(self) -> bool:
        """A program of one function: no address of a function was ever put in, and what refers to one (a
        callback that is never called, and gone) is compiled as it stands."""
        return len(self.request.subprogs) == 1

    @property
    def private_stack(self) -> bool:
        return self.subprog.private_stack is not None

    @property
    def counter_slot(self) -> int:
        """Offset from rbp of the pointer to the tail-call counter."""
        return -16 - self.stack_depth


def join(*parts: Iterable[Item]) -> list[Item]:
    """The items of ``parts``, one after the other."""
    return [item for part in parts for item in part]
