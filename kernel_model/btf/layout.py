# SPDX-License-Identifier: GPL-2.0-only
"""Struct layouts by field name, computed from C-like type descriptions by the x86-64 SysV ABI.

Nobody writes an offset by hand: kernel code asks ``layout["xdp_buff"].offset("data")``, machine code is
assembled with ``OFF_xdp_buff_data``, the JIT and the verifier get the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

_BASE_SIZES = {"char": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8}
_TOKEN = re.compile(r"\s*(?:/\*.*?\*/\s*)*([A-Za-z_]\w*|\d+|[{};:*\[\]]|$)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A named member: ``offset`` in bytes; ``size`` in bytes of the whole member.

    For a bit-field ``bit_offset`` counts from the start of its storage unit at ``offset`` and
    ``bit_size`` is positive; ``size`` is the storage unit's. ``type`` is the declared type without
    qualifiers: ``u32``, ``struct list_head``, ``struct bpf_map *``; ``count`` the array length (1 for
    scalars, 0 for a flexible array).
    """

    name: str
    type: str
    offset: int
    size: int
    count: int = 1
    is_array: bool = False
    bit_offset: int = 0
    bit_size: int = 0


@dataclass
class Struct:
    """One structure or union: its members in order (those of anonymous members are lifted)."""

    name: str
    size: int = 0
    align: int = 1
    members: dict[str, Member] = field(default_factory=dict)
    nested: dict[str, Struct] = field(default_factory=dict)

    def member(self, path: str) -> Member:
        """The member at a dotted path, with its offset from this struct; KeyError when there is none."""
        head, _, rest = path.partition(".")
        found = self.members[head]
        if not rest:
            return found
        inner = self.nested[found.type].member(rest)
        return Member(
            path,
            inner.type,
            found.offset + inner.offset,
            inner.size,
            inner.count,
            inner.is_array,
            inner.bit_offset,
            inner.bit_size,
        )

    def offset(self, path: str) -> int:
        """The byte offset of a dotted path."""
        return self.member(path).offset


class LayoutError(ValueError):
    """A type description that does not parse or names an unknown type."""


class Layout(Mapping[str, Struct]):
    """All structures by tag name."""

    def __init__(self, structs: dict[str, Struct]) -> None:
        self._structs = structs

    def __getitem__(self, name: str) -> Struct:
        return self._structs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._structs)

    def __len__(self) -> int:
        return len(self._structs)

    def offset(self, path: str) -> int:
        """``offset("bpf_array.map.max_entries")``: bytes from the start of ``struct bpf_array``."""
        head, _, rest = path.partition(".")
        return self._structs[head].offset(rest)

    def offsets(self) -> dict[str, int]:
        """Every member of every structure by dotted path, nested structures included."""
        out: dict[str, int] = {}
        for struct in self._structs.values():
            self._collect(out, struct.name, 0, struct)
        return out

    def _collect(self, out: dict[str, int], prefix: str, base: int, struct: Struct) -> None:
        for member in struct.members.values():
            path = f"{prefix}.{member.name}"
            out[path] = base + member.offset
            inner = struct.nested.get(member.type)
            if inner is not None and not member.is_array:
                self._collect(out, path, base + member.offset, inner)


class _Parser:
    def __init__(self, text: str, adjust: Callable[[Struct], Struct]) -> None:
        self.tokens = self._scan(text)
        self.adjust = adjust
        self.pos = 0
        self.structs: dict[str, Struct] = {}

    @staticmethod
    def _scan(text: str) -> list[str]:
        tokens, pos = [], 0
        while pos < len(text):
            match = _TOKEN.match(text, pos)
            if match is None:
                raise LayoutError(f"unexpected text in type description: {text[pos : pos + 30]!r}")
            if match.group(1):
                tokens.append(match.group(1))
            pos = match.end()
        return tokens

    def next(self) -> str:
        if self.pos >= len(self.tokens):
            raise LayoutError("type description ends early")
        self.pos += 1
        return self.tokens[self.pos - 1]

    def peek(self) -> str:
        return self.tokens[self.pos] if self.pos < len(self.tokens) else ""

    def expect(self, token: str) -> None:
        got = self.next()
        if got != token:
            raise LayoutError(f"expected {token!r}, found {got!r}")

    def parse(self) -> dict[str, Struct]:
        while self.peek():
            self.expect("struct")
            name = self.next()
            self.structs[name] = self.adjust(self.body(name, union=False))
            self.expect(";")
        return self.structs

    def body(self, name: str, union: bool) -> Struct:
        struct = Struct(name)
        self.expect("{")
        bits = 0  # position in bits behind the last member
        while self.peek() != "}":
            bits = self.declaration(struct, 0 if union else bits)
            struct.size = max(struct.size, -(-bits // 8))
        self.next()
        struct.size = -(-struct.size // struct.align) * struct.align
        return struct

    def declaration(self, struct: Struct, bits: int) -> int:
        base = self.next()
        if base in ("struct", "union") and self.peek() == "{":
            inner = self.body("", union=base == "union")
            self.expect(";")
            return self.lift(struct, inner, bits)
        if base in ("struct", "union"):
            base = f"{base} {self.next()}"
        pointers = 0
        while self.peek() == "*":
            self.next()
            pointers += 1
        name = self.next()
        count, is_array, bit_size = 1, False, 0
        if self.peek() == "[":
            self.next()
            count, is_array = int(self.next()), True
            self.expect("]")
        elif self.peek() == ":":
            self.next()
            bit_size = int(self.next())
        self.expect(";")
        unit, align, nested = self.size_of(base, pointers)
        struct.align = max(struct.align, align)
        type_name = base + (" " + "*" * pointers if pointers else "")
        if bit_size:
            if bits // (unit * 8) != (bits + bit_size - 1) // (unit * 8):
                bits = -(-bits // (unit * 8)) * unit * 8
            start = bits // (unit * 8) * unit
            struct.members[name] = Member(
                name, type_name, start, unit, bit_offset=bits - start * 8, bit_size=bit_size
            )
            return bits + bit_size
        start = -(-bits // (align * 8)) * align
        struct.members[name] = Member(name, type_name, start, unit * count, count, is_array)
        if nested is not None:
            struct.nested[type_name] = nested
        return (start + unit * count) * 8

    def size_of(self, base: str, pointers: int) -> tuple[int, int, Struct | None]:
        if pointers:
            return 8, 8, None
        if base in _BASE_SIZES:
            return _BASE_SIZES[base], _BASE_SIZES[base], None
        tag = base.partition(" ")[2]
        if tag not in self.structs:
            raise LayoutError(f"unknown type {base!r}")
        nested = self.structs[tag]
        return nested.size, nested.align, nested

    @staticmethod
    def lift(struct: Struct, inner: Struct, bits: int) -> int:
        start = -(-bits // (inner.align * 8)) * inner.align
        struct.align = max(struct.align, inner.align)
        for member in inner.members.values():
            struct.members[member.name] = Member(
                member.name,
                member.type,
                start + member.offset,
                member.size,
                member.count,
                member.is_array,
                member.bit_offset,
                member.bit_size,
            )
        struct.nested.update(inner.nested)
        return (start + inner.size) * 8


def _as_it_is(struct: Struct) -> Struct:
    return struct


def parse_types(text: str, adjust: Callable[[Struct], Struct] = _as_it_is) -> Layout:
    """Lay out every ``struct`` in ``text``; LayoutError when it does not parse.

    ``adjust`` may put another layout in a structure's place before others are made of it.
    """
    return Layout(_Parser(text, adjust).parse())


def kernel_types() -> str:
    """The text that describes the simulated kernel's own types (kernel_types.h beside this module)."""
    return resources.files(__package__).joinpath("kernel_types.h").read_text()


@cache
def kernel_layout() -> Layout:
    """The layout of the simulated kernel's own types."""
    return parse_types(kernel_types())
