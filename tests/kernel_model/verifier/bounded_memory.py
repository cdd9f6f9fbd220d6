# SPDX-License-Identifier: GPL-2.0-only
"""Memory that knows its objects: an access that is not wholly inside one of them is an error.

Enough of a kernel around it to run accepted XDP programs: a packet, a context, arrays and a hash table.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

from verifier_world import CALL_BASE, MAPS, FakeMap, Symbols

from kernel_model.btf.layout import kernel_layout
from kernel_model.interpreter.engine import Interpreter
from kernel_model.interpreter.program import Program
from kernel_model.verifier.api import VerifiedProgram

FP = 0xFFFFC90000010000
CTX = 0xFFFF888010000000
RXQ = CTX + 0x1000
DEVICE = CTX + 0x10000
PACKET = CTX + 0x100000
HASH_ELEMENT = CTX + 0x200000
STEPS = 200_000


class OutOfBounds(Exception):
    """An access outside every object."""


class Objects:
    """Regions by address, each its own bytes."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: dict[int, bytearray] = {}

    def add(self, addr: int, data: bytes) -> None:
        """A new object; objects do not overlap."""
        self._starts.append(addr)
        self._starts.sort()
        self._data[addr] = bytearray(data)

    def _find(self, addr: int, size: int) -> tuple[bytearray, int]:
        at = bisect_right(self._starts, addr) - 1
        if at >= 0:
            start = self._starts[at]
            data = self._data[start]
            if addr + size <= start + len(data):
                return data, addr - start
        raise OutOfBounds(f"{size} bytes at {addr:#x}")

    def _load(self, addr: int, size: int) -> int:
        data, at = self._find(addr, size)
        return int.from_bytes(data[at : at + size], "little")

    def _store(self, addr: int, size: int, value: int) -> None:
        data, at = self._find(addr, size)
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def u8(self, addr: int) -> int:
        return self._load(addr, 1)

    def u16(self, addr: int) -> int:
        return self._load(addr, 2)

    def u32(self, addr: int) -> int:
        return self._load(addr, 4)

    def u64(self, addr: int) -> int:
        return self._load(addr, 8)

    def put_u8(self, addr: int, value: int) -> None:
        self._store(addr, 1, value)

    def put_u16(self, addr: int, value: int) -> None:
        self._store(addr, 2, value)

    def put_u32(self, addr: int, value: int) -> None:
        self._store(addr, 4, value)

    def put_u64(self, addr: int, value: int) -> None:
        self._store(addr, 8, value)

    def read(self, addr: int, size: int) -> bytes:
        data, at = self._find(addr, size)
        return bytes(data[at : at + size])

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        found, at = self._find(addr, len(data))
        found[at : at + len(data)] = data

    def fill(self, addr: int, size: int, byte: int = 0) -> None:
        self.write(addr, bytes((byte,)) * size)


def _array(objects: Objects, the_map: FakeMap) -> None:
    """Each value an object of its own, with the padding between them forbidden."""
    base = the_map.addr + kernel_layout().offset("bpf_array.value")
    stride = -(-the_map.value_size // 8) * 8
    for index in range(the_map.max_entries):
        objects.add(base + index * stride, bytes(the_map.value_size))


def _xdp(objects: Objects, packet: bytes) -> None:
    layout = kernel_layout()
    objects.add(CTX, bytes(layout["xdp_buff"].size))
    objects.add(RXQ, bytes(layout["xdp_rxq_info"].size))
    objects.add(DEVICE, bytes(layout["net_device"].size))
    objects.put_u64(RXQ + layout.offset("xdp_rxq_info.dev"), DEVICE)
    objects.add(PACKET, packet)
    places = {"data": PACKET, "data_end": PACKET + len(packet), "data_meta": PACKET, "rxq": RXQ}
    for name, value in places.items():
        objects.put_u64(CTX + layout.offset(f"xdp_buff.{name}"), value)


class World:
    """One run: random packet, random numbers, and what helpers answer."""

    def __init__(self, rng: random.Random, stack_depth: int) -> None:
        self.rng = rng
        self.objects = Objects()
        self.objects.add(FP - stack_depth, rng.randbytes(stack_depth))
        _xdp(self.objects, rng.randbytes(rng.choice((1, 8, 14, 20, 33, 34, 60, 64, 100))))
        for name in ("array", "odd_array"):
            _array(self.objects, MAPS[name])
        key = kernel_layout().offset("htab_elem.key")
        self._element = HASH_ELEMENT
        self.objects.add(HASH_ELEMENT + key + MAPS["hash"].key_size, bytes(MAPS["hash"].value_size))

    def call(self, symbols: Symbols) -> Callable[..., int]:
        """The kernel functions that programs may call."""
        numbers = (0, 1, 7, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

        def kernel(address: int, *args: int) -> int:
            name = symbols.name(address & (1 << 64) - 1)
            if name == "__htab_map_lookup_elem":
                self.objects.read(args[2], MAPS["hash"].key_size)
                return self._element if self.rng.random() < 0.8 else 0
            if name == "bpf_user_rnd_u32":
                return self.rng.choice(numbers) if self.rng.random() < 0.5 else self.rng.getrandbits(32)
            return self.rng.getrandbits(64)

        return kernel

    def run(self, verified: VerifiedProgram, symbols: Symbols, observer: object = None) -> int:
        """R0; OutOfBounds when the program leaves its objects."""
        program = Program(
            verified.insns,
            verified.subprogs,
            (0,) * len(verified.subprogs),
            {"__bpf_call_base": CALL_BASE},
        )
        interpreter = Interpreter(self.objects, self.call(symbols))
        return interpreter.run(program, (CTX,), FP, observer=observer, budget=STEPS)  # type: ignore[arg-type]
