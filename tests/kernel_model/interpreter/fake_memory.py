# SPDX-License-Identifier: GPL-2.0-only
"""Memory for tests: regions of bytes at chosen addresses, faults everywhere else."""

from __future__ import annotations

from kernel_model.errors import MemoryFault

STACK_TOP = 0xFFFFC90000010000
STACK_SIZE = 0x8000
DATA = 0xFFFF888000100000


class FakeMemory:
    """``kernel_model.ports.Memory`` over a dict of bytearrays by their start address."""

    def __init__(self, regions: dict[int, bytes | bytearray] | None = None) -> None:
        self.regions = {start: bytearray(data) for start, data in (regions or {}).items()}
        self.regions[STACK_TOP - STACK_SIZE] = bytearray(STACK_SIZE)
        self.read_only: set[int] = set()

    def _find(self, addr: int, size: int, kind: str) -> tuple[bytearray, int]:
        for start, data in self.regions.items():
            if start <= addr and addr + size <= start + len(data):
                if kind == "write" and start in self.read_only:
                    break
                return data, addr - start
        raise MemoryFault(addr, kind)

    def read(self, addr: int, size: int) -> bytes:
        data, at = self._find(addr, size, "read")
        return bytes(data[at : at + size])

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        region, at = self._find(addr, len(data), "write")
        region[at : at + len(data)] = data

    def fill(self, addr: int, size: int, byte: int = 0) -> None:
        self.write(addr, bytes([byte]) * size)

    def _get(self, addr: int, size: int) -> int:
        return int.from_bytes(self.read(addr, size), "little")

    def _put(self, addr: int, size: int, value: int) -> None:
        # to_bytes refuses what does not fit: the interpreter must mask.
        self.write(addr, value.to_bytes(size, "little"))

    def u8(self, addr: int) -> int:
        return self._get(addr, 1)

    def u16(self, addr: int) -> int:
        return self._get(addr, 2)

    def u32(self, addr: int) -> int:
        return self._get(addr, 4)

    def u64(self, addr: int) -> int:
        return self._get(addr, 8)

    def put_u8(self, addr: int, value: int) -> None:
        self._put(addr, 1, value)

    def put_u16(self, addr: int, value: int) -> None:
        self._put(addr, 2, value)

    def put_u32(self, addr: int, value: int) -> None:
        self._put(addr, 4, value)

    def put_u64(self, addr: int, value: int) -> None:
        self._put(addr, 8, value)
