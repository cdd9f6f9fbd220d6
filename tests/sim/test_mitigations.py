# SPDX-License-Identifier: GPL-2.0-only
"""Programs run under every mitigation that a machine can be booted with, and leave the same results."""

from __future__ import annotations

import pytest

from kernel_model.classic.prog import create_socket_filter
from kernel_model.classic.text import assemble
from kernel_model.isa.asm import assemble as bpf
from kernel_model.isa.native import Bhi, Cfi, CpuFeatures, Mitigations
from kernel_model.verifier.api import Privileges
from sim import Machine
from sim.diff.cases import Case
from sim.diff.raw import RawRunner

SETTINGS = {
    "plain": Mitigations(retpoline=False, return_thunk=False),
    "sls": Mitigations(retpoline=False, return_thunk=False, sls=True),
    "lfence": Mitigations(retpoline_lfence=True),
    "its": Mitigations(its=True),
    "stuffing": Mitigations(call_depth=True),
    "bhi-loop": Mitigations(bhi=Bhi.LOOP, call_depth=True),
    "bhi-hw": Mitigations(bhi=Bhi.HW),
    "kcfi": Mitigations(cfi=Cfi.KCFI),
    "fineibt": Mitigations(ibt=True, cfi=Cfi.FINEIBT),
}
SUM = "ld #60\nadd #7\nret a"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("root", [True, False])
def test_a_classic_filter_runs(name: str, root: bool) -> None:
    """The return value survives what clears the branch history, and the image is where it says."""
    with Machine.boot(nics=0, features=CpuFeatures(hypervisor=True), mitigations=SETTINGS[name]) as machine:
        kernel = machine.kernel
        rights = Privileges() if root else Privileges(False, False, False, False)
        prog = create_socket_filter(kernel, assemble(SUM), privileges=rights)
        assert prog.image is not None
        (function,) = prog.image.functions
        whole = kernel.memory.read(function.addr - len(function.prefix), len(function.prefix + function.code))
        assert whole == function.prefix + function.code
        fence = SETTINGS[name].bhi is not Bhi.OFF and not root
        assert (bytes.fromhex("f3480f1ef8") in function.code) == fence
        assert prog.run(kernel, 0) == 67
        symbols = [each for each in kernel.text.symbols() if "bpf_prog_" in each and "run" not in each]
        assert len(symbols) == (2 if SETTINGS[name].cfi is Cfi.FINEIBT else 1)
        prog.put(kernel)
        assert not [each for each in kernel.text.symbols() if each in symbols]


CALLS = """
r6 = r1
*(u64 *)(r10 -8) = 5
call pc+3
r0 += r6
r0 -= r6
exit
*(u64 *)(r10 -32) = 7
r7 = 4
r0 = *(u64 *)(r10 -32)
r0 += r7
exit
"""


@pytest.mark.parametrize("name", SETTINGS)
def test_engines_agree(name: str) -> None:
    """Frames and their ends are told by the comparison, whatever the last instructions are."""
    insns = tuple(bpf(CALLS))
    with RawRunner(mitigations=SETTINGS[name]) as runner:
        finding = runner.run(Case("calls", insns, stack=32))
        assert finding.agree, finding.headline()
        assert finding.counts[0] == finding.counts[1] == 13
