# SPDX-License-Identifier: GPL-2.0-only
"""Helpers that programs are verified with but that nothing in the simulated kernel can serve yet.

Their symbols exist, so that such programs load as they do in Linux; a call raises NotModelled by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import NotModelled
from ..functions import leaf

if TYPE_CHECKING:
    from ..kernel import Kernel

UNSERVED: Final = (
    "bpf_get_task_stack", "bpf_task_pt_regs", "bpf_current_task_under_cgroup", "bpf_get_current_cgroup_id",
    "bpf_get_current_ancestor_cgroup_id", "bpf_per_cpu_ptr", "bpf_this_cpu_ptr", "get_func_arg",
    "get_func_ret", "get_func_arg_cnt", "bpf_d_path", "bpf_sock_from_file", "bpf_skb_output",
    "bpf_xdp_output", "bpf_xdp_get_buff_len_trace", "bpf_get_stack",
    "bpf_get_stackid", "bpf_perf_event_read",
)  # fmt: skip


class Unserved:
    """Stands for the helper behind a symbol."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol

    def __call__(self, kernel: Kernel) -> int:
        """NotModelled, always."""
        raise NotModelled(f"helper function {self.symbol}")


for _symbol in UNSERVED:
    leaf(_symbol, 0)(Unserved(_symbol))
