# SPDX-License-Identifier: GPL-2.0-only
"""Boot to first verdict, measured in a fresh Python: ``python -m sim.bench.startup`` prints one JSON object.

Milestones are taken as the run goes; the JIT's share is taken out of loading by a compiler that looks at
the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_BEGAN = time.perf_counter_ns()

PARTS = ("python", "import", "boot", "read_object", "load_verify", "jit", "first_run")
"""What the time goes to, in this order: starting Python, importing the simulator, booting, parsing the
object, maps and BPF_PROG_LOAD without the JIT, the JIT, the first packet through the program."""

GUEST = "xdp_filter.o"


@dataclass(frozen=True)
class Startup:
    """Nanoseconds for each of PARTS, and all together from the start of the process to the verdict."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def _first_verdict() -> dict[str, int]:
    """Go from nothing to a verdict in this process; nanoseconds by part, ``python`` left out."""
    import guests

    # The kernel imports its verifier when the first program comes; here it shall count as importing.
    import kernel_model.verifier.main  # noqa: F401
    from kernel_model.isa.native import NativeCompiler

    from ..machine import Machine
    from ..userspace.loader import load
    from ..userspace.object import read_object

    class Timed:
        """The machine's compiler, with a clock beside it."""

        def __init__(self, inner: NativeCompiler) -> None:
            self.spent = 0
            self.frame_bytes = inner.frame_bytes
            self.poke_code = inner.poke_code
            self._compile = inner.compile

        def compile(self, *args: object) -> object:
            began = time.perf_counter_ns()
            try:
                return self._compile(*args)  # type: ignore[arg-type]
            finally:
                self.spent += time.perf_counter_ns() - began

    marks = [_BEGAN, time.perf_counter_ns()]
    with Machine.boot() as machine:
        marks.append(time.perf_counter_ns())
        spec = read_object(guests.path(GUEST))
        marks.append(time.perf_counter_ns())
        timed = Timed(machine.kernel.compiler)
        machine.kernel.compiler = timed  # type: ignore[assignment]
        loaded = load(machine.process(), spec)
        marks.append(time.perf_counter_ns())
        fd = next(iter(loaded.progs.values())).fd
        loaded.bpf.prog_test_run(fd, data=bytes(64))
        marks.append(time.perf_counter_ns())
    spans = [after - before for before, after in pairwise(marks)]
    imported, booted, read, load_all, run = spans
    return dict(
        zip(PARTS[1:], (imported, booted, read, load_all - timed.spent, timed.spent, run), strict=True)
    )


def measure_startup(rounds: int) -> Startup:
    """Median of each part over ``rounds`` fresh processes, after one that warms the file caches.

    Raises RuntimeError with the child's last line when the way to the verdict fails.
    """
    seen: list[dict[str, int]] = []
    command = [sys.executable, "-m", "sim.bench.startup"]
    # The child shall find the same simulator wherever it was found here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for number in range(rounds + 1):
        spawned = time.perf_counter_ns()
        child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if child.returncode:
            last = child.stderr.strip().splitlines()[-1:] or ["no output"]
            raise RuntimeError(f"boot to first verdict: {last[0]}")
        parts: dict[str, int] = json.loads(child.stdout)
        # perf_counter is the same clock in both processes.
        parts["python"] = parts.pop("began") - spawned
        if number:
            seen.append(parts)
    return Startup({name: round(median(parts[name] for parts in seen)) for name in PARTS})


if __name__ == "__main__":
    print(json.dumps({"began": _BEGAN, **_first_verdict()}))
