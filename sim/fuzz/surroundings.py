# SPDX-License-Identifier: GPL-2.0-only
"""What random programs refer to (maps, types, tail-call targets), made by system calls in any kernel."""

from __future__ import annotations

import struct
from typing import Any

from kernel_model.btf.build import BtfBuilder
from kernel_model.btf.parse import Kind as BtfKind
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_EXIT_INSN, BPF_MOV64_IMM
from sim.userspace.bpf import Bpf, Process

from .generator import load_imm64
from .program import ARRAY, MAPS, PROG_ARRAY, Kind, Program

MAX_FUNCTIONS = 16
"""As many functions a program with callbacks may have (the BTF that is loaded has so many)."""


class Surroundings:
    """The maps of sim.fuzz.program in the kernel of ``process``; ``fds`` are theirs, in that order."""

    def __init__(self, process: Process) -> None:
        self.bpf = Bpf(process)
        self.fds = [
            self.bpf.map_create(spec.type, spec.key_size, spec.value_size, spec.max_entries, name=spec.name)
            for spec in MAPS
        ]
        self._fd_array = process.alloc(4096)
        process.write(self._fd_array, struct.pack(f"<{len(self.fds)}I", *self.fds))
        self._btf = self.bpf.btf_load(functions_btf(MAX_FUNCTIONS))

    def add_tail_targets(self) -> None:
        """Fill the program arrays."""
        for kind in Kind:
            array = self.fds[PROG_ARRAY[kind]]
            for slot, program in tail_targets(kind).items():
                fd, _ = self.bpf.prog_load(kind.value, program.relocated(self.fds), name=f"tail{slot}")
                self.bpf.map_update(array, slot.to_bytes(4, "little"), struct.pack("<I", fd))
                self.bpf.close(fd)

    def load(self, program: Program) -> int:
        """BPF_PROG_LOAD: the fd. VerifierError as the kernel answers, ValueError and struct.error for a
        program that cannot be encoded."""
        fields: dict[str, Any] = {}
        func_info = b""
        if program.has_callback:
            starts = program.functions()
            func_info = b"".join(struct.pack("<II", at, FIRST_FUNCTION + n) for n, at in enumerate(starts))
            fields = {"prog_btf_fd": self._btf, "func_info_rec_size": 8, "func_info_cnt": len(starts)}
        insns = program.relocated(self.fds)
        return self.bpf.prog_load(
            program.kind.value, insns, name="fuzz", func_info=func_info, fd_array=self._fd_array, **fields
        )[0]

    def close(self) -> None:
        """Let go of everything (programs and maps go with their last descriptor)."""
        # A program array and its programs hold each other until user space lets the array go.
        for fd in (*self.fds, self._btf):
            self.bpf.close(fd)


def tail_targets(kind: Kind) -> dict[int, Program]:
    """What the slots of a program array hold: slot 0 changes the map value and returns, slot 1 calls itself
    until the limit; the others are empty.
    """
    # R1 is the context still when the tail call is made.
    count = [
        *load_imm64(9, op.BPF_PSEUDO_MAP_VALUE, ARRAY),
        BPF_MOV64_IMM(2, 1),
        Insn(op.BPF_STX | op.BPF_ATOMIC | op.BPF_DW, 9, 2, 0, 0),
    ]
    again = [
        *load_imm64(2, op.BPF_PSEUDO_MAP_FD, PROG_ARRAY[kind]),
        BPF_MOV64_IMM(3, 1),
        Insn(op.CALL, imm=12),
    ]
    return {
        0: Program(kind, (*count, BPF_MOV64_IMM(0, 0x7A11), BPF_EXIT_INSN())),
        1: Program(kind, (*count, *again, BPF_MOV64_IMM(0, 33), BPF_EXIT_INSN())),
    }


FIRST_FUNCTION = 4
"""The BTF type number of the first function in functions_btf()."""


def functions_btf(count: int) -> bytes:
    """BTF of ``count`` static functions ``int fN(long a0, long a1)``, numbered from FIRST_FUNCTION on."""
    types = BtfBuilder()
    number, wide = types.add_int("int", 4, 1), types.add_int("long", 8, 1)
    proto = types.add_proto(number, [("a0", wide), ("a1", wide)])
    for each in range(count):
        types.add(BtfKind.FUNC, f"f{each}", proto)
    return types.bytes()
