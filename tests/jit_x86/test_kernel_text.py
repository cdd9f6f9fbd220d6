# SPDX-License-Identifier: GPL-2.0-only
"""Building kernel text: symbols, constants, stubs, returns; and what goes wrong with a clear word."""

from __future__ import annotations

import itertools

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from jit_x86.kernel_text import KernelText, Stub, TextError, build_kernel_text
from kernel_model.isa.native import Mitigations
from sim import Machine
from sim.hardware.address_map import KERNEL_TEXT

BASE = 0xFFFF_FFFF_8100_0000
PLAIN, MITIGATED = Mitigations(return_thunk=False), Mitigations(return_thunk=True)
NEEDED = """
ENTRY(__leaf_trap)
	nop
	RET
ENTRY(__leave_trap)
	hlt
ENTRY(__x86_return_thunk)
	ret
	int3
"""


def build(
    source: str, stubs: tuple[Stub, ...] = (), mitigations: Mitigations = PLAIN, **constants: int
) -> KernelText:
    sources = [("needed.S", NEEDED), ("test.S", source)]
    return build_kernel_text(BASE, stubs, constants, mitigations, sources)


def text_of(built: KernelText, name: str) -> list[str]:
    """A symbol's instructions."""
    addr, size = built.symbols[name]
    code = built.code[addr - BASE : addr - BASE + size]
    return [f"{i.mnemonic} {i.op_str}".strip() for i in Cs(CS_ARCH_X86, CS_MODE_64).disasm(code, addr)]


def test_symbols_lie_in_order_without_gaps() -> None:
    built = build(
        "ENTRY(first)\n\tnop\n\tRET\nENTRY(second)\nENTRY_UNALIGNED(inside)\n\txor eax, eax\n\tRET\n"
    )
    places = list(built.symbols.values())
    assert places == sorted(places)
    for (addr, size), (following, _) in itertools.pairwise(places):
        assert addr + size == following
    assert built.symbols["first"][0] % 16 == built.symbols["second"][0] % 16 == 0
    assert built.symbols["inside"][0] == built.symbols["second"][0]
    last, size = places[-1]
    assert last + size == BASE + len(built.code)


def test_constants_are_numbers() -> None:
    source = (
        "ENTRY(f)\n\tmov eax, [rdi + OFF_a_b]\n\tmov ecx, CONST_X\n\tmovabs rdx, SYM_here # CONST_Y\n\tRET\n"
    )
    built = build(source, OFF_a_b=24, CONST_X=7, SYM_here=0x1122334455667788)
    assert text_of(built, "f")[:4] == [
        "mov eax, dword ptr [rdi + 0x18]",
        "mov ecx, 7",
        "movabs rdx, 0x1122334455667788",
        "ret",
    ]


def test_returns_by_mitigation() -> None:
    source = "ENTRY(f)\n\tRET\n"
    assert text_of(build(source), "f")[0] == "ret"
    mitigated = build(source, mitigations=MITIGATED)
    thunk = mitigated.symbols["__x86_return_thunk"][0]
    assert text_of(mitigated, "f")[0] == f"jmp {thunk:#x}"


def test_stubs_carry_their_number() -> None:
    built = build("", (Stub("leaf", False), Stub("leaves", True)))
    for number, (name, trap) in enumerate((("leaf", "__leaf_trap"), ("leaves", "__leave_trap"))):
        first, second = text_of(built, name)[:2]
        assert first == f"mov eax, {number}"
        assert second == f"jmp {built.symbols[trap][0]:#x}"


@pytest.mark.parametrize("reg", ["rax", "rcx", "r11", "r15"])
def test_indirect_thunks(reg: str) -> None:
    assert text_of(build(""), f"__x86_indirect_thunk_{reg}")[0] == f"jmp {reg}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ENTRY(f)\n\tmov eax, OFF_nowhere\n", "test.S:2: unknown constant OFF_nowhere"),
        ("ENTRY(f)\n\tRET\nENTRY(f)\n\tRET\n", "defined twice in kernel text: f"),
    ],
)
def test_errors_name_the_place(source: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        build(source)


def test_a_bad_instruction_is_named() -> None:
    with pytest.raises(ValueError, match="frobnicate"):
        build("ENTRY(f)\n\tfrobnicate eax\n")


# The text of a machine.


def test_the_same_text_each_time() -> None:
    with Machine.boot() as first, Machine.boot() as second:
        assert first.kernel.text.symbols() == second.kernel.text.symbols()


def test_kallsyms_names_what_the_kernel_needs(machine: Machine) -> None:
    symbols = machine.kernel.text.symbols()
    for name in ("__bpf_call_base", "nic_poll", "xdp_do_redirect", "bpf_test_run_loop", "__bpf_prog_run512"):
        assert KERNEL_TEXT <= symbols[name] < KERNEL_TEXT + (2 << 20)


def test_lookup_finds_the_symbol_that_holds_an_address(machine: Machine) -> None:
    text = machine.kernel.text
    for name, addr in text.symbols().items():
        found = text.lookup(addr)
        assert found is not None
        assert text.symbol(found[0]) == addr and found[1] == 0, name
    assert text.lookup(text.symbol("nic_poll") + 5) == ("nic_poll", 5)
    assert text.lookup(0) is None
    assert text.lookup((1 << 64) - 1) is None


def test_images_come_and_go(machine: Machine) -> None:
    """Room is given in cache lines, filled with traps, joined again when free."""
    text = machine.kernel.text
    first, second, third = text.allocate([100, 1, 64])
    assert (second - first, third - second) == (128, 64)
    text.poke(first, b"\x90" * 100)
    text.add_symbol("bpf_prog_x", first, 100)
    text.add_symbol("bpf_prog_x", third, 64)
    assert text.lookup(first + 99) == ("bpf_prog_x", 99)
    assert text.lookup(third) == ("bpf_prog_x.2", 0), "two programs may have one name"
    for addr in (first, third, second):
        text.free(addr)
    assert text.lookup(first) is None
    assert machine.kernel.memory.read(first, 100) == b"\xcc" * 100
    assert text.allocate([100, 1, 64]) == (first, second, third)
    with pytest.raises(KeyError):
        text.free(first + 64)
