# SPDX-License-Identifier: GPL-2.0-only
"""Programs: from a verified instruction list to ``prog->bpf_func``, and back to what user space may read."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..interpreter import Program
from ..isa import opcodes as op
from ..isa.insn import INSN_SIZE, Insn, encode
from ..isa.native import Cfi, NativeImage, NativeRequest
from ..objects import KObject
from ..verifier.api import Privileges, ProgramSpec, VerifiedProgram
from .blind import blind_constants, blinding_enabled
from .private_stack import PrivateStack, allocate

if TYPE_CHECKING:
    from ..kernel import Kernel
    from .btf_object import BtfObject
    from .map_object import MapObject

MAX_BPF_INTERPRETER_STACK = 512
INTERPRETERS = tuple(f"__bpf_prog_run{size}" for size in range(32, MAX_BPF_INTERPRETER_STACK + 1, 32))
"""The interpreter's entry points by stack size (kernel/bpf/core.c)."""

_MAP_PSEUDO = {
    op.BPF_PSEUDO_MAP_FD: op.BPF_PSEUDO_MAP_FD,
    op.BPF_PSEUDO_MAP_IDX: op.BPF_PSEUDO_MAP_FD,
    op.BPF_PSEUDO_MAP_VALUE: op.BPF_PSEUDO_MAP_VALUE,
    op.BPF_PSEUDO_MAP_IDX_VALUE: op.BPF_PSEUDO_MAP_VALUE,
}


def prog_tag(insns: Sequence[Insn]) -> bytes:
    """The 8-byte tag: a digest of the instructions with map references blanked (bpf_prog_calc_tag).

    SHA-1 until 6.17, SHA-256 since 6.18.
    """
    blanked, skip = [], False
    for insn in insns:
        if skip:
            insn, skip = insn._replace(imm=0), False
        elif insn.code == op.LD_IMM64 and insn.src in (op.BPF_PSEUDO_MAP_FD, op.BPF_PSEUDO_MAP_VALUE):
            insn, skip = insn._replace(imm=0), True
        blanked.append(insn)
    return hashlib.sha256(encode(blanked)).digest()[:8]


class BpfProg(KObject):
    """A loaded program. ``addr`` is its struct bpf_prog, with the instructions behind it, in memory."""

    kind = "bpf-prog"

    def __init__(
        self, kernel: Kernel, spec: ProgramSpec, verified: VerifiedProgram, maps: list[MapObject], uid: int
    ) -> None:
        super().__init__()
        self.type = spec.prog_type
        self.expected_attach_type = spec.expected_attach_type
        self.name = spec.name
        self.gpl_compatible = spec.gpl_compatible
        self.tag = prog_tag(spec.insns)
        self.tags: tuple[bytes, ...] = (self.tag,)
        """One tag a function: that of its final instructions when there are several (jit_subprogs())."""
        if len(verified.subprogs) > 1:
            self.tags = tuple(_function_tag(verified, number) for number in range(len(verified.subprogs)))
        self.blinded = blinding_enabled(kernel, spec.privileges)
        self.verified = blind_constants(verified, kernel.random.u32) if self.blinded else verified
        """What both engines run."""
        self.shown = self.verified if len(verified.subprogs) == 1 else verified
        """What bpf(2) shows: of several functions only the copies given to the JIT are blinded."""
        self.maps = maps
        self.uid = uid
        self.btf: BtfObject | None = None
        self.load_time = kernel.clock.now()
        self.run_cnt = 0
        self.callbacks = _callbacks(self.verified)
        """Numbers of the functions whose addresses the program takes."""
        self.image: NativeImage | None = None
        self.private_stacks: tuple[PrivateStack, ...] = ()
        self.addr = self._aux = 0
        for held in maps:
            held.get()
        try:
            compiling = bool(kernel.sysctl["net/core/bpf_jit_enable"])
            if compiling:
                self.private_stacks = allocate(kernel, self.verified.subprogs)
            self.request = _request(kernel, self._on_private_stacks(), spec.privileges)
            self.frame_bytes = kernel.compiler.frame_bytes(self.request)
            if compiling:
                self.image = kernel.compiler.compile(self.request, kernel.text.allocate)
                self._install(kernel, self.image)
            self._build_struct(kernel)
        except KernelError:
            self._free(kernel)
            raise
        self.id = kernel.progs.add(self)
        kernel.progs_by_addr[self.addr] = self
        self._put_id(kernel, self.id)
        self._track_pokes(kernel)

    def _on_private_stacks(self) -> VerifiedProgram:
        """The program with the addresses of its private stacks."""
        if self.private_stacks:
            addrs = {each.subprog: each.addr for each in self.private_stacks}
            subprogs = tuple(
                replace(each, private_stack=addrs.get(number))
                for number, each in enumerate(self.verified.subprogs)
            )
            placed = replace(self.verified, subprogs=subprogs)
            if self.shown is self.verified:
                self.shown = placed
            self.verified = placed
        return self.verified

    def _install(self, kernel: Kernel, image: NativeImage) -> None:
        """Put the machine code in place, with its symbols and exception table entries."""
        for number, function in enumerate(image.functions):
            begin = function.addr - len(function.prefix)
            kernel.text.poke(begin, function.prefix + function.code)
            name = self._symbol(number, function.name)
            kernel.text.add_symbol(name, function.addr, len(function.code))
            if kernel.mitigations.cfi is Cfi.FINEIBT:
                kernel.text.add_symbol(f"__cfi_{name}", begin, len(function.prefix))
            for entry in function.exceptions:
                fixup = function.addr + entry.fixup_off
                kernel.extable[function.addr + entry.off] = (fixup, entry.x86_reg)

    def _symbol(self, number: int, name: str) -> str:
        """bpf_get_prog_name(): the name from BTF, else the program's; subprograms are then called F."""
        tag = self.tags[number] if number else self.tag
        short = name or ("F" if number else self.name)
        return f"bpf_prog_{tag.hex()}" + (f"_{short}" if short else "")

    def _build_struct(self, kernel: Kernel) -> None:
        layout, memory = kernel.layout["bpf_prog"], kernel.memory
        code = encode(self.shown.insns)
        addr = self.addr = kernel.alloc.kmalloc(layout.size + len(code))
        memory.put_u32(addr + layout.offset("type"), self.type)
        memory.put_u32(addr + layout.offset("expected_attach_type"), self.expected_attach_type)
        memory.put_u32(addr + layout.offset("len"), len(self.shown.insns))
        memory.write(addr + layout.offset("tag"), self.tag)
        memory.write(addr + layout.offset("insnsi"), code)
        flags = layout.member("jited").offset
        bits = (1 << layout.member("jited").bit_offset) if self.image is not None else 0
        bits |= (1 << layout.member("blinding_requested").bit_offset) if self.blinded else 0
        bits |= (
            (1 << layout.member("blinded").bit_offset) if self.blinded and self.shown is self.verified else 0
        )
        bits |= (1 << layout.member("gpl_compatible").bit_offset) if self.gpl_compatible else 0
        memory.put_u16(addr + flags, bits)
        if self.image is not None:
            memory.put_u32(addr + layout.offset("jited_len"), len(self.image.functions[0].code))
        aux = kernel.layout["bpf_prog_aux"]
        aux_addr = self._aux = kernel.alloc.kmalloc(aux.size)
        memory.put_u64(addr + layout.offset("aux"), aux_addr)
        memory.put_u32(aux_addr + aux.offset("func_cnt"), len(self.verified.subprogs))
        memory.put_u32(aux_addr + aux.offset("stack_depth"), self.verified.subprogs[0].stack_depth)
        memory.write(aux_addr + aux.offset("name"), self.name.encode()[:15])
        memory.put_u64(addr + layout.offset("bpf_func"), self.entry(kernel, jit=self.image is not None))

    def _put_id(self, kernel: Kernel, number: int) -> None:
        kernel.memory.put_u32(self._aux + kernel.layout["bpf_prog_aux"].offset("id"), number)

    def entry(self, kernel: Kernel, jit: bool) -> int:
        """The address that ``bpf_func`` holds: the JIT image, or the interpreter for this stack size."""
        if jit:
            if self.image is None:
                raise KernelError(errno.EOPNOTSUPP, f"program {self.name or self.id} has no JIT image")
            return self.image.functions[0].addr
        depth = max(self.verified.subprogs[0].stack_depth, 1)
        # A compiled program may need more than Linux's interpreter has; ours runs it for comparisons.
        size = min(-(-depth // 32), len(INTERPRETERS))
        return kernel.text.symbol(INTERPRETERS[size - 1])

    def use_engine(self, kernel: Kernel, jit: bool) -> None:
        """Point ``bpf_func`` at one engine or the other (both stay available)."""
        at = self.addr + kernel.layout["bpf_prog"].offset("bpf_func")
        kernel.memory.put_u64(at, self.entry(kernel, jit))

    def bpf_func(self, kernel: Kernel) -> int:
        """What ``prog->bpf_func`` holds now."""
        return kernel.memory.u64(self.addr + kernel.layout["bpf_prog"].offset("bpf_func"))

    def insnsi(self, kernel: Kernel) -> int:
        """The address of the instructions: the second argument of ``bpf_func``."""
        return self.addr + kernel.layout["bpf_prog"].offset("insnsi")

    def run(self, kernel: Kernel, ctx: int) -> int:
        """Call ``bpf_func(ctx, insnsi)`` in the emulated CPU; R0, 32 bits as hooks see it."""
        return kernel.cpu.call(self.bpf_func(kernel), ctx, self.insnsi(kernel)) & 0xFFFF_FFFF

    def program(self) -> Program:
        """The same program for the interpreter."""
        cached: Program | None = self.__dict__.get("_program")
        if cached is None:
            addrs = tuple(function.addr for function in self.image.functions) if self.image else ()
            cached = Program.from_request(self.request, self.frame_bytes, addrs, self.name)
            self.__dict__["_program"] = cached
        return cached

    def _track_pokes(self, kernel: Kernel) -> None:
        """Connect direct tail calls with what their slots hold now (prog_array_map_poke_track)."""
        for poke in self.image.pokes if self.image else ():
            holder = next(held for held in self.maps if held.addr == poke.map_addr)
            if self not in holder.poke_progs:
                holder.poke_progs.append(self)
            target = holder.entries.get(poke.key.to_bytes(4, "little"))
            if isinstance(target, BpfProg):
                self.poke(kernel, poke.map_addr, poke.key, target)

    def poke(self, kernel: Kernel, map_addr: int, key: int, target: BpfProg | None) -> None:
        """Patch this program's direct tail calls through one slot (bpf_arch_poke_desc_update)."""
        if self.image is None:
            return
        starts = {sub.start: fn for sub, fn in zip(self.verified.subprogs, self.image.functions, strict=True)}
        for poke in self.image.pokes:
            if poke.map_addr != map_addr or poke.key != key:
                continue
            start = max(at for at in starts if at <= poke.insn)
            base = starts[start].addr
            goal = None
            if target is not None and target.image is not None:
                goal = target.image.functions[0].addr + poke.adj_off
            for addr, code in kernel.compiler.poke_code(poke, base, goal):
                kernel.text.poke(addr, code)

    def xlated(self, kernel: Kernel) -> bytes:
        """The instructions as BPF_OBJ_GET_INFO_BY_FD shows them (bpf_insn_prepare_dump).

        Map addresses become ids, the internal tail call and probe loads their public forms. Linked functions
        are shown by their numbers, beside the distance that the verifier found (jit_subprogs()).
        """
        by_addr = {held.addr: held for held in self.maps}
        linked = self.image is not None and len(self.shown.subprogs) > 1
        numbers = {each.start: number for number, each in enumerate(self.shown.subprogs)} if linked else {}
        out = list(self.shown.insns)
        for index, insn in enumerate(out):
            if insn.code == op.TAIL_CALL:
                out[index] = Insn(op.CALL, 0, 0, 0, 12)
            elif insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL and linked:
                off = (insn.imm + 0x8000 & 0xFFFF) - 0x8000
                out[index] = insn._replace(off=off, imm=numbers[index + 1 + insn.imm])
            elif insn.code == op.LD_IMM64 and insn.src == op.BPF_PSEUDO_FUNC and linked:
                out[index + 1] = out[index + 1]._replace(imm=numbers[index + 1 + insn.imm])
            elif insn.code == op.LD_IMM64 and insn.src in _MAP_PSEUDO:
                value = (insn.imm & 0xFFFFFFFF) | (out[index + 1].imm & 0xFFFFFFFF) << 32
                pseudo = _MAP_PSEUDO[insn.src]
                if pseudo == op.BPF_PSEUDO_MAP_FD:
                    number, off = by_addr[value].id, 0
                else:
                    number, off = self._value_reference(value)
                out[index] = Insn(insn.code, insn.dst, pseudo, insn.off, number)
                out[index + 1] = out[index + 1]._replace(imm=off)
            elif op.bpf_class(insn.code) == op.BPF_LDX and op.bpf_mode(insn.code) in (
                op.BPF_PROBE_MEM,
                op.BPF_PROBE_MEMSX,
            ):
                mode = op.BPF_MEM if op.bpf_mode(insn.code) == op.BPF_PROBE_MEM else op.BPF_MEMSX
                out[index] = insn._replace(code=insn.code & ~0xE0 | mode)
            elif insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL and self.image is not None:
                # A compiled call has the distance where an interpreted one has nothing (jit_subprogs).
                off = (insn.imm + 0x8000 & 0xFFFF) - 0x8000
                out[index] = insn._replace(off=off, imm=self._function_at(index + insn.imm + 1))
        return encode(out)

    def _function_at(self, slot: int) -> int:
        """The number of the function that begins at a slot of the final instructions."""
        return next(number for number, sub in enumerate(self.verified.subprogs) if sub.start == slot)

    def _value_reference(self, addr: int) -> tuple[int, int]:
        for held in self.maps:
            try:
                base = held.value_addr(0)
            except KernelError:
                continue
            if base <= addr < base + max(held.value_size, 1):
                return held.id, addr - base
        return 0, 0

    def jited(self) -> bytes:
        """The machine code of all functions, one behind the other."""
        return b"".join(function.code for function in self.image.functions) if self.image else b""

    @property
    def xlated_len(self) -> int:
        """Bytes of the final instructions."""
        return len(self.shown.insns) * INSN_SIZE

    def ksyms(self, kernel: Kernel) -> list[int]:
        """The addresses of the functions; an interpreted program has one, the interpreter's."""
        return [fn.addr for fn in self.image.functions] if self.image else [self.bpf_func(kernel)]

    def func_lens(self) -> list[int]:
        """The lengths of the functions' machine code."""
        return [len(fn.code) for fn in self.image.functions] if self.image else [0]

    @property
    def func_info(self) -> list[tuple[int, int]]:
        """bpf_func_info records: first slot and BTF type of each function."""
        return [(each.insn_off, each.type_id) for each in self.shown.func_info]

    @property
    def line_info(self) -> list[tuple[int, int, int, int]]:
        """bpf_line_info records."""
        lines = self.shown.line_info
        return [(each.insn_off, each.file_name_off, each.line_off, each.line_col) for each in lines]

    def line_addrs(self) -> list[int]:
        """Where the machine code of each line_info record begins (bpf_prog_fill_jited_linfo())."""
        out: list[int] = []
        if self.image is None:
            return out
        for slot in (each.insn_off for each in self.verified.line_info):
            number = self.program().subprog_at(slot)
            function, start = self.image.functions[number], self.verified.subprogs[number].start
            # A function's first line begins with its prologue.
            out.append(function.addr + (function.insn_offs[slot - start] if slot > start else 0))
        return out

    def release(self, kernel: Kernel) -> None:
        """Free code, memory and the references to maps."""
        kernel.progs.remove(self.id)
        del kernel.progs_by_addr[self.addr]
        self._free(kernel)

    def _free(self, kernel: Kernel) -> None:
        for function in self.image.functions if self.image else ():
            for entry in function.exceptions:
                kernel.extable.pop(function.addr + entry.off, None)
            kernel.text.free(function.addr - len(function.prefix))
        for stack in self.private_stacks:
            stack.free(kernel, self.name)
        for held in self.maps:
            if self in held.poke_progs:
                held.poke_progs.remove(self)
            held.put(kernel)
        if self.btf is not None:
            self.btf.put(kernel)
        kernel.alloc.kfree(self.addr)
        kernel.alloc.kfree(self._aux)


def _function_tag(verified: VerifiedProgram, number: int) -> bytes:
    """The tag of one function: of its final instructions, calls between functions in the form that the
    JIT is given (the callee's number in ``off``, 1 in ``imm``)."""
    function = verified.subprogs[number]
    starts = {each.start: index for index, each in enumerate(verified.subprogs)}
    insns = list(verified.insns)
    for slot in range(function.start, function.end):
        insn = insns[slot]
        if insn.code == op.CALL and insn.src == op.BPF_PSEUDO_CALL:
            callee = starts.get(slot + 1 + insn.imm, 0)
            insns[slot] = insn._replace(off=callee, imm=1)
    return prog_tag(insns[function.start : function.end])


def _callbacks(verified: VerifiedProgram) -> tuple[int, ...]:
    starts = {each.start: number for number, each in enumerate(verified.subprogs)}
    taken = {
        starts.get(slot + 1 + insn.imm)
        for slot, insn in enumerate(verified.insns)
        if insn.code == op.LD_IMM64 and insn.src == op.BPF_PSEUDO_FUNC
    }
    return tuple(sorted(number for number in taken if number is not None))


def _request(kernel: Kernel, verified: VerifiedProgram, privileges: Privileges) -> NativeRequest:
    symbols = {name: kernel.text.symbol(symbol) for name, symbol in _JIT_SYMBOLS.items()}
    symbols |= {name: kernel.data[name] for name in _JIT_PERCPU}
    thunk = kernel.mitigations.indirect_thunk
    if thunk:
        symbols[thunk + "rcx"] = kernel.text.symbol(thunk + "rcx")
    return NativeRequest(
        verified.insns,
        verified.subprogs,
        symbols,
        {name: kernel.layout.offset(name) for name in _JIT_OFFSETS},
        kernel.features,
        kernel.mitigations,
        verified.pokes,
        was_classic=verified.flags.get("was_classic", False),
        privileged=privileges.sys_admin,
    )


_JIT_SYMBOLS = {
    "__bpf_call_base": "__bpf_call_base",
    "x86_return_thunk": "__x86_return_thunk",
    "clear_bhb_loop": "clear_bhb_loop",
    "arch_bpf_timed_may_goto": "arch_bpf_timed_may_goto",
    "bpf_check_timed_may_goto": "bpf_check_timed_may_goto",
}
_JIT_PERCPU = ("this_cpu_off", "__x86_call_depth")
_JIT_OFFSETS = ("bpf_array.map.max_entries", "bpf_array.ptrs", "bpf_prog.bpf_func")
