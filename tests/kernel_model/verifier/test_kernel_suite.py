# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own raw-instruction suite on the host's kernel and here: verdict, errno, message, counts.

Three ways: as root, with CAP_BPF and CAP_NET_ADMIN alone (the rules against leaks and speculation apply),
and without any capability. The host lets nobody without capabilities load programs, so the last way is
judged by the suite's own expectations.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import kernel_suite
import pytest
from host_bpf import host_kernel, vmlinux_btf
from host_process import HostProcess
from kernel_suite import Loader, SuiteCase, Verdict, judged

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn, decode
from kernel_model.task import ALL_CAPS, CAP_BPF, CAP_NET_ADMIN
from sim import Machine
from sim.userspace.bpf import Bpf

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(kernel_suite.why_not() is not None, reason=kernel_suite.why_not() or ""),
]
_SOME = (CAP_BPF, CAP_NET_ADMIN)
_ENOSPC = 28
_NOSPEC = op.BPF_ST | op.BPF_NOSPEC
_LATER = {
    "invalid 64-bit BPF_END": "byte swaps are valid since 6.6",
    "unpriv: cmp map pointer with zero": "map pointers are never NULL, so no comparison takes place (6.10)",
}
"""Expectations of 6.1 that 6.18 does not share."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[SuiteCase]:
    found = kernel_suite.extract(tmp_path_factory.mktemp("linux"))
    assert len(found) > 1000
    return list(judged(found))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine.boot() as booted:
        booted.kernel.sysctl.write("kernel/unprivileged_bpf_disabled", "0")
        yield booted


def _kfunc(name: str) -> int:
    try:
        return vmlinux_btf().function(name)
    except KeyError:
        return 0


def _drop_capabilities() -> None:
    """This thread keeps CAP_BPF and CAP_NET_ADMIN only."""
    bits = sum(1 << cap for cap in _SOME)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    head = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("<6I", low, low, 0, high, high, 0))
    if ctypes.CDLL(None, use_errno=True).syscall(126, head, data):
        raise OSError(ctypes.get_errno(), "capset")


def _by_host(cases: list[SuiteCase], limited: bool) -> list[Verdict]:
    """What the host says, from a thread of its own when capabilities are to go."""
    out: list[Verdict] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if limited:
                _drop_capabilities()
            loader = Loader(Bpf(HostProcess()), _kfunc)
            out.extend(loader.load(case) for case in cases)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return out


def _is_modelled(verdict: Verdict) -> bool:
    return not verdict.before and "not modelled" not in verdict.log


@host_kernel
@pytest.mark.parametrize("limited", [False, True], ids=["root", "CAP_BPF"])
def test_like_the_host(
    cases: list[SuiteCase], machine: Machine, limited: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    process = machine.process(uid=1000 if limited else 0)
    if limited:
        process.task.caps = frozenset(_SOME)
    loader = Loader(Bpf(process))
    count: Counter[str] = Counter()
    wrong: list[str] = []
    for case, host in zip(cases, _by_host(cases, limited), strict=True):
        if host.before or host.errno == _ENOSPC:
            count["the host did not verify"] += 1
            continue
        here = loader.load(case)
        if not _is_modelled(here):
            count["not modelled"] += 1
            assert here.errno, f"{case.name}: accepted although something is not modelled"
            continue
        count["judged"] += 1
        count["verdict"] += (host.errno == 0) == (here.errno == 0)
        count["errno"] += host.errno == here.errno
        if host.errno:
            count["rejected"] += 1
            count["message"] += host.last == here.last
        else:
            count["accepted"] += 1
            count["processed"] += host.processed == here.processed
        if host.errno and not here.errno:
            wrong.append(f"false accept: {case.name}: {host.last}")
        elif (host.errno, host.last) != (here.errno, here.last):
            wrong.append(f"{case.name}: {host.errno} {host.last} / {here.errno} {here.last}")
    with capsys.disabled():
        print("\n", dict(count), *wrong, sep="\n")
    assert count["errno"] >= 0.99 * count["judged"]
    assert count["processed"] >= 0.95 * count["accepted"]
    assert count["message"] >= 0.95 * count["rejected"]
    assert not any(line.startswith("false accept") for line in wrong)


def _in_order(log: str, parts: str) -> bool:
    at = 0
    for part in parts.split("\t"):
        at = log.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


class _Unprivileged:
    """A process without capabilities; what it loaded is looked at with all of them."""

    def __init__(self, machine: Machine) -> None:
        self._process: Any = machine.process(uid=1000)
        self.bpf = Bpf(self._process)
        self.loader = Loader(self.bpf)

    def final(self, case: SuiteCase) -> list[Insn]:
        """The accepted program as it would run."""
        fd, _ = self.bpf.prog_load(case.prog_type, self.loader.insns(case))
        self._process.task.caps = ALL_CAPS
        _, out = self.bpf.obj_info(fd, xlated_prog_insns=1 << 16)
        self._process.task.caps = frozenset()
        self.bpf.close(fd)
        return decode(out["xlated_prog_insns"])


def test_without_capabilities(
    cases: list[SuiteCase], machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal that the suite expects and 6.18 replaced by a barrier (6.17) must show that barrier."""
    user = _Unprivileged(machine)
    count: Counter[str] = Counter()
    wrong: list[str] = []
    for case in cases:
        if case.prog_type not in (1, 8):
            continue
        here = user.loader.load(case, 1)
        if not _is_modelled(here):
            count["not modelled"] += 1
            continue
        count["judged"] += 1
        rejects = (case.result_unpriv or case.result) == 2
        errstr = (case.errstr_unpriv or case.errstr) if rejects else ""
        if rejects == bool(here.errno):
            count["as expected"] += 1
            count["message"] += _in_order(here.log, errstr)
        elif case.name in _LATER:
            count["changed since 6.1"] += 1
        elif not here.errno and any(insn.code == _NOSPEC for insn in user.final(case)):
            count["accepted with a barrier"] += 1
        else:
            wrong.append(f"{case.name}: wants {errstr!r}, got {here.errno} {here.last}")
    with capsys.disabled():
        print("\n", dict(count), *wrong, sep="\n")
    assert len(wrong) <= 0.02 * count["judged"]
    assert count["accepted with a barrier"] <= 0.1 * count["judged"]
