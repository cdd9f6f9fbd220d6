# SPDX-License-Identifier: GPL-2.0-only
"""The run loop: traps and calls both ways, exceptions, faults and their reports."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable

import pytest
from machine_tools import kernel_code, run_kernel

from jit_x86.assembler import assemble as x86
from kernel_model.errors import KernelError
from kernel_model.functions import FUNCTIONS, KernelFunction
from kernel_model.isa.asm import assemble
from kernel_model.isa.macros import BPF_LD_MAP_FD, BPF_REG_1
from kernel_model.kernel import Kernel
from sim import Machine
from sim.hardware.guest_fault import GuestFault
from sim.userspace.bpf import Bpf

ADD_ALL = "lea rax, [rdi + rsi*2]; add rax, rdx; add rax, rcx; add rax, r8; add rax, r9; ret"


@pytest.fixture
def probe(machine: Machine) -> Callable[..., None]:
    """Put a Python function in the place of a kernel function's: ``probe("name", impl)``."""

    def replace(name: str, impl: Callable[..., int]) -> None:
        rows = list(machine._functions)
        index = [row.name for row in rows].index(name)
        rows[index] = KernelFunction(name, 6, impl, rows[index].leaving)
        machine._functions = tuple(rows)

    return replace


def leaf_name() -> str:
    return next(row.name for row in FUNCTIONS.values() if not row.leaving)


LEAVING = "__bpf_prog_run32"


def test_six_arguments_and_a_result(machine: Machine) -> None:
    assert run_kernel(machine, ADD_ALL, 1, 2, 3, 4, 5, 6) == 1 + 4 + 3 + 4 + 5 + 6
    assert run_kernel(machine, "mov rax, rdi; ret", -1) == (1 << 64) - 1


@pytest.mark.parametrize("name", [leaf_name(), LEAVING])
def test_functions_in_python(machine: Machine, probe: Callable[..., None], name: str) -> None:
    """Arguments arrive unsigned, results return modulo 2**64, callee-saved registers survive."""
    seen = []

    def impl(_kernel: Kernel, *args: int) -> int:
        seen.append(args)
        return -22

    probe(name, impl)
    source = f"""
        push rbx; push r12
        mov rbx, 77; mov r12, 88
        mov rax, {machine.kernel.text.symbol(name)}
        call rax
        add rax, rbx; add rax, r12
        pop r12; pop rbx
        ret
    """
    assert run_kernel(machine, source, 1, (1 << 64) - 2, 3, 4, 5, 6) == 77 + 88 - 22
    assert seen == [(1, (1 << 64) - 2, 3, 4, 5, 6)]


def test_nested_calls(machine: Machine, probe: Callable[..., None]) -> None:
    """Text calls Python calls text calls Python, 100 deep; every frame finds its registers again."""
    kernel = machine.kernel
    source = f"""
        push rbx
        mov rbx, rdi
        mov rax, {kernel.text.symbol(LEAVING)}
        call rax
        add rax, rbx
        pop rbx
        ret
    """
    with kernel_code(machine, source) as code:
        depths = []

        def impl(kernel: Kernel, number: int, *_: int) -> int:
            depths.append(kernel.cpu.depth)
            return kernel.cpu.call(code, number - 1) if number else 0

        probe(LEAVING, impl)
        assert kernel.cpu.call(code, 100) == sum(range(101))
        assert depths == list(range(1, 102))
        assert kernel.cpu.depth == 0


def test_an_exception_reaches_the_caller_whole(machine: Machine, probe: Callable[..., None]) -> None:
    class Planned(Exception):
        pass

    error = Planned("the very object")

    def fail(*_: object) -> int:
        raise error

    for name in (leaf_name(), LEAVING):
        probe(name, fail)
        with pytest.raises(Planned) as caught:
            run_kernel(machine, f"mov rax, {machine.kernel.text.symbol(name)}; call rax; ret")
        assert caught.value is error
        assert "fail" in [entry.name for entry in caught.traceback]
        assert machine.kernel.cpu.depth == 0
        assert run_kernel(machine, "mov rax, rdi; ret", 9) == 9


@pytest.mark.parametrize("trouble", ["exception", "fault"])
def test_a_nested_failure_can_be_handled(machine: Machine, probe: Callable[..., None], trouble: str) -> None:
    """Kernel code that catches an exception out of a nested call returns into intact registers."""
    kernel = machine.kernel

    def fail(*_: object) -> int:
        raise KernelError(12)

    probe(leaf_name(), fail)
    bad = "xor ebx, ebx; xor ebp, ebp; xor r12d, r12d; " + (
        "mov rax, [rbx]; ret"
        if trouble == "fault"
        else f"mov rax, {kernel.text.symbol(leaf_name())}; call rax; ret"
    )
    with kernel_code(machine, bad) as inner:

        def careful(kernel: Kernel, *_: int) -> int:
            try:
                return kernel.cpu.call(inner)
            except (KernelError, GuestFault):
                return 1000

        probe(LEAVING, careful)
        saved = ("rbx", "rbp", "r12", "r13", "r14", "r15")
        source = "".join(f"push {reg};" for reg in saved)
        source += "".join(f"mov {reg}, {number};" for number, reg in enumerate(saved, 1))
        source += f"mov rax, {kernel.text.symbol(LEAVING)}; call rax;"
        source += "".join(f"add rax, {reg};" for reg in saved)
        source += "".join(f"pop {reg};" for reg in reversed(saved)) + "ret"
        assert run_kernel(machine, source) == 1000 + sum(range(1, 7))


def test_a_leaf_may_not_call_text(machine: Machine, probe: Callable[..., None]) -> None:
    with kernel_code(machine, "ret") as code:
        probe(leaf_name(), lambda kernel, *_: kernel.cpu.call(code))
        with pytest.raises(RuntimeError, match="leaf"):
            run_kernel(machine, f"mov rax, {machine.kernel.text.symbol(leaf_name())}; call rax; ret")


FAULTS = {
    "page fault": ("mov rax, [rdi]; ret", 0x1234),
    "general protection fault": ("mov rax, [rdi]; ret", 1 << 62),
    "invalid opcode": ("ud2", 0),
    "breakpoint": ("int3", 0),
    "divide error": ("xor edx, edx; xor ecx, ecx; div rcx; ret", 0),
    "unexpected hlt": ("hlt", 0),
    "syscall instruction": ("syscall", 0),
    "vector 128": ("int 0x80", 0),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_guest_faults(machine: Machine, kind: str) -> None:
    """What went wrong, where, with registers; the machine is usable afterwards, again and again."""
    source, arg = FAULTS[kind]
    for _ in range(3):
        with pytest.raises(GuestFault) as caught:
            run_kernel(machine, f"mov r14, 0x5151; {source}", arg)
        fault = caught.value
        assert fault.kind == kind
        assert not fault.user
        assert fault.registers["r14"] == 0x5151
        assert fault.rip == fault.registers["rip"]
        assert (fault.addr == arg) if kind == "page fault" else fault.addr is None
        assert kind in str(fault) and "r14 0000000000005151" in fault.details()
        assert run_kernel(machine, "mov rax, rdi; ret", 7) == 7


def test_faults_after_faults_keep_their_kind(machine: Machine) -> None:
    """A second page fault is no double fault, also behind another exception."""
    for source in ("mov rax, [rdi]; ret", "ud2", "int3", "mov rax, [rsi]; ret") * 2:
        with pytest.raises(GuestFault) as caught:
            run_kernel(machine, source, 8, 16)
        assert caught.value.kind in ("page fault", "invalid opcode", "breakpoint")


def test_backtrace_has_names(machine: Machine, bpf: Bpf) -> None:
    """A program's image and the kernel text below it, by the chain of frame pointers."""
    fd = bpf.prog_load(6, assemble("r0 = 1\nexit"), name="wild")[0]
    (prog,) = machine.kernel.progs
    assert prog.image is not None
    entry = prog.image.functions[0]
    machine.kernel.text.poke(entry.addr + entry.insn_offs[0], b"\x0f\x0b")
    with pytest.raises(GuestFault) as caught:
        bpf.prog_test_run(fd, bytes(64))
    trace = caught.value.backtrace
    assert trace[0].startswith(f"bpf_prog_{prog.tag.hex()}_wild+0x")
    assert trace[1].startswith("bpf_test_run_loop+0x")
    assert machine.process().syscall(39) > 0


def test_flight_recorder(machine: Machine) -> None:
    with Machine.boot(flight_recorder=3) as recording:
        with pytest.raises(GuestFault) as caught:
            run_kernel(recording, "jmp a; a: jmp b; b: jmp c; c: ud2")
        assert len(caught.value.blocks) == 3
        assert caught.value.blocks[-1] == f"{caught.value.rip:#x}"
    with pytest.raises(GuestFault) as caught:
        run_kernel(machine, "ud2")
    assert caught.value.blocks == ()


def test_faults_are_data() -> None:
    fault = GuestFault("page fault", 5, True, 9, {"rip": 5}, ("a+0x1",), ("b",))
    assert pickle.loads(pickle.dumps(fault)) == fault


@pytest.mark.parametrize("source", ["x: jmp x", "x: mov rax, [rsp]; call y; jmp x; y: ret"])
def test_a_runaway_is_ended(source: str) -> None:
    with Machine.boot(watchdog=0.1) as machine:
        began = time.monotonic()
        with pytest.raises(GuestFault, match="runaway"):
            run_kernel(machine, source)
        assert time.monotonic() - began < 2
        assert run_kernel(machine, "mov rax, rdi; ret", 7) == 7
        with pytest.raises(GuestFault, match="runaway"):
            run_kernel(machine, source)


def test_a_runaway_that_calls_leaves_is_ended(probe: Callable[..., None]) -> None:
    with Machine.boot(watchdog=0.1) as machine, pytest.raises(GuestFault, match="runaway"):
        run_kernel(machine, f"x: mov rax, {machine.kernel.text.symbol('bpf_ktime_get_ns')}; call rax; jmp x")


def test_the_watchdog_does_not_disturb_short_runs() -> None:
    """Many short runs over several periods of the watchdog, which counts each run for itself."""
    with Machine.boot(watchdog=0.25) as machine:
        until = time.monotonic() + 0.6
        number = 0
        while time.monotonic() < until:
            number += 1
            assert run_kernel(machine, "mov rax, rdi; ret", number) == number


def test_no_watchdog() -> None:
    with Machine.boot(watchdog=0) as machine:
        assert run_kernel(machine, "mov ecx, 2000000; x: dec ecx; jne x; mov eax, 3; ret") == 3


# The exception table.


def probe_read(machine: Machine, addr: int, *, dst: str = "rax") -> tuple[int, int]:
    """A load like those of PROBE_MEM programs, at any address: the register afterwards, and rbx."""
    source = (
        f"push rbx; mov rbx, 3; mov {dst}, 99; mov {dst}, [rdi]; mov rax, {dst}; add rax, rbx; pop rbx; ret"
    )
    with kernel_code(machine, source) as code:
        at = code + len(x86(f"push rbx; mov rbx, 3; mov {dst}, 99", code))
        after = at + len(x86(f"mov {dst}, [rdi]", at))
        machine.kernel.extable[at] = (after, dst)
        try:
            return machine.kernel.cpu.call(code, addr) - 3, 3
        finally:
            del machine.kernel.extable[at]


@pytest.mark.parametrize("dst", ["rax", "rcx", "r9"])
def test_faulting_loads_read_zero(machine: Machine, dst: str) -> None:
    good = machine.kernel.alloc.kmalloc(8)
    machine.kernel.memory.put_u64(good, 1234)
    assert probe_read(machine, good, dst=dst) == (1234, 3)
    for bad in (0, 0x10, 0xFFFF_F000_0000_0000, good - (1 << 40)):
        assert probe_read(machine, bad, dst=dst) == (0, 3)


def test_a_load_that_faults_many_times(machine: Machine) -> None:
    """In a loop, resumed each time, with the flags and registers of the loop intact."""
    source = "mov ecx, 500; xor eax, eax; x: mov rdx, [rdi]; add rax, rdx; add rax, 1; dec ecx; jne x; ret"
    with kernel_code(machine, source) as code:
        at = code + len(x86("mov ecx, 500; xor eax, eax", code))
        machine.kernel.extable[at] = (at + 3, "rdx")
        assert machine.kernel.cpu.call(code, 0) == 500
        del machine.kernel.extable[at]


# CPUs.


def test_each_cpu_has_its_own_data() -> None:
    with Machine.boot(cpus=3) as machine:
        kernel, cpu = machine.kernel, machine.kernel.cpu
        offset = kernel.data["cpu_number"]
        with kernel_code(machine, f"mov rax, {offset}; mov eax, gs:[rax]; ret") as code:
            for number in (0, 2, 1, 0):
                machine.cpu.set_cpu(number)
                assert cpu.this_cpu == number
                assert cpu.call(code) == number


def test_per_cpu_maps_by_program(engine: bool) -> None:
    with Machine.boot(cpus=2) as machine:
        bpf = Bpf(machine.process())
        counters = bpf.map_create(6, 4, 8, 1)
        text = assemble("r1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\n")
        rest = assemble(
            "call 1\nif r0 == 0 goto pc+3\nr1 = *(u64 *)(r0 +0)\nr1 += 1\n*(u64 *)(r0 +0) = r1\nr0 = 0\nexit"
        )
        prog = bpf.prog_load(6, [*text, *BPF_LD_MAP_FD(BPF_REG_1, counters), *rest])[0]
        machine.use_engine(jit=engine)
        for number, runs in ((0, 3), (1, 5)):
            machine.cpu.set_cpu(number)
            bpf.prog_test_run(prog, bytes(64), repeat=runs)
        values = bpf.map_lookup(counters, bytes(4), 16)
        assert values == (3).to_bytes(8, "little") + (5).to_bytes(8, "little")


def test_a_cpu_is_switched_between_runs_only(probe: Callable[..., None], machine: Machine) -> None:
    probe(LEAVING, lambda kernel, *_: machine.cpu.set_cpu(1) or 0)
    with pytest.raises(RuntimeError, match="between runs"):
        run_kernel(machine, f"mov rax, {machine.kernel.text.symbol(LEAVING)}; call rax; ret")


@pytest.mark.parametrize("cpus", [0, 17])
def test_bad_numbers_of_cpus(cpus: int) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        Machine.boot(cpus=cpus)


# Observers.


def test_observers_come_and_go(machine: Machine) -> None:
    seen: list[int] = []
    with kernel_code(machine, "mov rax, rdi; inc rax; ret") as code:
        call = machine.kernel.cpu.call
        assert call(code, 1) == 2
        hook = machine.cpu.observe_code(seen.append, code, code + 7)
        assert call(code, 1) == 2
        assert seen == [code, code + 3, code + 6]
        machine.cpu.unobserve(hook)
        assert call(code, 1) == 2
        assert len(seen) == 3


def test_an_observers_exception_reaches_the_caller(machine: Machine) -> None:
    def fail(_addr: int) -> None:
        raise ZeroDivisionError

    with kernel_code(machine, "mov rax, rdi; ret") as code:
        hook = machine.cpu.observe_code(fail, code, code + 4)
        with pytest.raises(ZeroDivisionError):
            machine.kernel.cpu.call(code, 1)
        machine.cpu.unobserve(hook)
        assert machine.kernel.cpu.call(code, 1) == 1
