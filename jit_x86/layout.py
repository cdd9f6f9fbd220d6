# SPDX-License-Identifier: GPL-2.0-only
"""Branch sizing: which branches are short, by the same passes that Linux makes.

Linux does not look for the smallest image. It starts from an estimate of 64 bytes an instruction and
translates again and again, each time with the offsets known so far, until the length stays the same;
from the 16th pass on it pads with nops rather than let a branch shrink. A branch is short when its
distance lies in -128..123, not 127: the four bytes that another branch may grow by in the next pass
must not undo the decision. Source: arch/x86/net/bpf_jit_comp.c, do_jit() and bpf_int_jit_compile().

Only branches change size between passes, so only they are looked at; everything else is a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kernel_model.errors import KernelError

ENOTSUPP: Final = 524
MAX_PASSES: Final = 20
PADDING_PASSES: Final = MAX_PASSES - 5
_FIRST_ESTIMATE: Final = 64
_SHORT_MIN: Final = -128
_SHORT_MAX: Final = 123
_SHORT: Final = 2
_NEAR_JMP: Final = 5
_NEAR_JCC: Final = 6
_JMP_MINUS_ONE: Final = -2


class Branch(NamedTuple):
    """A branch to be sized: where it goes (a slot counted from the function's start) and its kind.

    ``minus_one`` marks a jump to itself. A conditional branch takes 6 bytes at most, another 5; only a
    ``goto`` to the next instruction may vanish.
    """

    target: int
    conditional: bool = False
    goto: bool = False
    minus_one: bool = False


class Sized(NamedTuple):
    """A branch as it comes out: nops in front, its own size (0 when it vanished), its displacement."""

    pad: int
    size: int
    disp: int


class Layout(NamedTuple):
    """``offsets[i]`` is where slot ``i`` begins, one more for the end; ``branches`` by slot."""

    offsets: tuple[int, ...]
    branches: dict[int, Sized]


def _pad(needed: int, allowed: tuple[int, ...]) -> int:
    if needed not in allowed:
        raise KernelError(ENOTSUPP, "the sizes of the program's branches do not settle")
    return needed


def _size(branch: Branch, disp: int, slack: int, padding: bool) -> Sized:
    """How a pass translates ``branch``; ``slack`` is the room that the pass before gave it."""
    if branch.minus_one:
        disp = _JMP_MINUS_ONE
    if branch.goto and disp == 0:
        return Sized(_pad(slack, (0, _SHORT, _NEAR_JMP)) if padding else 0, 0, 0)
    near = _NEAR_JCC if branch.conditional else _NEAR_JMP
    if _SHORT_MIN <= disp <= _SHORT_MAX:
        return Sized(_pad(slack - _SHORT, (0, near - _SHORT)) if padding else 0, _SHORT, disp)
    return Sized(0, near, disp)


def _pass(
    addrs: list[int],
    prologue: int,
    lengths: Sequence[int],
    branches: Sequence[Branch | None],
    padding: bool,
) -> dict[int, Sized]:
    """Translate once, bringing ``addrs`` up to date on the way.

    A branch backwards sees this pass's address of its target, one forwards the last pass's; both
    measure from where the last pass had the branch end.
    """
    sized: dict[int, Sized] = {}
    addrs[0] = position = prologue
    for slot, branch in enumerate(branches):
        position += lengths[slot]
        if branch is not None:
            slack = addrs[slot + 1] - position
            result = _size(branch, addrs[branch.target] - addrs[slot + 1], slack, padding)
            sized[slot] = result
            position += result.pad + result.size
        addrs[slot + 1] = position
    return sized


def lay_out(prologue: int, lengths: Sequence[int], branches: Sequence[Branch | None]) -> Layout:
    """Place every slot and size the branch that ends it.

    ``prologue`` is its length in bytes, ``lengths[i]`` that of slot ``i`` without its branch (0 for the
    second slot of an LD_IMM64). Raises KernelError(ENOTSUPP) when the passes
    do not settle, as Linux then goes without machine code.
    """
    addrs = [_FIRST_ESTIMATE * (index + 1) for index in range(len(lengths) + 1)]
    previous = 0
    for number in range(MAX_PASSES):
        _pass(addrs, prologue, lengths, branches, number >= PADDING_PASSES)
        if addrs[-1] == previous:
            # Linux writes the image in one more pass and insists that nothing moves any more.
            settled = tuple(addrs)
            sized = _pass(addrs, prologue, lengths, branches, number + 1 >= PADDING_PASSES)
            if tuple(addrs) != settled:
                break
            return Layout(settled, sized)
        previous = addrs[-1]
    raise KernelError(ENOTSUPP, "the sizes of the program's branches do not settle")
