# SPDX-License-Identifier: GPL-2.0-only
"""Reading and writing classic programs, the checker's reasons, and tcpdump where it is installed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from classic_world import load_cases, programs
from hypothesis import given, settings

import guests
from kernel_model.classic.check import ClassicError, check_classic, check_seccomp
from kernel_model.classic.insn import SockFilter, decode, encode
from kernel_model.classic.listing import read_dd, read_program, write_dd, write_ddd
from kernel_model.classic.prog import create_socket_filter
from kernel_model.classic.table import ANCILLARY, CLASSIC_INSNS
from kernel_model.classic.text import ClassicSyntaxError, assemble, disassemble, tcpdump_insn
from sim import Machine
from sim.userspace.pcap import read_pcap

CAPTURE = Path(guests.__file__).with_name("bundled.pcap")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(insns=programs())
def test_every_form_is_read_back(insns: list[SockFilter]) -> None:
    for text in (write_dd(insns), write_ddd(insns), write_ddd(insns).replace("\n", ",")):
        assert read_program(text) == insns
    assert decode(encode(insns)) == insns
    # Text does not keep operands that an instruction has not.
    again = assemble(disassemble(insns))
    assert assemble(disassemble(again)) == again
    assert [insn.code for insn in again] == [insn.code for insn in insns]


@pytest.mark.parametrize("row", CLASSIC_INSNS.values(), ids=lambda row: row.name)
def test_every_form_of_the_table_is_assembled(row: object) -> None:
    for form in row.forms:  # type: ignore[attr-defined]
        text = form.replace("hex", "k")
        if text.endswith(" ext"):
            for each in ANCILLARY.values():
                for word in each.words:
                    for mark in ("", "#"):
                        got = assemble(text.replace("ext", mark + word))
                        assert got == [SockFilter(row.code, k=each.k)]  # type: ignore[attr-defined]
            continue
        words = text.replace("[k]", "[7]").replace("+ k]", "+ 7]").replace("#k", "#7")
        words = words.replace("ldi k", "ldi 7").replace("ldxi k", "ldxi 7")
        got = assemble(words + "\n ret #0\nto: jt: ret a\njf: ret a")[0]
        jumps = "jt" in form, "jf" in form
        assert got.code == row.code  # type: ignore[attr-defined]
        assert got.k == (1 if form.endswith("to") else 7 if "7" in words else 0)
        assert (got.jt, got.jf) == (jumps[0] and 1, jumps[1] and 2)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("ld #1\nfoo #2\nret a", 2, "unknown instruction 'foo'"),
        ("ld #1\n\nldx [4]\nret a", 3, "ldx: operands are not of the form"),
        ("jeq #1, nowhere\nret a", 1, "no label nowhere"),
        ("up: ld #1\nja up\nret a", 2, "jumps only go forward"),
        ("a1: ld #1\na1: ret a", 2, "defined twice"),
        ("jeq #1, far\n" + "tax\n" * 256 + "far: ret a", 1, "256 instructions away"),
        ("ja end\nret a\nend:", 1, "no instruction behind it"),
        ("ld #0x1ffffffff\nret a", 1, "does not fit in 32 bits"),
        ("ld #089\nret a", 1, "bad number"),
        ("/* one\ntwo */ ld $4", 2, "unexpected character"),
        ("", 0, "no instructions"),
        ("2\n6 0 0 1\n", 1, "count is 2, but 1"),
        ("1\n6 0 0\n", 2, "four numbers"),
        ("1\n6 0 256 1\n", 2, "jf is 256"),
        ("{ 6, 0, 0, 1 },\n{ 6, 0, x, 1 },", 2, "jf is no number"),
    ],
)
def test_errors_name_the_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(ClassicSyntaxError, match=reason) as caught:
        read_program(text)
    assert caught.value.line == line


def test_c_text_may_have_comments() -> None:
    assert read_dd("/* filter\n*/ { 0x6, 0, 0, 0x00000001 }, // keep\n") == [SockFilter(6, 0, 0, 1)]


@pytest.mark.parametrize(
    ("text", "insn", "reason"),
    [
        ("div #0\nret a", 0, "division by zero"),
        ("mod #0\nret a", 0, "division by zero"),
        ("tax\nlsh #32\nret a", 1, "shift by 32"),
        ("st M[16]\nret a", 0, "no scratch word 16"),
        ("ld M[2]\nret a", 0, "before it is stored"),
        ("jeq #1, s1, s2\ns1: st M[1]\ns2: ld M[1]\nret a", 2, "before it is stored"),
        ("ld [-4]\nret a", 0, "no ancillary load has offset -4"),
        ("ret #1\ntax", 1, "does not end with a return"),
        ("ret x", 0, "unknown opcode"),
    ],
)
def test_what_the_kernel_refuses(text: str, insn: int, reason: str) -> None:
    with pytest.raises(ClassicError, match=reason) as caught:
        check_classic(assemble(text))
    assert (caught.value.insn, caught.value.errno) == (insn, errno.EINVAL)


@pytest.mark.parametrize("insn", [SockFilter(0x15, 0, 1), SockFilter(0x15, 1, 0), SockFilter(5, k=1)])
def test_jumps_out_of_the_program_are_refused(insn: SockFilter) -> None:
    with pytest.raises(ClassicError, match="leaves the program"):
        check_classic([insn, SockFilter(6)])
    check_classic([insn, SockFilter(6), SockFilter(6)])


def test_sizes_of_programs() -> None:
    check_classic([SockFilter(6)] * 4096)
    for count in (0, 4097):
        with pytest.raises(ClassicError, match=f"{count} instructions"):
            check_classic([SockFilter(6)] * count)


@pytest.mark.parametrize(
    "text", ["ldh [0]", "ld [62]", "ld [64]", "ldb [x + 1]", "mod #3", "ldxb 4*([0]&0xf)", "ld cpu"]
)
def test_what_seccomp_refuses(text: str) -> None:
    insns = assemble(text + "\nret a")
    check_classic(insns)
    with pytest.raises(ClassicError):
        check_seccomp(insns)


# tcpdump as a source of programs and of what they match.

FILTERS = (
    "tcp port 80 and ip[2:2] > 60",
    "vlan or not ip6",
    "udp[4:2] * 3 / 2 & 5 != 1",
    "tcp[tcpflags] & tcp-syn != 0",
    "port 53 and len > 70",
    "ip6 or net 203.0.113.0/24",
    "ip[0] << 3 = ip[1] or ip[8] | 1 = 65",
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot(seed=1) as booted:
        yield booted


@pytest.mark.parametrize("expression", FILTERS)
def test_tcpdump_compiles_and_matches_alike(machine: Machine, expression: str) -> None:
    from classic_world import run_both

    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        pytest.skip("tcpdump is not installed")

    def output(*options: str) -> bytes:
        run = subprocess.run([tcpdump, "-r", CAPTURE, *options, expression], capture_output=True, check=True)
        return run.stdout

    insns = read_program(output("-ddd").decode())
    assert read_program(output("-dd").decode()) == insns
    listing = "".join(tcpdump_insn(insn, at) + "\n" for at, insn in enumerate(insns))
    assert listing == output("-d").decode()
    prog = create_socket_filter(machine.kernel, insns)
    # As root it would become another user before it writes.
    matched = output("-w", "-", "-U", *(("-Z", "root") if os.geteuid() == 0 else ()))
    sizes = []
    for frame in read_pcap(CAPTURE):
        results = run_both(machine, prog, frame.data, {})
        assert results[0] == results[1]
        if results[0]:
            sizes.append(len(frame.data))
    prog.put(machine.kernel)
    assert len(matched) == 24 + sum(16 + size for size in sizes)


def test_listing_of_tcpdump() -> None:
    """As libpcap 1.10 prints them."""
    insns = assemble(
        "ld #len\n jgt #0x800, s1, s2\ns1: ldxb 4*([14]&0xf)\n ld vlan_tci\ns2: ja s3\ns3: ret #262144"
    )
    assert [tcpdump_insn(insn, at) for at, insn in enumerate(insns)] == [
        "(000) ld       #pktlen",
        "(001) jgt      #0x800           jt 2\tjf 4",
        "(002) ldxb     4*([14]&0xf)",
        "(003) ld       vlan_tci",
        "(004) ja       5",
        "(005) ret      #262144",
    ]


def test_cases_survive_the_disassembler() -> None:
    for case in load_cases():
        insns = assemble(case.program)
        assert assemble(disassemble(insns)) == insns, case.name


def test_unknown_opcodes_are_shown() -> None:
    assert ".word 0xffff, 1, 2, 0x3" in disassemble([SockFilter(0xFFFF, 1, 2, 3)])
