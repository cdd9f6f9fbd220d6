# SPDX-License-Identifier: GPL-2.0-only
"""Lines, symbols and lengths of machine code, as OBJ_GET_INFO_BY_FD gives them, for several functions.

The host is asked for the same program: what is relative to the functions' addresses must be equal.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn, decode
from kernel_model.uapi.bpf_attr import BPF_PROG_INFO
from sim import Machine
from sim.userspace.bpf import Bpf

SOCKET_FILTER, KPROBE = 1, 2
ROOM = 4096
ARRAYS = ("jited_ksyms", "jited_func_lens", "line_info", "jited_line_info", "func_info")


class Jited(NamedTuple):
    """What info tells of machine code, addresses as (function, offset into it)."""

    lens: tuple[int, ...]
    lines: tuple[tuple[int, int], ...]
    slots: tuple[int, ...]
    functions: tuple[int, ...]
    calls: tuple[tuple[int, int], ...]
    """Of each call between functions in the dump: distance and number of the callee."""


def btf(bpf: Bpf, names: list[str]) -> tuple[int, list[int]]:
    """BTF with a static function of one argument for each name: the descriptor, and the types' ids."""
    strings, places = b"\0int\0r1\0line\0file.c\0", []
    for name in names:
        places.append(len(strings))
        strings += name.encode() + b"\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack("<III", 0, 13 << 24 | 1, 1) + struct.pack("<II", 5, 1)
    for place in places:
        types += struct.pack("<III", place, 12 << 24, 2)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return bpf.btf_load(header + types + strings), [3 + n for n in range(len(names))]


def ask(bpf: Bpf, prog_type: int, insns: list[Insn], starts: list[int], lines: list[int]) -> Jited:
    """Load with a line record at each of ``lines``, and ask."""
    fd, ids = btf(bpf, [f"f{n}" for n in range(len(starts))])
    prog = bpf.prog_load(
        prog_type,
        insns,
        prog_btf_fd=fd,
        func_info=b"".join(struct.pack("<II", *pair) for pair in zip(starts, ids, strict=True)),
        func_info_cnt=len(starts),
        func_info_rec_size=8,
        line_info=b"".join(struct.pack("<4I", at, 13, 8, (n + 1) << 10) for n, at in enumerate(lines)),
        line_info_cnt=len(lines),
        line_info_rec_size=16,
    )[0]
    process = bpf.process
    names = (
        "xlated_prog_insns",
        "jited_ksyms",
        "jited_func_lens",
        "line_info",
        "jited_line_info",
        "func_info",
    )
    places = {name: process.alloc(ROOM) for name in names}
    counts = {f"nr_{name}": ROOM // 16 for name in ARRAYS} | {"xlated_prog_len": ROOM}
    sizes = {"func_info_rec_size": 8, "line_info_rec_size": 16, "jited_line_info_rec_size": 8}
    at = process.alloc(ROOM)
    size = len(BPF_PROG_INFO.pack())
    process.write(at, BPF_PROG_INFO.pack(**places, **counts, **sizes))
    bpf.call("OBJ_GET_INFO_BY_FD", bpf_fd=prog, info_len=size, info=at)
    info = BPF_PROG_INFO.unpack(process.read(at, size))

    def array(name: str, code: str, unit: int) -> list[tuple[int, ...]]:
        raw = process.read(places[name], info[f"nr_{name}"] * unit)
        return list(struct.iter_unpack(code, raw))

    lens = tuple(n for (n,) in array("jited_func_lens", "<I", 4))
    ksyms = [n for (n,) in array("jited_ksyms", "<Q", 8)]

    def place(addr: int) -> tuple[int, int]:
        (number,) = (n for n, start in enumerate(ksyms) if start <= addr < start + lens[n])
        return number, addr - ksyms[number]

    dumped = decode(process.read(places["xlated_prog_insns"], info["xlated_prog_len"]))
    return Jited(
        lens,
        tuple(place(addr) for (addr,) in array("jited_line_info", "<Q", 8)),
        tuple(record[0] for record in array("line_info", "<4I", 16)),
        tuple(record[0] for record in array("func_info", "<II", 8)),
        tuple(
            (each.off, each.imm) for each in dumped if (each.code, each.src) == (op.CALL, op.BPF_PSEUDO_CALL)
        ),
    )


PROGRAMS = {
    "one": ("r0 = 1\nr0 += 2\nexit", [0]),
    "three": (
        "r6 = r1\nr1 = 5\ncall pc+6\nr7 = r0\nr1 = 6\ncall pc+6\nr0 += r7\nr0 &= 0x12345\nexit\n"
        "call 7\nr0 &= 1\nexit\n*(u64 *)(r10 -40) = 1\nr0 = 7\nr0 /= 3\nexit",
        [0, 9, 12],
    ),
    "dead code": (
        "r0 = 1\nif r0 == 1 goto pc+2\nr0 = 7\nexit\nr1 = 2\ncall pc+1\nexit\nr0 = 3\ngoto pc+0\nexit",
        [0, 7],
    ),
    "patched": ("r6 = 9\ncall 7\nr1 = r0\nr1 /= r6\nr0 %= r1\ncall 5\nexit", [0]),
}


def program(name: str) -> tuple[list[Insn], list[int], list[int]]:
    """Instructions, the functions' first slots, and a line for every slot."""
    text, starts = PROGRAMS[name]
    insns = list(assemble(text))
    return insns, starts, list(range(len(insns)))


@host_kernel
@pytest.mark.parametrize("prog_type", [SOCKET_FILTER, KPROBE])
@pytest.mark.parametrize("name", PROGRAMS)
def test_as_the_host_tells(bpf: Bpf, name: str, prog_type: int) -> None:
    """Lengths, the place of every line, and where records went when instructions did."""
    ours = ask(bpf, prog_type, *program(name))
    theirs = ask(Bpf(HostProcess()), prog_type, *program(name))
    assert ours == theirs


@pytest.mark.parametrize("name", PROGRAMS)
def test_lines_lie_in_their_functions(machine: Machine, bpf: Bpf, name: str) -> None:
    found = ask(bpf, SOCKET_FILTER, *program(name))
    (prog,) = machine.kernel.progs
    assert prog.image is not None
    assert found.lens == tuple(len(each.code) for each in prog.image.functions)
    assert list(found.lines) == sorted(found.lines)
    for (number, off), slot in zip(found.lines, found.slots, strict=True):
        subprog, function = prog.verified.subprogs[number], prog.image.functions[number]
        assert subprog.start <= slot < subprog.end
        assert off == (function.insn_offs[slot - subprog.start] if slot > subprog.start else 0)
