# SPDX-License-Identifier: GPL-2.0-only
"""The user's log buffer: it keeps the end, or with BPF_LOG_FIXED the beginning, and tells its true size."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verifier_world import check

from kernel_model.errors import KernelError
from kernel_model.verifier.log import VerifierLog

FIXED = 8


def test_everything_fits() -> None:
    log = VerifierLog(1, 100)
    log.write("one\n")
    log.write("two\n")
    found = log.finalize()
    assert (found.content, found.true_size, found.errno) == (b"one\ntwo\n\0", 9, 0)


def test_rotating_keeps_the_end() -> None:
    log = VerifierLog(1, 6)
    log.write("abcdef")
    log.write("ghi")
    found = log.finalize()
    assert (found.content, found.true_size, found.errno) == (b"efghi\0", 10, errno.ENOSPC)


def test_fixed_keeps_the_beginning() -> None:
    log = VerifierLog(1 | FIXED, 6)
    log.write("abcdef")
    log.write("ghi")
    found = log.finalize()
    assert (found.content, found.true_size, found.errno) == (b"abcde\0", 10, errno.ENOSPC)


@given(st.lists(st.text("ab", min_size=1, max_size=9), max_size=12), st.integers(1, 40), st.booleans())
def test_window_of_the_whole(pieces: list[str], size: int, fixed: bool) -> None:
    log = VerifierLog(1 | (FIXED if fixed else 0), size)
    for piece in pieces:
        log.write(piece)
    whole = "".join(pieces).encode()
    found = log.finalize()
    room = size - 1
    kept = whole[:room] if fixed else whole[max(0, len(whole) - room) :]
    assert found.content == kept + b"\0"
    assert found.true_size == len(whole) + 1 or not whole
    assert (found.errno == errno.ENOSPC) == (len(whole) + 1 > size)


def test_forgetting_a_path_keeps_the_true_size() -> None:
    log = VerifierLog(1, 100)
    log.write("keep\n")
    mark = log.position
    log.write("a path that was fine\n")
    log.reset(mark)
    log.write("end\n")
    found = log.finalize()
    assert found.content == b"keep\nend\n\0"
    assert found.true_size == 27


@pytest.mark.parametrize(
    ("level", "size", "has_buffer"), [(0, 100, True), (16, 100, True), (1, 100, False), (1, 1 << 31, True)]
)
def test_refused_combinations(level: int, size: int, has_buffer: bool) -> None:
    with pytest.raises(KernelError) as caught:
        VerifierLog(level, size, has_buffer=has_buffer)
    assert caught.value.errno == errno.EINVAL


def test_levels() -> None:
    text = "r0 = 1\nexit"
    assert check(text, level=0).log == ""
    assert check(text, level=4).log.splitlines()[0].startswith("verification time")
    assert "1: (95) exit" not in check(text, level=1).log
    assert "1: (95) exit" in check(text, level=2).log
