# SPDX-License-Identifier: GPL-2.0-only
"""Map helpers after the fix-ups, beside the host's: the same instructions, but for addresses of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from host_bpf import BPF_PROG_TYPE_XDP, HostProcess, host_kernel, prog_info

from kernel_model.isa import opcodes as op
from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn, decode
from sim import Machine
from sim.userspace.bpf import Bpf

LOOKUP, UPDATE, DELETE, PUSH, POP, PEEK, REDIRECT = 1, 2, 3, 87, 88, 89, 51
NO_PREALLOC = 1
# Map type: key size, value size, flags, which helpers.
MAPS = {
    "hash": (1, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "hash of long keys": (1, 13, 24, 0, (LOOKUP,)),
    "array": (2, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "array of odd values": (2, 4, 12, 0, (LOOKUP,)),
    "percpu_hash": (5, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "percpu_array": (6, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "lru_hash": (9, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "lru_percpu_hash": (10, 4, 8, 0, (LOOKUP, UPDATE, DELETE)),
    "lpm_trie": (11, 8, 8, NO_PREALLOC, (LOOKUP, UPDATE, DELETE)),
    "array_of_maps": (12, 4, 4, 0, (LOOKUP,)),
    "hash_of_maps": (13, 4, 4, 0, (LOOKUP,)),
    "devmap": (14, 4, 4, 0, (LOOKUP, REDIRECT)),
    "queue": (22, 0, 8, 0, (PUSH, POP, PEEK)),
    "stack": (23, 0, 8, 0, (PUSH, POP, PEEK)),
    "devmap_hash": (25, 4, 4, 0, (LOOKUP, REDIRECT)),
    "bloom_filter": (30, 0, 8, 0, (PUSH, PEEK)),
}
_START = """
	r1 = 1
	*(u64 *)(r10 -8) = r1
	*(u64 *)(r10 -16) = r1
	*(u64 *)(r10 -24) = r1
	*(u64 *)(r10 -32) = r1
"""
_CALL = """
	r1 = map_fd({fd}, 0)
	r2 = {second}
	{more}
	r4 = 0
	call {helper}
"""


def program(fd: int, helpers: tuple[int, ...]) -> list[Insn]:
    """One call of each helper."""
    text = _START
    for helper in helpers:
        second, more = "r10\n\tr2 += -16", "r3 = r10\n\tr3 += -32"
        if helper == REDIRECT:
            second, more = "1", "r3 = 0"
        elif helper in (PUSH, POP, PEEK):
            more = "r3 = 0"
        text += _CALL.format(fd=fd, second=second, more=more, helper=helper)
    return assemble(text + "\tr0 = 2\n\texit")


def shape(code: bytes) -> list[tuple[int, ...]]:
    """The instructions without addresses of kernel functions and without the maps' numbers."""
    out, skip = [], False
    for insn in decode(code):
        known = not skip and insn.code not in (op.CALL, op.LD_IMM64)
        out.append((insn.code, insn.dst, insn.src, insn.off, insn.imm if known else 0))
        skip = insn.code == op.LD_IMM64
    return out


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot() as booted:
        yield booted


@host_kernel
@pytest.mark.parametrize("name", MAPS)
def test_the_same_instructions(machine: Machine, name: str) -> None:
    map_type, key, value, flags, helpers = MAPS[name]
    xlated = []
    for bpf in (Bpf(machine.process()), Bpf(HostProcess())):
        more = {"inner_map_fd": bpf.map_create(2, 4, 4, 1)} if "_of_maps" in name else {}
        fd = bpf.map_create(map_type, key, value, 10, map_flags=flags, **more)
        prog = bpf.prog_load(BPF_PROG_TYPE_XDP, program(fd, helpers))[0]
        if isinstance(bpf.process, HostProcess):
            xlated.append(prog_info(prog).xlated)
            for each in (prog, fd, *more.values()):
                bpf.close(each)
        else:
            held = machine.kernel.progs.find(max(each.id for each in machine.kernel.progs))
            xlated.append(held.xlated(machine.kernel))
    ours, theirs = (shape(code) for code in xlated)
    assert ours == theirs
