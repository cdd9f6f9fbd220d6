# SPDX-License-Identifier: GPL-2.0-only
"""Explanations of programs in assembly: what no compiler writes, and that every rejection has some."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from accept_reject import CASES, Case, lookup
from verifier_programs import random_program
from verifier_world import SOCKET_FILTER, UNPRIVILEGED, Outcome, check, code

from kernel_model.isa.insn import Insn
from kernel_model.verifier.env import Env
from sim.verify.explain import Explanation, explain
from sim.verify.recorder import PathRecorder, Phase


def explained(text: str | list[Insn], prog_type: int = 6, **more: object) -> tuple[Explanation, Outcome]:
    """Verify a program that is refused, and explain it."""
    recorder = PathRecorder()
    found = check(text, prog_type, observer=recorder, **more)  # type: ignore[arg-type]
    assert found.errno, found.log
    assert recorder.recording is not None
    return explain(recorder.recording, found.log), found


def everything(explanation: Explanation) -> str:
    """All that is said."""
    marks = [mark.text for line in explanation.path for mark in line.marks]
    known = [f"{known.register} ({known.role}): {known.words}" for known in explanation.known]
    return "\n".join([explanation.title, *explanation.cause, *known, *marks, *explanation.fixes])


RESERVE = """
r6 = r1
r1 = map(ringbuf)
r2 = 8
r3 = 0
call 131
"""

PROGRAMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "the last copy of a reference is overwritten": (
        RESERVE + "if r0 == 0 goto out\nr7 = r0\nr0 = 0\nr7 = 1\nout:\nr0 = 0\nexit",
        "reference-leak",
        ("call bpf_ringbuf_reserve#131: taken here", "r7 was the last copy of the pointer", "instruction 9"),
    ),
    "a released record is used": (
        RESERVE + "if r0 == 0 goto out\nr7 = r0\nr1 = r7\nr2 = 0\ncall 132\nr1 = *(u32 *)(r7 + 0)\nout:\n"
        "r0 = 0\nexit",
        "not-a-pointer",
        ("r7 was given back before", "bpf_ringbuf_submit gives it back"),
    ),
    "a register is written on one path only": (
        "r3 = *(u32 *)(r1 + 16)\nif r3 == 0 goto out\nr2 = 5\nout:\nr0 = r2\nexit",
        "unwritten-register",
        (
            "Other paths write it (instruction 2), this one does not",
            "nothing is ever written to r2 on this path",
        ),
    ),
    "arithmetic loses a limit": (
        "r6 = *(u32 *)(r1 + 16)\nr7 = *(u32 *)(r1 + 12)\nif r6 > 15 goto out\nr6 *= r7\n"
        + lookup("array")
        + "if r0 == 0 goto out\nr0 += r6\nr0 = *(u8 *)(r0 + 0)\nout:\nr0 = 0\nexit",
        "index-unlimited",
        ("The limit that was checked before is lost at instruction 3: r6 *= r7", "so it is 0 to 15"),
    ),
    "a pointer goes through the stack": (
        lookup("hash") + "*(u64 *)(r10 - 24) = r0\nr3 = *(u64 *)(r10 - 24)\nr0 = *(u32 *)(r3 + 0)\nexit",
        "maybe-null",
        ("r3: loaded back from fp-24", "fp-24: r0 stored to fp-24", "returned by bpf_map_lookup_elem"),
    ),
    "a pointer is an argument": (
        lookup("hash") + "r1 = r0\ncall f\nexit\nf:\nr0 = *(u32 *)(r1 + 0)\nexit",
        "maybe-null",
        ("passed as argument 1", "r1 = r0", "returned by bpf_map_lookup_elem"),
    ),
    "a function knows nothing of its caller's registers": (
        "r6 = 1\ncall f\nexit\nf:\nr0 = r6\nexit",
        "unwritten-register",
        ("a function begins with nothing in r6",),
    ),
    "a pointer read from memory": (
        lookup("array")
        + "if r0 == 0 goto out\nr2 = *(u64 *)(r0 + 0)\nr0 = *(u8 *)(r2 + 0)\nout:\nr0 = 0\nexit",
        "not-a-pointer",
        (
            "what is read from memory is a number",
            "8 bytes read from a pointer to a value of map",
            "probe_read",
        ),
    ),
    "a pointer becomes a number": (
        "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr3 -= r2\nr0 = *(u8 *)(r3 + 0)\nexit",
        "not-a-pointer",
        ("The arithmetic at instruction 2 makes a number of the pointer",),
    ),
    "dead code": (
        "r0 = 0\nexit\nr0 = 1\nexit",
        "unreachable",
        ("an instruction that no path reaches",),
    ),
    "a helper's argument may be NULL": (
        lookup("hash") + "r2 = r0\nr1 = map(array)\ncall 1\nr0 = 0\nexit",
        "argument-type",
        ("argument 2 of bpf_map_lookup_elem may be NULL",),
    ),
    "far beyond a map value": (
        lookup("array") + "if r0 == 0 goto out\nr0 = *(u64 *)(r0 + 44)\nout:\nr0 = 0\nexit",
        "out-of-bounds",
        ("8 bytes at offset 44 of the map value, which has 48 bytes: the last offset that fits is 40",),
    ),
    "a fill of a refined number": (
        "r6 = *(u32 *)(r1 + 16)\n*(u64 *)(r10 - 8) = r6\nif r6 > 63 goto out\nr7 = *(u64 *)(r10 - 8)\n"
        + lookup("array").replace("r10 - 8", "r10 - 16").replace("+= -8", "+= -16")
        + "if r0 == 0 goto out\nr0 += r7\nr0 = *(u8 *)(r0 + 0)\nout:\nr0 = 0\nexit",
        "out-of-bounds",
        ("r7: loaded back from fp-8", "so it is 0 to 63", "offsets 0 to 63 of the map value"),
    ),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_program(what: str) -> None:
    text, rule, phrases = PROGRAMS[what]
    explanation, found = explained(text)
    said = everything(explanation)
    assert explanation.rule == rule, found.log
    for phrase in phrases:
        assert phrase in said, said


def test_unwritten_stack_without_privileges() -> None:
    text = "*(u32 *)(r10 - 8) = 1\nr2 = r10\nr2 += -8\nr1 = map(hash)\ncall 1\nr0 = 0\nexit"
    explanation, _ = explained(text, SOCKET_FILTER, privileges=UNPRIVILEGED)
    assert explanation.rule == "stack-unwritten"
    assert "4 bytes never written" in everything(explanation)


def test_before_any_path_there_is_no_path() -> None:
    explanation, _ = explained("goto pc+5\nexit")
    assert (explanation.rule, explanation.slot, explanation.path_length) == ("control-flow", 0, 0)
    assert explanation.phase == Phase.BEFORE.value


def test_only_the_refused_path_is_shown() -> None:
    """The verifier first follows the branch that is fine; its instructions are not on the way there."""
    text = "r2 = *(u32 *)(r1 + 16)\nif r2 == 0 goto bad\nr0 = 0\nr0 += 1\nexit\nbad:\nr0 = r5\nexit"
    explanation, _ = explained(text)
    assert [line.first for line in explanation.path] == [0, 1, 5]
    assert explanation.path_length == 3


@pytest.mark.parametrize("case", [case for case in CASES if case.errno], ids=lambda case: case.name)
def test_every_known_rejection_is_explained(case: Case) -> None:
    explanation, found = explained(case.text, case.prog_type)
    assert explanation.message == case.reason
    assert explanation.rule != "other"
    assert "{" not in explanation.title
    words = " ".join(known.words for known in explanation.known)
    if explanation.path_length:
        assert explanation.instruction in found.log
        assert explanation.path[-1].last == explanation.slot or explanation.rule == "endless-loop"
    else:
        assert not words


def _spoilt() -> Iterator[tuple[list[Insn], int]]:
    """Random programs, and every test program with one instruction turned into another."""
    rng = random.Random(6)
    for _ in range(100):
        yield random_program(rng), 6
    for case in CASES:
        insns = code(case.text)
        for _ in range(4):
            at = rng.randrange(len(insns))
            insn = rng.choice(insns)._replace(dst=rng.randrange(10))
            yield [*insns[:at], insn, *insns[at + 1 :]], case.prog_type


class _TooLong(Exception):
    """The program is no longer worth the time."""


class _Impatient(PathRecorder):
    steps = 0

    def step(self, env: Env) -> None:
        super().step(env)
        self.steps += 1
        if self.steps > 5000:
            raise _TooLong


def test_whatever_is_refused_is_explained() -> None:
    """An explanation always comes out, and its path leads to the refused instruction."""
    refused, rules = 0, set()
    for insns, prog_type in _spoilt():
        recorder = _Impatient()
        try:
            found = check(insns, prog_type, observer=recorder)
        except _TooLong:
            continue
        recording = recorder.recording
        if not found.errno or recording is None:
            continue
        refused += 1
        explanation = explain(recording, found.log)
        rules.add(explanation.rule)
        assert explanation.title
        if recording.phase is Phase.PATHS:
            assert recording.path[-1].at == recording.insn
    assert refused > 100
    assert len(rules) >= 12
