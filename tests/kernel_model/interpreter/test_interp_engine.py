# SPDX-License-Identifier: GPL-2.0-only
"""Calls, tail calls, frames, faults and observers of the interpreter."""

from __future__ import annotations

import gc
import itertools
import pickle
import weakref
from collections.abc import Callable

import pytest
from fake_memory import DATA, STACK_TOP, FakeMemory

from kernel_model.errors import KernelError, MemoryFault, NotModelled
from kernel_model.interpreter import BudgetSpent, Interpreter, InterpreterFault, Program, Regs
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_EMIT_CALL, BPF_LD_FUNC, BPF_MOV64_PERCPU_REG, BPF_RETURN, program
from kernel_model.isa.native import NativeRequest, Subprog
from kernel_model.isa.opcodes import MAX_TAIL_CALL_CNT

BASE = 0xFFFFFFFF81400000
SYMBOLS = {"__bpf_call_base": BASE}
TAIL_CALL = "tail_call 0"
M64 = (1 << 64) - 1


def functions(
    text: str, *starts: int, frames: tuple[int, ...] = (), name: str = "", **more: object
) -> Program:
    """A program whose functions begin at slots 0 and ``starts``."""
    insns = assemble(text)
    bounds = [0, *starts, len(insns)]
    subprogs = tuple(Subprog(a, b) for a, b in itertools.pairwise(bounds))
    sizes = frames or (0,) * len(subprogs)
    return Program(tuple(insns), subprogs, sizes, SYMBOLS, name=name, **more)  # type: ignore[arg-type]


def run(
    bpf: Program,
    *args: int,
    memory: FakeMemory | None = None,
    call: Callable[..., int] | None = None,
    tail_call: Callable[[int, int, int], Program | None] | None = None,
    this_cpu_off: Callable[[], int] | None = None,
    **options: object,
) -> int:
    engine = Interpreter(memory or FakeMemory(), call, tail_call, this_cpu_off)
    return engine.run(bpf, args, STACK_TOP, **options)  # type: ignore[arg-type]


# ---- calls of kernel functions ----------------------------------------------------------------


def test_helper_gets_address_and_arguments() -> None:
    seen = []

    def helper(*args: int) -> int:
        seen.append(args)
        return 0x1_2345_6789_ABCD_EF01_2345

    bpf = functions("r1 = 1\nr2 = -2\nr3 = 3\nr4 = 4\nr5 = 5\ncall 4096\nexit")
    assert run(bpf, call=helper) == 0x6789_ABCD_EF01_2345
    assert seen == [(BASE + 4096, STACK_TOP, 1, M64 - 1, 3, 4, 5)]


def test_helper_below_the_call_base_and_negative_result() -> None:
    seen = []
    bpf = functions("call -16\nexit")
    assert run(bpf, call=lambda addr, *args: seen.append(addr) or -22) == M64 - 21  # type: ignore[func-returns-value]
    assert seen == [BASE - 16]


def test_kfunc_is_called_like_a_helper() -> None:
    bpf = Program.of([Insn(0x85, 0, 2, 0, 8), *BPF_RETURN(1)[1:]], SYMBOLS)
    assert run(bpf, call=lambda addr, *args: addr) == BASE + 8


def test_registers_survive_helpers() -> None:
    bpf = functions("r6 = 6\nr9 = 9\ncall 0\nr0 = r6\nr0 += r9\nexit")
    assert run(bpf, call=lambda *args: 77) == 15


@pytest.mark.parametrize("error", [KernelError(12, "no memory"), MemoryFault(5, "read"), RuntimeError("own")])
def test_exceptions_of_helpers_pass_whole(error: Exception) -> None:
    def helper(*args: int) -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        run(functions("call 0\nexit"), call=helper)
    assert caught.value is error


def test_without_callbacks_calls_are_not_modelled() -> None:
    for text in ("call 0\nexit", f"{TAIL_CALL}\nexit", "r1 = &(void __percpu *)(r2)\nexit"):
        with pytest.raises(NotModelled):
            run(functions(text))


def test_helper_may_run_a_callback() -> None:
    """A helper in emulated text calls back a function of the same program, on a frame of its own."""
    bpf = functions(
        "r6 = 1\nr1 = func callback\ncall 0\nr0 += r6\nexit\n"
        "callback: *(u64 *)(r10 -8) = 5\nr6 = 100\nr0 = *(u64 *)(r10 -8)\nr0 += r1\nr0 += r5\nexit",
        6,
        func_addrs=(0x1000, 0x2000),
    )
    engine: Interpreter

    def helper(addr: int, stack: int, callback: int, *args: int) -> int:
        assert callback == 0x2000
        return engine.call_back(bpf, 1, (10, 0, 0, 0, 20), stack - 256)

    engine = Interpreter(FakeMemory(), helper)
    assert engine.run(bpf, (), STACK_TOP) == 36


def test_function_address_without_addresses_is_not_modelled() -> None:
    with pytest.raises(NotModelled, match="callback"):
        run(functions("r1 = func f\nexit\nf: exit", 3))
    with pytest.raises(ValueError, match="no function"):
        run(functions("r1 = func pc+1\ncall f\nexit\nf: r0 = 0\nexit", 4))
    # A program of one function has nothing that an address could be put in for.
    assert run(Program.of(program(BPF_LD_FUNC(0, 7), BPF_RETURN(0)[1:]), SYMBOLS)) == 7


def test_per_cpu_address() -> None:
    bpf = Program.of(program(assemble("r2 = -16"), BPF_MOV64_PERCPU_REG(0, 2), assemble("exit")))
    assert run(bpf, this_cpu_off=lambda: 0x1000) == 0xFF0


def test_timed_may_goto_keeps_r0_to_r5() -> None:
    symbols = {**SYMBOLS, "arch_bpf_timed_may_goto": BASE + 64, "bpf_check_timed_may_goto": BASE + 128}
    text = "r0 = 1\nr1 = 2\nr11 = -16\ncall 64\nr0 += r1\nr0 += r11\nexit"
    seen = []

    def check(addr: int, stack: int, pointer: int, *args: int) -> int:
        seen.append((addr, pointer))
        return 40

    bpf = Program.of(assemble(text), symbols)
    assert run(bpf, call=check) == 43
    assert seen == [(BASE + 128, STACK_TOP - 16)]


# ---- frames -------------------------------------------------------------------------------------


def test_frames_lie_where_the_jit_puts_them() -> None:
    text = "r1 = r10\ncall f\nexit\nf: r2 = r10\ncall g\nexit\ng: r0 = r10\nexit"
    bpf = functions(text, 3, 6, frames=(40, 8, 0))
    assert run(bpf) == STACK_TOP - (40 + 16) - (8 + 16)


def test_frames_on_a_private_stack() -> None:
    """R10 is this CPU's copy of the memory, above its guard; calls go on where the machine's stack is."""
    insns = tuple(assemble("call f\nexit\nf: r6 = r10\ncall g\nr6 -= r0\nr0 = r6\nexit\ng: r0 = r10\nexit"))
    subprogs = (Subprog(0, 2), Subprog(2, 7, 100, private_stack=0x1000), Subprog(7, 9))
    bpf = Program(insns, subprogs, (40, 8, 0), SYMBOLS)
    top = 0x1000 + 8 + 104 + 0x50_0000
    # Between the two functions lie the frame of 8 bytes, the pushed r9, return address and rbp.
    expected = (top - (STACK_TOP - (40 + 16) - (8 + 8 + 16))) & (1 << 64) - 1
    assert run(bpf, this_cpu_off=lambda: 0x50_0000) == expected


def test_arguments_and_entry() -> None:
    bpf = functions("exit\nf: r0 = r1\nr0 -= r5\nexit", 1)
    assert run(bpf, 9, 0, 0, 0, 4, entry=1) == 5
    assert run(bpf, 9, entry=1) == 9
    with pytest.raises(ValueError, match="hold five"):
        run(bpf, 1, 2, 3, 4, 5, 6)


def test_program_from_request() -> None:
    insns = tuple(assemble("r0 = 3\nexit"))
    request = NativeRequest(insns, (Subprog(0, 2),), SYMBOLS, {})
    assert run(Program.from_request(request, (8,), name="p")) == 3
    with pytest.raises(ValueError, match="frame sizes"):
        Program.from_request(request, ())


# ---- tail calls ---------------------------------------------------------------------------------


def test_tail_call_replaces_the_program() -> None:
    target = functions("r0 = r10\nr0 -= r1\nexit")
    asked = []

    def lookup(ctx: int, map_addr: int, index: int) -> Program:
        asked.append((ctx, map_addr, index))
        return target

    caller = functions(f"r2 = 0xffff888000001000 ll\nr3 = -3\n{TAIL_CALL}\nr0 = 1\nexit")
    assert run(caller, 0x55, tail_call=lookup) == STACK_TOP - 0x55
    assert asked == [(0x55, 0xFFFF888000001000, 0xFFFFFFFD)], "the index is 32 bits"


def test_tail_call_to_an_empty_slot_falls_through() -> None:
    assert run(functions(f"{TAIL_CALL}\nr0 = 7\nexit"), tail_call=lambda *args: None) == 7


def test_tail_call_limit() -> None:
    memory = FakeMemory({DATA: bytes(8)})
    text = f"r2 = *(u64 *)(r1 +0)\nr2 += 1\n*(u64 *)(r1 +0) = r2\n{TAIL_CALL}\nr0 = *(u64 *)(r1 +0)\nexit"
    bpf = functions(text)
    for _ in range(2):
        memory.put_u64(DATA, 0)
        assert run(bpf, DATA, memory=memory, tail_call=lambda *args: bpf) == MAX_TAIL_CALL_CNT + 1


def test_tail_call_in_a_function_returns_to_its_caller() -> None:
    target = functions("r0 = 5\nr6 = 99\nexit")
    text = f"r6 = 100\ncall f\nr0 += r6\nexit\nf: {TAIL_CALL}\nr0 = 1\nexit"
    assert run(functions(text, 4, frames=(8, 0)), tail_call=lambda *args: target) == 105


def test_tail_call_count_is_shared_with_functions() -> None:
    """Each of two functions calls itself by tail calls; together they get the one limit."""
    memory = FakeMemory({DATA: bytes(8)})
    step = "r2 = *(u64 *)(r1 +0)\nr2 += 1\n*(u64 *)(r1 +0) = r2\n"
    again = functions(f"{step}{TAIL_CALL}\nr0 = 0\nexit")
    main = functions(
        f"r6 = r1\ncall f\nr1 = r6\ncall f\nr0 = *(u64 *)(r6 +0)\nexit\nf: {TAIL_CALL}\nr0 = 0\nexit", 6
    )
    assert run(main, DATA, memory=memory, tail_call=lambda *args: again) == MAX_TAIL_CALL_CNT


def test_tail_called_program_uses_its_own_frames() -> None:
    target = functions("call f\nexit\nf: r0 = r10\nexit", 2, frames=(64, 0))
    caller = functions(f"{TAIL_CALL}\nexit", frames=(512,))
    assert run(caller, tail_call=lambda *args: target) == STACK_TOP - 64 - 16


# ---- faults -------------------------------------------------------------------------------------


def test_fault_tells_where_and_what() -> None:
    bpf = functions("r6 = 6\nr1 = 0x1000\nr0 = *(u32 *)(r1 +4)\nexit", name="reader")
    with pytest.raises(InterpreterFault) as caught:
        run(bpf)
    fault = caught.value
    assert (fault.program, fault.slot, fault.addr, fault.kind) == (bpf, 2, 0x1004, "read")
    assert fault.regs == (0, 0x1000, 0, 0, 0, 0, 6, 0, 0, 0, STACK_TOP)
    assert isinstance(fault.__cause__, MemoryFault)
    assert str(fault) == "reader: read fault at 0x1004, instruction 2"


def test_fault_in_a_function_and_after_a_tail_call() -> None:
    target = functions("exit\nnever: exit", 1)
    bad = functions("call f\nexit\nf: r3 = 8\n*(u8 *)(r3 +0) = 1\nexit", 2, frames=(32, 0))
    with pytest.raises(InterpreterFault) as caught:
        run(functions(f"{TAIL_CALL}\nexit"), tail_call=lambda *args: bad)
    assert (caught.value.program, caught.value.slot, caught.value.kind) == (bad, 3, "write")
    assert caught.value.regs[10] == STACK_TOP - 48
    assert run(functions(f"{TAIL_CALL}\nexit"), tail_call=lambda *args: target) == 0


def test_write_to_read_only_memory() -> None:
    memory = FakeMemory({DATA: bytes(8)})
    memory.read_only.add(DATA)
    for text in (
        "*(u8 *)(r1 +0) = 1",
        "lock *(u64 *)(r1 +0) += r1",
        "r0 = atomic64_cmpxchg((u64 *)(r1 +0), r0, r1)",
        "r0 = -1\nr0 = atomic_cmpxchg((u32 *)(r1 +0), r0, r1)",
    ):
        with pytest.raises(InterpreterFault, match="write fault"):
            run(functions(f"{text}\nexit"), DATA, memory=memory)


def test_address_wraps_to_64_bits() -> None:
    memory = FakeMemory({DATA: b"\x2a" + bytes(7)})
    bpf = functions(f"r1 = {(DATA - 100) & M64:#x} ll\nr0 = *(u8 *)(r1 +100)\nexit")
    assert run(bpf, memory=memory) == 42
    with pytest.raises(InterpreterFault) as caught:
        run(functions("r1 = -1\nr0 = *(u8 *)(r1 +5)\nexit"))
    assert caught.value.addr == 4


# ---- observing ----------------------------------------------------------------------------------


def observe(bpf: Program, *args: int, **more: object) -> list[tuple[str, int, Regs]]:
    seen: list[tuple[str, int, Regs]] = []
    run(bpf, *args, observer=lambda program, slot, regs: seen.append((program.name, slot, regs)), **more)  # type: ignore[arg-type]
    return seen


def test_observer_sees_each_instruction_after_it_ran() -> None:
    bpf = functions(
        "r0 = 1\nr1 = 0x123456789a ll\nif r0 == 1 goto over\nr0 = 2\nover: r0 += 1\nexit", name="p"
    )
    seen = observe(bpf, 5)
    assert [slot for _, slot, _ in seen] == [0, 1, 3, 5, 6]
    assert [regs[0] for _, _, regs in seen] == [1, 1, 1, 2, 2]
    assert [regs[1] for _, _, regs in seen] == [5, 0x123456789A, *[0x123456789A] * 3]
    assert {regs[10] for _, _, regs in seen} == {STACK_TOP}


def test_observer_sees_calls_after_their_callee() -> None:
    seen = observe(functions("call f\ncall 0\nexit\nf: r0 = 3\nexit", 3), call=lambda *args: 8)
    assert [(slot, regs[0]) for _, slot, regs in seen] == [(3, 3), (4, 3), (0, 3), (1, 8), (2, 8)]


def test_observer_sees_loops_and_tail_calls() -> None:
    target = functions("r0 = 1\nexit", name="target")
    caller = functions(f"loop: r1 += 1\nif r1 < 3 goto loop\n{TAIL_CALL}\nexit", name="caller")
    seen = observe(caller, 1, tail_call=lambda *args: target)
    assert [(name, slot) for name, slot, _ in seen] == [
        *[("caller", slot) for slot in (0, 1, 0, 1, 2)],
        *[("target", slot) for slot in (0, 1)],
    ]
    assert [slot for _, slot, _ in observe(caller, 9, tail_call=lambda *args: None)] == [0, 1, 2, 3]


def test_faulting_instruction_is_not_observed() -> None:
    seen = []
    with pytest.raises(InterpreterFault):
        run(functions("r0 = 1\nr0 = *(u8 *)(r2 +0)\nexit"), observer=lambda p, slot, regs: seen.append(slot))
    assert seen == [0]


def test_nested_run_keeps_its_own_observer() -> None:
    bpf = functions("call 0\nr0 = 1\nexit\nf: r0 = 2\nexit", 3)
    outer: list[int] = []
    inner: list[int] = []
    engine: Interpreter

    def helper(*args: int) -> int:
        return engine.run(bpf, (), STACK_TOP - 64, entry=1, observer=lambda p, slot, regs: inner.append(slot))

    engine = Interpreter(FakeMemory(), helper)
    engine.run(bpf, (), STACK_TOP, observer=lambda p, slot, regs: outer.append(slot))
    assert (outer, inner) == ([0, 1, 2], [3, 4])


# ---- budget, refusals, state ----------------------------------------------------------------------


def test_budget_ends_a_loop() -> None:
    forever = functions("loop: r0 += 1\ngoto loop")
    with pytest.raises(BudgetSpent):
        run(forever, budget=1000)
    counting = functions("loop: r1 -= 1\nif r1 != 0 goto loop\nexit")
    assert run(counting, 100, budget=201) == 0
    with pytest.raises(BudgetSpent):
        run(counting, 100, budget=200)


def test_budget_counts_functions_and_tail_calls() -> None:
    bpf = functions(f"call f\n{TAIL_CALL}\nexit\nf: r0 = 1\nexit", 3)
    last = functions("r0 = 9\nexit")
    assert run(bpf, budget=6, tail_call=lambda *args: last) == 9
    with pytest.raises(BudgetSpent):
        run(functions("r0 = 1\nr0 = 2\nexit"), budget=2)


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("may_goto pc+0\nexit", "may_goto"),
        ("r0 = *(u8 *)skb[3]\nexit", "LD_ABS_B"),
        ("r0 = *(u32 *)skb[r1 + 3]\nexit", "LD_IND_W"),
        ("r1 = addr_space_cast(r2, 0, 1)\nexit", "arena"),
        ("r1 = *(arena u8 *)(r2 +0)\nexit", "arena"),
        ("*(arena u8 *)(r2 +0) = 1\nexit", "arena"),
        ("lock *(arena u64 *)(r1 +0) += r2\nexit", "arena"),
    ],
)
def test_not_modelled(text: str, feature: str) -> None:
    with pytest.raises(NotModelled, match=feature):
        run(functions(text))


def test_unknown_instructions_are_refused_before_running() -> None:
    seen: list[int] = []
    with pytest.raises(NotModelled, match="slot 1"):
        run(
            Program.of([BPF_EMIT_CALL(0), Insn(0x8D), Insn(0x95)], SYMBOLS),
            call=lambda *args: seen.append(1) or 0,
        )  # type: ignore[func-returns-value]
    assert not seen


def test_flow_errors() -> None:
    for text in ("goto pc+5\nexit", "r0 = 0", "goto pc+1\nr1 = 5 ll\nexit"):
        with pytest.raises(ValueError, match=r"jump|end"):
            run(functions(text))
    with pytest.raises(ValueError, match="no function"):
        run(functions("call pc+5\nexit\nr0 = 0\nexit", 2))


def test_program_pickles_and_code_does_not_keep_it_alive() -> None:
    bpf = functions("r0 = 3\nexit", name="p")
    engine = Interpreter(FakeMemory())
    assert engine.run(bpf, (), STACK_TOP) == 3
    copy = pickle.loads(pickle.dumps(bpf))
    assert (copy.insns, copy.subprogs, copy.name) == (bpf.insns, bpf.subprogs, "p")
    assert engine.run(copy, (), STACK_TOP) == 3
    gone = weakref.ref(bpf)
    del bpf
    gc.collect()
    assert gone() is None


def test_source_is_readable() -> None:
    source = Interpreter(FakeMemory()).source(functions("r0 = r1\nr0 += 5\nexit"))
    assert "r0 = (r0 + 0x5) & 0xFFFFFFFFFFFFFFFF" in source
    assert "observer" not in source and "spend" not in source
