# SPDX-License-Identifier: GPL-2.0-only
"""C programs that call kernel functions, compiled here, loaded and run on both engines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from host_bpf import HostProcess, host_kernel

from kernel_model.btf.parse import Btf
from sim import Machine
from sim.userspace.bpf import Bpf
from sim.userspace.loader import LoadError, load
from sim.userspace.object import ObjectError, ObjectSpec, read_object

SOURCE = """
#define SEC(name) __attribute__((section(name), used))
#define __ksym SEC(".ksyms")
#define __weak __attribute__((weak))
typedef unsigned int u32;
typedef unsigned long long u64;
struct xdp_md { u32 data, data_end; };
struct bpf_iter_num { u64 __opaque[1]; } __attribute__((aligned(8)));
struct bpf_dynptr { u64 __opaque[2]; } __attribute__((aligned(8)));
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *x, u64 flags, struct bpf_dynptr *ptr) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, u32 offset, void *b, u32 size) __ksym;
extern void bpf_no_such___flavour(int a) __ksym __weak;
extern void bpf_rcu_read_lock___v2(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
u32 seen, total, first;

SEC("xdp") int count(struct xdp_md *ctx)
{
	struct bpf_iter_num it;
	struct bpf_dynptr packet;
	unsigned char room[4], *head;
	int *i;

	bpf_rcu_read_lock___v2();
	bpf_iter_num_new(&it, 3, 40);
	while ((i = bpf_iter_num_next(&it))) {
		if (*i == 30)
			break;
		seen++;
		total += *i;
	}
	bpf_iter_num_destroy(&it);
	bpf_rcu_read_unlock();
	if (bpf_dynptr_from_xdp(ctx, 0, &packet))
		return 0;
	head = bpf_dynptr_slice(&packet, 6, room, sizeof(room));
	if (head)
		first = head[0];
	if (bpf_no_such___flavour)
		bpf_no_such___flavour(1);
	return 2;
}
#ifdef UNGUARDED
SEC("xdp") int unguarded(struct xdp_md *ctx)
{
	bpf_no_such___flavour(1);
	return 2;
}
#endif
char _license[] SEC("license") = "GPL";
"""


def build(folder: Path, *flags: str, source: str = SOURCE) -> ObjectSpec:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("clang is not installed")
    (folder / "kfunc.c").write_text(source)
    command = [clang, "-O2", "-g", "-mcpu=v3", "-target", "bpf", "-Wno-all", *flags, "-c", "kfunc.c"]
    subprocess.run([*command, "-o", "kfunc.o"], cwd=folder, check=True)
    return read_object(folder / "kfunc.o")


def outcome(bpf: Bpf, spec: ObjectSpec, kernel: Btf | None = None) -> tuple[int, bytes]:
    """The program's result and its global data afterwards."""
    with load(bpf.process, spec, kernel_btf=kernel) as loaded:
        result = bpf.prog_test_run(loaded.progs["count"].fd, bytes(range(64))).retval
        data = next(each for name, each in loaded.maps.items() if name.endswith(".bss"))
        value = bpf.map_lookup(data.fd, bytes(4), data.spec.value_size)
    assert value is not None
    return result, value


def test_a_program_with_kernel_functions(tmp_path: Path, machine: Machine, bpf: Bpf) -> None:
    spec = build(tmp_path)
    result, value = outcome(bpf, spec)
    assert result == 2
    words = sorted(int.from_bytes(value[at : at + 4], "little") for at in range(0, 12, 4))
    assert words == sorted((27, sum(range(3, 30)), 6))


@host_kernel
def test_the_host_agrees(tmp_path: Path, bpf: Bpf) -> None:
    spec = build(tmp_path)
    kernel = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes(), tolerant=True)
    assert outcome(bpf, spec) == outcome(Bpf(HostProcess()), spec, kernel)


def test_an_unguarded_call_of_a_function_that_is_not_there(tmp_path: Path, bpf: Bpf) -> None:
    spec = build(tmp_path, "-DUNGUARDED")
    with pytest.raises(LoadError) as caught:
        load(bpf.process, spec, programs=["unguarded"])
    assert caught.value.reason == "kfunc 'bpf_no_such___flavour' is referenced but wasn't resolved"


def test_a_function_must_be_there_as_declared(tmp_path: Path, bpf: Bpf) -> None:
    spec = build(tmp_path, source=SOURCE.replace("bpf_rcu_read_unlock(", "bpf_rcu_read_nothing("))
    with pytest.raises(ObjectError, match=r"'bpf_rcu_read_nothing': not found in kernel or module BTFs"):
        load(bpf.process, spec)
    other = SOURCE.replace("it, int start, int end)", "it, int start, int end, int more)")
    spec = build(tmp_path, source=other.replace("new(&it, 3, 40)", "new(&it, 3, 40, 1)"))
    with pytest.raises(ObjectError, match=r"'bpf_iter_num_new': func_proto \[\d+\] incompatible"):
        load(bpf.process, spec)
