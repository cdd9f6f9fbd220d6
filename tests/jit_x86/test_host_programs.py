# SPDX-License-Identifier: GPL-2.0-only
"""Whole programs: frames, calls, tail calls, private stacks, probing loads, arenas, branch distances."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import host_bpf
import pytest
from host_reference import FAKE_POINTER, HostImage, compile_as_host, copy, helper, map_fd, map_value, mov

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import NativeRequest

ALU64 = op.BPF_ALU64
PRANDOM, TAIL_CALL, KTIME, SMP_ID, FOR_EACH, LOOP, TASK_BTF = 7, 12, 5, 8, 164, 181, 158
EXIT = Insn(op.EXIT)


def agree(result: HostImage) -> None:
    assert not result.differences, "\n".join(result.differences)


def call(distance: int) -> Insn:
    return Insn(op.CALL, src=op.BPF_PSEUDO_CALL, imm=distance)


def func(dst: int, distance: int) -> list[Insn]:
    return [Insn(op.LD_IMM64, dst, op.BPF_PSEUDO_FUNC, 0, distance), Insn(0)]


def push(off: int, reg: int = 0) -> Insn:
    return Insn(op.BPF_STX | op.BPF_MEM | op.BPF_DW, 10, reg, off)


@pytest.fixture(scope="module")
def progs() -> Iterator[int]:
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 8)
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def array() -> Iterator[int]:
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARRAY, 4, 4096, 1)
    yield fd
    os.close(fd)


@host_bpf.host_kernel
@pytest.mark.parametrize("depth", [0, 1, 8, 16, 120, 121, 128, 136, 512])
@pytest.mark.parametrize("saved", [(), (6,), (7, 9), (6, 7, 8, 9)])
def test_frames(depth: int, saved: Sequence[int]) -> None:
    body = [mov(0, 1), *(mov(reg, 2) for reg in saved)]
    if depth:
        body.append(Insn(op.BPF_STX | op.BPF_MEM | op.BPF_B, 10, 0, -depth))
    result = compile_as_host([*body, mov(0, 0), EXIT])
    agree(result)
    assert result.ours.functions[0].frame_bytes == -(-depth // 8) * 8 + 8 * len(saved)


@host_bpf.host_kernel
@pytest.mark.parametrize("exits", [1, 2, 3, 40])
def test_exits(exits: int) -> None:
    """The first exit is the epilogue; the later ones jump back to it, near when they are far."""
    body = [copy(6, 1)]
    for _ in range(exits - 1):
        body += [helper(PRANDOM), Insn(op.BPF_JMP | op.BPF_JGT, 0, 0, 2, 77), mov(0, 1), EXIT]
    agree(compile_as_host([*body, mov(0, 0), EXIT]))


@host_bpf.host_kernel
@pytest.mark.parametrize("depth", [0, 24, 200])
@pytest.mark.parametrize("saved", [(), (6, 8), (6, 7, 8, 9)])
@pytest.mark.parametrize("direct", [True, False])
def test_tail_calls(progs: int, depth: int, saved: Sequence[int], direct: bool) -> None:
    body = [copy(6, 1)] if 6 in saved else [push(-8, 1)] if not depth else [push(-depth, 1)]
    body += [mov(reg, 2) for reg in saved if reg != 6]
    if not direct:
        body += [helper(PRANDOM), copy(3, 0)]
    else:
        body.append(mov(3, 2))
    source = copy(1, 6) if 6 in saved else Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 1, 10, -(depth or 8))
    tail = [source, *map_fd(2, progs), helper(TAIL_CALL)]
    result = compile_as_host([*body, *tail, mov(0, 0), EXIT], direct=[direct])
    agree(result)
    poke = result.ours.pokes
    assert len(poke) == direct
    if direct:
        code = result.images[0]
        assert code[poke[0].bypass_off] == 0xE9
        assert code[poke[0].target_off :][:5] == bytes.fromhex("0f1f440000")
        assert poke[0].adj_off == 12


@host_bpf.host_kernel
def test_two_tail_calls_and_a_subprogram_without_one(progs: int) -> None:
    body = [copy(6, 1), call(13)]
    for key in (1, 2):
        body += [copy(1, 6), *map_fd(2, progs), mov(3, key), helper(TAIL_CALL)]
    body += [mov(0, 0), EXIT]
    body += [mov(0, 5), push(-16), EXIT]
    body[1] = call(len(body) - 3 - 2)
    agree(compile_as_host(body, direct=[True, True]))


@host_bpf.host_kernel
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("depth", [0, 32])
def test_tail_call_in_a_subprogram(progs: int, direct: bool, depth: int) -> None:
    """The caller hands the counter's address to the callee in rax."""
    main = [
        copy(6, 1),
        *([push(-depth, 6)] if depth else []),
        copy(1, 6),
        call(3),
        copy(1, 6),
        mov(0, 0),
        EXIT,
    ]
    key = [mov(3, 1)] if direct else [copy(7, 1), helper(PRANDOM), copy(3, 0), copy(1, 7)]
    leaf = [push(-24, 1), *key, *map_fd(2, progs), helper(TAIL_CALL), mov(0, 1), EXIT]
    # The host wants types for functions that make tail calls.
    btf, types = host_bpf.static_functions(["main", "leaf"], 1)
    try:
        info = [(0, types[0]), (len(main), types[1])]
        agree(compile_as_host([*main, *leaf], direct=[direct], btf_fd=btf, func_info=info))
    finally:
        os.close(btf)


@host_bpf.host_kernel
def test_calls_between_functions() -> None:
    main = [copy(6, 1), mov(1, 1), call(5), copy(7, 0), mov(1, 2), call(2 + 2), mov(0, 0), EXIT]
    first = [copy(9, 1), copy(0, 9), Insn(ALU64 | op.BPF_ADD, 0, 0, 0, 3), EXIT]
    second = [push(-40, 1), copy(8, 1), call(1), EXIT, mov(0, 3), EXIT]
    body = [*main, *first, *second]
    body[2] = call(len(main) - 3)
    body[5] = call(len(main) + len(first) - 6)
    result = compile_as_host(body)
    agree(result)
    assert len(result.images) == 4


@host_bpf.host_kernel
@pytest.mark.parametrize("number", [LOOP, FOR_EACH])
def test_callbacks(array: int, number: int) -> None:
    """bpf_loop() is inlined by the verifier, bpf_for_each_map_elem() is not."""
    btf, types = host_bpf.static_functions(["main", "callback"], 4 if number == FOR_EACH else 2)
    set_up = map_fd(1, array) if number == FOR_EACH else [mov(1, 10)]
    main = [*set_up, *func(2, 0), mov(3, 0), mov(4, 0), helper(number), mov(0, 0), EXIT]
    at = len(set_up)
    main[at] = main[at]._replace(imm=len(main) - at - 1)
    callback = [push(-8, 1), mov(0, 0), EXIT]
    try:
        agree(
            compile_as_host([*main, *callback], btf_fd=btf, func_info=[(0, types[0]), (len(main), types[1])])
        )
    finally:
        os.close(btf)


@host_bpf.host_kernel
@pytest.mark.parametrize("depth", [128, 200, 512])
@pytest.mark.parametrize("saved", [(), (6, 9)])
def test_private_stack(depth: int, saved: Sequence[int]) -> None:
    """Tracing programs with enough stack keep it in per-CPU memory; r9 is their frame pointer."""
    body = [mov(0, 1), *(mov(reg, 3) for reg in saved), push(-depth), push(-8)]
    body += [
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 1, 10, -8),
        Insn(op.BPF_ST | op.BPF_MEM | op.BPF_B, 10, 0, -1, 4),
    ]
    body += [copy(2, 10), Insn(ALU64 | op.BPF_ADD, 2, 0, 0, -8), helper(KTIME), mov(0, 0), EXIT]
    agree(compile_as_host(body, host_bpf.BPF_PROG_TYPE_KPROBE, private=[True]))


@host_bpf.host_kernel
def test_private_stack_with_calls() -> None:
    main = [mov(0, 1), push(-256), mov(1, 2), call(2), mov(0, 0), EXIT]
    leaf = [push(-128, 1), mov(0, 1), helper(KTIME), EXIT]
    agree(compile_as_host([*main, *leaf], host_bpf.BPF_PROG_TYPE_KPROBE, private=[True, True]))


def _probing(_index: int, insn: Insn) -> Insn:
    """The dump shows probing loads as plain ones; in this test those are all loads from R8."""
    if op.bpf_class(insn.code) == op.BPF_LDX and insn.src == 8 and op.bpf_mode(insn.code) == op.BPF_MEM:
        return insn._replace(code=op.BPF_LDX | op.BPF_PROBE_MEM | op.bpf_size(insn.code))
    return insn


@host_bpf.host_kernel
def test_probing_loads() -> None:
    """Loads through a pointer that nobody vouches for, found in a kernel struct."""
    btf = host_bpf.vmlinux_btf()
    pid, wakee = btf.offset("task_struct.pid"), btf.offset("task_struct.last_wakee")
    state, flags = 0, btf.offset("task_struct.flags")
    body = [helper(TASK_BTF), Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 8, 0, wakee)]
    for size, dst in itertools.product((op.BPF_B, op.BPF_H, op.BPF_W), (0, 1, 3, 4, 5, 6, 7, 9)):
        for off in (pid, flags, state):
            body.append(Insn(op.BPF_LDX | op.BPF_MEM | size, dst, 8, off))
            body.append(Insn(op.BPF_LDX | op.BPF_MEMSX | size, dst, 8, off))
    body += [Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 8, 8, wakee)]
    body += [Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 8, 8, pid), mov(0, 0), EXIT]
    result = compile_as_host(body, fix=_probing)
    agree(result)
    assert len(result.ours.functions[0].exceptions) == 3 * 8 * 3 * 2 + 2


@host_bpf.host_kernel
def test_this_cpu() -> None:
    """Inlined helpers read per-CPU variables through gs."""
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 4)
    try:
        body = [
            helper(SMP_ID),
            copy(6, 0),
            Insn(op.BPF_ST | op.BPF_MEM | op.BPF_W, 10, 0, -4, 1),
            copy(2, 10),
        ]
        body += [Insn(ALU64 | op.BPF_ADD, 2, 0, 0, -4), *map_fd(1, fd), helper(1), mov(0, 0), EXIT]
        result = compile_as_host(body)
    finally:
        os.close(fd)
    agree(result)
    assert any(insn.off == op.BPF_ADDR_PERCPU and insn.code == ALU64 | 0xB8 for insn in result.insns)


@host_bpf.host_kernel
def test_may_goto() -> None:
    body = [mov(0, 0), Insn(op.BPF_JMP | op.BPF_JCOND, 0, 0, 2), Insn(ALU64 | op.BPF_ADD, 0, 0, 0, 1)]
    body += [Insn(op.BPF_JMP | op.BPF_JA, 0, 0, -3), mov(0, 0), EXIT]
    agree(compile_as_host(body))


@host_bpf.host_kernel
@pytest.mark.parametrize("prog_type", [host_bpf.BPF_PROG_TYPE_XDP, host_bpf.BPF_PROG_TYPE_SCHED_CLS])
def test_packet_access(prog_type: int) -> None:
    """Context accesses are the host's own rewriting; the loads that come of it are compiled here."""
    data, end = (0, 4) if prog_type == host_bpf.BPF_PROG_TYPE_XDP else (76, 80)
    body = [
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 2, 1, data),
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_W, 3, 1, end),
    ]
    body += [copy(4, 2), Insn(ALU64 | op.BPF_ADD, 4, 0, 0, 14), mov(0, 1)]
    body += [
        Insn(op.BPF_JMP | op.BPF_JGT | op.BPF_X, 4, 3, 2),
        Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_H, 0, 2, 12),
    ]
    body += [
        Insn(op.BPF_ALU | op.BPF_END | op.BPF_TO_BE, 0, 0, 0, 16),
        Insn(ALU64 | op.BPF_AND, 0, 0, 0, 1),
        EXIT,
    ]
    agree(compile_as_host(body, prog_type))


@host_bpf.host_kernel
@pytest.mark.parametrize("in_subprogram", [False, True])
def test_exceptions(in_subprogram: bool) -> None:
    """bpf_throw(): the boundary saves every register; the host adds a callback of two instructions."""
    throw = Insn(op.CALL, src=op.BPF_PSEUDO_KFUNC_CALL, imm=host_bpf.vmlinux_btf().function("bpf_throw"))
    main = [copy(6, 1), helper(PRANDOM), Insn(op.BPF_JMP | op.BPF_JGT, 0, 0, 2, 9), mov(1, 3), throw]
    leaf: list[Insn] = []
    if in_subprogram:
        main[3:] = [call(2)]
        leaf = [push(-16, 1), mov(1, 7), throw, mov(0, 0), EXIT]
        main[2] = Insn(op.BPF_JMP | op.BPF_JGT, 0, 0, 1, 9)
        leaf = [helper(PRANDOM), Insn(op.BPF_JMP | op.BPF_JGT, 0, 0, 2, 9), mov(1, 7), throw, mov(0, 0), EXIT]
    body = [*main, mov(0, 0), EXIT, *leaf]

    def boundary(request: NativeRequest) -> NativeRequest:
        first, *rest, last = request.subprogs
        return replace(
            request,
            subprogs=(replace(first, is_exception_boundary=True), *rest, replace(last, is_exception_cb=True)),
        )

    agree(compile_as_host(body, host_bpf.BPF_PROG_TYPE_SCHED_CLS, hidden=2, change=boundary))


ARENA_USER = 1 << 44


def _arena_modes(_index: int, insn: Insn) -> Insn:
    """The dump shows loads and stores of the arena as plain ones; here every one is of the arena."""
    klass = op.bpf_class(insn.code)
    if klass in (op.BPF_LDX, op.BPF_ST, op.BPF_STX) and op.bpf_mode(insn.code) == op.BPF_MEM:
        return insn._replace(code=klass | op.BPF_PROBE_MEM32 | op.bpf_size(insn.code))
    return insn


@host_bpf.host_kernel
def test_arena() -> None:
    """Accesses relative to r12, exception entries for all, and both casts."""
    fd = host_bpf.map_create(host_bpf.BPF_MAP_TYPE_ARENA, 0, 0, 4, host_bpf.BPF_F_MMAPABLE, ARENA_USER)
    body = [*map_fd(1, fd), helper(PRANDOM), copy(6, 0), copy(7, 0)]
    cast = Insn(ALU64 | op.BPF_MOV | op.BPF_X, 0, 0, op.BPF_ADDR_SPACE_CAST, 1)
    user = cast._replace(imm=1 << 16)
    count = 0
    for base, off in itertools.product((1, 2, 5, 6, 8, 9), (0, 8, 128, -8)):
        body += [copy(base, 7), cast._replace(dst=base, src=base)]
        other = 3 if base != 3 else 4
        for size in (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW):
            body.append(Insn(op.BPF_ST | op.BPF_MEM | size, base, 0, off, -3))
            body.append(Insn(op.BPF_STX | op.BPF_MEM | size, base, 7, off))
            body.append(Insn(op.BPF_LDX | op.BPF_MEM | size, other, base, off))
            count += 3
            if size != op.BPF_DW:
                body.append(Insn(op.BPF_LDX | op.BPF_MEMSX | size, other, base, off))
                count += 1
        for size in (op.BPF_W, op.BPF_DW):
            for code in (op.BPF_ADD, op.BPF_XOR, op.BPF_ADD | op.BPF_FETCH, op.BPF_XCHG):
                body.append(mov(4, 5))
                body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, 4, off, code))
                count += 1
        for size in (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW):
            body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, base, 4, off, op.BPF_STORE_REL))
            body.append(Insn(op.BPF_STX | op.BPF_ATOMIC | size, 4, base, off, op.BPF_LOAD_ACQ))
            count += 2
        body += [user._replace(dst=4, src=base), user._replace(dst=base, src=base)]
    body += [mov(0, 0), EXIT]

    def arena(request: NativeRequest) -> NativeRequest:
        return replace(request, arena_kern_vm_start=FAKE_POINTER, arena_user_vm_start=ARENA_USER)

    try:
        result = compile_as_host(body, fix=_arena_modes, change=arena)
    finally:
        os.close(fd)
    agree(result)
    assert len(result.ours.functions[0].exceptions) == count


FILLERS = {2: Insn(op.BPF_ALU | op.BPF_MOV | op.BPF_X, 1, 2), 3: Insn(ALU64 | op.BPF_MOV | op.BPF_X, 1, 2)}
"""Instructions whose machine code has two or three bytes."""


def _filled(length: int) -> list[Insn]:
    threes = length % 2
    return [FILLERS[3]] * threes + [FILLERS[2]] * ((length - 3 * threes) // 2)


UNKNOWN = [helper(PRANDOM), *(copy(reg, 0) for reg in (1, 2, 6))]


@host_bpf.host_kernel
@pytest.mark.parametrize("kind", ["goto", "je", "gotol"])
def test_forward_distances(kind: str) -> None:
    """Every byte count around the border between short and near; the border is 123, not 127."""
    sizes = set()
    for length in range(110, 140):
        body = _filled(length)
        jump = {
            "je": Insn(op.BPF_JMP | op.BPF_JEQ, 6, 0, len(body), 1),
            "goto": Insn(op.BPF_JMP | op.BPF_JA, 0, 0, len(body)),
            "gotol": Insn(op.BPF_JMP32 | op.BPF_JA, 0, 0, 0, len(body)),
        }[kind]
        # The conditional jump keeps the fillers alive behind an unconditional one.
        alive = [] if kind == "je" else [Insn(op.BPF_JMP | op.BPF_JEQ, 6, 0, 1, 9)]
        result = compile_as_host([*UNKNOWN, *alive, jump, *body, mov(0, 0), EXIT])
        agree(result)
        slot = len(UNKNOWN) + len(alive)
        offsets = result.ours.functions[0].insn_offs
        sizes.add((length <= 123, offsets[slot + 1] - offsets[slot]))
    assert len(sizes) == 2


@host_bpf.host_kernel
@pytest.mark.parametrize("wide", [False, True])
def test_backward_distances(wide: bool) -> None:
    sizes = set()
    for length in range(108, 140):
        body = [*_filled(length), Insn(ALU64 | op.BPF_ADD, 7, 0, 0, -1)]
        back = -len(body) - 1
        jump = Insn(op.BPF_JMP | op.BPF_JNE | (op.BPF_X if wide else 0), 7, 8 if wide else 0, back)
        result = compile_as_host([*UNKNOWN, mov(7, 3), mov(8, 0), *body, jump, mov(0, 0), EXIT])
        agree(result)
        offsets = result.ours.functions[0].insn_offs
        sizes.add(offsets[-3] - offsets[-4])
    assert len(sizes) == 2


@host_bpf.host_kernel
def test_distances_of_many_branches() -> None:
    """Chains of branches over branches, where a size decides others in the next pass."""
    for length in range(40, 70, 3):
        body = list(UNKNOWN)
        for step in range(30):
            body += [Insn(op.BPF_JMP | op.BPF_JGT, 6, 0, min(30 - step, 2 + step % 5) * 2, step * 7 + 1)]
            body += [FILLERS[2 + step % 2]]
        body += [*_filled(length), *[FILLERS[2]] * 12]
        agree(compile_as_host([*body, mov(0, 0), EXIT]))


@host_bpf.host_kernel
def test_map_pointers(array: int) -> None:
    body = [*map_value(6, array, 16), *map_fd(1, array), copy(2, 10), Insn(ALU64 | op.BPF_ADD, 2, 0, 0, -4)]
    body += [Insn(op.BPF_ST | op.BPF_MEM | op.BPF_W, 10, 0, -4, 1), helper(1)]
    body += [Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, 2, 0), Insn(op.BPF_LDX | op.BPF_MEM | op.BPF_DW, 0, 0, 8)]
    agree(compile_as_host([*body, push(-16), mov(0, 0), EXIT]))


COMPARE = 7
"""Bytes of a 64-bit compare with an immediate of 32 bits."""


def cascade(count: int) -> list[Insn]:
    """Branches that each become short only after the next one did: one in a pass.

    Each spans 124 bytes with the next branch in it, still near; the last spans few.
    """
    unit = [FILLERS[2]] * 28
    body: list[Insn] = []
    for step in range(count):
        # This unit and the next branch, then as far into the next unit as makes 124 bytes or a little less.
        target = len(unit) + 1 + (124 - 2 * len(unit) - COMPARE - 6) // 2 + 1 if step < count - 1 else 4
        body += [Insn(op.BPF_JMP | op.BPF_JGT, 6, 0, target, 1000 + step), *unit]
    return [*UNKNOWN, *body, *[FILLERS[2]] * 8, mov(0, 0), EXIT]


@host_bpf.host_kernel
@pytest.mark.parametrize("count", [3, 10, 13, 14, 15, 16, 17, 20, 30])
def test_passes_run_out(count: int) -> None:
    """From the 16th pass on Linux pads instead of shrinking: some branches keep the room of a near one."""
    result = compile_as_host(cascade(count))
    agree(result)
    offsets = result.ours.functions[0].insn_offs
    sizes = [
        offsets[slot + 1] - offsets[slot]
        for slot, insn in enumerate(result.insns)
        if insn.code == op.BPF_JMP | op.BPF_JGT
    ]
    assert sizes == [COMPARE + 6] * max(0, count - 14) + [COMPARE + 2] * min(count, 14)
