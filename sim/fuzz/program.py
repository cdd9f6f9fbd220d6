# SPDX-License-Identifier: GPL-2.0-only
"""What a fuzzed program is, and the fixed surroundings (maps, packet) that all of them run in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.table import row_for
from kernel_model.uapi.enums import bpf_map_type, bpf_prog_type


class Kind(Enum):
    """The program types that are fuzzed: they differ in context and in how packets are read."""

    XDP = bpf_prog_type.BPF_PROG_TYPE_XDP
    TC = bpf_prog_type.BPF_PROG_TYPE_SCHED_CLS


@dataclass(frozen=True)
class MapSpec:
    """A map of the surroundings, and the entries it begins with."""

    name: str
    type: bpf_map_type
    key_size: int
    value_size: int
    max_entries: int
    entries: tuple[tuple[bytes, bytes], ...] = ()


ARRAY, HASH, PROGS_XDP, PROGS_TC = range(4)
"""Indices into MAPS, which map references of a Program's instructions hold instead of descriptors."""
VALUE_SIZE = 512
"""Bytes of the array's value."""
HASH_VALUE = 16
_PATTERN = bytes((index * 37 + 11) & 0xFF for index in range(VALUE_SIZE))

MAPS = (
    MapSpec("array", bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, VALUE_SIZE, 1, ((bytes(4), _PATTERN),)),
    MapSpec(
        "hash",
        bpf_map_type.BPF_MAP_TYPE_HASH,
        4,
        HASH_VALUE,
        8,
        tuple((key.to_bytes(4, "little"), bytes([key & 0xFF] * HASH_VALUE)) for key in (0, 1, 0xFFFF_FFFF)),
    ),
    MapSpec("progs_xdp", bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4),
    MapSpec("progs_tc", bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4),
)
PROG_ARRAY = {Kind.XDP: PROGS_XDP, Kind.TC: PROGS_TC}
DATA_MAPS = (ARRAY, HASH)
"""The maps whose contents are compared."""

PACKET = bytes.fromhex("020000000001020000000002080045000032") + bytes(
    (index * 73 + 5) & 0xFF for index in range(46)
)
"""The frame: an Ethernet header, the beginning of an IPv4 header, a pattern."""

_MAP_REFERENCES = (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_VALUE)
_CLOCKS_AND_CHANCE = frozenset((5, 7, 8, 42, 118, 125, 160, 208))
"""Helpers whose results another kernel need not repeat: clocks, random numbers, the CPU."""


@dataclass(frozen=True)
class Program:
    """Instructions as user space would load them.

    LD_IMM64 with a map pseudo source holds an index into MAPS; it is replaced by the descriptor
    (:meth:`relocated`) or, for the forms that name an index, read as one into the array of all descriptors.
    """

    kind: Kind
    insns: tuple[Insn, ...]

    def relocated(self, fds: Sequence[int]) -> list[Insn]:
        """The instructions with descriptors for the indices of maps."""
        out = list(self.insns)
        for slot, insn in enumerate(out):
            if insn.code == op.LD_IMM64 and insn.src in _MAP_REFERENCES:
                if not 0 <= insn.imm < len(fds):
                    raise ValueError(f"slot {slot}: there is no map {insn.imm}")
                out[slot] = insn._replace(imm=fds[insn.imm])
        return out

    @property
    def count(self) -> int:
        """Instructions, each LD_IMM64 as one."""
        return sum(1 for insn in self.insns if insn.code)

    @property
    def repeatable(self) -> bool:
        """Whether its results depend on nothing but its surroundings (no clock, no random number)."""
        calls = (insn.imm for insn in self.insns if insn.code == op.CALL and insn.src == 0)
        return not any(number in _CLOCKS_AND_CHANCE for number in calls)

    @property
    def uses_surroundings(self) -> bool:
        """Whether it looks at its context, the maps or kernel functions: a bare engine has none."""
        marks = (*_MAP_REFERENCES, op.BPF_PSEUDO_MAP_IDX, op.BPF_PSEUDO_MAP_IDX_VALUE, op.BPF_PSEUDO_FUNC)
        for insn in self.insns:
            if insn.code == op.LD_IMM64 and insn.src in marks:
                return True
            if insn.code == op.CALL and insn.src == 0:
                return True
            reads = insn.code & 7 in (op.BPF_LD, op.BPF_LDX) and insn.code not in (op.LD_IMM64, 0)
            if reads and insn.src != op.BPF_REG_FP:
                return True
        return any(insn.code == op.BPF_ALU64 | op.BPF_MOV | op.BPF_X and insn.src == 1 for insn in self.insns)

    def functions(self) -> tuple[int, ...]:
        """The first slots of its functions: slot 0 and where calls and function addresses point."""
        starts = {0}
        for slot, insn in enumerate(self.insns):
            if (insn.code, insn.src) in ((op.CALL, op.BPF_PSEUDO_CALL), (op.LD_IMM64, op.BPF_PSEUDO_FUNC)):
                starts.add(slot + 1 + insn.imm)
        return tuple(sorted(starts))

    def names_map(self, index: int) -> bool:
        """Whether it takes the address of that map."""
        pseudo = (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_IDX)
        return any(
            insn.code == op.LD_IMM64 and insn.src in pseudo and insn.imm == index for insn in self.insns
        )

    @property
    def has_callback(self) -> bool:
        """Whether it takes a function's address, which the kernel allows with function info only."""
        return any(insn.code == op.LD_IMM64 and insn.src == op.BPF_PSEUDO_FUNC for insn in self.insns)

    def rows(self) -> list[str]:
        """The names of the instruction table's rows that it uses, with repetitions."""
        found = (row_for(insn) for insn in self.insns if insn.code)
        return [row.name for row in found if row is not None]
