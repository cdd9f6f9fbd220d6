# SPDX-License-Identifier: GPL-2.0-only
"""The same program to this verifier and to the host's: verdict, log and rewritten instructions are equal."""

from __future__ import annotations

import errno
import os
import random
import re

import host_bpf
import pytest
from accept_reject import CASES, Case
from host_process import host_cpus
from host_bpf import BPF_LOG_STATS, host_kernel
from rewrites import REWRITES
from verifier_programs import random_program
from verifier_world import MAPS, SCHED_CLS, XDP, check, code

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, decode, encode

_ADDRESS = re.compile(r"0xffff[0-9a-f]{12}\b")
_DIRECT = re.compile(r"(map_ptr|map_value)\(.*?(?=ks=)")


def normal_log(text: str) -> list[str]:
    """The log without addresses and names of maps, which differ, and without padding."""
    rows = text.rstrip("\0").splitlines()
    return [
        _ADDRESS.sub("ADDR", _DIRECT.sub(r"\1(", row)).rstrip()
        for row in rows
        if not row.startswith("verification time")
    ]


def normal_code(insns: list[Insn], dumped: bool) -> list[tuple[object, ...]]:
    """Instructions without kernel addresses. A dump shows calls of functions in its own way."""
    out: list[tuple[object, ...]] = []
    at = 0
    while at < len(insns):
        insn = insns[at]
        percpu = at + 1 < len(insns) and insns[at + 1].off == op.BPF_ADDR_PERCPU
        if insn.code == op.LD_IMM64:
            out.append(("imm64", insn.dst))
            at += 1
        elif insn.code == op.TAIL_CALL or (insn.code == op.CALL and insn.src == 0):
            out.append(("call",))
        elif insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL:
            out.append(("function", insn.off if dumped else insn.imm))
        elif insn.code == op.BPF_ALU64 | op.BPF_MOV and percpu:
            out.append(("percpu", insn.dst))
        else:
            out.append(tuple(insn))
        at += 1
    return out


class Host:
    """The host's kernel with maps like the test's own."""

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}

    def translate(self, insns: list[Insn]) -> list[Insn]:
        """Descriptors of test maps become the host's."""
        by_fd = {the_map.fd: the_map for the_map in MAPS.values()}
        out = list(insns)
        for at, insn in enumerate(insns):
            if insn.code == op.LD_IMM64 and insn.src in (1, 2) and insn.imm in by_fd:
                the_map = by_fd[insn.imm]
                if the_map.fd not in self.fds:
                    self.fds[the_map.fd] = host_bpf.map_create(
                        the_map.map_type, the_map.key_size, the_map.value_size, the_map.max_entries,
                        the_map.map_flags,
                    )  # fmt: skip
                out[at] = insn._replace(imm=self.fds[the_map.fd])
        return out

    def load(self, insns: list[Insn], prog_type: int, level: int, flags: int) -> tuple[int, str, list[Insn]]:
        """Errno, log, and the final instructions."""
        data = encode(self.translate(insns))
        try:
            loaded = host_bpf.prog_load_log(data, prog_type, log_level=level, flags=flags, log_size=1 << 22)
        except host_bpf.HostRefused as error:
            return error.errno or 0, error.log, []
        info = host_bpf.prog_info(loaded.fd)
        os.close(loaded.fd)
        return 0, loaded.log, decode(info.xlated)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture(scope="module")
def host():  # type: ignore[no-untyped-def]
    made = Host()
    yield made
    made.close()


def assert_equal(host: Host, insns: list[Insn], prog_type: int, level: int = 2, flags: int = 0) -> None:
    number, log, final = host.load(insns, prog_type, level, flags)
    found = check(insns, prog_type, level=level, flags=flags, nr_cpus=host_cpus())
    if number == errno.ENOSPC:
        # Too long a log to compare: the counts at its end will do.
        assert level != BPF_LOG_STATS
        assert_equal(host, insns, prog_type, BPF_LOG_STATS, flags)
        return
    assert normal_log(found.log) == normal_log(log)
    assert found.errno == number
    if found.program is not None:
        assert normal_code(list(found.program.insns), False) == normal_code(final, True)


@host_kernel
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(host: Host, case: Case) -> None:
    assert_equal(host, code(case.text), case.prog_type)


@host_kernel
@pytest.mark.parametrize("name", REWRITES)
def test_rewrites(host: Host, name: str) -> None:
    prog_type, text, _ = REWRITES[name]
    assert_equal(host, code(text), prog_type, 1)


@host_kernel
@pytest.mark.parametrize("flags", [0, 8], ids=["", "every state"])
def test_random_programs(host: Host, flags: int) -> None:
    rng = random.Random(7 + flags)
    for _ in range(60):
        assert_equal(host, random_program(rng), rng.choice((XDP, SCHED_CLS)), 2, flags)


@host_kernel
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(20))
def test_many_random_programs(host: Host, seed: int) -> None:
    rng = random.Random(1000 + seed)
    for _ in range(300):
        assert_equal(host, random_program(rng), rng.choice((XDP, SCHED_CLS)), 2, rng.choice((0, 8)))
