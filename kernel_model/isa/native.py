# SPDX-License-Identifier: GPL-2.0-only
"""The whole contract between the kernel and an architecture's JIT: a request, and the image it becomes.

The kernel fills a :class:`NativeRequest` from a verified program; the JIT answers with a
:class:`NativeImage`. Neither side knows more of the other. The interpreter runs the same
``(insns, subprogs)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from .insn import Insn

PRIV_STACK_GUARD_SZ: Final = 8
"""Bytes of guard on each side of a private stack (arch/x86/net/bpf_jit_comp.c)."""


@dataclass(frozen=True)
class Subprog:
    """One function of a program: the slots ``[start, end)``; number 0 is the main program.

    ``stack_depth`` is in bytes, as the verifier computed it (0..512, not rounded).
    ``tail_call_reachable``: this function or one it calls makes a tail call, so it carries the
    tail-call counter (kernel: ``aux->tail_call_reachable``); ``has_tail_call`` is set where this
    function itself contains one.
    """

    start: int
    end: int
    stack_depth: int = 0
    name: str = ""
    has_tail_call: bool = False
    tail_call_reachable: bool = False
    is_cb: bool = False
    is_exception_cb: bool = False
    is_exception_boundary: bool = False
    private_stack: int | None = None
    """Per-CPU address of the private stack's memory, None for the ordinary stack."""
    wants_private_stack: bool = False
    """The verifier let this function's frame leave the kernel's stack (jits_use_priv_stack, since 6.13)."""

    @property
    def private_stack_size(self) -> int:
        """Bytes of the private stack's memory on each CPU, guards included."""
        return -(-self.stack_depth // 8) * 8 + 2 * PRIV_STACK_GUARD_SZ

    @property
    def private_stack_top(self) -> int:
        """The per-CPU address that R10 holds in this function; ValueError on the ordinary stack."""
        if self.private_stack is None:
            raise ValueError(f"function {self.name} has no private stack")
        return self.private_stack + self.private_stack_size - PRIV_STACK_GUARD_SZ


@dataclass(frozen=True)
class CpuFeatures:
    """What the simulated CPU offers to the JIT."""

    bmi2: bool = True
    """Shifts by a register other than rcx are shlx, shrx and sarx (X86_FEATURE_BMI2)."""
    hypervisor: bool = False
    """The CPU is a guest's (X86_FEATURE_HYPERVISOR): with ``Bhi.LOOP`` an IBHF follows the loop."""


class Cfi(Enum):
    """How indirect calls check their targets (``cfi=`` on the kernel's command line)."""

    OFF = "off"
    KCFI = "kcfi"
    FINEIBT = "fineibt"


class Bhi(Enum):
    """How classic programs of loaders without CAP_SYS_ADMIN clear the branch history as they end."""

    OFF = "off"
    LOOP = "loop"
    """By a call of ``clear_bhb_loop`` (X86_FEATURE_CLEAR_BHB_LOOP)."""
    HW = "hw"
    """By the instruction IBHF alone (X86_FEATURE_CLEAR_BHB_HW)."""


@dataclass(frozen=True)
class Mitigations:
    """How the simulated kernel was told to protect branches (its boot parameters and configuration).

    Source of what each does to an image: arch/x86/net/bpf_jit_comp.c of Linux 6.18. ValueError for what
    no kernel combines.
    """

    retpoline: bool = True
    """Indirect jumps go through ``__x86_indirect_thunk_<reg>``; without, an int3 follows them."""
    return_thunk: bool = True
    """Functions return by a jump to the symbol ``x86_return_thunk`` instead of ``ret``."""
    ibt: bool = False
    """Functions begin with endbr64, and tail calls land on one (CONFIG_X86_KERNEL_IBT)."""
    retpoline_lfence: bool = False
    """``spectre_v2=retpoline,lfence``: lfence and the plain jump, in the stead of the thunk."""
    its: bool = False
    """Indirect jumps go through ``__x86_indirect_its_thunk_<reg>``, whatever the two above say."""
    call_depth: bool = False
    """``retbleed=stuff``: every call counts in the per-CPU variable ``__x86_call_depth``, and retpolines
    are ``__x86_indirect_jump_thunk_<reg>``."""
    sls: bool = False
    """int3 behind ``ret`` (CONFIG_MITIGATION_SLS)."""
    bhi: Bhi = Bhi.OFF
    cfi: Cfi = Cfi.OFF
    """What stands in front of functions; FineIBT's without the BHI variant (``cfi=fineibt+bhi``)."""
    cfi_hash: int = 0x6B4E_2C91
    """The type hash of program entries (cfi_bpf_hash); Linux draws it anew at every boot."""
    cfi_subprog_hash: int = 0x3D17_A8F4
    """The same of other functions (cfi_bpf_subprog_hash)."""

    def __post_init__(self) -> None:
        if self.cfi is Cfi.FINEIBT and not self.ibt:
            raise ValueError("FineIBT needs IBT")
        for value in (self.cfi_hash, self.cfi_subprog_hash):
            if not 0x80 <= value < 1 << 32 or value >= 0xFFFF_FF80:
                raise ValueError(f"CFI hash {value:#x} is not one of 32 bits that no byte can hold")

    @property
    def indirect_thunk(self) -> str:
        """The symbols of indirect jumps without the register's name; empty when there are none."""
        if self.its:
            return "__x86_indirect_its_thunk_"
        if not self.retpoline or self.retpoline_lfence:
            return ""
        return "__x86_indirect_jump_thunk_" if self.call_depth else "__x86_indirect_thunk_"

    @property
    def return_size(self) -> int:
        """Bytes of a function's last instruction: a jump to the return thunk, or ``ret`` (and int3)."""
        return 5 if self.return_thunk else 2 if self.sls else 1


@dataclass(frozen=True)
class PokeSite:
    """A direct tail call (constant map and key): JIT code that is patched when the map slot changes.

    ``insn`` is the slot index of the tail call; ``map_addr`` and ``key`` name the program-array slot.
    The offsets are of the two patched instructions (kernel: tailcall_target and tailcall_bypass),
    relative to the function's start; the JIT fills them in.
    """

    insn: int
    map_addr: int
    key: int
    target_off: int = -1
    bypass_off: int = -1
    adj_off: int = 0
    """Bytes to skip at the target's start (nop, counter set-up, push and mov of the prologue)."""


@dataclass(frozen=True)
class NativeRequest:
    """A program after the verifier's fix-ups and the second relocation, ready for machine code.

    - helper calls: ``imm`` is the target's address minus ``symbols["__bpf_call_base"]``, ``src`` 0;
    - bpf-to-bpf calls: ``src`` is BPF_PSEUDO_CALL, ``imm`` the slot distance to the callee's start
      from the next slot (``callee.start == index + 1 + imm``);
    - kfunc calls: ``src`` is BPF_PSEUDO_KFUNC_CALL, ``imm`` relative to ``__bpf_call_base`` as well;
    - LD_IMM64 holds final addresses, except ``src`` BPF_PSEUDO_FUNC whose ``imm`` is as for calls;
    - tail calls are the opcode ``TAIL_CALL``; those in ``pokes`` are direct, with ``imm`` = 1 +
      the poke's number (0 for an indirect one), as in the kernel.
    """

    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    symbols: Mapping[str, int]
    """Addresses by name: __bpf_call_base, x86_return_thunk, __x86_indirect_thunk_rcx, this_cpu_off ..."""
    offsets: Mapping[str, int]
    """Struct offsets in bytes by dotted name: bpf_array.map.max_entries, bpf_array.ptrs ..."""
    features: CpuFeatures = CpuFeatures()
    mitigations: Mitigations = Mitigations()
    pokes: tuple[PokeSite, ...] = ()
    was_classic: bool = False
    """Converted from classic BPF: the prologue lacks the tail-call counter's place."""
    privileged: bool = True
    """The loader has CAP_SYS_ADMIN; classic programs of others clear the branch history (``bhi``)."""
    arena_kern_vm_start: int = 0
    """Kernel address of the program's arena, 0 when it has none."""
    arena_user_vm_start: int = 0


@dataclass(frozen=True)
class ExceptionEntry:
    """A load that may fault: ``off`` is the faulting instruction, ``fixup_off`` where to go on.

    Both relative to the function's start. ``bpf_reg`` (or None for stores) reads zero after the fault.
    ``x86_reg`` is the name of the same register in machine code, such as ``rdi``.
    """

    off: int
    fixup_off: int
    x86_reg: str | None
    bpf_reg: int | None


@dataclass(frozen=True)
class NativeFunction:
    """The machine code of one subprogram.

    ``insn_offs[i]`` is the offset in ``code`` where BPF slot ``start + i`` begins (the second slot of
    LD_IMM64 has the offset of the next instruction); one more entry at the end gives where the
    last instruction's code ends. ``frame_bytes`` is the distance from the BPF frame pointer (rbp) down
    to the stack pointer in the function's body.
    """

    name: str
    addr: int
    code: bytes
    insn_offs: tuple[int, ...]
    frame_bytes: int
    exceptions: tuple[ExceptionEntry, ...] = ()
    prefix: bytes = b""
    """What stands right in front of ``addr`` (kCFI, FineIBT); not counted as the function's."""


@dataclass(frozen=True)
class NativeImage:
    """What the JIT made of a request: one function a subprogram, in order, at their final addresses."""

    functions: tuple[NativeFunction, ...]
    pokes: tuple[PokeSite, ...] = ()
    byte_forms: Mapping[str, int] = field(default_factory=dict)
    """How often each form that the assembler cannot encode was used, by the form's name."""


class NativeCompiler(Protocol):
    """An architecture's JIT."""

    def frame_bytes(self, request: NativeRequest) -> tuple[int, ...]:
        """``NativeFunction.frame_bytes`` of each subprogram, without compiling.

        The interpreter lays its frames out with these, so that addresses agree bit for bit.
        """
        ...

    def compile(
        self, request: NativeRequest, place: Callable[[tuple[int, ...]], tuple[int, ...]]
    ) -> NativeImage:
        """Compile; ``place`` is asked once with the functions' lengths, prefixes included, and answers
        where they begin.

        Raises NotModelled for an instruction that cannot be compiled, naming it.
        """
        ...

    def poke_code(self, poke: PokeSite, base: int, goal: int | None) -> tuple[tuple[int, bytes], ...]:
        """How to patch a direct tail call: what bytes to write at which address, in order.

        ``base`` is the address of the function that holds it, ``goal`` where the tail call lands in the
        target program, None when the slot is empty.
        """
        ...

    def call_code(self, addr: int, target: int) -> bytes:
        """The instruction at ``addr`` that calls ``target``, to be patched over a function's first bytes."""
        ...
