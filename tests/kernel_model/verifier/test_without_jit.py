# SPDX-License-Identifier: GPL-2.0-only
"""``bpf_jit_enable=0``: what Linux's interpreter cannot run is refused, with Linux's words; the rest runs."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from verifier_world import KPROBE, MAPS, ONLY_BPF, XDP, FakeMap, check, code

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_CALL_KFUNC, BPF_EXIT_INSN, BPF_LD_FUNC
from kernel_model.uapi.enums import bpf_map_type
from kernel_model.verifier.api import FuncInfo
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError

ENOTSUPP = 524
TAIL_CALL = "r2 = map(progs)\nr3 = 0\ncall 12\nr0 = 0\nexit\n"
MAY_GOTO = (
    "*(u64 *)(r10 - {depth}) = 1\nr6 = 0\n"
    "loop:\nmay_goto out\nr6 += 1\nif r6 < 3 goto loop\nout:\nr0 = 0\nexit\n"
)
LOOP = [
    *assemble("r1 = 4"),
    *BPF_LD_FUNC(2, 6),
    *assemble("r3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\nr0 = 0\nexit"),
]


class StaticFunctions:
    """BTF in which every type is a static function that returns a number."""

    def func_name(self, type_id: int) -> str:
        return f"f{type_id}"

    def func_linkage(self, type_id: int) -> int:
        return 0

    def func_params(self, type_id: int) -> list[tuple[str, str, int]]:
        return []

    def func_returns(self, type_id: int) -> str:
        return "int"

    def string(self, off: int) -> str:
        return ""

    def has_string(self, off: int) -> bool:
        return True


CALLBACKS = {"btf": StaticFunctions(), "func_info": [FuncInfo(0, 1), FuncInfo(8, 2)]}


@dataclass(frozen=True)
class Case:
    """A program that needs a JIT; ``errno`` and the decisive line without one."""

    name: str
    insns: Sequence[Insn] | str
    errno: int
    reason: str
    prog_type: int = XDP
    rest: Mapping[str, object] = field(default_factory=dict)


NEED_JIT = (
    Case("callback", LOOP, errno.EINVAL, "callbacks are not allowed in non-JITed programs", rest=CALLBACKS),
    Case(
        "tail call in a program of two functions",
        "r6 = r1\ncall pc+7\nr1 = r6\n" + TAIL_CALL + "r0 = 0\nexit",
        errno.EINVAL,
        "tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls",
    ),
    Case(
        "may_goto over the interpreter's largest stack",
        MAY_GOTO.format(depth=504),
        errno.EINVAL,
        "stack size 520(extra 16) is too large",
    ),
    Case(
        "may_goto in a function over the interpreter's largest stack",
        "call pc+1\nexit\n" + MAY_GOTO.format(depth=512),
        errno.EINVAL,
        "stack size 528(extra 16) is too large",
        KPROBE,
    ),
    Case(
        "chain of small frames",
        "*(u8 *)(r10 - 1) = 1\ncall pc+1\nexit\n*(u8 *)(r10 - 496) = 1\nr0 = 0\nexit",
        errno.EACCES,
        "combined stack size of 2 calls is 544. Too large",
    ),
)


@pytest.mark.parametrize("case", NEED_JIT, ids=lambda case: case.name)
def test_refused_without_a_jit(case: Case) -> None:
    found = check(case.insns, case.prog_type, jit=False, **case.rest)
    assert (found.errno, found.reason) == (case.errno, case.reason), found.log
    with_jit = check(case.insns, case.prog_type, **case.rest)
    assert with_jit.errno == 0, with_jit.log


ACCEPTED = {
    "functions": "call pc+1\nexit\nr0 = 1\nexit",
    "tail call": TAIL_CALL,
    "may_goto at the limit": MAY_GOTO.format(depth=496),
    "atomics": "r1 = 1\nr2 = r10\nr2 += -8\n*(u64 *)(r10 - 8) = 0\n"
    "r1 = atomic64_fetch_or((u64 *)(r2 + 0), r1)"
    "\nr1 = load_acquire((u64 *)(r2 + 0))\nstore_release((u64 *)(r2 + 0), r1)\nr0 = 0\nexit",
    "signed division": "r0 = 7\nr1 = -2\nr0 s/= r1\nexit",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_without_a_jit(name: str) -> None:
    found = check(ACCEPTED[name], jit=False)
    assert found.errno == 0, found.log


def test_kernel_functions_need_a_jit_and_the_gpl() -> None:
    insns = [BPF_CALL_KFUNC(0, 1), BPF_EXIT_INSN()]
    found = check(insns, jit=False)
    assert (found.errno, found.reason) == (ENOTSUPP, "JIT is required for calling kernel function")


def test_arenas_need_a_jit_and_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAPS, "arena", FakeMap(bpf_map_type.BPF_MAP_TYPE_ARENA, 0, 0, 1, fd=40))
    insns = code("r1 = map(arena)\nr0 = 0\nexit")
    found = check(insns, jit=False)
    assert (found.errno, found.reason) == (errno.EOPNOTSUPP, "JIT is required to use arena")
    found = check(insns, privileges=ONLY_BPF)
    assert (found.errno, found.reason) == (errno.EPERM, "CAP_BPF and CAP_PERFMON are required to use arena")


def test_inlining_depends_on_the_jit_but_may_goto_does_not() -> None:
    text = MAY_GOTO.format(depth=8)
    assert check(text, jit=False).xlated() == check(text).xlated()
    assert "call bpf_get_smp_processor_id" in check("call 8\nexit", jit=False).xlated()


def test_a_machine_without_a_jit_refuses_and_runs() -> None:
    with Machine.boot(nics=0, jit=False) as machine:
        bpf = Bpf(machine.process())
        with pytest.raises(SyscallError) as refused:
            bpf.prog_load(XDP, assemble(MAY_GOTO.format(depth=504)), log_level=1)
        assert refused.value.errno == errno.EINVAL
        fd, _ = bpf.prog_load(XDP, assemble("*(u64 *)(r10 - 496) = 5\nr0 = *(u64 *)(r10 - 496)\nexit"))
        assert bpf.prog_test_run(fd, data=bytes(64)).retval == 5
        assert not machine.kernel.progs_by_addr[next(iter(machine.kernel.progs_by_addr))].image
        progs = bpf.map_create(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1)
        bpf.map_update(progs, bytes(4), fd.to_bytes(4, "little"))
        machine.kernel.sysctl.write("net/core/bpf_jit_enable", "1")
        compiled, _ = bpf.prog_load(XDP, assemble("r0 = 1\nexit"))
        with pytest.raises(SyscallError) as refused:
            bpf.map_update(progs, bytes(4), compiled.to_bytes(4, "little"))
        assert refused.value.errno == errno.EINVAL


def test_a_compiled_program_of_any_stack_runs_on_the_interpreter_for_comparison() -> None:
    with Machine.boot(nics=0) as machine:
        bpf = Bpf(machine.process())
        fd, _ = bpf.prog_load(XDP, assemble(MAY_GOTO.format(depth=512).replace("r0 = 0", "r0 = 9")))
        machine.use_engine(jit=False)
        assert bpf.prog_test_run(fd, data=bytes(64)).retval == 9
