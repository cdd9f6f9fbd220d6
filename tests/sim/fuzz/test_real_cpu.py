# SPDX-License-Identifier: GPL-2.0-only
"""The JIT's code on the host's CPU: it agrees, planted differences are found, and the child is caged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from jit_x86.assembler import assemble as assemble_x86
from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from sim.cli.fuzz import fuzz
from sim.fuzz import cage as cages
from sim.fuzz.cage import EXEC, READ, SAVED, WRITE, Cage, CageError, Crash, Region, why_not
from sim.fuzz.campaign import Campaign
from sim.fuzz.casefile import read_case
from sim.fuzz.engines import JIT, REAL, Engines
from sim.fuzz.generator import generate, load_imm64
from sim.fuzz.part import run_case
from sim.fuzz.program import ARRAY, HASH, MAPS, Kind, Program
from sim.fuzz.real_cpu import RealCpu, to_kernel, to_user

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

CODE = Region(0x1100_0000, 4096, READ | EXEC)
DATA = Region(0x0880_0000_0000, 4096, READ | WRITE)
STACK = Region(0x4900_0000_0000, 8192, READ | WRITE)
OTHER = Region(0x0890_0000_0000, 4096, READ | WRITE)


@pytest.fixture(scope="module")
def cage() -> Iterator[Cage]:
    with Cage([CODE, DATA, STACK, OTHER], gs_base=DATA.addr) as made:
        yield made


def run(cage: Cage, text: str, **options: float) -> cages.Answer:
    code = assemble_x86(text, CODE.addr)
    cage.memory(CODE)[: len(code)] = code
    return cage.call(CODE.addr, 5, 6, STACK.addr + STACK.size, **options)


def test_code_runs_and_gives_everything_back(cage: Cage) -> None:
    answer = run(cage, "lea rax, [rdi + rsi*2]\nret")
    assert (answer.rax, answer.saved, answer.rsp_off, answer.diverged) == (17, SAVED, 0, None)


def test_memory_is_shared_and_gs_points_into_it(cage: Cage) -> None:
    cage.memory(DATA)[8:16] = (77).to_bytes(8, "little")
    assert run(cage, "mov rax, gs:[riz*1 + 8]\nadd qword ptr gs:[riz*1 + 8], 1\nret").rax == 77
    assert cage.memory(DATA)[8] == 78


def test_registers_that_are_not_restored_show(cage: Cage) -> None:
    assert run(cage, "mov rbx, 3\nret").saved == SAVED | {"rbx": 3}


SYSCALLS = {
    "openat": "mov eax, 257\nmov edi, -100\nmovabs rsi, 0x88000000000\nxor edx, edx",
    "open": "mov eax, 2\nmovabs rdi, 0x88000000000\nxor esi, esi",
    "socket": "mov eax, 41\nmov edi, 2\nmov esi, 1\nxor edx, edx",
    "mmap": "mov eax, 9\nxor edi, edi\nmov esi, 4096\nmov edx, 7\nmov r10d, 0x22\nmov r8, -1\nxor r9d, r9d",
    "mprotect": "mov eax, 10\nmovabs rdi, 0x88000000000\nmov esi, 4096\nmov edx, 7",
    "fork": "mov eax, 57",
    "execve": "mov eax, 59",
    "kill": "mov eax, 62\nmov edi, 1\nxor esi, esi",
    "ptrace": "mov eax, 101",
    "bpf": "mov eax, 321",
    "write to another descriptor": "mov eax, 1\nmov edi, 2\nmovabs rsi, 0x88000000000\nmov edx, 1",
    "read from another descriptor": "xor eax, eax\nmov edi, 3\nmovabs rsi, 0x88000000000\nmov edx, 1",
    "32-bit system call": "mov eax, 1\nint 0x80",
    "x32 system call": "mov eax, 0x40000001\nmov edi, 1",
}


@pytest.mark.parametrize("what", SYSCALLS)
def test_system_calls_kill_the_child(what: str, cage: Cage, tmp_path: Path) -> None:
    name = str(tmp_path / "f").encode() + b"\0"
    cage.memory(DATA)[: len(name)] = name
    with pytest.raises(Crash, match="killed by SIGSYS"):
        run(cage, SYSCALLS[what] + "\nsyscall\nret")
    assert run(cage, "mov eax, 1\nret").rax == 1


FAULTS = {
    "xor eax, eax\nmov [rax], rax\nret": "SIGSEGV at 0x0, RIP 0x11000002",
    "mov rax, -8\nmov [rax], rax\nret": "SIGSEGV",
    "movabs rax, 0x90000000000\nmov [rax], rax\nret": "SIGSEGV at 0x90000000000",
    "mov eax, 0x11000000\nmov [rax], rax\nret": "SIGSEGV at 0x11000000",
    "movabs rax, 0x88000000000\njmp rax": "SIGSEGV at 0x88000000000",
    "again: push rax\njmp again": "SIGSEGV",
    "mov rsp, 0\npush rax": "SIGSEGV",
    "xor edx, edx\nxor ecx, ecx\ndiv ecx": "SIGFPE",
    "int3": "SIGTRAP",
    "ud2": "SIGILL",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_told_and_the_child_starts_again(text: str, cage: Cage) -> None:
    cage.memory(OTHER)[:8] = b"stays so"
    with pytest.raises(Crash, match=re.escape(FAULTS[text])):
        run(cage, text)
    starts = cage.starts
    assert run(cage, "mov eax, 1\nret").rax == 1
    assert cage.starts == starts + 1
    assert cage.memory(OTHER)[:8] == b"stays so"


def test_an_endless_loop_is_ended(cage: Cage) -> None:
    with pytest.raises(Crash, match="no end after"):
        run(cage, "again: jmp again", cpu_seconds=0.05)
    assert run(cage, "mov eax, 1\nret").rax == 1


def test_limits_of_the_child(cage: Cage) -> None:
    run(cage, "ret")
    assert cage._child is not None
    proc = Path(f"/proc/{cage._child.pid}")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", (proc / "status").read_text(), re.MULTILINE))
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    limits = dict(re.findall(r"^(.*?) {2,}(\d+)", (proc / "limits").read_text(), re.MULTILINE))
    for name in ("Max core file size", "Max open files", "Max file size"):
        assert limits[name] == "0"
    assert 0 < int(limits["Max cpu time"]) <= 60
    mapped = (proc / "maps").read_text().splitlines()
    assert any(line.startswith("11000000-") for line in mapped)
    assert not [line for line in mapped if "memfd" in line and re.search(r"\S+ .?wx", line)]


def test_a_place_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cages, "_START_SECONDS", 5.0)
    with Cage([Region(cages.CONTROL, 4096, READ)]) as second, pytest.raises(CageError, match="mapping"):
        second.call(0, 0, 0, 0)


# Programs


def test_addresses_go_there_and_back() -> None:
    for addr in (0xFFFF_8880_0123_4560, 0xFFFF_C900_0000_4FB0, 0xFFFF_FFFF_C000_0180, 0xFFFF_FFFF_8100_03C0):
        moved = to_user(addr)
        assert 0x1000_0000 <= moved < 1 << 47
        assert to_kernel(moved) == addr
    assert to_user(2**64 - 2**31) == 2**64 - 2**31
    assert to_user(12345) == 12345


def test_a_fixed_sample_agrees() -> None:
    report = Campaign(seed=0, count=250, real_cpu=True).run()
    assert [found.text for found in report.found] == []
    assert report.real_runs >= 0.97 * report.programs
    assert report.real_runs + sum(report.not_real.values()) == report.accepted


def program(text: str, *before: Insn, kind: Kind = Kind.XDP) -> Program:
    return Program(kind, (*before, *assemble(text)))


def agrees(engines: Engines, each: Program) -> int:
    """Its R0 on the real CPU, with nothing that differs."""
    result = engines.run(each)
    assert result.refused is None and result.not_run == "" and result.differences == []
    return result.outcomes[REAL].r0


def test_what_programs_reach_is_there_on_the_real_cpu() -> None:
    with Engines(real_cpu=True) as engines:
        value = load_imm64(2, op.BPF_PSEUDO_MAP_VALUE, ARRAY, 0)
        first = int.from_bytes(MAPS[ARRAY].entries[0][1][:8], "little")
        read = "r3 = *(u64 *)(r2 +0)\nr3 += 1\n*(u64 *)(r2 +8) = r3\nr0 = r3\nexit"
        assert agrees(engines, program(read, *value)) == first + 1
        # Pointers that come back are told apart from numbers.
        assert agrees(engines, program("r0 = r10\nexit")) >> 47 == 0x1FFFF
        assert agrees(engines, program("r0 = r1\nexit")) >> 47 == 0x1FFFF
        spilled = "*(u64 *)(r10 -8) = r1\nr2 = *(u64 *)(r10 -8)\nr0 = *(u32 *)(r2 +12)\nexit"
        assert agrees(engines, program(spilled)) == 1
        lookup = [
            Insn(op.BPF_ST | op.BPF_MEM | op.BPF_W, 10, 0, -4, 1),
            *load_imm64(1, op.BPF_PSEUDO_MAP_FD, HASH),
            *assemble("r2 = r10\nr2 += -4\ncall 1\nif r0 == 0 goto out\nr0 = *(u64 *)(r0 +0)\nout:\nexit"),
        ]
        assert agrees(engines, Program(Kind.TC, tuple(lookup))) == 0x0101_0101_0101_0101
        assert agrees(engines, program("call 8\nexit")) == 0


# Machine code that is not the JIT's: what the real CPU would do with a bug of the emulated one.
MUTANTS: dict[str, tuple[bytes, bytes]] = {
    "add becomes sub": (bytes.fromhex("4801"), bytes.fromhex("4829")),
    "imul by another number": (bytes.fromhex("486bc01f"), bytes.fromhex("486bc01e")),
    "a store goes elsewhere": (bytes.fromhex("49897f"), bytes.fromhex("498977")),
    "rbx is not restored": (bytes.fromhex("5bc9"), bytes.fromhex("58c9")),
}


def plant(monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> None:
    """Let the child have other code than the emulated CPU."""
    relocate = RealCpu._relocate

    def wrongly(self: RealCpu, code: bytearray, *rest: object) -> None:
        relocate(self, code, *rest)  # type: ignore[arg-type]
        code[:] = code.replace(old, new)

    monkeypatch.setattr(RealCpu, "_relocate", wrongly)


@pytest.mark.parametrize("what", MUTANTS)
def test_planted_differences_are_found_and_shrunk(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, *MUTANTS[what])
    for start in range(0, 300, 15):
        report = Campaign(seed=2, count=15, start=start, real_cpu=True, out=tmp_path).run()
        if report.found:
            break
    first = report.found[0]
    assert first.program.count <= 8
    assert first.path is not None
    assert f"--seed 2 --start {first.number} --count 1 --real-cpu" in first.text
    small = read_case(first.path.read_text())
    assert small == first.program
    assert run_case(small, real_cpu=True)[0].differences == first.differences
    assert any(REAL in line for line in first.differences)
    assert run_case(small)[0].differences == []
    monkeypatch.undo()
    assert run_case(small, real_cpu=True)[0].differences == []


def test_an_odd_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "r6 = r1\n*(u64 *)(r10 -8) = 0\nr2 = 5\nr3 = r10\nr3 += -8\nr4 = 8\nr1 = r6\ncall 189\nexit"
    with Engines(real_cpu=True) as engines:
        assert agrees(engines, program(text)) == 0
    # mov esi, 5 -> mov esi, 6; the call -> a test of eax.
    for old, new, words in (("be05", "be06", "R2 0x6 instead of 0x5"), ("e8", "a9", "0 of 1 calls")):
        plant(monkeypatch, bytes.fromhex(old), bytes.fromhex(new))
        with Engines(real_cpu=True) as engines:
            (line,) = engines.run(program(text)).differences
        monkeypatch.undo()
        assert line.startswith(REAL) and words in line


def test_a_crash_is_a_difference_and_the_campaign_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # movabs of a map value's address into r15: the register is cleared instead.
    relocate = RealCpu._relocate

    def wrongly(self: RealCpu, code: bytearray, *rest: object) -> None:
        relocate(self, code, *rest)  # type: ignore[arg-type]
        at = code.find(b"\x49\xbf")
        if at >= 0:
            code[at + 2 : at + 10] = bytes(8)

    monkeypatch.setattr(RealCpu, "_relocate", wrongly)
    with Engines(real_cpu=True) as engines:
        value = load_imm64(9, op.BPF_PSEUDO_MAP_VALUE, ARRAY, 0)
        result = engines.run(program("r0 = *(u64 *)(r9 +8)\nexit", *value))
        assert result.differences == [f"{REAL}: SIGSEGV at 0x8, RIP {_rip(result.differences[0]):#x}"]
        assert agrees(engines, program("r0 = 7\nexit")) == 7


def _rip(line: str) -> int:
    return int(line.rsplit(" ", 1)[1], 16)


def test_what_reads_zero_on_purpose_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engines(real_cpu=True) as engines:
        probe = Insn(op.BPF_LDX | op.BPF_PROBE_MEM | op.BPF_DW, 0, 1)
        prog = engines.load(program("r0 = 0\nexit"))
        assert engines._real is not None and not hasattr(prog, "why")
        object.__setattr__(prog.request, "insns", (probe, *prog.request.insns[1:]))  # type: ignore[union-attr]
        with pytest.raises(Exception, match="probing load"):
            engines._real.link(prog)  # type: ignore[arg-type]


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(fuzz, ["--engines", "--real-cpu", "--count", "20", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^(19|20) programs ran on the real CPU, too$", done.output, re.MULTILINE)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert why_not() == "the host is not Linux on x86-64"


@pytest.mark.campaign
def test_twenty_thousand_programs_agree() -> None:
    report = Campaign(seed=21, count=20_000, real_cpu=True, jobs=os.cpu_count() or 1).run()
    assert [found.text for found in report.found] == []
    assert report.real_runs >= 0.95 * report.programs


def test_both_engines_and_the_cpu_are_asked_once_each() -> None:
    with Engines(real_cpu=True) as engines:
        result = engines.run(generate(0, 1))
        assert list(result.outcomes) == ["interpreter", JIT, REAL]
