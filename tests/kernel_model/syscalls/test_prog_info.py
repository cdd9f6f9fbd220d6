# SPDX-License-Identifier: GPL-2.0-only
"""Who may load what, and what OBJ_GET_INFO_BY_FD tells of it, compared with the host's answers."""

from __future__ import annotations

import errno
import struct

import pytest
from bpf_error_cases import BTF
from host_bpf import HostProcess, host_kernel

from kernel_model.isa.asm import assemble
from kernel_model.isa.insn import Insn, encode
from kernel_model.isa.macros import BPF_LD_MAP_FD, BPF_REG_1, BPF_REG_2
from kernel_model.uapi.bpf_attr import BPF_PROG_INFO, NR_BPF, Values, command, pack
from sim import Machine
from sim.userspace.bpf import Bpf, SyscallError

SOCKET_FILTER, KPROBE, SCHED_CLS, TRACEPOINT, XDP = 1, 2, 3, 5, 6
ARRAY, PROG_ARRAY = 2, 3
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 12, 21, 38, 39


def programs(bpf: Bpf) -> dict[str, list[Insn]]:
    """XDP programs with all that info shows: maps, functions, tail calls."""
    table = bpf.map_create(ARRAY, 4, 8, 2)
    progs = bpf.map_create(PROG_ARRAY, 4, 4, 2)
    return {
        "small": list(assemble("r0 = 2\nexit")),
        "map": [*BPF_LD_MAP_FD(BPF_REG_1, table), *assemble("r0 = 2\nexit")],
        "map twice": [
            *BPF_LD_MAP_FD(BPF_REG_1, table),
            *BPF_LD_MAP_FD(BPF_REG_2, table),
            *assemble("r0 = 2\nexit"),
        ],
        "helper": list(assemble("call 7\nr0 &= 1\nexit")),
        "functions": list(
            assemble("r6 = r1\ncall pc+3\nr0 += 1\ncall pc+3\nexit\nr0 = 1\nexit\nr0 = 2\nexit")
        ),
        "tail call": [*BPF_LD_MAP_FD(BPF_REG_2, progs), *assemble("r3 = 0\ncall 12\nr0 = 7\nexit")],
        "context": list(assemble("r0 = *(u32 *)(r1 +12)\nexit")),
        "dead code": list(assemble("r0 = 1\nif r0 == 2 goto pc+1\nexit\nr0 = 7\nexit")),
    }


SAME = (
    *(
        "type",
        "tag",
        "xlated_prog_len",
        "nr_map_ids",
        "name",
        "gpl_compatible",
        "nr_jited_ksyms",
        "created_by_uid",
    ),
    *(
        "nr_jited_func_lens",
        "nr_prog_tags",
        "func_info_rec_size",
        "line_info_rec_size",
        "jited_line_info_rec_size",
    ),
    *("nr_func_info", "nr_line_info", "nr_jited_line_info", "ifindex", "jited_prog_len", "verified_insns"),
)


def info(bpf: Bpf, fd: int) -> tuple[Values, dict[str, bytes]]:
    return bpf.obj_info(
        fd, xlated_prog_insns=4096, jited_prog_insns=4096, prog_tags=64, map_ids=64, jited_ksyms=64
    )


@host_kernel
def test_info_is_the_hosts(bpf: Bpf) -> None:
    host = Bpf(HostProcess())
    different: dict[str, object] = {}
    ours, theirs = programs(bpf), programs(host)
    for name in ours:
        here = info(bpf, bpf.prog_load(XDP, ours[name], name="shown")[0])
        there = info(host, host.prog_load(XDP, theirs[name], name="shown")[0])
        for field in SAME:
            mine, other = (
                (each[0].blob(field) if field in ("tag", "name") else each[0][field])
                for each in (here, there)
            )
            # Where the host's structures have their members changes the length of its displacements.
            if mine != other and (name, field) != ("context", "jited_prog_len"):
                different[f"{name}: {field}"] = (mine, other)
        if here[1]["prog_tags"] != there[1]["prog_tags"]:
            different[f"{name}: tags"] = (here[1]["prog_tags"].hex(), there[1]["prog_tags"].hex())
    assert different == {}


def test_info_of_a_program(machine: Machine, bpf: Bpf) -> None:
    fd = bpf.prog_load(XDP, programs(bpf)["map"], name="with_map")[0]
    values, out = info(bpf, fd)
    (prog,) = machine.kernel.progs
    assert prog.image is not None
    assert out["jited_prog_insns"] == prog.image.functions[0].code
    assert struct.unpack("<I", out["map_ids"]) == (1,)
    assert struct.unpack("<Q", out["jited_ksyms"]) == (prog.image.functions[0].addr,)
    assert struct.unpack_from("<i", out["xlated_prog_insns"], 4) == (1,), "a map is shown by its id"
    assert values["load_time"] > 0
    assert values.text("name") == "with_map"


def test_line_and_function_info(machine: Machine, bpf: Bpf) -> None:
    """Records move with the instructions, and lines have addresses in the machine code."""
    strings = b"\0int\0main\0line one\0line two\0file.c\0"
    types = struct.pack("<IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack("<III", 0, 13 << 24 | 1, 1) + struct.pack("<II", 1, 1)
    types += struct.pack("<III", 5, 12 << 24, 2)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = bpf.btf_load(header + types + strings)
    lines = struct.pack("<4I", 0, 28, 10, 1 << 10) + struct.pack("<4I", 1, 28, 19, 2 << 10)
    fd = bpf.prog_load(
        XDP,
        assemble("r0 = *(u32 *)(r1 +12)\nexit"),
        prog_btf_fd=btf,
        func_info=struct.pack("<II", 0, 3),
        func_info_cnt=1,
        func_info_rec_size=8,
        line_info=lines,
        line_info_cnt=2,
        line_info_rec_size=16,
    )[0]
    raw = bytearray(232)
    fields = {"nr_func_info": 1, "nr_line_info": 2, "nr_jited_line_info": 2}
    places = {name: bpf.process.alloc(64) for name in ("func_info", "line_info", "jited_line_info")}
    sizes = {"func_info_rec_size": 8, "line_info_rec_size": 16, "jited_line_info_rec_size": 8}
    at = bpf.process.alloc(4096)
    bpf.process.write(at, BPF_PROG_INFO.pack(**fields, **places, **sizes))
    bpf.call("OBJ_GET_INFO_BY_FD", bpf_fd=fd, info_len=len(raw), info=at)
    (prog,) = machine.kernel.progs
    assert prog.image is not None
    function = prog.image.functions[0]
    assert function.name == "main"
    assert struct.unpack("<II", bpf.process.read(places["func_info"], 8)) == (0, 3)
    slots = [struct.unpack_from("<I", bpf.process.read(places["line_info"], 32), 16 * n)[0] for n in range(2)]
    assert slots == [0, len(prog.verified.insns) - 1]
    addrs = struct.unpack("<QQ", bpf.process.read(places["jited_line_info"], 16))
    assert addrs == (function.addr, function.addr + function.insn_offs[slots[1]])
    assert f"bpf_prog_{prog.tag.hex()}_main" in machine.kernel.text.symbols()


def test_info_of_other_objects(machine: Machine, bpf: Bpf) -> None:
    btf = bpf.btf_load(BTF)
    table = bpf.map_create(ARRAY, 4, 8, 3, "numbers", btf_fd=btf, btf_key_type_id=1, btf_value_type_id=2)
    values, _ = bpf.obj_info(table, "bpf_map_info")
    shown = {name: values[name] for name in ("type", "key_size", "value_size", "max_entries", "btf_id")}
    assert shown == {"type": ARRAY, "key_size": 4, "value_size": 8, "max_entries": 3, "btf_id": 1}
    assert (values["btf_key_type_id"], values["btf_value_type_id"]) == (1, 2)
    assert values.text("name") == "numbers"
    values, out = bpf.obj_info(btf, "bpf_btf_info", btf=4096)
    assert out["btf"] == BTF
    assert (values["btf_size"], values["id"], values["kernel_btf"]) == (len(BTF), 1, 0)
    prog = bpf.prog_load(XDP, assemble("r0 = 1\nexit"))[0]
    link = bpf.link_create(prog, 3, 37)
    values, _ = bpf.obj_info(link, "bpf_link_info")
    assert (values["type"], values["id"], values["prog_id"], values["xdp.ifindex"]) == (6, 1, 1, 3)
    bpf.link_detach(link)
    values, _ = bpf.obj_info(link, "bpf_link_info")
    assert (values["prog_id"], values["xdp.ifindex"]) == (1, 0)


# Links.


def test_one_program_at_a_device(machine: Machine, bpf: Bpf) -> None:
    progs = [bpf.prog_load(XDP, assemble(f"r0 = {n}\nexit"))[0] for n in (1, 2)]
    link = bpf.link_create(progs[0], 2, 37)
    with pytest.raises(SyscallError, match="EBUSY"):
        bpf.link_create(progs[1], 2, 37)
    bpf.close(link)
    link = bpf.link_create(progs[1], 2, 37)
    bpf.link_detach(link)
    bpf.link_detach(link)
    with pytest.raises(SyscallError, match="ENOLINK"):
        bpf.link_update(link, progs[0])
    assert bpf.link_create(progs[0], 2, 37) > 0


def test_updating_a_link(machine: Machine, bpf: Bpf) -> None:
    first, second = (bpf.prog_load(XDP, assemble(f"r0 = {n}\nexit"))[0] for n in (1, 2))
    devmap = bpf.prog_load(XDP, assemble("r0 = 1\nexit"), expected_attach_type=33)[0]
    socket = bpf.prog_load(SOCKET_FILTER, assemble("r0 = 1\nexit"))[0]
    link = bpf.link_create(first, 2, 37)
    replace = 4
    for new, flags, old, expected in (
        (second, replace, second, "EPERM"),
        (second, 0, first, "EINVAL"),
        (second, 8, 0, "EINVAL"),
        (second, replace, 900, "EBADF"),
        (socket, 0, 0, "EINVAL"),
        (devmap, 0, 0, "EINVAL"),
    ):
        with pytest.raises(SyscallError, match=expected):
            bpf.link_update(link, new, flags, old)
    bpf.link_update(link, second, replace, first)
    bpf.link_update(link, second)
    bpf.close(first)
    assert len(machine.kernel.progs) == 3
    assert machine.device(0).xdp_prog is not None and machine.device(0).xdp_prog.refs == 3


@pytest.mark.parametrize(
    ("ifindex", "flags", "expected"),
    [
        (2, 1, "EINVAL"),
        (2, 6, "EINVAL"),
        (2, 16, "EINVAL"),
        (2, 2, "EOPNOTSUPP"),
        (2, 8, "EOPNOTSUPP"),
        (1, 0, "EOPNOTSUPP"),
        (0, 0, "EINVAL"),
        (64, 0, "EINVAL"),
    ],
)
def test_modes_of_an_xdp_link(bpf: Bpf, ifindex: int, flags: int, expected: str) -> None:
    prog = bpf.prog_load(XDP, assemble("r0 = 1\nexit"))[0]
    with pytest.raises(SyscallError, match=expected):
        bpf.link_create(prog, ifindex, 37, flags)
    assert bpf.link_create(prog, 2, 37, 4) > 0


@pytest.mark.parametrize("attach_type", [33, 35], ids=["devmap", "cpumap"])
def test_programs_of_maps_are_not_for_devices(bpf: Bpf, attach_type: int) -> None:
    prog = bpf.prog_load(XDP, assemble("r0 = 1\nexit"), expected_attach_type=attach_type)[0]
    with pytest.raises(SyscallError, match="EINVAL"):
        bpf.link_create(prog, 2, 37)
    with pytest.raises(SyscallError, match="EINVAL"):
        bpf.prog_test_run(prog, bytes(64))


# Rights.


def with_caps(machine: Machine, *caps: int) -> Bpf:
    process = machine.process(uid=1000)
    process.task.caps = frozenset(caps)
    return Bpf(process)


RIGHTS = {
    SOCKET_FILTER: [{CAP_BPF}, {CAP_SYS_ADMIN}],
    XDP: [{CAP_BPF, CAP_NET_ADMIN}, {CAP_SYS_ADMIN}],
    SCHED_CLS: [{CAP_BPF, CAP_NET_ADMIN}],
    KPROBE: [{CAP_BPF, CAP_PERFMON}],
}


@pytest.mark.parametrize("prog_type", RIGHTS)
def test_who_may_load(machine: Machine, prog_type: int) -> None:
    """Each capability of a sufficient set is needed."""
    code = list(assemble("r0 = 0\nexit"))
    for enough in RIGHTS[prog_type]:
        assert with_caps(machine, *enough).prog_load(prog_type, code)[0] > 0
        for missing in enough:
            with pytest.raises(SyscallError) as caught:
                with_caps(machine, *(enough - {missing})).prog_load(prog_type, code)
            assert caught.value.errno == errno.EPERM


def test_a_user_may_do_little(machine: Machine, bpf: Bpf) -> None:
    user = Bpf(machine.process(uid=1000))
    bpf.map_create(ARRAY, 4, 4, 1)
    for call in (
        lambda: user.prog_load(SOCKET_FILTER, assemble("r0 = 0\nexit")),
        lambda: user.map_create(ARRAY, 4, 4, 1),
        lambda: user.btf_load(BTF),
        lambda: user.fd_by_id("MAP", 1),
        lambda: user.next_id("MAP"),
    ):
        with pytest.raises(SyscallError) as caught:
            call()
        assert caught.value.errno == errno.EPERM


def test_unprivileged_socket_filters(machine: Machine) -> None:
    """With the sysctl at 0 anyone may load small socket filters, nobody else's types."""
    machine.kernel.sysctl.write("kernel/unprivileged_bpf_disabled", "0")
    user = Bpf(machine.process(uid=1000))
    assert user.prog_load(SOCKET_FILTER, assemble("r0 = 0\nexit"))[0] > 0
    with pytest.raises(SyscallError, match="EPERM"):
        user.prog_load(XDP, assemble("r0 = 0\nexit"))
    with pytest.raises(SyscallError, match="E2BIG"):
        user.prog_load(SOCKET_FILTER, assemble("r0 = 0\n" * 4096 + "exit"))


# The log.


def test_log_sizes(bpf: Bpf) -> None:
    """log_true_size is what would have been enough: with it the load succeeds, with one byte less not."""
    code = list(assemble("r0 = 1\nr0 += 1\nexit"))
    process = bpf.process
    insns, text, log = process.alloc(4096), process.alloc(4096), process.alloc(65536)
    process.write(insns, encode(code))
    process.write(text, b"GPL\0")

    def load(size: int, level: int) -> tuple[int, int]:
        attr = pack(
            "PROG_LOAD",
            prog_type=XDP,
            insns=insns,
            insn_cnt=3,
            license=text,
            log_level=level,
            log_buf=log,
            log_size=size,
        )
        at = process.alloc(4096)
        process.write(at, attr)
        result = process.syscall(NR_BPF, command("PROG_LOAD").number, at, len(attr))
        return result, command("PROG_LOAD").record.unpack(process.read(at, len(attr)))["log_true_size"]

    fd, needed = load(65536, 2)
    assert fd > 0 and needed > 100
    assert process.read(log, needed).endswith(b"\0")
    whole = process.read(log, needed - 1)
    assert load(needed, 2)[0] > 0
    result, true_size = load(needed - 1, 2)
    assert (result, true_size) == (-errno.ENOSPC, needed)
    assert process.read(log, needed - 1) == whole[1:] + b"\0", "the end is kept"
    result, true_size = load(needed - 1, 2 | 8)
    assert (result, true_size) == (-errno.ENOSPC, needed)
    assert process.read(log, needed - 1) == whole[:-1] + b"\0", "BPF_LOG_FIXED keeps the beginning"
