# SPDX-License-Identifier: GPL-2.0-only
"""Judging mutants of the JIT's machine code: do they change a result, and does the comparison say so?

The truth comes from machine code alone: a kernel function calls the program as the JIT compiles it and as
the mutated JIT does, over the same inputs. What differs (R0, memory, a fault, the registers and stack that
the caller gets back) is a change. Then the interpreter is compared with the mutated JIT, as ``bpfsim diff``
does it, over the same input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from mutant_forms import DATA, ENTRY, OUT, Form, Setting, frames, helpers, inputs, table_forms
from mutation import Mutant, mutants_of, mutants_of_jump

from jit_x86 import Compiler
from jit_x86.assembler import AssemblyError, assemble
from jit_x86.byte_forms import near_branch
from jit_x86.code import Code, Context
from jit_x86.compiler import Selected, contexts
from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import KernelError
from kernel_model.isa.native import NativeFunction, NativeImage, NativeRequest
from sim import GuestFault
from sim.diff.cases import Case
from sim.diff.finding import Finding
from sim.diff.raw import MEMORY, RawRunner, compared

HEAD = 3
"""Slots that RawRunner puts in front of a case's own."""
WATCHDOG = 0.15
"""Seconds: the programs run for microseconds."""
ROOM, FUNCTIONS = 4096, 4
"""Bytes of machine code for each function, and how many functions a program has at most."""
MARGIN = 64
"""Bytes around the memory that are looked at, too."""


class Place(NamedTuple):
    """An item of a program's code: the function's number, the slot (ENTRY: its prologue) and the item's
    index (-1: the jump that ends the slot's code)."""

    function: int
    slot: int
    item: int


class Plan(NamedTuple):
    """A mutant at its place."""

    place: Place
    mutant: Mutant


class Impossible(ValueError):
    """A mutant that has no encoding."""


def _branch_size(code: bytes, end: int) -> int:
    """Bytes of the branch that ends there."""
    if code[end - 6] == 0x0F and code[end - 5] >> 4 == 8:
        return 6
    return 5 if code[end - 5] == 0xE9 else 2


def _skewed(function: NativeFunction, end: int, mnemonic: str, skew: int) -> NativeFunction:
    """The branch that ends at offset ``end``, assembled anew with its target moved by ``skew`` bytes."""
    size = _branch_size(function.code, end)
    width = 1 if size == 2 else 4
    disp = int.from_bytes(function.code[end - width : end], "little", signed=True) + skew
    code = assemble(f"{mnemonic} {function.addr + end + disp}", function.addr + end - size)
    if len(code) != size:
        if size == 2:
            raise Impossible("the displacement does not fit")
        code = assemble(near_branch(mnemonic, disp).text)
    return replace(function, code=function.code[: end - size] + code + function.code[end:])


class MutatingCompiler(Compiler):
    """The JIT with one instruction changed while ``plan`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None

    def select(self, ctx: Context) -> Selected:
        """See Compiler."""
        selected = super().select(ctx)
        if self.plan is None or self.plan.place.function != ctx.number:
            return selected
        (_, slot, item), mutant = self.plan
        if slot == ENTRY:
            assert mutant.item is not None
            return selected._replace(entry=[*selected.entry[:item], mutant.item, *selected.entry[item + 1 :]])
        codes = list(selected.codes)
        index = slot - ctx.subprog.start
        code = codes[index]
        if item < 0:
            codes[index] = code._replace(jump=mutant.jump)
        else:
            assert mutant.item is not None
            codes[index] = code._replace(items=[*code.items[:item], mutant.item, *code.items[item + 1 :]])
        return selected._replace(codes=codes)

    def compile(
        self, request: NativeRequest, place: Callable[[tuple[int, ...]], tuple[int, ...]]
    ) -> NativeImage:
        """See Compiler."""
        image = super().compile(request, place)
        if self.plan is None or not self.plan.mutant.skew:
            return image
        (number, slot, _), mutant = self.plan
        assert mutant.jump is not None
        functions = list(image.functions)
        end = functions[number].insn_offs[slot + 1 - request.subprogs[number].start]
        functions[number] = _skewed(functions[number], end, mutant.jump.mnemonic, mutant.skew)
        return replace(image, functions=tuple(functions))


def plans_at(request: NativeRequest, compiler: Compiler, function: int, slot: int) -> Iterator[Plan]:
    """All mutants of a slot's code, or of a prologue."""
    ctx = contexts(request)[function]
    selected = compiler.select(ctx)
    count = len(request.subprogs)
    code = Code(selected.entry) if slot == ENTRY else selected.codes[slot - ctx.subprog.start]
    for index, item in enumerate(code.items):
        for mutant in mutants_of(item, len(code.items), count):
            yield Plan(Place(function, slot, index), mutant)
    if code.jump is not None:
        for mutant in mutants_of_jump(code.jump, len(selected.codes)):
            yield Plan(Place(function, slot, -1), mutant)


class Outcome(NamedTuple):
    """What a run left: R0, the memory, what the caller got back; or that it faulted."""

    r0: int = 0
    memory: bytes = b""
    saved: bytes = b""
    fault: bool = False


_PATTERNS = tuple(0xC0DE_0000_0000_0000 + 0x0101_0101 * number for number in range(1, 11))
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")


def caller(area: int) -> str:
    """A kernel function f(ctx, insnsi, bpf_func) that keeps values in every preserved register and on its
    stack over the call, and writes what it gets back to ``area``."""
    lines = [f"push {reg}" for reg in _KEPT] + [f"movabs r11, {area}", "mov [r11], rsp"]
    for value in _PATTERNS[6:]:
        lines += [f"movabs rax, {value}", "push rax"]
    lines += [f"movabs {reg}, {value}" for reg, value in zip(_KEPT, _PATTERNS, strict=False)]
    lines += ["call rdx", f"movabs r11, {area}"]
    lines += [f"mov [r11 + {8 + 8 * number}], {reg}" for number, reg in enumerate((*_KEPT, "rsp"))]
    lines += ["mov rsp, [r11]"]
    for number in range(4):
        lines += [f"mov rcx, [rsp - {8 + 8 * number}]", f"mov [r11 + {64 + 8 * number}], rcx"]
    return "\n".join([*lines, *(f"pop {reg}" for reg in reversed(_KEPT)), "ret"])


AREA = 96


@dataclass(frozen=True)
class Verdict:
    """``changes``: some input has another result. ``detected``: the comparison says so.
    ``named``: at the mutated instruction; ``at``: the one that is named instead, in words. ``later``: only
    over another input than the first that has another result. ``seen``: for a mutant that changes nothing,
    whether the comparison sees a difference all the same."""

    form: str
    plan: Plan
    text: str
    changes: bool
    detected: bool = False
    named: bool = False
    at: str = ""
    later: bool = False
    seen: bool = False

    def __str__(self) -> str:
        kind, place = self.plan.mutant.kind, self.plan.place
        end = "jump" if place.item < 0 else f"item {place.item}"
        return f"{self.form}, {end}: {self.text} -> {self.plan.mutant.text or 'nothing'} ({kind}) {self.at}"


@dataclass
class Report:
    """Verdicts, and how many mutants have no encoding or the same one."""

    verdicts: list[Verdict] = field(default_factory=list)
    impossible: int = 0
    same: int = 0

    @property
    def changing(self) -> list[Verdict]:
        """Those that change a result."""
        return [each for each in self.verdicts if each.changes]

    @property
    def missed(self) -> list[Verdict]:
        """Those that change a result, undetected."""
        return [each for each in self.changing if not each.detected]

    @property
    def elsewhere(self) -> list[Verdict]:
        """Detected, with another instruction named."""
        return [each for each in self.changing if each.detected and not each.named]

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.verdicts += other.verdicts
        self.impossible += other.impossible
        self.same += other.same

    def lines(self) -> list[str]:
        """The report as text: the figures by kind, then those that are missed or named otherwise."""
        out = [f"{'kind':<14}{'mutants':>9}{'changing':>10}{'detected':>10}{'named':>8}{'equivalent':>12}"]
        kinds = sorted({each.plan.mutant.kind for each in self.verdicts})
        for kind in (*kinds, "all"):
            chosen = [each for each in self.verdicts if kind in (each.plan.mutant.kind, "all")]
            counts = Counter()
            for each in chosen:
                counts["changing"] += each.changes
                counts["detected"] += each.changes and each.detected
                counts["named"] += each.changes and each.named
            out.append(
                f"{kind:<14}{len(chosen):>9}{counts['changing']:>10}{counts['detected']:>10}"
                f"{counts['named']:>8}{len(chosen) - counts['changing']:>12}"
            )
        out.append(f"not encodable: {self.impossible}; the same bytes: {self.same}")
        out += [f"missed: {each}" for each in self.missed]
        out += [f"elsewhere: {each}" for each in self.elsewhere]
        out += [f"seen only: {each}" for each in self.verdicts if each.seen]
        return out


class Unclean(Exception):
    """A mutant changed the machine beyond what is reset before each run."""


class Bench:
    """A machine with a mutating JIT.

    All images of a program go to the same addresses, so that only what a mutant changes is different.
    """

    def __init__(self, setting: Setting) -> None:
        features, mitigations = setting
        self.runner = RawRunner(features=features, mitigations=mitigations, watchdog=WATCHDOG)
        self.compiler = MutatingCompiler()
        kernel = self.runner.machine.kernel
        self._area = kernel.alloc.kmalloc(AREA, 8)
        text = caller(self._area)
        self._places = kernel.text.allocate((ROOM,) * FUNCTIONS)
        (self._stub,) = kernel.text.allocate((len(assemble(text)),))
        kernel.text.poke(self._stub, assemble(text, self._stub))
        self._start = self.runner.machine.snapshot()

    def close(self) -> None:
        """Close the machine."""
        self.runner.machine.close()

    def load(self, case: Case) -> BpfProg:
        """The case's program in a machine as it was when booted."""
        self.runner.machine.restore(self._start)
        prog = self.runner.load(case)
        self.install(prog, self.compile(prog, None))
        return prog

    def compile(self, prog: BpfProg, plan: Plan | None) -> NativeImage:
        """The program's machine code with a mutant in it."""
        self.compiler.plan = plan
        try:
            return self.compiler.compile(prog.request, self._place)
        finally:
            self.compiler.plan = None

    def _place(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        assert max(lengths) <= ROOM
        return self._places[: len(lengths)]

    def install(self, prog: BpfProg, image: NativeImage) -> None:
        """Let the program have this machine code, with its exception table."""
        kernel = self.runner.machine.kernel
        assert prog.image is not None
        for function in prog.image.functions:
            for entry in function.exceptions:
                kernel.extable.pop(function.addr + entry.off, None)
        longest = [len(function.code) for function in prog.image.functions]
        prog.image = image
        for length, function in zip(longest, image.functions, strict=True):
            kernel.text.poke(function.addr, function.code.ljust(length, b"\xcc"))
            for entry in function.exceptions:
                fixup = function.addr + entry.fixup_off
                kernel.extable[function.addr + entry.off] = (fixup, entry.x86_reg)

    def outcome(self, prog: BpfProg, case: Case) -> Outcome:
        """Run the machine code."""
        runner = self.runner
        kernel = runner.machine.kernel
        runner.reset(case)
        kernel.memory.fill(self._area, AREA, 0)
        try:
            r0 = kernel.cpu.call(self._stub, 0, prog.insnsi(kernel), prog.entry(kernel, True))
        except GuestFault:
            return Outcome(fault=True)
        return Outcome(r0, self.around(), kernel.memory.read(self._area, AREA))

    def around(self) -> bytes:
        """The memory with its margins."""
        return self.runner.machine.kernel.memory.read(self.runner.memory - MARGIN, MEMORY + 2 * MARGIN)

    def judge(self, form: Form, seed: int, keep: Callable[[Plan], bool]) -> Report:
        """All mutants of a form that ``keep`` lets through. AssertionError when the engines do not agree
        without any."""
        contents = inputs(form, self.runner.memory, seed)
        cases = [Case(form.name, form.insns, memory, form.stack) for memory in contents]
        prog = self.load(cases[0])
        plans = [
            (plan, text)
            for function, slot in (_final(prog, place) for place in form.places)
            for plan, text in described(prog.request, self.compiler, function, slot)
            if keep(plan)
        ]
        if not plans:
            return Report()
        try:
            return Trial(self, prog, cases, careful=False).judge(plans)
        except Unclean:
            return Trial(self, self.load(cases[0]), cases, careful=True).judge(plans)


class Trial:
    """A form's program: its outcome for each input, what the interpreter does, and the mutants.

    ``careful``: the machine is booted anew for each mutant, else only for those that show that they wrote
    where they should not have.
    """

    def __init__(self, bench: Bench, prog: BpfProg, cases: list[Case], careful: bool) -> None:
        self._bench, self._prog, self._cases, self._careful = bench, prog, cases, careful
        assert prog.image is not None
        self._good = prog.image
        self._seen = {code_of(prog.image)}
        self._outcomes = [bench.outcome(prog, case) for case in cases]
        self._runs = [bench.runner.record(prog, case, False) for case in cases]
        for number in range(len(cases)):
            finding = self._compare(number)
            assert finding.agree, f"{cases[0].name}: {finding.headline()} {finding.ending}"

    def judge(self, plans: list[tuple[Plan, str]]) -> Report:
        """The verdicts on the mutants; Unclean when the machine is not what it was."""
        report = Report()
        for plan, text in plans:
            try:
                image = self._bench.compile(self._prog, plan)
            except (AssemblyError, Impossible, KernelError, ValueError):
                report.impossible += 1
                continue
            if code_of(image) in self._seen:
                report.same += 1
                continue
            self._seen.add(code_of(image))
            report.verdicts.append(self._verdict(plan, text, image))
        self._bench.install(self._prog, self._good)
        if self._first_change() is not None or not self._compare(0).agree:
            raise Unclean
        return report

    def _reload(self) -> None:
        self._prog = self._bench.load(self._cases[0])

    def _first_change(self) -> int | None:
        """The first input that has another outcome now."""
        pairs = enumerate(zip(self._cases, self._outcomes, strict=True))
        return next((n for n, (case, good) in pairs if self._bench.outcome(self._prog, case) != good), None)

    def _tidy(self, number: int) -> bool:
        """Whether the last run, over this input, wrote only where its first one did, or where all do."""
        if self._careful:
            return False
        start, end = MARGIN + OUT, MARGIN + DATA
        now, then = self._bench.around(), self._outcomes[number].memory
        return now[:start] + now[end:] == then[:start] + then[end:]

    def _verdict(self, plan: Plan, text: str, image: NativeImage) -> Verdict:
        name = self._cases[0].name
        self._bench.install(self._prog, image)
        first = self._first_change()
        if first is None:
            seen = not all(self._compare(number).agree for number in range(2))
            return Verdict(name, plan, text, False, seen=seen)
        tidy = self._tidy(first)
        # The input that shows it comes first; a user would run the others, too.
        for number in (first, *(n for n in range(len(self._cases)) if n != first)):
            if not tidy:
                self._reload()
                self._bench.install(self._prog, image)
            finding = self._compare(number)
            if not finding.agree:
                break
        if not tidy:
            self._reload()
        named = finding.where is not None and plan.place.slot in (finding.where.slot, ENTRY)
        told = "" if named else _told(finding)
        return Verdict(name, plan, text, True, not finding.agree, named, told, number != first)

    def _compare(self, number: int) -> Finding:
        """An input's run as machine code against the interpreter's, which is recorded anew where machine code
        is missing: its steps depend on that."""
        record, case = self._bench.runner.record, self._cases[number]
        image = self._prog.image
        assert image is not None
        left = self._runs[number] if _empty(image) == _empty(self._good) else record(self._prog, case, False)
        return compared(case.name, left, record(self._prog, case, True))


def _empty(image: NativeImage) -> list[int]:
    """The slots without machine code."""
    pairs = (pair for function in image.functions for pair in pairwise(function.insn_offs))
    return [slot for slot, (low, high) in enumerate(pairs) if low == high]


def _told(finding: Finding) -> str:
    return f"[{finding.headline()}{'; ' + finding.ending[0] if finding.ending else ''}]"


def code_of(image: NativeImage) -> tuple[bytes, ...]:
    return tuple(function.code for function in image.functions)


def _final(prog: BpfProg, place: int | tuple[int, int]) -> tuple[int, int]:
    """A form's place in the program as it is loaded: the function and the slot."""
    if isinstance(place, tuple):
        return place[1], ENTRY
    origins = prog.verified.orig_index
    slot = max(at for at, origin in enumerate(origins) if origin == HEAD + place)
    return next(n for n, sub in enumerate(prog.request.subprogs) if sub.start <= slot < sub.end), slot


def described(
    request: NativeRequest, compiler: MutatingCompiler, function: int, slot: int
) -> Iterator[tuple[Plan, str]]:
    ctx = contexts(request)[function]
    selected = compiler.select(ctx)
    code = Code(selected.entry) if slot == ENTRY else selected.codes[slot - ctx.subprog.start]
    for plan in plans_at(request, compiler, function, slot):
        item = plan.place.item
        what = code.jump if item < 0 else code.items[item]
        yield plan, getattr(what, "replaces", None) or str(what)


HELPERS = ("bpf_get_smp_processor_id", "bpf_get_numa_node_id", "bpf_get_current_pid_tgid")


def all_forms() -> list[Form]:
    """Every form but those of tail calls."""
    with RawRunner() as runner:
        symbol = runner.machine.kernel.text.symbol
        calls = list(helpers(symbol("__bpf_call_base"), [symbol(name) for name in HELPERS]))
    return [*table_forms(), *calls, *frames()]


def judge_all(forms: Iterable[Form], seed: int, keep: Callable[[Plan], bool]) -> Report:
    """The mutants of all these forms that ``keep`` lets through."""
    benches: dict[Setting, Bench] = {}
    report = Report()
    try:
        for form in forms:
            if form.setting not in benches:
                benches[form.setting] = Bench(form.setting)
            report.add(benches[form.setting].judge(form, seed, keep))
    finally:
        for bench in benches.values():
            bench.close()
    return report
