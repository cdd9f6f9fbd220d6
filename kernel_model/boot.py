# SPDX-License-Identifier: GPL-2.0-only
"""Bringing the kernel up: static data, the numbers that kernel text is assembled with, first objects."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from . import helpers, kfuncs
from .btf.layout import Layout
from .data_symbols import DATA_SYMBOLS, MAX_NETDEVS, PERCPU_SYMBOLS, place
from .helpers import prandom
from .helpers.constants import TEXT_CONSTANTS as HELPER_CONSTANTS
from .net.device import IFF_UP, VLAN_HLEN
from .objects import File
from .syscalls.files import Console

if TYPE_CHECKING:
    from .kernel import Kernel
    from .task import Task

IRQ_STACK_SIZE = 16 << 10

# Modules that register kernel functions, system calls and bpf(2) commands when imported.
REGISTERED = (
    "kernel_model.bpf.runtime",
    *(f"kernel_model.helpers.{module.name}" for module in pkgutil.iter_modules(helpers.__path__)),
    *(f"kernel_model.kfuncs.{module.name}" for module in pkgutil.iter_modules(kfuncs.__path__)),
    "kernel_model.maps.functions",
    "kernel_model.maps.memalloc",
    "kernel_model.net.stack",
    "kernel_model.syscalls.bpf_info",
    "kernel_model.syscalls.bpf_map",
    "kernel_model.syscalls.bpf_map_batch",
    "kernel_model.syscalls.bpf_object",
    "kernel_model.syscalls.bpf_prog",
    "kernel_model.syscalls.bpf_test_run",
    "kernel_model.syscalls.epoll",
    "kernel_model.syscalls.files",
    "kernel_model.syscalls.perf",
    "kernel_model.syscalls.process",
    "kernel_model.syscalls.sockets",
)
for _module in REGISTERED:
    importlib.import_module(_module)


def place_data(layout: Layout, data_start: int, percpu_start: int) -> dict[str, int]:
    """Addresses of all static data symbols by name (per-CPU symbols: link addresses)."""
    data, _ = place(DATA_SYMBOLS, data_start, layout)
    percpu, _ = place(PERCPU_SYMBOLS, percpu_start, layout)
    return data | percpu


def text_constants(layout: Layout, data: dict[str, int], direct_map: int) -> dict[str, int]:
    """The numbers that kernel text is assembled with: OFF_*, SIZEOF_*, SYM_*, CONST_*."""
    constants = {"OFF_" + path.replace(".", "_"): off for path, off in layout.offsets().items()}
    constants |= {f"SIZEOF_{name}": struct.size for name, struct in layout.items()}
    constants |= {f"SYM_{name}": addr for name, addr in data.items()}
    return (
        constants
        | HELPER_CONSTANTS
        | {
            "CONST_DIRECT_MAP": direct_map,
            "CONST_MAX_NETDEVS": MAX_NETDEVS,
            "CONST_IFF_UP": IFF_UP,
            "CONST_VLAN_HLEN": VLAN_HLEN,
            "CONST_XDP_FRAME": -(-layout["xdp_buff"].size // 16) * 16 + 8,
        }
    )


def init(kernel: Kernel) -> None:
    """Fill per-CPU data and register the loopback device."""
    memory = kernel.memory
    memory.put_u32(kernel.data["nr_cpu_ids"], kernel.alloc.nr_cpus)
    for cpu in range(kernel.alloc.nr_cpus):
        offset = kernel.alloc.per_cpu_offset(cpu)
        memory.put_u64(kernel.data["__per_cpu_offset"] + 8 * cpu, offset)
        memory.put_u64(kernel.per_cpu("this_cpu_off", cpu), offset)
        memory.put_u32(kernel.per_cpu("cpu_number", cpu), cpu)
    prandom.seed_full_state(kernel)
    kernel.net.add_loopback(kernel)


def new_process(kernel: Kernel, uid: int, comm: str) -> Task:
    """A process with standard input, output and error."""
    task = kernel.new_task(uid, comm)
    console = Console()
    for number in range(3):
        task.files.set(number, File(console))
        console.get()
    console.put(kernel)
    return task
