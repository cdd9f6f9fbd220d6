# SPDX-License-Identifier: GPL-2.0-only
"""Programs as Python source: one function a subprogram, registers as local variables.

The shape of a function::

    def f0(r1, r2, r3, r4, r5, r10, calls):
        r0 = r6 = r7 = r8 = r9 = r11 = 0
        b = 0
        while True:
            if b == 0:
                while True:        # the tree of root 0
                    r0 = 0
                    b = 3
                    break
            if b == 3:
                while True:
                    r0 = (r0 + 1) & 0xFFFFFFFFFFFFFFFF
                    if r0 < 0xa:
                        continue   # back to the same root
                    return r0

``b`` is the slot where the next tree begins. Every path through a tree ends in ``continue`` (the same
tree again), ``break`` (another tree) or ``return``, so the code after an ``if`` needs no ``else``.
``calls`` is the state that the functions of one run share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import CodeType

from kernel_model.isa.opcodes import MAX_TAIL_CALL_CNT, TAIL_CALL
from kernel_model.isa.table import Effect

from .flow import Block, Flow, flow_of
from .meaning import M64, condition, machine_fp, statements
from .program import Program

_GROUP = 8
"""How many trees share one comparison that skips them all."""
_REGS = "(r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10)"


@dataclass(frozen=True)
class Variant:
    """What the code does beside running: tell an observer each instruction, count down a budget."""

    observed: bool = False
    counted: bool = False


@dataclass
class Code:
    """A program as Python: ``source``, its code object, and the slot that each source line is of."""

    source: str
    compiled: CodeType
    slots: dict[int, int]


@dataclass
class _Writer:
    program: Program
    variant: Variant
    lines: list[str] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)
    roots: tuple[int, ...] = ()

    def put(self, depth: int, line: str, slot: int | None = None) -> None:
        self.lines.append(" " * depth + line)
        if slot is not None:
            self.slots[len(self.lines)] = slot


def generate(program: Program, variant: Variant) -> Code:
    """Translate a program. Raises NotModelled and ValueError as flow.py and meaning.py say."""
    out = _Writer(program, variant)
    for number, subprog in enumerate(program.subprogs):
        _function(out, number, flow_of(program.insns, subprog.start, subprog.end))
    source = "\n".join(out.lines) + "\n"
    return Code(source, compile(source, f"<bpf {program.name or 'program'}>", "exec"), out.slots)


def _function(out: _Writer, number: int, flow: Flow) -> None:
    out.roots = flow.roots
    entry = out.program.subprogs[number].start
    out.put(0, f"def f{number}(r1, r2, r3, r4, r5, r10, calls):")
    out.put(1, "r0 = r6 = r7 = r8 = r9 = r11 = 0")
    if machine_fp(out.program, number) != "r10":
        # The machine's frame pointer stays on the kernel's stack, where calls go on.
        top = out.program.subprogs[number].private_stack_top
        out.put(1, f"{machine_fp(out.program, number)} = r10")
        out.put(1, f"r10 = ({top:#x} + this_cpu_off()) & {M64}")
    if flow.roots == (entry,):
        out.put(1, "while True:")
        _tree(out, flow, entry, entry, 2, 0)
        return
    out.put(1, f"b = {entry}")
    out.put(1, "while True:")
    groups = [flow.roots[i : i + _GROUP] for i in range(0, len(flow.roots), _GROUP)]
    for group in groups:
        depth = 2
        if len(groups) > 1:
            out.put(2, f"if {group[0]} <= b <= {group[-1]}:")
            depth = 3
        for root in group:
            out.put(depth, f"if b == {root}:")
            out.put(depth + 1, "while True:")
            _tree(out, flow, root, root, depth + 2, 0)


def _tree(out: _Writer, flow: Flow, slot: int, root: int, depth: int, steps: int) -> None:
    """The blocks from ``slot`` on, as far as no other root; ``steps`` instructions ran before it."""
    while True:
        block = flow.blocks[slot]
        steps += len(block.body)
        for index, row in block.body:
            if row.effect in (Effect.JUMP, Effect.BRANCH):
                _observe(out, depth, index)
            elif row.effect is Effect.EXIT:
                _observe(out, depth, index)
                _count(out, depth, index, steps)
                out.put(depth, "return r0", index)
            elif out.program.insns[index].code == TAIL_CALL:
                _tail_call(out, depth, index)
            else:
                for line in statements(out.program, row, index):
                    out.put(depth, line, index)
                _observe(out, depth, index)
        if block.taken is not None:
            last, row = block.body[-1]
            out.put(depth, f"if {condition(row, out.program.insns[last])}:", last)
            _go(out, flow, block, block.taken, root, depth + 1, steps)
        if block.next is None:
            return
        if block.next in out.roots:
            _leave(out, block, block.next, root, depth, steps)
            return
        slot = block.next


def _go(out: _Writer, flow: Flow, block: Block, slot: int, root: int, depth: int, steps: int) -> None:
    if slot in out.roots:
        _leave(out, block, slot, root, depth, steps)
    else:
        _tree(out, flow, slot, root, depth, steps)


def _leave(out: _Writer, block: Block, slot: int, root: int, depth: int, steps: int) -> None:
    last = block.body[-1][0]
    _count(out, depth, last, steps)
    if slot == root:
        out.put(depth, "continue", last)
    else:
        out.put(depth, f"b = {slot}", last)
        out.put(depth, "break", last)


def _observe(out: _Writer, depth: int, index: int) -> None:
    if out.variant.observed:
        out.put(depth, f"calls.observer(program(), {index}, {_REGS})", index)


def _count(out: _Writer, depth: int, index: int, steps: int) -> None:
    if out.variant.counted:
        out.put(depth, f"calls.spend({steps})", index)


def _tail_call(out: _Writer, depth: int, index: int) -> None:
    """bpf_tail_call(ctx, map, index): falls through when there is no program there or too many ran.

    The index is 32 bits. The next program's main function takes over this function's frame, and
    returns to its caller.
    """
    out.put(depth, f"if calls.tail_calls < {MAX_TAIL_CALL_CNT}:", index)
    out.put(depth + 1, "target = tail_call(r1, r2, r3 & 0xFFFFFFFF)", index)
    out.put(depth + 1, "if target is not None:", index)
    out.put(depth + 2, "calls.tail_calls += 1", index)
    _observe(out, depth + 2, index)
    fp = machine_fp(out.program, out.program.subprog_at(index))
    out.put(depth + 2, f"return enter(target, r1, {fp}, calls)", index)
    _observe(out, depth, index)
