# SPDX-License-Identifier: GPL-2.0-only
"""Watching the verifier: the path that it is on, step by step, and what it spends where.

A :class:`PathRecorder` keeps the running path only: a path that turned out to be fine is forgotten when the
verifier takes up the one that it had put aside, as the log of level 1 does. What is left at a rejection is
the way from the function's first instruction to the refused one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from kernel_model.isa.insn import Insn
from kernel_model.verifier.api import ProgramSpec, Stats
from kernel_model.verifier.env import Env
from kernel_model.verifier.regs import Reg
from kernel_model.verifier.state import Ref, Slot

KEPT_STEPS = 200_000
"""Steps of the running path that are kept; of a longer path the beginning is forgotten."""


class Frame(NamedTuple):
    """One function of the call chain at one step: what its registers and stack slots hold.

    ``stack[i]`` is the slot at fp-8*(i+1); ``callsite`` is the slot of the call, -1 for the outermost.
    """

    subprog: int
    callsite: int
    regs: tuple[Reg, ...]
    stack: tuple[Slot, ...]


class Step(NamedTuple):
    """The state before the instruction at slot ``at`` of the program is checked, innermost frame last."""

    at: int
    frames: tuple[Frame, ...]
    refs: tuple[Ref, ...]


class Phase(Enum):
    """How far the verifier came."""

    BEFORE = "before any path was followed"
    PATHS = "while following paths"
    AFTER = "after all paths were found safe"


@dataclass
class Subprog:
    """A function of the program: its first slot, name and linkage, and its stack in bytes."""

    start: int
    end: int
    name: str
    is_global: bool = False
    stack_depth: int = 0


@dataclass
class Recording:
    """One verification. ``path`` is what the verifier was following when it stopped.

    ``message`` is the last word before a rejection, ``insn`` the slot of the instruction that it is about
    (when ``phase`` is PATHS), ``dropped`` how many steps of the path's beginning are missing.
    """

    spec: ProgramSpec
    prog_type: str
    phase: Phase = Phase.BEFORE
    errno: int = 0
    message: str = ""
    insn: int = -1
    path: list[Step] = field(default_factory=list)
    dropped: int = 0
    subprogs: list[Subprog] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    @property
    def insns(self) -> Sequence[Insn]:
        """The instructions as they were loaded."""
        return self.spec.insns

    def subprog_of(self, slot: int) -> Subprog | None:
        """The function that a slot belongs to; None when the verifier had not found functions yet."""
        return next((sub for sub in reversed(self.subprogs) if sub.start <= slot), None)


class Observer:
    """Watches no step, only the end (kernel_model.verifier.api.VerifierObserver).

    ``recording`` is that of the last run, without a path; None before the first.
    """

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self._phase = Phase.BEFORE

    def begin(self, env: Env) -> None:
        """A run begins."""
        self.recording, self._phase = None, Phase.BEFORE

    def enter(self, env: Env, subprog: int) -> None:
        """The paths of a function are followed from now on."""
        self._phase = Phase.PATHS

    def step(self, env: Env) -> None:
        """An instruction comes next."""

    def fork(self, env: Env) -> None:
        """A path was put aside."""

    def resume(self, env: Env) -> None:
        """The path that was put aside last is taken up."""

    def leave(self, env: Env, subprog: int) -> None:
        """All paths of the function were fine."""
        self._phase = Phase.AFTER

    def end(self, env: Env, errno: int) -> None:
        """The verdict."""
        message = env.last_message.strip()
        self.recording = Recording(env.spec, env.type.name, self._phase, errno, message)
        self.recording.subprogs, self.recording.stats = subprogs_of(env), env.stats


class PathRecorder(Observer):
    """Keeps the running path."""

    def __init__(self) -> None:
        super().__init__()
        self._path: list[Step] = []
        self._marks: list[int] = []
        self._dropped = 0

    def begin(self, env: Env) -> None:
        super().begin(env)
        self._path, self._marks, self._dropped = [], [], 0

    def enter(self, env: Env, subprog: int) -> None:
        super().enter(env, subprog)
        self._path, self._marks, self._dropped = [], [], 0

    def step(self, env: Env) -> None:
        path = self._path
        last = path[-1].frames if path else ()
        frames = []
        for number, state in enumerate(env.cur.frames):
            new = Frame(state.subprogno, state.callsite, tuple(state.regs), tuple(state.stack))
            # Registers compare by identity, so this finds what was not touched; sharing saves memory.
            if number < len(last):
                old = last[number]
                if old.stack == new.stack:
                    new = old if old == new else new._replace(stack=old.stack)
            frames.append(new)
        path.append(Step(env.insn_idx, tuple(frames), tuple(env.cur.refs)))
        if len(path) > KEPT_STEPS:
            del path[: KEPT_STEPS // 2]
            self._dropped += KEPT_STEPS // 2

    def fork(self, env: Env) -> None:
        self._marks.append(self._dropped + len(self._path))

    def resume(self, env: Env) -> None:
        keep = self._marks.pop() - self._dropped
        del self._path[max(keep, 0) :]
        if keep < 0:
            self._dropped += keep

    def end(self, env: Env, errno: int) -> None:
        super().end(env, errno)
        assert self.recording is not None
        self.recording.path, self.recording.dropped = self._path, self._dropped
        if self._phase is Phase.PATHS and self._path:
            self.recording.insn = self._path[-1].at


def subprogs_of(env: Env) -> list[Subprog]:
    """The functions that the verifier has found so far."""
    found = env.subprogs
    main = env.spec.name or "the program"
    # Later phases move instructions, so the starts are those of the program as it was loaded.
    length = len(env.spec.insns)
    starts = _original_starts(env)
    out = []
    for number, sub in enumerate(found[:-1] if len(found) > 1 else found):
        end = starts[number + 1] if number + 1 < len(starts) else length
        name = sub.name or (main if number == 0 else f"func#{number}")
        out.append(Subprog(starts[number], end, name, sub.linkage == 1, sub.stack_depth))
    return out


def _original_starts(env: Env) -> list[int]:
    if len(env.insns) == len(env.spec.insns):
        return [sub.start for sub in env.subprogs]
    return [
        env.aux[sub.start].orig_idx if sub.start < len(env.aux) else len(env.spec.insns)
        for sub in env.subprogs
    ]
