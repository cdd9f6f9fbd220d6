# SPDX-License-Identifier: GPL-2.0-only
"""A lean way into unicorn: kept buffers and raw callbacks instead of the stock binding's conversions.

The stock binding costs 2 to 15 microseconds a call, which is more than most BPF programs run for. This
module is the only one that touches the library's C interface; the rest of the machine uses these
classes.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import unicorn
from unicorn import unicorn_const as uc_const
from unicorn import x86_const as x86
from unicorn.unicorn_py3 import unicorn as binding

_LIB = ctypes.CDLL(binding.uclib._name)
_LIB.uc_emu_start.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint64,
    ctypes.c_uint64,
    ctypes.c_size_t,
]
_LIB.uc_emu_stop.argtypes = [ctypes.c_void_p]
_LIB.uc_reg_read.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_LIB.uc_reg_write.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_LIB.uc_reg_read_batch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
_LIB.uc_reg_write_batch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
_LIB.uc_hook_del.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
# The same function once more, for arguments that have been converted already.
_READ_BATCH = _LIB["uc_reg_read_batch"]

_CODE_BUFFER = 128 << 20
"""Bytes of host memory for translated code (unicorn's default is 1 GiB a machine)."""

_INTR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_INSN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_CPUID = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_PORT_IN = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p)
_PORT_OUT = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p
)
_CODE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)

GPRS = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
"""General registers in the order of struct pt_regs."""

_IDS = {
    name: getattr(x86, f"UC_X86_REG_{name.upper()}")
    for name in (*GPRS, "rsp", "rip", "rflags", "cr2", "cr3", "fs_base", "gs_base", "cs", "ss")
}


class WideRegister(NamedTuple):
    """A register of up to 16 bytes, kept as two 64-bit halves; ``initial`` is its value after reset."""

    name: str
    size: int
    initial: int = 0


FPU_REGS = (
    *(WideRegister(f"xmm{n}", 16) for n in range(16)),
    *(WideRegister(f"fp{n}", 10) for n in range(8)),
    WideRegister("fpcw", 2, 0x37F),
    WideRegister("fpsw", 2),
    WideRegister("fptag", 2, 0xFFFF),
    WideRegister("mxcsr", 4, 0x1F80),
)
"""What FXSAVE would save: the SSE and x87 state of a thread (the x87 registers by their place)."""

INVALID_INSTRUCTION: int = uc_const.UC_ERR_INSN_INVALID
ENGINE_ERRORS = {
    value: name.removeprefix("UC_ERR_").lower().replace("_", " ")
    for name, value in vars(uc_const).items()
    if name.startswith("UC_ERR_")
}


class RegisterSet:
    """A fixed list of registers that are read and written in one call each."""

    def __init__(self, engine: RawEngine, names: Sequence[str], wide: Sequence[WideRegister] = ()) -> None:
        self.names = tuple(names)
        ids = [_IDS[name] for name in names]
        ids += [getattr(x86, f"UC_X86_REG_{register.name.upper()}") for register in wide]
        self._engine = engine
        self._count = len(ids)
        self._ids = (ctypes.c_int * len(ids))(*ids)
        self._values = (ctypes.c_uint64 * (len(names) + 2 * len(wide)))()
        base = ctypes.addressof(self._values)
        offsets = [8 * n for n in range(len(names))]
        offsets += [8 * len(names) + 16 * n for n in range(len(wide))]
        self._pointers = (ctypes.c_void_p * len(ids))(*(base + off for off in offsets))
        self._bytes = memoryview(self._values).cast("B")
        self._unpack = struct.Struct(f"={len(self._values)}Q").unpack_from
        # Observers read at every instruction, so arguments are converted once, here.
        self._fetch: Callable[[], object] = functools.partial(
            _READ_BATCH,
            engine.handle,
            ctypes.c_void_p(ctypes.addressof(self._ids)),
            ctypes.c_void_p(ctypes.addressof(self._pointers)),
            ctypes.c_int(self._count),
        )

    def read(self) -> tuple[int, ...]:
        """The values now, in order (wide registers as two 64-bit halves each, low first)."""
        self._fetch()
        return self._unpack(self._bytes)

    def write(self, values: Sequence[int]) -> None:
        """Set them all."""
        self._values[:] = list(values)
        _LIB.uc_reg_write_batch(self._engine.handle, self._ids, self._pointers, self._count)


class RawEngine:
    """One unicorn engine for x86-64 whose RAM is a host mapping."""

    def __init__(self, ram_addr: int, ram_size: int) -> None:
        self.uc = unicorn.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64)
        # The newest server model that has both SMEP and SMAP; the default CPU lacks SMAP.
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        self.uc.ctl_set_tcg_buffer_size(_CODE_BUFFER)
        self.uc.mem_map_ptr(0, ram_size, uc_const.UC_PROT_ALL, ram_addr)
        self.handle = self.uc._uch
        self._kept: dict[int, Any] = {}
        self._word = ctypes.c_uint64()
        self._word_at = ctypes.byref(self._word)

    def close(self) -> None:
        """Free the engine; nothing of it may be used afterwards."""
        self.uc._Uc__finalizer()
        self._kept.clear()

    def start(self, rip: int) -> int:
        """Run from ``rip`` until something stops the CPU; unicorn's error number (0: stopped or hlt)."""
        result: int = _LIB.uc_emu_start(self.handle, rip, 0, 0, 0)
        return result

    def stopper(self) -> Callable[[], None]:
        """:meth:`stop` for another thread, without a reference to this object."""
        return functools.partial(_LIB.uc_emu_stop, self.handle)

    def stop(self) -> None:
        """End the run (from a callback or another thread)."""
        _LIB.uc_emu_stop(self.handle)

    def reg(self, name: str) -> int:
        """One register."""
        self._word.value = 0
        _LIB.uc_reg_read(self.handle, _IDS[name], self._word_at)
        return self._word.value

    def set_reg(self, name: str, value: int) -> None:
        """Set one register."""
        self._word.value = value
        _LIB.uc_reg_write(self.handle, _IDS[name], self._word_at)

    def set_control(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Turn paging and the protections on (in the order that the CPU wants)."""
        self.uc.reg_write(x86.UC_X86_REG_CR3, cr3)
        self.uc.reg_write(x86.UC_X86_REG_CR4, cr4)
        self.uc.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, efer))
        self.uc.reg_write(x86.UC_X86_REG_CR0, cr0)

    def set_gdt(self, base: int, limit: int) -> None:
        """Load GDTR."""
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, base, limit, 0))

    def save_context(self) -> Any:
        """All registers, the hidden state (privilege level, pending exception) included."""
        return self.uc.context_save()

    def restore_context(self, context: Any) -> None:
        """Undo everything since that context; CR3 comes back, the TLB does not (write CR3 for that)."""
        self.uc.context_restore(context)

    def flush_tlb(self) -> None:
        """Forget all cached translations of addresses."""
        self.uc.ctl(uc_const.UC_CTL_TLB_FLUSH, uc_const.UC_CTL_IO_WRITE)

    def forget_code(self, start: int, end: int) -> None:
        """Drop what was translated from the *executable* virtual range ``[start, end)``."""
        self.uc.ctl_remove_cache(start, end)

    def forget_all_code(self) -> None:
        """Drop every translation."""
        self.uc.ctl_flush_tb()

    def _add_hook(self, kind: int, callback: Any, begin: int, end: int, *extra: int) -> int:
        hook = ctypes.c_size_t()
        status = binding.uclib.uc_hook_add(
            self.handle,
            ctypes.byref(hook),
            ctypes.c_int(kind),
            callback,
            ctypes.c_void_p(0),
            ctypes.c_uint64(begin),
            ctypes.c_uint64(end),
            *(ctypes.c_int(value) for value in extra),
        )
        if status:
            raise unicorn.UcError(status)
        self._kept[hook.value] = callback
        return int(hook.value)

    def hook_interrupt(self, function: Callable[[int], None]) -> int:
        """``function(vector)`` for every exception and software interrupt."""
        return self._add_hook(uc_const.UC_HOOK_INTR, _INTR(lambda _uc, vector, _data: function(vector)), 1, 0)

    def hook_syscall(self, function: Callable[[], None]) -> int:
        """``function()`` at every ``syscall`` instruction."""
        return self._add_hook(
            uc_const.UC_HOOK_INSN, _INSN(lambda _uc, _data: function()), 1, 0, x86.UC_X86_INS_SYSCALL
        )

    def hook_sysenter(self, function: Callable[[], None]) -> None:
        """``function()`` at every ``sysenter``, which otherwise does nothing."""
        hook = _INSN(lambda _uc, _data: function())
        self._add_hook(uc_const.UC_HOOK_INSN, hook, 1, 0, x86.UC_X86_INS_SYSENTER)

    def hook_cpuid(self, function: Callable[[], int]) -> int:
        """``function()`` at every ``cpuid``; 1 when it has set the registers itself, 0 for the model's."""
        return self._add_hook(
            uc_const.UC_HOOK_INSN, _CPUID(lambda _uc, _data: function()), 1, 0, x86.UC_X86_INS_CPUID
        )

    def hook_ports(self, function: Callable[[], int]) -> None:
        """``function()`` at every ``in`` (it gives what is read) and ``out``."""
        read = _PORT_IN(lambda _uc, _port, _size, _data: function() & 0xFFFF_FFFF)
        written = _PORT_OUT(lambda _uc, _port, _size, _value, _data: (function(), None)[1])
        self._add_hook(uc_const.UC_HOOK_INSN, read, 1, 0, x86.UC_X86_INS_IN)
        self._add_hook(uc_const.UC_HOOK_INSN, written, 1, 0, x86.UC_X86_INS_OUT)

    def hook_code(self, function: Callable[[int], None], begin: int, end: int) -> int:
        """``function(address)`` before every instruction in ``[begin, end]``."""
        return self._add_hook(
            uc_const.UC_HOOK_CODE, _CODE(lambda _uc, addr, _size, _data: function(addr)), begin, end
        )

    def hook_point(self, function: Callable[[int, int, int, int], None], addr: int) -> int:
        """Before the instruction at ``addr``: ``function`` is the raw callback, to save a call.

        Its arguments (engine, address, size, user data) carry nothing of use.
        """
        return self._add_hook(uc_const.UC_HOOK_CODE, _CODE(function), addr, addr)

    def hook_range(self, function: Callable[[int, int, int, int], None], begin: int, end: int) -> int:
        """Before every instruction in ``[begin, end]``: ``function`` is the raw callback, to save a call.

        Its arguments are the engine, the address, the size and nothing of use.
        """
        return self._add_hook(uc_const.UC_HOOK_CODE, _CODE(function), begin, end)

    def hook_block(self, function: Callable[[int], None]) -> int:
        """``function(address)`` at the start of every basic block."""
        return self._add_hook(
            uc_const.UC_HOOK_BLOCK, _CODE(lambda _uc, addr, _size, _data: function(addr)), 1, 0
        )

    def unhook(self, hook: int) -> None:
        """Remove a hook, between runs; translations made with it stay until they are flushed."""
        # unicorn looks up the code that was hooked. Where that is not mapped now, the lookup leaves a page
        # fault in flight, with which the next exception of a guest would make a double fault.
        context = self.save_context()
        _LIB.uc_hook_del(self.handle, hook)
        self.restore_context(context)
        self._kept.pop(hook, None)
