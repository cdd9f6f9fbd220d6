# SPDX-License-Identifier: GPL-2.0-only
"""Seeded programs that the verifier accepts, over the whole instruction table, weighted to edge values.

The writer keeps what the verifier would ask for: which registers and stack slots hold a value. R6 is
the context, R7 the packet (or a scalar), R9 the middle of a map value (or a scalar), R0-R5 and R8 are
scalars. Every random choice comes from one generator that seed and number of the program determine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_MOV64_IMM, BPF_MOV64_REG
from kernel_model.isa.table import TABLE, Effect, InsnRow, Origin, Use

from .program import ARRAY, HASH, HASH_VALUE, PACKET, PROG_ARRAY, VALUE_SIZE, Kind, Program

IMMEDIATES: Final = (
    0, 1, -1, 2, -2, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, -127, -128, -129, 255, 256, 0x7FFF, 0x8000,
    0xFFFF, 0x10000, 0x7FFFFFFF, 0x7FFFFFFE, -0x80000000, -0x7FFFFFFF, 0x55555555, -0x55555556,
    0x0F0F0F0F, 0x12345678,
)  # fmt: skip
"""Values of 32-bit immediates: around signs, widths, and alternating bits."""
CONSTANTS: Final = (
    0, 1, 2**64 - 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**63 + 1,
    2**64 - 2**31, 2**64 - 2**32, 0x5555555555555555, 0xAAAAAAAAAAAAAAAA, 0x0123456789ABCDEF, 63, 64, 32,
)  # fmt: skip
"""Values of 64-bit constants."""
_DISPLACEMENTS: Final = (0, 0, 4, 8, 12, 120, 124, 127, 128, 132, 248, -4, -8, -120, -127, -128, -129, -136)

_UAPI: Final = tuple(row for row in TABLE if row.origin is Origin.UAPI)


def _rows(effect: Effect, *names: str) -> tuple[InsnRow, ...]:
    return tuple(row for row in _UAPI if row.effect is effect and row.name.startswith(names or ("",)))


_ALU = tuple(row for row in _rows(Effect.ALU) if not row.name.startswith("ADDR_SPACE_CAST"))
_BRANCHES = tuple(row for row in _rows(Effect.BRANCH) if row.name != "JMP_JCOND")
_LOADS, _STORES, _ATOMICS = _rows(Effect.LOAD), _rows(Effect.STORE), _rows(Effect.ATOMIC)
_PACKET_LOADS = _rows(Effect.PACKET)
NOT_GENERATED: Final = {
    "ADDR_SPACE_CAST_TO_KERN": "needs an arena, which is not modelled",
    "ADDR_SPACE_CAST_TO_USER": "needs an arena, which is not modelled",
    "LD_IMM_DW_BTF_ID": "needs a variable of a kernel module or of the kernel",
    "JMP_CALL_KFUNC": "needs kernel functions by BTF type",
}
"""Rows of the table that no program holds, and why."""

_PLAIN_HELPERS = (5, 7, 8, 42, 118, 125, 160)
"""Without arguments: clocks, random numbers, CPU and node."""
_LOOKUP, _UPDATE, _DELETE, _TAIL_CALL, _CSUM_DIFF, _LOOP = 1, 2, 3, 12, 28, 181
_LOAD_BYTES = {Kind.XDP: 189, Kind.TC: 26}
_CTX_LOADS = {Kind.XDP: (12, 16), Kind.TC: (0, 4, 8, 12, 16, 32, 40, 48, 64)}
_CTX_STORES = {Kind.XDP: (), Kind.TC: (8, 32, 48, 52, 64)}
_PACKET_FIELDS = {Kind.XDP: (0, 4), Kind.TC: (76, 80)}
_SCALARS = (0, 1, 2, 3, 4, 5, 8)
_CALLER_SAVED = frozenset(range(6))
_SLOTS = 6
_FILLERS = (
    (Insn(op.LD_IMM64, 0, 0, 0, 0x11223344), Insn(0, imm=0x55667788)),
    (Insn(op.BPF_ALU64 | op.BPF_ADD, 0, 0, 0, 0x11223344),),
    (Insn(op.BPF_ALU64 | op.BPF_ADD, 0, 0, 0, 1),),
    (Insn(op.BPF_ALU64 | op.BPF_XOR | op.BPF_X, 0, 0),),
    (Insn(op.BPF_ALU | op.BPF_XOR, 0, 0, 0, 5),),
)
"""What fills a branch to the border of the short jump: machine code of ten bytes down to three."""


@dataclass
class _State:
    """What holds a value: scalar registers, 8-byte stack slots (1 is the one right below R10)."""

    regs: set[int] = field(default_factory=set)
    slots: set[int] = field(default_factory=set)
    packet: bool = False
    value: bool = False

    def copy(self) -> _State:
        return _State(set(self.regs), set(self.slots), self.packet, self.value)

    def meet(self, other: _State) -> None:
        """Keep what both have."""
        self.packet &= other.packet
        self.regs &= other.regs
        self.slots &= other.slots


class _Writer:
    """Writes one function."""

    def __init__(self, rng: random.Random, kind: Kind, state: _State, main: bool) -> None:
        self.rng = rng
        self.kind = kind
        self.state = state
        self.main = main
        self.protected: set[int] = set()
        self.calls: list[tuple[int, int]] = []
        """Slots in this function's code that name a function, and its number of arguments (-1: callback)."""

    # Operands

    def imm(self) -> int:
        if self.rng.random() < 0.8:
            return self.rng.choice(IMMEDIATES)
        return self.rng.randrange(-(1 << 31), 1 << 31)

    def read(self) -> int:
        return self.rng.choice(sorted(self.state.regs))

    def write(self) -> int:
        free = [reg for reg in _SCALARS if reg not in self.protected]
        if not self.state.packet:
            free.append(7)
        if not self.state.value:
            free.append(9)
        return self.rng.choice(free)

    def update(self) -> int:
        choices = sorted(self.state.regs - self.protected)
        return self.rng.choice(choices) if choices else self.read()

    def constant(self, reg: int) -> list[Insn]:
        """Any value in ``reg``."""
        self.state.regs.add(reg)
        if self.rng.random() < 0.5:
            return [BPF_MOV64_IMM(reg, self.imm())]
        value = self.rng.choice(CONSTANTS) if self.rng.random() < 0.8 else self.rng.getrandbits(64)
        return load_imm64(reg, 0, value & 0xFFFFFFFF, value >> 32)

    def place(self, width: int, aligned: bool, packet: bool) -> tuple[int, int] | None:
        """Base register and displacement of ``width`` bytes that may be accessed."""
        bases = []
        if self.state.value:
            bases += [9, 9]
        if packet and self.state.packet:
            bases.append(7)
        if self.state.slots:
            bases.append(10)
        if not bases:
            return None
        base = self.rng.choice(bases)
        if base == 10:
            slot = self.rng.choice(sorted(self.state.slots))
            return 10, -8 * slot + self.rng.randrange(8 // width) * width
        if base == 9:
            off = self.rng.choice(_DISPLACEMENTS)
        else:
            off = self.rng.randrange(len(PACKET) - 8)
        if aligned or self.rng.random() < 0.6:
            off -= off % width
        return base, off

    # Instructions

    def alu(self) -> list[Insn]:
        row = self.rng.choice(_ALU)
        src = self.read() if row.src is Use.READ else 0
        dst = self.write() if row.dst is Use.WRITE else self.update()
        if dst in self.protected:
            return []
        imm = row.imm if isinstance(row.imm, int) else self.imm()
        kind = row.name.split("_")[1]
        if isinstance(row.imm, Use):
            if kind in ("LSH", "RSH", "ARSH"):
                imm = self.rng.choice((0, 1, 7, 8, 31, 32, 33, 63)) % row.bits
            elif kind in ("DIV", "MOD", "SDIV", "SMOD"):
                imm = imm or 3
        assert isinstance(row.off, int)
        self.state.regs.add(dst)
        return [Insn(row.code, dst, src, row.off, imm)]

    def load(self) -> list[Insn]:
        row = self.rng.choice(_LOADS)
        place = self.place(row.bits // 8, False, True)
        if place is None:
            return []
        dst = self.write()
        self.state.regs.add(dst)
        return [Insn(row.code, dst, place[0], place[1])]

    def store(self) -> list[Insn]:
        row = self.rng.choice(_STORES)
        # Writing an sk_buff's packet directly needs bpf_skb_pull_data(), which is not modelled.
        place = self.place(row.bits // 8, False, self.kind is Kind.XDP)
        if place is None:
            return self.new_slot()
        src = self.read() if row.src is Use.READ else 0
        imm = self.imm() if isinstance(row.imm, Use) else 0
        return [Insn(row.code, place[0], src, place[1], imm)]

    def new_slot(self) -> list[Insn]:
        slot = self.rng.randrange(1, _SLOTS + 1)
        self.state.slots.add(slot)
        if self.state.regs and self.rng.random() < 0.5:
            return [Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, self.read(), -8 * slot)]
        return [Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -8 * slot, self.imm())]

    def atomic(self) -> list[Insn]:
        row = self.rng.choice(_ATOMICS)
        place = self.place(row.bits // 8, True, False)
        if place is None:
            return []
        base, off = place
        assert isinstance(row.imm, int)
        if row.dst is Use.WRITE:
            dst = self.write()
            self.state.regs.add(dst)
            return [Insn(row.code, dst, base, off, row.imm)]
        if row.imm == op.BPF_CMPXCHG and 0 not in self.state.regs:
            return []
        src = self.update() if row.src is Use.UPDATE else self.read()
        if row.src is Use.UPDATE and src in self.protected:
            return []
        return [Insn(row.code, base, src, off, row.imm)]

    def indexed(self) -> list[Insn]:
        """An access at a masked, unknown index: the verifier knows its bounds only."""
        if not self.state.value or len(self.state.regs - self.protected) < 2:
            return []
        index = self.update()
        target = self.rng.choice([reg for reg in _SCALARS if reg != index and reg not in self.protected])
        if index in self.protected or index == 9:
            return []
        self.state.regs.add(target)
        code = self.rng.choice((op.BPF_LDX | op.BPF_MEM | op.BPF_DW, op.BPF_LDX | op.BPF_MEMSX | op.BPF_B))
        return [
            Insn(op.BPF_ALU64 | op.BPF_AND, index, 0, 0, 0x78),
            BPF_MOV64_REG(target, 9),
            Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, target, index),
            Insn(code, target, target, self.rng.choice((0, 8, -128, 120))),
        ]

    def spill(self) -> list[Insn]:
        """A pointer to the stack and back."""
        bases = [reg for reg, there in ((6, self.main), (9, self.state.value)) if there]
        if not bases:
            return []
        base, slot = self.rng.choice(bases), self.rng.randrange(1, _SLOTS + 1)
        self.state.slots.discard(slot)
        return [
            Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, base, -8 * slot),
            Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, base, 10, -8 * slot),
        ]

    def context(self) -> list[Insn]:
        if not self.main:
            return []
        stores = _CTX_STORES[self.kind]
        if stores and self.rng.random() < 0.4:
            code = op.BPF_STX | op.BPF_MEM | op.BPF_W
            return [Insn(code, 6, self.read(), self.rng.choice(stores))]
        dst = self.write()
        self.state.regs.add(dst)
        return [Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, dst, 6, self.rng.choice(_CTX_LOADS[self.kind]))]

    def packet_load(self) -> list[Insn]:
        """LD_ABS and LD_IND; what lies outside the packet ends the program."""
        if not self.main or self.kind is not Kind.TC:
            return []
        row = self.rng.choice(_PACKET_LOADS)
        src = self.read() if row.src is Use.READ else 0
        out: list[Insn] = []
        if row.src is Use.READ:
            src = self.rng.choice(sorted(self.state.regs - self.protected) or [0])
            if src in self.protected or not self.state.regs - self.protected:
                return []
            # Without the mask hardly any index would lie in the packet.
            out.append(Insn(op.BPF_ALU | op.BPF_AND, src, 0, 0, 0x1F))
        imm = self.rng.choice((0, 1, 12, 14, 30, 31)) if self.rng.random() < 0.9 else self.rng.choice(
            (len(PACKET) - 1, len(PACKET), -1, -0x200000 + 4, -0x100000 + 2)
        )  # fmt: skip
        self.after_call()
        return [*out, Insn(row.code, 0, src, 0, imm)]

    # Calls

    def after_call(self) -> None:
        self.state.regs -= _CALLER_SAVED
        self.state.regs.add(0)

    def plain_helper(self) -> list[Insn]:
        number = self.rng.choice(_PLAIN_HELPERS)
        self.after_call()
        return [Insn(op.CALL, imm=number)]

    def stack_pointer(self, reg: int, slot: int) -> list[Insn]:
        return [BPF_MOV64_REG(reg, 10), Insn(op.BPF_ALU64 | op.BPF_ADD, reg, 0, 0, -8 * slot)]

    def key(self, slot: int) -> list[Insn]:
        self.state.slots.add(slot)
        key = self.rng.choice((0, 0, 1, 2, -1))
        return [Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -8 * slot, key)]

    def map_reference(self, reg: int, index: int) -> list[Insn]:
        pseudo = op.BPF_PSEUDO_MAP_FD if self.rng.random() < 0.7 else op.BPF_PSEUDO_MAP_IDX
        return load_imm64(reg, pseudo, index)

    def lookup(self) -> list[Insn]:
        slot = self.rng.randrange(1, _SLOTS + 1)
        index = self.rng.choice((ARRAY, HASH, HASH))
        out = [*self.key(slot), *self.map_reference(1, index), *self.stack_pointer(2, slot)]
        out.append(Insn(op.CALL, imm=_LOOKUP))
        self.after_call()
        self.state.regs.discard(0)
        row = self.rng.choice(_LOADS)
        dst = self.rng.choice([reg for reg in (1, 2, 3, 4, 5, 8) if reg not in self.protected])
        use = [Insn(row.code, dst, 0, self.rng.choice((0, 8)))]
        if self.rng.random() < 0.4:
            use.append(Insn(op.BPF_STX | op.BPF_MEM | op.BPF_W, 0, dst, 4))
        if dst != 8:
            use.append(BPF_MOV64_REG(0, dst))
        else:
            use.append(BPF_MOV64_IMM(0, self.imm()))
        null = Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, len(use), 0)
        # At the null branch R0 is the scalar 0, and after the other one a scalar too.
        self.state.regs.add(0)
        return [*out, null, *use]

    def change_map(self) -> list[Insn]:
        slot = self.rng.randrange(1, _SLOTS)
        out = self.key(slot)
        delete = self.rng.random() < 0.3
        if not delete:
            for value in (slot, slot + 1):
                if value not in self.state.slots:
                    self.state.slots.add(value)
                    out.append(Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -8 * value, self.imm()))
            assert HASH_VALUE == 16
            out += [*self.stack_pointer(3, slot + 1), BPF_MOV64_IMM(4, self.rng.choice((0, 0, 1, 2)))]
        out += [*self.map_reference(1, HASH), *self.stack_pointer(2, slot)]
        self.after_call()
        return [*out, Insn(op.CALL, imm=_DELETE if delete else _UPDATE)]

    def checksum(self) -> list[Insn]:
        if not self.state.slots or not self.state.regs:
            return []
        slot = self.rng.choice(sorted(self.state.slots))
        seed = self.read()
        out = [
            BPF_MOV64_REG(5, seed),
            *self.stack_pointer(3, slot),
            BPF_MOV64_IMM(4, self.rng.choice((4, 8))),
        ]
        if self.state.value and self.rng.random() < 0.5:
            out += [BPF_MOV64_REG(1, 9), BPF_MOV64_IMM(2, 16)]
        else:
            out += [BPF_MOV64_IMM(1, 0), BPF_MOV64_IMM(2, 0)]
        self.after_call()
        return [*out, Insn(op.CALL, imm=_CSUM_DIFF)]

    def load_bytes(self) -> list[Insn]:
        if not self.main:
            return []
        slot = self.rng.randrange(1, _SLOTS + 1)
        out = self.new_slot() if slot not in self.state.slots else []
        self.state.slots.add(slot)
        off = self.rng.choice((0, 12, len(PACKET) - 8, len(PACKET) - 7))
        out += [Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -8 * slot, 0)]
        out += [BPF_MOV64_REG(1, 6), BPF_MOV64_IMM(2, off), *self.stack_pointer(3, slot), BPF_MOV64_IMM(4, 8)]
        self.after_call()
        return [*out, Insn(op.CALL, imm=_LOAD_BYTES[self.kind])]

    def tail_call(self) -> list[Insn]:
        if not self.main:
            return []
        out = [BPF_MOV64_REG(1, 6), *self.map_reference(2, PROG_ARRAY[self.kind])]
        if 8 in self.state.regs and self.rng.random() < 0.4:
            out += [BPF_MOV64_REG(3, 8), Insn(op.BPF_ALU64 | op.BPF_AND, 3, 0, 0, 7)]
        else:
            out.append(BPF_MOV64_IMM(3, self.rng.choice((0, 1, 2, 2, 2, 3, 4, 5, -1))))
        self.after_call()
        # The program called may move the packet; should the call fall through, pointers to it are stale.
        self.state.packet = False
        return [*out, Insn(op.CALL, imm=_TAIL_CALL), *self.constant(0)]

    def function_call(self) -> list[Insn]:
        arguments = 0
        while arguments < 5 and arguments + 1 in self.state.regs:
            arguments += 1
        self.calls.append((-1, arguments))
        self.after_call()
        return [_mark(len(self.calls) - 1)]

    def loop_call(self) -> list[Insn]:
        """bpf_loop() with a callback."""
        self.calls.append((-1, -1))
        count = BPF_MOV64_IMM(1, self.rng.choice((0, 1, 3)))
        mark = _mark(len(self.calls) - 1)
        rest = [BPF_MOV64_IMM(3, 0), BPF_MOV64_IMM(4, 0), Insn(op.CALL, imm=_LOOP)]
        self.after_call()
        return [count, mark, Insn(0), *rest]

    # Control flow

    def branch_over(self, code: list[Insn]) -> Insn:
        if self.rng.random() < 0.01:
            return Insn(op.BPF_JMP | op.BPF_JCOND, 0, op.BPF_MAY_GOTO, len(code))
        row = self.rng.choice(_BRANCHES)
        src = self.read() if row.src is Use.READ else 0
        imm = self.imm() if isinstance(row.imm, Use) else 0
        return Insn(row.code, self.read(), src, len(code), imm)

    def branch(self, depth: int) -> list[Insn]:
        # The condition reads registers as they are before the branch.
        before = self.state.copy()
        then = self.block(self.rng.randrange(1, 5), depth + 1)
        after_then, self.state = self.state, before.copy()
        if self.rng.random() < 0.4:
            other = self.block(self.rng.randrange(1, 4), depth + 1)
            long = self.rng.random() < 0.3
            over = (
                Insn(op.BPF_JMP32 | op.BPF_JA, imm=len(other))
                if long
                else Insn(op.BPF_JMP | op.BPF_JA, off=len(other))
            )
            then = [*then, over]
        else:
            other = []
        after_other, self.state = self.state, before
        condition = self.branch_over(then)
        self.state = after_then
        self.state.meet(after_other)
        return [condition, *then, *other]

    def border(self) -> list[Insn]:
        """A branch whose machine code spans about 127 bytes, where short jumps end."""
        self.state.regs.add(0)
        sizes = {0: 10, 1: 7, 2: 4, 3: 3, 4: 3}
        room = self.rng.choice((120, 124, 126, 127, 128, 129, 132))
        then: list[Insn] = []
        while room > 0:
            fits = [number for number, size in sizes.items() if size <= room]
            number = 0 if 0 in fits and self.rng.random() < 0.8 else self.rng.choice(fits or [3])
            room -= sizes[number]
            then += _FILLERS[number]
        return [BPF_MOV64_IMM(0, self.imm()), self.branch_over(then), *then]

    def loop(self) -> list[Insn]:
        if 8 in self.protected:
            return []
        self.protected.add(8)
        self.state.regs.add(8)
        body = []
        for _ in range(self.rng.randrange(1, 4)):
            body += self.rng.choice((self.alu, self.load, self.store, self.atomic))()
        back = -len(body) - 2
        self.protected.discard(8)
        row = self.rng.choice(
            [row for row in _BRANCHES if row.name in ("JMP_JLT_K", "JMP32_JLT_K", "JMP_JNE_K")]
        )
        return [
            BPF_MOV64_IMM(8, 0),
            *body,
            Insn(op.BPF_ALU64 | op.BPF_ADD, 8, 0, 0, 1),
            Insn(row.code, 8, 0, back, self.rng.randrange(2, 5)),
        ]

    def block(self, count: int, depth: int) -> list[Insn]:
        out: list[Insn] = []
        for _ in range(count):
            if not self.state.regs:
                out += self.constant(self.rng.choice(_SCALARS[:6]))
            pick = self.rng.random()
            if depth < 2 and pick < 0.12:
                out += self.branch(depth)
            elif depth == 0 and pick < 0.13:
                out += self.border()
            elif depth == 0 and pick < 0.15:
                out += self.loop()
            else:
                choices, weights = _ITEMS
                out += self.rng.choices(choices, weights)[0](self)
        return out

    def start(self) -> list[Insn]:
        """Pointers, a few scalars and stack slots."""
        out: list[Insn] = []
        if self.main:
            out.append(BPF_MOV64_REG(6, 1))
            if self.rng.random() < 0.25:
                data, end = _PACKET_FIELDS[self.kind]
                out += [
                    Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 7, 6, data),
                    Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 1, 6, end),
                    BPF_MOV64_REG(0, 7),
                    Insn(op.BPF_ALU64 | op.BPF_ADD, 0, 0, 0, len(PACKET)),
                    Insn(op.BPF_JMP | op.BPF_JLE | op.BPF_X, 0, 1, 2),
                    BPF_MOV64_IMM(0, 0),
                    BPF_EXIT_INSN(),
                ]
                self.state.packet = True
        if self.rng.random() < 0.7:
            pseudo = op.BPF_PSEUDO_MAP_VALUE if self.rng.random() < 0.7 else op.BPF_PSEUDO_MAP_IDX_VALUE
            out += load_imm64(9, pseudo, ARRAY, VALUE_SIZE // 2)
            self.state.value = True
        for reg in self.rng.sample(_SCALARS, 2):
            out += self.constant(reg)
        if self.rng.random() < 0.6 or not self.state.value:
            out += self.new_slot()
        return out

    def end(self) -> list[Insn]:
        """R0 from what is there, and the function's exit."""
        regs = sorted(self.state.regs)
        out: list[Insn] = []
        if 0 not in regs:
            out.append(BPF_MOV64_REG(0, regs[0]) if regs else BPF_MOV64_IMM(0, 0))
        for reg in self.rng.sample(regs, min(len(regs), 2)):
            if reg and self.state.value and self.rng.random() < 0.5:
                out.append(Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 9, reg, 8 * reg))
            elif reg:
                out += [
                    Insn(op.BPF_ALU64 | op.BPF_MUL, 0, 0, 0, 31),
                    Insn(op.BPF_ALU64 | op.BPF_ADD | op.BPF_X, 0, reg),
                ]
        return [*out, BPF_EXIT_INSN()]


_Item = Callable[[_Writer], list[Insn]]
_WEIGHTED: Final[dict[_Item, float]] = {
    _Writer.alu: 46,
    _Writer.load: 9,
    _Writer.store: 9,
    _Writer.atomic: 9,
    _Writer.indexed: 2,
    _Writer.spill: 1,
    _Writer.context: 3,
    _Writer.packet_load: 2,
    _Writer.plain_helper: 3.5,
    _Writer.lookup: 1.2,
    _Writer.change_map: 0.8,
    _Writer.checksum: 0.8,
    _Writer.load_bytes: 0.6,
    _Writer.tail_call: 0.5,
    _Writer.function_call: 1.2,
    _Writer.loop_call: 0.25,
}
_ITEMS: Final = (list(_WEIGHTED), list(_WEIGHTED.values()))


def load_imm64(reg: int, pseudo: int, low: int, high: int = 0) -> list[Insn]:
    """The two slots of a 64-bit constant; ``low`` and ``high`` are its halves, of either sign."""
    return [Insn(op.LD_IMM64, reg, pseudo, 0, _signed(low)), Insn(0, imm=_signed(high))]


def _signed(value: int) -> int:
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


_MARK_CODE: Final = 0xFF


def _mark(number: int) -> Insn:
    """A place for a call or a function's address, written when it is known where functions lie."""
    return Insn(_MARK_CODE, imm=number)


def generate(seed: int, number: int) -> Program:
    """Program ``number`` of a campaign; the same for the same two numbers."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice((Kind.XDP, Kind.TC))
    main = _Writer(rng, kind, _State(), main=True)
    code = [*main.start(), *main.block(rng.randrange(4, 15), 0), *main.end()]
    pieces = [(main, code)]
    for _, arguments in main.calls:
        state = _State({1} if arguments < 0 else set(range(1, arguments + 1)))
        writer = _Writer(rng, kind, state, main=False)
        pieces.append((writer, _callback(writer) if arguments < 0 else _function(writer)))
    return Program(kind, tuple(_link(pieces)))


def _function(writer: _Writer) -> list[Insn]:
    out = [] if len(writer.state.regs) >= 2 else writer.constant(0)
    out += writer.new_slot() if writer.rng.random() < 0.5 else []
    for _ in range(writer.rng.randrange(1, 6)):
        out += writer.rng.choice((writer.alu, writer.alu, writer.load, writer.store, writer.plain_helper))()
    return [*out, *writer.end()]


def _callback(writer: _Writer) -> list[Insn]:
    """A function that bpf_loop() calls: it returns 0 (go on) or 1 (stop)."""
    writer.state.value = True
    out = load_imm64(9, op.BPF_PSEUDO_MAP_VALUE, ARRAY, VALUE_SIZE // 2)
    # R6 to R9 are the caller's, whose callee saves them.
    for _ in range(writer.rng.randrange(1, 4)):
        out += writer.rng.choice((writer.alu, writer.load, writer.atomic))()
    if writer.state.regs:
        out.append(Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 9, writer.read(), 64))
    return [*out, BPF_MOV64_IMM(0, writer.rng.randrange(2)), BPF_EXIT_INSN()]


def _link(pieces: list[tuple[_Writer, list[Insn]]]) -> list[Insn]:
    """One function behind the other, the marks replaced by calls and addresses."""
    whole = [insn for _, code in pieces for insn in code]
    starts, at = [], 0
    for _, code in pieces:
        starts.append(at)
        at += len(code)
    for slot, insn in enumerate(whole):
        if insn.code == _MARK_CODE:
            arguments = pieces[0][0].calls[insn.imm][1]
            distance = starts[insn.imm + 1] - slot - 1
            if arguments < 0:
                whole[slot] = Insn(op.LD_IMM64, 2, op.BPF_PSEUDO_FUNC, 0, distance)
            else:
                whole[slot] = Insn(op.CALL, 0, op.BPF_PSEUDO_CALL, 0, distance)
    return whole
