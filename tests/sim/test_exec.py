# SPDX-License-Identifier: GPL-2.0-only
"""Programs in ring 3: loading, system calls, and what happens to those that go wild."""

from __future__ import annotations

import struct
from importlib import resources

import pytest
from machine_tools import CODE, DATA, EXIT, elf

import sim.exec
from sim import Machine
from sim.hardware.guest_fault import GuestFault
from sim.userspace.image import ImageError, parse_image


def run(machine: Machine, source: str, **more: bytes) -> int:
    """The exit code of a program in assembler."""
    code = machine.exec(elf(source, **more)).exit_code
    assert code is not None
    return code


def wild(machine: Machine, source: str) -> GuestFault:
    """The fault that a program ends in; the machine goes on."""
    with pytest.raises(GuestFault) as caught:
        machine.exec(elf(source))
    assert run(machine, "mov edi, 5; mov eax, 60; syscall") == 5
    return caught.value


def test_the_controller(machine: Machine, engine: bool) -> None:
    """The bundled program: map, program, test run, lookup; all by its own system calls."""
    machine.kernel.sysctl.write("net/core/bpf_jit_enable", str(int(engine)))
    data = resources.files("guests").joinpath("controller.elf").read_bytes()
    process = machine.exec(data, ["controller"])
    assert process.exit_code == 0, process.stdout
    assert process.stdout
    assert len(machine.kernel.maps) == len(machine.kernel.progs) == 0


def test_what_a_program_finds(machine: Machine) -> None:
    """argc, argv and the auxiliary vector lie on an aligned stack, registers are clear."""
    words = 15
    source = f"""
        mov rdx, {8 * words}
        mov rsi, rsp
        mov edi, 1
        mov eax, 1
        syscall
        mov rdi, rbp
        or rdi, rbx
        mov eax, 60
        syscall
    """
    process = machine.exec(elf(source), ["name", "second"], uid=7)
    assert process.exit_code == 0
    stack = struct.unpack(f"<{words}Q", process.stdout)
    assert stack[0] == 2
    assert stack[3:5] == (0, 0)
    auxv = dict(zip(stack[5::2], stack[6::2], strict=False))
    assert auxv[6] == 4096
    assert auxv[9] == CODE
    assert auxv[11] == 7
    assert stack[1] % 16 != 1 and stack[2] == stack[1] + len("name") + 1


def test_memory_of_a_program(machine: Machine) -> None:
    """mmap, and the stack far below its top."""
    source = f"""
        mov eax, 9; xor edi, edi; mov esi, 8192; mov edx, 3; mov r10d, 0x22; mov r8, -1; xor r9d, r9d
        syscall
        mov byte ptr [rax + 8191], 41
        mov byte ptr [rsp - 1000000], 1
        movzx eax, byte ptr [rax + 8191]
        add al, [rsp - 1000000]
        {EXIT}
    """
    assert run(machine, source) == 42


def test_the_data_segment(machine: Machine) -> None:
    code = f"mov rax, {DATA}; add byte ptr [rax], 1; movzx eax, byte ptr [rax]; {EXIT}"
    assert machine.exec(elf(code, b"\x2a")).exit_code == 43


def test_heap(machine: Machine) -> None:
    source = f"""
        mov eax, 12; xor edi, edi; syscall
        mov rbx, rax
        lea rdi, [rax + 10000]; mov eax, 12; syscall
        mov byte ptr [rbx + 9999], 7
        movzx eax, byte ptr [rbx + 9999]
        {EXIT}
    """
    assert run(machine, source) == 7


def test_registers_survive_system_calls(machine: Machine) -> None:
    """All but rax, rcx (the return address) and r11 (the flags); SSE and x87 state, too."""
    saved = ("rbx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r12", "r13", "r14", "r15")
    source = "".join(f"mov {reg}, {number};" for number, reg in enumerate(saved, 1))
    source += (
        "movq xmm0, rdx; movq xmm15, rbx; fld1; fldpi; stc; mov eax, 39; syscall; setc al; movzx eax, al;"
    )
    source += "faddp; sub rsp, 8; fstp qword ptr [rsp]; pop rcx; shr rcx, 52;"
    source += "cmp rcx, 0x401; sete cl; movzx ecx, cl; add eax, ecx;"
    source += "".join(f"add rax, {reg};" for reg in saved)
    source += f"movq rcx, xmm0; add rax, rcx; movq rcx, xmm15; add rax, rcx; {EXIT}"
    assert run(machine, source) == sum(range(1, 13)) + 1 + 1 + 2 + 1


def test_registers_survive_page_faults(machine: Machine) -> None:
    """Demand-zero pages appear in the middle of a string instruction."""
    source = f"""
        mov eax, 9; xor edi, edi; mov esi, 65536; mov edx, 3; mov r10d, 0x22; mov r8, -1; xor r9d, r9d
        syscall
        mov rdi, rax; mov rbx, rax; mov eax, 0x5a; mov ecx, 65536; rep stosb
        movzx eax, byte ptr [rbx + 65535]
        {EXIT}
    """
    assert run(machine, source) == 0x5A


def test_output_is_collected(machine: Machine) -> None:
    text = "0x6f6c6c6568"
    process = machine.exec(
        elf(
            f"mov rax, {text}; push rax; mov eax, 1; mov edi, 2; mov rsi, rsp; mov edx, 5; syscall;"
            "mov edi, 0; mov eax, 60; syscall"
        )
    )
    assert process.stdout == b"hello"


WILD = {
    "reads nowhere": ("mov rax, [rdi + 16]", "page fault", 16),
    "reads the kernel": ("mov rax, 0xffffffff81000000; mov rax, [rax]", "page fault", 0xFFFF_FFFF_8100_0000),
    "reads the direct map": (
        "mov rax, 0xffff888000000000; mov rax, [rax]",
        "page fault",
        0xFFFF_8880_0000_0000,
    ),
    "writes its code": (f"mov rax, {CODE}; mov [rax], rax", "page fault", CODE),
    "runs its stack": ("mov rax, rsp; jmp rax", "page fault", None),
    "jumps into the kernel": ("mov rax, 0xffffffff81000000; jmp rax", "page fault", 0xFFFF_FFFF_8100_0000),
    "is not canonical": ("mov rax, 0x8000000000000000; mov rax, [rax]", "general protection fault", None),
    "halts": ("hlt", "general protection fault", None),
    "disables interrupts": ("cli", "general protection fault", None),
    "loads CR3": ("mov cr3, rax", "general protection fault", None),
    "reads CR0": ("mov rax, cr0", "general protection fault", None),
    "writes an MSR": ("wrmsr", "general protection fault", None),
    "swaps GS": ("swapgs", "general protection fault", None),
    "reads a port": ("nop; in al, dx", "general protection fault", None),
    "reads a port before a system call": (
        "in al, dx; mov eax, 39; syscall",
        "general protection fault",
        None,
    ),
    "writes a port": ("nop; out dx, eax", "general protection fault", None),
    "enters by sysenter": ("nop; sysenter", "general protection fault", None),
    "returns by sysret": ("sysret", "general protection fault", None),
    "loads a kernel selector": ("mov eax, 0x10; mov ds, eax", "general protection fault", None),
    "divides by zero": ("xor ecx, ecx; div rcx", "divide error", None),
    "is undefined": ("ud2", "invalid opcode", None),
    "uses AVX": ("vaddps ymm0, ymm1, ymm2", "invalid opcode", None),
    "breaks": ("int3", "breakpoint", None),
    "calls int 0x80": ("int 0x80", "vector 128", None),
}


@pytest.mark.parametrize("name", WILD)
def test_wild_programs(machine: Machine, name: str) -> None:
    source, kind, addr = WILD[name]
    fault = wild(machine, source)
    assert fault.user
    assert fault.kind == kind
    assert CODE <= fault.rip < CODE + 64 or name in ("runs its stack", "jumps into the kernel")
    if addr is not None:
        assert fault.addr == addr
    assert fault.registers["rip"] == fault.rip
    assert fault.blocks, "found by running it again"
    assert "last basic blocks" in fault.details()


def test_the_process_of_a_wild_program_is_gone(machine: Machine) -> None:
    """Its memory and descriptors are free."""
    run(machine, "mov edi, 0; mov eax, 60; syscall")
    used = machine._pages.used
    wild_pid = machine.process().pid + 1
    used = machine._pages.used
    fault = wild(machine, "ud2")
    assert fault.user
    assert wild_pid not in machine.kernel.tasks
    assert machine._pages.used == used


def test_reports_are_the_same_each_time() -> None:
    """An endless loop is reported at the same instruction, however long the host let it run."""
    source = "xor eax, eax; x: inc rax; test al, 1; je y; inc rbx; y: jmp x"
    faults = []
    for watchdog in (0.1, 0.1, 0.25):
        with Machine.boot(watchdog=watchdog) as machine:
            faults.append(wild(machine, source))
    assert {fault.kind for fault in faults} == {"runaway guest (budget used up)"}
    assert len({(fault.rip, fault.registers["rax"], tuple(fault.blocks)) for fault in faults}) == 1


def test_a_runaway_behind_system_calls() -> None:
    """The repetition goes through the same system calls, and leaves the same machine."""
    source = "mov ebx, 5; x: mov eax, 39; syscall; dec ebx; jne x; y: inc rax; jmp y"
    states = []
    for _ in range(2):
        with Machine.boot(watchdog=0.1) as machine:
            fault = wild(machine, source)
            states.append((fault.registers["rax"], machine.clock.now(), machine.digest()))
    assert states[0] == states[1]


def test_endless_system_calls_are_ended(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(sim.exec, "STAYS_LIMIT", 500)
    with pytest.raises(GuestFault, match="runaway"):
        machine.exec(elf("x: mov eax, 39; syscall; jmp x"))


def test_backtrace_of_a_program(machine: Machine) -> None:
    """By frame pointers, with the program's own symbols when it has them."""
    data = bytearray(resources.files("guests").joinpath("controller.elf").read_bytes())
    image = parse_image(bytes(data), "controller")
    names = {name: addr for name, addr, _ in image.symbols}
    segment = next(s for s in image.segments if s.vaddr <= image.entry < s.vaddr + len(s.data))
    at = bytes(data).index(segment.data[image.entry - segment.vaddr :][:16])
    data[at : at + 2] = b"\x0f\x0b"
    with pytest.raises(GuestFault) as caught:
        machine.exec(bytes(data), ["controller"])
    name = next(name for name, addr in names.items() if addr == image.entry)
    assert caught.value.backtrace[0] == f"{name}+0x0"
    fault = wild(machine, "push rbp; mov rbp, rsp; call x; ud2; x: push rbp; mov rbp, rsp; ud2")
    assert fault.backtrace == (f"{fault.rip:#x}", f"{CODE + 9:#x}")


def test_code_is_forgotten_with_its_process(machine: Machine) -> None:
    """Programs at the same addresses, one after the other, in the same frames."""
    for number in range(20):
        assert run(machine, f"mov edi, {number}; mov eax, 60; syscall") == number


def test_bad_files(machine: Machine) -> None:
    used = machine._pages.used
    good = elf("ud2")
    for bad in (b"", b"\x7fELF", good[:100], good[:4] + b"\1" + good[5:], b"MZ" + good[2:]):
        with pytest.raises(ImageError):
            machine.exec(bad)
    assert machine._pages.used == used
    assert machine.kernel.tasks == {}


def test_no_memory_left() -> None:
    """A program that touches more than there is is killed; the machine goes on."""
    with Machine.boot(ram=64 << 20) as machine:
        source = """
            mov eax, 9; xor edi, edi; mov rsi, 0x10000000; mov edx, 3
            mov r10d, 0x22; mov r8, -1; xor r9d, r9d
            syscall
            x: mov byte ptr [rax], 1; add rax, 4096; jmp x
        """
        fault = wild(machine, source)
        assert "no memory" in fault.kind


# Nothing of the host is to be seen.


def test_time_is_the_machines(machine: Machine) -> None:
    source = (
        "rdtsc; shl rdx, 32; or rax, rdx; mov rbx, rax; rdtscp; shl rdx, 32; or rax, rdx; sub rax, rbx; "
        + EXIT
    )
    assert run(machine, source) == 1, "a nanosecond later"
    before = machine.clock.now()
    assert run(machine, "rdtsc; " + EXIT) == (before + 1) % 256


@pytest.mark.parametrize(
    "form", ["rdrand rax", "rdrand ax", "rdrand eax", "rdrand r13", ".byte 0x48, 0x0f, 0xc7, 0xf8"]
)
def test_randomness_is_the_machines(form: str) -> None:
    """rdrand and rdseed give the same words in machines of the same seed, others in others."""
    results = []
    for seed in (1, 1, 2, 3, 4):
        with Machine.boot(seed=seed) as machine:
            source = f"""
                mov eax, 0x11111111; mov r13, rax
                {form}
                setc bl; push r13; push rax
                mov eax, 1; mov edi, 1; mov rsi, rsp; mov edx, 16; syscall
                movzx eax, bl
                {EXIT}
            """
            process = machine.exec(elf(source))
            assert process.exit_code == 1, "the carry flag tells that there was a word"
            results.append(process.stdout)
    assert results[0] == results[1]
    assert len(set(results)) == 4
    rax, r13 = struct.unpack("<2Q", results[0])
    expected = {
        "rdrand ax": rax >> 16 == 0x1111,
        "rdrand eax": rax < 1 << 32,
        "rdrand r13": rax == 0x11111111,
    }
    assert expected.get(form, r13 == 0x11111111)


def test_cpuid_hides_randomness(machine: Machine) -> None:
    assert run(machine, "mov eax, 1; cpuid; shr ecx, 30; and ecx, 1; mov eax, ecx; " + EXIT) == 0
    assert (
        run(machine, "mov eax, 7; xor ecx, ecx; cpuid; shr ebx, 18; and ebx, 1; mov eax, ebx; " + EXIT) == 0
    )
    assert run(machine, "mov eax, 1; cpuid; shr ecx, 27; and ecx, 3; mov eax, ecx; " + EXIT) == 0, (
        "no OSXSAVE, no AVX"
    )


def test_traps_end_with_the_program(machine: Machine) -> None:
    """Another program at the same addresses runs without being looked at."""
    machine.exec(elf("rdrand rax; " + EXIT))
    assert not machine.cpu.watches_user_code
    with pytest.raises(GuestFault):
        machine.exec(elf("rdrand rax; ud2"))
    assert not machine.cpu.watches_user_code


def test_a_fault_leaves_nothing_for_the_next_program(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first exception after a program that went wild is that exception, not a double fault."""
    with pytest.raises(GuestFault):
        machine.exec(elf("sti"))
    monkeypatch.setattr(machine.cpu, "repeating", lambda _budget: pytest.fail("it went wild"))
    assert machine.exec(elf("rdtsc; rdtsc; " + EXIT)).exit_code is not None
