# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim verify``: the verifier's verdict on every program of some objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from .errors import Status, message, status_of
from .options import common, parse_prog_type, prog_type_option
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from kernel_model.uapi.enums import bpf_prog_type
    from sim.userspace.object import ObjectSpec

_LOG_STATS = 4
"""BPF_LOG_STATS: only what refuses the program, and the closing counts."""
_PROCESSED = re.compile(r"^processed (\d+) insns", re.MULTILINE)


@dataclass
class _Verdict:
    object: str
    program: str
    type: str
    verdict: str
    processed: int | None
    reason: str
    log: str
    status: Status

    def to_json(self, with_log: bool) -> dict[str, Any]:
        fields = {
            "object": self.object,
            "program": self.program,
            "type": self.type,
            "verdict": self.verdict,
            "processed_insns": self.processed,
            "reason": self.reason,
        }
        return fields | ({"log": self.log.splitlines()} if with_log else {})


def _alone(spec: ObjectSpec) -> ObjectSpec:
    """The object with empty program arrays: each program is loaded without the others."""
    return replace(spec, maps={name: replace(each, slots=()) for name, each in spec.maps.items()})


def _judge(spec: ObjectSpec, name: str, prog_type: bpf_prog_type | None, seed: int, level: int) -> _Verdict:
    from kernel_model.errors import NotModelled
    from sim import Machine
    from sim.job.job import describe_program, load_object
    from sim.userspace.loader import LoadError, UnsupportedObject

    prog = spec.programs[name]
    kind = prog.type if prog.type is not None else prog_type
    type_name = kind.name.removeprefix("BPF_PROG_TYPE_").lower() if kind is not None else "?"
    with Machine.boot(seed=seed) as machine:
        try:
            loaded = load_object(machine.process(), spec, [name], prog_type, log_level=level)
        except (LoadError, NotModelled, UnsupportedObject) as error:
            log = error.log if isinstance(error, LoadError) else ""
            found = _PROCESSED.search(log)
            status = status_of(error)
            verdict = "rejected" if status is Status.DIFFERS else "not modelled"
            reason = error.reason if isinstance(error, LoadError) and error.reason else message(error)
            processed = int(found[1]) if found else None
            return _Verdict(spec.path, name, type_name, verdict, processed, reason, log, status)
        processed = describe_program(loaded.bpf, name, loaded.progs[name].fd)["verified_insns"]
        log = loaded.progs[name].log
    return _Verdict(spec.path, name, type_name, "accepted", processed, "", log, Status.OK)


@click.command
@click.argument("objects", metavar="OBJECT...", nargs=-1, required=True)
@click.option("--prog", metavar="NAME", help="Only this program.")
@prog_type_option
@common
def verify(
    objects: tuple[str, ...], prog: str | None, prog_type: str | None, seed: int, as_json: bool, verbose: int
) -> Status:
    """Verify every program of each OBJECT: accepted or rejected.

    Each program is loaded on its own into a fresh kernel. -v shows the verifier's log, -vv the log with
    every instruction's state. The exit status is 1 when a program is rejected.
    """
    kind = parse_prog_type(prog_type)
    from sim.userspace.object import ObjectError, read_object

    level = _LOG_STATS | (0, 1, 2)[min(verbose, 2)]
    verdicts = []
    for path in objects:
        spec = _alone(read_object(path))
        names = list(spec.programs) if prog is None else [prog]
        if not spec.programs:
            raise ObjectError(path, "", None, "object doesn't contain a BPF program to load")
        if prog is not None and prog not in spec.programs:
            raise ObjectError(path, "", None, f"no program named '{prog}'")
        verdicts += [_judge(spec, name, kind, seed, level) for name in names]
    if as_json:
        print_json("verify", programs=[each.to_json(bool(verbose)) for each in verdicts])
    else:
        _print(verdicts, bool(verbose))
    return max((each.status for each in verdicts), default=Status.OK)


def _print(verdicts: list[_Verdict], verbose: bool) -> None:
    rows = [
        (v.object, v.program, v.type, v.verdict, "-" if v.processed is None else str(v.processed), v.reason)
        for v in verdicts
    ]
    print_table("", ("object", "program", "type", "verdict", "processed", "reason"), rows, "llllr")
    for each in verdicts if verbose else ():
        print_line(f"log of {each.program}:")
        for line in each.log.splitlines():
            print_line(f"  {line}")
