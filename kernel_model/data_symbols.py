# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's static data: every symbol, its size, and whether each CPU has its own copy.

Addresses are given at boot in the order of these tables; machine code names them ``SYM_<name>``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .btf.layout import Layout

MAX_NETDEVS = 64
MAILBOX_AREA = 16384
"""The mailbox of the machine's Python side, and behind it the registers of the calls under way."""


@dataclass(frozen=True)
class DataSymbol:
    """``size`` is in bytes, or the name of a struct type."""

    name: str
    size: int | str
    count: int = 1
    align: int = 8

    def bytes(self, layout: Layout) -> int:
        """How many bytes the symbol takes."""
        unit = self.size if isinstance(self.size, int) else layout[self.size].size
        return unit * self.count


DATA_SYMBOLS: tuple[DataSymbol, ...] = (
    DataSymbol("mailbox", MAILBOX_AREA, align=4096),
    DataSymbol("gdt", 4096, align=4096),
    DataSymbol("sim_clock", 8, align=64),
    DataSymbol("__per_cpu_offset", 8, count=64),
    DataSymbol("nr_cpu_ids", 4),
    DataSymbol("netdev_table", 8, count=MAX_NETDEVS),
    DataSymbol("ptr_key", 16),
    DataSymbol("hashrnd", 16),
)

PERCPU_SYMBOLS: tuple[DataSymbol, ...] = (
    DataSymbol("this_cpu_off", 8),
    DataSymbol("cpu_number", 4),
    DataSymbol("current_task", 8),
    DataSymbol("bpf_redirect_info", "bpf_redirect_info", align=64),
    DataSymbol("bpf_user_rnd_state", "rnd_state"),
    DataSymbol("md_dst", "metadata_dst"),
    DataSymbol("__x86_call_depth", 8),
)


def place(symbols: tuple[DataSymbol, ...], start: int, layout: Layout) -> tuple[dict[str, int], int]:
    """Addresses by name from ``start`` upwards, and the first free address behind them."""
    at, out = start, {}
    for symbol in symbols:
        at = -(-at // symbol.align) * symbol.align
        out[symbol.name] = at
        at += symbol.bytes(layout)
    return out, at
