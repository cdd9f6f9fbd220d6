# SPDX-License-Identifier: GPL-2.0-only
"""Dynptr helpers at run time: both engines and the host store the same words into a map."""

from __future__ import annotations

import struct

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.isa.asm import assemble
from sim import Machine
from sim.userspace.bpf import Bpf

XDP, ARRAY, RINGBUF = 6, 2, 27
VALUE = 64

_LOOKUP = """
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map_fd({array}, 0)
    call 1
    if r0 == 0 goto out
    r6 = r0
    *(u64 *)(r6 + 48) = 0x11223344
    *(u64 *)(r6 + 56) = 0x55667788
"""
_OUT = """
out:
    r0 = 2
    exit
"""


def _from_mem(size: str, flags: int = 0) -> str:
    return f"r1 = r6\nr1 += 48\nr2 = {size}\nr3 = {flags}\nr4 = r10\nr4 += -24\ncall 197\n"


def _read(length: int, offset: int, flags: int = 0) -> str:
    return (
        "*(u64 *)(r10 - 40) = 0\n*(u64 *)(r10 - 48) = 0\nr1 = r10\nr1 += -48\n"
        f"r2 = {length}\nr3 = r10\nr3 += -24\nr4 = {offset}\nr5 = {flags}\ncall 201\n"
    )


def _write(offset: int, length: int, flags: int = 0) -> str:
    return (
        "*(u64 *)(r10 - 48) = 0x0badcafe\nr1 = r10\nr1 += -24\n"
        f"r2 = {offset}\nr3 = r10\nr3 += -48\nr4 = {length}\nr5 = {flags}\ncall 202\n"
    )


def _data(offset: int, length: int) -> str:
    return f"r1 = r10\nr1 += -24\nr2 = {offset}\nr3 = {length}\ncall 203\n"


_KEEP = "*(u64 *)(r6 + {at}) = r0\n"
_STACK = "r0 = *(u64 *)(r10 - 48)\n*(u64 *)(r6 + {at}) = r0\n"
_RESERVE = "r1 = map_fd({ringbuf}, 0)\nr2 = SIZE\nr3 = FLAGS\nr4 = r10\nr4 += -24\ncall 198\n"
_SUBMIT = "r1 = r10\nr1 += -24\nr2 = 0\ncall 199\n"


def _keep(at: int) -> str:
    return _KEEP.replace("{at}", str(at))


def _reserve(size: int, flags: int = 0) -> str:
    return _RESERVE.replace("SIZE", str(size)).replace("FLAGS", str(flags))


PROGRAMS = {
    "read": _from_mem("16") + _keep(0) + _read(8, 4) + _keep(8) + _STACK.replace("{at}", "16"),
    "read beyond": _from_mem("16") + _read(8, 9) + _keep(0) + _read(8, 8, 1) + _keep(8),
    "read far beyond": _from_mem("16") + _read(8, 0xFFFF_FFFF >> 1) + _keep(0),
    "write": _from_mem("16") + _write(3, 8) + _keep(0) + _write(9, 8) + _keep(8) + _write(0, 8, 1)
    + _keep(16),
    "flags": _from_mem("16", 1) + _keep(0) + _read(1, 0) + _keep(8) + _write(0, 1) + _keep(16),
    "data": _from_mem("16")
    + _data(8, 8)
    + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 0)\n*(u64 *)(r6 + 0) = r1\n*(u32 *)(r0 + 4) = 9\n",
    "no data": _from_mem("16") + _data(9, 8) + "if r0 != 0 goto out\n" + _keep(0) + "*(u8 *)(r6 + 9) = 1\n",
    "record": _reserve(16) + _keep(0) + _write(4, 8) + _keep(8) + _read(8, 2) + _keep(16)
    + _STACK.replace("{at}", "24") + _SUBMIT,
    "record too large": _reserve(0x7FFFFFFF) + _keep(0) + _read(1, 0) + _keep(8) + _SUBMIT,
    "record that does not fit": _reserve(5000) + _keep(0) + _SUBMIT,
    "record with flags": _reserve(8, 4) + _keep(0) + _SUBMIT.replace("199", "200"),
    "many records": "r7 = 0\nagain:\n" + _reserve(1000) + "r8 = r0\n" + _SUBMIT
    + "r0 = r8\nr7 += 1\nif r7 != 6 goto again\n" + _keep(0),
    "many discarded": "r7 = 0\nagain:\n" + _reserve(1000) + "r8 = r0\n" + _SUBMIT.replace("199", "200")
    + "r0 = r8\nr7 += 1\nif r7 != 6 goto again\n" + _keep(0),
}  # fmt: skip


def outcome(bpf: Bpf, text: str, prepare: object = None) -> tuple[int, tuple[int, ...]]:
    """The program's result and the map's value afterwards."""
    array = bpf.map_create(ARRAY, 4, VALUE, 1)
    ringbuf = bpf.map_create(RINGBUF, 0, 0, 4096)
    source = (_LOOKUP + text + _OUT).replace("{array}", str(array)).replace("{ringbuf}", str(ringbuf))
    fd = bpf.prog_load(XDP, assemble(source))[0]
    if callable(prepare):
        prepare()
    result = bpf.prog_test_run(fd, bytes(64)).retval
    value = bpf.map_lookup(array, bytes(4), VALUE)
    assert value is not None
    for each in (fd, ringbuf, array):
        bpf.close(each)
    return result, struct.unpack("<8Q", value)


@pytest.mark.parametrize("name", PROGRAMS)
def test_engines_agree(name: str, machine: Machine, bpf: Bpf) -> None:
    jit = outcome(bpf, PROGRAMS[name])
    machine.use_engine(jit=True)
    assert outcome(bpf, PROGRAMS[name], lambda: machine.use_engine(jit=False)) == jit
    assert jit[0] == 2 and jit[1] != (0,) * 8


@host_kernel
def test_the_host_agrees(machine: Machine, bpf: Bpf) -> None:
    host = Bpf(HostProcess())
    here = {name: outcome(bpf, text) for name, text in PROGRAMS.items()}
    assert here == {name: outcome(host, text) for name, text in PROGRAMS.items()}
