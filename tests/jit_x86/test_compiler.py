# SPDX-License-Identifier: GPL-2.0-only
"""The compiler's contract: what it refuses, what configuration changes, what it reports."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace

import pytest
from flat import SYMBOLS, request_for
from random_programs import random_program

from jit_x86 import Compiler
from kernel_model.errors import KernelError, NotModelled
from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.isa.native import (
    Bhi,
    Cfi,
    CpuFeatures,
    Mitigations,
    NativeCompiler,
    NativeImage,
    NativeRequest,
    Subprog,
)

BASE = 0xFFFFFFFFC0000000
EXIT = Insn(op.EXIT)
MOV0 = Insn(op.BPF_ALU64 | op.BPF_MOV)


def place(lengths: tuple[int, ...]) -> tuple[int, ...]:
    addrs, at = [], BASE
    for length in lengths:
        addrs.append(at)
        at += (length + 15) & ~15
    return tuple(addrs)


def compiled(request: NativeRequest) -> NativeImage:
    return Compiler().compile(request, place)


REFUSED = [
    ([Insn(op.BPF_LD | op.BPF_ABS | op.BPF_B)], "opcode 0x30 at slot 1"),
    ([Insn(op.BPF_JMP | op.BPF_JCOND, 0, 0, 1)], "opcode 0xe5 at slot 1"),
    ([Insn(0xFF)], "opcode 0xff at slot 1"),
    ([Insn(op.BPF_STX | op.BPF_ATOMIC | op.BPF_DW, 1, 2, 0, 0x77)], "atomic operation 0x77"),
    ([Insn(op.BPF_STX | op.BPF_ATOMIC | op.BPF_B, 1, 2, 0, op.BPF_ADD)], "on a byte"),
    ([Insn(op.BPF_STX | op.BPF_PROBE_ATOMIC | op.BPF_DW, 1, 2, 0, op.BPF_OR | 1)], "in an arena"),
    ([Insn(op.BPF_ALU | op.BPF_END, 1, 0, 0, 24)], "byte swap of 24"),
    ([Insn(op.BPF_ALU64 | op.BPF_MOV | op.BPF_X, 1, 2, 7)], "off 7"),
    ([Insn(op.CALL, 0, 5, 0, 9)], "src_reg 5"),
]


@pytest.mark.parametrize(("body", "words"), REFUSED)
def test_not_modelled_names_the_instruction(body: list[Insn], words: str) -> None:
    with pytest.raises(NotModelled, match=words):
        compiled(request_for([MOV0, *body, EXIT]))


def test_calls_that_cannot_be_made() -> None:
    with pytest.raises(KernelError, match="no target"):
        compiled(request_for([Insn(op.CALL), EXIT]))
    with pytest.raises(KernelError, match="no function starts at slot 7"):
        compiled(
            request_for(
                [Insn(op.CALL, src=op.BPF_PSEUDO_CALL, imm=6), EXIT, EXIT], [Subprog(0, 2), Subprog(2, 3)]
            )
        )
    request = request_for([Insn(op.CALL, imm=64), EXIT])
    with pytest.raises(KernelError, match="out of range"):
        compiled(replace(request, symbols={**SYMBOLS, "__bpf_call_base": 0x1000}))


@pytest.mark.parametrize("distance", [1, -2, 100])
def test_a_jump_out_of_the_function(distance: int) -> None:
    jump = Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, distance)
    with pytest.raises(KernelError, match="jump at slot 0 leaves"):
        compiled(request_for([jump, EXIT, EXIT], [Subprog(0, 2), Subprog(2, 3)]))


def test_a_function_address_needs_the_top_of_the_address_space() -> None:
    insns = [Insn(op.LD_IMM64, 2, op.BPF_PSEUDO_FUNC, 0, 2), Insn(0), EXIT, MOV0, EXIT]
    request = request_for(insns, [Subprog(0, 3), Subprog(3, 5)])
    with pytest.raises(ValueError, match="top 2 GiB"):
        Compiler().compile(request, lambda lengths: (0xFFFF_9000_0000_0000, 0xFFFF_9000_0000_1000))
    image = compiled(request)
    main = image.functions[0]
    address = int.from_bytes(main.code[main.insn_offs[0] + 3 :][:4], "little", signed=True)
    assert address & (1 << 64) - 1 == image.functions[1].addr


def code_of(request: NativeRequest) -> str:
    return compiled(request).functions[0].code.hex()


SHIFT = [Insn(op.BPF_ALU64 | op.BPF_LSH | op.BPF_X, 1, 2), EXIT]
PLAIN = [MOV0, EXIT]
NO_THUNK = Mitigations(return_thunk=False)

CONFIGURATIONS = [
    (
        request_for(PLAIN, mitigations=Mitigations(return_thunk=False, ibt=True)),
        "f30f1efa 0f1f440000 0f1f00 55 4889e5 f30f1efa 31c0 c9 c3",
    ),
    (replace(request_for(PLAIN, mitigations=NO_THUNK), was_classic=True), "0f1f440000 55 4889e5 31c0 c9 c3"),
    (
        replace(request_for(SHIFT, mitigations=NO_THUNK), features=CpuFeatures(bmi2=False)),
        "0f1f440000 0f1f00 55 4889e5 51 4889f1 48d3e7 59 c9 c3",
    ),
    (request_for(SHIFT, mitigations=NO_THUNK), "0f1f440000 0f1f00 55 4889e5 c4e2c9f7ff c9 c3"),
    (
        request_for([Insn(op.BPF_ST | op.BPF_NOSPEC), EXIT], mitigations=NO_THUNK),
        "0f1f440000 0f1f00 55 4889e5 0faee8 c9 c3",
    ),
    (
        request_for(
            [Insn(op.BPF_ALU64 | op.BPF_LSH | op.BPF_X, 4, 2), EXIT], bmi2=False, mitigations=NO_THUNK
        ),
        "0f1f440000 0f1f00 55 4889e5 4989cb 4889f1 49d3e3 4c89d9 c9 c3",
    ),
]


CONFIGURATIONS += [
    (
        request_for(PLAIN, mitigations=Mitigations(return_thunk=False, sls=True)),
        "0f1f440000 0f1f00 55 4889e5 31c0 c9 c3cc",
    ),
    (
        # The loop's call counts too; 0x81000840 and 0x81002000 lie this far from the image.
        replace(
            request_for(PLAIN, mitigations=Mitigations(return_thunk=False, bhi=Bhi.LOOP, call_depth=True)),
            was_classic=True,
            privileged=False,
        ),
        "0f1f440000 55 4889e5 31c0 50 51 6548c13d ea1f00c1 05 e8 250800c1 59 58 c9 c3",
    ),
    (
        replace(
            request_for(PLAIN, mitigations=Mitigations(return_thunk=False, bhi=Bhi.HW)),
            was_classic=True,
            privileged=False,
        ),
        "0f1f440000 55 4889e5 31c0 f3480f1ef8 c9 c3",
    ),
    (
        # In a guest the loop is followed by the fence; a program of root's has neither.
        replace(
            request_for(PLAIN, mitigations=Mitigations(return_thunk=False, bhi=Bhi.LOOP)),
            was_classic=True,
            privileged=False,
            features=CpuFeatures(hypervisor=True),
        ),
        "0f1f440000 55 4889e5 31c0 50 51 e8 2e0800c1 59 58 f3480f1ef8 c9 c3",
    ),
    (
        replace(
            request_for(PLAIN, mitigations=Mitigations(return_thunk=False, bhi=Bhi.LOOP)), was_classic=True
        ),
        "0f1f440000 55 4889e5 31c0 c9 c3",
    ),
    (
        request_for(PLAIN, mitigations=Mitigations(return_thunk=False, ibt=True, cfi=Cfi.FINEIBT)),
        "0f1f40d6 0f1f440000 0f1f00 55 4889e5 f30f1efa 31c0 c9 c3",
    ),
]


@pytest.mark.parametrize(("request_", "code"), CONFIGURATIONS)
def test_configurations(request_: NativeRequest, code: str) -> None:
    """What the reference host's configuration does not show; the bytes are worked out by hand."""
    assert code_of(request_) == code.replace(" ", "")


def test_indirect_tail_call_without_retpoline() -> None:
    insns = [Insn(op.TAIL_CALL), MOV0, EXIT]
    subprogs = [Subprog(0, 3, 0, "main", True, True)]
    plain = code_of(request_for(insns, subprogs, mitigations=Mitigations(retpoline=False)))
    assert "4883c10cffe1cc" in plain
    thunk = code_of(request_for(insns, subprogs))
    assert "4883c10ce9" in thunk
    ibt = code_of(request_for(insns, subprogs, mitigations=Mitigations(ibt=True)))
    assert "4883c110e9" in ibt, "the endbr64 in front is skipped too"


@pytest.mark.parametrize(
    ("mitigations", "tail"),
    [
        (Mitigations(retpoline_lfence=True), "0faee8 ffe1"),
        (Mitigations(its=True, retpoline_lfence=True), "e9"),
        (Mitigations(call_depth=True), "e9"),
        (Mitigations(retpoline=False, sls=True, call_depth=True), "ffe1cc"),
    ],
)
def test_indirect_jumps(mitigations: Mitigations, tail: str) -> None:
    """ITS goes before lfence, lfence before the thunk; call depth tracking has thunks of its own."""
    insns = [Insn(op.TAIL_CALL), MOV0, EXIT]
    request = request_for(insns, [Subprog(0, 3, 0, "main", True, True)], mitigations=mitigations)
    code = compiled(request).functions[0].code
    tail_bytes = bytes.fromhex("4883c10c" + tail)
    at = code.index(tail_bytes) + len(tail_bytes)
    if tail == "e9":
        goal = BASE + at + 4 + int.from_bytes(code[at : at + 4], "little", signed=True)
        assert goal == SYMBOLS[mitigations.indirect_thunk + "rcx"]
    else:
        assert mitigations.indirect_thunk == ""


def test_calls_are_counted_where_call_depth_is_tracked() -> None:
    """Helper calls and calls between functions; the counter goes inside the saving of r9."""
    insns = [Insn(op.CALL, src=op.BPF_PSEUDO_CALL, imm=1), EXIT, Insn(op.CALL, imm=0x40), EXIT]
    subprogs = [Subprog(0, 2, 64, private_stack=0xFFFF888000100000), Subprog(2, 4)]
    for function in compiled(
        request_for(insns, subprogs, mitigations=Mitigations(call_depth=True))
    ).functions:
        code = function.code
        at = code.index(bytes.fromhex("6548c13d"))
        disp = int.from_bytes(code[at + 4 : at + 8], "little", signed=True)
        assert function.addr + at + 9 + disp == SYMBOLS["__x86_call_depth"]
        assert code[at + 8 : at + 10] == b"\x05\xe8"
        assert (code[at - 2 : at] == bytes.fromhex("4151")) == (b"\x49\xb9" in code), (
            "r9 is the private stack"
        )


def test_prefixes_stand_in_front_of_functions() -> None:
    """kCFI: the hash and eleven nops. FineIBT: 16 bytes that check it. Neither belongs to the function."""
    insns = [Insn(op.CALL, src=op.BPF_PSEUDO_CALL, imm=1), EXIT, MOV0, EXIT]
    subprogs = [Subprog(0, 2), Subprog(2, 4)]
    plain = compiled(request_for(insns, subprogs, mitigations=Mitigations()))
    assert [each.prefix for each in plain.functions] == [b"", b""]
    kcfi = Mitigations(cfi=Cfi.KCFI, cfi_hash=0x12345678, cfi_subprog_hash=0x9ABCDEF0)
    for number, value in enumerate(("78563412", "f0debc9a")):
        each = compiled(request_for(insns, subprogs, mitigations=kcfi)).functions[number]
        assert each.prefix == bytes.fromhex("b8" + value + "90" * 11)
        assert each.code[:8] == plain.functions[number].code[:8]
        assert each.addr % 16 == 0 and each.addr >= BASE + 16
    fine = replace(kcfi, cfi=Cfi.FINEIBT, ibt=True)
    first, second = compiled(request_for(insns, subprogs, mitigations=fine)).functions
    assert first.prefix == bytes.fromhex("f30f1efa 2d78563412 2e0f8503000000")
    assert second.prefix == bytes.fromhex("f30f1efa 2df0debc9a 2e0f8503000000")


def test_impossible_mitigations() -> None:
    with pytest.raises(ValueError, match="needs IBT"):
        Mitigations(cfi=Cfi.FINEIBT)
    with pytest.raises(ValueError, match="CFI hash"):
        Mitigations(cfi_hash=5)


def test_frame_bytes_are_known_beforehand() -> None:
    compiler: NativeCompiler = Compiler()
    insns = [
        Insn(op.BPF_ALU64 | op.BPF_MOV, 6),
        Insn(op.TAIL_CALL),
        MOV0,
        EXIT,
        Insn(op.BPF_ALU64 | 0xB0, 9),
        EXIT,
    ]
    subprogs = [Subprog(0, 4, 20, "main", True, True), Subprog(4, 6, 0, "leaf")]
    request = request_for(insns, subprogs)
    frames = compiler.frame_bytes(request)
    assert frames == (24 + 16 + 8, 8)
    assert tuple(f.frame_bytes for f in compiler.compile(request, place).functions) == frames


def test_offsets_of_slots() -> None:
    insns = [Insn(op.LD_IMM64, 1, 0, 0, 5), Insn(0, imm=5), MOV0, EXIT]
    function = compiled(request_for(insns)).functions[0]
    assert function.insn_offs == (12, 22, 22, 24, 30)
    assert function.insn_offs[-1] == len(function.code)


def test_images_repeat_and_are_plain_data() -> None:
    request = request_for(random_program(7), [Subprog(0, len(random_program(7)), 72)])
    request = request_for([i for i in request.insns if not (i.code == op.CALL and i.src)], stack=72)
    image = compiled(request)
    warm = Compiler()
    warm.compile(request_for(PLAIN), place)
    assert warm.compile(request, place) == image
    assert warm.compile(request, place) == image
    assert pickle.loads(pickle.dumps(image)) == image


def test_place_is_asked_once_with_the_lengths() -> None:
    asked: list[tuple[int, ...]] = []

    def remember(lengths: tuple[int, ...]) -> tuple[int, ...]:
        asked.append(lengths)
        return place(lengths)

    image = Compiler().compile(request_for(PLAIN), remember)
    assert asked == [(len(image.functions[0].code),)]


@pytest.mark.campaign
def test_30000_instructions_take_less_than_a_second() -> None:
    insns: list[Insn] = []
    seed = 0
    while len(insns) < 30_000:
        # Functions and exits stay out: it is to be one long function.
        program = random_program(seed, size=80)
        insns += [insn for insn in program if insn.code != op.EXIT and (insn.code, insn.src) != (op.CALL, 1)]
        seed += 1
    # The last jumps find something to jump to.
    request = request_for([*insns, *[MOV0] * 300, EXIT], stack=512)
    begin = time.perf_counter()
    image = compiled(request)
    seconds = time.perf_counter() - begin
    print(f"{len(request.insns)} slots, {len(image.functions[0].code)} bytes in {seconds:.2f} s")
    assert seconds < 1
