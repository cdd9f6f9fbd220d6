# SPDX-License-Identifier: GPL-2.0-only
"""Kernel functions that an object calls (``extern ... __ksym``): their BTF ids in the kernel at hand.

Rules of libbpf: the name without ``___flavour``, a prototype that agrees in its outline; a weak function
that is not there becomes a call that the verifier refuses wherever it can be reached.
(bpf_object__resolve_ksym_func_btf_id, poison_kfunc_call)
"""

from __future__ import annotations

from kernel_model.btf.parse import Btf, Kind
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import BPF_PSEUDO_BTF_ID, BPF_PSEUDO_KFUNC_CALL, CALL

from .core.compat import essential, types_compatible
from .externs import Extern

POISON_CALL_KFUNC_BASE = 2002000000
"""The helper number of an unresolved weak function, plus its place among the externs."""


class KsymError(ValueError):
    """A function that the kernel does not have like this; the cause in words."""


def find_function(extern: Extern, local: Btf, kernel: Btf) -> int:
    """The id of the kernel's function; 0 for a weak one that is not there. KsymError for others."""
    number = kernel.find(essential(extern.name), Kind.FUNC)
    if not number:
        if extern.weak:
            return 0
        raise KsymError(f"extern (func ksym) '{extern.name}': not found in kernel or module BTFs")
    wanted, found = local.type(extern.number).type, kernel.type(number).type
    if types_compatible(local, wanted, kernel, found):
        return number
    if extern.weak:
        return 0
    raise KsymError(
        f"extern (func ksym) '{extern.name}': func_proto [{wanted}] incompatible with vmlinux [{found}]"
    )


def call(insn: Insn, number: int, place: int) -> Insn:
    """The call of function ``number``; ``place`` among the externs marks one that is not there."""
    if number:
        return insn._replace(src=BPF_PSEUDO_KFUNC_CALL, off=0, imm=number)
    return Insn(CALL, 0, 0, 0, POISON_CALL_KFUNC_BASE + place)


def address(low: Insn, number: int) -> Insn:
    """The first half of a LD_IMM64 that asks whether the function is there; the second half is 0."""
    return low._replace(src=BPF_PSEUDO_BTF_ID if number else 0, imm=number)


def name_unresolved(log: str, externs: tuple[Extern, ...]) -> str:
    """The log with the function named where the verifier met such a call (fixup_log_missing_kfunc_call)."""
    lines = log.splitlines()
    for at, line in enumerate(lines):
        head, found, number = line.partition("(85) call unknown#")
        place = int(number) - POISON_CALL_KFUNC_BASE if found and number.isdigit() else -1
        if not 0 <= place < len(externs):
            continue
        lines[at] = f"{head}<invalid kfunc call>"
        if at + 1 < len(lines) and lines[at + 1] == f"invalid func unknown#{number}":
            lines[at + 1] = f"kfunc '{externs[place].name}' is referenced but wasn't resolved"
    return "\n".join(lines) + "\n" if lines else log
