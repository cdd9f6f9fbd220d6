# SPDX-License-Identifier: GPL-2.0-only
"""Whoever watches a verification sees every step of every path, and changes nothing."""

from __future__ import annotations

import pytest
from accept_reject import CASES, Case
from verifier_world import check

from kernel_model.verifier.env import Env

BRANCHES = """
r6 = *(u32 *)(r1 + 16)
if r6 == 7 goto pc+1
r6 = 1
r0 = r6
exit
"""
LOOP = """
r0 = 0
loop:
r0 += 1
if r0 < 5 goto loop
exit
"""


class Witness:
    """Writes down what it is told, in words, and the slots of the running path."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.path: list[int] = []
        self._marks: list[int] = []
        self.steps = 0

    def begin(self, env: Env) -> None:
        self.told.append("begin")

    def enter(self, env: Env, subprog: int) -> None:
        self.told.append(f"enter {subprog}")
        self.path, self._marks = [], []

    def step(self, env: Env) -> None:
        self.steps += 1
        self.path.append(env.insn_idx)

    def fork(self, env: Env) -> None:
        self._marks.append(len(self.path))
        self.told.append(f"fork at {self.path[-1]}")

    def resume(self, env: Env) -> None:
        del self.path[self._marks.pop() :]
        self.told.append(f"resume after {self.path[-1]}")
        assert len(self._marks) == len(env.pending)

    def leave(self, env: Env, subprog: int) -> None:
        self.told.append(f"leave {subprog}")

    def end(self, env: Env, errno: int) -> None:
        self.told.append(f"end {errno}")


def test_every_path_is_told() -> None:
    witness = Witness()
    found = check(BRANCHES, observer=witness)
    assert found.program is not None
    assert witness.told == ["begin", "enter 0", "fork at 1", "resume after 1", "leave 0", "end 0"]
    assert witness.path == [0, 1, 3, 4]
    assert witness.steps == found.program.stats.insn_processed


def test_a_loop_is_one_path() -> None:
    witness = Witness()
    assert check(LOOP, observer=witness).errno == 0
    assert witness.path == [0, *[1, 2] * 5, 3]


@pytest.mark.parametrize("level", [0, 1, 2, 4])
@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.name)
def test_watching_changes_nothing(case: Case, level: int) -> None:
    witness = Witness()
    alone, watched = (
        check(case.text, case.prog_type, level=level),
        check(case.text, case.prog_type, level=level, observer=witness),
    )
    assert (watched.errno, watched.reason, watched.log) == (alone.errno, alone.reason, alone.log)
    assert witness.told[0] == "begin"
    assert witness.told[-1] == f"end {case.errno}"
