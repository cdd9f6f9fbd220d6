# SPDX-License-Identifier: GPL-2.0-only
"""What the machine's own mechanisms cost: calls from Python, traps to Python, system calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import TYPE_CHECKING

from kernel_model.functions import FUNCTIONS
from kernel_model.uapi.enums import bpf_prog_type

from ..job.bundled import bundled_job
from ..machine import Machine
from ..trace import InterpreterRecorder, JitRecorder, Recording, compare
from ..userspace.bpf import Bpf
from ..userspace.loader import load
from .startup import Startup
from .twin import Env, install_code, make_prog

if TYPE_CHECKING:
    from kernel_model.kernel import Kernel

_NR_GETPID = 39


@dataclass(frozen=True)
class Cost:
    """A mechanism, how long one use of it takes in nanoseconds, and what exactly was timed."""

    name: str
    ns: float
    about: str


@dataclass(frozen=True)
class _Row:
    """``build(machine)`` gives a function that uses the mechanism as often as it is told."""

    name: str
    count: int
    about: str
    build: Callable[[Machine], Callable[[int], object]]


def _nothing(kernel: Kernel) -> tuple[int, int]:
    """bpf_func and insnsi of a program in machine code that returns at once."""
    entry = install_code(kernel, "loops")["bench_nothing"]
    return entry, make_prog(kernel, entry, Env()) + kernel.layout["bpf_prog"].offset("insnsi")


def _call(machine: Machine) -> Callable[[int], object]:
    cpu, (entry, _) = machine.kernel.cpu, _nothing(machine.kernel)

    def use(count: int) -> None:
        for _ in range(count):
            cpu.call(entry)

    return use


def _loop(machine: Machine) -> Callable[[int], object]:
    kernel = machine.kernel
    entry, insnsi = _nothing(kernel)
    loop = kernel.text.symbol("bpf_test_run_loop")
    return lambda count: kernel.cpu.call(loop, entry, 0, insnsi, count)


def _leaf(machine: Machine) -> Callable[[int], object]:
    kernel = machine.kernel
    loop = install_code(kernel, "loops")["bench_call_loop"]
    row = FUNCTIONS["bpf_get_current_uid_gid"]
    assert not row.leaving
    function = kernel.text.symbol(row.name)
    return lambda count: kernel.cpu.call(loop, function, 0, 0, 0, count)


def _interpreter(machine: Machine) -> Callable[[int], object]:
    from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_MOV64_IMM

    bpf = Bpf(machine.process())
    bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, [BPF_MOV64_IMM(0, 2), BPF_EXIT_INSN()], license="GPL")
    kernel = machine.kernel
    (prog,) = kernel.progs
    loop = kernel.text.symbol("bpf_test_run_loop")
    entry, insnsi = prog.entry(kernel, jit=False), prog.insnsi(kernel)
    return lambda count: kernel.cpu.call(loop, entry, 0, insnsi, count)


def _syscall(machine: Machine) -> Callable[[int], object]:
    process = machine.process()

    def use(count: int) -> None:
        for _ in range(count):
            process.syscall(_NR_GETPID)

    return use


def _lockstep(machine: Machine) -> Callable[[int], object]:
    """The bundled filter over its capture, again and again up to ``count`` instructions."""
    process, job = machine.process(), bundled_job()
    loaded = load(process, job.object)
    prog = loaded.progs["xdp_filter"].fd
    start = machine.snapshot()

    def record(recorder: type[JitRecorder | InterpreterRecorder], count: int) -> Recording:
        machine.restore(start)
        machine.use_engine(recorder is JitRecorder)
        bpf, recording = Bpf(process), Recording()
        with recorder(machine, recording):
            for frame in cycle(job.frames):
                bpf.prog_test_run(prog, frame.data)
                if recording.steps >= count:
                    return recording
        raise AssertionError("a capture has frames")

    def use(count: int) -> None:
        found = compare(record(InterpreterRecorder, count), record(JitRecorder, count)).difference
        if found is not None:
            raise RuntimeError(f"the engines differ: {found.kind.value}")

    return use


_ROWS = (
    _Row("call from Python", 5000, "kernel.cpu.call() of a function that returns at once", _call),
    _Row("loop round", 1_000_000, "a round of bpf_test_run_loop around such a program", _loop),
    _Row("leaf trap", 20_000, "kernel text calling a Python function without ending the run", _leaf),
    _Row(
        "interpreter entry", 5000, "leaving the run to interpret `r0 = 2; exit`, and resuming", _interpreter
    ),
    _Row("system call", 5000, "getpid from Python", _syscall),
    _Row("lockstep", 60_000, "a BPF instruction recorded on both engines, and compared", _lockstep),
)


def measure_costs(rounds: int, progress: Callable[[str], None] = lambda _: None) -> list[Cost]:
    """Median cost of each mechanism over ``rounds``, each in a machine of its own."""
    out = []
    for row in _ROWS:
        progress(row.name)
        with Machine.boot(nics=0) as machine:
            use = row.build(machine)
            use(row.count // 10)
            times = []
            for _ in range(rounds):
                began = time.perf_counter_ns()
                use(row.count)
                times.append((time.perf_counter_ns() - began) / row.count)
        out.append(Cost(row.name, median(times), row.about))
    return out


def startup_costs(startup: Startup) -> list[Cost]:
    """The same list form for the way from nothing to the first verdict: the whole, then its parts."""
    about = {
        "python": "starting the Python interpreter",
        "import": "importing the simulator",
        "boot": "booting the machine: page tables, kernel text, devices",
        "read_object": "parsing the ELF object",
        "load_verify": "creating maps, BPF_PROG_LOAD with the verifier, without the JIT",
        "jit": "compiling to machine code",
        "first_run": "BPF_PROG_TEST_RUN with one packet",
    }
    whole = "boot to first verdict"
    rows = [Cost(whole, startup.total, "from the start of a process, all together")]
    return rows + [Cost(f"{whole}: {name}", ns, about[name]) for name, ns in startup.parts.items()]
