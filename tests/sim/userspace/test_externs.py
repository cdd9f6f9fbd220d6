# SPDX-License-Identifier: GPL-2.0-only
"""Extern variables: configuration values and kernel symbols, and what is said when they do not fit."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kernel_model.btf.check import load_btf
from kernel_model.kconfig import CONFIG
from sim import Machine
from sim.userspace.bpf import Bpf
from sim.userspace.externs import Extern, ExternError, ValueKind, config_values, map_size, parse_config
from sim.userspace.loader import load
from sim.userspace.object import ObjectError, ObjectSpec, read_object

SOURCE = """
#define SEC(name) __attribute__((section(name)))
#define __kconfig SEC(".kconfig")
#define __ksym SEC(".ksyms")
#define __weak __attribute__((weak))
enum libbpf_tristate { TRI_NO = 0, TRI_YES = 1, TRI_MODULE = 2 };
typedef _Bool bool;
extern int LINUX_KERNEL_VERSION __kconfig;
extern bool CONFIG_BPF_JIT __kconfig;
extern bool CONFIG_NO_SUCH __kconfig __weak;
extern enum libbpf_tristate CONFIG_BPF __kconfig;
extern unsigned long CONFIG_HZ __kconfig;
extern char CONFIG_DEFAULT_HOSTNAME[8] __kconfig;
extern char CONFIG_SMP __kconfig;
extern const void bpf_prog_run_xdp __ksym __weak;
extern const void __per_cpu_offset_nowhere __ksym __weak;
extern const void __x64_sys_bpf_call_base __ksym __weak;
extern const void __bpf_call_base __ksym;
struct out { unsigned long hz; long base, nowhere; int version, jit, none, bpf, smp; char name[8]; } out;
SEC("xdp") int look(void *ctx)
{
	out.hz = CONFIG_HZ;
	out.base = (long)&__bpf_call_base;
	out.nowhere = (long)&__per_cpu_offset_nowhere;
	out.version = LINUX_KERNEL_VERSION;
	out.jit = CONFIG_BPF_JIT;
	out.none = CONFIG_NO_SUCH;
	out.bpf = CONFIG_BPF;
	out.smp = CONFIG_SMP;
	__builtin_memcpy(out.name, CONFIG_DEFAULT_HOSTNAME, 8);
	return 2;
}
char _license[] SEC("license") = "GPL";
"""
OUT = struct.Struct("<QqqIIIII8s")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ObjectSpec:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    folder: Path = tmp_path_factory.mktemp("externs")
    (folder / "ext.c").write_text(SOURCE)
    command = [clang, "-O2", "-g", "-target", "bpf", "-Wno-all", "-c", "ext.c", "-o", "ext.o"]
    subprocess.run(command, cwd=folder, check=True)
    return read_object(folder / "ext.o")


def look(machine: Machine, spec: ObjectSpec, **more: object) -> tuple[int, ...]:
    process = machine.process()
    with load(process, spec, **more) as loaded:  # type: ignore[arg-type]
        bpf = Bpf(process)
        assert bpf.prog_test_run(loaded.progs["look"].fd, bytes(64)).retval == 2
        out = bpf.map_lookup(loaded.maps["ext.bss"].fd, bytes(4), OUT.size)
        assert out is not None
        return OUT.unpack(out)


def test_a_program_sees_the_kernels_values(machine: Machine, spec: ObjectSpec) -> None:
    hz, base, nowhere, version, jit, none, bpf, smp, name = look(machine, spec)
    assert (hz, version) == (int(CONFIG["CONFIG_HZ"]), 6 << 16 | 18 << 8)
    assert (jit, none, bpf, smp) == (1, 0, 1, ord("y"))
    assert name == b"(none)\0\0"
    assert base == machine.kernel.text.symbol("__bpf_call_base") - (1 << 64)
    assert nowhere == 0


def test_given_values_replace_the_kernels(machine: Machine, spec: ObjectSpec) -> None:
    given = {
        "CONFIG_HZ": "0x3e8",
        "CONFIG_BPF": "m",
        "CONFIG_BPF_JIT": "n",
        "CONFIG_SMP": "-3",
        "CONFIG_DEFAULT_HOSTNAME": '"a name too long"',
        "LINUX_KERNEL_VERSION": "7",
    }
    hz, _, _, version, jit, _, bpf, smp, name = look(machine, spec, kernel_config=given)
    assert (hz, version, jit, bpf, smp) == (1000, 7, 0, 2, 0xFFFF_FFFD)
    assert name == b"a name \0"


def test_a_value_that_is_not_there(machine: Machine, spec: ObjectSpec) -> None:
    with pytest.raises(ObjectError, match=r"'CONFIG_BPF' \(strong\): not resolved"):
        look(machine, spec, kernel_config={"CONFIG_HZ": "1"})


def test_a_symbol_that_is_not_there(machine: Machine, spec: ObjectSpec) -> None:
    prog = spec.programs["look"]
    strong = tuple(replace(ref, weak=False) for ref in prog.externs)
    changed = replace(spec, programs={"look": replace(prog, externs=strong)})
    with pytest.raises(ObjectError, match="'__per_cpu_offset_nowhere' is not among the kernel's symbols"):
        look(machine, changed)


def test_the_kernel_takes_the_types(spec: ObjectSpec) -> None:
    """No extern is left in the BTF that is uploaded."""
    assert spec.btf is not None
    assert load_btf(spec.btf)


def extern(kind: ValueKind, size: int, signed: bool = False, weak: bool = False) -> Extern:
    return Extern("CONFIG_X", ".kconfig", weak, 1, kind=kind, size=size, align=size, signed=signed)


@pytest.mark.parametrize(
    ("kind", "size", "signed", "text", "stored"),
    [
        (ValueKind.BOOL, 1, False, "y", b"\1"),
        (ValueKind.TRISTATE, 4, False, "m", b"\2\0\0\0"),
        (ValueKind.CHAR, 1, True, "m", b"m"),
        (ValueKind.CHAR, 1, False, "255", b"\xff"),
        (ValueKind.INT, 2, True, "-2", b"\xfe\xff"),
        (ValueKind.INT, 8, False, "0xffffffffffffffff", b"\xff" * 8),
        (ValueKind.INT, 8, True, "18446744073709551615", b"\xff" * 8),
        (ValueKind.STRING, 4, False, '"ab"', b"ab\0\0"),
        (ValueKind.STRING, 4, False, '"abcdef"', b"abc\0"),
    ],
)
def test_how_values_are_stored(kind: ValueKind, size: int, signed: bool, text: str, stored: bytes) -> None:
    assert config_values([extern(kind, size, signed)], {"CONFIG_X": text}) == stored


@pytest.mark.parametrize(
    ("kind", "size", "text"),
    [
        (ValueKind.BOOL, 1, "m"),
        (ValueKind.BOOL, 1, "1"),
        (ValueKind.INT, 4, "y"),
        (ValueKind.INT, 2, "65536"),
        (ValueKind.INT, 2, "-1"),
        (ValueKind.INT, 4, "text"),
        (ValueKind.INT, 4, ""),
        (ValueKind.INT, 4, '"1"'),
        (ValueKind.STRING, 4, "12"),
        (ValueKind.STRING, 4, '"a'),
        (ValueKind.STRING, 4, '"'),
    ],
)
def test_values_that_do_not_fit(kind: ValueKind, size: int, text: str) -> None:
    with pytest.raises(ExternError, match="CONFIG_X"):
        config_values([extern(kind, size)], {"CONFIG_X": text})


def test_what_is_weak_may_be_missing() -> None:
    assert config_values([extern(ValueKind.INT, 4, weak=True)], {}) == bytes(4)
    assert map_size([]) == 0


def test_reading_a_configuration() -> None:
    text = '# CONFIG_A is not set\nCONFIG_B=y\n CONFIG_C="x=y" \nnoise\nCONFIG_D\n'
    assert parse_config(text) == {"CONFIG_B": "y", "CONFIG_C": '"x=y"'}
