# SPDX-License-Identifier: GPL-2.0-only
"""Small programs on kernel functions and tracepoints, by name: target, attach type and instructions."""

from __future__ import annotations

from dataclasses import dataclass

from kernel_model.btf.parse import Btf, Kind
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import (
    BPF_ALU64_REG,
    BPF_EXIT_INSN,
    BPF_JMP_IMM,
    BPF_LDX_MEM,
    BPF_MOV64_IMM,
    BPF_MOV64_REG,
    BPF_ST_MEM,
    BPF_STX_MEM,
)
from kernel_model.uapi.enums import bpf_attach_type as a
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_prog_type as t
from sim.userspace.bpf import Bpf, SyscallError, VerifierError

W, DW, H, B = op.BPF_W, op.BPF_DW, op.BPF_H, op.BPF_B
END = [BPF_MOV64_IMM(0, 0), BPF_EXIT_INSN()]


@dataclass(frozen=True)
class Case:
    """A program. ``target`` is a type's name and kind in the kernel's BTF; "@" stands for byte offsets."""

    name: str
    insns: list[Insn]
    target: str = "btf_trace_sched_switch"
    kind: Kind = Kind.TYPEDEF
    prog_type: int = t.BPF_PROG_TYPE_TRACING
    attach: int = a.BPF_TRACE_RAW_TP
    license: str = "GPL"
    more: tuple[tuple[str, int], ...] = ()


def helper(number: int) -> Insn:
    """A call."""
    return Insn(op.CALL, 0, 0, 0, number)


def offset(btf: Btf, path: str) -> int:
    """Byte offset of ``struct.member.member``, anonymous members searched."""
    head, *rest = path.split(".")
    number, at = btf.find(head, Kind.STRUCT), 0
    for name in rest:
        off, number = next((o, n) for m, o, n in _members(btf, number) if m == name)
        at += off
    return at


def _members(btf: Btf, number: int) -> list[tuple[str, int, int]]:
    out = []
    for member in btf.resolve(number).members:
        if member.name:
            out.append((member.name, member.bit_offset // 8, member.type))
        else:
            out += [(n, member.bit_offset // 8 + o, i) for n, o, i in _members(btf, member.type)]
    return out


def cases(btf: Btf) -> list[Case]:
    """The programs for a kernel that has ``task_struct`` and the tracepoint sched_switch."""
    task = lambda path: offset(btf, f"task_struct.{path}")  # noqa: E731
    current = helper(f.BPF_FUNC_get_current_task_btf)
    prev = BPF_LDX_MEM(DW, 2, 1, 8)
    size = btf.type(btf.find("task_struct", Kind.STRUCT)).size
    return [
        Case("scalar", [BPF_LDX_MEM(W, 2, 2, task("pid")) if i else prev for i in range(2)] + END),
        Case("pointer", [prev, BPF_LDX_MEM(DW, 3, 2, task("mm")), BPF_LDX_MEM(DW, 4, 3, 0), *END]),
        Case("half a pointer", [prev, BPF_LDX_MEM(W, 3, 2, task("mm")), *END]),
        Case("inside a pointer", [prev, BPF_LDX_MEM(H, 3, 2, task("mm") + 2), *END]),
        Case("string", [prev, BPF_LDX_MEM(B, 3, 2, task("comm") + 15), *END]),
        Case("behind a string", [prev, BPF_LDX_MEM(DW, 3, 2, task("comm") + 12), *END]),
        Case("behind the structure", [prev, BPF_LDX_MEM(DW, 3, 2, size), *END]),
        Case("rcu", [prev, BPF_LDX_MEM(DW, 3, 2, task("real_parent")), BPF_LDX_MEM(W, 4, 3, 0), *END]),
        Case("leader", [prev, BPF_LDX_MEM(DW, 3, 2, task("group_leader")), BPF_LDX_MEM(W, 4, 3, 0), *END]),
        Case("write", [prev, BPF_ST_MEM(W, 2, task("pid"), 1), *END]),
        Case("negative", [prev, BPF_LDX_MEM(W, 3, 2, -4), *END]),
        Case("without GPL", [prev, BPF_LDX_MEM(W, 3, 2, task("pid")), *END], license="MIT"),
        Case("unknown offset", [
            prev, BPF_LDX_MEM(DW, 3, 1, 0), BPF_ALU64_REG(op.BPF_ADD, 2, 3), BPF_LDX_MEM(W, 3, 2, 0), *END,
        ]),
        Case("narrow argument", [BPF_LDX_MEM(W, 2, 1, 8), *END]),
        Case("odd argument", [BPF_LDX_MEM(W, 2, 1, 4), *END]),
        Case("no such argument", [BPF_LDX_MEM(DW, 2, 1, 40), *END]),
        Case("written argument", [BPF_ST_MEM(DW, 1, 0, 0), *END]),
        Case("any result", [BPF_MOV64_IMM(0, 7), BPF_EXIT_INSN()]),
        Case("current", [current, BPF_LDX_MEM(W, 2, 0, task("pid")), *END]),
        Case("spilled", [
            prev, BPF_STX_MEM(DW, 10, 2, -8), BPF_LDX_MEM(DW, 3, 10, -8),
            BPF_LDX_MEM(W, 4, 3, task("pid")), *END,
        ]),
        Case("null is unlikely", [prev, BPF_JMP_IMM(op.BPF_JEQ, 2, 0, 1), BPF_LDX_MEM(W, 3, 2, 0), *END]),
        Case("argument of a helper", [
            current, BPF_MOV64_REG(1, 0), helper(f.BPF_FUNC_task_pt_regs), BPF_LDX_MEM(DW, 3, 0, 0), *END,
        ]),
        Case("wrong structure", [
            prev, BPF_LDX_MEM(DW, 1, 2, task("mm")), helper(f.BPF_FUNC_task_pt_regs), *END,
        ]),
        Case("no pointer", [BPF_MOV64_IMM(1, 5), helper(f.BPF_FUNC_task_pt_regs), *END]),
        Case("plain memory", [
            prev, BPF_LDX_MEM(DW, 3, 2, task("stack")), BPF_LDX_MEM(DW, 4, 3, 64), *END,
        ]),
        Case("no target", END, target=""),
        Case("not a typedef", END, target="task_struct", kind=Kind.STRUCT),
        Case("wrong typedef", END, target="u32"),
        Case("not a function", END, target="task_struct", kind=Kind.STRUCT, attach=a.BPF_TRACE_FENTRY),
        Case("kernel function replaced", END, target="vfs_read", kind=Kind.FUNC,
             prog_type=t.BPF_PROG_TYPE_EXT, attach=0),
        Case("sleepable tracepoint", END, more=(("prog_flags", 16),)),
        Case("constant of nothing", [Insn(op.LD_IMM64, 2, op.BPF_PSEUDO_BTF_ID, 0, 1), Insn(0), *END]),
    ]  # fmt: skip


def load(bpf: Bpf, btf: Btf, case: Case) -> tuple[int, str]:
    """errno (0: accepted) and the log at level 2."""
    number = btf.find(case.target, case.kind) if case.target else 0
    try:
        fd, log = bpf.prog_load(
            case.prog_type, case.insns, license=case.license, log_level=2, attach_btf_id=number,
            expected_attach_type=case.attach, **dict(case.more),
        )  # fmt: skip
    except VerifierError as error:
        return error.errno or 0, error.log
    except SyscallError as error:
        return error.errno or 0, ""
    bpf.close(fd)
    return 0, log
