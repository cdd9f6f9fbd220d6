# SPDX-License-Identifier: GPL-2.0-only
"""bpf_loop() that is known to make no round: its callback is dead code, though its address is taken."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

import host_bpf
import pytest

from kernel_model.isa.asm import assemble
from kernel_model.uapi.enums import bpf_prog_type
from sim import Machine
from sim.fuzz.surroundings import FIRST_FUNCTION, functions_btf
from sim.userspace.bpf import Bpf, VerifierError

CALL = "r1 = {count}\nr2 = func {callback}\nr3 = 0\nr4 = 0\ncall 181\n"
CALLBACK = "{name}: r0 = 0\nexit\n"
ZERO = CALL.format(count=0, callback="dead")
DEAD, LIVE = CALLBACK.format(name="dead"), CALLBACK.format(name="live")
TWO = "r2 = func dead\nr2 = func two\nr0 = 5\ncall live\nr0 = 5\nexit\n"
EITHER = (
    "call 5\nr1 = 0\nr2 = func dead\nif r0 s< 70000 goto pc+2\nr2 = func live\nr3 = 0\nr4 = 0\ncall 181\n"
)


@dataclass(frozen=True)
class Case:
    """A program whose functions begin at ``starts``; its result, and how many functions stay (0: refused)."""

    name: str
    text: str
    starts: tuple[int, ...]
    retval: int
    functions: int


CASES = (
    Case("alone", ZERO + "exit\n" + DEAD, (0, 7), 0, 1),
    Case("called by the helper", EITHER + "exit\n" + DEAD + LIVE, (0, 11, 13), 0, 1),
    Case(
        "in front of a live one",
        ZERO + CALL.format(count=3, callback="live") + "exit\n" + DEAD + LIVE,
        (0, 13, 15),
        3,
        2,
    ),
    Case(
        "behind a live one",
        ZERO + CALL.format(count=3, callback="live") + "exit\n" + LIVE + DEAD,
        (0, 13, 15),
        0,
        0,
    ),
    Case("never used", "r2 = func dead\nr0 = 5\nexit\n" + DEAD, (0, 4), 5, 1),
    Case(
        "the second of two dead ones",
        TWO + DEAD + CALLBACK.format(name="two") + LIVE,
        (0, 8, 10, 12),
        0,
        0,
    ),
)


def load(bpf: Bpf, case: Case) -> int:
    """Load with func_info for each function; the fd."""
    insns = assemble(case.text)
    records = b"".join(struct.pack("<II", at, FIRST_FUNCTION + n) for n, at in enumerate(case.starts))
    fd, _ = bpf.prog_load(
        bpf_prog_type.BPF_PROG_TYPE_XDP,
        insns,
        log_level=1,
        prog_btf_fd=bpf.btf_load(functions_btf(len(case.starts))),
        func_info=records,
        func_info_rec_size=8,
        func_info_cnt=len(case.starts),
    )
    return fd


def check(bpf: Bpf, case: Case) -> int:
    """Load and test-run as the case says; the fd, 0 when it was refused."""
    if not case.functions:
        with pytest.raises(VerifierError) as refused:
            load(bpf, case)
        assert refused.value.errno == errno.EFAULT
        assert "verifier bug: No program to jit at insn " in refused.value.log
        return 0
    fd = load(bpf, case)
    assert bpf.prog_test_run(fd, data=bytes(64)).retval == case.retval
    return fd


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dead_callback(case: Case) -> None:
    with Machine.boot(nics=0) as machine:
        bpf = Bpf(machine.process())
        if not check(bpf, case):
            return
        prog = max(machine.kernel.progs, key=lambda each: each.id)
        assert prog.image is not None and len(prog.image.functions) == case.functions
        machine.use_engine(jit=False)
        fd = load(bpf, case)
        machine.use_engine(jit=False)
        assert bpf.prog_test_run(fd, data=bytes(64)).retval == case.retval


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@host_bpf.host_kernel
def test_dead_callback_on_the_host(case: Case) -> None:
    fd = check(Bpf(host_bpf.HostProcess()), case)
    if fd:
        info = host_bpf.prog_info(fd)
        assert len(info.func_lens) == case.functions
        with Machine.boot(nics=0) as machine:
            load(Bpf(machine.process()), case)
            prog = max(machine.kernel.progs, key=lambda each: each.id)
            assert prog.image is not None
            assert [len(each.code) for each in prog.image.functions] == list(info.func_lens)
