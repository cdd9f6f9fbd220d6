# SPDX-License-Identifier: GPL-2.0-only
"""Loading small programs into a machine and recording them on both engines."""

from __future__ import annotations

import struct

from kernel_model.isa.asm import assemble
from kernel_model.uapi.enums import bpf_prog_type
from sim import Machine
from sim.machine import Snapshot
from sim.process import Process
from sim.trace import Comparison, InterpreterRecorder, JitRecorder, Recording, compare
from sim.userspace.bpf import Bpf

FRAME = bytes(range(64))


def load(bpf: Bpf, text: str, name: str = "test") -> int:
    """An XDP program written in the verifier log's syntax; its fd."""
    calls = {"lookup": 1, "update": 2, "tail_call": 12, "smp_id": 8}
    fd, _ = bpf.prog_load(bpf_prog_type.BPF_PROG_TYPE_XDP, assemble(text, calls), name=name)
    return fd


def load_with_functions(bpf: Bpf, text: str, starts: list[int], name: str) -> int:
    """The same with BTF that describes the functions at these slots, all of them static ``int f(void *)``."""
    strings = b"\0int\0f\0ctx\0"
    types = [
        struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32),  # [1] INT int, 32 bits, signed
        struct.pack("<III", 0, 2 << 24, 0),  # [2] PTR to void
        struct.pack("<IIIII", 0, 13 << 24 | 1, 1, 7, 2),  # [3] FUNC_PROTO int (void *ctx)
        struct.pack("<III", 5, 12 << 24, 3),  # [4] FUNC f, static
    ]
    data = b"".join(types)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(strings))
    fd, _ = bpf.prog_load(
        bpf_prog_type.BPF_PROG_TYPE_XDP,
        assemble(text, {"tail_call": 12}),
        name=name,
        prog_btf_fd=bpf.btf_load(head + data + strings),
        func_info=b"".join(struct.pack("<II", slot, 4) for slot in starts),
        func_info_rec_size=8,
        func_info_cnt=len(starts),
    )
    return fd


class Tracer:
    """A machine in which one program runs over FRAME, from the same start each time."""

    def __init__(self, machine: Machine, process: Process, fd: int) -> None:
        self.machine = machine
        self.process = process
        self.fd = fd
        self.start: Snapshot = machine.snapshot()

    def record(self, jit: bool, times: int = 1, limit: int = 1 << 62) -> Recording:
        """Recording of ``times`` runs; exceptions of the run come through, the recording is kept."""
        self.machine.restore(self.start)
        self.machine.use_engine(jit)
        bpf = Bpf(self.process)
        recorder = JitRecorder if jit else InterpreterRecorder
        self.recording = Recording(limit=limit)
        with recorder(self.machine, self.recording):
            self.retval = bpf.prog_test_run(self.fd, FRAME, repeat=times).retval
        return self.recording

    def compare(self, times: int = 1) -> Comparison:
        """Both engines, compared."""
        return compare(self.record(jit=False, times=times), self.record(jit=True, times=times))


def poke(machine: Machine, name: str, slot: int, old: bytes, new: bytes) -> None:
    """Replace ``old`` by ``new`` in the machine code of one slot of the main function."""
    image = next(prog.image for prog in machine.kernel.progs if prog.name == name)
    assert image is not None
    function = image.functions[0]
    start, end = function.insn_offs[slot], function.insn_offs[slot + 1]
    code = function.code[start:end]
    assert code.count(old) == 1, f"slot {slot} is {code.hex()}"
    machine.kernel.text.poke(function.addr + start, code.replace(old, new))
