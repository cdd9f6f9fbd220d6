# SPDX-License-Identifier: GPL-2.0-only
"""From a request to an image: select, assemble, lay out, resolve, join.

Two batches go to the assembler: first every instruction that means the same at every address, then,
once sizes and addresses are known, branches, calls and addresses of functions.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from kernel_model.errors import KernelError, NotModelled
from kernel_model.isa.native import (
    ExceptionEntry,
    NativeFunction,
    NativeImage,
    NativeRequest,
    PokeSite,
)
from kernel_model.isa.opcodes import BPF_REG_FP, CALL, EXIT, LD_IMM64

from . import alu, atomic, call, frame, jump, memory
from .assembler import KEEP_DISP8, LineCache, Relative
from .byte_forms import FIXED, ByteLine, near_branch
from .code import (
    FUNC_ADDRESS_SIZE,
    NEAR_SIZE,
    SHORT_SIZE,
    AtRip,
    CallSubprog,
    Code,
    Context,
    Far,
    FuncAddress,
    Item,
    Jump,
    LocalJump,
)
from .layout import Branch, Layout, Sized, lay_out
from .poke import call_code, poke_code
from .registers import R64, X86_REG_R9

TEMPLATES: Final[dict[int, alu.Template]] = {
    **alu.TEMPLATES,
    **memory.TEMPLATES,
    **atomic.TEMPLATES,
    **jump.TEMPLATES,
    **call.TEMPLATES,
}
"""The template of every opcode that can be compiled."""

_INT32: Final = 1 << 31


def _select(ctx: Context, index: int) -> Code:
    """The code of the instruction at slot ``index``."""
    insn = ctx.request.insns[index]
    template = TEMPLATES.get(insn.code)
    if template is None:
        raise NotModelled(f"JIT of BPF opcode {insn.code:#04x} at slot {index}", errno.EINVAL)
    if ctx.private_stack and insn.code != CALL and BPF_REG_FP in (insn.dst, insn.src):
        insn = insn._replace(
            dst=X86_REG_R9 if insn.dst == BPF_REG_FP else insn.dst,
            src=X86_REG_R9 if insn.src == BPF_REG_FP else insn.src,
        )
    return template(ctx, insn, index)


class Selected(NamedTuple):
    """A function in terms of items: its entry, then a Code for each slot (none for second slots)."""

    ctx: Context
    entry: Sequence[Item]
    codes: list[Code]
    epilogue_slot: int
    """The slot, counted from the function's start, whose code is the epilogue; -1 without an exit."""


_NOTHING: Final = Code()


def select(ctx: Context) -> Selected:
    """Instruction selection for one function; NotModelled names what cannot be compiled."""
    codes: list[Code] = []
    insns = ctx.request.insns
    index, epilogue_slot = ctx.subprog.start, -1
    while index < ctx.subprog.end:
        code = insns[index].code
        if code == EXIT and epilogue_slot < 0:
            epilogue_slot = index - ctx.subprog.start
            codes.append(Code(frame.epilogue(ctx)))
        elif code == LD_IMM64:
            codes += [_select(ctx, index), _NOTHING]
            index += 1
        else:
            codes.append(_select(ctx, index))
        index += 1
    return Selected(ctx, frame.prologue(ctx), codes, epilogue_slot)


def _texts(selected: Selected) -> list[str]:
    texts = [_text(item) for item in selected.entry if isinstance(item, (str, ByteLine))]
    for code in selected.codes:
        for item in code.items:
            if isinstance(item, str):
                texts.append(item)
            elif isinstance(item, ByteLine):
                texts.append(item.text)
    return texts


def _text(item: str | ByteLine) -> str:
    return item if isinstance(item, str) else item.text


def _length(item: Item, known: Mapping[str, bytes]) -> int:
    if isinstance(item, str):
        return len(known[item])
    if isinstance(item, ByteLine):
        return len(known[item.text])
    if isinstance(item, LocalJump):
        return NEAR_SIZE if item.near else SHORT_SIZE
    if isinstance(item, AtRip):
        return item.size
    return FUNC_ADDRESS_SIZE if isinstance(item, FuncAddress) else NEAR_SIZE


def _bounds(items: Sequence[Item], known: Mapping[str, bytes]) -> list[int]:
    """Where each item begins, and where the last one ends."""
    at, bounds = 0, [0]
    for item in items:
        # Nearly all items are texts.
        at += len(known[item]) if isinstance(item, str) else _length(item, known)
        bounds.append(at)
    return bounds


def _branch(selected: Selected, slot: int, jump: Jump) -> Branch:
    target = selected.epilogue_slot if jump.target is None else jump.target
    if not 0 <= target < len(selected.codes):
        start = selected.ctx.subprog.start
        raise KernelError(errno.EINVAL, f"the jump at slot {start + slot} leaves its function")
    plain = jump.mnemonic == "jmp"
    return Branch(target, not plain, plain and jump.target is not None, jump.minus_one)


class _Placed(NamedTuple):
    """A function with its layout, and the bounds of the items of each slot's code."""

    selected: Selected
    layout: Layout
    entry_bounds: list[int]
    bounds: list[list[int]]


def _lay_out(selected: Selected, known: Mapping[str, bytes]) -> _Placed:
    bounds = [_bounds(code.items, known) for code in selected.codes]
    entry_bounds = _bounds(selected.entry, known)
    branches = [
        _branch(selected, slot, code.jump) if code.jump is not None else None
        for slot, code in enumerate(selected.codes)
    ]
    layout = lay_out(entry_bounds[-1], [bound[-1] for bound in bounds], branches)
    return _Placed(selected, layout, entry_bounds, bounds)


_Part = str | Relative
"""A piece of the final code: text known to the cache, or a branch."""


class _Emitter:
    """Turns placed items into parts, now that every address is known."""

    def __init__(self, addrs: Sequence[int], forms: Counter[str]) -> None:
        self._addrs = addrs
        self._forms = forms

    def _relative(self, mnemonic: str, disp: int, size: int) -> _Part:
        if not -_INT32 <= disp < _INT32:
            raise KernelError(errno.EINVAL, f"{mnemonic} target is {disp:#x} bytes away, out of range")
        # Keystone takes the short form wherever it reaches.
        if size != SHORT_SIZE and mnemonic != "call" and -128 <= disp + size - SHORT_SIZE <= 127:
            return self._form(near_branch(mnemonic, disp))
        return Relative(mnemonic, disp, size)

    def _form(self, line: ByteLine) -> str:
        self._forms[line.form] += 1
        return line.text

    def _address(self, item: FuncAddress) -> str:
        signed = self._addrs[item.subprog] - (1 << 64)
        if not -_INT32 <= signed < 0:
            raise ValueError(f"function at {self._addrs[item.subprog]:#x}: not in the top 2 GiB")
        return f"mov {item.reg}, {signed}"

    def items(self, items: Sequence[Item], bounds: Sequence[int], start: int) -> Iterator[_Part]:
        """The parts of ``items`` whose first stands at the address ``start``."""
        for index, item in enumerate(items):
            end = bounds[index + 1]
            if isinstance(item, str):
                if item.startswith(KEEP_DISP8):
                    self._forms["disp8_zero"] += 1
                yield item
            elif isinstance(item, ByteLine):
                yield self._form(item)
            elif isinstance(item, LocalJump):
                yield self._relative(item.mnemonic, bounds[item.to] - end, end - bounds[index])
            elif isinstance(item, Far):
                yield self._relative(item.mnemonic, item.target - (start + end), NEAR_SIZE)
            elif isinstance(item, CallSubprog):
                yield self._relative("call", self._addrs[item.subprog] - (start + end), NEAR_SIZE)
            elif isinstance(item, AtRip):
                yield item.template.format(f"{item.target - (start + end):+d}")
            else:
                yield self._address(item)

    def jump(self, mnemonic: str, sized: Sized) -> Iterator[_Part]:
        """The parts of a branch: the nops that keep its place, then itself."""
        if sized.pad:
            yield _PADS[sized.pad] if sized.pad in _PADS else self._form(FIXED[f"nop{sized.pad}"])
        if sized.size:
            yield self._relative(mnemonic, sized.disp, sized.size)


_PADS: Final = {2: "xchg ax, ax"}
"""Paddings that keystone encodes as Linux does."""


def _emit(placed: _Placed, addr: int, emitter: _Emitter) -> list[_Part]:
    selected, layout = placed.selected, placed.layout
    parts = list(emitter.items(selected.entry, placed.entry_bounds, addr))
    for slot, code in enumerate(selected.codes):
        if code.items:
            parts += emitter.items(code.items, placed.bounds[slot], addr + layout.offsets[slot])
        if code.jump is not None:
            parts += emitter.jump(code.jump.mnemonic, layout.branches[slot])
    return parts


def _exceptions(placed: _Placed) -> tuple[ExceptionEntry, ...]:
    entries = []
    for slot, code in enumerate(placed.selected.codes):
        if code.fault is not None:
            item, reg = code.fault
            start, bounds = placed.layout.offsets[slot], placed.bounds[slot]
            name = None if reg is None else R64[reg]
            entries.append(ExceptionEntry(start + bounds[item], start + bounds[-1], name, reg))
    return tuple(entries)


def _pokes(request: NativeRequest, placed: Sequence[_Placed]) -> tuple[PokeSite, ...]:
    pokes = list(request.pokes)
    for function in placed:
        for slot, code in enumerate(function.selected.codes):
            if code.poke is not None:
                number, bypass, target = code.poke
                start, bounds = function.layout.offsets[slot], function.bounds[slot]
                pokes[number] = replace(
                    pokes[number],
                    target_off=start + bounds[target],
                    bypass_off=start + bounds[bypass],
                    adj_off=frame.tail_call_offset(request),
                )
    return tuple(pokes)


class Compiler:
    """The JIT of the simulated x86-64: a ``kernel_model.isa.native.NativeCompiler``.

    Keeps nothing of a program; the cache holds machine code of single instructions only.
    """

    def __init__(self) -> None:
        self._cache = LineCache()

    def frame_bytes(self, request: NativeRequest) -> tuple[int, ...]:
        """The distance in bytes from rbp to rsp in the body of each subprogram."""
        return tuple(frame.frame_bytes(request, subprog) for subprog in request.subprogs)

    def select(self, ctx: Context) -> Selected:
        """Instruction selection for one function; what a subclass answers instead is compiled instead.

        An item may be any text that the assembler takes, and an empty one is no instruction.
        """
        return select(ctx)

    def compile(
        self, request: NativeRequest, place: Callable[[tuple[int, ...]], tuple[int, ...]]
    ) -> NativeImage:
        """Compile ``request``; ``place`` answers the functions' lengths with their first bytes' addresses.

        Raises NotModelled naming an instruction that cannot be compiled, KernelError where Linux's JIT
        gives up (a call out of reach, branches that do not settle).
        """
        selected = [self.select(ctx) for ctx in contexts(request)]
        known = self._cache.encode([text for function in selected for text in _texts(function)])
        placed = [_lay_out(function, known) for function in selected]
        prefixes = [self._prefix(function.selected.ctx) for function in placed]
        lengths = tuple(
            len(prefix) + function.layout.offsets[-1]
            for prefix, function in zip(prefixes, placed, strict=True)
        )
        addrs = tuple(at + len(prefix) for at, prefix in zip(place(lengths), prefixes, strict=True))
        forms: Counter[str] = Counter()
        emitter = _Emitter(addrs, forms)
        parts = [_emit(function, addr, emitter) for function, addr in zip(placed, addrs, strict=True)]
        codes = self._resolve(parts)
        functions = []
        for function, prefix, addr, code in zip(placed, prefixes, addrs, codes, strict=True):
            subprog = function.selected.ctx.subprog
            if len(code) != function.layout.offsets[-1]:
                raise AssertionError(
                    f"{subprog.name}: {len(code)} bytes, laid out {function.layout.offsets[-1]}"
                )
            size = frame.frame_bytes(request, subprog)
            offsets = function.layout.offsets
            faults = _exceptions(function)
            functions.append(NativeFunction(subprog.name, addr, code, offsets, size, faults, prefix))
        return NativeImage(tuple(functions), _pokes(request, placed), dict(sorted(forms.items())))

    def poke_code(self, poke: PokeSite, base: int, goal: int | None) -> tuple[tuple[int, bytes], ...]:
        """See NativeCompiler."""
        return poke_code(poke, base, goal)

    def call_code(self, addr: int, target: int) -> bytes:
        """See NativeCompiler."""
        return call_code(addr, target)

    def _prefix(self, ctx: Context) -> bytes:
        """What stands in front of a function; the same bytes wherever it lies."""
        texts = [_text(item) for item in frame.cfi_prefix(ctx)]
        known = self._cache.encode(texts)
        return b"".join(known[text] for text in texts)

    def _resolve(self, parts: Sequence[Sequence[_Part]]) -> list[bytes]:
        texts = self._cache.encode([p for function in parts for p in function if isinstance(p, str)])
        relative = [p for function in parts for p in function if isinstance(p, Relative)]
        branches = self._cache.encode_branches(relative)
        return [
            b"".join(texts[p] if isinstance(p, str) else branches[p] for p in function) for function in parts
        ]


def contexts(request: NativeRequest) -> list[Context]:
    """What templates may know, for each function of a request."""
    function_at = {subprog.start: number for number, subprog in enumerate(request.subprogs)}
    return [
        Context(
            request,
            number,
            subprog,
            frame.stack_depth(subprog),
            frame.used_callee_saved(request.insns, subprog),
            function_at,
        )
        for number, subprog in enumerate(request.subprogs)
    ]
