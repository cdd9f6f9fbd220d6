# SPDX-License-Identifier: GPL-2.0-only
"""Our compiler against the host's: load a program there, compile what its JIT compiled, compare bytes.

The input of our compiler is the program after the host's own fix-ups (its xlated dump), with what the
dump hides put back; the functions are placed at the host's addresses. What a dump cannot tell (pointers
to maps, to per-CPU variables) is masked.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import host_bpf
from host_masks import masked

from jit_x86 import Compiler
from kernel_model.isa.insn import Insn, decode, encode
from kernel_model.isa.native import (
    CpuFeatures,
    Mitigations,
    NativeImage,
    NativeRequest,
    PokeSite,
    Subprog,
)
from kernel_model.isa.opcodes import (
    BPF_ALU64,
    BPF_JMP,
    BPF_K,
    BPF_MOV,
    BPF_PSEUDO_CALL,
    BPF_PSEUDO_FUNC,
    BPF_X,
    CALL,
    EXIT,
    LD_IMM64,
    TAIL_CALL,
)

FAKE_POINTER = 0xFFFF_8881_0000_1000
"""Stands for every pointer that the dump hides: like those, it needs all 64 bits."""
FAKE_PERCPU = 0xFFFF_E8FF_0000_2000
COMPILER = Compiler()

Fix = Callable[[int, Insn], Insn]
_BPF_FUNC_TAIL_CALL = 12


@dataclass(frozen=True)
class Calibration:
    """What the host's images show of its configuration."""

    symbols: dict[str, int]
    offsets: dict[str, int]
    features: CpuFeatures
    mitigations: Mitigations


def _relative(code: bytes, addr: int, at: int) -> int:
    return addr + at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True)


@functools.cache
def calibration() -> Calibration:
    """The host's mitigations and symbols, read from the image of ``r0 = 0; exit`` and of a tail call."""
    insns = [Insn(BPF_ALU64 | BPF_MOV | BPF_K), Insn(EXIT)]
    info = host_bpf.prog_info(fd := host_bpf.prog_load(encode(insns)))
    os.close(fd)
    code = info.jited
    thunk = code[-5] == 0xE9
    kallsyms = host_bpf.kallsyms()
    symbols = {
        "__bpf_call_base": kallsyms["__bpf_call_base"],
        "x86_return_thunk": _relative(code, info.ksyms[0], len(code) - 5) if thunk else 0,
        "this_cpu_off": 0xFFFFFFFF83000000,
        "__x86_indirect_thunk_rcx": kallsyms.get("__x86_indirect_thunk_rcx", 0),
    }
    vulnerability = Path("/sys/devices/system/cpu/vulnerabilities/spectre_v2").read_text()
    btf = host_bpf.vmlinux_btf()
    names = ("bpf_array.map.max_entries", "bpf_array.ptrs", "bpf_prog.bpf_func")
    return Calibration(
        symbols,
        {name: btf.offset(name) for name in names},
        CpuFeatures(bmi2=" bmi2" in Path("/proc/cpuinfo").read_text()),
        Mitigations("Retpolines" in vulnerability, thunk, code.startswith(b"\xf3\x0f\x1e\xfa")),
    )


@dataclass(frozen=True)
class HostImage:
    """A program as the host compiled it, and as our compiler would."""

    insns: tuple[Insn, ...]
    subprogs: tuple[Subprog, ...]
    images: tuple[bytes, ...]
    addrs: tuple[int, ...]
    ours: NativeImage
    request: NativeRequest
    masks: tuple[list[tuple[int, int]], ...]
    """Byte ranges of each image that are not compared."""
    differences: list[str] = field(default_factory=list)


def _restored(
    slots: list[Insn], direct: Iterable[bool], fix: Fix | None
) -> tuple[list[Insn], list[PokeSite]]:
    """Undo what the dump hides; ``direct[i]`` tells whether the i-th tail call is a direct one."""
    restored: list[Insn] = []
    pokes: list[PokeSite] = []
    tail_calls = iter(direct)
    second = False
    for index, insn in enumerate(slots):
        if second:
            insn, second = restored.pop(), False
            restored += [insn, Insn(0, 0, 0, 0, _second(slots[index - 1], slots[index]))]
            continue
        if insn.code == LD_IMM64:
            second = True
            if insn.src not in (0, BPF_PSEUDO_FUNC):
                insn = insn._replace(src=0, imm=_signed(FAKE_POINTER & 0xFFFFFFFF))
        elif insn.code == CALL and insn.src == BPF_PSEUDO_CALL:
            insn = insn._replace(imm=insn.off, off=0)
        elif insn.code == CALL and insn.src == 0 and insn.imm == _BPF_FUNC_TAIL_CALL:
            number = 0
            if next(tail_calls):
                pokes.append(PokeSite(index, FAKE_POINTER, 0))
                number = len(pokes)
            insn = Insn(TAIL_CALL, imm=number)
        restored.append(fix(index, insn) if fix else insn)
    return restored, pokes


def _second(first: Insn, second: Insn) -> int:
    if first.src == BPF_PSEUDO_FUNC:
        return 0
    return second.imm if first.src == 0 else _signed(FAKE_POINTER >> 32)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _subprogs(
    insns: Sequence[Insn], starts: Sequence[int], depths: Sequence[int], private: Sequence[bool]
) -> tuple[Subprog, ...]:
    bounds = [*starts, len(insns)]
    spans = [range(bounds[i], bounds[i + 1]) for i in range(len(starts))]
    number_at = {start: number for number, start in enumerate(starts)}
    calls: list[set[int]] = []
    for span in spans:
        calls.append(
            {
                number_at[i + 1 + insns[i].imm]
                for i in span
                if (insns[i].code == CALL and insns[i].src == BPF_PSEUDO_CALL)
                or (insns[i].code == LD_IMM64 and insns[i].src == BPF_PSEUDO_FUNC)
            }
        )
    own = [any(insns[i].code == TAIL_CALL for i in span) for span in spans]
    reachable = list(own)
    for _ in spans:
        reachable = [reachable[n] or any(reachable[c] for c in calls[n]) for n in range(len(spans))]
    return tuple(
        Subprog(
            span.start,
            span.stop,
            depths[number],
            f"f{number}",
            own[number],
            reachable[number],
            private_stack=FAKE_PERCPU if number < len(private) and private[number] else None,
        )
        for number, span in enumerate(spans)
    )


def _starts(insns: Sequence[Insn], known: Sequence[int]) -> list[int]:
    starts = {0, *known}
    for index, insn in enumerate(insns):
        if (insn.code == CALL and insn.src == BPF_PSEUDO_CALL) or (
            insn.code == LD_IMM64 and insn.src == BPF_PSEUDO_FUNC
        ):
            starts.add(index + 1 + insn.imm)
    return sorted(starts)


def compile_as_host(
    insns: Sequence[Insn],
    prog_type: int = host_bpf.BPF_PROG_TYPE_SOCKET_FILTER,
    *,
    direct: Sequence[bool] = (),
    fix: Fix | None = None,
    private: Sequence[bool] = (),
    hidden: int = 0,
    change: Callable[[NativeRequest], NativeRequest] = lambda request: request,
    btf_fd: int = 0,
    func_info: Sequence[tuple[int, int]] = (),
) -> HostImage:
    """Load ``insns`` on the host, compile its xlated form with our compiler, and compare.

    ``fix`` puts back opcodes that the dump hides (probing loads), ``private`` says which functions have
    a private stack, ``hidden`` how many slots at the end are a function that the host added and does
    not show; ``change`` completes the request.
    """
    loaded = host_bpf.prog_load_log(encode(insns), prog_type, btf_fd=btf_fd, func_info=func_info)
    try:
        return compare(loaded, direct=direct, fix=fix, private=private, hidden=hidden, change=change)
    finally:
        os.close(loaded.fd)


def compare(
    loaded: host_bpf.Loaded,
    *,
    direct: Iterable[bool] = (),
    fix: Fix | None = None,
    private: Sequence[bool] = (),
    hidden: int = 0,
    change: Callable[[NativeRequest], NativeRequest] = lambda request: request,
) -> HostImage:
    """:func:`compile_as_host` for a program that is loaded already, with the log's statistics."""
    info = host_bpf.prog_info(loaded.fd)
    slots, pokes = _restored(decode(info.xlated), direct, fix)
    starts = _starts(slots, [*info.func_starts, *([len(slots) - hidden] if hidden else [])])
    subprogs = _subprogs(slots, starts, [*loaded.stack_depths, 0], private)
    host = calibration()
    request = NativeRequest(
        tuple(slots), subprogs, host.symbols, host.offsets, host.features, host.mitigations, tuple(pokes)
    )
    addrs = (*info.ksyms, info.ksyms[-1] + 4096)[: len(subprogs)]
    request = change(request)
    ours = COMPILER.compile(request, lambda _lengths: addrs)
    masks = tuple(_masks(function.code) for function in ours.functions)
    result = HostImage(tuple(slots), subprogs, info.images, addrs, ours, request, masks)
    assert len(ours.functions) == len(info.images) + bool(hidden)
    for number, image in enumerate(info.images):
        code = _poked(result, number, image)
        mine, theirs = masked(code, masks[number]), masked(image, masks[number])
        if mine != theirs:
            result.differences.append(_explain(result, number, mine, theirs))
    return result


def _poked(result: HostImage, number: int, image: bytes) -> bytes:
    """Our code of a function, with those direct tail calls patched whose slot the host found filled."""
    function, subprog = result.ours.functions[number], result.subprogs[number]
    code = bytearray(function.code)
    for poke in result.ours.pokes:
        filled = image[poke.target_off : poke.target_off + 1] == b"\xe9"
        if filled and subprog.start <= poke.insn < subprog.end:
            goal = _relative(image, function.addr, poke.target_off)
            for where, patch in COMPILER.poke_code(poke, function.addr, goal):
                code[where - function.addr : where - function.addr + len(patch)] = patch
    return bytes(code)


def _masks(code: bytes) -> list[tuple[int, int]]:
    """The byte ranges of ``code`` that hold what a dump cannot tell: fake pointers, per-CPU addresses."""
    masks = []
    for pointer in (FAKE_POINTER, FAKE_PERCPU):
        # A pointer may have a small offset added (into a private stack): its low bytes differ then.
        high = pointer.to_bytes(8, "little")[3:]
        at = code.find(high)
        while at >= 0:
            masks.append((at - 3, at + 5))
            at = code.find(high, at + 1)
    gs = (calibration().symbols["this_cpu_off"] & 0xFFFFFFFF).to_bytes(4, "little")
    at = code.find(gs)
    while at >= 0:
        masks.append((at, at + 4))
        at = code.find(gs, at + 1)
    return masks


def _explain(result: HostImage, number: int, mine: bytes, theirs: bytes) -> str:
    offsets = result.ours.functions[number].insn_offs
    at = next(
        (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )
    slot = max((i for i, off in enumerate(offsets) if off <= at), default=-1) if at >= offsets[0] else -1
    start = offsets[slot] if slot >= 0 else 0
    insn = result.insns[result.subprogs[number].start + slot] if 0 <= slot < len(offsets) - 1 else "frame"
    return (
        f"function {number} at byte {at}, slot {slot} ({insn}):\n"
        f"  ours {mine[start : at + 16].hex()}\n  host {theirs[start : at + 16].hex()}"
    )


def mov(dst: int, imm: int) -> Insn:
    """``dst = imm``."""
    return Insn(BPF_ALU64 | BPF_MOV | BPF_K, dst, imm=imm)


def copy(dst: int, src: int) -> Insn:
    """``dst = src``."""
    return Insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src)


def helper(number: int) -> Insn:
    """``call number``."""
    return Insn(BPF_JMP | 0x80, imm=number)


def map_value(dst: int, fd: int, off: int) -> list[Insn]:
    """``dst`` = the address of byte ``off`` of element 0 of the array map ``fd``."""
    return [Insn(LD_IMM64, dst, 2, 0, fd), Insn(0, imm=off)]


def map_fd(dst: int, fd: int) -> list[Insn]:
    """``dst`` = the map ``fd``."""
    return [Insn(LD_IMM64, dst, 1, 0, fd), Insn(0)]
