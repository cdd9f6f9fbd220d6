# SPDX-License-Identifier: GPL-2.0-only
"""What goes into the verifier and what comes out: plain data, and the one entry point ``verify``.

The verifier reads a program (:class:`ProgramSpec`) against a kernel (:class:`Environment`) and answers
with the program that the engines run (:class:`VerifiedProgram`) or raises :class:`VerifierError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kernel_model.btf.layout import Layout
from kernel_model.btf.parse import Btf
from kernel_model.btf.vmlinux import kernel_btf, parse_kernel_btf
from kernel_model.errors import KernelError
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import PokeSite, Subprog

if TYPE_CHECKING:
    from .env import Env
    from .log import VerifierLog
    from .records import UserRecords


@dataclass(frozen=True)
class Privileges:
    """The loader's capabilities: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN."""

    bpf: bool = True
    perfmon: bool = True
    net_admin: bool = True
    sys_admin: bool = True


class MapView(Protocol):
    """A map as the verifier sees it. Sizes are in bytes, as given to BPF_MAP_CREATE."""

    @property
    def addr(self) -> int:
        """Kernel address of its ``struct bpf_map``."""
        ...

    @property
    def id(self) -> int: ...
    @property
    def map_type(self) -> int: ...
    @property
    def key_size(self) -> int: ...
    @property
    def value_size(self) -> int: ...
    @property
    def max_entries(self) -> int: ...
    @property
    def map_flags(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def frozen(self) -> bool:
        """BPF_MAP_FREEZE was done, so user space can no longer write."""
        ...

    @property
    def bypass_spec_v1(self) -> bool:
        """Its creator has CAP_PERFMON: indices into it need no mask against speculation (since 5.8)."""
        ...

    def value_addr(self, off: int) -> int:
        """Kernel address of byte ``off`` of the only value (BPF_PSEUDO_MAP_VALUE).

        KernelError(ENOTSUPP) when the map type has no such address, EINVAL when ``off`` is outside.
        """
        ...

    def read_value(self, off: int, size: int) -> bytes | None:
        """``size`` bytes of the only value of a frozen map, or None when they cannot be known."""
        ...


@dataclass(frozen=True)
class FuncInfo:
    """One record of func_info: the function at slot ``insn_off`` has BTF type ``type_id``."""

    insn_off: int
    type_id: int


@dataclass(frozen=True)
class LineInfo:
    """One record of line_info; ``file_name_off`` and ``line_off`` are offsets in the BTF's strings."""

    insn_off: int
    file_name_off: int
    line_off: int
    line_col: int


class ProgramBtf(Protocol):
    """The program's own BTF, as far as the verifier asks."""

    def func_name(self, type_id: int) -> str:
        """Name of the FUNC ``type_id``; KernelError(EINVAL) when it is no FUNC."""
        ...

    def func_linkage(self, type_id: int) -> int:
        """0 static, 1 global, 2 extern."""
        ...

    def func_params(self, type_id: int) -> Sequence[tuple[str, str, int]]:
        """Name, kind and size in bytes of each parameter.

        The kind is ``int``, ``enum``, ``ptr`` (size of what it points to), ``ctx``, ``ptr:void`` or
        ``other``.
        """
        ...

    def func_returns(self, type_id: int) -> str:
        """Kind of the result: ``int``, ``enum``, ``void`` or ``other``."""
        ...

    def string(self, off: int) -> str:
        """The string at an offset of the string section (source lines); "" when outside."""
        ...

    def has_string(self, off: int) -> bool:
        """Whether the offset lies inside the string section."""
        ...


def own_btf() -> Btf:
    """The types of the simulated kernel itself."""
    return parse_kernel_btf(kernel_btf())


def _never(fd: int) -> bool:
    return False


@dataclass(frozen=True)
class ProgramSpec:
    """A program as BPF_PROG_LOAD hands it over.

    ``map_by_fd`` answers a file descriptor with its map and raises KernelError(EBADF) for no
    descriptor, EINVAL for a descriptor that is no map. ``fd_array`` serves BPF_PSEUDO_MAP_IDX.
    """

    insns: tuple[Insn, ...]
    prog_type: int
    map_by_fd: Callable[[int], MapView]
    expected_attach_type: int = 0
    name: str = ""
    gpl_compatible: bool = False
    flags: int = 0
    privileges: Privileges = Privileges()
    fd_array: Sequence[int] = ()
    is_btf_fd: Callable[[int], bool] = _never
    """Whether a descriptor of a counted ``fd_array`` is BTF, which the program then holds."""
    btf: ProgramBtf | None = None
    btf_errno: int = 0
    """Why ``btf`` is None although the loader named one."""
    func_info: UserRecords | Sequence[FuncInfo] = ()
    line_info: UserRecords | Sequence[LineInfo] = ()
    core_relos: UserRecords | None = None
    """Relocations for the kernel to make."""
    attach_btf_id: int = 0
    """The function or tracepoint of the kernel's BTF that the program is for."""
    attach_to_program: bool = False
    """``attach_btf_id`` is a function of another program instead."""


class VerifierObserver(Protocol):
    """Somebody who watches a run without changing it. ``env`` is the verifier's own working data.

    Calls come in this order: ``begin``; for the main function and each global one ``enter``, then ``step``,
    ``fork`` and ``resume`` as paths are followed, then ``leave``; last ``end``.
    """

    def begin(self, env: Env) -> None:
        """The program was given to the verifier; nothing is checked yet."""
        ...

    def enter(self, env: Env, subprog: int) -> None:
        """The paths of function ``subprog`` are followed from now on, from its first slot."""
        ...

    def step(self, env: Env) -> None:
        """The instruction at ``env.insn_idx`` comes next on the running path ``env.cur``."""
        ...

    def fork(self, env: Env) -> None:
        """``env.pending[-1]`` was put aside, to be followed later."""
        ...

    def resume(self, env: Env) -> None:
        """The running path is done; the one that was put aside last is ``env.cur`` now."""
        ...

    def leave(self, env: Env, subprog: int) -> None:
        """Every path of the function was fine; ``env.explored`` has the states that were kept."""
        ...

    def end(self, env: Env, errno: int) -> None:
        """The verdict: 0, or why the program is refused at ``env.insn_idx`` (words: ``env.last_message``)."""
        ...


@dataclass(frozen=True)
class Environment:
    """The kernel that the program is loaded into.

    ``layout`` gives the struct layouts for context rewrites and inlined code, ``symbol`` the address of
    a kernel symbol by name (KeyError when there is none). ``jit`` says that the program will be
    compiled: inlining of per-CPU accesses and direct tail calls depend on it, as in Linux.
    """

    layout: Layout
    symbol: Callable[[str], int]
    jit: bool = True
    blinding: bool = False
    """Constant blinding is on (bpf_jit_harden): no direct tail calls."""
    nr_cpus: int = 1
    features: Mapping[str, bool] = field(default_factory=dict)
    observer: VerifierObserver | None = None
    vmlinux: Callable[[], Btf] = own_btf
    """The kernel's types."""


@dataclass
class Stats:
    """The counts that close the log at level 4, and what a program with trouble wants to know."""

    insn_processed: int = 0
    max_states_per_insn: int = 0
    total_states: int = 0
    peak_states: int = 0
    per_insn: list[int] = field(default_factory=list)
    """How often each original instruction was processed."""
    stack_depths: tuple[int, ...] = ()

    def summary(self) -> str:
        """The ``processed N insns`` line of the log."""
        return (
            f"processed {self.insn_processed} insns (limit 1000000) "
            f"max_states_per_insn {self.max_states_per_insn} total_states {self.total_states} "
            f"peak_states {self.peak_states} mark_read 0"
        )


@dataclass(frozen=True)
class VerifiedProgram:
    """A program ready for both engines.

    ``insns`` and ``subprogs`` are as NativeRequest wants them. ``orig_index[i]`` is the slot of the
    loaded program from which final slot ``i`` came (for line info and traces).
    """

    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    used_maps: tuple[MapView, ...]
    pokes: tuple[PokeSite, ...]
    orig_index: tuple[int, ...]
    stats: Stats
    log: str
    func_info: tuple[FuncInfo, ...] = ()
    """As given, with ``insn_off`` moved to where the functions begin now."""
    line_info: tuple[LineInfo, ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Facts for struct bpf_prog by Linux's names: cb_access, dst_needed, tail_call_reachable ..."""
    max_pkt_offset: int = 0
    max_ctx_offset: int = 0
    max_tp_access: int = 0


class VerifierError(KernelError):
    """The program is refused with ``errno``; ``reason`` is the decisive line, ``insn`` its slot.

    ``log`` is the whole log text at the level that was asked for (without the buffer's limit),
    ``not_modelled`` as in KernelError.
    """

    def __init__(
        self, errno: int, reason: str, log: str = "", insn: int = -1, not_modelled: str = ""
    ) -> None:
        super().__init__(errno, reason)
        self.log = log
        self.insn = insn
        self.not_modelled = not_modelled

    def __reduce__(self) -> tuple[type[VerifierError], tuple[int, str, str, int, str]]:
        return (VerifierError, (self.errno, self.reason, self.log, self.insn, self.not_modelled))


def verify(spec: ProgramSpec, env: Environment, log: VerifierLog) -> VerifiedProgram:
    """Check ``spec`` and make it ready to run; raises VerifierError when it is refused.

    ``log`` collects text at its level; the caller finalises it (ENOSPC, log_true_size).
    """
    from .main import bpf_check

    return bpf_check(spec, env, log)
