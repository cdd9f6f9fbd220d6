# SPDX-License-Identifier: GPL-2.0-only
"""What the verifier claims of whole accepted programs holds when they run.

Two properties: no accepted program leaves its objects; and before every instruction the registers hold what
some recorded state of that instruction says (paths are followed in full there, since a pruned path has no
state of its own).
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from bounded_memory import CTX, FP, OutOfBounds, World
from load_requests import mutate_insn
from test_bounds_sound import contains
from verifier_programs import _alu, _atomic, _jump, _lookup, _stack
from verifier_world import XDP, Outcome, check
from wild_programs import _context, _packet, _pointer, _whole

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.verifier import check as simulation
from kernel_model.verifier.regs import PTR_TO_CTX, PTR_TO_STACK, SCALAR_VALUE, Reg, const_reg

_SUPPORTED_MAPS = (10, 12, 19)
_HELPERS = (1, 7)
_STEPS = 5000
U64 = (1 << 64) - 1


def _parts(rng: random.Random) -> list[Insn]:
    kind = rng.randrange(10)
    if kind < 2:
        return _packet(rng, XDP)
    if kind == 2:
        return _context(rng, XDP)
    if kind == 3:
        return _pointer(rng)
    if kind < 6:
        return _lookup(rng)
    flat = [
        insn
        for _ in range(rng.randrange(1, 6))
        for insn in rng.choice((_alu, _alu, _stack, _jump, _atomic))(rng)
    ]
    return [
        insn._replace(off=min(insn.off, len(flat) - at - 1))
        if insn.code & 7 in (op.BPF_JMP, op.BPF_JMP32)
        else insn
        for at, insn in enumerate(flat)
    ]


def _program(rng: random.Random) -> list[Insn]:
    """A program of one function whose helpers and maps the small world has; often damaged."""
    body = [insn for _ in range(rng.randrange(1, 5)) for insn in _parts(rng)]
    program = tuple(_whole(rng, body, 0))
    for _ in range(rng.choice((0, 0, 1, 2))):
        program = mutate_insn(program, rng)
    return list(program)


def _supported(insns: list[Insn]) -> bool:
    for insn in insns:
        if insn.code == op.CALL and (insn.src or insn.imm not in _HELPERS):
            return False
        if insn.code == op.LD_IMM64 and insn.src and insn.imm not in _SUPPORTED_MAPS:
            return False
    return True


class _TooLong(Exception):
    """More steps than a test has time for (a damaged loop); nothing is said about such programs."""


class _Recorder:
    """Keeps the registers of the innermost frame before each instruction of each path."""

    def __init__(self, keep: bool = True) -> None:
        self.states: dict[int, list[list[Reg]]] = {}
        self._keep = keep
        self._steps = 0

    def step(self, env: Any) -> None:
        self._steps += 1
        if self._steps > _STEPS:
            raise _TooLong
        if self._keep:
            self.states.setdefault(env.insn_idx, []).append(list(env.frame.regs))

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def _accepted(rng: random.Random, recorder: _Recorder | None = None) -> Outcome | None:
    insns = _program(rng)
    if not _supported(insns):
        return None
    try:
        found = check(insns, XDP, level=0, observer=recorder or _Recorder(keep=False))
    except _TooLong:
        return None
    return found if found.program is not None else None


def _run(found: Outcome, rng: random.Random, observer: object = None) -> int:
    assert found.program is not None
    depth = max(8, *(-(-sub.stack_depth // 8) * 8 for sub in found.program.subprogs))
    return World(rng, depth).run(found.program, found.symbols, observer)


def _campaign(seed: str, count: int) -> int:
    """How many accepted programs ran, twice each, inside their objects."""
    ran = 0
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        found = _accepted(rng)
        if found is None:
            continue
        for _ in range(2):
            _run(found, rng)
        ran += 1
    return ran


def test_accepted_programs_stay_in_their_objects() -> None:
    assert _campaign("sample", 150) > 40


@pytest.mark.campaign
def test_many_accepted_programs_stay_in_their_objects(capsys: pytest.CaptureFixture[str]) -> None:
    ran = _campaign("campaign", 100_000)
    with capsys.disabled():
        print(f"\n100000 programs, {ran} accepted and run twice")
    assert ran > 30_000


def test_a_program_that_leaves_its_objects_is_found() -> None:
    found = check("*(u64 *)(r10 - 8) = 1\nr0 = *(u64 *)(r10 - 8)\nexit")
    assert found.program is not None
    _run(found, random.Random(1))
    wrong = tuple(insn._replace(off=-16) if insn.src == 10 else insn for insn in found.program.insns)
    with pytest.raises(OutOfBounds):
        _run(replace(found, program=replace(found.program, insns=wrong)), random.Random(1))


# ---- claims about registers -----------------------------------------------------------------


def _holds(claim: Reg, value: int) -> bool:
    """The value is one that the claim admits; other types than numbers, stack and context admit any."""
    if claim.type == SCALAR_VALUE:
        return contains(claim.bounds, value)
    if claim.type == PTR_TO_STACK:
        return contains(claim.bounds, (value - FP - claim.off) & U64)
    if claim.type == PTR_TO_CTX:
        return contains(claim.bounds, (value - CTX - claim.off) & U64)
    return True


def _check_claims(found: Outcome, recorder: _Recorder, rng: random.Random) -> int:
    program = found.program
    assert program is not None
    index = program.orig_index
    checked = 0

    def observe(_: object, slot: int, regs: Any) -> None:
        nonlocal checked
        insn = program.insns[slot]
        if insn.code & 7 in (op.BPF_JMP, op.BPF_JMP32) or insn.code == op.LD_IMM64:
            return
        after = slot + 1
        # Only between two whole instructions of the loaded program, one right behind the other.
        if after >= len(index) or index[after] == index[slot] or index[after] != index[slot] + 1:
            return
        states = recorder.states.get(index[after])
        if states is None:
            return
        values = [regs[number] & U64 for number in range(10)]
        checked += 1
        assert any(
            all(_holds(claim, value) for claim, value in zip(state, values, strict=False)) for state in states
        ), f"slot {index[after]}: {values} fits no state"

    _run(found, rng, observe)
    return checked


def test_a_wrong_claim_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _Recorder()
    found = check("r1 = 5\nr2 = 6\nr0 = 0\nexit", observer=recorder)
    rng = random.Random(1)
    assert _check_claims(found, recorder, rng) == 3
    recorder.states[2] = [[const_reg(7)] * 10]
    with pytest.raises(AssertionError):
        _check_claims(found, recorder, rng)


def _claims(seed: str, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(simulation, "is_state_visited", lambda env, at: False)
    checked = 0
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        recorder = _Recorder()
        found = _accepted(rng, recorder)
        if found is not None:
            checked += _check_claims(found, recorder, rng)
    return checked


def test_claims_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _claims("claims", 60, monkeypatch) > 300


@pytest.mark.campaign
def test_many_claims_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checked = _claims("many claims", 3000, monkeypatch)
    with capsys.disabled():
        print(f"\n{checked} states of registers compared")
    assert checked > 30_000
