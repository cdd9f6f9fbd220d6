# SPDX-License-Identifier: GPL-2.0-only
"""Writing BTF: types one by one, by the format of Documentation/bpf/btf.rst."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from .parse import BTF_MAGIC, BTF_VERSION, HEADER, Kind

_TYPE = struct.Struct("<III")


class BtfBuilder:
    """Collects types; each ``add`` gives the id of the new type. Types may name ids that come later."""

    def __init__(self) -> None:
        self._types = bytearray()
        self._strings = bytearray(b"\0")
        self._offsets: dict[str, int] = {"": 0}
        self.count = 0

    def string(self, text: str) -> int:
        """The offset of ``text`` among the strings."""
        if text not in self._offsets:
            self._offsets[text] = len(self._strings)
            self._strings += text.encode("latin-1") + b"\0"
        return self._offsets[text]

    def add(
        self,
        kind: Kind,
        name: str = "",
        word: int = 0,
        *,
        vlen: int = 0,
        kflag: bool = False,
        data: bytes = b"",
    ) -> int:
        """Any type: ``word`` is its size or the type it refers to, ``data`` what follows struct btf_type."""
        info = int(kflag) << 31 | kind << 24 | vlen
        self._types += _TYPE.pack(self.string(name), info, word & 0xFFFF_FFFF) + data
        self.count += 1
        return self.count

    def add_int(self, name: str, size: int, encoding: int = 0, bits: int = 0) -> int:
        """An integer of ``size`` bytes; ``encoding`` 1 is signed, 2 char, 4 bool."""
        return self.add(Kind.INT, name, size, data=struct.pack("<I", encoding << 24 | (bits or size * 8)))

    def add_ptr(self, target: int) -> int:
        """A pointer."""
        return self.add(Kind.PTR, "", target)

    def add_array(self, element: int, index: int, count: int) -> int:
        """``count`` elements, indexed by the integer type ``index``."""
        return self.add(Kind.ARRAY, data=struct.pack("<III", element, index, count))

    def add_composite(
        self, kind: Kind, name: str, size: int, members: Sequence[tuple[str, int, int, int]]
    ) -> int:
        """A structure or union of (name, type, offset in bits, size in bits or 0 for no bit-field)."""
        kflag = any(bits for *_, bits in members)
        data = b"".join(
            struct.pack("<III", self.string(member), number, bits << 24 | at if kflag else at)
            for member, number, at, bits in members
        )
        return self.add(kind, name, size, vlen=len(members), kflag=kflag, data=data)

    def add_enum(
        self, name: str, values: Iterable[tuple[str, int]], size: int = 4, signed: bool = False
    ) -> int:
        """An enum of 32-bit values, or of 64-bit ones when ``size`` is 8."""
        rows = list(values)
        if size == 8:
            data = b"".join(
                struct.pack("<III", self.string(each), value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF)
                for each, value in rows
            )
            return self.add(Kind.ENUM64, name, size, vlen=len(rows), kflag=signed, data=data)
        data = b"".join(struct.pack("<II", self.string(each), value & 0xFFFF_FFFF) for each, value in rows)
        return self.add(Kind.ENUM, name, size, vlen=len(rows), kflag=signed, data=data)

    def add_proto(self, returns: int, params: Sequence[tuple[str, int]]) -> int:
        """A function prototype."""
        data = b"".join(struct.pack("<II", self.string(name), number) for name, number in params)
        return self.add(Kind.FUNC_PROTO, "", returns, vlen=len(params), data=data)

    def bytes(self) -> bytes:
        """The whole blob."""
        types, strings = bytes(self._types), bytes(self._strings)
        header = HEADER.pack(BTF_MAGIC, BTF_VERSION, 0, HEADER.size, 0, len(types), len(types), len(strings))
        return header + types + strings
