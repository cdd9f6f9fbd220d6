# SPDX-License-Identifier: GPL-2.0-only
"""Loaded classic programs: struct bpf_prog without an id, invisible to bpf(2), of type UNSPEC as in Linux."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..bpf.prog import BpfProg
from ..errors import KernelError
from ..isa.insn import INSN_SIZE
from ..isa.native import Subprog
from ..verifier.api import Privileges, ProgramSpec, Stats, VerifiedProgram
from .check import check_classic, check_seccomp
from .convert import Converted, convert_filter
from .insn import SockFilter

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..verifier.api import MapView

BPF_PROG_TYPE_UNSPEC: Final = 0
OPTMEM_MAX: Final = 128 << 10
"""Bytes that one socket may spend on filters and options (sysctl net.core.optmem_max, since 6.8)."""


def _no_map(fd: int) -> MapView:
    raise KernelError(errno.EBADF, f"classic programs have no maps (descriptor {fd})")


class ClassicProg(BpfProg):
    """A converted program. ``classic`` is what the user gave (fkprog), ``starts`` as of Converted."""

    def __init__(
        self,
        kernel: Kernel,
        classic: Sequence[SockFilter],
        converted: Converted,
        uid: int,
        privileges: Privileges,
    ) -> None:
        self.classic = tuple(classic)
        self.starts = converted.starts
        verified = VerifiedProgram(
            insns=converted.insns,
            subprogs=(Subprog(0, len(converted.insns), converted.stack_depth),),
            used_maps=(),
            pokes=(),
            orig_index=_origins(converted),
            stats=Stats(),
            log="",
            flags={"was_classic": True},
        )
        spec = ProgramSpec(
            converted.insns, BPF_PROG_TYPE_UNSPEC, _no_map, gpl_compatible=True, privileges=privileges
        )
        super().__init__(kernel, spec, verified, [], uid)
        self._drop_identity(kernel)

    def _drop_identity(self, kernel: Kernel) -> None:
        """Only programs that bpf(2) loads have an id and a tag."""
        kernel.progs.remove(self.id)
        self.id = 0
        self._put_id(kernel, 0)
        self.tag = bytes(8)
        kernel.memory.write(self.addr + kernel.layout["bpf_prog"].offset("tag"), self.tag)

    def bytes(self, kernel: Kernel) -> int:
        """bpf_prog_size(): what the program is charged to a socket with."""
        return kernel.layout["bpf_prog"].offset("insnsi") + INSN_SIZE * len(self.verified.insns)


def _origins(converted: Converted) -> tuple[int, ...]:
    """The classic instruction of each slot; the prologue counts as the first one's."""
    ends = (*converted.starts[1:], len(converted.insns))
    out = [0] * converted.starts[0]
    for at, (start, end) in enumerate(zip(converted.starts, ends, strict=True)):
        out += [at] * (end - start)
    return tuple(out)


def _call_target(kernel: Kernel, symbol: str) -> int:
    distance = kernel.text.symbol(symbol) - kernel.text.symbol("__bpf_call_base")
    return (distance & 0xFFFF_FFFF) - ((distance & 0x8000_0000) << 1)


_ROOT: Final = Privileges()


def create_socket_filter(
    kernel: Kernel, insns: Sequence[SockFilter], uid: int = 0, privileges: Privileges = _ROOT
) -> ClassicProg:
    """Check, convert and compile a program that reads packets (bpf_prepare_filter()).

    ClassicError (EINVAL) with the instruction and the reason when it is refused. The caller owns the
    reference.
    """
    check_classic(insns)
    converted = convert_filter(insns, kernel.layout, lambda symbol: _call_target(kernel, symbol))
    return ClassicProg(kernel, insns, converted, uid, privileges)


def create_seccomp_filter(
    kernel: Kernel, insns: Sequence[SockFilter], uid: int = 0, privileges: Privileges = _ROOT
) -> ClassicProg:
    """The same with seccomp's rules: its context is a struct seccomp_data, loads are whole words of it."""
    rewritten = check_seccomp(insns)
    converted = convert_filter(rewritten, kernel.layout, lambda symbol: _call_target(kernel, symbol))
    return ClassicProg(kernel, insns, converted, uid, privileges)
