# SPDX-License-Identifier: GPL-2.0-only
"""Classic BPF to eBPF, instruction by instruction as bpf_convert_filter() of Linux 6.18 does it.

The accumulator is R0, the index register R7, the context R6, and R2 is scratch. In programs that read
packets, R8 caches the address of the packet's data and R9 how many bytes of it are linear.
The result skips the verifier: it is final, with calls relative to __bpf_call_base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..btf.layout import Layout
from ..isa import opcodes as op
from ..isa.insn import Insn
from ..isa.macros import (
    BPF_ALU32_IMM,
    BPF_ALU32_REG,
    BPF_ALU64_IMM,
    BPF_EMIT_CALL,
    BPF_ENDIAN,
    BPF_EXIT_INSN,
    BPF_JMP_A,
    BPF_JMP_IMM,
    BPF_LDX_MEM,
    BPF_MOV32_IMM,
    BPF_MOV32_REG,
    BPF_MOV64_IMM,
    BPF_MOV64_REG,
    BPF_STX_MEM,
)
from .check import SECCOMP_LOAD, ClassicError
from .insn import BPF_LEN, BPF_MSH, BPF_TXA, SockFilter
from .table import ANCILLARY, CLASSIC_INSNS, CONDITIONAL_JUMPS, JA, RETURNS, STORES, codes_of

A: Final = op.BPF_REG_0
TMP: Final = op.BPF_REG_2
CTX: Final = op.BPF_REG_6
X: Final = op.BPF_REG_7
D: Final = op.BPF_REG_8
H: Final = op.BPF_REG_9
FP: Final = op.BPF_REG_FP
_S16_MIN, _S16_MAX = -(1 << 15), (1 << 15) - 1

CallTarget = Callable[[str], int]
"""The ``imm`` of a call of a kernel function by name: its distance from __bpf_call_base."""


@dataclass(frozen=True)
class Converted:
    """The eBPF program. ``starts[i]`` is the slot where classic instruction ``i`` begins."""

    insns: tuple[Insn, ...]
    starts: tuple[int, ...]
    stack_depth: int


@dataclass
class _Jump:
    """A jump whose distance is filled in once all instructions have their places."""

    insn: Insn
    target: int


@dataclass
class _Conversion:
    layout: Layout
    call: CallTarget
    reads_packet: bool = False
    items: list[list[Insn | _Jump]] = field(default_factory=list)

    def load(self, size: int, dst: int, path: str) -> Insn:
        return BPF_LDX_MEM(size, dst, CTX, self.layout.offset(path))

    def emit_call(self, symbol: str) -> Insn:
        return BPF_EMIT_CALL(self.call(symbol))


_LOADERS: Final = {
    op.BPF_B: "bpf_skb_load_helper_8",
    op.BPF_H: "bpf_skb_load_helper_16",
    op.BPF_W: "bpf_skb_load_helper_32",
}


def _packet_load(to: _Conversion, insn: SockFilter) -> list[Insn]:
    """Read linear data directly, anything else by a function that ends the program when it is negative.

    (convert_bpf_ld_abs; a 32-bit value with its top bit set is positive, since R0 is 64 bits wide.)
    """
    to.reads_packet = True
    size = op.bpf_size(insn.code)
    width, offset = op.SIZE_BYTES[size], insn.signed
    swaps = width > 1
    out: list[Insn] = []
    indirect = op.bpf_mode(insn.code) == op.BPF_IND
    if not indirect and offset >= 0:
        fits = offset <= _S16_MAX
        out.append(BPF_MOV64_REG(TMP, H))
        if offset:
            out.append(BPF_ALU64_IMM(op.BPF_SUB, TMP, offset))
        out.append(BPF_JMP_IMM(op.BPF_JSLT, TMP, width, 2 + swaps + (0 if fits else 2)))
        if fits:
            out.append(BPF_LDX_MEM(size, A, D, offset))
        else:
            out += [
                BPF_MOV64_REG(TMP, D),
                BPF_ALU64_IMM(op.BPF_ADD, TMP, offset),
                BPF_LDX_MEM(size, A, TMP, 0),
            ]
        if swaps:
            out.append(BPF_ENDIAN(op.BPF_TO_BE, A, 8 * width))
        out.append(BPF_JMP_A(8))
    out += [BPF_MOV64_REG(1, CTX), BPF_MOV64_REG(2, D), BPF_MOV64_REG(3, H)]
    if indirect:
        out.append(BPF_MOV64_REG(4, X))
        if offset:
            out.append(BPF_ALU64_IMM(op.BPF_ADD, 4, offset))
    else:
        out.append(BPF_MOV64_IMM(4, offset))
    return [
        *out,
        to.emit_call(_LOADERS[size]),
        BPF_JMP_IMM(op.BPF_JSGE, A, 0, 2),
        BPF_ALU32_REG(op.BPF_XOR, A, A),
        BPF_EXIT_INSN(),
    ]


# Ancillary loads, by Linux's name (convert_bpf_extensions, convert_skb_access).


def _field(size: int, path: str) -> Callable[[_Conversion], list[Insn]]:
    return lambda to: [to.load(size, A, path)]


def _network_order(path: str) -> Callable[[_Conversion], list[Insn]]:
    return lambda to: [to.load(op.BPF_H, A, path), BPF_ENDIAN(op.BPF_TO_BE, A, 16)]


def _pkttype(to: _Conversion) -> list[Insn]:
    member = to.layout["sk_buff"].member("pkt_type")
    return [
        BPF_LDX_MEM(op.BPF_B, A, CTX, member.offset + member.bit_offset // 8),
        BPF_ALU32_IMM(op.BPF_AND, A, (1 << member.bit_size) - 1),
    ]


def _device(size: int, path: str) -> Callable[[_Conversion], list[Insn]]:
    """Of the device; a packet without one ends the program with what A holds."""
    return lambda to: [
        to.load(op.BPF_DW, TMP, "sk_buff.dev"),
        BPF_JMP_IMM(op.BPF_JNE, TMP, 0, 1),
        BPF_EXIT_INSN(),
        BPF_LDX_MEM(size, A, TMP, to.layout.offset(path)),
    ]


def _vlan_present(to: _Conversion) -> list[Insn]:
    return [
        to.load(op.BPF_W, A, "sk_buff.vlan_all"),
        BPF_JMP_IMM(op.BPF_JEQ, A, 0, 1),
        BPF_ALU32_IMM(op.BPF_MOV, A, 1),
    ]


def _function(symbol: str) -> Callable[[_Conversion], list[Insn]]:
    return lambda to: [
        BPF_MOV64_REG(1, CTX),
        BPF_MOV64_REG(2, A),
        BPF_MOV64_REG(3, X),
        to.emit_call(symbol),
    ]


_EXTENSIONS: Final[dict[str, Callable[[_Conversion], list[Insn]]]] = {
    "SKF_AD_PROTOCOL": _network_order("sk_buff.protocol"),
    "SKF_AD_PKTTYPE": _pkttype,
    "SKF_AD_IFINDEX": _device(op.BPF_W, "net_device.ifindex"),
    "SKF_AD_NLATTR": _function("bpf_skb_get_nlattr"),
    "SKF_AD_NLATTR_NEST": _function("bpf_skb_get_nlattr_nest"),
    "SKF_AD_MARK": _field(op.BPF_W, "sk_buff.mark"),
    "SKF_AD_QUEUE": _field(op.BPF_H, "sk_buff.queue_mapping"),
    "SKF_AD_HATYPE": _device(op.BPF_H, "net_device.type"),
    "SKF_AD_RXHASH": _field(op.BPF_W, "sk_buff.hash"),
    "SKF_AD_CPU": _function("bpf_get_raw_cpu_id"),
    "SKF_AD_ALU_XOR_X": lambda to: [BPF_ALU32_REG(op.BPF_XOR, A, X)],
    "SKF_AD_VLAN_TAG": _field(op.BPF_H, "sk_buff.vlan_tci"),
    "SKF_AD_VLAN_TAG_PRESENT": _vlan_present,
    "SKF_AD_PAY_OFFSET": _function("bpf_skb_get_pay_offset"),
    "SKF_AD_RANDOM": _function("bpf_user_rnd_u32"),
    "SKF_AD_VLAN_TPID": _network_order("sk_buff.vlan_proto"),
}

# Instructions, by class or by kind.

_Items = Sequence[Insn | _Jump]


def _absolute(to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    found = ANCILLARY.get(insn.k)
    return _EXTENSIONS[found.name](to) if found is not None else _packet_load(to, insn)


def _indirect(to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return _packet_load(to, insn)


def _alu(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    """As it is. (Linux names X as the source of constants, too, which nothing reads and no user sees.)"""
    if op.bpf_src(insn.code) == op.BPF_X:
        return [Insn(insn.code, A, X)]
    return [Insn(insn.code, A, 0, 0, 0 if op.bpf_op(insn.code) == op.BPF_NEG else insn.signed)]


def _divide_by_x(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    """Dividing by zero ends the program with 0."""
    return [
        BPF_MOV32_REG(X, X),
        BPF_JMP_IMM(op.BPF_JNE, X, 0, 2),
        BPF_ALU32_REG(op.BPF_XOR, A, A),
        BPF_EXIT_INSN(),
        Insn(insn.code, A, X),
    ]


def _always(_to: _Conversion, insn: SockFilter, at: int) -> _Items:
    return [_Jump(Insn(insn.code), at + insn.k + 1)]


_INVERSE: Final = {op.BPF_JEQ: op.BPF_JNE, op.BPF_JGT: op.BPF_JLE, op.BPF_JGE: op.BPF_JLT}


def _conditional(_to: _Conversion, insn: SockFilter, at: int) -> _Items:
    """One jump where either branch is the next instruction (but jset has no inverse), else two.

    eBPF sign-extends constants to 64 bits, so one with its top bit set goes through a register.
    """
    out: list[Insn | _Jump] = []
    operation, source = op.bpf_op(insn.code), op.bpf_src(insn.code)
    if source == op.BPF_K and insn.signed < 0:
        out.append(BPF_MOV32_IMM(TMP, insn.k))
        source, register, imm = op.BPF_X, TMP, 0
    else:
        register, imm = (X, 0) if source == op.BPF_X else (0, insn.signed)
    true, false = at + insn.jt + 1, at + insn.jf + 1
    if insn.jf and not insn.jt and operation in _INVERSE:
        operation, true = _INVERSE[operation], false
        out.append(_Jump(Insn(op.BPF_JMP | operation | source, A, register, 0, imm), true))
        return out
    out.append(_Jump(Insn(op.BPF_JMP | operation | source, A, register, 0, imm), true))
    if insn.jf:
        out.append(_Jump(Insn(op.BPF_JMP | op.BPF_JA), false))
    return out


def _header_length(to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    """X = 4 * (byte & 15), A as it was: X holds A meanwhile."""
    return [
        BPF_MOV64_REG(X, A),
        *_packet_load(to, SockFilter(op.BPF_LD | op.BPF_ABS | op.BPF_B, k=insn.k)),
        BPF_ALU32_IMM(op.BPF_AND, A, 0xF),
        BPF_ALU32_IMM(op.BPF_LSH, A, 2),
        BPF_MOV64_REG(TMP, X),
        BPF_MOV64_REG(X, A),
        BPF_MOV64_REG(A, TMP),
    ]


def _return(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    if insn.code & 0x18 == op.BPF_K:
        return [BPF_MOV32_IMM(A, insn.k), BPF_EXIT_INSN()]
    return [BPF_EXIT_INSN()]


def _register(insn: SockFilter) -> int:
    """A or X, by the class of a load or store."""
    return A if op.bpf_class(insn.code) in (op.BPF_LD, op.BPF_ST) else X


def _scratch_off(insn: SockFilter) -> int:
    return 4 * insn.k + 4


def _store(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [BPF_STX_MEM(op.BPF_W, FP, _register(insn), -_scratch_off(insn))]


def _scratch_load(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [BPF_LDX_MEM(op.BPF_W, _register(insn), FP, -_scratch_off(insn))]


def _constant(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [BPF_MOV32_IMM(_register(insn), insn.k)]


def _length(to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [to.load(op.BPF_W, _register(insn), "sk_buff.len")]


def _misc(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [BPF_MOV64_REG(A, X) if insn.code & 0xF8 == BPF_TXA else BPF_MOV64_REG(X, A)]


def _seccomp_load(_to: _Conversion, insn: SockFilter, _at: int) -> _Items:
    return [BPF_LDX_MEM(op.BPF_W, A, CTX, insn.k)]


_Converter = Callable[[_Conversion, SockFilter, int], _Items]
_BY_MODE: Final[dict[int, _Converter]] = {
    op.BPF_IMM: _constant,
    op.BPF_ABS: _absolute,
    op.BPF_IND: _indirect,
    op.BPF_MEM: _scratch_load,
    BPF_LEN: _length,
    BPF_MSH: _header_length,
}
_BY_CLASS: Final[dict[int, _Converter]] = {op.BPF_ALU: _alu, op.BPF_MISC: _misc}
_DIVIDES: Final = {code for code in codes_of(CLASSIC_INSNS.values(), ("div", "mod")) if code & op.BPF_X}


def _converter(code: int) -> _Converter:
    if op.bpf_class(code) in (op.BPF_LD, op.BPF_LDX):
        return _BY_MODE[op.bpf_mode(code)]
    return _BY_CLASS[op.bpf_class(code)]


_CONVERTERS: Final[dict[int, _Converter]] = (
    {
        code: _converter(code)
        for code in CLASSIC_INSNS
        if op.bpf_class(code) in (op.BPF_LD, op.BPF_LDX, *_BY_CLASS)
    }
    | dict.fromkeys(CONDITIONAL_JUMPS, _conditional)
    | dict.fromkeys(RETURNS, _return)
    | dict.fromkeys(STORES, _store)
    | dict.fromkeys(_DIVIDES, _divide_by_x)
    | {JA: _always, SECCOMP_LOAD: _seccomp_load}
)


def _prologue(to: _Conversion) -> list[Insn]:
    """A and X begin as 0 (the first two instructions in any case); packet programs cache data and size."""
    out = [BPF_ALU32_REG(op.BPF_XOR, A, A), BPF_ALU32_REG(op.BPF_XOR, X, X), BPF_MOV64_REG(CTX, 1)]
    if to.reads_packet:
        out += [
            to.load(op.BPF_DW, D, "sk_buff.data"),
            to.load(op.BPF_W, H, "sk_buff.len"),
            to.load(op.BPF_W, TMP, "sk_buff.data_len"),
            BPF_ALU32_REG(op.BPF_SUB, H, TMP),
        ]
    return out


def convert_filter(insns: Sequence[SockFilter], layout: Layout, call: CallTarget) -> Converted:
    """bpf_convert_filter(): the eBPF for a program that check_classic() or check_seccomp() passed.

    ClassicError when a jump gets too long for eBPF, as only programs of many thousand slots have.
    """
    to = _Conversion(layout, call)
    for at, insn in enumerate(insns):
        to.items.append(list(_CONVERTERS[insn.code](to, insn, at)))
    out = _prologue(to)
    starts = []
    place = len(out)
    for items in to.items:
        starts.append(place)
        place += len(items)
    for at, items in enumerate(to.items):
        for number, item in enumerate(items):
            if isinstance(item, _Jump):
                _check_reach(at, starts[at], number)
                distance = starts[item.target] - starts[at] - number - 1
                if distance > _S16_MAX:
                    raise ClassicError(f"the jump spans {distance} slots of eBPF", at)
                out.append(item.insn._replace(off=distance))
            else:
                out.append(item)
    depth = max((_scratch_off(insn) for insn in insns if insn.code in STORES), default=0)
    return Converted(tuple(out), tuple(starts), depth)


def _check_reach(at: int, start: int, number: int) -> None:
    """In its first pass the kernel takes all later places for 0 and yet asks the distance to fit."""
    if -start - 1 - number < _S16_MIN:
        raise ClassicError(f"a jump at slot {start} of eBPF, where the kernel's first pass gives up", at)
