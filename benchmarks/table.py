# SPDX-License-Identifier: GPL-2.0-only
"""The tables of benchmarks/README.md: ``bpfsim bench --json | python benchmarks/table.py``.

Reads what ``bpfsim bench --json`` or ``bpfsim bench --costs --json`` prints and writes Markdown.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import Any


def workload_table(rows: list[dict[str, Any]]) -> str:
    """A line for each workload, JIT and interpreter beside each other."""
    out = [
        "| workload | BPF insns | working set, bytes | native, ns | JIT, ns | x native | JIT, M insns/s "
        "| interpreter, ns | x native | interpreter, M insns/s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, group in groupby(rows, key=lambda row: row["workload"]):
        engines = {row["engine"]: row for row in group}
        jit, interpreter = engines["jit"], engines["interpreter"]
        cells = [
            name,
            f"{jit['insns_per_run']:,.0f}",
            f"{jit['working_set']:,}",
            f"{jit['native_ns']:,.0f}",
            f"{jit['ns_per_run']:,.0f}",
            f"{jit['ratio']:.2f}",
            f"{jit['insns_per_s'] / 1e6:,.0f}",
            f"{interpreter['ns_per_run']:,.0f}",
            f"{interpreter['ratio']:,.0f}",
            f"{interpreter['insns_per_s'] / 1e6:,.1f}",
        ]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """A line for each mechanism, in microseconds."""
    lines = [f"| {row['cost']} | {row['ns'] / 1000:,.2f} | {row['about']} |" for row in rows]
    return "\n".join(["| what | us | |", "|---|--:|---|", *lines])


def main() -> None:
    """Entry point."""
    rows = json.load(sys.stdin)
    print(cost_table(rows) if rows and "cost" in rows[0] else workload_table(rows))


if __name__ == "__main__":
    main()
