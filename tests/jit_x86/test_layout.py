# SPDX-License-Identifier: GPL-2.0-only
"""Branch sizes: consistent with each other and with Linux's border, whatever the program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_x86.layout import Branch, lay_out
from kernel_model.errors import KernelError


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, list[int], list[Branch | None]]:
    count = draw(st.integers(1, 60))
    lengths = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    branches: list[Branch | None] = []
    for _ in range(count):
        kind = draw(st.sampled_from(["", "", "jcc", "goto", "exit"]))
        target = draw(st.integers(0, count))
        branches.append(Branch(target, kind == "jcc", kind == "goto") if kind else None)
    return draw(st.integers(11, 60)), lengths, branches


@given(programs())
def test_layout_is_consistent(program: tuple[int, list[int], list[Branch | None]]) -> None:
    prologue, lengths, branches = program
    try:
        layout = lay_out(prologue, lengths, branches)
    except KernelError as error:
        assert error.errno == 524
        return
    assert layout.offsets[0] == prologue
    for slot, branch in enumerate(branches):
        begin, end = layout.offsets[slot], layout.offsets[slot + 1]
        if branch is None:
            assert end - begin == lengths[slot]
            continue
        sized = layout.branches[slot]
        assert end - begin == lengths[slot] + sized.pad + sized.size
        assert layout.offsets[branch.target] - end == sized.disp
        near = 6 if branch.conditional else 5
        assert sized.size in ((0, 2, near) if branch.goto else (2, near))
        assert (sized.size == near) == (not -128 <= sized.disp <= 123)
        assert (sized.size == 0) == (branch.goto and sized.disp == 0)
        assert sized.pad in (0, near - 2, *((2, 5) if branch.goto else ()))


@pytest.mark.parametrize(
    ("between", "size"),
    [(0, 0), (1, 2), (123, 2), (124, 5), (127, 5), (128, 5), (-123, 2), (-124, 5)],
)
def test_border(between: int, size: int) -> None:
    """A goto over so many bytes, forwards or back.

    Backwards the decision falls while the branch still has five bytes: its short form never reaches -126.
    """
    if between >= 0:
        layout = lay_out(11, [0, between, 0], [Branch(2, goto=True), None, None])
        assert layout.branches[0].size == size
    else:
        layout = lay_out(11, [-between, 0], [None, Branch(0, goto=True)])
        assert layout.branches[1].size == size


def test_a_jump_to_itself_is_short() -> None:
    layout = lay_out(11, [0, 3], [Branch(0, goto=True, minus_one=True), None])
    assert layout.branches[0] == (0, 2, -2)


def test_time_is_linear() -> None:
    """The passes do not grow with the program: work is counted, not timed."""
    counts = []
    for size in (1000, 4000):
        branches = [Branch(min(size, slot + 9), slot % 2 == 0, slot % 2 == 1) for slot in range(size)]
        lengths = _Counting([4] * size)
        lay_out(11, lengths, branches)
        counts.append(lengths.reads)
    assert counts[1] == 4 * counts[0]


class _Counting(list[int]):
    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        self.reads += 1
        return super().__getitem__(index)
