# SPDX-License-Identifier: GPL-2.0-only
"""One program of one object: the verdict, and on request what it cost and why it was refused.

A program is loaded by BPF_PROG_LOAD into a kernel of its own. A refused one is loaded once more with a
recorder beside the verifier; the verifier is deterministic, so that what is recorded is what happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kernel_model.errors import NotModelled
from kernel_model.uapi.enums import bpf_prog_type

from ..job.job import describe_program, load_object
from ..machine import Machine
from ..userspace.loader import UNRESOLVED, LoadError, UnsupportedObject
from ..userspace.object import ObjectError, ObjectSpec, read_object
from .cost import Cost, CostRecorder
from .explain import Explanation, explain
from .recorder import Observer, PathRecorder, Recording
from .rules import find_rule

ACCEPTED, REJECTED, UNMODELLED, UNUSABLE = "accepted", "rejected", "not modelled", "unusable"
VERDICTS = (ACCEPTED, REJECTED, UNUSABLE, UNMODELLED)
"""What can be said of a program; UNUSABLE: the file or the program in it cannot even be given to a kernel."""

COLUMNS = (
    "object",
    "program",
    "section",
    "type",
    "ok",
    "errno",
    "processed",
    "insns",
    "xlated_len",
    "jited_len",
    "error",
)
"""The fields of a result that every line of ``--json`` has, in this order."""

_LOG_STATS = 4
_LOG_LEVEL1 = 1
_PROCESSED = re.compile(r"^processed (\d+) insns", re.MULTILINE)
_TOO_COMPLEX = "too-complex"


@dataclass
class Options:
    """What to find out. ``btf`` is a real kernel's, to verify against.

    ``log_level`` is that of BPF_PROG_LOAD, besides the statistics."""

    prog_type: bpf_prog_type | None = None
    seed: int = 0
    btf: bytes | None = None
    log_level: int = 0
    explain: bool = True
    cost: bool = False
    timed: bool = False


@dataclass
class Verdict:
    """One line of the result. Lengths are in bytes, ``insns`` in slots; None: not known.

    ``program`` is None when the object cannot be opened; ``failure`` is what was raised then.
    """

    object: str
    program: str | None = None
    section: str | None = None
    type: str | None = None
    verdict: str = ACCEPTED
    errno: int | None = 0
    processed: int | None = None
    insns: int | None = None
    xlated_len: int | None = None
    jited_len: int | None = None
    error: str = ""
    log: str = ""
    explanation: Explanation | None = None
    cost: Cost | None = None
    failure: Exception | None = None

    @property
    def ok(self) -> bool:
        """The program was loaded."""
        return self.verdict == ACCEPTED

    def to_json(self, with_log: bool = False) -> dict[str, Any]:
        """COLUMNS, ``verdict``, and what else is known."""
        out: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS}
        out["verdict"] = self.verdict
        if self.explanation is not None:
            out["explanation"] = self.explanation.to_json()
        if self.cost is not None:
            out["cost"] = self.cost.to_json()
        if self.log and (with_log or self.explanation is not None):
            out["log"] = self.log.splitlines()
        return out


def judge_all(
    paths: list[str], program: str | None = None, options: Options | None = None
) -> Iterator[Verdict]:
    """Every program of every object (or only the one named), one after the other.

    Nothing is raised for an object that cannot be used: that is a verdict, too.
    """
    options = options or Options()
    for path in paths:
        try:
            spec = read_object(path)
            names = _programs(spec, program)
        except (ObjectError, OSError) as error:
            yield _unusable(path, program, error)
            continue
        for name in names:
            yield judge(spec, name, options)


def _unusable(path: str, program: str | None, error: Exception) -> Verdict:
    cause = error if isinstance(error, OSError) else error.__context__
    number = cause.errno if isinstance(cause, OSError) else None
    text = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return Verdict(path, program, verdict=UNUSABLE, errno=number, error=one_line(text), failure=error)


def _programs(spec: ObjectSpec, only: str | None) -> list[str]:
    if not spec.programs:
        raise ObjectError(spec.path, "", None, "object doesn't contain a BPF program to load")
    if only is not None and only not in spec.programs:
        raise ObjectError(spec.path, "", None, f"no program named '{only}'")
    return list(spec.programs) if only is None else [only]


def one_line(text: str) -> str:
    """White space made single blanks."""
    return " ".join(text.split())


def judge(spec: ObjectSpec, name: str, options: Options) -> Verdict:
    """Load one program of an object into a fresh kernel."""
    prog = spec.programs[name]
    kind = prog.type if prog.type is not None else options.prog_type
    type_name = kind.name.removeprefix("BPF_PROG_TYPE_").lower() if kind is not None else None
    verdict = Verdict(spec.path, name, prog.section, type_name, insns=len(prog.insns))
    observer = CostRecorder(options.timed) if options.cost else Observer()
    error = _load(spec, name, options, verdict, options.log_level | _LOG_STATS, observer)
    if isinstance(observer, CostRecorder):
        verdict.cost = observer.cost()
    if isinstance(error, LoadError) and observer.recording is not None:
        _refused(spec, name, options, verdict, observer.recording)
    return verdict


def _load(
    spec: ObjectSpec, name: str, options: Options, out: Verdict, level: int, observer: Observer | None
) -> Exception | None:
    """Load it and fill in what is known then; the error that ended it."""
    # Program arrays stay empty: each program is loaded without the others.
    alone = replace(spec, maps={key: replace(each, slots=()) for key, each in spec.maps.items()})
    with Machine.boot(seed=options.seed, btf=options.btf) as machine:
        machine.kernel.verifier_observer = observer
        try:
            loaded = load_object(machine.process(), alone, [name], options.prog_type, log_level=level)
        except LoadError as error:
            found = _PROCESSED.search(error.log)
            out.verdict, out.errno, out.log = REJECTED, error.errno, error.log
            out.processed = int(found[1]) if found else None
            out.error = one_line(error.reason or str(error))
            return error
        except NotModelled as error:
            out.verdict, out.errno = UNMODELLED, error.errno
            out.error = one_line(f"not modelled: {error.feature}")
            return error
        except (UnsupportedObject, ObjectError) as error:
            out.verdict = UNMODELLED if isinstance(error, UnsupportedObject) else UNUSABLE
            out.errno, out.error = None, one_line(str(error))
            out.failure = error
            return error
        info = describe_program(loaded.bpf, name, loaded.progs[name].fd)
        out.log = loaded.progs[name].log
    out.processed = info["verified_insns"]
    out.xlated_len, out.jited_len = info["xlated_bytes"], info["jited_bytes"]
    return None


def _refused(spec: ObjectSpec, name: str, options: Options, out: Verdict, recording: Recording) -> None:
    if not recording.errno:
        return
    # The loader has better words than the verifier for an instruction that it poisoned itself.
    if recording.message and not out.error.startswith(UNRESOLVED):
        out.error = one_line(recording.message)
    if not options.explain:
        return
    # What is too much once need not be done twice, and a log of a million instructions would help nobody.
    if find_rule(recording.message)[0].key != _TOO_COMPLEX:
        recorder = PathRecorder()
        again = Verdict(spec.path)
        level = (options.log_level or _LOG_LEVEL1) | _LOG_STATS
        _load(spec, name, options, again, level, recorder)
        assert recorder.recording is not None
        recording, out.log = recorder.recording, again.log
    out.explanation = explain(recording, out.log)
