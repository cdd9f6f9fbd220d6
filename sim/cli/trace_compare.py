# SPDX-License-Identifier: GPL-2.0-only
"""``bpfsim trace --compare``: two recorded traces."""

from __future__ import annotations

from .errors import Status
from .output import print_json, print_line


def compare_recorded(left_path: str, right_path: str, as_json: bool) -> Status:
    """Say whether two traces agree, and where they part first.

    Raises TraceFileError, and TraceMismatch for traces of different programs or packets.
    """
    from sim.trace.compare_files import compare_files
    from sim.trace.file import TraceReader
    from sim.trace.report import summary

    with TraceReader(left_path) as left, TraceReader(right_path) as right:
        found = compare_files(left, right)
    difference = found.comparison.difference
    if as_json:
        print_json(
            "trace",
            files=[
                {
                    "file": side.path,
                    "engine": side.head.engine,
                    "object": side.head.object,
                    "seed": side.head.seed,
                }
                for side in (left, right)
            ],
            agree=found.agree,
            packets=found.packets,
            executions=found.comparison.executions,
            instructions=found.comparison.steps,
            packet=found.packet,
            execution=None if difference is None else difference.execution,
            step=None if difference is None else difference.step,
            difference=list(found.explanation) or None,
            verdicts=list(found.verdicts),
        )
    else:
        for side in (left, right):
            head = side.head
            print_line(f"{side.path}: {head.engine}, {head.program} of {head.object}, seed {head.seed}")
        print_line(summary(found.comparison))
        if found.packet is not None:
            print_line(f"the first difference is in packet {found.packet}")
        for line in (*found.explanation, *found.verdicts):
            print_line(f"  {line}")
    return Status.OK if found.agree else Status.DIFFERS
