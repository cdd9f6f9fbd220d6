# SPDX-License-Identifier: GPL-2.0-only
"""Programs that pass by the verifier: both engines run them as they are, over a piece of kernel memory.

Cases of an instruction set do what no verifier would let through (read the memory behind a number,
leave registers unwritten). Divisions get the checks in front of them that every JIT relies on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from kernel_model.bpf.prog import BpfProg
from kernel_model.interpreter import BudgetSpent, InterpreterFault
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_IMM64
from kernel_model.isa.native import CpuFeatures, Mitigations, Subprog
from kernel_model.isa.table import Use, row_for
from kernel_model.uapi.enums import bpf_prog_type
from kernel_model.verifier.api import MapView, ProgramSpec, Stats, VerifiedProgram
from kernel_model.verifier.fixups.arith import guard_division, is_division

from ..hardware.guest_fault import GuestFault
from ..machine import Machine
from ..trace import InterpreterRecorder, JitRecorder, Recording, TraceFull, compare
from .cases import Case, CaseError
from .finding import Ending, Finding, ending_differences

STEPS = 100_000
"""Steps that are kept of a run."""
MEMORY = 4096
"""Bytes of memory that R1 can point at."""
STACK, STALE = 8192, 0xAA
"""Bytes of kernel stack that are filled before each run, and with what."""
_FAULTS = (GuestFault, InterpreterFault, BudgetSpent)


class Run(NamedTuple):
    """What one engine did, and how that ended."""

    recording: Recording
    ending: Ending


class RawRunner:
    """A machine that runs one case after the other on both engines."""

    def __init__(
        self,
        seed: int = 0,
        features: CpuFeatures | None = None,
        mitigations: Mitigations | None = None,
        watchdog: float = 10.0,
    ) -> None:
        """``watchdog`` is as for Machine.boot()."""
        self.machine = Machine.boot(
            seed=seed, nics=0, features=features, mitigations=mitigations, watchdog=watchdog
        )
        self.memory = self.machine.kernel.alloc.kmalloc(MEMORY, 8)
        """The address of the cases' memory."""

    def __enter__(self) -> RawRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.close()

    def load(self, case: Case) -> BpfProg:
        """The case as a program of the kernel, compiled, behind three slots that set R1 and R2.

        Raises NotModelled where the JIT cannot compile it, CaseError for too much memory.
        """
        if len(case.mem) > MEMORY:
            raise CaseError(f"{case.name}: {len(case.mem)} bytes of memory; there are {MEMORY}")
        head = [*BPF_LD_IMM64(1, self.memory if case.mem else 0), Insn(_MOV, 2, 0, 0, len(case.mem))]
        insns, origins = guarded([*head, *case.insns])
        verified = VerifiedProgram(insns, subprogs_of(insns, case.stack), (), (), origins, Stats(), "")
        spec = ProgramSpec(insns, bpf_prog_type.BPF_PROG_TYPE_XDP, _no_map, name=case.name)
        return BpfProg(self.machine.kernel, spec, verified, [], 0)

    def reset(self, case: Case) -> None:
        """The state that each run starts from; what an earlier one left on the stack could hide a store
        that is missing.
        """
        kernel = self.machine.kernel
        kernel.memory.write(self.memory, case.mem.ljust(MEMORY, b"\0"))
        kernel.memory.fill(kernel.cpu.stack_pointer - STACK, STACK, STALE)

    def run(self, case: Case) -> Finding:
        """Run it on both engines from the same state, and compare."""
        prog = self.load(case)
        try:
            return compared(case.name, self.record(prog, case, False), self.record(prog, case, True))
        finally:
            prog.put(self.machine.kernel)

    def record(self, prog: BpfProg, case: Case, jit: bool) -> Run:
        """Run a program that :meth:`load` answered on one engine, from the case's state."""
        kernel = self.machine.kernel
        self.reset(case)
        recording, ending = Recording(limit=STEPS), Ending()
        recorder = JitRecorder if jit else InterpreterRecorder
        try:
            with suppress(TraceFull), recorder(self.machine, recording):
                r0 = kernel.cpu.call(prog.entry(kernel, jit), 0, prog.insnsi(kernel))
                ending = Ending(r0, kernel.memory.read(self.memory, len(case.mem)))
        except _FAULTS as fault:
            ending = Ending(fault=" ".join(str(fault).split()))
        return Run(recording, ending)


def compared(name: str, interpreter: Run, jit: Run) -> Finding:
    """The two engines' runs of one program from one state, compared."""
    comparison = compare(interpreter.recording, jit.recording)
    differences = ending_differences(interpreter.ending, jit.ending)
    return Finding(name, comparison, interpreter.recording, jit.recording, differences)


_MOV = op.BPF_ALU64 | op.BPF_MOV | op.BPF_K


def _no_map(fd: int) -> MapView:
    raise LookupError(f"no map {fd}")


def subprogs_of(insns: Sequence[Insn], stack: int) -> tuple[Subprog, ...]:
    """The functions: they begin at slot 0 and where calls and function addresses point."""
    starts = {0}
    for slot, insn in enumerate(insns):
        if (insn.code, insn.src) in ((op.CALL, op.BPF_PSEUDO_CALL), (op.LD_IMM64, op.BPF_PSEUDO_FUNC)):
            starts.add(slot + 1 + insn.imm)
    order = sorted(starts)
    return tuple(
        Subprog(start, end, stack, f"f{number}")
        for number, (start, end) in enumerate(zip(order, [*order[1:], len(insns)], strict=True))
    )


def guarded(insns: Sequence[Insn]) -> tuple[tuple[Insn, ...], tuple[int, ...]]:
    """The program with its divisions made safe and all distances moved along; each slot's origin."""
    groups = [guard_division(insn) if is_division(insn) else [insn] for insn in insns]
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group))
    out: list[Insn] = []
    origins: list[int] = []
    for index, group in enumerate(groups):
        field = _distance_field(insns[index]) if len(group) == 1 else ""
        if field:
            goal = index + 1 + getattr(insns[index], field)
            group = [group[0]._replace(**{field: starts[goal] - starts[index] - 1})]
        out += group
        origins += [index] * len(group)
    return tuple(out), tuple(origins)


def _distance_field(insn: Insn) -> str:
    """The field that holds a distance in slots, "" for most instructions."""
    if insn.code == op.LD_IMM64:
        return "imm" if insn.src == op.BPF_PSEUDO_FUNC else ""
    row = row_for(insn, internal=True) if insn.code else None
    if row is None:
        return ""
    return "off" if row.off is Use.JUMP else "imm" if row.imm is Use.JUMP else ""
