# SPDX-License-Identifier: GPL-2.0-only
"""Native code of the bench guests in the machine: their bytes in kernel text, and a bpf_prog that names it.

A twin is called exactly as a BPF program is: ``bpf_func(ctx, insnsi)``. Its struct bpf_prog has a
struct bench_env (guests/bench/bench.h) where a program's instructions are.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import guests
from kernel_model.kernel import Kernel

SLOTS, TAILS = 4, 8
_ENV = struct.Struct(f"<{SLOTS}Q{SLOTS}Q{SLOTS}Q{SLOTS}QQ{TAILS}Q")


@dataclass
class Env:
    """struct bench_env: what a twin works on, by slot; addresses in the machine."""

    maps: list[int] = field(default_factory=lambda: [0] * SLOTS)
    lookup: list[int] = field(default_factory=lambda: [0] * SLOTS)
    value_off: list[int] = field(default_factory=lambda: [0] * SLOTS)
    values: list[int] = field(default_factory=lambda: [0] * SLOTS)
    this_cpu_off: int = 0
    tail: list[int] = field(default_factory=lambda: [0] * TAILS)

    def pack(self) -> bytes:
        """The bytes as the C structure has them."""
        return _ENV.pack(
            *self.maps, *self.lookup, *self.value_off, *self.values, self.this_cpu_off, *self.tail
        )


def install_code(kernel: Kernel, name: str) -> Mapping[str, int]:
    """Put the flat code ``guests/bench/NAME.bin`` into kernel text; the address of each function.

    Every function becomes a symbol ``bench_NAME.FUNCTION``. FileNotFoundError when the guest is missing.
    """
    code = guests.path(f"bench/{name}.bin").read_bytes()
    offsets: dict[str, int] = json.loads(guests.path(f"bench/{name}.json").read_text())["symbols"]
    (base,) = kernel.text.allocate([len(code)])
    kernel.text.poke(base, code)
    ends = sorted([*offsets.values(), len(code)])
    for function, off in offsets.items():
        end = ends[ends.index(off) + 1]
        kernel.text.add_symbol(f"bench_{name}.{function}", base + off, end - off)
    return {function: base + off for function, off in offsets.items()}


def make_prog(kernel: Kernel, entry: int, env: Env) -> int:
    """A struct bpf_prog in kernel memory whose bpf_func is ``entry`` and whose insnsi is ``env``."""
    layout = kernel.layout["bpf_prog"]
    packed = env.pack()
    addr = kernel.alloc.kmalloc(layout.size + len(packed))
    kernel.memory.put_u64(addr + layout.offset("bpf_func"), entry)
    kernel.memory.write(addr + layout.offset("insnsi"), packed)
    return addr
