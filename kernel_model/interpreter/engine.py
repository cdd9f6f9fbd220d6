# SPDX-License-Identifier: GPL-2.0-only
"""The reference interpreter: runs a program with every memory access checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, ref

from kernel_model.errors import MemoryFault, NotModelled
from kernel_model.isa.table import Effect, Use, row_for
from kernel_model.ports import Memory

from . import arith
from .codegen import Code, Variant, generate
from .program import Program

Regs = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""R0 to R10, unsigned."""

_TASK_END: Final = 1 << 47
"""End of the user half plus one page: TASK_SIZE_MAX + PAGE_SIZE with 4-level page tables."""
_VSYSCALL: Final = 0xFFFFFFFFFF600000


class Observer(Protocol):
    """Called after each instruction that ran: the program, its slot, and the registers after it.

    LD_IMM64 counts once. A call is observed after it returned, so after the callee's instructions; a
    tail call that is made is observed before the next program's first instruction. R11 (AX) is
    not shown, and after a call R1-R5 hold what they held before it.
    """

    def __call__(self, program: Program, slot: int, regs: Regs, /) -> None: ...


class InterpreterFault(Exception):
    """A load, store or atomic operation at an address that memory refuses.

    ``slot`` is the instruction, ``addr`` and ``kind`` are the access's, ``regs`` are R0-R10 before the
    instruction; the MemoryFault is the cause.
    """

    def __init__(self, program: Program, slot: int, addr: int, kind: str, regs: Regs) -> None:
        super().__init__(program, slot, addr, kind, regs)
        self.program = program
        self.slot = slot
        self.addr = addr
        self.kind = kind
        self.regs = regs

    def __str__(self) -> str:
        return (
            f"{self.program.name or 'program'}: {self.kind} fault at {self.addr:#x}, instruction {self.slot}"
        )


class BudgetSpent(Exception):
    """A run executed more instructions than its budget; the machine should end it."""


class _Calls:
    """What the functions of one run share."""

    __slots__ = ("budget", "observer", "tail_calls")

    def __init__(self, observer: Observer | None, budget: int) -> None:
        self.tail_calls = 0
        self.observer = observer
        self.budget = budget

    def spend(self, steps: int) -> None:
        self.budget -= steps
        if self.budget < 0:
            raise BudgetSpent


_CODE: WeakKeyDictionary[Program, dict[Variant, Code]] = WeakKeyDictionary()
"""Generated code by program: it depends on nothing else, and stays out of pickles."""


def code_of(program: Program, variant: Variant = Variant()) -> Code:  # noqa: B008
    """The Python that runs a program, made on first use. Raises NotModelled and ValueError as codegen."""
    variants = _CODE.setdefault(program, {})
    if variant not in variants:
        variants[variant] = generate(program, variant)
    return variants[variant]


class Interpreter:
    """Runs programs against one memory and one way of calling kernel functions.

    - ``call(address, stack, r1, r2, r3, r4, r5)`` calls kernel text (a helper or kfunc) with the stack
      pointer that the JIT's code would have there, and gives R0 (any int, masked here);
    - ``tail_call(ctx, map_address, index)`` gives the program in that slot of a program array, or None
      when the index is out of range or the slot empty;
    - ``this_cpu_off()`` gives what to add to a per-CPU pointer.

    Exceptions of these callbacks pass through unchanged.
    """

    def __init__(
        self,
        memory: Memory,
        call: Callable[[int, int, int, int, int, int, int], int] | None = None,
        tail_call: Callable[[int, int, int], Program | None] | None = None,
        this_cpu_off: Callable[[], int] | None = None,
    ) -> None:
        self._names: dict[str, object] = {
            "u8": memory.u8,
            "u16": memory.u16,
            "u32": memory.u32,
            "u64": memory.u64,
            "put_u8": memory.put_u8,
            "put_u16": memory.put_u16,
            "put_u32": memory.put_u32,
            "put_u64": memory.put_u64,
            "call": call or _absent("helper calls"),
            "tail_call": tail_call or _absent("tail calls"),
            "this_cpu_off": this_cpu_off or _absent("per-CPU addresses"),
            "udiv": arith.udiv,
            "umod": arith.umod,
            "sdiv": arith.sdiv,
            "smod": arith.smod,
            "bswap": arith.bswap,
            "probe": _probe,
        }
        self._bound: WeakKeyDictionary[Program, dict[Variant, dict[str, Any]]] = WeakKeyDictionary()
        self._under_way: tuple[_Calls, Variant] | None = None

    def run(
        self,
        program: Program,
        args: Sequence[int],
        fp: int,
        *,
        entry: int = 0,
        observer: Observer | None = None,
        budget: int | None = None,
    ) -> int:
        """Run subprogram ``entry`` and return R0, unsigned 64-bit.

        ``args`` are R1 onward (up to five, unsigned; the others are 0, as are R0 and R6-R9 at the
        start), ``fp`` is R10. At most MAX_TAIL_CALL_CNT tail calls are made in all.
        Raises InterpreterFault; BudgetSpent when more than ``budget`` instructions ran (looked at where
        basic blocks join, so a little late); NotModelled for what engines are not given.
        """
        if len(args) > 5:
            raise ValueError(f"{len(args)} arguments, R1-R5 hold five")
        calls = _Calls(observer, budget or 0)
        return self._enter(program, entry, args, fp, calls, Variant(observer is not None, budget is not None))

    def call_back(self, program: Program, entry: int, args: Sequence[int], fp: int) -> int:
        """Run subprogram ``entry`` for a kernel function that the innermost run called: a part of that run,
        with its observer, budget and count of tail calls. Otherwise as :meth:`run`; RuntimeError outside
        of any run.
        """
        if self._under_way is None:
            raise RuntimeError("a callback outside of a program's run")
        return self._enter(program, entry, args, fp, *self._under_way)

    def _enter(
        self, program: Program, entry: int, args: Sequence[int], fp: int, calls: _Calls, variant: Variant
    ) -> int:
        names = self._bind(program, variant)
        padded = (*args, 0, 0, 0, 0, 0)[:5]
        outer, self._under_way = self._under_way, (calls, variant)
        try:
            result: int = names[f"f{entry}"](*padded, fp, calls)
        except MemoryFault as fault:
            found = _as_interpreter_fault(fault)
            if found is None:
                raise
            raise found from fault
        finally:
            self._under_way = outer
        return result

    def source(self, program: Program) -> str:
        """The Python that runs the program, for people."""
        return code_of(program).source

    def _bind(self, program: Program, variant: Variant) -> dict[str, Any]:
        """The program's functions with this interpreter's callbacks as their globals."""
        variants = self._bound.setdefault(program, {})
        if variant not in variants:
            code = code_of(program, variant)

            def enter(target: Program, ctx: int, fp: int, calls: _Calls) -> Any:
                return self._bind(target, variant)["f0"](ctx, 0, 0, 0, 0, fp, calls)

            # Weak, or the table would keep every program alive.
            names = {**self._names, "enter": enter, "program": ref(program), _SLOTS: code.slots}
            exec(code.compiled, names)
            variants[variant] = names
        return variants[variant]


_SLOTS: Final = "slot of each line"
"""The key in the globals of generated code that tells it from other code in a traceback."""


def _as_interpreter_fault(fault: MemoryFault) -> InterpreterFault | None:
    """The fault as that of the BPF instruction whose own access it is; None when it is no such.

    A fault inside a called kernel function is not one: the innermost generated line is then a call.
    """
    frame: FrameType | None = None
    line = 0
    traceback = fault.__traceback__
    while traceback is not None:
        if _SLOTS in traceback.tb_frame.f_globals:
            frame, line = traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    if frame is None:
        return None
    program: Program = frame.f_globals["program"]()
    slot: int = frame.f_globals[_SLOTS][line]
    row = row_for(program.insns[slot], internal=True)
    if row is None or row.effect not in (Effect.LOAD, Effect.STORE, Effect.ATOMIC):
        return None
    r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10 = (frame.f_locals[f"r{n}"] for n in range(11))
    # The processor takes the fault of a read-modify-write as a write, though it reads first.
    kind = "read" if row.dst is Use.WRITE else "write"
    return InterpreterFault(program, slot, fault.addr, kind, (r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10))


def _probe(load: Callable[[int], int], address: int) -> int:
    """A load that reads 0 where it faults, and at user addresses without trying (PROBE_MEM)."""
    if not _TASK_END < address < _VSYSCALL:
        return 0
    try:
        return load(address)
    except MemoryFault:
        return 0


def _absent(what: str) -> Callable[..., Any]:
    def refuse(*args: int) -> Any:
        raise NotModelled(f"{what} in an interpreter that was given no way to make them")

    return refuse
