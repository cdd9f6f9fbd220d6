# SPDX-License-Identifier: GPL-2.0-only
"""Helpers of sk_buffs as data: calls in a row, and what the packet and its fields are afterwards.

A program folds every call's result and then fields of ``struct __sk_buff`` into its verdict.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from run_cases import SCHED_CLS, XDP, RunCase, skb

STORE, L3_CSUM, L4_CSUM, VLAN_PUSH, VLAN_POP, CHANGE_PROTO, CHANGE_TYPE = 9, 10, 11, 18, 19, 31, 32
CHANGE_TAIL, PULL, CSUM_UPDATE, HASH_INVALID, CHANGE_HEAD, SET_HASH, ADJUST_ROOM = 38, 39, 40, 41, 43, 48, 50
LOAD, CSUM_LEVEL = 26, 135

Call = tuple[int, Sequence[int | str]]
"""A helper's number and its arguments behind the context; ``"stack"`` is the address of 16 known bytes."""

_FIELDS = {"len": 0, "pkt_type": 4, "protocol": 16, "vlan_present": 20, "vlan_tci": 24, "vlan_proto": 28}


def _fold(source: str) -> list[str]:
    return ["r7 *= 31", f"r8 = {source}", "r7 += r8"]


def program(calls: Iterable[Call], fields: Iterable[str] = (*_FIELDS, "hash")) -> str:
    """The calls one after the other, results and fields folded: v = 31 v + next."""
    lines = ["r6 = r1", "r7 = 0"]
    for at, word in enumerate((0x0706050403020100, 0x0F0E0D0C0B0A0908)):
        lines += [f"r1 = 0x{word:x} ll", f"*(u64 *)(r10 {8 * at - 16:+d}) = r1"]
    for helper, args in calls:
        for number, arg in enumerate(args, 2):
            if arg == "stack":
                lines += [f"r{number} = r10", f"r{number} += -16"]
            elif isinstance(arg, int) and -(1 << 31) <= arg < 1 << 31:
                lines.append(f"r{number} = {arg}")
            else:
                lines.append(f"r{number} = 0x{int(arg) & (1 << 64) - 1:x} ll")
        lines += ["r1 = r6", f"call {helper}", *_fold("r0")]
    places = _FIELDS | {"hash": 68}
    for name in fields:
        lines += _fold(f"*(u32 *)(r6 +{places[name]})")
    lines += ["r2 = *(u32 *)(r6 +76)", "r3 = *(u32 *)(r6 +80)", "r3 -= r2", *_fold("r3"), "r0 = r7", "exit"]
    return "\n".join(lines)


def ethernet(protocol: int, payload: bytes) -> bytes:
    return bytes(range(12)) + struct.pack(">H", protocol) + payload


def ipv4(payload: bytes = bytes(range(100, 140)), proto: int = 17) -> bytes:
    header = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(payload), 7, 0, 64, proto, 0xABCD, 0x0A000001, 0x0A000002
    )
    return header + payload


IPV4 = ethernet(0x0800, ipv4())
IPV6 = ethernet(0x86DD, struct.pack(">IHBB", 6 << 28, 40, 17, 64) + bytes(range(32)) + bytes(range(40)))
TAGGED = ethernet(0x8100, struct.pack(">HH", 0x2123, 0x0800) + ipv4())
TWICE = ethernet(0x88A8, struct.pack(">HHHH", 5, 0x8100, 6, 0x0800) + ipv4())
TAGGED_LLC = ethernet(0x8100, struct.pack(">HH", 3, 40) + bytes(40))
TAGGED_IPX = ethernet(0x8100, struct.pack(">HH", 3, 40) + b"\xff\xff" + bytes(38))
SHORT = ethernet(0x8100, b"\0\1")
PACKETS = {
    "ipv4": IPV4, "ipv6": IPV6, "tagged": TAGGED, "twice": TWICE, "llc": TAGGED_LLC, "ipx": TAGGED_IPX,
    "short": SHORT,
}  # fmt: skip
Q, AD = 0x0081, 0xA888


def case(name: str, *calls: Call, packet: str = "ipv4", ctx: bytes = b"") -> RunCase:
    return RunCase(name, SCHED_CLS, program(calls), PACKETS[packet], ctx)


def _stores() -> Iterable[RunCase]:
    for offset, size, flags in (
        (0, 16, 0), (14, 7, 0), (58, 16, 0), (59, 16, 0), (73, 1, 0), (74, 1, 0), (-1, 1, 0), (1 << 31, 1, 0),
        (0x7FFFFFFF, 16, 0), (20, 5, 1), (21, 5, 3), (21, 5, 2), (20, 4, 4), (20, 4, 1 << 40),
    ):  # fmt: skip
        calls: list[Call] = [(SET_HASH, (77,)), (STORE, (offset, "stack", size, flags))]
        yield case(f"store {size} at {offset:#x} flags {flags:#x}", *calls)


def _checksums() -> Iterable[RunCase]:
    values = (
        (0, 0x1234),
        (5, 0x1234),
        (0xFFFF, 0),
        (0x12345678, 0x9ABCDEF0),
        (0, 0),
        (0xFFFFFFFF, 1),
        (1 << 40, 7),
    )
    for old, new in values:
        for flags in (0, 2, 4, 3, 8, 0x10, 0x12, 0x14, 0x20, 0x34, 0x62, 0x94, 0x80, 0x100):
            if flags in (0, 2, 4, 3, 0x10):
                yield case(f"l3_csum_replace {old:#x} {new:#x} {flags:#x}", (L3_CSUM, (24, old, new, flags)))
            yield case(f"l4_csum_replace {old:#x} {new:#x} {flags:#x}", (L4_CSUM, (40, old, new, flags)))
    for offset in (0, 1, 25, 72, 73, 74, 0xFFFE, 0x10000, -2):
        yield case(f"l3_csum_replace at {offset}", (L3_CSUM, (offset, 1, 2, 2)))
        yield case(f"l4_csum_replace at {offset}", (L4_CSUM, (offset, 1, 2, 2)))
    zero = ethernet(0x0800, bytes(60))
    for flags in (0x20, 0x60, 0x22, 0x64):
        for old, new in ((0, 0), (0, 0xFFFF), (0xFFFF, 0)):
            text = program([(L4_CSUM, (40, old, new, flags))])
            yield RunCase(f"l4_csum_replace of zero {old:#x} {new:#x} {flags:#x}", SCHED_CLS, text, zero)
    for level in range(5):
        yield case(f"csum_level {level}", (CSUM_LEVEL, (level,)), (CSUM_LEVEL, (0,)))
    yield case(
        "csum_level of ten", *[(CSUM_LEVEL, (step,)) for step in (1, 0, 1, 1, 1, 1, 0, 2, 0, 2, 2, 2, 2, 0)]
    )
    yield case("csum_level reset", *[(CSUM_LEVEL, (step,)) for step in (1, 1, 3, 0)])
    yield case("csum_update without a sum", (CSUM_UPDATE, (5,)))
    yield case(
        "adjust_room drops the level", (CSUM_LEVEL, (1,)), (ADJUST_ROOM, (8, 1, 0)), (CSUM_LEVEL, (0,))
    )
    yield case(
        "adjust_room keeps the level", (CSUM_LEVEL, (1,)), (ADJUST_ROOM, (8, 1, 32)), (CSUM_LEVEL, (0,))
    )


def _lengths() -> Iterable[RunCase]:
    for length in (0, 13, 14, 15, 34, 74, 75, 200, 3000, 4096, 16064, 16065, 1 << 31, -1):
        yield case(f"change_tail to {length}", (CHANGE_TAIL, (length, 0)))
    yield case("change_tail with flags", (CHANGE_TAIL, (60, 1)))
    yield case("change_tail twice", (CHANGE_TAIL, (40, 0)), (CHANGE_TAIL, (90, 0)))
    yield case("change_tail of gso", (CHANGE_TAIL, (60, 0)), ctx=skb(gso_segs=3, gso_size=20))
    for room in (0, 1, 14, 64, 65, 300, 15990, 15991, -1, 1 << 31):
        yield case(f"change_head by {room}", (CHANGE_HEAD, (room, 0)))
        yield case(f"change_head by {room}, then a tail", (CHANGE_HEAD, (room, 0)), (CHANGE_TAIL, (16, 0)))
    yield case("change_head with flags", (CHANGE_HEAD, (1, 1)))
    for size in (0, 1, 74, 75, 1 << 31, -1):
        yield case(f"pull_data of {size}", (PULL, (size,)))
    for kind in (0, 1, 2, 3, 4, 7, -1, 1 << 32):
        yield case(f"change_type to {kind}", (CHANGE_TYPE, (kind,)))
    yield case("set_hash", (SET_HASH, (0x12345678,)))
    yield case("set_hash_invalid", (SET_HASH, (0x12345678,)), (HASH_INVALID, ()))


def _vlans() -> Iterable[RunCase]:
    for name in PACKETS:
        yield case(f"vlan_pop of {name}", (VLAN_POP, ()), packet=name)
        yield case(f"vlan_pop twice of {name}", (VLAN_POP, ()), (VLAN_POP, ()), packet=name)
        yield case(f"vlan_push onto {name}", (VLAN_PUSH, (Q, 0x123)), packet=name)
        push: Call = (VLAN_PUSH, (AD, 0x1456))
        yield case(f"vlan_push twice onto {name}", (VLAN_PUSH, (Q, 9)), push, packet=name)
        yield case(
            f"three tags onto {name}", (VLAN_PUSH, (Q, 9)), push, push, (CHANGE_TAIL, (17, 0)), packet=name
        )
        yield case(f"push, push, pop {name}", push, push, (VLAN_POP, ()), packet=name)
        yield case(f"push, pop, pop {name}", push, (VLAN_POP, ()), (VLAN_POP, ()), packet=name)
    yield case("a tag of another protocol", (VLAN_PUSH, (0x0008, 0x12345)))
    yield case("a tag of zeroes", (VLAN_PUSH, (0, 0)), (VLAN_POP, ()))


def _rooms() -> Iterable[RunCase]:
    v4, v6 = 0x0008, 0xDD86
    for name in ("ipv4", "ipv6", "tagged"):
        for proto in (v4, v6, 0x608):
            yield case(f"change_proto of {name} to {proto:#x}", (CHANGE_PROTO, (proto, 0)), packet=name)
        yield case(f"change_proto of {name} with flags", (CHANGE_PROTO, (v6, 1)), packet=name)
        back = ((CHANGE_PROTO, (v6, 0)), (CHANGE_PROTO, (v4, 0)))
        yield case(f"change_proto of {name} there and back", *back, (CHANGE_TAIL, (33, 0)), packet=name)
        for size in (0, 1, 8, 20, 100, 0xFFF, 0x1000, -1, -8, -20, -40, -41, -60, -80, -0x1000, 1 << 31):
            for mode in (0, 1, 2):
                yield case(
                    f"adjust_room of {name} by {size} mode {mode}",
                    (ADJUST_ROOM, (size, mode, 0)),
                    packet=name,
                )
        for flags in (1, 2, 4, 6, 8, 10, 12, 16, 18, 20, 24, 26, 32, 64, 66, 128, 256, 384, 512, 1 << 55):
            for size in (28, -20):
                calls: list[Call] = [(ADJUST_ROOM, (size, 1, flags)), (CHANGE_TAIL, (90, 0))]
                yield case(f"adjust_room of {name} by {size} flags {flags:#x}", *calls, packet=name)
        for flags in (
            14 << 56 | 66,
            13 << 56 | 66,
            14 << 56 | 74,
            14 << 56 | 2,
            40 << 56 | 2,
            255 << 56,
            14 << 56 | 82,
        ):
            calls = [(ADJUST_ROOM, (36, 1, flags)), (ADJUST_ROOM, (36, 1, flags))]
            yield case(f"adjust_room of {name} flags {flags:#x}", *calls, packet=name)
        for flags in (0, 1, 2):
            ctx = skb(gso_segs=3, gso_size=20)
            yield case(
                f"adjust_room of gso {name} {flags}", (ADJUST_ROOM, (8, 0, flags)), packet=name, ctx=ctx
            )
            yield case(f"change_proto of gso {name} {flags}", (CHANGE_PROTO, (v6, 0)), packet=name, ctx=ctx)


SUM_COMPLETE = 1 << 2


def _complete() -> Iterable[RunCase]:
    """BPF_F_TEST_SKB_CHECKSUM_COMPLETE: the packet's sum is compared with the packet afterwards."""
    calls: dict[str, tuple[Call, ...]] = {
        "store": ((STORE, (20, "stack", 5, 0)),),
        "store and recompute": ((STORE, (20, "stack", 6, 1)),),
        "store and recompute at an odd offset": ((STORE, (21, "stack", 7, 1)),),
        "store and recompute again": ((STORE, (21, "stack", 7, 1)), (STORE, (18, "stack", 13, 1))),
        "csum_update": ((CSUM_UPDATE, (5,)),),
        "csum_update by zero": ((CSUM_UPDATE, (0,)),),
        "csum_update by all ones": ((CSUM_UPDATE, (-1,)),),
        "csum_level": ((CSUM_LEVEL, (0,)), (CSUM_LEVEL, (1,)), (CSUM_LEVEL, (2,)), (CSUM_LEVEL, (3,))),
        "cut": ((CHANGE_TAIL, (60, 0)),),
        "cut to an odd length": ((CHANGE_TAIL, (61, 0)),),
        "lengthened": ((CHANGE_TAIL, (80, 0)), (CSUM_UPDATE, (0,))),
        "shrunk": ((ADJUST_ROOM, (-8, 0, 0)),),
        "grown": ((ADJUST_ROOM, (8, 0, 0)),),
        "shrunk at the MAC header": ((ADJUST_ROOM, (-4, 1, 0)),),
        "to IPv6": ((CHANGE_PROTO, (0xDD86, 0)),),
        "two tags": ((VLAN_PUSH, (Q, 5)), (VLAN_PUSH, (Q, 6))),
        "a tag less": ((VLAN_POP, ()),),
        "head": ((CHANGE_HEAD, (4, 0)),),
    }
    for flags in (0x10, 0x12, 0x14, 0x90, 0x94, 0x30, 0x74, 2):
        for old, new in ((0, 0x1234), (0x4321, 0x1234), (0x12345678, 0xFFFFFFFF)):
            calls[f"l4_csum_replace {flags:#x} {old:#x} {new:#x}"] = (
                (L4_CSUM, (40, old, new, flags)),
                (CSUM_UPDATE, (0,)),
            )
    for name, steps in calls.items():
        for packet in ("ipv4", "ipv6", "tagged"):
            text = program(steps)
            yield RunCase(
                f"complete: {name} of {packet}", SCHED_CLS, text, PACKETS[packet], flags=SUM_COMPLETE
            )


CHECK_MTU, CLONE_REDIRECT, REDIRECT, REDIRECT_NEIGH, REDIRECT_PEER = 163, 13, 23, 152, 155


def _devices() -> Iterable[RunCase]:
    """The loopback device's limits (the host has it, too), and redirections that are noted or refused."""
    mtu = """
        r6 = r1
        *(u32 *)(r10 -4) = {given}
        r2 = {ifindex}
        r3 = r10
        r3 += -4
        r4 = {change}
        r5 = {flags}
        call 163
        r0 *= 1000003
        r1 = *(u32 *)(r10 -4)
        r0 += r1
        exit
    """
    for kind in (SCHED_CLS, XDP):
        for given, change in (
            (0, 0),
            (0, 65536),
            (0, 65476),
            (0, 65477),
            (65536, 0),
            (65537, 0),
            (65537, -1),
            (1, -99),
        ):
            text = mtu.format(given=given, ifindex=0, change=change, flags=0)
            yield RunCase(f"check_mtu {kind} {given} {change}", kind, text, IPV4)
        for ifindex, flags, given, change in (
            (1, 0, 0, 0),
            (999999, 0, 0, 0),
            (0, 1, 0, 0),
            (0, 1, 0, 1),
            (0, 1, 1, 0),
            (0, 2, 0, 0),
            (0, 2, 9, 0),
            (999999, 0, 9, 0),
        ):
            text = mtu.format(given=given, ifindex=ifindex, change=change, flags=flags)
            yield RunCase(
                f"check_mtu {kind} device {ifindex} flags {flags} {given} {change}", kind, text, IPV4
            )
    text = mtu.format(given=0, ifindex=0, change=70000, flags=0)
    yield RunCase("check_mtu of gso", SCHED_CLS, text, IPV4, skb(gso_segs=3, gso_size=20))
    yield case("clone_redirect with flags", (CLONE_REDIRECT, (1, 2)))
    yield case("clone_redirect nowhere", (CLONE_REDIRECT, (999999, 0)))
    yield case("clone_redirect of gso", (CLONE_REDIRECT, (1, 0)), ctx=skb(gso_segs=3, gso_size=20))
    for flags in (0, 1, 2, 1 << 32):
        yield RunCase(f"redirect_peer {flags}", SCHED_CLS, f"r1 = 1\nr2 = {flags:#x} ll\ncall 155\nexit")
        text = f"r1 = 1\nr2 = 0\nr3 = 0\nr4 = {flags:#x} ll\ncall 152\nexit"
        yield RunCase(f"redirect_neigh {flags}", SCHED_CLS, text)
    for size in (1, 19, 20, 24):
        stack = "".join(f"*(u64 *)(r10 -{at}) = 2\n" for at in (8, 16, 24))
        text = f"{stack}r1 = 1\nr2 = r10\nr2 += -24\nr3 = {size}\nr4 = 0\ncall 152\nexit"
        yield RunCase(f"redirect_neigh by {size} bytes", SCHED_CLS, text)


GET_KEY, SET_KEY, GET_OPT, SET_OPT, ROUTE_REALM = 20, 21, 29, 30, 24
_WORDS = 6


def _tunnel(*steps: tuple[int, int, int], ext: int = 0, label: int = 0) -> str:
    """Calls on 48 bytes of stack: a key that is set from there, or what was got and is then folded.

    A step is a helper, a size and flags.
    """
    lines = ["r6 = r1", "r7 = 0"]

    def known() -> None:
        key = struct.pack(
            "<I16sBBHI16s", 0x1234567, bytes(range(1, 17)), 3, 64, ext, label, bytes(range(33, 49))
        )
        for number, word in enumerate(struct.unpack("<6Q", key.ljust(48, b"\x5a"))):
            lines.extend([f"r1 = 0x{word:x} ll", f"*(u64 *)(r10 {8 * number - 48:+d}) = r1"])

    for helper, size, flags in steps:
        known()
        lines.extend(["r1 = r6", "r2 = r10", "r2 += -48", f"r3 = {size}", f"r4 = {flags}", f"call {helper}"])
        lines.extend(_fold("r0"))
        for number in range(_WORDS):
            lines.extend(_fold(f"*(u64 *)(r10 {8 * number - 48:+d})"))
            lines.extend(["r8 = r7", "r8 >>= 29", "r7 ^= r8"])
    lines.extend(["r1 = r6", "call 24", *_fold("r0"), "r0 = r7", "exit"])
    return "\n".join(lines)


def _tunnels() -> Iterable[RunCase]:
    texts = {"no key": _tunnel((GET_KEY, 44, 0), (GET_OPT, 8, 0), (SET_OPT, 8, 0))}
    for flags in (0, 1, 2, 4, 8, 16, 32, 46, 47, 64):
        for got in (0, 1, 16, 17, 2):
            for label in (0, 0xFF12345):
                name = f"key {flags} got {got} label {label:#x}"
                texts[name] = _tunnel((SET_KEY, 44, flags), (GET_KEY, 44, got), label=label)
    for size in (4, 8, 21, 22, 24, 28, 40, 44, 48):
        for flags in (0, 1):
            texts[f"a key of {size} set {flags}"] = _tunnel((SET_KEY, size, flags), (GET_KEY, 44, flags))
            texts[f"a key of {size} got {flags}"] = _tunnel((SET_KEY, 44, flags), (GET_KEY, size, flags))
    texts["an extension"] = _tunnel((SET_KEY, 44, 0), (GET_KEY, 44, 0), ext=1)
    for size in (4, 6, 8, 48):
        for room in (4, 8, 13, 48):
            steps = (
                (SET_KEY, 44, 0),
                (GET_OPT, 8, 0),
                (SET_OPT, size, 0),
                (GET_OPT, room, 0),
                (GET_KEY, 44, 16),
            )
            texts[f"options of {size} got {room}"] = _tunnel(*steps)
    for name, text in texts.items():
        yield RunCase(f"tunnel: {name}", SCHED_CLS, text, IPV4)


SKB_CASES = (
    *_tunnels(),
    *_complete(),
    *_devices(),
    *_stores(),
    *_checksums(),
    *_lengths(),
    *_vlans(),
    *_rooms(),
)
