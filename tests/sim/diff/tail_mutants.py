# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of tail calls: their programs need maps and the verifier, and a second program to jump to."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mutant_forms import ENTRY
from mutants import (
    AREA,
    WATCHDOG,
    Impossible,
    MutatingCompiler,
    Outcome,
    Plan,
    Report,
    Verdict,
    caller,
    code_of,
    described,
)

from jit_x86.assembler import AssemblyError, assemble
from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import KernelError
from kernel_model.interpreter import BudgetSpent, InterpreterFault
from kernel_model.isa import asm
from kernel_model.isa import opcodes as op
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type
from sim import GuestFault, Machine
from sim.fuzz.program import Kind, Program
from sim.fuzz.surroundings import FIRST_FUNCTION, functions_btf
from sim.trace import Comparison, InterpreterRecorder, JitRecorder, Recording, TraceFull, compare
from sim.userspace.bpf import Bpf, VerifierError

XDP = bpf_prog_type.BPF_PROG_TYPE_XDP
STEPS = 2000


@dataclass(frozen=True)
class TailForm:
    """A program in whose array slot 1 is itself, slot 2 another program, and the rest empty."""

    name: str
    text: str


_COUNT = """r0 = map_value({counts}, 0)
r2 = *(u64 *)(r0 +0)
r2 += 1
*(u64 *)(r0 +0) = r2
"""
_DIRECT = """r6 = r1
r7 = 99
*(u64 *)(r10 -8) = 1
r1 = r6
r2 = map_fd({array}, 0)
r3 = KEY
call 12
r7 += 1
r0 = r7
exit"""
_INDIRECT = """r6 = r1
r9 = 77
call 8
r8 = HIGH ll
r8 += r0
r1 = r6
r2 = map_fd({array}, 0)
r3 = r8
call 12
r0 = r9
r0 += r8
exit"""
_FUNCTION = """r6 = 7
r7 = 50
r8 = 51
r9 = 52
*(u64 *)(r10 -8) = 9
call jump
r0 += r6
r0 *= r7
r0 += r8
r0 *= r9
r1 = *(u64 *)(r10 -8)
r0 += r1
exit
jump:
r6 = 3
*(u64 *)(r10 -16) = 4
r2 = map_fd({array}, 0)
r3 = KEY
call 12
r0 = r6
r1 = *(u64 *)(r10 -16)
r0 += r1
exit"""
_OTHER = "r6 = 5\nr7 = 6\nr0 = r6\nr0 += r7\nexit"
FORMS = (
    *(TailForm(f"tail call: direct, slot {key}", _DIRECT.replace("KEY", str(key))) for key in (1, 2, 3)),
    *(
        TailForm(f"tail call: indirect, {high}", _INDIRECT.replace("HIGH", high))
        for high in ("1", "2", "3", "9", "0x100000002")
    ),
    *(TailForm(f"tail call: function, slot {key}", _FUNCTION.replace("KEY", str(key))) for key in (1, 2)),
)


class TailBench:
    """A machine with a program array, the other program and a mutating JIT."""

    def __init__(self) -> None:
        self.machine = machine = Machine.boot(nics=0, watchdog=WATCHDOG)
        self.compiler = MutatingCompiler()
        self._bpf = Bpf(machine.process())
        self._btf = self._bpf.btf_load(functions_btf(2))
        self._array = self._bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, name="jumps")
        self._counts = self._bpf.map_create(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 8, 1, name="counts")
        other, _ = self._bpf.prog_load(XDP, asm.assemble(_OTHER), name="other")
        self._put(2, other)
        kernel = machine.kernel
        self._area = kernel.alloc.kmalloc(AREA, 8)
        self._ctx = kernel.alloc.kmalloc(256, 8)
        text = caller(self._area)
        (self._stub,) = kernel.text.allocate((len(assemble(text)),))
        kernel.text.poke(self._stub, assemble(text, self._stub))
        self._start = machine.snapshot()

    def close(self) -> None:
        """Close the machine."""
        self.machine.close()

    def _put(self, key: int, fd: int) -> None:
        self._bpf.map_update(self._array, key.to_bytes(4, "little"), fd.to_bytes(4, "little"))

    def load(self, form: TailForm, plan: Plan | None) -> BpfProg:
        """The program in a fresh machine, compiled with the mutant."""
        self.machine.restore(self._start)
        self.machine.kernel.compiler = self.compiler
        text = (_COUNT + form.text).replace("{array}", str(self._array))
        insns = asm.assemble(text.replace("{counts}", str(self._counts)))
        starts = Program(Kind.XDP, tuple(insns)).functions()
        fields: dict[str, Any] = {}
        if len(starts) > 1:
            # Tail calls in functions are for programs with BTF.
            info = b"".join(struct.pack("<II", at, FIRST_FUNCTION + n) for n, at in enumerate(starts))
            fields = {"func_info": info, "func_info_rec_size": 8, "func_info_cnt": len(starts)}
            fields["prog_btf_fd"] = self._btf
        self.compiler.plan = plan
        try:
            fd, _ = self._bpf.prog_load(XDP, insns, name="first", **fields)
        finally:
            self.compiler.plan = None
        self._put(1, fd)
        return next(prog for prog in self.machine.kernel.progs if prog.name == "first")

    def outcome(self, prog: BpfProg) -> Outcome:
        """Run the machine code; the programs count themselves."""
        kernel = self.machine.kernel
        self._bpf.map_update(self._counts, bytes(4), bytes(8))
        self.machine.use_engine(True)
        kernel.memory.fill(self._area, AREA, 0)
        try:
            r0 = kernel.cpu.call(self._stub, self._ctx, prog.insnsi(kernel), prog.entry(kernel, True))
        except GuestFault:
            return Outcome(fault=True)
        memory = kernel.memory.read(self._ctx, 256)
        memory += self._bpf.map_lookup(self._counts, bytes(4), 8) or b""
        return Outcome(r0, memory, kernel.memory.read(self._area, AREA))

    def compared(self, form: TailForm, plan: Plan | None) -> Comparison:
        """The interpreter against the JIT."""
        recordings = []
        for recorder in (InterpreterRecorder, JitRecorder):
            prog = self.load(form, plan)
            kernel, jit = self.machine.kernel, recorder is JitRecorder
            self.machine.use_engine(jit)
            recordings.append(Recording(limit=STEPS))
            with (
                suppress(TraceFull, GuestFault, InterpreterFault, BudgetSpent),
                recorder(self.machine, recordings[-1]),
            ):
                kernel.cpu.call(prog.entry(kernel, jit), self._ctx, prog.insnsi(kernel))
        return compare(*recordings)

    def judge(self, form: TailForm, keep: Callable[[Plan], bool]) -> Report:
        """All mutants of the form's calls, exits and prologues."""
        report = Report()
        prog = self.load(form, None)
        request = prog.request
        assert prog.image is not None
        good, seen = self.outcome(prog), {code_of(prog.image)}
        assert self.compared(form, None).agree, form.name
        for number, sub in enumerate(request.subprogs):
            slots = [n for n in range(sub.start, sub.end) if request.insns[n].code in _MUTATED]
            for slot in (ENTRY, *slots):
                for plan, text in described(request, self.compiler, number, slot):
                    if keep(plan):
                        self._judge(form, plan, text, good, seen, report)
        return report

    def _judge(
        self,
        form: TailForm,
        plan: Plan,
        text: str,
        good: Outcome,
        seen: set[tuple[bytes, ...]],
        report: Report,
    ) -> None:
        try:
            prog = self.load(form, plan)
        except (AssemblyError, Impossible, KernelError, VerifierError, ValueError):
            report.impossible += 1
            return
        assert prog.image is not None
        code = code_of(prog.image)
        if code in seen:
            report.same += 1
            return
        seen.add(code)
        verdict = partial(Verdict, form.name, plan, text)
        changes = self.outcome(prog) != good
        comparison = self.compared(form, plan)
        where = comparison.difference.where if comparison.difference else None
        if not changes:
            report.verdicts.append(verdict(False, seen=not comparison.agree))
            return
        first = where is not None and where.prog == prog.id
        named = first and where is not None and plan.place.slot in (where.slot, ENTRY)
        told = "" if named else f"[{comparison.difference}]"
        report.verdicts.append(verdict(True, not comparison.agree, named, told))


_MUTATED = (op.TAIL_CALL, op.CALL, op.EXIT)
