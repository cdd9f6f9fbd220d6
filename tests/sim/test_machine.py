# SPDX-License-Identifier: GPL-2.0-only
"""The machine as its users hold it: the Python contract, freezing, several machines, determinism."""

from __future__ import annotations

import gc
import pickle

import pytest
from machine_tools import kernel_code

from kernel_model.errors import KernelError
from kernel_model.isa.asm import assemble
from kernel_model.isa.macros import BPF_LD_MAP_FD, BPF_REG_1, BPF_REG_2
from sim import Machine
from sim.hardware.guest_fault import GuestFault
from sim.process import Process
from sim.userspace.bpf import Bpf, SyscallError

XDP, ARRAY, PROG_ARRAY, BPF_XDP = 6, 2, 3, 37


def load(bpf: Bpf, text: str) -> int:
    return bpf.prog_load(XDP, assemble(text))[0]


# Processes.


def test_memory_is_demand_zero(machine: Machine) -> None:
    process = machine.process()
    before = machine._pages.used
    addr = process.alloc(64 << 20)
    assert addr % 4096 == 0
    assert machine._pages.used == before
    assert process.read(addr + 5_000_000, 3) == bytes(3)
    process.write(addr + 4095, b"ab")
    assert process.read(addr + 4094, 4) == b"\0ab\0"
    process.write(addr, bytes(range(256)) * 64)
    assert process.read(addr, 256 * 64) == bytes(range(256)) * 64


def test_unmapped_memory_faults(machine: Machine) -> None:
    process = machine.process()
    addr = process.alloc(4096)
    kernel = 0xFFFF_8880_0000_0000
    for bad, size in ((0, 1), (addr - 1, 2), (addr, 4097), (addr + 4096, 1), (kernel, 8), (-1, 1)):
        with pytest.raises(GuestFault) as caught:
            process.read(bad, size)
        assert caught.value.user
        with pytest.raises(GuestFault):
            process.write(bad, bytes(size))
    with pytest.raises(GuestFault) as caught:
        process.write(addr + 4090, b"x" * 10)
    assert caught.value.addr == addr + 4096
    assert process.read(addr, 4096) == bytes(4096), "nothing was written"
    assert process.read(addr, 0) == b""
    with pytest.raises(ValueError, match="-1 bytes"):
        process.read(addr, -1)


def test_processes_are_apart(machine: Machine) -> None:
    first, second = machine.process(), machine.process()
    addr = first.alloc(4096)
    assert second.alloc(4096) == addr
    first.write(addr, b"first")
    second.write(addr, b"other")
    assert (first.read(addr, 5), second.read(addr, 5)) == (b"first", b"other")
    assert (first.syscall(39), second.syscall(39)) == (first.pid, second.pid)


@pytest.mark.parametrize("size", [0, -1])
def test_bad_sizes(machine: Machine, size: int) -> None:
    with pytest.raises(KernelError, match="EINVAL"):
        machine.process().alloc(size)


def test_what_exited_is_gone(machine: Machine) -> None:
    process = machine.process()
    addr = process.alloc(4096)
    process.write(addr, b"x")
    used = machine._pages.used
    assert process.syscall(60, 7) == 0
    assert process.exit_code == 7
    assert machine._pages.used < used
    assert process.syscall(39) == -3, "ESRCH"
    with pytest.raises(GuestFault):
        process.read(addr, 1)
    with pytest.raises(KernelError, match="ESRCH"):
        process.alloc(4096)


def test_reaping(machine: Machine) -> None:
    process = machine.process()
    with pytest.raises(KernelError, match="EBUSY"):
        process.reap()
    process.syscall(60, 3)
    process.reap()
    assert process.pid not in machine.kernel.tasks


def test_unknown_system_calls(machine: Machine) -> None:
    process = machine.process()
    for number in (9999, 463, -1, 1 << 40):
        assert process.syscall(number) == -38
    assert "not modelled" in str(process.last_error)
    assert process.syscall(39) == process.pid
    assert process.last_error is None


# Freezing.


def busy(machine: Machine) -> tuple[Bpf, int, int]:
    """A machine with a map, a program at the card, and packets behind it."""
    bpf = Bpf(machine.process())
    counter = bpf.map_create(ARRAY, 4, 8, 1)

    prog = bpf.prog_load(
        XDP,
        [
            *assemble("r1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4"),
            *BPF_LD_MAP_FD(BPF_REG_1, counter),
            *assemble("call 1\nif r0 == 0 goto pc+2\nr1 = 1\nlock *(u64 *)(r0 +0) += r1"),
            *assemble("call 7\nr0 &= 1\nr0 += 2\nexit"),
        ],
    )[0]
    bpf.link_create(prog, 2, BPF_XDP)
    send(machine, 5)
    return bpf, counter, prog


def send(machine: Machine, count: int) -> None:
    for number in range(count):
        machine.nic[0].inject(bytes([number]) * 60)
    machine.run_until_idle()


def seen(machine: Machine, bpf: Bpf, counter: int) -> tuple[object, ...]:
    """What a user can see of a machine made by ``busy``."""
    verdicts = dict(machine.device(0).verdicts)
    value = bpf.map_lookup(counter, bytes(4), 8)
    return value, verdicts, machine.sent(0), machine.clock.now(), machine.trace_pipe()


def test_restore_goes_back(machine: Machine, engine: bool) -> None:
    bpf, counter, _ = busy(machine)
    machine.use_engine(jit=engine)
    frozen = machine.snapshot()
    futures = []
    for _ in range(3):
        send(machine, 20)
        futures.append(seen(machine, bpf, counter))
        machine.restore(frozen)
        assert int.from_bytes(bpf.map_lookup(counter, bytes(4), 8) or b"", "little") == 5
        machine.restore(frozen)
    assert futures[0] == futures[1] == futures[2]


def test_snapshots_are_independent(machine: Machine) -> None:
    """A row of snapshots, gone back to in another order, some of them twice."""
    process = machine.process()
    addr = process.alloc(64 << 12)
    frozen = []
    for number in range(6):
        process.write(addr + number * 4096 * 9, bytes([number + 1]) * 4096 * 9)
        frozen.append((process.read(addr, 64 << 12), machine.snapshot()))
    for number in (3, 0, 5, 5, 1, 4, 2):
        contents, snapshot = frozen[number]
        machine.restore(snapshot)
        assert process.read(addr, 64 << 12) == contents
        process.write(addr, b"scribble" * 8192)


def test_large_changes_are_kept(machine: Machine) -> None:
    """More pages than a snapshot keeps beside its file."""
    process = machine.process()
    addr = process.alloc(16 << 20)
    first = machine.snapshot()
    process.write(addr, b"ab" * (4 << 20))
    second = machine.snapshot()
    process.write(addr, b"zz" * (4 << 20))
    machine.restore(second)
    assert process.read(addr, 8 << 20) == b"ab" * (4 << 20)
    machine.restore(first)
    assert process.read(addr, 8 << 20) == bytes(8 << 20)


def test_snapshots_of_other_machines(machine: Machine) -> None:
    """One booted alike takes over; one booted in another way is refused, and is not harmed."""
    bpf, counter, _ = busy(machine)
    with Machine.boot() as alike, Machine.boot(cpus=2) as other:
        alike.restore(machine.snapshot())
        assert alike.digest() == machine.digest()
        there = Bpf(Process(alike, bpf.process.pid))
        assert there.map_lookup(counter, bytes(4), 8) == bpf.map_lookup(counter, bytes(4), 8)
        with pytest.raises(ValueError, match="booted in another way"):
            other.restore(machine.snapshot())
        assert other.process().syscall(39) == 1


def test_handles_stay_good(machine: Machine) -> None:
    process = machine.process()
    frozen = machine.snapshot()
    later = machine.process()
    machine.restore(frozen)
    assert process.syscall(39) == process.pid
    with pytest.raises(KeyError):
        later.task  # noqa: B018
    assert machine.process().pid == later.pid, "the past has the same future"


def test_code_after_a_restore(machine: Machine, bpf: Bpf) -> None:
    """Images installed or freed after the snapshot, at the same addresses, are what runs afterwards."""
    kept = load(bpf, "r0 = 1\nexit")
    frozen = machine.snapshot()
    addresses = set()
    for value in (2, 3, 4):
        fd = load(bpf, f"r0 = {value}\nexit")
        (_, prog) = machine.kernel.progs
        assert prog.image is not None
        addresses.add(prog.image.functions[0].addr)
        assert bpf.prog_test_run(fd, bytes(64)).retval == value
        assert bpf.prog_test_run(kept, bytes(64)).retval == 1
        machine.restore(frozen)
    assert len(addresses) == 1
    bpf.close(kept)
    other = load(bpf, "r0 = 9\nexit")
    assert bpf.prog_test_run(other, bytes(64)).retval == 9
    machine.restore(frozen)
    assert bpf.prog_test_run(kept, bytes(64)).retval == 1


def test_poked_code_after_a_restore(machine: Machine, bpf: Bpf) -> None:
    """A direct tail call whose slot was filled after the snapshot is empty again."""

    progs = bpf.map_create(PROG_ARRAY, 4, 4, 1)
    caller = bpf.prog_load(
        XDP, [*BPF_LD_MAP_FD(BPF_REG_2, progs), *assemble("r3 = 0\ncall 12\nr0 = 7\nexit")]
    )[0]
    target = load(bpf, "r0 = 8\nexit")
    frozen = machine.snapshot()
    for _ in range(2):
        assert bpf.prog_test_run(caller, bytes(64)).retval == 7
        bpf.map_update(progs, bytes(4), target.to_bytes(4, "little"))
        assert bpf.prog_test_run(caller, bytes(64)).retval == 8
        machine.restore(frozen)


def test_page_tables_after_a_restore(machine: Machine) -> None:
    """Kernel stacks mapped after the snapshot are unmapped again, and the CPU knows."""
    frozen = machine.snapshot()
    base = machine.kernel.alloc_stack(16384)
    with kernel_code(machine, "mov rax, [rdi]; ret") as code:
        assert machine.kernel.cpu.call(code, base) == 0
    machine.restore(frozen)
    with kernel_code(machine, "mov rax, [rdi]; ret") as code, pytest.raises(GuestFault):
        machine.kernel.cpu.call(code, base)


def test_a_pickled_machine_behaves_as_the_original(machine: Machine) -> None:
    bpf, counter, _ = busy(machine)
    data = pickle.dumps(machine)
    with pickle.loads(data) as copy:
        assert copy.digest() == machine.digest()
        here, there = (Bpf(Process(each, bpf.process.pid)) for each in (machine, copy))
        for each in (machine, copy):
            send(each, 30)
        assert seen(copy, there, counter) == seen(machine, here, counter)
        assert copy.digest() == machine.digest()
        fds = [load(each, "r0 = 3\nexit") for each in (here, there)]
        assert fds[0] == fds[1]


def test_a_pickle_is_portable_and_small(machine: Machine) -> None:
    data = pickle.dumps(machine)
    assert len(data) < 2 << 20
    with pickle.loads(data) as copy:
        assert pickle.dumps(copy) == data


def test_pickling_a_machine_with_cpus() -> None:
    with Machine.boot(cpus=4) as machine:
        machine.cpu.set_cpu(2)
        with pickle.loads(pickle.dumps(machine)) as copy:
            assert copy.cpu.this_cpu == 2
            frozen = copy.snapshot()
            copy.cpu.set_cpu(3)
            copy.restore(frozen)
            assert copy.cpu.this_cpu == 2


def test_freezing_between_runs_only(machine: Machine, monkeypatch: pytest.MonkeyPatch, bpf: Bpf) -> None:
    fd = load(bpf, "r0 = 1\nexit")
    machine.use_engine(jit=False)
    frozen = machine.snapshot()
    monkeypatch.setattr(type(machine.kernel.runtime), "run", lambda *_: machine.snapshot())
    with pytest.raises(RuntimeError, match="between runs"):
        bpf.prog_test_run(fd, bytes(64))
    monkeypatch.setattr(type(machine.kernel.runtime), "run", lambda *_: machine.restore(frozen))
    with pytest.raises(RuntimeError, match="between runs"):
        bpf.prog_test_run(fd, bytes(64))


# Several machines, and their end.


def test_machines_are_independent() -> None:
    with Machine.boot() as first, Machine.boot(jit=False) as second:
        bpfs = [Bpf(each.process()) for each in (first, second)]
        fds = [load(each, f"r0 = {number}\nexit") for number, each in enumerate(bpfs, 1)]
        for _ in range(3):
            results = [each.prog_test_run(fd, bytes(64)).retval for each, fd in zip(bpfs, fds, strict=True)]
            assert results == [1, 2]
        first.clock.advance(1000)
        assert first.clock.now() != second.clock.now()
        first.close()
        assert bpfs[1].prog_test_run(fds[1], bytes(64)).retval == 2


def test_closing_twice() -> None:
    machine = Machine.boot()
    machine.close()
    machine.close()
    with machine:
        pass


def test_a_closed_machine_says_so() -> None:
    machine = Machine.boot()
    process, frozen = machine.process(), machine.snapshot()
    machine.close()
    for use in (
        machine.process,
        machine.run_until_idle,
        machine.snapshot,
        lambda: machine.restore(frozen),
        lambda: process.alloc(1),
        lambda: process.syscall(39),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()


@pytest.mark.parametrize("seed", ["0", 1.5, None])
def test_seeds_are_integers(seed: object) -> None:
    with pytest.raises(TypeError, match="a seed is an integer"):
        Machine.boot(seed=seed)  # type: ignore[arg-type]


def test_machines_that_nobody_closed_are_freed() -> None:
    with open("/proc/self/maps") as maps:
        before = maps.read().count("bpfsim-ram")
    for _ in range(3):
        machine = Machine.boot()
        machine.process().syscall(39)
        del machine
    gc.collect()
    with open("/proc/self/maps") as maps:
        assert maps.read().count("bpfsim-ram") <= before


@pytest.mark.parametrize(("ram", "cpus"), [(1 << 20, 1), (5, 1), (40 << 20, 8)])
def test_too_little_memory_to_boot(ram: int, cpus: int) -> None:
    with pytest.raises((ValueError, KernelError)):
        Machine.boot(ram=ram, cpus=cpus)


# Determinism.


def test_the_same_arguments_give_the_same_machine() -> None:
    def story(seed: int) -> tuple[str, tuple[object, ...]]:
        with Machine.boot(seed=seed, cpus=2) as machine:
            bpf, counter, _ = busy(machine)
            send(machine, 50)
            process = machine.process()
            at = process.alloc(64)
            process.syscall(318, at, 64, 0)
            return machine.digest(), (*seen(machine, bpf, counter), process.read(at, 64))

    assert story(7) == story(7)
    assert story(7)[1] != story(8)[1]


def test_observers_change_nothing() -> None:
    def story(observe: bool) -> str:
        with Machine.boot(flight_recorder=8 if observe else 0) as machine:
            hits: list[int] = []
            if observe:
                symbol = machine.kernel.text.symbol("nic_poll")
                machine.cpu.observe_code(hits.append, symbol, symbol + 400)
            bpf, counter, _ = busy(machine)
            assert bool(hits) == observe
            seen(machine, bpf, counter)
            return machine.digest()

    assert story(True) == story(False)


# The clock, the trace pipe, engines.


def test_the_clock(machine: Machine) -> None:
    now = machine.clock.now()
    machine.clock.advance(123)
    assert machine.clock.now() == now + 123
    with pytest.raises(ValueError, match="back"):
        machine.clock.advance(-1)


PRINTK = """
    r1 = 175334772
    *(u32 *)(r10 -8) = r1
    r1 = r10
    r1 += -8
    r2 = 5
    r3 = 42
    call 6
    r0 = 1
    exit
"""
# "%d\n" and a NUL; the fifth byte is zero, too.
PRINTK = PRINTK.replace("175334772", str(int.from_bytes(b"%d\n\0", "little"))).replace(
    "    *(u32", "    *(u64", 1
)


def test_trace_pipe(machine: Machine, engine: bool) -> None:
    """The columns of Linux's trace_pipe: task, CPU, flags, time, function."""
    bpf = Bpf(machine.process(comm="tester"))
    fd = load(bpf, PRINTK)
    machine.use_engine(jit=engine)
    bpf.prog_test_run(fd, bytes(64), repeat=2)
    lines = machine.trace_pipe().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"          tester-{bpf.process.pid:<7d} [000] ...11     0.000")
    assert lines[0].endswith(": bpf_trace_printk: 42")
    assert machine.trace_pipe() == ""


def test_switching_engines(machine: Machine, bpf: Bpf) -> None:
    fd = load(bpf, "r0 = 4\nexit")
    (prog,) = machine.kernel.progs
    image = prog.bpf_func(machine.kernel)
    machine.use_engine(jit=False)
    assert machine.kernel.text.lookup(prog.bpf_func(machine.kernel)) == ("__bpf_prog_run32", 0)
    assert bpf.prog_test_run(fd, bytes(64)).retval == 4
    machine.use_engine(jit=True)
    assert prog.bpf_func(machine.kernel) == image


def test_a_machine_without_jit(bpf: Bpf) -> None:
    with Machine.boot(jit=False) as machine:
        there = Bpf(machine.process())
        fd = load(there, "r0 = 4\nexit")
        assert there.prog_test_run(fd, bytes(64)).retval == 4
        info, _ = there.obj_info(fd)
        assert info["jited_prog_len"] == 0
        with pytest.raises(KernelError, match="no JIT image"):
            machine.use_engine(jit=True)


def test_bpf_jit_enable_by_its_file(machine: Machine, bpf: Bpf) -> None:
    """Written as a user does: programs loaded while it is 0 are interpreted."""
    process = bpf.process
    path = process.alloc(4096)
    process.write(path, b"/proc/sys/net/core/bpf_jit_enable\0")
    lengths = []
    for value in (b"0\n", b"1\n"):
        at = process.alloc(4096)
        process.write(at, value)
        fd = process.syscall(2, path, 1, 0)
        assert process.syscall(1, fd, at, 2) == 2
        bpf.close(fd)
        lengths.append(bpf.obj_info(load(bpf, "r0 = 4\nexit"))[0]["jited_prog_len"])
    assert lengths[0] == 0 < lengths[1]


def test_refused_calls_tell_why(bpf: Bpf) -> None:
    with pytest.raises(SyscallError):
        bpf.map_create(ARRAY, 8, 8, 1)
    assert bpf.process.last_error is not None
    assert bpf.process.last_error.name == "EINVAL"
