# SPDX-License-Identifier: GPL-2.0-only
"""Random programs with every kind of pointer that is modelled, and with every kind of mistake.

Parts that are right on their own (packet, map, context, stack, references, functions, loops) stand in a row;
then, in most programs, one or two instructions are damaged.
"""

from __future__ import annotations

import random

from load_requests import mutate_insn
from verifier_programs import _alu, _atomic, _fresh, _jump, _lookup, _number, _stack
from verifier_world import MAPS, SCHED_CLS, XDP

from kernel_model.isa import opcodes as op
from kernel_model.isa.insn import Insn
from kernel_model.uapi.enums import bpf_func_id as f

_MOV_X = op.BPF_ALU64 | op.BPF_MOV | op.BPF_X
_MOV = op.BPF_ALU64 | op.BPF_MOV
_ADD = op.BPF_ALU64 | op.BPF_ADD
_SIZES = (op.BPF_B, op.BPF_H, op.BPF_W, op.BPF_DW)
_PACKET_PLACES = {XDP: (0, 4), SCHED_CLS: (76, 80)}


def _ldx(size: int, dst: int, src: int, off: int) -> Insn:
    return Insn(op.BPF_LDX | op.BPF_MEM | size, dst, src, off)


def _stx(size: int, dst: int, src: int, off: int) -> Insn:
    return Insn(op.BPF_STX | op.BPF_MEM | size, dst, src, off)


def _packet(rng: random.Random, prog_type: int) -> list[Insn]:
    """data, data_end, a comparison, and accesses up to it (or a little beyond)."""
    data, end = _PACKET_PLACES[prog_type]
    room = rng.choice((1, 2, 4, 8, 14, 20, 34, 64))
    size = rng.choice(_SIZES)
    width = op.SIZE_BYTES[size]
    off = rng.randrange(0, room + 1) if rng.random() < 0.1 else max(0, rng.randrange(0, room + 1) - width)
    access = [_ldx(size, 5, 2, off)] if rng.random() < 0.7 else [_stx(size, 2, 7, off)]
    if rng.random() < 0.3:
        mask = rng.choice((1, 3, 7, 15, 255))
        access = [
            Insn(op.BPF_ALU64 | op.BPF_AND, 7, 0, 0, mask),
            Insn(_ADD | op.BPF_X, 2, 7),
            Insn(_MOV_X, 4, 2), Insn(_ADD, 4, 0, 0, width),
            Insn(op.BPF_JMP | op.BPF_JGT | op.BPF_X, 4, 3, 1),
            _ldx(size, 5, 2, 0),
        ]  # fmt: skip
    way = rng.choice((op.BPF_JGT, op.BPF_JGE, op.BPF_JGT))
    return [
        _ldx(op.BPF_W, 2, 6, data), _ldx(op.BPF_W, 3, 6, end),
        Insn(_MOV_X, 4, 2), Insn(_ADD, 4, 0, 0, room),
        Insn(op.BPF_JMP | way | op.BPF_X, 4, 3, len(access)),
        *access, *_fresh(rng),
    ]  # fmt: skip


def _context(rng: random.Random, prog_type: int) -> list[Insn]:
    """A field of the context, mostly a real one."""
    if prog_type == XDP:
        # Not ingress_ifindex: struct net_device differs from one build of the kernel to the next.
        return [_ldx(op.BPF_W, 5, 6, rng.choice((16, 16, 16, 20))), *_fresh(rng)]
    off = rng.choice((0, 4, 8, 12, 16, 20, 24, 32, 36, 40, 44, 48, 64, 68, 112, 120, 128, 160, 164, 176, 184))
    size = rng.choice((op.BPF_W, op.BPF_W, op.BPF_W, op.BPF_B, op.BPF_H))
    out = [_ldx(size, 5, 6, off)]
    if rng.random() < 0.4:
        out = [_stx(op.BPF_W, 6, 7, rng.choice((8, 32, 48, 52, 64, 160)))]
    return [*out, *_fresh(rng)]


def _pointer(rng: random.Random) -> list[Insn]:
    """A pointer that is copied, moved, spilled, filled and used."""
    slot = rng.choice((-48, -56, -64))
    source = rng.choice((6, 10, 10))
    size = rng.choice(_SIZES)
    out = [Insn(_MOV_X, 5, source), _stx(op.BPF_DW, 10, 5, slot), _ldx(op.BPF_DW, 4, 10, slot)]
    if source == 10:
        low = -8 * rng.randrange(1, 9)
        out += [Insn(_ADD, 4, 0, 0, low), _stx(size, 4, 8, 0), _ldx(size, 5, 4, 0)]
        if rng.random() < 0.3:
            out = [
                *out[:3], Insn(op.BPF_ALU64 | op.BPF_AND, 7, 0, 0, rng.choice((8, 16, 24))),
                Insn(_ADD | op.BPF_X, 4, 7), Insn(_ADD, 4, 0, 0, -64), _stx(op.BPF_B, 4, 8, 0),
                _ldx(size, 5, 4, 0),
            ]  # fmt: skip
    return [*out, *_fresh(rng)]


def _map_pointer(the_map: int, reg: int = 1) -> list[Insn]:
    return [Insn(op.LD_IMM64, reg, 1, 0, the_map), Insn(0)]


def _update(rng: random.Random) -> list[Insn]:
    the_map = MAPS[rng.choice(("array", "hash", "percpu_array"))]
    return [
        Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, -72, rng.randrange(12)),
        *(Insn(op.BPF_ST | op.BPF_MEM | op.BPF_DW, 10, 0, off, 1) for off in range(-128, -72, 8)),
        Insn(_MOV_X, 2, 10), Insn(_ADD, 2, 0, 0, -72),
        Insn(_MOV_X, 3, 10), Insn(_ADD, 3, 0, 0, -128),
        Insn(_MOV, 4, 0, 0, rng.choice((0, 1, 2))),
        *_map_pointer(the_map.fd), Insn(op.CALL, 0, 0, 0, f.BPF_FUNC_map_update_elem), *_fresh(rng),
    ]  # fmt: skip


def _reference(rng: random.Random) -> list[Insn]:
    """ringbuf_reserve(), a check, a write, and (nearly always) giving it back."""
    size = rng.choice((8, 16, 24))
    give = rng.choice((f.BPF_FUNC_ringbuf_submit, f.BPF_FUNC_ringbuf_discard))
    body = [
        _stx(op.BPF_W, 0, 7, rng.randrange(0, size, 4)),
        Insn(_MOV_X, 1, 0), Insn(_MOV, 2), Insn(op.CALL, 0, 0, 0, give),
    ]  # fmt: skip
    return [
        *_map_pointer(MAPS["ringbuf"].fd), Insn(_MOV, 2, 0, 0, size), Insn(_MOV, 3),
        Insn(op.CALL, 0, 0, 0, f.BPF_FUNC_ringbuf_reserve),
        Insn(op.BPF_JMP | op.BPF_JEQ, 0, 0, len(body), 0), *body, *_fresh(rng),
    ]  # fmt: skip


_CALLS = (1, 2, 3, 5, 7, 8, 9, 10, 12, 25, 26, 28, 31, 44, 54, 64, 65, 105, 114, 125, 130, 131, 134, 159, 999)


def _call(rng: random.Random) -> list[Insn]:
    """Any helper, with whatever the registers hold."""
    number = rng.choice((5, 7, 8, 125, 5, 7, 8, 125, *_CALLS))
    return [Insn(_MOV_X, 1, rng.choice((6, 6, 7, 10))), Insn(op.CALL, 0, 0, 0, number), *_fresh(rng)]


def _whole(rng: random.Random, body: list[Insn], functions: int) -> list[Insn]:
    """With a beginning that fills registers and slots, maybe a loop around it, and functions behind."""
    start = [Insn(_MOV_X, 6, 1), *_fresh(rng)]
    start += [Insn(_MOV_X, 7, 0), Insn(_MOV, 8, 0, 0, _number(rng))]
    start += [_stx(op.BPF_DW, 10, 0, off) for off in (-8, -16, -24, -32)]
    if rng.random() < 0.2:
        start.append(Insn(_MOV, 9))
        body = [*body, Insn(_ADD, 9, 0, 0, 1), Insn(op.BPF_JMP | op.BPF_JLT, 9, 0, 0, rng.randrange(2, 5))]
        body[-1] = body[-1]._replace(off=-len(body))
    end = [Insn(_MOV, 0, 0, 0, rng.randrange(3)), Insn(op.EXIT)]
    out = [*start, *body]
    tails: list[Insn] = []
    for number in range(functions):
        call_at = len(out)
        out += [Insn(_MOV_X, 1, rng.choice((6, 7, 8))), Insn(_MOV_X, 2, 10), Insn(op.CALL, 0, 1, 0, number)]
        out += _fresh(rng)
        assert call_at
    out += end
    for number in range(functions):
        begin = len(out) + len(tails)
        inner = [Insn(_MOV_X, 0, 1)] if rng.random() < 0.6 else [_ldx(op.BPF_DW, 0, 2, -8)]
        inner += [insn for _ in range(rng.randrange(1, 4)) for insn in _scratch(rng)]
        tails += [Insn(_MOV, 3, 0, 0, 1), *inner, Insn(_MOV, 0, 0, 0, number), Insn(op.EXIT)]
        for at, insn in enumerate(out):
            if insn.code == op.CALL and insn.src == 1 and insn.imm == number:
                out[at] = insn._replace(imm=begin - at - 1, off=0)
                break
    return [*out, *tails]


def _scratch(rng: random.Random) -> list[Insn]:
    return [Insn(op.BPF_ALU64 | rng.choice((op.BPF_AND, op.BPF_OR, op.BPF_XOR)), 3, 0, 0, _number(rng))]


def wild_program(rng: random.Random) -> tuple[int, list[Insn]]:
    """A program type, and a program of some 60 instructions."""
    prog_type = rng.choice((XDP, SCHED_CLS))
    parts: list[list[Insn]] = []
    for _ in range(rng.randrange(2, 6)):
        kind = rng.randrange(14)
        if kind < 3:
            parts.append(_packet(rng, prog_type))
        elif kind < 5:
            parts.append(_context(rng, prog_type))
        elif kind < 10:
            make = (_pointer, _update, _reference, _lookup, _call)[kind - 5]
            parts.append(make(rng))
        else:
            some = [rng.choice((_alu, _stack, _jump, _atomic))(rng) for _ in range(rng.randrange(1, 5))]
            flat = [insn for part in some for insn in part]
            parts.append(
                [
                    insn._replace(off=min(insn.off, len(flat) - at - 1))
                    if insn.code & 7 in (op.BPF_JMP, op.BPF_JMP32)
                    else insn
                    for at, insn in enumerate(flat)
                ]
            )
    program = tuple(_whole(rng, [insn for part in parts for insn in part], rng.choice((0, 0, 0, 1, 2))))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        program = mutate_insn(program, rng)
    return prog_type, list(program)
