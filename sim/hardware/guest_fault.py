# SPDX-License-Identifier: GPL-2.0-only
"""What a guest that went wild leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class GuestFault(Exception):
    """An exception that neither the kernel's exception table nor its fault handler resolved.

    ``kind``: what happened, in words ("page fault", "general protection fault", "runaway guest" ...);
    ``addr`` the faulting address or None; ``registers`` by name; ``backtrace`` symbolised, innermost
    first; ``blocks`` the starts of the last basic blocks, newest last (empty unless the machine's flight
    recorder is on, or the run was repeated with it).
    """

    kind: str
    rip: int = 0
    user: bool = False
    addr: int | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    backtrace: Sequence[str] = ()
    blocks: Sequence[str] = ()

    def __str__(self) -> str:
        where = self.backtrace[0] if self.backtrace else f"{self.rip:#x}"
        at = "" if self.addr is None else f" at address {self.addr:#x}"
        return f"guest fault: {self.kind}{at} in {'user' if self.user else 'kernel'} mode, {where}"

    def details(self) -> str:
        """Registers, backtrace and last basic blocks as text, for people."""
        lines = [str(self)]
        names = list(self.registers)
        for at in range(0, len(names), 4):
            lines.append("  " + "  ".join(f"{n:>6} {self.registers[n]:016x}" for n in names[at : at + 4]))
        lines += ["call trace:", *(f"  {entry}" for entry in self.backtrace)]
        if self.blocks:
            lines += ["last basic blocks:", *(f"  {entry}" for entry in self.blocks)]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type[GuestFault], tuple[object, ...]]:
        fields = (self.kind, self.rip, self.user, self.addr, dict(self.registers))
        return (GuestFault, (*fields, tuple(self.backtrace), tuple(self.blocks)))
