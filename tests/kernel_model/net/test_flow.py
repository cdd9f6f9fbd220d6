# SPDX-License-Identifier: GPL-2.0-only
"""Flow hashes: SipHash's own vectors, both directions alike, and what identifies a flow."""

from __future__ import annotations

import struct

import pytest

from kernel_model.errors import NotModelled
from kernel_model.helpers.siphash import siphash
from kernel_model.isa.asm import assemble
from kernel_model.net.flow import dissect
from sim import Machine
from sim.userspace.bpf import Bpf

KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
SCHED_CLS = 3
HASH = "r6 = r1\ncall 34\nr1 = *(u32 *)(r6 +68)\nif w0 == w1 goto pc+1\nr0 = 0\nexit"


# The first, ninth and sixteenth vector of SipHash-2-4's reference implementation.
@pytest.mark.parametrize(
    ("length", "value"), [(0, 0x726FDB47DD0E0E31), (8, 0x93F5F5799A932462), (15, 0xA129CA6149BE45E5)]
)
def test_siphash_vectors(length: int, value: int) -> None:
    assert siphash(bytes(range(length)), KEY) == value


def ipv4(src: int, dst: int, sport: int, dport: int, proto: int = 6, fragment: int = 0) -> bytes:
    header = struct.pack(">BBHHHBBHII", 0x45, 0, 40, 1, fragment, 64, proto, 0, src, dst)
    return bytes(12) + b"\x08\0" + header + struct.pack(">HH", sport, dport) + bytes(16)


def ipv6(src: int, dst: int, sport: int, dport: int, label: int = 0) -> bytes:
    header = (
        struct.pack(">IHBB", 6 << 28 | label, 20, 17, 64) + src.to_bytes(16, "big") + dst.to_bytes(16, "big")
    )
    return bytes(12) + b"\x86\xdd" + header + struct.pack(">HH", sport, dport) + bytes(16)


def hashes(*packets: bytes, seed: int = 0) -> list[int]:
    with Machine.boot(seed=seed) as machine:
        bpf = Bpf(machine.process())
        fd = bpf.prog_load(SCHED_CLS, assemble(HASH))[0]
        found = []
        for packet in packets:
            found.append(bpf.prog_test_run(fd, packet).retval)
            machine.use_engine(jit=False)
            assert bpf.prog_test_run(fd, packet).retval == found[-1]
            machine.use_engine(jit=True)
        return found


def test_both_directions_have_one_hash() -> None:
    there, back, other, v6, v6_back, fragment, later = hashes(
        ipv4(1, 2, 80, 4000),
        ipv4(2, 1, 4000, 80),
        ipv4(1, 2, 80, 4001),
        ipv6(1, 2, 5, 6),
        ipv6(2, 1, 6, 5),
        ipv4(1, 2, 80, 4000, fragment=0x2000),
        ipv4(1, 2, 81, 4000, fragment=0x0010),
    )
    assert there == back and v6 == v6_back and fragment == later
    assert len({there, other, v6, fragment}) == 4 and 0 not in (there, other, v6, fragment)


def test_the_key_is_the_machines() -> None:
    packet = ipv4(1, 2, 3, 4)
    assert hashes(packet, packet) == hashes(packet) * 2 != hashes(packet, seed=1) * 2


def test_a_flow_label_is_enough() -> None:
    one, two = (dissect(ipv6(1, 2, port, 9, label=5), 0x86DD, 14) for port in (7, 8))
    assert one == two and one.flow_label == 5


def test_tags_count() -> None:
    plain = ipv4(1, 2, 3, 4)
    tagged = plain[:12] + b"\x81\0\0\7" + plain[12:]
    keys = dissect(tagged, 0x8100, 14)
    assert (keys.vlan_tci, keys.vlan_tpid, keys.ports) == (7, 0x8100, b"\0\3\0\4")
    assert keys.pack() != dissect(plain, 0x800, 14).pack()


@pytest.mark.parametrize("cut", [14, 20, 33, 34, 37])
def test_short_packets(cut: int) -> None:
    keys = dissect(ipv4(1, 2, 3, 4)[:cut], 0x800, 14)
    assert bool(keys.src) == (cut >= 34) and not any(keys.ports)


@pytest.mark.parametrize("proto", [4, 41, 47, 51])
def test_deeper_headers_are_named(proto: int) -> None:
    with pytest.raises(NotModelled):
        dissect(ipv4(1, 2, 3, 4, proto=proto), 0x800, 14)
