# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own raw-instruction suite (tools/testing/selftests/bpf/verifier/*.c) as data.

The tables are C. They are taken out of Debian's ``linux-source-6.1`` into a temporary directory at test
time, compiled together with the structure that the kernel's runner reads them with, and printed; nothing
of them is kept. :data:`MAPS` says what each fixup wants.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_model.isa.insn import Insn, decode
from kernel_model.uapi.enums import MapFlags, bpf_map_type
from sim.userspace.bpf import Bpf, SyscallError, VerifierError

ARCHIVE = Path("/usr/src/linux-source-6.1.tar.xz")
_ROOM = "tools/testing/selftests/bpf"
_HEADERS = ("bpf_rand.h", "bpf_util.h", "test_btf.h")
_BEGIN, _END = "#ifndef ENOTSUPP", "static int probe_filter_length"
MAX_INSNS = 10_000
"""Longer programs would disturb the host; they are counted apart."""

_FIXUPS = (
    "map_hash_8b", "map_hash_48b", "map_hash_16b", "map_array_48b", "map_sockmap", "map_sockhash",
    "map_xskmap", "map_stacktrace", "prog1", "prog2", "map_in_map", "cgroup_storage",
    "percpu_cgroup_storage", "map_spin_lock", "map_array_ro", "map_array_wo", "map_array_small",
    "sk_storage_map", "map_event_output", "map_reuseport_array", "map_ringbuf", "map_timer", "map_kptr",
)  # fmt: skip

_PRINTER = r"""
static void text(const char *s)
{
	putchar('"');
	for (; s && *s; s++) {
		unsigned char c = *s;
		if (c == '"' || c == '\\') printf("\\%c", c);
		else if (c < 32) printf("\\u%04x", c);
		else putchar(c);
	}
	putchar('"');
}

static void bytes(const void *p, size_t n)
{
	putchar('"');
	for (size_t i = 0; i < n; i++) printf("%02x", ((const unsigned char *)p)[i]);
	putchar('"');
}

int main(void)
{
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		struct bpf_test *t = &tests[i];
		struct bpf_insn *insns = t->insns;
		int len = MAX_INSNS, n = 0;
		if (t->fill_helper) {
			t->fill_insns = calloc(MAX_TEST_INSNS, sizeof(*insns));
			t->fill_helper(t);
			insns = t->fill_insns;
			len = t->prog_len;
		} else {
			while (len > 1 && !insns[len - 1].code && !insns[len - 1].imm) len--;
		}
		printf("{\"descr\":"); text(t->descr);
		printf(",\"count\":%d,\"insns\":", len); bytes(insns, len > KEEP ? 0 : len * 8);
		printf(",\"prog_type\":%d,\"flags\":%d", t->prog_type, t->flags);
		printf(",\"attach\":%d", t->expected_attach_type);
		printf(",\"result\":%d,\"result_unpriv\":%d", t->result, t->result_unpriv);
		printf(",\"errstr\":"); text(t->errstr);
		printf(",\"errstr_unpriv\":"); text(t->errstr_unpriv);
		printf(",\"processed\":%u,\"kfunc\":", t->insn_processed); text(t->kfunc);
		printf(",\"func_info\":"); bytes(t->func_info, t->func_info_cnt * sizeof(t->func_info[0]));
		while (n < MAX_BTF_TYPES && t->btf_types[0] && t->btf_types[n] != BTF_END_RAW) n++;
		printf(",\"btf_types\":"); bytes(t->btf_types, n * 4);
		printf(",\"btf_strings\":"); bytes(t->btf_strings, n ? sizeof(t->btf_strings) : 0);
		printf(",\"fixups\":{\"\":0");
#define ONE(name) for (int k = 0; k < MAX_FIXUPS && t->fixup_##name[k]; k++) \
		printf(",\"" #name " %d\":%d", k, t->fixup_##name[k]);
		EVERY_ONE
		printf("},\"kfuncs\":{\"\":0");
		for (int k = 0; k < MAX_FIXUPS && t->fixup_kfunc_btf_id[k].kfunc; k++)
			printf(",\"%d\":\"%s\"", t->fixup_kfunc_btf_id[k].insn_idx, t->fixup_kfunc_btf_id[k].kfunc);
		printf("}}\n");
	}
	return 0;
}
"""


def why_not() -> str | None:
    """What is missing to take the suite out, None when nothing is."""
    if not ARCHIVE.exists():
        return f"{ARCHIVE} is not there (Debian: linux-source-6.1)"
    if shutil.which("clang") is None:
        return "clang is not there"
    return None


@dataclass(frozen=True)
class SuiteCase:
    """One program of the suite. ``result`` 1 and 3 accept, 2 rejects; ``errstr`` may hold several parts."""

    name: str
    count: int
    insns: tuple[Insn, ...]
    prog_type: int
    flags: int
    attach_type: int
    result: int
    result_unpriv: int
    errstr: str
    errstr_unpriv: str
    processed: int
    kfunc: str
    func_info: bytes
    btf: bytes
    fixups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kfuncs: dict[int, str] = field(default_factory=dict)


def _write_tests_h(room: Path) -> None:
    files = sorted((room / "verifier").glob("*.c"))
    rows = "".join(f'#include "{path}"\n' for path in files)
    (room / "verifier" / "tests.h").write_text(f"#ifdef FILL_ARRAY\n{rows}#endif\n")


def _program(room: Path) -> str:
    runner = (room / "test_verifier.c").read_text()
    middle = runner[runner.index(_BEGIN) : runner.index(_END)]
    fixups = " ".join(f"ONE({name})" for name in _FIXUPS)
    system = ("endian.h", "stdint.h", "stdio.h", "stdlib.h", "unistd.h", "string.h", "stddef.h", "stdbool.h",
              "limits.h", "assert.h", "linux/types.h", "linux/bpf.h", "linux/bpf_perf_event.h",
              "linux/filter.h", "linux/if_ether.h", "linux/btf.h")  # fmt: skip
    head = "#define _GNU_SOURCE\n" + "".join(f"#include <{name}>\n" for name in system)
    head += "".join(f'#include "{name}"\n' for name in _HEADERS)
    head += '#include "../../../include/linux/filter.h"\n'
    printer = _PRINTER.replace("EVERY_ONE", fixups).replace("KEEP", str(MAX_INSNS))
    return head + middle + printer


def _compile(top: Path) -> list[str]:
    room = top / _ROOM
    _write_tests_h(room)
    source, binary = room / "print_tests.c", room / "print_tests"
    source.write_text(_program(room))
    subprocess.run(
        ["clang", "-O0", "-w", f"-I{room}", f"-I{top}/tools/include/uapi", f"-I{top}/tools/include",
         "-mcmodel=large", "-o", str(binary), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout.splitlines()


def _unpack(where: Path) -> Path:
    wanted = (f"{_ROOM}/verifier/", f"{_ROOM}/test_verifier.c", "tools/include/", "tools/arch/x86/include/")
    wanted += tuple(f"{_ROOM}/{name}" for name in _HEADERS)
    with tarfile.open(ARCHIVE, mode="r|xz") as archive:
        for member in archive:
            top, _, rest = member.name.partition("/")
            if member.isfile() and rest.startswith(wanted):
                archive.extract(member, where, filter="data")
    return where / top


def _btf(types: bytes, strings: bytes) -> bytes:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def _case(row: dict[str, Any]) -> SuiteCase:
    fixups: dict[str, list[int]] = {}
    for key, index in row["fixups"].items():
        if key:
            fixups.setdefault(key.split()[0], []).append(index)
    types = bytes.fromhex(row["btf_types"])
    return SuiteCase(
        row["descr"], row["count"], tuple(decode(bytes.fromhex(row["insns"]))), row["prog_type"] or 1,
        row["flags"], row["attach"], row["result"], row["result_unpriv"], row["errstr"],
        row["errstr_unpriv"], row["processed"], row["kfunc"], bytes.fromhex(row["func_info"]),
        _btf(types, bytes.fromhex(row["btf_strings"])) if types else b"",
        {name: tuple(indices) for name, indices in fixups.items()},
        {int(key): name for key, name in row["kfuncs"].items() if key},
    )  # fmt: skip


def extract(where: Path) -> list[SuiteCase]:
    """Every case of the suite, by way of the temporary directory ``where``."""
    top = Path(os.environ["LINUX_SOURCE"]) if "LINUX_SOURCE" in os.environ else _unpack(where)
    return [_case(json.loads(line)) for line in _compile(top)]


# ---- maps -----------------------------------------------------------------------------------

_T = bpf_map_type
_PLAIN: dict[str, tuple[int, int, int, int, int]] = {
    "map_hash_8b": (_T.BPF_MAP_TYPE_HASH, 8, 8, 1, MapFlags.BPF_F_NO_PREALLOC),
    "map_hash_48b": (_T.BPF_MAP_TYPE_HASH, 8, 48, 1, MapFlags.BPF_F_NO_PREALLOC),
    "map_hash_16b": (_T.BPF_MAP_TYPE_HASH, 8, 16, 1, MapFlags.BPF_F_NO_PREALLOC),
    "map_array_48b": (_T.BPF_MAP_TYPE_ARRAY, 4, 48, 1, 0),
    "map_sockmap": (_T.BPF_MAP_TYPE_SOCKMAP, 4, 4, 1, 0),
    "map_sockhash": (_T.BPF_MAP_TYPE_SOCKHASH, 4, 4, 1, 0),
    "map_xskmap": (_T.BPF_MAP_TYPE_XSKMAP, 4, 4, 1, 0),
    "map_stacktrace": (_T.BPF_MAP_TYPE_STACK_TRACE, 4, 8, 1, 0),
    "prog1": (_T.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0),
    "prog2": (_T.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 8, 0),
    "cgroup_storage": (_T.BPF_MAP_TYPE_CGROUP_STORAGE, 16, 64, 0, 0),
    "percpu_cgroup_storage": (_T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, 16, 64, 0, 0),
    "map_array_ro": (_T.BPF_MAP_TYPE_ARRAY, 4, 48, 1, MapFlags.BPF_F_RDONLY_PROG),
    "map_array_wo": (_T.BPF_MAP_TYPE_ARRAY, 4, 48, 1, MapFlags.BPF_F_WRONLY_PROG),
    "map_array_small": (_T.BPF_MAP_TYPE_ARRAY, 4, 1, 1, 0),
    "map_event_output": (_T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 1, 0),
    "map_reuseport_array": (_T.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 8, 1, 0),
    "map_ringbuf": (_T.BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0),
}
"""Type, key size, value size, entries, flags."""
_OWNED = ("prog1", "prog2", "cgroup_storage", "percpu_cgroup_storage")
"""The first program decides which others these maps suit, so each case gets its own."""
_WITH_BTF: dict[str, tuple[int, int, int, int, int, int]] = {
    "map_spin_lock": (_T.BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0, 3),
    "sk_storage_map": (_T.BPF_MAP_TYPE_SK_STORAGE, 4, 8, 0, MapFlags.BPF_F_NO_PREALLOC, 3),
    "map_timer": (_T.BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0, 5),
    "map_kptr": (_T.BPF_MAP_TYPE_ARRAY, 4, 24, 1, 0, 14),
}
"""The same, and the BTF type of the value in :func:`value_btf`."""


def value_btf() -> bytes:
    """Types for values with a spin lock (3), a timer (5) and kernel pointers (14); 1 is ``int``."""
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    def kind(text: str, number: int, members: int, size: int) -> bytes:
        return struct.pack("<III", name(text) if text else 0, number << 24 | members, size)

    def member(text: str, of: int, bits: int) -> bytes:
        return struct.pack("<III", name(text), of, bits)

    structure, ptr, tag = 4, 2, 18
    types = struct.pack("<IIII", name("int"), 1 << 24, 4, 1 << 24 | 32)
    types += kind("bpf_spin_lock", structure, 1, 4) + member("val", 1, 0)
    types += kind("val", structure, 2, 8) + member("cnt", 1, 0) + member("l", 2, 32)
    types += kind("bpf_timer", structure, 0, 16)
    types += kind("timer", structure, 1, 16) + member("t", 4, 0)
    types += kind("prog_test_ref_kfunc", structure, 0, 0) + kind("prog_test_member", structure, 0, 0)
    types += kind("kptr_untrusted", tag, 0, 6) + kind("kptr", tag, 0, 6) + kind("kptr", tag, 0, 7)
    types += kind("", ptr, 0, 8) + kind("", ptr, 0, 9) + kind("", ptr, 0, 10)
    types += kind("btf_ptr", structure, 3, 24)
    types += member("ptr", 11, 0) + member("ptr", 12, 64) + member("ptr", 13, 128)
    return _btf(types, bytes(strings))


@dataclass(frozen=True)
class Verdict:
    """What a kernel said: ``errno`` 0 accepts. ``before`` names what failed before verification."""

    errno: int
    log: str = ""
    before: str = ""

    @property
    def processed(self) -> int:
        """The count in the log's last line; -1 when the log has none."""
        at = self.log.rfind("processed ")
        return int(self.log[at:].split()[1]) if at >= 0 else -1

    @property
    def last(self) -> str:
        """The decisive line: the last one before the counts."""
        rows = [row.strip() for row in self.log.splitlines()]
        rows = [
            row
            for row in rows
            if row and not row.startswith(("processed ", "verification time", "stack depth"))
        ]
        return rows[-1] if rows else ""


class Loader:
    """Loads cases of the suite into one kernel, and keeps the maps that it made for them."""

    def __init__(self, bpf: Bpf, kfunc: Any = None) -> None:
        self._bpf = bpf
        self._maps: dict[str, int] = {}
        self._kfunc = kfunc

    def _make(self, name: str) -> int:
        bpf = self._bpf
        if name in _PLAIN:
            return bpf.map_create(*_PLAIN[name][:4], map_flags=_PLAIN[name][4])
        if name == "map_in_map":
            inner = bpf.map_create(_T.BPF_MAP_TYPE_ARRAY, 4, 4, 1)
            return bpf.map_create(_T.BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner_map_fd=inner)
        kind, key, value, entries, flags, of = _WITH_BTF[name]
        btf = bpf.btf_load(value_btf())
        return bpf.map_create(
            kind, key, value, entries, "test_map", flags, btf_fd=btf, btf_key_type_id=1, btf_value_type_id=of
        )

    def map_fd(self, name: str) -> int:
        """The map that a fixup wants; SyscallError when this kernel has none such.

        It is made once, unless programs leave their mark on it.
        """
        if name in _OWNED and name in self._maps:
            self._bpf.close(self._maps.pop(name))
        if name not in self._maps:
            self._maps[name] = self._make(name)
        return self._maps[name]

    def insns(self, case: SuiteCase) -> list[Insn]:
        """The program with descriptors and numbers of functions filled in."""
        insns = list(case.insns)
        for name, places in case.fixups.items():
            fd = self.map_fd(name)
            for at in places:
                insns[at] = insns[at]._replace(imm=fd)
        for at, name in case.kfuncs.items():
            insns[at] = insns[at]._replace(imm=self._kfunc(name) if self._kfunc else 0)
        return insns

    def load(self, case: SuiteCase, level: int = 2) -> Verdict:
        """The verdict on a case; the program is closed again."""
        more: dict[str, int] = {}
        flags = case.flags & 0xFC
        flags |= (1 if case.flags & 2 else 0) | (2 if case.flags & 1 else 0)
        try:
            insns = self.insns(case)
            if case.btf:
                more["prog_btf_fd"] = self._bpf.btf_load(case.btf)
            if case.kfunc:
                more["attach_btf_id"] = self._kfunc(case.kfunc) if self._kfunc else 0
        except SyscallError as error:
            return Verdict(error.errno or 0, "", str(error))
        if case.func_info:
            more |= {"func_info_rec_size": 8, "func_info_cnt": len(case.func_info) // 8}
        try:
            fd, log = self._bpf.prog_load(
                case.prog_type, insns, log_level=level, log_size=1 << 22, func_info=case.func_info,
                expected_attach_type=case.attach_type, prog_flags=flags, **more,
            )  # fmt: skip
        except VerifierError as error:
            return Verdict(error.errno or 0, error.log, "" if error.log else "PROG_LOAD")
        finally:
            if "prog_btf_fd" in more:
                self._bpf.close(more["prog_btf_fd"])
        self._bpf.close(fd)
        return Verdict(0, log)


def judged(cases: list[SuiteCase]) -> Iterator[SuiteCase]:
    """The cases short enough to be loaded."""
    return (case for case in cases if case.count <= MAX_INSNS)
