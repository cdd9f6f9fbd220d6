# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue of planted JIT faults, of the kinds that real JITs had.

A fault is a name, a program whose line with ``>`` is the first instruction after which the engines
differ, and edits of what the JIT emits: a machine instruction as the templates write it, and what
stands in its place, which may be nothing. ``jump:`` and ``local:`` are mnemonics of branches between and
inside instructions, ``entry:`` is an instruction of the prologue, ``target`` moves a branch by slots,
``displacement`` by bytes, ``callee`` takes another function (its number xor this). R1 points at 256 bytes
of memory, byte n holding n ^ 0xa5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MEMORY = bytes(n ^ 0xA5 for n in range(256))
PASS = "nop"


@dataclass(frozen=True)
class Fault:
    """``bmi2``: whether the CPU has it. ``tail``: the program runs under the verifier, with a program
    array ``{array}`` whose slot 1 holds it and slot 2 another program."""

    name: str
    program: str
    edits: dict[str, str | int] = field(default_factory=dict)
    bmi2: bool = True
    tail: bool = False


_BIG = "r1 = 0x8000000180000003 ll\nr2 = 0x100000007 ll\nr3 = 9\n"
_END = "\nr0 = 0\nexit"


def _alu(name: str, line: str, **kwargs: object) -> Fault:
    edits = kwargs.pop("edits")
    head = kwargs.pop("head", _BIG)
    assert isinstance(edits, dict)
    return Fault(name, f"{head}> {line}{_END}", edits, **kwargs)  # type: ignore[arg-type]


def _arithmetic() -> list[Fault]:
    rows: list[tuple[str, str, dict[str, str | int]]] = [
        ("64-bit add in 32 bits", "r1 += r2", {"add rdi, rsi": "add edi, esi"}),
        ("32-bit add keeps the upper half", "w1 += w2", {"add edi, esi": "add rdi, rsi"}),
        ("add takes another source", "r1 += r2", {"add rdi, rsi": "add rdi, rdx"}),
        ("add writes the source", "r1 += r2", {"add rdi, rsi": "add rsi, rdi"}),
        ("subtraction the wrong way round", "r1 -= r2", {"sub rdi, rsi": "sub rdi, rsi; neg rdi"}),
        ("subtract with borrow", "r1 -= r2", {"sub rdi, rsi": "stc; sbb rdi, rsi"}),
        ("add with carry", "r1 += r2", {"add rdi, rsi": "stc; adc rdi, rsi"}),
        ("and for or", "r1 |= r2", {"or rdi, rsi": "and rdi, rsi"}),
        ("32-bit xor keeps the upper half", "w1 ^= w2", {"xor edi, esi": "xor rdi, rsi"}),
        ("immediate of or zero-extended", "r1 |= -16", {"or rdi, -16": "mov r11d, 0xfffffff0; or rdi, r11"}),
        ("immediate of and zero-extended", "r1 &= -16", {"and rdi, -16": "and edi, -16"}),
        ("immediate 128 in 8 bits", "r1 += 128", {"add rdi, 128": "add rdi, -128"}),
        ("immediate cut to 8 bits", "r1 += 74565", {"add rdi, 74565": "add rdi, 0x45"}),
        ("32-bit move keeps the upper half", "w1 = w2", {"mov edi, esi": "mov rdi, rsi"}),
        ("addition left out", "r1 += r2", {"add rdi, rsi": ""}),
        ("addition moves the stack pointer", "r1 += r2", {"add rdi, rsi": "add rdi, rsi; sub rsp, 8"}),
        ("32-bit move to itself left out", "w1 = w1", {"mov edi, edi": PASS}),
        ("constant not sign-extended", "r1 = -1", {"mov rdi, -1": "mov edi, 0xffffffff"}),
        ("32-bit constant sign-extended", "w1 = -1", {"mov edi, 0xffffffff": "mov rdi, -1"}),
        (
            "64-bit constant without its upper half",
            "r4 = 0x123456789 ll",
            {"movabs rcx, 0x123456789": "mov ecx, 0x23456789"},
        ),
        (
            "unsigned constant sign-extended",
            "r4 = 0x80000000 ll",
            {"mov ecx, 0x80000000": "mov rcx, -2147483648"},
        ),
        ("zero of 16 bits", "r1 = 0", {"xor edi, edi": "xor di, di"}),
        ("32-bit negation keeps the upper half", "w1 = -w1", {"neg edi": "neg rdi"}),
        ("complement for negation", "r1 = -r1", {"neg rdi": "not rdi"}),
        ("64-bit product in 32 bits", "r1 *= r2", {"imul rdi, rsi": "imul edi, esi"}),
        ("32-bit product in 64 bits", "w1 *= w2", {"imul edi, esi": "imul rdi, rsi"}),
        ("factor cut to 8 bits", "r1 *= 300", {"imul rdi, rdi, 300": "imul rdi, rdi, 44"}),
        ("product of the wrong source", "r1 *= 300", {"imul rdi, rdi, 300": "imul rdi, rsi, 300"}),
        (
            "operands of a division swapped",
            "r1 /= r2",
            {"mov rax, rdi": "mov rax, rsi", "div rsi": "div rdi"},
        ),
        ("upper half of the dividend not cleared", "r1 /= r2", {"xor edx, edx": PASS}),
        ("division clobbers R3", "r1 /= r2", {"pop rdx": "add rsp, 8"}),
        ("remainder takes the quotient", "r1 %= r2", {"mov rdi, rdx": "mov rdi, rax"}),
        ("quotient takes the remainder", "r1 /= r2", {"mov rdi, rax": "mov rdi, rdx"}),
        ("signed dividend not extended", "r1 s/= r2", {"cqo": "xor edx, edx"}),
        ("signed division done unsigned", "r1 s/= r2", {"cqo": "xor edx, edx", "idiv rsi": "div rsi"}),
        ("32-bit division by 64 bits", "w1 /= w2", {"div esi": "div rsi"}),
        ("divisor read where the dividend is", "r1 /= r3", {"div r11": "div rdx"}),
        ("divisor not sign-extended", "r1 /= -2", {"mov r11, -2": "mov r11d, 0xfffffffe"}),
        ("shift of 36 masked as if 32 bits wide", "r1 <<= 36", {"shl rdi, 36": "shl rdi, 4"}),
        ("arithmetic shift for a logical one", "r1 >>= 4", {"shr rdi, 4": "sar rdi, 4"}),
        ("logical shift for an arithmetic one", "r1 s>>= 4", {"sar rdi, 4": "shr rdi, 4"}),
        ("32-bit arithmetic shift in 64 bits", "w1 s>>= 4", {"sar edi, 4": "sar rdi, 4"}),
        ("shift by a register in 32 bits", "r1 <<= r3", {"shlx rdi, rdi, rdx": "shlx edi, edi, edx"}),
        ("count and value swapped", "r1 <<= r3", {"shlx rdi, rdi, rdx": "shlx rdi, rdx, rdi"}),
        ("32-bit shift brings in the upper half", "w1 >>= w3", {"shrx edi, edi, edx": "shrx rdi, rdi, rdx"}),
        ("swap of 32 bits in 64", "r1 = be32 r1", {"bswap edi": "bswap rdi"}),
        ("swap of 64 bits in 32", "r1 = be64 r1", {"bswap rdi": "bswap edi"}),
        ("swap of 16 bits not zero-extended", "r1 = be16 r1", {"movzx edi, di": PASS}),
        ("swap of 16 bits by a nibble", "r1 = be16 r1", {"ror di, 8": "ror di, 4"}),
        ("cut to 32 bits left out", "r1 = le32 r1", {"mov edi, edi": PASS}),
        ("cut to 16 bits sign-extended", "r4 = le16 r4", {"movzx ecx, cx": "movsx rcx, cx"}),
        ("32-bit sign extension to 64", "w1 = (s16)w4", {"movsx edi, cx": "movsx rdi, cx"}),
        ("move of 8 bits zero-extended", "r1 = (s8)r4", {"movsx rdi, cl": "movzx rdi, cl"}),
        ("move of 32 bits zero-extended", "r1 = (s32)r4", {"movsxd rdi, ecx": "mov edi, ecx"}),
    ]
    head = _BIG + "r4 = -9\n"
    return [_alu(name, line, head=head, edits=edits) for name, line, edits in rows]


def _scratch() -> list[Fault]:
    return [
        _alu("division clobbers R0", "r1 /= r2", head=_BIG + "r0 = 5\n", edits={"pop rax": "add rsp, 8"}),
        _alu(
            "shift without BMI2 clobbers R4",
            "r1 <<= r3",
            head=_BIG + "r4 = 5\n",
            edits={"pop rcx": "add rsp, 8"},
            bmi2=False,
        ),
        _alu(
            "shift of R4 without BMI2 loses its result",
            "r4 <<= r3",
            head=_BIG + "r4 = 5\n",
            edits={"mov rcx, r11": PASS},
            bmi2=False,
        ),
        _alu(
            "shift without BMI2 by the old count",
            "r1 <<= r3",
            head=_BIG + "r4 = 5\n",
            edits={"mov rcx, rdx": PASS},
            bmi2=False,
        ),
    ]


def _memory() -> list[Fault]:
    head = "r2 = 0x1122334455667788 ll\nr3 = 0x99aabbccddeeff00 ll\nr4 = r1\nr4 += 64\nr0 = 0x5555\n"
    rows: list[tuple[str, str, dict[str, str | int]]] = [
        (
            "displacement without its sign",
            "r5 = *(u8 *)(r4 -8)",
            {"movzx r8, byte ptr [rcx -8]": "movzx r8, byte ptr [rcx + 120]"},
        ),
        (
            "displacement of 8 bits for 200",
            "r5 = *(u8 *)(r1 +200)",
            {"movzx r8, byte ptr [rdi +200]": "movzx r8, byte ptr [rdi - 56]"},
        ),
        (
            "displacement left out",
            "r5 = *(u64 *)(r1 +8)",
            {"mov r8, qword ptr [rdi +8]": "mov r8, qword ptr [rdi]"},
        ),
        (
            "load of 32 bits takes 64",
            "r5 = *(u32 *)(r1 +8)",
            {"mov r8d, dword ptr [rdi +8]": "mov r8, qword ptr [rdi + 8]"},
        ),
        (
            "load of 64 bits takes 32",
            "r5 = *(u64 *)(r1 +8)",
            {"mov r8, qword ptr [rdi +8]": "mov r8d, dword ptr [rdi + 8]"},
        ),
        (
            "load of 8 bits sign-extended",
            "r5 = *(u8 *)(r1 +8)",
            {"movzx r8, byte ptr [rdi +8]": "movsx r8, byte ptr [rdi + 8]"},
        ),
        (
            "load of 16 bits keeps the rest",
            "r3 = *(u16 *)(r1 +8)",
            {"movzx rdx, word ptr [rdi +8]": "mov dx, word ptr [rdi + 8]"},
        ),
        (
            "signed load of 8 bits zero-extended",
            "r5 = *(s8 *)(r1 +8)",
            {"movsx r8, byte ptr [rdi +8]": "movzx r8, byte ptr [rdi + 8]"},
        ),
        (
            "signed load of 32 bits zero-extended",
            "r5 = *(s32 *)(r1 +8)",
            {"movsxd r8, dword ptr [rdi +8]": "mov r8d, dword ptr [rdi + 8]"},
        ),
        (
            "load from another base",
            "r5 = *(u64 *)(r1 +8)",
            {"mov r8, qword ptr [rdi +8]": "mov r8, qword ptr [rcx + 8]"},
        ),
        (
            "store of 32 bits writes 64",
            "*(u32 *)(r1 +8) = r2",
            {"mov dword ptr [rdi +8], esi": "mov qword ptr [rdi + 8], rsi"},
        ),
        (
            "store of 64 bits writes 32",
            "*(u64 *)(r1 +8) = r2",
            {"mov qword ptr [rdi +8], rsi": "mov dword ptr [rdi + 8], esi"},
        ),
        (
            "store of another register",
            "*(u64 *)(r1 +8) = r2",
            {"mov qword ptr [rdi +8], rsi": "mov qword ptr [rdi + 8], rdx"},
        ),
        (
            "byte store without REX takes dh",
            "*(u8 *)(r1 +8) = r2",
            {"mov byte ptr [rdi +8], sil": "mov byte ptr [rdi + 8], dh"},
        ),
        (
            "stored constant not sign-extended",
            "*(u64 *)(r1 +8) = -1",
            {"mov qword ptr [rdi +8], -1": "mov dword ptr [rdi + 8], -1"},
        ),
        (
            "store beside its place",
            "*(u16 *)(r1 +8) = r2",
            {"mov word ptr [rdi +8], si": "mov word ptr [rdi + 9], si"},
        ),
        (
            "store on the stack at the wrong depth",
            "*(u64 *)(r10 -8) = r2",
            {"mov qword ptr [rbp -8], rsi": "mov qword ptr [rbp - 16], rsi"},
        ),
        ("store left out", "*(u64 *)(r1 +8) = r2", {"mov qword ptr [rdi +8], rsi": ""}),
        (
            "probing load clobbers the arena's register",
            "r5 = *(probe u64 *)(r1 +8)",
            {"sub r11, r10": "sub r11, r10; mov r12, r11"},
        ),
        ("probing load takes good addresses for bad", "r5 = *(probe u64 *)(r1 +8)", {"local:ja": "jbe"}),
        (
            "fetch-and-add without the fetch",
            "r2 = atomic64_fetch_add((u64 *)(r1 +8), r2)",
            {"lock xadd qword ptr [rdi +8], rsi": "lock add qword ptr [rdi + 8], rsi"},
        ),
        (
            "atomic add of 64 bits in 32",
            "lock *(u64 *)(r1 +8) += r2",
            {"lock add qword ptr [rdi +8], rsi": "lock add dword ptr [rdi + 8], esi"},
        ),
        (
            "atomic add of 32 bits in 64",
            "lock *(u32 *)(r1 +8) += r2",
            {"lock add dword ptr [rdi +8], esi": "lock add qword ptr [rdi + 8], rsi"},
        ),
        (
            "atomic or for xor",
            "lock *(u64 *)(r1 +8) ^= r2",
            {"lock xor qword ptr [rdi +8], rsi": "lock or qword ptr [rdi + 8], rsi"},
        ),
        (
            "exchange without its result",
            "r2 = atomic64_xchg((u64 *)(r1 +8), r2)",
            {"lock xchg qword ptr [rdi +8], rsi": "mov qword ptr [rdi + 8], rsi"},
        ),
        (
            "32-bit exchange sign-extended",
            "r2 = atomic_xchg((u32 *)(r1 +4), r2)",
            {"lock xchg dword ptr [rdi +4], esi": "lock xchg dword ptr [rdi + 4], esi; movsxd rsi, esi"},
        ),
        (
            "compare-and-exchange always exchanges",
            "r0 = atomic64_cmpxchg((u64 *)(r1 +8), r0, r2)",
            {"lock cmpxchg qword ptr [rdi +8], rsi": "mov rax, rsi; lock xchg qword ptr [rdi + 8], rax"},
        ),
        ("fetch-and-and clobbers R0", "r2 = atomic64_fetch_and((u64 *)(r1 +8), r2)", {"mov rax, r10": PASS}),
        (
            "fetch-and-or without its result",
            "r2 = atomic64_fetch_or((u64 *)(r1 +8), r2)",
            {"mov rsi, rax": PASS},
        ),
        (
            "fetch-and-xor does and",
            "r2 = atomic64_fetch_xor((u64 *)(r1 +8), r2)",
            {"xor r11, rsi": "and r11, rsi"},
        ),
    ]
    return [_alu(name, line, head=head, edits=edits) for name, line, edits in rows]


def _jumps() -> list[Fault]:
    rows: list[tuple[str, str, dict[str, str | int]]] = [
        ("unsigned comparison done signed", "if r1 > r2", {"jump:ja": "jg"}),
        ("signed comparison done unsigned", "if r1 s> r2", {"jump:jg": "ja"}),
        ("signed lower done unsigned", "if r1 s< r2", {"jump:jl": "jb"}),
        ("greater for greater or equal", "if r2 >= r3", {"jump:jae": "ja"}),
        ("less for less or equal", "if r2 <= r3", {"jump:jbe": "jb"}),
        ("signed greater for greater or equal", "if r2 s>= r3", {"jump:jge": "jg"}),
        ("equal for not equal", "if r1 != r2", {"jump:jne": "je"}),
        ("32-bit comparison in 64 bits", "if w4 == w2", {"cmp ecx, esi": "cmp rcx, rsi"}),
        ("64-bit comparison in 32 bits", "if r4 == r2", {"cmp rcx, rsi": "cmp ecx, esi"}),
        ("operands of a comparison swapped", "if r1 > r2", {"cmp rdi, rsi": "cmp rsi, rdi"}),
        ("compared constant cut", "if r5 == -1", {"cmp r8, -1": "cmp r8d, -1"}),
        ("set bits compared", "if r1 & r2", {"test rdi, rsi": "cmp rdi, rsi", "jump:jne": "je"}),
        ("branch one instruction too far", "if r1 > r2", {"target": 1}),
        ("short branch one byte too far", "if r1 > r2", {"displacement": 1}),
        ("short branch one byte short", "if r1 > r2", {"displacement": -1}),
        ("short branch measured from its beginning", "if r1 > r2", {"displacement": 2}),
    ]
    head = "r1 = 0x8000000000000001 ll\nr2 = 7\nr3 = 7\nr4 = 0x100000007 ll\nr5 = 0xffffffff ll\nr0 = 0\n"
    out = [
        Fault(name, f"{head}> {line} goto out\nr0 = 1\nexit\nout: r0 = 2\nr0 += 1\nexit", edits)
        for name, line, edits in rows
    ]
    for size, delta, name in (
        (12, 1, "branch at the short border one byte too far"),
        (12, -4, "branch at the short border sized as near"),
        (13, 1, "branch at the near border one byte too far"),
        (13, -1, "branch at the near border one byte short"),
        (13, 4, "branch at the near border sized as short"),
    ):
        # movabs takes 10 bytes: 120 bytes are crossed by the short form, 130 by the near one.
        body = "r3 = 0x123456789 ll\n" * size
        program = f"{head}> if r1 > r2 goto out\n{body}out: r0 = 2\nr0 += 1\nexit"
        out.append(Fault(name, program, {"displacement": delta}))
    goto = f"{head}> goto out\nr0 = 1\nexit\nout: r0 = 2\nr0 += 1\nexit"
    out.append(Fault("goto one instruction too far", goto, {"target": 1}))
    out.append(Fault("goto left out", goto, {"jump:jmp": ""}))
    return out


_CALLS = """r6 = 6
r7 = 7
r1 = 1
{call}call first
{load}r0 += r6
r7 = r0
r1 = 1
call second
r0 += r7
{main_exit}exit
first:
{first}r0 = r1
r6 = 16
r7 = 17
{first_exit}exit
second:
r6 = 26
r0 = 2
exit"""


def _at(mark: str) -> str:
    return _CALLS.format(
        **{
            name: "> " if name == mark else ""
            for name in ("call", "load", "main_exit", "first", "first_exit")
        }
    )


def _frames() -> list[Fault]:
    main = "r6 = 6\nr7 = 7\nr0 = r6\nr0 += r7\n> exit"
    return [
        Fault("R6 of the caller not restored", _at("first_exit"), {"pop rbx": "pop r11"}),
        Fault("R7 of the caller not restored", _at("first_exit"), {"pop r13": "pop r11"}),
        Fault(
            "registers restored in the wrong order",
            _at("first_exit"),
            {"pop rbx": "pop r13", "pop r13": "pop rbx"},
        ),
        Fault("callee-saved register not saved", _at("first_exit"), {"entry:push rbx": "push rdi"}),
        Fault("the kernel's rbx not restored", main, {"pop rbx": "pop r11"}),
        Fault("the kernel's r13 not restored", main, {"pop r13": "pop r11"}),
        Fault("result lost in the epilogue", main, {"leave": "leave; mov eax, eax; inc rax"}),
        Fault("return to nowhere", main, {"leave": "leave; mov qword ptr [rsp], 0"}),
        Fault("stack of the frame not released", main, {"leave": "pop rbp"}),
        Fault("call of the wrong function", _at("call"), {"callee": 3}),
        Fault(
            "prologue clobbers an argument",
            _at("first"),
            {"entry:mov rbp, rsp": "mov rbp, rsp; xor edi, edi"},
        ),
        Fault(
            "frame too small for the stack",
            "*(u64 *)(r10 -24) = 7\ncall first\nr0 = *(u64 *)(r10 -24)\nexit\nfirst:\n> r0 = 1\nexit",
            {"entry:sub rsp, 64": "sub rsp, 16"},
        ),
    ]


_AGAIN = """r6 = r1
r7 = 99
*(u64 *)(r10 -8) = 1
r1 = r6
r2 = map_fd({array}, 0)
r3 = 1
> call 12
r7 += 1
r0 = r7
exit"""
_OTHER = """r6 = *(u32 *)(r1 +16)
r7 = r1
r3 = {high} ll
r3 += r6
r2 = map_fd({array}, 0)
> call 12
r0 = r6
exit"""


def _tail_calls() -> list[Fault]:
    other = _OTHER.replace("{high}", "2")
    rows: list[tuple[str, str, dict[str, str | int]]] = [
        ("tail calls: one too many", _AGAIN, {"cmp qword ptr [rax], 33": "cmp qword ptr [rax], 34"}),
        ("tail calls: one too few", _AGAIN, {"cmp qword ptr [rax], 33": "cmp qword ptr [rax], 32"}),
        ("tail calls: limit compared by the wrong condition", _AGAIN, {"local:jae": "ja"}),
        ("tail calls not counted", _AGAIN, {"add qword ptr [rax], 1": PASS}),
        ("tail calls counted twice", _AGAIN, {"add qword ptr [rax], 1": "add qword ptr [rax], 2"}),
        ("tail call counter begins too high", _AGAIN, {"entry:xor rax, rax": "push 5; pop rax"}),
        ("tail call leaves R6 of the caller lost", other, {"pop rbx": "pop r11"}),
        ("tail call leaves its counter on the stack", other, {"pop rax": PASS}),
        (
            "index of a tail call taken in 64 bits",
            _OTHER.replace("{high}", "0x100000002"),
            {"mov edx, edx": PASS},
        ),
        ("empty slot of a program array called", other.replace("= 2 ll", "= 3 ll"), {"local:je": "jo"}),
    ]
    return [Fault(name, program, edits, tail=True) for name, program, edits in rows]


FAULTS = (*_arithmetic(), *_scratch(), *_memory(), *_jumps(), *_frames(), *_tail_calls())
