# SPDX-License-Identifier: GPL-2.0-only
"""Instructions made from the rows of the table, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import LD_IMM64
from kernel_model.isa.table import InsnRow, Use

S16 = st.integers(-(1 << 15), (1 << 15) - 1)
S32 = st.integers(-(1 << 31), (1 << 31) - 1)
_FREE = {"dst": st.integers(0, 11), "src": st.integers(0, 11), "off": S16, "imm": S32}


def slots_of(row: InsnRow) -> st.SearchStrategy[list[Insn]]:
    """Any instruction of a row: one slot, or two for LD_IMM64. Fields nobody looks at are 0."""
    fields = {}
    for name, free in _FREE.items():
        use = getattr(row, name)
        if isinstance(use, Use):
            fields[name] = st.just(0) if use is Use.IGNORED else free
        else:
            fields[name] = st.just(use)
    first = st.builds(Insn, st.just(row.code), **fields)
    if row.code != LD_IMM64:
        return first.map(lambda insn: [insn])
    # A function's distance has no upper half.
    high = st.just(0) if row.name.endswith("_FUNC") else S32
    return st.tuples(first, high).map(lambda pair: [pair[0], Insn(0, imm=pair[1])])


def example_of(row: InsnRow, dst: int = 1, src: int = 2, off: int = 4, imm: int = 7) -> list[Insn]:
    """One instruction of a row, its free fields as given."""
    free = {"dst": dst, "src": src, "off": off, "imm": imm}
    values = {}
    for name, value in free.items():
        use = getattr(row, name)
        values[name] = (0 if use is Use.IGNORED else value) if isinstance(use, Use) else use
    insn = Insn(row.code, **values)
    return [insn, Insn(0)] if row.code == LD_IMM64 else [insn]
