# SPDX-License-Identifier: GPL-2.0-only
"""The JIT's code on the real CPU, as a third engine beside interpreter and JIT in the emulated CPU.

The very bytes that the emulated CPU ran are copied (patched tail calls included) and relocated: only the
addresses that LD_IMM64 loads change, since every other reference is relative to RIP or to GS and all code
moves by one distance. Compiling anew would be no better a test, and would choose other encodings where an
address is small.

Kernel addresses move to the user half: the direct map and the stacks lose their upper 17 bits, so that the
lower 47 stay equal; kernel text and images move to the low 2 GiB, where ``mov r64, simm32`` reaches.
The child gets the pages that programs reach: stack, maps, packet, context, what these point to, per-CPU data.
Pointers in them are translated on the way in; what comes back is compared word by word with the emulated
JIT's memory, where a translated pointer counts as the pointer.

Kernel functions are stubs that replay what the same calls did in a run of the interpreter from the same
state: result, and changes in those pages, which keeps the comparison exact. The calls must come in the same
order with the same arguments. The stubs overwrite every register that a function may change, and
callee-saved registers must survive.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jit_x86.assembler import assemble
from kernel_model.boot import IRQ_STACK_SIZE
from kernel_model.bpf.prog import BpfProg
from kernel_model.functions import FUNCTIONS
from kernel_model.helpers.table import HELPERS, num_params
from kernel_model.isa import opcodes as op
from kernel_model.isa.native import NativeFunction, Subprog
from sim.hardware import address_map as where
from sim.machine import Machine

from .cage import EXEC, PAGE, READ, SAVED, WRITE, Answer, Cage, Crash, Region

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_LOW47: Final = (1 << 47) - 1
_CODE_SHIFT: Final = 0xFFFF_FFFF_7000_0000
"""What code addresses lose: 0xffffffff80000000 becomes 0x10000000."""
_MAPS: Final = (
    op.BPF_PSEUDO_MAP_FD,
    op.BPF_PSEUDO_MAP_VALUE,
    op.BPF_PSEUDO_MAP_IDX,
    op.BPF_PSEUDO_MAP_IDX_VALUE,
)
_PROBES: Final = (op.BPF_PROBE_MEM, op.BPF_PROBE_MEMSX)
_FP: Final = 16
"""How far below the stack's top R10 of the main function is: return address and saved rbp."""
_DF: Final = 1 << 10
_RECORD: Final = struct.Struct("<8Q")
_PIECE: Final = struct.Struct("<QQ")


@dataclass(frozen=True)
class _Range:
    """Addresses ``[start, end)`` of the emulated machine and how far below them the child has them."""

    start: int
    end: int
    down: int


_RANGES: Final = (
    # Wider than RAM: the distance to a CPU's copy of per-CPU data counts from link addresses.
    _Range(where.DIRECT_MAP, where.DIRECT_MAP + (8 << 30), where.DIRECT_MAP & ~_LOW47),
    _Range(where.VMALLOC_START, where.VMALLOC_START + (1 << 30), where.VMALLOC_START & ~_LOW47),
    _Range(where.KERNEL_TEXT, where.KERNEL_TEXT + where.TEXT_SIZE, _CODE_SHIFT),
    _Range(where.JIT_IMAGES, where.JIT_IMAGES + where.JIT_SIZE, _CODE_SHIFT),
)


def to_user(addr: int) -> int:
    """Where the child has what lies at ``addr``; any other number unchanged."""
    for each in _RANGES:
        if each.start <= addr < each.end:
            return addr - each.down
    return addr


def to_kernel(addr: int) -> int:
    """The reverse of :func:`to_user`."""
    for each in _RANGES:
        if each.start - each.down <= addr < each.end - each.down:
            return addr + each.down
    return addr


def same(native: int, emulated: int) -> bool:
    """Whether two 64-bit values are equal, a translated pointer being equal to the pointer."""
    return native == emulated or to_kernel(native) == emulated


@dataclass
class Call:
    """A call of a kernel function: address, R1-R5, R0, and what it changed: bytes by address."""

    addr: int
    args: tuple[int, ...]
    result: int = 0
    changes: list[tuple[int, bytes]] = field(default_factory=list)


class NotRunnable(Exception):
    """A program that cannot run as a user process does; the text says why."""


class RealCpu:
    """One machine's programs on the real CPU; to be closed.

    ``objects`` are addresses of kmalloc objects that programs reach; what those point to is found by itself.
    """

    def __init__(self, machine: Machine, objects: Sequence[int]) -> None:
        self._machine = machine
        kernel = machine.kernel
        alloc = kernel.alloc
        self._memory = kernel.memory
        self._top = machine.cpu.on_stack(0)
        machine.cpu.on_stack(self._top)
        stack = range(self._top - IRQ_STACK_SIZE, self._top, PAGE)
        this_cpu = kernel.per_cpu("this_cpu_off", 0)
        reached = _reached(machine, objects)
        percpu = kernel.per_cpu("bpf_user_rnd_state", 0) + kernel.layout["rnd_state"].size
        reached[this_cpu] = percpu - this_cpu
        # What maps have there: heads of free lists.
        reached[alloc.percpu.start + alloc.per_cpu_offset(0)] = PAGE
        pages = {
            at & -PAGE for addr, size in reached.items() for at in range(addr & -PAGE, addr + size, PAGE)
        }
        self._stack = frozenset(stack)
        self._pages = sorted({*pages, *stack})
        self._pointers = self._find_pointers(reached)
        regions = [Region(to_user(page), PAGE, READ | WRITE) for page in self._pages]
        self._text = Region(to_user(where.KERNEL_TEXT), where.TEXT_SIZE, READ | EXEC)
        self._images = Region(to_user(where.JIT_IMAGES), where.JIT_SIZE, READ | EXEC)
        gs_base = (to_user(this_cpu) - kernel.data["this_cpu_off"]) & _MASK
        self._cage = Cage([*regions, self._text, self._images], gs_base)
        self._views = dict(zip(self._pages, map(self._cage.memory, regions), strict=True))
        self._text_view, self._image_view = map(self._cage.memory, (self._text, self._images))
        self._install_text()
        self._functions: dict[int, int] = {}
        self._arguments = _argument_counts(machine)
        for prog in kernel.progs:
            # The targets of tail calls.
            self.link(prog)

    def close(self) -> None:
        """End the child."""
        for view in (*self._views.values(), self._text_view, self._image_view):
            view.release()
        self._cage.close()

    def _find_pointers(self, reached: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
        """By page, the offsets of words in reached objects that hold addresses."""
        found: dict[int, list[int]] = {page: [] for page in self._pages}
        for addr, size in reached.items():
            for at, value in _words(self._memory.read(addr, size), addr):
                if to_user(value) != value:
                    found[at & -PAGE].append(at & (PAGE - 1))
        return {page: tuple(offsets) for page, offsets in found.items()}

    def _install_text(self) -> None:
        """The kernel's text: jumps through thunks and returns run as they are, functions become stubs."""
        memory = self._memory
        for at in range(0, where.TEXT_SIZE, PAGE):
            try:
                self._text_view[at : at + PAGE] = memory.read(where.KERNEL_TEXT + at, PAGE)
            except Exception:
                break

    # Relocation

    def link(self, prog: BpfProg) -> int:
        """Copy a program's code to the child; its entry's address there. NotRunnable says why not."""
        image = prog.image
        if image is None:
            raise NotRunnable("no machine code")
        for insn in prog.request.insns:
            if op.bpf_class(insn.code) == op.BPF_LDX and op.bpf_mode(insn.code) in _PROBES:
                raise NotRunnable("a probing load reads zero at the addresses of a process")
            if insn.code == op.CALL and insn.src == 0:
                self._stub(prog.request.symbols["__bpf_call_base"] + insn.imm)
        for function, subprog in zip(image.functions, prog.request.subprogs, strict=True):
            code = bytearray(self._memory.read(function.addr, len(function.code)))
            self._relocate(code, prog, function, subprog)
            at = function.addr - where.JIT_IMAGES
            self._image_view[at : at + len(code)] = code
        return to_user(image.functions[0].addr)

    def _relocate(self, code: bytearray, prog: BpfProg, function: NativeFunction, subprog: Subprog) -> None:
        insns = prog.request.insns
        for slot in range(subprog.start, subprog.end):
            insn = insns[slot]
            if insn.code != op.LD_IMM64 or insn.src not in (*_MAPS, op.BPF_PSEUDO_FUNC):
                continue
            begin, end = (function.insn_offs[slot - subprog.start + n] for n in (0, 1))
            # movabs r64, imm64 or mov r64, simm32: the address is what the instruction ends in.
            size = {10: 8, 7: 4}.get(end - begin)
            if size is None:
                # The callback of a bpf_loop() without rounds is removed: what is left is a small number.
                continue
            signed = int.from_bytes(code[end - size : end], "little", signed=True)
            code[end - size : end] = to_user(signed & _MASK).to_bytes(size, "little")

    def _stub(self, addr: int) -> None:
        """Let the kernel function at ``addr`` replay."""
        if addr == self._symbol("arch_bpf_timed_may_goto"):
            # Keeps more registers than others do, and calls this one for its work.
            addr = self._symbol("bpf_check_timed_may_goto")
        if addr == self._symbol("bpf_loop"):
            raise NotRunnable("bpf_loop() calls back")
        if addr in self._functions:
            return
        number = len(self._functions) + 1
        code = assemble(f"mov eax, {number}\njmp {self._cage.replay:#x}", to_user(addr))
        at = addr - where.KERNEL_TEXT
        self._text_view[at : at + len(code)] = code
        self._functions[addr] = number

    def _symbol(self, name: str) -> int:
        return self._machine.kernel.text.symbol(name)

    # State

    def save(self) -> list[bytes]:
        """The emulated machine's pages that the child has."""
        read = self._memory.read
        return [read(page, PAGE) for page in self._pages]

    def restore(self, pages: Sequence[bytes]) -> None:
        """Make the emulated machine's pages what :meth:`save` gave."""
        for page, content in zip(self._pages, pages, strict=True):
            self._memory.write(page, content)

    def _load(self, pages: Sequence[bytes]) -> None:
        for page, content in zip(self._pages, pages, strict=True):
            view = self._views[page]
            view[:] = content
            for off in self._pointers[page]:
                (value,) = _U64.unpack_from(content, off)
                _U64.pack_into(view, off, to_user(value))

    # Running

    def record(self, run: Callable[[], int]) -> list[Call]:
        """The kernel functions that ``run``, a run of the interpreter, calls."""
        calls: list[Call] = []
        under_way: list[Call] = []
        runtime = self._machine.kernel.runtime

        def around(addr: int, stack: int, args: tuple[int, ...], call: Callable[[], int]) -> int:
            if under_way:
                # By a callback of the call under way: the child replays only what that one changes in all.
                return call()
            done = Call(addr, args)
            calls.append(done)
            before = self.save()
            under_way.append(done)
            try:
                done.result = call()
            finally:
                under_way.pop()
            done.changes = list(self._changes(before, self.save(), stack))
            return done.result

        runtime.around_call = around
        try:
            run()
        finally:
            runtime.around_call = None
        return calls

    def _changes(
        self, before: Sequence[bytes], after: Sequence[bytes], frames: int
    ) -> Iterator[tuple[int, bytes]]:
        """Words that differ, by address; on the stack only from ``frames`` up: what kernel functions do to
        the stack below the frames of the program is their own business."""
        for page, old, new in zip(self._pages, before, after, strict=True):
            if old == new:
                continue
            for at, value in _words(new, page):
                off = at - page
                if old[off : off + 8] == new[off : off + 8] or (page in self._stack and at < frames):
                    continue
                user = to_user(value) if off in self._pointers[page] else value
                # Byte by byte: a neighbour in the same word may be what the program itself has changed.
                one, two = old[off : off + 8], user.to_bytes(8, "little")
                if user != value:
                    yield at, two
                else:
                    yield from ((at + n, two[n : n + 1]) for n in range(8) if one[n] != two[n])

    def _log(self, calls: Sequence[Call]) -> tuple[bytes, list[int]]:
        """The records of the calls, and where each begins."""
        out, starts = bytearray(), []
        for call in calls:
            starts.append(len(out))
            out += _RECORD.pack(
                self._functions.get(call.addr, 0), to_user(call.result), 0, 0, 0, 0, 0, len(call.changes)
            )
            for addr, data in call.changes:
                out += _PIECE.pack(to_user(addr), len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
        return bytes(out), starts

    def run(self, prog: BpfProg, ctx: int, initial: Sequence[bytes], calls: Sequence[Call]) -> Answer:
        """Run the linked program from the state ``initial``. Crash says how it went wrong."""
        entry = self.link(prog)
        self._load(initial)
        log, starts = self._log(calls)
        stack = self._top & -16
        insnsi = prog.insnsi(self._machine.kernel)
        answer = self._cage.call(entry, to_user(ctx), to_user(insnsi), to_user(stack), log)
        self._check_calls(answer, calls, starts)
        for name, value in SAVED.items():
            if answer.saved[name] != value:
                raise Crash(f"{name} is {answer.saved[name]:#x} at the end, not restored")
        if answer.rsp_off or answer.rflags & _DF:
            raise Crash(f"at the end RSP is off by {answer.rsp_off:#x}, flags {answer.rflags:#x}")
        return answer

    def _check_calls(self, answer: Answer, calls: Sequence[Call], starts: Sequence[int]) -> None:
        made = sum(start < answer.log_used for start in starts)
        for number in range(made):
            call = calls[number]
            native = struct.unpack("<5Q", self._cage.log_record(starts[number] + 16, 40))
            for index in range(self._arguments.get(call.addr, 0)):
                if not same(native[index], call.args[index]):
                    raise Crash(
                        f"call {number + 1}, {self._machine.symbolise(call.addr)}: "
                        f"R{index + 1} {native[index]:#x} instead of {call.args[index]:#x}"
                    )
        if answer.diverged is not None:
            named = {number: addr for addr, number in self._functions.items()}
            raise Crash(
                f"call {made + 1} is of {self._machine.symbolise(named.get(answer.diverged, 0))}, "
                + (
                    f"not of {self._machine.symbolise(calls[made].addr)}"
                    if made < len(calls)
                    else "one too many"
                )
            )
        if made < len(calls):
            raise Crash(f"{made} of {len(calls)} calls of kernel functions")

    def read(self, addr: int, size: int) -> bytes:
        """What the child has for the machine's ``size`` bytes at ``addr``, pointers translated back."""
        begin, end = addr & -8, -(-(addr + size) // 8) * 8
        words = bytearray()
        while begin + len(words) < end:
            at = begin + len(words)
            off = at & (PAGE - 1)
            words += self._views[at - off][off : off + min(PAGE - off, end - at)]
        back = b"".join(to_kernel(value).to_bytes(8, "little") for _, value in _words(bytes(words), begin))
        return back[addr - begin : addr - begin + size]

    def difference(self, final: Sequence[bytes], prog: BpfProg) -> tuple[int, bytes, bytes] | None:
        """The first word that differs from the emulated machine's pages: address, the child's, the other's.

        On the stack only what lies in the main function's own frame counts, and nothing with tail calls,
        since the frame at the end is another program's then. An inlined bpf_loop() saves registers there that
        the program may never have written.
        """
        top = (self._top & -16) - _FP
        tail_calls = any(insn.code == op.TAIL_CALL for insn in prog.request.insns)
        depth = 0 if tail_calls else -(-prog.request.subprogs[0].stack_depth // 8) * 8
        for page, theirs in zip(self._pages, final, strict=True):
            ours = bytes(self._views[page])
            if ours == theirs:
                continue
            for at, value in _words(theirs, page):
                (native,) = _U64.unpack_from(ours, at - page)
                if page in self._stack and (not top - depth <= at < top or native in SAVED.values()):
                    continue
                if not same(native, value):
                    return at, native.to_bytes(8, "little"), value.to_bytes(8, "little")
        return None


_U64: Final = struct.Struct("<Q")


def _words(data: bytes, addr: int) -> Iterator[tuple[int, int]]:
    """Each aligned word of ``data``, which lies at ``addr`` (a multiple of 8), with its address."""
    usable = len(data) & -8
    return zip(range(addr, addr + usable, 8), memoryview(data)[:usable].cast("Q"), strict=True)


def _reached(machine: Machine, objects: Sequence[int]) -> dict[int, int]:
    """Sizes by address of the kmalloc objects that ``objects`` lead to, themselves included."""
    live = machine.kernel.alloc.live_objects()
    found: dict[int, int] = {}
    todo = deque(objects)
    while todo:
        addr = todo.popleft()
        if addr in found or addr not in live:
            continue
        found[addr] = live[addr]
        todo += [value for _, value in _words(machine.kernel.memory.read(addr, live[addr]), addr)]
    return found


def _argument_counts(machine: Machine) -> dict[int, int]:
    """How many arguments each kernel function takes, by address, where a table tells."""
    counts: dict[int, int] = {}
    symbols = machine.kernel.text.symbols()
    for name, row in FUNCTIONS.items():
        counts[symbols[name]] = min(row.nargs, 5)
    for helper in HELPERS.values():
        if helper.proto is not None:
            for symbol in (f"bpf_{helper.name}", *helper.symbols.values()):
                if symbol in symbols:
                    counts[symbols[symbol]] = num_params(helper.proto)
    return counts
