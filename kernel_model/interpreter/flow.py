# SPDX-License-Identifier: GPL-2.0-only
"""The control flow of one subprogram, cut into trees of basic blocks for the code generator.

A tree's root is a block that several places lead to; the blocks that only one place leads to hang
under that place. Inside a tree, code needs no dispatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kernel_model.errors import NotModelled
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import BPF_JCOND, BPF_JMP, LD_IMM64
from kernel_model.isa.table import Effect, InsnRow, Use, row_for

MAX_NESTING = 40
"""How deep trees may nest; Python refuses code that is indented more than 100 levels."""


@dataclass(frozen=True)
class Block:
    """Slots that run one after the other. ``body`` ends with a jump, branch or exit, if there is one.

    ``next`` is the slot that follows (a jump's target, a branch's fall-through), None after an exit;
    ``taken`` is a branch's target.
    """

    start: int
    body: tuple[tuple[int, InsnRow], ...]
    next: int | None
    taken: int | None = None


@dataclass(frozen=True)
class Flow:
    """The blocks of a subprogram by their first slot, and which of them are roots, in slot order."""

    blocks: dict[int, Block]
    roots: tuple[int, ...]


def flow_of(insns: Sequence[Insn], start: int, end: int) -> Flow:
    """Cut the subprogram at slots ``[start, end)``.

    Raises NotModelled for an instruction that does not exist or that the fix-ups should have replaced,
    ValueError for a jump that leaves the subprogram: the verifier lets neither through.
    """
    rows = _rows(insns, start, end)
    order = list(rows)
    after = dict(zip(order, [*order[1:], end], strict=True))
    leaders = {start}
    for slot, row in rows.items():
        if row.effect in (Effect.JUMP, Effect.BRANCH):
            leaders.add(_target(insns[slot], row, slot))
        if row.effect in (Effect.JUMP, Effect.BRANCH, Effect.EXIT):
            leaders.add(after[slot])
    leaders.discard(end)
    if not leaders <= rows.keys():
        raise ValueError(
            f"a jump leaves the subprogram or enters a constant: {sorted(leaders - rows.keys())}"
        )
    blocks = {}
    for leader in sorted(leaders):
        blocks[leader] = _block(insns, rows, after, leaders, leader)
    reached = _reachable(blocks, start)
    blocks = {slot: block for slot, block in blocks.items() if slot in reached}
    if any(block.next == end for block in blocks.values()):
        raise ValueError("the subprogram runs off its end")
    return Flow(blocks, _roots(blocks, start))


def _rows(insns: Sequence[Insn], start: int, end: int) -> dict[int, InsnRow]:
    rows = {}
    slot = start
    while slot < end:
        insn = insns[slot]
        row = row_for(insn, internal=True)
        if row is None:
            raise NotModelled(f"instruction at slot {slot}: {insn}")
        if insn.code == BPF_JMP | BPF_JCOND:
            raise NotModelled("may_goto in an engine: the verifier's fix-ups replace it")
        rows[slot] = row
        slot += 2 if insn.code == LD_IMM64 else 1
    return rows


def _target(insn: Insn, row: InsnRow, slot: int) -> int:
    return slot + 1 + (insn.off if row.off is Use.JUMP else insn.imm)


def _block(
    insns: Sequence[Insn], rows: dict[int, InsnRow], after: dict[int, int], leaders: set[int], slot: int
) -> Block:
    body = []
    first = slot
    while True:
        row = rows[slot]
        body.append((slot, row))
        if row.effect is Effect.EXIT:
            return Block(first, tuple(body), None)
        if row.effect is Effect.JUMP:
            return Block(first, tuple(body), _target(insns[slot], row, slot))
        if row.effect is Effect.BRANCH:
            return Block(first, tuple(body), after[slot], _target(insns[slot], row, slot))
        slot = after[slot]
        if slot in leaders or slot not in rows:
            return Block(first, tuple(body), slot)


def _successors(block: Block) -> list[int]:
    return [slot for slot in (block.taken, block.next) if slot is not None]


def _reachable(blocks: dict[int, Block], start: int) -> set[int]:
    reached = {start}
    queue = [start]
    while queue:
        for slot in _successors(blocks[queue.pop()]):
            if slot in blocks and slot not in reached:
                reached.add(slot)
                queue.append(slot)
    return reached


def _roots(blocks: dict[int, Block], start: int) -> tuple[int, ...]:
    entries = Counter(slot for block in blocks.values() for slot in _successors(block))
    entries[start] += 2
    roots = {slot for slot, count in entries.items() if count > 1}
    # Taken branches nest; cut where that grows too deep.
    todo = [(slot, 0) for slot in roots]
    while todo:
        slot, depth = todo.pop()
        block = blocks[slot]
        for successor, nesting in ((block.taken, depth + 1), (block.next, depth)):
            if successor is None or successor in roots:
                continue
            if nesting > MAX_NESTING:
                roots.add(successor)
                nesting = 0
            todo.append((successor, nesting))
    return tuple(sorted(roots))
