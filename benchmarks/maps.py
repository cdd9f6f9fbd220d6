# SPDX-License-Identifier: GPL-2.0-only
"""What operations on maps cost: creation, dumps through system calls, helpers in machine code.

``python benchmarks/maps.py`` prints a Markdown table. Times are of the process's CPU, the best of a few
rounds; a helper's is that of a program of many calls, less the same program without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kernel_model.isa.asm import assemble
from kernel_model.uapi.bpf_attr import command, pack
from sim import Machine
from sim.process import Process
from sim.userspace.bpf import Bpf

ROUNDS: Final = 5
CALLS: Final = 32
"""Helper calls in a program."""
REPEAT: Final = 1000
XDP: Final = 6
HASH, PERCPU_HASH, LRU_HASH, LPM_TRIE, RINGBUF = 1, 5, 9, 11, 27
NO_PREALLOC: Final = 1

_KEYED: Final = """
	r1 = {key}
	*(u64 *)(r10 -8) = r1
	*(u64 *)(r10 -16) = r1
	r1 = map_fd({fd}, 0)
	r2 = r10
	r2 += -8
	r3 = r10
	r3 += -16
	r4 = 0
	call {helper}
"""
_RECORD: Final = """
	r1 = map_fd({fd}, 0)
	r2 = 8
	r3 = 0
	call 131
	if r0 == 0 goto pc+3
	r1 = r0
	r2 = 0
	call 132
"""


def best(action: Callable[[], object]) -> float:
    """The least CPU time of a few rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def creation(bpf: Bpf) -> float:
    """Seconds to create a hash map of a million preallocated elements and to drop it."""
    return best(lambda: bpf.close(bpf.map_create(HASH, 4, 8, 1_000_000)))


class Batches:
    """Batch commands on a hash map, in a process's memory that is made once."""

    def __init__(self, process: Process, count: int) -> None:
        self.process, self.count = process, count
        self.fd = Bpf(process).map_create(HASH, 4, 8, count)
        self.keys, self.values = process.alloc(4 * count), process.alloc(8 * count)
        self.attr, self.out = process.alloc(4096), process.alloc(4096)
        process.write(self.keys, b"".join(number.to_bytes(4, "little") for number in range(count)))

    def call(self, name: str, count: int, start: int = 0) -> tuple[int, int]:
        """The command's result and how many elements it handled."""
        fields = {"keys": self.keys, "values": self.values, "in_batch": start, "out_batch": self.out}
        data = pack(name, count=count, map_fd=self.fd, **fields)
        self.process.write(self.attr, data)
        result = self.process.syscall(321, command(name).number, self.attr, len(data))
        after = command(name).record.unpack(self.process.read(self.attr, len(data)))
        return result, after["count"]

    def dump(self, step: int) -> None:
        """Read the whole map, ``step`` elements a call."""
        found = start = result = 0
        while not result:
            result, count = self.call("MAP_LOOKUP_BATCH", step, start)
            found, start = found + count, self.out
        assert found == self.count, found


def helper(machine: Machine, bpf: Bpf, fd: int, text: str, helper_id: int, key: int) -> float:
    """Seconds for one helper call in a compiled program."""
    times = []
    for calls in (0, CALLS):
        body = "".join(text.format(fd=fd, key=key, helper=helper_id) for _ in range(calls))
        prog = bpf.prog_load(XDP, assemble(body + "r0 = 2\nexit"))[0]
        times.append(best(lambda prog=prog: bpf.prog_test_run(prog, bytes(64), repeat=REPEAT)))  # type: ignore[misc]
        bpf.close(prog)
    return (times[1] - times[0]) / (CALLS * REPEAT)


def main() -> None:
    """Measure and print."""
    rows: list[tuple[str, str]] = []
    with Machine.boot() as machine:
        process = machine.process()
        bpf = Bpf(process)
        rows.append(("hash of 1,000,000 preallocated elements: create and drop", f"{creation(bpf):.2f} s"))
        batches = Batches(process, 300_000)
        seconds = best(lambda: batches.call("MAP_UPDATE_BATCH", batches.count))
        rows.append(("update by batches", f"{batches.count / seconds:,.0f} elements/s"))
        for step in (1000, 100_000):
            seconds = best(lambda step=step: batches.dump(step))  # type: ignore[misc]
            rows.append((f"dump by batches of {step:,}", f"{batches.count / seconds:,.0f} elements/s"))
        for name, kind, flags in (
            ("hash", HASH, 0),
            ("hash without preallocation", HASH, NO_PREALLOC),
            ("per-CPU hash", PERCPU_HASH, 0),
            ("lru_hash", LRU_HASH, 0),
        ):
            fd = bpf.map_create(kind, 8, 8, 1000, map_flags=flags)
            each = helper(machine, bpf, fd, _KEYED, 2, 7)
            rows.append((f"bpf_map_update_elem, {name}", f"{each * 1e9:,.0f} ns"))
        fd = bpf.map_create(LRU_HASH, 8, 8, 1000)
        bpf.map_update(fd, (7).to_bytes(8, "little"), bytes(8))
        rows.append(
            ("bpf_map_lookup_elem, lru_hash", f"{helper(machine, bpf, fd, _KEYED, 1, 7) * 1e9:,.0f} ns")
        )
        fd = bpf.map_create(LPM_TRIE, 8, 8, 1000, map_flags=NO_PREALLOC)
        for number in range(1000):
            prefix = (24).to_bytes(4, "little") + bytes((10, number >> 8, number & 0xFF, 0))
            bpf.map_update(fd, prefix, bytes(8))
        address = int.from_bytes((32).to_bytes(4, "little") + bytes((10, 1, 99, 5)), "little")
        each = helper(machine, bpf, fd, _KEYED.replace("r1 = {key}", "r1 = {key} ll"), 1, address)
        rows.append(("bpf_map_lookup_elem, lpm_trie of 1,000 prefixes", f"{each * 1e9:,.0f} ns"))
        fd = bpf.map_create(RINGBUF, 0, 0, 1 << 22)
        rows.append(
            ("ring buffer: reserve and submit", f"{helper(machine, bpf, fd, _RECORD, 0, 0) * 1e9:,.0f} ns")
        )
    print("| what | cost |\n|---|--:|")
    for what, cost in rows:
        print(f"| {what} | {cost} |")


if __name__ == "__main__":
    main()
