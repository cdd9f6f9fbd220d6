# SPDX-License-Identifier: GPL-2.0-only
"""BPF_PROG_TEST_RUN of programs whose context is a block of memory.

Linux has it for raw tracepoints. For kprobes, tracepoints, perf events and infrared receivers it answers
ENOTSUPP; here they run on the context that ``ctx_in`` holds: struct pt_regs, the tracepoint's record, struct
bpf_perf_event_data, the sample of four bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from ..bpf.prog import BpfProg
from ..errors import KernelError, NotModelled
from ..hooks.ctx_tracing import MAX_BPF_FUNC_ARGS, PERF_MAX_TRACE_SIZE, PT_REGS_SIZE
from ..uapi.enums import bpf_prog_type
from .bpf import Call

if TYPE_CHECKING:
    from ..kernel import Kernel

_T = bpf_prog_type
BPF_F_TEST_RUN_ON_CPU: Final = 1
_UNUSED: Final = ("data_in", "data_out", "data_size_in", "data_size_out", "batch_size")
_RAW_TP_UNUSED: Final = (*_UNUSED[:2], "ctx_out", "duration", "repeat", "batch_size")
Runner = Callable[["Kernel", BpfProg, int, int], tuple[int, int]]


@contextmanager
def _block(kernel: Kernel, data: bytes) -> Iterator[tuple[int, int]]:
    """The context as it was given, in memory of its own: its address, and where it may have changed."""
    at = kernel.alloc.kmalloc(max(len(data), 8))
    try:
        kernel.memory.write(at, data)
        yield at, at
    finally:
        kernel.alloc.kfree(at)


@contextmanager
def _perf_event(kernel: Kernel, data: bytes) -> Iterator[tuple[int, int]]:
    """struct bpf_perf_event_data_kern over registers and a sample that hold what was given."""
    memory, layout = kernel.memory, kernel.layout
    sample, kern = layout["perf_sample_data"], layout["bpf_perf_event_data_kern"]
    at = kernel.alloc.kmalloc(len(data) + sample.size + kern.size)
    try:
        memory.write(at, data)
        behind, ctx = at + len(data), at + len(data) + sample.size
        for name, start in (("period", PT_REGS_SIZE), ("addr", PT_REGS_SIZE + 8)):
            memory.write(behind + sample.offset(name), data[start : start + 8])
        memory.put_u64(ctx + kern.offset("regs"), at)
        memory.put_u64(ctx + kern.offset("data"), behind)
        yield ctx, at
    finally:
        kernel.alloc.kfree(at)


@contextmanager
def _sample(kernel: Kernel, data: bytes) -> Iterator[tuple[int, int]]:
    """The receiver's sample."""
    device = kernel.rc.receiver(kernel)
    at = device.raw + kernel.layout["ir_raw_event_ctrl"].offset("bpf_sample")
    kernel.memory.write(at, data)
    yield at, at


Place = Callable[["Kernel", bytes], AbstractContextManager[tuple[int, int]]]
_CONTEXTS: Final[dict[int, tuple[int, Place]]] = {
    _T.BPF_PROG_TYPE_KPROBE: (PT_REGS_SIZE, _block),
    _T.BPF_PROG_TYPE_TRACEPOINT: (PERF_MAX_TRACE_SIZE, _block),
    _T.BPF_PROG_TYPE_PERF_EVENT: (PT_REGS_SIZE + 16, _perf_event),
    _T.BPF_PROG_TYPE_LIRC_MODE2: (4, _sample),
}
"""Beyond Linux: the context's size in bytes, and what puts it where the program finds it."""


def runs_on_context(prog: BpfProg) -> bool:
    """Is this a type that :func:`run_on_context` runs?"""
    return prog.type in _CONTEXTS or prog.type == _T.BPF_PROG_TYPE_RAW_TRACEPOINT


def run_on_context(call: Call, prog: BpfProg, repeat: Runner) -> int:
    """Run ``prog`` on ``ctx_in``, shorter contexts filled up with zeroes. KernelError(EINVAL) for what does
    not apply, E2BIG for a longer context."""
    if prog.type == _T.BPF_PROG_TYPE_RAW_TRACEPOINT:
        return _run_raw_tracepoint(call, prog, repeat)
    attr, kernel = call.attr, call.kernel
    if any(attr[name] for name in _UNUSED) or attr["flags"] or attr["cpu"]:
        raise KernelError(errno.EINVAL, "only a context is given to programs of this type")
    size, place = _CONTEXTS[prog.type]
    given = attr["ctx_size_in"]
    if given > size:
        raise KernelError(errno.E2BIG, f"a context of {given} bytes, {size} at most")
    data = (call.read(attr["ctx_in"], given) if given else b"").ljust(size, b"\0")
    with place(kernel, data) as (ctx, after):
        retval, duration = repeat(kernel, prog, ctx, attr["repeat"])
        data = kernel.memory.read(after, given)
    call.put("retval", retval)
    call.put("duration", duration)
    if attr["ctx_out"]:
        call.write(attr["ctx_out"], data[: attr["ctx_size_out"]])
        call.put("ctx_size_out", len(data))
        if attr["ctx_size_out"] < len(data):
            raise KernelError(errno.ENOSPC, f"{len(data)} bytes of context")
    return 0


def _run_raw_tracepoint(call: Call, prog: BpfProg, repeat: Runner) -> int:
    """bpf_prog_test_run_raw_tp(): at most twelve words; at least as many as the program reads."""
    attr, kernel = call.attr, call.kernel
    if any(attr[name] for name in _RAW_TP_UNUSED):
        raise KernelError(errno.EINVAL, "raw tracepoints take a context and nothing else")
    given = attr["ctx_size_in"]
    if given < prog.verified.max_ctx_offset or given > 8 * MAX_BPF_FUNC_ARGS:
        raise KernelError(errno.EINVAL, f"{given} bytes of arguments")
    if not attr["flags"] & BPF_F_TEST_RUN_ON_CPU and attr["cpu"]:
        raise KernelError(errno.EINVAL, "a CPU without BPF_F_TEST_RUN_ON_CPU")
    if attr["flags"] & BPF_F_TEST_RUN_ON_CPU and attr["cpu"] >= kernel.alloc.nr_cpus:
        raise KernelError(errno.ENXIO, f"there is no CPU {attr['cpu']}")
    if attr["flags"] & BPF_F_TEST_RUN_ON_CPU and attr["cpu"] != kernel.cpu.this_cpu:
        raise NotModelled("test runs on another CPU", errno.EINVAL)
    data = call.read(attr["ctx_in"], given) if given else b""
    with _block(kernel, data) as (ctx, _):
        retval, _ = repeat(kernel, prog, ctx, 1)
    call.put("retval", retval)
    return 0
