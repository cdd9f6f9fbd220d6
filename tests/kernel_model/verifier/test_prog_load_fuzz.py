# SPDX-License-Identifier: GPL-2.0-only
"""Damaged BPF_PROG_LOAD requests end in a verdict or an errno; where the host answers, in the same one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_bpf import BPF_LOG_STATS, host_kernel
from host_process import HostProcess
from load_requests import DAMAGE, Kernel, Request, bundled, requests

from kernel_model.uapi.bpf_attr import NR_BPF, command, pack
from sim import Machine
from sim.userspace.bpf import NR_CLOSE, Process

_OBJECTS = bundled()
_LONG = 20_000
"""Requests with more instructions to process are left out: they cost seconds, and differ in nothing else."""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine.boot() as booted:
        yield booted


def _damaged(kind: str, kernel: Kernel, seed: str) -> Request:
    rng = random.Random(seed)
    return DAMAGE[kind](rng.choice(requests(kernel.spec)), rng, kernel.spec)


def _compare(machine: Machine, path: Path, kind: str, seeds: range, host: bool) -> Counter[tuple[int, int]]:
    """How often (errno here, errno on the host) came out."""
    here = Kernel(machine.process(), path)
    there = Kernel(HostProcess(), path) if host else None
    out: Counter[tuple[int, int]] = Counter()
    for seed in seeds:
        request = _damaged(kind, here, f"{path.name} {kind} {seed}")
        wanted = there.load(request, BPF_LOG_STATS) if there else None
        if wanted is not None and wanted.processed > _LONG:
            continue
        found = here.load(request, 0 if kind == "fields" else 1)
        if not (found.errno and "not modelled" in found.log):
            out[found.errno, found.errno if wanted is None else wanted.errno] += 1
    here.close()
    if there is not None:
        there.close()
    return out


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_request_is_answered(machine: Machine, kind: str) -> None:
    answers = _compare(machine, _OBJECTS[-1], kind, range(12), host=False)
    answers += _compare(machine, _OBJECTS[0], kind, range(12), host=False)
    assert any(errno for errno, _ in answers)


@host_kernel
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "fields"])
def test_the_host_answers_the_same(machine: Machine, kind: str) -> None:
    answers = _compare(machine, _OBJECTS[-1], kind, range(100, 110), host=True)
    answers += _compare(machine, _OBJECTS[2], kind, range(100, 110), host=True)
    assert not {pair for pair in answers if pair[0] != pair[1]}


@host_kernel
@pytest.mark.campaign
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "fields"])
def test_the_host_answers_the_same_often(
    machine: Machine, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    total: Counter[tuple[int, int]] = Counter()
    for path in _OBJECTS:
        total += _compare(machine, path, kind, range(1000, 1300), host=True)
    different = {pair: count for pair, count in total.items() if pair[0] != pair[1]}
    with capsys.disabled():
        print(f"\n{kind}: {sum(total.values())} requests, different: {different}")
    assert sum(different.values()) <= 0.01 * sum(total.values())


def _attribute(process: Process, rng: random.Random) -> int:
    """One PROG_LOAD whose attribute itself is damaged: the result of the system call."""
    code = bytes.fromhex("b7000000000000009500000000000000")
    memory = process.alloc(1 << 13)
    process.write(memory, code)
    process.write(memory + 64, b"GPL\0")
    attr = bytearray(
        pack("PROG_LOAD", prog_type=1, insn_cnt=2, insns=memory, license=memory + 64, log_level=1,
             log_buf=memory + 4096, log_size=4096)
    )  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(attr))
        attr[at] = rng.choice((0, 1, 2, 0x10, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    process.write(memory + 128, bytes(attr))
    size = rng.choice((len(attr), len(attr), 48, rng.randrange(4096)))
    result = process.syscall(NR_BPF, command("PROG_LOAD").number, memory + 128, size)
    if result >= 0:
        process.syscall(NR_CLOSE, result)
    return result


def test_damaged_attributes_are_answered(machine: Machine) -> None:
    rng, process = random.Random(3), machine.process()
    results = {_attribute(process, rng) for _ in range(150)}
    assert min(results) >= -4095
    assert any(result > 0 for result in results) and len(results) > 4


@pytest.mark.campaign
def test_many_damaged_attributes_are_answered(machine: Machine) -> None:
    rng, process = random.Random(4), machine.process()
    assert min(_attribute(process, rng) for _ in range(10_000)) >= -4095
