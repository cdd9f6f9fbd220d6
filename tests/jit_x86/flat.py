# SPDX-License-Identifier: GPL-2.0-only
"""The least machine that runs an image: flat memory, code, a stack, some data, kernel stubs. No kernel.

One engine serves all runs; every image goes to fresh addresses, so no translation is ever stale.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import unicorn
from unicorn import x86_const

from jit_x86 import Compiler
from jit_x86.assembler import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import CpuFeatures, Mitigations, NativeImage, NativeRequest, PokeSite, Subprog

TEXT = 0xFFFFFFFF81000000
CODE = 0xFFFFFFFFC0000000
CODE_SIZE = 64 << 20
STACK = 0xFFFFC90000000000
STACK_SIZE = 64 << 10
DATA = 0xFFFF888000000000
DATA_SIZE = 64 << 10
PERCPU = 0xFFFF888000100000
"""Where the per-CPU area is; the gs base and the value of this_cpu_off make addresses of it."""
PERCPU_SIZE = 64 << 10
_END = TEXT + 0xF00
THIS_CPU_OFF = 0x200

SYMBOLS = {
    "__bpf_call_base": TEXT,
    "x86_return_thunk": TEXT + 0x800,
    "__x86_indirect_thunk_rcx": TEXT + 0x810,
    "__x86_indirect_its_thunk_rcx": TEXT + 0x820,
    "__x86_indirect_jump_thunk_rcx": TEXT + 0x830,
    "clear_bhb_loop": TEXT + 0x840,
    "this_cpu_off": THIS_CPU_OFF,
    "__x86_call_depth": TEXT + 0x2000,
}
OFFSETS = {"bpf_array.map.max_entries": 0x4C, "bpf_array.ptrs": 0x138, "bpf_prog.bpf_func": 0x48}
MASK = (1 << 64) - 1
_PHYSICAL = (1 << 52) - 1
"""Without paging the engine cuts addresses to so many bits; kernel addresses are mapped there."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: R0, or the kind of access that faulted (``read``, ``write``) and where."""

    r0: int
    fault: str | None = None
    fault_addr: int = 0
    fault_rip: int = 0


def request_for(
    insns: Sequence[Insn],
    subprogs: Sequence[Subprog] | None = None,
    *,
    stack: int = 0,
    bmi2: bool = True,
    mitigations: Mitigations | None = None,
    pokes: Sequence[PokeSite] = (),
) -> NativeRequest:
    """A request with this machine's symbols; one function with ``stack`` bytes unless given."""
    return NativeRequest(
        tuple(insns),
        tuple(subprogs or [Subprog(0, len(insns), stack, "main")]),
        SYMBOLS,
        OFFSETS,
        CpuFeatures(bmi2),
        mitigations or Mitigations(),
        tuple(pokes),
    )


class Flat:
    """The machine."""

    def __init__(self) -> None:
        uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        uc.ctl_set_cpu_model(x86_const.UC_CPU_X86_ICELAKE_SERVER)
        uc.mem_map(TEXT & _PHYSICAL, 0x1000)
        uc.mem_map(CODE & _PHYSICAL, CODE_SIZE)
        for base, size in ((STACK, STACK_SIZE), (DATA, DATA_SIZE), (PERCPU, PERCPU_SIZE)):
            uc.mem_map(base & _PHYSICAL, size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        self.uc = uc
        self.write(SYMBOLS["x86_return_thunk"], assemble("ret"))
        self.write(SYMBOLS["__x86_indirect_thunk_rcx"], assemble("jmp rcx"))
        self.write(_END, assemble("hlt"))
        self.write(PERCPU + THIS_CPU_OFF, PERCPU.to_bytes(8, "little"))
        uc.reg_write(x86_const.UC_X86_REG_GS_BASE, PERCPU)
        self.compiler = Compiler()
        self._next = CODE
        self._fault: tuple[str, int] | None = None
        uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid)

    def write(self, addr: int, data: bytes) -> None:
        """Put ``data`` at the virtual address ``addr``."""
        self.uc.mem_write(addr & _PHYSICAL, data)

    def read(self, addr: int, size: int) -> bytes:
        """The ``size`` bytes at the virtual address ``addr``."""
        return bytes(self.uc.mem_read(addr & _PHYSICAL, size))

    def _on_invalid(
        self, _uc: object, access: int, address: int, _size: int, _value: int, _user: object
    ) -> bool:
        write = access in (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT)
        self._fault = ("write" if write else "read", address & MASK)
        return False

    def place(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Addresses for functions of these lengths, 16-byte aligned and never used before."""
        addrs = []
        for length in lengths:
            addrs.append(self._next)
            self._next += (length + 31) & ~15
        assert self._next <= CODE + CODE_SIZE
        return tuple(addrs)

    def load(self, request: NativeRequest) -> NativeImage:
        """Compile a request and write the image."""
        image = self.compiler.compile(request, self.place)
        for function in image.functions:
            self.write(function.addr, function.code)
        return image

    def stub(self, offset: int, text: str) -> int:
        """Put a kernel function at ``offset`` behind __bpf_call_base: that is the call's imm."""
        self.write(TEXT + offset, assemble(text, TEXT + offset))
        self.uc.ctl_flush_tb()
        return offset

    def _go(self, start: int) -> Outcome | None:
        """Run until the end (None) or a fault."""
        self._fault = None
        try:
            self.uc.emu_start(start, _END)
        except unicorn.UcError:
            if self._fault is None:
                raise
            kind, address = self._fault
            rip = self.uc.reg_read(x86_const.UC_X86_REG_RIP) & MASK
            # A locked instruction faults as a write on a processor; the engine reads first.
            kind = "write" if self.read(rip, 1) == b"\xf0" else kind
            # Kernel addresses lose their top bits on the way: put them back.
            return Outcome(0, kind, address | (~_PHYSICAL & MASK if address >> 47 else 0), rip)
        return None

    def _fixup(self, image: NativeImage, rip: int) -> int | None:
        """What the kernel's fault handler does: clear the register, go on behind the access."""
        for function in image.functions:
            for entry in function.exceptions:
                if rip == function.addr + entry.off:
                    if entry.x86_reg:
                        self.uc.reg_write(getattr(x86_const, f"UC_X86_REG_{entry.x86_reg.upper()}"), 0)
                    return function.addr + entry.fixup_off
        return None

    def run(
        self, image: NativeImage, r1: int = 0, r2: int = 0, entry: int | None = None, extable: bool = True
    ) -> Outcome:
        """Call the image's first function (or ``entry``); faults with an exception entry are resumed."""
        uc, top = self.uc, STACK + STACK_SIZE - 256
        saved = (x86_const.UC_X86_REG_RBX, x86_const.UC_X86_REG_R12, x86_const.UC_X86_REG_R13)
        saved += (x86_const.UC_X86_REG_R14, x86_const.UC_X86_REG_R15, x86_const.UC_X86_REG_RBP)
        for number, reg in enumerate(saved):
            uc.reg_write(reg, 0x1111 * (number + 1))
        self.write(top, _END.to_bytes(8, "little"))
        uc.reg_write(x86_const.UC_X86_REG_RSP, top)
        uc.reg_write(x86_const.UC_X86_REG_RDI, r1)
        uc.reg_write(x86_const.UC_X86_REG_RSI, r2)
        start = image.functions[0].addr if entry is None else entry
        while (outcome := self._go(start)) is not None:
            fixup = self._fixup(image, outcome.fault_rip) if extable else None
            if fixup is None:
                return outcome
            start = fixup
        assert uc.reg_read(x86_const.UC_X86_REG_RSP) & MASK == top + 8, "the stack is not balanced"
        for number, reg in enumerate(saved):
            assert uc.reg_read(reg) == 0x1111 * (number + 1), "a callee-saved register changed"
        return Outcome(uc.reg_read(x86_const.UC_X86_REG_RAX) & MASK)

    def frame(self, image: NativeImage, size: int) -> bytes:
        """The ``size`` bytes below the frame pointer that the first function had."""
        return self.read(STACK + STACK_SIZE - 256 - 8 - size, size)


@functools.cache
def machine() -> Flat:
    """One machine for all tests of a process."""
    return Flat()
