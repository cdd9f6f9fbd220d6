# SPDX-License-Identifier: GPL-2.0-only
"""Programs on kernel functions: their arguments, loads through pointers to structures, targets."""

from __future__ import annotations

import pickle
import re
from errno import EPERM
from functools import cache
from pathlib import Path

import pytest
from btf_programs import END, Case, cases, helper, load
from host_bpf import host_kernel
from host_process import HostProcess

from kernel_model.btf.build import BtfBuilder
from kernel_model.btf.parse import Btf, BtfError, Kind
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LDX_MEM, BPF_MOV64_IMM
from kernel_model.uapi.enums import bpf_attach_type as a
from kernel_model.uapi.enums import bpf_func_id as f
from kernel_model.uapi.enums import bpf_prog_type as t
from sim.machine import Machine
from sim.userspace.bpf import Bpf

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_DW, _W = op.BPF_DW, op.BPF_W


def small_btf() -> bytes:
    """A kernel of few types: two structures, a tracepoint, functions, LSM hooks, an iterator."""
    b = BtfBuilder()
    number = b.add_int("int", 4, 1)
    word = b.add_int("long unsigned int", 8)
    first = b.count + 1
    task, tag, to_task, rcu_task, words = first, first + 1, first + 2, first + 3, first + 4
    b.add_composite(
        Kind.STRUCT, "task_struct", 64,
        [
            ("pid", number, 0, 0), ("flag", number, 32, 3), ("next", to_task, 64, 0),
            ("up", rcu_task, 128, 0),
            ("data", words, 192, 0), ("raw", b.count + 6, 320, 0),
        ],
    )  # fmt: skip
    b.add(Kind.TYPE_TAG, "rcu", task)
    b.add_ptr(task)
    b.add_ptr(tag)
    b.add_array(word, number, 2)
    raw = b.add_ptr(word)
    b.add_composite(Kind.STRUCT, "task_struct__safe_rcu", 8, [("next", to_task, 0, 0)])
    proto = b.add_proto(0, [("", raw), ("", to_task), ("", number)])
    b.add(Kind.TYPEDEF, "btf_trace_task_newtask", b.add_ptr(proto))
    on_task = b.add_proto(number, [("task", to_task), ("flags", number)])
    for name in ("copy_it", "bpf_lsm_task_alloc", "security_task_alloc", "do_exit", "migrate_disable"):
        b.add(Kind.FUNC, name, on_task, vlen=1)
    b.add(Kind.FUNC, "bpf_lsm_task_free", b.add_proto(0, [("task", to_task)]), vlen=1)
    counter = b.add(Kind.VAR, "counter", word, data=(1).to_bytes(4, "little"))
    section = b"".join(each.to_bytes(4, "little") for each in (counter, 64, 8))
    b.add(Kind.DATASEC, ".data..percpu", 128, vlen=1, data=section)
    b.add(Kind.FUNC, "print_it", b.add_proto(number, [("format", raw), ("", 0)]), vlen=1)
    return b.bytes()


@cache
def machine() -> Machine:
    return Machine.boot(btf=small_btf())


def verdict(case: Case) -> tuple[int, str]:
    number, log = load(Bpf(machine().process()), Btf(small_btf()), case)
    lines = [line for line in log.splitlines() if not line.startswith(("processed ", "verification time"))]
    return number, lines[-1] if number and lines else ""


_TRACE = "btf_trace_task_newtask"
_TASK = BPF_LDX_MEM(_DW, 2, 1, 0)


def _loads(*insns: object, **rest: object) -> Case:
    return Case("", [*insns, *END], target=_TRACE, **rest)  # type: ignore[arg-type, list-item]


def _on(target: str, attach: int, insns: list[object] = END, **rest: object) -> Case:  # type: ignore[assignment]
    kind = rest.pop("prog_type", t.BPF_PROG_TYPE_TRACING)
    return Case("", insns, target, Kind.FUNC, kind, attach, **rest)  # type: ignore[arg-type]


def _counter() -> list[Insn]:
    return [Insn(op.LD_IMM64, 1, op.BPF_PSEUDO_BTF_ID, 0, _number("counter", Kind.VAR)), Insn(0)]


def _number(name: str, kind: Kind) -> int:
    return Btf(small_btf()).find(name, kind)


_LSM = {"prog_type": t.BPF_PROG_TYPE_LSM}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (_loads(_TASK, BPF_LDX_MEM(_W, 3, 2, 0)), (0, "")),
        (_loads(_TASK, BPF_LDX_MEM(_W, 3, 2, 4)), (0, "")),
        (_loads(_TASK, BPF_LDX_MEM(_DW, 3, 2, 24), BPF_LDX_MEM(_DW, 3, 2, 32)), (0, "")),
        (_loads(_TASK, BPF_LDX_MEM(_DW, 2, 2, 8), BPF_LDX_MEM(_W, 3, 2, 0)), (0, "")),
        (_loads(_TASK, BPF_LDX_MEM(_DW, 2, 2, 40), BPF_LDX_MEM(_DW, 3, 2, 800)), (0, "")),
        (
            _loads(_TASK, BPF_LDX_MEM(_DW, 2, 2, 16), BPF_LDX_MEM(_W, 3, 2, 0)),
            (13, "R2 invalid mem access 'rcu_ptr_or_null_'"),
        ),
        (
            _loads(_TASK, BPF_LDX_MEM(_DW, 3, 2, 36)),
            (13, "access beyond the end of member data (mend:40) in struct task_struct with off 36 size 8"),
        ),
        (_loads(_TASK, BPF_LDX_MEM(_DW, 3, 2, 48)),
         (22, "struct task_struct doesn't have field at offset 48")),
        (_loads(_TASK, BPF_LDX_MEM(_DW, 3, 2, 64)),
         (13, "access beyond struct task_struct at off 64 size 8")),
        (_loads(BPF_LDX_MEM(_DW, 2, 1, 16)), (13, "invalid bpf_context access off=16 size=8")),
        (_on("copy_it", a.BPF_TRACE_FENTRY, [BPF_LDX_MEM(_DW, 2, 1, 16), *END]),
         (13, "invalid bpf_context access off=16 size=8")),
        (_on("copy_it", a.BPF_TRACE_FEXIT, [BPF_LDX_MEM(_DW, 2, 1, 16), *END]), (0, "")),
        (_on("copy_it", a.BPF_TRACE_FEXIT, [BPF_MOV64_IMM(0, 1), END[1]]),
         (22, "At program exit the register R0 has smin=1 smax=1 should have been in [0, 0]")),
        (_on("copy_it", a.BPF_MODIFY_RETURN), (22, "copy_it() is not modifiable")),
        (_on("security_task_alloc", a.BPF_MODIFY_RETURN, [BPF_MOV64_IMM(0, -1), END[1]]), (0, "")),
        (_on("do_exit", a.BPF_TRACE_FENTRY), (0, "")),
        (_on("do_exit", a.BPF_TRACE_FEXIT),
         (22, "Attaching fexit/fmod_ret to __noreturn function 'do_exit' is rejected.")),
        (_on("migrate_disable", a.BPF_TRACE_FENTRY),
         (22, "Attaching tracing programs to function 'migrate_disable' is rejected.")),
        (_on("print_it", a.BPF_TRACE_FENTRY),
         (22, "The function print_it with variable args is unsupported.")),
        (_on("copy_it", a.BPF_TRACE_FENTRY, more=(("prog_flags", 16),)), (22, "copy_it is not sleepable")),
        (_on("copy_it", a.BPF_LSM_MAC, **_LSM),
         (22, f"attach_btf_id {_number('copy_it', Kind.FUNC)} points to wrong type name copy_it")),
        (_on("bpf_lsm_task_alloc", a.BPF_LSM_MAC, license="MIT", **_LSM),
         (22, "LSM programs must have a GPL compatible license")),
        (_on("bpf_lsm_task_alloc", a.BPF_LSM_MAC, more=(("prog_flags", 16),), **_LSM), (0, "")),
        (_on("bpf_lsm_task_alloc", a.BPF_LSM_MAC, [BPF_MOV64_IMM(0, 1), END[1]], **_LSM),
         (22, "At program exit the register R0 has smin=1 smax=1 should have been in [-4095, 0]")),
        (_on("bpf_lsm_task_alloc", a.BPF_LSM_MAC, [BPF_LDX_MEM(_DW, 0, 1, 16), END[1]], **_LSM), (0, "")),
        (_on("bpf_lsm_task_free", a.BPF_LSM_MAC, [END[1]], **_LSM), (0, "")),
        (_on("copy_it", 0, prog_type=t.BPF_PROG_TYPE_EXT), (22, "Cannot replace kernel functions")),
        (_loads(helper(f.BPF_FUNC_get_func_arg_cnt)),
         (22, "program of this type cannot use helper bpf_get_func_arg_cnt#185")),
        (_on("copy_it", a.BPF_TRACE_FENTRY, [helper(f.BPF_FUNC_get_func_arg_cnt), *END]), (0, "")),
        (_loads(*_counter(), BPF_LDX_MEM(_DW, 2, 1, 0)),
         (13, "R1 is ptr_long unsigned int access percpu memory: off=0")),
        (_loads(*_counter(), helper(f.BPF_FUNC_this_cpu_ptr), BPF_LDX_MEM(_DW, 2, 0, 0)), (0, "")),
        (_loads(*_counter(), helper(f.BPF_FUNC_this_cpu_ptr), BPF_LDX_MEM(_DW, 2, 0, 8)),
         (13, "R0 min value is outside of the allowed memory range")),
        (_loads(*_counter(), BPF_MOV64_IMM(2, 1), helper(f.BPF_FUNC_per_cpu_ptr), BPF_LDX_MEM(_DW, 2, 0, 0)),
         (13, "R0 invalid mem access 'rdonly_mem_or_null'")),
    ],
)  # fmt: skip
def test_verdict(case: Case, expected: tuple[int, str]) -> None:
    assert verdict(case) == expected


def test_the_machine_shows_the_given_btf_and_keeps_it() -> None:
    data = small_btf()
    with Machine.boot(btf=data) as one:
        assert Bpf(one.process()).read_file(str(VMLINUX)) == data
        before = one.snapshot()
        assert len(before.state) < 10 * len(data) + (1 << 20)
        one.restore(before)
        with pickle.loads(pickle.dumps(one)) as other:
            assert Bpf(other.process()).read_file(str(VMLINUX)) == data
    with pytest.raises(BtfError):
        Machine.boot(btf=b"no BTF at all")


def test_stale_pointers_are_loaded_with_faults_handled() -> None:
    """A pointer that was read through a trusted one is no longer trusted, unless the kernel says so."""
    bpf = Bpf(machine().process())
    btf = Btf(small_btf())
    through = [_TASK, BPF_LDX_MEM(_DW, 3, 2, 8), BPF_LDX_MEM(_DW, 4, 3, 8), BPF_LDX_MEM(_W, 5, 4, 0), *END]
    found, log = load(bpf, btf, Case("", through, target=_TRACE))
    assert found == 0
    assert "R2=trusted_ptr_task_struct()" in log
    assert "R3=rcu_ptr_task_struct()" in log and "R4=rcu_ptr_task_struct()" in log
    unsafe = [BPF_LDX_MEM(_DW, 2, 1, 0), BPF_LDX_MEM(_DW, 3, 2, 8), BPF_LDX_MEM(_W, 4, 3, 0), *END]
    _, log = load(bpf, btf, Case("", unsafe, "copy_it", Kind.FUNC, attach=a.BPF_TRACE_FENTRY))
    assert "R2=ptr_task_struct()" in log and "R3=ptr_task_struct()" in log
    fd, _ = bpf.prog_load(
        t.BPF_PROG_TYPE_TRACING, unsafe, attach_btf_id=btf.find("copy_it", Kind.FUNC),
        expected_attach_type=a.BPF_TRACE_FENTRY,
    )  # fmt: skip
    codes = [insn.code for insn in machine().kernel.progs.find(bpf.obj_info(fd)[0]["id"]).verified.insns]
    assert codes.count(op.BPF_LDX | op.BPF_PROBE_MEM | _DW) == 1
    assert codes.count(op.BPF_LDX | op.BPF_PROBE_MEM | _W) == 1


@cache
def _host() -> tuple[Btf, Bpf, Bpf]:
    data = VMLINUX.read_bytes()
    return Btf(data), Bpf(HostProcess()), Bpf(Machine.boot(btf=data).process())


def _plain(log: str) -> list[str]:
    """The log without what differs between two kernels of the same kind: times, addresses of symbols."""
    lines = [line for line in log.splitlines() if not line.startswith("verification time")]
    return [re.sub(r"0x[0-9a-f]{16}|= 0x[0-9a-f]+", "ADDR", line) for line in lines]


@host_kernel
@pytest.mark.skipif(not VMLINUX.exists(), reason="the host shows no BTF of its kernel")
def test_as_the_host_with_its_btf() -> None:
    btf, host, here = _host()
    different = []
    for case in cases(btf):
        there, mine = load(host, btf, case), load(here, btf, case)
        if there == (EPERM, ""):
            continue  # a host may forbid whole kinds of programs before it looks at them
        if (there[0], _plain(there[1])) != (mine[0], _plain(mine[1])):
            different.append(f"{case.name}: {there[0]} {mine[0]}\n--- host\n{there[1]}--- here\n{mine[1]}")
    assert not different, "\n".join(different)
