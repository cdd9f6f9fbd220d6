# SPDX-License-Identifier: GPL-2.0-only
"""A kernel and maps for verifier tests: plain data instead of a simulated machine."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from kernel_model.btf.layout import kernel_layout
from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from kernel_model.isa.disasm import line
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_map_type
from kernel_model.verifier.api import (
    Environment,
    Privileges,
    ProgramSpec,
    VerifiedProgram,
    VerifierError,
    VerifierObserver,
    verify,
)
from kernel_model.verifier.log import VerifierLog

XDP = 6
SOCKET_FILTER = 1
SCHED_CLS = 3
KPROBE = 2
CALL_BASE = 0xFFFFFFFF81000000
UNPRIVILEGED = Privileges(bpf=False, perfmon=False, net_admin=False, sys_admin=False)
ONLY_BPF = Privileges(bpf=True, perfmon=False, net_admin=True, sys_admin=False)


@dataclass(frozen=True)
class FakeMap:
    """A map by its attributes. ``contents`` is the only value of a frozen, read-only one."""

    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    fd: int = 0
    frozen: bool = False
    contents: bytes = b""
    name: str = ""
    bypass_spec_v1: bool = True

    @property
    def id(self) -> int:
        return 100 + self.fd

    @property
    def addr(self) -> int:
        return 0xFFFF888000000000 + self.fd * 0x1000

    def value_addr(self, off: int) -> int:
        if self.map_type != bpf_map_type.BPF_MAP_TYPE_ARRAY or self.max_entries != 1:
            raise KernelError(524, "no direct values")
        if off >= self.value_size:
            raise KernelError(errno.EINVAL, "outside of the value")
        return self.addr + 0x200 + off

    def read_value(self, off: int, size: int) -> bytes | None:
        return self.contents[off : off + size] if self.frozen and self.contents else None


MAPS: dict[str, FakeMap] = {
    "array": FakeMap(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 48, 10, fd=10),
    "array1": FakeMap(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 48, 1, fd=11),
    "hash": FakeMap(bpf_map_type.BPF_MAP_TYPE_HASH, 8, 48, 10, fd=12),
    "percpu_array": FakeMap(bpf_map_type.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 5, fd=13),
    "percpu_hash": FakeMap(bpf_map_type.BPF_MAP_TYPE_PERCPU_HASH, 12, 16, 5, fd=14),
    "progs": FakeMap(bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, fd=15),
    "readonly": FakeMap(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 48, 1, 1 << 7, fd=16),
    "writeonly": FakeMap(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 48, 1, 1 << 8, fd=17),
    "ringbuf": FakeMap(bpf_map_type.BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, fd=18),
    "odd_array": FakeMap(bpf_map_type.BPF_MAP_TYPE_ARRAY, 4, 17, 10, fd=19),
}


class Symbols:
    """Any kernel symbol has an address; the same name always the same."""

    def __init__(self) -> None:
        self.known = {"__bpf_call_base": CALL_BASE, "cpu_number": 0x2A0}

    def __call__(self, name: str) -> int:
        return self.known.setdefault(name, CALL_BASE + 0x1000 + 64 * len(self.known))

    def name(self, addr: int) -> str:
        """The symbol at an address."""
        return next(name for name, at in self.known.items() if at == addr)


@dataclass
class Outcome:
    """What the verifier said: ``errno`` 0 and a program, or an errno and the decisive line."""

    errno: int
    log: str
    reason: str = ""
    program: VerifiedProgram | None = None
    symbols: Symbols = field(default_factory=Symbols)

    def xlated(self) -> list[str]:
        """The final instructions as text, with calls by symbol and maps by address."""
        assert self.program is not None, self.log
        insns = self.program.insns
        out, at = [], 0
        while at < len(insns):
            insn = insns[at]
            if insn.code == 0x85 and insn.src == 0:
                out.append(f"call {self.symbols.name(insn.imm + CALL_BASE)}")
            else:
                out.append(line(insns, at).split(") ", 1)[1])
            at += 2 if insn.code == 0x18 else 1
        return out


def code(text: str) -> list[Insn]:
    """Assemble; ``map(name)`` is the descriptor of a test map, ``map_value(name, off)`` its value."""
    for name, the_map in MAPS.items():
        text = text.replace(f"map_value({name},", f"map_value({the_map.fd},")
        text = text.replace(f"map({name})", f"map_fd({the_map.fd}, 0)")
    return assemble(text)


def map_by_fd(fd: int) -> FakeMap:
    """The test map behind a descriptor."""
    for the_map in MAPS.values():
        if the_map.fd == fd:
            return the_map
    raise KernelError(errno.EBADF, f"no file descriptor {fd}")


def check(
    insns: Sequence[Insn] | str,
    prog_type: int = XDP,
    *,
    level: int = 1,
    jit: bool = True,
    privileges: Privileges = Privileges(),  # noqa: B008
    observer: VerifierObserver | None = None,
    nr_cpus: int = 1,
    **rest: object,
) -> Outcome:
    """Verify a program given as text or instructions."""
    given = code(insns) if isinstance(insns, str) else insns
    spec = ProgramSpec(
        tuple(given),
        prog_type,
        map_by_fd,
        privileges=privileges,
        gpl_compatible=True,
        **rest,  # type: ignore[arg-type]
    )
    symbols = Symbols()
    log = VerifierLog(level)
    try:
        kernel = Environment(kernel_layout(), symbols, jit=jit, nr_cpus=nr_cpus, observer=observer)
        program = verify(spec, kernel, log)
    except VerifierError as error:
        return Outcome(error.errno, log.text(), error.reason, None, symbols)
    return Outcome(0, log.text(), "", program, symbols)
