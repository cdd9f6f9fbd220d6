# SPDX-License-Identifier: GPL-2.0-only
"""A function's frame: prologue, epilogue, and the bytes between frame pointer and stack pointer.

From rbp downwards: the BPF stack (rounded up to 8), with tail calls two words for the counter and its
pointer, then the callee-saved registers that the function uses.
"""

from __future__ import annotations

from typing import Final

from kernel_model.isa.insn import Insn
from kernel_model.isa.native import Bhi, Cfi, NativeRequest, Subprog
from kernel_model.isa.opcodes import BPF_REG_6, BPF_REG_9, MAX_TAIL_CALL_CNT

from .byte_forms import FIXED, ByteLine, group1_imm32
from .code import AtRip, Context, Far, Item, LocalJump, join
from .moves import mov_imm64
from .registers import CALLEE_SAVED, R64, X86_REG_R9, X86_REG_R12

ENDBR_INSN_SIZE: Final = 4
_KCFI_PADDING: Final = 11
"""Single nops between kCFI's hash and the function (CONFIG_FUNCTION_PADDING_CFI)."""
_COUNT_SIZE: Final = 9
_RSP_NUMBER: Final = 4


def tail_call_offset(request: NativeRequest) -> int:
    """Bytes of the prologue that a tail call skips: nop5, counter set-up, push rbp, mov rbp."""
    return 12 + (ENDBR_INSN_SIZE if request.mitigations.ibt else 0)


def used_callee_saved(insns: tuple[Insn, ...], subprog: Subprog) -> tuple[int, ...]:
    """Callee-saved BPF registers that stand in any register field of the function's slots."""
    mentioned = {
        reg
        for _, dst, src, _, _ in insns[subprog.start : subprog.end]
        for reg in (dst, src)
        if BPF_REG_6 <= reg <= BPF_REG_9
    }
    return tuple(reg for reg in CALLEE_SAVED if reg in mentioned)


def stack_depth(subprog: Subprog) -> int:
    """Bytes of BPF stack in the machine frame: none when the function has a private stack."""
    return 0 if subprog.private_stack is not None else (subprog.stack_depth + 7) & ~7


def saved_registers(request: NativeRequest, subprog: Subprog, used: tuple[int, ...]) -> tuple[int, ...]:
    """The registers that the function pushes, in order."""
    if subprog.is_exception_boundary:
        return (X86_REG_R12, *CALLEE_SAVED)
    return (X86_REG_R12, *used) if request.arena_kern_vm_start else used


def frame_bytes(request: NativeRequest, subprog: Subprog) -> int:
    """The distance in bytes from rbp down to rsp in the function's body."""
    used = used_callee_saved(request.insns, subprog)
    counter = 16 if subprog.tail_call_reachable else 0
    return stack_depth(subprog) + counter + 8 * len(saved_registers(request, subprog, used))


def _resize(mnemonic: str, size: int) -> list[Item]:
    """``add`` or ``sub`` of rsp, with an immediate of 32 bits whatever its value."""
    if size == 0:
        return []
    if size < 128:
        return [group1_imm32(mnemonic, _RSP_NUMBER, "rsp", size)]
    return [f"{mnemonic} rsp, {size}"]


def pops(ctx: Context) -> list[Item]:
    """Restore the saved registers, last pushed first."""
    saved = saved_registers(ctx.request, ctx.subprog, ctx.used)
    return [f"pop {R64[reg]}" for reg in reversed(saved)]


def unwind(ctx: Context) -> list[Item]:
    """Leave the body for a tail call: rsp ends where it was behind ``mov rbp, rsp``."""
    return join(pops(ctx), ["pop rax", "pop rax"], _resize("add", ctx.stack_depth))


_COUNTER_MAIN: Final[tuple[Item, ...]] = (
    # rax is the counter itself (at most 33) or, tail-called from a subprogram, already a pointer to it.
    f"cmp rax, {MAX_TAIL_CALL_CNT}",
    LocalJump("ja", 5),
    "push rax",
    "mov rax, rsp",
    LocalJump("jmp", 6),
    "push rax",
    "push rax",
)
_COUNTER_SUBPROG: Final[tuple[Item, ...]] = ("push rax", "push rax")


def _shifted(items: tuple[Item, ...], by: int) -> list[Item]:
    return [item._replace(to=item.to + by) if isinstance(item, LocalJump) else item for item in items]


def cfi_prefix(ctx: Context) -> list[str | ByteLine]:
    """What stands in front of the function: 16 bytes with the hash of its type, or nothing."""
    mitigations = ctx.request.mitigations
    value = mitigations.cfi_subprog_hash if ctx.number else mitigations.cfi_hash
    if mitigations.cfi is Cfi.KCFI:
        return [f"mov eax, {value:#x}", *["nop"] * _KCFI_PADDING]
    if mitigations.cfi is Cfi.FINEIBT:
        return [FIXED["endbr64"], f"sub eax, {value:#x}", FIXED["jne_not_taken"]]
    return []


def _entry(request: NativeRequest) -> list[Item]:
    """The mark of an indirect branch's target; FineIBT's stands in front of the function."""
    mitigations = request.mitigations
    if not mitigations.ibt:
        return []
    return [FIXED["endbr_poison" if mitigations.cfi is Cfi.FINEIBT else "endbr64"]]


def prologue(ctx: Context) -> list[Item]:
    """The function's entry up to its first BPF instruction."""
    request, subprog = ctx.request, ctx.subprog
    endbr: list[Item] = [FIXED["endbr64"]] if request.mitigations.ibt else []
    is_main = ctx.number == 0
    items = join(_entry(request), [FIXED["nop5"]])
    if not request.was_classic:
        items.append("xor rax, rax" if subprog.tail_call_reachable and is_main else FIXED["nop3"])
    if subprog.is_exception_cb:
        # Entered from bpf_throw() with the main frame's rsp and rbp as second and third argument.
        items += ["mov rsp, rsi", "mov rbp, rdx"]
        items += [f"pop {R64[reg]}" for reg in reversed((X86_REG_R12, *CALLEE_SAVED))]
        items.append("mov rsp, rbp")
    else:
        items += ["push rbp", "mov rbp, rsp"]
    items += join(endbr, _resize("sub", ctx.stack_depth))
    if subprog.tail_call_reachable:
        items += _shifted(_COUNTER_MAIN if is_main else _COUNTER_SUBPROG, len(items))
    items += [f"push {R64[reg]}" for reg in saved_registers(request, subprog, ctx.used)]
    if request.arena_kern_vm_start:
        items.append(mov_imm64(X86_REG_R12, request.arena_kern_vm_start))
    if subprog.private_stack is not None:
        top = subprog.private_stack_top
        items += [mov_imm64(X86_REG_R9, top), add_this_cpu_off(request, X86_REG_R9)]
    return items


def add_this_cpu_off(request: NativeRequest, reg: int) -> str:
    """A per-CPU pointer in ``reg`` becomes the address on the CPU that runs."""
    address = request.symbols["this_cpu_off"] & 0xFFFFFFFF
    # Without a base register only an index of "none" makes the address absolute, not RIP-relative.
    return f"add {R64[reg]}, qword ptr gs:[riz*1 {address - ((address >> 31) << 32):+#x}]"


def count_call(request: NativeRequest) -> list[Item]:
    """Account for a call that follows: the depth's sign bit moves five places down (call depth tracking)."""
    if not request.mitigations.call_depth:
        return []
    depth = request.symbols["__x86_call_depth"]
    return [AtRip("sar qword ptr gs:[rip {}], 5", depth, _COUNT_SIZE)]


def _clear_branch_history(request: NativeRequest) -> list[Item]:
    """What a classic program does at its end before the kernel goes on, unless its loader may do anything."""
    bhi = request.mitigations.bhi
    if bhi is Bhi.OFF or request.privileged or not request.was_classic:
        return []
    items: list[Item] = []
    if bhi is Bhi.LOOP:
        items += ["push rax", "push rcx", *count_call(request)]
        items += [Far("call", request.symbols["clear_bhb_loop"]), "pop rcx", "pop rax"]
    if bhi is Bhi.HW or request.features.hypervisor:
        items.append(FIXED["ibhf"])
    return items


def epilogue(ctx: Context) -> list[Item]:
    """Restore registers and frame and return to the caller."""
    mitigations = ctx.request.mitigations
    items = join(_clear_branch_history(ctx.request), pops(ctx), ["leave"])
    if mitigations.return_thunk:
        items.append(Far("jmp", ctx.request.symbols["x86_return_thunk"]))
    else:
        items += ["ret", "int3"] if mitigations.sls else ["ret"]
    return items
