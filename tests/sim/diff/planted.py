# SPDX-License-Identifier: GPL-2.0-only
"""Planting a fault of the catalogue into the JIT while programs are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from jit_x86 import compiler
from jit_x86.assembler import KEEP_DISP8
from jit_x86.byte_forms import ByteLine
from jit_x86.code import CallSubprog, Code, Context, Item, LocalJump
from kernel_model.isa.native import NativeImage, NativeRequest

Edits = Mapping[str, str | int]


class Unused(Exception):
    """A fault that changes nothing in the program that should show it."""


def _plain(item: Item) -> str:
    if isinstance(item, str):
        return item.removeprefix(KEEP_DISP8)
    return item.replaces if isinstance(item, ByteLine) else ""


def _item(item: Item, edits: Edits, used: set[str], prefix: str = "") -> Item:
    key = prefix + _plain(item)
    if isinstance(item, LocalJump):
        key = f"local:{item.mnemonic}"
        if key in edits:
            used.add(key)
            return item._replace(mnemonic=str(edits[key]))
    elif isinstance(item, CallSubprog) and "callee" in edits:
        used.add("callee")
        return item._replace(subprog=item.subprog ^ int(edits["callee"]))
    elif key in edits:
        used.add(key)
        return str(edits[key])
    return item


def _code(code: Code, edits: Edits, used: set[str]) -> Code:
    items = [_item(item, edits, used) for item in code.items]
    jump = code.jump
    if jump is not None:
        key = f"jump:{jump.mnemonic}"
        if key in edits:
            used.add(key)
            jump = jump._replace(mnemonic=str(edits[key])) if edits[key] else None
        if jump is not None and "target" in edits and jump.target is not None:
            used.add("target")
            jump = jump._replace(target=jump.target + int(edits["target"]))
    return code._replace(items=items, jump=jump)


def _displace(image: NativeImage, request: NativeRequest, delta: int) -> NativeImage:
    """The displacement of the first function's first branch, changed by ``delta``."""
    function = image.functions[0]
    for slot, insn in enumerate(request.insns):
        if insn.code & 7 in (5, 6) and insn.code & 0xF0 not in (0x80, 0x90, 0xF0):
            end = function.insn_offs[slot + 1]
            code = bytearray(function.code)
            near = code[end - 5] == 0xE9 or (code[end - 6] == 0x0F and code[end - 5] >> 4 == 8)
            size = 4 if near else 1
            disp = int.from_bytes(code[end - size : end], "little", signed=True) + delta
            code[end - size : end] = disp.to_bytes(size, "little", signed=True)
            return replace(image, functions=(replace(function, code=bytes(code)), *image.functions[1:]))
    raise Unused("no branch")


@contextmanager
def planted(edits: Edits) -> Iterator[None]:
    """The JIT with the fault. Unused when a part of it never came to effect."""
    used: set[str] = set()
    select, compile_ = compiler.select, compiler.Compiler.compile

    def faulty_select(ctx: Context) -> compiler.Selected:
        selected = select(ctx)
        entry = [_item(item, edits, used, "entry:") for item in selected.entry]
        return selected._replace(entry=entry, codes=[_code(code, edits, used) for code in selected.codes])

    def faulty_compile(self: compiler.Compiler, request: NativeRequest, place: object) -> NativeImage:
        image = compile_(self, request, place)  # type: ignore[arg-type]
        if "displacement" in edits:
            used.add("displacement")
            return _displace(image, request, int(edits["displacement"]))
        return image

    with (
        patch.object(compiler, "select", faulty_select),
        patch.object(compiler.Compiler, "compile", faulty_compile),
    ):
        yield
    if used != set(edits):
        raise Unused(f"not used: {sorted(set(edits) - used)}")
