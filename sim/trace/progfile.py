# SPDX-License-Identifier: GPL-2.0-only
"""Programs as trace files hold them."""

from __future__ import annotations

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import INSN_SIZE, decode, encode
from kernel_model.isa.native import Subprog
from kernel_model.isa.table import row_for

from .record import NativeText, ProgText, SourceLine
from .wire import Reader, WireError, put_bytes, put_text, put_uint

_FLAGS = (
    "has_tail_call",
    "tail_call_reachable",
    "is_cb",
    "is_exception_cb",
    "is_exception_boundary",
)
_MAX_ARGS = 6


def encode_program(prog: ProgText) -> bytearray:
    """One program's texts and code."""
    out = bytearray()
    put_uint(out, prog.id)
    put_text(out, prog.name)
    put_bytes(out, encode(prog.insns))
    put_uint(out, len(prog.subprogs))
    for each in prog.subprogs:
        put_uint(out, each.start)
        put_uint(out, each.end)
        put_uint(out, each.stack_depth)
        put_text(out, each.name)
        put_uint(out, sum(getattr(each, flag) << bit for bit, flag in enumerate(_FLAGS)))
        put_uint(out, 0 if each.private_stack is None else each.private_stack + 1)
    put_uint(out, len(prog.silent))
    for slot in sorted(prog.silent):
        put_uint(out, slot)
    put_uint(out, len(prog.calls))
    for slot, name in sorted(prog.calls.items()):
        put_uint(out, slot)
        put_text(out, name)
        put_uint(out, prog.arities.get(slot, _MAX_ARGS + 1))
    put_uint(out, len(prog.functions))
    for function in prog.functions:
        put_uint(out, function.addr)
        put_bytes(out, function.code)
        put_uint(out, len(function.offs))
        at = 0
        for off in function.offs:
            put_uint(out, off - at)
            at = off
    put_uint(out, len(prog.lines))
    for line in prog.lines:
        put_uint(out, line.slot)
        put_text(out, line.file)
        put_uint(out, line.number)
        put_text(out, line.text)
    return out


def decode_program(data: Reader) -> ProgText:
    """The program; WireError when it is none that could be shown."""
    number, name = data.uint(1 << 32, "a program's id"), data.text()
    at, raw = data.at, data.bytes()
    if not raw or len(raw) % INSN_SIZE:
        raise WireError(at, f"{len(raw)} bytes of instructions")
    insns = tuple(decode(raw))
    size = len(insns)
    subprogs = tuple(_subprog(data, size) for _ in range(data.count("number of functions")))
    silent = frozenset(data.uint(size, "a slot") for _ in range(data.count("number of silent slots")))
    calls, arities = {}, {}
    for _ in range(data.count("number of calls")):
        slot = data.uint(size, "a slot")
        calls[slot] = data.text()
        known = data.uint(_MAX_ARGS + 2, "number of arguments")
        if known <= _MAX_ARGS:
            arities[slot] = known
    functions = tuple(_function(data) for _ in range(data.count("number of images")))
    lines = []
    for _ in range(data.count("number of source lines")):
        lines.append(SourceLine(data.uint(size, "a slot"), data.text(), data.uint(1 << 32), data.text()))
        if len(lines) > 1 and lines[-2].slot > lines[-1].slot:
            raise WireError(data.at, "source lines out of order")
    prog = ProgText(number, name, insns, subprogs, silent, calls, functions, arities, tuple(lines))
    _check(prog, at)
    return prog


def _subprog(data: Reader, size: int) -> Subprog:
    start, end = data.uint(size, "a function's start"), data.uint(size + 1, "a function's end")
    depth, name = data.uint(1 << 32, "a stack depth"), data.text()
    bits = data.uint(1 << len(_FLAGS), "a function's flags")
    private = data.uint()
    flags = {flag: bool(bits >> bit & 1) for bit, flag in enumerate(_FLAGS)}
    return Subprog(start, end, depth, name, **flags, private_stack=private - 1 if private else None)


def _function(data: Reader) -> NativeText:
    addr, code = data.uint(), data.bytes()
    offs, at = [], 0
    for _ in range(data.count("number of offsets")):
        at += data.uint(len(code) - at + 1, "an offset in machine code")
        offs.append(at)
    return NativeText(addr, code, tuple(offs))


def _check(prog: ProgText, at: int) -> None:
    """What the rest of this package takes for granted."""
    size, slot = len(prog.insns), 0
    while slot < size:
        insn = prog.insns[slot]
        if row_for(insn, internal=True) is None:
            raise WireError(at, f"slot {slot} is no instruction")
        if insn.code == op.CALL and insn.src != op.BPF_PSEUDO_CALL and slot not in prog.calls:
            raise WireError(at, f"slot {slot} calls something without a name")
        slot = prog.next_slot(slot)
    if slot != size:
        raise WireError(at, "the last instruction is cut off")
    at_slot = 0
    for each in prog.subprogs:
        if each.start != at_slot or each.end <= each.start:
            raise WireError(at, f"a function at slots {each.start} to {each.end}, {at_slot} was next")
        at_slot = each.end
    if at_slot != size:
        raise WireError(at, f"functions end at slot {at_slot} of {size}")
    for subprog, function in zip(prog.subprogs, prog.functions, strict=False):
        if len(function.offs) != subprog.end - subprog.start + 1:
            raise WireError(at, "machine code for another number of instructions")
    if len(prog.functions) not in (0, len(prog.subprogs)):
        raise WireError(at, "machine code for another number of functions")
