# SPDX-License-Identifier: GPL-2.0-only
"""Kernel functions at run time: both engines and the host store the same words into a map."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.btf.parse import Btf, Kind
from kernel_model.btf.vmlinux import kernel_types
from kernel_model.isa.asm import assemble
from kernel_model.kfuncs.table import KFUNCS
from sim import Machine
from sim.userspace.bpf import Bpf

SCHED_CLS, XDP, ARRAY = 3, 6, 2
VALUE, STRINGS = 64, 64
TEXT = b"Hello, World\0hello\0o, W\0lo\0Hel\0xyz\0\0"
AT = {part: TEXT.index(part + b"\0") for part in (b"Hello, World", b"hello", b"o, W", b"lo", b"Hel", b"xyz")}
_LOOKUP = """
    r9 = r1
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map_fd({array}, 0)
    call 1
    if r0 == 0 goto out
    r6 = r0
"""
_BOOL = "r0 &= 255\n"
"""The other bits are whatever the compiler left there."""
_OUT = "\nout:\nr0 = 2\nexit\n"
_ITER = """
    r7 = 0
    r8 = 0
    r1 = r10
    r1 += -16
    r2 = FIRST
    r3 = BEHIND
    call kfunc(bpf_iter_num_new)
    *(u64 *)(r6 + 0) = r0
next:
    r1 = r10
    r1 += -16
    call kfunc(bpf_iter_num_next)
    if r0 == 0 goto done
    r1 = *(u32 *)(r0 + 0)
    r7 += r1
    r8 += 1
    goto next
done:
    r1 = r10
    r1 += -16
    call kfunc(bpf_iter_num_destroy)
    *(u64 *)(r6 + 8) = r7
    *(u64 *)(r6 + 16) = r8
"""


def _iter(first: int, behind: int) -> str:
    return _ITER.replace("FIRST", str(first)).replace("BEHIND", str(behind))


def _dynptr(name: str, *args: int, at: int = -32) -> str:
    rest = "".join(f"r{number} = {value}\n" for number, value in enumerate(args, 2))
    return f"r1 = r10\nr1 += {at}\n{rest}call kfunc({name})\n"


def _keep(at: int) -> str:
    return f"*(u64 *)(r6 + {at}) = r0\n"


def _string(name: str, first: bytes, second: bytes | None = None, third: int | None = None) -> str:
    text = f"r1 = r6\nr1 += {VALUE + AT[first]}\n"
    if second is not None:
        text += f"r2 = r6\nr2 += {VALUE + AT[second]}\n"
    if third is not None:
        text += f"r{2 if second is None else 3} = {third}\n"
    return text + f"call kfunc({name})\n"


_FROM = "r1 = r9\nr2 = 0\nr3 = r10\nr3 += -32\ncall kfunc(bpf_dynptr_from_KIND)\n"
_SLICE = (
    _dynptr("bpf_dynptr_slice", 12, 0, 8)
    + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 0)\n*(u64 *)(r6 + 8) = r1\n"
)
_PACKET = (
    _FROM + _keep(0) + _dynptr("bpf_dynptr_size") + _keep(16) + _SLICE
    + _dynptr("bpf_dynptr_adjust", 4, 40) + _keep(24) + _dynptr("bpf_dynptr_size") + _keep(32)
    + _dynptr("bpf_dynptr_adjust", 9, 5) + _keep(40) + _dynptr("bpf_dynptr_adjust", 0, 99) + _keep(48)
    + _dynptr("bpf_dynptr_is_rdonly") + _BOOL + _keep(56) + _SLICE
)  # fmt: skip
_MEM = "r1 = r6\nr2 = 48\nr3 = 0\nr4 = r10\nr4 += -32\ncall 197\n"
_CLONE = "r1 = r10\nr1 += -32\nr2 = r10\nr2 += -48\ncall kfunc(bpf_dynptr_clone)\n"
_COPY = "r1 = r10\nr1 += -32\nr2 = 8\nr3 = r10\nr3 += -48\nr4 = 0\nr5 = 4\ncall kfunc(bpf_dynptr_copy)\n"

PROGRAMS = {
    "ten numbers": (XDP, _iter(0, 10)),
    "negative numbers": (XDP, _iter(-5, 3)),
    "no number": (XDP, _iter(4, 4)),
    "backwards": (XDP, _iter(4, 3)),
    "too many numbers": (XDP, _iter(0, (8 << 20) + 1)),
    "the whole range": (XDP, _iter(-(1 << 31), (1 << 31) - 1)),
    "frame": (XDP, _PACKET.replace("KIND", "xdp")),
    "packet": (SCHED_CLS, _PACKET.replace("KIND", "skb")),
    "frame, flags": (XDP, _FROM.replace("KIND", "xdp").replace("r2 = 0", "r2 = 1") + _keep(0)
                     + _dynptr("bpf_dynptr_is_null") + _BOOL + _keep(8) + _dynptr("bpf_dynptr_size")
                     + _keep(16)),
    "clone and copy": (XDP, _MEM + _dynptr("bpf_dynptr_memset", 0, 6, 0xA5) + _keep(48) + _CLONE
                       + _dynptr("bpf_dynptr_adjust", 2, 10, at=-48) + _COPY + _keep(56)),
    "memset beyond": (XDP, _MEM + _dynptr("bpf_dynptr_memset", 40, 9, 1) + _keep(8)
                      + _dynptr("bpf_dynptr_memset", 40, 8, 1)),
    "strlen": (XDP, _string("bpf_strlen", b"Hello, World") + _keep(0)
               + _string("bpf_strnlen", b"hello", None, 3) + _keep(8)
               + _string("bpf_strnlen", b"hello", None, 9) + _keep(16)),
    "strcmp": (XDP, _string("bpf_strcmp", b"Hello, World", b"hello") + _keep(0)
               + _string("bpf_strcmp", b"hello", b"Hel") + _keep(8) + _string("bpf_strcmp", b"lo", b"lo")
               + _keep(16) + _string("bpf_strcasecmp", b"Hel", b"hello") + _keep(24)),
    "strchr": (XDP, _string("bpf_strchr", b"Hello, World", None, ord("o")) + _keep(0)
               + _string("bpf_strrchr", b"Hello, World", None, ord("o")) + _keep(8)
               + _string("bpf_strchr", b"hello", None, ord("z")) + _keep(16)
               + _string("bpf_strchrnul", b"hello", None, ord("z")) + _keep(24)
               + _string("bpf_strchr", b"hello", None, 0) + _keep(32)
               + _string("bpf_strrchr", b"hello", None, 0) + _keep(40)),
    "strspn": (XDP, _string("bpf_strspn", b"hello", b"hello") + _keep(0)
               + _string("bpf_strspn", b"hello", b"xyz")
               + _keep(8) + _string("bpf_strcspn", b"hello", b"lo") + _keep(16)),
    "strstr": (XDP, _string("bpf_strstr", b"Hello, World", b"o, W") + _keep(0)
               + _string("bpf_strstr", b"Hello, World", b"xyz") + _keep(8)
               + _string("bpf_strnstr", b"Hello, World", b"lo", 5) + _keep(16)
               + _string("bpf_strnstr", b"Hello, World", b"lo", 4) + _keep(24)
               + _string("bpf_strnstr", b"lo", b"lo", 2) + _keep(32)),
    "no address": (XDP, "r1 = 5\ncall kfunc(bpf_strlen)\n" + _keep(0)
                   + "r1 = 5\nr2 = r6\ncall kfunc(bpf_strcmp)\n" + _keep(8)),
    "regions": (XDP, "call kfunc(bpf_rcu_read_lock)\ncall kfunc(bpf_preempt_disable)\nr1 = r10\nr1 += -16\n"
                "call kfunc(bpf_local_irq_save)\nr1 = r10\nr1 += -16\ncall kfunc(bpf_local_irq_restore)\n"
                "call kfunc(bpf_preempt_enable)\ncall kfunc(bpf_rcu_read_unlock)\n*(u64 *)(r6 + 0) = 7\n"),
}  # fmt: skip


def outcome(bpf: Bpf, types: Btf, name: str, machine: Machine | None = None) -> tuple[int, tuple[int, ...]]:
    """The program's result and the words in its map; on the interpreter when ``machine`` is given."""
    prog_type, text = PROGRAMS[name]
    array = bpf.map_create(ARRAY, 4, VALUE + STRINGS, 1)
    bpf.map_update(array, bytes(4), bytes(VALUE) + TEXT.ljust(STRINGS, b"\0"))
    source = (_LOOKUP + text + _OUT).replace("{array}", str(array))
    source = re.sub(r"kfunc\((\w+)\)", lambda found: f"kfunc({types.find(found[1], Kind.FUNC)}, 0)", source)
    fd = bpf.prog_load(prog_type, assemble(source))[0]
    if machine is not None:
        machine.use_engine(jit=False)
    result = bpf.prog_test_run(fd, bytes(range(64))).retval
    value = bpf.map_lookup(array, bytes(4), VALUE + STRINGS)
    assert value is not None
    bpf.close(fd)
    bpf.close(array)
    return result, struct.unpack("<8Q", value[:VALUE])


@pytest.mark.parametrize("name", PROGRAMS)
def test_engines_agree(name: str, machine: Machine, bpf: Bpf) -> None:
    jit = outcome(bpf, kernel_types(), name)
    assert outcome(bpf, kernel_types(), name, machine) == jit
    assert jit[0] == 2


@host_kernel
def test_the_host_agrees(bpf: Bpf) -> None:
    host, types = Bpf(HostProcess()), Btf(Path("/sys/kernel/btf/vmlinux").read_bytes(), tolerant=True)
    here = {name: outcome(bpf, kernel_types(), name) for name in PROGRAMS}
    assert here == {name: outcome(host, types, name) for name in PROGRAMS}


@host_kernel
def test_prototypes_are_the_hosts() -> None:
    """Parameter names of every row, which carry the rules."""
    types, ours = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes(), tolerant=True), kernel_types()

    def params(btf: Btf, name: str) -> list[str]:
        found = btf.type(btf.find(name, Kind.FUNC))
        return [param.name for param in btf.type(found.type).params]

    assert {name: params(ours, name) for name in KFUNCS} == {name: params(types, name) for name in KFUNCS}
