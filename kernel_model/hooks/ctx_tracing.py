# SPDX-License-Identifier: GPL-2.0-only
"""Contexts of tracing programs: registers, tracepoint records, raw arguments (kernel/trace/bpf_trace.c)."""

from __future__ import annotations

from typing import Final

from kernel_model.isa.insn import Insn

from .context import Access, Context, Request, Rewrite, narrow, refuse

PT_REGS_SIZE: Final = 168
PERF_MAX_TRACE_SIZE: Final = 8192
MAX_BPF_FUNC_ARGS: Final = 12
_SAMPLE_PERIOD: Final = PT_REGS_SIZE
_ADDR: Final = PT_REGS_SIZE + 8
_PERF_EVENT_SIZE: Final = PT_REGS_SIZE + 16


def check_kprobe(request: Request) -> Access | None:
    """``struct pt_regs``: reads of any size."""
    if not 0 <= request.off < PT_REGS_SIZE or request.write or request.off % request.size:
        return None
    return Access() if request.off + request.size <= PT_REGS_SIZE else None


def check_tracepoint(request: Request) -> Access | None:
    """The tracepoint's record behind its first 8 bytes, which belong to the kernel."""
    if not 8 <= request.off < PERF_MAX_TRACE_SIZE or request.write or request.off % request.size:
        return None
    return Access()


def check_raw_tracepoint(request: Request) -> Access | None:
    """Up to twelve arguments of 64 bits."""
    if not 0 <= request.off < 8 * MAX_BPF_FUNC_ARGS or request.write or request.off % request.size:
        return None
    return Access()


def check_perf_event(request: Request) -> Access | None:
    """``struct bpf_perf_event_data``: registers, sample_period and addr (which may be read in part)."""
    if not 0 <= request.off < _PERF_EVENT_SIZE or request.write or request.off % request.size:
        return None
    if request.off >= _SAMPLE_PERIOD:
        return narrow(request, 8)
    return Access() if request.size == 8 else None


def convert_perf_event(rewrite: Rewrite) -> tuple[list[Insn], int]:
    """Through the pointers of bpf_perf_event_data_kern."""
    dst, off = rewrite.insn.dst, rewrite.insn.off
    if off in (_SAMPLE_PERIOD, _ADDR):
        name = "period" if off == _SAMPLE_PERIOD else "addr"
        path = f"perf_sample_data.{name}"
        return [rewrite.load(8, "bpf_perf_event_data_kern.data"), rewrite.load(8, path, via=dst)], 8
    load = rewrite.load(8, "bpf_perf_event_data_kern.regs")
    return [load, load._replace(src=dst, off=off)], 0


def check_lirc(request: Request) -> Access | None:
    """One sample of 32 bits: a pulse, a space or a timeout (drivers/media/rc/bpf-lirc.c)."""
    return Access() if request.off == 0 and request.size == 4 and not request.write else None


PT_REGS: Final = Context("pt_regs", check_kprobe, None, "4.1")
TRACEPOINT: Final = Context("(record)", check_tracepoint, None, "4.7")
RAW_TRACEPOINT: Final = Context("bpf_raw_tracepoint_args", check_raw_tracepoint, None, "4.17")
ARGUMENTS: Final = Context("(function arguments)", refuse, None, "5.5")
"""Typed by the target's prototype: kernel_model.verifier.btf_ctx judges these accesses."""
PERF_EVENT: Final = Context("bpf_perf_event_data", check_perf_event, convert_perf_event, "4.9")
LIRC_SAMPLE: Final = Context("(sample)", check_lirc, None, "4.18")
