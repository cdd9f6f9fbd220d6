# SPDX-License-Identifier: GPL-2.0-only
"""A program as the interpreter takes it: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kernel_model.isa.insn import Insn
from kernel_model.isa.native import NativeRequest, Subprog


@dataclass(frozen=True, eq=False)
class Program:
    """A verified program after fix-ups and second relocation, as :class:`NativeRequest` describes it.

    ``frame_bytes[n]`` is the size of subprogram ``n``'s frame below its frame pointer: the JIT's
    numbers (``NativeCompiler.frame_bytes``), so that stack addresses are the JIT's. ``symbols`` must
    hold ``__bpf_call_base`` when the program calls helpers or kfuncs. ``func_addrs[n]`` is the address
    that stands for subprogram ``n`` when a program takes it (LD_IMM64 BPF_PSEUDO_FUNC); it may be empty
    when none does.

    Two programs are equal only when they are the same object; code made from one is kept outside it.
    """

    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    frame_bytes: tuple[int, ...]
    symbols: Mapping[str, int] = field(default_factory=dict)
    func_addrs: tuple[int, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.frame_bytes) != len(self.subprogs):
            raise ValueError(f"{len(self.subprogs)} subprograms, {len(self.frame_bytes)} frame sizes")

    @classmethod
    def from_request(
        cls,
        request: NativeRequest,
        frame_bytes: Sequence[int],
        func_addrs: Sequence[int] = (),
        name: str = "",
    ) -> Program:
        """The same program as a JIT was asked to compile."""
        return cls(
            request.insns, request.subprogs, tuple(frame_bytes), request.symbols, tuple(func_addrs), name
        )

    @classmethod
    def of(cls, insns: Sequence[Insn], symbols: Mapping[str, int] | None = None, name: str = "") -> Program:
        """A program of one function that needs no frame sizes."""
        slots = tuple(insns)
        return cls(slots, (Subprog(0, len(slots)),), (0,), symbols or {}, (), name)

    def subprog_at(self, slot: int) -> int:
        """The number of the subprogram that holds a slot; ValueError when none does."""
        for number, subprog in enumerate(self.subprogs):
            if subprog.start <= slot < subprog.end:
                return number
        raise ValueError(f"slot {slot} is in no subprogram of {self.name or 'the program'}")
