# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks do the same work on every engine, and say so when they do not. Nothing is timed here."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner

import guests
from kernel_model.errors import NotModelled
from kernel_model.net.device import XDP_DROP, XDP_PASS
from sim.bench import measure as measuring
from sim.bench.costs import measure_costs, startup_costs
from sim.bench.measure import MEASURED, ResultsDiffer, check_equal, measure
from sim.bench.session import Session, Target
from sim.bench.startup import PARTS, measure_startup
from sim.bench.twin import Env, install_code, make_prog
from sim.bench.workloads import SOURCE_PORT_OFF, WORKLOADS, Workload, data_frame, flow_entry, udp_frame
from sim.cli.bench import bench

SMALL = {
    name: replace(row, packets=64, flows=256) if row.way == "packets" else row
    for name, row in WORKLOADS.items()
}
"""The workloads without the tens of thousands of flows that only matter for time."""


def counters_of(flows: range) -> tuple[bytes, ...]:
    """What the per-CPU counters of xdp_flow hold after one packet of each flow."""
    packets = Counter(index % 16 for index in flows)
    return tuple(
        packets[group].to_bytes(8, "little") + (60 * packets[group]).to_bytes(8, "little")
        for group in range(16)
    )


def verdict(index: int) -> int:
    return XDP_PASS if index % 3 else XDP_DROP


def internet_checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


EXPECTED = {
    "csum512": ((internet_checksum(data_frame(0)[:512]),), {}),
    "array_atomic": ((64,), {"sums": ((1).to_bytes(8, "little"),) * 64}),
    "tail_chain": ((XDP_PASS,), {".bss": ((6).to_bytes(8, "little"),)}),
    "xdp_flow": ((verdict(0),), {"counters": counters_of(range(1))}),
    "xdp_flow_64k": ((sum(map(verdict, range(256))),), {"counters": counters_of(range(256))}),
    "xdp_flow_nic": ((256, *map(verdict, range(256))), {"counters": counters_of(range(256))}),
}
"""Result and maps after the smallest number of runs that touches everything, worked out here."""


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL)
def test_the_three_engines_agree(workload: Workload) -> None:
    with Session(workload) as session:
        outcome = check_equal(session, session.way.full)
    if workload.name in EXPECTED:
        assert (outcome.result, outcome.maps) == EXPECTED[workload.name]
    else:
        assert outcome.result[0] > 0xFFFF


def test_alu_mix_executes_what_its_source_says() -> None:
    """250 rounds of 18 instructions in a function with 10 more, called 200 times by a loop of 4 in 4."""
    with Session(WORKLOADS["alu_mix"]) as session:
        assert session.insns_per_run() == 200 * (250 * 18 + 10 + 4) + 4
        assert session.working_set() == 0


def test_runs_add_up() -> None:
    with Session(WORKLOADS["array_atomic"]) as session:
        for engine in session.targets:
            assert session.outcome(engine, 5).maps["sums"] == ((5).to_bytes(8, "little"),) * 64
        assert session.working_set() == 64 * 8


def test_the_working_set_counts_packets_and_maps() -> None:
    with Session(SMALL["xdp_flow_64k"]) as session:
        # struct htab_elem, the key, the value
        elem = 48 + 16 + 8
        assert session.working_set() == 256 * (elem + 16) + 16 * 16 + 64 * (60 + 64)


def test_flows_are_distinct_and_frames_belong_to_them() -> None:
    assert len({flow_entry(index)[0] for index in range(65536)}) == 65536
    for index in (0, 1, 255):
        frame, key = udp_frame(index), flow_entry(index)[0]
        assert len(frame) == 60
        assert frame[26:34] + frame[SOURCE_PORT_OFF : SOURCE_PORT_OFF + 4] == key[:12]


def test_a_wrong_result_is_found() -> None:
    with Session(WORKLOADS["csum512"]) as session:
        nothing = session.loops["bench_nothing"]
        session.targets["jit"] = Target(nothing, session.targets["jit"].prog)
        with pytest.raises(ResultsDiffer, match=r"csum512: jit returned 0, native code \d+"):
            check_equal(session)


def test_other_map_contents_are_found() -> None:
    """An engine that counts elsewhere returns the same and is still found out."""
    with Session(WORKLOADS["array_atomic"]) as session:
        kernel = session.machine.kernel
        elsewhere = Env(values=[kernel.alloc.kmalloc(512), 0, 0, 0])
        twin = session.targets["native"].bpf_func
        session.targets["interpreter"] = Target(twin, make_prog(kernel, twin, elsewhere))
        with pytest.raises(ResultsDiffer, match="interpreter left other contents in map sums"):
            check_equal(session)


def test_twins_have_symbols_that_do_not_overlap() -> None:
    with Session(WORKLOADS["tail_chain"]) as session:
        text = session.machine.kernel.text
        functions = install_code(session.machine.kernel, "siphash512")
        assert text.lookup(functions["siphash512"] + 4) == ("bench_siphash512.siphash512", 4)
        first, second = text.symbol("bench_tail_chain.tail_chain"), text.symbol("bench_tail_chain.link_1")
        assert text.lookup(second - 1) == ("bench_tail_chain.tail_chain", second - 1 - first)


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_ROUND_NS", 2)


KEYS = {
    "schema",
    "workload",
    "engine",
    "ns_per_run",
    "insns_per_s",
    "native_ns",
    "ratio",
    "insns_per_run",
    "working_set",
    "rounds",
}


@pytest.mark.usefixtures("short_rounds")
def test_json_is_a_list_with_an_object_for_each_engine() -> None:
    arguments = ["--json", "--rounds", "2", "--workload", "csum512", "--workload", "xdp_flow_nic"]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [(row["workload"], row["engine"]) for row in rows] == [
        (name, engine) for name in ("csum512", "xdp_flow_nic") for engine in MEASURED
    ]
    for row in rows:
        assert set(row) == KEYS
        assert row["schema"] == 1 and row["rounds"] == 2
        assert row["insns_per_s"] == pytest.approx(row["insns_per_run"] / row["ns_per_run"] * 1e9, rel=0.01)
        assert min(row["native_ns"], row["ratio"], row["working_set"]) > 0


@pytest.mark.usefixtures("short_rounds")
def test_the_table_names_workload_engines_and_working_set() -> None:
    result = CliRunner().invoke(bench, ["--rounds", "1", "--workload", "siphash512"], catch_exceptions=False)
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("siphash512", "jit", "interpreter", "664 B"))
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


@pytest.mark.usefixtures("short_rounds")
def test_progress_is_told_round_by_round() -> None:
    told: list[str] = []
    measure(WORKLOADS["csum512"], 2, told.append)
    assert told[-2:] == ["csum512: round 1 of 2", "csum512: round 2 of 2"]


def test_costs_are_listed() -> None:
    names = [cost.name for cost in measure_costs(1)]
    assert names == [
        "call from Python", "loop round", "leaf trap", "interpreter entry", "system call", "lockstep",
    ]  # fmt: skip


def test_startup_is_taken_apart() -> None:
    startup = measure_startup(1)
    assert tuple(startup.parts) == PARTS
    assert all(part > 0 for part in startup.parts.values())
    costs = startup_costs(startup)
    assert costs[0].ns == sum(cost.ns for cost in costs[1:])


# Exit status


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--workload", "nosuch"], "one of: alu_mix, csum512"), (["--rounds", "0"], "--rounds")],
)
def test_bad_arguments_end_with_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_differing_engines_end_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Session._install_twin

    def spoiled(session: Session) -> None:
        load(session)
        session.targets["native"] = Target(session.loops["bench_nothing"], session.targets["native"].prog)

    monkeypatch.setattr(Session, "_install_twin", spoiled)
    result = CliRunner().invoke(bench, ["--json", "--workload", "csum512"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("bpfsim bench: csum512: jit returned ")


def test_a_missing_guest_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise FileNotFoundError(f"no bundled guest {name!r}")

    monkeypatch.setattr(guests, "path", missing)
    result = CliRunner().invoke(bench, ["--workload", "csum512"])
    assert result.exit_code == 2
    assert result.stderr == "bpfsim bench: no bundled guest 'bench/csum512.bpf.o'\n"


def test_what_is_not_modelled_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotModelled("a thing")

    monkeypatch.setattr("kernel_model.syscalls.bpf_prog.verify", refuse)
    result = CliRunner().invoke(bench, ["--workload", "csum512"])
    assert result.exit_code == 3
    assert "not modelled: a thing" in result.stderr
