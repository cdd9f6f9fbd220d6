# SPDX-License-Identifier: GPL-2.0-only
"""The same program to this verifier and to the host's: verdict, log and rewritten instructions are equal."""

from __future__ import annotations

import errno
import os
import random
import re
from collections import Counter

import host_bpf
import pytest
from accept_reject import CASES, Case
from host_bpf import BPF_LOG_STATS, host_kernel
from host_process import host_cpus
from rewrites import REWRITES
from verifier_programs import random_program
from verifier_world import MAPS, SCHED_CLS, XDP, check, code
from wild_programs import wild_program

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, decode, encode

_ADDRESS = re.compile(r"0xffff[0-9a-f]{12}\b")
_NUMBER = re.compile(r"-?(0x)?[0-9a-f]*\d[0-9a-f]*")
_LONG = 3000
"""Lines of a log; longer ones take seconds to write."""
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


def _reads_device(insns: list[Insn]) -> bool:
    """XDP programs that read ingress_ifindex: its place in struct net_device is the build's own."""
    return any(insn.code & 7 == op.BPF_LDX and 12 <= insn.off < 16 for insn in insns)


def _wild(host: Host, seed: str, count: int) -> Counter[str]:
    """Counts of programs, verdicts and differences; messages are keys with their numbers taken out."""
    out: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        prog_type, insns = wild_program(rng)
        flags = rng.choice((0, 0, 8))
        err, log, final = host.load(insns, prog_type, 2, flags)
        rows = normal_log(log)
        if err == errno.ENOSPC or len(rows) > _LONG:
            out["too long a log"] += 1
            continue
        found = check(insns, prog_type, level=2, flags=flags, nr_cpus=host_cpus())
        out["programs"] += 1
        out["instructions"] += len(insns)
        out["rejected" if err else "accepted"] += 1
        if err:
            out["message: " + _NUMBER.sub("N", rows[-2] if len(rows) > 1 else "")] += 1
        if "not modelled" in found.log:
            out["not modelled"] += 1
            continue
        same = found.errno == err and normal_log(found.log) == rows
        if same and found.program is not None and not _reads_device(insns):
            same = normal_code(list(found.program.insns), False) == normal_code(final, True)
        if not same:
            out[f"different: {number}"] += 1
            out["false accept"] += bool(err) and not found.errno
    return out


@host_kernel
def test_wild_programs(host: Host) -> None:
    out = _wild(host, "sample", 100)
    assert not [key for key in out if key.startswith("different")]
    assert out["accepted"] >= 0.25 * out["programs"]


@host_kernel
@pytest.mark.campaign
def test_many_wild_programs(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    out = _wild(host, "campaign", 4000)
    messages = [key for key in out if key.startswith("message")]
    with capsys.disabled():
        print("\n", {key: count for key, count in out.items() if key not in messages}, len(messages))
    assert out["accepted"] >= 0.3 * out["programs"]
    assert len(messages) >= 40
    assert out["instructions"] >= 30 * out["programs"]
    assert not out["false accept"]
    assert sum(key.startswith("different") for key in out) <= 0.01 * out["programs"]
