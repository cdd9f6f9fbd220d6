# SPDX-License-Identifier: GPL-2.0-only
"""The simulated kernel's own BTF, made from its layout: what /sys/kernel/btf/vmlinux shows.

It holds the structures that this kernel has, with the members that it has, at the offsets where they are;
a pointer to something else points at a forward declaration. Functions that programs may call (kfuncs)
have their prototypes there.
"""

from __future__ import annotations

from functools import cache, lru_cache

from kernel_model.kfuncs.table import ROWS, Kfunc

from .build import BtfBuilder
from .layout import Layout, Member, kernel_layout
from .parse import Btf, Kind

_SIGNED, _CHAR, _BOOL = 1, 2, 4
_INTS = (
    ("char", 1, _SIGNED, ("s8",)),
    ("unsigned char", 1, 0, ("u8",)),
    ("short int", 2, _SIGNED, ("s16",)),
    ("short unsigned int", 2, 0, ("u16",)),
    ("int", 4, _SIGNED, ("s32",)),
    ("unsigned int", 4, 0, ("u32",)),
    ("long unsigned int", 8, 0, ("size_t",)),
    ("_Bool", 1, _BOOL, ("bool",)),
    ("long long int", 8, _SIGNED, ("s64",)),
    ("long long unsigned int", 8, 0, ("u64",)),
)
"""C's integers as compilers name them: size, encoding, and the kernel's typedefs of them."""
_GLOBAL = 1
_WHOLE = b"\xff\xff\xff\xff"
"""A declaration tag on the whole function, not on a parameter."""


class _Writer:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.b = BtfBuilder()
        self.ids: dict[str, int] = {}

    def write(self) -> bytes:
        for name, size, encoding, typedefs in _INTS:
            number = self.ids[name] = self.b.add_int(name, size, encoding)
            for typedef in typedefs:
                self.ids[typedef] = self.b.add(Kind.TYPEDEF, typedef, number)
        self.ids["void"] = 0
        self.index = self.b.add_int("__ARRAY_SIZE_TYPE__", 4)
        # Structures refer to each other, so their ids are given out before any is written.
        first = self.b.count + 1
        for at, name in enumerate(self.layout):
            self.ids[f"struct {name}"] = first + at
        self.next = first + len(self.layout)
        self.later: list[tuple[Kind, str, int, bytes]] = []
        for struct in self.layout.values():
            members = [
                (m.name, self.member(m), m.offset * 8 + m.bit_offset, m.bit_size)
                for m in sorted(struct.members.values(), key=lambda m: (m.offset, m.bit_offset))
            ]
            self.b.add_composite(Kind.STRUCT, struct.name, struct.size, members)
        protos = [(row, self.type(row.returns), self.params(row)) for row in ROWS]
        for kind, name, word, data in self.later:
            self.b.add(kind, name, word, data=data)
        for row, returns, params in protos:
            func = self.b.add(Kind.FUNC, row.name, self.b.add_proto(returns, params), vlen=_GLOBAL)
            self.b.add(Kind.DECL_TAG, "bpf_kfunc", func, data=_WHOLE)
        return self.b.bytes()

    def postponed(self, key: str, kind: Kind, name: str = "", word: int = 0, data: bytes = b"") -> int:
        if key not in self.ids:
            self.ids[key] = self.next
            self.next += 1
            self.later.append((kind, name, word, data))
        return self.ids[key]

    def member(self, member: Member) -> int:
        number = self.type(member.type)
        if not member.is_array:
            return number
        row = b"".join(word.to_bytes(4, "little") for word in (number, self.index, member.count))
        return self.postponed(f"{member.type}[{member.count}]", Kind.ARRAY, data=row)

    def params(self, row: Kfunc) -> list[tuple[str, int]]:
        """Names and types of a kernel function's parameters."""
        return [(name, self.type(text)) for name, text in row.params]

    def type(self, text: str) -> int:
        if text.endswith("*"):
            inner = text[:-1].rstrip()
            return self.postponed(text, Kind.PTR, word=self.type(inner))
        if text.startswith("const "):
            return self.postponed(text, Kind.CONST, word=self.type(text.removeprefix("const ")))
        if text not in self.ids:
            head, _, tag = text.partition(" ")
            assert head in ("struct", "union"), text
            return self.postponed(text, Kind.FWD, tag)
        return self.ids[text]


@cache
def kernel_btf() -> bytes:
    """The blob; the same for every machine."""
    return _Writer(kernel_layout()).write()


@lru_cache(maxsize=4)
def parse_kernel_btf(data: bytes) -> Btf:
    """The types in a kernel's BTF; machines that show the same bytes share them. BtfError when damaged."""
    return Btf(data)


def kernel_types() -> Btf:
    """The types that this kernel itself has."""
    return parse_kernel_btf(kernel_btf())
