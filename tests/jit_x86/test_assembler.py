# SPDX-License-Identifier: GPL-2.0-only
"""Text to bytes, where lines begin, and errors that name the line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_x86.assembler import AssemblyError, LineCache, Relative, assemble, assemble_lines

BASE = 0xFFFFFFFF81000000

TEXTS = [
    ("nop", "90"),
    ("", ""),
    ("# nothing", ""),
    ("push rbp\nmov rbp, rsp", "554889e5"),
    ("start: jmp end\nnop\nend: ret", "eb0190c3"),
    ("endbr64", "f30f1efa"),
    ("entry: endbr64 # landing", "f30f1efa"),
    ("  sysretq", "480f07"),
    ("nop5\nnop3\nret", "0f1f4400000f1f00c3"),
    ("mov rax, gs:[riz*1 + 0x1000]", "65488b042500100000"),
    ("call 0xffffffff81000100", "e8fb000000"),
    ("jmp 0xffffffff80ffff00", "e9fbfeffff"),
    ("mov rax, qword ptr [rbp + late(-16)]", "488b85f0ffffff"),
    ("cmp eax, late(1000)\ncmp rax, late(-1000)", "81f8e80300004881f818fcffff"),
    (".equ OFF, 0x40\nmov rax, [rdi + OFF]", "488b4740"),
]


@pytest.mark.parametrize(("text", "code"), TEXTS)
def test_assemble(text: str, code: str) -> None:
    assert assemble(text, BASE).hex() == code


ERRORS = [
    ("nop\nbogus rax\nnop", 2, "mnemonic"),
    ("nop\nnop\nmov rax, [rbx*3]", 3, "operand"),
    ("a: nop\njmp nowhere\njmp a", 2, "symbol"),
    ("jmp later\nnop\nlater: mov qq, 1", 3, "operand"),
    ("nop\na: nop\nnop\na: nop", 4, "redefined"),
    ("nop\nmov rax, [0x1000]\n", 2, "riz"),
    ("mov rax, gs:[0x28]", 1, "riz"),
    ("\n".join([*["add rax, 1"] * 500, "oops", *["nop"] * 500]), 501, "mnemonic"),
]


@pytest.mark.parametrize(("text", "line", "reason"), ERRORS)
@pytest.mark.parametrize("by_lines", [False, True])
def test_errors_name_the_line(text: str, line: int, reason: str, by_lines: bool) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble_lines(text.split("\n"), BASE) if by_lines else assemble(text, BASE)
    assert caught.value.line_no == line
    assert caught.value.line == text.split("\n")[line - 1]
    assert reason in str(caught.value).lower()


def test_lines_have_offsets() -> None:
    lines = ["a: nop", "", "jmp b", "# only words", ".fill 200, 1, 0x90", "b: jmp a", "ret"]
    listing = assemble_lines(lines, BASE)
    assert listing.offsets == (0, 1, 1, 6, 6, 206, 211, 212)
    assert listing.code == assemble("\n".join(lines), BASE)
    assert assemble_lines([], BASE) == (b"", (0,))


WORDS = ["nop", "add rax, 5", "movabs r9, 0x123456789abc", "push r12", "lock xadd [rdi + 8], rax", "ret"]


@given(st.lists(st.sampled_from(WORDS), max_size=20))
def test_cache_holds_what_keystone_says(texts: list[str]) -> None:
    """Whatever came before and however often the cache forgets."""
    cache = LineCache(limit=3)
    for first in range(0, len(texts), 3):
        known = cache.encode(texts[first : first + 3])
        for text in texts[first : first + 3]:
            assert known[text] == assemble(text, BASE)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["jmp", "je", "jg"]), st.integers(-128, 127), st.just(2)),
            st.tuples(st.just("call"), st.integers(-(1 << 31), (1 << 31) - 1), st.just(5)),
            st.tuples(st.just("jmp"), st.integers(200, 1 << 31).map(lambda n: n - 1), st.just(5)),
            st.tuples(st.just("jbe"), st.integers(-(1 << 31), -200), st.just(6)),
        ),
        max_size=30,
    )
)
def test_branches_by_displacement(branches: list[tuple[str, int, int]]) -> None:
    """The displacement is the last 1 or 4 bytes, wherever in a batch the branch stood."""
    wanted = [Relative(*branch) for branch in branches]
    known = LineCache().encode_branches(wanted)
    for branch in wanted:
        code = known[branch]
        assert len(code) == branch.size
        width = 1 if branch.size == 2 else 4
        assert int.from_bytes(code[-width:], "little", signed=True) == branch.disp


def test_a_branch_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 2 bytes"):
        LineCache().encode_branches([Relative("jmp", 10, 5)])
