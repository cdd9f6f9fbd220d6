# SPDX-License-Identifier: GPL-2.0-only
"""What a program's context looks like to it, and the kernel structures that stand behind each field.

A program reads fields of a stable, made-up structure (``struct xdp_md``, ``struct __sk_buff``); after
verification each access becomes loads from the real structure (kernel: is_valid_access and
convert_ctx_access of struct bpf_verifier_ops). Offsets of the real structures come from the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kernel_model.btf.layout import Layout
from kernel_model.errors import NotModelled
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn

SCALAR: Final = "scalar"
PACKET: Final = "packet"
PACKET_META: Final = "packet_meta"
PACKET_END: Final = "packet_end"
SOCK_COMMON_OR_NULL: Final = "sock_common_or_null"
TP_BUFFER: Final = "tp_buffer"
"""What a load from the context yields."""

SIZE_CODE: Final = {1: op.BPF_B, 2: op.BPF_H, 4: op.BPF_W, 8: op.BPF_DW}


@dataclass(frozen=True)
class Access:
    """An allowed access: what it yields, and the field's full size when it may be read in part (else 0)."""

    yields: str = SCALAR
    field_size: int = 0


@dataclass(frozen=True)
class Request:
    """An access to judge: byte offset and size in the context, and the circumstances."""

    off: int
    size: int
    write: bool
    expected_attach_type: int = 0
    sign_extends: bool = False
    bpf_capable: bool = True


@dataclass
class Rewrite:
    """One access to rewrite.

    ``insn`` is the load or store, widened to its whole field when it was narrower; the answer is the
    instructions in its place and the size in bytes of the kernel's own field (0: not narrowed).
    ``flags`` collects facts about the program by Linux's names (cb_access, tstamp_type_access).
    """

    insn: Insn
    write: bool
    layout: Layout
    flags: dict[str, bool] = field(default_factory=dict)

    def offset(self, path: str) -> int:
        """Where a kernel field lies; NotModelled when this kernel's types lack it."""
        try:
            return self.layout.offset(path)
        except KeyError:
            raise NotModelled(f"context field behind {path}", 22) from None

    def load(self, size: int, path: str, *, via: int | None = None) -> Insn:
        """``dst = *(size *)(via + field)``; ``via`` is the context's register unless given."""
        base = self.insn.src if via is None else via
        return Insn(op.BPF_LDX | op.BPF_MEM | SIZE_CODE[size], self.insn.dst, base, self.offset(path))

    def store(self, size: int, off: int) -> Insn:
        """The store with another size and offset; a constant stays a constant (since 6.3)."""
        insn = self.insn
        return Insn(insn.code & 7 | op.BPF_MEM | SIZE_CODE[size], insn.dst, insn.src, off, insn.imm)


Converter = Callable[[Rewrite], "tuple[list[Insn], int]"]


@dataclass(frozen=True)
class Context:
    """The context of a program type.

    ``check`` judges an access (None: refused). ``convert`` rewrites one; None where accesses stay as
    they are. ``direct_write`` says whether writing into the packet needs a prologue.
    """

    name: str
    check: Callable[[Request], Access | None]
    convert: Converter | None = None
    since: str = ""


def aligned_within(request: Request, size: int) -> bool:
    """The access is inside ``size`` bytes and a multiple of its own size."""
    return 0 <= request.off < size and request.off % request.size == 0


def narrow(request: Request, field_size: int = 4) -> Access | None:
    """A read of a field that may also be read in part."""
    if request.size <= field_size and request.size & (request.size - 1) == 0:
        return Access(field_size=field_size)
    return None


def refuse(request: Request) -> Access | None:
    """Programs of this type have no context that can be read."""
    return None
