# SPDX-License-Identifier: GPL-2.0-only
"""Objects live as long as something refers to them, and everything is freed afterwards, in any order."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from bpf_error_cases import BTF
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn
from kernel_model.isa.macros import BPF_LD_MAP_FD, BPF_REG_1
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError

XDP, HASH, ARRAY, PROG_ARRAY, PERCPU_ARRAY = 6, 1, 2, 3, 6


class Watch:
    """What the kernel holds, compared with what it held at first."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # The structures that all maps of a type share are made with the first.
        scratch = Bpf(machine.process())
        for map_type in (HASH, ARRAY, PROG_ARRAY, PERCPU_ARRAY):
            scratch.map_create(map_type, 4, 4, 1)
        scratch.process.syscall(60, 0)
        self.first = self.state()

    def state(self) -> dict[str, object]:
        kernel = self.machine.kernel
        return {
            "objects": kernel.alloc.live_objects(),
            "percpu": dict(kernel.alloc._percpu_live),
            "symbols": dict(kernel.text.symbols()),
            "images": dict(kernel.text._images),
            "extable": dict(kernel.extable),
            "counts": tuple(len(table) for table in (kernel.maps, kernel.progs, kernel.links, kernel.btfs)),
            "by address": (dict(kernel.maps_by_addr), dict(kernel.progs_by_addr)),
        }

    def nothing_left(self) -> bool:
        now = self.state()
        different = {name: (self.first[name], now[name]) for name in now if now[name] != self.first[name]}
        assert different == {}
        return True


def using(map_fd: int) -> list[Insn]:
    """A program that refers to a map."""
    return [*BPF_LD_MAP_FD(BPF_REG_1, map_fd), *assemble("r0 = 1\nexit")]


def tail_caller(progs_fd: int, key: int) -> list[Insn]:
    """A direct tail call; 77 when the slot is empty."""
    text = f"r3 = {key}\ncall 12\nr0 = 77\nexit"
    load = [*BPF_LD_MAP_FD(BPF_REG_1, progs_fd)]
    load[0] = load[0]._replace(dst=2)
    return [*load, *assemble(text)]


CLOSERS = ("map", "prog", "link", "pin", "btf")


@pytest.mark.parametrize("order", list(itertools.permutations(CLOSERS)), ids="-".join)
def test_every_order_of_closing(machine: Machine, bpf: Bpf, order: tuple[str, ...]) -> None:
    watch = Watch(machine)
    btf = bpf.btf_load(BTF)
    table = bpf.map_create(ARRAY, 4, 8, 1, btf_fd=btf, btf_key_type_id=1, btf_value_type_id=2)
    prog = bpf.prog_load(XDP, using(table))[0]
    link = bpf.link_create(prog, 2, 37)
    bpf.obj_pin(link, "/sys/fs/bpf/link")
    close: dict[str, Callable[[], object]] = {
        "map": lambda: bpf.close(table),
        "prog": lambda: bpf.close(prog),
        "link": lambda: bpf.close(link),
        "btf": lambda: bpf.close(btf),
        "pin": lambda: unlink(bpf, "/sys/fs/bpf/link"),
    }
    for number, what in enumerate(order):
        close[what]()
        attached = {"link", "pin"} - set(order[: number + 1])
        assert (machine.device(0).xdp_prog is not None) == bool(attached)
        machine.nic[0].inject(bytes(60))
        machine.run_until_idle()
    assert watch.nothing_left()


def unlink(bpf: Bpf, path: str) -> int:
    addr = bpf.process.alloc(4096)
    bpf.process.write(addr, path.encode() + b"\0")
    return bpf.process.syscall(87, addr)


def test_exit_closes_everything(machine: Machine) -> None:
    watch = Watch(machine)
    bpf = Bpf(machine.process())
    table = bpf.map_create(HASH, 4, 8, 8)
    prog = bpf.prog_load(XDP, using(table))[0]
    bpf.link_create(prog, 2, 37)
    bpf.map_create(PERCPU_ARRAY, 4, 8, 2)
    assert bpf.process.syscall(231, 3) == 0
    assert bpf.process.exit_code == 3
    assert watch.nothing_left()


def test_a_pin_outlives_its_process(machine: Machine) -> None:
    first = Bpf(machine.process())
    table = first.map_create(ARRAY, 4, 8, 1)
    first.map_update(table, bytes(4), b"kept it ")
    first.obj_pin(table, "/sys/fs/bpf/table")
    first.process.syscall(60, 0)
    second = Bpf(machine.process())
    again = second.obj_get("/sys/fs/bpf/table")
    assert second.map_lookup(again, bytes(4), 8) == b"kept it "
    second.close(again)
    assert len(machine.kernel.maps) == 1
    unlink(second, "/sys/fs/bpf/table")
    assert len(machine.kernel.maps) == 0


def test_duplicated_descriptors_share(machine: Machine, bpf: Bpf) -> None:
    table = bpf.map_create(ARRAY, 4, 8, 1)
    copy = bpf.process.syscall(32, table)
    bpf.close(table)
    assert bpf.map_lookup(copy, bytes(4), 8) == bytes(8)
    bpf.close(copy)
    assert len(machine.kernel.maps) == 0


def test_ids_find_what_lives(machine: Machine, bpf: Bpf) -> None:
    fds = [bpf.map_create(ARRAY, 4, 8, 1) for _ in range(3)]
    ids = [bpf.obj_info(fd, "bpf_map_info")[0]["id"] for fd in fds]
    assert ids == [1, 2, 3]
    bpf.close(fds[1])
    walked, at = [], bpf.next_id("MAP")
    while at is not None:
        walked.append(at)
        at = bpf.next_id("MAP", at)
    assert walked == [1, 3]
    with pytest.raises(SyscallError, match="ENOENT"):
        bpf.fd_by_id("MAP", 2)
    again = bpf.fd_by_id("MAP", 3)
    bpf.close(fds[2])
    assert bpf.obj_info(again, "bpf_map_info")[0]["id"] == 3
    assert bpf.obj_info(bpf.map_create(ARRAY, 4, 8, 1), "bpf_map_info")[0]["id"] == 4, (
        "ids are not used again"
    )


# Tail calls.


def test_direct_tail_calls_follow_the_slot(machine: Machine, bpf: Bpf, engine: bool) -> None:
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 4)
    caller = bpf.prog_load(XDP, tail_caller(progs, 2))[0]
    (image,) = [p.image for p in machine.kernel.progs]
    assert image is not None and image.pokes, "the tail call is direct"
    targets = [bpf.prog_load(XDP, assemble(f"r0 = {n}\nexit"))[0] for n in (5, 6)]
    machine.use_engine(jit=engine)

    def run() -> int:
        return bpf.prog_test_run(caller, bytes(64)).retval

    seen = [run()]
    for target in targets:
        bpf.map_update(progs, b"\2\0\0\0", target.to_bytes(4, "little"))
        seen.append(run())
    bpf.map_delete(progs, b"\2\0\0\0")
    seen.append(run())
    assert seen == [77, 5, 6, 77]


def test_a_program_loaded_later_finds_the_slot_taken(bpf: Bpf) -> None:
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 4)
    target = bpf.prog_load(XDP, assemble("r0 = 9\nexit"))[0]
    bpf.map_update(progs, bytes(4), target.to_bytes(4, "little"))
    caller = bpf.prog_load(XDP, tail_caller(progs, 0))[0]
    assert bpf.prog_test_run(caller, bytes(64)).retval == 9


def test_indirect_tail_calls(machine: Machine, bpf: Bpf, engine: bool) -> None:
    """The slot comes from the packet, so nothing can be patched."""
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 4)
    for slot in (0, 1, 3):
        fd = bpf.prog_load(XDP, assemble(f"r0 = {10 + slot}\nexit"))[0]
        bpf.map_update(progs, slot.to_bytes(4, "little"), fd.to_bytes(4, "little"))
        bpf.close(fd)
    load = [*BPF_LD_MAP_FD(BPF_REG_1, progs)]
    load[0] = load[0]._replace(dst=2)
    head = """
        r6 = *(u32 *)(r1 +0)
        r7 = *(u32 *)(r1 +4)
        r3 = r6
        r3 += 14
        if r3 > r7 goto pc+7
        r3 = *(u8 *)(r6 +0)
        r0 = 0
    """
    code = [*assemble(head), *load, *assemble("call 12\nr0 = 77\nexit\nr0 = 78\nexit")]
    caller = bpf.prog_load(XDP, code)[0]
    (pokes,) = [p.image.pokes for p in machine.kernel.progs if p.maps and p.image]
    assert pokes == ()
    machine.use_engine(jit=engine)
    results = [bpf.prog_test_run(caller, bytes([slot]) + bytes(63)).retval for slot in (0, 1, 2, 3, 4, 255)]
    assert results == [10, 11, 77, 13, 77, 77]


@pytest.mark.parametrize("direct", [True, False])
def test_33_tail_calls_and_no_more(machine: Machine, bpf: Bpf, engine: bool, direct: bool) -> None:
    """A program that calls itself counts in a map: once, and once for each tail call."""
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 1)
    count = bpf.map_create(ARRAY, 4, 8, 1)
    lookup = [
        *assemble("r6 = r1\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4"),
        *BPF_LD_MAP_FD(BPF_REG_1, count),
        *assemble("call 1\nif r0 == 0 goto pc+2\nr1 = 1\nlock *(u64 *)(r0 +0) += r1"),
    ]
    key = "r3 = 0" if direct else "r3 = *(u32 *)(r6 +12)\nr3 -= 1"
    array = [*BPF_LD_MAP_FD(BPF_REG_1, progs)]
    array[0] = array[0]._replace(dst=2)
    prog = bpf.prog_load(XDP, [*lookup, *assemble(key), *array, *assemble("r1 = r6\ncall 12\nr0 = 7\nexit")])[
        0
    ]
    bpf.map_update(progs, bytes(4), prog.to_bytes(4, "little"))
    machine.use_engine(jit=engine)
    assert bpf.prog_test_run(prog, bytes(64)).retval == 7
    assert int.from_bytes(bpf.map_lookup(count, bytes(4), 8) or b"", "little") == 34


def test_a_cycle_through_a_program_array_is_broken_by_closing_it(machine: Machine, bpf: Bpf) -> None:
    """The array holds a program that holds the array: when nobody else does, both go (usercnt)."""
    watch = Watch(machine)
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 1)
    prog = bpf.prog_load(XDP, tail_caller(progs, 0))[0]
    bpf.map_update(progs, bytes(4), prog.to_bytes(4, "little"))
    bpf.close(prog)
    bpf.close(progs)
    assert watch.nothing_left()


STEPS = st.lists(
    st.tuples(st.sampled_from(["map", "prog", "link", "pin", "close", "unpin"]), st.integers(0, 7)),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_any_sequence_ends_clean(steps: list[tuple[str, int]]) -> None:
    """Random creations, pins, copies and closings; at the end everything is closed and nothing is left."""
    with Machine.boot(nics=1) as machine:
        watch = Watch(machine)
        bpf = Bpf(machine.process())
        fds: dict[str, list[int]] = {"map": [], "prog": [], "link": []}
        pins: list[str] = []
        for what, number in steps:
            every = [fd for group in fds.values() for fd in group]
            if what == "map":
                fds["map"].append(bpf.map_create(ARRAY, 4, 8, 1))
            elif what == "prog" and fds["map"]:
                fds["prog"].append(bpf.prog_load(XDP, using(fds["map"][number % len(fds["map"])]))[0])
            elif what == "link" and fds["prog"] and machine.device(0).xdp_prog is None:
                fds["link"].append(bpf.link_create(fds["prog"][number % len(fds["prog"])], 2, 37))
            elif what == "pin" and every:
                pins.append(f"/sys/fs/bpf/p{len(pins)}_{number}")
                bpf.obj_pin(every[number % len(every)], pins[-1])
            elif what == "close" and every:
                fd = every[number % len(every)]
                bpf.close(fd)
                next(group for group in fds.values() if fd in group).remove(fd)
            elif what == "unpin" and pins:
                unlink(bpf, pins.pop(number % len(pins)))
        for path in pins:
            unlink(bpf, path)
        bpf.process.syscall(60, 0)
        assert watch.nothing_left()
