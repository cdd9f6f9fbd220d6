# SPDX-License-Identifier: GPL-2.0-only
"""A process without a kernel: records bpf(2) calls and answers them by a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernel_model.uapi.bpf_attr import COMMANDS, NR_BPF, Values, unpack


@dataclass(frozen=True)
class Call:
    """One bpf(2) call: the command, its attribute (at ``addr``), and what its pointers pointed at."""

    name: str
    attr: Values
    blobs: dict[str, bytes]
    addr: int


# The pointers of each command with the field (or size in bytes) that gives their length.
_POINTERS: dict[str, dict[str, str | int]] = {
    "BTF_LOAD": {"btf": "btf_size"},
    "MAP_UPDATE_ELEM": {"key": 4},
    "PROG_LOAD": {"insns": "insn_cnt", "license": 4},
    "OBJ_PIN": {"pathname": 32},
    "OBJ_GET": {"pathname": 32},
}


class FakeProcess:
    """Fds count up from 3; ``answer(process, call)`` may give another result than the next fd."""

    def __init__(self, answer: Callable[[FakeProcess, Call], int | None] | None = None) -> None:
        self.memory: dict[int, bytearray] = {}
        self.calls: list[Call] = []
        self.open: set[int] = set()
        self.next_addr, self.next_fd = 0x10000, 3
        self.answer = answer

    def alloc(self, size: int) -> int:
        addr = self.next_addr
        self.next_addr += (size + 0x1FFF) & ~0xFFF
        self.memory[addr] = bytearray(size)
        return addr

    def _at(self, addr: int, size: int) -> tuple[bytearray, int]:
        for base, memory in self.memory.items():
            if base <= addr and addr + size <= base + len(memory):
                return memory, addr - base
        raise AssertionError(f"{addr:#x}+{size} is not mapped")

    def write(self, addr: int, data: bytes) -> None:
        memory, at = self._at(addr, len(data))
        memory[at : at + len(data)] = data

    def read(self, addr: int, n: int) -> bytes:
        memory, at = self._at(addr, n)
        return bytes(memory[at : at + n])

    def syscall(self, nr: int, *args: int) -> int:
        if nr == 3:
            self.open.remove(args[0])
            return 0
        assert nr == NR_BPF
        row = COMMANDS[args[0]]
        attr = unpack(row.number, self.read(args[1], args[2]))
        blobs = {}
        for name, size in _POINTERS.get(row.name, {}).items():
            length = size if isinstance(size, int) else attr[size] * (8 if size == "insn_cnt" else 1)
            blobs[name] = self.read(attr[name], length)
        call = Call(row.name, attr, blobs, args[1])
        self.calls.append(call)
        result = self.answer(self, call) if self.answer is not None else None
        if result is not None:
            return result
        if row.name in ("BTF_LOAD", "MAP_CREATE", "PROG_LOAD", "OBJ_GET", "LINK_CREATE"):
            self.next_fd += 1
            self.open.add(self.next_fd - 1)
            return self.next_fd - 1
        return 0
