# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's text: stubs for functions in Python and the sources of ``text/*.S``, in one batch.

The sources are in the assembler's Intel syntax with four additions, replaced before it sees them:

- ``ENTRY(name)`` begins a symbol, aligned to 16 bytes as the kernel aligns functions;
  ``ENTRY_UNALIGNED(name)`` one inside running code;
- ``RET`` returns by the configured mitigation;
- names beginning with ``OFF_``, ``SIZEOF_``, ``SYM_``, ``MB_``, ``REASON_``, ``SEL_`` or ``CONST_`` are
  numbers given by the machine (struct offsets by field name, addresses of kernel data, ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from kernel_model.isa.native import Mitigations

from .assembler import assemble

_ENTRY = re.compile(r"^\s*ENTRY(_UNALIGNED)?\((\w+)\)\s*$")
_CONSTANT = re.compile(r"\b(?:OFF|SIZEOF|SYM|MB|REASON|SEL|CONST)_\w+\b")
_RET = re.compile(r"^\s*RET\s*$")
_THUNK_REGS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


class TextError(ValueError):
    """A source of kernel text that cannot be built; the message names file and line."""


@dataclass(frozen=True)
class Stub:
    """A function in Python: its number is its place in the list; ``leaving`` as in kernel_model.functions."""

    name: str
    leaving: bool


@dataclass(frozen=True)
class KernelText:
    """Machine code for ``base`` and its symbols: address and size in bytes by name, in address order."""

    base: int
    code: bytes
    symbols: Mapping[str, tuple[int, int]]


def _source_files() -> Iterator[tuple[str, str]]:
    folder = resources.files(__package__).joinpath("text")
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".S"):
            yield entry.name, entry.read_text()


def _stub_lines(stubs: Sequence[Stub]) -> Iterator[str]:
    for number, stub in enumerate(stubs):
        yield f"ENTRY({stub.name})"
        yield f"mov eax, {number}"
        yield f"jmp {'__leave_trap' if stub.leaving else '__leaf_trap'}"


def _thunk_lines(mitigations: Mitigations) -> Iterator[str]:
    for name in dict.fromkeys(["__x86_indirect_thunk_", mitigations.indirect_thunk]):
        for reg in _THUNK_REGS if name else ():
            yield f"ENTRY({name}{reg})"
            yield f"jmp {reg}"


def _expand(
    where: str, text: str, constants: Mapping[str, int], mitigations: Mitigations, names: list[str]
) -> Iterator[str]:
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0]
        if not line.strip():
            continue
        entry = _ENTRY.match(line)
        if entry:
            names.append(entry.group(2))
            if not entry.group(1):
                yield ".p2align 4, 0xcc"
            yield f"{entry.group(2)}:"
            continue
        if _RET.match(line):
            yield "jmp __x86_return_thunk" if mitigations.return_thunk else "ret"
            continue

        def value(match: re.Match[str], number: int = number) -> str:
            try:
                return str(constants[match.group(0)])
            except KeyError:
                raise TextError(f"{where}:{number}: unknown constant {match.group(0)}") from None

        yield _CONSTANT.sub(value, line)


def build_kernel_text(
    base: int,
    stubs: Sequence[Stub],
    constants: Mapping[str, int],
    mitigations: Mitigations,
    sources: Sequence[tuple[str, str]] | None = None,
) -> KernelText:
    """Assemble the whole kernel text for address ``base``.

    ``sources`` (file name, text) defaults to this package's ``text/*.S``. Raises TextError for an
    unknown constant or a symbol defined twice, and the assembler's own error for a bad instruction.
    """
    names: list[str] = []
    lines: list[str] = ["__text_start:"]
    parts = [*(sources if sources is not None else _source_files())]
    parts.append(("stubs", "\n".join(_stub_lines(stubs))))
    parts.append(("thunks", "\n".join(_thunk_lines(mitigations))))
    for where, text in parts:
        lines += _expand(where, text, constants, mitigations, names)
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
    if twice:
        raise TextError(f"symbol defined twice in kernel text: {', '.join(sorted(twice))}")
    lines += [".p2align 4, 0xcc", "__text_end:"]
    # The assembler returns bytes only; a table of label distances behind the code tells where symbols are.
    lines += [f".long {name}-__text_start" for name in [*names, "__text_end"]]
    data = assemble("\n".join(lines), base)
    table = data[len(data) - 4 * (len(names) + 1) :]
    places = [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), 4)]
    end = places.pop()
    ordered = sorted(zip(places, names, strict=True))
    symbols = {}
    for (at, name), following in zip(ordered, [*(place for place, _ in ordered[1:]), end], strict=True):
        symbols[name] = (base + at, following - at)
    return KernelText(base, data[:end], symbols)
