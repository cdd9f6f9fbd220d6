# SPDX-License-Identifier: GPL-2.0-only
"""Private stacks of tracing programs: who has one, what both engines see of it, and its guards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel_model.bpf.private_stack import PRIV_STACK_GUARD_VAL
from kernel_model.bpf.prog import BpfProg
from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_MAP_FD
from kernel_model.isa.native import PRIV_STACK_GUARD_SZ
from sim import Machine
from sim.diff.cases import Case
from sim.diff.raw import RawRunner, compared
from sim.userspace.bpf import Bpf, SyscallError

SOCKET_FILTER, KPROBE, TRACEPOINT, XDP, PERF_EVENT, RAW_TRACEPOINT = 1, 2, 5, 6, 7, 17

DEEP = """
r6 = r10
*(u64 *)(r10 -200) = 7
*(u8 *)(r10 -1) = 3
r1 = 4
call pc+5
r1 = *(u64 *)(r10 -200)
r0 += r1
r0 <<= 8
r0 |= 1
exit
*(u64 *)(r10 -128) = 5
r7 = r1
call 42
r1 = r7
call pc+3
r1 = *(u64 *)(r10 -128)
r0 += r1
exit
*(u64 *)(r10 -16) = 9
r0 = *(u64 *)(r10 -16)
r0 += r1
exit
"""
"""A frame of 200 bytes, one of 128, and one that is too small for a stack of its own."""


def load(machine: Machine, prog_type: int, text: str) -> BpfProg:
    Bpf(machine.process()).prog_load(prog_type, assemble(text))
    *_, prog = machine.kernel.progs
    return prog


@pytest.fixture(scope="module")
def runner() -> Iterator[RawRunner]:
    with RawRunner() as made:
        yield made


@pytest.mark.parametrize("prog_type", [KPROBE, TRACEPOINT, PERF_EVENT, RAW_TRACEPOINT])
def test_engines_agree(runner: RawRunner, prog_type: int) -> None:
    """Frame pointers, what is stored, helper calls, and the ordinary frame below them."""
    prog = load(runner.machine, prog_type, DEEP)
    assert [each.size for each in prog.private_stacks] == [200 + 16, 128 + 16]
    assert [each.private_stack is not None for each in prog.verified.subprogs] == [True, True, False]
    case = Case("deep", tuple(assemble(DEEP)))
    interpreter, jit = runner.record(prog, case, False), runner.record(prog, case, True)
    finding = compared("deep", interpreter, jit)
    assert finding.agree, finding.headline()
    assert jit.ending.r0 == (9 + 4 + 5 + 7) << 8 | 1
    first = prog.verified.subprogs[0]
    (execution,) = jit.recording.executions
    cpu = runner.machine.kernel.alloc.per_cpu_offset(0)
    assert execution[0].regs[6] == execution[0].regs[10] == first.private_stack_top + cpu
    kernel = runner.machine.kernel
    assert kernel.memory.u64(first.private_stack_top + cpu - 200) == 7
    assert {kernel.memory.u64(at) for each in prog.private_stacks for at in each.guards(kernel)} == {
        PRIV_STACK_GUARD_VAL
    }


@pytest.mark.parametrize(
    ("prog_type", "depth", "private"),
    [
        (KPROBE, 48, False),
        (KPROBE, 49, True),
        (KPROBE, 64, True),
        (XDP, 512, False),
        (SOCKET_FILTER, 256, False),
    ],
)
def test_who_has_one(machine: Machine, prog_type: int, depth: int, private: bool) -> None:
    """Tracing programs with frames of 64 bytes or more, in multiples of 16."""
    prog = load(machine, prog_type, f"*(u8 *)(r10 -{depth}) = 1\nr0 = 0\nexit")
    assert bool(prog.private_stacks) == private
    assert prog.frame_bytes[0] == (0 if private else -(-depth // 8) * 8)


def test_not_with_tail_calls(machine: Machine) -> None:
    bpf = Bpf(machine.process())
    progs = bpf.map_create(3, 4, 4, 2)
    body: list[Insn] = [*assemble("*(u64 *)(r10 -128) = 1"), *BPF_LD_MAP_FD(2, progs)]
    bpf.prog_load(KPROBE, [*body, *assemble("r3 = 1\ncall 12\nr0 = 0\nexit")])
    assert [prog.private_stacks for prog in machine.kernel.progs] == [()]


def test_without_a_jit_there_is_none(machine: Machine) -> None:
    machine.kernel.sysctl.write("net/core/bpf_jit_enable", "0")
    prog = load(machine, KPROBE, "*(u64 *)(r10 -128) = 1\nr0 = r10\nexit")
    assert prog.private_stacks == () and prog.frame_bytes == (128,)


def test_memory_comes_back_and_guards_are_looked_at(machine: Machine) -> None:
    kernel = machine.kernel
    free = kernel.alloc.alloc_percpu(8)
    kernel.alloc.free_percpu(free)
    prog = load(machine, KPROBE, "*(u64 *)(r10 -128) = 1\nr0 = 0\nexit")
    (stack,) = prog.private_stacks
    assert kernel.alloc.alloc_percpu(8) != free
    prog.name = "probe"
    kernel.memory.put_u64(stack.addr + kernel.alloc.per_cpu_offset(0) + stack.size - PRIV_STACK_GUARD_SZ, 1)
    prog.put(kernel)
    assert kernel.messages == ["BPF private stack overflow/underflow detected for prog probe"]
    assert kernel.alloc.alloc_percpu(8) == free


def test_no_memory_is_no_machine_code(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stack finds no room: the first is given back, and the program is refused."""
    kernel, sizes = machine.kernel, []
    real = kernel.alloc.alloc_percpu

    def short(size: int, align: int = 8) -> int:
        sizes.append(size)
        if len(sizes) > 1:
            raise KernelError(12, "no room")
        return real(size, align)

    monkeypatch.setattr(kernel.alloc, "alloc_percpu", short)
    with pytest.raises(SyscallError) as caught:
        load(machine, KPROBE, DEEP)
    assert caught.value.errno == 524
    assert sizes == [216, 144] and not list(kernel.progs)
    monkeypatch.undo()
    assert kernel.alloc.alloc_percpu(216) == real(8) - 216
