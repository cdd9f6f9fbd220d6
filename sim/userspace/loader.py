# SPDX-License-Identifier: GPL-2.0-only
"""Loading an object into a kernel as libbpf does, by system calls alone.

``load(process, spec)`` uploads BTF, creates and fills the maps, freezes read-only data, loads the programs
and fills program arrays; the process may be the simulator's or any other with the same contract.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from errno import ENOSPC

from kernel_model.btf.parse import Btf, BtfError, Kind
from kernel_model.isa.insn import Insn
from kernel_model.isa.opcodes import BPF_PSEUDO_BTF_ID
from kernel_model.uapi.enums import bpf_attach_type as a
from kernel_model.uapi.enums import bpf_map_type as T
from kernel_model.uapi.enums import bpf_prog_type

from . import ksym_func
from .bpf import Bpf, Process, SyscallError, VerifierError
from .core import CoreError, Resolver
from .core.patch import POISON, patch
from .externs import KCONFIG, Extern, ExternError, config_values
from .facts import VMLINUX_BTF, FactsError, KernelFacts
from .mapdefs import KCONFIG_KIND, LIBBPF_PIN_BY_NAME, MAP_IN_MAP, MapSpec
from .object import ObjectError, ObjectSpec, ProgSpec
from .relocate import ExternRef
from .sections import Sec

PAGE_SIZE = 4096
MAX_LOG_SIZE = 64 << 20
UNRESOLVED = "failed to resolve CO-RE relocation"
"""What libbpf writes into the log where the verifier met an instruction that it could not relocate."""

_NO_BTF = frozenset(
    {
        T.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        T.BPF_MAP_TYPE_CGROUP_ARRAY,
        T.BPF_MAP_TYPE_STACK_TRACE,
        T.BPF_MAP_TYPE_ARRAY_OF_MAPS,
        T.BPF_MAP_TYPE_HASH_OF_MAPS,
        T.BPF_MAP_TYPE_DEVMAP,
        T.BPF_MAP_TYPE_DEVMAP_HASH,
        T.BPF_MAP_TYPE_CPUMAP,
        T.BPF_MAP_TYPE_XSKMAP,
        T.BPF_MAP_TYPE_SOCKMAP,
        T.BPF_MAP_TYPE_SOCKHASH,
        T.BPF_MAP_TYPE_QUEUE,
        T.BPF_MAP_TYPE_STACK,
        T.BPF_MAP_TYPE_ARENA,
    }
)
"""Map types whose keys and values the kernel lets nobody describe by BTF (libbpf leaves the ids out)."""


class UnsupportedObject(ObjectError):
    """An object that needs something this loader does not do yet; ``feature`` names it."""

    def __init__(self, path: str, section: str, offset: int | None, cause: str, feature: str = "") -> None:
        super().__init__(path, section, offset, cause)
        self.feature = feature


class LoadError(Exception):
    """A system call that failed while loading.

    ``path`` is the object, ``what`` the map or program (``prog 'xdp_filter'``), ``errno`` the positive
    number, ``call`` the system call, ``log`` the kernel's log ("" when it wrote none).
    """

    def __init__(self, path: str, what: str, errno: int, call: str, log: str = "") -> None:
        super().__init__(path, what, errno, call, log)
        self.path = path
        self.what = what
        self.errno = errno
        self.call = call
        self.log = log

    @property
    def reason(self) -> str:
        """The verifier's last word: the line of the log before its statistics."""
        lines = [line for line in self.log.splitlines() if line and not _is_statistics(line)]
        return lines[-1].strip() if lines else ""

    def __str__(self) -> str:
        name = SyscallError(self.errno, self.call).name
        return f"{self.path}: {self.what}: {self.call}: {name}" + (f": {self.reason}" if self.reason else "")


_STATISTICS = (
    "processed ",
    "verification time ",
    "stack depth ",
    "mark_precise: ",
    "peak_states ",
    "cur state:",
    "old state:",
)
"""What the log may have behind the decisive line, by how it begins."""


def _is_statistics(line: str) -> bool:
    return line.startswith(_STATISTICS)


@dataclass(frozen=True)
class LoadedMap:
    """A map in the kernel: its fd, and the definition with the sizes that it was created with."""

    fd: int
    spec: MapSpec


@dataclass(frozen=True)
class LoadedProg:
    """A program in the kernel: its fd, its definition, and the verifier's log if one was asked for."""

    fd: int
    spec: ProgSpec
    log: str = ""


@dataclass
class LoadedObject:
    """What was loaded, by name. ``close()`` closes all fds; also a context manager."""

    bpf: Bpf
    spec: ObjectSpec
    btf_fd: int | None = None
    maps: dict[str, LoadedMap] = field(default_factory=dict)
    progs: dict[str, LoadedProg] = field(default_factory=dict)

    def fds(self) -> Iterator[int]:
        """Every fd that the object holds."""
        yield from (prog.fd for prog in self.progs.values())
        yield from (loaded.fd for loaded in self.maps.values())
        if self.btf_fd is not None:
            yield self.btf_fd

    def close(self) -> None:
        """Close every fd; what is pinned or attached lives on."""
        for fd in self.fds():
            self.bpf.close(fd)
        self.progs.clear()
        self.maps.clear()
        self.btf_fd = None

    def __enter__(self) -> LoadedObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    process: Process,
    spec: ObjectSpec,
    *,
    programs: list[str] | None = None,
    prog_type: bpf_prog_type | None = None,
    initial: Mapping[str, bytes] | None = None,
    max_entries: Mapping[str, int] | None = None,
    log_level: int = 0,
    pin_root: str = "/sys/fs/bpf",
    cpus: int = 1,
    kernel_btf: Btf | None = None,
    kernel_config: Mapping[str, str] | None = None,
) -> LoadedObject:
    """Load an object into the kernel of ``process``.

    ``programs`` limits what is loaded (default: all but those with ``?``); ``prog_type`` is for programs
    whose section says nothing; ``initial`` replaces the initial bytes of global-data maps, ``max_entries``
    the sizes of maps, by name; ``cpus`` is the number of possible CPUs (the size of perf event arrays that
    give none). ``kernel_btf`` are the types that CO-RE relocations are resolved against, ``kernel_config``
    the values for .kconfig (defaults: what the kernel of the process shows of itself). Raises LoadError
    when a system call fails, ObjectError when the object lacks something, and UnsupportedObject for what is
    not done yet; fds opened so far are closed then.
    """
    wanted = _choose(spec, programs, prog_type)
    for prog in wanted:
        _check(spec, prog)
    if spec.struct_ops:
        feature = "struct_ops maps"
        raise UnsupportedObject(spec.path, spec.struct_ops[0], None, f"{feature} are not supported", feature)
    bpf = Bpf(process)
    facts = KernelFacts(bpf, kernel_btf, kernel_config)
    loader = _Loader(bpf, facts, spec, initial or {}, max_entries or {}, log_level, pin_root, cpus)
    try:
        loader.run(wanted)
    except BaseException:
        loader.out.close()
        raise
    return loader.out


def _choose(spec: ObjectSpec, names: list[str] | None, prog_type: bpf_prog_type | None) -> list[ProgSpec]:
    if names is None:
        chosen = [prog for prog in spec.programs.values() if prog.autoload]
    else:
        missing = [name for name in names if name not in spec.programs]
        if missing:
            raise ObjectError(spec.path, "", None, f"no program named '{missing[0]}'")
        chosen = [spec.programs[name] for name in names]
    if not chosen:
        raise ObjectError(spec.path, "", None, "object doesn't contain a BPF program to load")
    out = []
    for prog in chosen:
        if prog.type is None and prog_type is None:
            cause = f"prog '{prog.name}': missing BPF prog type, check ELF section name '{prog.section}'"
            raise ObjectError(spec.path, prog.section, None, cause)
        out.append(prog if prog.type is not None else replace(prog, type=prog_type))
    return out


def _check(spec: ObjectSpec, prog: ProgSpec) -> None:
    """Raise UnsupportedObject when the program needs what of the kernel's BTF and symbols is not there."""

    def unsupported(cause: str, feature: str, offset: int | None = None) -> UnsupportedObject:
        return UnsupportedObject(spec.path, prog.section, offset, f"prog '{prog.name}': {cause}", feature)

    if prog.definition is not None and Sec.ATTACH_BTF in prog.definition.flags:
        if not prog.target:
            cause = f"prog '{prog.name}': no BTF-based attach target is specified"
            raise ObjectError(spec.path, prog.section, None, cause)
        if prog.type == bpf_prog_type.BPF_PROG_TYPE_EXT:
            cause = f"replacing function '{prog.target}' of a program is not supported"
            raise unsupported(cause, "programs attached to programs")


class _Loader:
    def __init__(
        self,
        bpf: Bpf,
        facts: KernelFacts,
        spec: ObjectSpec,
        initial: Mapping[str, bytes],
        max_entries: Mapping[str, int],
        log_level: int,
        pin_root: str,
        cpus: int,
    ) -> None:
        self.bpf = bpf
        self.facts = facts
        self.spec = spec
        self.initial = initial
        self.max_entries = max_entries
        self.log_level = log_level
        self.pin_root = pin_root
        self.cpus = cpus
        self.core: Resolver | None = None
        self.out = LoadedObject(bpf, spec)

    def run(self, programs: list[ProgSpec]) -> None:
        if self.spec.btf is not None:
            self._load_btf(self.spec.btf)
        for name in [*self.initial, *self.max_entries]:
            if name not in self.spec.maps:
                raise ObjectError(self.spec.path, "", None, f"no map named '{name}'")
        for spec in self.spec.maps.values():
            self._make_map(spec)
        for spec in self.spec.maps.values():
            if spec.type in MAP_IN_MAP:
                self._fill_slots(spec, {name: m.fd for name, m in self.out.maps.items()}, "map")
        for prog in programs:
            self._load_prog(prog)
        for spec in self.spec.maps.values():
            if spec.type == T.BPF_MAP_TYPE_PROG_ARRAY:
                self._fill_slots(spec, {name: p.fd for name, p in self.out.progs.items()}, "prog")

    def _fail(self, what: str, error: SyscallError) -> LoadError:
        log = error.log if isinstance(error, VerifierError) else ""
        return LoadError(self.spec.path, what, error.errno or 0, error.call, log)

    def _load_btf(self, btf: bytes) -> None:
        try:
            self.out.btf_fd = self.bpf.btf_load(btf)
        except SyscallError:
            # Once more for the log, which costs nothing when there is no error.
            try:
                self.out.btf_fd = self.bpf.btf_load(btf, log_level=1)
            except SyscallError as error:
                raise self._fail("BTF", error) from None

    def _make_map(self, spec: MapSpec) -> None:
        spec = self._sized(spec)
        path = "/".join(part for part in (self.pin_root, spec.pin_dir, spec.name) if part)
        if spec.pinning == LIBBPF_PIN_BY_NAME:
            fd = self._reuse(spec, path)
            if fd is not None:
                self.out.maps[spec.name] = LoadedMap(fd, spec)
                return
        what = f"map '{spec.name}'"
        try:
            fd = self._create_with_inner(spec)
            self.out.maps[spec.name] = LoadedMap(fd, spec)
            data = self.initial.get(spec.name, self._content(spec))
            if data is not None:
                if len(data) != spec.value_size:
                    cause = f"{what}: {len(data)} initial bytes for a value of {spec.value_size}"
                    raise ObjectError(self.spec.path, spec.section, None, cause)
                self.bpf.map_update(fd, bytes(spec.key_size), data)
            if spec.frozen:
                self.bpf.map_freeze(fd)
            if spec.pinning == LIBBPF_PIN_BY_NAME:
                self._make_dirs(spec.pin_dir)
                self.bpf.obj_pin(fd, path)
        except SyscallError as error:
            raise self._fail(what, error) from None

    def _content(self, spec: MapSpec) -> bytes | None:
        if spec.kind != KCONFIG_KIND:
            return spec.initial
        try:
            return config_values(self.spec.externs, self.facts.config)
        except (ExternError, FactsError) as error:
            raise ObjectError(self.spec.path, KCONFIG, None, str(error)) from None

    def _make_dirs(self, below: str) -> None:
        path = self.pin_root
        for part in below.split("/") if below else ():
            path = f"{path}/{part}"
            self.bpf.make_dir(path)

    def _sized(self, spec: MapSpec) -> MapSpec:
        entries = self.max_entries.get(spec.name, spec.max_entries)
        if spec.type == T.BPF_MAP_TYPE_PERF_EVENT_ARRAY and not entries:
            entries = self.cpus
        if spec.type in (T.BPF_MAP_TYPE_RINGBUF, T.BPF_MAP_TYPE_USER_RINGBUF) and entries:
            # The kernel takes powers of two of at least a page only.
            entries = max(PAGE_SIZE, 1 << (entries - 1).bit_length())
        return replace(spec, max_entries=entries)

    def _create_with_inner(self, spec: MapSpec) -> int:
        if spec.inner is None:
            return self._create(spec, 0)
        # The kernel keeps the shape of the inner map, not the map.
        inner_fd = self._create(self._sized(spec.inner), 0)
        try:
            return self._create(spec, inner_fd)
        finally:
            self.bpf.close(inner_fd)

    def _create(self, spec: MapSpec, inner_fd: int) -> int:
        more = {"numa_node": spec.numa_node, "map_extra": spec.map_extra, "inner_map_fd": inner_fd}
        described = (spec.key_type or spec.value_type) and spec.type not in _NO_BTF
        if self.out.btf_fd is not None and described:
            try:
                return self._map_create(
                    spec,
                    btf_fd=self.out.btf_fd,
                    btf_key_type_id=spec.key_type,
                    btf_value_type_id=spec.value_type,
                    **more,
                )
            except SyscallError:
                # Not every map type takes a description; the map itself may still be fine.
                pass
        return self._map_create(spec, **more)

    def _map_create(self, spec: MapSpec, **more: int) -> int:
        return self.bpf.map_create(
            spec.type,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            name=spec.name,
            map_flags=spec.map_flags,
            **more,
        )

    def _reuse(self, spec: MapSpec, path: str) -> int | None:
        """The map pinned at ``path`` when there is one; it must be of the same shape."""
        try:
            fd = self.bpf.obj_get(path)
        except SyscallError:
            return None
        info, _ = self.bpf.obj_info(fd, "bpf_map_info")
        shape = ("type", "key_size", "value_size", "max_entries", "map_flags", "map_extra")
        differing = [name for name in shape if info[name] != getattr(spec, name)]
        if differing:
            self.bpf.close(fd)
            cause = f"map '{spec.name}': {differing[0]} of the map pinned at '{path}' differs"
            raise ObjectError(self.spec.path, spec.section, spec.offset, cause)
        return fd

    def _fill_slots(self, spec: MapSpec, fds: Mapping[str, int], what: str) -> None:
        loaded = self.out.maps[spec.name]
        for index, name in spec.slots:
            if name not in fds:
                cause = f"map '{spec.name}': slot [{index}] wants {what} '{name}', which was not loaded"
                raise ObjectError(self.spec.path, spec.section, spec.offset, cause)
            try:
                self.bpf.map_update(loaded.fd, index.to_bytes(4, "little"), fds[name].to_bytes(4, "little"))
            except SyscallError as error:
                raise self._fail(f"map '{spec.name}': slot [{index}]", error) from None

    def _load_prog(self, prog: ProgSpec) -> None:
        assert prog.type is not None
        more: dict[str, int] = {
            "expected_attach_type": prog.attach_type,
            "prog_flags": prog.flags,
            "kern_version": self.spec.version,
        }
        if prog.definition is not None and Sec.ATTACH_BTF in prog.definition.flags:
            more["attach_btf_id"] = self._attach_target(prog)
        func_info, line_info = b"", b""
        if self.out.btf_fd is not None and prog.func_info:
            func_info, line_info = prog.func_info, prog.line_info
            more |= {
                "prog_btf_fd": self.out.btf_fd,
                "func_info_rec_size": prog.func_info_rec_size,
                "func_info_cnt": len(func_info) // prog.func_info_rec_size,
            }
            if line_info:
                more |= {
                    "line_info_rec_size": prog.line_info_rec_size,
                    "line_info_cnt": len(line_info) // prog.line_info_rec_size,
                }
        poisoned: dict[int, str] = {}
        insns = self._instructions(prog, poisoned)
        # At level 0 the log is asked for only after a failure, by loading once more; it grows as needed.
        level, log_size = self.log_level, Bpf.LOG_SIZE
        while True:
            try:
                fd, log = self.bpf.prog_load(
                    prog.type,
                    insns,
                    license=self.spec.license,
                    name=prog.name,
                    log_level=level,
                    log_size=log_size,
                    func_info=func_info,
                    line_info=line_info,
                    **more,
                )
            except SyscallError as error:
                if not level:
                    level = 1
                elif error.errno == ENOSPC and log_size < MAX_LOG_SIZE:
                    log_size *= 2
                else:
                    failed = self._fail(f"prog '{prog.name}'", error)
                    failed.log = _with_core_relocations(failed.log, poisoned)
                    failed.log = ksym_func.name_unresolved(failed.log, self.spec.externs)
                    raise failed from None
            else:
                self.out.progs[prog.name] = LoadedProg(fd, prog, log)
                return

    def _kernel_types(self) -> Btf:
        try:
            return self.facts.btf
        except SyscallError as error:
            raise self._fail("the kernel's BTF", error) from None
        except BtfError as error:
            raise ObjectError(VMLINUX_BTF, "", error.offset, error.reason) from None

    def _attach_target(self, prog: ProgSpec) -> int:
        """The id of the function or tracepoint that a section names (libbpf_find_attach_btf_id)."""
        prefix, kind = _TARGETS.get(prog.attach_type, ("", Kind.FUNC))
        found = self._kernel_types().find(prefix + prog.target, kind)
        if not found:
            cause = f"prog '{prog.name}': failed to find kernel BTF type ID of '{prog.target}'"
            raise ObjectError(self.spec.path, prog.section, None, cause)
        return found

    def _instructions(self, prog: ProgSpec, poisoned: dict[int, str]) -> list[Insn]:
        """The program for this kernel; ``poisoned`` gets what could not be relocated, by slot."""
        insns = list(prog.insns)
        for ref in prog.map_refs:
            insns[ref.insn] = insns[ref.insn]._replace(imm=self.out.maps[ref.map].fd)
        for extern in prog.externs:
            self._resolve(prog, insns, extern)
        if prog.core:
            core = self._core()
            for relo in prog.core:
                try:
                    found = core.resolve(relo.type_id, relo.access, relo.kind)
                    patch(insns, relo.insn, found)
                    if insns[relo.insn].imm == POISON:
                        poisoned[relo.insn] = str(found.local)
                except CoreError as error:
                    cause = f"prog '{prog.name}': CO-RE relocation: {error}"
                    raise ObjectError(self.spec.path, prog.section, relo.insn * 8, cause) from None
        return insns

    def _core(self) -> Resolver:
        if self.core is None:
            assert self.spec.btf_types is not None
            try:
                self.core = Resolver(self.spec.btf_types, self.facts.btf)
            except SyscallError as error:
                raise self._fail("CO-RE relocations", error) from None
            except BtfError as error:
                raise ObjectError(VMLINUX_BTF, "", error.offset, error.reason) from None
        return self.core

    def _resolve(self, prog: ProgSpec, insns: list[Insn], ref: ExternRef) -> None:
        """Put the address of a kernel symbol into its LD_IMM64; 0 for a weak one that is not there."""
        declared = next((each for each in self.spec.externs if each.name == ref.name), None)
        cause = f"prog '{prog.name}': "
        if declared is None:
            cause += f"extern '{ref.name}' is not described by BTF"
            raise ObjectError(self.spec.path, prog.section, ref.insn * 8, cause)
        if declared.is_func:
            self._resolve_function(prog, insns, ref, declared)
            return
        if declared.typed:
            self._resolve_variable(prog, insns, ref)
            return
        addr = self.facts.symbols.get(ref.name, 0)
        if not addr and not ref.weak:
            cause += f"extern (ksym) '{ref.name}' is not among the kernel's symbols"
            raise ObjectError(self.spec.path, prog.section, ref.insn * 8, cause)
        low, high = struct.unpack("<2i", addr.to_bytes(8, "little"))
        insns[ref.insn] = insns[ref.insn]._replace(src=0, imm=low)
        insns[ref.insn + 1] = insns[ref.insn + 1]._replace(imm=high)

    def _resolve_function(self, prog: ProgSpec, insns: list[Insn], ref: ExternRef, declared: Extern) -> None:
        """Name a kernel function by its BTF id, in a call or in a question for its address."""
        assert self.spec.btf_types is not None
        try:
            number = ksym_func.find_function(declared, self.spec.btf_types, self._kernel_types())
        except ksym_func.KsymError as error:
            cause = f"prog '{prog.name}': {error}"
            raise ObjectError(self.spec.path, prog.section, ref.insn * 8, cause) from None
        if ref.is_call:
            place = self.spec.externs.index(declared)
            insns[ref.insn] = ksym_func.call(insns[ref.insn], number, place)
            return
        insns[ref.insn] = ksym_func.address(insns[ref.insn], number)
        insns[ref.insn + 1] = insns[ref.insn + 1]._replace(imm=0)

    def _resolve_variable(self, prog: ProgSpec, insns: list[Insn], ref: ExternRef) -> None:
        """Name a typed kernel variable by its BTF id (bpf_object__resolve_ksym_var_btf_id)."""
        number = self._kernel_types().find(ref.name, Kind.VAR)
        if not number and not ref.weak:
            cause = f"prog '{prog.name}': extern (var ksym) '{ref.name}': not found in kernel BTF"
            raise ObjectError(self.spec.path, prog.section, ref.insn * 8, cause)
        src = BPF_PSEUDO_BTF_ID if number else 0
        insns[ref.insn] = insns[ref.insn]._replace(src=src, imm=number)
        insns[ref.insn + 1] = insns[ref.insn + 1]._replace(imm=0)


_TARGETS: Mapping[int, tuple[str, Kind]] = {
    a.BPF_TRACE_RAW_TP: ("btf_trace_", Kind.TYPEDEF),
    a.BPF_TRACE_ITER: ("bpf_iter_", Kind.FUNC),
    a.BPF_LSM_MAC: ("bpf_lsm_", Kind.FUNC),
    a.BPF_LSM_CGROUP: ("bpf_lsm_", Kind.FUNC),
}
"""What stands for a target in the kernel's BTF: the name's prefix and the kind; else a plain function."""


def _with_core_relocations(log: str, poisoned: Mapping[int, str]) -> str:
    """The log with the relocation named where the verifier met an instruction poisoned for it (as libbpf)."""
    lines = log.splitlines()
    for at, line in enumerate(lines):
        number = line.partition(":")[0]
        call = f": (85) call unknown#{POISON}"
        if number.isdigit() and line == number + call and int(number) in poisoned:
            lines[at] = f"{number}: <invalid CO-RE relocation>"
            if at + 1 < len(lines) and lines[at + 1] == f"invalid func unknown#{POISON}":
                lines[at + 1] = f"{UNRESOLVED} {poisoned[int(number)]}"
    return "\n".join(lines) + "\n" if lines else log
