# SPDX-License-Identifier: GPL-2.0-only
"""How fast the verifier is on large programs, and how the host's kernel does on the same ones.

Every figure comes from a fresh Python (``python -m sim.bench.verifying NAME SIZE SEED`` prints an object), so
that nothing is remembered from program to program and the peak of memory belongs to the one.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from kernel_model.errors import KernelError
from kernel_model.uapi.enums import BPF_LOG_STATS, bpf_map_type, bpf_prog_type

from .large_programs import ARRAY_FD, HASH_FD, LARGE, VALUE_SIZE

SCHEMA = 1
DEFAULT_ROUNDS = 3
GROWTH = (62_000, 125_000, 250_000, 500_000, 990_000)
"""Sizes for the question whether time and memory grow with what is processed; the limit is a million."""
GROWING = ("straight", "loop")
"""Programs that process about as many instructions as their size says."""

_MAPS = {
    ARRAY_FD: (bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, VALUE_SIZE, 1),
    HASH_FD: (bpf_map_type.BPF_MAP_TYPE_HASH, 4, VALUE_SIZE, 64),
}
"""Type, key size, value size and number of elements, by descriptor."""
_HOST_LOG = re.compile(r"verification time (\d+) usec.*processed (\d+) insns", re.S)


class NotAccepted(Exception):
    """A verifier refused a program that is made to be fine: the program and what was said."""


@dataclass(frozen=True)
class BenchMap:
    """A map by its attributes, as the verifier wants it (kernel_model.verifier.api.MapView)."""

    id: int
    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    name: str = ""
    frozen: bool = False
    bypass_spec_v1: bool = True

    @property
    def addr(self) -> int:
        """An address in the direct map, another for each map."""
        return 0xFFFF888001000000 + self.id * 0x10000

    def value_addr(self, off: int) -> int:
        """See MapView."""
        return self.addr + 0x100 + off

    def read_value(self, off: int, size: int) -> bytes | None:
        """Never: the map is not frozen."""
        return None


def _map_by_fd(fd: int) -> BenchMap:
    if fd not in _MAPS:
        raise KernelError(9, f"no descriptor {fd}")
    return BenchMap(fd, *_MAPS[fd])


def _symbol(name: str) -> int:
    """An address in kernel text that depends on the name alone."""
    return 0xFFFFFFFF81000000 + (zlib.crc32(name.encode()) & 0xFFFFF0)


@dataclass(frozen=True)
class Verification:
    """One program: its slots, what was processed, seconds of CPU, bytes of memory above the start.

    ``form`` is ``compiled`` or ``Python``. ``host_seconds`` and ``host_processed`` are the host kernel's own
    words, None when it was not asked.
    """

    program: str
    insns: int
    processed: int
    seconds: float
    memory: int
    form: str
    host_seconds: float | None = None
    host_processed: int | None = None

    @property
    def rate(self) -> float:
        """Processed instructions per second."""
        return self.processed / self.seconds

    @property
    def ratio(self) -> float | None:
        """This verifier's time as a multiple of the host kernel's."""
        return self.seconds / self.host_seconds if self.host_seconds else None

    def as_json(self) -> dict[str, object]:
        """The object of ``bpfsim bench --verifier --json``."""
        ratio = self.ratio
        return {
            "schema": SCHEMA,
            "program": self.program,
            "insns": self.insns,
            "processed": self.processed,
            "seconds": round(self.seconds, 6),
            "processed_per_s": round(self.rate),
            "memory": self.memory,
            "form": self.form,
            "host_seconds": self.host_seconds,
            "host_processed": self.host_processed,
            "ratio": None if ratio is None else round(ratio, 2),
        }


def peak_memory() -> int:
    """The largest resident size that this process had, in bytes (VmHWM; 0 where there is none)."""
    try:
        with open("/proc/self/status") as status:
            found = re.search(r"VmHWM:\s*(\d+) kB", status.read())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def verify_here(name: str, size: int = 0, seed: int = 0) -> Verification:
    """Verify one program of the table in this process, once. NotAccepted when it is refused."""
    from kernel_model.btf.layout import kernel_layout
    from kernel_model.verifier import compiled
    from kernel_model.verifier.api import Environment, ProgramSpec, VerifierError
    from kernel_model.verifier.log import VerifierLog
    from kernel_model.verifier.main import bpf_check

    insns = LARGE[name].insns(seed, size)
    spec = ProgramSpec(tuple(insns), bpf_prog_type.BPF_PROG_TYPE_XDP, _map_by_fd, gpl_compatible=True)
    environment = Environment(kernel_layout(), _symbol)
    gc.collect()
    before = peak_memory()
    began = time.process_time()
    try:
        program = bpf_check(spec, environment, VerifierLog(BPF_LOG_STATS))
    except VerifierError as error:
        raise NotAccepted(f"{name}: {error.reason}") from error
    took = time.process_time() - began
    form = "compiled" if compiled.in_use() else "Python"
    return Verification(name, len(insns), program.stats.insn_processed, took, peak_memory() - before, form)


def verify_fresh(name: str, size: int = 0, seed: int = 0, pure: bool = False) -> Verification:
    """The same in a Python of its own; ``pure`` keeps it from taking the compiled form."""
    env = os.environ | ({"BPFSIM_PURE": "1"} if pure else {})
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, str(size), str(seed)],
        env=env,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotAccepted(done.stderr.strip().rsplit("\n", 1)[-1])
    return Verification(**json.loads(done.stdout))


# ---- the host ---------------------------------------------------------------------------------


class Host:
    """The host's kernel with the maps that the programs name. It loads and attaches nothing that stays."""

    def __init__(self) -> None:
        from sim.fuzz.host import HostProcess
        from sim.userspace.bpf import Bpf

        self._bpf = Bpf(HostProcess())
        self._fds = {fd: self._bpf.map_create(*attributes) for fd, attributes in _MAPS.items()}

    def verify(self, name: str, size: int = 0, seed: int = 0) -> tuple[float, int] | None:
        """Seconds and processed instructions by the kernel's own statistics; None for what is too large."""
        from kernel_model.isa import opcodes as op
        from sim.fuzz.host import MAX_INSNS
        from sim.userspace.bpf import VerifierError

        insns = LARGE[name].insns(seed, size)
        if len(insns) > MAX_INSNS:
            return None
        own = [
            insn._replace(imm=self._fds[insn.imm]) if insn.code == op.LD_IMM64 and insn.src else insn
            for insn in insns
        ]
        try:
            fd, log = self._bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, own, log_level=BPF_LOG_STATS)
        except VerifierError as error:
            raise NotAccepted(f"{name}: the host says {error.log.strip() or error}") from error
        self._bpf.close(fd)
        found = _HOST_LOG.search(log)
        return (int(found[1]) / 1e6, int(found[2])) if found else None

    def close(self) -> None:
        """Let go of the maps."""
        for fd in self._fds.values():
            self._bpf.close(fd)


@contextmanager
def host_if_there() -> Iterator[Host | None]:
    """The host's kernel, or None where it cannot be asked (sim.fuzz.host.why_not says why)."""
    from sim.fuzz.host import why_not

    if why_not() is not None:
        yield None
        return
    host = Host()
    try:
        yield host
    finally:
        host.close()


# ---- measuring --------------------------------------------------------------------------------


def measure_verifier(
    names: Sequence[str] = (),
    rounds: int = DEFAULT_ROUNDS,
    seed: int = 0,
    pure: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Verification]:
    """Each program ``rounds`` times, and on the host as often; the run of median time counts."""
    out = []
    with host_if_there() as host:
        for name in names or LARGE:
            progress(f"{name}: verifying")
            runs = [verify_fresh(name, 0, seed, pure) for _ in range(rounds)]
            own = sorted(runs, key=lambda run: run.seconds)[rounds // 2]
            theirs = [host.verify(name, 0, seed) for _ in range(rounds)] if host is not None else []
            known = [answer for answer in theirs if answer is not None]
            if known:
                seconds = median(answer[0] for answer in known)
                own = Verification(**{**vars(own), "host_seconds": seconds, "host_processed": known[0][1]})
            out.append(own)
    return out


def measure_growth(
    sizes: Sequence[int] = GROWTH, pure: bool = False, progress: Callable[[str], None] = lambda _: None
) -> list[Verification]:
    """The programs of GROWING in each size, once."""
    out = []
    for name in GROWING:
        for size in sizes:
            progress(f"{name}: {size}")
            out.append(verify_fresh(name, size, 0, pure))
    return out


def main(argv: Sequence[str]) -> int:
    """Verify NAME of SIZE (0: the table's) with SEED here; print a Verification as JSON."""
    try:
        print(json.dumps(vars(verify_here(argv[0], int(argv[1]), int(argv[2])))))
    except NotAccepted as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
