# SPDX-License-Identifier: GPL-2.0-only
"""Programs and verdicts as data: name, program type, text, errno, and the decisive line (None: accepted).

The texts of rejections are the kernel's own.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from verifier_world import KPROBE, SCHED_CLS, SOCKET_FILTER, XDP


def lookup(name: str, key: int = 0) -> str:
    """Call map_lookup_elem with a constant key, of 8 bytes for the hash table, else of 4."""
    bits = 64 if name == "hash" else 32
    return f"""
    r2 = {key}
    *(u{bits} *)(r10 - 8) = r2
    r2 = r10
    r2 += -8
    r1 = map({name})
    call 1
    """


PACKET = """
r2 = *(u32 *)(r1 + 0)
r3 = *(u32 *)(r1 + 4)
r4 = r2
r4 += 14
if r4 > r3 goto out
"""
END = """
out:
r0 = 2
exit
"""


@dataclass(frozen=True)
class Case:
    """One program; ``errno`` 0 accepts it."""

    name: str
    text: str
    errno: int = 0
    reason: str = ""
    prog_type: int = XDP


CASES = (
    Case("constant verdict", "r0 = 2\nexit"),
    Case("no verdict", "exit", errno.EACCES, "R0 !read_ok"),
    Case("unreachable", "r0 = 1\nexit\nr0 = 2\nexit", errno.EINVAL, "unreachable insn 2"),
    Case(
        "jump beyond the end",
        "if r1 == 0 goto pc+5\nexit",
        errno.EINVAL,
        "jump out of range from insn 0 to 6",
    ),
    Case("no exit", "r0 = 1", errno.EINVAL, "last insn is not an exit or jmp"),
    Case("frame pointer is read only", "r10 = 1\nexit", errno.EACCES, "frame pointer is read only"),
    Case("division by constant zero", "r0 = 1\nr0 /= 0\nexit", errno.EINVAL, "div by zero"),
    Case("shift by 64", "r0 = 1\nr0 <<= 64\nexit", errno.EINVAL, "invalid shift 64"),
    Case("uninitialised register", "r0 = r3\nexit", errno.EACCES, "R3 !read_ok"),
    Case("uninitialised after a call", "call 5\nr0 = r1\nexit", errno.EACCES, "R1 !read_ok"),
    # packets
    Case("packet inside bounds", PACKET + "r0 = *(u16 *)(r2 + 12)\n" + END),
    Case(
        "packet beyond bounds",
        PACKET + "r0 = *(u32 *)(r2 + 12)\n" + END,
        errno.EACCES,
        "R2 offset is outside of the packet",
    ),
    Case(
        "packet without a check",
        "r2 = *(u32 *)(r1 + 0)\nr0 = *(u8 *)(r2 + 0)\nexit",
        errno.EACCES,
        "R2 offset is outside of the packet",
    ),
    Case(
        "packet, variable offset",
        PACKET
        + """
        r5 = *(u8 *)(r2 + 0)
        r5 &= 15
        r5 <<= 2
        r2 += r5
        r4 = r2
        r4 += 4
        if r4 > r3 goto out
        r0 = *(u32 *)(r2 + 0)
        """
        + END,
    ),
    Case("write to a packet", PACKET + "*(u8 *)(r2 + 0) = 7\n" + END),
    Case(
        "packet pointers are stale after adjust_head",
        "r6 = r1\n" + PACKET + "r7 = r2\nr1 = r6\nr2 = 4\ncall 44\nr0 = *(u8 *)(r7 + 0)\n" + END,
        errno.EACCES,
        "R7 invalid mem access 'scalar'",
    ),
    Case(
        "socket filters have no direct packet access",
        "r0 = *(u32 *)(r1 + 76)\nexit",
        errno.EACCES,
        "invalid bpf_context access off=76 size=4",
        SOCKET_FILTER,
    ),
    # context
    Case("xdp_md.rx_queue_index", "r0 = *(u32 *)(r1 + 16)\nexit"),
    Case(
        "beyond xdp_md",
        "r0 = *(u32 *)(r1 + 24)\nexit",
        errno.EACCES,
        "invalid bpf_context access off=24 size=4",
    ),
    Case(
        "xdp_md is read only",
        "*(u32 *)(r1 + 16) = 1\nexit",
        errno.EACCES,
        "invalid bpf_context access off=16 size=4",
    ),
    Case(
        "egress_ifindex elsewhere",
        "r0 = *(u32 *)(r1 + 20)\nexit",
        errno.EACCES,
        "invalid bpf_context access off=20 size=4",
    ),
    Case("narrow load of skb.len", "r0 = *(u8 *)(r1 + 1)\nexit", prog_type=SOCKET_FILTER),
    Case("LD_ABS", "r6 = r1\nr0 = *(u16 *)skb[12]\nexit", prog_type=SOCKET_FILTER),
    Case("LD_ABS without context", "r0 = *(u16 *)skb[12]\nexit", errno.EACCES, "R6 !read_ok", SOCKET_FILTER),
    Case(
        "LD_ABS in XDP",
        "r6 = r1\nr0 = *(u16 *)skb[12]\nexit",
        errno.EINVAL,
        "BPF_LD_[ABS|IND] instructions not allowed for this program type",
    ),
    Case("kprobe reads registers", "r0 = *(u64 *)(r1 + 112)\nexit", prog_type=KPROBE),
    # stack
    Case("stack uninitialised helper key", "r2 = r10\nr2 += -8\nr1 = map(hash)\ncall 1\nr0 = 0\nexit"),
    Case(
        "stack too deep",
        "*(u64 *)(r10 - 520) = 1\nr0 = 0\nexit",
        errno.EACCES,
        "invalid write to stack R10 off=-520 size=8",
    ),
    Case(
        "stack above",
        "*(u64 *)(r10 + 0) = 1\nr0 = 0\nexit",
        errno.EACCES,
        "invalid write to stack R10 off=0 size=8",
    ),
    Case(
        "misaligned stack",
        "*(u64 *)(r10 - 12) = 1\nr0 = 0\nexit",
        errno.EACCES,
        "misaligned stack access off 0+0+-12 size 8",
    ),
    Case("spilled pointer", "*(u64 *)(r10 - 8) = r1\nr2 = *(u64 *)(r10 - 8)\nr0 = *(u32 *)(r2 + 16)\nexit"),
    # maps
    Case("lookup with a null check", lookup("array") + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 40)\n" + END),
    Case(
        "lookup without a null check",
        lookup("hash") + "r1 = *(u64 *)(r0 + 0)\n" + END,
        errno.EACCES,
        "R0 invalid mem access 'map_value_or_null'",
    ),
    Case("known key of an array needs no null check", lookup("array", 9) + "r1 = *(u64 *)(r0 + 0)\n" + END),
    Case(
        "key of an array beyond its end",
        lookup("array", 10) + "r1 = *(u64 *)(r0 + 0)\n" + END,
        errno.EACCES,
        "R0 invalid mem access 'map_value_or_null'",
    ),
    Case(
        "value beyond its size",
        lookup("array") + "if r0 == 0 goto out\nr1 = *(u64 *)(r0 + 44)\n" + END,
        errno.EACCES,
        "R0 min value is outside of the allowed memory range",
    ),
    Case(
        "value with an unbounded offset",
        "r7 = *(u32 *)(r1 + 16)\n"
        + lookup("array")
        + "if r0 == 0 goto out\nr0 += r7\nr1 = *(u8 *)(r0 + 0)\n"
        + END,
        errno.EACCES,
        "R0 unbounded memory access, make sure to bounds check any such access",
    ),
    Case(
        "value with a bounded offset",
        "r7 = *(u32 *)(r1 + 16)\nif r7 > 47 goto out\n"
        + lookup("array")
        + "if r0 == 0 goto out\nr0 += r7\nr1 = *(u8 *)(r0 + 0)\n"
        + END,
    ),
    Case(
        "read-only map",
        lookup("readonly") + "if r0 == 0 goto out\n*(u8 *)(r0 + 0) = 1\n" + END,
        errno.EACCES,
        "write into map forbidden, value_size=48 off=0 size=1",
    ),
    Case(
        "write-only map",
        lookup("writeonly") + "if r0 == 0 goto out\nr1 = *(u8 *)(r0 + 0)\n" + END,
        errno.EACCES,
        "read from map forbidden, value_size=48 off=0 size=1",
    ),
    Case("direct value", "r1 = map_value(array1, 8)\nr0 = *(u64 *)(r1 + 0)\nexit"),
    Case(
        "no such map",
        "r1 = map_fd(7777, 0)\nr0 = 0\nexit",
        errno.EBADF,
        "fd 7777 is not pointing to valid bpf_map",
    ),
    Case(
        "tail calls need a program array",
        "r2 = map(array)\nr3 = 0\ncall 12\nr0 = 0\nexit",
        errno.EINVAL,
        "expected prog array map for tail call",
    ),
    # helpers
    Case("unknown helper", "call 999\nexit", errno.EINVAL, "invalid func unknown#999"),
    Case(
        "helper of another program type",
        "r2 = 0\ncall 9\nr0 = 0\nexit",
        errno.EINVAL,
        "program of this type cannot use helper bpf_skb_store_bytes#9",
    ),
    Case(
        "helper argument of the wrong type",
        "r1 = 0\nr2 = 0\ncall 44\nexit",
        errno.EACCES,
        "R1 type=scalar expected=ctx",
    ),
    Case(
        "result of a helper is a number",
        "call 5\nr0 = *(u8 *)(r0 + 0)\nexit",
        errno.EACCES,
        "R0 invalid mem access 'scalar'",
    ),
    # references
    Case(
        "reserved record must be submitted",
        "r1 = map(ringbuf)\nr2 = 8\nr3 = 0\ncall 131\nr0 = 0\nexit",
        errno.EINVAL,
        "BPF_EXIT instruction in main prog would lead to reference leak",
    ),
    Case(
        "reserved record is submitted",
        "r1 = map(ringbuf)\nr2 = 8\nr3 = 0\ncall 131\nif r0 == 0 goto out\n*(u64 *)(r0 + 0) = 1\n"
        "r1 = r0\nr2 = 0\ncall 132\n" + END,
    ),
    # loops
    Case("bounded loop", "r1 = 0\nloop:\nr1 += 1\nif r1 < 100 goto loop\nr0 = 0\nexit"),
    Case("loop without end", "r0 = 0\nloop:\ngoto loop\nexit", errno.EINVAL, "unreachable insn 2"),
    Case(
        "loop on the spot",
        "r0 = 0\nloop:\nif r0 == 0 goto loop\nexit",
        errno.EINVAL,
        "infinite loop detected at insn 1",
    ),
    # functions
    Case("static function", "call pc+1\nexit\nr0 = 1\nexit"),
    Case(
        "recursion",
        "call pc+1\nexit\nr0 = 1\ncall pc-2\nexit",
        errno.E2BIG,
        "the call stack of 9 frames is too deep",
    ),
    Case(
        "function's registers are its own",
        "r6 = 1\ncall pc+1\nexit\nr0 = r6\nexit",
        errno.EACCES,
        "R6 !read_ok",
    ),
    Case(
        "combined stack",
        "*(u64 *)(r10 - 256) = 0\ncall pc+2\nr0 = 0\nexit\n*(u64 *)(r10 - 272) = 0\nr0 = 0\nexit",
        errno.EACCES,
        "combined stack size of 2 calls is 528. Too large",
    ),
    # traffic control
    Case("tc writes the mark", "*(u32 *)(r1 + 8) = 5\nr0 = 0\nexit", prog_type=SCHED_CLS),
    Case(
        "socket filters do not write the mark",
        "*(u32 *)(r1 + 8) = 5\nr0 = 0\nexit",
        errno.EACCES,
        "invalid bpf_context access off=8 size=4",
        SOCKET_FILTER,
    ),
)
